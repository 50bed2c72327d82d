//! The rows of a shard as they are read from the store: what comes into memory, and what is only counted.

use crate::{
    placement::{Epoch, ShardId},
    store::{
        Row, RowType,
        row::{take_u32, take_u64},
    },
};
use bytes::Bytes;

/// How much of outboxes comes into memory. Of each stream at least one message does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxPart {
    /// Most messages of one stream.
    pub len_max: u64,
    /// No further message once there are so many bytes.
    pub bytes_max: usize,
}

/// All rows of a shard but its images and, of long outboxes, the messages behind the first (P8).
#[derive(Debug)]
pub struct ShardRows {
    pub(super) rows: Vec<Row>,
    pub(super) rests: Vec<OutboxRest>,
    part: OutboxPart,
    /// The outbox whose rows are being read, its last number, and how many of them are kept.
    outbox: Option<(ShardId, u64, u64)>,
    outbox_bytes: usize,
}

/// Messages of one outbox that are left in the store.
#[derive(Debug)]
pub(super) struct OutboxRest {
    pub(super) target: ShardId,
    /// Number of the last of them.
    pub(super) through: u64,
    pub(super) bytes: usize,
}

impl ShardRows {
    /// Nothing is read yet.
    pub fn new(part: OutboxPart) -> Self {
        Self { rows: Vec::new(), rests: Vec::new(), part, outbox: None, outbox_bytes: 0 }
    }

    /// Takes the next row in key order.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        let Some((target, number)) = outbox_key(key) else {
            self.rows.push((key.to_vec(), value.to_vec()));
            return;
        };
        let before = self.outbox.filter(|(other, ..)| *other == target);
        let continues = before.is_some_and(|(_, last, _)| last.checked_add(1) == Some(number));
        let kept = before.map_or(0, |(.., kept)| kept);
        let has_enough = self.part.len_max <= kept || self.part.bytes_max <= self.outbox_bytes;
        // One that does not continue is kept, and refused when the rows are taken.
        if continues && 0 < kept && has_enough {
            match self.rests.last_mut().filter(|rest| rest.target == target) {
                Some(rest) => (rest.through, rest.bytes) = (number, rest.bytes + value.len()),
                None => self.rests.push(OutboxRest { target, through: number, bytes: value.len() }),
            }
            // What comes behind it is left too, or there would be a hole.
            self.outbox = Some((target, number, self.part.len_max.max(1)));
        } else {
            self.rows.push((key.to_vec(), value.to_vec()));
            self.outbox_bytes += value.len();
            self.outbox = Some((target, number, kept + 1));
        }
    }
}

/// Names messages of an outbox that are wanted in memory, so that a late answer is known (P12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxTicket {
    /// The sending shard.
    pub source: ShardId,
    /// Epoch of its ownership.
    pub epoch: Epoch,
    /// The receiving shard.
    pub target: ShardId,
    /// Number of the first message.
    pub from: u64,
    /// How much is wanted.
    pub part: OutboxPart,
    /// Resets of the source when it was asked for.
    pub resets: u64,
}

impl OutboxTicket {
    /// Key of the first row that is wanted, and the key behind the last.
    pub fn keys(&self) -> (Vec<u8>, Vec<u8>) {
        let key = |number: u64| {
            let target = self.target.0.to_be_bytes();
            [&[RowType::Outbox as u8], target.as_slice(), &number.to_be_bytes()].concat()
        };
        (key(self.from), key(self.from.saturating_add(self.part.len_max.max(1))))
    }
}

/// What an [`OutboxTicket`] asked for, as it is read.
#[derive(Debug)]
pub struct OutboxRows {
    envelopes: Vec<Bytes>,
    bytes: usize,
}

impl OutboxRows {
    /// Nothing is read yet.
    pub fn new() -> Self {
        Self { envelopes: Vec::new(), bytes: 0 }
    }

    /// Takes the next row in key order. Returns false where no further one is wanted.
    pub fn push(&mut self, ticket: &OutboxTicket, key: &[u8], value: &[u8]) -> bool {
        let next = ticket.from + self.envelopes.len() as u64;
        let is_next = outbox_key(key) == Some((ticket.target, next));
        let is_wanted = self.envelopes.is_empty() || self.bytes < ticket.part.bytes_max;
        if is_next && is_wanted {
            self.bytes += value.len();
            self.envelopes.push(Bytes::copy_from_slice(value));
        }
        is_next && is_wanted
    }

    /// The messages, in order from the first that was wanted.
    pub fn into_envelopes(self) -> Vec<Bytes> {
        self.envelopes
    }
}

impl Default for OutboxRows {
    fn default() -> Self {
        Self::new()
    }
}

fn outbox_key(key: &[u8]) -> Option<(ShardId, u64)> {
    let mut rest = key.strip_prefix(&[RowType::Outbox as u8])?;
    let (target, number) = (take_u32(&mut rest)?, take_u64(&mut rest)?);
    rest.is_empty().then_some((ShardId(target), number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::Envelope, shard::Shard};

    fn row(target: u32, number: u64) -> Row {
        let key = [&[RowType::Outbox as u8], target.to_be_bytes().as_slice(), &number.to_be_bytes()].concat();
        let mut bytes = Vec::new();
        Envelope::write_head("kind", "key", "message", None, &mut bytes);
        (key, bytes)
    }

    /// The shard these rows come back as: kept, and in the store alone, by stream.
    fn restored(part: OutboxPart, rows: &[Row]) -> Option<Vec<(u64, u64)>> {
        let mut read = ShardRows::new(part);
        for (key, value) in rows {
            read.push(key, value);
        }
        let mut shard = Shard::new(ShardId(0), 0);
        shard.restore(read).ok()?;
        let bytes: usize = shard.outboxes.values().map(crate::stream::Outbox::bytes).sum();
        assert_eq!(bytes, shard.outbox_bytes);
        Some(shard.outboxes.values().map(|outbox| (outbox.len(), outbox.stored())).collect())
    }

    #[test]
    fn of_long_outboxes_only_the_first_messages_come_into_memory() {
        let rows: Vec<Row> =
            (3..=12).map(|number| row(1, number)).chain((1..=2).map(|number| row(2, number))).collect();
        let len = rows[0].1.len();
        let read = |len_max, bytes_max| restored(OutboxPart { len_max, bytes_max }, &rows);
        assert_eq!(read(4, usize::MAX), Some(vec![(10, 6), (2, 0)]));
        assert_eq!(read(100, 3 * len), Some(vec![(10, 7), (2, 1)]));
        assert_eq!(read(0, 0), Some(vec![(10, 9), (2, 1)]), "one of each stream all the same");
    }

    #[test]
    fn an_outbox_with_a_hole_is_refused() {
        let part = OutboxPart { len_max: 2, bytes_max: usize::MAX };
        for missing in 2..5 {
            let rows: Vec<Row> =
                (1..=5).filter(|number| *number != missing).map(|number| row(1, number)).collect();
            assert_eq!(restored(part, &rows), None, "without {missing}");
        }
    }
}
