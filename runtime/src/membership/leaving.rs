//! How a node goes: it hands its shards over, says that it has left, and stays until the others know and have nothing for it.
//!
//! The others matter because a shard may be sealed for this node without its knowing: it has crashed since it took the pieces, and
//! whoever has sealed the shard was paused or cut off and has not said so again. Gone, this node would keep a shard from everybody that
//! nobody else may have (P18). So it asks each of them, and who has answered has had time to send what is sealed for it.

use super::{Exchange, Known, NodeEntry, NodeState, View};
use crate::{placement::NodeName, timestamp::Timestamp};
use std::{collections::BTreeSet, time::Duration};

/// How long a node that has left stays connected after it has heard of all others, so that what they have for it comes,
const FAREWELL: Duration = Duration::from_secs(1);
/// how often it asks those it has not heard of,
const ASK_EVERY: Duration = Duration::from_millis(250);
/// and how long at most, where some say nothing.
const FAREWELL_MAX: Duration = Duration::from_mins(1);

/// How far a node is on its way out of the cluster. Its mover hands the shards over, its [`Membership`](super::Membership) says what
/// is true of it; here lies only what comes after what.
///
/// ```text
/// No ── begin ──> Draining ── no shard is left ──> Empty ── the others have answered ──> gone
///                    ^                               │
///                    └─────── a shard has come ──────┘
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Leaving {
    /// It stays.
    #[default]
    No,
    /// It hands its shards over.
    Draining,
    /// It has had none since then.
    Empty(Farewell),
}

/// What a node with nothing left has heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// Since when it has nothing.
    since: Timestamp,
    next_ask: Timestamp,
    /// Since when it has heard of all.
    complete_since: Option<Timestamp>,
    /// Who has said something since it has nothing.
    heard: BTreeSet<NodeName>,
    /// Another node knows as much as this one, so it knows that this one has left.
    is_known: bool,
}

/// What a node is to do on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum LeavingStep {
    /// Wait.
    Wait,
    /// Say that all is handed over: [`MembershipEvent::Drained`](super::MembershipEvent::Drained).
    Drained,
    /// Send these nodes [`Leaving::question`].
    Ask(Vec<NodeName>),
    /// Go.
    Depart {
        /// Whether another node has heard that this one has left.
        is_known: bool,
        /// Who may have a shard for this node, and has said nothing.
        silent: Vec<NodeName>,
    },
}

impl Leaving {
    /// Whether the node goes.
    pub fn is_going(&self) -> bool {
        *self != Self::No
    }

    /// Begins, if there is somebody to hand shards over to; whether there is. A node that goes already goes on.
    pub fn begin(&mut self, here: &NodeName, view: &View) -> bool {
        let mut others = view.nodes().filter(|(name, _)| *name != here);
        let may = others.any(|(_, node)| node.entry.state == NodeState::Up);
        if may && *self == Self::No {
            *self = Self::Draining;
        }
        may
    }

    /// What the others are asked: it tells of this node and is always answered, for they know of one more, themselves.
    pub fn question(own: &NodeEntry) -> Exchange {
        Exchange::Entries { entries: vec![own.clone()], forgotten: Vec::new(), answer: true }
    }

    /// Another node says what it knows.
    pub fn hear(&mut self, from: &NodeName, exchange: &Exchange, known: &Known) {
        if let Self::Empty(farewell) = self {
            farewell.heard.insert(from.clone());
            farewell.is_known |= *exchange == Exchange::Digest(known.digest());
        }
    }

    /// Time has passed. `is_empty`: nothing of this node's is left.
    pub fn step(&mut self, is_empty: bool, here: &NodeName, view: &View, now: Timestamp) -> LeavingStep {
        match self {
            Self::Draining if is_empty => {
                *self = Self::Empty(Farewell {
                    since: now,
                    next_ask: now,
                    complete_since: None,
                    heard: BTreeSet::new(),
                    is_known: false,
                });
                LeavingStep::Drained
            }
            // A shard that was sealed for this node has come all the same.
            Self::Empty(_) if !is_empty => {
                *self = Self::Draining;
                LeavingStep::Wait
            }
            Self::Empty(farewell) => farewell.step(here, view, now),
            Self::No | Self::Draining => LeavingStep::Wait,
        }
    }
}

impl Farewell {
    fn step(&mut self, here: &NodeName, view: &View, now: Timestamp) -> LeavingStep {
        let others = view.nodes().filter(|(name, node)| *name != here && node.entry.state != NodeState::Left);
        let silent: Vec<NodeName> =
            others.map(|(name, _)| name).filter(|name| !self.heard.contains(*name)).cloned().collect();
        // One may have come since.
        let complete_since = self.complete_since.filter(|_| silent.is_empty());
        self.complete_since = complete_since.or_else(|| silent.is_empty().then_some(now));
        let is_heard = self.is_known && self.complete_since.is_some_and(|since| since + FAREWELL <= now);
        if is_heard || self.since + FAREWELL_MAX <= now {
            return LeavingStep::Depart { is_known: self.is_known, silent };
        }
        if !silent.is_empty() && self.next_ask <= now {
            self.next_ask = now + ASK_EVERY;
            return LeavingStep::Ask(silent);
        }
        LeavingStep::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NodeInView, entry::tests::entry};
    use super::*;
    use std::sync::Arc;

    fn view(nodes: &[(&str, NodeState)]) -> View {
        let nodes = nodes.iter().map(|&(name, state)| {
            let entry = NodeEntry { state, ..entry(name, 1, 0) };
            (entry.name.clone(), NodeInView { entry: Arc::new(entry), is_alive: true })
        });
        View { number: 1, nodes: nodes.collect() }
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn the_last_node_that_takes_shards_stays() {
        let here = "a".parse().unwrap();
        let mut leaving = Leaving::No;
        assert!(!leaving.begin(&here, &view(&[("a", NodeState::Up), ("b", NodeState::Leaving)])));
        assert_eq!(leaving, Leaving::No);
        assert!(leaving.begin(&here, &view(&[("a", NodeState::Up), ("b", NodeState::Up)])));
        assert_eq!(leaving, Leaving::Draining);
    }

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    /// Of node `a` with nothing left, in a cluster with these.
    struct Empty {
        leaving: Leaving,
        view: View,
        known: Known,
    }

    impl Empty {
        fn with(others: &[(&str, NodeState)]) -> Self {
            let mut nodes = vec![("a", NodeState::Left)];
            nodes.extend(others);
            let (mut leaving, view) = (Leaving::Draining, view(&nodes));
            assert_eq!(leaving.step(false, &name("a"), &view, at(0)), LeavingStep::Wait);
            assert_eq!(leaving.step(true, &name("a"), &view, at(0)), LeavingStep::Drained);
            Self { leaving, view, known: Known::default() }
        }

        fn step(&mut self, millis: u64) -> LeavingStep {
            self.leaving.step(true, &name("a"), &self.view, at(millis))
        }

        fn hear(&mut self, from: &str, digest: u64) {
            self.leaving.hear(&name(from), &Exchange::Digest(digest), &self.known);
        }
    }

    #[test]
    fn a_node_goes_when_all_have_answered_and_one_knows() {
        let mut empty =
            Empty::with(&[("b", NodeState::Up), ("c", NodeState::Leaving), ("d", NodeState::Left)]);
        let known = empty.known.digest();
        assert_eq!(empty.step(0), LeavingStep::Ask(vec![name("b"), name("c")]));
        assert_eq!(empty.step(100), LeavingStep::Wait);
        empty.hear("b", known);
        assert_eq!(empty.step(2_000), LeavingStep::Ask(vec![name("c")]), "`c` may have a shard for it");
        empty.hear("c", !known);
        assert_eq!(empty.step(2_100), LeavingStep::Wait);
        assert_eq!(empty.step(3_099), LeavingStep::Wait);
        assert_eq!(empty.step(3_100), LeavingStep::Depart { is_known: true, silent: Vec::new() });
    }

    #[test]
    fn who_says_nothing_is_waited_for_no_longer_than_a_minute() {
        let mut empty = Empty::with(&[("b", NodeState::Up), ("c", NodeState::Up)]);
        let known = empty.known.digest();
        empty.hear("b", !known);
        assert_eq!(empty.step(59_999), LeavingStep::Ask(vec![name("c")]));
        assert_eq!(empty.step(60_000), LeavingStep::Depart { is_known: false, silent: vec![name("c")] });
    }

    #[test]
    fn a_shard_that_comes_late_goes_on_first() {
        let mut empty = Empty::with(&[("b", NodeState::Up)]);
        let known = empty.known.digest();
        empty.hear("b", known);
        assert_eq!(empty.step(100), LeavingStep::Wait);
        assert_eq!(empty.leaving.step(false, &name("a"), &empty.view, at(1_100)), LeavingStep::Wait);
        assert_eq!(empty.leaving, Leaving::Draining);
        assert_eq!(empty.step(3_000), LeavingStep::Drained);
        // What was heard before says nothing of what has come since.
        assert_eq!(empty.step(5_000), LeavingStep::Ask(vec![name("b")]));
    }
}
