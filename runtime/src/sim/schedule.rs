//! What is due when: a heap ordered by virtual time, then by the order in which it was planned.

use std::{cmp::Ordering, collections::BinaryHeap};

struct Entry<T> {
    due: u64,
    sequence: u64,
    what: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// The heap gives its greatest first: the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.sequence).cmp(&(self.due, self.sequence))
    }
}

pub(super) struct Schedule<T> {
    heap: BinaryHeap<Entry<T>>,
    sequence: u64,
}

impl<T> Schedule<T> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0 }
    }

    pub(super) fn push(&mut self, due: u64, what: T) {
        self.sequence += 1;
        self.heap.push(Entry { due, sequence: self.sequence, what });
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.heap.peek().map(|entry| entry.due)
    }

    pub(super) fn pop(&mut self) -> Option<(u64, T)> {
        self.heap.pop().map(|entry| (entry.due, entry.what))
    }
}
