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
//! Shards stay where [`Builder::dealt`] put them unless [`Builder::moving`] lets them move, under views that the simulation makes, or
//! [`Builder::membership`], under those that the nodes make themselves: then they find each other, come, leave and are missed
//! as they are in a real cluster, and at the end they must agree, with every shard where the one view names it.
//!
//! With [`Builder::shared`] all nodes work on the servers of one store. Who lives is then what the servers say, by leases in virtual time, and a
//! node takes over what another has while that one is dead, or only paused: what such a one shows, sends or writes later must
//! show nowhere. Servers stand still, are away, and where it is asked for fall back to a standby that lags, after which
//! only this is checked: one owner of each shard, and every shard served in the end.
//!
//! # Caveats
//! * Where shards move no fault makes another owner of one.
//! * Turns are pure by contract. A handler that reads a clock or a global breaks the repetition, and nothing else.

mod agree;
mod asking;
mod builder;
mod client;
mod comings;
mod connections;
mod control;
mod deal;
mod due;
mod faults;
mod feed;
mod holdings;
mod lane;
mod machine;
mod members;
mod moves;
mod network;
mod oracle;
mod post;
mod random;
mod reads;
mod ring;
mod schedule;
mod seen;
mod servers;
mod sharing;
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
    kernel::Kernel,
    kinds::Kinds,
    limits::Limits,
    placement::Shards,
    shard::LetterRow,
    store::{RowType, Store},
    timestamp::Timestamp,
};
use client::{Call, Caller};
use due::{Chore, Due};
use feed::SimFeed;
use machine::Machine;
use network::Network;
use oracle::Owners;
use schedule::Schedule;
use servers::Shared;
use std::{sync::Arc, time::Duration};
use storage::Storage;
use trace::Trace;

/// Virtual time begins here, in microseconds since 1970, so that a clock set back stays above it.
const START: u64 = 1_700_000_000_000_000;
/// Farthest the clock jumps in all, in microseconds.
const CLOCK_JUMP_MAX: u64 = 20_000_000;

/// Whether shards move, and by whose view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moves {
    No,
    /// The simulation makes it.
    ByView,
    /// Each node's membership does.
    ByMembers,
    /// By the leases in the store that the nodes share.
    ByLeases,
}

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
    moves: Moves,
    /// Which nodes are in the view, where the simulation makes it.
    members: Vec<bool>,
    owners: Owners,
    /// The servers that the nodes share, where they do.
    shared: Option<Shared>,
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
        self.heal_servers();
        if self.has_members() {
            for at in 0..self.machines.len() {
                self.find_others(at);
            }
        }
    }

    /// Runs for a while.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time.as_micros() as u64;
        while self.schedule.next_due().is_some_and(|due| due <= until) {
            self.step();
        }
        self.advance(until);
    }

    /// Whether nothing is on its way: every call has its outcome, every feed is through, no message waits anywhere, and the nodes
    /// [have settled](Sim::has_settled).
    pub fn is_quiet(&self) -> bool {
        self.open_calls == 0
            && self.feeds.iter().all(|feed| feed.state != FeedState::Running)
            && self.machines.iter().all(Machine::is_quiet)
            && self.waiting() == 0
            && self.has_settled()
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
                self.fail(&format!(
                    "not quiet after {limit:?}: calls {unfinished:?}, {feeds:?}, {unrest:?}{}",
                    self.disagreement()
                ));
            }
            self.step();
        }
        self.check_every_shard_is_owned();
        self.check_nobody_waits_for_who_left();
    }

    /// Heals, and runs until the nodes [have settled](Sim::has_settled), whatever is still asked of them.
    ///
    /// # Panics
    /// They have not after `limit`.
    pub fn run_until_settled(&mut self, limit: Duration) {
        self.heal();
        let until = self.now + limit.as_micros() as u64;
        while !self.has_settled() {
            if until < self.now {
                self.fail(&format!("not settled after {limit:?}{}", self.disagreement()));
            }
            self.step();
        }
    }

    /// The dead letters of all shards, as they lie in the stores.
    ///
    /// # Panics
    /// A node is down, or a store cannot be read.
    pub fn dead_letters(&mut self) -> Vec<LetterRow> {
        let there = self.machines.iter().filter(|machine| !machine.is_away);
        let nodes = there.map(|machine| machine.node.as_ref().expect("every node is up"));
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

    /// Whether the nodes find each other.
    fn has_members(&self) -> bool {
        self.moves == Moves::ByMembers
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
