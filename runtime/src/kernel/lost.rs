//! Shards that are hosted no longer: given away behind their seal, or found to be another owner's.
//!
//! In a store that several nodes share a shard can be taken from a node that has not renewed its lease. That node finds out by
//! the store's word alone: a commit of its lane is fenced, or a load is refused.
//!
//! ```text
//!   Serving ──fenced──► (void of the lane) ──► Loading ──not owned: Lost──► let go
//!      └──a load is refused: Lost──► Stale ──┘    └──owned: ShardLoaded──► Serving
//! ```
//!
//! So a shard is let go only when it has nothing in a batch that may still be written, and the void has answered
//! everybody who waited for one.

use super::{
    Action, FeedNews, Kernel, Operated, Outcome, Output, close::caller, counters::counts_as_accepted,
};
use crate::{activation::Activation, placement::ShardId, shard::ShardPhase};

impl Kernel {
    /// A load of a shard was refused, for it is another owner's. Whatever was asked before its last reset is answered by that
    /// (P12), and one that was let go since waits for nothing.
    pub(super) fn lost(&mut self, id: ShardId, resets: u64) {
        let Some(shard) = self.shard(id).filter(|shard| shard.resets == resets) else { return };
        match shard.phase {
            ShardPhase::Loading => self.let_go(id, |_| {}),
            // What its lane has in memory is a past, and goes first: what is built on it must not be written.
            ShardPhase::Serving => {
                let lane = self.lanes[shard.lane].id;
                self.actions.push(Action::Stale(lane));
            }
        }
    }

    /// Lets go of a shard, and shows each of its activations. What has had no turn is not accepted any more: whoever sent it
    /// still has it, and is told to ask elsewhere.
    pub(super) fn let_go(&mut self, id: ShardId, mut gone: impl FnMut(&Activation)) {
        let shard = self.host(id);
        let (lane, resets) = (shard.lane, shard.resets);
        let asked = std::mem::take(&mut shard.outbox_asked);
        let held = std::mem::take(&mut shard.held);
        let listeners = self.forget_memory(id);
        let activations = &self.activations;
        let is_other = |slot: &_| activations.get(*slot).is_some_and(|activation| activation.shard != id);
        let work = &mut self.lanes[lane];
        work.ready.retain(is_other);
        work.named.retain(is_other);
        work.loads.retain(|ticket| ticket.key.shard != id);
        work.sending.retain(|(source, _)| *source != id);
        work.opened.retain(|(source, _)| *source != id);
        work.backed.retain(|(source, _)| *source != id);
        work.outbox_asked -= asked;
        work.at_door = None;
        let arrivals = std::mem::take(&mut work.arrivals);
        let operations = std::mem::take(&mut work.operations);
        self.starved.retain(|(_, target)| *target != id);
        self.careful_of.remove(&id);
        self.unread.remove(&id);
        self.forget_parked(id);
        self.held_openings.retain(|(_, target), _| *target != id);
        let (mut callers, mut voided) = (Vec::new(), 0);
        self.forget_activations(
            |_, shard| shard == id,
            |activation| {
                callers.extend(activation.mail().filter_map(|mail| caller(&mail.origin)));
                voided += activation.mail().filter(|mail| counts_as_accepted(&mail.origin)).count() as u64;
                gone(&activation);
            },
        );
        self.counters.voided += voided;
        for to in callers {
            self.put_now(Output::Reply(to, Outcome::Elsewhere));
        }
        // Some of them wait for a message of the waiting queue, which moves along: under the same id they find it.
        for listener in listeners {
            self.put_now(Output::Reply(
                listener.to,
                Outcome::Unknown("its shard moves to another node".into()),
            ));
        }
        for arrival in held {
            self.held_bytes -= arrival.envelope.len();
            self.send_elsewhere(&arrival);
        }
        for arrival in arrivals {
            if arrival.shard == id {
                self.lanes[lane].arrival_bytes -= arrival.envelope.len();
                self.send_elsewhere(&arrival);
            } else {
                self.lanes[lane].arrivals.push_back(arrival);
            }
        }
        for operation in operations {
            match operation.what {
                _ if operation.shard != id => self.lanes[lane].operations.push_back(operation),
                Operated::Feed { feed, .. } => self.tell_feeder(operation.to, feed, id, FeedNews::Lost),
                _ => self.put_now(Output::Reply(operation.to, Outcome::Elsewhere)),
            }
        }
        for feed in self.open_feeds.keys().copied().collect::<Vec<_>>() {
            self.lose_feed(feed, id);
        }
        self.shards[id.0 as usize] = None;
        self.hosted.retain(|hosted| *hosted != id);
        self.in_node[id.0 as usize] = false;
        self.left.insert(id, resets);
        // Senders of this worker that had handed something over within the node send it to the new owner when there is one.
        self.actions.push(Action::Left(id));
    }
}

#[cfg(test)]
mod tests;
