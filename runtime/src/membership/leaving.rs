//! How a node goes: it hands its shards over, says that it has left, and stays until another node knows.

use super::{Exchange, Known, NodeState, View};
use crate::{placement::NodeName, timestamp::Timestamp};
use std::time::Duration;

/// How long a node that has left stays connected, so that the others hear of it,
const FAREWELL: Duration = Duration::from_secs(1);
/// and how much longer where none has said that it has heard.
const FAREWELL_MAX: Duration = Duration::from_mins(1);

/// How far a node is on its way out of the cluster. It gives nothing up for this: its mover hands the shards over, its
/// [`Membership`](super::Membership) says what is true of it.
///
/// ```text
/// No ── begin ──> Draining ── no shard is left ──> Empty ── another node knows ──> gone
///                    ^                               │
///                    └─────── a shard has come ──────┘
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Leaving {
    /// It stays.
    #[default]
    No,
    /// It hands its shards over.
    Draining,
    /// It has had none since then; and another node knows as much as this one, so it knows that too.
    Empty {
        /// Since when.
        since: Timestamp,
        /// Whether another node knows.
        is_known: bool,
    },
}

/// What a node is to do on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum LeavingStep {
    /// Wait.
    Wait,
    /// Say that all is handed over: [`MembershipEvent::Drained`](super::MembershipEvent::Drained).
    Drained,
    /// Go.
    Depart {
        /// Whether another node has heard that this one has left.
        is_known: bool,
    },
}

impl Leaving {
    /// Whether the node goes.
    pub fn is_going(self) -> bool {
        self != Self::No
    }

    /// Begins, if there is somebody to hand shards over to. Whether it did.
    pub fn begin(&mut self, here: &NodeName, view: &View) -> bool {
        let mut others = view.nodes().filter(|(name, _)| *name != here);
        let may = others.any(|(_, node)| node.entry.state == NodeState::Up);
        if may && *self == Self::No {
            *self = Self::Draining;
        }
        may
    }

    /// Another node compares what it knows with what this one does.
    pub fn hear(&mut self, exchange: &Exchange, known: &Known) {
        if let (Self::Empty { is_known, .. }, Exchange::Digest(digest)) = (self, exchange) {
            *is_known |= *digest == known.digest();
        }
    }

    /// Time has passed. `is_empty`: nothing of this node's is left.
    pub fn step(&mut self, is_empty: bool, now: Timestamp) -> LeavingStep {
        match *self {
            Self::Draining if is_empty => {
                *self = Self::Empty { since: now, is_known: false };
                LeavingStep::Drained
            }
            // A shard that was sealed for this node has come all the same.
            Self::Empty { .. } if !is_empty => {
                *self = Self::Draining;
                LeavingStep::Wait
            }
            Self::Empty { since, is_known }
                if since + if is_known { FAREWELL } else { FAREWELL_MAX } <= now =>
            {
                LeavingStep::Depart { is_known }
            }
            _ => LeavingStep::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NodeInView, entry::tests::entry};
    use super::*;
    use std::sync::Arc;

    fn view(nodes: &[(&str, NodeState)]) -> View {
        let nodes = nodes.iter().map(|&(name, state)| {
            let entry = super::super::NodeEntry { state, ..entry(name, 1, 0) };
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

    #[test]
    fn a_node_goes_when_it_is_empty_and_another_knows() {
        let known = Known::default();
        let mut leaving = Leaving::Draining;
        assert_eq!(leaving.step(false, at(0)), LeavingStep::Wait);
        leaving.hear(&Exchange::Digest(known.digest()), &known);
        assert_eq!(leaving.step(true, at(100)), LeavingStep::Drained);
        // What was compared before says nothing of what is new.
        assert_eq!(leaving.step(true, at(1_100)), LeavingStep::Wait);
        leaving.hear(&Exchange::Digest(!known.digest()), &known);
        assert_eq!(leaving.step(true, at(1_100)), LeavingStep::Wait);
        leaving.hear(&Exchange::Digest(known.digest()), &known);
        assert_eq!(leaving.step(true, at(1_099)), LeavingStep::Wait);
        assert_eq!(leaving.step(true, at(1_100)), LeavingStep::Depart { is_known: true });
    }

    #[test]
    fn a_shard_that_comes_late_goes_on_first() {
        let mut leaving = Leaving::Empty { since: at(0), is_known: true };
        assert_eq!(leaving.step(false, at(2_000)), LeavingStep::Wait);
        assert_eq!(leaving.step(true, at(3_000)), LeavingStep::Drained);
        assert_eq!(leaving.step(true, at(63_000)), LeavingStep::Depart { is_known: false });
    }
}
