//! Memory per idle activation, beyond its state: resident bytes before and after, less what the states take by themselves.

use crate::{
    Load,
    entities::{Account, deposit, key, start},
    machine::resident,
};
use anyhow::Result;
use entity_runtime::prelude::*;
use std::time::Duration;

const ENTITIES: u64 = 500_000;

pub(crate) async fn measure(load: &Load) -> Result<()> {
    let runtime = start(&load.dir.join("memory"), load.workers).await?;
    let client = runtime.client();
    // The log, the buffers and the first batches are there before the count begins.
    let mut feed = client.feed("warm").await?;
    for number in 1..=1_000 {
        feed.send(number, Account::at(key(number)), deposit(number)).await?;
    }
    feed.flush().await?;
    let before = resident();
    let mut feed = client.feed("fill").await?;
    for number in 1..=ENTITIES {
        feed.send(number, Account::at(key(1_000 + number)), deposit(number)).await?;
    }
    feed.flush().await?;
    // Idle: the sweep has let the images go.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let total = (resident() - before) / ENTITIES;
    let state = state_bytes()?;
    println!(
        "memory        {total} B per idle activation, {state} B of it the state itself: {} B beyond it (counted by the runtime: {} B)",
        total.saturating_sub(state),
        runtime.activations().1 as u64 / (ENTITIES + 1_000),
    );
    runtime.shutdown().await;
    Ok(())
}

/// What as many states take in memory with nothing around them.
fn state_bytes() -> Result<u64> {
    const COUNT: u64 = 200_000;
    let before = resident();
    let states: Vec<Box<(u64, u64, String, String)>> = (0..COUNT)
        .map(|number| {
            Box::new((
                number,
                number,
                "an owner with a name of usual length".to_owned(),
                deposit(number).memo,
            ))
        })
        .collect();
    let bytes = resident().saturating_sub(before) / COUNT;
    anyhow::ensure!(states.len() as u64 == COUNT, "the states were optimised away");
    Ok(bytes.saturating_sub(8))
}
