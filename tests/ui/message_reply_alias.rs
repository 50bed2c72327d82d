//! An alias hides the `Result`.
use entity_runtime::prelude::*;

type DepositResult = Result<u64, String>;

#[derive(Message, Serialize, Deserialize)]
#[message(reply = DepositResult)]
struct Deposit;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account;

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) -> DepositResult {
        Ok(1)
    }
}

fn main() {}
