//! Rows in memory.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::placement::{Epoch, ShardId};
use crate::store::Write;

/// Rows by shard and stay, so that a shard that left and came back does not meet its past (P16).
#[derive(Debug, Default, Clone)]
pub(super) struct Rows(BTreeMap<(ShardId, Epoch, Vec<u8>), Vec<u8>>);

impl Rows {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, shard: ShardId, stay: Epoch, key: &[u8]) -> Option<&Vec<u8>> {
        self.0.get(&(shard, stay, key.to_vec()))
    }

    pub(super) fn put(&mut self, shard: ShardId, stay: Epoch, key: &[u8], value: &[u8]) {
        self.0.insert((shard, stay, key.to_vec()), value.to_vec());
    }

    pub(super) fn remove(&mut self, shard: ShardId, stay: Epoch, key: &[u8]) {
        self.0.remove(&(shard, stay, key.to_vec()));
    }

    pub(super) fn visit(
        &self,
        shard: ShardId,
        stay: Epoch,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        let row = |key: &[u8]| (shard, stay, key.to_vec());
        let mut rows = self.0.range(row(keys.start)..row(keys.end));
        let _ = rows.all(|((_, _, key), value)| visit(key, value));
    }

    pub(super) fn write(&mut self, shard: ShardId, stay: Epoch, write: &Write<'_>) {
        match *write {
            Write::Put { key, value } => self.put(shard, stay, key, value),
            Write::Delete { key } => self.remove(shard, stay, key),
            Write::DeleteRange { prefix, from, through } => {
                let numbered = |number: u64| (shard, stay, [prefix, &number.to_be_bytes()].concat());
                let range = numbered(from)..=numbered(through);
                let len = prefix.len() + 8;
                let gone: Vec<_> = self.0.range(range).map(|(id, _)| id.clone()).collect();
                for id in gone.iter().filter(|(_, _, key)| key.len() == len) {
                    self.0.remove(id);
                }
            }
        }
    }

    pub(super) fn drop_stay(&mut self, shard: ShardId, stay: Epoch) {
        self.0.retain(|(row_shard, row_stay, _), _| (*row_shard, *row_stay) != (shard, stay));
    }
}
