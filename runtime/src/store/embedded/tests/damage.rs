//! Damage to what was written: bits, cuts, old records. What no later group calls durable is a torn tail and is cut; all
//! else is refused with its place (P15).

use std::ops::Range;

use super::script::{Run, batch, config, found, founding, open, prefix_held, size};
use crate::store::disk::{Disk, SimulatedDisk};
use crate::store::embedded::group::{ALIGN, GroupHeader};
use crate::store::embedded::segment::{HeaderVerdict, SegmentHeader, StoreId, number};
use crate::store::embedded::{EmbeddedStore, OpenError};
use crate::store::{LaneId, Store};

/// A group as it lies on the disk.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) file: String,
    pub(super) bytes: Range<usize>,
    position: u64,
}

/// A fresh store with all its spare segments, as its upkeep makes them beside the work.
fn roomy(disk: &SimulatedDisk) -> EmbeddedStore {
    let store = found(disk).unwrap();
    store.maintain().unwrap();
    store
}

/// A disk with `batches` groups of one batch each in its log and nothing in its checkpoint.
fn log_of(batches: u64, quiet: bool) -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let store = roomy(&disk);
    let mut lane = store.open_lane(LaneId(0));
    for index in 1..=batches {
        lane.commit(&[batch(index, size(index))]).unwrap();
    }
    if quiet {
        lane.quiet().unwrap();
        lane.quiet().unwrap();
    }
    drop((lane, store));
    disk
}

fn read(disk: &SimulatedDisk, name: &str) -> Vec<u8> {
    crate::store::disk::read_whole(&*disk.open(name).unwrap()).unwrap()
}

/// The groups of all segments in the order of the log.
pub(super) fn groups(disk: &SimulatedDisk) -> Vec<Placed> {
    let store = StoreId::new(founding().store);
    let mut groups = Vec::new();
    for file in disk.list().unwrap().into_iter().filter(|name| number(name).is_some()) {
        let bytes = read(disk, &file);
        let HeaderVerdict::Good(segment) = SegmentHeader::decode(bytes[..64].try_into().unwrap(), store)
        else {
            panic!("a segment without a header");
        };
        for at in (64..bytes.len()).step_by(ALIGN as usize) {
            if let Some(header) = GroupHeader::decode(&bytes[at..], store.seed)
                && header.generation == segment.generation
            {
                let len = (header.end() - header.position) as usize;
                groups.push(Placed { file: file.clone(), bytes: at..at + len, position: header.position });
            }
        }
    }
    groups.sort_by_key(|group| group.position);
    groups
}

/// Offsets in a group that stand for every kind of field: its whole header, each record's header, some of each body.
fn offsets(group: &Placed) -> Vec<usize> {
    let header_and_first_record = 0..64 + 24;
    let body = (64 + 24..group.bytes.len().saturating_sub(64)).step_by(997);
    header_and_first_record.chain(body).map(|at| group.bytes.start + at).collect()
}

#[test]
fn a_flipped_bit_in_any_group_that_a_later_one_calls_durable_is_refused_with_its_position() {
    let disk = log_of(16, true);
    let groups = groups(&disk);
    assert!(
        groups.len() == 17 && groups.iter().any(|group| group.file != groups[0].file),
        "several segments"
    );
    for group in &groups[..16] {
        for at in offsets(group) {
            let damaged = disk.fork(0);
            damaged.flip(&group.file, at, at as u32).unwrap();
            let Err(OpenError::Corrupt { position, .. }) = open(&damaged) else {
                panic!("byte {at} of {group:?} was not refused");
            };
            // Where a segment begins, the log is known to continue from the end of the one before.
            assert!(position == group.position || group.bytes.start == 64 && position < group.position);
        }
    }
}

#[test]
fn a_flipped_bit_in_the_last_group_is_a_torn_tail_and_cut() {
    let disk = log_of(16, false);
    let last = groups(&disk).pop().unwrap();
    for at in offsets(&last) {
        let damaged = disk.fork(0);
        damaged.flip(&last.file, at, at as u32).unwrap();
        let store = open(&damaged).unwrap();
        let mut run = Run { submitted: 15, acknowledged: prefix_held(&store) };
        assert_eq!(run.acknowledged, 15, "byte {at}");
        run.go_on(&store, 20).unwrap();
        damaged.crash();
        damaged.restart();
        assert_eq!(prefix_held(&open(&damaged).unwrap()), run.acknowledged);
    }
}

#[test]
fn a_flipped_bit_in_a_header_of_a_segment_in_use_is_refused() {
    let disk = log_of(16, true);
    let mut files: Vec<_> = groups(&disk).into_iter().map(|group| group.file).collect();
    files.dedup();
    for file in files {
        for at in 0..64 {
            let damaged = disk.fork(0);
            damaged.flip(&file, at, at as u32 % 8).unwrap();
            let refused = open(&damaged).map(|store| prefix_held(&store));
            assert!(matches!(refused, Err(OpenError::Corrupt { .. })), "byte {at} of {file}: {refused:?}");
        }
    }
}

#[test]
fn damage_where_nothing_is_stored_changes_nothing() {
    let disk = log_of(16, true);
    let last = groups(&disk).pop().unwrap();
    for at in (last.bytes.end..65_536).step_by(4_099) {
        let damaged = disk.fork(0);
        damaged.flip(&last.file, at, 3).unwrap();
        assert_eq!(prefix_held(&open(&damaged).unwrap()), 16);
    }
}

#[test]
fn a_truncated_log_is_cut_only_behind_what_is_declared_durable() {
    let disk = log_of(16, true);
    let groups = groups(&disk);
    for (index, group) in groups.iter().enumerate() {
        for len in [group.bytes.start, group.bytes.start + 64, group.bytes.end - 64, group.bytes.end] {
            let damaged = disk.fork(0);
            damaged.truncate(&group.file, len).unwrap();
            let whole = len == group.bytes.end;
            let later = groups[index + 1..].iter().any(|later| later.file != group.file);
            match open(&damaged) {
                Ok(store) => {
                    assert!(!later || whole, "{group:?} cut at {len}");
                    let mut run = Run { submitted: 16, acknowledged: prefix_held(&store) };
                    let kept = if later { 16 } else { index as u64 + u64::from(whole) };
                    assert_eq!(run.acknowledged, kept.min(16), "{group:?} cut at {len}");
                    run.go_on(&store, 30).unwrap();
                    drop(store);
                    assert_eq!(prefix_held(&open(&damaged).unwrap()), run.acknowledged);
                }
                Err(OpenError::Corrupt { .. }) => assert!(later, "{group:?} cut at {len}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_segment_that_vanished_is_refused_unless_the_checkpoint_covers_it() {
    let disk = log_of(16, true);
    let mut files: Vec<_> = groups(&disk).into_iter().map(|group| group.file).collect();
    files.dedup();
    let (last, others) = files.split_last().unwrap();
    for file in others {
        let damaged = disk.fork(0);
        damaged.remove(file).unwrap();
        assert!(matches!(open(&damaged), Err(OpenError::Corrupt { .. })), "{file}");
    }
    open(&disk).unwrap();
    disk.remove(last).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::Corrupt { .. })), "the one in which the log goes on");
}

#[test]
fn old_records_of_recycled_segments_are_never_read_again() {
    let disk = SimulatedDisk::new(5);
    let store = roomy(&disk);
    let mut run = Run::default();
    run.go_on(&store, 400).unwrap();
    drop(store);
    assert!(disk.list().unwrap().len() < 12, "segments are used again: {:?}", disk.list());
    assert_eq!(prefix_held(&open(&disk).unwrap()), run.acknowledged);
}

#[test]
fn a_log_of_another_version_is_refused_by_number() {
    let disk = log_of(3, false);
    let store = StoreId::new(founding().store);
    let file = groups(&disk).remove(0).file;
    let mut header: [u8; 64] = read(&disk, &file)[..64].try_into().unwrap();
    header[8] = 9;
    let checksum = crc32c::crc32c_append(store.seed, &header[..60]);
    header[60..].copy_from_slice(&checksum.to_le_bytes());
    let handle = disk.open(&file).unwrap();
    handle.write_at(&header, 0).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::Format { found: 9, known: 2, .. })));
}

#[test]
fn nothing_is_founded_over_a_store_that_lost_its_founding_record() {
    let disk = log_of(3, false);
    disk.remove("founding").unwrap();
    assert!(matches!(found(&disk), Err(OpenError::NotEmpty { .. })));
    assert!(matches!(open(&disk), Err(OpenError::NotFounded { .. })));

    let directory = tempfile::tempdir().unwrap();
    let again = || crate::store::embedded::EmbeddedStore::found(directory.path(), &founding(), &config());
    drop(again().unwrap());
    std::fs::remove_file(directory.path().join("founding")).unwrap();
    assert!(matches!(again(), Err(OpenError::NotEmpty { name, .. }) if name == "checkpoint"));
}

#[test]
fn a_group_that_ends_exactly_where_a_segment_ends_is_followed_by_the_next() {
    let room = config().segment_bytes as usize - 64;
    // What is left in the segment behind the first group: nothing, an empty group, or just too little.
    for left in [0, 64, 128] {
        for checkpointed in [false, true] {
            let disk = SimulatedDisk::new(0);
            let store = roomy(&disk);
            let mut lane = store.open_lane(LaneId(0));
            let first = sized(1, room - left - 64 - 8);
            assert!(first.bytes().len() as u64 <= store.batch_bytes_max());
            store.reserve(LaneId(0), first.bytes().len() as u64).unwrap();
            let position = lane.commit(&[first]).unwrap();
            assert_eq!(position.0, config().segment_bytes - left as u64);
            if checkpointed {
                store.maintain().unwrap();
            }
            lane.quiet().unwrap();
            lane.commit(&[sized(2, 200), sized(3, 300)]).unwrap();
            drop((lane, store));
            for _ in 0..2 {
                disk.crash();
                disk.restart();
                let store = open(&disk).unwrap();
                assert!(store.owned().unwrap().iter().all(|owned| owned.number == 3 || owned.shard.0 > 0));
                assert_eq!(
                    store.load_shard(crate::placement::ShardId(0), super::script::EPOCH).unwrap().len(),
                    1
                );
            }
        }
    }
}

#[test]
fn a_batch_that_fits_in_no_segment_is_refused_and_changes_nothing() {
    let disk = SimulatedDisk::new(0);
    let store = roomy(&disk);
    let mut lane = store.open_lane(LaneId(0));
    let most = store.batch_bytes_max() as usize;
    assert!(store.reserve(LaneId(0), most as u64 + 1).is_err());
    let refused = lane.commit(&[sized(1, 100), sized(2, most + 1)]);
    assert!(matches!(refused, Err(crate::store::CommitError::Fatal(_))));
    lane.commit(&[sized(1, most), sized(2, most)]).unwrap();
    assert_eq!(store.owned().unwrap()[0].number, 2);
}

/// A batch of exactly `len` bytes.
fn sized(number: u64, len: usize) -> crate::store::Batch {
    let make = |value: usize| {
        let mut batch = crate::store::Batch::new();
        batch.section(crate::placement::ShardId(0), super::script::EPOCH, number, |out| {
            crate::store::batch::put(&[&[1]], &[&vec![9; value]], out);
        });
        batch
    };
    let mut batch = make(len.saturating_sub(14));
    for value in len.saturating_sub(20)..len {
        batch = make(value);
        if batch.bytes().len() == len {
            break;
        }
    }
    assert_eq!(batch.bytes().len(), len);
    batch
}
