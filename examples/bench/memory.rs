//! Memory per idle activation, beyond its state: what so many more entities add to the resident bytes of a store that has
//! its buffers and caches already, less what their states take by themselves.

use crate::{
    Load,
    entities::{Account, deposit, key, start},
    machine::resident,
};
use anyhow::Result;
use entity_runtime::prelude::*;
use std::{process::Command, time::Duration};

/// In memory before the count begins: the log's buffers, the checkpoint's rounds and cache have their size then.
const BEFORE: u64 = 600_000;
/// Added and counted.
const COUNTED: u64 = 600_000;
/// The sweep lets images of idle entities go in this time.
const IDLE: Duration = Duration::from_secs(15);

/// Measures in a process of its own: what other loads left behind in this one would be taken for less.
pub(crate) fn measure_alone(load: &Load) -> Result<()> {
    let child = Command::new(std::env::current_exe()?)
        .arg("--weigh")
        .args(["--workers", &load.workers.to_string()])
        .arg("--dir")
        .arg(&load.dir)
        .status()?;
    anyhow::ensure!(child.success(), "the process that measures memory ended with {child}");
    Ok(())
}

pub(crate) async fn measure(load: &Load) -> Result<()> {
    let state = state_bytes()?;
    let runtime = start(&load.dir.join("memory"), load.workers).await?;
    let client = runtime.client();
    fill(&client, "before", 0..BEFORE).await?;
    tokio::time::sleep(IDLE).await;
    let (before, counted_before) = (resident(), runtime.activations());
    fill(&client, "counted", BEFORE..BEFORE + COUNTED).await?;
    tokio::time::sleep(IDLE).await;
    let total = resident().saturating_sub(before) / COUNTED;
    let (entities, bytes) = runtime.activations();
    let counted = (bytes - counted_before.1) / (entities - counted_before.0).max(1);
    println!(
        "memory        {total} B per idle activation, {state} B of it the state itself: {} B beyond it (the runtime counts {counted} B in all)",
        total.saturating_sub(state),
    );
    runtime.shutdown().await;
    Ok(())
}

async fn fill(client: &Client, name: &str, numbers: std::ops::Range<u64>) -> Result<()> {
    let mut feed = client.feed(name).await?;
    for number in numbers {
        feed.send(number, Account::at(key(number)), deposit(number)).await?;
    }
    Ok(feed.flush().await?)
}

/// What as many states take in memory with nothing around them.
fn state_bytes() -> Result<u64> {
    const COUNT: u64 = 400_000;
    let mut states = Vec::with_capacity(usize::try_from(COUNT)?);
    let before = resident();
    for number in 0..COUNT {
        let owner = "an owner with a name of usual length".to_owned();
        states.push(Box::new((number, number, owner, deposit(number).memo)));
    }
    // The vector's own pages are no part of a state.
    let bytes = (resident().saturating_sub(before)) / COUNT - 8;
    anyhow::ensure!(states.iter().all(|state| state.0 == state.1), "the states were optimised away");
    Ok(bytes)
}
