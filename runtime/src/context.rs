//! What a handler may ask for. A context records effects and performs none: they become durable with the state, in one
//! commit, or not at all.

use crate::{
    entity::{Entity, EntityId, EntityRef, Handle},
    error::Refusal,
    message::{self, Envelope, Message},
    timestamp::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{marker::PhantomData, ops::Range, time::Duration};

/// Most messages one turn may send. A turn over it is undone and its message dead-lettered.
pub const SENDS_PER_TURN_MAX: usize = 1_024;
/// Most reminders one turn may set. A turn over it is undone and its message dead-lettered.
pub const REMINDERS_PER_TURN_MAX: usize = 1_024;

/// What a turn is given beside the entity and the message. With the same input a turn does the same again.
#[derive(Debug, Clone, Copy)]
pub struct TurnInput<'t> {
    /// Kind of the entity.
    pub kind: &'t str,
    /// Key of the entity.
    pub key: &'t str,
    /// Kind and key of the entity that sent the message; `None` for a client, a feed or a reminder.
    pub sender: Option<(&'t str, &'t str)>,
    /// Time of the turn.
    pub now: Timestamp,
    /// Where the turn's random numbers come from.
    pub seed: u64,
    /// The id the turn's first reminder gets.
    pub reminder_next: u64,
    /// Longest message the turn may send, in bytes with its envelope.
    pub message_len_max: usize,
}

/// Names a reminder, so that it can be cancelled. Keep it in the entity's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReminderId(pub u64);

/// A reminder a turn has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReminder {
    /// Its name.
    pub id: ReminderId,
    /// When it is due.
    pub due: Timestamp,
    /// Where its envelope lies in [`Effects::envelope`].
    pub envelope: Range<usize>,
}

/// What a turn has recorded. One value is cleared and used for turn after turn.
#[derive(Debug, Default)]
pub struct Effects {
    bytes: Vec<u8>,
    sends: Vec<Range<usize>>,
    reminders: Vec<NewReminder>,
    cancelled: Vec<ReminderId>,
    deleted: bool,
    reply: Vec<u8>,
    over: Option<Refusal>,
    draws: u64,
}

impl Effects {
    /// Nothing recorded yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sends.clear();
        self.reminders.clear();
        self.cancelled.clear();
        self.deleted = false;
        self.reply.clear();
        self.over = None;
        self.draws = 0;
    }

    /// Forgets everything but the reply: a rejected turn's error is its only effect.
    pub fn keep_reply_only(&mut self) {
        let reply = std::mem::take(&mut self.reply);
        self.clear();
        self.reply = reply;
    }

    /// Envelopes of the messages to send, in order.
    pub fn sends(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.sends.iter().map(|range| &self.bytes[range.clone()])
    }

    /// The reminders set. Empty in a turn that deletes its entity (P4).
    pub fn reminders(&self) -> &[NewReminder] {
        if self.deleted { &[] } else { &self.reminders }
    }

    /// The encoded envelope of a reminder.
    pub fn envelope(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    /// The reminders cancelled.
    pub fn cancelled(&self) -> &[ReminderId] {
        &self.cancelled
    }

    /// Whether the entity ends with this turn.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// The encoded reply.
    pub fn reply(&self) -> &[u8] {
        &self.reply
    }

    /// Where the reply is encoded.
    pub fn reply_mut(&mut self) -> &mut Vec<u8> {
        &mut self.reply
    }

    /// Bytes recorded in all.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.reply.len()
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.cancelled.is_empty() && !self.deleted
    }

    /// The first bound the turn went over, if any: it must be undone (P2).
    pub fn over_bound(&self) -> Option<&Refusal> {
        self.over.as_ref()
    }

    fn push<M: Message>(
        &mut self,
        input: &TurnInput<'_>,
        kind: &str,
        key: &str,
        message: &M,
    ) -> Option<Range<usize>> {
        if self.over.is_some() {
            return None;
        }
        if let Err(refusal) = EntityId::check(kind, key) {
            self.over = Some(refusal);
            return None;
        }
        let start = self.bytes.len();
        Envelope::write_head(kind, key, M::NAME, Some((input.kind, input.key)), &mut self.bytes);
        if let Err(error) = message::encode(message, &mut self.bytes) {
            self.bytes.truncate(start);
            self.over = Some(Refusal::Unencodable(error));
            return None;
        }
        let len = self.bytes.len() - start;
        if len > input.message_len_max {
            self.bytes.truncate(start);
            self.over = Some(Refusal::TooLarge { what: "a message sent", len, max: input.message_len_max });
            return None;
        }
        Some(start..start + len)
    }
}

/// The handler's view of its turn.
///
/// Nothing it offers waits, fails or has an effect of its own: everything is recorded and becomes durable with the
/// entity's new state in one commit. `E` is the entity.
pub struct Context<'t, E> {
    input: &'t TurnInput<'t>,
    effects: &'t mut Effects,
    entity: PhantomData<fn() -> E>,
}

impl<'t, E> Context<'t, E> {
    /// A context that records into `effects`.
    pub fn new(input: &'t TurnInput<'_>, effects: &'t mut Effects) -> Self {
        Self { input, effects, entity: PhantomData }
    }

    /// The entity's key.
    pub fn key(&self) -> &str {
        self.input.key
    }

    /// The entity that sent the message; `None` for a client, a feed or a reminder.
    pub fn sender(&self) -> Option<EntityId> {
        self.input.sender.map(|(kind, key)| EntityId::new(kind.to_owned(), key))
    }

    /// Time of the turn: the same however often it is read or replayed.
    ///
    /// It never runs backwards while the runtime runs. Over a restart it may step back where the machine's clock was set
    /// back, but not behind the age at which requests were last forgotten
    /// ([`Limits::reply_retention`](crate::Limits::reply_retention)).
    pub fn now(&self) -> Timestamp {
        self.input.now
    }

    /// The next random number of the turn: the same sequence when the turn is replayed.
    pub fn random(&mut self) -> u64 {
        self.effects.draws += 1;
        xxhash_rust::xxh3::xxh3_64_with_seed(&self.effects.draws.to_le_bytes(), self.input.seed)
    }

    /// Sends a message to another entity, or to this one. It leaves after the commit and takes effect exactly once, in
    /// the order sent, per sender and receiver. Sending to an entity of a volatile kind is at most once.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a message is given away, as everywhere else; users write no `&`"
    )]
    pub fn send<T: Entity + Handle<M>, M: Message>(&mut self, target: EntityRef<T>, message: M) {
        if self.effects.sends.len() == SENDS_PER_TURN_MAX && self.effects.over.is_none() {
            self.effects.over = Some(Refusal::TooLarge {
                what: "the list of messages sent in one turn",
                len: SENDS_PER_TURN_MAX + 1,
                max: SENDS_PER_TURN_MAX,
            });
        }
        if let Some(range) = self.effects.push(self.input, T::KIND, target.key(), &message) {
            self.effects.sends.push(range);
        }
    }

    /// Ends the entity: its state and reminders go with this commit. A later message creates it anew from `Default`.
    pub fn delete(&mut self) {
        self.effects.deleted = true;
    }

    /// Drops a reminder that has not fired. One that has fired or is unknown is no error.
    pub fn cancel(&mut self, reminder: ReminderId) {
        self.effects.cancelled.push(reminder);
    }
}

impl<E: Entity> Context<'_, E> {
    /// This entity.
    pub fn me(&self) -> EntityRef<E> {
        E::at(self.input.key)
    }

    /// Sends `message` to this entity after `delay`, durably and once. Dropped in a turn that deletes the entity.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a message is given away, as everywhere else; users write no `&`"
    )]
    pub fn remind<M: Message>(&mut self, delay: Duration, message: M) -> ReminderId
    where
        E: Handle<M>,
    {
        let id = ReminderId(self.input.reminder_next + self.effects.reminders.len() as u64);
        if self.effects.reminders.len() == REMINDERS_PER_TURN_MAX && self.effects.over.is_none() {
            self.effects.over = Some(Refusal::TooLarge {
                what: "the list of reminders set in one turn",
                len: REMINDERS_PER_TURN_MAX + 1,
                max: REMINDERS_PER_TURN_MAX,
            });
        }
        let (kind, key) = (self.input.kind, self.input.key);
        if let Some(envelope) = self.effects.push(self.input, kind, key, &message) {
            self.effects.reminders.push(NewReminder { id, due: self.input.now + delay, envelope });
        }
        id
    }
}
