//! What an operator asks of a running node, and what it answers.

use crate::{
    kernel::{self, Counters},
    placement::NodeName,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What an operator asks of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// What it knows and does.
    Status,
    /// Hand all shards over and end.
    Leave,
    /// Give a node and its store up for good: its name is free for another store.
    Forget(NodeName),
    /// Own the shards again that are sealed for a node whose disk is destroyed, where every other known node says that it
    /// holds no higher epoch (P18). What the node had accepted and nobody else has is lost. It is forgotten; where it was before,
    /// and another store has its name by now, that one keeps it and is asked like any other.
    Reopen {
        /// The node.
        destroyed: NodeName,
    },
    /// Say which shards in a copy of a destroyed node's store are newer elsewhere: to who is to hand over the others (P20). The
    /// node is forgotten, and with it every copy of its store that keeps its identity.
    Bury {
        /// The node.
        destroyed: NodeName,
        /// UUIDs in hexadecimal digits, by which a copy of its store is known: the one it was founded with, and the one it has.
        stores: Vec<String>,
        /// What the copy could hand over, each with the epoch above which it is the past.
        shards: Vec<HeldShard>,
    },
    /// Say which streams to its shards are parked, for a disk has lost what one of their ends knows of (P19).
    Unpark {
        /// Let them go on from where their senders are: what is lost is lost.
        accept_loss: bool,
    },
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandAnswer {
    /// To [`Command::Status`].
    Status(Box<NodeStatus>),
    /// It is done, or has begun; in words.
    Done(String),
    /// It is not done, and why.
    Refused(String),
    /// To [`Command::Bury`]: what is not to be taken from the copy.
    Newer(Vec<HeldShard>),
    /// To [`Command::Unpark`].
    Parked {
        /// The streams, as they were found or as they are now.
        streams: Vec<ParkedStream>,
        /// There are more: ask again when these go on.
        more: bool,
    },
}

/// A shard under an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldShard {
    /// Its number.
    pub shard: u32,
    /// The epoch.
    pub epoch: u64,
    /// Who holds it under this one, or is said to; of a copy nobody is asked.
    pub node: Option<NodeName>,
}

/// A parked stream of one node's shards: nothing is sent or taken in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedStream {
    /// Number of the sending shard.
    pub source: u32,
    /// Number of the receiving shard, which is the node's.
    pub target: u32,
    /// First and last number of what was taken, and its sender has forgotten that it sent it: it gives them to other messages.
    pub lost_by_sender: Option<(u64, u64)>,
    /// First and last number of what was taken by a disk that is gone: of these, messages not taken here are nowhere.
    pub lost_by_receiver: Option<(u64, u64)>,
    /// What can be done, or was.
    pub state: ParkedState,
}

/// What can be done about a parked stream, or was: the [`kernel::ParkedState`](crate::kernel::ParkedState) of the same name, as it
/// travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the state of the same name")]
pub enum ParkedState {
    Ready,
    Comparing,
    Handling,
    Unparking,
    Unparked,
}

impl From<kernel::ParkedStream> for ParkedStream {
    fn from(stream: kernel::ParkedStream) -> Self {
        let numbers = |numbers: kernel::Numbers| (numbers.first, numbers.last);
        Self {
            source: stream.source.0,
            target: stream.target.0,
            lost_by_sender: stream.lost_by_sender.map(numbers),
            lost_by_receiver: stream.lost_by_receiver.map(numbers),
            state: match stream.state {
                kernel::ParkedState::Ready => ParkedState::Ready,
                kernel::ParkedState::Comparing => ParkedState::Comparing,
                kernel::ParkedState::Handling => ParkedState::Handling,
                kernel::ParkedState::Unparking => ParkedState::Unparking,
                kernel::ParkedState::Unparked => ParkedState::Unparked,
            },
        }
    }
}

/// What a node knows and does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub name: NodeName,
    /// Id of its cluster, in hexadecimal digits.
    pub cluster: String,
    /// How often its store was opened.
    pub boot: u64,
    /// What it runs.
    pub build: String,
    /// Number of its view. Between nodes the number means nothing; the digest does.
    pub view: u64,
    /// Equal where nodes place shards in the same way.
    pub view_digest: u64,
    /// All nodes it knows, by name, itself included.
    pub nodes: Vec<MemberStatus>,
    /// How many shards the cluster has.
    pub shards_total: u32,
    /// Who owns each shard, as far as it has heard, in order: of some it may not have heard yet.
    pub shards: Vec<ShardStatus>,
    /// How many shards are on their way from it,
    pub going: u64,
    /// and to it.
    pub coming: u64,
    /// Of those that are on their way from it: which nobody serves until an operator says so.
    pub stranded: Vec<StrandedStatus>,
    /// Hand-offs from it since its start.
    pub moves: MoveStatus,
    /// What it has done since its start.
    pub counters: NodeCounters,
    /// For how long it has run, in milliseconds.
    pub uptime_ms: u64,
    /// Activations in memory, and the bytes they are counted with.
    pub activations: (u64, u64),
    /// Nothing is on its way in it: every outbox is empty, and everything is durable.
    pub is_quiet: bool,
    /// Why another node does not let it in, while it is connected to none; in words, with what to do.
    pub refused: Option<String>,
    /// The store, where the nodes share one; a node of a build that knew none says nothing.
    #[serde(default)]
    pub shared: Option<SharedStatus>,
}

/// A store that nodes share, as one of them sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedStatus {
    /// For how long a node counts as living after a beat, in milliseconds.
    pub lease_ms: u64,
    /// How often a shard of this run was found to have less than was acknowledged. Anything but 0 is an alarm: a server failed
    /// over to a standby that lagged, or was restored.
    pub lost_commits: u64,
    /// Its servers, in the order of the cluster's founding.
    pub servers: Vec<ServerStatus>,
}

/// A server of a shared store, as one node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// What it is called, without its password.
    pub server: String,
    /// What runs there, with its version; nothing where this node has never reached it.
    pub version: Option<String>,
    /// Another number after each fail-over to a standby.
    pub timeline: u32,
    /// When it acknowledges a commit, in its words.
    pub synchronous_commit: String,
    /// The standbys a commit waits for, in its words.
    pub synchronous_standbys: String,
    /// How many standbys follow it.
    pub standbys: u32,
    /// What may lose acknowledged commits there, or will be in the way.
    pub warnings: Vec<String>,
    /// How many shards lie there.
    pub shards: u64,
    /// Whether it has answered a beat of this node within a lease, so that the node's lease runs there.
    pub lease_runs: bool,
    /// How long ago it answered a beat of this node last, in milliseconds.
    pub beat_ms_ago: Option<u64>,
    /// For how long its answers have followed each other within a lease, in milliseconds.
    pub reached_for_ms: Option<u64>,
    /// Every node that it knows, as it said with the last answer.
    pub leases: Vec<LeaseStatus>,
}

/// A node's lease, by the clock of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// The node.
    pub node: NodeName,
    /// `up`, `leaving` or `left`, as it said with its last beat.
    pub state: String,
    /// Whether its lease runs: if not, its shards are taken by others.
    pub runs: bool,
    /// For how long its leases have followed each other without a gap, in milliseconds.
    pub steady_ms: u64,
}

/// A node, as another sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: NodeName,
    /// Where it listens.
    pub address: String,
    /// `up`, `leaving` or `left`.
    pub state: String,
    /// Its share.
    pub weight: u16,
    /// Whether it answers.
    pub is_alive: bool,
    /// Whether there is a connection to it; to itself there always is.
    pub is_connected: bool,
    /// How often its store was opened.
    pub boot: u64,
    /// What it runs.
    pub build: String,
}

/// A shard, and who owns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its number.
    pub shard: u32,
    /// Under which epoch it is owned.
    pub epoch: u64,
    /// By which node.
    pub owner: NodeName,
}

/// Shards that are sealed for a store that was given up: it may have accepted them, and no other can say whether it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrandedStatus {
    /// The node they are for. Another store may have its name by now.
    pub node: NodeName,
    /// UUID of the store, in hexadecimal digits.
    pub store: String,
    /// How many.
    pub shards: u64,
}

impl fmt::Display for StrandedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, store, shards } = self;
        write!(
            f,
            "{shards} of its shards are sealed for store {store} of {node}, which is given up, and nobody serves them: only that \
             store could say whether it has accepted them, and no other that is called {node}. If its disk is gone for good, give \
             this node the command `reopen --destroyed {node}`; if there is a copy of it, `adopt --original-destroyed` that first"
        )
    }
}

/// Shards that have left a node.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveStatus {
    /// How many.
    pub moved: u64,
    /// How long the longest of them stood still between its seal and the word that its target serves it, in microseconds.
    pub stall_us_max: u64,
    /// The sum of these times.
    pub stall_us_sum: u64,
    /// 99 in 100 of the last 1,024 shards stood still for no longer than this.
    pub stall_us_p99: u64,
}

/// The [`Counters`] of a node, as they travel.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the counter of the same name")]
pub struct NodeCounters {
    pub accepted: u64,
    pub applied: u64,
    pub rejected: u64,
    pub duplicates: u64,
    pub waiting: u64,
    pub dead_lettered: u64,
    pub in_flight: u64,
    pub refused: u64,
    pub queries: u64,
    pub volatile: u64,
    pub panics: u64,
    pub voided: u64,
    pub batches: u64,
    pub parked_streams: u64,
}

impl From<Counters> for NodeCounters {
    fn from(counters: Counters) -> Self {
        let Counters {
            accepted,
            applied,
            rejected,
            duplicates,
            waiting,
            dead_lettered,
            in_flight,
            refused,
            queries,
            volatile,
            panics,
            voided,
            batches,
            parked_streams,
        } = counters;
        Self {
            accepted,
            applied,
            rejected,
            duplicates,
            waiting,
            dead_lettered,
            in_flight,
            refused,
            queries,
            volatile,
            panics,
            voided,
            batches,
            parked_streams,
        }
    }
}

impl Command {
    /// The bytes of a frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("a command can be encoded")
    }
}

impl CommandAnswer {
    /// The bytes of a frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self).expect("an answer can be encoded")
    }
}
