//! The faults of one run, on demand.

use super::{Fault, SharedMemory};
use crate::store::LaneId;
#[cfg(doc)]
use crate::store::{CommitError, LoadError};

impl SharedMemory {
    /// The lane's next commit that has no fault planned yet fails and changes nothing.
    pub fn fail(&self, lane: LaneId) {
        self.lane(lane, |lane| lane.plan.push_back(Fault::Fail));
    }

    /// The next commit is not done, and may be done later: [`CommitError::Later`].
    pub fn later(&self, lane: LaneId) {
        self.lane(lane, |lane| lane.plan.push_back(Fault::Later));
    }

    /// The next commit ends [`CommitError::Unknown`], after being `applied` or not.
    pub fn unknown(&self, lane: LaneId, applied: bool) {
        self.lane(lane, |lane| lane.plan.push_back(Fault::Unknown { applied }));
    }

    /// Until released, commits of the lane come back as [`CommitError::Unknown`] and are not applied.
    pub fn hang(&self, lane: LaneId) {
        self.lane(lane, |lane| lane.hung = true);
    }

    /// Ends [`SharedMemory::hang`].
    pub fn end_hang(&self, lane: LaneId) {
        self.lane(lane, |lane| lane.hung = false);
    }

    /// So many of the next loads of this run cannot be done now: [`LoadError::Later`].
    pub fn refuse_loads(&self, count: u32) {
        self.run(&mut self.servers.state()).loads_refused += count;
    }
}
