//! One machine of a simulation: what is on its disk, its clock, and the node that runs there now and then.

use super::{CLOCK_JUMP_MAX, Due, ring::Node, storage::Storage};
use crate::{
    placement::{NodeName, Weight},
    store::{NodeSays, Presence, Store, embedded::OpenError},
};
use std::sync::Arc;

/// UUID of a machine's store: it never has another.
pub(super) fn store_of(at: usize) -> u128 {
    at as u128 + 1
}

pub(super) struct Machine {
    /// What its node is called.
    pub(super) name: NodeName,
    pub(super) storage: Storage,
    pub(super) node: Option<Node>,
    /// Counts the starts; what was planned for an earlier node is dropped.
    pub(super) life: u64,
    /// What its clock is ahead of virtual time.
    pub(super) clock_ahead: u64,
    /// Until then its commits take long.
    pub(super) slow_until: u64,
    /// While its node is stopped in its tracks: what has become due there since, in order.
    pub(super) paused: Option<Vec<Due>>,
    /// No node is to be there: it has not come yet, or has left.
    pub(super) is_away: bool,
    /// Its node has come, and has had no shard yet.
    pub(super) is_joining: bool,
    /// The share its node takes.
    pub(super) weight: u16,
}

impl Machine {
    pub(super) fn new(at: usize, storage: Storage) -> Self {
        Self {
            name: format!("n{at}").parse().expect("a letter and a digit are a name"),
            storage,
            node: None,
            life: 0,
            clock_ahead: CLOCK_JUMP_MAX / 2,
            slow_until: 0,
            paused: None,
            is_away: false,
            is_joining: false,
            weight: 1,
        }
    }

    pub(super) fn weight(&self) -> Weight {
        Weight::new(u32::from(self.weight)).expect("a seed picks a weight")
    }

    /// What its node says of itself where it shares a store.
    pub(super) fn says(&self) -> NodeSays {
        NodeSays { address: self.name.to_string(), weight: self.weight(), presence: Presence::Up }
    }

    /// What a starting node finds.
    pub(super) fn open(&mut self) -> Result<Arc<dyn Store>, OpenError> {
        let says = self.says();
        self.storage.open(&self.name, &says)
    }

    /// Whether nothing is on its way in its node; one that is away has none.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_away || self.node.as_ref().is_some_and(Node::is_quiet)
    }

    /// Whether its node answers: it is there, and not paused.
    pub(super) fn answers(&self) -> bool {
        self.node.is_some() && self.paused.is_none()
    }

    pub(super) fn is_embedded(&self) -> bool {
        matches!(self.storage, Storage::Embedded { .. })
    }

    /// How many lanes its node has; 0 where there is no node.
    pub(super) fn lanes(&self) -> u32 {
        self.node.as_ref().map_or(0, |node| node.lanes.len() as u32)
    }
}
