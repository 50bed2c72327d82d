//! Running turns: the user's code, under the gauge, and the undoing of a turn that does not count.

use super::{Kernel, Outcome, Output};
use crate::{
    activation::{Activation, Mail, Origin, Slot},
    context::TurnInput,
    error::Refusal,
    placement::ShardId,
    requests::{Reply, ReplyClass},
    turn::{self, TurnEnd},
};

impl Kernel {
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
        self.count_turn(shard);
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
        let activation = self.activations.get(slot).expect("a turn has an activation");
        let (kind, shard) = (activation.kind, activation.shard);
        if self.kinds.get(kind).is_volatile() {
            self.put_now(Output::Reply(to, outcome));
        } else {
            // It has seen state that may not be durable yet (P14).
            self.lanes[lane].output_bytes += reply_len;
            self.put_shown(lane, shard, Output::Reply(to, outcome));
        }
    }

    /// Holds what a turn has recorded, as the rows it becomes, against the bound.
    fn check_len(&self, slot: Slot) -> Result<(), String> {
        let effects = &self.effects;
        // A message has its own row, and perhaps that of its stream.
        let mut rows = 2 * effects.sends().len() + effects.reminders().len() + effects.cancelled().len();
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

    /// Holds the reminders a turn has set against their bounds.
    fn check_reminders(&self, slot: Slot) -> Result<(), String> {
        let set = self.effects.reminders();
        if set.is_empty() {
            return Ok(());
        }
        let activation = self.activations.get(slot).expect("a turn has an activation");
        if self.kinds.get(activation.kind).is_volatile() {
            // A reminder is durable, and no durable promise holds through a volatile entity (P5).
            return Err("a volatile entity cannot set a reminder, for nothing of it is durable".to_owned());
        }
        let bytes: usize = set.iter().map(|reminder| self.effects.envelope(&reminder.envelope).len()).sum();
        let shard = self.shard(activation.shard).expect("hosted");
        let (len_max, bytes_max) = (self.limits.reminders_max, self.limits.reminder_bytes_max);
        if len_max < set.len() + shard.reminders.len() {
            return Err(format!("the shard has {len_max} reminders, the most it may have"));
        }
        if bytes_max < bytes + self.kept_with(activation.shard).reminders {
            return Err(format!("the worker's reminders would have more than {bytes_max} bytes"));
        }
        Ok(())
    }

    /// Encodes the state after a turn into the entity's image.
    fn take_image(&mut self, slot: Slot) -> Result<(), String> {
        self.check_reminders(slot)?;
        let kinds = self.kinds();
        let activation = self.activations.get_mut(slot).expect("a turn has an activation");
        let kind = kinds.get(activation.kind);
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
        activation.image_version = kind.version();
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
