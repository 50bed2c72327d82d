//! `flights demo --nodes N`: rows are loaded into nodes that come, go, crash and hang, and nothing is lost or doubled.
//!
//! The nodes are processes of this program on ports of this machine. While the rows flow, the deeds of a plan are done to
//! them one by one; the rows go on meanwhile, up to the row of the next deed. Whoever ends one of the processes by hand
//! finds it started again, and the end the same.

use crate::{
    demo::{Expected, say, show_differences, side_by_side},
    entities::{Aircraft, Flight, GetAircraft},
    load::Source,
    meter::Meter,
    moves::Moves,
    nodes::Nodes,
    quiet::status,
    remote::gather,
    server::SharedServer,
    stop::Stop,
    teller::Teller,
};
use anyhow::{Context as _, Result, bail};
use entity_runtime::{
    Client,
    cluster::{Command, CommandAnswer},
    entity::Entity,
    placement::{NodeName, ShardId, Shards, hash},
};
use flights_plain::{
    plan::{Deed, Keeping, Step, plan},
    progress::Progress,
    rows::Rows,
    table::{self, number},
    totals::Tables,
};
use std::{
    fs,
    num::NonZeroUsize,
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

/// The longest that anything may take before the story ends as one that hangs.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often rows are let through, and the durable ones looked at.
const BEAT: Duration = Duration::from_millis(20);
/// How often a node that does not leave is told again: it may have been started again since.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// What the story is about.
pub(crate) struct Story<'a> {
    pub(crate) input: &'a Path,
    /// Directories and logs of the nodes lie in this one.
    pub(crate) directory: &'a Path,
    pub(crate) nodes: NonZeroUsize,
    /// Whether the nodes share a PostgreSQL server.
    pub(crate) is_shared: bool,
    pub(crate) kills: usize,
    pub(crate) seed: u64,
    pub(crate) workers: Option<NonZeroUsize>,
    /// For how long a node is paused.
    pub(crate) pause: Duration,
    /// Rows a second while there is something to do to the nodes; none: as fast as they are taken.
    pub(crate) rate: Option<u64>,
    pub(crate) expected: &'a Expected,
}

impl Story<'_> {
    /// Tells it; false if the entities and the fold do not agree, `None` if it was asked to stop before.
    pub(crate) async fn tell(&self, stop: &Stop) -> Result<Option<bool>> {
        let Expected { tables: expected, folded } = self.expected;
        say(&format!(
            "{} rows of {}, {} nodes, --seed {}\n\
             a plain fold over the file, one thread, nothing kept: {:.2} s\n",
            number(expected.rows),
            self.input.display(),
            self.nodes,
            self.seed,
            folded.as_secs_f64()
        ))?;
        fs::create_dir_all(self.directory)
            .with_context(|| format!("cannot make {}", self.directory.display()))?;
        let mut rows = Rows::open(self.input)?;
        let mut meter = Meter::new(None, &rows);
        let teller = Teller::start(meter.bar());
        let mut server = if self.is_shared { Some(SharedServer::start(&teller).await?) } else { None };
        let store = server.as_ref().map(|server| server.url().to_owned());
        let mut nodes = Nodes::new(self.directory, store, self.workers, teller.clone());
        let outcome = tokio::select! {
            biased;
            () = stop.asked() => Ok(None),
            outcome = self.tell_with((&mut nodes, server.as_mut()), &mut rows, &mut meter, &teller) => outcome.map(Some),
        };
        meter.clear();
        // Before anybody removes their directories.
        nodes.end().await;
        outcome
    }

    async fn tell_with(
        &self,
        (nodes, server): (&mut Nodes, Option<&mut SharedServer>),
        rows: &mut Rows,
        meter: &mut Meter,
        teller: &Teller,
    ) -> Result<bool> {
        for _ in 0..self.nodes.get() {
            nodes.add().await?;
        }
        teller.tell(&format!("{} serve", nodes.names().join(", ")))?;
        let client = Client::connect(nodes.addresses()).await?;
        let moves = Moves::default();
        let watching = tokio::spawn(moves.clone().watch(client.clone()));

        let total = self.expected.tables.rows;
        let keeping = if self.is_shared { Keeping::Together } else { Keeping::Apart };
        let plan = plan(self.seed, self.nodes.get(), self.kills, total, keeping);
        let (gate, allowed) = watch::channel(plan.first().map(|step| step.row));
        let (counted, durable) = watch::channel(0);
        tokio::try_join!(
            self.load(&client, rows, meter, allowed, counted),
            self.act(&client, (nodes, server), &plan, &gate, durable, teller)
        )?;
        meter.clear();
        teller.tell(&format!("all {} rows are durable", number(total)))?;
        let report = nodes.beside(gather(&client, PATIENCE)).await?;
        teller.tell("nothing is on its way any more")?;

        let started = Instant::now();
        let (_gate, open) = watch::channel(None);
        let (counted, _) = watch::channel(0);
        let (mut rows, mut silent) = (Rows::open(self.input)?, Meter::silent());
        nodes.beside(self.load(&client, &mut rows, &mut silent, open, counted)).await?;
        let repeated = nodes.beside(gather(&client, PATIENCE)).await?;
        teller.tell(&format!("all rows were loaded once more, in {}", seconds(started)))?;
        watching.abort();
        nodes.stop().await?;
        teller.tell("all nodes were stopped with SIGTERM, exit 0")?;

        say(&format!("\n{}\n{}\n", table::render(&report), moves.table()))?;
        self.compare(&report.tables, &repeated.tables, teller)
    }

    fn compare(&self, found: &Tables, repeated: &Tables, teller: &Teller) -> Result<bool> {
        let expected = &self.expected.tables;
        let columns = [("the cluster", found), ("one more load", repeated)];
        say(&format!("{}\n", side_by_side(columns, expected)))?;
        let is_equal = show_differences("the entities", found, expected)?
            & show_differences("the entities after one more load", repeated, expected)?;
        if is_equal {
            let (killed, restarted) = if self.is_shared {
                (" for good", format!(", the server was restarted {} times", self.kills))
            } else {
                ("", String::new())
            };
            say(&format!(
                "equal: one node joined, one left, {} were killed{killed}{restarted} and one was paused for {} s; every figure \
                 of {} aircraft, {} airports and {} carriers is the plain fold's; one more load of all rows changed nothing. \
                 {:.1} s in all.\n",
                self.kills,
                self.pause.as_secs_f64(),
                number(expected.aircraft.len() as u64),
                number(expected.airports.len() as u64),
                number(expected.carriers.len() as u64),
                teller.started.elapsed().as_secs_f64()
            ))?;
        }
        Ok(is_equal)
    }

    /// Sends all rows, up to the gate while there is one.
    async fn load(
        &self,
        client: &Client,
        rows: &mut Rows,
        meter: &mut Meter,
        mut gate: watch::Receiver<Option<u64>>,
        counted: watch::Sender<u64>,
    ) -> Result<()> {
        let name = crate::load::feed_name(self.input)?;
        let source = Source { file: self.input, name, place: "the cluster" };
        let mut feed = client.feed(name).await.map_err(|error| source.explain(error))?;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let beats = 1_000 / BEAT.as_millis() as u64;
        let share = self.rate.map_or(u64::MAX, |rate| rate.div_ceil(beats));
        let (mut sent, mut room) = (0, share);
        while let Some(row) = rows.next_row()? {
            loop {
                let is_open = gate.borrow_and_update().is_none_or(|gate| sent < gate && 0 < room);
                if is_open {
                    break;
                }
                beat.tick().await;
                room = share;
                counted.send_replace(feed.durable());
                meter.show(Progress { sent, durable: feed.durable() }, rows)?;
            }
            let (number, aircraft, flight) = Flight::from_row(row);
            let sending = feed.send(number, Aircraft::at(aircraft), flight);
            timeout(PATIENCE, sending)
                .await
                .context("no row was taken for a long time")?
                .map_err(|error| source.explain(error))?;
            sent += 1;
            room = room.saturating_sub(1);
            if sent % 256 == 0 {
                counted.send_replace(feed.durable());
                meter.show(Progress { sent, durable: feed.durable() }, rows)?;
                tokio::task::yield_now().await;
            }
        }
        let mut last = (feed.durable(), Instant::now());
        loop {
            if let Ok(flushed) = timeout(BEAT, feed.flush()).await {
                flushed.map_err(|error| source.explain(error))?;
                break;
            }
            let durable = feed.durable();
            counted.send_replace(durable);
            meter.show(Progress { sent, durable }, rows)?;
            if last.0 != durable {
                last = (durable, Instant::now());
            } else if PATIENCE < last.1.elapsed() {
                bail!(
                    "{} of {} rows are durable, and for {} s no further",
                    number(durable),
                    number(sent),
                    PATIENCE.as_secs()
                );
            }
        }
        counted.send_replace(feed.durable());
        Ok(())
    }

    /// An aircraft that a node has, as that node says itself.
    async fn key_of(&self, client: &Client, node: &str) -> Result<String> {
        let node: NodeName = node.parse()?;
        let having = async {
            loop {
                let found = status(client, &node).await.ok().and_then(|status| {
                    let shards = Shards::new(status.shards_total)?;
                    let has = |shard: ShardId| {
                        status.shards.iter().any(|one| one.shard == shard.0 && one.owner == node)
                    };
                    let mut aircraft = self.expected.tables.aircraft.keys();
                    aircraft.find(|key| has(shards.place(hash(Aircraft::KIND, key)))).cloned()
                });
                match found {
                    Some(key) => return key,
                    None => tokio::time::sleep(BEAT).await,
                }
            }
        };
        timeout(PATIENCE, having).await.context("a node has no share of the aircraft")
    }

    /// Does what is planned, each when its row is durable; then opens the gate.
    async fn act(
        &self,
        client: &Client,
        (nodes, mut server): (&mut Nodes, Option<&mut SharedServer>),
        plan: &[Step],
        gate: &watch::Sender<Option<u64>>,
        mut durable: watch::Receiver<u64>,
        teller: &Teller,
    ) -> Result<()> {
        for (at, step) in plan.iter().enumerate() {
            let row = nodes.beside(reach(&mut durable, step.row)).await?;
            // Rows go on meanwhile, as far as to the next deed.
            gate.send_replace(Some(plan.get(at + 1).map_or(u64::MAX, |next| next.row)));
            let names = nodes.names();
            let name = &names[(step.pick % names.len() as u64) as usize];
            let tell = |text: &str| teller.tell(&format!("row {:>7}: {text}", number(row)));
            let started = Instant::now();
            match step.deed {
                Deed::Add => {
                    let name = nodes.add().await?;
                    tell(&format!("{name} joins, and serves after {}", seconds(started)))?;
                }
                Deed::Drain => {
                    tell(&format!("{name} is told to leave"))?;
                    drain(client, nodes, name).await?;
                    teller.tell(&format!(
                        "{name} has handed everything over and left after {}, exit 0",
                        seconds(started)
                    ))?;
                }
                Deed::Kill if self.is_shared => {
                    // Of one node alone nobody could take anything.
                    let is_alone = names.len() == 1;
                    if is_alone {
                        nodes.add().await?;
                    }
                    let had = self.key_of(client, name).await?;
                    tell(&format!("kill -9 of {name}, for good"))?;
                    let started = Instant::now();
                    nodes.kill_for_good(name).await?;
                    nodes.beside(answer(client, &had)).await?;
                    teller.tell(&format!(
                        "aircraft {had}, which {name} had, answers elsewhere after {}",
                        seconds(started)
                    ))?;
                    if !is_alone {
                        let other = nodes.add().await?;
                        teller.tell(&format!("{other} is started in its place"))?;
                    }
                }
                Deed::Restart => {
                    tell("the PostgreSQL server ends without a shutdown")?;
                    if let Some(server) = &mut server {
                        nodes.beside(server.restart()).await?;
                    }
                    teller.tell(&format!("it is back after {}", seconds(started)))?;
                }
                Deed::Kill => {
                    tell(&format!("kill -9 of {name}"))?;
                    timeout(PATIENCE, nodes.kill(name)).await.context("a node does not come back")??;
                    teller.tell(&format!(
                        "{name} is back on its directory, and serves after {}",
                        seconds(started)
                    ))?;
                }
                Deed::Pause => {
                    tell(&format!("SIGSTOP of {name} for {} s", self.pause.as_secs_f64()))?;
                    nodes.pause(name)?;
                    nodes
                        .beside(async {
                            tokio::time::sleep(self.pause).await;
                            Ok(())
                        })
                        .await?;
                    nodes.go_on(name)?;
                    teller.tell(&format!("SIGCONT of {name}"))?;
                }
            }
        }
        gate.send_replace(None);
        nodes.beside(reach(&mut durable, self.expected.tables.rows)).await?;
        Ok(())
    }
}

/// Waits until an aircraft answers, wherever it is.
async fn answer(client: &Client, aircraft: &str) -> Result<()> {
    let answered = async {
        while client.ask(Aircraft::at(aircraft), GetAircraft).await.is_err() {
            tokio::time::sleep(BEAT).await;
        }
    };
    timeout(PATIENCE, answered).await.context("an aircraft does not answer")
}

/// Waits until so many rows are durable, and says how many are.
async fn reach(durable: &mut watch::Receiver<u64>, row: u64) -> Result<u64> {
    let reached = timeout(PATIENCE, durable.wait_for(|durable| row <= *durable)).await;
    let reached = reached.with_context(|| format!("row {} does not become durable", number(row)))?;
    Ok(*reached.context("the load has ended")?)
}

/// Tells a node to leave, and waits until its process has ended.
async fn drain(client: &Client, nodes: &mut Nodes, name: &str) -> Result<()> {
    let node: NodeName = name.parse()?;
    let mut refused = None;
    let telling = async {
        loop {
            // Not connected for the moment, or on its way out: the end of its process tells. One that was killed while
            // another joined there may not know of it yet, and refuses for as long as it seems to be alone.
            if let Ok(Ok(CommandAnswer::Refused(why))) =
                timeout(TELL_AGAIN, client.command(Some(&node), Command::Leave)).await
            {
                refused = Some(why);
            }
            tokio::time::sleep(TELL_AGAIN).await;
        }
    };
    let left = tokio::select! {
        () = telling => unreachable!("it is told for ever"),
        left = timeout(PATIENCE, nodes.left(name)) => left,
    };
    left.with_context(|| {
        format!("{name} does not get away{}", refused.map_or(String::new(), |why| format!(": {why}")))
    })?
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}
