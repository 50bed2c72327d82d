//! Recovery: a child fills a store and is killed; how long until every entity can be asked again?

use crate::{
    Load,
    entities::{Account, Balance, deposit, key, start},
};
use anyhow::{Context as _, Result, bail};
use entity_runtime::prelude::*;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

/// The child: fills the store, says so, and waits to be killed.
pub(crate) async fn fill(dir: &Path, entities: u64, workers: usize) -> Result<()> {
    let runtime = start(dir, workers).await?;
    let mut feed = runtime.client().feed("fill").await?;
    for number in 1..=entities {
        feed.send(number, Account::at(key(number)), deposit(number)).await?;
    }
    feed.flush().await?;
    println!("filled");
    std::future::pending().await
}

pub(crate) async fn measure(load: &Load, entities: u64) -> Result<()> {
    let dir = load.dir.join("recovery");
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--fill"])
        .arg(&dir)
        .args(["--recover", &entities.to_string(), "--workers", &load.workers.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    BufReader::new(child.stdout.take().context("the child's output")?).read_line(&mut said)?;
    child.kill()?;
    child.wait()?;
    if said.trim() != "filled" {
        bail!("the child could not fill the store");
    }
    let started = Instant::now();
    let runtime = start(&dir, load.workers).await?;
    let serving = started.elapsed();
    let client = runtime.client();
    let mut asks = Vec::new();
    for number in (1..=entities).step_by(usize::try_from(entities / 1_000)?.max(1)) {
        asks.push(client.ask(Account::at(key(number)), Balance).into_future());
    }
    let (count, mut wrong) = (asks.len(), 0);
    for (at, balance) in futures_util::future::join_all(asks).await.into_iter().enumerate() {
        let number = 1 + at as u64 * (entities / 1_000).max(1);
        wrong += u64::from(balance? != deposit(number).cents);
    }
    if wrong > 0 {
        bail!("{wrong} of {count} entities came back wrong");
    }
    println!(
        "recovery      {entities} entities after SIGKILL: serving in {:.2} s; {count} of them asked and right in {:.2} s more",
        serving.as_secs_f64(),
        started.elapsed().saturating_sub(serving).as_secs_f64(),
    );
    runtime.shutdown().await;
    Ok(())
}
