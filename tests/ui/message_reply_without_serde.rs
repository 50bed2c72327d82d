//! The reply cannot be encoded; serde names what to derive.
use entity_runtime::prelude::*;

struct Total;

#[derive(Message, Serialize, Deserialize)]
#[message(reply = Total)]
struct Deposit;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account;

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) -> Total {
        Total
    }
}

fn main() {}
