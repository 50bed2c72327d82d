//! The entity of the loads: a state of about 128 bytes and messages of about 64.

use entity_runtime::{Builder, Runtime, prelude::*};

/// Keys are spread so that neighbours in the load lie in different shards.
pub(crate) fn key(number: u64) -> String {
    format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A durable account.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit, Pay), queries(Balance))]
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

/// Pays another account, which may lie on another node.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
pub(crate) struct Pay {
    pub(crate) to: String,
    pub(crate) cents: u64,
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

impl Handle<Pay> for Account {
    fn handle(&mut self, pay: Pay, ctx: &mut Context<'_, Self>) -> u64 {
        self.cents = self.cents.saturating_sub(pay.cents);
        ctx.send(Self::at(pay.to), Deposit { cents: pay.cents, memo: "paid by another".into() });
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

/// What every runtime here runs.
pub(crate) fn kinds(workers: usize) -> Builder {
    Runtime::builder().entity::<Account>().entity::<Scratch>().workers(workers)
}

/// A runtime on a directory.
pub(crate) async fn start(dir: &std::path::Path, workers: usize) -> anyhow::Result<Runtime> {
    Ok(kinds(workers).data_dir(dir).start().await?)
}
