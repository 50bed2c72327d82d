//! Shards that come back: sealed for a node whose disk is gone for good (P18).
//!
//! ```text
//!  Sealed, offered to its target ──Hold──► held: nothing more is said or heard ──Reopen──► written ──durable──► Owned
//!               ▲                                  │
//!               └────────────── Release ───────────┘
//! ```
//!
//! Who orders it has asked every other node; here it is only seen to that nothing of the old hand-off gets in between.

use super::{Mover, MoverAction};
use crate::{
    handoff::Target,
    kernel::Order,
    placement::{Epoch, NodeName, ShardId},
    router::Announcement,
    store::{Ownership, OwnershipRecord, TransferId},
    timestamp::Timestamp,
};

/// A shard that is sealed, and nobody is known to have accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedShard {
    /// The shard.
    pub shard: ShardId,
    /// The epoch it had where it is sealed.
    pub epoch: Epoch,
    /// The only node that may accept it,
    pub to: NodeName,
    /// and the UUID of its store.
    pub store: u128,
}

/// What a node knows of a shard's epochs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The highest that is or was in its own store, or may be there soon.
    pub held: Epoch,
    /// The highest it has heard of, and whose it is.
    pub heard: Option<(Epoch, NodeName)>,
    /// It is being accepted there: in a moment it is known whether it is.
    pub is_accepting: bool,
}

impl Mover {
    /// The shards that are sealed here and nobody has accepted.
    pub fn sealed(&self) -> impl Iterator<Item = SealedShard> {
        let sealed = self.sources.iter().filter(|(_, source)| source.is_sealed());
        sealed.filter_map(|(shard, source)| match self.ownership.get(shard)? {
            Ownership::Sealed { epoch, to, store, transfer, .. } if *transfer == source.transfer().id => {
                Some(SealedShard { shard: *shard, epoch: *epoch, to: to.clone(), store: *store })
            }
            _ => None,
        })
    }

    /// What this node answers when it is asked for a shard's epochs. A hand-off that comes here counts: it may be accepted the
    /// next moment. So does a shard that may be opened again here, with the epoch it would have then.
    pub fn standing(&self, shard: ShardId) -> Standing {
        let owned = self.ownership.get(&shard).unwrap_or(&Ownership::Foreign).epoch();
        let target = self.targets.get(&shard).filter(|target| !target.is_ended());
        let coming = target.map(|target| target.transfer().epoch);
        let opened = self.held.get(&shard).and_then(|written| {
            let sealed = self.sources.get(&shard).filter(|source| source.is_sealed());
            written.or_else(|| sealed.map(|source| Epoch(source.transfer().epoch.0 + 1)))
        });
        let held = [Some(owned), coming, opened].into_iter().flatten().max().expect("one is always there");
        let heard = self.routes.get(shard).map(|(epoch, owner)| (epoch, owner.clone()));
        Standing { held, heard, is_accepting: target.is_some_and(Target::is_accepting) }
    }

    /// Nothing more is said or heard of the hand-off of these shards.
    pub(super) fn hold(&mut self, shards: Vec<ShardId>) {
        for shard in shards {
            self.held.entry(shard).or_insert(None);
        }
    }

    /// They are not owned again; those whose record is on its way are all the same.
    pub(super) fn release(&mut self, shards: &[ShardId]) {
        for shard in shards {
            if self.held.get(shard) == Some(&None) {
                self.held.remove(shard);
            }
        }
    }

    /// Whether a word of the hand-off from here is neither said nor heard.
    pub(super) fn is_held(&self, shard: ShardId, transfer: TransferId) -> bool {
        self.held.contains_key(&shard)
            && self.sources.get(&shard).is_some_and(|source| source.transfer().id == transfer)
    }

    /// Another node's word has ended the hand-off that was held. False: the record is on its way, and stays.
    pub(super) fn let_go(&mut self, shard: ShardId) -> bool {
        self.release(&[shard]);
        !self.held.contains_key(&shard)
    }

    /// Every other node has answered: the shard is to be owned here under this epoch.
    pub(super) fn reopen(&mut self, shard: ShardId, epoch: Epoch) {
        let sealed = self.sources.get(&shard).filter(|source| source.is_sealed());
        // Its target may have accepted under the one behind its own.
        let may = sealed.is_some_and(|source| source.transfer().epoch < epoch);
        if may && self.held.get(&shard) == Some(&None) {
            self.held.insert(shard, Some(epoch));
            self.write_reopen(shard);
        }
    }

    fn write_reopen(&mut self, shard: ShardId) {
        let (Some(Some(epoch)), Some(source)) = (self.held.get(&shard), self.sources.get(&shard)) else {
            return;
        };
        let record = OwnershipRecord::Reopen { transfer: source.transfer().id };
        let order = Order::Write { epoch: *epoch, number: 1, record };
        self.actions.push(MoverAction::Order(shard, order));
    }

    /// The record is durable: the shard is served here again.
    pub(super) fn reopened(&mut self, shard: ShardId, transfer: TransferId, now: Timestamp) {
        let Some(Some(epoch)) = self.held.get(&shard).copied().filter(|_| self.is_held(shard, transfer))
        else {
            return;
        };
        self.held.remove(&shard);
        self.sources.remove(&shard);
        let stay = match self.ownership.get(&shard) {
            Some(Ownership::Owned { stay, .. } | Ownership::Sealed { stay, .. }) => *stay,
            _ => epoch,
        };
        // It rests as one that has come (P21).
        self.owns(shard, Ownership::Owned { epoch, stay, number: 1 }, now, now);
        self.actions.push(MoverAction::Host(shard));
        let owner = self.config.here.clone();
        self.actions.push(MoverAction::Announce(Announcement { shard, epoch, owner }));
        self.actions.push(MoverAction::Reopened(shard));
    }

    /// The memory of the lane was lost while the record was on its way, and this is what the store says. False: it is of no
    /// shard that is reopened.
    pub(super) fn settle_reopened(
        &mut self,
        shard: ShardId,
        transfer: TransferId,
        ownership: &Ownership,
        now: Timestamp,
    ) -> bool {
        let Some(Some(epoch)) = self.held.get(&shard).copied().filter(|_| self.is_held(shard, transfer))
        else {
            return false;
        };
        match ownership {
            Ownership::Owned { epoch: owned, .. } if *owned == epoch => self.reopened(shard, transfer, now),
            _ => self.write_reopen(shard),
        }
        true
    }
}
