//! What every engine keeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{IMAGE, SHARDS, batch, epoch, image, lane_of, next, on_every_engine, row, rows};
use crate::placement::{Epoch, ShardId};
use crate::store::batch::{delete, delete_range, put};
use crate::store::{Batch, CommitError, ImageKey, LaneId, LoadError, Position, Store};

#[test]
fn what_was_committed_survives_every_reopening() {
    on_every_engine(|engine| {
        for reopened in 0..4_u64 {
            let store = engine.open();
            let mut lane = lane_of(&store, 3);
            for number in reopened * 10 + 1..=reopened * 10 + 10 {
                let value = vec![number as u8; 3_000];
                let commit = batch(&store, 3, next(&store, 3), |out| {
                    put(&[&[0x12], &number.to_be_bytes()], &[b"m"], out);
                    put(&[&[IMAGE], b"a\0k"], &[&value], out);
                });
                lane.commit(&[commit]).unwrap();
            }
        }
        let store = engine.open();
        assert_eq!(rows(&store, 3).len(), 40);
        assert_eq!(image(&store, 3, b"a\0k"), Some(vec![40; 3_000]));
        assert!(store.owned().unwrap().iter().map(|owned| owned.shard).eq(store.shards().iter()));
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
                .map(|number| batch(&store, 0, number, |out| put(&[&[1]], &[&number.to_le_bytes()], out)))
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
        let outbox = batch(&store, 1, 1, |out| {
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
                .load_rows(
                    ShardId(1),
                    epoch(&store, 1),
                    keys[0].as_slice()..keys[1].as_slice(),
                    &mut |_, value| {
                        values.push(u64::from_le_bytes(value.try_into().unwrap()));
                        values.len() < most
                    },
                )
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
            batch.section(*shard, epoch(&store, shard.0), 1, |out| put(&[&[1]], &[b"x"], out));
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
        lane.commit(&[batch(&store, 2, 1, written), batch(&store, 2, 2, written)]).unwrap();
        let Epoch(now) = epoch(&store, 2);
        let bad = |epoch: u64, number: u64| {
            let mut batch = Batch::new();
            batch.section(ShardId(2), Epoch(epoch), number, |out| put(&[&[1]], &[b"bad"], out));
            batch
        };
        for (epoch, number) in [(now - 1, 3), (now + 1, 3), (now + 1, 1), (now, 1), (now, 4), (now, 0)] {
            let good = batch(&store, 2, 3, |out| put(&[&[1]], &[b"bad too"], out));
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
        lane.commit(&[batch(&store, 2, 3, |out| put(&[&[1]], &[b"next"], out))]).unwrap();
        assert_eq!(rows(&store, 2), [row(&[1], b"next")]);
    });
}

#[test]
fn a_repeated_group_is_known_by_its_numbers() {
    on_every_engine(|engine| {
        let store = engine.open();
        let mut lane = lane_of(&store, 4);
        let group: Vec<_> = (1..=3)
            .map(|number| batch(&store, 4, number, |out| put(&[&[1]], &[&[number as u8]], out)))
            .collect();
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
        lane.commit(&[batch(&store, 5, 1, puts)]).unwrap();
        let prefix = [0x12, 0, 0, 0, 9];
        lane.commit(&[batch(&store, 5, 2, |out| delete_range(&[&prefix], 1, 4, out))]).unwrap();
        let left =
            |store: &Arc<dyn Store>| rows(store, 5).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(left(&store), (5..=10).map(key).collect::<Vec<_>>());
        // Now the rows are where loads find them.
        lane.commit(&[batch(&store, 5, 3, |out| {
            delete_range(&[&prefix], 3, 7, out);
            delete(&[&key(9)], out);
        })])
        .unwrap();
        assert_eq!(left(&store), [key(8), key(10)]);
        lane.commit(&[batch(&store, 5, 4, |out| put(&[&key(9)], &[b"again"], out))]).unwrap();
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
        lane.commit(&[batch(&store, 6, 1, |out| {
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
        let now = epoch(&store, 1);
        let others = [Epoch(now.0 + 1), Epoch(now.0 - 1)].map(|epoch| (ShardId(1), epoch));
        for (shard, epoch) in others.into_iter().chain([(ShardId(SHARDS), now)]) {
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
                let next = batch(&store, 0, number + 1, |out| put(&[&[1]], &[&vec![1; size]], out));
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
        let key = ImageKey { shard: ShardId(0), epoch: epoch(&store, 0), key: vec![IMAGE] };
        let maintained = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let committing = scope.spawn(|| {
                for number in 1..=300_u64 {
                    let value = [&number.to_le_bytes()[..], &[0; 700]].concat();
                    let next = batch(&store, 0, number, |out| {
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
                let rows = store.load_shard(ShardId(0), key.epoch).unwrap();
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
