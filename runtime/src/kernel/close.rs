//! Closing a batch, and what comes back from the store: durable, void, loaded.

use super::{
    Action, Counts, FeedNews, HandOffNews, ImageTicket, Kernel, Outcome, Output, Submission, event::VOIDED,
    handoff::transfer_of,
};
use crate::{
    activation::{Activation, Listener, Origin, Phase, ReplyTo, Slot},
    placement::ShardId,
    shard::{Kept, ShardPhase, ShardRows},
    store::{
        Batch, LaneId, OwnedShard, OwnershipRecord, RowType, TransferId,
        batch::{delete, own, put},
        row::{put_varint, take_varint},
    },
    stream::Outbox,
};
use std::{collections::BTreeSet, time::Duration};

/// Who waits for the answer to a message in a mailbox.
pub(super) fn caller(origin: &Origin) -> Option<ReplyTo> {
    match *origin {
        Origin::Request { listener, .. } => Some(listener.to),
        Origin::Query(to) | Origin::Volatile(Some(to)) => Some(to),
        _ => None,
    }
}

/// Kind and key of the entity whose image has this row key.
pub(super) fn entity_of(image: &[u8]) -> Option<(&str, &str)> {
    let name = image.strip_prefix(&[RowType::Image as u8])?;
    std::str::from_utf8(name).ok()?.split_once('\0')
}

/// Row key of an entity's image.
pub(super) fn image_key(kind: &str, key: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(kind.len() + key.len() + 2);
    bytes.push(RowType::Image as u8);
    bytes.extend_from_slice(kind.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

impl Kernel {
    /// Closes the batch being built and submits it, then hands over what the receivers of its lane may have.
    pub(super) fn close(&mut self, lane: usize) {
        let loads = std::mem::take(&mut self.lanes[lane].loads);
        if !loads.is_empty() {
            self.actions.push(Action::LoadImages(loads));
        }
        let touched = std::mem::take(&mut self.lanes[lane].touched);
        let built = !touched.is_empty() || !self.lanes[lane].records.is_empty();
        if built || !self.lanes[lane].outputs.is_empty() {
            let sealed = self.submit(lane, &touched);
            for id in sealed {
                self.leave(id);
            }
        }
        self.hand_over(lane);
    }

    /// Submits the batch. Returns the shards it seals.
    fn submit(&mut self, lane: usize, touched: &[ShardId]) -> Vec<ShardId> {
        let kinds = self.kinds();
        let number = self.lanes[lane].number + 1;
        let mut sealed = Vec::new();
        let mut batch = match self.spare.pop() {
            Some(buffer) => Batch::reuse(buffer),
            None => Batch::with_capacity(self.lanes[lane].batch_bytes + 32 * touched.len()),
        };
        for &id in touched {
            let shard = self.shards[id.0 as usize].as_deref_mut().expect("only hosted shards are touched");
            shard.changes.touched = false;
            let consumed = std::mem::take(&mut shard.changes.inboxes);
            let fed = std::mem::take(&mut shard.changes.feeds);
            for &source in &consumed {
                // Of a parked stream its sender may not know the messages, and would take this for a word on those that it
                // gives their numbers to next.
                if self.parked.contains_key(&(source, id)) {
                    continue;
                }
                let receipt = super::Receipt {
                    source,
                    target: id,
                    through: shard.inboxes[&source].floor(),
                    refused_from: None,
                    go_on: false,
                };
                self.lanes[lane].outputs.push(Output::Receipt(receipt));
            }
            for &feed in &fed {
                let floor = shard.feeds[&feed].floor();
                let feeders = self.open_feeds.get(&feed).into_iter().flat_map(|open| &open.listeners);
                for feeder in feeders.filter(|feeder| 0 < feeder.judged(id)) {
                    let news = FeedNews::Durable { through: floor.min(feeder.judged(id)) };
                    let receipt = super::FeedReceipt { to: feeder.to, feed, shard: id, news };
                    self.lanes[lane].outputs.push(Output::FeedReceipt(receipt));
                }
            }
            shard.changes.inboxes = consumed;
            shard.changes.feeds = fed;
            shard.number += 1;
            let images = std::mem::take(&mut shard.changes.images);
            let seal = shard.changes.seal.take();
            let activations = &mut self.activations;
            let begin = batch.bytes().len();
            batch.section(id, shard.epoch, shard.number, |out| {
                if let Some((transfer, to, store)) = &seal {
                    own(&OwnershipRecord::Seal { transfer: *transfer, to: to.clone(), store: *store }, out);
                }
                shard.write_changes(out);
                for &slot in &images {
                    let activation = activations.get_mut(slot).expect("a changed activation stays in memory");
                    activation.dirty = false;
                    activation.last_batch = number;
                    let kind = kinds.get(activation.kind);
                    let key: [&[u8]; 4] =
                        [&[RowType::Image as u8], kind.name().as_bytes(), &[0], activation.key.as_bytes()];
                    if activation.exists {
                        let mut version = Vec::with_capacity(2);
                        put_varint(u64::from(kind.version()), &mut version);
                        put(&key, &[&version, &activation.image], out);
                    } else {
                        delete(&key, out);
                    }
                }
            });
            if let Some(transfer) = shard.gives {
                let section = batch.section_from(begin);
                self.lanes[lane].output_bytes += section.bytes().len();
                self.lanes[lane].outputs.push(Output::HandOff(id, HandOffNews::Section(transfer, section)));
            }
            if let Some((transfer, ..)) = seal {
                self.lanes[lane].outputs.push(Output::HandOff(
                    id,
                    HandOffNews::Sealed { transfer, epoch: shard.epoch, number: shard.number },
                ));
                sealed.push(id);
            }
        }
        self.write_records(lane, &mut batch);
        for &id in touched {
            self.count_kept(id);
            self.lanes[lane].has_clients |= 0 < self.host(id).requests.clients();
        }
        let work = &mut self.lanes[lane];
        work.number = number;
        work.batch_bytes = 0;
        let bytes = batch.bytes().len() + std::mem::take(&mut work.output_bytes);
        work.undurable.push_back((number, bytes, std::mem::take(&mut work.counts)));
        work.undurable_bytes += bytes;
        self.counters.batches += 1;
        let outputs = std::mem::take(&mut work.outputs);
        let mut shown = std::mem::take(&mut work.shown);
        shown.sort_unstable();
        shown.dedup();
        let (id, voids) = (work.id, work.voids);
        let epoch_of = |shard| self.shard(shard).expect("nothing is shown of what has left").epoch;
        let shown = shown.into_iter().map(|shard| (shard, epoch_of(shard))).collect();
        let submission = Submission { lane: id, voids, number, batch, outputs, shown };
        self.actions.push(Action::Commit(submission));
        sealed
    }

    pub(super) fn durable(&mut self, lane: LaneId, through: u64) {
        let index = self.lane_index(lane);
        let work = &mut self.lanes[index];
        while let Some(&(number, bytes, counts)) = work.undurable.front() {
            if through < number {
                break;
            }
            work.undurable.pop_front();
            work.undurable_bytes -= bytes;
            work.durable = number;
            self.counters.applied += counts.applied;
            self.counters.rejected += counts.rejected;
            self.counters.dead_lettered += counts.dead_lettered;
            self.counters.waiting = self.counters.waiting + counts.set_waiting - counts.left_waiting;
            // What left the waiting queue was counted as accepted when it came in.
        }
        self.has_left(index, through);
        self.has_unparked(index, through);
    }

    /// The lane's batches from some number on did not become durable: forgets everything of its shards and loads them
    /// anew (P13).
    pub(super) fn voided(&mut self, lane: LaneId, voids: u64) {
        let index = self.lane_index(lane);
        if voids <= self.lanes[index].voids {
            return;
        }
        // What was in flight is gone with the memory; the durable counters stay true, and what waits is counted
        // again when the shards are loaded.
        let before = self.counters();
        let work = &mut self.lanes[index];
        work.voids = voids;
        // Not judged yet; held in front of what arrives while the shards are loading.
        let arrivals = std::mem::take(&mut work.arrivals);
        self.held_bytes += std::mem::take(&mut work.arrival_bytes);
        work.at_door = None;
        work.ready.clear();
        work.named.clear();
        work.touched.clear();
        work.sending.clear();
        work.opened.clear();
        work.backed.clear();
        work.outbox_asked = 0;
        work.loads.clear();
        work.undurable.clear();
        work.undurable_bytes = 0;
        work.batch_bytes = 0;
        work.output_bytes = 0;
        work.counts = Counts::default();
        work.leaving.clear();
        work.shown.clear();
        let unparking = std::mem::take(&mut work.unparking);
        let records = std::mem::take(&mut work.records);
        let mut handed_off: BTreeSet<(ShardId, TransferId)> =
            records.iter().map(|(shard, _, _, record)| (*shard, transfer_of(record))).collect();
        work.trim_at = None;
        work.expire_at = crate::timestamp::Timestamp::EPOCH;
        // Not submitted yet, so nobody else will answer them.
        let outputs = std::mem::take(&mut work.outputs);
        for output in outputs.into_iter().filter_map(Output::into_void) {
            self.put_now(output);
        }
        let mut lost_feeds = Vec::new();
        for at in 0..self.hosted.len() {
            let id = self.hosted[at];
            if self.host(id).lane != index {
                continue;
            }
            lost_feeds.extend(self.open_feeds.keys().map(|feed| (*feed, id)));
            handed_off.extend(self.host(id).gives.map(|transfer| (id, transfer)));
            for listener in self.forget_memory(id) {
                self.put_now(Output::Reply(listener.to, Outcome::Unknown(VOIDED.into())));
            }
            self.host(id).reset();
            self.load_shard(id);
        }
        for arrival in arrivals {
            self.host(arrival.shard).held.push_back(arrival);
        }
        let mut callers = Vec::new();
        self.forget_activations(
            |kernel, shard| kernel.host(shard).lane == index,
            |gone| callers.extend(gone.mail().filter_map(|mail| caller(&mail.origin))),
        );
        for to in callers {
            self.put_now(Output::Reply(to, Outcome::Unknown(VOIDED.into())));
        }
        for (feed, shard) in lost_feeds {
            self.lose_feed(feed, shard);
        }
        for (_, stream) in unparking {
            self.stays_parked(stream);
        }
        for (shard, transfer) in handed_off {
            self.put_now(Output::HandOff(shard, HandOffNews::Voided(transfer)));
        }
        self.settle_voided(before.accepted);
    }

    /// Takes what a shard has in memory out of the sums over all shards. Returns the further callers of its requests.
    pub(super) fn forget_memory(&mut self, id: ShardId) -> Vec<Listener> {
        let shard = self.host(id);
        let listeners = std::mem::take(&mut shard.listeners);
        let outbox_memory: usize = shard.outboxes.values().map(Outbox::bytes_in_memory).sum();
        let counted = shard.counted;
        let streams_held = shard.inboxes.values().filter(|inbox| 0 < inbox.held()).count();
        self.kept = self.kept.with(counted, Kept::default());
        self.outbox_memory -= outbox_memory;
        self.streams_held -= streams_held;
        listeners.into_values().flatten().collect()
    }

    /// After a void only what is in other lanes may still be in flight; the rest was voided.
    fn settle_voided(&mut self, accepted: u64) {
        let still: u64 = self.audit().in_flight;
        // The waiting messages of the lane's shards are counted anew when they are loaded.
        let waiting_elsewhere: u64 = self
            .hosted
            .iter()
            .filter_map(|id| self.shard(*id))
            .map(|shard| shard.waiting.len() as u64)
            .chain(self.lanes.iter().flat_map(|lane| &lane.leaving).map(|(_, waiting)| *waiting))
            .sum::<u64>();
        let pending: (u64, u64) = self
            .lanes
            .iter()
            .flat_map(|lane| lane.undurable.iter().map(|(_, _, counts)| counts).chain([&lane.counts]))
            .fold((0, 0), |(set, left), counts| (set + counts.set_waiting, left + counts.left_waiting));
        self.counters.waiting = waiting_elsewhere + pending.1 - pending.0;
        let accounted = self.counters.applied + self.counters.dead_lettered + self.counters.waiting + still;
        self.counters.voided = accepted - accounted;
    }

    /// Lets go of all activations of some shards.
    pub(super) fn forget_activations(
        &mut self,
        of: impl Fn(&mut Self, ShardId) -> bool,
        mut gone: impl FnMut(Activation),
    ) {
        for index in 0..self.activations.slots() {
            let Some((slot, activation)) = self.activations.at(index) else { continue };
            let shard = activation.shard;
            if !of(self, shard) {
                continue;
            }
            let activation = self.activations.remove(slot).expect("just seen");
            self.activation_bytes -= activation.weight as usize;
            if let Some(trouble) = &activation.trouble {
                self.retries.remove(&(trouble.retry_at, slot));
            }
            gone(activation);
        }
    }

    pub(super) fn shard_loaded(&mut self, resets: u64, owned: OwnedShard, rows: ShardRows) {
        let Some(shard) = self.shard_mut(owned.shard) else { return };
        if shard.resets != resets || shard.phase != ShardPhase::Loading {
            return;
        }
        shard.epoch = owned.epoch;
        shard.number = owned.number;
        if let Err(error) = shard.restore(rows) {
            self.actions.push(Action::Stop(error));
            return;
        }
        // What is asked from now on is younger than what the shard has dropped, also when the clock was set back since.
        let least = shard.requests.horizon() + Duration::from_micros(1);
        let (lane, id) = (shard.lane, shard.id);
        let waiting = shard.waiting.len() as u64;
        let held = std::mem::take(&mut shard.held);
        let hot = std::mem::take(&mut shard.hot);
        let shard = self.shard(id).expect("just loaded");
        let streams = shard.outboxes.iter();
        let go_on = streams.filter(|(target, outbox)| !outbox.is_empty() || self.is_parked(id, **target));
        let targets: Vec<_> = go_on.map(|(target, _)| *target).collect();
        let outbox_memory: usize = shard.outboxes.values().map(Outbox::bytes_in_memory).sum();
        self.outbox_memory += outbox_memory;
        self.count_kept(id);
        self.now = self.now.max(least);
        self.counters.accepted += waiting;
        self.counters.waiting += waiting;
        self.count_pending(id);
        for target in targets {
            self.lanes[lane].sending.insert((id, target));
        }
        self.restore_waiting(id);
        self.answer_openings(id);
        self.held_bytes -= held.iter().map(|arrival| arrival.envelope.len()).sum::<usize>();
        self.arrive(held.into());
        self.warm(id, hot);
    }

    pub(super) fn images_loaded(&mut self, images: Vec<(ImageTicket, Option<Vec<u8>>)>) {
        for (ticket, image) in images {
            let current = self
                .shard(ticket.key.shard)
                .is_some_and(|shard| shard.resets == ticket.resets && shard.epoch == ticket.key.epoch);
            if !current {
                continue;
            }
            self.image_loaded(ticket.slot, image);
        }
    }

    fn image_loaded(&mut self, slot: Slot, image: Option<Vec<u8>>) {
        let Some(activation) = self.activations.get_mut(slot) else { return };
        if activation.phase != Phase::Loading {
            return;
        }
        activation.phase = Phase::Active;
        let mut len = 0;
        if let Some(row) = image {
            // It is read by the first turn: that is the user's code, and should it never end, a message is named.
            let mut bytes = row.as_slice();
            let version = take_varint(&mut bytes).and_then(|version| u32::try_from(version).ok());
            activation.exists = true;
            activation.has_image = true;
            activation.image = bytes.to_vec();
            len = bytes.len();
            match version {
                Some(version) => activation.image_version = version,
                None => self.park(slot, "its image has no version".to_owned()),
            }
        }
        self.weigh(slot, len);
        self.schedule(slot);
    }
}
