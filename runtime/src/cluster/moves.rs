//! What the mover wants done, and the routes that change with it.

use super::{
    coordinator::Coordinator,
    holdings::{Holdings, shared_event},
    storage::Job,
};
use crate::{
    handoff::Message,
    kernel::{Event, HandOffNews, Order},
    mover::{MoverAction, MoverEvent},
    node::Outbound,
    placement::{NodeName, ShardId},
    router::Announcement,
    store::TransferId,
    transport::{Frame, frame::Route},
};
use std::collections::BTreeSet;

/// What a route counts with on its way to a connection.
const ROUTE_BYTES: usize = 64;

impl Coordinator {
    pub(super) fn step_mover(&mut self, event: MoverEvent) {
        if let MoverEvent::News(shard, HandOffNews::Sealed { .. }) = &event
            && self.shared.links.is_here(*shard)
        {
            // It is durable: from here on only its next owner serves it.
            self.shared.links.set_unknown(*shard);
        }
        let now = self.now();
        match &mut self.holdings {
            Holdings::Own(mover) => {
                let actions = mover.step(event, now);
                self.perform_moves(actions);
            }
            Holdings::Common(_) => {
                if let Some(event) = shared_event(event) {
                    self.step_sharing(event);
                }
            }
        }
    }

    pub(super) fn perform_moves(&mut self, actions: Vec<MoverAction>) {
        for action in actions {
            self.perform_move(action);
        }
    }

    fn perform_move(&mut self, action: MoverAction) {
        match action {
            MoverAction::Send { to, store, shard, transfer, message } => {
                self.send_hand_off(&to, store, shard, transfer, &message);
            }
            MoverAction::Announce(announcement) => self.announce_to_all(&announcement),
            MoverAction::Routed(shard) => self.routed(shard),
            MoverAction::Order(shard, order) => self.order(shard, order),
            MoverAction::Host(shard) => self.host(shard, false),
            MoverAction::Warm(shard, images) => self.warm(shard, images),
            action @ (MoverAction::ReadRows { .. }
            | MoverAction::Clear { .. }
            | MoverAction::Stage { .. }
            | MoverAction::Sweep(..)
            | MoverAction::ReadOwnership { .. }) => {
                // Should the thread have ended, the node has failed and says so.
                let _ = self.storage.send(Job::Move(action));
            }
            MoverAction::Reopened(shard) => self.reopened(shard),
            MoverAction::Alarm(what) => tracing::error!(what, "an operator should look at this"),
        }
    }

    /// Tells another node of a hand-off. What is for one store is not said to another that has its node's name by now.
    pub(super) fn send_hand_off(
        &self,
        to: &NodeName,
        store: Option<u128>,
        shard: ShardId,
        transfer: TransferId,
        message: &Message,
    ) {
        let connected = self.connected.get(to);
        if let Some(connected) =
            connected.filter(|connected| store.is_none_or(|store| store == connected.store))
        {
            let bytes = message.encode(shard, transfer);
            let len = bytes.len();
            let _ = connected.outbound.frame(Frame::HandOff(bytes), len);
        }
    }

    pub(super) fn announce_to_all(&self, announcement: &Announcement) {
        let nodes = self.connected.values().map(|connected| &connected.outbound);
        for outbound in nodes.chain(&self.clients) {
            announce(outbound, vec![announcement.clone()]);
        }
    }

    pub(super) fn order(&mut self, shard: ShardId, order: Order) {
        if matches!(order, Order::Seal { .. }) {
            self.sealed_at.insert(shard, self.now());
        }
        let worker = self.shared.worker_of(shard);
        self.shared.intakes[worker].push(Event::HandOff { shard, order });
    }

    pub(super) fn warm(&self, shard: ShardId, images: Vec<Vec<u8>>) {
        let worker = self.shared.worker_of(shard);
        self.shared.intakes[worker].push(Event::Warm { shard, images });
    }

    /// A shard has another owner than was known.
    pub(super) fn routed(&mut self, shard: ShardId) {
        let Some((epoch, owner)) = self.holdings.routes().get(shard) else { return };
        // This node's own are here from when they are hosted on.
        if *owner == self.config.name {
            return;
        }
        let (epoch, owner) = (epoch, owner.clone());
        self.shared.links.set_there(shard, &owner);
        if let Some(since) = self.sealed_at.remove(&shard) {
            self.moves.add(self.now().since(since));
        }
        tracing::debug!(%shard, epoch = epoch.0, %owner, "routed");
        // Clients of this node may be connected with no other.
        for client in &self.clients {
            announce(client, vec![Announcement { shard, epoch, owner: owner.clone() }]);
        }
        self.send_again(&[shard]);
    }

    /// A worker hosts a shard from now on: with care, where it was taken from a node that died.
    pub(super) fn host(&mut self, shard: ShardId, was_taken: bool) {
        self.sealed_at.remove(&shard);
        let worker = self.shared.worker_of(shard);
        for (other, intake) in self.shared.intakes.iter().enumerate() {
            intake.push(if other == worker {
                Event::Host { shard, was_taken }
            } else {
                Event::InNode { shard, is: true }
            });
        }
        // Behind the word to its worker, so that nobody comes to one that does not know of it yet.
        self.shared.links.set_here(shard);
        self.send_again(&[shard]);
    }

    /// What was handed to these shards' owners before may be lost: it is handed to their owners now.
    pub(super) fn send_again(&mut self, shards: &[ShardId]) {
        for intake in &self.shared.intakes {
            for target in shards {
                intake.push(Event::SendAgain { target: *target });
            }
        }
        self.shared.ports.routed(shards);
    }

    /// The other end thinks that these shards are here (P22).
    pub(super) fn tell_owners(&mut self, outbound: &Outbound, shards: BTreeSet<ShardId>) {
        let known = shards.into_iter().filter_map(|shard| {
            let (epoch, owner) = self.holdings.routes().get(shard)?;
            Some(Announcement { shard, epoch, owner: owner.clone() })
        });
        announce(outbound, known.collect());
    }

    /// All that is known of owners, to a connection that begins.
    pub(super) fn tell_all_owners(&mut self, outbound: &Outbound) {
        let mut from = Some(ShardId(0));
        while let Some(shard) = from {
            let (known, next) = self.holdings.routes().announce(shard);
            announce(outbound, known);
            from = next;
        }
    }
}

/// Tells of owners. Lost, it is told again where a message comes to the wrong node.
fn announce(outbound: &Outbound, known: Vec<Announcement>) {
    if known.is_empty() {
        return;
    }
    let len = known.len() * ROUTE_BYTES;
    let routes = known.into_iter().map(|Announcement { shard, epoch, owner }| Route { shard, epoch, owner });
    let _ = outbound.frame(Frame::Moved(routes.collect()), len);
}
