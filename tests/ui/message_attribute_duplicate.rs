//! Each attribute is given once.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
#[message(name = "deposit", name = "pay")]
struct Deposit;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account;

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) {}
}

fn main() {}
