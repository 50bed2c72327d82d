//! The checkpoint: the rows of the log's prefix, in key order, with the position where the prefix ends.
//!
//! One round ingests the newest value of every row that a stretch of the log wrote, together with the position behind
//! it and the numbers of the shards it touched, as one atomic change. So a checkpoint is always the state after an exact
//! prefix of the log, and a row needs no position of its own (`docs/decisions/0002-checkpoint-position-per-round.md`).
//!
//! ```text
//! row        := shard:u32be, stay:u64be, row key                 stay: the epoch under which the shard was accepted (P16)
//! bookkeeping := 0xffff_ffff, 0_u64, 1:u8                        -> format:u32le, layout:u32le, position:u64le
//!              | 0xffff_ffff, 0_u64, 2:u8, shard:u32be           -> layout:u32le, ownership:u8 = 1 OWNED, epoch:u64le,
//!                                                                   number of its last section:u64le
//! ```

pub(super) mod snapshot;
pub(super) mod sorted;

use std::io;

use crate::placement::{Epoch, ShardId};
use crate::store::OwnedShard;

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

const FORMAT: u32 = 1;
const LAYOUT: u32 = 0;
const OWNED: u8 = 1;
/// No shard has this number, and it sorts behind all of them.
const BOOKKEEPING: u32 = u32::MAX;
const POSITION: u8 = 1;
const SHARD: u8 = 2;

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

/// A row of the checkpoint about itself.
pub(super) type Bookkeeping = (Vec<u8>, Vec<u8>);

/// The rows that say which prefix of the log a checkpoint holds, in key order.
pub(super) fn bookkeeping(position: u64, shards: impl Iterator<Item = OwnedShard>) -> Vec<Bookkeeping> {
    let mut value = FORMAT.to_le_bytes().to_vec();
    value.extend_from_slice(&LAYOUT.to_le_bytes());
    value.extend_from_slice(&position.to_le_bytes());
    let mut rows = vec![(position_key(), value)];
    rows.extend(shards.map(|shard| {
        let mut value = LAYOUT.to_le_bytes().to_vec();
        value.push(OWNED);
        value.extend_from_slice(&shard.epoch.0.to_le_bytes());
        value.extend_from_slice(&shard.number.to_le_bytes());
        (shard_key(shard.shard.0), value)
    }));
    rows
}

/// What a checkpoint says of itself: its position, and the shards it has numbers of. `Err` says what is wrong with it.
pub(super) fn read_bookkeeping(checkpoint: &dyn Checkpoint) -> io::Result<(u64, Vec<OwnedShard>)> {
    let position = match checkpoint.get(&position_key())? {
        None => 0,
        Some(value) => take_position(&value).ok_or_else(|| invalid("the position row of the checkpoint"))?,
    };
    let mut shards = Vec::new();
    let mut good = true;
    let below = [prefix(BOOKKEEPING, 0).as_slice(), &[SHARD + 1]].concat();
    checkpoint.scan(&shard_key(0), &below, &mut |key, value| {
        match take_shard(key, value) {
            Some(shard) => shards.push(shard),
            None => good = false,
        }
        good
    })?;
    if !good {
        return Err(invalid("a shard row of the checkpoint"));
    }
    Ok((position, shards))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is not of format {FORMAT}, layout {LAYOUT}"))
}

fn position_key() -> Vec<u8> {
    [prefix(BOOKKEEPING, 0).as_slice(), &[POSITION]].concat()
}

fn shard_key(shard: u32) -> Vec<u8> {
    [prefix(BOOKKEEPING, 0).as_slice(), &[SHARD], &shard.to_be_bytes()].concat()
}

fn take_position(value: &[u8]) -> Option<u64> {
    let value = value.strip_prefix(&FORMAT.to_le_bytes())?.strip_prefix(&LAYOUT.to_le_bytes())?;
    Some(u64::from_le_bytes(value.try_into().ok()?))
}

fn take_shard(key: &[u8], value: &[u8]) -> Option<OwnedShard> {
    let shard = ShardId(u32::from_be_bytes(key.get(PREFIX + 1..)?.try_into().ok()?));
    let value = value.strip_prefix(&LAYOUT.to_le_bytes())?.strip_prefix(&[OWNED])?;
    let (epoch, number) = value.split_at_checked(8)?;
    let epoch = Epoch(u64::from_le_bytes(epoch.try_into().ok()?));
    Some(OwnedShard { shard, epoch, number: u64::from_le_bytes(number.try_into().ok()?) })
}
