//! A process that tests start and kill: it runs the shared entities on a directory, and says what was acknowledged.
//!
//! `victim crash DIR ISSUED FROM ROWS`: asks notes under known ids from number FROM on, without end, and feeds ROWS rows
//! from row 1. `victim hold DIR`: opens the directory and waits for the end of its input. `victim deed DIR ISSUED DEED`:
//! asks the killer entity for a deed, and its neighbours for a sign of life.

use anyhow::{Context, Result, bail};
use entity_runtime::{Runtime, message::RequestId, prelude::*, timestamp::Timestamp};
use entity_runtime_tests::running::{Deed, Do, Killer, Ledger, Note, builder, id, small_limits};
use std::{io::Write, path::Path, time::Duration};

/// Requests on their way at a time.
const CONCURRENT: u64 = 16;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["crash", directory, issued, from, rows] => {
            crash(Path::new(directory), at(issued)?, from.parse()?, rows.parse()?).await
        }
        ["hold", directory] => hold(Path::new(directory)).await,
        ["deed", directory, issued, deed] => self::deed(Path::new(directory), at(issued)?, deed).await,
        _ => bail!("see the head of this file"),
    }
}

fn at(issued: &str) -> Result<Timestamp> {
    Ok(Timestamp::from_micros(issued.parse()?))
}

/// One line, at once: whoever reads it may kill this process for it.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush().context("the test has gone")
}

async fn start(directory: &Path) -> Result<Runtime> {
    Ok(builder(directory, small_limits()).start().await?)
}

async fn crash(directory: &Path, issued: Timestamp, from: u64, rows: u64) -> Result<()> {
    say("begun")?;
    let runtime = start(directory).await?;
    say("ready")?;
    let client = runtime.client();
    let feeding = async {
        let mut feed = client.feed("rows").await?;
        for row in 1..=rows {
            let note = Note { number: 1_000_000 + row, mirror: Some(format!("of-row-{}", row % 3)) };
            feed.send(row, Ledger::at(format!("row-{}", row % 5)), note).await?;
        }
        feed.flush().await?;
        say("fed")
    };
    let asking = |first: u64| {
        let client = client.clone();
        async move {
            let mut number = first;
            loop {
                let note = Note { number, mirror: Some(format!("mirror-{}", number % 3)) };
                let request: RequestId = id(7, number, issued);
                let noted =
                    client.ask(Ledger::at(format!("ledger-{}", number % 5)), note).with_id(request).await?;
                say(&format!("noted {number} {} {}", noted.nth, noted.random))?;
                number += CONCURRENT;
            }
        }
    };
    let mut asks = tokio::task::JoinSet::<Result<()>>::new();
    for first in from..from + CONCURRENT {
        asks.spawn(asking(first));
    }
    feeding.await?;
    while let Some(asked) = asks.join_next().await {
        asked??;
    }
    Ok(())
}

async fn hold(directory: &Path) -> Result<()> {
    let _runtime = start(directory).await?;
    say("ready")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

async fn deed(directory: &Path, issued: Timestamp, deed: &str) -> Result<()> {
    let deed = match deed {
        "loop" => Deed::Loop,
        "overflow" => Deed::Overflow,
        "abort" => Deed::Abort,
        "curse" => Deed::Panic,
        _ => bail!("no such deed"),
    };
    let mut limits = small_limits();
    if deed == Deed::Loop {
        // Short for the one that meets it; a busy machine may keep another turn waiting for so long.
        limits.turn_deadline = Duration::from_millis(200);
    }
    let runtime = builder(directory, limits).start().await?;
    let client = runtime.client();
    let neighbour = client.ask(Killer::at("neighbour"), Do { deed: Deed::Live });
    say(&format!("neighbour {}", neighbour.with_id(id(8, 1, issued)).await?))?;
    if deed == Deed::Panic {
        client.ask(Killer::at("poisoned"), Do { deed: Deed::Curse }).with_id(id(9, 3, issued)).await?;
    }
    match client.ask(Killer::at("poisoned"), Do { deed }).with_id(id(9, 1, issued)).await {
        Err(entity_runtime::AskError::DeadLettered(why)) => say(&format!("dead-lettered {why}"))?,
        other => bail!("it lived: {other:?}"),
    }
    if deed == Deed::Panic {
        // Its state is as it was, and whoever wants it next meets the same end.
        runtime.shutdown().await;
        return Ok(());
    }
    let after = client.ask(Killer::at("poisoned"), Do { deed: Deed::Live }).with_id(id(9, 2, issued)).await?;
    say(&format!("after {after}"))?;
    runtime.shutdown().await;
    Ok(())
}
