//! The checkpoint: the rows of the log's prefix, in key order, with the position where the prefix ends.
//!
//! One round ingests the newest value of every row that a stretch of the log wrote, together with the position behind
//! it and the numbers of the shards it touched, as one atomic change. So a checkpoint is always the state after an exact
//! prefix of the log, and a row needs no position of its own (`docs/decisions/0002-checkpoint-position-per-round.md`).
//! Beside that state lies what is staged: rows of stays that the log has not accepted yet. Which prefix it is and whose the
//! rows are, the [bookkeeping](super::bookkeeping) says.
//!
//! ```text
//! row := shard:u32be, stay:u64be, row key                 stay: the epoch under which the shard was accepted (P16)
//! ```

pub(super) mod snapshot;
pub(super) mod sorted;

use std::io;

use crate::placement::{Epoch, ShardId};

/// Keeps rows by key. Loads and one ingestion run beside one another.
pub(super) trait Checkpoint: Send + Sync {
    /// The value of a row.
    ///
    /// # Errors
    /// The medium failed or is corrupt.
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Visits the rows `from <= key < below` of one moment, in key order, until `visit` returns false.
    ///
    /// # Errors
    /// As [`Checkpoint::get`].
    fn scan(&self, from: &[u8], below: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()>;

    /// Puts and deletes rows, all or none of them, and returns when they are durable.
    ///
    /// # Errors
    /// None of the rows is stored. After [`io::ErrorKind::StorageFull`] it may be tried again; after anything else the
    /// medium can no longer be trusted.
    fn ingest(&self, rows: &mut dyn SortedRows) -> io::Result<()>;
}

/// Rows in ascending order of their keys, none twice.
pub(super) trait SortedRows {
    /// The next key, with its value, or `None` where the row is deleted.
    fn next(&mut self) -> Option<(&[u8], Option<&[u8]>)>;
}

/// Length of what stands before a row's own key.
pub(super) const PREFIX: usize = 12;

/// What stands before the keys of a shard's rows.
pub(super) fn prefix(shard: u32, stay: u64) -> [u8; PREFIX] {
    let mut bytes = [0; PREFIX];
    bytes[..4].copy_from_slice(&shard.to_be_bytes());
    bytes[4..].copy_from_slice(&stay.to_be_bytes());
    bytes
}

/// The checkpoint key of a row.
pub(super) fn row_key(shard: ShardId, stay: Epoch, key: &[u8]) -> Vec<u8> {
    [&prefix(shard.0, stay.0), key].concat()
}
