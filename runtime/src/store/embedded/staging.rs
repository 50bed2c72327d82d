//! Staging: the rows of a shard on its way here, in the checkpoint under the stay that is yet to begin (P18).
//!
//! They are durable before the record that accepts them is written, and of nobody until then: no load finds them, and an open
//! that finds no such record drops them.

use std::io;
use std::ops::Range;

use super::bookkeeping::{self, Bookkeeping};
use super::checkpoint::{PREFIX, SortedRows, row_key};
use super::{Inner, is_full, lock};
use crate::placement::{Epoch, ShardId};
use crate::store::staging::check_rows;
use crate::store::{StageError, StagedRow, ToStage, TransferId};

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
        // Under this epoch there may be one that was given up and could not be dropped.
        let over: Vec<_> = before
            .into_iter()
            .filter(|before| *before != epoch)
            .chain([epoch])
            .map(|stay| (shard, stay))
            .collect();
        let begun = self.drop_stays(&over);
        if begun.is_ok() {
            lock(&self.stagings).put_down(shard);
        } else {
            lock(&self.ended).insert((shard, epoch));
            lock(&self.stagings).remove(shard);
        }
        Ok(begun?)
    }

    pub(super) fn stage_all(&self, stagings: &[ToStage<'_>]) -> Vec<Result<(), StageError>> {
        let mut answers: Vec<_> = stagings.iter().map(|staging| self.take_up(staging)).collect();
        let mut taken: Vec<_> = stagings.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).collect();
        taken.sort_unstable_by_key(|(staging, _)| staging.shard);
        let taken: Vec<ToStage<'_>> = taken.into_iter().map(|(staging, _)| *staging).collect();
        if taken.is_empty() {
            return answers;
        }
        let mut staged = vec![self.ingest_staged(&taken)];
        if 1 < taken.len() && staged[0].as_ref().is_err_and(is_full) {
            // A large one leaves no room for the others, which may fit.
            staged = taken.iter().map(|staging| self.ingest_staged(std::slice::from_ref(staging))).collect();
        }
        let mut shards = lock(&self.stagings);
        for (at, staging) in taken.iter().enumerate() {
            match staged.get(at).unwrap_or(&staged[0]) {
                Ok(()) => shards.note(staging.shard),
                Err(error) => {
                    let error = io::Error::new(error.kind(), error.to_string());
                    let asked = stagings.iter().zip(&mut answers);
                    let mut answer = asked.filter(|(to, answer)| to.shard == staging.shard && answer.is_ok());
                    *answer.next().expect("it was taken up").1 = Err(error.into());
                }
            }
            shards.put_down(staging.shard);
        }
        answers
    }

    fn ingest_staged(&self, stagings: &[ToStage<'_>]) -> io::Result<()> {
        let _ingesting = self.ingesting();
        self.checkpoint.ingest(&mut Staged::new(stagings))
    }

    fn take_up(&self, staging: &ToStage<'_>) -> Result<(), StageError> {
        check_rows(staging.shard, staging.rows)?;
        lock(&self.stagings).take_up(staging.shard, staging.epoch, staging.transfer)
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
        let dropped = self.drop_stays(&[(shard, epoch)]);
        lock(&self.stagings).remove(shard);
        match dropped {
            // It is nobody's all the same, and maintenance drops it when there is room.
            Err(error) if is_full(&error) => Ok(()),
            dropped => Ok(dropped?),
        }
    }
}

/// Rows on their way into stagings, by shard, and behind them the notes of the stagings: whatever is there has one.
struct Staged<'r> {
    rows: Box<dyn Iterator<Item = (ShardId, Epoch, StagedRow<'r>)> + 'r>,
    notes: std::vec::IntoIter<Bookkeeping>,
    key: Vec<u8>,
    note: Option<Vec<u8>>,
}

impl<'r> Staged<'r> {
    fn new(stagings: &'r [ToStage<'r>]) -> Self {
        let note = |to: &ToStage<'_>| bookkeeping::staged(to.shard, to.epoch, Some(to.transfer));
        let notes: Vec<_> = stagings.iter().map(note).collect();
        let rows = stagings.iter().flat_map(|to| to.rows.iter().map(|row| (to.shard, to.epoch, *row)));
        Self { rows: Box::new(rows), notes: notes.into_iter(), key: Vec::new(), note: None }
    }
}

impl SortedRows for Staged<'_> {
    fn next(&mut self) -> Option<(&[u8], Option<&[u8]>)> {
        if let Some((shard, epoch, (key, value))) = self.rows.next() {
            self.key = row_key(shard, epoch, key);
            return Some((&self.key, value));
        }
        (self.key, self.note) = self.notes.next()?;
        Some((&self.key, self.note.as_deref()))
    }
}
