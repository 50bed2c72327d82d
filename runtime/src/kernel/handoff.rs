//! What a hand-off asks of a kernel: to give a shard's sections, to seal it, to write who owns it (P18).

use super::{
    Action, FeedNews, Kernel, Operated, Outcome, Output, SECTION_LEN, close::caller,
    counters::counts_as_accepted, hot::Hot,
};
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

    /// Lets go of a shard whose seal has its place in the lane. What has had no turn is not accepted any more: whoever sent
    /// it still has it, and is told to ask elsewhere.
    pub(super) fn leave(&mut self, id: ShardId) {
        let shard = self.host(id);
        let transfer = shard.gives.expect("only a shard that is given is sealed");
        let (lane, resets, waiting) = (shard.lane, shard.resets, shard.waiting.len() as u64);
        let asked = std::mem::take(&mut shard.outbox_asked);
        let listeners = self.forget_memory(id);
        let activations = &self.activations;
        let is_other = |slot: &_| activations.get(*slot).is_some_and(|activation| activation.shard != id);
        let work = &mut self.lanes[lane];
        work.ready.retain(is_other);
        work.loads.retain(|ticket| ticket.key.shard != id);
        work.sending.retain(|(source, _)| *source != id);
        work.opened.retain(|(source, _)| *source != id);
        work.backed.retain(|(source, _)| *source != id);
        work.outbox_asked -= asked;
        work.at_door = None;
        // They wait elsewhere from the moment on at which the seal is durable.
        work.leaving.push_back((work.number, waiting));
        let arrivals = std::mem::take(&mut work.arrivals);
        let operations = std::mem::take(&mut work.operations);
        self.starved.retain(|(_, target)| *target != id);
        self.forget_parked(id);
        let (mut callers, mut voided) = (Vec::new(), 0);
        let mut hot = Hot::new(self.kinds(), self.seconds());
        self.forget_activations(
            |_, shard| shard == id,
            |gone| {
                callers.extend(gone.mail().filter_map(|mail| caller(&mail.origin)));
                voided += gone.mail().filter(|mail| counts_as_accepted(&mail.origin)).count() as u64;
                hot.look(&gone);
            },
        );
        self.counters.voided += voided;
        for to in callers {
            self.put_now(Output::Reply(to, Outcome::Elsewhere));
        }
        self.put_now(Output::HandOff(id, HandOffNews::Hot(transfer, hot.into_keys())));
        // Some of them wait for a message of the waiting queue, which moves along: under the same id they find it.
        for listener in listeners {
            self.put_now(Output::Reply(
                listener.to,
                Outcome::Unknown("its shard moves to another node".into()),
            ));
        }
        for arrival in arrivals {
            if arrival.shard == id {
                self.lanes[lane].arrival_bytes -= arrival.envelope.len();
                self.send_elsewhere(&arrival);
            } else {
                self.lanes[lane].arrivals.push_back(arrival);
            }
        }
        for operation in operations {
            match operation.what {
                _ if operation.shard != id => self.lanes[lane].operations.push_back(operation),
                Operated::Feed { feed, .. } => self.tell_feeder(operation.to, feed, id, FeedNews::Lost),
                _ => self.put_now(Output::Reply(operation.to, Outcome::Elsewhere)),
            }
        }
        for feed in self.open_feeds.keys().copied().collect::<Vec<_>>() {
            self.lose_feed(feed, id);
        }
        self.shards[id.0 as usize] = None;
        self.hosted.retain(|hosted| *hosted != id);
        self.in_node[id.0 as usize] = false;
        self.left.insert(id, resets);
        // Senders of this worker that had handed something over within the node send it to the new owner when there is one.
        self.actions.push(Action::Left(id));
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
