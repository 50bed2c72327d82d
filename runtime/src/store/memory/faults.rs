//! The faults of a store in memory, on demand.

use std::sync::{Arc, Mutex};

use super::{LaneState, State, lock};
use crate::placement::{Epoch, ShardId};
#[cfg(doc)]
use crate::store::{CommitError, LoadError};
use crate::store::{LaneId, NoRoom, Ownership};

/// What the next commit of a lane meets.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Fail,
    Later,
    Unknown { applied: bool },
    Die,
}

/// Plans the faults of a [`MemoryStore`](super::MemoryStore).
#[derive(Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

impl Faults {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Self {
        Self { state }
    }

    /// The lane's next commit that has no fault planned yet fails and changes nothing.
    pub fn fail(&self, lane: LaneId) {
        self.plan(lane, Fault::Fail);
    }

    /// The next commit is not done, and may be done later: [`CommitError::Later`].
    pub fn later(&self, lane: LaneId) {
        self.plan(lane, Fault::Later);
    }

    /// So many of the next loads cannot be done now: [`LoadError::Later`].
    pub fn refuse_loads(&self, count: u32) {
        lock(&self.state).loads_refused += count;
    }

    /// The next commit ends [`CommitError::Unknown`], after being `applied` or not.
    pub fn unknown(&self, lane: LaneId, applied: bool) {
        self.plan(lane, Fault::Unknown { applied });
    }

    /// The next commit is [`CommitError::Fatal`], and so is every later one until the
    /// [restart](super::MemoryStore::restart).
    pub fn die(&self, lane: LaneId) {
        self.plan(lane, Fault::Die);
    }

    /// Until released, commits of the lane come back as [`CommitError::Unknown`] and are not applied: what a caller
    /// sees of a server that does not answer, once it has stopped waiting.
    pub fn hang(&self, lane: LaneId) {
        self.lane(lane, |lane| lane.hung = true);
    }

    /// Ends [`Faults::hang`].
    pub fn release(&self, lane: LaneId) {
        self.lane(lane, |lane| lane.hung = false);
    }

    /// Refuses room on the lane, or grants it again. A full disk has none for notes either.
    pub fn refuse_room(&self, lane: LaneId, reason: Option<NoRoom>) {
        self.lane(lane, |lane| lane.full = reason);
    }

    /// Lets another owner take a shard and give it back under a higher epoch: batches of the old one are fenced, and the
    /// rows are those committed before.
    pub fn advance_epoch(&self, shard: ShardId) {
        let mut state = lock(&self.state);
        let Some(Ownership::Owned { epoch, stay, .. }) = state.fence.get(shard).cloned() else { return };
        let lane = shard.0 as usize % state.lanes.len();
        state.make_loadable(lane);
        let given_back = Ownership::Owned { epoch: Epoch(epoch.0 + 1), stay, number: 0 };
        state.fence.set(shard, given_back.clone());
        state.covered.set(shard, given_back);
    }

    fn plan(&self, lane: LaneId, fault: Fault) {
        self.lane(lane, |lane| lane.plan.push_back(fault));
    }

    fn lane(&self, lane: LaneId, change: impl FnOnce(&mut LaneState)) {
        change(&mut lock(&self.state).lanes[lane.0 as usize]);
    }
}
