//! The attribute stands on the type.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
enum Deposit {
    #[message(name = "cash")]
    Cash(#[message(reply = u64)] u64),
}

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account;

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) {}
}

fn main() {}
