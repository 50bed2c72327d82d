//! Loads: what a kernel asks the store for, as both rings carry it out.

use crate::{
    placement::{Epoch, ShardId},
    shard::{OutboxPart, OutboxRows, OutboxTicket, ShardRows},
    store::{LoadError, RowType, Store},
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
