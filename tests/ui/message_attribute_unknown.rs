//! An attribute nobody knows; the reply is still read.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
#[message(answer = Result<u64, String>, reply = u64)]
struct Deposit;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account;

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) -> u64 {
        1
    }
}

fn main() {}
