//! What must be durable before it is acted upon: the bindings of names to stores, the highest boot counters, and what was
//! forgotten.
//!
//! The order: a hello or an entry changes [`Known`] in memory at once, so that a second store under the name is refused
//! from then on. Its bytes are handed out to be kept, one writing at a time. Only when they are durable is the hello
//! answered and the node shown in the view. A crash in between forgets a node that nobody here has dealt with; after
//! it, no restart can make this node deal with another store under the name.

use super::{
    hello::Hello,
    known::{Known, Learned},
};
use crate::{placement::NodeName, timestamp::Timestamp};
use std::{collections::BTreeMap, time::Duration};

/// Most hellos that wait for a writing. The next one is refused as busy.
const WAITING_MAX: usize = 1_024;

/// Store and boot counter of each name.
type Marks = BTreeMap<NodeName, (u128, u64)>;

/// Somebody who waits for a writing.
#[derive(Debug)]
pub(super) enum Waiting {
    Hello { ticket: u64, hello: Hello },
    Forgotten { name: NodeName, store: u128 },
}

/// The one writing under way, and what waits for it.
#[derive(Debug)]
pub(super) struct Keeping {
    /// Of the last writing.
    number: u64,
    /// What the writing under way holds.
    under_way: Option<Marks>,
    durable: Marks,
    /// What has changed since the last writing was begun.
    changed: Learned,
    /// When details are written that nobody waits for.
    due: Timestamp,
    /// Each with the number of the writing it waits for.
    waiting: Vec<(u64, Waiting)>,
}

impl Keeping {
    /// All of `known` was read from the disk.
    pub(super) fn new(known: &Known) -> Self {
        Self {
            number: 0,
            under_way: None,
            durable: marks(known),
            changed: Learned::Nothing,
            due: Timestamp::NEVER,
            waiting: Vec::new(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// Something has changed.
    pub(super) fn note(&mut self, learned: Learned, now: Timestamp, period: Duration) {
        if self.changed == Learned::Nothing && learned > Learned::Nothing {
            self.due = now + period;
        }
        self.changed = self.changed.max(learned);
    }

    /// Whether a node of this store is known in this run of it, or a later one, also after a crash.
    pub(super) fn is_durable(&self, name: &NodeName, store: u128, boot: u64) -> bool {
        covers(&self.durable, name, store, boot)
    }

    /// Lets a hello wait that is not durable yet.
    pub(super) fn wait(&mut self, ticket: u64, hello: Hello) {
        let under_way = self.under_way.as_ref();
        let is_under_way = under_way.is_some_and(|marks| covers(marks, &hello.name, hello.store, hello.boot));
        let number = self.number + u64::from(!is_under_way);
        self.waiting.push((number, Waiting::Hello { ticket, hello }));
    }

    /// Lets an operator wait for what was changed just now.
    pub(super) fn wait_forgotten(&mut self, name: NodeName, store: u128) {
        self.waiting.push((self.number + 1, Waiting::Forgotten { name, store }));
    }

    /// The next writing, if it is time for one.
    pub(super) fn next(&mut self, known: &Known, now: Timestamp) -> Option<(u64, Vec<u8>)> {
        let is_time = match self.changed {
            Learned::Nothing => false,
            Learned::Detail => self.due <= now,
            Learned::Now => true,
        };
        if self.under_way.is_some() || !is_time {
            return None;
        }
        self.number += 1;
        self.under_way = Some(marks(known));
        self.changed = Learned::Nothing;
        Some((self.number, known.encode()))
    }

    /// A writing is durable; returns who has waited for it. Any other number is that of no writing under way.
    pub(super) fn kept(&mut self, number: u64) -> Vec<Waiting> {
        let Some(marks) = self.under_way.take_if(|_| number == self.number) else { return Vec::new() };
        self.durable = marks;
        let (released, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(needs, _)| *needs <= number);
        self.waiting = waiting;
        let released: Vec<(u64, Waiting)> = released;
        released.into_iter().map(|(_, waiting)| waiting).collect()
    }
}

fn marks(known: &Known) -> Marks {
    known.nodes().map(|(name, node)| (name.clone(), (node.store, node.boot))).collect()
}

fn covers(marks: &Marks, name: &NodeName, store: u128, boot: u64) -> bool {
    marks.get(name).is_some_and(|(kept, highest)| *kept == store && boot <= *highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(5);

    fn hello(name: &str, boot: u64) -> Hello {
        Hello { name: name.parse().unwrap(), store: 7, boot, position: 0 }
    }

    fn meet(keeping: &mut Keeping, known: &mut Known, ticket: u64, hello: Hello) {
        keeping.note(known.meet(&hello), Timestamp::EPOCH, PERIOD);
        keeping.wait(ticket, hello);
    }

    fn tickets(released: Vec<Waiting>) -> Vec<u64> {
        let ticket = |waiting| match waiting {
            Waiting::Hello { ticket, .. } => Some(ticket),
            Waiting::Forgotten { .. } => None,
        };
        released.into_iter().filter_map(ticket).collect()
    }

    #[test]
    fn a_hello_waits_for_the_writing_that_holds_it() {
        let mut known = Known::default();
        let mut keeping = Keeping::new(&known);
        meet(&mut keeping, &mut known, 1, hello("a", 1));
        let (first, bytes) = keeping.next(&known, Timestamp::EPOCH).unwrap();
        assert_eq!(Known::decode(&bytes), Ok(known.clone()));
        // The same node again waits for the same writing; its next run for the next one.
        meet(&mut keeping, &mut known, 2, hello("a", 1));
        meet(&mut keeping, &mut known, 3, hello("a", 2));
        assert_eq!(keeping.next(&known, Timestamp::EPOCH), None, "one writing at a time");
        assert!(!keeping.is_durable(&"a".parse().unwrap(), 7, 1));

        assert_eq!(tickets(keeping.kept(first)), [1, 2]);
        assert!(keeping.is_durable(&"a".parse().unwrap(), 7, 1));
        assert!(!keeping.is_durable(&"a".parse().unwrap(), 7, 2));
        let (second, _) = keeping.next(&known, Timestamp::EPOCH).unwrap();
        assert_eq!(tickets(keeping.kept(first)), [0; 0], "an old number says nothing");
        assert_eq!(tickets(keeping.kept(second)), [3]);
        assert_eq!(keeping.next(&known, Timestamp::EPOCH), None);
    }

    #[test]
    fn a_detail_waits_for_company() {
        let mut known = Known::default();
        let _ = known.meet(&hello("a", 1));
        let mut keeping = Keeping::new(&known);
        keeping.note(known.advance(&"a".parse().unwrap(), 7, 100), Timestamp::EPOCH, PERIOD);
        keeping.note(known.advance(&"a".parse().unwrap(), 7, 200), Timestamp::from_millis(4_000), PERIOD);
        assert_eq!(keeping.next(&known, Timestamp::from_millis(4_999)), None);
        let (_, bytes) = keeping.next(&known, Timestamp::from_millis(5_000)).unwrap();
        assert_eq!(Known::decode(&bytes), Ok(known));
    }
}
