//! What is shipped of a shard, piece by piece.

use crate::{
    placement::{Epoch, ShardId},
    store::{
        Batch, Row,
        batch::{BatchError, DELETE_RANGE_MAX, put},
        row::{Write, put_varint, take_varint},
    },
};
use bytes::Bytes;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Most rows that one piece may touch, those of deleted ranges counted one by one: as many as the longest range alone. Of a
/// section with more the hand-off is given up; behind its seal a source sends no sections. No more than this of several pieces is
/// staged at a time, so this bounds what [`newest_writes`] makes of bytes from outside.
pub const PIECE_ROWS_MAX: u64 = DELETE_RANGE_MAX;

const BATCH: u8 = 1;
const END: u8 = 2;
const HOT: u8 = 3;

/// Most keys in a piece of hot images.
const HOT_MAX: usize = 1 << 16;

/// One piece of a shard on its way to another node.
///
/// ```text
/// piece := 1:u8, batch                             one section: rows (number 0), or a section of the source's log
///        | 2:u8, rows:varint, hash:u64le           the end: nothing comes behind it
///        | 3:u8, (len:varint, key) ...             row keys of images that are wanted soon
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Rows as they lay in the source's store: each with its value.
    Rows(Batch),
    /// A section of the source's log behind the rows, in order.
    Section(Batch),
    /// Row keys of images that the target loads before anybody asks for them: of what was used last at the source. Nothing is
    /// lost with them.
    Hot(Vec<Vec<u8>>),
    /// The source's seal is durable and everything was sent.
    End {
        /// How many rows were in the pieces of rows.
        rows: u64,
        /// Over all pieces before this one, in order.
        hash: u64,
    },
}

impl Piece {
    /// Rows of a shard under the epoch they will be read under.
    pub fn rows(shard: ShardId, epoch: Epoch, rows: &[Row]) -> Self {
        let mut batch =
            Batch::with_capacity(rows.iter().map(|(key, value)| key.len() + value.len() + 16).sum());
        batch.section(shard, epoch, 0, |out| {
            for (key, value) in rows {
                put(&[key], &[value], out);
            }
        });
        Self::Rows(batch)
    }

    /// Its bytes on the way.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        match self {
            Self::Rows(batch) | Self::Section(batch) => {
                bytes.reserve_exact(batch.bytes().len() + 1);
                bytes.push(BATCH);
                bytes.extend_from_slice(batch.bytes());
            }
            Self::Hot(keys) => {
                bytes.push(HOT);
                put_keys(keys, &mut bytes);
            }
            Self::End { rows, hash } => {
                bytes.push(END);
                put_varint(*rows, &mut bytes);
                bytes.extend_from_slice(&hash.to_le_bytes());
            }
        }
        bytes.into()
    }

    /// Reads a piece from outside.
    ///
    /// # Errors
    /// It is none of this build's.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        match bytes.split_first() {
            Some((&BATCH, batch)) => {
                let batch = Batch::from_bytes(batch.to_vec())?;
                let mut sections = batch.sections();
                let (Some(section), None) = (sections.next(), sections.next()) else {
                    return Err(BatchError);
                };
                let is_rows = section.number == 0;
                drop(sections);
                Ok(if is_rows { Self::Rows(batch) } else { Self::Section(batch) })
            }
            Some((&HOT, rest)) => Ok(Self::Hot(take_keys(rest).ok_or(BatchError)?)),
            Some((&END, mut rest)) => {
                let rows = take_varint(&mut rest).ok_or(BatchError)?;
                let hash = u64::from_le_bytes(rest.try_into().map_err(|_| BatchError)?);
                Ok(Self::End { rows, hash })
            }
            _ => Err(BatchError),
        }
    }
}

/// Appends keys, each behind its length.
pub(super) fn put_keys(keys: &[Vec<u8>], out: &mut Vec<u8>) {
    for key in keys {
        put_varint(key.len() as u64, out);
        out.extend_from_slice(key);
    }
}

/// Takes what [`put_keys`] has written, to the end; `None` where it is nothing like that, or too many.
pub(super) fn take_keys(mut rest: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    while !rest.is_empty() {
        let len = usize::try_from(take_varint(&mut rest)?).ok()?;
        let (key, behind) = rest.split_at_checked(len)?;
        if keys.len() == HOT_MAX {
            return None;
        }
        keys.push(key.to_vec());
        rest = behind;
    }
    Some(keys)
}

/// How many rows the writes of a batch touch, at the most.
pub(super) fn rows_touched(batch: &Batch) -> u64 {
    let writes = batch.sections().flat_map(|section| section.writes());
    let touched = writes.map(|write| match write.expect("a batch's bytes are checked when it is made") {
        Write::Put { .. } | Write::Delete { .. } => 1,
        Write::DeleteRange { from, through, .. } => through - from + 1,
    });
    touched.fold(0, u64::saturating_add)
}

/// The newest write of every row in some sections, in key order: what is to be staged of them. `None` is a row that is gone.
/// Ranges become as many rows as they have numbers, so the sections are bounded before: [`PIECE_ROWS_MAX`].
pub fn newest_writes(sections: &[Batch]) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let mut rows = BTreeMap::new();
    let writes = sections.iter().flat_map(Batch::sections).flat_map(|section| section.writes());
    for write in writes {
        match write.expect("a batch's bytes are checked when it is made") {
            Write::Put { key, value } => drop(rows.insert(key.to_vec(), Some(value.to_vec()))),
            Write::Delete { key } => drop(rows.insert(key.to_vec(), None)),
            Write::DeleteRange { prefix, from, through } => {
                for number in from..=through {
                    rows.insert([prefix, &number.to_be_bytes()].concat(), None);
                }
            }
        }
    }
    rows
}

/// The hash over all pieces of an attempt so far, in order.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain(u64);

impl Chain {
    /// With one piece more.
    #[must_use]
    pub(super) fn with(self, piece: &[u8]) -> Self {
        Self(xxh3_64_with_seed(piece, self.0))
    }

    /// Its value.
    pub(super) fn digest(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_comes_back_as_it_was_sent() {
        let rows = vec![(vec![1, 2], b"value".to_vec()), (vec![0xf0], Vec::new())];
        let mut section = Batch::new();
        section.section(ShardId(3), Epoch(2), 9, |out| put(&[&[1]], &[b"x"], out));
        for piece in [
            Piece::rows(ShardId(3), Epoch(3), &rows),
            Piece::rows(ShardId(3), Epoch(3), &[]),
            Piece::Section(section),
            Piece::Hot(vec![b"one".to_vec(), Vec::new(), vec![7; 300]]),
            Piece::End { rows: 300, hash: u64::MAX },
        ] {
            assert_eq!(Piece::decode(&piece.encode()), Ok(piece));
        }
    }

    #[test]
    fn keys_that_are_cut_or_too_many_are_refused() {
        let piece = Piece::Hot(vec![b"key".to_vec()]).encode();
        assert_eq!(Piece::decode(&piece[..piece.len() - 1]), Err(BatchError));
        assert!(Piece::decode(&Piece::Hot(vec![Vec::new(); HOT_MAX]).encode()).is_ok());
        assert_eq!(Piece::decode(&Piece::Hot(vec![Vec::new(); HOT_MAX + 1]).encode()), Err(BatchError));
    }

    #[test]
    fn the_chain_tells_order_and_loss() {
        let all = Chain::default().with(b"a").with(b"b");
        assert_ne!(all, Chain::default().with(b"b").with(b"a"));
        assert_ne!(all, Chain::default().with(b"b"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>, as_batch: bool) {
            let bytes = if as_batch { [&[BATCH, 1], bytes.as_slice()].concat() } else { bytes };
            let _ = Piece::decode(&bytes);
        }
    }
}
