//! Crashes at every operation.

use super::script::{Run, batch, found, open, prefix_held, size};
use crate::store::disk::{DiskFaults, SimulatedDisk};
use crate::store::embedded::OpenError;
use crate::store::{CommitError, LaneId, Store};

/// Batches of a whole run.
const WHOLE: u64 = 50;

/// A disk with a freshly founded store on it.
fn founded() -> SimulatedDisk {
    let disk = SimulatedDisk::new(0);
    drop(found(&disk).unwrap());
    disk
}

/// How many operations a whole run takes, its opening included.
fn operations(founded: &SimulatedDisk) -> u64 {
    let disk = founded.fork(0);
    Run::default().go_on(&open(&disk).unwrap(), WHOLE).unwrap();
    disk.operations()
}

/// Opens, goes through the script and breaks off at the planned fault.
fn run(disk: &SimulatedDisk) -> Run {
    let mut run = Run::default();
    if let Ok(store) = open(disk) {
        drop(run.go_on(&store, WHOLE));
    }
    run
}

fn check_run(run: &Run, held: u64, what: &str) {
    assert!(run.acknowledged <= held, "{what}: {} acknowledged, {held} held", run.acknowledged);
    assert!(held <= run.submitted, "{what}: {held} held of {} submitted", run.submitted);
}

#[test]
fn a_power_loss_at_any_operation_loses_nothing_acknowledged_and_leaves_a_prefix() {
    let founded = founded();
    let mut seen = DiskFaults::default();
    for at in 1..=operations(&founded) {
        for seed in 0..4 {
            let disk = founded.fork(seed << 32 | at);
            disk.crash_at(at);
            let mut run = run(&disk);
            disk.restart();
            let what = format!("operation {at}, seed {seed}");
            let store = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            let held = prefix_held(&store);
            check_run(&run, held, &what);
            assert!(!store.was_clean() || run.submitted == 0, "{what}");
            // It serves on, and a second loss takes nothing either.
            run.acknowledged = held;
            run.go_on(&store, held + 6).unwrap();
            disk.crash();
            disk.restart();
            assert_eq!(prefix_held(&open(&disk).unwrap()), run.acknowledged, "{what}");
            seen.crashes += disk.faults().crashes;
            seen.writes_lost += disk.faults().writes_lost;
            seen.writes_torn += disk.faults().writes_torn;
            seen.names_lost += disk.faults().names_lost;
        }
    }
    assert!(seen.writes_lost > 50 && seen.writes_torn > 50 && seen.names_lost > 5, "{seen:?}");
}

#[test]
fn a_power_loss_at_any_operation_of_a_recovery_is_recovered_by_the_next() {
    let founded = founded();
    for at in (5..operations(&founded)).step_by(7) {
        let crashed = founded.fork(at);
        crashed.crash_at(at);
        let run = run(&crashed);
        crashed.restart();
        let whole = crashed.fork(0);
        drop(open(&whole).unwrap());
        for nth in 1..=whole.operations() {
            let disk = crashed.fork(at ^ nth << 32);
            disk.crash_at(nth);
            assert!(open(&disk).is_err());
            disk.restart();
            let held = prefix_held(&open(&disk).unwrap());
            check_run(&run, held, &format!("operation {at}, then {nth} of the recovery"));
        }
    }
}

#[test]
fn what_was_served_after_a_kill_survives_a_power_loss_at_any_later_operation() {
    let founded = founded();
    for at in 1..=operations(&founded) {
        let disk = founded.fork(at);
        disk.kill_at(at);
        let run = run(&disk);
        disk.restart();
        // The cache shows all that was written, synced or not; what is shown once is shown for good.
        let store = open(&disk).unwrap();
        let served = store.owned().unwrap();
        disk.crash();
        disk.restart();
        let again = open(&disk).unwrap_or_else(|error| panic!("killed at operation {at}: {error}"));
        assert_eq!(again.owned().unwrap(), served, "killed at operation {at}");
        check_run(&run, prefix_held(&again), &format!("killed at operation {at}"));
        drop(store);
    }
}

#[test]
fn after_a_failed_sync_everything_is_refused_and_the_next_open_serves_only_what_is_durable() {
    let founded = founded();
    let syncs = {
        let disk = founded.fork(0);
        Run::default().go_on(&open(&disk).unwrap(), WHOLE).unwrap();
        disk.syncs()
    };
    let mut refused = 0;
    for at in 1..=syncs {
        for seed in 0..3 {
            let disk = founded.fork(seed << 32 | at);
            disk.fail_sync_at(at);
            let mut run = Run::default();
            if let Ok(store) = open(&disk) {
                let failed = run.go_on(&store, WHOLE);
                if disk.faults().syncs_failed > 0 && matches!(failed, Err(CommitError::Fatal(_))) {
                    refused += u64::from(store.inner.log.check().is_err());
                }
            }
            assert_eq!(disk.faults().syncs_failed, 1);
            disk.kill();
            disk.restart();
            let Ok(store) = open(&disk) else {
                panic!("sync {at}, seed {seed}: {:?}", open(&disk).err());
            };
            let served = prefix_held(&store);
            check_run(&run, served, &format!("sync {at}, seed {seed}"));
            disk.crash();
            disk.restart();
            assert_eq!(prefix_held(&open(&disk).unwrap()), served, "sync {at}, seed {seed}");
        }
    }
    assert!(refused > 0, "some of them were syncs of the log");
}

#[test]
fn a_lane_that_failed_to_sync_never_commits_again() {
    let disk = founded();
    let store = open(&disk).unwrap();
    let mut run = Run::default();
    disk.fail_sync_at(1);
    let mut lane = store.open_lane(LaneId(0));
    let group = [batch(1, size(1))];
    for _ in 0..3 {
        assert!(matches!(lane.commit(&group), Err(CommitError::Fatal(_))));
        assert!(matches!(lane.quiet(), Err(CommitError::Fatal(_))));
    }
    assert!(store.close().is_err());
    drop((lane, store));
    let store = open(&disk).unwrap();
    run.acknowledged = prefix_held(&store);
    run.go_on(&store, 3).unwrap();
}

#[test]
fn a_power_loss_at_any_operation_of_the_founding_leaves_a_store_or_a_place_to_found_one() {
    let whole = SimulatedDisk::new(0);
    drop(found(&whole).unwrap());
    let mut again = 0;
    for at in 1..=whole.operations() {
        for seed in 0..6 {
            let disk = SimulatedDisk::new(seed);
            disk.crash_at(at);
            assert!(found(&disk).is_err());
            disk.restart();
            let store = match open(&disk) {
                Ok(store) => store,
                Err(OpenError::NotFounded { .. }) => {
                    again += 1;
                    found(&disk).unwrap()
                }
                Err(error) => panic!("operation {at}, seed {seed}: {error}"),
            };
            Run::default().go_on(&store, 5).unwrap();
        }
    }
    assert!(again > 0);
}

#[test]
fn a_run_that_was_closed_is_clean_and_one_that_was_not_is_not() {
    let disk = founded();
    let mut run = Run::default();
    let store = open(&disk).unwrap();
    let boot = store.boot();
    assert!(!store.was_clean(), "the founding run was dropped without a close");
    run.go_on(&store, 9).unwrap();
    store.close().unwrap();
    drop(store);
    disk.crash();
    disk.restart();
    let store = open(&disk).unwrap();
    assert!(store.was_clean());
    assert_eq!((store.boot(), store.tail_bytes()), (boot + 1, 0));
    disk.crash();
    disk.restart();
    assert!(!open(&disk).unwrap().was_clean());
}
