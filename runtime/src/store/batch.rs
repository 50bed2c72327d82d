//! A batch: the commits of many turns as one atomic write.
//!
//! Encoded once, by the worker that ran the turns, in the form in which it lies in the log:
//!
//! ```text
//! batch   := format:u8 = 2, section*
//! section := shard:varint, epoch:varint, number:varint, len:u32le, own?, write*     len counts all that follows it
//! own     := 3:u8, record                                                      change of ownership
//! record  := 1:u8, transfer:u128le, from:name, rows:varint, hash:u64le         accept
//!          | 2:u8, transfer:u128le, to:name, store:u128le                      seal
//!          | 3:u8, transfer:u128le, epoch:varint                               moved
//!          | 4:u8, transfer:u128le                                             reopen
//! name    := len:varint, text
//! write   := 0:u8, key_len:varint, key, value_len:varint, value                 put
//!          | 1:u8, key_len:varint, key                                          delete
//!          | 2:u8, prefix_len:varint, prefix, from:varint, through:varint       delete a range of numbers
//! ```
//!
//! # Invariants
//! * A batch holds shards of one lane and is all or nothing (P13).
//! * A shard has at most one section in a batch, and its sections are numbered 1, 2, 3... from the epoch's start: a
//!   store that has number n applies n + 1 next, knows n again, and refuses everything else.
//! * What changes the ownership of a shard stands first in its section, so that one look at one byte tells that there is
//!   nothing of the kind.

use super::ownership::OwnershipRecord;
use super::row::{Write, put_varint, take, take_varint};
use crate::placement::{Epoch, ShardId};

const FORMAT: u8 = 2;
const PUT: u8 = 0;
const DELETE: u8 = 1;
const DELETE_RANGE: u8 = 2;
const OWN: u8 = 3;

/// Most numbers one range may delete. The checkpoint takes them one by one, and what a batch costs must be bounded by
/// its writer; a longer range is several.
pub const DELETE_RANGE_MAX: u64 = 1 << 20;

/// The commits of many turns, to become durable together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
}

/// A shard's part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section<'b> {
    /// The shard.
    pub shard: ShardId,
    /// The epoch under which the worker owns it: the fence.
    pub epoch: Epoch,
    /// The number of this section among the epoch's, from 1: the chain and the mark.
    pub number: u64,
    writes: &'b [u8],
}

/// The bytes are not a batch. In a store this is corruption, for every batch was checksummed when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a batch of format {FORMAT}")]
pub struct BatchError;

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self { bytes: vec![FORMAT] }
    }

    /// An empty batch with room for `len` bytes.
    pub fn with_capacity(len: usize) -> Self {
        let mut bytes = Vec::with_capacity(len + 1);
        bytes.push(FORMAT);
        Self { bytes }
    }

    /// An empty batch in a buffer that was used before.
    pub fn reuse(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.push(FORMAT);
        Self { bytes: buffer }
    }

    /// The buffer, for [`Batch::reuse`].
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    /// Takes bytes read from a store; they are checked to the last length.
    ///
    /// # Errors
    /// They are not a batch.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, BatchError> {
        let batch = Self { bytes };
        for section in sections(&batch.bytes) {
            let section = section?;
            section.record().transpose()?;
            for write in section.writes() {
                write?;
            }
        }
        Ok(batch)
    }

    /// Appends a section; `write` appends its writes with the functions of this module.
    pub fn section(&mut self, shard: ShardId, epoch: Epoch, number: u64, write: impl FnOnce(&mut Vec<u8>)) {
        put_varint(u64::from(shard.0), &mut self.bytes);
        put_varint(epoch.0, &mut self.bytes);
        put_varint(number, &mut self.bytes);
        let len_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        write(&mut self.bytes);
        let len = u32::try_from(self.bytes.len() - len_at - 4).expect("a batch is far below 4 GiB");
        self.bytes[len_at..len_at + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// The encoded form.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A batch of the sections that begin `at` bytes into this one or behind.
    ///
    /// # Panics
    /// No section begins there.
    #[must_use]
    pub fn section_from(&self, at: usize) -> Self {
        let mut bytes = Vec::with_capacity(1 + self.bytes.len() - at);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.bytes[at..]);
        Self::from_bytes(bytes).expect("a section begins there")
    }

    /// Whether nothing would be written.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == 1
    }

    /// Its sections, in the order they were added.
    ///
    /// # Panics
    /// Never: the bytes were written here or checked.
    pub fn sections(&self) -> impl Iterator<Item = Section<'_>> {
        sections(&self.bytes).map(|section| section.expect("a batch's bytes are checked when it is made"))
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

/// The sections of an encoded batch that may be damaged.
pub fn sections(bytes: &[u8]) -> impl Iterator<Item = Result<Section<'_>, BatchError>> {
    let (format, mut rest) = bytes.split_first().map_or((0, bytes), |(format, rest)| (*format, rest));
    let mut failed = format != FORMAT;
    let mut first = failed;
    std::iter::from_fn(move || {
        if std::mem::take(&mut first) {
            return Some(Err(BatchError));
        }
        if failed || rest.is_empty() {
            return None;
        }
        let section = take_section(&mut rest);
        failed = section.is_none();
        Some(section.ok_or(BatchError))
    })
}

fn take_section<'b>(rest: &mut &'b [u8]) -> Option<Section<'b>> {
    let shard = ShardId(u32::try_from(take_varint(rest)?).ok()?);
    let epoch = Epoch(take_varint(rest)?);
    let number = take_varint(rest)?;
    let len = u32::from_le_bytes(take(rest, 4)?.try_into().expect("four bytes"));
    let writes = take(rest, len as usize)?;
    Some(Section { shard, epoch, number, writes })
}

impl<'b> Section<'b> {
    /// Whether it changes the ownership of its shard.
    pub fn has_record(&self) -> bool {
        self.writes.first() == Some(&OWN)
    }

    /// How it changes the ownership of its shard. An error only where the bytes come from outside a [`Batch`].
    pub fn record(&self) -> Option<Result<OwnershipRecord, BatchError>> {
        let mut rest = self.writes.strip_prefix(&[OWN])?;
        Some(OwnershipRecord::take(&mut rest).ok_or(BatchError))
    }

    /// Its writes, in order. They are errors only where the bytes come from outside a [`Batch`].
    pub fn writes(&self) -> impl Iterator<Item = Result<Write<'b>, BatchError>> + use<'b> {
        let mut rest = self.writes;
        let mut failed = false;
        if let Some(mut record) = self.writes.strip_prefix(&[OWN]) {
            // One that cannot be read stays where it is, and is no write either.
            if OwnershipRecord::take(&mut record).is_some() {
                rest = record;
            }
        }
        std::iter::from_fn(move || {
            if failed || rest.is_empty() {
                return None;
            }
            let write = take_write(&mut rest);
            failed = write.is_none();
            Some(write.ok_or(BatchError))
        })
    }
}

fn take_write<'b>(rest: &mut &'b [u8]) -> Option<Write<'b>> {
    let op = take(rest, 1)?[0];
    let key_len = usize::try_from(take_varint(rest)?).ok()?;
    let key = take(rest, key_len)?;
    match op {
        PUT => {
            let value_len = usize::try_from(take_varint(rest)?).ok()?;
            Some(Write::Put { key, value: take(rest, value_len)? })
        }
        DELETE => Some(Write::Delete { key }),
        DELETE_RANGE => {
            let (from, through) = (take_varint(rest)?, take_varint(rest)?);
            let good = from <= through && through - from < DELETE_RANGE_MAX;
            good.then_some(Write::DeleteRange { prefix: key, from, through })
        }
        _ => None,
    }
}

/// Appends a change of ownership: the first thing in its section, and the only one of it.
pub fn own(record: &OwnershipRecord, out: &mut Vec<u8>) {
    out.push(OWN);
    record.encode(out);
}

/// Appends a put. The key is given in parts, its type byte first, so that no caller builds it.
pub fn put(key: &[&[u8]], value: &[&[u8]], out: &mut Vec<u8>) {
    out.push(PUT);
    put_parts(key, out);
    put_parts(value, out);
}

/// Appends a delete.
pub fn delete(key: &[&[u8]], out: &mut Vec<u8>) {
    out.push(DELETE);
    put_parts(key, out);
}

/// Appends the deletion of the rows `prefix ++ number` for `from <= number <= through`.
///
/// # Panics
/// The range is empty or has more than [`DELETE_RANGE_MAX`] numbers.
pub fn delete_range(prefix: &[&[u8]], from: u64, through: u64, out: &mut Vec<u8>) {
    assert!(from <= through, "a range to delete is not empty");
    assert!(through - from < DELETE_RANGE_MAX, "a range to delete is bounded");
    out.push(DELETE_RANGE);
    put_parts(prefix, out);
    put_varint(from, out);
    put_varint(through, out);
}

fn put_parts(parts: &[&[u8]], out: &mut Vec<u8>) {
    put_varint(parts.iter().map(|part| part.len() as u64).sum(), out);
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TransferId;

    #[test]
    fn a_batch_comes_back_as_it_was_written() {
        let mut batch = Batch::new();
        batch.section(ShardId(7), Epoch(3), 41, |out| {
            put(&[&[0xf0], b"account\0", b"alice"], &[&[1], b"state"], out);
            delete(&[&[0x22], b"client"], out);
            delete_range(&[&[0x12], &9_u32.to_be_bytes()], 5, 8, out);
        });
        batch.section(ShardId(4_095), Epoch(u64::MAX), 1, |_| {});
        let again = Batch::from_bytes(batch.bytes().to_vec()).expect("just written");
        let sections: Vec<_> = again.sections().collect();
        assert_eq!((sections[0].shard, sections[0].epoch, sections[0].number), (ShardId(7), Epoch(3), 41));
        assert_eq!(
            sections[0].writes().collect::<Result<Vec<_>, _>>().expect("checked"),
            [
                Write::Put { key: b"\xf0account\0alice", value: b"\x01state" },
                Write::Delete { key: b"\x22client" },
                Write::DeleteRange { prefix: b"\x12\0\0\0\x09", from: 5, through: 8 },
            ]
        );
        assert_eq!(sections[1].writes().count(), 0);
    }

    #[test]
    fn a_change_of_ownership_stands_first_and_alone() {
        let record = OwnershipRecord::Seal {
            transfer: TransferId(u128::MAX),
            to: "b".parse().unwrap(),
            store: u128::MAX,
        };
        let section = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut batch = Batch::new();
            batch.section(ShardId(1), Epoch(1), 1, write);
            Batch::from_bytes(batch.into_buffer())
        };
        let batch = section(&|out| {
            own(&record, out);
            delete(&[b"k"], out);
        })
        .unwrap();
        let first = batch.sections().next().unwrap();
        assert!(first.has_record());
        assert_eq!(first.record(), Some(Ok(record.clone())));
        assert_eq!(first.writes().collect::<Vec<_>>(), [Ok(Write::Delete { key: b"k" })]);
        let second = section(&|out| {
            delete(&[b"k"], out);
            own(&record, out);
        });
        assert_eq!(second, Err(BatchError));
        let twice = section(&|out| {
            own(&record, out);
            own(&record, out);
        });
        assert_eq!(twice, Err(BatchError));
        let ordinary = section(&|out| delete(&[b"k"], out)).unwrap();
        assert_eq!(ordinary.sections().next().unwrap().record(), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(mut bytes: Vec<u8>, as_format: bool) {
            if as_format && !bytes.is_empty() {
                bytes[0] = FORMAT;
            }
            let _ = Batch::from_bytes(bytes);
        }
    }
}
