//! Volatile asks: no log, no sync.

use crate::{
    Load,
    entities::{Scratch, deposit, key, start},
    machine::{Meter, rate},
};
use anyhow::Result;
use entity_runtime::prelude::*;
use std::time::Instant;

/// Asks that each task has on their way at a time.
const BURST: u64 = 64;

pub(crate) async fn measure(load: &Load) -> Result<()> {
    let runtime = start(&load.dir.join("volatile"), load.workers).await?;
    let client = runtime.client();
    let meter = Meter::start();
    let tasks: Vec<_> =
        (0..16).map(|task| tokio::spawn(bursts(client.clone(), task, load.time, load.keys))).collect();
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    let (per_second, each) = meter.per_second(done);
    println!("volatile ask  1,024 outstanding: {} ({each:.2} core-us each)", rate(per_second));
    runtime.shutdown().await;
    Ok(())
}

async fn bursts(client: Client, task: u64, time: std::time::Duration, keys: u64) -> Result<u64> {
    let started = Instant::now();
    let (mut done, mut number) = (0, task.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    while started.elapsed() < time {
        let asks: Vec<_> = (0..BURST)
            .map(|_| {
                number = number.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(1);
                client.ask(Scratch::at(key((number >> 20) % keys)), deposit(number % 1_000)).into_future()
            })
            .collect();
        for ask in futures_util::future::join_all(asks).await {
            ask?;
            done += 1;
        }
    }
    Ok(done)
}
