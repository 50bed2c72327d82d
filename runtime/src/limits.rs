//! Every bound of the runtime in one place, each with what happens when it is reached.

use std::time::Duration;

/// Bounds and times of a runtime. [`Limits::default`] suits a service with a gigabyte to spare.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Longest message with its envelope, in bytes. A client's is refused, a turn that sends a longer one is undone and
    /// its message dead-lettered.
    pub message_len_max: usize,
    /// Longest encoded state, in bytes. A turn that ends with a longer one is undone and its message dead-lettered.
    pub state_len_max: usize,
    /// Most bytes one turn may record (messages, reminders, reply). As above.
    pub turn_len_max: usize,
    /// Most messages waiting in one entity's mailbox before a client's is refused as busy, and a feed's is refused from
    /// that number on and sent again.
    pub mailbox_len_max: usize,
    /// Most turns one entity runs before the others of its worker have theirs.
    pub turns_in_row_max: u32,
    /// Bytes of messages a worker holds that have had no turn yet, also those in mailboxes. Beyond it clients are refused
    /// as busy, feeds send again, and each stream may hold one message or, if that is more, its share: the bound divided
    /// by the streams that hold something, so that a hot entity slows its own streams and no others (P8).
    pub intake_bytes_max: usize,
    /// A batch is closed when it has this many bytes, one turn's effects more at the most.
    pub batch_len: usize,
    /// Bytes of batches a lane may have submitted and not yet durable. Turns of the lane wait beyond it.
    pub undurable_bytes_max: usize,
    /// Messages of one stream on their way to the receiver at a time. More wait in the outbox.
    pub stream_window: u64,
    /// Bytes a shard keeps for its receivers. Beyond it clients, feeds and reminders are held back, streams never (P8).
    pub outbox_bytes_max: usize,
    /// Memory for the messages one worker keeps for receivers, in bytes. At the bound one message of each stream is in
    /// memory, and the others are read from the store when it is their turn.
    pub outbox_memory_max: usize,
    /// Memory for activations of one worker, in bytes. From seven eighths on a clock sweep passivates those it finds
    /// without a message for a second, about the least recently used, until there is less; at the bound new ones are
    /// refused as busy.
    pub activation_bytes_max: usize,
    /// An activation without messages for this long is passivated.
    pub idle_after: Duration,
    /// How long a reply is kept for a repeat of its request. Older requests are refused as expired, never run again. One
    /// issued so far in the future, and more than a minute, is refused too: its reply would be stored for longer.
    pub reply_retention: Duration,
    /// Most stored replies of one shard. Requests are refused as busy beyond it.
    pub replies_max: usize,
    /// Most bytes of stored replies of one worker's shards. Requests are refused as busy beyond it, until clients have
    /// acknowledged some or the retention of some is over; those taken before are still answered, and their replies stored.
    pub reply_bytes_max: usize,
    /// Most clients with a stored floor in one shard, and most feeds. Requests are refused as busy beyond it.
    pub clients_max: usize,
    /// Longest time one turn may take, reading and writing its entity's state included. Beyond it the process is aborted with the message named, for nothing else stops
    /// a handler that loops; after the restart what was pending is run carefully, and a message that has ended the
    /// process three times is dead-lettered (P3).
    pub turn_deadline: Duration,
    /// Tries of a message whose handler panics, before it is dead-lettered.
    pub tries_max: u32,
    /// Pause before the second try; it doubles with each further one, up to a minute.
    pub retry_after: Duration,
    /// How long a failing entity may hold its streams before its messages go to the waiting queue (P3).
    pub failing_for_max: Duration,
    /// Most messages in the waiting queue of one entity. Further ones are dead-lettered.
    pub waiting_len_max: usize,
    /// Most bytes in the waiting queues of one worker's shards. Further messages are dead-lettered.
    pub waiting_bytes_max: usize,
    /// Dead letters of one shard from which on clients are refused as busy and feeds are held back, until an operator has
    /// retried or dropped some. Messages between entities go on, so that what is under way can still be given up beyond
    /// it: a dead letter is never lost.
    pub dead_letters_max: usize,
    /// Most reminders of one shard. A turn that sets one more is undone and its message dead-lettered.
    pub reminders_max: usize,
    /// Most bytes in the messages of the reminders of one worker's shards. As above.
    pub reminder_bytes_max: usize,
    /// A message that was not acknowledged for this long is sent again.
    pub resend_after: Duration,
    /// Acknowledged messages leave the store after this long, where no batch comes by earlier (P9).
    pub trim_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            message_len_max: MIB,
            state_len_max: 8 * MIB,
            turn_len_max: 8 * MIB,
            mailbox_len_max: 1_024,
            turns_in_row_max: 64,
            intake_bytes_max: 16 * MIB,
            batch_len: MIB,
            undurable_bytes_max: 64 * MIB,
            stream_window: 1_024,
            outbox_bytes_max: 16 * MIB,
            outbox_memory_max: 64 * MIB,
            activation_bytes_max: 512 * MIB,
            idle_after: Duration::from_mins(10),
            reply_retention: Duration::from_mins(10),
            replies_max: 65_536,
            reply_bytes_max: 64 * MIB,
            clients_max: 4_096,
            turn_deadline: Duration::from_secs(30),
            tries_max: 6,
            retry_after: Duration::from_millis(100),
            failing_for_max: Duration::from_secs(1),
            waiting_len_max: 16_384,
            waiting_bytes_max: 64 * MIB,
            dead_letters_max: 65_536,
            reminders_max: 1 << 20,
            reminder_bytes_max: 64 * MIB,
            resend_after: Duration::from_secs(5),
            trim_after: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// Whether a runtime can work within these bounds, or which field must have what.
    ///
    /// # Errors
    /// Names the first field that is too small, and its least value.
    pub fn check(&self) -> Result<(), &'static str> {
        let rules = [
            (0 < self.message_len_max, "`message_len_max` is at least 1"),
            (
                self.message_len_max <= self.turn_len_max,
                "`turn_len_max` is at least `message_len_max`, for a turn may send the longest message",
            ),
            (0 < self.state_len_max, "`state_len_max` is at least 1"),
            (0 < self.mailbox_len_max, "`mailbox_len_max` is at least 1"),
            (0 < self.turns_in_row_max, "`turns_in_row_max` is at least 1"),
            (
                // Half of it is for messages that wait for their entity.
                2 <= self.intake_bytes_max,
                "`intake_bytes_max` is at least 2",
            ),
            (0 < self.batch_len, "`batch_len` is at least 1"),
            (0 < self.undurable_bytes_max, "`undurable_bytes_max` is at least 1"),
            (0 < self.stream_window, "`stream_window` is at least 1"),
            (0 < self.outbox_bytes_max, "`outbox_bytes_max` is at least 1"),
            (0 < self.activation_bytes_max, "`activation_bytes_max` is at least 1"),
            (0 < self.replies_max, "`replies_max` is at least 1"),
            (0 < self.reply_bytes_max, "`reply_bytes_max` is at least 1"),
            (0 < self.clients_max, "`clients_max` is at least 1"),
            (Duration::ZERO < self.turn_deadline, "`turn_deadline` is longer than nothing"),
            (0 < self.tries_max, "`tries_max` is at least 1"),
            (0 < self.dead_letters_max, "`dead_letters_max` is at least 1"),
            (Duration::ZERO < self.resend_after, "`resend_after` is longer than nothing"),
        ];
        let sizes = [self.batch_len, self.batch_len.max(64 << 10), self.turn_len_max, self.state_len_max];
        let sum = sizes.iter().try_fold(0_usize, |sum, size| sum.checked_add(*size));
        if sum.is_none_or(|sum| u32::try_from(sum).is_err()) {
            return Err("`batch_len`, `turn_len_max` and `state_len_max` together are at most 4 GiB");
        }
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule))
    }

    /// Most bytes a batch can have: what is reserved in the store before its turns run (P15).
    pub fn batch_len_max(&self) -> usize {
        // The soft limit may be passed by one turn: its effects, its entity's state, and the frames around them.
        self.batch_len + self.turn_len_max + self.state_len_max + self.batch_len.max(64 << 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_that_stops_everything_is_named() {
        assert_eq!(Limits::default().check(), Ok(()));
        let wrong = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            limits.check().unwrap_err()
        };
        assert!(wrong(|limits| limits.stream_window = 0).starts_with("`stream_window`"));
        assert!(wrong(|limits| limits.tries_max = 0).starts_with("`tries_max`"));
        assert!(wrong(|limits| limits.turn_len_max = 10).starts_with("`turn_len_max`"));
        assert!(wrong(|limits| limits.state_len_max = usize::MAX).contains("`state_len_max`"));
    }
}
