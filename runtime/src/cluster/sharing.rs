//! What is done where nodes share a store: leases, takes and gives, and the routes that change with them.

use super::{
    control::Control,
    coordinator::{Coordinator, Departure},
    holdings::Holdings,
    status::Beats,
};
use crate::{
    membership::NodeState,
    placement::{NodeName, ShardId},
    sharing::{Sharing, SharingAction, SharingEvent},
    store::{Ledger, Presence, SharedStore},
};
use std::sync::{Arc, atomic::Ordering};
use tokio::sync::watch;

/// What a node has of a store that it shares.
pub(super) struct Common {
    pub(super) sharing: Sharing,
    pub(super) control: Control,
    /// When each server has answered.
    pub(super) beats: Vec<Beats>,
    /// Whether every shard has an owner that lives, as far as is known.
    pub(super) settled: watch::Sender<bool>,
}

impl Coordinator {
    pub(super) fn step_sharing(&mut self, event: SharingEvent) {
        if let SharingEvent::Ledger { ledger, .. } = &event {
            self.meet(ledger);
        }
        let now = self.now();
        let lease = self.shared.store.shared().map(SharedStore::lease).unwrap_or_default();
        let Holdings::Common(common) = &mut self.holdings else { return };
        if let SharingEvent::Ledger { ledger, .. } = &event
            && let Some(beats) = common.beats.get_mut(ledger.server as usize)
        {
            beats.answered(lease, now);
        }
        let actions = common.sharing.step(event, now);
        let is_settled = common.sharing.is_settled();
        self.perform_sharing(actions);
        if let Holdings::Common(common) = &self.holdings {
            common.settled.send_if_modified(|settled| std::mem::replace(settled, is_settled) != is_settled);
        }
    }

    pub(super) fn perform_sharing(&mut self, actions: Vec<SharingAction>) {
        for action in actions {
            match action {
                SharingAction::Send { to, shard, transfer, message } => {
                    self.send_hand_off(&to, None, shard, transfer, &message);
                }
                SharingAction::Announce(announcement) => self.announce_to_all(&announcement),
                SharingAction::Routed(shard) => self.routed(shard),
                SharingAction::Order(shard, order) => self.order(shard, order),
                SharingAction::Host { shard, was_taken } => self.host(shard, was_taken),
                SharingAction::Warm(shard, images) => self.warm(shard, images),
                SharingAction::Lose(shard) => {
                    self.unroute(shard);
                    let lane = self.shared.store.lane_of(shard);
                    self.shared.lanes[lane.0 as usize].stale();
                }
                SharingAction::Beat(server) => self.with_control(|control| control.beat(server)),
                SharingAction::Take { server, shards } => {
                    tracing::info!(server, shards = shards.len(), "shards without an owner are taken");
                    self.with_control(|control| control.take(server, shards));
                }
                SharingAction::Alarm(what) => tracing::error!(what, "an operator should look at this"),
            }
        }
    }

    /// A worker hosts a shard no longer.
    pub(super) fn left(&mut self, shard: ShardId) {
        self.step_sharing(SharingEvent::Left(shard));
        if matches!(&self.holdings, Holdings::Common(common) if !common.sharing.has(shard)) {
            self.unroute(shard);
        }
    }

    /// The shard is not here any more, and nobody has said where it is.
    fn unroute(&mut self, shard: ShardId) {
        if self.shared.links.is_here(shard) {
            self.shared.links.set_unknown(shard);
        }
    }

    /// Every node stands in the store, so whoever lives there is dialled without anybody telling where it is. The membership dials
    /// whom it knows; of nodes that were cut from each other from the start, neither side knows the other.
    fn meet(&mut self, ledger: &Ledger) {
        let view = Arc::clone(self.membership().view());
        let is_stranger = |name: &NodeName| {
            *name != self.config.name
                && !self.connected.contains_key(name)
                && !view.nodes().any(|(known, _)| known == name)
        };
        let living = ledger.nodes.iter().filter(|node| node.lives && !node.says.address.is_empty());
        let strangers: Vec<(NodeName, String)> = living
            .filter(|node| is_stranger(&node.name))
            .map(|node| (node.name.clone(), node.says.address.clone()))
            .collect();
        for (name, address) in strangers {
            self.dial(Some(name), address);
        }
    }

    /// What this node is to the cluster it is to the store.
    pub(super) fn say_presence(&mut self) {
        if !self.holdings.is_shared() {
            return;
        }
        let is_stopping = self.shared.stopping.load(Ordering::Relaxed);
        if is_stopping && !std::mem::replace(&mut self.is_stopping, true) {
            // Nothing more comes here, and what is here may go while others are waited for.
            self.step_sharing(SharingEvent::Leave);
        }
        let presence = match self.membership().own().state {
            _ if is_stopping => Presence::Leaving,
            NodeState::Up => Presence::Up,
            NodeState::Leaving => Presence::Leaving,
            NodeState::Left => Presence::Left,
        };
        self.with_control(|control| control.say(|says| says.presence = presence));
    }

    /// The store does not let this run go on.
    pub(super) fn shut_out(&mut self, why: String) {
        self.depart(Departure::Refused(why.clone()));
        self.shared.fail(why);
    }

    fn with_control(&self, ask: impl FnOnce(&Control)) {
        if let Holdings::Common(common) = &self.holdings {
            ask(&common.control);
        }
    }
}
