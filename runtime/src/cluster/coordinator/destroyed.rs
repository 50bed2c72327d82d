//! What is done when a node's disk is gone for good: it is forgotten, all others are asked which epochs they know of its shards,
//! and what nobody has under a higher one is owned here again, or told to who has a copy (P18, P20).
//!
//! ```text
//!  a command ──► Forgetting ──durable──► Asking ──all have answered──► Writing ──durable──► Done
//!      │             │                     │                               └─ not in time ─► Refused, and done later
//!      │             └─────────────────────┴────── not in time, or gone since ────────────► Refused
//!      └── somebody is not connected, or the node is alive ───────────────────────────────► Refused
//! ```
//!
//! In this order, for safety: the shards are held, so that nothing of their old hand-offs gets in between; then the store is
//! forgotten, and every other node hears of that before the question, on the same connection. What it answers holds from
//! then on, because it lets in nobody who could change it.
//!
//! A store that was forgotten before may have an *heir*: another store under its name. That one is not forgotten, and it is asked
//! like any other.

use super::{Asker, Coordinator};
use crate::{
    cluster::{CommandAnswer, HeldShard},
    membership::{Exchange, MembershipAction, MembershipEvent},
    mover::{MoverEvent, Standing},
    node::Outbound,
    placement::{Epoch, NodeName, ShardId},
    timestamp::Timestamp,
    transport::{
        CloseReason, Frame,
        frame::{AskedShard, KnownEpoch, Route},
    },
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

/// How long the other nodes have for their answers, and the disk for what is written. Shorter than operators wait for theirs.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// Epochs rise by one with each move: none of an honest node is so high, and a few more would not fit.
const EPOCH_MAX: u64 = u64::MAX / 2;
/// What a shard counts with on its way to a connection, with the longest name.
const EPOCH_BYTES: usize = 300;

/// One question to all, and who wants to know. One at a time.
pub(in crate::cluster) struct Inquiry {
    asker: Asker,
    dead: NodeName,
    /// The store that has its name by now.
    heir: Option<u128>,
    purpose: Purpose,
    stage: Stage,
    /// The shards, each with the epoch that counts for it, and what is known of it so far.
    shards: BTreeMap<ShardId, Asked>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The shards are sealed here: they are to be owned here again.
    Reopen,
    /// Somebody has a copy of the destroyed disk, and is told what is newer elsewhere.
    Tell,
}

enum Stage {
    /// Until it is durable that the store is not let in again.
    Forgetting { until: Timestamp },
    /// Until these nodes have answered. Those that have are in the other set.
    Asking { slot: u64, until: Timestamp, waiting: BTreeSet<NodeName>, answered: BTreeSet<NodeName> },
    /// Until these shards are durably owned here. The words are for the operator.
    Writing { until: Timestamp, shards: BTreeSet<ShardId>, done: String },
}

/// What is known of a shard by those who have answered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    /// Under which it is sealed here, or owned in a copy.
    epoch: Epoch,
    /// The highest anybody has told.
    seen: Epoch,
    /// A higher one than `epoch`.
    newer: Option<Newer>,
    /// Who is just accepting it.
    accepting: Option<NodeName>,
}

/// Somebody has a shard, had it or may get it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Newer {
    epoch: Epoch,
    /// Whose it is under this one, where that was told.
    owner: Option<NodeName>,
    /// Who has told.
    by: NodeName,
}

impl fmt::Display for Newer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Some(owner) => write!(f, "(epoch {}, {owner})", self.epoch.0),
            None => write!(f, "(epoch {}, as {} says)", self.epoch.0, self.by),
        }
    }
}

impl Asked {
    fn new(epoch: Epoch) -> Self {
        Self { epoch, seen: epoch, newer: None, accepting: None }
    }

    /// A node has told. `dead`: that it was the owner is no reason to leave a shard to it, if it is lost either way.
    fn hear(&mut self, by: &NodeName, standing: Standing, dead: Option<&NodeName>) {
        let heard = standing.heard.filter(|(epoch, owner)| {
            self.seen = self.seen.max(*epoch);
            Some(owner) != dead || epoch.0 > EPOCH_MAX
        });
        self.seen = self.seen.max(standing.held);
        // Owners have heard of themselves. What only is or was in a store may be on its way to another.
        let heard = heard.map(|(epoch, owner)| (epoch, Some(owner)));
        for (epoch, owner) in heard.into_iter().chain([(standing.held, None)]) {
            let highest = self.newer.as_ref().map_or(self.epoch, |newer| newer.epoch);
            if highest < epoch {
                self.newer = Some(Newer { epoch, owner, by: by.clone() });
            }
        }
        if standing.is_accepting {
            self.accepting = Some(by.clone());
        }
    }

    /// Above all that was seen, and above what the destroyed node may have accepted without telling anybody.
    fn next(&self) -> Epoch {
        Epoch(self.seen.0.max(self.epoch.0 + 1) + 1)
    }
}

impl Coordinator {
    /// Owns the shards again that are sealed here for a node whose disk is gone.
    pub(super) fn reopen(&mut self, asker: Asker, dead: NodeName) {
        let (heir, shards) = self.lost_with(&dead);
        if shards.is_empty() {
            let here = &self.config.name;
            return asker.tell(CommandAnswer::Refused(format!(
                "no shard of {here} is on its way to {dead}; ask each node that `status` shows with shards that are going"
            )));
        }
        self.inquire(asker, (dead, heir), Purpose::Reopen, shards);
    }

    /// Says which of these shards of a destroyed node are newer elsewhere than in a copy of its disk.
    pub(super) fn bury(&mut self, asker: Asker, dead: NodeName, stores: &[String], shards: &[HeldShard]) {
        let count = self.shared.layout.count();
        let are_sound = shards.len() <= count as usize
            && shards.iter().all(|held| held.shard < count && held.epoch <= EPOCH_MAX);
        if !are_sound {
            return asker.tell(CommandAnswer::Refused("it asks for shards that cannot be".into()));
        }
        if !self.membership().known().is_store_of(&dead, &uuids(stores)) {
            return asker.tell(CommandAnswer::Refused(format!(
                "neither store UUID of the copy is or was that of {dead}: say by --name whose copy it is"
            )));
        }
        let shards = shards.iter().map(|held| (ShardId(held.shard), Epoch(held.epoch))).collect();
        self.inquire(asker, (dead, None), Purpose::Tell, shards);
    }

    fn inquire(
        &mut self,
        asker: Asker,
        (dead, heir): (NodeName, Option<u128>),
        purpose: Purpose,
        shards: BTreeMap<ShardId, Epoch>,
    ) {
        if let Err(why) = self.may_inquire(&dead, heir) {
            return asker.tell(CommandAnswer::Refused(why));
        }
        if purpose == Purpose::Reopen {
            self.step_mover(MoverEvent::Hold(shards.keys().copied().collect()));
        }
        let shards = shards.into_iter().map(|(shard, epoch)| (shard, Asked::new(epoch))).collect();
        let now = self.now();
        let stage = Stage::Forgetting { until: now + ANSWERED_WITHIN };
        self.inquiry = Some(Inquiry { asker, dead: dead.clone(), heir, purpose, stage, shards });
        if self.membership().known().store_of(&dead) == heir {
            // Forgotten already, as whoever repeats a command finds it; or that is on its way to the disk.
            if !self.forgetting.contains_key(&dead) {
                self.ask_others();
            }
            return;
        }
        let actions = self.membership().step(MembershipEvent::Forget(dead.clone()), now);
        let refused = actions.iter().find_map(|action| match action {
            MembershipAction::Refused(refusal) => Some(refusal.to_string()),
            _ => None,
        });
        match refused {
            Some(why) => self.give_up_inquiry(why),
            None => drop(self.forgetting.entry(dead).or_default()),
        }
        for action in actions {
            self.perform(action);
        }
    }

    /// Whether the others can be asked at all: found out before anything is changed.
    fn may_inquire(&self, dead: &NodeName, heir: Option<u128>) -> Result<(), String> {
        if let Some(running) = &self.inquiry {
            return Err(format!(
                "the same is asked of {} already: try again when that is done",
                running.dead
            ));
        }
        if *dead == self.config.name {
            return Err(format!("{dead} is not destroyed, it answers"));
        }
        let (is_known, was_forgotten) = {
            let membership = self.membership();
            let known = membership.known();
            (known.is_bound(dead), known.was_forgotten(dead))
        };
        if !is_known && !was_forgotten {
            return Err(format!("no node {dead} is known: ask for the `status` to see the names"));
        }
        let away: Vec<NodeName> =
            self.others(dead, heir).into_iter().filter(|name| !self.connected.contains_key(name)).collect();
        if away.is_empty() { Ok(()) } else { Err(not_answered(&away)) }
    }

    /// Every other known node, alive or not, here or gone: each may have what the destroyed one had (P18).
    fn others(&self, dead: &NodeName, heir: Option<u128>) -> BTreeSet<NodeName> {
        let membership = self.membership();
        let names = membership.known().names();
        let is_other = |name: &&NodeName| **name != self.config.name && (*name != dead || heir.is_some());
        names.filter(is_other).cloned().collect()
    }

    /// It is durable here that a store is not let in again.
    pub(super) fn has_forgotten(&mut self, name: &NodeName) {
        let waits =
            |inquiry: &Inquiry| inquiry.dead == *name && matches!(inquiry.stage, Stage::Forgetting { .. });
        if self.inquiry.as_ref().is_some_and(waits) {
            self.ask_others();
        }
    }

    fn ask_others(&mut self) {
        let Some(mut inquiry) = self.inquiry.take() else { return };
        let waiting = self.others(&inquiry.dead, inquiry.heir);
        self.tickets += 1;
        let slot = self.tickets;
        let shards: Vec<AskedShard> = inquiry.shards.keys().map(|shard| AskedShard(*shard)).collect();
        // One that was forgotten before, or elsewhere, may be connected to some of them still.
        let forgotten: Vec<_> = {
            let membership = self.membership();
            let stores = membership.known().forgotten_of(&inquiry.dead);
            stores.map(|store| (store, inquiry.dead.clone())).collect()
        };
        let forgotten = Exchange::Entries { entries: Vec::new(), forgotten, answer: false };
        for name in &waiting {
            // One that is not reached does not answer.
            if let Some(connected) = self.connected.get(name) {
                let bytes: Bytes = forgotten.encode().into();
                let len = bytes.len();
                let _ = connected.outbound.frame(Frame::Members(bytes), len);
                let frame = Frame::AskEpochs { slot, shards: shards.clone() };
                let _ = connected.outbound.frame(frame, shards.len() * size_of::<ShardId>());
            }
        }
        let until = self.now() + ANSWERED_WITHIN;
        inquiry.stage = Stage::Asking { slot, until, waiting, answered: BTreeSet::new() };
        // Of a shard that is sealed here this node knows the epoch; of others it is one of those who are asked.
        let here = self.config.name.clone();
        for (shard, asked) in &mut inquiry.shards {
            let mut standing = self.holdings.standing(*shard);
            if inquiry.purpose == Purpose::Reopen {
                standing.held = asked.epoch;
            }
            asked.hear(&here, standing, inquiry.purpose.excuses(&inquiry.dead));
        }
        self.inquiry = Some(inquiry);
        self.conclude();
    }

    /// Another node asks.
    pub(super) fn tell_epochs(&self, outbound: &Arc<Outbound>, slot: u64, shards: &[AskedShard]) {
        let count = self.shared.layout.count();
        let are_sound = shards.is_sorted_by(|one, next| one.0 < next.0)
            && shards.last().is_none_or(|last| last.0.0 < count);
        if !are_sound {
            let why = "it asks for shards that cannot be".to_owned();
            return outbound.link().close(CloseReason::Violation(why));
        }
        let known = |AskedShard(shard): &AskedShard| {
            let Standing { held, heard, is_accepting } = self.holdings.standing(*shard);
            let heard = heard.map(|(epoch, owner)| Route { shard: *shard, epoch, owner });
            KnownEpoch { shard: *shard, held, heard, is_accepting }
        };
        let epochs: Vec<KnownEpoch> = shards.iter().map(known).collect();
        let len = epochs.len() * EPOCH_BYTES;
        // Lost, the other end hears nothing, and says so.
        let _ = outbound.frame(Frame::Epochs { slot, epochs }, len);
    }

    /// Another node answers.
    pub(super) fn hear_epochs(&mut self, from: &NodeName, answer: u64, epochs: Vec<KnownEpoch>) {
        let Some(Inquiry {
            dead, purpose, stage: Stage::Asking { slot, waiting, answered, .. }, shards, ..
        }) = &mut self.inquiry
        else {
            return;
        };
        let are_of_those = epochs.len() == shards.len()
            && epochs.iter().zip(shards.keys()).all(|(known, asked)| known.shard == *asked);
        // What is late, or of nobody who was asked; and an answer to something else is none.
        if answer != *slot || !are_of_those || !waiting.remove(from) {
            return;
        }
        answered.insert(from.clone());
        for (known, asked) in epochs.into_iter().zip(shards.values_mut()) {
            let heard = known.heard.map(|route| (route.epoch, route.owner));
            let standing = Standing { held: known.held, heard, is_accepting: known.is_accepting };
            asked.hear(from, standing, purpose.excuses(dead));
        }
        self.conclude();
    }

    /// Time has passed.
    pub(super) fn watch_inquiry(&mut self) {
        let now = self.now();
        let Some(Inquiry { stage, dead, heir, .. }) = &self.inquiry else { return };
        let why = match stage {
            Stage::Forgetting { until } if *until <= now => format!(
                "{} has not yet written down that {dead} is forgotten: see whether its disk is full, and give the command \
                 again",
                self.config.name
            ),
            Stage::Asking { until, waiting, .. } if *until <= now => {
                let silent: Vec<NodeName> = waiting.iter().cloned().collect();
                format!("{}{}", not_answered(&silent), forgotten_already(dead, *heir))
            }
            // What is on its way to the disk is not taken back, but others may be asked about something else.
            Stage::Writing { until, shards, .. } if *until <= now => format!(
                "{} has not yet written down that it owns {} again that were on their way to {dead}: see whether its disk is \
                 full. They are served as soon as it has; give the command again to hear of that",
                self.config.name,
                shards_in_words(shards.len())
            ),
            Stage::Forgetting { .. } | Stage::Asking { .. } | Stage::Writing { .. } => return,
        };
        self.give_up_inquiry(why);
    }

    fn give_up_inquiry(&mut self, why: String) {
        let Some(Inquiry { asker, purpose, shards, .. }) = self.inquiry.take() else { return };
        if purpose == Purpose::Reopen {
            self.step_mover(MoverEvent::Release(shards.into_keys().collect()));
        }
        asker.tell(CommandAnswer::Refused(why));
    }

    /// Acts, once everybody has answered.
    fn conclude(&mut self) {
        let Some(Inquiry {
            dead, heir, purpose, stage: Stage::Asking { waiting, answered, .. }, shards, ..
        }) = &self.inquiry
        else {
            return;
        };
        if !waiting.is_empty() {
            return;
        }
        let unasked: Vec<NodeName> = self.others(dead, *heir).difference(answered).cloned().collect();
        if !unasked.is_empty() {
            let why = format!("{}{}", not_answered(&unasked), forgotten_already(dead, *heir));
            return self.give_up_inquiry(why);
        }
        if self.membership().known().store_of(dead) != *heir {
            let why = format!("another store is called {dead} by now: give the command again");
            return self.give_up_inquiry(why);
        }
        let accepting = shards.iter().find_map(|(shard, asked)| Some((shard, asked.accepting.as_ref()?)));
        if let Some((shard, node)) = accepting {
            let why = format!("{node} is just accepting {shard}: give the command again");
            return self.give_up_inquiry(why);
        }
        match purpose {
            Purpose::Reopen => self.reopen_asked(),
            Purpose::Tell => {
                let newer = shards.iter().filter_map(|(shard, asked)| {
                    // What only may be is not told of as what is: the copy's node would pass it on.
                    let (epoch, node) = match asked.newer.clone()? {
                        Newer { epoch, owner: Some(owner), .. } => (epoch.0, owner),
                        Newer { by, .. } => (asked.epoch.0 + 1, by),
                    };
                    Some(HeldShard { shard: shard.0, epoch, node: Some(node) })
                });
                let newer = newer.collect();
                let inquiry = self.inquiry.take().expect("just seen");
                inquiry.asker.tell(CommandAnswer::Newer(newer));
            }
        }
    }

    fn reopen_asked(&mut self) {
        let Some(mut inquiry) = self.inquiry.take() else { return };
        let (mut newer, mut again) = (Vec::new(), 0);
        let mut orders = BTreeMap::new();
        let still: BTreeMap<_, _> =
            self.holdings.sealed().map(|sealed| (sealed.shard, sealed.epoch)).collect();
        for (shard, asked) in &inquiry.shards {
            let owner = self.holdings.routes().get(*shard).map(|(_, owner)| owner);
            match &asked.newer {
                // What an earlier command has ordered was written meanwhile.
                _ if owner == Some(&self.config.name) => again += 1,
                Some(known) => newer.push(format!("{shard} {known}")),
                // It was found accepted meanwhile.
                None if still.get(shard) != Some(&asked.epoch) => {}
                None => {
                    orders.insert(*shard, asked.next());
                }
            }
        }
        let left: Vec<ShardId> =
            inquiry.shards.keys().filter(|shard| !orders.contains_key(shard)).copied().collect();
        self.step_mover(MoverEvent::Release(left));
        let elsewhere = newer.join(", ");
        let (here, dead) = (&self.config.name, &inquiry.dead);
        if orders.is_empty() {
            let why = if 0 < again {
                format!("{here} owns {} again already, from an earlier command", shards_in_words(again))
            } else if elsewhere.is_empty() {
                format!("what was on its way to {dead} has been accepted")
            } else {
                format!("what was on its way to {dead} is known under a higher epoch: {elsewhere}")
            };
            return inquiry.asker.tell(CommandAnswer::Refused(format!("no shard is opened again: {why}")));
        }
        let mut done = format!(
            "{here} owns {} that were on their way to {dead} again. What {dead} had accepted for them, and acknowledged, is \
             lost if nobody else has it. The store it was sealed for is never let in again",
            shards_in_words(orders.len())
        );
        if !elsewhere.is_empty() {
            done =
                format!("{done}. Left as they are, for others know them under a higher epoch: {elsewhere}");
        }
        let until = self.now() + ANSWERED_WITHIN;
        inquiry.stage = Stage::Writing { until, shards: orders.keys().copied().collect(), done };
        self.inquiry = Some(inquiry);
        for (shard, epoch) in orders {
            self.step_mover(MoverEvent::Reopen { shard, epoch });
        }
    }

    /// A shard is durably owned here again.
    pub(in crate::cluster) fn reopened(&mut self, shard: ShardId) {
        tracing::warn!(%shard, "opened again, after the loss of the disk it was on its way to");
        let Some(Inquiry { stage: Stage::Writing { shards, .. }, .. }) = &mut self.inquiry else { return };
        shards.remove(&shard);
        if shards.is_empty()
            && let Some(Inquiry { asker, stage: Stage::Writing { done, .. }, .. }) = self.inquiry.take()
        {
            asker.tell(CommandAnswer::Done(done));
        }
    }
}

impl Purpose {
    /// Whose ownership under a higher epoch is no reason against it. A shard that was on its way to the destroyed node may have
    /// been accepted there: that is what is lost. A copy that is older than what its own node had is left aside.
    fn excuses(self, dead: &NodeName) -> Option<&NodeName> {
        match self {
            Self::Reopen => Some(dead),
            Self::Tell => None,
        }
    }
}

/// What is no UUID is that of no store.
fn uuids(stores: &[String]) -> Vec<u128> {
    stores.iter().filter_map(|store| u128::from_str_radix(store, 16).ok()).collect()
}

fn shards_in_words(count: usize) -> String {
    if count == 1 { "1 shard".into() } else { format!("{count} shards") }
}

/// What has been done already for whoever is refused after all.
fn forgotten_already(dead: &NodeName, heir: Option<u128>) -> String {
    if heir.is_some() { String::new() } else { format!("; {dead} is forgotten already") }
}

/// Who must answer and does not, and how to go on.
fn not_answered(away: &[NodeName]) -> String {
    let names = away.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ");
    format!(
        "every other known node must say that it holds no higher epoch, and {names} did not answer. Start what can be \
         started, `forget` what is gone for good (one that has left, too), and give the command again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn heard(by: &str, held: u64, heard: Option<(u64, &str)>, excused: Option<&str>) -> Asked {
        let mut asked = Asked::new(Epoch(4));
        let heard = heard.map(|(epoch, owner)| (Epoch(epoch), node(owner)));
        let excused = excused.map(node);
        let standing = Standing { held: Epoch(held), heard, is_accepting: false };
        asked.hear(&node(by), standing, excused.as_ref());
        asked
    }

    #[test]
    fn an_epoch_is_above_all_that_was_seen_and_above_what_the_destroyed_node_may_have_had() {
        assert_eq!(heard("b", 1, None, Some("c")).next(), Epoch(6));
        assert_eq!(heard("b", 4, Some((4, "a")), Some("c")).next(), Epoch(6));
        let accepted = heard("b", 1, Some((5, "c")), Some("c"));
        assert_eq!((accepted.newer.clone(), accepted.next()), (None, Epoch(6)));
        assert_eq!(heard("b", 1, Some((9, "c")), Some("c")).next(), Epoch(10));
    }

    #[test]
    fn whoever_holds_a_higher_epoch_or_has_heard_of_another_owner_keeps_a_shard() {
        let newer = |asked: Asked| asked.newer.map_or_else(String::new, |newer| newer.to_string());
        assert_eq!(newer(heard("b", 5, None, Some("c"))), "(epoch 5, as b says)");
        assert_eq!(newer(heard("b", 1, Some((6, "d")), Some("c"))), "(epoch 6, d)");
        assert_eq!(newer(heard("b", 5, Some((6, "d")), Some("c"))), "(epoch 6, d)");
        // It has given it away.
        assert_eq!(newer(heard("b", 6, Some((6, "d")), Some("c"))), "(epoch 6, d)");
        assert_eq!(newer(heard("b", 7, Some((6, "d")), Some("c"))), "(epoch 7, as b says)");
        assert_eq!(newer(heard("b", 4, Some((4, "d")), Some("c"))), "");
        // In the copy of a disk that was newer itself there is the past.
        assert_eq!(newer(heard("b", 1, Some((5, "c")), None)), "(epoch 5, c)");
        // An epoch that no honest node tells gives no room for another.
        let highest = heard("b", 1, Some((u64::MAX, "c")), Some("c")).newer.unwrap();
        assert_eq!(highest.epoch, Epoch(u64::MAX));
    }

    #[test]
    fn a_shard_that_somebody_is_accepting_is_known_to_be_whoever_else_answers() {
        let mut asked = heard("b", 1, None, None);
        let standing = |is_accepting| Standing { held: Epoch(1), heard: None, is_accepting };
        assert_eq!(asked.accepting, None);
        asked.hear(&node("d"), standing(true), None);
        asked.hear(&node("e"), standing(false), None);
        assert_eq!(asked.accepting, Some(node("d")));
    }
}
