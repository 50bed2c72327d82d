//! Full disks, foreign directories, two processes.

use std::io::Write as _;
use std::process::Command;
use std::sync::Arc;

use super::script::{EPOCH, Run, config, found, founding, open, prefix_held};
use crate::placement::{ShardId, Shards};
use crate::store::batch::put;
use crate::store::disk::SimulatedDisk;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore, OpenError};
use crate::store::{Batch, LaneId, NoRoom, Store};

const LANE: LaneId = LaneId(0);

fn batch(number: u64, len: usize) -> Batch {
    let mut batch = Batch::new();
    batch.section(ShardId(0), EPOCH, number, |out| put(&[&number.to_be_bytes()], &[&vec![7; len]], out));
    batch
}

#[test]
fn a_full_disk_refuses_room_but_never_a_batch_that_has_it() {
    let disk = SimulatedDisk::new(0);
    let store = found(&disk).unwrap();
    let mut lane = store.open_lane(LANE);
    disk.set_capacity(Some(disk.used() + 10_000));
    let mut reserved = Vec::new();
    let mut number = 1;
    while store.reserve(LANE, 20_100).is_ok() {
        reserved.push(batch(number, 20_000));
        number += 1;
    }
    assert!(reserved.len() > 2);
    store.maintain().unwrap();
    for batch in &reserved {
        lane.commit(std::slice::from_ref(batch)).unwrap();
        store.release(LANE, 20_100);
        store.maintain().unwrap();
        assert_eq!(store.reserve(LANE, 100), Err(NoRoom::DiskFull));
        assert!(store.wants_maintenance());
    }
    assert!(disk.faults().refused_full > 0);
    disk.set_capacity(None);
    assert_eq!(store.reserve(LANE, 100), Err(NoRoom::DiskFull), "until maintenance has found the space");
    store.maintain().unwrap();
    store.reserve(LANE, 100).unwrap();
    lane.commit(&[batch(number, 10)]).unwrap();
    store.maintain().unwrap();
    assert_eq!(store.load_shard(ShardId(0), EPOCH).unwrap().len(), reserved.len() + 1);
}

#[test]
fn a_log_at_its_bound_refuses_room_until_the_checkpoint_has_shortened_it() {
    let disk = SimulatedDisk::new(0);
    let store = found(&disk).unwrap();
    let mut lane = store.open_lane(LANE);
    let mut number = 0;
    let refused = loop {
        match store.reserve(LANE, 30_100) {
            Ok(()) => {
                number += 1;
                lane.commit(&[batch(number, 30_000)]).unwrap();
                store.release(LANE, 30_100);
            }
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, NoRoom::LogTail);
    assert!(store.wants_maintenance());
    store.maintain().unwrap();
    assert!(!store.wants_maintenance());
    assert_eq!(store.tail_bytes(), 0);
    store.reserve(LANE, 30_100).unwrap();
}

#[test]
fn a_disk_that_is_full_when_the_store_opens_is_said_and_loses_nothing() {
    let disk = SimulatedDisk::new(0);
    let store = found(&disk).unwrap();
    let mut run = Run::default();
    run.go_on(&store, 17).unwrap();
    drop(store);
    disk.set_capacity(Some(disk.used() - 30_000));
    assert!(matches!(open(&disk), Err(OpenError::Full { .. })));
    disk.set_capacity(None);
    assert_eq!(prefix_held(&open(&disk).unwrap()), run.acknowledged);
}

#[test]
fn one_directory_has_one_store_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::found(directory.path(), &founding(), &config()).unwrap();
    let second = EmbeddedStore::open(directory.path(), &config()).err().unwrap();
    assert!(
        matches!(second, OpenError::Locked { by: Some(pid), .. } if pid == std::process::id()),
        "{second}"
    );
    drop(store);
    EmbeddedStore::open(directory.path(), &config()).unwrap();

    let disk = SimulatedDisk::new(0);
    let store = found(&disk).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::Locked { .. })));
    drop(store);
    open(&disk).unwrap();
}

#[test]
fn a_directory_that_another_process_uses_is_refused_with_its_id() {
    let directory = tempfile::tempdir().unwrap();
    drop(EmbeddedStore::found(directory.path(), &founding(), &config()).unwrap());
    // `flock` takes the same lock as a store would, and holds it until its standard input ends.
    let held = Command::new("flock")
        .args([
            directory.path().join("lock").as_os_str(),
            "sh".as_ref(),
            "-c".as_ref(),
            "echo $$ > \"$0\"; echo; cat".as_ref(),
        ])
        .arg(directory.path().join("lock"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(mut holder) = held else {
        println!("skipped: this system has no `flock` command to hold the lock with");
        return;
    };
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let refused = EmbeddedStore::open(directory.path(), &config()).err().unwrap();
    assert!(
        matches!(refused, OpenError::Locked { by: Some(pid), .. } if pid != std::process::id()),
        "{refused}"
    );
    assert!(refused.to_string().contains("uses data directory"));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    EmbeddedStore::open(directory.path(), &config()).unwrap();
}

#[test]
fn what_is_no_store_is_said_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let open = |path: &std::path::Path| EmbeddedStore::open(path, &config()).err().unwrap();
    let found = |path: &std::path::Path| EmbeddedStore::found(path, &founding(), &config());
    assert!(matches!(open(path), OpenError::NotFounded { .. }));
    assert!(matches!(open(&path.join("missing")), OpenError::NotFounded { .. }));
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "an empty directory stays empty");

    let file = path.join("file");
    std::fs::File::create(&file).unwrap().write_all(b"mine").unwrap();
    assert!(matches!(open(&file), OpenError::NotADirectory { .. }));
    assert!(matches!(found(&file).err(), Some(OpenError::NotADirectory { .. })));
    assert!(matches!(open(path), OpenError::NotFounded { .. }));
    let foreign = found(path).err().unwrap();
    assert!(matches!(&foreign, OpenError::NotEmpty { name, .. } if name == "file"), "{foreign}");
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 1, "a foreign directory stays as it is");

    let place = path.join("deep").join("er");
    drop(found(&place).unwrap());
    assert!(matches!(found(&place).err(), Some(OpenError::AlreadyFounded { .. })));
}

#[test]
fn a_store_keeps_the_number_of_shards_it_was_founded_with() {
    let disk = SimulatedDisk::new(0);
    drop(found(&disk).unwrap());
    let other = EmbeddedConfig { shards: Shards::new(64), ..config() };
    let refused = EmbeddedStore::open_on(Arc::new(disk.clone()), &other).err().unwrap();
    assert!(matches!(refused, OpenError::Shards { founded: 4, configured: 64 }), "{refused}");
    let same = EmbeddedConfig { shards: Shards::new(4), ..config() };
    assert_eq!(EmbeddedStore::open_on(Arc::new(disk), &same).unwrap().shards().count(), 4);
}

#[test]
fn segments_of_another_length_are_read_and_then_replaced() {
    let disk = SimulatedDisk::new(0);
    let mut run = Run::default();
    run.go_on(&found(&disk).unwrap(), 20).unwrap();
    let longer = EmbeddedConfig { segment_bytes: 128 << 10, ..config() };
    for config in [longer, config()] {
        let store = EmbeddedStore::open_on(Arc::new(disk.clone()), &config).unwrap();
        assert_eq!(prefix_held(&store), run.acknowledged);
        run.go_on(&store, run.acknowledged + 30).unwrap();
    }
    assert_eq!(prefix_held(&open(&disk).unwrap()), run.acknowledged);
}

#[test]
fn settings_that_contradict_themselves_are_refused() {
    let disk = Arc::new(SimulatedDisk::new(0));
    for (segment_bytes, tail_bytes) in
        [(1 << 10, 1 << 20), (65_537, 1 << 20), (2 << 30, 8 << 30), (1 << 20, 1 << 20)]
    {
        let config = EmbeddedConfig { segment_bytes, tail_bytes, ..EmbeddedConfig::default() };
        let refused = EmbeddedStore::found_on(disk.clone(), &founding(), &config);
        assert!(matches!(refused.err(), Some(OpenError::Config(_))));
    }
}
