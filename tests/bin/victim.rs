//! A process that tests start and kill: it runs the shared entities on a directory, and says what was acknowledged.
//!
//! `victim crash DIR ISSUED FROM ROWS`: asks notes under known ids from number FROM on, without end, and feeds ROWS rows
//! from row 1. `victim hold DIR`: opens the directory and waits for the end of its input. `victim deed DIR ISSUED DEED`:
//! asks the killer entity for a deed, and its neighbours for a sign of life. `victim overload DIR ROUNDS...`: each round
//! every one of many callers asks so often, all of them at once and far more than there is room for; says what was done and
//! refused since the start, and the most memory the process has had. `victim node NAME ADDRESS DIR [SEED]`: a node of a
//! cluster in the clear, which founds it or joins at SEED, until the end of its input. `victim share NAME URL LEASE`: a node of the
//! cluster on that PostgreSQL server, with a lease of so many milliseconds, until the end of its input. `victim adopt ...` and `victim unpark
//! ...` are the operator's commands of the same name.

use anyhow::{Context, Result, bail};
use entity_runtime::cluster::{Begin, Departure, Security};
use entity_runtime::{AskError, Refusal};
use entity_runtime::{Runtime, message::RequestId, prelude::*, timestamp::Timestamp};
use entity_runtime_tests::running::{
    Deed, Do, Killer, Ledger, Mirror, Note, Reject, builder, id, small_limits,
};
use entity_runtime_tests::{entities::Account, nodes};
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
        ["overload", directory, ref rounds @ ..] => overload(Path::new(directory), rounds).await,
        ["node", name, address, directory] => node(name, address, directory, Begin::Found).await,
        ["node", name, address, directory, seed] => {
            node(name, address, directory, Begin::Join(vec![seed.to_owned()])).await
        }
        ["share", name, url, lease] => share(name, url, Duration::from_millis(lease.parse()?)).await,
        ["adopt" | "unpark", ..] => operate().await,
        _ => bail!("see the head of this file"),
    }
}

/// Does what the command line says, and ends with its exit code.
async fn operate() -> Result<()> {
    let builder = Runtime::builder().entity::<Ledger>().entity::<Mirror>().workers(2);
    let ended = tokio::task::spawn_blocking(|| builder.segment_bytes(32 << 20).run_from_args()).await?;
    if ended == std::process::ExitCode::SUCCESS { Ok(()) } else { bail!("it came to nothing") }
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

async fn node(name: &str, address: &str, directory: &str, begin: Begin) -> Result<()> {
    let mut config = nodes::config(name, address, begin);
    config.security = Security::Insecure;
    serve(nodes::start(config, Some(Path::new(directory))).await?).await
}

async fn share(name: &str, url: &str, lease: Duration) -> Result<()> {
    let config = nodes::config(name, "127.0.0.1:0", Begin::Resume);
    let builder = Runtime::builder().entity::<Ledger>().entity::<Mirror>().entity::<Account>();
    let builder = builder.workers(2).cluster(config).postgres([url]).lease(lease);
    serve(builder.start().await?).await
}

/// Says that it serves, and does until the end of its input.
async fn serve(runtime: Runtime) -> Result<()> {
    say("serves")?;
    let told = tokio::task::spawn_blocking(|| std::io::stdin().lines().count());
    let departed = tokio::select! {
        told = told => told.map(|_| None)?,
        departure = runtime.departed() => Some(departure),
    };
    runtime.shutdown().await;
    match departed {
        // It may still wait for its input: nobody waits for that.
        Some(Departure::Failed(why) | Departure::Refused(why)) => {
            eprintln!("{why}");
            std::process::exit(1);
        }
        _ => Ok(()),
    }
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

/// Callers that ask at the same time.
const CALLERS: u64 = 500;
/// Clients they share: a client's last replies are stored until it asks again.
const CLIENTS: u64 = 10;
/// Bytes in the longer half of their messages.
const LETTER_LEN: usize = 1_000;
/// Entities they ask.
const LEDGERS: u64 = 2_000;

async fn overload(directory: &Path, rounds: &[&str]) -> Result<()> {
    let mut limits = small_limits();
    // Both workers together hold a tenth of what all callers ask at a time: every other message is a long one.
    limits.intake_bytes_max = CALLERS as usize / 2 * LETTER_LEN / 10 / 2;
    limits.mailbox_len_max = 8;
    limits.activation_bytes_max = 256 << 10;
    limits.outbox_bytes_max = 16 << 10;
    limits.outbox_memory_max = 64 << 10;
    limits.replies_max = 200;
    // The tail of the log counts in memory; the first round is to fill it.
    let runtime = builder(directory, limits).log_budget(8 << 20).start().await?;
    let clients: Vec<_> = (0..CLIENTS).map(|_| runtime.client()).collect();
    let (mut done, mut refused, mut row) = (0_u64, 0_u64, 0);
    let mut feed = runtime.client().feed("rows").await?;
    for times in rounds {
        let times: u64 = times.parse()?;
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..CALLERS {
            let client = clients[(caller % CLIENTS) as usize].clone();
            callers.spawn(call(client, caller, times));
        }
        for _ in 0..times * 20 {
            row += 1;
            feed.send(row, Ledger::at(format!("l{}", row % LEDGERS)), note(row)).await?;
        }
        feed.flush().await?;
        while let Some(called) = callers.join_next().await {
            let (more_done, more_refused) = called??;
            done += more_done;
            refused += more_refused;
        }
        runtime.quiesce().await;
        say(&format!("{done} {refused} {}", peak_kib()?))?;
    }
    let counters = runtime.counters();
    anyhow::ensure!(
        counters.balance() && (counters.refused, counters.in_flight) == (refused, 0),
        "{counters:?}"
    );
    drop(feed);
    runtime.shutdown().await;
    Ok(())
}

/// The states it makes stay short, however often it is sent.
fn note(number: u64) -> Note {
    Note { number: number % 4, mirror: Some(format!("m{}", number % 100)) }
}

/// Asks so often, and says how often it was answered and refused.
async fn call(client: entity_runtime::Client, caller: u64, times: u64) -> Result<(u64, u64)> {
    let (mut done, mut refused) = (0, 0);
    for time in 0..times {
        let ledger = Ledger::at(format!("l{}", (caller * 7 + time * 11) % LEDGERS));
        let asked = if time % 2 == 0 {
            client.ask(ledger, note(caller + time)).await.map(drop)
        } else {
            client.ask(ledger, Reject { why: "n".repeat(LETTER_LEN) }).await.map(drop)
        };
        match asked {
            Ok(()) => done += 1,
            Err(AskError::Refused(Refusal::Busy(_))) => refused += 1,
            Err(other) => bail!("neither done nor refused: {other}"),
        }
        // Whoever is refused at once lets the others ask too.
        tokio::task::yield_now().await;
    }
    Ok((done, refused))
}

/// The most memory this process has had, in KiB.
fn peak_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the peak is told")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
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
