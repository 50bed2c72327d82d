//! Staging: the rows of a shard on its way here, in the checkpoint under the stay that is yet to begin (P18).
//!
//! They are durable before the record that accepts them is written, and of nobody until then: no load finds them, and an open
//! that finds no such record drops them.

use std::io;
use std::ops::Range;

use super::bookkeeping::{self, Changes};
use super::checkpoint::{PREFIX, SortedRows, row_key};
use super::{Inner, is_full, lock};
use crate::placement::{Epoch, ShardId};
use crate::store::staging::check_rows;
use crate::store::{StageError, StagedRow, TransferId};

impl Inner {
    pub(super) fn begin_staging(
        &self,
        shard: ShardId,
        epoch: Epoch,
        transfer: TransferId,
    ) -> Result<(), StageError> {
        let before = lock(&self.stagings).begin(&self.fence(), shard, epoch, transfer)?;
        // From here on what lies there is over. Where it cannot be dropped now, maintenance will.
        lock(&self.ended).extend(before.map(|before| (shard, before)));
        let begun = self.begin_empty(shard, before, epoch, transfer);
        if begun.is_ok() {
            lock(&self.stagings).put_down(shard);
        } else {
            lock(&self.ended).insert((shard, epoch));
            lock(&self.stagings).remove(shard);
        }
        Ok(begun?)
    }

    fn begin_empty(
        &self,
        shard: ShardId,
        before: Option<Epoch>,
        epoch: Epoch,
        transfer: TransferId,
    ) -> io::Result<()> {
        // Under this epoch there may be one that was given up and could not be dropped.
        for over in before.into_iter().chain([epoch]) {
            self.drop_stay(shard, over)?;
        }
        let _ingesting = self.ingesting();
        self.checkpoint.ingest(&mut Changes::new(vec![bookkeeping::staged(shard, epoch, Some(transfer))]))
    }

    pub(super) fn stage(
        &self,
        shard: ShardId,
        epoch: Epoch,
        transfer: TransferId,
        rows: &[StagedRow<'_>],
    ) -> Result<(), StageError> {
        check_rows(shard, rows)?;
        lock(&self.stagings).take_up(shard, epoch, transfer)?;
        let staged = {
            let _ingesting = self.ingesting();
            self.checkpoint.ingest(&mut Staged { shard, epoch, rows: rows.iter(), key: Vec::new() })
        };
        lock(&self.stagings).put_down(shard);
        Ok(staged?)
    }

    pub(super) fn load_staged(
        &self,
        shard: ShardId,
        epoch: Epoch,
        transfer: TransferId,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StageError> {
        lock(&self.stagings).take_up(shard, epoch, transfer)?;
        let (from, below) = (row_key(shard, epoch, keys.start), row_key(shard, epoch, keys.end));
        let read = self.checkpoint.scan(&from, &below, &mut |key, value| visit(&key[PREFIX..], value));
        lock(&self.stagings).put_down(shard);
        Ok(read?)
    }

    pub(super) fn sweep_staging(
        &self,
        shard: ShardId,
        epoch: Epoch,
        transfer: TransferId,
    ) -> Result<(), StageError> {
        match lock(&self.stagings).take_up(shard, epoch, transfer) {
            Ok(()) => {}
            Err(StageError::NotStaged(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        lock(&self.ended).insert((shard, epoch));
        let dropped = self.drop_stay(shard, epoch);
        lock(&self.stagings).remove(shard);
        match dropped {
            // It is nobody's all the same, and maintenance drops it when there is room.
            Err(error) if is_full(&error) => Ok(()),
            dropped => Ok(dropped?),
        }
    }
}

/// Rows on their way into a staging.
struct Staged<'r> {
    shard: ShardId,
    epoch: Epoch,
    rows: std::slice::Iter<'r, StagedRow<'r>>,
    key: Vec<u8>,
}

impl SortedRows for Staged<'_> {
    fn next(&mut self) -> Option<(&[u8], Option<&[u8]>)> {
        let (key, value) = self.rows.next()?;
        self.key = row_key(self.shard, self.epoch, key);
        Some((&self.key, *value))
    }
}
