//! The sending side of streams: handing over, receipts, sending again.

use super::{Action, Arrival, Kernel, Output, Provenance, Receipt};
use crate::{
    message::Envelope,
    placement::ShardId,
    requests::{Acknowledged, OPEN_LEN},
    shard::{OutboxPart, OutboxTicket, RowError},
    store::{LaneId, RowType, batch::delete},
};
use bytes::Bytes;
use std::time::Duration;

/// Pause between two looks for old replies.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// Bytes of a stored reply's deletion in a batch; that of a client is shorter.
const REPLY_DELETE_LEN: usize = 27;

impl Kernel {
    /// Hands what the windows allow to the receivers: at once to shards of the same lane, for the batch has its place
    /// there; to other lanes with the batch that is built next, which lies behind it (P13).
    pub(super) fn hand_over(&mut self, lane: usize) {
        if self.draining {
            // They stay in their outboxes, and go on at the next start.
            self.lanes[lane].sending.clear();
            self.lanes[lane].opened.clear();
        }
        if self.lanes[lane].sending.is_empty() {
            return;
        }
        let now = self.now;
        let front_len_max = self.front_len_max();
        let (lane_id, voids) = (self.lanes[lane].id, self.lanes[lane].voids);
        let asked: usize = self.lanes.iter().map(|lane| lane.outbox_asked).sum();
        let mut free = self.limits.outbox_memory_max.saturating_sub(self.outbox_memory + asked);
        let mut wanted = Vec::new();
        let mut near = Vec::new();
        let mut far = Vec::new();
        for (source, target) in std::mem::take(&mut self.lanes[lane].sending) {
            if !self.may_hand_over(source, target) {
                continue;
            }
            let window = self.limits.stream_window;
            let same_lane = self.is_in_lane(target, lane_id);
            let shard = self.host(source);
            let (epoch, resets) = (shard.epoch, shard.resets);
            let outbox = shard.outboxes.get_mut(&target).expect("a stream to send on has an outbox");
            if let Some((from, len_max)) = outbox.refill(front_len_max) {
                // Never all there is: others want some too.
                let bytes_max = free / 4;
                free -= bytes_max;
                let part = OutboxPart { len_max, bytes_max };
                shard.outbox_asked += bytes_max;
                wanted.push(OutboxTicket { source, epoch, target, from, part, resets });
            }
            while let Some((number, bytes)) = outbox.hand_next(window) {
                let envelope = Envelope::from_bytes(bytes).expect("an outbox holds envelopes");
                let view = envelope.view();
                let hash = crate::placement::hash(view.kind, view.key);
                let from = Provenance::Stream { source, number, voids: same_lane.then_some(voids) };
                let arrival = Arrival { shard: target, hash, envelope, from };
                if same_lane { near.push(arrival) } else { far.push(Output::Hand(arrival)) }
            }
            if outbox.is_unanswered() {
                shard.unanswered.entry(target).or_insert(now);
            }
        }
        if !near.is_empty() {
            self.actions.push(Action::Hand(near));
        }
        self.lanes[lane].outputs.append(&mut far);
        self.lanes[lane].outbox_asked += wanted.iter().map(|ticket| ticket.part.bytes_max).sum::<usize>();
        self.actions.extend(wanted.into_iter().map(Action::LoadOutbox));
    }

    /// How many messages of a stream may be in memory to be handed over next (P8).
    pub(super) fn front_len_max(&self) -> u64 {
        let has_room = self.outbox_memory < self.limits.outbox_memory_max;
        if has_room { self.limits.stream_window } else { 1 }
    }

    /// Loads find what batches up to this number have written: messages behind their stream's window leave memory.
    pub(super) fn loadable(&mut self, lane: LaneId, through: u64) {
        let index = self.lane_index(lane);
        let lane = &mut self.lanes[index];
        assert!(through <= lane.durable, "only what is durable can be loaded");
        lane.loadable = lane.loadable.max(through);
        for (source, target) in std::mem::take(&mut self.lanes[index].backed) {
            let outbox = self.host(source).outboxes.get_mut(&target).expect("what is kept has an outbox");
            let before = outbox.bytes_in_memory();
            outbox.loadable(through);
            let (freed, has_back) = (before - outbox.bytes_in_memory(), outbox.has_back());
            self.outbox_memory -= freed;
            if has_back {
                self.lanes[index].backed.insert((source, target));
            }
        }
    }

    /// Messages that lay in the store alone are in memory: they go on.
    pub(super) fn outbox_loaded(&mut self, ticket: &OutboxTicket, envelopes: Vec<Bytes>) {
        let (source, target) = (ticket.source, ticket.target);
        let Some(shard) = self.shard_mut(source) else { return };
        if (shard.resets, shard.epoch) != (ticket.resets, ticket.epoch) {
            return;
        }
        let lane = shard.lane;
        shard.outbox_asked -= ticket.part.bytes_max;
        self.lanes[lane].outbox_asked -= ticket.part.bytes_max;
        let outbox = self.host(source).outboxes.get_mut(&target).expect("it was asked for by its outbox");
        let before = outbox.bytes_in_memory();
        let are_envelopes = envelopes.iter().all(|bytes| Envelope::from_bytes(bytes.clone()).is_ok());
        if !are_envelopes || !outbox.loaded(ticket.from, envelopes) {
            self.unread(ticket, are_envelopes);
            return;
        }
        let loaded = outbox.bytes_in_memory() - before;
        self.outbox_memory += loaded;
        self.lanes[lane].sending.insert((source, target));
    }

    /// Messages are not in the store as they are known here. Of a server that went back (a standby that lagged), what is known here is a
    /// past, and is read anew. What is not there even then is damage.
    fn unread(&mut self, ticket: &OutboxTicket, are_envelopes: bool) {
        let OutboxTicket { source, resets, from, .. } = *ticket;
        let before = self.unread.insert(source, (resets, from));
        let is_damage = before.is_some_and(|(earlier, same)| earlier < resets && same == from);
        if is_damage || !are_envelopes {
            let row_type = RowType::Outbox as u8;
            self.actions.push(Action::Stop(RowError { shard: source, row_type }));
        } else {
            let lane = self.shard(source).expect("it has asked").lane;
            self.actions.push(Action::Stale(self.lanes[lane].id));
        }
    }

    pub(super) fn receipt(&mut self, receipt: Receipt) {
        let (now, trim_after) = (self.now, self.limits.trim_after);
        if self.is_parked(receipt.source, receipt.target) {
            return;
        }
        let Some(shard) = self.shard_mut(receipt.source) else { return };
        let (lane, target) = (shard.lane, receipt.target);
        let Some(outbox) = shard.outboxes.get_mut(&target) else { return };
        let (bytes, in_memory) = (outbox.bytes(), outbox.bytes_in_memory());
        // A receipt from before a reset may be ahead of what was loaded back only if the store lost what it synced.
        if outbox.told() < receipt.through {
            self.park_for_receipt(receipt.source, target, receipt.through);
            return;
        }
        let progressed = outbox.acknowledge(receipt.through);
        if let Some(from) = receipt.refused_from {
            // Again when the receiver says that it has room, or by the timer of `resend`.
            outbox.refuse(from);
        }
        if receipt.go_on {
            outbox.go_on();
        }
        let (freed, forgotten) = (bytes - outbox.bytes(), in_memory - outbox.bytes_in_memory());
        let more = outbox.is_unanswered();
        shard.outbox_bytes -= freed;
        if progressed {
            shard.trims.insert(target);
        }
        let is_empty = shard.outboxes[&target].is_empty();
        if receipt.refused_from.is_some() || more && progressed {
            shard.unanswered.insert(target, now);
        } else if progressed || is_empty {
            // What is kept and was not handed over yet is handed over below.
            shard.unanswered.remove(&target);
        }
        // Otherwise it is an old receipt: what was refused since still waits for its time.
        self.outbox_memory -= forgotten;
        let work = &mut self.lanes[lane];
        if receipt.go_on {
            work.sending.insert((receipt.source, target));
        }
        if progressed {
            let at = if self.draining { now } else { now + trim_after };
            work.trim_at = Some(work.trim_at.map_or(at, |before| before.min(at)));
            work.sending.insert((receipt.source, target));
        }
    }

    /// Sends again what was handed over and not answered for a while: the receiver may have refused it or lost its memory, or
    /// have parked the stream for a word of somebody who is its sender no more. So the ends are compared first.
    pub(super) fn resend(&mut self) {
        let (now, after) = (self.now, self.limits.resend_after);
        for at in 0..self.hosted.len() {
            let id = self.hosted[at];
            let shard = self.host(id);
            if shard.unanswered.is_empty() {
                continue;
            }
            let lane = shard.lane;
            let due: Vec<ShardId> = shard
                .unanswered
                .iter()
                .filter(|(_, since)| **since + after <= now)
                .map(|(target, _)| *target)
                .collect();
            for target in due {
                let shard = self.host(id);
                shard.unanswered.remove(&target);
                let outbox = shard.outboxes.get_mut(&target).expect("an unanswered stream has an outbox");
                outbox.rewind();
                if outbox.is_open() {
                    outbox.shut();
                }
                self.lanes[lane].sending.insert((id, target));
            }
        }
    }

    /// The client has these replies: they need not be kept. What the batch has no room for goes with its next request.
    pub(super) fn acknowledge_replies(
        &mut self,
        id: ShardId,
        client: crate::message::ClientId,
        settled: &Acknowledged,
    ) {
        if settled.floor == 0 {
            return;
        }
        let lane = self.host(id).lane;
        let most = self.batch_room(lane).div_ceil(REPLY_DELETE_LEN);
        let shard = self.shards[id.0 as usize].as_deref_mut().expect("judged at the door");
        let writes = &mut shard.changes.writes;
        let rose = shard.requests.acknowledge(client, settled, most, |number| {
            delete(&[&[RowType::Reply as u8], &client.0.to_be_bytes(), &number.to_be_bytes()], writes);
        });
        if rose {
            let is_first = self.touch(id).changes.clients.insert(client);
            let exceptions = settled.open.as_ref().map_or(0, |open| open.len() * OPEN_LEN);
            self.lanes[lane].batch_bytes += exceptions + if is_first { super::MARKS_LEN } else { 0 };
            self.measure(id);
        }
    }

    /// Raises the horizons and drops the replies behind them, as far as the batch has room; the rest follows in the next.
    pub(super) fn expire_requests(&mut self, lane: usize) {
        let horizon = self.now.before(self.limits.reply_retention);
        for at in 0..self.hosted.len() {
            let id = self.hosted[at];
            let shard = self.shards[id.0 as usize].as_deref_mut().expect("hosted");
            if shard.lane != lane || shard.requests.clients() == 0 {
                continue;
            }
            let room = self.limits.batch_len.saturating_sub(self.lanes[lane].batch_bytes);
            if room == 0 {
                return;
            }
            let most = room.div_ceil(REPLY_DELETE_LEN);
            let mut writes = std::mem::take(&mut shard.changes.writes);
            let mut clients = Vec::new();
            let changed = shard.requests.expire(
                horizon,
                most,
                |client, number| {
                    delete(
                        &[&[RowType::Reply as u8], &client.0.to_be_bytes(), &number.to_be_bytes()],
                        &mut writes,
                    );
                },
                |client| clients.push(client),
            );
            for client in &clients {
                delete(&[&[RowType::Client as u8], &client.0.to_be_bytes()], &mut writes);
                shard.changes.clients.remove(client);
            }
            shard.changes.writes = writes;
            if changed {
                self.touch(id).changes.head = true;
                self.measure(id);
            }
        }
        let mut shards = self.hosted.iter().filter_map(|id| self.shard(*id));
        let has_clients = shards.any(|shard| shard.lane == lane && 0 < shard.requests.clients());
        self.lanes[lane].has_clients = has_clients;
        self.lanes[lane].expire_at = self.now + EXPIRE_EVERY;
    }
}
