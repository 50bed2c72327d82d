//! Where an entity belongs: its hash, the shard whose range the hash falls in, and the node the ring wishes for that
//! shard; and what the nodes that own shards are called.

mod name;
mod parameters;
mod ring;
mod weight;

pub use name::{NODE_NAME_LEN_MAX, NodeName, NodeNameError};
pub use parameters::{PlacementDifference, PlacementParameters};
pub use ring::{Move, Table, moves};
pub use weight::{WEIGHT_MAX, Weight, WeightError};

use std::fmt;

/// Number of shards of a newly founded store.
pub const SHARDS_DEFAULT: u32 = 256;
/// Most shards a store can have.
pub const SHARDS_MAX: u32 = 4_096;

/// A hash range of entity ids: the unit of ownership, ordering, dedup and hand-off. Never reused for another range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}", self.0)
    }
}

/// Ownership number of a shard: higher after each change of owner, checked by the store in every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.0)
    }
}

/// The hash of an entity: XXH3 (64 bits, seed 0) of kind, a zero byte, and key. Its specification is frozen, so the
/// place of an entity never changes between builds.
pub fn hash(kind: &str, key: &str) -> u64 {
    let mut bytes = [0_u8; 128];
    let len = kind.len() + 1 + key.len();
    if let Some(bytes) = bytes.get_mut(..len) {
        bytes[..kind.len()].copy_from_slice(kind.as_bytes());
        bytes[kind.len() + 1..].copy_from_slice(key.as_bytes());
        return xxhash_rust::xxh3::xxh3_64(bytes);
    }
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(kind.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.as_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// How many shards there are, fixed when the store is founded. A power of two, so that a shard is the top bits of the
/// hash and could later be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shards {
    bits: u32,
}

impl Shards {
    /// `count` shards; `None` unless it is a power of two from 1 to [`SHARDS_MAX`].
    pub fn new(count: u32) -> Option<Self> {
        (count.is_power_of_two() && count <= SHARDS_MAX).then(|| Self { bits: count.trailing_zeros() })
    }

    /// How many.
    pub fn count(self) -> u32 {
        1 << self.bits
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..self.count()).map(ShardId)
    }

    /// The shard of an entity's hash.
    pub fn place(self, hash: u64) -> ShardId {
        // A shift by 64 is not defined, and with one shard there is nothing to choose.
        ShardId(hash.checked_shr(64 - self.bits).map_or(0, |top| top as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_an_entity_never_changes() {
        // Golden values: a build that changes them would look for every entity in another shard.
        assert_eq!(hash("account", "alice"), xxhash_rust::xxh3::xxh3_64(b"account\0alice"));
        let long = "k".repeat(512);
        let mut bytes = b"account\0".to_vec();
        bytes.extend_from_slice(long.as_bytes());
        assert_eq!(hash("account", &long), xxhash_rust::xxh3::xxh3_64(&bytes));
    }

    #[test]
    fn every_hash_has_a_shard() {
        for count in [1, 2, 256, SHARDS_MAX] {
            let shards = Shards::new(count).expect("a power of two");
            assert_eq!(shards.place(0), ShardId(0));
            assert_eq!(shards.place(u64::MAX), ShardId(count - 1));
        }
        for count in [0, 3, 8_192] {
            assert_eq!(Shards::new(count), None);
        }
    }
}
