//! Careful mode: after an unclean exit, one turn at a time, each named before it runs (P3).
//!
//! What ends a process (a loop past its deadline, a stack overflow, memory) leaves no trace in its state, and would end it
//! again after every restart. So the ring writes down which message is about to run, and gives up one that was found
//! written down after several crashes. The kernel only names the next turn and runs one at a time; it knows no file.

use super::{Kernel, gauge::words};
use crate::{
    activation::{Mail, Origin, Phase},
    message::Envelope,
    placement::ShardId,
    store::LaneId,
};

/// What the next [`Event::Turn`](super::Event::Turn) of a lane would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextTurn {
    /// Nothing that could end the process for good: bookkeeping, or a message that is not stored anywhere.
    Harmless,
    /// Run the message with this digest of its bytes and its origin. It is the same after a restart.
    Message(u64),
}

impl Kernel {
    /// Begins in careful mode, for so many turns beyond those that were pending when the shards were loaded.
    pub fn be_careful(mut self, turns: u64) -> Self {
        self.careful = turns;
        self
    }

    /// In careful mode, what [`Event::Turn`](super::Event::Turn) would do now; `None` when there is nothing to do, or
    /// the mode is over.
    pub fn next_turn(&self, lane: LaneId) -> Option<NextTurn> {
        if self.careful == 0 {
            return None;
        }
        let work = self.lanes.iter().find(|work| work.id == lane)?;
        let full = self.limits.batch_len <= work.batch_bytes.max(work.output_bytes)
            || self.limits.undurable_bytes_max <= work.undurable_bytes;
        if full {
            return None;
        }
        let activation = match self.activations.get(*work.ready.front()?) {
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
            Some((envelope, origin)) => NextTurn::Message(digest(envelope, &origin)),
        })
    }

    fn waiting(&self, shard: ShardId, number: u64) -> Option<(&Envelope, Origin)> {
        let waiting = self.shard(shard)?.waiting.get(&number)?;
        Some((&waiting.envelope, Origin::Waiting(number)))
    }

    /// Does what [`Kernel::next_turn`] said, and no more. `condemned`: the message is dead-lettered instead of run.
    pub(super) fn one_turn(&mut self, lane: LaneId, condemned: Option<String>) {
        let lane = self.lane_index(lane);
        let Some(slot) = self.lanes[lane].ready.pop_front() else { return };
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
