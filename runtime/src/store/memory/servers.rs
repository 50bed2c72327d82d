//! The servers of a shared store in memory: nodes with their leases, whose each shard is, and its rows.
//!
//! Nothing here knows a clock: the time is what a test or the simulator has set.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::rows::Rows;
use super::shared::{Run, SharedMemory};
use crate::placement::{Epoch, NodeName, ShardId, Shards};
use crate::store::{Batch, CommitError, FOUNDED, NodeSays, OwnershipRecord, Section};

/// Rows have no stay here: a shard has one set of them, whoever owns it.
pub(super) const STAY: Epoch = Epoch(0);

/// Servers in memory, which runs of nodes [open](Servers::open). Clones are the same servers.
#[derive(Clone)]
pub struct Servers(Arc<Mutex<State>>);

/// What a server had at some time, for [`Servers::promote`].
#[derive(Clone)]
pub struct Snapshot(Server);

pub(super) struct State {
    pub(super) cluster: u128,
    pub(super) layout: Shards,
    pub(super) lanes_per_server: u32,
    pub(super) lease: Duration,
    /// Since 1970.
    pub(super) now: Duration,
    pub(super) servers: Vec<Server>,
    /// By server: it does not answer.
    pub(super) away: Vec<bool>,
    /// By incarnation.
    pub(super) runs: BTreeMap<u128, Run>,
}

#[derive(Clone)]
pub(super) struct Server {
    pub(super) generation: u64,
    pub(super) nodes: BTreeMap<NodeName, NodeRow>,
    pub(super) shards: BTreeMap<ShardId, ShardRow>,
    pub(super) rows: Rows,
    /// By UUID and name.
    pub(super) notes: BTreeMap<(u128, String), Vec<u8>>,
}

#[derive(Clone)]
pub(super) struct NodeRow {
    pub(super) store: u128,
    pub(super) incarnation: u128,
    pub(super) boot: u64,
    pub(super) says: NodeSays,
    pub(super) lease_until: Duration,
    pub(super) lease_since: Duration,
}

impl NodeRow {
    pub(super) fn lives(&self, now: Duration) -> bool {
        now < self.lease_until
    }

    /// Its lease begins anew, or goes on.
    pub(super) fn renew(&mut self, now: Duration, lease: Duration) {
        if !self.lives(now) {
            self.lease_since = now;
        }
        self.lease_until = now + lease;
    }
}

/// Whose a shard is, and how far its sections have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardRow {
    pub(super) epoch: Epoch,
    pub(super) owner: Option<u128>,
    pub(super) batch: u64,
    /// Who ended the epoch before this one by giving the shard, and with which section.
    given: Option<(u128, u64)>,
}

impl ShardRow {
    /// Another has it, or nobody.
    pub(super) fn pass_to(&mut self, owner: Option<u128>) {
        *self = Self { epoch: Epoch(self.epoch.0 + 1), owner, batch: 0, given: None };
    }

    /// Whether a section of this owner is the last one that was applied.
    fn came_of(&self, me: u128, section: &Section<'_>) -> bool {
        if section.has_record() {
            return self.epoch.0 == section.epoch.0 + 1 && self.given == Some((me, section.number));
        }
        section.number > 0
            && (self.owner, self.epoch, self.batch) == (Some(me), section.epoch, section.number)
    }
}

impl Servers {
    /// Servers with a new cluster's shards, which are nobody's yet; each has so many lanes. The time is since 1970.
    ///
    /// # Panics
    /// There is no server, or no lane.
    pub fn found(
        cluster: u128,
        layout: Shards,
        (servers, lanes_per_server): (u32, u32),
        lease: Duration,
        now: Duration,
    ) -> Self {
        assert!(servers > 0 && lanes_per_server > 0, "a store has a server, and a server a lane");
        let server = |at: u32| Server {
            generation: 0,
            nodes: BTreeMap::new(),
            shards: layout
                .iter()
                .filter(|shard| shard.0 % servers == at)
                .map(|shard| (shard, ShardRow { epoch: FOUNDED, owner: None, batch: 0, given: None }))
                .collect(),
            rows: Rows::default(),
            notes: BTreeMap::new(),
        };
        Self(Arc::new(Mutex::new(State {
            cluster,
            layout,
            lanes_per_server,
            lease,
            now,
            servers: (0..servers).map(server).collect(),
            away: vec![false; servers as usize],
            runs: BTreeMap::new(),
        })))
    }

    /// A run of a node begins: it takes what an earlier run of this name had on the servers that answer.
    pub fn open(&self, name: &NodeName, says: &NodeSays) -> SharedMemory {
        SharedMemory::open(self, name, says)
    }

    /// The time goes on.
    pub fn pass(&self, time: Duration) {
        self.state().now += time;
    }

    /// The time, since 1970.
    pub fn now(&self) -> Duration {
        self.state().now
    }

    /// From here on a server does not answer, or does again: whatever is asked of it is to be asked later.
    pub fn set_away(&self, server: u32, is: bool) {
        self.state().away[server as usize] = is;
    }

    /// Whether a server does not answer.
    pub fn is_away(&self, server: u32) -> bool {
        self.state().away[server as usize]
    }

    /// What a standby of a server has, that was copied to until now.
    pub fn snapshot(&self, server: u32) -> Snapshot {
        Snapshot(self.state().servers[server as usize].clone())
    }

    /// A standby becomes the server: what was committed since the snapshot is gone.
    pub fn promote(&self, server: u32, standby: Snapshot) {
        let server = &mut self.state().servers[server as usize];
        let generation = server.generation + 1;
        *server = Server { generation, ..standby.0 };
    }

    /// The rows of a shard as they lie there, whoever owns it.
    pub fn rows(&self, shard: ShardId) -> Vec<(Vec<u8>, Vec<u8>)> {
        let state = self.state();
        let mut rows = Vec::new();
        state.server(shard).rows.visit(shard, STAY, &[]..&[0xff], &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        });
        rows
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn server_of(&self, shard: ShardId) -> usize {
        shard.0 as usize % self.servers.len()
    }

    pub(super) fn server(&self, shard: ShardId) -> &Server {
        &self.servers[self.server_of(shard)]
    }

    /// A shard's row; `None` where there is no such shard.
    pub(super) fn row(&self, shard: ShardId) -> Option<&ShardRow> {
        self.server(shard).shards.get(&shard)
    }

    /// Whether this run owns a shard under an epoch.
    pub(super) fn owns(&self, me: u128, shard: ShardId, epoch: Epoch) -> bool {
        self.row(shard).is_some_and(|row| (row.owner, row.epoch) == (Some(me), epoch))
    }
}

impl Server {
    /// What a run takes the place of an earlier one with: its row, and the shards of that one.
    pub(super) fn replace(&mut self, name: &NodeName, by: NodeRow) {
        let me = by.incarnation;
        let before = self.nodes.insert(name.clone(), by).map(|before| before.incarnation);
        let its = |row: &&mut ShardRow| before.is_some() && row.owner == before;
        self.shards.values_mut().filter(its).for_each(|row| row.pass_to(Some(me)));
    }

    /// The run of a node with this UUID whose lease runs.
    fn heir(&self, store: u128, now: Duration) -> Option<u128> {
        let node = self.nodes.values().find(|node| node.store == store)?;
        node.lives(now).then_some(node.incarnation)
    }

    /// Whether an owner's lease runs.
    pub(super) fn has_lease(&self, owner: Option<u128>, now: Duration) -> bool {
        let is_owner = |node: &&NodeRow| Some(node.incarnation) == owner;
        self.nodes.values().find(is_owner).is_some_and(|node| node.lives(now))
    }

    /// Applies a group of one owner, or nothing of it: fence, chain and mark in one (P23). One that was applied before is
    /// known, and applied once. Returns how many batches were fresh.
    pub(super) fn commit(&mut self, me: u128, now: Duration, group: &[Batch]) -> Result<usize, CommitError> {
        let fresh = &group[self.known_again(me, group)?..];
        let mut reached: BTreeMap<ShardId, ShardRow> = BTreeMap::new();
        for section in fresh.iter().flat_map(Batch::sections) {
            let shard = section.shard;
            let row = reached.get(&shard).or_else(|| self.shards.get(&shard)).copied();
            let after = row.and_then(|row| self.after(me, now, &row, &section));
            reached.insert(shard, after.ok_or(CommitError::Fenced(shard))?);
        }
        self.shards.extend(reached);
        for section in fresh.iter().flat_map(Batch::sections) {
            for write in section.writes() {
                let write = write.expect("a batch's bytes are checked when it is made");
                self.rows.write(section.shard, STAY, &write);
            }
        }
        Ok(fresh.len())
    }

    /// A shard's row behind a section that continues it; `None` for every other section.
    fn after(&self, me: u128, now: Duration, row: &ShardRow, section: &Section<'_>) -> Option<ShardRow> {
        let continues = (row.owner, row.epoch) == (Some(me), section.epoch)
            && row.batch.checked_add(1) == Some(section.number);
        if !continues {
            return None;
        }
        match section.record() {
            None => Some(ShardRow { batch: section.number, ..*row }),
            Some(Ok(OwnershipRecord::Seal { store, .. })) => Some(ShardRow {
                epoch: Epoch(row.epoch.0 + 1),
                owner: self.heir(store, now),
                batch: 0,
                given: Some((me, section.number)),
            }),
            // Of tokens there are none here.
            Some(_) => None,
        }
    }

    /// How many leading batches of a group are applied already, as [`Fence::judge`](crate::store::fence::Fence::judge) tells. A
    /// shard that was given with the group may be with a third owner by now.
    fn known_again(&self, me: u128, group: &[Batch]) -> Result<usize, CommitError> {
        let is_last = |section: &Section<'_>| {
            self.shards.get(&section.shard).is_some_and(|row| row.came_of(me, section))
        };
        let Some(last) = group.iter().rposition(|batch| batch.sections().any(|section| is_last(&section)))
        else {
            return Ok(0);
        };
        let mut newest = BTreeMap::new();
        for section in group[..=last].iter().flat_map(Batch::sections) {
            newest.insert(section.shard, is_last(&section) || section.has_record());
        }
        match newest.into_iter().find(|(_, is_known)| !is_known) {
            Some((shard, _)) => Err(CommitError::Fenced(shard)),
            None => Ok(last + 1),
        }
    }
}
