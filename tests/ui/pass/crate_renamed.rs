//! The runtime is found where `crate = "..."` says.
mod facade {
    pub mod nested {
        pub use entity_runtime as runtime;
    }
}
use facade::nested::runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
#[message(crate = "crate::facade::nested::runtime", reply = Result<u64, String>)]
struct Deposit {
    cents: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[message(crate = "facade::nested::runtime")]
struct Balance;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(crate = "crate::facade::nested::runtime", kind = "account", handles(Deposit), queries(Balance))]
struct Account {
    cents: u64,
}

impl Handle<Deposit> for Account {
    fn handle(&mut self, deposit: Deposit, _: &mut Context<'_, Self>) -> Result<u64, String> {
        self.cents += deposit.cents;
        Ok(self.cents)
    }
}

impl Query<Balance> for Account {
    fn query(&self, _: Balance) {}
}

fn main() {}
