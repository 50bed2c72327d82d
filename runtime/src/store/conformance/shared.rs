//! What the stores keep that several nodes share. The sentences are about runs of nodes on servers; what makes both is a
//! [`Sharing`].

mod chance;
mod fencing;
mod ledgers;
mod passing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, SHARDS, shards};
use crate::placement::{Epoch, NodeName, ShardId, Weight};
use crate::store::batch::{own, put};
use crate::store::memory::Servers;
use crate::store::{
    Batch, CommitError, Lane, LaneId, Ledger, NodeSays, OwnedShard, OwnershipRecord, Position, Presence, Row,
    SharedError, SharedStore, Store, TransferId,
};

/// Servers that a cluster was founded on, none of whose shards was taken yet.
trait Sharing {
    /// A run of a node begins.
    fn open(&mut self, name: &str) -> Arc<dyn Store>;

    /// Every lease runs out that is not renewed afterwards.
    fn let_leases_run_out(&mut self);

    /// So much of a lease passes, in percent, for all.
    fn pass(&mut self, percent: u32);

    /// A server does not answer from here on, or does again.
    fn set_away(&mut self, server: u32, is: bool);

    /// The rows of a shard as they lie there, whoever owns it, in key order.
    fn rows(&self, shard: u32) -> Vec<Row>;
}

const LEASE: Duration = Duration::from_secs(3);

struct InMemory(Servers);

impl InMemory {
    fn new(servers: u32, lanes: u32) -> Self {
        let since_1970 = Duration::from_hours(500_000);
        Self(Servers::found(1, shards(), (servers, lanes), LEASE, since_1970))
    }
}

impl Sharing for InMemory {
    fn open(&mut self, name: &str) -> Arc<dyn Store> {
        Arc::new(self.0.open(&node(name), &says()))
    }

    fn let_leases_run_out(&mut self) {
        self.0.pass(LEASE);
    }

    fn pass(&mut self, percent: u32) {
        self.0.pass(LEASE * percent / 100);
    }

    fn set_away(&mut self, server: u32, is: bool) {
        self.0.set_away(server, is);
    }

    fn rows(&self, shard: u32) -> Vec<Row> {
        self.0.rows(ShardId(shard))
    }
}

/// Runs a sentence on every kind of shared store, with one server and with two.
fn on_every_sharing(sentence: impl Fn(&mut dyn Sharing)) {
    for (servers, lanes) in [(1, 1), (2, 1), (2, 2)] {
        sentence(&mut InMemory::new(servers, lanes));
    }
}

/// One node that has everything: what all engines keep is kept by a shared one too.
pub(super) struct Alone(InMemory);

impl Alone {
    pub(super) fn new(servers: u32, lanes: u32) -> Self {
        Self(InMemory::new(servers, lanes))
    }
}

impl Engine for Alone {
    fn open(&mut self) -> Arc<dyn Store> {
        let run = Run::start(&mut self.0, "a");
        run.beat();
        run.take_all();
        run.store
    }

    fn voids(&self) -> bool {
        true
    }
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn says() -> NodeSays {
    NodeSays { address: "localhost:1".into(), weight: Weight::default(), presence: Presence::Up }
}

/// A run of a node, its lanes opened when they are needed.
struct Run {
    store: Arc<dyn Store>,
    lanes: BTreeMap<LaneId, Box<dyn Lane>>,
}

impl Run {
    fn start(sharing: &mut dyn Sharing, name: &str) -> Self {
        Self { store: sharing.open(name), lanes: BTreeMap::new() }
    }

    fn shared(&self) -> &dyn SharedStore {
        self.store.shared().unwrap()
    }

    fn me(&self) -> u128 {
        self.shared().incarnation()
    }

    /// Beats on every server; the ledgers in order.
    fn beat(&self) -> Vec<Ledger> {
        (0..self.shared().servers()).map(|server| self.shared().beat(server, &says()).unwrap()).collect()
    }

    /// Takes shards of one server.
    fn take(&self, shards: &[(u32, Epoch)]) -> Result<Vec<OwnedShard>, SharedError> {
        let shards: Vec<_> = shards.iter().map(|(shard, epoch)| (ShardId(*shard), *epoch)).collect();
        self.shared().take(self.shared().server_of(shards[0].0), &shards)
    }

    /// Takes whatever may be taken.
    fn take_all(&self) {
        for ledger in self.beat() {
            let shards: Vec<_> = ledger.shards.iter().map(|shard| (shard.shard, shard.epoch)).collect();
            self.shared().take(ledger.server, &shards).unwrap();
        }
    }

    fn owned(&self, shard: u32) -> Option<OwnedShard> {
        self.store.owned_shard(ShardId(shard)).unwrap()
    }

    fn epoch(&self, shard: u32) -> Epoch {
        self.owned(shard).unwrap().epoch
    }

    fn commit(&mut self, group: &[Batch]) -> Result<Position, CommitError> {
        self.confirm(group, &[])
    }

    /// Commits a group of one lane, and confirms shards of it.
    fn confirm(&mut self, group: &[Batch], shown: &[(u32, Epoch)]) -> Result<Position, CommitError> {
        let shown: Vec<_> = shown.iter().map(|(shard, epoch)| (ShardId(*shard), *epoch)).collect();
        let written = group.iter().flat_map(Batch::sections).map(|section| section.shard);
        let first = written.chain(shown.iter().map(|(shard, _)| *shard)).next().unwrap();
        let (store, id) = (&self.store, self.store.lane_of(first));
        self.lanes.entry(id).or_insert_with(|| store.open_lane(id)).commit_and_confirm(group, &shown)
    }

    /// The shard's next batch, which puts one row.
    fn next(&self, shard: u32, key: &[u8], value: &[u8]) -> Batch {
        write(self.owned(shard).unwrap(), key, value)
    }

    /// Commits the shard's next batch.
    fn write(&mut self, shard: u32, key: &[u8], value: &[u8]) {
        let next = self.next(shard, key, value);
        self.commit(&[next]).unwrap();
    }

    /// The shard's next batch, which gives it to a node and puts one row.
    fn gives(&self, shard: u32, to: &Self, key: &[u8], value: &[u8]) -> Batch {
        give(self.owned(shard).unwrap(), to.store.identity().store, key, value)
    }
}

/// The batch behind what a run owns.
fn write(owned: OwnedShard, key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.section(owned.shard, owned.epoch, owned.number + 1, |out| put(&[key], &[value], out));
    batch
}

fn give(owned: OwnedShard, store: u128, key: &[u8], value: &[u8]) -> Batch {
    let record = OwnershipRecord::Seal { transfer: TransferId(7), to: node("heir"), store };
    let mut batch = Batch::new();
    batch.section(owned.shard, owned.epoch, owned.number + 1, |out| {
        own(&record, out);
        put(&[key], &[value], out);
    });
    batch
}

fn is_fenced(result: &Result<Position, CommitError>, at: u32) -> bool {
    matches!(result, Err(CommitError::Fenced(shard)) if shard.0 == at)
}

/// Another shard in the lane of shard 0.
fn neighbour(run: &Run) -> u32 {
    let lane = run.store.lane_of(ShardId(0));
    (1..SHARDS).find(|shard| run.store.lane_of(ShardId(*shard)) == lane).unwrap()
}
