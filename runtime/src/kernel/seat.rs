//! Which shards a kernel hosts, and what changes when one comes or goes.

use super::{Arrival, FeedNews, Kernel, Outcome, Output, Provenance};
use crate::{
    placement::{ShardId, Shards},
    shard::Shard,
    store::{LaneId, OwnedShard},
};

/// What a kernel hosts, and what it must know of the rest of its node.
#[derive(Debug, Clone)]
pub struct Seat {
    /// All shards there are.
    pub layout: Shards,
    /// By shard number: the lane its batches go to when this node owns it.
    pub lane_of: Vec<LaneId>,
    /// By shard number: whether a worker of this node hosts it now.
    pub in_node: Vec<bool>,
    /// The shards this worker hosts.
    pub hosted: Vec<ShardId>,
}

impl Seat {
    /// A worker's part of the shards that its node owns.
    pub fn new(
        layout: Shards,
        lane_of: impl FnMut(ShardId) -> LaneId,
        owned: &[OwnedShard],
        is_mine: impl Fn(ShardId) -> bool,
    ) -> Self {
        let mut in_node = vec![false; layout.count() as usize];
        for owned in owned {
            in_node[owned.shard.0 as usize] = true;
        }
        let hosted = owned.iter().map(|owned| owned.shard).filter(|shard| is_mine(*shard)).collect();
        Self { layout, lane_of: layout.iter().map(lane_of).collect(), in_node, hosted }
    }
}

impl Kernel {
    /// Makes room for a shard whose rows are not read yet.
    pub(super) fn seat(&mut self, id: ShardId) {
        let lane = self.lane_index(self.lane_of[id.0 as usize]);
        let resets = self.left.remove(&id).map_or(0, |resets| resets + 1);
        self.shards[id.0 as usize] = Some(Box::new(Shard { resets, ..Shard::new(id, lane) }));
        let at = self.hosted.partition_point(|hosted| *hosted < id);
        self.hosted.insert(at, id);
        self.in_node[id.0 as usize] = true;
    }

    pub(super) fn host_shard(&mut self, id: ShardId, was_taken: bool) {
        if self.shard(id).is_none() {
            self.seat(id);
            if was_taken {
                self.be_careful_of(id);
            }
            self.load_shard(id);
            self.send_again(id);
        }
    }

    /// A worker of this node hosts a shard from now on, or none does any more.
    pub(super) fn is_in_node(&mut self, id: ShardId, is: bool) {
        self.in_node[id.0 as usize] = is;
        if is {
            self.send_again(id);
        }
    }

    /// Whether a shard's batches go to this lane, because this node hosts it.
    pub(super) fn is_in_lane(&self, id: ShardId, lane: LaneId) -> bool {
        self.in_node[id.0 as usize] && self.lane_of[id.0 as usize] == lane
    }

    /// Answers what has come to a shard that is not hosted here. Nobody may tell a stream where to go on but the shard's
    /// owner (P22): its sender hears of that one, or sends again after a while.
    pub(super) fn send_elsewhere(&mut self, arrival: &Arrival) {
        match arrival.from {
            Provenance::Request { listener, .. } => {
                self.put_now(Output::Reply(listener.to, Outcome::Elsewhere));
            }
            Provenance::Query(to) => self.put_now(Output::Reply(to, Outcome::Elsewhere)),
            Provenance::Feed { feed, to, .. } => self.tell_feeder(to, feed, arrival.shard, FeedNews::Lost),
            Provenance::Stream { .. } | Provenance::Volatile => {}
        }
    }

    /// What was handed to a shard's owner before is handed to its owner now.
    pub(super) fn send_again(&mut self, target: ShardId) {
        for at in 0..self.hosted.len() {
            let id = self.hosted[at];
            let is_parked = self.is_parked(id, target);
            let shard = self.host(id);
            let lane = shard.lane;
            let Some(outbox) = shard.outboxes.get_mut(&target) else { continue };
            // Who has the receiving end now, and from which disk, is to be seen.
            outbox.shut();
            shard.asking.remove(&target);
            if !outbox.is_empty() || is_parked {
                outbox.rewind();
                shard.unanswered.remove(&target);
                self.lanes[lane].sending.insert((id, target));
            }
        }
    }
}
