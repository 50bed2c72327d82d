//! Who a store is: what was fixed when it was founded, and what it says of itself to other nodes.

use std::io;

use super::Position;
use crate::placement::{SHARDS_DEFAULT, Shards};

/// What is fixed when a store is founded (P17).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Founding {
    /// The cluster this store founds or joins.
    pub cluster: u128,
    /// The store's UUID: its identity among its peers (P19).
    pub store: u128,
    /// The number of shards.
    pub shards: Shards,
    /// A digest of what places shards on nodes. Kept for those who compare it; zero where nobody does.
    pub placement: u64,
    /// Whether every shard is owned under epoch 1, or none: one store of a cluster founds it, the others get their shards by
    /// hand-off alone.
    pub owns: bool,
}

impl Founding {
    /// The first store of a cluster: it owns all shards.
    pub fn founder(cluster: u128, store: u128, shards: Shards) -> Self {
        Self { cluster, store, shards, placement: 0, owns: true }
    }

    /// A store that joins a cluster: it owns none.
    pub fn joined(cluster: u128, store: u128, shards: Shards) -> Self {
        Self { owns: false, ..Self::founder(cluster, store, shards) }
    }

    /// The founder of a new cluster, with random identities and [`SHARDS_DEFAULT`] shards.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        let (cluster, store) = bytes.split_at(16);
        let id = |bytes: &[u8]| u128::from_le_bytes(bytes.try_into().expect("sixteen bytes"));
        let shards = Shards::new(SHARDS_DEFAULT).expect("the default is a power of two");
        Ok(Self::founder(id(cluster), id(store), shards))
    }
}

/// What a store says of itself in a handshake (P19). Of one store, boot and position never fall: a peer that remembers
/// higher ones talks to a copy, or to a disk that was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The cluster it was founded for.
    pub cluster: u128,
    /// Its UUID.
    pub store: u128,
    /// How often it was opened, this time included.
    pub boot: u64,
    /// How far its log is durable.
    pub durable: Position,
}
