//! What a store has beside rows that several nodes write to: who lives, who owns what, and how a shard of a dead node is taken.
//!
//! There are no tokens here and nothing is copied: a shard is of the node whose run its row names. Three things change that
//! row, each in one write that raises the epoch: the owner *gives* the shard, by the [`Seal`](super::OwnershipRecord::Seal) record behind
//! its last batch; a node [takes](SharedStore::take) what nobody has, or whose owner's lease has run out; and a node that starts
//! again takes what its own earlier run had.
//!
//! ```text
//!              take: nobody's, or the owner's lease has run out (epoch + 1)
//!        ┌───────────────────────────────────────────────────────────────────┐
//!        ▼                                                                   │
//!      owned ── give: the heir's lease runs (epoch + 1) ──► owned by the heir │
//!        │                                                                   │
//!        └─ give: it does not; close (epoch + 1) ──► owned by nobody ────────┘
//! ```
//!
//! A lease saves work and is never what makes a write safe (P14, P23): a node that was stopped for longer than its lease finds
//! out by its next commit, and what it showed meanwhile had to be confirmed.
//!
//! A store may lie on several servers, each with its own clock, leases and rows (P24). No answer mixes two of them.

use super::OwnedShard;
use crate::placement::{Epoch, NodeName, ShardId, Weight};
use std::{io, time::Duration};

/// Most shards that one [`SharedStore::take`] asks for.
pub const TAKES_MAX: usize = 64;

/// Whether a node takes shards, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It takes shards, while its lease runs.
    Up,
    /// It gives its shards away, and takes no more.
    Leaving,
    /// It has given all away.
    Left,
}

/// What a node says of itself with each beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSays {
    /// Where other nodes reach it.
    pub address: String,
    /// The share of the shards it takes.
    pub weight: Weight,
    /// Whether it takes shards.
    pub presence: Presence,
}

/// What one server knows, of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// Which server.
    pub server: u32,
    /// How often this server was found to be another than before, or of another timeline: a standby that was promoted, a copy
    /// that was restored. Epochs of an earlier generation say nothing about this one.
    pub generation: u64,
    /// Every node of the cluster, this one among them, in order of name.
    pub nodes: Vec<LedgerNode>,
    /// Every shard of this server, in order.
    pub shards: Vec<LedgerShard>,
}

/// A node, as a server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerNode {
    /// What it is called.
    pub name: NodeName,
    /// The UUID that stays with its name (P19).
    pub store: u128,
    /// Its run: another after each start.
    pub incarnation: u128,
    /// As it said last.
    pub says: NodeSays,
    /// Its lease runs.
    pub lives: bool,
    /// For how long its leases have followed each other without a gap; zero while none runs.
    pub steady: Duration,
}

/// A shard, as a server knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerShard {
    /// The shard.
    pub shard: ShardId,
    /// The epoch of its owner, or of its last one. It names the owner: no epoch is given twice.
    pub epoch: Epoch,
    /// The incarnation that owns it; `None`: nobody does.
    pub owner: Option<u128>,
}

/// Why a server has not answered as it should.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// It cannot be reached now, or is busy with what it was asked: ask again a while later. What was asked may be done.
    #[error("the server does not answer: {0}")]
    Later(io::Error),
    /// Another run of a node of the same name has taken this one's place.
    #[error("another process runs as this node: stop one of them, or give it another --name")]
    Replaced,
    /// A newer build has changed what is stored, so that this one must not write any more.
    #[error("the store has been migrated by a newer build: start that one ({0})")]
    Outdated(String),
    /// The server cannot be used any more by this run, for a reason that does not pass.
    #[error("the server cannot be used: {0}")]
    Fatal(io::Error),
}

/// What a store's servers were found to be, for operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// Each server, by its number.
    pub servers: Vec<ServerReport>,
    /// How often a shard of this run was found to have less than was acknowledged.
    pub lost_commits: u64,
}

/// What a server was found to be when it was met last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerReport {
    /// What it is called, without its password.
    pub name: String,
    /// What runs there, with its version; `None`: it was never reached, and nothing below is known.
    pub version: Option<String>,
    /// Another number after each fail-over to a standby.
    pub timeline: u32,
    /// When it acknowledges a commit, in its words.
    pub synchronous_commit: String,
    /// The standbys a commit waits for, in its words; empty where it waits for none.
    pub synchronous_standbys: String,
    /// How many standbys follow it.
    pub standbys: u32,
    /// What may lose acknowledged commits there, or will be in the way.
    pub warnings: Vec<String>,
}

/// A store that several nodes write to. Calls may block; none of them waits for another server than the one it names.
pub trait SharedStore: Send + Sync {
    /// This run of this node: the owner in the rows of its shards.
    fn incarnation(&self) -> u128;

    /// For how long a node counts as living after a beat.
    fn lease(&self) -> Duration;

    /// How many servers there are, numbered from 0.
    fn servers(&self) -> u32;

    /// The server that a shard lies on. It never changes while the store is open.
    fn server_of(&self, shard: ShardId) -> u32;

    /// What is known of the servers. Asks none of them.
    fn report(&self) -> StoreReport;

    /// Says that this node lives, which renews its lease by the server's clock, and returns what the server knows after that. Where
    /// this run is not known to the server yet, because that was away, it takes over from an earlier run first.
    ///
    /// # Errors
    /// See [`SharedError`].
    fn beat(&self, server: u32, says: &NodeSays) -> Result<Ledger, SharedError>;

    /// Takes shards of one server that are still under these epochs and whose owner is nobody, or has no lease that runs; returns
    /// those that were taken, under their new epochs. What their last owner is writing is waited for shortly; one whose lease has
    /// run out is cut off from the server, so that what it has begun ends. At most [`TAKES_MAX`] shards.
    ///
    /// # Errors
    /// See [`SharedError`]. After [`SharedError::Later`] some may be taken all the same: the next ledger tells.
    fn take(&self, server: u32, shards: &[(ShardId, Epoch)]) -> Result<Vec<OwnedShard>, SharedError>;
}
