//! The receiving end of a stream.

use crate::store::row::{put_varint, take_varint};
use std::collections::BTreeSet;

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
    /// Bytes of what is taken and not consumed.
    held: usize,
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

    /// The highest number that has come, consumed or not.
    pub fn mark(&self) -> u64 {
        self.window.last().map_or(self.arrived, |last| self.arrived.max(*last))
    }

    /// Bytes of messages that are in memory and not consumed.
    pub fn held(&self) -> usize {
        self.held
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

    /// Takes the next message into memory, which has so many bytes.
    pub fn take(&mut self, number: u64, bytes: usize) {
        assert_eq!(number, self.arrived + 1, "a message is taken only after all before it");
        self.held += bytes;
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

    /// Marks a taken message of so many bytes as consumed.
    pub fn consume(&mut self, number: u64, bytes: usize) {
        self.held -= bytes;
        assert!(!self.is_consumed(number), "a message is consumed once");
        assert!(number <= self.arrived, "only what was taken is consumed");
        if number == self.floor + 1 {
            self.floor = number;
            self.close_up();
        } else {
            self.window.insert(number);
        }
    }

    /// A disk is lost for good at one end, and an operator accepts that: goes on from where the sender is, which keeps messages from
    /// `first` on and had told up to `last`. Only while no message of the stream is in memory.
    ///
    /// Up to `last` both ends mean the same messages, for what the sender has told is older than the loss: what was consumed of
    /// them stays so. Numbers above it are given to other messages now. What the sender keeps no more was acknowledged by an
    /// owner whose disk is gone, and never comes again.
    pub fn accept_loss(&mut self, first: u64, last: u64) {
        assert_eq!(
            self.held, 0,
            "what is in memory would be consumed under a number that means another message"
        );
        assert!(
            0 < first && first - 1 <= last && last < u64::MAX,
            "a sender keeps none that it has not told"
        );
        self.floor = self.floor.min(last).max(first - 1);
        self.window.retain(|number| self.floor < *number && *number <= last);
        self.close_up();
        self.arrived = self.floor;
        assert!(first <= self.floor + 1, "the next message is one that the sender keeps");
        assert!(self.mark() <= last, "nothing was seen that the sender has not told");
    }

    /// The floor rises over what was consumed right above it.
    fn close_up(&mut self) {
        while self.window.first() == Some(&(self.floor + 1)) {
            self.window.pop_first();
            self.floor += 1;
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
        Some(Self { floor, window, arrived: floor, held: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_of_a_message_still_in_memory_is_not_taken_twice() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.judge(1, 8), Verdict::Fresh);
        inbox.take(1, 7);
        assert_eq!(inbox.judge(1, 8), Verdict::Taken);
        inbox.consume(1, 7);
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
            inbox.take(number, 7);
            if number > 1 {
                inbox.consume(number, 7);
            }
        }
        assert_eq!(inbox.judge(9, 8), Verdict::Gap { expected: 9 });
        inbox.consume(1, 7);
        assert_eq!((inbox.floor(), inbox.judge(9, 8)), (8, Verdict::Fresh));
    }

    #[test]
    fn after_a_restart_arrivals_go_on_behind_what_the_window_holds() {
        let mut row = Vec::new();
        Inbox { floor: 4, window: BTreeSet::from([6, 7]), arrived: 9, held: 14 }.encode(&mut row);
        let mut inbox = Inbox::decode(&row).expect("just written");
        assert_eq!(inbox.judge(5, 8), Verdict::Fresh);
        inbox.take(5, 7);
        assert_eq!(inbox.judge(6, 8), Verdict::Duplicate);
        assert_eq!(inbox.judge(8, 8), Verdict::Fresh);
    }

    fn inbox(floor: u64, window: &[u64]) -> Inbox {
        Inbox { floor, window: window.iter().copied().collect(), arrived: floor, held: 0 }
    }

    #[test]
    fn where_the_sender_has_forgotten_numbers_it_gives_them_anew() {
        let mut inbox = inbox(9, &[11, 14]);
        inbox.accept_loss(4, 6);
        assert_eq!((inbox.floor(), inbox.mark()), (6, 6));
        assert_eq!((inbox.judge(6, 8), inbox.judge(7, 8)), (Verdict::Duplicate, Verdict::Fresh));
    }

    #[test]
    fn where_the_receiver_has_forgotten_marks_it_waits_for_what_is_kept() {
        let mut inbox = inbox(2, &[4, 8, 9, 11]);
        inbox.accept_loss(8, 12);
        // Eight and nine were consumed here, and are not again.
        assert_eq!((inbox.floor(), inbox.mark()), (9, 11));
        assert_eq!(inbox.judge(10, 8), Verdict::Fresh);
        inbox.take(10, 7);
        assert_eq!((inbox.judge(11, 8), inbox.judge(12, 8)), (Verdict::Duplicate, Verdict::Fresh));
    }

    #[test]
    fn a_loss_at_both_ends_leaves_what_both_know() {
        let mut inbox = inbox(2, &[5, 20]);
        inbox.accept_loss(5, 9);
        assert_eq!((inbox.floor(), inbox.mark()), (5, 5));
    }

    #[test]
    #[should_panic(expected = "what is in memory")]
    fn a_loss_is_not_accepted_over_a_message_in_memory() {
        let mut inbox = Inbox::default();
        inbox.take(1, 7);
        inbox.accept_loss(1, 0);
    }

    proptest::proptest! {
        #[test]
        fn after_a_loss_what_both_ends_know_is_kept_and_all_else_comes_once(
            floor in 0_u64..20,
            window in proptest::collection::btree_set(1_u64..40, 0..10),
            first in 1_u64..30,
            kept in 0_u64..10,
        ) {
            let window = window.into_iter().filter(|number| floor + 1 < *number).collect();
            let mut inbox = Inbox { floor, window, arrived: floor, held: 0 };
            let before = inbox.clone();
            let last = first - 1 + kept;
            inbox.accept_loss(first, last);
            for number in 1..50 {
                let is_known = number < first || number <= last && before.is_consumed(number);
                proptest::prop_assert_eq!(inbox.is_consumed(number), is_known, "{}", number);
            }
            // It comes back from its row as it is, and takes all the sender keeps or gives from now on.
            let mut row = Vec::new();
            inbox.encode(&mut row);
            proptest::prop_assert_eq!(Inbox::decode(&row), Some(inbox.clone()));
            for number in first..50 {
                match inbox.judge(number, 64) {
                    Verdict::Fresh => {
                        inbox.take(number, 1);
                        inbox.consume(number, 1);
                    }
                    verdict => proptest::prop_assert_eq!(verdict, Verdict::Duplicate, "{}", number),
                }
            }
            proptest::prop_assert_eq!((inbox.floor(), inbox.window_len()), (49, 0));
        }
    }

    proptest::proptest! {
        #[test]
        fn an_inbox_comes_back_from_its_row(floor in 0..1_000_u64, ahead in proptest::collection::btree_set(2..100_u64, 0..20)) {
            let mut inbox = Inbox { floor, window: BTreeSet::new(), arrived: floor + 100, held: 7 * ahead.len() };
            for offset in &ahead {
                inbox.consume(floor + offset, 7);
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
        }
    }
}
