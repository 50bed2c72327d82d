//! One run of a node on [`Servers`] in memory: what a shared store promises, and its faults on demand.
//!
//! Every call is one step on all that is shared, so that a test or the simulator decides what happens between two of them.

mod faults;
mod lane;
mod sharing;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use lane::SharedLane;

use super::faults::Fault;
use super::servers::{NodeRow, STAY, Servers, State};
use crate::placement::{Epoch, NodeName, ShardId, Shards};
use crate::store::notes::{check_name, check_note};
use crate::store::{
    ImageKey, Lane, LaneId, LoadError, NoRoom, NodeSays, OwnedShard, Ownership, Position, SharedError,
    SharedStore, StageError, Store, StoreIdentity, ToStage, TransferId,
};

/// The store of one run of a node. Clones are the same run.
#[derive(Clone)]
pub struct SharedMemory {
    servers: Servers,
    name: NodeName,
    store: u128,
    boot: u64,
    incarnation: u128,
}

/// What a run has beside its rows.
#[derive(Default)]
pub(super) struct Run {
    lanes: Vec<RunLane>,
    loads_refused: u32,
}

#[derive(Default)]
struct RunLane {
    taken: bool,
    position: u64,
    plan: VecDeque<Fault>,
    hung: bool,
    /// Of its server, as this lane knows it.
    generation: u64,
    /// Bytes and batches that room was granted for.
    reserved: (u64, u64),
}

fn is_away() -> io::Error {
    io::Error::other("the server is away")
}

impl SharedMemory {
    pub(super) fn open(servers: &Servers, name: &NodeName, says: &NodeSays) -> Self {
        let mut state = servers.state();
        let incarnation = state.runs.len() as u128 + 1;
        let answering = (0..state.servers.len()).filter(|server| !state.away[*server]);
        let known: Vec<_> = answering.filter_map(|server| state.servers[server].nodes.get(name)).collect();
        // One that no server has seen before. Incarnations begin with 1, and these are told from them at sight.
        let store = known.first().map_or(incarnation << 64, |node| node.store);
        let boot = known.iter().map(|node| node.boot + 1).max().unwrap_or(1).max(state.now.as_secs());
        let generations = state.servers.iter().map(|server| server.generation);
        let lanes = generations
            .flat_map(|generation| (0..state.lanes_per_server).map(move |_| generation))
            .map(|generation| RunLane { generation, ..RunLane::default() })
            .collect();
        state.runs.insert(incarnation, Run { lanes, loads_refused: 0 });
        let run = Self { servers: servers.clone(), name: name.clone(), store, boot, incarnation };
        for server in 0..state.servers.len() {
            if !state.away[server] {
                // Where a later run is known, this one is replaced from its start.
                let _ = run.register(&mut state, server, says);
            }
        }
        drop(state);
        run
    }

    /// Takes the place of an earlier run, where this one is not known to the server yet.
    fn register(&self, state: &mut State, server: usize, says: &NodeSays) -> Result<(), SharedError> {
        let (now, lease) = (state.now, state.lease);
        let server = &mut state.servers[server];
        match server.nodes.get(&self.name) {
            Some(known) if known.incarnation == self.incarnation => return Ok(()),
            Some(known) if self.boot <= known.boot => return Err(SharedError::Replaced),
            _ => {}
        }
        server.replace(
            &self.name,
            NodeRow {
                store: self.store,
                incarnation: self.incarnation,
                boot: self.boot,
                says: says.clone(),
                lease_until: now + lease,
                lease_since: now,
            },
        );
        Ok(())
    }

    fn lane<T>(&self, lane: LaneId, change: impl FnOnce(&mut RunLane) -> T) -> T {
        change(&mut self.run(&mut self.servers.state()).lanes[lane.0 as usize])
    }

    fn run<'s>(&self, state: &'s mut State) -> &'s mut Run {
        state.runs.get_mut(&self.incarnation).expect("it was opened")
    }

    /// Whether a load may be done now.
    fn may_load(&self, state: &mut State, shard: ShardId) -> Result<(), LoadError> {
        if state.away[state.server_of(shard)] {
            return Err(LoadError::Later(is_away()));
        }
        let run = self.run(state);
        match run.loads_refused.checked_sub(1) {
            None => Ok(()),
            Some(left) => {
                run.loads_refused = left;
                Err(LoadError::Later(io::Error::other("planned for later")))
            }
        }
    }

    fn owned_of(&self, state: &State, shard: ShardId) -> Option<OwnedShard> {
        let row = state.row(shard).filter(|row| row.owner == Some(self.incarnation))?;
        Some(OwnedShard { shard, epoch: row.epoch, number: row.batch })
    }
}

fn lane_at(state: &State, shard: ShardId) -> usize {
    let (servers, lanes) = (state.servers.len(), state.lanes_per_server as usize);
    state.server_of(shard) * lanes + shard.0 as usize / servers % lanes
}

impl Store for SharedMemory {
    fn shards(&self) -> Shards {
        self.servers.state().layout
    }

    fn lanes(&self) -> u32 {
        let state = self.servers.state();
        state.servers.len() as u32 * state.lanes_per_server
    }

    fn lane_of(&self, shard: ShardId) -> LaneId {
        LaneId(lane_at(&self.servers.state(), shard) as u32)
    }

    fn identity(&self) -> StoreIdentity {
        let cluster = self.servers.state().cluster;
        StoreIdentity { cluster, store: self.store, boot: self.boot, durable: Position(0) }
    }

    fn owned(&self) -> Result<Vec<OwnedShard>, LoadError> {
        let state = self.servers.state();
        Ok(state.layout.iter().filter_map(|shard| self.owned_of(&state, shard)).collect())
    }

    fn ownership(&self) -> Result<Vec<(ShardId, Ownership)>, LoadError> {
        let state = self.servers.state();
        let known = state.layout.iter().filter_map(|shard| {
            if let Some(OwnedShard { epoch, number, .. }) = self.owned_of(&state, shard) {
                return Some((shard, Ownership::Owned { epoch, stay: epoch, number }));
            }
            let row = state.row(shard)?;
            let nodes = &state.server(shard).nodes;
            let (to, _) = nodes.iter().find(|(_, node)| Some(node.incarnation) == row.owner)?;
            Some((shard, Ownership::Moved { epoch: row.epoch, to: to.clone() }))
        });
        Ok(known.collect())
    }

    fn owned_shard(&self, shard: ShardId) -> Result<Option<OwnedShard>, LoadError> {
        let mut state = self.servers.state();
        self.may_load(&mut state, shard)?;
        Ok(self.owned_of(&state, shard))
    }

    fn shared(&self) -> Option<&dyn SharedStore> {
        Some(self)
    }

    fn open_lane(&self, lane: LaneId) -> Box<dyn Lane> {
        let taken = self.lane(lane, |lane| std::mem::replace(&mut lane.taken, true));
        assert!(!taken, "a lane is taken once");
        Box::new(SharedLane { run: self.clone(), lane: lane.0 as usize })
    }

    fn load_rows(
        &self,
        shard: ShardId,
        epoch: Epoch,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), LoadError> {
        let mut state = self.servers.state();
        self.may_load(&mut state, shard)?;
        if !state.owns(self.incarnation, shard, epoch) {
            return Err(LoadError::NotOwned(shard));
        }
        state.server(shard).rows.visit(shard, STAY, keys, visit);
        Ok(())
    }

    fn load_images(&self, keys: &[ImageKey]) -> Result<Vec<Option<Vec<u8>>>, LoadError> {
        let mut state = self.servers.state();
        if let Some(first) = keys.first() {
            self.may_load(&mut state, first.shard)?;
        }
        let load = |image: &ImageKey| {
            if state.away[state.server_of(image.shard)] {
                return Err(LoadError::Later(is_away()));
            }
            if !state.owns(self.incarnation, image.shard, image.epoch) {
                return Err(LoadError::NotOwned(image.shard));
            }
            Ok(state.server(image.shard).rows.get(image.shard, STAY, &image.key).cloned())
        };
        keys.iter().map(load).collect()
    }

    // A shard comes with its row, and nothing is staged.

    fn begin_staging(&self, shard: ShardId, _: Epoch, _: TransferId) -> Result<(), StageError> {
        Err(StageError::Stale(shard))
    }

    fn stage_all(&self, stagings: &[ToStage<'_>]) -> Vec<Result<(), StageError>> {
        stagings.iter().map(|to| Err(StageError::NotStaged(to.shard))).collect()
    }

    fn load_staged(
        &self,
        shard: ShardId,
        _: Epoch,
        _: TransferId,
        _: Range<&[u8]>,
        _: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StageError> {
        Err(StageError::NotStaged(shard))
    }

    fn sweep_staging(&self, _: ShardId, _: Epoch, _: TransferId) -> Result<(), StageError> {
        Ok(())
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
        check_name(name)?;
        let state = self.servers.state();
        if state.away[0] {
            return Err(LoadError::Later(is_away()));
        }
        Ok(state.servers[0].notes.get(&(self.store, name.to_owned())).cloned())
    }

    fn keep_note(&self, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
        check_note(name, bytes)?;
        let mut state = self.servers.state();
        if state.away[0] {
            return Err(LoadError::Later(is_away()));
        }
        state.servers[0].notes.insert((self.store, name.to_owned()), bytes.to_vec());
        Ok(())
    }

    fn loadable(&self, lane: LaneId) -> Position {
        self.durable(lane)
    }

    fn durable(&self, lane: LaneId) -> Position {
        self.lane(lane, |lane| Position(lane.position))
    }

    fn reserve(&self, lane: LaneId, bytes: u64) -> Result<(), NoRoom> {
        self.lane(lane, |lane| lane.reserved = (lane.reserved.0 + bytes, lane.reserved.1 + 1));
        Ok(())
    }

    fn release(&self, lane: LaneId, bytes: u64) {
        self.lane(lane, |lane| {
            let (reserved, batches) = lane.reserved;
            assert!(bytes <= reserved && 0 < batches, "only what was granted is given back");
            lane.reserved = (reserved - bytes, batches - 1);
        });
    }

    fn shrink(&self, lane: LaneId, from: u64, to: u64) {
        assert!(to <= from, "a batch takes no more than was reserved for it");
        self.lane(lane, |lane| {
            let reserved = &mut lane.reserved.0;
            *reserved = reserved.checked_sub(from - to).expect("only what was granted is given back");
        });
    }

    fn wants_maintenance(&self) -> bool {
        false
    }

    fn maintain(&self) -> Result<(), LoadError> {
        Ok(())
    }

    /// What it owns is nobody's then, where the server answers.
    fn close(&self) -> Result<(), LoadError> {
        let mut state = self.servers.state();
        let (now, me) = (state.now, Some(self.incarnation));
        let State { servers, away, .. } = &mut *state;
        for (server, _) in servers.iter_mut().zip(&*away).filter(|(_, is_away)| !**is_away) {
            server.shards.values_mut().filter(|row| row.owner == me).for_each(|row| row.pass_to(None));
            let mine = server.nodes.get_mut(&self.name).filter(|node| Some(node.incarnation) == me);
            if let Some(mine) = mine {
                mine.lease_until = now;
            }
        }
        if away.contains(&true) { Err(LoadError::Later(is_away())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
