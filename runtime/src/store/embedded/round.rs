//! One round of the checkpoint: a stretch of the log, coalesced to the newest write of each row, in key order.
//!
//! Also how a store recovers, so its speed is the time to serve again: rows are slices into the segments as they were
//! read, and nothing is allocated per row.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::bookkeeping::Bookkeeping;
use super::checkpoint::{PREFIX, SortedRows, prefix};
use crate::placement::{Epoch, ShardId};
use crate::store::{Section, Write};

/// The newest writes of a stretch of the log, by row.
#[derive(Default)]
pub(super) struct Round<'b> {
    index: HashTable<u32>,
    rows: Vec<RowWrite<'b>>,
    scratch: Vec<u8>,
}

struct RowWrite<'b> {
    hash: u64,
    shard: u32,
    stay: u64,
    /// The row's key, or what stands before the number in it.
    key: &'b [u8],
    number: Option<u64>,
    value: Value<'b>,
}

#[derive(Clone, Copy)]
enum Value<'b> {
    Put(&'b [u8]),
    Deleted,
    /// Put for the only time and deleted in this very round: it never was in the checkpoint and need not be.
    Vanished,
}

impl<'b> Round<'b> {
    /// Takes over the writes of a section, made during this stay. `None` if they cannot be read.
    pub(super) fn add(&mut self, section: &Section<'b>, stay: Epoch) -> Option<()> {
        let (shard, stay) = (section.shard.0, stay.0);
        for write in section.writes() {
            match write.ok()? {
                Write::Put { key, value } => *self.row(shard, stay, key, None) = Value::Put(value),
                Write::Delete { key } => *self.row(shard, stay, key, None) = Value::Deleted,
                Write::DeleteRange { prefix, from, through } => {
                    for number in from..=through {
                        let value = self.row(shard, stay, prefix, Some(number));
                        *value = match value {
                            Value::Put(_) | Value::Vanished => Value::Vanished,
                            Value::Deleted => Value::Deleted,
                        };
                    }
                }
            }
        }
        Some(())
    }

    /// The place for a row's newest write. One that was not written in this round counts as deleted.
    fn row(&mut self, shard: u32, stay: u64, key: &'b [u8], number: Option<u64>) -> &mut Value<'b> {
        self.scratch.clear();
        self.scratch.extend_from_slice(&prefix(shard, stay));
        self.scratch.extend_from_slice(key);
        if let Some(number) = number {
            self.scratch.extend_from_slice(&number.to_be_bytes());
        }
        let (hash, wanted, rows) = (xxh3_64(&self.scratch), &self.scratch[PREFIX..], &mut self.rows);
        let same = |&row: &u32| {
            let row = &rows[row as usize];
            row.hash == hash && (row.shard, row.stay) == (shard, stay) && row.has_key(wanted)
        };
        let found = self.index.find(hash, same).copied();
        let row = found.unwrap_or_else(|| {
            let row = rows.len() as u32;
            rows.push(RowWrite { hash, shard, stay, key, number, value: Value::Deleted });
            self.index.insert_unique(hash, row, |&row| rows[row as usize].hash);
            row
        });
        &mut rows[row as usize].value
    }

    /// The rows in key order, without those of stays that ended, and with the checkpoint's rows about itself behind them.
    pub(super) fn into_sorted(
        mut self,
        ended: &BTreeSet<(ShardId, Epoch)>,
        mut bookkeeping: Vec<Bookkeeping>,
    ) -> Sorted<'b> {
        self.rows.retain(|row| {
            !matches!(row.value, Value::Vanished) && !ended.contains(&(ShardId(row.shard), Epoch(row.stay)))
        });
        bookkeeping.sort_unstable();
        self.rows.sort_unstable_by(RowWrite::compare);
        Sorted {
            rows: self.rows.into_iter(),
            bookkeeping: bookkeeping.into_iter(),
            key: Vec::new(),
            value: None,
        }
    }
}

impl RowWrite<'_> {
    fn has_key(&self, wanted: &[u8]) -> bool {
        match self.number {
            None => self.key == wanted,
            Some(number) => {
                wanted.strip_prefix(self.key).is_some_and(|rest| rest == number.to_be_bytes().as_slice())
            }
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let place = (self.shard, self.stay).cmp(&(other.shard, other.stay));
        place.then_with(|| match (self.number, other.number) {
            (None, None) => self.key.cmp(other.key),
            _ => self.key_bytes().cmp(other.key_bytes()),
        })
    }

    fn key_bytes(&self) -> impl Iterator<Item = u8> {
        let number = self.number.map(u64::to_be_bytes);
        self.key.iter().copied().chain(number.into_iter().flatten())
    }
}

/// A round, ready to be ingested.
pub(super) struct Sorted<'b> {
    rows: std::vec::IntoIter<RowWrite<'b>>,
    bookkeeping: std::vec::IntoIter<Bookkeeping>,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl SortedRows for Sorted<'_> {
    fn next(&mut self) -> Option<(&[u8], Option<&[u8]>)> {
        let Some(row) = self.rows.next() else {
            (self.key, self.value) = self.bookkeeping.next()?;
            return Some((&self.key, self.value.as_deref()));
        };
        self.key.clear();
        self.key.extend_from_slice(&prefix(row.shard, row.stay));
        self.key.extend_from_slice(row.key);
        if let Some(number) = row.number {
            self.key.extend_from_slice(&number.to_be_bytes());
        }
        let value = match row.value {
            Value::Put(value) => Some(value),
            Value::Deleted | Value::Vanished => None,
        };
        Some((&self.key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, batch};

    fn sorted(batches: &[Batch]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut round = Round::default();
        for section in batches.iter().flat_map(Batch::sections) {
            round.add(&section, section.epoch).unwrap();
        }
        let mut sorted = round.into_sorted(&BTreeSet::new(), vec![(vec![0xff; 13], Some(b"about".to_vec()))]);
        let mut rows = Vec::new();
        while let Some((key, value)) = sorted.next() {
            rows.push((key[PREFIX.min(key.len())..].to_vec(), value.map(<[u8]>::to_vec)));
        }
        rows
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Batch {
        let mut batch = Batch::new();
        batch.section(ShardId(1), Epoch(1), 1, write);
        batch
    }

    #[test]
    fn the_newest_write_of_a_row_wins_and_rows_are_in_key_order() {
        let first = written(|out| {
            batch::put(&[b"b"], &[b"1"], out);
            batch::put(&[b"a"], &[b"2"], out);
            batch::put(&[b"c"], &[b"3"], out);
        });
        let second = written(|out| {
            batch::put(&[b"b"], &[b"4"], out);
            batch::delete(&[b"c"], out);
        });
        let rows = sorted(&[first, second]);
        let row = |key: &[u8], value: Option<&[u8]>| (key.to_vec(), value.map(<[u8]>::to_vec));
        assert_eq!(rows[..3], [row(b"a", Some(b"2")), row(b"b", Some(b"4")), row(b"c", None)]);
        assert_eq!(rows.len(), 4);
    }

    #[test]
    fn a_row_put_once_and_deleted_by_range_in_one_round_leaves_no_trace() {
        let number = |number: u64| number.to_be_bytes();
        let first = written(|out| {
            batch::put(&[b"o", &number(7)], &[b"x"], out);
            batch::put(&[b"o", &number(9)], &[b"y"], out);
            batch::put(&[b"o", &number(8)[..7]], &[b"shorter"], out);
        });
        let second = written(|out| batch::delete_range(&[b"o"], 5, 8, out));
        let keys: Vec<_> =
            sorted(&[first, second]).into_iter().map(|(key, value)| (key, value.is_some())).collect();
        let key = |number: u64, len: usize| [b"o", &number.to_be_bytes()[..len]].concat();
        assert_eq!(
            keys[..5],
            [
                (key(8, 7), true),
                (key(5, 8), false),
                (key(6, 8), false),
                (key(8, 8), false),
                (key(9, 8), true)
            ],
            "7 vanished; 5, 6 and 8 may be in the checkpoint, and 8 is covered too"
        );
    }
    #[test]
    fn rows_of_a_stay_that_ended_are_left_out_and_those_of_the_next_are_not_mixed_with_them() {
        let row = written(|out| batch::put(&[b"a"], &[b"1"], out));
        let section = row.sections().next().unwrap();
        let mut round = Round::default();
        for stay in [1, 5, 9] {
            round.add(&section, Epoch(stay)).unwrap();
        }
        let ended = [(ShardId(1), Epoch(1)), (ShardId(2), Epoch(9))].into();
        let mut sorted = round.into_sorted(&ended, Vec::new());
        for stay in [5, 9] {
            assert_eq!(sorted.next().unwrap().0, [&prefix(1, stay)[..], b"a"].concat());
        }
        assert!(sorted.next().is_none());
    }
}
