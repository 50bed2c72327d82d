//! Which shards of this node are to be handed off, to whom, and when (P21).
//!
//! Only the owner of a shard starts its hand-off, so two nodes cannot disagree about who moves it. What they can disagree
//! about is where it belongs: views are gossip, they differ, flap and arrive late. Four rules keep a shard from going to and
//! fro over that:
//!
//! * its table must have named the *same other node* for a while, so a view that flaps starts nothing;
//! * the target's READY must carry the digest of the *same table*, so nodes whose views differ move nothing between them;
//! * a shard that has moved *rests*, so that, whatever the views do, it moves once in that time at the most;
//! * a few at a time, for each node and each target, so that a join takes from the work little by little.
//!
//! ```text
//!                    step: Offer              READY: Proceed           sealed
//!   ┌────────► Still ────────────► Offered ────────────────► Copying ────────────► Sealed
//!   │                                 │                         │                    │
//!   ├─────────────────────────────────┴─────────────────────────┤                    │ ended: Moved
//!   │   the wish changed, the target is not ready or silent,    │                    ▼
//!   │   the hand-off failed                                     │             no longer owned
//!   └───────────────────────────────────────────────────────────┘
//! ```
//!
//! # Invariants
//! * At most `running_max` shards are not still, and of those at most `running_per_target_max` have one target. Only hand-offs
//!   found sealed at a start may exceed that; nothing is offered until there are fewer.
//! * A sealed shard is never withdrawn: there is no way back without its target (P18).
//! * Every answer carries shard and epoch, and one that does not match is dropped (P12).
//!
//! # What it is not
//! Safety. Two owners are made impossible by the stores' records (P17), whatever is offered here. Nor is it the hand-off
//! itself, its connections and its time-outs after READY. A node that was stopped for longer than a wish must last will think it
//! has lasted; its READY then fails on the digest if the view has changed meanwhile.

#[cfg(test)]
mod tests;

use crate::{
    placement::{Epoch, NodeName, ShardId, Table},
    timestamp::Timestamp,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How fast shards move. [`Settings::default`] suits a cluster whose nodes join and leave now and then.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// How long the table must have named the same other node: 1 s. As long as gossip takes to reach everyone, or most offers
    /// meet a node with another view.
    pub stable_for: Duration,
    /// How long a shard stays after it has moved: 30 s. Not on a node that leaves.
    pub rest: Duration,
    /// Most hand-offs of this node at a time: 12. Further shards wait.
    pub running_max: usize,
    /// Most hand-offs from this node to one target at a time: 12. Shards for other targets go first.
    pub running_per_target_max: usize,
    /// How long a target may take to answer an offer: 3 s. Then the offer is withdrawn and the target counts as failed.
    pub answer_within: Duration,
    /// Pause of a target that is busy with the shards of others: 250 ms.
    pub busy_pause: Duration,
    /// Pause of a target that refused or was silent, and of a shard whose hand-off failed: 1 s. It doubles each time.
    pub back_off: Duration,
    /// Where it stops doubling: 30 s.
    pub back_off_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stable_for: Duration::from_secs(1),
            rest: Duration::from_secs(30),
            running_max: 12,
            running_per_target_max: 12,
            answer_within: Duration::from_secs(3),
            busy_pause: Duration::from_millis(250),
            back_off: Duration::from_secs(1),
            back_off_max: Duration::from_secs(30),
        }
    }
}

/// A shard that the owner would hand off: the target is to be asked whether it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The shard.
    pub shard: ShardId,
    /// Under which this node owns it; the answer repeats it.
    pub epoch: Epoch,
    /// Who is to have it.
    pub to: NodeName,
}

/// What is to be done after some time has passed or something has been heard.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[must_use]
pub struct Steps {
    /// To be sent, each to its target.
    pub offers: Vec<Offer>,
    /// Offers that no longer hold. The target forgets what it has copied. Nobody answers that.
    pub withdrawn: Vec<Offer>,
}

/// What a target says to an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// As in the offer.
    pub shard: ShardId,
    /// As in the offer.
    pub epoch: Epoch,
    /// Who says so.
    pub from: NodeName,
    /// Of the target's own table.
    pub digest: u64,
    /// What else it says.
    pub answer: Answer,
}

/// Whether a target can take a shard, apart from whether it agrees that it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has the kinds, the versions and the room.
    Accepts,
    /// It takes as many shards as it can from others: it is asked again soon.
    Busy,
    /// It cannot: it leaves, or lacks a kind, a version or room. It is asked again ever more rarely.
    Refuses,
}

/// What a READY means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum ReadyVerdict {
    /// The shard is to be copied.
    Proceed,
    /// The target is not ready, or the shard is no longer meant for it: the offer does not hold.
    Withdraw,
    /// Nothing like that is offered: nothing is to be done. Not a fault, the offer was withdrawn before the answer came, or this
    /// is a repeat.
    Late,
}

/// How a hand-off ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The target owns the shard.
    Moved,
    /// The shard is still here: the connection broke before the seal, or the target has refused for good.
    Failed,
}

/// Decides for one node.
#[derive(Debug)]
pub struct Rebalance {
    here: NodeName,
    settings: Settings,
    table: Option<Arc<Table>>,
    leaving: bool,
    /// All shards of this node.
    shards: BTreeMap<ShardId, Owned>,
    /// Members of the table that were not ready when asked.
    targets: BTreeMap<NodeName, BackOff>,
}

/// A shard of this node.
#[derive(Debug)]
struct Owned {
    epoch: Epoch,
    /// Before then it stays, unless this node leaves.
    rests_until: Timestamp,
    /// The other node that the table names, and since when.
    wish: Option<(NodeName, Timestamp)>,
    stage: Stage,
    back_off: BackOff,
}

/// How far the hand-off of a shard is; see the drawing above.
#[derive(Debug, Clone)]
enum Stage {
    Still,
    Offered { to: NodeName, at: Timestamp },
    Copying { to: NodeName },
    Sealed { to: NodeName },
}

impl Stage {
    fn target(&self) -> Option<&NodeName> {
        match self {
            Self::Still => None,
            Self::Offered { to, .. } | Self::Copying { to } | Self::Sealed { to } => Some(to),
        }
    }
}

/// When to try again.
#[derive(Debug, Default)]
struct BackOff {
    until: Timestamp,
    failures: u32,
}

impl BackOff {
    /// Waits until then at least, without a failure.
    fn wait(&mut self, until: Timestamp) {
        self.until = self.until.max(until);
    }

    /// Waits longer than the time before. What fails while it waits was begun with what failed then, and counts once.
    fn fail(&mut self, now: Timestamp, settings: &Settings) {
        if now < self.until {
            return;
        }
        let pause = settings.back_off.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.until = now + pause.min(settings.back_off_max);
    }
}

impl Owned {
    fn wishes(&self, node: &NodeName) -> bool {
        self.wish.as_ref().is_some_and(|(to, _)| to == node)
    }

    /// Takes note of whom the table names.
    fn name(&mut self, named: Option<&NodeName>, now: Timestamp) {
        if self.wish.as_ref().map(|(to, _)| to) != named {
            self.wish = named.map(|to| (to.clone(), now));
        }
    }
}

impl Rebalance {
    /// For the node `here`, which owns nothing yet and knows of no table.
    pub fn new(here: NodeName, settings: Settings) -> Self {
        Self {
            here,
            settings,
            table: None,
            leaving: false,
            shards: BTreeMap::new(),
            targets: BTreeMap::new(),
        }
    }

    /// The view has changed and this is its table; `None` where it has no members, and everything stays where it is.
    pub fn table(&mut self, table: Option<Arc<Table>>, now: Timestamp) {
        self.table = table;
        let named_of = |shard| named(self.table.as_deref(), &self.here, shard);
        for (shard, owned) in &mut self.shards {
            owned.name(named_of(*shard), now);
        }
        let members = self.table.as_ref().map_or(&[][..], |table| table.members());
        self.targets.retain(|target, _| members.binary_search_by(|(name, _)| name.cmp(target)).is_ok());
    }

    /// This node owns the shard under this epoch. `came_at` is when it came here by a hand-off, [`Timestamp::EPOCH`] where it did not,
    /// or where nobody remembers.
    pub fn own(&mut self, shard: ShardId, epoch: Epoch, came_at: Timestamp, now: Timestamp) {
        let named = named(self.table.as_deref(), &self.here, shard);
        let rests_until =
            if came_at == Timestamp::EPOCH { Timestamp::EPOCH } else { came_at + self.settings.rest };
        let owned = self.shards.entry(shard).or_insert_with(|| Owned {
            epoch,
            rests_until,
            wish: None,
            stage: Stage::Still,
            back_off: BackOff::default(),
        });
        // A shard whose target refused it for good is owned anew under a higher epoch: its hand-off is over, its back-off not.
        if owned.epoch != epoch {
            owned.epoch = epoch;
            owned.rests_until = rests_until;
            owned.stage = Stage::Still;
        }
        owned.name(named, now);
    }

    /// This node leaves: its shards go as soon as may be, without a rest.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether this node owns no shard: what one that leaves waits for.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// How many hand-offs are under way, those offered included.
    pub fn running(&self) -> usize {
        self.shards.values().filter(|owned| owned.stage.target().is_some()).count()
    }

    /// What is to be done now. Asked whenever something was told here, and several times a second.
    pub fn step(&mut self, now: Timestamp) -> Steps {
        let withdrawn = self.withdraw(now);
        Steps { withdrawn, offers: self.offer(now) }
    }

    /// Takes back what is no longer wished, or not answered.
    fn withdraw(&mut self, now: Timestamp) -> Vec<Offer> {
        let mut withdrawn = Vec::new();
        for (shard, owned) in &mut self.shards {
            let to = match &owned.stage {
                Stage::Offered { to, .. } | Stage::Copying { to } if !owned.wishes(to) => to,
                Stage::Offered { to, at } if *at + self.settings.answer_within <= now => {
                    self.targets.entry(to.clone()).or_default().fail(now, &self.settings);
                    to
                }
                _ => continue,
            };
            withdrawn.push(Offer { shard: *shard, epoch: owned.epoch, to: to.clone() });
            owned.stage = Stage::Still;
        }
        withdrawn
    }

    /// Offers what has been wished for long enough, within the limits, in order of shard.
    fn offer(&mut self, now: Timestamp) -> Vec<Offer> {
        let mut per_target: BTreeMap<NodeName, usize> = BTreeMap::new();
        for target in self.shards.values().filter_map(|owned| owned.stage.target()) {
            *per_target.entry(target.clone()).or_default() += 1;
        }
        let mut running: usize = per_target.values().sum();
        let mut offers = Vec::new();
        for (shard, owned) in &mut self.shards {
            let (Stage::Still, Some((to, since))) = (&owned.stage, &owned.wish) else {
                continue;
            };
            let is_stable = *since + self.settings.stable_for <= now;
            let is_rested = self.leaving || owned.rests_until <= now;
            let may_try = owned.back_off.until <= now
                && self.targets.get(to).is_none_or(|back_off| back_off.until <= now);
            if !(is_stable && is_rested && may_try) {
                continue;
            }
            if self.settings.running_max <= running {
                break;
            }
            let to = to.clone();
            let of_target = per_target.entry(to.clone()).or_default();
            if self.settings.running_per_target_max <= *of_target {
                continue;
            }
            *of_target += 1;
            running += 1;
            offers.push(Offer { shard: *shard, epoch: owned.epoch, to: to.clone() });
            owned.stage = Stage::Offered { to, at: now };
        }
        offers
    }

    /// A target has answered an offer.
    pub fn ready(&mut self, ready: &Ready, now: Timestamp) -> ReadyVerdict {
        let owned = self.shards.get_mut(&ready.shard).filter(|owned| owned.epoch == ready.epoch);
        let Some(owned) = owned else {
            return ReadyVerdict::Late;
        };
        if !matches!(&owned.stage, Stage::Offered { to, .. } if *to == ready.from) {
            return ReadyVerdict::Late;
        }
        owned.stage = Stage::Still;
        if !owned.wishes(&ready.from) {
            return ReadyVerdict::Withdraw;
        }
        let back_off = self.targets.entry(ready.from.clone()).or_default();
        match ready.answer {
            Answer::Refuses => back_off.fail(now, &self.settings),
            // Neither is at fault. Views agree as soon as gossip has gone round, or they differ for as long as a cut lasts.
            _ if self.table.as_ref().map(|table| table.digest()) != Some(ready.digest) => {
                back_off.wait(now + self.settings.stable_for);
            }
            Answer::Busy => back_off.wait(now + self.settings.busy_pause),
            Answer::Accepts => {
                self.targets.remove(&ready.from);
                owned.stage = Stage::Copying { to: ready.from.clone() };
                return ReadyVerdict::Proceed;
            }
        }
        ReadyVerdict::Withdraw
    }

    /// The seal is submitted: from here on the shard can only arrive. Also told of a hand-off that was found sealed at the
    /// start, and of one whose withdrawal came too late.
    pub fn sealed(&mut self, shard: ShardId, epoch: Epoch, to: &NodeName) {
        if let Some(owned) = self.shards.get_mut(&shard).filter(|owned| owned.epoch == epoch) {
            owned.stage = Stage::Sealed { to: to.clone() };
        }
    }

    /// A hand-off is over.
    pub fn ended(&mut self, shard: ShardId, epoch: Epoch, ended: Ended, now: Timestamp) {
        let Some(owned) = self.shards.get_mut(&shard).filter(|owned| owned.epoch == epoch) else {
            return;
        };
        match ended {
            Ended::Moved => {
                self.shards.remove(&shard);
            }
            // The shard and not the target waits: what failed may be this shard alone, and others would wait behind it.
            Ended::Failed => {
                owned.stage = Stage::Still;
                owned.back_off.fail(now, &self.settings);
            }
        }
    }
}

/// The other node that the table names for a shard.
fn named<'t>(table: Option<&'t Table>, here: &NodeName, shard: ShardId) -> Option<&'t NodeName> {
    table.map(|table| table.owner(shard)).filter(|owner| *owner != here)
}
