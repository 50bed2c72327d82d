//! Loads: what a kernel and a mover ask the store for, as both rings carry it out.

use crate::{
    handoff::newest_writes,
    placement::{Epoch, ShardId},
    shard::{OutboxPart, OutboxRows, OutboxTicket, ShardRows},
    store::{Batch, LoadError, Row, RowType, StageError, StagedRow, Store, TransferId},
};
use bytes::Bytes;

/// Reads a shard, for [`Action::LoadShard`](crate::kernel::Action::LoadShard).
///
/// # Errors
/// It is not owned under `epoch`, or the medium failed.
pub fn shard(
    store: &dyn Store,
    shard: ShardId,
    epoch: Epoch,
    part: OutboxPart,
) -> Result<ShardRows, LoadError> {
    let mut rows = ShardRows::new(part);
    store.load_rows(shard, epoch, &[]..&[RowType::Image as u8], &mut |key, value| {
        rows.push(key, value);
        true
    })?;
    Ok(rows)
}

/// Reads messages of an outbox, for [`Action::LoadOutbox`](crate::kernel::Action::LoadOutbox).
///
/// # Errors
/// The shard is not owned under the ticket's epoch, or the medium failed.
pub fn outbox(store: &dyn Store, ticket: &OutboxTicket) -> Result<Vec<Bytes>, LoadError> {
    let mut rows = OutboxRows::new();
    let (from, below) = ticket.keys();
    store.load_rows(ticket.source, ticket.epoch, &from..&below, &mut |key, value| {
        rows.push(ticket, key, value)
    })?;
    Ok(rows.into_envelopes())
}

/// Reads rows for a copy, from a key on: about so many bytes, one row at least, and the key to go on from. Carries out
/// [`MoverAction::ReadRows`](crate::mover::MoverAction::ReadRows): a copy begins behind what is durable by now.
///
/// # Errors
/// The shard is neither owned nor sealed under `epoch`, or the medium failed, or was too full
/// ([`Store::make_loadable`]).
pub fn rows_to_copy(
    store: &dyn Store,
    shard: ShardId,
    epoch: Epoch,
    from: &[u8],
    bytes: usize,
) -> Result<(Vec<Row>, Option<Vec<u8>>), LoadError> {
    /// Behind every key: no row type is higher than that of images.
    const END: &[u8] = &[RowType::Image as u8 + 1];
    if from.is_empty() {
        // Rows that loads do not find yet would be in no piece: the sections that are shipped come behind them.
        store.make_loadable(store.lane_of(shard))?;
    }
    let (mut rows, mut len, mut next) = (Vec::new(), 0, None);
    store.load_rows(shard, epoch, from..END, &mut |key, value| {
        if bytes <= len {
            next = Some(key.to_vec());
            return false;
        }
        len += key.len() + value.len();
        rows.push((key.to_vec(), value.to_vec()));
        true
    })?;
    Ok((rows, next))
}

/// Stages the newest write of every row in some sections. Carries out
/// [`MoverAction::Stage`](crate::mover::MoverAction::Stage).
///
/// # Errors
/// See [`StageError`].
pub fn stage(
    store: &dyn Store,
    shard: ShardId,
    epoch: Epoch,
    transfer: TransferId,
    sections: &[Batch],
) -> Result<(), StageError> {
    let rows = newest_writes(sections);
    let rows: Vec<StagedRow<'_>> = rows.iter().map(|(key, value)| (&**key, value.as_deref())).collect();
    store.stage(shard, epoch, transfer, &rows)
}
