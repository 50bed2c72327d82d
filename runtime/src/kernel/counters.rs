//! What a kernel has done, and the balance that must hold (P1).

use super::Kernel;
use crate::activation::Origin;

/// What a runtime has done since it started. All but the three gauges rise; `accepted` falls by one where a message turns out
/// not to be one after all (its reminder was cancelled, or the disk is full before its turn).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages taken: fresh requests, feed and stream messages, due reminders. Messages found waiting at the start count.
    pub accepted: u64,
    /// Of them, consumed by a durable turn; rejected ones included.
    pub applied: u64,
    /// Of the applied, those whose handler answered `Err`.
    pub rejected: u64,
    /// Repeats that were recognised and changed nothing.
    pub duplicates: u64,
    /// Gauge: messages in the waiting queues of stuck entities.
    pub waiting: u64,
    /// Messages given up and kept for an operator.
    pub dead_lettered: u64,
    /// Gauge: accepted and not yet durably applied, waiting or dead-lettered.
    pub in_flight: u64,
    /// Messages refused at the door.
    pub refused: u64,
    /// Queries answered.
    pub queries: u64,
    /// Messages handled by volatile entities.
    pub volatile: u64,
    /// Times a handler panicked.
    pub panics: u64,
    /// Messages accepted in memory and forgotten with a voided lane; their senders send them again.
    pub voided: u64,
    /// Batches submitted.
    pub batches: u64,
    /// Gauge: streams whose two ends do not fit, because a disk has lost what it synced; nothing goes in them, and an error in
    /// the log names each.
    pub parked_streams: u64,
}

impl Counters {
    /// The sum of two workers' counters.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            accepted: self.accepted + other.accepted,
            applied: self.applied + other.applied,
            rejected: self.rejected + other.rejected,
            duplicates: self.duplicates + other.duplicates,
            waiting: self.waiting + other.waiting,
            dead_lettered: self.dead_lettered + other.dead_lettered,
            in_flight: self.in_flight + other.in_flight,
            refused: self.refused + other.refused,
            queries: self.queries + other.queries,
            volatile: self.volatile + other.volatile,
            panics: self.panics + other.panics,
            voided: self.voided + other.voided,
            batches: self.batches + other.batches,
            parked_streams: self.parked_streams + other.parked_streams,
        }
    }

    /// Whether every accepted message is accounted for.
    pub fn balance(&self) -> bool {
        self.accepted == self.applied + self.waiting + self.dead_lettered + self.in_flight + self.voided
    }
}

/// What a batch changes in the counters when it is durable.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) applied: u64,
    pub(super) rejected: u64,
    pub(super) dead_lettered: u64,
    /// Into the waiting queues.
    pub(super) set_waiting: u64,
    /// Out of the waiting queues, applied or dead-lettered.
    pub(super) left_waiting: u64,
}

/// The balance of P1, with what is in flight counted message by message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// See [`Counters::accepted`].
    pub accepted: u64,
    /// See [`Counters::applied`].
    pub applied: u64,
    /// See [`Counters::waiting`].
    pub waiting: u64,
    /// See [`Counters::dead_lettered`].
    pub dead_lettered: u64,
    /// Messages found in mailboxes and in batches that are not durable.
    pub in_flight: u64,
    /// See [`Counters::voided`].
    pub voided: u64,
}

impl Audit {
    /// Whether every accepted message was found.
    pub fn balances(&self) -> bool {
        self.accepted == self.applied + self.waiting + self.dead_lettered + self.in_flight + self.voided
    }
}

impl Kernel {
    /// The counters; `in_flight` is what the others leave.
    pub fn counters(&self) -> Counters {
        let c = self.counters;
        let in_flight = c.accepted - c.applied - c.waiting - c.dead_lettered - c.voided;
        Counters { in_flight, parked_streams: self.parked.len() as u64, ..c }
    }

    /// Counts what is in flight by looking at every message held, so that the balance can be checked against it.
    pub fn audit(&self) -> Audit {
        let in_mailboxes = (0..self.activations.slots())
            .filter_map(|index| self.activations.at(index))
            .filter_map(|(_, activation)| activation.mailbox.as_ref())
            .flat_map(|mailbox| mailbox.iter())
            .filter(|mail| counts_as_accepted(&mail.origin))
            .count() as u64;
        let in_batches: u64 = self
            .lanes
            .iter()
            .flat_map(|lane| lane.undurable.iter().map(|(_, _, counts)| counts).chain([&lane.counts]))
            .map(|counts| counts.applied + counts.dead_lettered + counts.set_waiting)
            .sum();
        // What has left the waiting queue in a batch not yet durable still counts as waiting.
        let left: u64 = self
            .lanes
            .iter()
            .flat_map(|lane| lane.undurable.iter().map(|(_, _, counts)| counts).chain([&lane.counts]))
            .map(|counts| counts.left_waiting)
            .sum();
        Audit {
            accepted: self.counters.accepted,
            applied: self.counters.applied,
            waiting: self.counters.waiting,
            dead_lettered: self.counters.dead_lettered,
            in_flight: in_mailboxes + in_batches - left,
            voided: self.counters.voided,
        }
    }
}

/// Whether a message in a mailbox was counted as accepted.
pub(super) fn counts_as_accepted(origin: &Origin) -> bool {
    match origin {
        Origin::Stream { .. } | Origin::Feed { .. } | Origin::Request { .. } | Origin::Reminder(_) => true,
        // A waiting message is never in a mailbox; queries and volatile messages are counted apart.
        Origin::Waiting(_) | Origin::Query(_) | Origin::Volatile(_) => false,
    }
}
