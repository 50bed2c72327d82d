//! How a node goes: it hands its shards over, says that it has left, and stays until the others know and have nothing for it.
//!
//! The others matter because a shard may be sealed for this node without its knowing: it has crashed since it took the pieces, or has
//! given the hand-off up because the source was silent, and the seal of that source is only just becoming durable. Gone, this node would
//! keep a shard from everybody that nobody else may have (P18). So it puts a last question to each of them, and goes when each has
//! answered that nothing is on its way.
//!
//! That answer holds for good. The asked node counts what it has offered to the one that goes, what it has ordered to be sealed and what
//! is sealed, until MOVED is durable; and it answers only once it has heard that the other one has left and its table names that node no
//! more, so nothing comes to the count. Nor could anything: a node that goes refuses what is offered to it anew and is not sealed.
//!
//! # Caveats
//! * Who says nothing is waited for no longer than a minute. Should it have sealed a shard for this node, the shard waits until this node
//!   is started again, or until an operator opens it again at its source.
//! * The same holds for a node that has left itself, was sent a late shard, gives it to this one, and is not connected just then.

use super::{Exchange, NodeEntry, NodeInView, NodeState, View};
use crate::{placement::NodeName, timestamp::Timestamp};
use std::{collections::BTreeMap, time::Duration};

/// How often a node that has nothing left asks those it waits for,
const ASK_EVERY: Duration = Duration::from_millis(250);
/// after how long without an answer of one it does not wait for that one any more,
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// when it first tells an operator whom it waits for,
const TELL_AFTER: Duration = Duration::from_secs(1);
/// and how often then.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How far a node is on its way out of the cluster. Its mover hands the shards over, its [`Membership`](super::Membership) says what
/// is true of it; here lies only what comes after what.
///
/// ```text
/// No ── begin ──> Draining ── no shard is left ──> Empty ── nothing is on its way to it ──> gone
///                    ^                               │
///                    └─────── a shard has come ──────┘
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Leaving {
    /// It stays.
    #[default]
    No,
    /// It hands its shards over.
    Draining {
        /// How often it has had none meanwhile.
        emptied: u64,
        /// When an operator is to hear that nobody takes them, where that is so.
        next_tell: Timestamp,
    },
    /// It has had none since then.
    Empty(Farewell),
}

/// What a node with nothing left has heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// Which time it has nothing: an answer to an earlier question is none to this.
    emptied: u64,
    /// Since when.
    since: Timestamp,
    next_ask: Timestamp,
    next_tell: Timestamp,
    /// By node, when it has answered last, and how many of its shards were on their way here then.
    answers: BTreeMap<NodeName, (Timestamp, u64)>,
}

/// What a node with nothing left asks each of the others: is anything on its way to it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastQuestion {
    /// How often the store of the node that goes was opened: of another run of it nothing is asked.
    pub boot: u64,
    /// Which time it has had nothing in that run.
    pub emptied: u64,
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastAnswer {
    /// As it was asked.
    pub question: LastQuestion,
    /// How many shards are on their way to it. 0: none, and none will be.
    pub coming: u64,
}

impl LastQuestion {
    /// The answer to `from`, where `going` is what this node's mover says of what goes there. `None`: this node has
    /// not heard yet that it has left in that run; it asks again.
    pub fn answer(self, from: &NodeName, view: &View, going: Option<u64>) -> Option<LastAnswer> {
        let has_left = view
            .get(from)
            .is_some_and(|node| node.entry.boot == self.boot && node.entry.state == NodeState::Left);
        going.filter(|_| has_left).map(|coming| LastAnswer { question: self, coming })
    }
}

/// What a node is to do on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum LeavingStep {
    /// Wait.
    Wait,
    /// Wait, and tell an operator that every other node leaves or has left: nobody takes what this one has.
    Stuck,
    /// Say that all is handed over: [`MembershipEvent::Drained`](super::MembershipEvent::Drained).
    Drained,
    /// Send each node in `whom` what this one says of itself, so that it knows that this one has left, and the question behind it.
    Ask {
        /// What it says of itself. The first time it asks for whom the others know and it does not.
        introduction: Exchange,
        /// What is asked.
        question: LastQuestion,
        /// Whom, each with the number of shards that are on their way from there, if it has answered.
        whom: BTreeMap<NodeName, Option<u64>>,
        /// It has taken so long that an operator is to hear whom this node waits for.
        is_long: bool,
    },
    /// Go.
    Depart {
        /// Whether another node has heard that this one has left.
        is_known: bool,
        /// Who may have a shard for this node, and says nothing.
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
        let may = takes_shards(here, view);
        if may && *self == Self::No {
            *self = Self::Draining { emptied: 0, next_tell: Timestamp::EPOCH };
        }
        may
    }

    /// Another node answers the last question.
    pub fn answered(&mut self, from: &NodeName, answer: LastAnswer, own: &NodeEntry, now: Timestamp) {
        if let Self::Empty(farewell) = self
            && answer.question == farewell.question(own)
        {
            farewell.answers.insert(from.clone(), (now, answer.coming));
        }
    }

    /// Time has passed. `is_empty`: nothing of this node's is left. One that says it has left is asked as long as it `is_connected`:
    /// a shard may have come to it since, and be on its way here.
    pub fn step(
        &mut self,
        is_empty: bool,
        own: &NodeEntry,
        view: &View,
        is_connected: impl Fn(&NodeName) -> bool,
        now: Timestamp,
    ) -> LeavingStep {
        match self {
            Self::Draining { emptied, .. } if is_empty => {
                *self = Self::Empty(Farewell::new(*emptied + 1, now));
                LeavingStep::Drained
            }
            // A shard that was sealed for this node has come.
            Self::Empty(Farewell { emptied, .. }) if !is_empty => {
                *self = Self::Draining { emptied: *emptied, next_tell: Timestamp::EPOCH };
                LeavingStep::Wait
            }
            Self::Empty(farewell) => farewell.step(own, view, is_connected, now),
            Self::Draining { next_tell, .. } if *next_tell <= now => {
                *next_tell = now + TELL_EVERY;
                if takes_shards(&own.name, view) { LeavingStep::Wait } else { LeavingStep::Stuck }
            }
            Self::No | Self::Draining { .. } => LeavingStep::Wait,
        }
    }
}

/// Whether another node takes shards.
fn takes_shards(here: &NodeName, view: &View) -> bool {
    view.nodes().any(|(name, node)| name != here && node.entry.state == NodeState::Up)
}

impl Farewell {
    fn new(emptied: u64, now: Timestamp) -> Self {
        Self { emptied, since: now, next_ask: now, next_tell: now + TELL_AFTER, answers: BTreeMap::new() }
    }

    fn question(&self, own: &NodeEntry) -> LastQuestion {
        LastQuestion { boot: own.boot, emptied: self.emptied }
    }

    fn step(
        &mut self,
        own: &NodeEntry,
        view: &View,
        is_connected: impl Fn(&NodeName) -> bool,
        now: Timestamp,
    ) -> LeavingStep {
        let may_have_any = |(name, node): &(&NodeName, &NodeInView)| {
            **name != own.name && (node.entry.state != NodeState::Left || is_connected(name))
        };
        let mut whom = BTreeMap::new();
        // Who has answered has heard that this node has left, and keeps it with what it notes next.
        let is_known = !self.answers.is_empty();
        let mut is_over = is_known || self.since + SILENCE_MAX <= now;
        for (name, _) in view.nodes().filter(may_have_any) {
            let (heard_at, coming) = match self.answers.get(name) {
                Some((_, 0)) => continue,
                Some((at, coming)) => (*at, Some(*coming)),
                None => (self.since, None),
            };
            is_over &= heard_at + SILENCE_MAX <= now;
            whom.insert(name.clone(), coming);
        }
        if is_over {
            return LeavingStep::Depart { is_known, silent: whom.into_keys().collect() };
        }
        if whom.is_empty() || now < self.next_ask {
            return LeavingStep::Wait;
        }
        let is_first = self.next_ask == self.since;
        self.next_ask = now + ASK_EVERY;
        let introduction =
            Exchange::Entries { entries: vec![own.clone()], forgotten: Vec::new(), answer: is_first };
        let is_long = self.next_tell <= now;
        if is_long {
            self.next_tell = now + TELL_EVERY;
        }
        LeavingStep::Ask { introduction, question: self.question(own), whom, is_long }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::entry;
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
        assert!(leaving.is_going());
    }

    #[test]
    fn nodes_that_leave_at_once_with_nobody_to_take_their_shards_say_so() {
        let (here, own) = ("a".parse().unwrap(), entry("a", 1, 0));
        let mut leaving = Leaving::No;
        assert!(leaving.begin(&here, &view(&[("a", NodeState::Up), ("b", NodeState::Up)])));
        let alone = view(&[("a", NodeState::Leaving), ("b", NodeState::Leaving), ("c", NodeState::Left)]);
        let mut told = Vec::new();
        for second in 0..25 {
            match leaving.step(false, &own, &alone, |_| true, at(1_000 * second)) {
                LeavingStep::Stuck => told.push(second),
                step => assert_eq!(step, LeavingStep::Wait),
            }
        }
        assert_eq!(told, [0, 10, 20]);
        // One comes, and takes them.
        let joined = view(&[("a", NodeState::Leaving), ("d", NodeState::Up)]);
        assert_eq!(leaving.step(false, &own, &joined, |_| true, at(30_000)), LeavingStep::Wait);
        assert_eq!(leaving.step(true, &own, &joined, |_| true, at(31_000)), LeavingStep::Drained);
    }

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    /// Of node `a` with nothing left, in a cluster with these.
    struct Empty {
        leaving: Leaving,
        own: NodeEntry,
        view: View,
        connected: Vec<NodeName>,
    }

    impl Empty {
        fn with(others: &[(&str, NodeState)]) -> Self {
            let mut nodes = vec![("a", NodeState::Left)];
            nodes.extend(others);
            let view = view(&nodes);
            let own = NodeEntry::clone(&view.get(&name("a")).unwrap().entry);
            let leaving = Leaving::Draining { emptied: 0, next_tell: at(0) };
            let mut empty = Self { leaving, own, view, connected: Vec::new() };
            assert_eq!(empty.is_empty(false, 0), LeavingStep::Wait);
            assert_eq!(empty.step(0), LeavingStep::Drained);
            empty
        }

        fn is_empty(&mut self, is_empty: bool, millis: u64) -> LeavingStep {
            let is_connected = |node: &NodeName| self.connected.contains(node);
            self.leaving.step(is_empty, &self.own, &self.view, is_connected, at(millis))
        }

        fn step(&mut self, millis: u64) -> LeavingStep {
            self.is_empty(true, millis)
        }

        /// Who is asked, in the step that asks.
        fn asks(&mut self, millis: u64) -> (LastQuestion, Vec<String>) {
            match self.step(millis) {
                LeavingStep::Ask { question, whom, .. } => {
                    (question, whom.keys().map(ToString::to_string).collect())
                }
                step => panic!("{step:?}"),
            }
        }

        fn answered(&mut self, from: &str, question: LastQuestion, coming: u64, millis: u64) {
            self.leaving.answered(&name(from), LastAnswer { question, coming }, &self.own, at(millis));
        }
    }

    #[test]
    fn a_node_goes_when_nothing_is_on_its_way_from_anybody_and_one_knows() {
        let mut empty =
            Empty::with(&[("b", NodeState::Up), ("c", NodeState::Leaving), ("d", NodeState::Left)]);
        let (question, whom) = empty.asks(0);
        assert_eq!(whom, ["b", "c"]);
        assert_eq!(empty.step(100), LeavingStep::Wait);
        empty.answered("b", question, 0, 100);
        // However long its seal takes.
        for millis in (1_000..200_000).step_by(1_000) {
            assert_eq!(empty.asks(millis), (question, vec!["c".to_owned()]));
            empty.answered("c", question, 1, millis);
        }
        empty.answered("c", question, 0, 200_100);
        assert_eq!(empty.step(200_100), LeavingStep::Depart { is_known: true, silent: Vec::new() });
    }

    #[test]
    fn a_node_that_nobody_knows_to_have_left_waits_for_that() {
        let mut empty = Empty::with(&[("b", NodeState::Up)]);
        empty.asks(0);
        empty.view = view(&[("a", NodeState::Left)]);
        assert_eq!(empty.step(5_000), LeavingStep::Wait, "b was forgotten, and nobody has heard of it");
        assert_eq!(empty.step(60_000), LeavingStep::Depart { is_known: false, silent: Vec::new() });
    }

    #[test]
    fn whom_the_others_know_is_asked_for_once() {
        let mut empty = Empty::with(&[("b", NodeState::Up)]);
        let own = empty.own.clone();
        for (millis, answer) in [(0, true), (250, false), (500, false)] {
            let LeavingStep::Ask { introduction, .. } = empty.step(millis) else { panic!("it asks") };
            let (entries, forgotten) = (vec![own.clone()], Vec::new());
            assert_eq!(introduction, Exchange::Entries { entries, forgotten, answer });
        }
    }

    #[test]
    fn one_that_has_left_is_asked_while_it_is_still_there() {
        let mut empty = Empty::with(&[("b", NodeState::Up), ("c", NodeState::Left)]);
        empty.connected = vec![name("b"), name("c")];
        let (question, whom) = empty.asks(0);
        assert_eq!(whom, ["b", "c"]);
        empty.answered("b", question, 0, 100);
        assert_eq!(empty.asks(1_000).1, ["c"]);
        empty.connected.clear();
        assert_eq!(empty.step(1_100), LeavingStep::Depart { is_known: true, silent: Vec::new() });
    }

    #[test]
    fn who_says_nothing_is_waited_for_no_longer_than_a_minute() {
        let mut empty = Empty::with(&[("b", NodeState::Up), ("c", NodeState::Up)]);
        let (question, _) = empty.asks(0);
        empty.answered("b", question, 0, 100);
        empty.answered("c", question, 2, 30_000);
        assert_eq!(empty.asks(60_000).1, ["c"]);
        assert_eq!(empty.asks(89_999).1, ["c"]);
        assert_eq!(empty.step(90_000), LeavingStep::Depart { is_known: true, silent: vec![name("c")] });
    }

    #[test]
    fn an_operator_hears_whom_it_waits_for_after_a_second_and_every_ten() {
        let mut empty = Empty::with(&[("b", NodeState::Up), ("c", NodeState::Up)]);
        let (question, _) = empty.asks(0);
        empty.answered("c", question, 3, 100);
        let told: Vec<_> = (300..25_000)
            .step_by(100)
            .filter_map(|millis| match empty.step(millis) {
                LeavingStep::Ask { whom, is_long: true, .. } => Some((millis, whom)),
                _ => None,
            })
            .collect();
        let whom = BTreeMap::from([(name("b"), None), (name("c"), Some(3))]);
        assert_eq!(told, [1_200, 11_400, 21_600].map(|millis| (millis, whom.clone())));
    }

    #[test]
    fn a_shard_that_comes_late_goes_on_first() {
        let mut empty = Empty::with(&[("b", NodeState::Up)]);
        let (first, _) = empty.asks(0);
        empty.answered("b", first, 1, 0);
        assert_eq!(empty.step(100), LeavingStep::Wait);
        assert_eq!(empty.is_empty(false, 1_100), LeavingStep::Wait);
        assert_eq!(empty.step(3_000), LeavingStep::Drained);
        // What was heard before says nothing of what has come since.
        let (second, _) = empty.asks(5_000);
        empty.answered("b", first, 0, 5_000);
        assert_eq!(empty.asks(6_000).0, second);
        empty.answered("b", LastQuestion { boot: second.boot - 1, ..second }, 0, 6_000);
        assert_eq!(empty.asks(7_000).0, second);
        empty.answered("b", second, 0, 7_000);
        assert_eq!(empty.step(7_100), LeavingStep::Depart { is_known: true, silent: Vec::new() });
    }

    #[test]
    fn only_who_has_heard_of_the_going_in_this_run_answers() {
        let question = LastQuestion { boot: 1, emptied: 1 };
        let (leaving, view) = (view(&[("a", NodeState::Leaving)]), view(&[("a", NodeState::Left)]));
        assert_eq!(question.answer(&name("a"), &leaving, Some(0)), None);
        let answer = |question: LastQuestion, going| question.answer(&name("a"), &view, going);
        assert_eq!(answer(question, Some(2)), Some(LastAnswer { question, coming: 2 }));
        assert_eq!(answer(question, None), None, "it may still be offered something");
        assert_eq!(answer(LastQuestion { boot: 2, ..question }, Some(0)), None);
        assert_eq!(question.answer(&name("b"), &view, Some(0)), None);
    }
}
