//! The membership of one node, driven by events.

use super::{
    MembershipAction, MembershipCounters, MembershipEvent, MembershipSettings, NodeInView, NodeState,
    SEEDS_MAX, View,
    entry::{EntryError, NodeEntry, REV_MAX, WEIGHT_MAX},
    exchange::Exchange,
    hello::IdentityRefusal,
    keeping::Keeping,
    known::Known,
    liveness::{Liveness, Outgoing},
};
use crate::{placement::NodeName, timestamp::Timestamp};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// How many nodes a lonely one asks at once.
const ANNOUNCES: usize = 3;
/// Most refusals told between two comparisons; the rest is counted, and told when it is heard again.
const TELLS_MAX: u32 = 8;
/// Most refusals that are remembered as told. Beyond these all are told anew.
const TOLD_MAX: usize = 256;

/// The membership of one node. The [module](super) tells the whole of it.
///
/// # Invariants
/// * The own entry is known, and is what foca says of this node.
/// * The view shows a node only under a store and up to a boot counter that are durable here.
pub struct Membership {
    pub(super) settings: MembershipSettings,
    pub(super) own: Arc<NodeEntry>,
    pub(super) known: Known,
    pub(super) liveness: Liveness,
    pub(super) keeping: Keeping,
    pub(super) links: BTreeMap<NodeName, Link>,
    view: Arc<View>,
    /// Whether the view may have changed.
    pub(super) is_touched: bool,
    /// The highest revision that others have claimed for this node.
    pub(super) outbid: Option<u64>,
    /// Whom nobody needs to be told of again.
    told: BTreeSet<IdentityRefusal>,
    /// How many more may be told before the next comparison.
    tells_left: u32,
    pub(super) counters: MembershipCounters,
    seeds: Vec<String>,
    random: Xoshiro256PlusPlus,
    next_announce: Timestamp,
    next_compare: Timestamp,
    next_dial: Timestamp,
    pub(super) actions: Vec<MembershipAction>,
}

/// A node that frames can be sent to.
#[derive(Debug)]
pub(super) struct Link {
    /// Boot counter of the hello of this connection.
    boot: u64,
    /// The highest boot counter that the node itself has told.
    pub(super) word: u64,
}

/// Why a membership cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The node's own entry.
    #[error("this node cannot be described: {0}")]
    Entry(#[from] EntryError),
    /// The node's own store remembers it differently.
    #[error(transparent)]
    Identity(#[from] IdentityRefusal),
    /// A period of zero, or a probe without time.
    #[error("every period is at least 1 ms, and the probe's time-out is shorter than its period")]
    Settings,
}

impl Membership {
    /// The membership of the node whose entry is `own`, with what it knew before it was restarted. All its chance comes
    /// from the seed.
    ///
    /// # Errors
    /// The settings or the entry are out of bounds; or what was kept says that this store has another name, was
    /// forgotten, or is an older copy.
    pub fn new(
        settings: MembershipSettings,
        own: NodeEntry,
        mut known: Known,
        seed: u64,
        now: Timestamp,
    ) -> Result<Self, MembershipError> {
        if !settings.are_sound() {
            return Err(MembershipError::Settings);
        }
        own.check()?;
        if let Some(before) = known.bound(&own.name, own.store)?.filter(|before| own.boot < before.boot) {
            let (name, highest) = (own.name.clone(), before.boot);
            return Err(IdentityRefusal::OlderBoot { name, seen: highest, now: own.boot }.into());
        }
        let own = Arc::new(own);
        let mut keeping = Keeping::new(&known);
        keeping.note(known.learn(Arc::clone(&own)), now, settings.keep_period);
        let mut membership = Self {
            liveness: Liveness::new(Arc::clone(&own), &settings, seed, now),
            // Another sequence than foca's, of the same seed.
            random: Xoshiro256PlusPlus::seed_from_u64(!seed),
            settings,
            own,
            known,
            keeping,
            links: BTreeMap::new(),
            view: Arc::default(),
            is_touched: true,
            outbid: None,
            told: BTreeSet::new(),
            tells_left: TELLS_MAX,
            counters: MembershipCounters::default(),
            seeds: Vec::new(),
            next_announce: now,
            next_compare: now,
            next_dial: now,
            actions: Vec::new(),
        };
        membership.publish();
        // The first tick dials everybody.
        membership.actions.clear();
        Ok(membership)
    }

    /// What this node says of itself.
    pub fn own(&self) -> &NodeEntry {
        &self.own
    }

    /// The members, as this node sees them.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// What a node at the door is held against by [`judge_hello`](super::judge_hello).
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// What was counted so far.
    pub fn counters(&self) -> MembershipCounters {
        MembershipCounters { liveness_errors: self.liveness.errors(), ..self.counters }
    }

    /// Takes one event and says what is to be done, in this order.
    pub fn step(&mut self, event: MembershipEvent, now: Timestamp) -> Vec<MembershipAction> {
        match event {
            MembershipEvent::Hello { ticket, hello } => self.greet(ticket, hello, now),
            MembershipEvent::Connected { name, boot } => self.connect(name, boot, now),
            MembershipEvent::Disconnected { name, boot } => {
                // The end of an earlier run's connection says nothing about the present one.
                if self.links.get(&name).is_some_and(|link| link.boot == boot) {
                    self.links.remove(&name);
                }
            }
            MembershipEvent::Packet { from, bytes } => self.hear_packet(&from, &bytes, now),
            MembershipEvent::Exchange { from, exchange } => self.hear_exchange(&from, exchange, now),
            MembershipEvent::Position { name, store, position } => {
                let learned = self.known.advance(&name, store, position);
                self.keeping.note(learned, now, self.settings.keep_period);
            }
            MembershipEvent::Join { seeds } => {
                self.seeds = seeds.into_iter().take(SEEDS_MAX).collect();
                self.dial();
            }
            MembershipEvent::Leave => self.leave(now),
            MembershipEvent::Drained => self.drained(now),
            MembershipEvent::SetWeight(weight) if (1..=WEIGHT_MAX).contains(&weight) => {
                self.revise(now, |own| own.weight = weight);
            }
            MembershipEvent::SetWeight(weight) => {
                self.actions.push(MembershipAction::Refused(IdentityRefusal::Weight(weight)));
            }
            MembershipEvent::Forget(name) => self.forget(name, now),
            MembershipEvent::Kept(number) => self.kept(number),
            MembershipEvent::Tick => self.tick(now),
        }
        self.settle(now);
        std::mem::take(&mut self.actions)
    }

    /// A node can be sent to.
    fn connect(&mut self, name: NodeName, boot: u64, now: Timestamp) {
        if self.known.get(&name).is_none() || name == self.own.name {
            return;
        }
        self.links.insert(name.clone(), Link { boot, word: boot });
        self.announce_to(&name, now);
        self.compare_with(name);
    }

    /// Asks a node for all it knows to be alive, and shows it this node's entry.
    fn announce_to(&mut self, name: &NodeName, now: Timestamp) {
        let Some(node) = self.known.get(name) else { return };
        // Before its first packet nothing of its entry is known; only the store counts for who it is.
        let to = node.entry.clone().unwrap_or_else(|| {
            let (store, boot, address, build) = (node.store, node.boot, name.to_string(), String::new());
            let (state, weight) = (NodeState::Up, 1);
            Arc::new(NodeEntry { name: name.clone(), store, boot, rev: 0, address, state, weight, build })
        });
        let sends = self.liveness.announce(to, now);
        self.send(sends);
    }

    fn compare_with(&mut self, to: NodeName) {
        let exchange = Exchange::Digest(self.known.digest());
        self.actions.push(MembershipAction::SendExchange { to, exchange });
    }

    /// Says something else of this node, to everybody who can be sent to.
    pub(super) fn revise(&mut self, now: Timestamp, change: impl FnOnce(&mut NodeEntry)) {
        let revised = self.own.revised(change);
        let sends = self.liveness.change(revised.clone(), now);
        self.send(sends);
        self.tell_all(&Exchange::Entries { entries: vec![revised], forgotten: Vec::new(), answer: false });
    }

    pub(super) fn tell_all(&mut self, exchange: &Exchange) {
        for to in self.links.keys() {
            let exchange = exchange.clone();
            self.actions.push(MembershipAction::SendExchange { to: to.clone(), exchange });
        }
    }

    fn leave(&mut self, now: Timestamp) {
        if self.own.state == NodeState::Up {
            self.revise(now, |own| own.state = NodeState::Leaving);
        }
    }

    fn drained(&mut self, now: Timestamp) {
        if self.own.state != NodeState::Left {
            self.revise(now, |own| own.state = NodeState::Left);
            let sends = self.liveness.leave(now);
            self.send(sends);
        }
    }

    fn tick(&mut self, now: Timestamp) {
        let sends = self.liveness.tick(now);
        self.send(sends);
        if self.next_announce <= now {
            self.next_announce = now + self.settings.announce_period;
            self.announce(now);
        }
        if self.next_compare <= now {
            self.next_compare = now + self.settings.compare_period;
            self.tells_left = TELLS_MAX;
            if let Some(to) = self.any_link() {
                self.compare_with(to);
            }
            if let Some(rev) = self.outbid.take().filter(|rev| (self.own.rev..REV_MAX).contains(rev)) {
                self.revise(now, |own| own.rev = rev + 1);
            }
        }
        if self.next_dial <= now {
            self.next_dial = now + self.settings.dial_period;
            self.dial();
        }
    }

    /// Asks until somebody is known to be alive: the first question may be lost.
    fn announce(&mut self, now: Timestamp) {
        if !self.liveness.is_alone() || self.own.state == NodeState::Left {
            return;
        }
        for _ in 0..ANNOUNCES.min(self.links.len()) {
            if let Some(name) = self.any_link() {
                self.announce_to(&name, now);
            }
        }
    }

    fn any_link(&mut self) -> Option<NodeName> {
        let count = self.links.len();
        if count == 0 {
            return None;
        }
        self.links.keys().nth(self.random.random_range(0..count)).cloned()
    }

    /// Asks for the connections that are missing.
    fn dial(&mut self) {
        let missing = self.view.nodes.iter().filter(|(name, node)| self.is_missing(name, node));
        let dials: Vec<_> = missing.map(|(name, node)| dial(name, node)).collect();
        self.actions.extend(dials);
        if self.links.is_empty() {
            for address in self.seeds.iter().filter(|address| **address != self.own.address) {
                self.actions.push(MembershipAction::Dial { name: None, address: address.clone() });
            }
        }
    }

    fn is_missing(&self, name: &NodeName, node: &NodeInView) -> bool {
        *name != self.own.name && node.entry.state != NodeState::Left && !self.links.contains_key(name)
    }

    /// Passes foca's packets on, to who is there under the store they are for.
    pub(super) fn send(&mut self, sends: Vec<Outgoing>) {
        for (to, bytes) in sends {
            let is_bound = self.known.get(&to.0.name).is_some_and(|node| node.store == to.0.store);
            if is_bound && self.links.contains_key(&to.0.name) {
                self.actions.push(MembershipAction::Send { to: to.0.name.clone(), bytes });
            }
        }
    }

    /// Tells a refusal that others repeat: once, and never more than a log can take.
    pub(super) fn tell(&mut self, refusal: IdentityRefusal) {
        self.counters.entries_refused += 1;
        if self.tells_left == 0 || self.told.contains(&refusal) {
            return;
        }
        self.tells_left -= 1;
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(refusal.clone());
        self.actions.push(MembershipAction::Refused(refusal));
    }

    /// Brings what follows from the event up to date.
    fn settle(&mut self, now: Timestamp) {
        if *self.liveness.own() != self.own {
            self.own = Arc::clone(self.liveness.own());
            let learned = self.known.learn(Arc::clone(&self.own));
            self.keeping.note(learned, now, self.settings.keep_period);
            self.is_touched = true;
        }
        self.is_touched |= self.liveness.take_changed();
        if std::mem::take(&mut self.is_touched) {
            self.publish();
        }
        if let Some((number, bytes)) = self.keeping.next(&self.known, now) {
            self.actions.push(MembershipAction::Keep { number, bytes });
        }
    }

    /// Makes the view anew.
    fn publish(&mut self) {
        let mut nodes = BTreeMap::new();
        for entry in self.known.entries() {
            let is_own = entry.name == self.own.name;
            let entry = if is_own || self.keeping.is_durable(&entry.name, entry.store, entry.boot) {
                entry
            } else {
                // Its next run is not durable here yet: it stays what it was.
                match self.view.nodes.get(&entry.name).filter(|before| before.entry.store == entry.store) {
                    Some(before) => &before.entry,
                    None => continue,
                }
            };
            let is_alive = is_own || (self.liveness.is_alive(entry.store) && entry.state != NodeState::Left);
            nodes.insert(entry.name.clone(), NodeInView { entry: Arc::clone(entry), is_alive });
        }
        if nodes != self.view.nodes {
            let new = nodes
                .iter()
                .filter(|(name, node)| !self.view.nodes.contains_key(*name) && self.is_missing(name, node));
            let dials: Vec<_> = new.map(|(name, node)| dial(name, node)).collect();
            self.view = Arc::new(View { number: self.view.number + 1, nodes });
            self.actions.push(MembershipAction::ViewChanged);
            self.actions.extend(dials);
        }
    }
}

fn dial(name: &NodeName, node: &NodeInView) -> MembershipAction {
    MembershipAction::Dial { name: Some(name.clone()), address: node.entry.address.clone() }
}
