//! The numbered messages from one shard to another: what the receiver has taken, and what the sender still keeps.
//!
//! # Invariants
//! * Numbers are 1, 2, 3... per (source shard, target shard), and every number at or below the floor has been consumed
//!   in a commit, exactly once (P7).
//! * A message is taken into memory only after all before it. The window holds what was *consumed* out of order,
//!   because an entity was still loading or failing; it is empty for nearly every stream.
//! * The sender keeps a message until the receiver's commit is acknowledged.

use crate::store::row::{put_varint, take_varint};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};

/// What is to be done with a message that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The next in order: take it.
    Fresh,
    /// Already consumed: acknowledge it again.
    Duplicate,
    /// Already in memory and not yet consumed; its acknowledgement will come.
    Taken,
    /// Something before it has not arrived, or the window is full. Refuse from `expected` on; it is sent again from there.
    Gap {
        /// The number that comes next.
        expected: u64,
    },
}

/// The receiving end.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Inbox {
    /// Everything up to here is consumed.
    floor: u64,
    /// Consumed above the floor.
    window: BTreeSet<u64>,
    /// Everything up to here has been taken into memory or consumed.
    arrived: u64,
}

impl Inbox {
    /// Everything up to here is consumed.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Everything up to here is in memory or consumed.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Judges a message that arrived. `window_max` bounds how far consumption may run ahead of the floor.
    pub fn judge(&self, number: u64, window_max: u64) -> Verdict {
        let expected = self.arrived + 1;
        if self.is_consumed(number) {
            Verdict::Duplicate
        } else if number < expected {
            Verdict::Taken
        } else if number == expected && number - self.floor <= window_max {
            Verdict::Fresh
        } else {
            Verdict::Gap { expected }
        }
    }

    /// Takes the next message into memory.
    pub fn take(&mut self, number: u64) {
        assert_eq!(number, self.arrived + 1, "a message is taken only after all before it");
        self.arrived = number;
        // After a restart numbers above a hole may be consumed already; what comes next lies behind them.
        while self.window.contains(&(self.arrived + 1)) {
            self.arrived += 1;
        }
    }

    /// Whether a commit, durable or not yet, has consumed this number.
    pub fn is_consumed(&self, number: u64) -> bool {
        number <= self.floor || self.window.contains(&number)
    }

    /// Marks a taken message as consumed.
    pub fn consume(&mut self, number: u64) {
        assert!(!self.is_consumed(number), "a message is consumed once");
        assert!(number <= self.arrived, "only what was taken is consumed");
        if number == self.floor + 1 {
            self.floor = number;
            while self.window.first() == Some(&(self.floor + 1)) {
                self.window.pop_first();
                self.floor += 1;
            }
        } else {
            self.window.insert(number);
        }
    }

    /// How many numbers above the floor are consumed.
    pub fn window_len(&self) -> usize {
        self.window.len()
    }

    /// Row value: floor, then the numbers above it as differences.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(self.floor, out);
        let mut before = self.floor;
        for &number in &self.window {
            put_varint(number - before, out);
            before = number;
        }
    }

    /// Reads a row value; `None` where it is not one.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let floor = take_varint(&mut bytes)?;
        let (mut window, mut before) = (BTreeSet::new(), floor);
        while !bytes.is_empty() {
            before = before.checked_add(take_varint(&mut bytes)?)?;
            window.insert(before);
        }
        // What was in memory at the crash is gone and comes again, so the next arrival is the one after the floor;
        // numbers in the window are skipped when the hole before them has been taken.
        Some(Self { floor, window, arrived: floor })
    }
}

/// The sending end: messages committed and not yet acknowledged.
#[derive(Debug)]
pub struct Outbox {
    /// Number of the first kept message; everything before it is acknowledged.
    first: u64,
    /// The kept messages, numbered from `first`.
    kept: VecDeque<Bytes>,
    /// Bytes of the kept messages.
    bytes: usize,
    /// Everything up to here has been handed to the receiver.
    handed: u64,
    /// Everything up to here has been deleted from the store.
    trimmed: u64,
}

impl Default for Outbox {
    /// A stream on which nothing was ever sent: the first message will have the number 1.
    fn default() -> Self {
        Self { first: 1, kept: VecDeque::new(), bytes: 0, handed: 0, trimmed: 0 }
    }
}

impl Outbox {
    /// Number of the last message ever sent; 0 before the first.
    pub fn last(&self) -> u64 {
        self.first - 1 + self.kept.len() as u64
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many messages are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether everything is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Appends a message and returns its number.
    pub fn push(&mut self, envelope: Bytes) -> u64 {
        self.bytes += envelope.len();
        self.kept.push_back(envelope);
        self.last()
    }

    /// The next message to hand to the receiver, within the window, marked as handed.
    pub fn hand_next(&mut self, window: u64) -> Option<(u64, Bytes)> {
        let number = self.handed + 1;
        if number > self.last() || number >= self.first + window {
            return None;
        }
        debug_assert!(self.first <= number, "an acknowledged message was handed before");
        let envelope = self.kept[(number - self.first) as usize].clone();
        self.handed = number;
        Some((number, envelope))
    }

    /// Whether something was handed and is not acknowledged.
    pub fn is_unanswered(&self) -> bool {
        self.first <= self.handed
    }

    /// Begins again behind the last acknowledged message: what was handed since may be lost.
    pub fn rewind(&mut self) {
        self.handed = self.first - 1;
    }

    /// The receiver refused from this number on.
    pub fn rewind_to(&mut self, refused_from: u64) {
        if self.first <= refused_from && refused_from <= self.handed {
            self.handed = refused_from - 1;
        }
    }

    /// Forgets messages whose consumption is durable. Returns whether any was kept until now.
    pub fn acknowledge(&mut self, through: u64) -> bool {
        assert!(through <= self.last(), "the receiver acknowledged message {through} of {}", self.last());
        let before = self.first;
        while self.first <= through {
            let envelope = self.kept.pop_front().expect("numbers up to the last are kept");
            self.bytes -= envelope.len();
            self.first += 1;
        }
        self.handed = self.handed.max(self.first - 1);
        before < self.first
    }

    /// The numbers to delete from the store, marked as deleted.
    pub fn trim(&mut self) -> Option<(u64, u64)> {
        let (from, through) = (self.trimmed + 1, self.first - 1);
        self.trimmed = through;
        (from <= through).then_some((from, through))
    }

    /// Row value beside the messages' own rows: the last number, so that it is known when no message is kept.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(self.last(), out);
    }

    /// Reads the row value of a stream; `None` where it is not one.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let last = take_varint(&mut bytes)?;
        let first = last.checked_add(1)?;
        bytes.is_empty().then_some(Self { first, handed: last, trimmed: last, ..Self::default() })
    }

    /// Puts back a message found in the store, in order of number.
    /// Returns false where the numbers do not continue.
    pub fn restore(&mut self, number: u64, envelope: Bytes) -> bool {
        if self.kept.is_empty() {
            // The row of the stream was written when messages up to its number had gone; these are later or the last.
            self.first = number;
            self.handed = number - 1;
            self.trimmed = number - 1;
        } else if number != self.last() + 1 {
            return false;
        }
        self.bytes += envelope.len();
        self.kept.push_back(envelope);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_of_a_message_still_in_memory_is_not_taken_twice() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.judge(1, 8), Verdict::Fresh);
        inbox.take(1);
        assert_eq!(inbox.judge(1, 8), Verdict::Taken);
        inbox.consume(1);
        assert_eq!(inbox.judge(1, 8), Verdict::Duplicate);
    }

    #[test]
    fn nothing_is_taken_over_a_hole() {
        let inbox = Inbox::default();
        assert_eq!(inbox.judge(2, 8), Verdict::Gap { expected: 1 });
    }

    #[test]
    fn consumption_runs_ahead_of_a_stuck_message_by_one_window_only() {
        let mut inbox = Inbox::default();
        for number in 1..=8 {
            assert_eq!(inbox.judge(number, 8), Verdict::Fresh);
            inbox.take(number);
            if number > 1 {
                inbox.consume(number);
            }
        }
        assert_eq!(inbox.judge(9, 8), Verdict::Gap { expected: 9 });
        inbox.consume(1);
        assert_eq!((inbox.floor(), inbox.judge(9, 8)), (8, Verdict::Fresh));
    }

    #[test]
    fn after_a_restart_arrivals_go_on_behind_what_the_window_holds() {
        let mut row = Vec::new();
        Inbox { floor: 4, window: BTreeSet::from([6, 7]), arrived: 9 }.encode(&mut row);
        let mut inbox = Inbox::decode(&row).expect("just written");
        assert_eq!(inbox.judge(5, 8), Verdict::Fresh);
        inbox.take(5);
        assert_eq!(inbox.judge(6, 8), Verdict::Duplicate);
        assert_eq!(inbox.judge(8, 8), Verdict::Fresh);
    }

    #[test]
    fn acknowledged_messages_are_trimmed_once() {
        let mut outbox = Outbox::default();
        for number in 1..=3 {
            assert_eq!(outbox.push(Bytes::from_static(b"m")), number);
        }
        assert_eq!(outbox.hand_next(2).map(|(number, _)| number), Some(1));
        assert_eq!(outbox.hand_next(2).map(|(number, _)| number), Some(2));
        assert_eq!(outbox.hand_next(2), None);
        assert!(outbox.acknowledge(2));
        assert_eq!(outbox.trim(), Some((1, 2)));
        assert_eq!(outbox.trim(), None);
        assert_eq!(outbox.hand_next(2).map(|(number, _)| number), Some(3));
        outbox.rewind();
        assert_eq!(outbox.hand_next(2).map(|(number, _)| number), Some(3));
    }

    proptest::proptest! {
        #[test]
        fn an_inbox_comes_back_from_its_row(floor in 0..1_000_u64, ahead in proptest::collection::btree_set(2..100_u64, 0..20)) {
            let mut inbox = Inbox { floor, window: BTreeSet::new(), arrived: floor + 100 };
            for offset in &ahead {
                inbox.consume(floor + offset);
            }
            let mut row = Vec::new();
            inbox.encode(&mut row);
            let again = Inbox::decode(&row).expect("just written");
            proptest::prop_assert_eq!(again.floor, inbox.floor);
            proptest::prop_assert_eq!(again.window, inbox.window);
        }

        #[test]
        fn any_row_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            let _ = Inbox::decode(&bytes);
            let _ = Outbox::decode(&bytes);
        }
    }
}
