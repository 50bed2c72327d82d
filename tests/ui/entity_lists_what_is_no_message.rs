//! `Deposit` has no `#[derive(Message)]`: told where it is listed and where it is handled.
use entity_runtime::prelude::*;

#[derive(Serialize, Deserialize)]
struct Deposit;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account {
    cents: u64,
}

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) {}
}

fn main() {}
