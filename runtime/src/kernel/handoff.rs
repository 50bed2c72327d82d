//! What a hand-off asks of a kernel: to give a shard's sections, to seal it, to write who owns it (P18).

use super::{Kernel, Output, SECTION_LEN, hot::Hot};
use crate::{
    placement::{Epoch, NodeName, ShardId},
    store::{Batch, OwnershipRecord, TransferId, batch::own},
};

/// What an ownership record takes in a batch.
const RECORD_LEN: usize = 320;

/// What a kernel tells of a shard on its way to another node, or from one. It leaves with the batch it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOffNews {
    /// Every section from before the first that is given is durable: a copy of the rows may begin.
    CopyFrom(TransferId),
    /// A section of the shard, alone in its batch, and the hand-off it is given for.
    Section(TransferId, Batch),
    /// The shard is let go, its seal on its way to the log: the images of entities that had a message lately, the last ones
    /// first, by row key. No more than [`HOT_MAX`](super::HOT_MAX), and nothing is lost with them.
    Hot(TransferId, Vec<Vec<u8>>),
    /// The shard is sealed, and every section before the seal was given.
    Sealed {
        /// The hand-off.
        transfer: TransferId,
        /// The epoch of the section that sealed it.
        epoch: Epoch,
        /// Its number.
        number: u64,
    },
    /// What [`Order::Write`] asked for is written.
    Written(OwnershipRecord),
    /// What was ordered for this hand-off was lost with the lane's memory, or the shard was not there for it: the kernel gives
    /// no sections for it, and what it was to write may be written or not. The store knows. It may come late: when the hand-off
    /// is over, and another one of the shard runs.
    Voided(TransferId),
}

impl HandOffNews {
    /// The hand-off it is of.
    pub fn transfer(&self) -> TransferId {
        match self {
            Self::CopyFrom(transfer)
            | Self::Section(transfer, _)
            | Self::Hot(transfer, _)
            | Self::Sealed { transfer, .. }
            | Self::Voided(transfer) => *transfer,
            Self::Written(record) => transfer_of(record),
        }
    }
}

/// The hand-off that a record is of.
pub(super) fn transfer_of(record: &OwnershipRecord) -> TransferId {
    match record {
        OwnershipRecord::Accept { transfer, .. }
        | OwnershipRecord::Seal { transfer, .. }
        | OwnershipRecord::Moved { transfer, .. }
        | OwnershipRecord::Reopen { transfer } => *transfer,
    }
}

/// What a kernel is to do with a shard that is handed off, in the next run that has room. There are few at a time, for
/// hand-offs are (P21), and one that ends takes back what waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Give every section from now on.
    Give(TransferId),
    /// The hand-off is over: give no more sections for it, and forget what else was ordered for it. At once, room or none. A
    /// seal that has its place in the lane is not taken back by this.
    StopGiving(TransferId),
    /// Seal the shard for this node. It is hosted no longer.
    Seal {
        /// The hand-off.
        transfer: TransferId,
        /// The node,
        to: NodeName,
        /// and the UUID of its store.
        store: u128,
    },
    /// Write who owns a shard that is not hosted here, as a section of its own.
    Write {
        /// The epoch of the section.
        epoch: Epoch,
        /// Its number.
        number: u64,
        /// The record.
        record: OwnershipRecord,
    },
}

impl Order {
    /// The hand-off it is for.
    fn transfer(&self) -> TransferId {
        match self {
            Self::Give(transfer) | Self::StopGiving(transfer) | Self::Seal { transfer, .. } => *transfer,
            Self::Write { record, .. } => transfer_of(record),
        }
    }
}

impl Kernel {
    /// Takes an order for a shard. One that is hosted elsewhere by now is answered as if its memory had been lost.
    pub(super) fn order(&mut self, id: ShardId, order: Order) {
        let lane = self.lane_index(self.lane_of[id.0 as usize]);
        let Order::StopGiving(transfer) = order else {
            return self.lanes[lane].orders.push_back((id, order));
        };
        self.lanes[lane].orders.retain(|(shard, order)| *shard != id || order.transfer() != transfer);
        if let Some(shard) = self.shard_mut(id).filter(|shard| shard.gives == Some(transfer)) {
            shard.gives = None;
        }
    }

    /// Carries out what was ordered, as far as the batch has room.
    pub(super) fn run_orders(&mut self, lane: usize) {
        while 0 < self.batch_room(lane)
            && let Some((id, order)) = self.lanes[lane].orders.pop_front()
        {
            let is_serving = self.shard(id).is_some_and(super::Shard::is_serving);
            let transfer = order.transfer();
            match order {
                Order::Write { epoch, number, record } if self.shard(id).is_none() => {
                    let work = &mut self.lanes[lane];
                    work.batch_bytes += SECTION_LEN + RECORD_LEN;
                    work.records.push((id, epoch, number, record));
                }
                Order::Give(_) if is_serving => {
                    self.host(id).gives = Some(transfer);
                    let news = HandOffNews::CopyFrom(transfer);
                    self.put_gated(lane, Output::HandOff(id, news));
                }
                // Where it does not give, its memory was lost since, and what was written then would stay behind.
                Order::Seal { to, store, .. } if is_serving && self.host(id).gives == Some(transfer) => {
                    self.lanes[lane].batch_bytes += RECORD_LEN;
                    self.touch(id).changes.seal = Some((transfer, to, store));
                }
                _ => self.put_now(Output::HandOff(id, HandOffNews::Voided(transfer))),
            }
        }
    }

    /// Appends the sections that change ownership alone.
    pub(super) fn write_records(&mut self, lane: usize, batch: &mut Batch) {
        for (id, epoch, number, record) in std::mem::take(&mut self.lanes[lane].records) {
            batch.section(id, epoch, number, |out| own(&record, out));
            self.put_gated(lane, Output::HandOff(id, HandOffNews::Written(record)));
        }
    }

    /// Lets go of a shard whose seal has its place in the lane.
    pub(super) fn leave(&mut self, id: ShardId) {
        let shard = self.host(id);
        let transfer = shard.gives.expect("only a shard that is given is sealed");
        let (lane, waiting) = (shard.lane, shard.waiting.len() as u64);
        // They wait elsewhere from the moment on at which the seal is durable.
        let work = &mut self.lanes[lane];
        work.leaving.push_back((work.number, waiting));
        let mut hot = Hot::new(self.kinds(), self.seconds());
        self.let_go(id, |gone| hot.look(gone));
        self.put_now(Output::HandOff(id, HandOffNews::Hot(transfer, hot.into_keys())));
    }

    /// Messages that waited in shards whose seals are durable by now: they are counted where they wait.
    pub(super) fn has_left(&mut self, lane: usize, through: u64) {
        while let Some(&(number, waiting)) = self.lanes[lane].leaving.front()
            && number <= through
        {
            self.lanes[lane].leaving.pop_front();
            self.counters.accepted -= waiting;
            self.counters.waiting -= waiting;
        }
    }
}
