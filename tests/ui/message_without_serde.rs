//! Both derives are missing, and one error says so.
use entity_runtime::prelude::*;

#[derive(Message)]
struct Deposit;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account;

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) {}
}

fn main() {}
