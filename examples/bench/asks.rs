//! Durable asks, each awaited: latency of one, rate of many.

use crate::{
    Load,
    disk::Floor,
    entities::{Account, deposit, key, start},
    machine::{Meter, rate},
};
use anyhow::Result;
use entity_runtime::prelude::*;
use hdrhistogram::Histogram;
use std::time::Instant;

pub(crate) async fn measure(load: &Load, floor: &Floor) -> Result<()> {
    let runtime = start(&load.dir.join("asks"), load.workers).await?;
    let client = runtime.client();
    let mut feed = client.feed("warm").await?;
    for number in 1..=load.keys {
        feed.send(number, Account::at(key(number % load.keys)), deposit(number)).await?;
    }
    feed.flush().await?;
    for outstanding in [1, 64, 1_024] {
        let meter = Meter::start();
        let tasks: Vec<_> = (0..outstanding)
            .map(|task| tokio::spawn(one_by_one(client.clone(), task, load.time, load.keys)))
            .collect();
        let mut times = Histogram::<u64>::new(3)?;
        for task in tasks {
            for nanos in task.await?? {
                times.record(nanos)?;
            }
        }
        let (per_second, each) = meter.per_second(times.len());
        let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        let against = if outstanding == 1 {
            format!("{:.2} x one write + fdatasync", micros(0.5) / floor.sync_p50)
        } else {
            let raw = if outstanding == 64 { 128 } else { outstanding as usize };
            format!("{:.2} of raw group commit at {raw}", per_second / floor.group_at(raw))
        };
        println!(
            "durable ask   {outstanding} outstanding: {} ({each:.2} core-us each), p50 {:.0} us, p99 {:.0} us; {against}",
            rate(per_second),
            micros(0.5),
            micros(0.99),
        );
    }
    runtime.shutdown().await;
    Ok(())
}

async fn one_by_one(client: Client, task: u64, time: std::time::Duration, keys: u64) -> Result<Vec<u64>> {
    let mut times = Vec::new();
    let started = Instant::now();
    let mut number = task.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while started.elapsed() < time {
        number = number.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(1);
        let one = Instant::now();
        client.ask(Account::at(key((number >> 20) % keys)), deposit(number % 1_000)).await?;
        times.push(one.elapsed().as_nanos() as u64);
    }
    Ok(times)
}
