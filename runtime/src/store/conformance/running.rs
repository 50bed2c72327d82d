//! A store as a test runs it: its lanes taken when they are needed, and what may be committed of a shard's ownership.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Engine;
use crate::placement::{Epoch, ShardId};
use crate::store::batch::{own, put};
use crate::store::{
    Batch, CommitError, ImageKey, Lane, LaneId, LoadError, Ownership, OwnershipRecord, Position, Row, Store,
    TransferId,
};

/// An open store.
pub(super) struct Running<'e> {
    engine: &'e mut dyn Engine,
    store: Option<Arc<dyn Store>>,
    lanes: BTreeMap<LaneId, Box<dyn Lane>>,
}

impl<'e> Running<'e> {
    pub(super) fn start(engine: &'e mut dyn Engine) -> Self {
        let store = Some(engine.open());
        Self { engine, store, lanes: BTreeMap::new() }
    }

    pub(super) fn store(&self) -> &dyn Store {
        &**self.store.as_ref().unwrap()
    }

    /// Lets it go as a crash would, and starts it again.
    pub(super) fn crash(&mut self) {
        self.lanes.clear();
        self.store = None;
        self.store = Some(self.engine.open());
    }

    /// Commits batches of one lane.
    pub(super) fn commit(&mut self, group: &[Batch]) -> Result<Position, CommitError> {
        let store = self.store.as_ref().unwrap();
        let lane = store.lane_of(group[0].sections().next().unwrap().shard);
        self.lanes.entry(lane).or_insert_with(|| store.open_lane(lane)).commit(group)
    }

    /// Checks that none of these groups is taken, and that nothing changes by it.
    pub(super) fn refuses(&mut self, groups: &[Vec<Batch>]) {
        let before = self.store().ownership().unwrap();
        for group in groups {
            let refused = self.commit(group);
            // Where nobody else can write it is a bug, and stops the node (P13).
            let is_refused = match refused {
                Err(CommitError::Fenced(_)) => true,
                Err(CommitError::Fatal(_)) => !self.engine.voids(),
                _ => false,
            };
            assert!(is_refused, "{group:?}: {refused:?}");
            assert_eq!(self.store().ownership().unwrap(), before);
        }
    }

    pub(super) fn ownership(&self, shard: u32) -> Ownership {
        let known = self.store().ownership().unwrap();
        let found = known.into_iter().find(|(known, _)| known.0 == shard);
        found.map_or(Ownership::Foreign, |(_, ownership)| ownership)
    }

    /// The rows of a shard as loads find them, images behind the others.
    pub(super) fn rows(&self, shard: u32, epoch: u64) -> Result<Vec<Row>, LoadError> {
        let mut rows = Vec::new();
        self.store().load_rows(ShardId(shard), Epoch(epoch), &[]..&[0xff], &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        })?;
        Ok(rows)
    }

    /// The rows of a shard when all that was committed can be found.
    pub(super) fn all_rows(&self, shard: u32, epoch: u64) -> Vec<Row> {
        self.store().maintain().unwrap();
        self.rows(shard, epoch).unwrap()
    }

    /// Whether a shard is nobody's to read.
    pub(super) fn hides(&self, shard: u32, epoch: u64) -> bool {
        let (shard, epoch) = (ShardId(shard), Epoch(epoch));
        let image = ImageKey { shard, epoch, key: vec![super::IMAGE] };
        matches!(self.store().load_shard(shard, epoch), Err(LoadError::NotOwned(hidden)) if hidden == shard)
            && matches!(self.store().load_images(&[image]), Err(LoadError::NotOwned(_)))
    }

    /// Begins a staging that can be accepted as it is.
    pub(super) fn begin(&self, shard: u32, epoch: u64, transfer: u128) {
        self.store().begin_staging(ShardId(shard), Epoch(epoch), TransferId(transfer)).unwrap();
        self.stage(shard, epoch, transfer, &[]);
    }

    pub(super) fn stage(&self, shard: u32, epoch: u64, transfer: u128, rows: &[(&[u8], Option<&[u8]>)]) {
        self.store().stage(ShardId(shard), Epoch(epoch), TransferId(transfer), rows).unwrap();
    }

    pub(super) fn staged(&self, shard: u32, epoch: u64, transfer: u128) -> Vec<Row> {
        let mut rows = Vec::new();
        let (shard, epoch, transfer) = (ShardId(shard), Epoch(epoch), TransferId(transfer));
        let visit = &mut |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            true
        };
        self.store().load_staged(shard, epoch, transfer, &[]..&[0xff], visit).unwrap();
        rows
    }

    /// Lets a shard go that is owned under this epoch with this number. The transfer is named after the epoch.
    pub(super) fn give_away(&mut self, shard: u32, epoch: u64, number: u64) {
        let transfer = u128::from(epoch);
        self.commit(&[seal(shard, epoch, number + 1, transfer)]).unwrap();
        self.commit(&[moved(shard, epoch, number + 2, transfer, epoch + 1)]).unwrap();
    }
}

fn change(shard: u32, epoch: u64, number: u64, record: &OwnershipRecord) -> Batch {
    let mut batch = Batch::new();
    batch.section(ShardId(shard), Epoch(epoch), number, |out| own(record, out));
    batch
}

/// A section that writes one row.
pub(super) fn write(shard: u32, epoch: u64, number: u64, key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.section(ShardId(shard), Epoch(epoch), number, |out| put(&[key], &[value], out));
    batch
}

pub(super) fn seal(shard: u32, epoch: u64, number: u64, transfer: u128) -> Batch {
    let record = OwnershipRecord::Seal { transfer: TransferId(transfer), to: "b".parse().unwrap(), store: 8 };
    change(shard, epoch, number, &record)
}

pub(super) fn accept(shard: u32, epoch: u64, transfer: u128) -> Batch {
    let (transfer, from) = (TransferId(transfer), "a".parse().unwrap());
    change(shard, epoch, 1, &OwnershipRecord::Accept { transfer, from, rows: 0, hash: 0 })
}

pub(super) fn moved(shard: u32, epoch: u64, number: u64, transfer: u128, to: u64) -> Batch {
    let record = OwnershipRecord::Moved { transfer: TransferId(transfer), epoch: Epoch(to) };
    change(shard, epoch, number, &record)
}

pub(super) fn reopen(shard: u32, epoch: u64, transfer: u128) -> Batch {
    change(shard, epoch, 1, &OwnershipRecord::Reopen { transfer: TransferId(transfer) })
}
