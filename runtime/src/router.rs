//! Which node a message for a shard goes to: the owner under the highest epoch anyone has told of.
//!
//! Owners announce their shards when a connection opens and when one changes hands, and anyone may repeat what he heard
//! (P22). Announcements are lost, repeated and late, so none is believed for being the last: a route yields to a higher
//! epoch only.
//!
//! # Invariants
//! * The epoch of a route never falls while the route is kept.
//! * Whatever the order and the number of times announcements are heard in, the routes are the same in the end, as long as
//!   no two name different owners under one epoch. That cannot be while the stores keep what they synced: it is an alarm.
//!
//! # What it is not
//! Ownership. A route may be old at any time, and that is harmless: who does not own the shard answers MOVED or nothing,
//! and a message of a stream waits in its sender's outbox. A route is believed on the word of a node of the cluster: one
//! that announces an epoch that never was keeps messages from their shard until its route is forgotten, and changes nothing
//! else.

use crate::placement::{Epoch, NodeName, ShardId, Shards};
use std::collections::BTreeMap;

/// How often a client's request is forwarded. Each node on its way knew a newer owner than the one before, so more than
/// one hop is rare; two nodes with old routes to each other would send it to and fro for ever. At the limit the request is
/// refused, for nothing has happened yet, and the client asks again.
pub const HOPS_MAX: u8 = 4;

/// Most routes of one announcement, so that it fits a frame however long the names are. The next goes on from where it ends.
pub const ANNOUNCED_MAX: usize = 256;

/// The hops with which a request that came after `hops` of them goes on; `None` at the limit. Only requests are forwarded:
/// of a stream nothing ever is, for its numbers are between two ends that know each other (P22).
pub fn forward(hops: u8) -> Option<u8> {
    (hops < HOPS_MAX).then(|| hops + 1)
}

/// Where a message for a shard goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'r> {
    /// To this node's own shard.
    Local,
    /// To another node.
    Remote(&'r NodeName),
    /// No owner is known. A message of a stream waits in its outbox; a request is refused as unavailable.
    Hold,
}

/// What an announcement was, as against what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Heard {
    /// The first of its shard, or under a higher epoch: the route has changed.
    Newer,
    /// What is known already.
    Known,
    /// Under a lower epoch than is known. Not a fault: announcements are repeated and come late.
    Older,
    /// Another owner under the same epoch; the route stays as it was. An alarm: there are two stores that both say they own
    /// the shard, a copied or rolled-back one perhaps (P19).
    Conflict,
    /// The cluster has no such shard: whoever said so is broken.
    NoShard,
}

/// A shard, and who owns it under which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The shard.
    pub shard: ShardId,
    /// Under which its owner owns it.
    pub epoch: Epoch,
    /// Who owns it.
    pub owner: NodeName,
}

/// Every shard's owner, as far as this node has heard.
#[derive(Debug)]
pub struct Routes {
    /// By shard.
    routes: Vec<Option<(Epoch, NodeName)>>,
    /// Every owner in `routes`, with the number of its shards: one copy of each name, and none that is no longer used, so
    /// there are never more names than shards.
    names: BTreeMap<NodeName, u32>,
}

impl Routes {
    /// Nothing has been heard yet.
    pub fn new(shards: Shards) -> Self {
        Self { routes: vec![None; shards.count() as usize], names: BTreeMap::new() }
    }

    /// Hears that a node owns a shard under this epoch, and says what that was.
    pub fn learn(&mut self, shard: ShardId, epoch: Epoch, owner: &NodeName) -> Heard {
        let heard = self.judge(shard, epoch, owner);
        if heard == Heard::Newer {
            self.set(shard, epoch, owner);
        }
        heard
    }

    /// What an announcement would be; changes nothing.
    pub fn judge(&self, shard: ShardId, epoch: Epoch, owner: &NodeName) -> Heard {
        match self.routes.get(shard.0 as usize) {
            None => Heard::NoShard,
            Some(None) => Heard::Newer,
            Some(Some((known, _))) if *known < epoch => Heard::Newer,
            Some(Some((known, _))) if epoch < *known => Heard::Older,
            Some(Some((_, known))) if known == owner => Heard::Known,
            Some(Some(_)) => Heard::Conflict,
        }
    }

    fn set(&mut self, shard: ShardId, epoch: Epoch, owner: &NodeName) {
        let name = self.names.get_key_value(owner).map_or(owner, |(name, _)| name).clone();
        *self.names.entry(name.clone()).or_insert(0) += 1;
        let before = self.routes[shard.0 as usize].replace((epoch, name));
        if let Some((_, name)) = before {
            self.release(&name);
        }
    }

    /// One route less leads to a node.
    fn release(&mut self, name: &NodeName) {
        let shards = self.names.get_mut(name).expect("the owner of a route is among the names");
        *shards -= 1;
        if *shards == 0 {
            self.names.remove(name);
        }
    }

    /// The epoch and owner known of a shard: what MOVED answers.
    pub fn get(&self, shard: ShardId) -> Option<(Epoch, &NodeName)> {
        self.routes.get(shard.0 as usize)?.as_ref().map(|(epoch, owner)| (*epoch, owner))
    }

    /// Where a message for the shard goes from the node `here`.
    pub fn route(&self, shard: ShardId, here: &NodeName) -> Route<'_> {
        match self.get(shard) {
            None => Route::Hold,
            Some((_, owner)) if owner == here => Route::Local,
            Some((_, owner)) => Route::Remote(owner),
        }
    }

    /// All routes from this shard on, [`ANNOUNCED_MAX`] of them at the most, and the shard to go on from; `None` when that
    /// was the last. What changes between two calls is announced by whoever changes it.
    pub fn announce(&self, from: ShardId) -> (Vec<Announcement>, Option<ShardId>) {
        let shards = (0_u32..).map(ShardId).zip(&self.routes).skip(from.0 as usize);
        let mut known = shards.filter_map(|(shard, route)| {
            let (epoch, owner) = route.as_ref()?;
            Some(Announcement { shard, epoch: *epoch, owner: owner.clone() })
        });
        let chunk = known.by_ref().take(ANNOUNCED_MAX).collect();
        (chunk, known.next().map(|announcement| announcement.shard))
    }

    /// How many shards each node owns, as far as is known, in order of name.
    pub fn owners(&self) -> impl Iterator<Item = (&NodeName, u32)> {
        self.names.iter().map(|(name, shards)| (name, *shards))
    }

    /// Drops the route to a shard whose epochs are no longer what they were: its store is another one.
    pub fn forget_shard(&mut self, shard: ShardId) {
        let route = self.routes.get_mut(shard.0 as usize).and_then(Option::take);
        if let Some((_, name)) = route {
            self.release(&name);
        }
    }

    /// Drops every route to a node that an operator has told the cluster to forget, and says how many there were. Messages for
    /// its shards wait until an owner is heard of; that may be the same one, for anyone may repeat what he heard.
    pub fn forget(&mut self, node: &NodeName) -> usize {
        let mut forgotten = 0;
        if self.names.remove(node).is_some() {
            for route in &mut self.routes {
                forgotten += usize::from(route.take_if(|(_, owner)| owner == node).is_some());
            }
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(number: u64) -> NodeName {
        format!("node-{number}").parse().unwrap()
    }

    fn routes() -> Routes {
        Routes::new(Shards::new(1_024).unwrap())
    }

    /// Every route, in chunks.
    fn all(routes: &Routes) -> Vec<Announcement> {
        let (mut all, mut from) = (Vec::new(), Some(ShardId(0)));
        while let Some(shard) = from {
            let (chunk, next) = routes.announce(shard);
            assert!(chunk.len() <= ANNOUNCED_MAX && (next.is_none() || !chunk.is_empty()));
            all.extend(chunk);
            from = next;
        }
        all
    }

    #[test]
    fn a_route_yields_to_a_higher_epoch_only() {
        let (mut routes, shard) = (routes(), ShardId(3));
        assert_eq!(routes.route(shard, &node(1)), Route::Hold);
        assert_eq!(routes.learn(shard, Epoch(4), &node(1)), Heard::Newer);
        assert_eq!(routes.route(shard, &node(1)), Route::Local);
        assert_eq!(routes.learn(shard, Epoch(4), &node(1)), Heard::Known);
        assert_eq!(routes.learn(shard, Epoch(3), &node(2)), Heard::Older);
        assert_eq!(routes.learn(shard, Epoch(6), &node(2)), Heard::Newer, "epochs may skip");
        assert_eq!(routes.route(shard, &node(1)), Route::Remote(&node(2)));
        assert_eq!(routes.get(shard), Some((Epoch(6), &node(2))));
    }

    #[test]
    fn two_owners_under_one_epoch_are_an_alarm_and_the_first_stays() {
        let mut routes = routes();
        assert_eq!(routes.learn(ShardId(0), Epoch(2), &node(1)), Heard::Newer);
        assert_eq!(routes.learn(ShardId(0), Epoch(2), &node(2)), Heard::Conflict);
        assert_eq!(routes.get(ShardId(0)), Some((Epoch(2), &node(1))));
        assert_eq!(routes.learn(ShardId(0), Epoch(3), &node(2)), Heard::Newer);
    }

    #[test]
    fn a_shard_that_is_not_there_is_refused() {
        let mut routes = routes();
        for shard in [1_024, u32::MAX] {
            assert_eq!(routes.learn(ShardId(shard), Epoch(1), &node(1)), Heard::NoShard);
            assert_eq!(routes.route(ShardId(shard), &node(1)), Route::Hold);
            assert_eq!(routes.announce(ShardId(shard)), (Vec::new(), None));
        }
    }

    #[test]
    fn all_routes_are_announced_in_chunks() {
        let mut routes = routes();
        assert_eq!(all(&routes), []);
        for shard in (0..1_024).filter(|shard| shard % 3 != 0) {
            assert_eq!(routes.learn(ShardId(shard), Epoch(1), &node(u64::from(shard % 5))), Heard::Newer);
        }
        let announced = all(&routes);
        assert_eq!(announced.len(), 682);
        let mut other = self::routes();
        for Announcement { shard, epoch, owner } in &announced {
            assert_eq!(other.learn(*shard, *epoch, owner), Heard::Newer);
        }
        assert_eq!(all(&other), announced);
    }

    #[test]
    fn a_forgotten_node_has_no_routes_and_may_be_heard_of_again() {
        let mut routes = routes();
        for shard in 0..10 {
            assert_eq!(routes.learn(ShardId(shard), Epoch(5), &node(u64::from(shard % 2))), Heard::Newer);
        }
        assert_eq!(routes.forget(&node(0)), 5);
        assert_eq!(routes.forget(&node(0)), 0);
        assert_eq!(routes.route(ShardId(0), &node(1)), Route::Hold);
        assert_eq!(routes.route(ShardId(1), &node(1)), Route::Local);
        assert_eq!(routes.learn(ShardId(0), Epoch(1), &node(0)), Heard::Newer);
    }

    #[test]
    fn a_forgotten_shard_may_be_owned_under_a_lower_epoch() {
        let mut routes = routes();
        for shard in [ShardId(0), ShardId(1)] {
            assert_eq!(routes.learn(shard, Epoch(5), &node(1)), Heard::Newer);
        }
        routes.forget_shard(ShardId(0));
        routes.forget_shard(ShardId(2));
        routes.forget_shard(ShardId(u32::MAX));
        assert_eq!(routes.owners().collect::<Vec<_>>(), [(&node(1), 1)]);
        assert_eq!(routes.learn(ShardId(0), Epoch(2), &node(2)), Heard::Newer);
        assert_eq!(routes.learn(ShardId(1), Epoch(2), &node(2)), Heard::Older);
    }

    #[test]
    fn a_request_hops_so_often_and_no_more() {
        let hops: Vec<u8> = std::iter::successors(Some(0), |hops| forward(*hops)).collect();
        assert_eq!(hops, [0, 1, 2, 3, 4]);
        assert_eq!(forward(u8::MAX), None);
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_ends_in_the_same_routes(
            heard in prop::collection::vec((0_u32..4, 1_u64..9), 1..30),
            again in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            // One history: under each epoch of a shard one owner.
            let owner = |shard: u32, epoch: u64| node((u64::from(shard) + epoch * epoch) % 3);
            let learn = |announcements: &[(u32, u64)]| {
                let mut routes = routes();
                for (shard, epoch) in announcements {
                    let before = routes.get(ShardId(*shard)).map(|(epoch, _)| epoch);
                    let heard = routes.learn(ShardId(*shard), Epoch(*epoch), &owner(*shard, *epoch));
                    assert_ne!(heard, Heard::Conflict);
                    assert_eq!(heard == Heard::Newer, before < Some(Epoch(*epoch)));
                }
                let counted: u32 = routes.owners().map(|(_, shards)| shards).sum();
                assert_eq!(counted as usize, all(&routes).len());
                assert!(routes.owners().all(|(_, shards)| 0 < shards), "an unused name is kept");
                all(&routes)
            };
            let once = learn(&heard);
            // The same in another order, many of them several times.
            let again = again.iter().map(|at| *at.get(&heard));
            let other: Vec<_> = again.chain(heard.iter().rev().copied()).collect();
            prop_assert_eq!(learn(&other), once);
        }
    }
}
