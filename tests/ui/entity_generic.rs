//! A kind is one type.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
struct Deposit {
    cents: u64,
}

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account<T> {
    cents: T,
}

impl<T> Handle<Deposit> for Account<T> {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) {}
}

#[derive(Entity)]
#[entity(kind = "view")]
struct View<'a> {
    cents: &'a u64,
}

fn main() {}
