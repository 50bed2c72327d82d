//! A file in, the figures out, by a client: whether its entities are in this process or on many nodes is all the same here.

use crate::{
    entities::{Aircraft, Airport, Carrier, Flight, GetAircraft, GetAirport, GetCarrier, GetKeys, Roster},
    meter::Meter,
    stop::Stop,
};
use anyhow::{Context as _, Result, anyhow};
use entity_runtime::{
    Client, Feed, FeedError,
    entity::{Entity, EntityRef, Query},
    message::Message,
    runtime::Builder,
};
use flights_plain::{
    progress::Progress,
    rows::{InputError, Rows},
    table::number,
    totals::{Keys, Tables},
};
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

/// Rows between two moments at which Ctrl-C is looked for, should the runtime never make the file wait.
const YIELD_EVERY: u64 = 256;
/// How often the durable rows are shown while the last ones are waited for.
const FLUSH_TICK: Duration = Duration::from_millis(2);
/// Entities that are asked at a time.
const ASKED_AT_A_TIME: usize = 64;

/// How reading ended, and what is durable now: everything that was read.
pub(crate) struct Loaded {
    /// Why it ended.
    pub(crate) end: End,
    /// How far it came.
    pub(crate) progress: Progress,
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

/// Names the entities to a runtime.
pub(crate) fn with_entities(builder: Builder) -> Builder {
    builder.entity::<Aircraft>().entity::<Airport>().entity::<Carrier>().entity::<Roster>()
}

/// A file that is sent as a feed.
pub(crate) struct Source<'a> {
    /// The file.
    pub(crate) file: &'a Path,
    /// Name of the feed.
    pub(crate) name: &'a str,
    /// Where its rows are counted, as people know it.
    pub(crate) place: &'a str,
}

/// The feed of a file is named by it, wherever it lies, unless it has a name of its own.
pub(crate) fn feed_name(input: &Path) -> Result<&str> {
    let name = input.file_name().with_context(|| format!("{} names no file", input.display()))?;
    name.to_str().with_context(|| {
        format!(
            "the name of {} is not UTF-8, and it is to be the feed's name; rename the file",
            input.display()
        )
    })
}

/// Sends every row as part of a feed, and returns when what was sent is durable.
///
/// A row that was durable before, from this process or one that was killed, changes nothing: the runtime knows the feed
/// by its name and each row by its number.
///
/// # Errors
/// The runtime refuses the feed, above all because it was another file.
pub(crate) async fn load(
    client: &Client,
    source: &Source<'_>,
    rows: &mut Rows,
    meter: &mut Meter,
    stop: &Stop,
) -> Result<Loaded> {
    let explain = |error| source.explain(error);
    let mut feed = client.feed(source.name).await.map_err(explain)?;
    let mut sent = 0;

    let end = tokio::select! {
        biased;
        () = stop.asked() => End::Stopped,
        end = send_rows(&mut feed, rows, &mut sent, meter, &explain) => end?,
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
    Ok(Loaded { end, progress })
}

async fn send_rows(
    feed: &mut Feed,
    rows: &mut Rows,
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
        let (number, aircraft, flight) = Flight::from_row(row);
        feed.send(number, Aircraft::at(aircraft), flight).await.map_err(explain)?;
        *sent += 1;
        meter.show(Progress { sent: *sent, durable: feed.durable() }, rows)?;
        if sent.is_multiple_of(YIELD_EVERY) {
            tokio::task::yield_now().await;
        }
    }
}

impl Source<'_> {
    /// A feed's error with the names a person knows: the feed's and the file's.
    pub(crate) fn explain(&self, error: FeedError) -> anyhow::Error {
        let (file, name) = (self.file.display(), self.name);
        let context = match error {
            FeedError::Collision { .. } => format!(
                "{file} is not the file that was read under the feed name `{name}` before; \
                 give it another file name, or another --data-dir"
            ),
            _ => format!("cannot feed {file} under the feed name `{name}`"),
        };
        anyhow::Error::new(error).context(context)
    }

    /// A bad row, with what became of those before it, of which so many are durable.
    pub(crate) fn bad_row(&self, error: &InputError, durable: u64) -> anyhow::Error {
        let place = self.place;
        let before = match durable {
            0 => "nothing was counted".to_owned(),
            1 => format!("the row before it is counted and durable in {place}"),
            rows => format!("the {} rows before it are counted and durable in {place}", number(rows)),
        };
        anyhow!("{error}\n  {before}; mend the file and run the same command again")
    }

    /// What is said after Ctrl-C.
    pub(crate) fn stopped(&self, progress: Progress) -> String {
        format!(
            "stopped: {} of {} rows read are durable in {}; run the same command again and it goes on from there",
            number(progress.durable),
            number(progress.sent),
            self.place
        )
    }
}

/// Asks every entity there is. No message may be in flight between them.
///
/// # Errors
/// An entity cannot be asked.
pub(crate) async fn tables(client: &Client) -> Result<Tables> {
    let mut keys = Keys::default();
    for roster in Roster::all() {
        keys.add(client.ask(roster, GetKeys).await.context("cannot ask who is there")?);
    }
    let mut tables = Tables {
        rows: 0,
        aircraft: ask_all(client, &keys.aircraft, Aircraft::at, || GetAircraft).await?,
        airports: ask_all(client, &keys.airports, Airport::at, || GetAirport).await?,
        carriers: ask_all(client, &keys.carriers, Carrier::at, || GetCarrier).await?,
    };
    // Whatever has become of a flight, it is one of its aircraft.
    tables.rows = tables.aircraft.values().map(|one| one.flights + one.cancelled).sum();
    Ok(tables)
}

async fn ask_all<E: Entity + Query<M>, M: Message>(
    client: &Client,
    keys: &BTreeSet<String>,
    at: impl Fn(String) -> EntityRef<E>,
    question: impl Fn() -> M,
) -> Result<BTreeMap<String, M::Reply>>
where
    M::Reply: Send + 'static,
{
    let keys: Vec<&String> = keys.iter().collect();
    let mut answers = BTreeMap::new();
    for some in keys.chunks(ASKED_AT_A_TIME) {
        let asked = some.iter().map(|key| client.ask(at((*key).clone()), question()).into_future());
        for (key, answer) in some.iter().zip(join_all(asked).await) {
            let answer = answer.with_context(|| format!("cannot ask {} {key}", E::KIND))?;
            answers.insert((*key).clone(), answer);
        }
    }
    Ok(answers)
}
