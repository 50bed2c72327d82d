//! Due times of one shard's reminders.

use crate::{context::ReminderId, message::Envelope, timestamp::Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A reminder that has not fired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reminder {
    /// When it is due.
    pub due: Timestamp,
    /// Hash of its entity.
    pub hash: u64,
    /// The message it will send.
    pub envelope: Envelope,
    /// It was handed to its entity and waits for its turn there.
    pub fired: bool,
}

/// The reminders of one shard. Their ids rise and are never used again (P4).
#[derive(Debug, Default)]
pub struct Reminders {
    by_id: BTreeMap<ReminderId, Reminder>,
    by_due: BTreeSet<(Timestamp, ReminderId)>,
    by_entity: BTreeSet<(u64, ReminderId)>,
    bytes: usize,
}

impl Reminders {
    /// How many have not fired.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Bytes of their messages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Adds one.
    pub fn set(&mut self, id: ReminderId, reminder: Reminder) {
        self.by_due.insert((reminder.due, id));
        self.by_entity.insert((reminder.hash, id));
        self.bytes += reminder.envelope.len();
        let before = self.by_id.insert(id, reminder);
        assert!(before.is_none(), "a reminder's id is used once");
    }

    /// Whether the reminder is still set: a due one is judged again in its turn (P4).
    pub fn is_set(&self, id: ReminderId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Removes a reminder if it belongs to this entity. An unknown one is no error.
    pub fn remove_of(&mut self, id: ReminderId, kind: &str, key: &str) -> bool {
        let is_own = self.by_id.get(&id).is_some_and(|reminder| {
            let view = reminder.envelope.view();
            (view.kind, view.key) == (kind, key)
        });
        if is_own {
            self.remove(id);
        }
        is_own
    }

    /// Removes a reminder.
    pub fn remove(&mut self, id: ReminderId) -> Option<Reminder> {
        let reminder = self.by_id.remove(&id)?;
        self.by_due.remove(&(reminder.due, id));
        self.by_entity.remove(&(reminder.hash, id));
        self.bytes -= reminder.envelope.len();
        Some(reminder)
    }

    /// The ids of one entity's reminders.
    pub fn of_entity(&self, hash: u64, kind: &str, key: &str) -> Vec<ReminderId> {
        self.by_entity
            .range((hash, ReminderId(0))..=(hash, ReminderId(u64::MAX)))
            .map(|(_, id)| *id)
            .filter(|id| {
                // Two entities may share a hash.
                let view = self.by_id[id].envelope.view();
                (view.kind, view.key) == (kind, key)
            })
            .collect()
    }

    /// When the next one that has not been handed over is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// Hands over the next due reminder. It stays set until its turn has been committed.
    pub fn fire(&mut self, now: Timestamp) -> Option<(ReminderId, u64, Envelope)> {
        let (due, id) = *self.by_due.first()?;
        if now < due {
            return None;
        }
        self.by_due.pop_first();
        let reminder = self.by_id.get_mut(&id).expect("what is due is set");
        reminder.fired = true;
        Some((id, reminder.hash, reminder.envelope.clone()))
    }

    /// A set reminder lies in its entity's waiting queue already and is not handed over again.
    pub fn set_fired(&mut self, id: ReminderId) {
        if let Some(reminder) = self.by_id.get_mut(&id) {
            reminder.fired = true;
            self.by_due.remove(&(reminder.due, id));
        }
    }

    /// Takes back a reminder that was handed over and could not be queued; it is due again at `due`.
    pub fn defer(&mut self, id: ReminderId, due: Timestamp) {
        if let Some(reminder) = self.by_id.get_mut(&id) {
            reminder.due = due;
            reminder.fired = false;
            self.by_due.insert((due, id));
        }
    }
}
