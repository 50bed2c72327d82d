//! Several owners from the start: shards of a fresh cluster handed from its founder to other nodes, by the records of a
//! hand-off and before any of them has a row.

use super::machine::{Machine, store_of};
use crate::{
    placement::{Epoch, ShardId, Shards},
    store::{Batch, FOUNDED, Lane, LaneId, OwnershipRecord, Store, TransferId, batch::own},
};
use std::sync::Arc;

/// Hands each shard from the first machine to the one that `owner` names. No node runs yet.
pub(super) fn deal(machines: &mut [Machine], layout: Shards, owner: &dyn Fn(ShardId) -> usize) {
    let mut hands: Vec<Hand> = machines.iter_mut().map(Hand::open).collect();
    for shard in layout.iter() {
        let at = owner(shard);
        if at == 0 {
            continue;
        }
        let (from, to) = (machines[0].name.clone(), machines[at].name.clone());
        let (transfer, epoch) = (TransferId(u128::from(shard.0) + 1), Epoch(FOUNDED.0 + 1));
        let store = store_of(at);
        hands[0].commit(shard, FOUNDED, 1, &OwnershipRecord::Seal { transfer, to, store });
        let store = &hands[at].store;
        store
            .begin_staging(shard, epoch, transfer)
            .and_then(|()| store.stage(shard, epoch, transfer, &[]))
            .expect("a fresh store stages what it never had");
        hands[at].commit(shard, epoch, 1, &OwnershipRecord::Accept { transfer, from, rows: 0, hash: 0 });
        hands[0].commit(shard, FOUNDED, 2, &OwnershipRecord::Moved { transfer, epoch });
    }
    drop(hands);
    for machine in machines {
        // All of it is durable, and a cut of the power would keep as much.
        machine.storage.crash(false);
    }
}

/// A store with its lanes in one hand.
struct Hand {
    store: Arc<dyn Store>,
    lanes: Vec<Box<dyn Lane>>,
}

impl Hand {
    fn open(machine: &mut Machine) -> Self {
        let store = machine.open().expect("a fresh store opens");
        let lanes = (0..store.lanes()).map(|lane| store.open_lane(LaneId(lane))).collect();
        Self { store, lanes }
    }

    fn commit(&mut self, shard: ShardId, epoch: Epoch, number: u64, record: &OwnershipRecord) {
        let mut batch = Batch::new();
        batch.section(shard, epoch, number, |out| own(record, out));
        let (lane, bytes) = (self.store.lane_of(shard), batch.bytes().len() as u64);
        self.store.reserve(lane, bytes).expect("a fresh store has room");
        self.lanes[lane.0 as usize].commit(&[batch]).expect("no fault is planned yet");
        self.store.release(lane, bytes);
    }
}
