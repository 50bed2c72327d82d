//! Every hand-off of one node, without I/O: whom it offers its shards, whose it takes, and what it tells of owners.
//!
//! [`rebalance`] says which shard should go, [`handoff`](crate::handoff) how one goes; here lies what is
//! between: the answers to offers, the records of who owns what, the routes that change with them. A [`Mover`] is driven as a
//! kernel is, by [`Mover::step`]; the ring around it has the store, the kernels and the network.
//!
//! # Invariants
//! * What is told of an owner (an announcement, MOVED, Accepted) is in this node's store, or was told by another node.
//! * For a shard whose rows are here there is no target, and for one that is offered or sealed one source.
//! * Whatever was asked of a kernel or the store is answered, or the store is read again: an answer that was lost with the
//!   memory of a lane is a word of its own ([`HandOffNews::Voided`]).
//! * What is answered late names the hand-off it is of, and a read of the store its number: a word of a hand-off that is over
//!   changes nothing of the one that runs (P12).

mod offers;
mod reopening;
mod sources;
mod targets;
#[cfg(test)]
mod tests;

pub use reopening::{SealedShard, Standing};

use crate::{
    handoff::{HandOffLimits, Message, Source, SourceEvent, Target, TargetEvent},
    kernel::{HandOffNews, Order},
    placement::{Epoch, NodeName, ShardId, Shards, Table},
    rebalance::{self, Rebalance},
    router::{Announcement, Heard, Routes},
    store::{Batch, Ownership, OwnershipRecord, Row, TransferId},
    timestamp::Timestamp,
};
use std::{collections::BTreeMap, sync::Arc};

/// Who a mover is for.
#[derive(Debug, Clone)]
pub struct MoverConfig {
    /// This node.
    pub here: NodeName,
    /// UUID of its store and how often that was opened: with a counter they name its hand-offs for ever.
    pub store: u128,
    /// See `store`.
    pub boot: u64,
    /// All shards.
    pub shards: Shards,
    /// Bounds of each hand-off.
    pub limits: HandOffLimits,
    /// How fast shards go.
    pub pace: rebalance::Settings,
    /// Most shards that come here at a time; to others this node is busy. One that is sealed for it always may.
    pub takes_max: usize,
}

/// What happens to a mover.
#[derive(Debug)]
pub enum MoverEvent {
    /// Another node says something of a hand-off.
    Heard {
        /// Who,
        from: NodeName,
        /// and the UUID of its store.
        store: u128,
        /// Of which shard.
        shard: ShardId,
        /// Of which hand-off.
        transfer: TransferId,
        /// What.
        message: Message,
    },
    /// Somebody tells who owns shards.
    Announced(Vec<Announcement>),
    /// A kernel tells of a shard.
    News(ShardId, HandOffNews),
    /// The store says who owns a shard.
    Ownership {
        /// The shard.
        shard: ShardId,
        /// As asked for.
        read: u64,
        /// Who.
        ownership: Ownership,
    },
    /// Rows of a shard were read.
    RowsRead {
        /// The shard.
        shard: ShardId,
        /// As asked for.
        transfer: TransferId,
        /// As asked for.
        attempt: u64,
        /// The rows.
        rows: Vec<Row>,
        /// Where to go on; `None`: they were the last.
        next: Option<Vec<u8>>,
    },
    /// They could not be read: the disk is full.
    ReadFailed {
        /// The shard.
        shard: ShardId,
        /// As asked for.
        transfer: TransferId,
        /// As asked for.
        attempt: u64,
    },
    /// The place for a shard is clear.
    Cleared {
        /// The shard.
        shard: ShardId,
        /// As asked for.
        place: u64,
    },
    /// What was to be staged is.
    Staged {
        /// The shard.
        shard: ShardId,
        /// As asked for.
        place: u64,
    },
    /// The store would not clear the place, or not stage.
    StagingFailed {
        /// The shard.
        shard: ShardId,
        /// As asked for.
        place: u64,
        /// Why.
        why: String,
    },
    /// The view has changed, and this is its table.
    Table(Option<Arc<Table>>),
    /// A node has connected, and this is what of its kinds and versions this build lacks; `None`: nothing.
    Build {
        /// The node.
        node: NodeName,
        /// In words.
        lacks: Option<String>,
    },
    /// A store is given up: what has not come from its node is not waited for.
    Forgotten(NodeName),
    /// This node leaves: its shards go as soon as may be.
    Leave,
    /// The node that these shards are sealed for is given up, and the others are asked: nothing more is said or heard of their
    /// hand-offs.
    Hold(Vec<ShardId>),
    /// They are not owned here again.
    Release(Vec<ShardId>),
    /// Nobody knows a higher epoch of a shard that is held: it is owned here again, under this one.
    Reopen {
        /// The shard.
        shard: ShardId,
        /// Above all that anybody has seen.
        epoch: Epoch,
    },
    /// Time has passed: a few times a second.
    Tick,
}

/// What a mover wants done.
#[derive(Debug, PartialEq)]
pub enum MoverAction {
    /// Tell another node.
    Send {
        /// Whom.
        to: NodeName,
        /// UUID of the only store that is to hear it; `None`: whichever that node has.
        store: Option<u128>,
        /// Of which shard.
        shard: ShardId,
        /// Of which hand-off.
        transfer: TransferId,
        /// What.
        message: Message,
    },
    /// Tell every node that this one owns a shard now.
    Announce(Announcement),
    /// A shard has another owner than was known: messages for it go there.
    Routed(ShardId),
    /// Order the shard's kernel.
    Order(ShardId, Order),
    /// Let the shard's kernel host it.
    Host(ShardId),
    /// Behind [`MoverAction::Host`]: let it load the images with these row keys.
    Warm(ShardId, Vec<Vec<u8>>),
    /// Read rows of a shard from a key on, about so many bytes, one row at least. A copy from the first key on begins behind
    /// what is durable by now: where loads would not find all of that, the store is maintained first.
    ReadRows {
        /// The shard.
        shard: ShardId,
        /// Under which it is owned or sealed here.
        epoch: Epoch,
        /// To be returned.
        transfer: TransferId,
        /// To be returned.
        attempt: u64,
        /// Where to begin.
        from: Vec<u8>,
        /// How much.
        bytes: usize,
    },
    /// Clear the place for a shard: [`Store::begin_staging`](crate::store::Store::begin_staging). What is asked of a shard's place is
    /// done in the order in which it was asked.
    Clear {
        /// The shard.
        shard: ShardId,
        /// Under which it is to be owned here.
        epoch: Epoch,
        /// The hand-off.
        transfer: TransferId,
        /// To be returned: an answer of an earlier place is dropped.
        place: u64,
    },
    /// Stage the newest write of each row of these sections.
    Stage {
        /// The shard.
        shard: ShardId,
        /// As in [`MoverAction::Clear`].
        epoch: Epoch,
        /// The hand-off.
        transfer: TransferId,
        /// To be returned.
        place: u64,
        /// The sections, in order.
        sections: Vec<Batch>,
    },
    /// What was staged may go.
    Sweep(ShardId, Epoch, TransferId),
    /// Read who owns a shard, begun after this was asked for.
    ReadOwnership {
        /// The shard.
        shard: ShardId,
        /// To be returned: only the answer to the newest is looked at.
        read: u64,
    },
    /// What [`MoverEvent::Reopen`] asked for is durable.
    Reopened(ShardId),
    /// Something is wrong that an operator must see.
    Alarm(String),
}

/// All hand-offs of a node. See the module.
#[derive(Debug)]
pub struct Mover {
    config: MoverConfig,
    table: Option<Arc<Table>>,
    leaving: bool,
    /// What this build lacks of the kinds and versions of other nodes, where it lacks something. As many as there are nodes.
    lacks: BTreeMap<NodeName, String>,
    /// As in the store.
    ownership: BTreeMap<ShardId, Ownership>,
    routes: Routes,
    rebalance: Rebalance,
    sources: BTreeMap<ShardId, Source>,
    targets: BTreeMap<ShardId, Target>,
    /// Shards whose sealed hand-off is given up, each with the epoch of the record that is on its way, if it is.
    held: BTreeMap<ShardId, Option<Epoch>>,
    /// Hand-offs from here begun since the start, and targets.
    begun: u64,
    places_begun: u64,
    /// By shard, the newest read of the store that is not answered, and the hand-off it was asked for.
    reads: BTreeMap<ShardId, (u64, TransferId)>,
    /// Reads asked for since the start.
    reads_begun: u64,
    actions: Vec<MoverAction>,
}

impl Mover {
    /// Begins with what the store says. Sealed shards go on to whom they were sealed for.
    pub fn new(
        config: MoverConfig,
        ownership: Vec<(ShardId, Ownership)>,
        now: Timestamp,
    ) -> (Self, Vec<MoverAction>) {
        let rebalance = Rebalance::new(config.here.clone(), config.pace.clone());
        let mut mover = Self {
            routes: Routes::new(config.shards),
            config,
            table: None,
            leaving: false,
            lacks: BTreeMap::new(),
            ownership: BTreeMap::new(),
            rebalance,
            sources: BTreeMap::new(),
            targets: BTreeMap::new(),
            held: BTreeMap::new(),
            begun: 0,
            places_begun: 0,
            reads: BTreeMap::new(),
            reads_begun: 0,
            actions: Vec::new(),
        };
        for (shard, ownership) in ownership {
            mover.begin_with(shard, ownership, now);
        }
        let actions = std::mem::take(&mut mover.actions);
        (mover, actions)
    }

    fn begin_with(&mut self, shard: ShardId, ownership: Ownership, now: Timestamp) {
        let here = self.config.here.clone();
        match &ownership {
            Ownership::Foreign => return,
            Ownership::Owned { epoch, .. } => {
                self.rebalance.own(shard, *epoch, Timestamp::EPOCH, now);
                self.learn(shard, *epoch, &here);
            }
            Ownership::Sealed { epoch, to, store, transfer, .. } => {
                self.rebalance.own(shard, *epoch, Timestamp::EPOCH, now);
                self.resume(shard, *epoch, *transfer, (to, *store), now);
            }
            Ownership::Moved { epoch, to } => self.learn(shard, *epoch, to),
        }
        self.ownership.insert(shard, ownership);
    }

    /// Who owns which shard, as far as is known.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// How many shards are going, and how many are coming.
    pub fn running(&self) -> (usize, usize) {
        (self.sources.len(), self.targets.values().filter(|target| !target.is_ended()).count())
    }

    /// How many shards are on their way from here to a node that takes no more: offered to it, ordered to be sealed, sealed, or accepted
    /// there while MOVED is not durable here. `None`: the table here names that node, so further ones may be offered to it. Once there
    /// are none, there are none while the table does not name it again: a hand-off begins with the table or with a seal in the store.
    /// What is sealed for another store that had its name is not for it.
    pub fn going_to(&self, node: &NodeName, store: u128) -> Option<u64> {
        let members = self.table.as_ref().map_or(&[][..], |table| table.members());
        let is_named = members.binary_search_by(|(name, _)| name.cmp(node)).is_ok();
        let is_going = |source: &&Source| {
            source.transfer().target == *node && source.store().is_none_or(|of| of == store)
        };
        let going = self.sources.values().filter(is_going).count();
        (!is_named).then_some(going as u64)
    }

    /// Whether nothing of this node's is left: what one that leaves waits for.
    pub fn is_empty(&self) -> bool {
        self.rebalance.is_empty() && self.sources.is_empty() && self.running() == (0, 0)
    }

    /// Takes one event and returns what is to be done, in order.
    pub fn step(&mut self, event: MoverEvent, now: Timestamp) -> Vec<MoverAction> {
        match event {
            MoverEvent::Heard { from, shard, .. } if self.config.shards.count() <= shard.0 => {
                self.alarm(format!("{from} speaks of {shard}, which does not exist"));
            }
            MoverEvent::Heard { from, store, shard, transfer, message } => {
                self.hear((&from, store), shard, transfer, message, now);
            }
            MoverEvent::Announced(announcements) => {
                for Announcement { shard, epoch, owner } in announcements {
                    self.learn(shard, epoch, &owner);
                    self.outrun(shard, now);
                }
            }
            MoverEvent::News(shard, news) => self.news(shard, news, now),
            MoverEvent::Ownership { shard, read, ownership } => self.settle(shard, read, &ownership, now),
            MoverEvent::RowsRead { shard, transfer, attempt, rows, next } => {
                let read = SourceEvent::RowsRead { rows, next, attempt };
                self.source_event(shard, transfer, read, now);
            }
            MoverEvent::ReadFailed { shard, transfer, attempt } => {
                self.source_event(shard, transfer, SourceEvent::ReadFailed { attempt }, now);
            }
            MoverEvent::Cleared { shard, place } => {
                self.target_event(shard, TargetEvent::Cleared(place), now);
            }
            MoverEvent::Staged { shard, place } => {
                self.target_event(shard, TargetEvent::Staged(place), now);
            }
            MoverEvent::StagingFailed { shard, place, why } => {
                self.target_event(shard, TargetEvent::StagingFailed(place, why), now);
            }
            MoverEvent::Table(table) => {
                self.table.clone_from(&table);
                self.rebalance.table(table, now);
            }
            MoverEvent::Build { node, lacks: Some(lacks) } => drop(self.lacks.insert(node, lacks)),
            MoverEvent::Build { node, lacks: None } => drop(self.lacks.remove(&node)),
            MoverEvent::Forgotten(node) => self.orphan(&node, now),
            MoverEvent::Leave => {
                self.leaving = true;
                self.rebalance.leave();
            }
            MoverEvent::Hold(shards) => self.hold(shards),
            MoverEvent::Release(shards) => {
                self.release(&shards);
                for shard in shards {
                    self.outrun(shard, now);
                }
            }
            MoverEvent::Reopen { shard, epoch } => self.reopen(shard, epoch),
            MoverEvent::Tick => self.tick(now),
        }
        self.offer(now);
        std::mem::take(&mut self.actions)
    }

    fn table_digest(&self) -> u64 {
        self.table.as_ref().map_or(0, |table| table.digest())
    }

    fn tick(&mut self, now: Timestamp) {
        for shard in self.sources.keys().copied().collect::<Vec<_>>() {
            let transfer = self.sources[&shard].transfer().id;
            self.source_event(shard, transfer, SourceEvent::Tick, now);
        }
        for shard in self.targets.keys().copied().collect::<Vec<_>>() {
            self.target_event(shard, TargetEvent::Tick, now);
        }
    }

    /// Hears of an owner.
    fn learn(&mut self, shard: ShardId, epoch: Epoch, owner: &NodeName) {
        match self.routes.learn(shard, epoch, owner) {
            Heard::Newer => self.actions.push(MoverAction::Routed(shard)),
            Heard::Known | Heard::Older => {}
            Heard::Conflict => {
                let known = self.routes.get(shard).map_or_else(String::new, |(_, known)| known.to_string());
                self.alarm(format!("{shard} is owned by {known} and by {owner}, both under {epoch}"));
            }
            Heard::NoShard => self.alarm(format!("{owner} says it owns {shard}, which does not exist")),
        }
    }

    fn alarm(&mut self, what: String) {
        self.actions.push(MoverAction::Alarm(what));
    }

    /// A kernel tells of a shard.
    fn news(&mut self, shard: ShardId, news: HandOffNews, now: Timestamp) {
        match news {
            HandOffNews::CopyFrom(transfer) => self.source_event(shard, transfer, SourceEvent::CopyFrom, now),
            HandOffNews::Section(transfer, section) => {
                self.source_event(shard, transfer, SourceEvent::Section(section), now);
            }
            HandOffNews::Hot(transfer, keys) => {
                self.source_event(shard, transfer, SourceEvent::Hot(keys), now);
            }
            HandOffNews::Sealed { transfer, epoch, number } => {
                self.take_seal(shard, transfer, epoch, number, now);
            }
            HandOffNews::Written(record) => self.take_record(shard, &record, now),
            HandOffNews::Voided(transfer) => self.read_ownership(shard, transfer),
        }
    }

    /// A record of who owns a shard is durable.
    fn take_record(&mut self, shard: ShardId, record: &OwnershipRecord, now: Timestamp) {
        match *record {
            OwnershipRecord::Accept { transfer, .. } => {
                if let Some(target) =
                    self.targets.get(&shard).filter(|target| target.transfer().id == transfer)
                {
                    let epoch = target.transfer().epoch;
                    self.owns(shard, Ownership::Owned { epoch, stay: epoch, number: 1 }, now, now);
                    self.target_event(shard, TargetEvent::Accepted, now);
                }
            }
            OwnershipRecord::Moved { transfer, epoch } => {
                if let Some(source) =
                    self.sources.get(&shard).filter(|source| source.transfer().id == transfer)
                {
                    let to = source.transfer().target.clone();
                    self.ownership.insert(shard, Ownership::Moved { epoch, to });
                    self.source_event(shard, transfer, SourceEvent::Moved, now);
                }
            }
            OwnershipRecord::Reopen { transfer } => self.reopened(shard, transfer, now),
            OwnershipRecord::Seal { transfer, .. } => self.read_ownership(shard, transfer),
        }
    }

    /// A shard is owned here, and came at this time.
    fn owns(&mut self, shard: ShardId, ownership: Ownership, came_at: Timestamp, now: Timestamp) {
        let epoch = ownership.epoch();
        self.ownership.insert(shard, ownership);
        self.rebalance.own(shard, epoch, came_at, now);
        let here = self.config.here.clone();
        self.learn(shard, epoch, &here);
    }

    /// Whether this hand-off of the shard runs.
    fn runs(&self, shard: ShardId, transfer: TransferId) -> bool {
        let source = self.sources.get(&shard).map(Source::transfer);
        let target = self.targets.get(&shard).map(Target::transfer);
        source.into_iter().chain(target).any(|running| running.id == transfer)
    }

    /// Something ordered for a hand-off was lost with the memory of the shard's lane: what became of it is in the store. A word of
    /// one that is over is late, and the shard is another's business by now.
    fn read_ownership(&mut self, shard: ShardId, transfer: TransferId) {
        if self.runs(shard, transfer) {
            self.reads_begun += 1;
            let read = self.reads_begun;
            self.reads.insert(shard, (read, transfer));
            self.actions.push(MoverAction::ReadOwnership { shard, read });
        }
    }

    /// The store was read, because the memory of the shard's lane was lost. Only the newest read counts, and only for the
    /// hand-off it was asked for: an older one may be of before what is on its way to the lane now.
    fn settle(&mut self, shard: ShardId, read: u64, ownership: &Ownership, now: Timestamp) {
        let Some((_, transfer)) = self.reads.get(&shard).copied().filter(|(newest, _)| *newest == read)
        else {
            return;
        };
        self.reads.remove(&shard);
        if !self.runs(shard, transfer) || self.settle_reopened(shard, transfer, ownership, now) {
            return;
        }
        self.ownership.insert(shard, ownership.clone());
        if self.sources.get(&shard).is_some_and(|source| source.transfer().id == transfer) {
            let is_sealed = matches!(ownership, Ownership::Sealed { transfer: by, .. } if *by == transfer);
            if matches!(ownership, Ownership::Moved { .. }) {
                self.source_event(shard, transfer, SourceEvent::Moved, now);
            } else {
                self.source_event(shard, transfer, SourceEvent::Voided { is_sealed }, now);
            }
            // One that was let go for a seal that never was is served again; others are hosted already.
            if matches!(ownership, Ownership::Owned { .. }) {
                self.actions.push(MoverAction::Host(shard));
            }
        }
        let target = self.targets.get(&shard).filter(|target| target.transfer().id == transfer);
        if let Some(target) = target {
            let epoch = target.transfer().epoch;
            let event = if ownership.epoch() == epoch && matches!(ownership, Ownership::Owned { .. }) {
                self.owns(shard, ownership.clone(), now, now);
                TargetEvent::Accepted
            } else {
                TargetEvent::Voided
            };
            self.target_event(shard, event, now);
        }
    }
}
