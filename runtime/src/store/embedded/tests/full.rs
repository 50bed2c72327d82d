//! The checkpoint on a file system that is really full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::script::{EPOCH, config, founding};
use crate::placement::ShardId;
use crate::store::batch::put;
use crate::store::embedded::EmbeddedStore;
use crate::store::{Batch, ImageKey, LaneId, NoRoom, Store};

const LANE: LaneId = LaneId(0);
const LEN: usize = 20_000;

/// A small file system of its own, gone when dropped.
struct Small {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Small {
    fn mount(bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { path, _directory: directory }),
            other => {
                println!("skipped: no file system can be mounted here ({other:?})");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.path).status());
    }
}

fn image(number: u64) -> Vec<u8> {
    [&[0xf0][..], b"k\0", &number.to_be_bytes()].concat()
}

fn batch(number: u64) -> Batch {
    let mut batch = Batch::new();
    batch.section(ShardId(0), EPOCH, number, |out| put(&[&image(number)], &[&vec![number as u8; LEN]], out));
    batch
}

fn check(store: &EmbeddedStore, committed: u64) {
    let key = |number| ImageKey { shard: ShardId(0), epoch: EPOCH, key: image(number) };
    let keys: Vec<_> = (1..=committed).map(key).collect();
    for (number, value) in (1_u64..).zip(store.load_images(&keys).unwrap()) {
        assert_eq!(value, Some(vec![number as u8; LEN]), "image {number}");
    }
}

fn fill(path: &Path, bytes: usize) {
    // As much as there is room for; the rest of it does not matter.
    drop(fs::write(path, vec![1; bytes]));
}

#[test]
fn a_checkpoint_on_a_full_file_system_fails_whole_and_goes_on_when_there_is_space() {
    let Some(small) = Small::mount(160 << 20) else { return };
    let directory = small.path.join("data");
    let store = EmbeddedStore::found(&directory, &founding(), &config()).unwrap();
    let mut lane = store.open_lane(LANE);
    let mut committed = 0;
    let ballast = small.path.join("ballast");
    for round in 0..4 {
        // Enough that the checkpoint, and not the log's few segments, is what meets the end of the disk.
        fill(&ballast, 200 << 20);
        let refused = loop {
            let next = batch(committed + 1);
            let bytes = next.bytes().len() as u64;
            match store.reserve(LANE, bytes) {
                Ok(()) => {
                    lane.commit(&[next]).unwrap();
                    store.release(LANE, bytes);
                    committed += 1;
                    if committed % 7 == 0 {
                        store.maintain().unwrap();
                    }
                }
                Err(NoRoom::LogTail) => store.maintain().unwrap(),
                Err(NoRoom::DiskFull) => break NoRoom::DiskFull,
            }
        };
        assert_eq!(refused, NoRoom::DiskFull);
        assert!(
            store.loadable(LANE).0 < store.inner.log.durable(),
            "round {round}: the checkpoint could not follow"
        );
        store.load_shard(ShardId(0), EPOCH).unwrap();
        fs::remove_file(&ballast).unwrap();
        store.maintain().unwrap();
        store.reserve(LANE, 100).unwrap();
        store.release(LANE, 100);
        check(&store, committed);
    }
    drop((lane, store));
    let store = EmbeddedStore::open(&directory, &config()).unwrap();
    check(&store, committed);
    assert_eq!(store.owned().unwrap()[0].number, committed);
}
