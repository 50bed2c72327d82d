//! The servers of a store that the nodes of a simulation share: their clock, what befalls them, and what is true of their rows
//! whatever the nodes think.

use super::{Due, START, Sim, storage::Storage};
use crate::{
    placement::{Epoch, NodeName, ShardId, Shards, Table, Weight},
    store::{
        Batch, LaneId, Store,
        memory::{Servers, Snapshot},
    },
};
use std::{collections::BTreeMap, time::Duration};

pub(super) struct Shared {
    pub(super) servers: Servers,
    pub(super) count: u32,
    lanes_per_server: u32,
    /// In microseconds.
    pub(super) lease: u64,
    /// By server: until then it answers nobody, and does what it was asked behind that.
    stalled_until: Vec<u64>,
    /// What a standby has, until it is promoted.
    standby: Option<(u32, Snapshot)>,
    /// By shard: the epoch of its row when it was last looked at, and who has it.
    rows: Vec<(Epoch, Option<usize>)>,
    /// Who has ever owned or written to a shard under an epoch. No other run may.
    runs: BTreeMap<(ShardId, Epoch), u128>,
    /// A standby that lagged has become a server: commits were lost, and what rests on them with them.
    pub(super) has_lost: bool,
}

impl Shared {
    pub(super) fn new(cluster: u128, layout: Shards, count: u32, lanes: u32, lease: Duration) -> Self {
        let servers = Servers::found(cluster, layout, (count, lanes), lease, Duration::from_micros(START));
        Self {
            servers,
            count,
            lanes_per_server: lanes,
            lease: lease.as_micros() as u64,
            stalled_until: vec![0; count as usize],
            standby: None,
            rows: vec![(Epoch(0), None); layout.count() as usize],
            runs: BTreeMap::new(),
            has_lost: false,
        }
    }

    /// Which machine has a shard, by its row.
    pub(super) fn owner(&self, shard: ShardId) -> Option<usize> {
        self.rows[shard.0 as usize].1
    }

    /// A run has a shard under an epoch.
    fn see(&mut self, shard: ShardId, epoch: Epoch, run: u128) -> Result<(), String> {
        match self.runs.insert((shard, epoch), run) {
            Some(other) if other != run && !self.has_lost => {
                Err(format!("runs {other:x} and {run:x} both have {shard} under {epoch}"))
            }
            _ => Ok(()),
        }
    }
}

impl Sim {
    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// How many there are.
    pub(super) fn servers(&self) -> u32 {
        self.shared.as_ref().map_or(0, |shared| shared.count)
    }

    /// Whether a standby that lagged has become a server.
    pub fn has_lost_commits(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.has_lost)
    }

    /// Virtual time goes on, and the servers' with it.
    pub(super) fn advance(&mut self, to: u64) {
        let Some(passed) = to.checked_sub(self.now) else { return };
        self.now = to;
        if let Some(shared) = &self.shared {
            shared.servers.pass(Duration::from_micros(passed));
        }
    }

    /// Whether a server does what it was sent by a node that stands still since, before that goes on. Otherwise it had not been sent.
    pub(super) fn is_done_in_pause(&mut self) -> bool {
        let is = self.random.chance(500);
        self.seen.done_in_pause += u64::from(is);
        is
    }

    /// When the server of a lane does what it is asked now; `None`: at once.
    pub(super) fn stalled_lane(&self, lane: LaneId) -> Option<u64> {
        self.stalled(lane.0 / self.shared.as_ref()?.lanes_per_server)
    }

    pub(super) fn stalled_shard(&self, at: usize, shard: ShardId) -> Option<u64> {
        self.stalled_lane(self.machines[at].node.as_ref()?.store.lane_of(shard))
    }

    /// As [`Sim::stalled_lane`], as a pause from now on.
    pub(super) fn stalled(&self, server: u32) -> Option<u64> {
        let until = self.shared.as_ref()?.stalled_until[server as usize];
        until.checked_sub(self.now).filter(|pause| 0 < *pause)
    }

    /// Whether a node cannot start, for no server answers. It tries again.
    pub(super) fn waits_for_servers(&mut self, at: usize) -> bool {
        let Some(shared) = &self.shared else { return false };
        let waits = (0..shared.count).all(|server| shared.servers.is_away(server));
        if waits {
            let pause = self.random.between(1_000, 100_000);
            self.plan(pause, Due::Boot { at });
        }
        waits
    }

    /// A server stands still, or does not answer for a while.
    pub(super) fn strike_server(&mut self) {
        let Some(shared) = &mut self.shared else { return };
        let server = self.random.below(u64::from(shared.count)) as u32;
        let pause = self.random.pick(&[20_000, 500_000, 4_000_000]);
        let pause = self.random.between(1_000, pause);
        self.trace.note(self.now, format_args!("server {server} is struck for {pause}"));
        if self.random.chance(500) {
            self.seen.servers_stalled += 1;
            let until = &mut shared.stalled_until[server as usize];
            *until = (*until).max(self.now + pause);
        } else {
            self.seen.servers_away += 1;
            shared.servers.set_away(server, true);
            self.plan(pause, Due::ServerBack { server });
        }
    }

    pub(super) fn server_back(&mut self, server: u32) {
        if let Some(shared) = &self.shared {
            shared.servers.set_away(server, false);
        }
    }

    /// A standby falls behind, and becomes the server some time later.
    pub(super) fn lag(&mut self) {
        let Some(shared) = &mut self.shared else { return };
        if shared.standby.is_none() {
            let server = self.random.below(u64::from(shared.count)) as u32;
            shared.standby = Some((server, shared.servers.snapshot(server)));
            let pause = self.random.between(1_000, 2_000_000);
            self.plan(pause, Due::Promote);
        }
    }

    pub(super) fn promote(&mut self) {
        let Some(shared) = &mut self.shared else { return };
        let Some((server, standby)) = shared.standby.take().filter(|_| !self.healed) else { return };
        self.trace.note(self.now, format_args!("server {server} is its standby"));
        self.seen.servers_promoted += 1;
        shared.servers.promote(server, standby);
        shared.has_lost = true;
    }

    pub(super) fn heal_servers(&mut self) {
        let Some(shared) = &mut self.shared else { return };
        shared.stalled_until.fill(0);
        for server in 0..shared.count {
            shared.servers.set_away(server, false);
        }
    }

    /// A group of a run was committed: nobody else may have written under these epochs.
    pub(super) fn check_writer(&mut self, at: usize, batches: &[Batch]) {
        let Some(shared) = &mut self.shared else { return };
        let Some(run) = self.machines[at].storage.run() else { return };
        let sections = batches.iter().flat_map(Batch::sections);
        let seen = sections.map(|section| (section.shard, section.epoch));
        let mut found = Ok(());
        for (shard, epoch) in seen {
            found = found.and(shared.see(shard, epoch, run));
        }
        if let Err(what) = found {
            self.fail(&what);
        }
    }

    /// Looks at the rows of all shards: each has one owner at the most, under epochs that rise.
    pub(super) fn check_rows(&mut self) {
        let Some(shared) = &mut self.shared else { return };
        let mut now: BTreeMap<ShardId, (Epoch, usize)> = BTreeMap::new();
        let mut found = Ok(());
        for (at, machine) in self.machines.iter().enumerate() {
            let Storage::Shared { run: Some(store), .. } = &machine.storage else { continue };
            let run = machine.storage.run().expect("just seen");
            for owned in store.owned().expect("rows in memory can be read") {
                found = found.and(shared.see(owned.shard, owned.epoch, run));
                if let Some((_, other)) = now.insert(owned.shard, (owned.epoch, at)) {
                    found = Err(format!("n{other} and n{at} both own {}", owned.shard));
                }
            }
        }
        for (number, row) in (0..).zip(&mut shared.rows) {
            let of = ShardId(number);
            match now.get(&of) {
                Some((epoch, _)) if *epoch < row.0 && !shared.has_lost => {
                    found = Err(format!("{of} is owned under {epoch}, and {} was there before", row.0));
                }
                Some((epoch, at)) => *row = (*epoch, Some(*at)),
                None => row.1 = None,
            }
        }
        if let Err(what) = found {
            self.fail(&what);
        }
    }

    /// Which machine has a shard, by what its store says.
    pub(super) fn owner_of(&self, shard: ShardId) -> Option<usize> {
        self.shared.as_ref().map_or_else(|| self.owners.of(shard), |shared| shared.owner(shard))
    }

    /// Whether every shard is with the node that the table over all that are there names, and is served there.
    pub(super) fn is_shared_out(&self) -> bool {
        let Some(shared) = &self.shared else { return true };
        let there = self.machines.iter().filter(|machine| !machine.is_away);
        let members: BTreeMap<NodeName, Weight> =
            there.map(|machine| (machine.name.clone(), machine.weight())).collect();
        let Some(table) = Table::new(&members, self.layout) else { return false };
        let serves = |shard: ShardId, at: usize| {
            let machine = &self.machines[at];
            let serves = |node: &super::ring::Node| {
                node.hosts(shard) && node.kernels[self.worker_of(shard)].is_serving()
            };
            *table.owner(shard) == machine.name && machine.node.as_ref().is_some_and(serves)
        };
        self.layout.iter().all(|shard| shared.owner(shard).is_some_and(|at| serves(shard, at)))
    }
}
