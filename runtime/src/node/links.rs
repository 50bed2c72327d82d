//! Where each shard is, as this process knows, and the connections that lead there.

use super::Outbound;
use crate::{
    kernel::Arrival,
    placement::{NodeName, ShardId, Shards},
};
use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU32, Ordering},
};

/// Where a shard is.
pub(crate) enum Place {
    /// A worker of this process hosts it.
    Here,
    /// A node that there is a connection to has it, or knows who has.
    There(Arc<Outbound>),
    /// This node has it, and there is no connection.
    Unreachable(NodeName),
    /// No owner is known at the moment.
    Unknown,
}

const UNKNOWN: u32 = 0;
const HERE: u32 = 1;
/// And from here on the position of a node in the list.
const FIRST_NODE: u32 = 2;

/// The routes of a process, read for every message, and its connections.
///
/// Only one task changes routes (the coordinator of the cluster); everybody reads them. What is read may be old the next moment,
/// which is harmless: a worker knows what it hosts, and says so.
pub(crate) struct Links {
    /// By shard.
    routes: Vec<AtomicU32>,
    /// Nodes that were ever heard of, in that order, with the connection there is now.
    nodes: RwLock<Vec<(NodeName, Option<Arc<Outbound>>)>>,
    /// A client may ask any node.
    asks_any: bool,
    /// Messages may be for others.
    is_alone: bool,
}

impl Links {
    /// A process that has all shards for itself.
    pub(crate) fn alone(layout: Shards) -> Self {
        Self { is_alone: true, ..Self::new(layout, HERE) }
    }

    /// A node of a cluster, which has these shards.
    pub(crate) fn node(layout: Shards, here: impl IntoIterator<Item = ShardId>) -> Self {
        let links = Self::new(layout, UNKNOWN);
        here.into_iter().for_each(|shard| links.set_here(shard));
        links
    }

    /// A client, which has none, and asks whomever it can reach.
    pub(crate) fn client(layout: Shards) -> Self {
        Self { asks_any: true, ..Self::new(layout, UNKNOWN) }
    }

    fn new(layout: Shards, route: u32) -> Self {
        let routes = layout.iter().map(|_| AtomicU32::new(route)).collect();
        Self { routes, nodes: RwLock::default(), asks_any: false, is_alone: false }
    }

    /// Whether there is nobody else, now and ever.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_alone
    }

    pub(crate) fn is_here(&self, shard: ShardId) -> bool {
        self.routes[shard.0 as usize].load(Ordering::Relaxed) == HERE
    }

    pub(crate) fn set_here(&self, shard: ShardId) {
        self.routes[shard.0 as usize].store(HERE, Ordering::Relaxed);
    }

    /// It is not here any more, and it is not known yet where it is.
    pub(crate) fn set_unknown(&self, shard: ShardId) {
        self.routes[shard.0 as usize].store(UNKNOWN, Ordering::Relaxed);
    }

    /// It is with this node.
    pub(crate) fn set_there(&self, shard: ShardId, node: &NodeName) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let at = position(&mut nodes, node);
        self.routes[shard.0 as usize].store(FIRST_NODE + at as u32, Ordering::Relaxed);
    }

    /// There is a connection to a node.
    pub(crate) fn connect(&self, node: &NodeName, outbound: Arc<Outbound>) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let at = position(&mut nodes, node);
        nodes[at].1 = Some(outbound);
    }

    /// That connection is no more. One that took its place stays.
    pub(crate) fn disconnect(&self, node: &NodeName, outbound: &Arc<Outbound>) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let at = position(&mut nodes, node);
        nodes[at].1.take_if(|present| Arc::ptr_eq(present, outbound));
    }

    /// The connection to a node.
    pub(crate) fn to(&self, node: &NodeName) -> Option<Arc<Outbound>> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().find(|(name, _)| name == node).and_then(|(_, outbound)| outbound.clone())
    }

    /// All connections to nodes.
    pub(crate) fn all(&self) -> Vec<Arc<Outbound>> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().filter_map(|(_, outbound)| outbound.clone()).collect()
    }

    /// Where a shard is.
    pub(crate) fn place(&self, shard: ShardId) -> Place {
        match self.routes[shard.0 as usize].load(Ordering::Relaxed) {
            HERE => Place::Here,
            UNKNOWN => self.ask_any().map_or(Place::Unknown, Place::There),
            node => {
                let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
                let (name, outbound) = &nodes[(node - FIRST_NODE) as usize];
                if let Some(outbound) = outbound {
                    return Place::There(Arc::clone(outbound));
                }
                let name = name.clone();
                drop(nodes);
                self.ask_any().map_or(Place::Unreachable(name), Place::There)
            }
        }
    }

    /// Whether an owner is known of every shard.
    pub(crate) fn knows_all(&self) -> bool {
        self.routes.iter().all(|route| route.load(Ordering::Relaxed) != UNKNOWN)
    }

    /// Where only the owner will do: no other node passes it on.
    pub(crate) fn owner(&self, shard: ShardId) -> Option<Arc<Outbound>> {
        let node = self.routes[shard.0 as usize].load(Ordering::Relaxed).checked_sub(FIRST_NODE)?;
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes[node as usize].1.clone()
    }

    /// For a client: the same node for as long as that is connected, so that its requests keep their order.
    fn ask_any(&self) -> Option<Arc<Outbound>> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().find_map(|(_, outbound)| outbound.clone()).filter(|_| self.asks_any)
    }

    /// Sends messages to the nodes of their shards. Where there is none they are not sent: who sent them sends them again, and
    /// hears of the owner when there is one.
    pub(crate) fn send(&self, arrivals: impl IntoIterator<Item = Arrival>) {
        let mut used: Vec<Arc<Outbound>> = Vec::new();
        for arrival in arrivals {
            if let Some(outbound) = self.owner(arrival.shard) {
                outbound.message(arrival);
                note(&mut used, outbound);
            }
        }
        for outbound in used {
            outbound.flush();
        }
    }

    /// Sends the word of one end of a stream to the node of the other. One that is lost is asked for again.
    pub(crate) fn opening(&self, opening: crate::kernel::Opening) {
        if let Some(outbound) = self.owner(opening.to()) {
            outbound.opening(opening);
            outbound.flush();
        }
    }

    /// Sends receipts to the nodes of their sending shards. One that is lost costs a resend.
    pub(crate) fn receipts(&self, receipts: impl IntoIterator<Item = crate::kernel::Receipt>) {
        let mut used: Vec<Arc<Outbound>> = Vec::new();
        for receipt in receipts {
            if let Some(outbound) = self.owner(receipt.source) {
                outbound.receipt(receipt);
                note(&mut used, outbound);
            }
        }
        for outbound in used {
            outbound.flush();
        }
    }
}

/// Of few connections: those a run of items goes to.
fn note(used: &mut Vec<Arc<Outbound>>, outbound: Arc<Outbound>) {
    if !used.iter().any(|other| Arc::ptr_eq(other, &outbound)) {
        used.push(outbound);
    }
}

fn position(nodes: &mut Vec<(NodeName, Option<Arc<Outbound>>)>, node: &NodeName) -> usize {
    nodes.iter().position(|(name, _)| name == node).unwrap_or_else(|| {
        nodes.push((node.clone(), None));
        nodes.len() - 1
    })
}
