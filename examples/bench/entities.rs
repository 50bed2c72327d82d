//! The entity of the loads: a state of about 128 bytes and messages of about 64.

use entity_runtime::{Runtime, prelude::*};

/// Keys are spread so that neighbours in the load lie in different shards.
pub(crate) fn key(number: u64) -> String {
    format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A durable account.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit), queries(Balance))]
pub(crate) struct Account {
    cents: u64,
    deposits: u64,
    owner: String,
    memo: String,
}

/// The same, kept in memory only.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "scratch", handles(Deposit), volatile)]
pub(crate) struct Scratch {
    cents: u64,
    deposits: u64,
    owner: String,
    memo: String,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
pub(crate) struct Deposit {
    pub(crate) cents: u64,
    pub(crate) memo: String,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
pub(crate) struct Balance;

/// A deposit of about 64 bytes.
pub(crate) fn deposit(number: u64) -> Deposit {
    Deposit { cents: number % 1_000, memo: format!("rent and heating, payment {number:09}") }
}

impl Handle<Deposit> for Account {
    fn handle(&mut self, deposit: Deposit, _: &mut Context<'_, Self>) -> u64 {
        if self.owner.is_empty() {
            "an owner with a name of usual length".clone_into(&mut self.owner);
        }
        self.cents += deposit.cents;
        self.deposits += 1;
        self.memo = deposit.memo;
        self.cents
    }
}

impl Handle<Deposit> for Scratch {
    fn handle(&mut self, deposit: Deposit, _: &mut Context<'_, Self>) -> u64 {
        self.cents += deposit.cents;
        self.deposits += 1;
        self.memo = deposit.memo;
        self.owner.clear();
        self.cents
    }
}

impl Query<Balance> for Account {
    fn query(&self, _: Balance) -> u64 {
        self.cents
    }
}

/// A runtime on a directory.
pub(crate) async fn start(dir: &std::path::Path, workers: usize) -> anyhow::Result<Runtime> {
    Ok(Runtime::builder()
        .entity::<Account>()
        .entity::<Scratch>()
        .data_dir(dir)
        .workers(workers)
        .start()
        .await?)
}
