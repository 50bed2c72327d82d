//! Who comes in and goes: connections of nodes and clients, and the dials that lead to them.

use super::{Coordinator, Departure};
use crate::{
    cluster::{
        connections::{Connected, dial, serve},
        joining::lacks,
    },
    membership::{self, Exchange, MembershipEvent},
    mover::MoverEvent,
    node::Outbound,
    placement::{NodeName, ShardId},
    transport::{CloseReason, Connection, Frame, handshake::NodeIdentity},
};
use bytes::Bytes;
use std::sync::Arc;

impl Coordinator {
    /// Another end is at the door.
    pub(super) fn greet(&mut self, connection: Connection, is_dialled: bool) {
        if self.has_failed {
            return connection.link.close(CloseReason::Stopping);
        }
        let Some(node) = &connection.other.node else {
            return self.welcome_client(connection);
        };
        let hello = membership_hello(node);
        // A later run of the store has begun after all that the earlier one has said.
        let connected = self.connected.get(&hello.name);
        if let Some(earlier) = connected.filter(|earlier| earlier.is_before(hello.store, hello.boot)) {
            let (name, store, position) = (hello.name.clone(), hello.store, earlier.outbound.durable_there());
            self.step_membership(MembershipEvent::Position { name, store, position });
        }
        self.tickets += 1;
        let ticket = self.tickets;
        self.at_door.insert(ticket, (connection, is_dialled));
        self.step_membership(MembershipEvent::Hello { ticket, hello });
    }

    pub(super) fn welcome_client(&mut self, connection: Connection) {
        if self.config.transport.connections_max / 2 <= self.clients.len() {
            // The other half is for nodes: without clients a cluster is a cluster.
            let why = "it has as many clients as it takes (half of `connections_max`)".to_owned();
            return connection.link.close(CloseReason::Violation(why));
        }
        let outbound = Outbound::new(None, connection.link, None);
        self.clients.push(Arc::clone(&outbound));
        self.tell_nodes(&outbound);
        self.tell_all_owners(&outbound);
        serve(&self.network, &self.shared.front, &outbound, connection.incoming, self.tell.clone());
    }

    pub(super) fn reject(&mut self, ticket: u64, refusal: &membership::IdentityRefusal) {
        let Some((connection, _)) = self.at_door.remove(&ticket) else { return };
        let (address, why) = (connection.link.address().to_owned(), refusal.to_string());
        tracing::warn!(address, why, "a node is not let in");
        connection.link.close(CloseReason::Violation(why));
    }

    /// A node is let in: frames go both ways from here on.
    pub(super) fn admit(&mut self, ticket: u64) {
        let Some((connection, is_dialled)) = self.at_door.remove(&ticket) else { return };
        let Connection { other, link, incoming, .. } = connection;
        if link.ended().is_some() {
            return;
        }
        let node = other.node.expect("only nodes wait at the door");
        let (name, store, boot, now) = (node.name, node.store, node.boot, self.now());
        let is_lesser = self.config.name < name;
        if let Some(connected) = self.connected.get(&name) {
            let outlasts = connected.outlasts((store, boot), is_dialled, is_lesser, now);
            if outlasts || connected.is_after(store, boot) {
                return link.close(CloseReason::Replaced);
            }
            connected.outbound.link().close(CloseReason::Replaced);
            let outbound = Arc::clone(&connected.outbound);
            self.disconnected(&outbound);
        }
        tracing::info!(node = %name, address = link.address(), boot, "connected");
        let durable = Some(Arc::clone(&self.shared.durable));
        let outbound = Outbound::new(Some((name.clone(), store)), link, durable);
        let connected = Connected::new(&outbound, (store, boot), is_dialled, now);
        self.connected.insert(name.clone(), connected);
        self.refused = None;
        self.shared.links.connect(&name, Arc::clone(&outbound));
        let lacking = lacks(&self.kinds, &other.kinds);
        if let Some(lacking) = &lacking {
            tracing::warn!(node = %name, lacking, "this build takes no shards from a node that knows more");
        }
        self.step_mover(MoverEvent::Build { node: name.clone(), lacks: lacking });
        self.tell_all_owners(&outbound);
        self.shared.ports.connected(&outbound);
        serve(&self.network, &self.shared.front, &outbound, incoming, self.tell.clone());
        // What was sent on an earlier connection may be lost.
        let holdings = &self.holdings;
        let its = |shard: &ShardId| holdings.routes().get(*shard).is_some_and(|(_, owner)| *owner == name);
        let shards: Vec<ShardId> = self.shared.layout.iter().filter(its).collect();
        self.send_again(&shards);
        self.step_membership(MembershipEvent::Connected { name, boot });
    }

    pub(super) fn disconnected(&mut self, outbound: &Arc<Outbound>) {
        let Some(name) = outbound.node.clone() else {
            self.clients.retain(|client| !Arc::ptr_eq(client, outbound));
            return;
        };
        self.shared.links.disconnect(&name, outbound);
        let connected = self.connected.get(&name);
        let Some((store, boot)) = connected
            .filter(|connected| Arc::ptr_eq(&connected.outbound, outbound))
            .map(|connected| (connected.store, connected.boot))
        else {
            return;
        };
        self.connected.remove(&name);
        let ended = outbound.link().ended().map_or_else(String::new, |ended| ended.to_string());
        tracing::info!(node = %name, ended, "disconnected");
        let position = outbound.durable_there();
        self.step_membership(MembershipEvent::Position { name: name.clone(), store, position });
        self.step_membership(MembershipEvent::Disconnected { name, boot });
    }

    pub(in crate::cluster) fn dial(&mut self, name: Option<NodeName>, address: String) {
        if self.has_failed || !self.dialling.insert(address.clone()) {
            return;
        }
        dial(&self.network, &self.endpoint, &self.tell, address, name);
    }

    /// Tells the membership how far the others' logs are durable, and lets them hear of this one, also where nothing else is
    /// said.
    pub(super) fn note_positions(&mut self) {
        let (now, lag) = (self.now(), self.config.transport.handshake_deadline);
        let mut settled = Vec::new();
        for (name, connected) in &mut self.connected {
            if let Some(position) = connected.settled(lag, now) {
                connected.outbound.flush();
                settled.push((name.clone(), connected.store, position));
            }
        }
        for (name, store, position) in settled {
            self.step_membership(MembershipEvent::Position { name, store, position });
        }
    }

    /// Another node has seen a later state of this store. One that has gone back in time has forgotten what it told others, and
    /// ends before it does more harm.
    pub(super) fn outdated(&mut self, boot: u64, position: u64, why: String) {
        let own = self.shared.store.identity();
        if boot <= own.boot && position <= own.durable.0 {
            // An earlier hello of this run was overtaken by what it has said since.
            tracing::debug!(why, "refused for a position that this node is past");
            return;
        }
        self.depart(Departure::Refused(why.clone()));
        self.shared.fail(why);
    }

    /// Tells a client where the nodes are.
    pub(super) fn tell_nodes(&self, client: &Outbound) {
        let view = Arc::clone(self.membership().view());
        let entries = view.nodes().map(|(_, node)| (*node.entry).clone()).collect();
        let exchange = Exchange::Entries { entries, forgotten: Vec::new(), answer: false };
        let bytes: Bytes = exchange.encode().into();
        let len = bytes.len();
        let _ = client.frame(Frame::Members(bytes), len);
    }
}

pub(super) fn membership_hello(node: &NodeIdentity) -> membership::Hello {
    membership::Hello { name: node.name.clone(), store: node.store, boot: node.boot, position: node.durable }
}
