//! Notes through crashes and damage.

use super::script::{found, open};
use crate::store::disk::{Disk, SimulatedDisk};
use crate::store::{LoadError, Store};

fn kept(disk: &SimulatedDisk, bytes: &[u8]) {
    let store = open(disk).unwrap();
    store.keep_note("members", bytes).unwrap();
}

fn founded() -> SimulatedDisk {
    let disk = SimulatedDisk::new(0);
    drop(found(&disk).unwrap());
    disk
}

#[test]
fn a_power_loss_while_a_note_is_replaced_leaves_the_old_one_or_the_new() {
    let old = founded();
    kept(&old, b"old");
    let opened = old.fork(0);
    drop(open(&opened).unwrap());
    let whole = old.fork(0);
    kept(&whole, b"new");
    let mut seen = [0, 0];
    for at in opened.operations() + 1..=whole.operations() {
        for seed in 0..8 {
            let disk = old.fork(seed << 32 | at);
            let store = open(&disk).unwrap();
            disk.crash_at(at - opened.operations());
            assert!(store.keep_note("members", b"new").is_err());
            disk.restart();
            let store = open(&disk).unwrap();
            let note = store.note("members").unwrap().unwrap();
            assert!(note == b"old" || note == b"new", "operation {at}, seed {seed}: {note:?}");
            seen[usize::from(note == b"new")] += 1;
            // What the crash left is in nobody's way.
            store.keep_note("members", b"newer").unwrap();
            disk.crash();
            disk.restart();
            assert_eq!(open(&disk).unwrap().note("members").unwrap().unwrap(), b"newer");
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

#[test]
fn a_damaged_note_is_told_and_the_store_serves_on() {
    let disk = founded();
    kept(&disk, b"members of old");
    let len = disk.open("note-members").unwrap().byte_len().unwrap();
    let is_damaged = |disk: &SimulatedDisk, what: &str| {
        let store = open(disk).unwrap();
        let Err(LoadError::Io(error)) = store.note("members") else { panic!("{what} was not seen") };
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("note-members"), "{error}");
        assert_eq!(store.note("boots").unwrap(), None);
        store.keep_note("members", b"new").unwrap();
        assert_eq!(store.note("members").unwrap().unwrap(), b"new");
    };
    for at in 0..len as usize {
        let damaged = disk.fork(0);
        damaged.flip("note-members", at, at as u32).unwrap();
        is_damaged(&damaged, &format!("byte {at}"));
        damaged.crash();
        let cut = disk.fork(0);
        cut.truncate("note-members", at).unwrap();
        is_damaged(&cut, &format!("a cut at {at}"));
    }
    // The note of another name, and one that grew beyond all bounds.
    let renamed = disk.fork(0);
    renamed.rename("note-members", "note-boots").unwrap();
    assert!(open(&renamed).unwrap().note("boots").is_err());
    let grown = disk.fork(0);
    grown.open("note-members").unwrap().write_at(&[0], 2 << 20).unwrap();
    is_damaged(&grown, "2 MiB");
}

#[test]
fn a_note_on_a_full_disk_is_refused_and_the_old_one_stays() {
    let disk = founded();
    kept(&disk, b"old");
    let store = open(&disk).unwrap();
    disk.set_capacity(Some(disk.used() + 10));
    let refused = store.keep_note("members", &[1; 100]);
    assert!(matches!(refused, Err(LoadError::Io(error)) if error.kind() == std::io::ErrorKind::StorageFull));
    assert_eq!(store.note("members").unwrap().unwrap(), b"old");
    disk.set_capacity(None);
    store.keep_note("members", &[1; 100]).unwrap();
    assert_eq!(store.note("members").unwrap().unwrap(), [1; 100]);
}
