//! One suite for every engine: what the module above promises, as tests.
//!
//! An [`Engine`] makes a store, closes it and opens it again with what it kept; the suite runs the same sentences on
//! each. What all keep is in `common` and `notes`. Then there are two kinds of store: in some a shard comes and goes with tokens of
//! its own (`ownership`, `staging`, `two_stores`); the others several nodes share (`shared`).

mod common;
mod notes;
mod ownership;
mod running;
mod shared;
mod staging;
mod two_stores;

use std::sync::Arc;

use super::disk::SimulatedDisk;
use super::embedded::{EmbeddedConfig, EmbeddedStore, Founding, SEGMENT_BYTES_MIN};
use super::memory::MemoryStore;
use super::{Batch, ImageKey, Lane, Row, Store};
use crate::placement::{Epoch, ShardId, Shards};

const SHARDS: u32 = 8;
const IMAGE: u8 = 0xf0;

/// A store that can be made, lost and opened again.
trait Engine {
    fn open(&mut self) -> Arc<dyn Store>;

    /// Whether a lane goes on behind a batch that was refused.
    fn voids(&self) -> bool {
        false
    }

    /// Whether opening takes so long that a test should do it a few times only.
    fn is_slow(&self) -> bool {
        false
    }
}

struct Memory {
    founding: Founding,
    store: Option<MemoryStore>,
    lanes: u32,
    lagging: bool,
}

impl Engine for Memory {
    fn open(&mut self) -> Arc<dyn Store> {
        let store = match (&self.store, self.lagging) {
            (Some(store), _) => store.restart(),
            (None, false) => MemoryStore::founded(&self.founding, self.lanes),
            (None, true) => MemoryStore::founded(&self.founding, self.lanes).lag(),
        };
        self.store = Some(store.clone());
        Arc::new(store)
    }

    fn voids(&self) -> bool {
        true
    }
}

struct RealDisk {
    founding: Founding,
    directory: tempfile::TempDir,
    founded: bool,
}

impl Engine for RealDisk {
    fn is_slow(&self) -> bool {
        true
    }

    fn open(&mut self) -> Arc<dyn Store> {
        let path = self.directory.path();
        let founded = std::mem::replace(&mut self.founded, true);
        let opened = if founded {
            EmbeddedStore::open(path, &small())
        } else {
            EmbeddedStore::found(path, &self.founding, &small())
        };
        Arc::new(opened.unwrap())
    }
}

/// Every reopening is a power loss.
struct Simulated {
    founding: Founding,
    disk: SimulatedDisk,
    founded: bool,
}

impl Engine for Simulated {
    fn open(&mut self) -> Arc<dyn Store> {
        let founded = std::mem::replace(&mut self.founded, true);
        if founded {
            self.disk.crash();
            self.disk.restart();
        }
        let disk = Arc::new(self.disk.clone());
        let opened = if founded {
            EmbeddedStore::open_on(disk, &small())
        } else {
            EmbeddedStore::found_on(disk, &self.founding, &small())
        };
        Arc::new(opened.unwrap())
    }
}

fn shards() -> Shards {
    Shards::new(SHARDS).unwrap()
}

/// Small segments, so that a few commits walk through several.
fn small() -> EmbeddedConfig {
    EmbeddedConfig {
        segment_bytes: SEGMENT_BYTES_MIN,
        tail_bytes: 8 * SEGMENT_BYTES_MIN,
        round_bytes: SEGMENT_BYTES_MIN,
        ..EmbeddedConfig::default()
    }
}

/// On the stores whose shards come and go with tokens, and those that several nodes share, as one node uses them.
fn on_every_engine(sentence: impl Fn(&mut dyn Engine)) {
    on_engines_with_tokens(&sentence);
    for (servers, lanes) in [(1, 1), (1, 3), (3, 2)] {
        sentence(&mut shared::Alone::new(servers, lanes));
    }
}

fn on_engines_with_tokens(sentence: impl Fn(&mut dyn Engine)) {
    for mut engine in engines(Founding::founder(1, 2, shards())) {
        sentence(&mut *engine);
    }
}

fn engines(founding: Founding) -> Vec<Box<dyn Engine>> {
    let mut engines: Vec<Box<dyn Engine>> = Vec::new();
    for (lanes, lagging) in [(1, false), (3, false), (2, true)] {
        engines.push(Box::new(Memory { founding, store: None, lanes, lagging }));
    }
    let directory = tempfile::tempdir().unwrap();
    engines.push(Box::new(RealDisk { founding, directory, founded: false }));
    for seed in 0..5 {
        engines.push(Box::new(Simulated { founding, disk: SimulatedDisk::new(seed), founded: false }));
    }
    engines
}

/// The epoch that a shard is owned under.
fn epoch(store: &Arc<dyn Store>, shard: u32) -> Epoch {
    store.owned_shard(ShardId(shard)).unwrap().unwrap().epoch
}

/// The number of a shard's next section.
fn next(store: &Arc<dyn Store>, shard: u32) -> u64 {
    store.owned_shard(ShardId(shard)).unwrap().unwrap().number + 1
}

/// A batch of one section.
fn batch(store: &Arc<dyn Store>, shard: u32, number: u64, write: impl FnOnce(&mut Vec<u8>)) -> Batch {
    let mut batch = Batch::new();
    batch.section(ShardId(shard), epoch(store, shard), number, write);
    batch
}

fn lane_of(store: &Arc<dyn Store>, shard: u32) -> Box<dyn Lane> {
    store.open_lane(store.lane_of(ShardId(shard)))
}

fn rows(store: &Arc<dyn Store>, shard: u32) -> Vec<Row> {
    store.maintain().unwrap();
    store.load_shard(ShardId(shard), epoch(store, shard)).unwrap()
}

fn image(store: &Arc<dyn Store>, shard: u32, key: &[u8]) -> Option<Vec<u8>> {
    store.maintain().unwrap();
    let key = ImageKey { shard: ShardId(shard), epoch: epoch(store, shard), key: [&[IMAGE], key].concat() };
    store.load_images(&[key]).unwrap().remove(0)
}

fn row(key: &[u8], value: &[u8]) -> Row {
    (key.to_vec(), value.to_vec())
}
