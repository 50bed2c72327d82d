//! All that touches the runtime: start it, feed it a file, ask the entities.

use crate::{
    entities::{Aircraft, Airport, Carrier, Flight, GetAircraft, GetAirport, GetCarrier},
    meter::Meter,
    stop::Stop,
};
use anyhow::{Context as _, Result};
use entity_runtime::{Feed, FeedError, Runtime, entity::Entity};
use flights_plain::{
    progress::Progress,
    report::{Counters, Report},
    rows::{InputError, Rows},
    totals::{Keys, Tables},
};
use std::{num::NonZeroUsize, path::Path, time::Duration};

/// Rows between two moments at which Ctrl-C is looked for, should the runtime never make the file wait.
const YIELD_EVERY: u64 = 256;
/// How often the durable rows are shown while the last ones are waited for.
const FLUSH_TICK: Duration = Duration::from_millis(2);

/// How reading ended, and what is durable now: everything that was read.
pub(crate) struct Loaded {
    /// Why it ended.
    pub(crate) end: End,
    /// How far it came.
    pub(crate) progress: Progress,
    /// The entities that rows have named.
    pub(crate) keys: Keys,
}

/// Why reading ended.
pub(crate) enum End {
    /// With the last row.
    Whole,
    /// At a row that cannot be counted.
    Bad(InputError),
    /// Ctrl-C.
    Stopped,
}

/// Starts the runtime on a data directory.
pub(crate) async fn start(data_dir: &Path, workers: Option<NonZeroUsize>) -> Result<Runtime> {
    let mut builder =
        Runtime::builder().entity::<Aircraft>().entity::<Airport>().entity::<Carrier>().data_dir(data_dir);
    if let Some(workers) = workers {
        builder = builder.workers(workers.get());
    }
    builder
        .start()
        .await
        .with_context(|| format!("cannot start on the data directory {}", data_dir.display()))
}

/// Sends every row as part of the feed `name`, and returns when what was sent is durable.
///
/// A row that was durable before, from this process or one that was killed, changes nothing: the runtime knows the feed
/// by its name and each row by its number.
///
/// # Errors
/// The runtime refuses the feed, above all because it was another file.
pub(crate) async fn load(
    runtime: &Runtime,
    name: &str,
    file: &Path,
    rows: &mut Rows,
    meter: &mut Meter,
    stop: &Stop,
) -> Result<Loaded> {
    let explain = |error| explain(error, name, file);
    let mut feed = runtime.client().feed(name).await.map_err(explain)?;
    let mut keys = Keys::default();
    let mut sent = 0;

    let end = tokio::select! {
        biased;
        () = stop.asked() => End::Stopped,
        end = send_rows(&mut feed, rows, &mut keys, &mut sent, meter, &explain) => end?,
    };

    // However it ended, what was read shall count before anything is said about it. Waiting in short stretches lets the
    // meter go on; a second Ctrl-C ends the process here.
    loop {
        if let Ok(flushed) = tokio::time::timeout(FLUSH_TICK, feed.flush()).await {
            flushed.map_err(explain)?;
            break;
        }
        meter.show(Progress { sent, durable: feed.durable() }, rows)?;
    }
    let progress = Progress { sent, durable: feed.durable() };
    meter.show(progress, rows)?;
    Ok(Loaded { end, progress, keys })
}

async fn send_rows(
    feed: &mut Feed,
    rows: &mut Rows,
    keys: &mut Keys,
    sent: &mut u64,
    meter: &mut Meter,
    explain: &impl Fn(FeedError) -> anyhow::Error,
) -> Result<End> {
    loop {
        let row = match rows.next_row() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(End::Whole),
            Err(error) => return Ok(End::Bad(error)),
        };
        keys.note(&row);
        let (number, aircraft, flight) = Flight::from_row(row);
        feed.send(number, Aircraft::at(aircraft), flight).await.map_err(explain)?;
        *sent += 1;
        meter.show(Progress { sent: *sent, durable: feed.durable() }, rows)?;
        if sent.is_multiple_of(YIELD_EVERY) {
            tokio::task::yield_now().await;
        }
    }
}

/// Waits until no message is in flight between entities, and asks each entity that a row has named.
///
/// # Errors
/// An entity cannot be asked.
pub(crate) async fn report(runtime: &Runtime, rows: u64, keys: &Keys) -> Result<Report> {
    runtime.quiesce().await;
    let client = runtime.client();
    let mut tables = Tables { rows, ..Tables::default() };
    for key in &keys.aircraft {
        let totals = client.ask(Aircraft::at(key), GetAircraft).await;
        let totals = totals.with_context(|| format!("cannot ask aircraft {key}"))?;
        tables.aircraft.insert(key.clone(), totals);
    }
    for key in &keys.airports {
        let totals = client.ask(Airport::at(key), GetAirport).await;
        let totals = totals.with_context(|| format!("cannot ask airport {key}"))?;
        tables.airports.insert(key.clone(), totals);
    }
    for key in &keys.carriers {
        let totals = client.ask(Carrier::at(key), GetCarrier).await;
        let totals = totals.with_context(|| format!("cannot ask carrier {key}"))?;
        tables.carriers.insert(key.clone(), totals);
    }
    let counters = runtime.counters();
    let counters = Counters {
        applied: counters.applied,
        duplicates: counters.duplicates,
        dead_letters: counters.dead_lettered,
    };
    Ok(Report { tables, counters })
}

/// A feed's error with the names a person knows: the feed's and the file's.
fn explain(error: FeedError, name: &str, file: &Path) -> anyhow::Error {
    let file = file.display();
    let context = match error {
        FeedError::Collision { .. } => format!(
            "{file} is not the file that was read under the feed name `{name}` before; \
             give it another file name, or another --data-dir"
        ),
        _ => format!("cannot feed {file} under the feed name `{name}`"),
    };
    anyhow::Error::new(error).context(context)
}
