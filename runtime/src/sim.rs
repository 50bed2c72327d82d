//! A whole cluster under one seed and virtual time: real kernels, real stores, every fault, exactly repeatable.
//!
//! No thread, no clock and no unordered map takes part, so the same seed gives the same run to the last byte, which
//! [`Sim::trace_hash`] shows. Callers ask again until they know the outcome, with the same request id, and now and then
//! once more; every reply must be the first one byte for byte. While it runs a simulation checks of itself that
//!
//! * every accepted message is accounted for at every step (P1);
//! * no request is answered before its batch is durable;
//! * a repeat gets the first reply, and a request expires only when it is old or acknowledged (P11);
//! * rows are submitted only where room for them was reserved (P15);
//! * no two stores own a shard, and none owns it under a lower epoch than was seen before (P17).
//!
//! A broken promise panics with the seed and the virtual time. What the entities must hold (totals, orders) is for the
//! test to ask at the end:
//!
//! ```
//! use entity_runtime::prelude::*;
//! use entity_runtime::sim::Sim;
//! use std::time::Duration;
//!
//! #[derive(Entity, Default, Serialize, Deserialize)]
//! #[entity(kind = "counter", handles(Add), queries(Total))]
//! struct Counter { count: u64 }
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[message(reply = u64)]
//! struct Add { by: u64 }
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[message(reply = u64)]
//! struct Total;
//!
//! impl Handle<Add> for Counter {
//!     fn handle(&mut self, add: Add, _: &mut Context<'_, Self>) -> u64 { self.count += add.by; self.count }
//! }
//! impl Query<Total> for Counter {
//!     fn query(&self, _: Total) -> u64 { self.count }
//! }
//!
//! let mut sim = Sim::builder(42).entity::<Counter>().shards(4).workers(2).embedded().start();
//! for by in 1..=10 {
//!     sim.send(&Counter::at("a"), &Add { by });
//! }
//! sim.run_for(Duration::from_millis(20));
//! sim.crash();
//! sim.run_until_quiet(Duration::from_mins(1));
//! assert_eq!(sim.query(&Counter::at("a"), &Total), Ok(55));
//! ```
//!
//! There is one node unless [`Builder::nodes`] says otherwise. Each has a store, a clock and faults of its own; frames between
//! them are lost, doubled, overtaken and late, and links are cut in one direction or both. Callers ask any node.
//!
//! # Caveats
//! * Shards stay where [`Builder::dealt`] put them unless [`Builder::moving`] lets them move. Then no fault makes another owner
//!   of a shard, and what each node knows of the view is the simulation's own, not gossip.
//! * Turns are pure by contract. A handler that reads a clock or a global breaks the repetition, and nothing else.

mod builder;
mod client;
mod deal;
mod due;
mod faults;
mod feed;
mod lane;
mod machine;
mod moves;
mod network;
mod oracle;
mod post;
mod random;
mod reads;
mod ring;
mod schedule;
mod seen;
mod storage;
#[cfg(test)]
mod tests;
mod trace;

pub use builder::Builder;
pub use client::Ticket;
pub use faults::{FaultClass, Faults};
pub use feed::{FeedState, FeedTicket};
pub use random::Random;
pub use seen::Seen;

use crate::{
    entity::{Answers, Entity, EntityRef, Handle, Query},
    error::AskError,
    kernel::{Kernel, Outcome},
    kinds::Kinds,
    limits::Limits,
    message::{Envelope, Message},
    placement::Shards,
    requests::ReplyClass,
    shard::LetterRow,
    store::{RowType, Store},
    timestamp::Timestamp,
};
use client::{Call, Caller, Way};
use due::{Chore, Due};
use feed::SimFeed;
use machine::Machine;
use network::Network;
use oracle::Owners;
use ring::Node;
use schedule::Schedule;
use std::{sync::Arc, time::Duration};
use storage::Storage;
use trace::Trace;

/// Virtual time begins here, in microseconds since 1970, so that a clock set back stays above it.
const START: u64 = 1_700_000_000_000_000;
/// Farthest the clock jumps in all, in microseconds.
const CLOCK_JUMP_MAX: u64 = 20_000_000;

/// A simulation. See the module.
pub struct Sim {
    seed: u64,
    random: Random,
    now: u64,
    schedule: Schedule<Due>,
    trace: Trace,
    seen: Seen,
    kinds: Arc<Kinds>,
    limits: Limits,
    layout: Shards,
    workers: usize,
    faults: Faults,
    healed: bool,
    machines: Vec<Machine>,
    network: Network,
    /// Whether shards move, and which nodes are in the view.
    moves: bool,
    members: Vec<bool>,
    owners: Owners,
    callers: Vec<Caller>,
    calls: Vec<Call>,
    open_calls: usize,
    feeds: Vec<SimFeed>,
    // Pauses the seed has picked, in microseconds.
    tick_every: u64,
    run_pause: u64,
    commit_pause: u64,
    load_pause: u64,
    transit_pause: u64,
    maintain_every: u64,
    announce_every: u64,
    restart_pause: u64,
    crash_cuts_power: bool,
}

impl Sim {
    /// Sets up a simulation. Everything not set is picked by the seed.
    pub fn builder(seed: u64) -> Builder {
        Builder::by_seed(seed)
    }

    /// The seed's own chance, for the test's decisions.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Asks, and runs until the reply is there. Asked again, with the same id, as long as the outcome is unknown.
    ///
    /// # Errors
    /// The message was refused for good or dead-lettered.
    pub fn ask<E: Entity + Handle<M>, M: Message>(
        &mut self,
        target: &EntityRef<E>,
        message: &M,
    ) -> Result<M::Reply, AskError> {
        let ticket = self.begin_ask(0, target, message);
        self.finish::<M>(ticket)
    }

    /// Answers a query, and runs until the answer is there.
    ///
    /// # Errors
    /// The query was refused for good.
    pub fn query<E, M>(&mut self, target: &EntityRef<E>, message: &M) -> Result<M::Reply, AskError>
    where
        E: Entity + Query<M> + Answers<M, crate::entity::way::Queried>,
        M: Message,
    {
        let envelope = envelope(E::KIND, target.key(), message)?;
        let ticket = self.call(0, Way::Query, envelope);
        self.finish::<M>(ticket)
    }

    /// Begins an ask of one of several callers; [`Sim::answered`] tells its outcome.
    ///
    /// # Panics
    /// The message does not encode.
    pub fn begin_ask<E: Entity + Handle<M>, M: Message>(
        &mut self,
        caller: usize,
        target: &EntityRef<E>,
        message: &M,
    ) -> Ticket {
        let envelope = envelope(E::KIND, target.key(), message).expect("a test's message encodes");
        self.call(caller, Way::Ask, envelope)
    }

    /// Begins a send of the first caller. It goes on until the message is durably accepted, through every crash.
    ///
    /// # Panics
    /// The message does not encode.
    pub fn send<E: Entity + Handle<M>, M: Message>(&mut self, target: &EntityRef<E>, message: &M) -> Ticket {
        self.begin_send(0, target, message)
    }

    /// As [`Sim::send`], of one of several callers.
    ///
    /// # Panics
    /// The message does not encode.
    pub fn begin_send<E: Entity + Handle<M>, M: Message>(
        &mut self,
        caller: usize,
        target: &EntityRef<E>,
        message: &M,
    ) -> Ticket {
        let envelope = envelope(E::KIND, target.key(), message).expect("a test's message encodes");
        self.call(caller, Way::Send, envelope)
    }

    /// The outcome of a call; `None` while it is not known.
    pub fn outcome(&self, ticket: Ticket) -> Option<&Outcome> {
        self.calls[ticket.0].outcome.as_ref()
    }

    /// The decoded reply of a call; `None` while it is not known or where there is none.
    ///
    /// # Errors
    /// It was refused for good or dead-lettered.
    pub fn answered<M: Message>(&self, ticket: Ticket) -> Option<Result<M::Reply, AskError>> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self.outcome(ticket)? {
            Outcome::Done(reply) if reply.class == ReplyClass::DeadLettered => {
                Some(Err(AskError::DeadLettered(text(&reply.body))))
            }
            // A rejection is a reply like any other: the handler's `Err`.
            Outcome::Done(reply) => Some(crate::codec::decode(&reply.body).map_err(AskError::Reply)),
            Outcome::Refused(refusal) => Some(Err(AskError::Refused(refusal.clone()))),
            Outcome::Waiting | Outcome::Elsewhere | Outcome::Unknown(_) => None,
        }
    }

    fn finish<M: Message>(&mut self, ticket: Ticket) -> Result<M::Reply, AskError> {
        let until = self.now + 600_000_000;
        while self.calls[ticket.0].outcome.is_none() && self.now < until {
            self.step();
        }
        self.answered::<M>(ticket).unwrap_or_else(|| self.fail("a call had no outcome in ten minutes"))
    }

    /// Feeds rows under a name: each with its own number, its entity and its message. Own numbers must rise.
    ///
    /// # Panics
    /// A message does not encode.
    pub fn feed<E: Entity + Handle<M>, M: Message>(
        &mut self,
        name: &str,
        rows: impl IntoIterator<Item = (u64, EntityRef<E>, M)>,
    ) -> FeedTicket {
        let rows = rows.into_iter().map(|(own, target, message)| {
            (own, envelope(E::KIND, target.key(), &message).expect("a test's message encodes"))
        });
        let rows = rows.collect();
        self.begin_feed(name, rows)
    }

    /// How a feed stands.
    pub fn feed_state(&self, feed: FeedTicket) -> FeedState {
        self.feeds[feed.0].state
    }

    /// All nodes lose power now, and start again after a while.
    pub fn crash(&mut self) {
        for at in 0..self.machines.len() {
            self.kill(at, true);
        }
    }

    /// From here on no fault happens, and what hangs, is full, paused or cut off goes on.
    pub fn heal(&mut self) {
        self.healed = true;
        self.network.heal();
        for at in 0..self.machines.len() {
            self.machines[at].slow_until = 0;
            self.release_room(at);
            self.release_disk(at);
            self.resume(at);
        }
    }

    /// Runs for a while.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time.as_micros() as u64;
        while self.schedule.next_due().is_some_and(|due| due <= until) {
            self.step();
        }
        self.now = until;
    }

    /// Whether nothing is on its way: every call has its outcome, every feed is through, no message waits anywhere.
    pub fn is_quiet(&self) -> bool {
        self.open_calls == 0
            && self.feeds.iter().all(|feed| feed.state != FeedState::Running)
            && self.machines.iter().all(|machine| machine.node.as_ref().is_some_and(Node::is_quiet))
            && self.waiting() == 0
    }

    /// Messages in the waiting queues of stuck entities.
    pub fn waiting(&self) -> u64 {
        self.kernels().map(|kernel| kernel.counters().waiting).sum()
    }

    /// The kernels of all nodes that run.
    fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.machines.iter().flat_map(|machine| &machine.node).flat_map(|node| &node.kernels)
    }

    /// Heals, and runs until nothing is on its way.
    ///
    /// # Panics
    /// There still is after `limit`.
    pub fn run_until_quiet(&mut self, limit: Duration) {
        self.heal();
        let until = self.now + limit.as_micros() as u64;
        while !self.is_quiet() {
            if until < self.now {
                let unfinished: Vec<_> =
                    (0..self.calls.len()).filter(|call| self.calls[*call].outcome.is_none()).collect();
                let unrest: Vec<_> = self.kernels().map(|kernel| (kernel.unrest(), kernel.audit())).collect();
                let feeds: Vec<_> = self.feeds.iter().map(|feed| feed.state).collect();
                self.fail(&format!("not quiet after {limit:?}: calls {unfinished:?}, {feeds:?}, {unrest:?}"));
            }
            self.step();
        }
        self.check_every_shard_is_owned();
    }

    /// The dead letters of all shards, as they lie in the stores.
    ///
    /// # Panics
    /// A node is down, or a store cannot be read.
    pub fn dead_letters(&mut self) -> Vec<LetterRow> {
        let nodes = self.machines.iter().map(|machine| machine.node.as_ref().expect("every node is up"));
        nodes.flat_map(|node| letters(&*node.store)).collect()
    }

    /// A hash over everything that happened.
    pub fn trace_hash(&self) -> u64 {
        self.trace.digest()
    }

    /// How many things happened.
    pub fn steps(&self) -> u64 {
        self.trace.steps()
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// What really happened.
    pub fn seen(&self) -> Seen {
        let mut seen = self.seen;
        for kernel in self.kernels() {
            seen.count(&kernel.counters());
        }
        for machine in &self.machines {
            if let Storage::Embedded { disk, .. } = &machine.storage {
                seen.count_disk(&disk.faults());
            }
        }
        seen
    }

    /// The bounds of this run.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {} at {}.{:06}: {what}", self.seed, self.now / 1_000_000, self.now % 1_000_000)
    }

    /// A node's clock.
    fn wall(&self, at: usize) -> Timestamp {
        Timestamp::from_micros(START + self.now + self.machines[at].clock_ahead - CLOCK_JUMP_MAX / 2)
    }
}

/// The dead letters of one store.
fn letters(store: &dyn Store) -> Vec<LetterRow> {
    store.maintain().expect("the store can be read");
    let mut letters = Vec::new();
    for owned in store.owned().expect("the store can be read") {
        let rows = store.load_shard(owned.shard, owned.epoch).expect("the store can be read");
        letters.extend(
            rows.iter()
                .filter(|(key, _)| key.first() == Some(&(RowType::DeadLetter as u8)))
                .map(|(_, value)| LetterRow::decode(value).expect("a dead letter's row")),
        );
    }
    letters
}

fn envelope<M: Message>(kind: &str, key: &str, message: &M) -> Result<Envelope, AskError> {
    crate::entity::EntityId::check(kind, key)?;
    let mut bytes = Vec::new();
    Envelope::write_head(kind, key, M::NAME, None, &mut bytes);
    crate::message::encode(message, &mut bytes)
        .map_err(|error| AskError::Refused(crate::error::Refusal::Unencodable(error)))?;
    Ok(Envelope::from_bytes(bytes.into()).expect("it was written as one"))
}
