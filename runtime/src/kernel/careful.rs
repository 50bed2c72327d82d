//! Careful mode: one turn at a time, each named before it runs (P3). After an unclean exit for all shards of the node; where shards
//! are taken from a node that is gone for those alone, and the turns of others go on beside them.
//!
//! What ends a process (a loop past its deadline, a stack overflow, memory) leaves no trace in its state, and would end it
//! again after every restart. So the ring writes down which message is about to run, and gives up one that was found
//! written down after several crashes. The kernel only names the next turn and runs one at a time; it knows no file.

use super::{Kernel, gauge::words};
use crate::{
    activation::{Mail, Origin, Phase, Slot},
    message::Envelope,
    placement::ShardId,
    store::LaneId,
    stream::Outbox,
};
use std::collections::VecDeque;

/// What the next [`Event::Turn`](super::Event::Turn) of a lane would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextTurn {
    /// Nothing that could end the process for good: bookkeeping, or a message that is not stored anywhere.
    Harmless,
    /// Run the message with this digest of its bytes and its origin. It is the same after a restart.
    Message {
        /// The shard whose turn it is.
        shard: ShardId,
        /// See above.
        digest: u64,
    },
}

/// Turns of a shard taken from a node that is gone which are run carefully, beyond those that are pending in it: what clients, feeds and
/// other shards send it again first.
const TURNS_OF_TAKEN: u64 = 4_096;

impl Kernel {
    /// Begins in careful mode, for so many turns beyond those that were pending when the shards were loaded.
    pub fn be_careful(mut self, turns: u64) -> Self {
        self.careful = turns;
        self
    }

    /// In careful mode, what [`Event::Turn`](super::Event::Turn) would do now; `None` when there is nothing to do, or
    /// the mode is over.
    pub fn next_turn(&self, lane: LaneId) -> Option<NextTurn> {
        if self.careful == 0 && self.careful_of.is_empty() {
            return None;
        }
        let work = self.lanes.iter().find(|work| work.id == lane)?;
        let full = self.limits.batch_len <= work.batch_bytes.max(work.output_bytes)
            || self.limits.undurable_bytes_max <= work.undurable_bytes;
        if full {
            return None;
        }
        let activation = match self.activations.get(*work.named.front()?) {
            Some(activation) if activation.phase != Phase::Loading => activation,
            _ => return Some(NextTurn::Harmless),
        };
        let first = activation.mailbox.as_ref().and_then(|mailbox| mailbox.front());
        let first = first.map(|Mail { envelope, origin }| (envelope, *origin));
        let head = match &activation.trouble {
            None => first,
            Some(trouble) if activation.phase == Phase::Active && trouble.retry_at <= self.now => {
                match trouble.waiting.front() {
                    Some(number) => self.waiting(activation.shard, *number),
                    None => first,
                }
            }
            Some(_) => None,
        };
        Some(match head {
            None | Some((_, Origin::Query(_) | Origin::Volatile(_))) => NextTurn::Harmless,
            Some((envelope, origin)) => {
                NextTurn::Message { shard: activation.shard, digest: digest(envelope, &origin) }
            }
        })
    }

    /// Whether turns of a shard are named before they run.
    pub(super) fn is_careful(&self, id: ShardId) -> bool {
        0 < self.careful || self.careful_of.contains_key(&id)
    }

    /// The same of an activation's shard.
    pub(super) fn is_careful_at(&self, slot: Slot) -> bool {
        (0 < self.careful || !self.careful_of.is_empty())
            && self.activations.get(slot).is_some_and(|activation| self.is_careful(activation.shard))
    }

    /// What is pending in a shard may have ended the node that it was taken from.
    pub(super) fn be_careful_of(&mut self, id: ShardId) {
        self.careful_of.insert(id, TURNS_OF_TAKEN);
    }

    /// Counts what is pending in a shard whose rows were just read. Of one that was taken, what it sends to others is pending with
    /// those.
    pub(super) fn count_pending(&mut self, id: ShardId) {
        if !self.is_careful(id) {
            return;
        }
        let shard = self.shard(id).expect("just loaded");
        let waiting = shard.waiting.len() as u64;
        let to_all: u64 = shard.outboxes.values().map(Outbox::len).sum();
        let to_itself = shard.outboxes.get(&id).map_or(0, Outbox::len);
        if 0 < self.careful {
            self.careful += waiting + to_all;
        }
        if let Some(turns) = self.careful_of.get_mut(&id) {
            *turns += waiting + to_itself;
        }
    }

    /// Counts a turn that begins.
    pub(super) fn count_turn(&mut self, id: ShardId) {
        self.careful = self.careful.saturating_sub(1);
        if self.careful_of.is_empty() {
            return;
        }
        if let Some(turns) = self.careful_of.get_mut(&id) {
            *turns -= 1;
            if *turns == 0 {
                self.careful_of.remove(&id);
            }
        }
    }

    /// Lets entities run with the others whose shard is careful no more; all of them where nothing is run but answered.
    pub(super) fn name_no_more(&mut self, lane: usize, all: bool) {
        if self.lanes[lane].named.is_empty() {
            return;
        }
        let named = std::mem::take(&mut self.lanes[lane].named);
        let (named, others) = named.into_iter().partition(|slot| !all && self.is_careful_at(*slot));
        let work = &mut self.lanes[lane];
        work.named = named;
        work.ready.extend::<VecDeque<_>>(others);
    }

    fn waiting(&self, shard: ShardId, number: u64) -> Option<(&Envelope, Origin)> {
        let waiting = self.shard(shard)?.waiting.get(&number)?;
        Some((&waiting.envelope, Origin::Waiting(number)))
    }

    /// Does what [`Kernel::next_turn`] said, and no more. `condemned`: the message is dead-lettered instead of run.
    pub(super) fn one_turn(&mut self, lane: LaneId, condemned: Option<String>) {
        let lane = self.lane_index(lane);
        let Some(slot) = self.lanes[lane].named.pop_front() else { return };
        let Some(activation) = self.activations.get_mut(slot) else { return };
        activation.scheduled = false;
        // A share of turns is counted by run: here each is one.
        self.run = self.run.wrapping_add(1);
        self.condemned = condemned;
        self.one_turn = true;
        self.run_mailbox(lane, slot, Ok(()));
        self.one_turn = false;
        self.condemned = None;
    }
}

/// Names a message over restarts.
fn digest(envelope: &Envelope, origin: &Origin) -> u64 {
    words(origin).into_iter().fold(xxhash_rust::xxh3::xxh3_64(envelope.bytes()), |digest, word| {
        xxhash_rust::xxh3::xxh3_64_with_seed(&word.to_le_bytes(), digest)
    })
}
