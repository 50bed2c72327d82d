//! Two accounts, and money that goes from one to the other by messages.
//!
//! There is no transaction over both. The debit and the message that carries the credit become durable in one commit
//! of the first account; from there the runtime brings the message to the second account exactly once, whatever crashes.
//! Between the two commits the money is on its way, and never lost or doubled.
//!
//! ```sh
//! cargo run --bin transfer                # each run gives alice 1000 and sends 250 of it to bob
//! ```

use anyhow::Context as _;
use entity_runtime::prelude::*;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit, Transfer), queries(Balance))]
struct Account {
    cents: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Deposit {
    cents: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = Result<u64, Insufficient>)]
struct Transfer {
    to: String,
    cents: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Balance;

/// The account holds less than was asked for.
#[derive(Debug, Serialize, Deserialize)]
struct Insufficient {
    short: u64,
}

impl Handle<Deposit> for Account {
    fn handle(&mut self, deposit: Deposit, _: &mut Context<'_, Self>) -> u64 {
        self.cents += deposit.cents;
        self.cents
    }
}

impl Handle<Transfer> for Account {
    fn handle(&mut self, transfer: Transfer, ctx: &mut Context<'_, Self>) -> Result<u64, Insufficient> {
        // Recorded before the account is looked at: an `Err` takes it back with everything else of the turn.
        ctx.send(Account::at(transfer.to), Deposit { cents: transfer.cents });
        self.cents = self
            .cents
            .checked_sub(transfer.cents)
            .ok_or_else(|| Insufficient { short: transfer.cents - self.cents })?;
        Ok(self.cents)
    }
}

impl Query<Balance> for Account {
    fn query(&self, _: Balance) -> u64 {
        self.cents
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let runtime = Runtime::builder().entity::<Account>().data_dir("data/transfer").start().await?;
    let client = runtime.client();

    let opened = client.ask(Account::at("alice"), Deposit { cents: 1_000 }).await?;
    println!("alice has {opened}");

    // The outer error: refused or unknown. The inner one: what the account answered.
    let pay = |cents| client.ask(Account::at("alice"), Transfer { to: "bob".to_owned(), cents });
    match pay(250).await? {
        Ok(left) => println!("alice sent 250 to bob and has {left}"),
        Err(Insufficient { short }) => println!("alice is {short} short"),
    }
    let Err(Insufficient { short }) = pay(1_000_000).await? else {
        anyhow::bail!("alice cannot have a million");
    };
    println!("a million was rejected, {short} short: nothing left alice, nothing reached bob");

    // The deposit to bob is on its way; nobody waited for it. Here we want to see it arrive.
    runtime.quiesce().await;
    for name in ["alice", "bob"] {
        let cents = client.ask(Account::at(name), Balance).await.with_context(|| format!("asking {name}"))?;
        println!("{name}: {cents}");
    }
    runtime.shutdown().await;
    Ok(())
}
