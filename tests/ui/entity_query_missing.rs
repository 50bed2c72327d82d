//! `Balance` is listed and not answered.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
struct Deposit {
    cents: u64,
}

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit), queries(Balance))]
struct Account {
    cents: u64,
}

impl Handle<Deposit> for Account {
    fn handle(&mut self, deposit: Deposit, ctx: &mut Context<'_, Self>) {
        self.cents += deposit.cents;
        ctx.send(Account::at("bank"), deposit);
    }
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Balance;

fn main() {}
