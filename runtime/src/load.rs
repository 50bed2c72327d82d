//! Loads: what a kernel and a mover ask the store for, as both rings carry it out.

use crate::{
    handoff::newest_writes,
    placement::{Epoch, ShardId},
    shard::{OutboxPart, OutboxRows, OutboxTicket, ShardRows},
    store::{Batch, LoadError, Ownership, Row, RowType, StageError, StagedRow, Store, ToStage, TransferId},
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

/// Whether a shard that is not owned under an epoch has left this store by a hand-off: it is sealed or moved, or came back under
/// another epoch since. Whoever asked under that epoch has let it go since, before its seal was in the log, and waits for nothing.
/// Otherwise somebody else has had it, and works on memory of before (P12, P13).
///
/// # Errors
/// The medium failed.
pub fn has_left(store: &dyn Store, shard: ShardId, epoch: Epoch) -> Result<bool, LoadError> {
    let ownership = store.ownership()?.into_iter().find(|(known, _)| *known == shard);
    Ok(match ownership {
        Some((_, Ownership::Sealed { .. } | Ownership::Moved { .. })) => true,
        // A stay begins when the shard comes, and what other owners do meanwhile does not change it.
        Some((_, Ownership::Owned { stay, .. })) => epoch < stay,
        Some((_, Ownership::Foreign)) | None => false,
    })
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
    if from.is_empty() {
        // Rows that loads do not find yet would be in no piece: the sections that are shipped come behind them.
        store.make_loadable(store.lane_of(shard))?;
    }
    loadable_rows_to_copy(store, shard, epoch, from, bytes)
}

/// As [`rows_to_copy`], where loads find by now what was durable when this was asked for.
///
/// # Errors
/// As there.
pub fn loadable_rows_to_copy(
    store: &dyn Store,
    shard: ShardId,
    epoch: Epoch,
    from: &[u8],
    bytes: usize,
) -> Result<(Vec<Row>, Option<Vec<u8>>), LoadError> {
    /// Behind every key: no row type is higher than that of images.
    const END: &[u8] = &[RowType::Image as u8 + 1];
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

/// Sections of a shard that is on its way here.
#[derive(Debug, Clone, Copy)]
pub struct Sections<'s> {
    /// The shard.
    pub shard: ShardId,
    /// Under which it is to be owned here.
    pub epoch: Epoch,
    /// The hand-off.
    pub transfer: TransferId,
    /// In order.
    pub sections: &'s [Batch],
}

/// Stages the newest write of every row in the sections of some shards, for one answer each. Carries out
/// [`MoverAction::Stage`](crate::mover::MoverAction::Stage).
///
/// # Errors
/// See [`StageError`].
pub fn stage_all(store: &dyn Store, stagings: &[Sections<'_>]) -> Vec<Result<(), StageError>> {
    let newest: Vec<_> = stagings.iter().map(|staging| newest_writes(staging.sections)).collect();
    let rows: Vec<Vec<StagedRow<'_>>> = newest
        .iter()
        .map(|rows| rows.iter().map(|(key, value)| (&**key, value.as_deref())).collect())
        .collect();
    let stagings: Vec<ToStage<'_>> = stagings
        .iter()
        .zip(&rows)
        .map(|(&Sections { shard, epoch, transfer, .. }, rows)| ToStage { shard, epoch, transfer, rows })
        .collect();
    store.stage_all(&stagings)
}

/// As [`stage_all`], for one shard.
///
/// # Errors
/// As there.
pub fn stage(
    store: &dyn Store,
    shard: ShardId,
    epoch: Epoch,
    transfer: TransferId,
    sections: &[Batch],
) -> Result<(), StageError> {
    let mut answers = stage_all(store, &[Sections { shard, epoch, transfer, sections }]);
    answers.pop().expect("one answer for each")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        placement::Shards,
        store::{LaneId, OwnershipRecord, batch::own, memory::MemoryStore},
    };

    #[test]
    fn a_shard_that_was_handed_off_is_told_from_one_that_was_taken() {
        let store = MemoryStore::new(Shards::new(2).unwrap(), 1);
        let (goes, taken) = (ShardId(0), ShardId(1));
        let mut lane = store.open_lane(LaneId(0));
        let mut write = |epoch, number, record: OwnershipRecord| {
            let mut batch = Batch::new();
            batch.section(goes, Epoch(epoch), number, |out| own(&record, out));
            lane.commit(&[batch]).unwrap();
        };
        let has_left = |shard, epoch| has_left(&store, shard, Epoch(epoch)).unwrap();
        let (first, second) = (TransferId(1), TransferId(2));
        write(1, 1, OwnershipRecord::Seal { transfer: first, to: "b".parse().unwrap(), store: 8 });
        assert!(has_left(goes, 1));
        write(1, 2, OwnershipRecord::Moved { transfer: first, epoch: Epoch(2) });
        assert!(has_left(goes, 1));
        store.begin_staging(goes, Epoch(3), second).unwrap();
        store.stage(goes, Epoch(3), second, &[]).unwrap();
        let from = "b".parse().unwrap();
        write(3, 1, OwnershipRecord::Accept { transfer: second, from, rows: 0, hash: 0 });
        assert!(has_left(goes, 1), "it is here again, under another stay");
        assert!(!has_left(goes, 3));
        store.faults().advance_epoch(goes);
        assert!(!has_left(goes, 3), "somebody else has had it");
        store.faults().advance_epoch(taken);
        assert!(!has_left(taken, 1));
    }
}
