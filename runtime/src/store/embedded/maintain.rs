//! Maintenance: the durable log into the checkpoint, round after round, and what ended out of it. Also how a store
//! recovers when it is opened.

use std::collections::BTreeSet;
use std::io;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use super::bookkeeping::{self, Bookkeeping, Changes};
use super::checkpoint::prefix;
use super::round::Round;
use super::walk::{Span, Walk};
use super::{Inner, is_full, lock};
use crate::placement::{Epoch, ShardId};
use crate::store::fence::Fence;
use crate::store::{LoadError, OwnershipRecord, batch};

/// How many rows of an ended stay are dropped at once: what other ingestions wait for.
const DROPPED_AT_ONCE: usize = 1 << 14;

impl Inner {
    /// Brings the checkpoint up to the end of the log, before anything is served, and drops what nobody will read.
    pub(super) fn replay(&self) -> io::Result<()> {
        let mut covered = lock(&self.covered);
        self.rounds(&mut covered)?;
        *self.fence() = covered.clone();
        // Now the checkpoint is of all that was committed: a staging left in it was not accepted, and never will be.
        let books = bookkeeping::read(&*self.checkpoint)?;
        lock(&self.ended).extend(books.staged.into_iter().chain(books.ended));
        match self.drop_ended() {
            Err(error) if is_full(&error) => Ok(()),
            dropped => dropped,
        }
    }

    pub(super) fn maintain(&self) -> Result<(), LoadError> {
        let mut covered = lock(&self.covered);
        // Segments before rounds: room is what commits wait for. The checkpoint is tried on a full disk too, for it
        // may free segments.
        let spares = self.log.make_spares();
        let rounds = self.rounds(&mut covered);
        // Whoever waits for rows to be loadable does not wait for others to be dropped.
        drop(covered);
        let rounds = rounds.and_then(|()| self.drop_ended());
        let spares = spares.and_then(|()| self.log.make_spares());
        let mut full = false;
        for result in [spares, rounds] {
            match result {
                Err(error) if is_full(&error) => full = true,
                result => result?,
            }
        }
        self.log.set_disk_full(full);
        Ok(())
    }

    pub(super) fn make_loadable(&self) -> Result<(), LoadError> {
        Ok(self.rounds(&mut lock(&self.covered))?)
    }

    /// Takes the checkpoint for one ingestion.
    pub(super) fn ingesting(&self) -> MutexGuard<'_, ()> {
        lock(&self.ingesting)
    }

    /// Drops the rows of stays and stagings that are over, none named twice, unless they were dropped before.
    pub(super) fn drop_stays(&self, mut stays: &[(ShardId, Epoch)]) -> io::Result<()> {
        while !stays.is_empty() {
            let _ingesting = self.ingesting();
            let mut rows: Vec<Bookkeeping> = Vec::new();
            let (mut looked_at, mut dropped) = (0, Vec::new());
            for &(shard, stay) in stays {
                // Looked up anew each time: if it was dropped meanwhile, a staging may lie there that is not over.
                if lock(&self.ended).contains(&(shard, stay)) {
                    if !self.drop_some(shard, stay, &mut rows)? {
                        break;
                    }
                    dropped.push((shard, stay));
                }
                looked_at += 1;
            }
            if !rows.is_empty() {
                self.checkpoint.ingest(&mut Changes::new(rows))?;
            }
            // Not those that were not over: one of them may be by now, and its rows are there.
            lock(&self.ended).retain(|stay| !dropped.contains(stay));
            stays = &stays[looked_at..];
        }
        Ok(())
    }

    /// Puts what drops the rows of a stay behind `rows`, as much as fits. Whether that is all of them.
    fn drop_some(&self, shard: ShardId, stay: Epoch, rows: &mut Vec<Bookkeeping>) -> io::Result<bool> {
        let from = prefix(shard.0, stay.0);
        // An epoch from another node may be the highest there is.
        let below = stay.0.checked_add(1).map_or(prefix(shard.0 + 1, 0), |next| prefix(shard.0, next));
        let before = rows.len();
        self.checkpoint.scan(&from, &below, &mut |key, _| {
            rows.push((key.to_vec(), None));
            rows.len() < DROPPED_AT_ONCE
        })?;
        if DROPPED_AT_ONCE <= rows.len() {
            return Ok(false);
        }
        if before < rows.len() || bookkeeping::has_stay(&*self.checkpoint, shard, stay)? {
            rows.extend([bookkeeping::staged(shard, stay, None), bookkeeping::ended(shard, stay, false)]);
        }
        Ok(true)
    }

    fn drop_ended(&self) -> io::Result<()> {
        let ended: Vec<_> = lock(&self.ended).iter().copied().collect();
        // A round may be ahead of the lane, whose group is durable before the fence has taken it. Until then the rows
        // are read.
        let unread = |&(shard, stay): &(ShardId, Epoch)| !self.fence().is_read(shard, stay);
        let unread: Vec<_> = ended.into_iter().filter(unread).collect();
        self.drop_stays(&unread)
    }

    /// Ingests the log up to what is durable now.
    fn rounds(&self, covered: &mut Fence) -> io::Result<()> {
        let through = self.log.durable();
        while self.loadable() < through {
            self.round(covered, through)?;
        }
        Ok(())
    }

    fn round(&self, covered: &mut Fence, through: u64) -> io::Result<()> {
        let live = self.log.live();
        let mut walk = Walk::new(&live, self.log.store, self.loadable());
        let mut spans = Vec::new();
        let mut len = 0;
        while len < self.config.round_bytes
            && let Some(span) = walk.next_span(through)?
        {
            len += span.len();
            spans.push(span);
        }
        if spans.is_empty() {
            return Err(invalid(format!(
                "what was durable at position {} can no longer be read",
                walk.position
            )));
        }
        let mut after = covered.clone();
        let (round, changes) = self.coalesce(&spans, &mut after)?;
        let ended = changes.ended;
        let mut bookkeeping = vec![bookkeeping::position(walk.position)];
        for (shard, ownership) in after.known() {
            if changes.touched[shard.0 as usize] {
                bookkeeping.push(bookkeeping::shard(shard, &ownership));
            }
        }
        for (shard, stay) in changes.accepted {
            bookkeeping.push(bookkeeping::staged(shard, stay, None));
        }
        for (shard, stay) in &ended {
            bookkeeping.push(bookkeeping::ended(*shard, *stay, true));
        }
        {
            let _ingesting = self.ingesting();
            self.checkpoint.ingest(&mut round.into_sorted(&ended, bookkeeping))?;
        }
        *covered = after;
        lock(&self.ended).extend(ended);
        self.loadable.store(walk.position, Ordering::Release);
        self.log.recycle(walk.position);
        Ok(())
    }

    /// Takes the sections of a stretch of the log, each into the stay it was written in.
    fn coalesce<'s>(&self, spans: &'s [Span], after: &mut Fence) -> io::Result<(Round<'s>, Changed)> {
        let mut round = Round::default();
        let mut changed = Changed {
            touched: vec![false; self.founding.shards.count() as usize],
            accepted: Vec::new(),
            ended: BTreeSet::new(),
        };
        for bytes in spans.iter().flat_map(Span::batches) {
            for section in batch::sections(bytes) {
                let section = section.map_err(|error| invalid(error.to_string()))?;
                let (shard, number) = (section.shard, section.number);
                let stay = after.take(&section).ok_or_else(|| {
                    invalid(format!("section {number} of {shard} does not continue its numbers"))
                })?;
                changed.touched[shard.0 as usize] = true;
                if let Some(record) = section.record() {
                    self.note_change(
                        shard,
                        stay,
                        &record.map_err(|error| invalid(error.to_string()))?,
                        &mut changed,
                    )?;
                }
                round
                    .add(&section, stay)
                    .ok_or_else(|| invalid(format!("a section of {shard} is unreadable")))?;
            }
        }
        Ok((round, changed))
    }

    fn note_change(
        &self,
        shard: ShardId,
        stay: Epoch,
        record: &OwnershipRecord,
        changed: &mut Changed,
    ) -> io::Result<()> {
        match record {
            OwnershipRecord::Accept { transfer, .. } => {
                // It was synced before the record was written, so that it is missing only where the disk lost it.
                if bookkeeping::read_staged(&*self.checkpoint, shard, stay)? != Some(*transfer) {
                    return Err(invalid(format!(
                        "the rows of {shard} that were accepted under {stay} are missing"
                    )));
                }
                changed.accepted.push((shard, stay));
            }
            OwnershipRecord::Moved { .. } => {
                changed.ended.insert((shard, stay));
            }
            OwnershipRecord::Seal { .. } | OwnershipRecord::Reopen { .. } => {}
        }
        Ok(())
    }
}

/// What a round changes beside rows.
struct Changed {
    /// By shard: whether it had a section.
    touched: Vec<bool>,
    accepted: Vec<(ShardId, Epoch)>,
    ended: BTreeSet<(ShardId, Epoch)>,
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
