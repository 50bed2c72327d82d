//! Two handled types with one name.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
struct Deposit {
    cents: u64,
}

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit, other::Deposit))]
struct Account {
    cents: u64,
}

impl Handle<Deposit> for Account {
    fn handle(&mut self, deposit: Deposit, ctx: &mut Context<'_, Self>) {
        self.cents += deposit.cents;
        ctx.send(Account::at("bank"), deposit);
    }
}

mod other {
    use entity_runtime::prelude::*;

    #[derive(Message, Serialize, Deserialize)]
    pub struct Deposit;
}

impl Handle<other::Deposit> for Account {
    fn handle(&mut self, _: other::Deposit, _: &mut Context<'_, Self>) {}
}

fn main() {}
