//! Two upcasts from one version.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
struct Deposit {
    cents: u64,
}

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit), version = 2, upcast(1 => from_v1, 1 => from_v1))]
struct Account {
    cents: u64,
}

impl Handle<Deposit> for Account {
    fn handle(&mut self, deposit: Deposit, ctx: &mut Context<'_, Self>) {
        self.cents += deposit.cents;
        ctx.send(Account::at("bank"), deposit);
    }
}

#[derive(Serialize, Deserialize)]
struct AccountV1 {
    euros: u64,
}

fn from_v1(old: AccountV1) -> Account {
    Account { cents: old.euros * 100 }
}

fn main() {}
