//! The store: batches in, rows out. One trait, one conformance suite, several engines.
//!
//! A [`Store`] keeps what its [`Lane`]s have committed. Everything the rest of the runtime promises rests on five
//! sentences, which the conformance suite holds against every engine:
//!
//! 1. When [`Lane::commit`] returns `Ok`, the batches survive any crash; when it returns an error, see [`CommitError`].
//! 2. A batch is visible whole or not at all, and no batch is visible without those before it in its lane.
//! 3. A batch under a stale epoch, or out of number for one of its shards, changes nothing.
//! 4. What [`Lane::commit_and_confirm`] confirms was still so when it began (P14).
//! 5. [`Store::load_rows`] and [`Store::load_images`] return the newest committed rows up to [`Store::loadable`].
//!
//! Whose a shard is, is such a durable fact too ([`Ownership`]). It changes by records in the shard's own sections, so that
//! the fence, the chain and the crash behaviour are those of every other commit. What a shard brings along when it comes is
//! staged beside the log before ([`Store::stage`]), and is of nobody until the record that accepts it is durable.
//!
//! Engines do blocking I/O and know no clock, thread or channel: the worker's ring gives each lane a thread of its own,
//! and the simulator calls them in the order of its seed.

pub mod batch;
#[cfg(test)]
mod conformance;
pub mod disk;
pub mod embedded;
mod fence;
mod founding;
pub mod memory;
mod notes;
mod ownership;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod row;
mod shared;
mod staging;

pub use batch::{Batch, Section};
pub use founding::{Founding, StoreIdentity};
pub use notes::{NOTE_BYTES_MAX, NOTE_NAME_LEN_MAX};
pub use ownership::{FOUNDED, Ownership, OwnershipRecord, TransferId};
pub use row::{Row, RowType, Write};
pub use shared::{
    Ledger, LedgerNode, LedgerShard, NodeSays, Presence, ServerReport, SharedError, SharedStore, StoreReport,
    TAKES_MAX,
};
pub use staging::{STAGED_KEY_LEN_MAX, StageError, StagedRow, ToStage};

use crate::placement::{Epoch, ShardId, Shards};
use std::{ops::Range, path::Path};

/// A sequence of batches that become durable in order (P13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u32);

/// A place in a lane, rising with every commit. Positions of different lanes cannot be compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// A shard this store may commit to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnedShard {
    /// The shard.
    pub shard: ShardId,
    /// The epoch of its ownership.
    pub epoch: Epoch,
    /// The number of its last committed section; the next is one higher.
    pub number: u64,
}

/// Names one image: a shard with the epoch it is owned under, and the row key of the entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageKey {
    /// The entity's shard.
    pub shard: ShardId,
    /// The epoch the shard is owned under.
    pub epoch: Epoch,
    /// The row's key: [`RowType::Image`], kind, zero, key.
    pub key: Vec<u8>,
}

/// Why a group of batches did not commit.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing of the group was written: another owner has the shard, or its number does not continue. The lane's
    /// memory is void; shards still owned may be loaded and served again.
    #[error("{0} is owned under another epoch or its batches do not continue")]
    Fenced(ShardId),
    /// Nothing of the group was written, for another reason: what it would accept is not staged, say. The lane's memory is
    /// void, as after `Fenced`.
    #[error("the group was not written: {0}")]
    Failed(std::io::Error),
    /// Nothing of the group was written, and the same group may be committed a while later: the store cannot be reached, has no
    /// room, or too much to do. No batch of the lane may overtake it.
    #[error("the group was not written yet: {0}")]
    Later(std::io::Error),
    /// The group may be written or not. Commit the same group again: what was written is known by its numbers.
    #[error("it is not known whether the group was written: {0}")]
    Unknown(std::io::Error),
    /// The medium can no longer be trusted (a failed sync is never retried). The node must stop and start from disk.
    #[error("the store has failed and must be opened anew: {0}")]
    Fatal(std::io::Error),
}

/// Why rows could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The medium failed or is corrupt; the node must stop.
    #[error("cannot read the store: {0}")]
    Io(std::io::Error),
    /// The shard is not owned under this epoch.
    #[error("{0} is not owned here under this epoch")]
    NotOwned(ShardId),
    /// The store cannot be read now, and nothing is wrong with it: ask again a while later.
    #[error("the store cannot be read now: {0}")]
    Later(std::io::Error),
}

impl From<std::io::Error> for LoadError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Why room for a batch was not granted. Asked before turns run, so that a submitted batch never fails for lack of it (P15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The log is as long as it may be; the checkpoint will shorten it soon.
    LogTail,
    /// The disk is full.
    DiskFull,
}

/// Keeps the rows of shards. See the module for what every engine promises.
pub trait Store: Send + Sync + 'static {
    /// How many shards the store was founded with.
    fn shards(&self) -> Shards;

    /// How many lanes there are, numbered from 0.
    fn lanes(&self) -> u32;

    /// The lane of a shard. It never changes while the store is open.
    fn lane_of(&self, shard: ShardId) -> LaneId;

    /// Who this store is, for other nodes (P19).
    fn identity(&self) -> StoreIdentity;

    /// The shards this store owns.
    ///
    /// # Errors
    /// The medium failed.
    fn owned(&self) -> Result<Vec<OwnedShard>, LoadError>;

    /// What this store knows of every shard that is or was here: all that are not [`Ownership::Foreign`], in order.
    ///
    /// # Errors
    /// The medium failed.
    fn ownership(&self) -> Result<Vec<(ShardId, Ownership)>, LoadError>;

    /// As in [`Store::owned`], of one shard, with the number as of now: where others write to the store, what is remembered of it
    /// may be old.
    ///
    /// # Errors
    /// The medium failed.
    fn owned_shard(&self, shard: ShardId) -> Result<Option<OwnedShard>, LoadError> {
        Ok(self.owned()?.into_iter().find(|owned| owned.shard == shard))
    }

    /// What it has beside, where several nodes write to it.
    fn shared(&self) -> Option<&dyn SharedStore> {
        None
    }

    /// The writing end of a lane. Taken once for each lane.
    ///
    /// # Panics
    /// A lane is taken twice.
    fn open_lane(&self, lane: LaneId) -> Box<dyn Lane>;

    /// Visits the rows of a shard from one key up to below another, of one moment and in key order, until `visit` returns
    /// false.
    ///
    /// # Errors
    /// The shard is neither owned nor sealed under `epoch`, or the medium failed. It may have been found out last, behind
    /// rows that are none then.
    fn load_rows(
        &self,
        shard: ShardId,
        epoch: Epoch,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), LoadError>;

    /// All rows of a shard but its images, in key order.
    ///
    /// # Errors
    /// As [`Store::load_rows`].
    fn load_shard(&self, shard: ShardId, epoch: Epoch) -> Result<Vec<Row>, LoadError> {
        let mut rows = Vec::new();
        self.load_rows(shard, epoch, &[]..&[RowType::Image as u8], &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        })?;
        Ok(rows)
    }

    /// The values of images, `None` for an entity that has none. Same order as `keys`.
    ///
    /// # Errors
    /// A shard is neither owned nor sealed under its epoch, or the medium failed.
    fn load_images(&self, keys: &[ImageKey]) -> Result<Vec<Option<Vec<u8>>>, LoadError>;

    /// Begins to stage a shard that is on its way here, to be owned under `epoch` (P18). Nothing is staged then: whatever an
    /// earlier transfer left of the shard is dropped, also one under the same epoch or of the same id. It can be accepted once
    /// it was [staged](Store::stage) to, if only no rows, and is forgotten by the next open unless it was.
    ///
    /// # Errors
    /// See [`StageError`]. Nothing is staged then either.
    fn begin_staging(&self, shard: ShardId, epoch: Epoch, transfer: TransferId) -> Result<(), StageError>;

    /// Stages rows of shards, each in ascending order of their keys, over those that its transfer staged before. Durable when it
    /// returns, with as many syncs for many shards as for one; commits and loads go on beside it. One answer for each, in order.
    ///
    /// # Errors
    /// See [`StageError`]. None of that shard's rows is staged then.
    fn stage_all(&self, stagings: &[ToStage<'_>]) -> Vec<Result<(), StageError>>;

    /// As [`Store::stage_all`], for one shard.
    ///
    /// # Errors
    /// As there.
    fn stage(
        &self,
        shard: ShardId,
        epoch: Epoch,
        transfer: TransferId,
        rows: &[StagedRow<'_>],
    ) -> Result<(), StageError> {
        let mut answers = self.stage_all(&[ToStage { shard, epoch, transfer, rows }]);
        answers.pop().expect("one answer for each")
    }

    /// Visits what was staged so far, as [`Store::load_rows`] does: to count and hash it before it is accepted.
    ///
    /// # Errors
    /// See [`StageError`].
    fn load_staged(
        &self,
        shard: ShardId,
        epoch: Epoch,
        transfer: TransferId,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StageError>;

    /// Gives a staging up: it can no longer be accepted, and its rows are dropped. No error where there is none.
    ///
    /// # Errors
    /// See [`StageError`].
    fn sweep_staging(&self, shard: ShardId, epoch: Epoch, transfer: TransferId) -> Result<(), StageError>;

    /// A note that was kept; `None` if none was under this name, which is of lower-case letters, digits and hyphens.
    ///
    /// # Errors
    /// The medium failed, or the note is damaged: [`io::ErrorKind::InvalidData`](std::io::ErrorKind::InvalidData).
    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LoadError>;

    /// Keeps a small value beside the shards, in place of the one under the same name: what a node knows of others (P19).
    /// Durable when it returns; after a crash before that it is the new one or the old.
    ///
    /// # Errors
    /// The medium failed. Where it was full, or the note is longer than [`NOTE_BYTES_MAX`]
    /// ([`io::ErrorKind::InvalidInput`](std::io::ErrorKind::InvalidInput)), the old note is there and the store goes on.
    fn keep_note(&self, name: &str, bytes: &[u8]) -> Result<(), LoadError>;

    /// Up to which position of a lane loads see what was committed. What was committed later must be kept in memory
    /// by whoever may need it (P12). It only rises, and a load that *begins* after it was read sees at least as much; one
    /// that was already under way may see less.
    fn loadable(&self, lane: LaneId) -> Position;

    /// Up to which position of a lane commits are durable.
    fn durable(&self, lane: LaneId) -> Position;

    /// Lets loads find everything of a lane that is durable by now, where [`Store::maintain`] alone may leave that for later.
    ///
    /// # Errors
    /// The medium failed, or was too full to do it ([`io::ErrorKind::StorageFull`](std::io::ErrorKind::StorageFull)): then the
    /// store goes on, and it may be tried again.
    fn make_loadable(&self, lane: LaneId) -> Result<(), LoadError> {
        let through = self.durable(lane);
        self.maintain()?;
        if self.loadable(lane) < through {
            return Err(LoadError::Io(std::io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    /// Sets aside room for a batch of up to `bytes`, to be given back by [`Store::release`] or used by a commit
    /// of it. The bytes are those of [`Batch::bytes`]; what frames them in the log is the store's business.
    ///
    /// # Errors
    /// There is no room now. A batch longer than the engine can ever take is never granted: bound batches far below.
    fn reserve(&self, lane: LaneId, bytes: u64) -> Result<(), NoRoom>;

    /// Gives room back.
    fn release(&self, lane: LaneId, bytes: u64);

    /// Cuts room set aside for a batch down to what the batch has become, so that the next one is not refused for it.
    ///
    /// # Panics
    /// `to` is more than `from`.
    fn shrink(&self, lane: LaneId, from: u64, to: u64);

    /// The most bytes a batch may have: a longer one is never granted room.
    fn batch_bytes_max(&self) -> u64 {
        u64::MAX
    }

    /// The most bytes that one group should have: longer ones are committed in several, each of whole batches.
    fn group_bytes_max(&self) -> u64 {
        u64::MAX
    }

    /// The directory that this store alone uses, where there is one. A node keeps a note of its own there ([`Store::was_clean`]).
    fn data_dir(&self) -> Option<&Path> {
        None
    }

    /// Whether the run before this one ended with [`Store::close`], or there was none. After a run that did not, what
    /// was pending may be what ended it (P3).
    fn was_clean(&self) -> bool {
        true
    }

    /// Whether [`Store::maintain`] has work: the log has grown past a share of its budget, segments are missing, or rows are
    /// to be dropped.
    fn wants_maintenance(&self) -> bool;

    /// Moves committed rows to where loads find them and frees what is no longer needed, the rows of shards that moved
    /// away among it. Blocks for as long as it takes; commits go on beside it, and a second call waits for the first.
    ///
    /// # Errors
    /// The medium failed; a full disk is no error here but shows in [`Store::reserve`].
    fn maintain(&self) -> Result<(), LoadError>;

    /// Ends the run in peace, so that the next open has little to recover. Nothing is committed after it.
    ///
    /// # Errors
    /// The medium failed; the next open recovers as after a crash.
    fn close(&self) -> Result<(), LoadError> {
        Ok(())
    }
}

/// The writing end of a lane.
pub trait Lane: Send {
    /// Makes a group of batches durable, in order, with one sync, and returns the position behind the last of them.
    /// The room each reserved stays reserved until released. A batch without reserved room may be refused, with
    /// [`CommitError::Failed`] for its whole group.
    ///
    /// # Errors
    /// See [`CommitError`] for what each means and who does what.
    fn commit(&mut self, group: &[Batch]) -> Result<Position, CommitError>;

    /// As [`Lane::commit`], and confirms that the shards named are still owned under these epochs, by a check that begins after
    /// the call (P14). None of them has a section in the group. The group may be empty: then nothing is written, and the
    /// position is that of nothing. An engine to which nobody else can write has nothing to check.
    ///
    /// # Errors
    /// As [`Lane::commit`]; [`CommitError::Fenced`] also where one of the shards named is not owned so any more.
    fn commit_and_confirm(
        &mut self,
        group: &[Batch],
        shown: &[(ShardId, Epoch)],
    ) -> Result<Position, CommitError> {
        let _ = shown;
        if group.is_empty() { Ok(Position::default()) } else { self.commit(group) }
    }

    /// Called in a quiet moment, with nothing to commit and the last commit some time ago.
    ///
    /// # Errors
    /// As [`Lane::commit`].
    fn quiet(&mut self) -> Result<(), CommitError>;
}
