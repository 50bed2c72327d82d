//! What a turn leaves: its effects become rows of the batch being built, and its message is marked as consumed.

use super::{Arrival, Kernel, Outcome, Output, Provenance};
use crate::{
    activation::{Behind, Mail, Origin, Slot},
    context::{Effects, ReminderId},
    kinds::Kinds,
    message::{Envelope, EnvelopeView},
    placement::ShardId,
    reminders::Reminder,
    requests::{Reply, ReplyClass},
    store::{
        RowType,
        batch::{delete, put},
        row::put_varint,
    },
};
use bytes::Bytes;

impl Kernel {
    pub(super) fn applied(&mut self, lane: usize, slot: Slot, shard: ShardId, mail: &Mail, kinds: &Kinds) {
        let mut effects = std::mem::take(&mut self.effects);
        let kind = self.activations.get(slot).expect("a turn has an activation").kind;
        if kinds.get(kind).is_volatile() {
            self.send_volatile(&effects, kinds);
        } else {
            // Also where the message was a volatile one: what the turn did is durable all the same.
            self.record(lane, slot, shard, &effects, kinds);
        }
        let reply = Reply { class: ReplyClass::Applied, body: Bytes::copy_from_slice(effects.reply()) };
        match mail.origin {
            // Only volatile entities have callers here.
            Origin::Volatile(Some(to)) => self.put_now(Output::Reply(to, Outcome::Done(reply))),
            Origin::Volatile(None) => {}
            _ => {
                self.consume(lane, shard, mail, &reply);
                self.lanes[lane].counts.applied += 1;
            }
        }
        effects.clear();
        self.effects = effects;
    }

    pub(super) fn rejected(&mut self, lane: usize, shard: ShardId, mail: &Mail) {
        let body = Bytes::copy_from_slice(self.effects.reply());
        let reply = Reply { class: ReplyClass::Rejected, body };
        if let Origin::Volatile(to) = mail.origin {
            if let Some(to) = to {
                self.put_now(Output::Reply(to, Outcome::Done(reply)));
            }
            return;
        }
        if !matches!(mail.origin, Origin::Request { .. }) {
            let view = mail.envelope.view();
            tracing::debug!(kind = view.kind, key = ?view.key, message = view.name, "rejected without a waiting client");
        }
        self.consume(lane, shard, mail, &reply);
        self.lanes[lane].counts.applied += 1;
        self.lanes[lane].counts.rejected += 1;
    }

    /// Messages, reminders and cancellations of a turn that counts.
    fn record(&mut self, lane: usize, slot: Slot, shard: ShardId, effects: &Effects, kinds: &Kinds) {
        for bytes in effects.sends() {
            self.send(lane, shard, Bytes::copy_from_slice(bytes), kinds);
        }
        if effects.is_deleted() || !effects.cancelled().is_empty() || !effects.reminders().is_empty() {
            self.record_reminders(slot, shard, effects);
        }
        self.measure(shard);
    }

    fn record_reminders(&mut self, slot: Slot, id: ShardId, effects: &Effects) {
        let kinds = self.kinds();
        let activation = self.activations.get(slot).expect("a turn has an activation");
        let (hash, kind, key) =
            (activation.hash(), kinds.get(activation.kind).name(), activation.key.clone());
        let now = self.now;
        let shard = self.touch(id);
        let mut removed: Vec<ReminderId> = Vec::new();
        for reminder in effects.reminders() {
            let envelope = Envelope::from_bytes(Bytes::copy_from_slice(effects.envelope(&reminder.envelope)))
                .expect("the turn has just encoded it");
            let mut value = Vec::new();
            put_varint(reminder.due.as_micros(), &mut value);
            value.extend_from_slice(envelope.bytes());
            put(
                &[&[RowType::Reminder as u8], &reminder.id.0.to_be_bytes()],
                &[&value],
                &mut shard.changes.writes,
            );
            let due = reminder.due.max(now);
            shard.reminders.set(reminder.id, Reminder { due, hash, envelope, fired: false });
            shard.head.reminder_next = reminder.id.0 + 1;
            shard.changes.head = true;
        }
        for &reminder in effects.cancelled() {
            if shard.reminders.remove_of(reminder, kind, &key) {
                removed.push(reminder);
            }
        }
        if effects.is_deleted() {
            for reminder in shard.reminders.of_entity(hash, kind, &key) {
                shard.reminders.remove(reminder);
                removed.push(reminder);
            }
        }
        for reminder in removed {
            delete(&[&[RowType::Reminder as u8], &reminder.0.to_be_bytes()], &mut shard.changes.writes);
        }
    }

    /// One message sent by a durable entity: into the outbox, numbered, or aside where the target is volatile.
    fn send(&mut self, lane: usize, source: ShardId, bytes: Bytes, kinds: &Kinds) {
        let envelope = Envelope::from_bytes(bytes).expect("the turn has just encoded it");
        let view = envelope.view();
        let hash = crate::placement::hash(view.kind, view.key);
        let target = self.layout.place(hash);
        if kinds.find(view.kind).is_some_and(|kind| kinds.get(kind).is_volatile()) {
            // Sent after the sender's commit (P5).
            self.lanes[lane].output_bytes += envelope.len();
            self.put_gated(
                lane,
                Output::Hand(Arrival { shard: target, hash, envelope, from: Provenance::Volatile }),
            );
            return;
        }
        let (batch, front_len_max) = (self.lanes[lane].number + 1, self.front_len_max());
        let shard = self.touch(source);
        let len = envelope.len();
        let outbox = shard.outboxes.entry(target).or_default();
        let number = outbox.push(envelope.bytes().clone(), batch, front_len_max);
        let (has_back, is_to_note) = (outbox.has_back(), outbox.note_told());
        shard.outbox_bytes += len;
        put(
            &[&[RowType::Outbox as u8], &target.0.to_be_bytes(), &number.to_be_bytes()],
            &[envelope.bytes()],
            &mut shard.changes.writes,
        );
        if is_to_note {
            shard.write_sent(target);
        }
        self.outbox_memory += len;
        if has_back {
            self.lanes[lane].backed.insert((source, target));
        }
        self.lanes[lane].sending.insert((source, target));
    }

    fn send_volatile(&mut self, effects: &Effects, kinds: &Kinds) {
        for bytes in effects.sends() {
            let envelope =
                Envelope::from_bytes(Bytes::copy_from_slice(bytes)).expect("the turn has just encoded it");
            let view: EnvelopeView<'_> = envelope.view();
            let hash = crate::placement::hash(view.kind, view.key);
            let shard = self.layout.place(hash);
            if kinds.find(view.kind).is_none() {
                tracing::warn!(
                    kind = view.kind,
                    "a volatile entity sent to a kind that is not registered; dropped"
                );
                continue;
            }
            self.put_now(Output::Hand(Arrival { shard, hash, envelope, from: Provenance::Volatile }));
        }
    }

    pub(super) fn drop_volatile(&mut self, to: Option<crate::activation::ReplyTo>, reason: String) {
        if let Some(to) = to {
            let reply = Reply { class: ReplyClass::DeadLettered, body: reason.into_bytes().into() };
            self.put_now(Output::Reply(to, Outcome::Done(reply)));
        } else {
            tracing::warn!(reason, "a message to a volatile entity was dropped");
        }
    }

    /// Marks a message as consumed in the batch being built, and answers its caller when that is durable.
    pub(super) fn consume(&mut self, lane: usize, id: ShardId, mail: &Mail, reply: &Reply) {
        self.mark(id, mail);
        match mail.origin {
            Origin::Stream { .. } | Origin::Feed { .. } => {}
            Origin::Request { id: request, listener } => {
                self.complete(lane, id, request, reply, Some(listener));
            }
            Origin::Reminder(reminder) => self.drop_reminder(id, reminder),
            Origin::Waiting(number) => {
                let shard = self.touch(id);
                let waiting = shard.waiting.remove(&number).expect("judged before its turn");
                shard.waiting_bytes -= waiting.envelope.len();
                delete(&[&[RowType::Waiting as u8], &number.to_be_bytes()], &mut shard.changes.writes);
                match waiting.behind {
                    Behind::Nothing => {}
                    Behind::Request(request) => self.complete(lane, id, request, reply, None),
                    Behind::Reminder(reminder) => self.drop_reminder(id, reminder),
                }
                self.lanes[lane].counts.left_waiting += 1;
            }
            Origin::Query(_) | Origin::Volatile(_) => unreachable!("they leave no mark"),
        }
        self.measure(id);
    }

    /// A reminder has had its turn.
    fn drop_reminder(&mut self, id: ShardId, reminder: ReminderId) {
        let shard = self.touch(id);
        if shard.reminders.remove(reminder).is_some() {
            delete(&[&[RowType::Reminder as u8], &reminder.0.to_be_bytes()], &mut shard.changes.writes);
        }
    }

    /// Stores a reply and answers everyone who waits for it.
    fn complete(
        &mut self,
        lane: usize,
        id: ShardId,
        request: crate::message::RequestId,
        reply: &Reply,
        listener: Option<crate::activation::Listener>,
    ) {
        let mut value = std::mem::take(&mut self.scratch);
        value.clear();
        let shard = self.touch(id);
        if shard.requests.complete(request, reply, &mut value) {
            put(
                &[&[RowType::Reply as u8], &request.client.0.to_be_bytes(), &request.number.to_be_bytes()],
                &[&value],
                &mut shard.changes.writes,
            );
        }
        let others = if shard.listeners.is_empty() { None } else { shard.listeners.remove(&request) };
        for listener in listener.into_iter().chain(others.into_iter().flatten()) {
            self.put_gated(lane, Output::Reply(listener.to, Outcome::Done(reply.clone())));
        }
        self.scratch = value;
    }
}
