//! What an answer tells: whether a group is written, is not, or may be.

use std::collections::BTreeMap;
use std::io;

use tokio_postgres::error::{DbError, Severity, SqlState};

use super::{session::CallError, statement::REFUSED};
use crate::placement::{Epoch, ShardId};
use crate::store::{Batch, CommitError, OwnershipRecord, Section};

/// What is known of a group after an attempt that brought no success.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The gate ended the statement: some shard does not stand where the group was built on.
    Refused,
    /// Nothing was written, and the same group may be in a while. Whether this connection is of use any more.
    Later { error: io::Error, reconnect: bool },
    /// It may be written. The connection is of no use any more.
    Unknown(io::Error),
    /// A bug, missing rights, damage: the same group would meet it again.
    Fatal(io::Error),
}

/// Sorts what a call ended with.
pub(super) fn of_error(error: CallError) -> Outcome {
    let error = match error {
        CallError::NotConnected(error) => return Outcome::Later { error, reconnect: true },
        CallError::TimedOut(patience) => {
            let text = format!("no answer for {} s", patience.as_secs_f32());
            return Outcome::Unknown(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        CallError::Postgres(error) => error,
    };
    let Some(said) = error.as_db_error() else {
        // Cut, or nothing a server of this protocol says. What was sent may have arrived.
        return Outcome::Unknown(io::Error::other(error));
    };
    let error = io::Error::new(kind(said.code()), words(said));
    // Below these the session goes on; with them it ends, and perhaps in the middle of its commit.
    if !matches!(said.parsed_severity(), Some(Severity::Error)) {
        return Outcome::Unknown(error);
    }
    of_code(said.code(), error)
}

/// An error that ended the statement and not the session: nothing of it is written, by whatever code.
fn of_code(code: &SqlState, error: io::Error) -> Outcome {
    let text = code.code();
    let class = text.get(..2).unwrap_or_default();
    match (class, text) {
        (_, REFUSED) => Outcome::Refused,
        // The server does not know itself, or is going away.
        ("08" | "57", _) if *code != SqlState::QUERY_CANCELED => Outcome::Unknown(error),
        (_, "40003") => Outcome::Unknown(error),
        // Deadlock, lock time-out, cancelled, out of disk or memory: it passes.
        ("40" | "53" | "55" | "57" | "58", _) => Outcome::Later { error, reconnect: false },
        // Not a primary any more; a prepared statement that does not fit its tables since a migration, or is gone.
        ("25" | "0A" | "26", _) => Outcome::Later { error, reconnect: true },
        _ => Outcome::Fatal(error),
    }
}

fn kind(code: &SqlState) -> io::ErrorKind {
    if *code == SqlState::DISK_FULL { io::ErrorKind::StorageFull } else { io::ErrorKind::Other }
}

fn words(said: &DbError) -> String {
    let detail = said.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
    format!("{}: {}{detail}", said.code().code(), said.message())
}

/// A row of `entity.shard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardRow {
    pub(super) epoch: i64,
    pub(super) owner: Option<u128>,
    pub(super) batch: i64,
    pub(super) moved_by: Option<u128>,
}

/// Why the gate refused a group, by the rows of its shards a moment later.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Diagnosis {
    /// So many leading batches are written already, by an attempt whose answer was lost. The rest is fresh.
    Applied(usize),
    /// The shard is another owner's, or the group does not continue it.
    Fenced(ShardId),
    /// The shard is ours, and behind what it had: commits that were acknowledged are gone.
    WentBack { shard: ShardId, had: u64, has: i64 },
    /// The server has no such shard.
    Missing(ShardId),
    /// Everything stands where the group was built on.
    Continues,
}

/// Finds out why a group was refused. Owner is the incarnation that attempted it.
pub(super) fn diagnose(
    group: &[Batch],
    seen: &[(ShardId, Epoch)],
    rows: &BTreeMap<u32, ShardRow>,
    owner: u128,
) -> Diagnosis {
    let sections = || group.iter().flat_map(Batch::sections);
    let shards = sections().map(|section| section.shard).chain(seen.iter().map(|(shard, _)| *shard));
    if let Some(shard) = shards.into_iter().find(|shard| !rows.contains_key(&shard.0)) {
        return Diagnosis::Missing(shard);
    }
    // All are there; a `None` below would be a shard that is not.
    let row = |shard: ShardId| rows.get(&shard.0).copied();
    let stands_at =
        |section: &Section<'_>| row(section.shard).is_some_and(|row| came_of(section, row, owner));
    // A group is all or nothing and its lane is in order: one shard that stands where a batch has left it shows that the batch is
    // written, and all before it.
    if let Some(last) = group.iter().rposition(|batch| batch.sections().any(|section| stands_at(&section))) {
        let mut newest = BTreeMap::new();
        for section in group[..=last].iter().flat_map(Batch::sections) {
            newest.insert(section.shard, section);
        }
        // Another owner may have gone on since; that we are elsewhere under our own epoch cannot be.
        let contradicts = |section: &Section<'_>| {
            !stands_at(section) && row(section.shard).is_some_and(|row| is_ours(row, section.epoch, owner))
        };
        return match newest.values().find(|section| contradicts(section)) {
            Some(section) => Diagnosis::Fenced(section.shard),
            None => Diagnosis::Applied(last + 1),
        };
    }
    let mut met = std::collections::BTreeSet::new();
    for section in sections().filter(|section| met.insert(section.shard)) {
        let Some(row) = row(section.shard).filter(|row| is_ours(*row, section.epoch, owner)) else {
            return Diagnosis::Fenced(section.shard);
        };
        let had = section.number.saturating_sub(1);
        match u64::try_from(row.batch) {
            Ok(has) if has == had => {}
            Ok(has) if has > had => return Diagnosis::Fenced(section.shard),
            _ => return Diagnosis::WentBack { shard: section.shard, had, has: row.batch },
        }
    }
    let lost = seen.iter().find(|(shard, epoch)| !row(*shard).is_some_and(|row| is_ours(row, *epoch, owner)));
    lost.map_or(Diagnosis::Continues, |(shard, _)| Diagnosis::Fenced(*shard))
}

fn is_ours(row: ShardRow, epoch: Epoch, owner: u128) -> bool {
    u64::try_from(row.epoch) == Ok(epoch.0) && row.owner == Some(owner)
}

/// Whether a shard stands where a section has left it.
fn came_of(section: &Section<'_>, row: ShardRow, owner: u128) -> bool {
    if let Some(Ok(OwnershipRecord::Seal { .. })) = section.record() {
        // Given away by us, and not moved since.
        return row.moved_by == Some(owner)
            && u64::try_from(row.epoch).ok() == section.epoch.0.checked_add(1);
    }
    is_ours(row, section.epoch, owner) && u64::try_from(row.batch) == Ok(section.number)
}

/// Why a group was not committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// Another owner has the shard, or the group does not continue it.
    #[error("{0} is owned by another node or its batches do not continue")]
    Fenced(ShardId),
    /// The server has lost commits that it had acknowledged: it failed over to a standby that lagged, or was restored. As
    /// `Fenced`, and an alarm.
    #[error("the store went back: {shard} had batch {had}, and has {has}")]
    WentBack {
        /// The shard.
        shard: ShardId,
        /// The number of its last batch, as it was acknowledged.
        had: u64,
        /// What the server says now.
        has: i64,
    },
    /// Nothing was written, for the group is none that a shared store takes.
    #[error("the group was not written: {0}")]
    Failed(io::Error),
    /// Nothing was written. The same group may be, later. [`io::ErrorKind::StorageFull`]: the server's disk is full.
    #[error("the group was not written yet: {0}")]
    Later(io::Error),
    /// The group may be written or not. Commit the same group again.
    #[error("it is not known whether the group was written: {0}")]
    Unknown(io::Error),
    /// The server refuses what every build and every retry would send again.
    #[error("the server cannot take the group: {0}")]
    Fatal(io::Error),
}

impl From<LaneError> for CommitError {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Fenced(shard) | LaneError::WentBack { shard, .. } => Self::Fenced(shard),
            LaneError::Failed(error) => Self::Failed(error),
            LaneError::Later(error) => Self::Later(error),
            LaneError::Unknown(error) => Self::Unknown(error),
            LaneError::Fatal(error) => Self::Fatal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{TransferId, batch::own};

    const ME: u128 = 7;

    fn batch(sections: &[(u32, u64, u64)]) -> Batch {
        let mut batch = Batch::new();
        for &(shard, epoch, number) in sections {
            batch.section(ShardId(shard), Epoch(epoch), number, |_| {});
        }
        batch
    }

    fn give(shard: u32, epoch: u64, number: u64) -> Batch {
        let record = OwnershipRecord::Seal { transfer: TransferId(1), to: "b".parse().unwrap(), store: 8 };
        let mut batch = Batch::new();
        batch.section(ShardId(shard), Epoch(epoch), number, |out| own(&record, out));
        batch
    }

    /// Rows as (shard, epoch, owner, batch); whoever is the owner has moved it.
    fn rows(rows: &[(u32, i64, u128, i64)]) -> BTreeMap<u32, ShardRow> {
        let row = |&(shard, epoch, owner, batch): &(u32, i64, u128, i64)| {
            (shard, ShardRow { epoch, owner: Some(owner), batch, moved_by: Some(owner) })
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn what_is_written_is_known_by_the_rows() {
        let group = [batch(&[(1, 2, 5), (2, 2, 9)]), batch(&[(1, 2, 6)])];
        let cases = [
            (rows(&[(1, 2, ME, 6), (2, 2, ME, 9)]), Diagnosis::Applied(2)),
            (rows(&[(1, 2, ME, 5), (2, 2, ME, 9)]), Diagnosis::Applied(1)),
            (rows(&[(1, 2, ME, 4), (2, 2, ME, 8)]), Diagnosis::Continues),
            // Written, and one of the shards taken since: it is written all the same.
            (rows(&[(1, 2, ME, 6), (2, 3, 8, 1)]), Diagnosis::Applied(2)),
            (rows(&[(1, 2, ME, 4), (2, 3, 8, 0)]), Diagnosis::Fenced(ShardId(2))),
            (rows(&[(1, 2, 8, 4), (2, 2, ME, 8)]), Diagnosis::Fenced(ShardId(1))),
            (rows(&[(1, 2, ME, 7), (2, 2, ME, 9)]), Diagnosis::Fenced(ShardId(1))),
            (rows(&[(1, 2, ME, 9), (2, 2, ME, 8)]), Diagnosis::Fenced(ShardId(1))),
            (
                rows(&[(1, 2, ME, 3), (2, 2, ME, 8)]),
                Diagnosis::WentBack { shard: ShardId(1), had: 4, has: 3 },
            ),
            (rows(&[(1, 2, ME, 4)]), Diagnosis::Missing(ShardId(2))),
        ];
        for (rows, expected) in cases {
            assert_eq!(diagnose(&group, &[], &rows, ME), expected, "{rows:?}");
        }
    }

    #[test]
    fn a_shard_that_was_given_is_known_until_it_moves_on() {
        let group = [give(1, 2, 5)];
        let given = |epoch, moved_by| {
            BTreeMap::from([(1, ShardRow { epoch, owner: Some(8), batch: 0, moved_by: Some(moved_by) })])
        };
        assert_eq!(diagnose(&group, &[], &given(3, ME), ME), Diagnosis::Applied(1));
        assert_eq!(diagnose(&group, &[], &given(3, 8), ME), Diagnosis::Fenced(ShardId(1)));
        assert_eq!(diagnose(&group, &[], &given(4, ME), ME), Diagnosis::Fenced(ShardId(1)));
        // Where another shard of the same statement shows it, what became of the given one does not matter.
        let mut both = given(4, 9);
        both.insert(2, ShardRow { epoch: 2, owner: Some(ME), batch: 1, moved_by: None });
        let group = [batch(&[(2, 2, 1)]), give(1, 2, 5), batch(&[(2, 2, 2)])];
        assert_eq!(diagnose(&group, &[], &both, ME), Diagnosis::Applied(1));
    }

    #[test]
    fn a_confirmation_of_a_stolen_shard_is_fenced() {
        let seen = [(ShardId(1), Epoch(2)), (ShardId(2), Epoch(2))];
        let mine = rows(&[(1, 2, ME, 4), (2, 2, ME, 4)]);
        assert_eq!(diagnose(&[], &seen, &mine, ME), Diagnosis::Continues);
        let stolen = rows(&[(1, 2, ME, 4), (2, 3, 8, 0)]);
        assert_eq!(diagnose(&[], &seen, &stolen, ME), Diagnosis::Fenced(ShardId(2)));
    }

    #[test]
    fn codes_say_what_was_written() {
        let outcome = |code: &str| match of_code(&SqlState::from_code(code), io::ErrorKind::Other.into()) {
            Outcome::Refused => "refused",
            Outcome::Later { reconnect: false, .. } => "later",
            Outcome::Later { .. } => "later, elsewhere",
            Outcome::Unknown(_) => "unknown",
            Outcome::Fatal(_) => "fatal",
        };
        let expected = [
            ("EN001", "refused"),
            ("40001", "later"),
            ("40P01", "later"),
            ("40003", "unknown"),
            ("55P03", "later"),
            ("57014", "later"),
            ("53100", "later"),
            ("58030", "later"),
            ("25006", "later, elsewhere"),
            ("26000", "later, elsewhere"),
            ("57P01", "unknown"),
            ("08006", "unknown"),
            ("42501", "fatal"),
            ("XX001", "fatal"),
            ("22021", "fatal"),
            ("54000", "fatal"),
        ];
        for (code, is) in expected {
            assert_eq!(outcome(code), is, "{code}");
        }
        assert_eq!(kind(&SqlState::DISK_FULL), io::ErrorKind::StorageFull);
    }
}
