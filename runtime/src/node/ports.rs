//! Where replies and receipts go: the clients and feeds of this process by number.

use super::Outbound;
use crate::{
    activation::ReplyTo,
    kernel::{FeedReceipt, Outcome},
    placement::ShardId,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// One client or feed.
pub(crate) trait Port: Send + Sync {
    /// Answers requests by their slot.
    fn reply(&self, outcomes: &mut dyn Iterator<Item = (u64, Outcome)>);
    /// Tells a feed, in order.
    fn feed(&self, receipts: &mut dyn Iterator<Item = FeedReceipt>);
    /// Time has passed.
    fn tick(&self);
    /// There is a connection to another node.
    fn connected(&self, _: &Arc<Outbound>) {}
    /// These shards have other owners than before, or their owners other connections.
    fn routed(&self, _: &[ShardId]) {}
    /// The node takes no more messages: whoever waits is told.
    fn fail(&self, why: &str);
}

/// The ports of a node.
#[derive(Default)]
pub(crate) struct Ports {
    ports: RwLock<BTreeMap<u32, Arc<dyn Port>>>,
    next: AtomicU32,
}

impl Ports {
    /// The number the next port gets.
    pub(crate) fn next(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn open(&self, connection: u32, port: Arc<dyn Port>) {
        self.ports.write().unwrap_or_else(PoisonError::into_inner).insert(connection, port);
    }

    pub(crate) fn close(&self, connection: u32) {
        self.ports.write().unwrap_or_else(PoisonError::into_inner).remove(&connection);
    }

    fn get(&self, connection: u32) -> Option<Arc<dyn Port>> {
        self.ports.read().unwrap_or_else(PoisonError::into_inner).get(&connection).cloned()
    }

    /// How many are open.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.all().len()
    }

    fn all(&self) -> Vec<Arc<dyn Port>> {
        self.ports.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Delivers replies, one call per run of the same connection.
    pub(crate) fn reply(&self, replies: Vec<(ReplyTo, Outcome)>) {
        let mut replies = replies.into_iter().peekable();
        while let Some((first, _)) = replies.peek() {
            let connection = first.connection;
            let mut same = std::iter::from_fn(|| {
                let (to, outcome) = replies.next_if(|(to, _)| to.connection == connection)?;
                Some((to.slot, outcome))
            });
            match self.get(connection) {
                Some(port) => port.reply(&mut same),
                // The client has gone; its replies are stored for a repeat.
                None => same.for_each(drop),
            }
        }
    }

    /// Delivers receipts, one call per run of the same connection.
    pub(crate) fn feed(&self, receipts: Vec<FeedReceipt>) {
        let mut receipts = receipts.into_iter().peekable();
        while let Some(first) = receipts.peek() {
            let connection = first.to.connection;
            let mut same =
                std::iter::from_fn(|| receipts.next_if(|receipt| receipt.to.connection == connection));
            match self.get(connection) {
                Some(port) => port.feed(&mut same),
                None => same.for_each(drop),
            }
        }
    }

    pub(crate) fn tick(&self) {
        self.all().iter().for_each(|port| port.tick());
    }

    pub(crate) fn connected(&self, outbound: &Arc<Outbound>) {
        self.all().iter().for_each(|port| port.connected(outbound));
    }

    pub(crate) fn routed(&self, shards: &[ShardId]) {
        self.all().iter().for_each(|port| port.routed(shards));
    }

    /// Nobody is told anything any more.
    pub(crate) fn clear(&self) {
        self.ports.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn fail(&self, why: &str) {
        self.all().iter().for_each(|port| port.fail(why));
    }
}
