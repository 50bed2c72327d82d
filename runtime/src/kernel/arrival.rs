//! At the door: judging what arrives, taking what is fresh, refusing what has no room.

use super::{Arrival, FeedNews, FeedReceipt, Kernel, Outcome, Output, Provenance, Receipt};
use crate::{
    activation::{KindIndex, Listener, Mail, Origin, Phase, ReplyTo, Slot},
    error::{Bound, Refusal},
    feeds::{FeedId, FeedVerdict},
    message::{Envelope, EnvelopeView, RequestId},
    placement::ShardId,
    requests::RequestVerdict,
    shard::ShardPhase,
    store::NoRoom,
    stream::{Inbox, Verdict},
};
use std::{sync::Arc, time::Duration};

/// How many messages are looked up before their turns run: the lookups' cache misses then overlap.
const CHUNK: usize = 32;

/// How far the clock of a client may be ahead, where replies are kept for less.
const AHEAD_MAX: Duration = Duration::from_mins(1);

/// A message that was judged fresh.
pub(super) struct Taken {
    pub(super) slot: Slot,
    pub(super) mail: Mail,
}

impl Kernel {
    pub(super) fn arrive(&mut self, arrivals: Vec<Arrival>) {
        for arrival in arrivals {
            match self.shards.get(arrival.shard.0 as usize).and_then(Option::as_deref) {
                Some(shard) if shard.phase == ShardPhase::Serving => {
                    let lane = &mut self.lanes[shard.lane];
                    lane.arrival_bytes += arrival.envelope.len();
                    lane.arrivals.push_back(arrival);
                }
                Some(_) => self.hold(arrival),
                None => self.send_elsewhere(&arrival),
            }
        }
    }

    /// Keeps what arrives for a shard until it is loaded.
    fn hold(&mut self, arrival: Arrival) {
        self.held_bytes += arrival.envelope.len();
        self.host(arrival.shard).held.push_back(arrival);
    }

    /// Takes arrivals chunk by chunk until the batch is full. Without room only what writes nothing is done.
    pub(super) fn run_arrivals(&mut self, lane: usize, room: Result<(), NoRoom>) {
        if let Err(why) = room {
            self.run_without_room(lane, why);
            return;
        }
        self.lanes[lane].at_door = None;
        let mut taken: Vec<Taken> = Vec::with_capacity(CHUNK);
        while !self.is_batch_full(lane) && !self.lanes[lane].arrivals.is_empty() {
            let coming = self.lanes[lane].arrivals.iter().take(CHUNK);
            let touched = coming.fold(0, |touched, arrival| touched ^ self.activations.touch(arrival.hash));
            std::hint::black_box(touched);
            for _ in 0..CHUNK {
                // Judging writes too: replies that are acknowledged, and what has no entity is given up.
                if self.is_batch_full(lane) {
                    break;
                }
                let Some(arrival) = self.lanes[lane].arrivals.pop_front() else { break };
                self.lanes[lane].arrival_bytes -= arrival.envelope.len();
                if let Some(fresh) = self.judge(arrival) {
                    taken.push(fresh);
                }
            }
            for Taken { slot, mail } in taken.drain(..) {
                self.take_turn(lane, slot, mail);
            }
        }
    }

    /// The store has no room: questions and repeats are answered, feeds wait at the door, and streams are told when to go
    /// on. New requests are refused where the disk is full, for nobody knows for how long; where a checkpoint will soon
    /// have shortened the log they wait, and the bound of the intake is theirs.
    fn run_without_room(&mut self, lane: usize, why: NoRoom) {
        // Those in front were looked at before and wait; only a look at each keeps a long wait from being a busy one.
        let at_door = self.lanes[lane].at_door.filter(|(before, _)| *before == why).map_or(0, |(_, len)| len);
        for arrival in self.lanes[lane].arrivals.split_off(at_door) {
            let bytes = arrival.envelope.len();
            let kind = self.kinds.find(arrival.envelope.kind());
            let to_durable = kind.is_none_or(|kind| !self.kinds.get(kind).is_volatile());
            match arrival.from {
                Provenance::Volatile if to_durable => {
                    tracing::warn!("a volatile message was dropped: the store has no room for its turn");
                }
                Provenance::Request { id, listener, .. } if to_durable => {
                    if self.answer_repeat(&arrival, id, listener).is_some() {
                        if why == NoRoom::LogTail {
                            self.lanes[lane].arrivals.push_back(arrival);
                            continue;
                        }
                        self.refuse(&arrival, super::refusal(why));
                    }
                }
                Provenance::Query(_) | Provenance::Volatile | Provenance::Request { .. } => {
                    if let Some(Taken { slot, mail }) = self.judge(arrival) {
                        self.take_turn(lane, slot, mail);
                    }
                }
                // A feed sends no more than its window before it hears of it; a stream is sent again and again.
                Provenance::Feed { .. } => {
                    self.lanes[lane].arrivals.push_back(arrival);
                    continue;
                }
                Provenance::Stream { source, number, .. } => {
                    self.refuse_stream(source, arrival.shard, number, false);
                }
            }
            self.lanes[lane].arrival_bytes -= bytes;
        }
        self.lanes[lane].at_door = Some((why, self.lanes[lane].arrivals.len()));
    }

    /// Judges one arrival. What is fresh is taken and returned; everything else is answered here.
    fn judge(&mut self, arrival: Arrival) -> Option<Taken> {
        let shard = self.host(arrival.shard);
        assert_eq!(shard.phase, ShardPhase::Serving, "what arrives for a shard that is loading is held");
        match arrival.from {
            Provenance::Request { .. } => self.judge_request(arrival),
            Provenance::Query(to) => {
                let slot = self.door(&arrival, false)?;
                self.counters.queries += 1;
                Some(Taken { slot, mail: Mail { envelope: arrival.envelope, origin: Origin::Query(to) } })
            }
            Provenance::Feed { .. } => self.judge_feed(arrival),
            Provenance::Stream { voids, .. } if self.is_void(arrival.shard, voids) => None,
            Provenance::Stream { source, number, .. } => self.judge_stream(arrival, source, number),
            Provenance::Volatile => {
                let slot = self.door(&arrival, false)?;
                self.counters.volatile += 1;
                Some(Taken {
                    slot,
                    mail: Mail { envelope: arrival.envelope, origin: Origin::Volatile(None) },
                })
            }
        }
    }

    fn judge_request(&mut self, arrival: Arrival) -> Option<Taken> {
        let Provenance::Request { id, ref acknowledged, listener } = arrival.from else {
            unreachable!("called for requests only")
        };
        let kind = self.kinds.find(arrival.envelope.kind());
        if kind.is_some_and(|kind| self.kinds.get(kind).is_volatile()) {
            let slot = self.door(&arrival, true)?;
            self.counters.volatile += 1;
            let origin = Origin::Volatile(Some(listener.to));
            return Some(Taken { slot, mail: Mail { envelope: arrival.envelope, origin } });
        }
        self.acknowledge_replies(arrival.shard, id.client, acknowledged);
        let digest = self.answer_repeat(&arrival, id, listener)?;
        let limits = &self.limits;
        let shard = self.shard(arrival.shard).expect("judged above");
        let full = if limits.outbox_bytes_max <= shard.outbox_bytes {
            Some(Bound::Outbox)
        } else if limits.replies_max <= shard.requests.len()
            || limits.reply_bytes_max <= self.kept_with(arrival.shard).replies
        {
            Some(Bound::Replies)
        } else if limits.clients_max <= shard.requests.clients() && !shard.requests.knows(id.client) {
            Some(Bound::Clients)
        } else if limits.dead_letters_max <= shard.dead.len() {
            Some(Bound::DeadLetters)
        } else {
            None
        };
        if let Some(bound) = full {
            self.refuse(&arrival, Refusal::Busy(bound));
            return None;
        }
        let slot = self.door(&arrival, true)?;
        let shard = self.host(arrival.shard);
        shard.requests.take(id, digest);
        let lane = shard.lane;
        self.lanes[lane].has_clients = true;
        self.counters.accepted += 1;
        Some(Taken {
            slot,
            mail: Mail { envelope: arrival.envelope, origin: Origin::Request { id, listener } },
        })
    }

    /// Answers a request that is none to be run now: a repeat, or one that cannot be told from a repeat. It writes nothing.
    /// Returns the digest of one that is fresh.
    fn answer_repeat(&mut self, arrival: &Arrival, id: RequestId, listener: Listener) -> Option<u64> {
        let digest = xxhash_rust::xxh3::xxh3_64(arrival.envelope.bytes());
        let latest = self.now + self.limits.reply_retention.max(AHEAD_MAX);
        let shard = self.host(arrival.shard);
        let lane = shard.lane;
        match shard.requests.judge(id, digest) {
            // The horizon would not reach its record for as long as that.
            RequestVerdict::Fresh if latest < id.issued_at => {
                self.refuse(arrival, Refusal::IssuedAhead(id.to_string()));
            }
            RequestVerdict::Fresh => return Some(digest),
            RequestVerdict::Done(reply) => {
                self.counters.duplicates += 1;
                // The first run's batch may not be durable yet; behind it in the lane, this answer is true.
                self.put_gated(lane, Output::Reply(listener.to, Outcome::Done(reply)));
            }
            RequestVerdict::Pending { waits } => {
                self.counters.duplicates += 1;
                if waits && !listener.wants_reply {
                    // Behind the batch that put it in the waiting queue, this is true (P1).
                    self.put_gated(lane, Output::Reply(listener.to, Outcome::Waiting));
                } else {
                    self.listen(arrival.shard, id, listener);
                }
            }
            RequestVerdict::Expired => self.refuse(arrival, Refusal::Expired(id.to_string())),
            RequestVerdict::Collision => self.refuse(arrival, Refusal::Collision(id.to_string())),
        }
        None
    }

    /// Remembers a further caller of a request that is on its way.
    fn listen(&mut self, shard: ShardId, id: RequestId, listener: Listener) {
        /// A client that asks again faster than it is answered keeps its newest callers only.
        const LISTENERS_MAX: usize = 16;
        let listeners = self.host(shard).listeners.entry(id).or_default();
        let oldest = (listeners.len() == LISTENERS_MAX).then(|| listeners.remove(0));
        listeners.push(listener);
        if let Some(oldest) = oldest {
            self.put_now(Output::Reply(oldest.to, Outcome::Unknown("asked again too often".into())));
        }
    }

    /// Whether a message was handed over out of a batch that has been voided since. Its number will be given to
    /// another message, which taking this one would make look like a repeat (P13).
    fn is_void(&self, target: ShardId, voids: Option<u64>) -> bool {
        let lane = &self.lanes[self.shard(target).expect("judged at the door").lane];
        voids.is_some_and(|voids| voids < lane.voids)
    }

    fn judge_stream(&mut self, arrival: Arrival, source: ShardId, number: u64) -> Option<Taken> {
        let window = self.limits.stream_window;
        let target = arrival.shard;
        if self.is_parked(source, target) {
            return None;
        }
        match self.host(target).inboxes.entry(source).or_default().judge(number, window) {
            Verdict::Fresh => {}
            Verdict::Duplicate => {
                self.counters.duplicates += 1;
                let shard = self.host(target);
                let (lane, through) = (shard.lane, shard.inboxes[&source].floor());
                self.put_gated(
                    lane,
                    Output::Receipt(Receipt { source, target, through, refused_from: None, go_on: false }),
                );
                return None;
            }
            Verdict::Taken => {
                self.counters.duplicates += 1;
                return None;
            }
            Verdict::Gap { expected } => {
                self.refuse_stream(source, target, expected, true);
                return None;
            }
        }
        let inbox = &self.shard(target).expect("judged above").inboxes[&source];
        // Of each stream one message is always taken, so that none starves behind the others (P8).
        let is_first = inbox.floor() == inbox.arrived();
        if !is_first && !self.has_room_for(inbox) {
            self.refuse_stream(source, target, number, false);
            return None;
        }
        let known = self.kinds.find(arrival.envelope.kind()).is_some();
        let slot = if known {
            let slot = self.door(&arrival, false);
            if slot.is_none() {
                self.refuse_stream(source, target, number, false);
            }
            Some(slot?)
        } else {
            None
        };
        self.starved.remove(&(source, target));
        let mail = Mail { envelope: arrival.envelope, origin: Origin::Stream { source, number } };
        let inbox = self.host(target).inboxes.get_mut(&source).expect("judged above");
        let held_none = inbox.held() == 0;
        inbox.take(number, mail.bytes());
        self.streams_held += usize::from(held_none);
        self.counters.accepted += 1;
        if let Some(slot) = slot {
            Some(Taken { slot, mail })
        } else {
            let reason = format!("no entity of kind `{}` is registered", mail.envelope.kind());
            self.dead_letter(target, &mail, 0, reason);
            None
        }
    }

    /// Refuses a stream's messages from a number on, once for a whole burst. What was consumed so far may not be
    /// durable, so the receipt does not speak of it.
    fn refuse_stream(&mut self, source: ShardId, target: ShardId, from: u64, go_on: bool) {
        if self.starved.insert((source, target)) {
            let refused_from = Some(from);
            self.put_now(Output::Receipt(Receipt { source, target, through: 0, refused_from, go_on }));
        }
    }

    /// Whether a stream may hold more messages in memory: there is room for all, or it has not had its share. So a hot
    /// entity slows the streams that lead to it, and no others (P8).
    fn has_room_for(&self, inbox: &Inbox) -> bool {
        let max = self.limits.intake_bytes_max;
        self.activations.mail_bytes() < max || inbox.held() < max / self.streams_held.max(1)
    }

    /// Tells the senders of refused streams that there is room again: all of them where there is much, and from time to
    /// time, with `each`, those that have room by their share.
    pub(super) fn feed_starved(&mut self, each: bool) {
        if self.starved.is_empty() || self.limits.activation_bytes_max <= self.activation_bytes {
            return;
        }
        let all = self.activations.mail_bytes() < self.limits.intake_bytes_max / 2;
        if !all && !each {
            return;
        }
        for (source, target) in std::mem::take(&mut self.starved) {
            let shard = self.shard(target);
            let has_store_room = shard.is_some_and(|shard| !self.lanes[shard.lane].without_room);
            let inbox = shard.and_then(|shard| shard.inboxes.get(&source));
            if has_store_room && (all || inbox.is_none_or(|inbox| self.has_room_for(inbox))) {
                // From there on: what came since the refusal was left aside without a word.
                let refused_from = inbox.map(|inbox| inbox.arrived() + 1);
                self.put_now(Output::Receipt(Receipt {
                    source,
                    target,
                    through: 0,
                    refused_from,
                    go_on: true,
                }));
            } else {
                self.starved.insert((source, target));
            }
        }
    }

    /// Tells a feed to send again from a number on, once for a whole burst.
    fn refuse_feed(&mut self, to: ReplyTo, feed: FeedId, shard: ShardId, from: u64) {
        if self.refused_feeds.insert((to, feed, shard)) {
            self.tell_feeder(to, feed, shard, FeedNews::SendFrom(from));
        }
    }

    fn judge_feed(&mut self, arrival: Arrival) -> Option<Taken> {
        let Provenance::Feed { feed: id, number, own, to } = arrival.from else {
            unreachable!("called for feeds only")
        };
        let (target, window) = (arrival.shard, self.limits.stream_window);
        // Its sender has gone, or was stopped by a collision: what it sent before must not count as another's.
        self.open_feeds.get(&id)?.feeder(to)?;
        if !self.host(target).feeds.contains_key(&id) {
            if self.limits.clients_max <= self.host(target).feeds.len() {
                self.tell_feeder(to, id, target, FeedNews::Refused(Refusal::Busy(Bound::Clients)));
                return None;
            }
            let name = Arc::clone(&self.open_feeds[&id].name);
            let shard = self.touch(target);
            shard.name_feed(id, &name);
            shard.feeds.insert(id, crate::feeds::Feed::default());
            shard.changes.feeds.insert(id);
            let lane = shard.lane;
            self.lanes[lane].batch_bytes += super::MARKS_LEN;
            self.measure(target);
        }
        let digest = if number == 1 { xxhash_rust::xxh3::xxh3_64(arrival.envelope.bytes()) } else { 0 };
        match self.host(target).feeds[&id].judge(number, own, digest, window) {
            FeedVerdict::Stream(Verdict::Fresh) => {}
            FeedVerdict::Stream(Verdict::Duplicate) => {
                self.counters.duplicates += 1;
                self.agree(id, to, target, number);
                let judged = self.open_feeds[&id].feeder(to)?.judged(target);
                let shard = self.host(target);
                let (lane, floor) = (shard.lane, shard.feeds[&id].floor());
                let news = FeedNews::Durable { through: floor.min(judged) };
                // What it repeats may not be durable yet; behind its batch in the lane, this is true.
                self.put_gated(lane, Output::FeedReceipt(FeedReceipt { to, feed: id, shard: target, news }));
                return None;
            }
            FeedVerdict::Stream(Verdict::Taken) => {
                self.counters.duplicates += 1;
                self.agree(id, to, target, number);
                return None;
            }
            FeedVerdict::Stream(Verdict::Gap { expected }) => {
                self.refuse_feed(to, id, target, expected);
                return None;
            }
            FeedVerdict::Collision => {
                self.counters.refused += 1;
                self.tell_feeder(to, id, target, FeedNews::Collision { number, own });
                // It has stopped; what it sent before it heard so must not count as the next rows of the other input.
                self.close_feed(id, to);
                return None;
            }
        }
        let (outbox_max, dead_max) = (self.limits.outbox_bytes_max, self.limits.dead_letters_max);
        let shard = self.host(target);
        let full = outbox_max <= shard.outbox_bytes
            || dead_max <= shard.dead.len()
            || self.limits.intake_bytes_max <= self.activations.mail_bytes();
        let slot = if full { None } else { self.door(&arrival, false) };
        let Some(slot) = slot else {
            if self.kinds.find(arrival.envelope.kind()).is_none() {
                let kind = arrival.envelope.kind().to_owned();
                self.tell_feeder(to, id, target, FeedNews::Refused(Refusal::UnknownKind(kind)));
            } else {
                self.refuse_feed(to, id, target, number);
            }
            return None;
        };
        self.host(target).feeds.get_mut(&id).expect("made above").take(number, own, digest);
        self.agree(id, to, target, number);
        self.counters.accepted += 1;
        Some(Taken {
            slot,
            mail: Mail { envelope: arrival.envelope, origin: Origin::Feed { feed: id, number } },
        })
    }

    /// Finds room for a message with its entity, bringing the entity into memory. `None`: there is none, and a
    /// request or query was told so; streams and feeds are told by the caller.
    fn door(&mut self, arrival: &Arrival, is_request: bool) -> Option<Slot> {
        let view = arrival.envelope.view();
        let found =
            self.activations.find(arrival.hash, view.kind, view.key, |kind| self.kinds.get(kind).name());
        let is_client = is_request || matches!(arrival.from, Provenance::Query(_));
        if is_client && let Some(refusal) = self.unanswerable(&view, is_request) {
            self.refuse(arrival, refusal);
            return None;
        }
        let Some(slot) = found else {
            if self.limits.activation_bytes_max <= self.activation_bytes {
                if is_client {
                    self.refuse(arrival, Refusal::Busy(Bound::Memory));
                }
                return None;
            }
            return self.activate(arrival.shard, arrival.hash, &arrival.envelope);
        };
        let activation = self.activations.get(slot).expect("just found");
        // A stream's messages are bounded by the worker's bytes and not one by one: its hot entity must not make it
        // send again and again.
        let is_stream = matches!(arrival.from, Provenance::Stream { .. });
        if !is_stream && self.limits.mailbox_len_max <= activation.mailbox_len() {
            if is_client {
                self.refuse(arrival, Refusal::Busy(Bound::Mailbox));
            }
            return None;
        }
        Some(slot)
    }

    /// Why a client's message has nobody to handle it.
    fn unanswerable(&self, view: &EnvelopeView<'_>, is_request: bool) -> Option<Refusal> {
        let Some(kind) = self.kinds.find(view.kind) else {
            return Some(Refusal::UnknownKind(view.kind.to_owned()));
        };
        let kind = self.kinds.get(kind);
        let names = if is_request { kind.handles() } else { kind.queries() };
        (!names.contains(&view.name))
            .then(|| Refusal::UnknownMessage { kind: view.kind.to_owned(), name: view.name.to_owned() })
    }

    /// The entity's activation, made where there is none. `None` for an unknown kind.
    pub(super) fn activate(&mut self, shard: ShardId, hash: u64, envelope: &Envelope) -> Option<Slot> {
        let view = envelope.view();
        let kinds = self.kinds();
        if let Some(slot) = self.activations.find(hash, view.kind, view.key, |kind| kinds.get(kind).name()) {
            return Some(slot);
        }
        let kind = self.kinds.find(view.kind)?;
        let slot = self.activations.insert(hash, kind, view.key, shard);
        self.begin(slot, kind, shard, view.kind, view.key);
        Some(slot)
    }

    /// A new activation asks for its image; a volatile one has none.
    pub(super) fn begin(&mut self, slot: Slot, kind: KindIndex, shard: ShardId, kind_name: &str, key: &str) {
        let kinds = self.kinds();
        let is_volatile = kinds.get(kind).is_volatile();
        let lane = self.host(shard).lane;
        let used_at = self.seconds();
        let activation = self.activations.get_mut(slot).expect("just inserted");
        activation.used_at = used_at;
        if is_volatile {
            activation.phase = Phase::Active;
        } else {
            let (epoch, resets) = {
                let shard = self.host(shard);
                (shard.epoch, shard.resets)
            };
            let key = super::close::image_key(kind_name, key);
            let key = crate::store::ImageKey { shard, epoch, key };
            self.lanes[lane].loads.push(super::ImageTicket { key, slot, resets });
        }
        self.weigh(slot, 0);
    }

    /// Refuses an arrival: nothing happened.
    pub(super) fn refuse(&mut self, arrival: &Arrival, refusal: Refusal) {
        self.counters.refused += 1;
        match arrival.from {
            Provenance::Request { listener, .. } => {
                self.put_now(Output::Reply(listener.to, Outcome::Refused(refusal)));
            }
            Provenance::Query(to) => self.put_now(Output::Reply(to, Outcome::Refused(refusal))),
            Provenance::Feed { feed, number, to, .. } => {
                self.refuse_feed(to, feed, arrival.shard, number);
            }
            Provenance::Stream { source, number, .. } => {
                self.refuse_stream(source, arrival.shard, number, false);
            }
            Provenance::Volatile => {}
        }
    }

    /// Whole seconds since the worker started.
    pub(super) fn seconds(&self) -> u32 {
        self.now.since(self.started).as_secs() as u32
    }
}
