//! Entities that fail or cannot be read: they stop nobody but themselves (P3).
//!
//! A message whose handler panics stays at the head of its entity's mailbox and is tried again after a pause. An entity
//! that fails for longer than a second, or is parked, lets go of its streams: its messages are consumed into its durable
//! waiting queue, in order, and tried from there.

use super::{Kernel, OPERATIONS_MAX, Operated, Operation, Outcome, Output, refusal};
use crate::{
    activation::{Activation, Behind, Mail, Origin, Phase, Slot, Trouble, Waiting},
    error::{Bound, Refusal},
    message::Envelope,
    placement::ShardId,
    requests::{Reply, ReplyClass},
    shard::{LetterRow, ShardPhase, encode_waiting, hash_of},
    store::{
        NoRoom, RowType,
        batch::{delete, put},
    },
    timestamp::Timestamp,
};
use std::{collections::VecDeque, time::Duration};

/// Longest pause between two tries.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

impl Kernel {
    /// The handler of a message panicked; its turn is undone.
    pub(super) fn failed(&mut self, slot: Slot, mail: Mail, reason: String) {
        if let Origin::Volatile(to) = mail.origin {
            let reply = Reply { class: ReplyClass::DeadLettered, body: reason.into_bytes().into() };
            if let Some(to) = to {
                self.put_now(Output::Reply(to, Outcome::Done(reply)));
            }
            return;
        }
        let (now, tries_max, retry_after) = (self.now, self.limits.tries_max, self.limits.retry_after);
        let activation = self.activations.get_mut(slot).expect("a turn has an activation");
        let shard = activation.shard;
        if activation.phase == Phase::Parked {
            // The state before could not be read again: that is its trouble now, and the message waits with the others.
            if !matches!(mail.origin, Origin::Waiting(_)) {
                self.activations.push_mail_front(slot, mail);
            }
            self.schedule(slot);
            return;
        }
        let trouble = activation.trouble.get_or_insert_with(|| {
            Box::new(Trouble {
                since: now,
                tries: 0,
                retry_at: now,
                reason: String::new(),
                waiting: VecDeque::new(),
            })
        });
        self.retries.remove(&(trouble.retry_at, slot));
        trouble.tries += 1;
        trouble.reason = reason;
        let view = mail.envelope.view();
        tracing::warn!(kind = view.kind, key = ?view.key, message = view.name, tries = trouble.tries, reason = trouble.reason, "a handler panicked");
        if tries_max <= trouble.tries {
            let (tries, reason) = (trouble.tries, format!("its handler panicked: {}", trouble.reason));
            self.dead_letter(shard, &mail, tries, reason);
            self.head_is_done(slot);
            return;
        }
        let pause = retry_after.saturating_mul(1 << (trouble.tries - 1).min(16)).min(RETRY_AFTER_MAX);
        trouble.retry_at = now + pause;
        self.retries.insert((trouble.retry_at, slot));
        if !matches!(mail.origin, Origin::Waiting(_)) {
            self.activations.push_mail_front(slot, mail);
        }
    }

    /// The head of a troubled entity's queue is dealt with: the next one starts with all its tries.
    fn head_is_done(&mut self, slot: Slot) {
        let now = self.now;
        let activation = self.activations.get_mut(slot).expect("a troubled entity is in memory");
        let Some(trouble) = activation.trouble.as_mut() else { return };
        self.retries.remove(&(trouble.retry_at, slot));
        if trouble.waiting.is_empty() {
            activation.trouble = None;
        } else {
            trouble.tries = 0;
            trouble.retry_at = now;
        }
        self.schedule(slot);
    }

    /// The work of an entity in trouble: retry its head when it is due, and let its messages wait where they block nobody.
    /// Returns whether there may be more to do at once.
    pub(super) fn run_troubled(&mut self, lane: usize, slot: Slot, room: Result<(), NoRoom>) -> bool {
        if let Err(why) = room {
            self.run_mailbox_without_room(lane, slot, why);
            self.schedule(slot);
            return false;
        }
        let (now, failing_for_max) = (self.now, self.limits.failing_for_max);
        let activation = self.activations.get_mut(slot).expect("a troubled entity is in memory");
        let (phase, id) = (activation.phase, activation.shard);
        let trouble = activation.trouble.as_ref().expect("called for those in trouble");
        let long =
            phase == Phase::Parked || trouble.since + failing_for_max <= now || !trouble.waiting.is_empty();
        if phase == Phase::Active && trouble.retry_at <= now {
            self.retry_head(lane, slot, id);
            return true;
        }
        if long {
            while self.batch_room(lane) > 0 {
                let Some(mail) = self.activations.pop_mail(slot) else { break };
                self.set_waiting(lane, slot, mail);
            }
            if self.activations.get(slot).is_some_and(|activation| activation.mailbox_len() > 0) {
                self.schedule(slot);
            }
        }
        false
    }

    fn retry_head(&mut self, lane: usize, slot: Slot, id: ShardId) {
        let activation = self.activations.get_mut(slot).expect("a troubled entity is in memory");
        let trouble = activation.trouble.as_mut().expect("called for those in trouble");
        self.retries.remove(&(trouble.retry_at, slot));
        let (before, mail) = match trouble.waiting.front().copied() {
            Some(number) => {
                let envelope = self.host(id).waiting[&number].envelope.clone();
                (Some(number), Mail { envelope, origin: Origin::Waiting(number) })
            }
            None => {
                if let Some(mail) = self.activations.pop_mail(slot) {
                    (None, mail)
                } else {
                    let activation = self.activations.get_mut(slot).expect("a troubled entity is in memory");
                    activation.trouble = None;
                    return;
                }
            }
        };
        let origin = mail.origin;
        if before.is_some_and(|number| self.is_cancelled(id, number)) {
            let reply = Reply { class: ReplyClass::Applied, body: bytes::Bytes::new() };
            self.consume(lane, id, &mail, &reply);
            self.lanes[lane].counts.applied += 1;
        } else {
            self.turn(lane, slot, mail);
        }
        // Consumed: by an applied or rejected turn, or as a dead letter.
        if before.is_some() && !self.host(id).waiting.contains_key(&before.expect("just seen")) {
            let activation = self.activations.get_mut(slot).expect("a troubled entity is in memory");
            if let Some(trouble) = activation.trouble.as_mut() {
                trouble.waiting.retain(|number| Some(*number) != before);
            }
            self.head_is_done(slot);
        } else if before.is_none() && self.is_mark_set(id, &origin) {
            self.head_is_done(slot);
        }
    }

    /// Whether a waiting message is that of a reminder which its entity has cancelled since.
    fn is_cancelled(&mut self, id: ShardId, number: u64) -> bool {
        let shard = self.host(id);
        matches!(shard.waiting[&number].behind, Behind::Reminder(id) if !shard.reminders.is_set(id))
    }

    fn is_mark_set(&mut self, id: ShardId, origin: &Origin) -> bool {
        let shard = self.host(id);
        match *origin {
            Origin::Stream { source, number } => shard.inboxes[&source].is_consumed(number),
            Origin::Feed { feed, number } => shard.feeds[&feed].is_consumed(number),
            Origin::Request { id, .. } => shard.requests.is_done(id),
            Origin::Reminder(id) => !shard.reminders.is_set(id),
            Origin::Waiting(_) | Origin::Query(_) | Origin::Volatile(_) => true,
        }
    }

    /// Consumes a message into its entity's waiting queue, or into the dead letters where that is full.
    fn set_waiting(&mut self, lane: usize, slot: Slot, mail: Mail) {
        let (len_max, bytes_max) = (self.limits.waiting_len_max, self.limits.waiting_bytes_max);
        let id = self.activations.get(slot).expect("a troubled entity is in memory").shard;
        let waiting_bytes = self.kept_with(id).waiting;
        let activation = self.activations.get_mut(slot).expect("a troubled entity is in memory");
        if let Origin::Query(to) = mail.origin {
            let reason =
                activation.trouble.as_ref().map_or_else(String::new, |trouble| trouble.reason.clone());
            if activation.phase == Phase::Active {
                self.turn(lane, slot, mail);
            } else {
                self.put_now(Output::Reply(to, Outcome::Refused(Refusal::Parked(reason))));
            }
            return;
        }
        let trouble = activation.trouble.as_mut().expect("called for those in trouble");
        if let Origin::Volatile(to) = mail.origin {
            // At most once: it waits for nobody (P5).
            let reason = format!("its entity is stuck ({})", trouble.reason);
            self.drop_volatile(to, reason);
            return;
        }
        let queued = trouble.waiting.len();
        if len_max <= queued || bytes_max <= waiting_bytes {
            let reason = format!("its entity is stuck ({}) and the waiting queue is full", trouble.reason);
            self.dead_letter(id, &mail, 0, reason);
            return;
        }
        let number = self.push_waiting(id, slot, &mail);
        // The mark is set as for a turn, but the request stays open until the message is done.
        self.mark(id, &mail);
        let shard = self.touch(id);
        match mail.origin {
            Origin::Request { id: request, listener } => {
                shard.requests.set_waiting(request);
                let mut listeners = shard.listeners.remove(&request).unwrap_or_default();
                listeners.push(listener);
                let (replies, receipts): (Vec<_>, Vec<_>) =
                    listeners.into_iter().partition(|listener| listener.wants_reply);
                if !replies.is_empty() {
                    shard.listeners.insert(request, replies);
                }
                for listener in receipts {
                    self.put_gated(lane, Output::Reply(listener.to, Outcome::Waiting));
                }
            }
            // A reminder stays set until its turn, for the entity may still cancel it (P4).
            Origin::Stream { .. } | Origin::Feed { .. } | Origin::Reminder(_) => {}
            Origin::Waiting(_) | Origin::Query(_) | Origin::Volatile(_) => {
                unreachable!("they do not wait: {number}")
            }
        }
        self.lanes[lane].counts.set_waiting += 1;
    }

    /// Appends to the waiting queue and its rows; the caller counts it.
    fn push_waiting(&mut self, id: ShardId, slot: Slot, mail: &Mail) -> u64 {
        let behind = match mail.origin {
            Origin::Request { id, .. } => Behind::Request(id),
            Origin::Reminder(id) => Behind::Reminder(id),
            _ => Behind::Nothing,
        };
        let waiting = Waiting { envelope: mail.envelope.clone(), behind };
        let mut value = Vec::new();
        encode_waiting(&waiting, &mut value);
        let shard = self.touch(id);
        let number = shard.head.waiting_next;
        shard.head.waiting_next += 1;
        shard.changes.head = true;
        put(&[&[RowType::Waiting as u8], &number.to_be_bytes()], &[&value], &mut shard.changes.writes);
        shard.waiting_bytes += waiting.envelope.len();
        shard.waiting.insert(number, waiting);
        self.measure(id);
        let activation = self.activations.get_mut(slot).expect("a troubled entity is in memory");
        activation.trouble.as_mut().expect("only those in trouble have a queue").waiting.push_back(number);
        number
    }

    /// Gives a message up, in the commit that marks it as consumed.
    pub(super) fn dead_letter(&mut self, id: ShardId, mail: &Mail, tries: u32, reason: String) {
        let view = mail.envelope.view();
        tracing::error!(kind = view.kind, key = ?view.key, message = view.name, tries, reason, "dead-lettered");
        let letter =
            LetterRow { at: self.now, tries, reason: reason.clone(), envelope: mail.envelope.clone() };
        let mut value = Vec::new();
        letter.encode(&mut value);
        let shard = self.touch(id);
        let (lane, number) = (shard.lane, shard.head.dead_next);
        shard.head.dead_next += 1;
        shard.changes.head = true;
        shard.dead.insert(number);
        put(&[&[RowType::DeadLetter as u8], &number.to_be_bytes()], &[&value], &mut shard.changes.writes);
        let reply = Reply { class: ReplyClass::DeadLettered, body: reason.into_bytes().into() };
        self.consume(lane, id, mail, &reply);
        self.lanes[lane].counts.dead_lettered += 1;
    }

    /// The entity's stored state cannot be read: its messages wait, and the state is left as it is.
    pub(super) fn park(&mut self, slot: Slot, reason: String) {
        let now = self.now;
        let activation = self.activations.get_mut(slot).expect("called for activations in memory");
        tracing::error!(key = ?activation.key, reason, "an entity is parked: its stored state cannot be read");
        activation.phase = Phase::Parked;
        activation.state = None;
        let trouble = activation.trouble.get_or_insert_with(|| {
            Box::new(Trouble {
                since: now,
                tries: 0,
                retry_at: now,
                reason: String::new(),
                waiting: VecDeque::new(),
            })
        });
        self.retries.remove(&(trouble.retry_at, slot));
        trouble.reason = reason;
        trouble.retry_at = Timestamp::NEVER;
    }

    pub(super) fn retry_failing(&mut self) {
        while let Some(&(at, slot)) = self.retries.first() {
            if self.now < at {
                break;
            }
            self.retries.pop_first();
            if self.activations.get(slot).is_some() {
                self.schedule(slot);
            }
        }
        // An entity that has just been failing for too long must let go of its streams, also between two tries.
        let due: Vec<Slot> = self.retries.iter().map(|(_, slot)| *slot).collect();
        for slot in due {
            let long = self.activations.get(slot).is_some_and(|activation: &Activation| {
                activation.mailbox_len() > 0
                    && activation
                        .trouble
                        .as_ref()
                        .is_some_and(|trouble| trouble.since + self.limits.failing_for_max <= self.now)
            });
            if long {
                self.schedule(slot);
            }
        }
    }

    /// After a load: the entities of waiting messages come into memory and try them again, in order.
    pub(super) fn restore_waiting(&mut self, id: ShardId) {
        let waiting: Vec<(u64, Envelope)> = self
            .host(id)
            .waiting
            .iter()
            .map(|(number, waiting)| (*number, waiting.envelope.clone()))
            .collect();
        for (number, envelope) in waiting {
            let Some(slot) = self.activate(id, hash_of(&envelope), &envelope) else {
                tracing::warn!(target = %envelope.target(), "a message waits for a kind that is not registered");
                continue;
            };
            self.trouble_of(slot).waiting.push_back(number);
        }
    }

    fn trouble_of(&mut self, slot: Slot) -> &mut Trouble {
        let now = self.now;
        let activation = self.activations.get_mut(slot).expect("just activated");
        let trouble = activation.trouble.get_or_insert_with(|| {
            let reason = "it was failing before".to_owned();
            Box::new(Trouble { since: now, tries: 0, retry_at: now, reason, waiting: VecDeque::new() })
        });
        if activation.phase != Phase::Loading {
            self.retries.insert((trouble.retry_at, slot));
        }
        trouble
    }

    /// Takes an operator's word; a run with room for its rows carries it out.
    pub(super) fn operator_asks(&mut self, operation: Operation) {
        let serving = self.shard(operation.shard).filter(|shard| shard.phase == ShardPhase::Serving);
        let Some(lane) = serving.map(|shard| shard.lane) else {
            self.put_now(Output::Reply(operation.to, Outcome::Refused(Refusal::Unavailable)));
            return;
        };
        if self.lanes[lane].operations.len() == OPERATIONS_MAX {
            self.put_now(Output::Reply(operation.to, Outcome::Refused(Refusal::Busy(Bound::Intake))));
            return;
        }
        self.lanes[lane].operations.push_back(operation);
    }

    pub(super) fn run_operations(&mut self, lane: usize, room: Result<(), NoRoom>) {
        while room.is_err() || self.batch_room(lane) > 0 {
            let Some(operation) = self.lanes[lane].operations.pop_front() else { break };
            let Operation { shard, ref what, to } = operation;
            if let Operated::Feed { feed, question } = *what {
                self.answer_feed(shard, feed, question, to, room);
                continue;
            }
            match room {
                Ok(()) if self.host(shard).phase == ShardPhase::Loading => {
                    // Its lane was voided meanwhile.
                    self.put_now(Output::Reply(to, Outcome::Refused(Refusal::Unavailable)));
                }
                Ok(()) => self.operate(lane, operation),
                Err(why) => self.put_now(Output::Reply(to, Outcome::Refused(refusal(why)))),
            }
        }
    }

    /// Whether what lies in an entity's mailbox, and one message more, has no place in its waiting queue.
    fn is_waiting_full(&self, id: ShardId, slot: Slot) -> bool {
        let activation = self.activations.get(slot).expect("just activated");
        let queued = activation.trouble.as_ref().map_or(0, |trouble| trouble.waiting.len());
        let mail = activation.mailbox.iter().flat_map(|mailbox| mailbox.iter());
        let bytes: usize = mail.map(|mail| mail.envelope.len()).sum();
        let waiting_bytes = self.kept_with(id).waiting;
        self.limits.waiting_len_max <= queued + activation.mailbox_len()
            || self.limits.waiting_bytes_max <= waiting_bytes + bytes
    }

    /// Moves an entity's mail into its waiting queue, so that what is put there next is behind it. Returns whether all of
    /// it had room in the batch. Questions and volatile messages stay: they are in no order with the others.
    fn let_mailbox_wait(&mut self, lane: usize, slot: Slot) -> bool {
        self.trouble_of(slot);
        let len = self.activations.get(slot).map_or(0, Activation::mailbox_len);
        let mut is_done = true;
        for _ in 0..len {
            let mail = self.activations.pop_mail(slot).expect("counted");
            let stays = matches!(mail.origin, Origin::Query(_) | Origin::Volatile(_));
            is_done &= stays || self.batch_room(lane) > 0;
            if stays || !is_done {
                self.activations.push_mail(slot, mail);
            } else {
                self.set_waiting(lane, slot, mail);
            }
        }
        is_done
    }

    /// An operator tries a dead letter again, as a new message behind the entity's others, or drops it (P1).
    fn operate(&mut self, lane: usize, operation: Operation) {
        let Operation { shard: id, ref what, to } = operation;
        let (number, retry) = match what {
            Operated::Letter { number, retry } => (*number, retry),
            Operated::DropFeed { name, step } => {
                self.drop_feed(lane, id, name, *step, to);
                return;
            }
            Operated::Unpark { shown } => {
                self.unpark(lane, shown, to);
                return;
            }
            Operated::Feed { .. } => unreachable!("a feed is answered before"),
        };
        let known = self.shard(id).is_some_and(|shard| shard.dead.contains(&number));
        if !known {
            self.put_now(Output::Reply(to, Outcome::Refused(Refusal::NoDeadLetter(number))));
            return;
        }
        if let Some(envelope) = retry.clone() {
            let Some(slot) = self.activate(id, hash_of(&envelope), &envelope) else {
                let kind = envelope.kind().to_owned();
                self.put_now(Output::Reply(to, Outcome::Refused(Refusal::UnknownKind(kind))));
                return;
            };
            if self.is_waiting_full(id, slot) {
                self.put_now(Output::Reply(to, Outcome::Refused(Refusal::Busy(Bound::Mailbox))));
                return;
            }
            if !self.let_mailbox_wait(lane, slot) {
                // The batch is full: on with it in the next.
                self.lanes[lane].operations.push_front(operation);
                return;
            }
            // It goes through the waiting queue, so that nothing is lost between the two rows.
            self.push_waiting(id, slot, &Mail { envelope, origin: Origin::Waiting(0) });
            self.counters.accepted += 1;
            self.lanes[lane].counts.set_waiting += 1;
            if self.activations.get(slot).is_some_and(|activation| activation.phase != Phase::Loading) {
                self.schedule(slot);
            }
        }
        let shard = self.touch(id);
        shard.dead.remove(&number);
        delete(&[&[RowType::DeadLetter as u8], &number.to_be_bytes()], &mut shard.changes.writes);
        self.measure(id);
        let reply = Reply { class: ReplyClass::Applied, body: bytes::Bytes::new() };
        self.put_gated(lane, Output::Reply(to, Outcome::Done(reply)));
    }
}
