//! A message name is an ASCII name.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
#[message(name = "Bank Deposit")]
struct Deposit;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account;

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) {}
}

fn main() {}
