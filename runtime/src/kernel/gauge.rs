//! Which turn a worker runs now, to be read from another thread: how a turn that never ends is found and named (P3).

use crate::{activation::Origin, message::Envelope};
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// Words of the envelope that are published: enough for kind, key and name of nearly every message.
const HEAD_WORDS: usize = 12;

/// Which turn runs now. One per kernel, written by it and read by whoever watches; a few plain stores per turn.
#[derive(Debug, Default)]
pub struct TurnGauge {
    /// Rises when a turn begins and when it ends: odd while one runs.
    edges: AtomicU64,
    /// Tag of the origin, and what tells it from others of its kind.
    origin: [AtomicU64; 4],
    len: AtomicU64,
    head: [AtomicU64; HEAD_WORDS],
}

impl TurnGauge {
    /// A turn begins.
    pub(super) fn begin(&self, envelope: &Envelope, origin: &Origin) {
        for (word, published) in words(origin).into_iter().zip(&self.origin) {
            published.store(word, Ordering::Relaxed);
        }
        let bytes = envelope.bytes();
        self.len.store(bytes.len() as u64, Ordering::Relaxed);
        for (word, published) in bytes.chunks(8).zip(&self.head) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            published.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        // The name before the edge, so that who sees the edge sees the name.
        self.edges.store(self.edges.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// The turn has ended.
    pub(super) fn end(&self) {
        self.edges.store(self.edges.load(Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// The number of the turn that runs now; `None` between two turns.
    pub fn running(&self) -> Option<u64> {
        let edges = self.edges.load(Ordering::Acquire);
        (edges % 2 == 1).then_some(edges)
    }

    /// Names the message of the turn that runs. Meaningless unless [`TurnGauge::running`] says the same before and after.
    pub fn name(&self) -> String {
        let mut bytes: Vec<u8> =
            self.head.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        let len = self.len.load(Ordering::Relaxed) as usize;
        bytes.truncate(len);
        let origin: Vec<u64> = self.origin.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        format!("{} from {}", Head(&bytes), FromWords(&origin))
    }
}

/// What tells an origin from every other, and stays the same over restarts.
pub(super) fn words(origin: &Origin) -> [u64; 4] {
    let halves = |id: u128| ((id >> 64) as u64, id as u64);
    match *origin {
        Origin::Stream { source, number } => [1, u64::from(source.0), 0, number],
        Origin::Feed { feed, number } => {
            let (high, low) = halves(feed.0);
            [2, high, low, number]
        }
        Origin::Request { id, .. } => {
            let (high, low) = halves(id.client.0);
            [3, high, low, id.number]
        }
        Origin::Reminder(id) => [4, 0, 0, id.0],
        Origin::Waiting(number) => [5, 0, 0, number],
        Origin::Query(_) => [6, 0, 0, 0],
        Origin::Volatile(_) => [7, 0, 0, 0],
    }
}

/// Target and name of a message whose envelope may be cut off.
struct Head<'b>(&'b [u8]);

impl fmt::Display for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((head, mut rest)) = self.0.split_at_checked(8) else { return f.write_str("a message") };
        let mut take = |len: usize| {
            let (text, after) = rest.split_at(len.min(rest.len()));
            rest = after;
            let cut = if text.len() < len { "..." } else { "" };
            format!("{}{cut}", String::from_utf8_lossy(text).escape_debug())
        };
        let kind = take(usize::from(head[1]));
        let key = take(usize::from(u16::from_le_bytes([head[2], head[3]])));
        let name = take(usize::from(head[4]));
        write!(f, "message `{name}` to {kind} \"{key}\"")
    }
}

struct FromWords<'w>(&'w [u64]);

impl fmt::Display for FromWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &[tag, high, low, number] = self.0 else { return f.write_str("an unknown origin") };
        match tag {
            1 => write!(f, "shard {high}, number {number}"),
            2 => write!(f, "feed {high:016x}{low:016x}, number {number}"),
            3 => write!(f, "client {high:016x}{low:016x}, request {number}"),
            4 => write!(f, "reminder {number}"),
            5 => write!(f, "the waiting queue, number {number}"),
            6 => f.write_str("a query"),
            _ => f.write_str("a volatile sender"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::ShardId;

    #[test]
    fn a_turn_is_named_while_it_runs() {
        let gauge = TurnGauge::default();
        assert_eq!(gauge.running(), None);
        let mut bytes = Vec::new();
        Envelope::write_head("account", "al\nice", "deposit", None, &mut bytes);
        let envelope = Envelope::from_bytes(bytes.into()).unwrap();
        gauge.begin(&envelope, &Origin::Stream { source: ShardId(7), number: 12 });
        assert_eq!(gauge.running(), Some(1));
        assert_eq!(gauge.name(), "message `deposit` to account \"al\\nice\" from shard 7, number 12");
        gauge.end();
        assert_eq!(gauge.running(), None);
        let mut bytes = Vec::new();
        Envelope::write_head("account", &"x".repeat(500), "deposit", None, &mut bytes);
        gauge.begin(&Envelope::from_bytes(bytes.into()).unwrap(), &Origin::Waiting(3));
        let long =
            format!("message `...` to account \"{}...\" from the waiting queue, number 3", "x".repeat(81));
        assert_eq!(gauge.name(), long);
    }
}
