//! Shards that are sealed for a store that is given up. Only that one could say whether it has accepted them, so they stay where
//! they are until an operator settles it.

use super::Coordinator;
use crate::{
    cluster::StrandedStatus,
    mover::SealedShard,
    placement::{Epoch, NodeName, ShardId},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How often it is said what a node that leaves waits for.
const SAY_AGAIN: Duration = Duration::from_secs(10);

impl Coordinator {
    /// Which shards of this node wait for a store that was forgotten, or whose name another store has by now.
    pub(in crate::cluster) fn stranded(&self) -> Vec<StrandedStatus> {
        let sealed: Vec<SealedShard> = self.holdings.sealed().collect();
        if sealed.is_empty() {
            return Vec::new();
        }
        let mut stranded: BTreeMap<(NodeName, u128), u64> = BTreeMap::new();
        let membership = self.membership();
        let known = membership.known();
        for SealedShard { to, store, .. } in sealed {
            // Of one that has never been heard of, as by a copy that has just started, nothing is known.
            let is_given_up = match known.store_of(&to) {
                Some(bound) => bound != store,
                None => known.forgotten_of(&to).any(|forgotten| forgotten == store),
            };
            if is_given_up {
                *stranded.entry((to, store)).or_default() += 1;
            }
        }
        let stranded = stranded.into_iter();
        stranded
            .map(|((node, store), shards)| StrandedStatus { node, store: format!("{store:032x}"), shards })
            .collect()
    }

    /// Says it once of each store; again and again while this node leaves, which ends only when they are settled.
    pub(super) fn say_if_stranded(&mut self) {
        let stranded = self.stranded();
        let now = self.now();
        if self.leaving.is_going() && self.stranded_said_at + SAY_AGAIN <= now {
            self.stranded_said.clear();
        }
        for one in stranded.iter().filter(|one| !self.stranded_said.contains(&one.store)) {
            tracing::error!(is_leaving = self.leaving.is_going(), "{one}");
            self.stranded_said_at = now;
        }
        self.stranded_said = stranded.into_iter().map(|one| one.store).collect();
    }

    /// Which shards that are sealed here an operator means who says that a node is destroyed, and the store that has the node's
    /// name by now, where it is not the destroyed one: whoever is sealed for a store that was forgotten waits for that one.
    pub(super) fn lost_with(&self, dead: &NodeName) -> (Option<u128>, BTreeMap<ShardId, Epoch>) {
        let (bound, forgotten): (_, BTreeSet<u128>) = {
            let membership = self.membership();
            let known = membership.known();
            (known.store_of(dead), known.forgotten_of(dead).collect())
        };
        let sealed: Vec<SealedShard> = self.holdings.sealed().filter(|sealed| sealed.to == *dead).collect();
        let of = |is_lost: &dyn Fn(u128) -> bool| -> BTreeMap<ShardId, Epoch> {
            let lost = sealed.iter().filter(|sealed| is_lost(sealed.store));
            lost.map(|sealed| (sealed.shard, sealed.epoch)).collect()
        };
        let lost = of(&|store| forgotten.contains(&store));
        if lost.is_empty() { (None, of(&|store| bound == Some(store))) } else { (bound, lost) }
    }
}
