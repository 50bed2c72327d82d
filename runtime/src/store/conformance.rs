//! One suite for every engine: what the module above promises, as tests.
//!
//! An [`Engine`] makes a store, closes it and opens it again with what it kept; the suite runs the same sentences on
//! each.

mod notes;
mod ownership;
mod running;
mod staging;
mod two_stores;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::batch::{delete, delete_range, put};
use super::disk::SimulatedDisk;
use super::embedded::{EmbeddedConfig, EmbeddedStore, Founding, SEGMENT_BYTES_MIN};
use super::memory::MemoryStore;
use super::{Batch, CommitError, ImageKey, Lane, LaneId, LoadError, Position, Row, Store};
use crate::placement::{Epoch, ShardId, Shards};

const EPOCH: Epoch = Epoch(1);
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

fn on_every_engine(sentence: impl Fn(&mut dyn Engine)) {
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

/// A batch of one section.
fn batch(shard: u32, number: u64, write: impl FnOnce(&mut Vec<u8>)) -> Batch {
    let mut batch = Batch::new();
    batch.section(ShardId(shard), EPOCH, number, write);
    batch
}

fn lane_of(store: &Arc<dyn Store>, shard: u32) -> Box<dyn Lane> {
    store.open_lane(store.lane_of(ShardId(shard)))
}

fn rows(store: &Arc<dyn Store>, shard: u32) -> Vec<Row> {
    store.maintain().unwrap();
    store.load_shard(ShardId(shard), EPOCH).unwrap()
}

fn image(store: &Arc<dyn Store>, shard: u32, key: &[u8]) -> Option<Vec<u8>> {
    store.maintain().unwrap();
    let key = ImageKey { shard: ShardId(shard), epoch: EPOCH, key: [&[IMAGE], key].concat() };
    store.load_images(&[key]).unwrap().remove(0)
}

fn row(key: &[u8], value: &[u8]) -> Row {
    (key.to_vec(), value.to_vec())
}

#[test]
fn what_was_committed_survives_every_reopening() {
    on_every_engine(|engine| {
        for reopened in 0..4_u64 {
            let store = engine.open();
            let mut lane = lane_of(&store, 3);
            for number in reopened * 10 + 1..=reopened * 10 + 10 {
                let value = vec![number as u8; 3_000];
                let commit = batch(3, number, |out| {
                    put(&[&[0x12], &number.to_be_bytes()], &[b"m"], out);
                    put(&[&[IMAGE], b"a\0k"], &[&value], out);
                });
                lane.commit(&[commit]).unwrap();
            }
        }
        let store = engine.open();
        assert_eq!(rows(&store, 3).len(), 40);
        assert_eq!(image(&store, 3, b"a\0k"), Some(vec![40; 3_000]));
        assert_eq!(store.owned().unwrap()[3].number, 40);
        assert_eq!(store.owned().unwrap()[2].number, 0);
    });
}

#[test]
fn a_group_is_applied_in_order_and_positions_rise() {
    on_every_engine(|engine| {
        let store = engine.open();
        let mut lane = lane_of(&store, 0);
        let mut last = Position::default();
        for group in 0..5_u64 {
            let numbers = group * 3 + 1..=group * 3 + 3;
            let batches: Vec<_> = numbers
                .map(|number| batch(0, number, |out| put(&[&[1]], &[&number.to_le_bytes()], out)))
                .collect();
            let position = lane.commit(&batches).unwrap();
            assert!(position > last);
            last = position;
            lane.quiet().unwrap();
        }
        assert_eq!(rows(&store, 0), [row(&[1], &15_u64.to_le_bytes())]);
        assert!(store.loadable(LaneId(0)) >= last);
    });
}

#[test]
fn a_range_of_rows_is_visited_in_order_until_no_more_are_wanted() {
    on_every_engine(|engine| {
        let store = engine.open();
        let key = |number: u64| [&[0x12], 7_u32.to_be_bytes().as_slice(), &number.to_be_bytes()].concat();
        let outbox = batch(1, 1, |out| {
            for number in (1..=300).rev() {
                put(&[&key(number)], &[&number.to_le_bytes()], out);
            }
            put(&[&[0x13]], &[b"behind"], out);
        });
        lane_of(&store, 1).commit(&[outbox]).unwrap();
        store.maintain().unwrap();
        let read = |range: std::ops::Range<u64>, most: usize| {
            let mut values = Vec::new();
            let keys = [key(range.start), key(range.end)];
            store
                .load_rows(ShardId(1), EPOCH, keys[0].as_slice()..keys[1].as_slice(), &mut |_, value| {
                    values.push(u64::from_le_bytes(value.try_into().unwrap()));
                    values.len() < most
                })
                .unwrap();
            values
        };
        assert_eq!(read(250..280, 1_000), (250..280).collect::<Vec<_>>());
        assert_eq!(read(250..280, 3), [250, 251, 252]);
        assert_eq!(read(299..u64::MAX, 1_000), [299, 300]);
        assert_eq!(read(301..400, 1_000), [0; 0]);
        assert!(matches!(
            store.load_rows(ShardId(1), Epoch(9), [].as_slice()..&[0xff], &mut |_, _| true),
            Err(LoadError::NotOwned(_))
        ));
    });
}

#[test]
fn a_batch_of_several_shards_is_visible_whole() {
    on_every_engine(|engine| {
        let store = engine.open();
        let mut lane = lane_of(&store, 1);
        let shards: Vec<_> = store
            .shards()
            .iter()
            .filter(|shard| store.lane_of(*shard) == store.lane_of(ShardId(1)))
            .collect();
        let mut batch = Batch::new();
        for shard in &shards {
            batch.section(*shard, EPOCH, 1, |out| put(&[&[1]], &[b"x"], out));
        }
        lane.commit(&[batch]).unwrap();
        drop((lane, store));
        let store = engine.open();
        for shard in shards {
            assert_eq!(rows(&store, shard.0), [row(&[1], b"x")]);
        }
    });
}

#[test]
fn a_stale_epoch_or_a_wrong_number_changes_nothing() {
    on_every_engine(|engine| {
        let store = engine.open();
        let mut lane = lane_of(&store, 2);
        let written = |out: &mut Vec<u8>| put(&[&[1]], &[b"good"], out);
        lane.commit(&[batch(2, 1, written), batch(2, 2, written)]).unwrap();
        let bad = |epoch: u64, number: u64| {
            let mut batch = Batch::new();
            batch.section(ShardId(2), Epoch(epoch), number, |out| put(&[&[1]], &[b"bad"], out));
            batch
        };
        for (epoch, number) in [(0, 3), (2, 3), (2, 1), (1, 1), (1, 4), (1, 0)] {
            let good = batch(2, 3, |out| put(&[&[1]], &[b"bad too"], out));
            let groups = [vec![bad(epoch, number)], vec![good, bad(epoch, number)]];
            for group in groups.iter().take(if number == 4 { 1 } else { 2 }) {
                let refused = lane.commit(group);
                // Where nobody else can write it is a bug, and stops the node (P13).
                let is_refused = match refused {
                    Err(CommitError::Fenced(shard)) => shard == ShardId(2),
                    Err(CommitError::Fatal(_)) => !engine.voids(),
                    _ => false,
                };
                assert!(is_refused, "{epoch} {number}: {refused:?}");
            }
        }
        assert_eq!(rows(&store, 2), [row(&[1], b"good")]);
        lane.commit(&[batch(2, 3, |out| put(&[&[1]], &[b"next"], out))]).unwrap();
        assert_eq!(rows(&store, 2), [row(&[1], b"next")]);
    });
}

#[test]
fn a_repeated_group_is_known_by_its_numbers() {
    on_every_engine(|engine| {
        let store = engine.open();
        let mut lane = lane_of(&store, 4);
        let group: Vec<_> =
            (1..=3).map(|number| batch(4, number, |out| put(&[&[1]], &[&[number as u8]], out))).collect();
        lane.commit(&group[..2]).unwrap();
        lane.commit(&group[..2]).unwrap();
        assert_eq!(store.owned().unwrap()[4].number, 2);
        lane.commit(&group).unwrap();
        assert_eq!(store.owned().unwrap()[4].number, 3);
        assert_eq!(rows(&store, 4), [row(&[1], &[3])]);
    });
}

#[test]
fn deletes_and_ranges_take_away_what_they_name_in_the_same_round_and_later() {
    on_every_engine(|engine| {
        let store = engine.open();
        let mut lane = lane_of(&store, 5);
        let key = |number: u64| [&[0x12, 0, 0, 0, 9][..], &number.to_be_bytes()].concat();
        let puts = |out: &mut Vec<u8>| (1..=10).for_each(|number| put(&[&key(number)], &[b"m"], out));
        lane.commit(&[batch(5, 1, puts)]).unwrap();
        let prefix = [0x12, 0, 0, 0, 9];
        lane.commit(&[batch(5, 2, |out| delete_range(&[&prefix], 1, 4, out))]).unwrap();
        let left =
            |store: &Arc<dyn Store>| rows(store, 5).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(left(&store), (5..=10).map(key).collect::<Vec<_>>());
        // Now the rows are where loads find them.
        lane.commit(&[batch(5, 3, |out| {
            delete_range(&[&prefix], 3, 7, out);
            delete(&[&key(9)], out);
        })])
        .unwrap();
        assert_eq!(left(&store), [key(8), key(10)]);
        lane.commit(&[batch(5, 4, |out| put(&[&key(9)], &[b"again"], out))]).unwrap();
        assert_eq!(left(&store), [key(8), key(9), key(10)]);
        drop((lane, store));
        assert_eq!(left(&engine.open()), [key(8), key(9), key(10)]);
    });
}

#[test]
fn a_shard_is_loaded_in_key_order_without_its_images_or_its_neighbours() {
    on_every_engine(|engine| {
        let store = engine.open();
        let mut lane = lane_of(&store, 6);
        lane.commit(&[batch(6, 1, |out| {
            put(&[&[IMAGE], b"kind\0key"], &[b"image"], out);
            put(&[&[0x32, 0xff]], &[b"last"], out);
            put(&[&[0x01]], &[b"first"], out);
        })])
        .unwrap();
        assert_eq!(rows(&store, 6), [row(&[0x01], b"first"), row(&[0x32, 0xff], b"last")]);
        assert_eq!(rows(&store, 5), []);
        assert_eq!(rows(&store, 7), []);
        assert_eq!(image(&store, 6, b"kind\0key"), Some(b"image".to_vec()));
        assert_eq!(image(&store, 6, b"kind\0other"), None);
        assert_eq!(image(&store, 5, b"kind\0key"), None);
    });
}

#[test]
fn a_shard_is_loaded_only_under_its_epoch() {
    on_every_engine(|engine| {
        let store = engine.open();
        for (shard, epoch) in [(ShardId(1), Epoch(2)), (ShardId(1), Epoch(0)), (ShardId(SHARDS), EPOCH)] {
            assert!(matches!(store.load_shard(shard, epoch), Err(LoadError::NotOwned(_))));
            let key = ImageKey { shard, epoch, key: vec![IMAGE] };
            assert!(matches!(store.load_images(&[key]), Err(LoadError::NotOwned(_))));
        }
    });
}

#[test]
fn what_is_reserved_commits_however_small_the_log() {
    on_every_engine(|engine| {
        let store = engine.open();
        let mut lane = lane_of(&store, 0);
        let mut number = 0;
        for round in 0..40 {
            let mut granted = Vec::new();
            let mut batches = Vec::new();
            while batches.len() < 30 {
                let size = 500 + (round * 37 + batches.len() * 911) % 30_000;
                let next = batch(0, number + 1, |out| put(&[&[1]], &[&vec![1; size]], out));
                let bytes = next.bytes().len() as u64;
                if store.reserve(LaneId(0), bytes).is_err() {
                    break;
                }
                number += 1;
                granted.push(bytes);
                batches.push(next);
            }
            assert!(!batches.is_empty(), "a maintained store has room for something");
            for group in batches.chunks(7) {
                lane.commit(group).unwrap();
            }
            for bytes in granted {
                store.release(LaneId(0), bytes);
            }
            if store.wants_maintenance() {
                store.maintain().unwrap();
            }
        }
    });
}

struct ClearOnDrop<'f>(&'f AtomicBool);

impl Drop for ClearOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn commits_loads_and_maintenance_go_on_beside_one_another() {
    on_every_engine(|engine| {
        let store = engine.open();
        let mut lane = lane_of(&store, 0);
        let key = ImageKey { shard: ShardId(0), epoch: EPOCH, key: vec![IMAGE] };
        let maintained = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let committing = scope.spawn(|| {
                for number in 1..=300_u64 {
                    let value = [&number.to_le_bytes()[..], &[0; 700]].concat();
                    let next = batch(0, number, |out| {
                        put(&[&[1]], &[&value], out);
                        put(&[&[IMAGE]], &[&value], out);
                    });
                    let bytes = next.bytes().len() as u64;
                    while store.reserve(LaneId(0), bytes).is_err() {
                        assert!(maintained.load(Ordering::Relaxed), "nobody makes room any more");
                        std::thread::yield_now();
                    }
                    lane.commit(&[next]).unwrap();
                    store.release(LaneId(0), bytes);
                }
            });
            // Cleared when this thread fails too, or the other would wait for room for ever.
            let _maintaining = ClearOnDrop(&maintained);
            let mut newest = 0;
            while newest < 300 {
                let finished = committing.is_finished();
                store.maintain().unwrap();
                let image = store.load_images(std::slice::from_ref(&key)).unwrap().remove(0);
                let rows = store.load_shard(ShardId(0), EPOCH).unwrap();
                let Some(image) = image else { continue };
                let number = |value: &[u8]| u64::from_le_bytes(value[..8].try_into().unwrap());
                // The image was loaded first, so the shard cannot be older.
                assert!(newest <= number(&image) && number(&image) <= number(&rows[0].1));
                newest = number(&image);
                assert!(!finished || newest == 300);
            }
        });
    });
}
