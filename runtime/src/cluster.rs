//! What joins a node to others: connections, membership, hand-offs.
//!
//! ```text
//!   Endpoint ──connection──►┌─────────────┐◄── HandOffNews ── kernels (out of durable batches)
//!   connections ──frames───►│ Coordinator │──── orders, Host, SendAgain ──► intakes
//!   storage thread ─rows───►│ Membership  │──── routes ──► node::Links, read for every message
//!                           │ Mover       │──── frames ──► node::Outbound
//!                           └─────────────┘──── reads, stagings, notes ──► storage thread
//! ```
//!
//! One task, the coordinator, drives the two state machines that know the cluster: who is in it
//! ([`membership`](crate::membership)) and which shards move ([`mover`](crate::mover), or [`sharing`](crate::sharing) where nodes share a
//! store). It alone changes routes. Messages of
//! entities never pass through it: they go from a worker's batch to the connection of their shard's node, and from there into
//! the worker's intake (`node/outbound.rs`, `node/remote.rs`).
//!
//! # Invariants
//! * No node is sent to, or believed, before its binding of name and store is durable here (P19).
//! * What the store and the kernels tell the coordinator arrives in the order in which it was told.
//! * A shard is routed here only from the moment on at which its worker is told to host it, and no longer than until its seal
//!   is durable.

mod caller;
mod command;
mod config;
mod connections;
mod control;
mod coordinator;
mod holdings;
mod joining;
mod moves;
mod network;
mod remains;
mod sharing;
mod status;
mod storage;

pub(crate) use caller::{Caller, connect};
pub use caller::{CommandError, ConnectError};
pub use command::{
    Command, CommandAnswer, HeldShard, LeaseStatus, MemberStatus, MoveStatus, NodeCounters, NodeStatus,
    ParkedState, ParkedStream, ServerStatus, ShardStatus, SharedStatus, StrandedStatus,
};
pub use config::{Begin, ClusterConfig, Security};
pub use coordinator::Departure;
pub(crate) use coordinator::{Cluster, Door, ToCoordinator};
pub use joining::JoinError;
#[cfg(feature = "postgres")]
pub(crate) use joining::placement_digest;
pub(crate) use joining::{Identity, find_cluster, keep_seeds};
pub(crate) use network::Network;
pub(crate) use remains::Remains;
