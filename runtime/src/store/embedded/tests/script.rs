//! A run of commits whose every prefix is known, so that what a crash left can be judged.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::placement::{Epoch, ShardId, Shards};
use crate::store::batch::{delete, delete_range, put};
use crate::store::disk::SimulatedDisk;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore, Founding, OpenError, SEGMENT_BYTES_MIN};
use crate::store::{Batch, CommitError, ImageKey, Lane, LaneId, Row, Store, Write};

pub(super) const EPOCH: Epoch = Epoch(1);
const SHARDS: u32 = 4;
const COUNTER: [u8; 1] = [0x01];

pub(super) fn config() -> EmbeddedConfig {
    EmbeddedConfig {
        segment_bytes: SEGMENT_BYTES_MIN,
        tail_bytes: 6 * SEGMENT_BYTES_MIN,
        round_bytes: SEGMENT_BYTES_MIN,
        ..EmbeddedConfig::default()
    }
}

pub(super) fn founding() -> Founding {
    Founding::founder(1, 2, Shards::new(SHARDS).unwrap())
}

pub(super) fn found(disk: &SimulatedDisk) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::found_on(Arc::new(disk.clone()), &founding(), &config())
}

pub(super) fn open(disk: &SimulatedDisk) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open_on(Arc::new(disk.clone()), &config())
}

/// The `index`-th batch of every run, from 1. Each touches two shards and holds its index in both; what it puts, lets
/// other batches overwrite, deletes and trims follows from the index alone.
pub(super) fn batch(index: u64, size: usize) -> Batch {
    let key = |index: u64| [&[0x12][..], &index.to_be_bytes()].concat();
    let mut batch = Batch::new();
    for shard in shards_of(index) {
        batch.section(ShardId(shard), EPOCH, number(index, shard), |out| {
            put(&[&COUNTER], &[&index.to_le_bytes()], out);
            put(&[&key(index)], &[b"message"], out);
            put(
                &[&[0xf0], b"k\0", &[(index % 7) as u8]],
                &[&index.to_le_bytes(), &vec![index as u8; size / 2]],
                out,
            );
            if index.is_multiple_of(3) {
                delete_range(&[&[0x12]], index.saturating_sub(9), index - 3, out);
            }
            if index.is_multiple_of(5) {
                delete(&[&[0xf0], b"k\0", &[(index % 7) as u8]], out);
            }
        });
    }
    batch
}

fn shards_of(index: u64) -> [u32; 2] {
    let first = (index % u64::from(SHARDS)) as u32;
    let mut both = [first, (first + 1) % SHARDS];
    both.sort_unstable();
    both
}

fn number(index: u64, shard: u32) -> u64 {
    (1..=index).filter(|index| shards_of(*index).contains(&shard)).count() as u64
}

/// The length of the `index`-th batch: from nearly nothing to a third of a segment.
pub(super) fn size(index: u64) -> usize {
    [40, 3_000, 700, 20_000, 90][(index % 5) as usize] + (index as usize * 131) % 900
}

/// One run over the script: groups of one to three batches, with checkpoints and quiet moments between.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Batches handed to the store.
    pub(super) submitted: u64,
    /// Batches it acknowledged.
    pub(super) acknowledged: u64,
}

impl Run {
    /// Commits until `until` batches are acknowledged or something fails.
    pub(super) fn go_on(&mut self, store: &EmbeddedStore, until: u64) -> Result<(), CommitError> {
        let mut lane = store.open_lane(LaneId(0));
        while self.acknowledged < until {
            self.step(store, &mut *lane)?;
        }
        Ok(())
    }

    fn step(&mut self, store: &EmbeddedStore, lane: &mut dyn Lane) -> Result<(), CommitError> {
        let first = self.acknowledged + 1;
        let last = first + first % 3;
        let group: Vec<_> = (first..=last).map(|index| batch(index, size(index))).collect();
        for batch in &group {
            let bytes = batch.bytes().len() as u64;
            if store.reserve(LaneId(0), bytes).is_err() {
                store.maintain().map_err(as_fatal)?;
                store.reserve(LaneId(0), bytes).unwrap();
            }
        }
        self.submitted = last;
        lane.commit(&group)?;
        self.acknowledged = last;
        for batch in &group {
            store.release(LaneId(0), batch.bytes().len() as u64);
        }
        if first.is_multiple_of(4) {
            lane.quiet()?;
        }
        if first % 11 < 2 {
            store.maintain().map_err(as_fatal)?;
        }
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form `map_err` takes")]
fn as_fatal(error: crate::store::LoadError) -> CommitError {
    CommitError::Fatal(std::io::Error::other(error.to_string()))
}

/// Rows of every shard after the first `count` batches.
fn expected(count: u64) -> BTreeMap<(u32, Vec<u8>), Vec<u8>> {
    let mut rows = BTreeMap::new();
    for index in 1..=count {
        for section in batch(index, size(index)).sections() {
            for write in section.writes() {
                match write.unwrap() {
                    Write::Put { key, value } => {
                        rows.insert((section.shard.0, key.to_vec()), value.to_vec());
                    }
                    Write::Delete { key } => {
                        rows.remove(&(section.shard.0, key.to_vec()));
                    }
                    Write::DeleteRange { prefix, from, through } => {
                        for number in from..=through {
                            rows.remove(&(section.shard.0, [prefix, &number.to_be_bytes()].concat()));
                        }
                    }
                }
            }
        }
    }
    rows
}

/// Checks that the store holds exactly the state after some prefix of the script, and returns its length.
///
/// That one number decides everything: a batch in part, a batch without those before it, or a wrong section number
/// would be a state of no prefix.
pub(super) fn prefix_held(store: &EmbeddedStore) -> u64 {
    store.maintain().unwrap();
    let mut found = BTreeMap::new();
    let mut count = 0;
    for shard in 0..SHARDS {
        let rows: Vec<Row> = store.load_shard(ShardId(shard), EPOCH).unwrap();
        for (key, value) in rows {
            if key == COUNTER {
                count = count.max(u64::from_le_bytes(value.as_slice().try_into().unwrap()));
            }
            found.insert((shard, key), value);
        }
        for image in 0..7 {
            let key = [&[0xf0][..], b"k\0", &[image]].concat();
            let wanted = ImageKey { shard: ShardId(shard), epoch: EPOCH, key: key.clone() };
            if let Some(value) = store.load_images(&[wanted]).unwrap().remove(0) {
                found.insert((shard, key), value);
            }
        }
    }
    assert!(found == expected(count), "the rows are not those of the first {count} batches");
    for owned in store.owned().unwrap() {
        assert_eq!(owned.number, number(count, owned.shard.0), "{} after {count} batches", owned.shard);
    }
    count
}
