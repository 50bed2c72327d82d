//! One machine of a simulation: what is on its disk, its clock, and the node that runs there now and then.

use super::{CLOCK_JUMP_MAX, Due, ring::Node, storage::Storage};
use crate::placement::NodeName;

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
        }
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
