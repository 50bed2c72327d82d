//! One derive is missing.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
struct Deposit {
    cents: u64,
}

#[derive(Entity, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account {
    cents: u64,
}

impl Handle<Deposit> for Account {
    fn handle(&mut self, deposit: Deposit, ctx: &mut Context<'_, Self>) {
        self.cents += deposit.cents;
        ctx.send(Account::at("bank"), deposit);
    }
}

fn main() {}
