//! An alias with an argument hides it as well.
use entity_runtime::prelude::*;

type MyResult<T> = Result<T, String>;

#[derive(Message, Serialize, Deserialize)]
#[message(reply = self::MyResult<u64>)]
struct Deposit;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account;

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) -> MyResult<u64> {
        Ok(1)
    }
}

fn main() {}
