//! What goes into a membership and what comes out.

use super::{
    exchange::Exchange,
    hello::{Hello, IdentityRefusal},
};
use crate::placement::NodeName;
use bytes::Bytes;
use std::time::Duration;

/// How fast a cluster notices. Every node of a cluster has the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipSettings {
    /// How often one other node is asked whether it lives. 500 ms.
    pub probe_period: Duration,
    /// How long it has for its answer before others are asked to reach it; shorter than `probe_period`. 200 ms.
    pub probe_timeout: Duration,
    /// How long a node that did not answer may still say that it lives. 1 s.
    pub suspicion: Duration,
    /// How often news is passed on. 100 ms.
    pub gossip_period: Duration,
    /// How often nodes that seem dead are spoken to, so that a healed network is noticed. 3 s.
    pub announce_to_down_period: Duration,
    /// How often a node that knows nobody alive asks those it is connected with. 250 ms.
    pub announce_period: Duration,
    /// How often all entries are compared with those of one other node. 1 s.
    pub compare_period: Duration,
    /// How often nodes that should be connected and are not are dialled. 1 s.
    pub dial_period: Duration,
    /// How long a log position or a changed entry may wait to be kept. 5 s. What is lost with it is learned again, but a
    /// disk that went back by less is then not noticed.
    pub keep_period: Duration,
}

impl Default for MembershipSettings {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(200),
            suspicion: Duration::from_secs(1),
            gossip_period: Duration::from_millis(100),
            announce_to_down_period: Duration::from_secs(3),
            announce_period: Duration::from_millis(250),
            compare_period: Duration::from_secs(1),
            dial_period: Duration::from_secs(1),
            keep_period: Duration::from_secs(5),
        }
    }
}

impl MembershipSettings {
    /// Whether every period passes, and a probe has time for its second way.
    pub(super) fn are_sound(&self) -> bool {
        let periods = [
            self.probe_period,
            self.probe_timeout,
            self.suspicion,
            self.gossip_period,
            self.announce_to_down_period,
            self.announce_period,
            self.compare_period,
            self.dial_period,
            self.keep_period,
        ];
        periods.iter().all(|period| *period >= Duration::from_millis(1))
            && self.probe_timeout < self.probe_period
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub enum MembershipEvent {
    /// Another node is at the door: it dialled, or was dialled. Answered by exactly one
    /// [`MembershipAction::Admit`] or [`MembershipAction::Reject`]; until then nothing of it is passed on.
    Hello {
        /// Comes back with the answer.
        ticket: u64,
        /// What it says.
        hello: Hello,
    },
    /// Frames can be sent to an admitted node from here on.
    Connected {
        /// The node.
        name: NodeName,
        /// The boot counter of its hello.
        boot: u64,
    },
    /// That has ended. Of two connections of one run, the end of the first is told before the beginning of the second.
    Disconnected {
        /// The node.
        name: NodeName,
        /// As in [`MembershipEvent::Connected`].
        boot: u64,
    },
    /// A packet of an admitted node.
    Packet {
        /// The node, as its connection knows it.
        from: NodeName,
        /// What [`MembershipAction::Send`] had.
        bytes: Bytes,
    },
    /// Entries of an admitted node, or a question for ours.
    Exchange {
        /// The node, as its connection knows it.
        from: NodeName,
        /// What [`MembershipAction::SendExchange`] had.
        exchange: Exchange,
    },
    /// An admitted node says how far its log is durable.
    Position {
        /// The node.
        name: NodeName,
        /// The store of its hello. Where another has its name by now this says nothing.
        store: u128,
        /// The position.
        position: u64,
    },
    /// Find a cluster at these addresses. They are dialled as long as nobody is connected.
    Join {
        /// The addresses; those beyond the first [`SEEDS_MAX`] are left out.
        seeds: Vec<String>,
    },
    /// This node is leaving: it takes no more shards.
    Leave,
    /// This node has given all shards away. It is not coming back in this run.
    Drained,
    /// This node takes another share.
    SetWeight(u16),
    /// An operator says that a node and its store are lost for good. Answered by exactly one
    /// [`MembershipAction::Forgotten`] or [`MembershipAction::Refused`].
    Forget(NodeName),
    /// What [`MembershipAction::Keep`] had under this number is durable.
    Kept(u64),
    /// Time has passed: to be told every 10 to 100 ms.
    Tick,
}

/// Most addresses to join at.
pub const SEEDS_MAX: usize = 64;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipAction {
    /// Let the node in; its binding and boot counter are durable here.
    Admit {
        /// Of the hello.
        ticket: u64,
    },
    /// Tell the node why not, and close.
    Reject {
        /// Of the hello.
        ticket: u64,
        /// Why, and what to do.
        refusal: IdentityRefusal,
    },
    /// Send a packet; it may be lost.
    Send {
        /// To whom.
        to: NodeName,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// Send entries or their digest; it may be lost.
    SendExchange {
        /// To whom.
        to: NodeName,
        /// What.
        exchange: Exchange,
    },
    /// Connect, if that is not under way. Asked again while there is no connection.
    Dial {
        /// Who is to answer there, where that is known.
        name: Option<NodeName>,
        /// Where.
        address: String,
    },
    /// Close the connections of this node: it was forgotten.
    HangUp(NodeName),
    /// Make these bytes durable in place of the last, then say [`MembershipEvent::Kept`]. One at a time. If that cannot
    /// be done nobody new is let in, and no new name gets into the view.
    Keep {
        /// Its number.
        number: u64,
        /// What [`Known::decode`](super::Known::decode) reads at the next start.
        bytes: Vec<u8>,
    },
    /// [`Membership::view`](super::Membership::view) has changed.
    ViewChanged,
    /// An operator's wish is durable: the store is never let in again, and its name is free.
    Forgotten {
        /// The name.
        name: NodeName,
        /// The store it had.
        store: u128,
    },
    /// Something that is not believed or not done; to be logged. What others repeat is told once.
    Refused(IdentityRefusal),
}

/// What a membership has counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MembershipCounters {
    /// Packets and timers that foca could do nothing with; late ones, mostly.
    pub liveness_errors: u64,
    /// Packets that could not be read, or did not come from whom they name.
    pub packets_refused: u64,
    /// Entries and exchanges that were not believed.
    pub entries_refused: u64,
}
