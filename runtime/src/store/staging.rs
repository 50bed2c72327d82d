//! Which transfer each shard is being staged by: who may write, sweep and accept what lies beside the shards (P18).
//!
//! ```text
//!  begin ──> Idle ──> Writing (one call that stages, reads or sweeps)
//!             │  <──────┘
//!             └─────> Accepting ──> accepted: the staging is the shard; only what was staged to can be
//! ```

use std::collections::BTreeMap;
use std::io;

use super::fence::Fence;
use super::{CommitError, TransferId};
use crate::placement::{Epoch, ShardId};

/// The longest key of a row that may be staged. A longer one was written by no kernel.
pub const STAGED_KEY_LEN_MAX: usize = 4_096;

/// A row to be staged: its key, and its value or that it is gone.
pub type StagedRow<'r> = (&'r [u8], Option<&'r [u8]>);

/// Rows of one shard to be staged.
#[derive(Debug, Clone, Copy)]
pub struct ToStage<'r> {
    /// The shard.
    pub shard: ShardId,
    /// Under which it is to be owned here.
    pub epoch: Epoch,
    /// What they are staged for.
    pub transfer: TransferId,
    /// The rows, in ascending order of their keys.
    pub rows: &'r [StagedRow<'r>],
}

/// Why something was not staged. But for `Io`, the store goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The medium failed or is corrupt; the node must stop.
    #[error("cannot stage: {0}")]
    Io(io::Error),
    /// The disk is full. Nothing of the call is stored, and it may be tried again.
    #[error("cannot stage: the disk is full")]
    Full,
    /// The shard is here, or an epoch of it is known that is not below the one offered.
    #[error("{0} is owned or sealed here, or a later epoch of it is known")]
    Stale(ShardId),
    /// The transfer is not the one that began last for the shard, or it was swept. It has to begin again.
    #[error("this transfer of {0} is not the one being staged")]
    NotStaged(ShardId),
    /// Another call for the shard is under way, or its accepting commit.
    #[error("{0} is being staged or accepted by another call")]
    Busy(ShardId),
    /// The rows are not in ascending order of their keys, or a key is longer than [`STAGED_KEY_LEN_MAX`].
    #[error("rows of {0} are out of order, or the key of one is too long")]
    Rows(ShardId),
}

impl From<io::Error> for StageError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io(error),
        }
    }
}

/// The transfers being staged: one for each shard, so at most as many as there are shards.
#[derive(Debug, Default)]
pub(super) struct Stagings {
    shards: BTreeMap<ShardId, Staging>,
}

#[derive(Debug, Clone, Copy)]
struct Staging {
    epoch: Epoch,
    transfer: TransferId,
    stage: Stage,
    /// The store has a durable note of it, without which a record that accepts it would be one of nothing.
    is_noted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    Writing,
    Accepting,
}

impl Stagings {
    /// Lets a transfer begin in place of any other of its shard; writing, until it is [put down](Self::put_down). Returns
    /// the epoch under which the one before was staged.
    pub(super) fn begin(
        &mut self,
        fence: &Fence,
        shard: ShardId,
        epoch: Epoch,
        transfer: TransferId,
    ) -> Result<Option<Epoch>, StageError> {
        let before = self.shards.get(&shard).copied();
        if before.is_some_and(|before| before.stage != Stage::Idle) {
            return Err(StageError::Busy(shard));
        }
        if !fence.get(shard).is_some_and(|ownership| ownership.may_accept(epoch)) {
            return Err(StageError::Stale(shard));
        }
        self.shards.insert(shard, Staging { epoch, transfer, stage: Stage::Writing, is_noted: false });
        Ok(before.map(|before| before.epoch))
    }

    /// Takes a staging up, to write to it or to read it.
    pub(super) fn take_up(
        &mut self,
        shard: ShardId,
        epoch: Epoch,
        transfer: TransferId,
    ) -> Result<(), StageError> {
        let staging = self.find(shard, epoch, transfer).ok_or(StageError::NotStaged(shard))?;
        if staging.stage != Stage::Idle {
            return Err(StageError::Busy(shard));
        }
        staging.stage = Stage::Writing;
        Ok(())
    }

    /// Ends [`Self::take_up`] or [`Self::begin`].
    pub(super) fn put_down(&mut self, shard: ShardId) {
        let staging = self.shards.get_mut(&shard).expect("nobody ends a staging that is written to");
        assert_eq!(staging.stage, Stage::Writing, "it is put down by who took it up");
        staging.stage = Stage::Idle;
    }

    /// Something was staged durably, so that from here on it can be accepted.
    pub(super) fn note(&mut self, shard: ShardId) {
        self.shards.get_mut(&shard).expect("nobody ends a staging that is written to").is_noted = true;
    }

    /// The staging is no more.
    pub(super) fn remove(&mut self, shard: ShardId) {
        self.shards.remove(&shard);
    }

    fn find(&mut self, shard: ShardId, epoch: Epoch, transfer: TransferId) -> Option<&mut Staging> {
        let staging = self.shards.get_mut(&shard)?;
        ((staging.epoch, staging.transfer) == (epoch, transfer)).then_some(staging)
    }

    /// Holds what a commit is about to accept. All or nothing: a shard whose staging is another one, or is being written
    /// to, is a mistake of whoever drives the hand-off, and no reason to stop the node.
    pub(super) fn hold(&mut self, accepts: &[(ShardId, Epoch, TransferId)]) -> Result<(), CommitError> {
        for &(shard, epoch, transfer) in accepts {
            let staging = self.find(shard, epoch, transfer);
            if !staging.is_some_and(|staging| staging.stage == Stage::Idle && staging.is_noted) {
                let what = format!("what would be accepted of {shard} is not staged");
                return Err(CommitError::Failed(io::Error::new(io::ErrorKind::InvalidInput, what)));
            }
        }
        for (shard, ..) in accepts {
            self.shards.get_mut(shard).expect("just found").stage = Stage::Accepting;
        }
        Ok(())
    }

    /// What was held is accepted; called when the fence has taken it.
    pub(super) fn accepted(&mut self, accepts: &[(ShardId, Epoch, TransferId)]) {
        for (shard, ..) in accepts {
            self.shards.remove(shard);
        }
    }

    /// All of them, with their epochs, and none from here on.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (ShardId, Epoch)> + use<> {
        std::mem::take(&mut self.shards).into_iter().map(|(shard, staging)| (shard, staging.epoch))
    }
}

/// Checks rows that came from another node: ascending, none twice, no key that a store cannot keep.
pub(super) fn check_rows(shard: ShardId, rows: &[StagedRow<'_>]) -> Result<(), StageError> {
    let is_ascending = rows.is_sorted_by(|(first, _), (second, _)| first < second);
    let fits = rows.iter().all(|(key, _)| key.len() <= STAGED_KEY_LEN_MAX);
    if is_ascending && fits { Ok(()) } else { Err(StageError::Rows(shard)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Shards;

    const SHARD: ShardId = ShardId(1);
    const STAGED: (ShardId, Epoch, TransferId) = (SHARD, Epoch(3), TransferId(7));

    fn begun() -> (Fence, Stagings) {
        let fence = Fence::founded(Shards::new(4).unwrap(), false);
        let mut stagings = Stagings::default();
        assert_eq!(stagings.begin(&fence, SHARD, Epoch(3), TransferId(7)).unwrap(), None);
        (fence, stagings)
    }

    fn take_up(stagings: &mut Stagings) -> Result<(), StageError> {
        stagings.take_up(SHARD, Epoch(3), TransferId(7))
    }

    #[test]
    fn one_call_at_a_time_writes_to_a_staging_and_no_commit_accepts_it_then() {
        let (fence, mut stagings) = begun();
        assert!(matches!(take_up(&mut stagings), Err(StageError::Busy(SHARD))));
        let again = stagings.begin(&fence, SHARD, Epoch(4), TransferId(8));
        assert!(matches!(again, Err(StageError::Busy(SHARD))));
        assert!(matches!(stagings.hold(&[STAGED]), Err(CommitError::Failed(_))));
        stagings.put_down(SHARD);
        assert!(matches!(stagings.hold(&[STAGED]), Err(CommitError::Failed(_))), "nothing is staged yet");
        take_up(&mut stagings).unwrap();
        stagings.note(SHARD);
        assert!(matches!(stagings.hold(&[STAGED]), Err(CommitError::Failed(_))));
        stagings.put_down(SHARD);
        stagings.hold(&[STAGED]).unwrap();
    }

    #[test]
    fn what_is_being_accepted_is_neither_written_to_nor_replaced() {
        let (fence, mut stagings) = begun();
        stagings.note(SHARD);
        stagings.put_down(SHARD);
        stagings.hold(&[STAGED]).unwrap();
        assert!(matches!(take_up(&mut stagings), Err(StageError::Busy(SHARD))));
        let again = stagings.begin(&fence, SHARD, Epoch(4), TransferId(8));
        assert!(matches!(again, Err(StageError::Busy(SHARD))));
        assert!(stagings.hold(&[STAGED]).is_err(), "one commit at a time");
        stagings.accepted(&[STAGED]);
        assert!(matches!(take_up(&mut stagings), Err(StageError::NotStaged(SHARD))));
    }

    #[test]
    fn a_commit_that_accepts_one_shard_in_vain_holds_none() {
        let (_, mut stagings) = begun();
        stagings.note(SHARD);
        stagings.put_down(SHARD);
        assert!(stagings.hold(&[STAGED, (ShardId(2), Epoch(3), TransferId(7))]).is_err());
        take_up(&mut stagings).unwrap();
    }
}
