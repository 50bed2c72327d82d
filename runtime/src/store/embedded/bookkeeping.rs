//! The checkpoint's rows about itself: which prefix of the log it holds, who owned what there, what is staged beside it, and
//! which stays are over but not dropped yet.
//!
//! ```text
//! bookkeeping := 0xffff_ffff, 0:u64, 1:u8                        -> format:u32le, layout:u32le, position:u64le
//!              | 0xffff_ffff, 0:u64, 2:u8, shard:u32be           -> layout:u32le, ownership
//!              | 0xffff_ffff, 0:u64, 3:u8, shard:u32be, epoch:u64be -> layout:u32le, transfer:u128le   staged, not accepted
//!              | 0xffff_ffff, 0:u64, 4:u8, shard:u32be, stay:u64be  -> layout:u32le                    ended, to be dropped
//! ownership   := 1:u8, epoch:u64le, stay:u64le, number:u64le                                           OWNED
//!              | 2:u8, epoch:u64le, stay:u64le, number:u64le, transfer:u128le, len:varint, name,
//!                store:u128le                                                                        SEALED
//!              | 3:u8, epoch:u64le, len:varint, name                                                   MOVED
//! ```

use std::io;

use super::checkpoint::{Checkpoint, PREFIX, SortedRows, prefix};
use crate::placement::{Epoch, ShardId};
use crate::store::ownership::{put_name, take_name, take_store, take_transfer};
use crate::store::row::{take, take_u32, take_u64};
use crate::store::{Ownership, TransferId};

const FORMAT: u32 = 2;
const LAYOUT: u32 = 0;
const OWNED: u8 = 1;
const SEALED: u8 = 2;
const MOVED: u8 = 3;
/// No shard has this number, and it sorts behind all of them.
const BOOKKEEPING: u32 = u32::MAX;
const POSITION: u8 = 1;
const SHARD: u8 = 2;
const STAGED: u8 = 3;
const ENDED: u8 = 4;

/// A row of the checkpoint about itself: its key, and its value or that it is gone.
pub(super) type Bookkeeping = (Vec<u8>, Option<Vec<u8>>);

/// What a checkpoint says of itself.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// Which prefix of the log it holds.
    pub(super) position: u64,
    /// The shards that are no longer as they were founded.
    pub(super) shards: Vec<(ShardId, Ownership)>,
    /// What is staged and was not accepted in the prefix.
    pub(super) staged: Vec<(ShardId, Epoch)>,
    /// Stays whose rows are of nobody any more.
    pub(super) ended: Vec<(ShardId, Epoch)>,
}

/// The row of the position.
pub(super) fn position(position: u64) -> Bookkeeping {
    let value = [FORMAT.to_le_bytes().as_slice(), &LAYOUT.to_le_bytes(), &position.to_le_bytes()].concat();
    (key(POSITION, &[]), Some(value))
}

/// The row of a shard that is no longer as it was founded.
pub(super) fn shard(shard: ShardId, ownership: &Ownership) -> Bookkeeping {
    let mut value = LAYOUT.to_le_bytes().to_vec();
    match ownership {
        Ownership::Foreign => unreachable!("a shard that was here is foreign no more"),
        Ownership::Owned { epoch, stay, number } => put_stay(OWNED, *epoch, *stay, *number, &mut value),
        Ownership::Sealed { epoch, stay, number, to, store, transfer } => {
            put_stay(SEALED, *epoch, *stay, *number, &mut value);
            value.extend_from_slice(&transfer.0.to_le_bytes());
            put_name(to, &mut value);
            value.extend_from_slice(&store.to_le_bytes());
        }
        Ownership::Moved { epoch, to } => {
            value.push(MOVED);
            value.extend_from_slice(&epoch.0.to_le_bytes());
            put_name(to, &mut value);
        }
    }
    (shard_key(shard), Some(value))
}

/// The row of a staging; `None` when it is accepted or dropped.
pub(super) fn staged(shard: ShardId, epoch: Epoch, transfer: Option<TransferId>) -> Bookkeeping {
    let value =
        transfer.map(|transfer| [LAYOUT.to_le_bytes().as_slice(), &transfer.0.to_le_bytes()].concat());
    (stay_key(STAGED, shard, epoch), value)
}

/// The row of an ended stay, until it is dropped.
pub(super) fn ended(shard: ShardId, stay: Epoch, is_there: bool) -> Bookkeeping {
    (stay_key(ENDED, shard, stay), is_there.then(|| LAYOUT.to_le_bytes().to_vec()))
}

/// The transfer staged under an epoch.
pub(super) fn read_staged(
    checkpoint: &dyn Checkpoint,
    shard: ShardId,
    epoch: Epoch,
) -> io::Result<Option<TransferId>> {
    let Some(value) = checkpoint.get(&stay_key(STAGED, shard, epoch))? else { return Ok(None) };
    let transfer = value.strip_prefix(&LAYOUT.to_le_bytes()).and_then(|mut rest| take_transfer(&mut rest));
    transfer.map(Some).ok_or_else(|| invalid("a staging"))
}

/// Whether the checkpoint has a row about a staging or an ended stay here.
pub(super) fn has_stay(checkpoint: &dyn Checkpoint, shard: ShardId, stay: Epoch) -> io::Result<bool> {
    Ok(checkpoint.get(&stay_key(STAGED, shard, stay))?.is_some()
        || checkpoint.get(&stay_key(ENDED, shard, stay))?.is_some())
}

/// Reads all of it. An error of [`io::ErrorKind::InvalidData`] says what is wrong with it.
pub(super) fn read(checkpoint: &dyn Checkpoint) -> io::Result<Books> {
    let mut books = Books::default();
    if let Some(value) = checkpoint.get(&key(POSITION, &[]))? {
        books.position = take_position(&value).ok_or_else(|| invalid("the position"))?;
    }
    let mut good = true;
    checkpoint.scan(&key(SHARD, &[]), &key(ENDED + 1, &[]), &mut |key, value| {
        good = take_row(key, value, &mut books).is_some();
        good
    })?;
    if good { Ok(books) } else { Err(invalid("a row about a shard")) }
}

/// Rows about the checkpoint, and of ended stays, ready to be ingested.
pub(super) struct Changes {
    rows: std::vec::IntoIter<Bookkeeping>,
    row: Bookkeeping,
}

impl Changes {
    pub(super) fn new(mut rows: Vec<Bookkeeping>) -> Self {
        rows.sort_unstable();
        Self { rows: rows.into_iter(), row: Bookkeeping::default() }
    }
}

impl SortedRows for Changes {
    fn next(&mut self) -> Option<(&[u8], Option<&[u8]>)> {
        self.row = self.rows.next()?;
        Some((&self.row.0, self.row.1.as_deref()))
    }
}

fn invalid(what: &str) -> io::Error {
    let what = format!("{what} in the checkpoint is not of format {FORMAT}, layout {LAYOUT}");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn key(kind: u8, rest: &[u8]) -> Vec<u8> {
    [prefix(BOOKKEEPING, 0).as_slice(), &[kind], rest].concat()
}

fn shard_key(shard: ShardId) -> Vec<u8> {
    key(SHARD, &shard.0.to_be_bytes())
}

fn stay_key(kind: u8, shard: ShardId, stay: Epoch) -> Vec<u8> {
    key(kind, &[shard.0.to_be_bytes().as_slice(), &stay.0.to_be_bytes()].concat())
}

fn put_stay(kind: u8, epoch: Epoch, stay: Epoch, number: u64, out: &mut Vec<u8>) {
    out.push(kind);
    for number in [epoch.0, stay.0, number] {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

fn take_position(value: &[u8]) -> Option<u64> {
    let value = value.strip_prefix(&FORMAT.to_le_bytes())?.strip_prefix(&LAYOUT.to_le_bytes())?;
    Some(u64::from_le_bytes(value.try_into().ok()?))
}

fn take_row(key: &[u8], value: &[u8], books: &mut Books) -> Option<()> {
    let mut key = key.get(PREFIX..)?;
    let mut value = value.strip_prefix(&LAYOUT.to_le_bytes())?;
    let kind = take(&mut key, 1)?[0];
    let shard = ShardId(take_u32(&mut key)?);
    match kind {
        SHARD => books.shards.push((shard, take_ownership(&mut value)?)),
        STAGED => {
            take_transfer(&mut value)?;
            books.staged.push((shard, Epoch(take_u64(&mut key)?)));
        }
        ENDED => books.ended.push((shard, Epoch(take_u64(&mut key)?))),
        _ => return None,
    }
    (key.is_empty() && value.is_empty()).then_some(())
}

fn take_ownership(value: &mut &[u8]) -> Option<Ownership> {
    let kind = take(value, 1)?[0];
    let epoch = Epoch(take_long(value)?);
    if kind == MOVED {
        return Some(Ownership::Moved { epoch, to: take_name(value)? });
    }
    let (stay, number) = (Epoch(take_long(value)?), take_long(value)?);
    match kind {
        OWNED => Some(Ownership::Owned { epoch, stay, number }),
        SEALED => {
            let (transfer, to) = (take_transfer(value)?, take_name(value)?);
            Some(Ownership::Sealed { epoch, stay, number, to, store: take_store(value)?, transfer })
        }
        _ => None,
    }
}

fn take_long(value: &mut &[u8]) -> Option<u64> {
    take(value, 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}
