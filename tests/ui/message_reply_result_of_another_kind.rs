//! A type called `Result` that is not the one of the core library.
use entity_runtime::prelude::*;

mod answer {
    #[derive(entity_runtime::prelude::Serialize, entity_runtime::prelude::Deserialize)]
    pub struct Result;
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = answer::Result)]
struct Deposit;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account;

impl Handle<Deposit> for Account {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) -> answer::Result {
        answer::Result
    }
}

fn main() {}
