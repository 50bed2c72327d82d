//! An enum cannot gain fields.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
struct Deposit {
    cents: u64,
}

#[derive(Entity, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
enum Account {
    Open { cents: u64 },
    Closed,
}

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) {}
}

fn main() {}
