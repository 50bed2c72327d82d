//! One derive is missing.
use entity_runtime::prelude::*;

#[derive(Message, Serialize)]
struct Deposit;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account;

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) {}
}

fn main() {}
