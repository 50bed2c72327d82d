//! Durable turns by one feed: every message is acknowledged after its sync.

use crate::{
    Load,
    disk::Floor,
    entities::{Account, deposit, key, start},
    machine::{Meter, rate},
};
use anyhow::Result;
use entity_runtime::prelude::*;

pub(crate) async fn measure(load: &Load, floor: &Floor) -> Result<()> {
    let runtime = start(&load.dir.join("feed"), load.workers).await?;
    let mut feed = runtime.client().feed("bench").await?;
    let mut number = 0;
    // Every entity is in memory before the clock starts.
    while number < load.keys {
        number += 1;
        feed.send(number, Account::at(key(number % load.keys)), deposit(number)).await?;
    }
    feed.flush().await?;
    let batches = runtime.counters().batches;
    let meter = Meter::start();
    let before = number;
    while meter.elapsed() < load.time {
        for _ in 0..1_000 {
            number += 1;
            let which = number.wrapping_mul(0x2545_f491_4f6c_dd1d) % load.keys;
            feed.send(number, Account::at(key(which)), deposit(number)).await?;
        }
    }
    feed.flush().await?;
    let turns = number - before;
    let (per_second, each) = meter.per_second(turns);
    let batches = (runtime.counters().batches - batches).max(1);
    println!(
        "durable feed  {} turns/s, {each:.2} core-us each, {} turns a batch; {:.2} of raw group commit at 1,024 outstanding",
        rate(per_second),
        turns / batches,
        per_second / floor.group_at(1_024),
    );
    runtime.shutdown().await;
    Ok(())
}
