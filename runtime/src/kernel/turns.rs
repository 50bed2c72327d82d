//! Running turns: the message is applied, and what counts becomes rows of the batch being built.

use super::{Arrival, Kernel, Outcome, Output, Provenance};
use crate::{
    activation::{Activation, Behind, Mail, Origin, Phase, Slot},
    context::{Effects, ReminderId, TurnInput},
    error::Refusal,
    kinds::Kinds,
    message::{Envelope, EnvelopeView},
    placement::ShardId,
    reminders::Reminder,
    requests::{Reply, ReplyClass},
    store::{
        NoRoom, RowType,
        batch::{delete, put},
        row::put_varint,
    },
    turn::{self, TurnEnd},
};
use bytes::Bytes;

impl Kernel {
    /// Gives entities with mail their share of turns.
    pub(super) fn run_ready(&mut self, lane: usize, room: Result<(), NoRoom>) {
        for _ in 0..self.lanes[lane].ready.len() {
            if self.is_batch_full(lane) {
                break;
            }
            let slot = self.lanes[lane].ready.pop_front().expect("counted");
            let Some(activation) = self.activations.get_mut(slot) else { continue };
            activation.scheduled = false;
            self.run_mailbox(lane, slot, room);
        }
    }

    pub(super) fn run_mailbox(&mut self, lane: usize, slot: Slot, room: Result<(), NoRoom>) {
        loop {
            if self.is_batch_full(lane) {
                self.schedule(slot);
                return;
            }
            let Some(activation) = self.activations.get_mut(slot) else { return };
            if activation.phase == Phase::Loading {
                return;
            }
            if self.is_past_its_share(slot) {
                self.schedule(slot);
                return;
            }
            let activation = self.activations.get_mut(slot).expect("just seen");
            if activation.trouble.is_some() {
                if !self.run_troubled(lane, slot, room) {
                    return;
                }
                if self.one_turn {
                    self.schedule(slot);
                    return;
                }
                continue;
            }
            if let Err(why) = room {
                self.run_mailbox_without_room(lane, slot, why);
                return;
            }
            let Some(mail) = self.activations.pop_mail(slot) else { return };
            self.turn(lane, slot, mail);
            if self.one_turn {
                if self.activations.get(slot).is_some_and(|activation| activation.mailbox_len() > 0) {
                    self.schedule(slot);
                }
                return;
            }
        }
    }

    /// The store has no room: questions in a mailbox are answered all the same. Requests are refused where the disk is
    /// full, for nobody knows for how long; everything else waits.
    pub(super) fn run_mailbox_without_room(&mut self, lane: usize, slot: Slot, why: NoRoom) {
        let Some(activation) = self.activations.get(slot) else { return };
        let (shard, parked, in_trouble) =
            (activation.shard, activation.phase == Phase::Parked, activation.trouble.is_some());
        // A volatile message changes a durable entity's image, which is a row.
        let writes_nothing = self.kinds.get(activation.kind).is_volatile();
        for _ in 0..activation.mailbox_len() {
            let mail = self.activations.pop_mail(slot).expect("counted");
            match mail.origin {
                Origin::Query(_) if !parked => self.turn(lane, slot, mail),
                Origin::Volatile(_) if writes_nothing && !parked => self.turn(lane, slot, mail),
                // The head of a failing entity's queue has its tries counted.
                Origin::Request { id, listener } if why == NoRoom::DiskFull && !in_trouble => {
                    let shard = self.host(shard);
                    shard.requests.forget(id);
                    let others = shard.listeners.remove(&id).into_iter().flatten();
                    self.counters.accepted -= 1;
                    self.counters.refused += 1;
                    for listener in std::iter::once(listener).chain(others) {
                        self.put_now(Output::Reply(listener.to, Outcome::Refused(Refusal::StorageFull)));
                    }
                }
                _ => self.activations.push_mail(slot, mail),
            }
        }
        if self.activations.get(slot).is_some_and(|activation| activation.mailbox_len() > 0) {
            self.schedule(slot);
        }
    }

    /// Runs a message now, or puts it in its entity's mailbox where it must wait its turn.
    pub(super) fn take_turn(&mut self, lane: usize, slot: Slot, mail: Mail) {
        let full = self.is_batch_full(lane);
        let named_first = 0 < self.careful && !matches!(mail.origin, Origin::Query(_) | Origin::Volatile(_));
        let waits = full || named_first || self.is_past_its_share(slot) || {
            let activation = self.activations.get(slot).expect("found in this chunk");
            activation.phase != Phase::Active || activation.trouble.is_some() || activation.mailbox_len() > 0
        };
        if waits {
            self.mail_later(slot, mail);
        } else {
            self.turn(lane, slot, mail);
        }
    }

    /// Whether the entity has had its turns of this run; counts the next one where it has not.
    fn is_past_its_share(&mut self, slot: Slot) -> bool {
        let (run, most) = (self.run, self.limits.turns_in_row_max);
        let Some(activation) = self.activations.get_mut(slot) else { return false };
        if activation.run != run {
            activation.run = run;
            activation.turns_in_run = 0;
        }
        if activation.turns_in_run == most {
            return true;
        }
        activation.turns_in_run += 1;
        false
    }

    /// Puts a message in its entity's mailbox and sees that it is run.
    pub(super) fn mail_later(&mut self, slot: Slot, mail: Mail) {
        self.activations.push_mail(slot, mail);
        let activation = self.activations.get(slot).expect("just pushed to");
        if activation.phase != Phase::Loading {
            self.schedule(slot);
        }
    }

    /// Puts the entity in the queue of those with work.
    pub(super) fn schedule(&mut self, slot: Slot) {
        let activation = self.activations.get_mut(slot).expect("only activations in memory have work");
        if !activation.scheduled {
            activation.scheduled = true;
            let shard = activation.shard;
            let lane = self.host(shard).lane;
            self.lanes[lane].ready.push_back(slot);
        }
    }

    /// One turn of an active entity.
    pub(super) fn turn(&mut self, lane: usize, slot: Slot, mail: Mail) {
        let shard = self.activations.get(slot).expect("a turn has an activation").shard;
        if self.is_consumed(shard, &mail.origin) {
            return;
        }
        if let Origin::Query(to) = mail.origin {
            self.answer(lane, slot, mail, to);
            return;
        }
        self.careful = self.careful.saturating_sub(1);
        if let Some(reason) = self.condemned.take() {
            self.give_up(shard, &mail, reason);
            return;
        }
        self.effects.clear();
        self.gauge.begin(&mail.envelope, &mail.origin);
        let ended = self.run_turn(slot, shard, &mail);
        self.gauge.end();
        match ended {
            Ok(TurnEnd::Applied) => {
                let kinds = self.kinds();
                self.applied(lane, slot, shard, &mail, &kinds);
            }
            Ok(TurnEnd::Rejected) => self.rejected(lane, shard, &mail),
            Ok(TurnEnd::Panicked(reason)) => {
                self.counters.panics += 1;
                self.failed(slot, mail, reason);
            }
            Ok(TurnEnd::GivenUp(reason)) => self.give_up(shard, &mail, reason),
            Err(reason) => self.park_with(slot, mail, reason),
        }
    }

    /// All of a turn that is the user's code: reading the state where that was not done yet, handling the message, writing
    /// the state, and reading the one before again where the turn does not count. An error says why the state cannot be read.
    fn run_turn(&mut self, slot: Slot, shard: ShardId, mail: &Mail) -> Result<TurnEnd, String> {
        self.read_state(slot)?;
        self.turns += 1;
        let seed = xxhash_rust::xxh3::xxh3_64_with_seed(&self.turns.to_le_bytes(), self.seed);
        let reminder_next = self.host(shard).head.reminder_next;
        let kinds = self.kinds();
        let seconds = self.seconds();
        let activation = self.activations.get_mut(slot).expect("a turn has an activation");
        activation.used_at = seconds;
        keep_image(activation);
        let view = mail.envelope.view();
        let input = TurnInput {
            kind: kinds.get(activation.kind).name(),
            key: view.key,
            sender: view.sender,
            now: self.now,
            seed,
            reminder_next,
            message_len_max: self.limits.message_len_max,
        };
        let state = activation.state.as_deref_mut().expect("just read");
        let mut ended = turn::run(state, &view, &input, &mut self.effects);
        let counts = match ended {
            TurnEnd::Applied => self.check_len(slot).and_then(|()| self.take_image(slot)),
            TurnEnd::Rejected => self.check_len(slot),
            TurnEnd::Panicked(_) | TurnEnd::GivenUp(_) => Ok(()),
        };
        if let Err(reason) = counts {
            ended = TurnEnd::GivenUp(reason);
        }
        if ended != TurnEnd::Applied {
            self.undo(slot);
        }
        Ok(ended)
    }

    /// Reads the state from the image that was loaded, or makes the first one.
    fn read_state(&mut self, slot: Slot) -> Result<(), String> {
        let kinds = self.kinds();
        let activation = self.activations.get_mut(slot).expect("a turn has an activation");
        if activation.state.is_some() {
            return Ok(());
        }
        let kind = kinds.get(activation.kind);
        let image = activation.exists.then_some((activation.image_version, activation.image.as_slice()));
        activation.state = Some(turn::decode(kind, image)?);
        if activation.exists && activation.image_version != kind.version() {
            // An image is of the present version, for it is what a turn is undone from.
            activation.image = Vec::new();
            activation.has_image = false;
        }
        Ok(())
    }

    /// The state cannot be read: the message waits with those behind it.
    fn park_with(&mut self, slot: Slot, mail: Mail, reason: String) {
        self.park(slot, reason);
        if !matches!(mail.origin, Origin::Waiting(_)) {
            self.activations.push_mail_front(slot, mail);
        }
        self.schedule(slot);
    }

    /// A message that would end the same way each time.
    fn give_up(&mut self, shard: ShardId, mail: &Mail, reason: String) {
        if let Origin::Volatile(to) = mail.origin {
            self.drop_volatile(to, reason);
        } else {
            self.dead_letter(shard, mail, 0, reason);
        }
    }

    /// The verdict again, in the turn that would set the mark (P7).
    fn is_consumed(&mut self, shard: ShardId, origin: &Origin) -> bool {
        let shard = self.host(shard);
        let consumed = match *origin {
            Origin::Stream { source, number } => shard.inboxes[&source].is_consumed(number),
            Origin::Feed { feed, number } => shard.feeds[&feed].is_consumed(number),
            Origin::Request { id, .. } => shard.requests.is_done(id),
            Origin::Reminder(id) => !shard.reminders.is_set(id),
            Origin::Waiting(number) => !shard.waiting.contains_key(&number),
            Origin::Query(_) | Origin::Volatile(_) => false,
        };
        if consumed {
            // Only a reminder that was cancelled after it fired gets here: nothing was accepted after all.
            self.counters.accepted -= 1;
        }
        consumed
    }

    fn answer(&mut self, lane: usize, slot: Slot, mail: Mail, to: crate::activation::ReplyTo) {
        self.gauge.begin(&mail.envelope, &mail.origin);
        let read = self.read_state(slot);
        let mut reply = Vec::new();
        let answered = read.map(|()| {
            let activation = self.activations.get(slot).expect("a turn has an activation");
            let state = activation.state.as_deref().expect("just read");
            turn::ask(state, &mail.envelope.view(), &mut reply)
        });
        self.gauge.end();
        let reply_len = reply.len();
        let outcome = match answered {
            Ok(Ok(())) => Outcome::Done(Reply { class: ReplyClass::Applied, body: reply.into() }),
            Ok(Err(reason)) => Outcome::Refused(Refusal::QueryFailed(reason)),
            Err(reason) => {
                self.park_with(slot, mail, reason);
                return;
            }
        };
        let kind = self.activations.get(slot).expect("a turn has an activation").kind;
        if self.kinds.get(kind).is_volatile() {
            self.put_now(Output::Reply(to, outcome));
        } else {
            // It has seen state that may not be durable yet (P14).
            self.lanes[lane].output_bytes += reply_len;
            self.put_gated(lane, Output::Reply(to, outcome));
        }
    }

    /// Holds what a turn has recorded, as the rows it becomes, against the bound.
    fn check_len(&self, slot: Slot) -> Result<(), String> {
        let effects = &self.effects;
        let mut rows = effects.sends().len() + effects.reminders().len() + effects.cancelled().len();
        if effects.is_deleted() {
            let activation = self.activations.get(slot).expect("a turn has an activation");
            let shard = self.shard(activation.shard).expect("hosted");
            let kind = self.kinds.get(activation.kind).name();
            rows += shard.reminders.of_entity(activation.hash(), kind, &activation.key).len();
        }
        let (len, max) = (effects.len() + rows * super::ROW_LEN, self.limits.turn_len_max);
        if max < len {
            return Err(format!("the turn's effects have {len} bytes; the limit is {max}"));
        }
        Ok(())
    }

    /// Encodes the state after a turn into the entity's image.
    fn take_image(&mut self, slot: Slot) -> Result<(), String> {
        let kinds = self.kinds();
        let activation = self.activations.get_mut(slot).expect("a turn has an activation");
        let kind = kinds.get(activation.kind);
        if !self.effects.reminders().is_empty() {
            let set = self.effects.reminders();
            let bytes: usize =
                set.iter().map(|reminder| self.effects.envelope(&reminder.envelope).len()).sum();
            let shard = self.shards[activation.shard.0 as usize].as_ref().expect("hosted");
            let (len_max, bytes_max) = (self.limits.reminders_max, self.limits.reminder_bytes_max);
            if kind.is_volatile() {
                // A reminder is durable, and no durable promise holds through a volatile entity (P5).
                return Err(
                    "a volatile entity cannot set a reminder, for nothing of it is durable".to_owned()
                );
            }
            if len_max < set.len() + shard.reminders.len() {
                return Err(format!("the shard has {len_max} reminders, the most it may have"));
            }
            if bytes_max < bytes + shard.reminders.bytes() {
                return Err(format!("the shard's reminders would have more than {bytes_max} bytes"));
            }
        }
        if self.effects.is_deleted() {
            activation.state = Some(turn::decode(kind, None)?);
            activation.image.clear();
            activation.has_image = false;
            if std::mem::take(&mut activation.exists) && !kind.is_volatile() {
                self.mark_dirty(slot, 0);
            }
            return Ok(());
        }
        self.scratch.clear();
        let state = activation.state.as_deref().expect("an active entity has a state");
        turn::encode(state, &mut self.scratch)?;
        if self.limits.state_len_max < self.scratch.len() {
            return Err(format!(
                "the state would have {} bytes; the limit is {}",
                self.scratch.len(),
                self.limits.state_len_max
            ));
        }
        if activation.exists && activation.image == self.scratch {
            return Ok(());
        }
        let grown = self.scratch.len().saturating_sub(activation.image.len());
        std::mem::swap(&mut activation.image, &mut self.scratch);
        activation.has_image = true;
        activation.exists = true;
        let len = activation.image.len();
        if !kind.is_volatile() {
            self.mark_dirty(slot, grown);
        }
        self.weigh(slot, len);
        Ok(())
    }

    /// The entity's image belongs in the batch being built. It is `grown` bytes longer than the one before, which may be
    /// in the batch already.
    fn mark_dirty(&mut self, slot: Slot, grown: usize) {
        let kinds = self.kinds();
        let activation = self.activations.get_mut(slot).expect("a turn has an activation");
        let name_len = kinds.get(activation.kind).name().len() + activation.key.len();
        let (shard, len) = (activation.shard, activation.image.len() + name_len + super::ROW_LEN);
        let first = !std::mem::replace(&mut activation.dirty, true);
        let shard = self.touch(shard);
        let lane = shard.lane;
        if first {
            shard.changes.images.push(slot);
        }
        self.lanes[lane].batch_bytes += if first { len } else { grown };
    }

    /// Restores the state from its image (P2).
    fn undo(&mut self, slot: Slot) {
        let kinds = self.kinds();
        let activation = self.activations.get_mut(slot).expect("a turn has an activation");
        let kind = kinds.get(activation.kind);
        let image = activation.exists.then_some((kind.version(), activation.image.as_slice()));
        match turn::decode(kind, image) {
            Ok(state) => activation.state = Some(state),
            // Its own encoding does not decode: the state in the store is the same, so nothing else is true of it. Or
            // its first state cannot be made.
            Err(reason) => self.park(slot, reason),
        }
    }

    fn applied(&mut self, lane: usize, slot: Slot, shard: ShardId, mail: &Mail, kinds: &Kinds) {
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

    fn rejected(&mut self, lane: usize, shard: ShardId, mail: &Mail) {
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
        let has_back = outbox.has_back();
        shard.outbox_bytes += len;
        put(
            &[&[RowType::Outbox as u8], &target.0.to_be_bytes(), &number.to_be_bytes()],
            &[envelope.bytes()],
            &mut shard.changes.writes,
        );
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

    /// Notes the memory an activation takes.
    pub(super) fn weigh(&mut self, slot: Slot, state_len: usize) {
        let Some(activation) = self.activations.get_mut(slot) else { return };
        let weight = activation.bytes(state_len) as u32;
        let before = std::mem::replace(&mut activation.weight, weight);
        self.activation_bytes = self.activation_bytes + weight as usize - before as usize;
    }
}

/// Every turn runs with the image of the state before it in hand; one that was dropped while the entity was idle is
/// encoded anew.
fn keep_image(activation: &mut Activation) {
    if activation.exists && !activation.has_image {
        activation.image.clear();
        let state = activation.state.as_deref().expect("an active entity has a state");
        // It was encoded before by the same code; should it fail now, the turn ends the same way and parks it.
        activation.has_image = turn::encode(state, &mut activation.image).is_ok();
    }
}
