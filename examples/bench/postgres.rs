//! Durable turns through PostgreSQL, beside what a program does that writes the same rows itself: one statement for a batch of
//! messages, and one transaction for each.
//!
//! The server is private, and on the disk of the temporary directory. The three are measured by turns, three times, for such a
//! server shares its cores with its clients.

use crate::{
    Load,
    entities::{Account, Pay, deposit, key, kinds},
    machine::{Meter, rate},
};
use anyhow::{Context as _, Result};
use entity_runtime::{Runtime, prelude::*};
use entity_runtime_tests::private_postgres::{ROLE, Server};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio::task::JoinSet;
use tokio_postgres::{Client as Sql, types::Type};

const ROUNDS: usize = 3;
/// Shards of the runtime that is measured.
const SHARDS: u32 = 256;
/// Bytes of a state, of a message, and of the name of a sender, as the entities of the loads have them.
const STATE: usize = 150;
const MESSAGE: usize = 120;
const SENDER: usize = 16;

/// What a program would write for a batch: states, which messages were taken, and what is sent; fenced by the row of an owner.
const BARE: &str = "WITH fence AS (SELECT FROM bare.shard WHERE id = $1 AND epoch = 1 FOR SHARE),
    s AS (INSERT INTO bare.state AS t SELECT * FROM unnest($2, $3) WHERE EXISTS (SELECT FROM fence)
        ON CONFLICT (key) DO UPDATE SET image = excluded.image),
    d AS (INSERT INTO bare.taken AS t SELECT * FROM unnest($2, $4, $5) WHERE EXISTS (SELECT FROM fence)
        ON CONFLICT (key, sender) DO UPDATE SET number = excluded.number WHERE t.number < excluded.number)
    INSERT INTO bare.sent (message) SELECT * FROM unnest($6) WHERE EXISTS (SELECT FROM fence)";
const TABLES: &str = "CREATE SCHEMA bare;
    CREATE TABLE bare.shard (id int4 PRIMARY KEY, epoch int8 NOT NULL);
    INSERT INTO bare.shard SELECT id, 1 FROM generate_series(0, 63) AS id;
    CREATE TABLE bare.state (key bytea PRIMARY KEY, image bytea NOT NULL) WITH (fillfactor = 70);
    CREATE TABLE bare.taken (key bytea, sender bytea, number int8 NOT NULL, PRIMARY KEY (key, sender)) WITH (fillfactor = 70);
    CREATE TABLE bare.sent (number int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, message bytea NOT NULL)";

/// Measures all of it.
pub(crate) async fn measure(load: &Load) -> Result<()> {
    let server = Arc::new(tokio::task::spawn_blocking(Server::start).await?);
    let url = server.database().await;
    let database = url.rsplit('/').next().context("a URL has a database")?.to_owned();
    server.client(ROLE, &database).await.batch_execute(TABLES).await?;
    let runtime = kinds(load.workers).shards(SHARDS).postgres([url]).start().await?;
    warm(&runtime, load).await?;
    for round in 1..=ROUNDS {
        println!("round {round}");
        let batches = bare(load, &server, &database, 4, 128).await?;
        say("bare statement, 4 connections x 128 messages", batches, None);
        let singles = bare(load, &server, &database, 64, 1).await?;
        say("one transaction per message, 64 connections", singles, None);
        let against = Some((batches, singles));
        say("durable feed", feed(load, &runtime).await?, against);
        say("durable ask, 1,024 outstanding", asks(load, &runtime, false).await?, against);
        say("durable transfer, two turns each", asks(load, &runtime, true).await?, against);
    }
    runtime.shutdown().await;
    Ok(())
}

fn say(what: &str, per_second: f64, against: Option<(f64, f64)>) {
    let ratios = against.map_or_else(String::new, |(batches, singles)| {
        format!(
            "; {:.2} of the bare statement, {:.1} x one transaction per message",
            per_second / batches,
            per_second / singles
        )
    });
    println!("  {what}: {}{ratios}", rate(per_second));
}

async fn warm(runtime: &Runtime, load: &Load) -> Result<()> {
    let mut feed = runtime.client().feed("warm").await?;
    for number in 1..=load.keys {
        feed.send(number, Account::at(key(number % load.keys)), deposit(number)).await?;
    }
    Ok(feed.flush().await?)
}

/// The rows of a batch written by hand, per message.
async fn bare(
    load: &Load,
    server: &Arc<Server>,
    database: &str,
    connections: u64,
    batch: u64,
) -> Result<f64> {
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    let meter = Meter::start();
    let until = Instant::now() + load.time;
    for at in 0..connections {
        let sql = server.client(ROLE, database).await;
        let (done, keys) = (Arc::clone(&done), load.keys);
        tasks.spawn(async move { write(&sql, at, connections, (batch, keys), until, &done).await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(meter.per_second(done.load(Ordering::Relaxed)).0)
}

async fn write(
    sql: &Sql,
    at: u64,
    connections: u64,
    (batch, keys): (u64, u64),
    until: Instant,
    done: &AtomicU64,
) -> Result<()> {
    let types = [
        Type::INT4,
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
        Type::BYTEA_ARRAY,
        Type::INT8_ARRAY,
        Type::BYTEA_ARRAY,
    ];
    let statement = sql.prepare_typed(BARE, &types).await?;
    let (id, mut number) = (i32::try_from(at)?, 0_u64);
    while Instant::now() < until {
        number += 1;
        // Of each connection its own, as shards have one owner, and none twice in a batch.
        let first = number.wrapping_mul(0x2545_f491_4f6c_dd1d) % (keys / connections);
        let own = (0..batch).map(|nth| (first + nth) % (keys / connections) * connections + at);
        let entities: Vec<Vec<u8>> = own.map(|own| key(own).into_bytes()).collect();
        let images = vec![vec![number as u8; STATE]; entities.len()];
        let senders = vec![vec![at as u8; SENDER]; entities.len()];
        let numbers = vec![i64::try_from(number)?; entities.len()];
        let messages = vec![vec![number as u8; MESSAGE]; entities.len()];
        sql.execute(&statement, &[&id, &entities, &images, &senders, &numbers, &messages]).await?;
        done.fetch_add(batch, Ordering::Relaxed);
    }
    Ok(())
}

/// Turns a second by one feed.
async fn feed(load: &Load, runtime: &Runtime) -> Result<f64> {
    let name = format!("feed-{}", runtime.counters().batches);
    let mut feed = runtime.client().feed(&name).await?;
    let (meter, mut number) = (Meter::start(), 0_u64);
    while meter.elapsed() < load.time {
        for _ in 0..1_000 {
            number += 1;
            let which = number.wrapping_mul(0x2545_f491_4f6c_dd1d) % load.keys;
            feed.send(number, Account::at(key(which)), deposit(number)).await?;
        }
    }
    feed.flush().await?;
    Ok(meter.per_second(number).0)
}

/// Turns a second by many who ask and wait: one for each ask, or two where each pays another account.
async fn asks(load: &Load, runtime: &Runtime, pays: bool) -> Result<f64> {
    const OUTSTANDING: u64 = 1_024;
    let client = runtime.client();
    let mut tasks = JoinSet::new();
    let applied = runtime.counters().applied;
    let meter = Meter::start();
    for task in 0..OUTSTANDING {
        let (client, keys, time) = (client.clone(), load.keys, load.time);
        tasks.spawn(async move {
            let (started, mut number) = (Instant::now(), task.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            while started.elapsed() < time {
                number = number.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(1);
                let to = Account::at(key((number >> 20) % keys));
                if pays {
                    client.ask(to, Pay { to: key((number >> 30) % keys), cents: 1 }).await?;
                } else {
                    client.ask(to, deposit(number % 1_000)).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    runtime.quiesce().await;
    Ok(meter.per_second(runtime.counters().applied - applied).0)
}
