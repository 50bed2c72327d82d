//! A shard that leaves, comes back, is reopened and leaves again, with a crash at every operation of it.

use std::collections::BTreeMap;

use super::damage::groups;
use super::script::{found, open};
use crate::placement::{Epoch, ShardId, Shards};
use crate::store::batch::{delete, own, put};
use crate::store::disk::{Disk, DiskFaults, SimulatedDisk};
use crate::store::embedded::checkpoint::PREFIX;
use crate::store::embedded::{EmbeddedStore, OpenError, lock};
use crate::store::fence::Fence;
use crate::store::{
    Batch, CommitError, Lane, LaneId, LoadError, Ownership, OwnershipRecord, StageError, StagedRow, Store,
    ToStage, TransferId, Write,
};

const LANE: LaneId = LaneId(0);
/// The one that moves, and one that stays.
const SHARDS: [u32; 2] = [0, 1];

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
/// What one call stages.
type Chunk = Vec<(&'static [u8], Option<Vec<u8>>)>;

/// One step of the script: what is staged before, and the group that is committed.
struct Step {
    /// Staged and given up, or replaced by the transfer that counts.
    in_vain: Option<(u64, u128)>,
    /// Staged to be accepted by the first batch of the group.
    staged: Option<(u64, u128)>,
    group: Vec<Batch>,
    maintained: bool,
}

fn batch(write: impl FnOnce(&mut Batch)) -> Batch {
    let mut batch = Batch::new();
    write(&mut batch);
    batch
}

fn change(epoch: u64, number: u64, record: &OwnershipRecord) -> Batch {
    batch(|batch| {
        batch.section(ShardId(0), Epoch(epoch), number, |out| {
            own(record, out);
            if !matches!(record, OwnershipRecord::Moved { .. }) {
                put(&[b"changed"], &[&epoch.to_le_bytes()], out);
            }
        });
    })
}

fn seal(epoch: u64, number: u64, transfer: u128) -> Batch {
    change(
        epoch,
        number,
        &OwnershipRecord::Seal { transfer: TransferId(transfer), to: "b".parse().unwrap(), store: 8 },
    )
}

fn moved(epoch: u64, number: u64, transfer: u128) -> Batch {
    change(epoch, number, &OwnershipRecord::Moved { transfer: TransferId(transfer), epoch: Epoch(epoch + 1) })
}

fn accept(epoch: u64, transfer: u128) -> Batch {
    let (transfer, from) = (TransferId(transfer), "b".parse().unwrap());
    change(epoch, 1, &OwnershipRecord::Accept { transfer, from, rows: 3, hash: 0 })
}

fn reopen(epoch: u64, transfer: u128) -> Batch {
    change(epoch, 1, &OwnershipRecord::Reopen { transfer: TransferId(transfer) })
}

/// Rows of both shards: some of one key all through, some of the section alone, one that goes, and as many bytes as it
/// takes to walk through segments.
fn write(epoch: u64, number: u64, other: u64, len: usize) -> Batch {
    batch(|batch| {
        for (shard, epoch, number) in [(0, epoch, number), (1, 1, other)] {
            batch.section(ShardId(shard), Epoch(epoch), number, |out| {
                put(&[b"k"], &[&epoch.to_le_bytes(), &number.to_le_bytes()], out);
                put(&[b"n", &number.to_be_bytes()], &[&vec![epoch as u8; len]], out);
                delete(&[b"staged-2"], out);
            });
        }
    })
}

/// What a transfer stages, in two chunks: the second puts over the first, and takes away from it.
fn chunks(epoch: u64, transfer: u128) -> [Chunk; 2] {
    let value = || Some([epoch.to_le_bytes().as_slice(), &transfer.to_le_bytes()].concat());
    [
        vec![
            (b"k", value()),
            (b"staged-1", value()),
            (b"staged-2", value()),
            (b"staged-3", Some(vec![3; 2_000])),
        ],
        vec![(b"staged-1", None), (b"staged-3", value())],
    ]
}

fn script() -> Vec<Step> {
    let step = |group: Vec<Batch>| Step { in_vain: None, staged: None, group, maintained: false };
    let maintained = |group: Vec<Batch>| Step { maintained: true, ..step(group) };
    vec![
        step(vec![write(1, 1, 1, 100), write(1, 2, 2, 10_000)]),
        maintained(vec![write(1, 3, 3, 300)]),
        step(vec![write(1, 4, 4, 14_000)]),
        step(vec![seal(1, 5, 10)]),
        step(vec![moved(1, 6, 10)]),
        Step { staged: Some((3, 11)), ..step(vec![accept(3, 11), write(3, 2, 5, 200)]) },
        step(vec![write(3, 3, 6, 12_000), write(3, 4, 7, 14_000), seal(3, 5, 12)]),
        maintained(vec![reopen(5, 12)]),
        step(vec![write(5, 2, 8, 500)]),
        maintained(vec![seal(5, 3, 13), moved(5, 4, 13)]),
        // The same epoch for one that is replaced and one that counts.
        Step { in_vain: Some((7, 14)), staged: Some((7, 15)), ..maintained(vec![accept(7, 15)]) },
        step(vec![write(7, 2, 9, 10_000), seal(7, 3, 16), moved(7, 4, 16)]),
        Step {
            in_vain: Some((9, 17)),
            ..maintained(vec![batch(|batch| {
                batch.section(ShardId(1), Epoch(1), 10, |out| put(&[b"k"], &[b"alone"], out));
            })])
        },
        // And another, under an epoch of its own.
        Step {
            in_vain: Some((11, 17)),
            staged: Some((10, 18)),
            ..step(vec![accept(10, 18), seal(10, 2, 19)])
        },
    ]
}

/// How far a run came, in batches.
#[derive(Debug, Default)]
struct Run {
    submitted: usize,
    acknowledged: usize,
}

impl Run {
    /// Goes through the script behind the first `held` batches, until the end or the first failure.
    fn go(&mut self, store: &EmbeddedStore, held: usize) -> Result<(), String> {
        let mut lane = store.open_lane(LANE);
        let mut first = 0;
        for step in script() {
            let behind = first + step.group.len();
            if held < behind {
                take_step(store, &mut *lane, &step, held <= first, || self.submitted = behind)?;
                self.acknowledged = behind;
            }
            first = behind;
        }
        Ok(())
    }
}

fn take_step(
    store: &EmbeddedStore,
    lane: &mut dyn Lane,
    step: &Step,
    stages: bool,
    submit: impl FnOnce(),
) -> Result<(), String> {
    let stagings = [step.in_vain, step.staged];
    for (epoch, transfer) in stagings.into_iter().flatten().filter(|_| stages) {
        stage(store, epoch, transfer)?;
    }
    if let (Some((epoch, transfer)), None) = (step.in_vain, step.staged) {
        store
            .sweep_staging(ShardId(0), Epoch(epoch), TransferId(transfer))
            .map_err(|error| error.to_string())?;
    }
    for batch in &step.group {
        let bytes = batch.bytes().len() as u64;
        if store.reserve(LANE, bytes).is_err() {
            store.maintain().map_err(|error| error.to_string())?;
            store.reserve(LANE, bytes).unwrap();
        }
    }
    submit();
    // Where a part of it is held already, that part is known again.
    match lane.commit(&step.group) {
        Ok(_) => {}
        Err(CommitError::Fatal(error)) => return Err(error.to_string()),
        Err(error) => panic!("{error}"),
    }
    for batch in &step.group {
        store.release(LANE, batch.bytes().len() as u64);
    }
    if step.maintained {
        lane.quiet().map_err(|error| error.to_string())?;
        store.maintain().map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn stage(store: &EmbeddedStore, epoch: u64, transfer: u128) -> Result<(), String> {
    let (shard, epoch_, id) = (ShardId(0), Epoch(epoch), TransferId(transfer));
    store.begin_staging(shard, epoch_, id).map_err(|error| error.to_string())?;
    for chunk in chunks(epoch, transfer) {
        let rows: Vec<StagedRow<'_>> = chunk.iter().map(|(key, value)| (*key, value.as_deref())).collect();
        store.stage(shard, epoch_, id, &rows).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Who owns the shards behind the first `count` batches, and the rows of each.
fn expected(count: usize) -> (Fence, BTreeMap<u32, Rows>) {
    let mut fence = Fence::founded(Shards::new(4).unwrap(), true);
    let mut rows: BTreeMap<u32, Rows> = BTreeMap::new();
    for batch in script().into_iter().flat_map(|step| step.group).take(count) {
        for section in batch.sections() {
            fence.take(&section).unwrap();
            let rows = rows.entry(section.shard.0).or_default();
            match section.record().map(Result::unwrap) {
                Some(OwnershipRecord::Accept { transfer, .. }) => {
                    rows.clear();
                    for (key, value) in chunks(section.epoch.0, transfer.0).into_iter().flatten() {
                        match value {
                            Some(value) => drop(rows.insert(key.to_vec(), value)),
                            None => drop(rows.remove(key)),
                        }
                    }
                }
                Some(OwnershipRecord::Moved { .. }) => rows.clear(),
                _ => {}
            }
            for write in section.writes() {
                match write.unwrap() {
                    Write::Put { key, value } => drop(rows.insert(key.to_vec(), value.to_vec())),
                    Write::Delete { key } => drop(rows.remove(key)),
                    Write::DeleteRange { .. } => unreachable!("the script has none"),
                }
            }
        }
    }
    (fence, rows)
}

fn batches() -> usize {
    script().iter().map(|step| step.group.len()).sum()
}

/// Checks that the store is as after some prefix of the script, and that its checkpoint holds nothing else. Returns how long
/// that prefix is.
fn prefix_held(store: &EmbeddedStore, what: &str) -> usize {
    store.maintain().unwrap();
    let known = store.ownership().unwrap();
    let held = (0..=batches()).find(|count| expected(*count).0.known() == known);
    let held = held.unwrap_or_else(|| panic!("{what}: {known:?} is of no prefix"));
    let (fence, expected) = expected(held);
    let mut stays = Vec::new();
    for shard in SHARDS {
        let (Ownership::Owned { epoch, stay, .. } | Ownership::Sealed { epoch, stay, .. }) =
            fence.get(ShardId(shard)).unwrap()
        else {
            continue;
        };
        stays.push((shard, *stay));
        let mut rows = Rows::new();
        let visit = &mut |key: &[u8], value: &[u8]| rows.insert(key.to_vec(), value.to_vec()).is_none();
        store.load_rows(ShardId(shard), *epoch, &[]..&[0xff], visit).unwrap();
        let expected = expected.get(&shard).cloned().unwrap_or_default();
        assert!(rows == expected, "{what}: rows of shard {shard} after {held} batches");
    }
    let mut leftover = None;
    store
        .inner
        .checkpoint
        .scan(&[], &[0xff; 4], &mut |key, _| {
            let place = (
                u32::from_be_bytes(key[..4].try_into().unwrap()),
                Epoch(u64::from_be_bytes(key[4..PREFIX].try_into().unwrap())),
            );
            if !stays.contains(&place) {
                leftover = Some(place);
            }
            leftover.is_none()
        })
        .unwrap();
    assert_eq!(leftover, None, "{what}: only present stays have rows, after {held} batches");
    held
}

fn founded() -> SimulatedDisk {
    let disk = SimulatedDisk::new(0);
    drop(found(&disk).unwrap());
    disk
}

/// Opens and goes through the whole script, up to the planned fault.
fn run(disk: &SimulatedDisk) -> Run {
    let mut run = Run::default();
    if let Ok(store) = open(disk) {
        drop(run.go(&store, 0));
    }
    run
}

fn check(run: &Run, held: usize, what: &str) {
    assert!(run.acknowledged <= held && held <= run.submitted, "{what}: {run:?}, {held} held");
}

#[test]
fn a_power_loss_at_any_operation_of_a_hand_off_leaves_a_prefix_and_nothing_beside_it() {
    let founded = founded();
    let whole = founded.fork(0);
    assert_eq!(run(&whole).acknowledged, batches());
    let mut seen = DiskFaults::default();
    for at in 1..=whole.operations() {
        for seed in 0..3 {
            let disk = founded.fork(seed << 32 | at);
            disk.crash_at(at);
            let mut run = run(&disk);
            disk.restart();
            let what = format!("operation {at}, seed {seed}");
            let store = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            let held = prefix_held(&store, &what);
            check(&run, held, &what);
            run.go(&store, held).unwrap();
            assert_eq!(prefix_held(&store, &what), batches(), "{what}");
            disk.crash();
            disk.restart();
            assert_eq!(prefix_held(&open(&disk).unwrap(), &what), batches(), "{what}");
            seen.writes_lost += disk.faults().writes_lost;
            seen.writes_torn += disk.faults().writes_torn;
            seen.names_lost += disk.faults().names_lost;
        }
    }
    assert!(seen.writes_lost > 50 && seen.writes_torn > 50 && seen.names_lost > 5, "{seen:?}");
}

#[test]
fn what_was_served_of_a_hand_off_after_a_kill_survives_a_power_loss() {
    let founded = founded();
    let whole = founded.fork(0);
    run(&whole);
    for at in 1..=whole.operations() {
        let disk = founded.fork(at);
        disk.kill_at(at);
        let run = run(&disk);
        disk.restart();
        let what = format!("killed at operation {at}");
        let store = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        let served = store.ownership().unwrap();
        disk.crash();
        disk.restart();
        drop(store);
        let again = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(again.ownership().unwrap(), served, "{what}");
        check(&run, prefix_held(&again, &what), &what);
    }
}

#[test]
fn a_failed_sync_in_a_hand_off_stops_it_and_the_next_open_has_a_prefix() {
    let founded = founded();
    let whole = founded.fork(0);
    run(&whole);
    for at in 1..=whole.syncs() {
        let disk = founded.fork(at);
        disk.fail_sync_at(at);
        let run = run(&disk);
        assert_eq!(disk.faults().syncs_failed, 1);
        disk.crash();
        disk.restart();
        let what = format!("sync {at}");
        let store = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        check(&run, prefix_held(&store, &what), &what);
    }
}

#[test]
fn a_power_loss_at_any_operation_of_a_sweep_is_swept_by_the_next_open() {
    let prepared = founded();
    {
        let store = open(&prepared).unwrap();
        let mut lane = store.open_lane(LANE);
        lane.commit(&[write(1, 1, 1, 100), seal(1, 2, 10), moved(1, 3, 10)]).unwrap();
        stage(&store, 5, 11).unwrap();
    }
    let whole = prepared.fork(0);
    let rows_left = |disk: &SimulatedDisk| {
        let store = open(disk).unwrap();
        let mut rows = 0;
        let count = &mut |_: &[u8], _: &[u8]| {
            rows += 1;
            true
        };
        store.inner.checkpoint.scan(&[], &[0, 0, 0, 1], count).unwrap();
        assert!(lock(&store.inner.ended).is_empty(), "nothing is left to drop");
        rows
    };
    assert_eq!(rows_left(&whole), 0);
    for at in 1..=whole.operations() {
        let disk = prepared.fork(at);
        disk.crash_at(at);
        assert!(open(&disk).is_err());
        disk.restart();
        assert_eq!(rows_left(&disk), 0, "operation {at}");
    }
}

/// A disk whose log ends with a seal, and a quiet moment behind it or not.
fn sealed(quiet: bool) -> SimulatedDisk {
    let disk = founded();
    let store = open(&disk).unwrap();
    let mut lane = store.open_lane(LANE);
    lane.commit(&[write(1, 1, 1, 100)]).unwrap();
    lane.commit(&[seal(1, 2, 10)]).unwrap();
    if quiet {
        lane.quiet().unwrap();
    }
    disk
}

#[test]
fn a_seal_that_is_torn_at_the_end_of_the_log_was_never_made_and_any_other_is_refused() {
    for quiet in [false, true] {
        let disk = sealed(quiet);
        let groups = groups(&disk);
        let seal = &groups[1];
        for at in seal.bytes.start..seal.bytes.start + 64 + 40 {
            let damaged = disk.fork(0);
            damaged.flip(&seal.file, at, at as u32).unwrap();
            match open(&damaged) {
                Err(OpenError::Corrupt { .. }) => assert!(quiet, "byte {at}"),
                Err(error) => panic!("{error}"),
                Ok(store) => {
                    assert!(!quiet, "byte {at}");
                    assert_eq!(store.owned().unwrap()[0].number, 1);
                    store.open_lane(LANE).commit(&[write(1, 2, 2, 100)]).unwrap();
                }
            }
        }
        let store = open(&disk).unwrap();
        assert!(matches!(&store.ownership().unwrap()[0].1, Ownership::Sealed { number: 2, .. }));
    }
}

#[test]
fn a_log_that_accepts_what_the_checkpoint_has_lost_is_refused() {
    let disk = founded();
    {
        let store = open(&disk).unwrap();
        let mut lane = store.open_lane(LANE);
        lane.commit(&[write(1, 1, 1, 100), seal(1, 2, 10), moved(1, 3, 10)]).unwrap();
        stage(&store, 5, 11).unwrap();
        lane.commit(&[accept(5, 11)]).unwrap();
    }
    for name in ["checkpoint-0.rows", "checkpoint-1.rows"] {
        drop(disk.remove(name));
    }
    assert!(matches!(open(&disk), Err(OpenError::Corrupt { what, .. }) if what.contains("shard 0")));
}

#[test]
fn what_is_staged_on_a_full_disk_is_refused_whole_and_taken_when_there_is_room() {
    let disk = founded();
    let store = open(&disk).unwrap();
    let mut lane = store.open_lane(LANE);
    lane.commit(&[write(1, 1, 1, 100), seal(1, 2, 10), moved(1, 3, 10)]).unwrap();
    let (shard, epoch, id) = (ShardId(0), Epoch(5), TransferId(11));
    let value = vec![1; 10_000];
    let rows: [StagedRow<'_>; 1] = [(b"k", Some(&value))];
    let full = |refused: Result<(), StageError>| {
        assert!(matches!(refused, Err(StageError::Full)), "{refused:?}");
    };
    disk.set_capacity(Some(disk.used()));
    store.begin_staging(shard, epoch, id).unwrap();
    full(store.stage(shard, epoch, id, &rows));
    disk.set_capacity(None);
    store.stage(shard, epoch, id, &[(b"left", Some(&value))]).unwrap();
    // Given up on a full disk it is nobody's all the same, and in nobody's way.
    disk.set_capacity(Some(0));
    store.sweep_staging(shard, epoch, id).unwrap();
    assert!(store.wants_maintenance());
    disk.set_capacity(None);
    store.begin_staging(shard, epoch, id).unwrap();
    store.stage(shard, epoch, id, &rows).unwrap();
    lane.commit(&[accept(5, 11)]).unwrap();
    store.maintain().unwrap();
    assert_eq!(store.load_shard(shard, epoch).unwrap().len(), 2);
    assert!(matches!(store.load_shard(shard, Epoch(1)), Err(LoadError::NotOwned(_))));
}

#[test]
fn a_shard_that_fits_is_staged_beside_one_that_does_not() {
    let disk = founded();
    let store = open(&disk).unwrap();
    let mut lane = store.open_lane(LANE);
    let (transfer, to) = (TransferId(10), "b".parse().unwrap());
    let records = [
        OwnershipRecord::Seal { transfer, to, store: 8 },
        OwnershipRecord::Moved { transfer, epoch: Epoch(2) },
    ];
    for shard in [ShardId(0), ShardId(1)] {
        for (number, record) in (1..).zip(&records) {
            let mut batch = Batch::new();
            batch.section(shard, Epoch(1), number, |out| own(record, out));
            lane.commit(&[batch]).unwrap();
        }
        store.begin_staging(shard, Epoch(5), TransferId(11)).unwrap();
    }
    let (large, small) = (vec![1; 100_000], vec![1; 10]);
    let rows: [[StagedRow<'_>; 1]; 2] = [[(b"k", Some(&large))], [(b"k", Some(&small))]];
    let to_stage = [0, 1].map(|shard| ToStage {
        shard: ShardId(shard),
        epoch: Epoch(5),
        transfer: TransferId(11),
        rows: &rows[shard as usize],
    });
    disk.set_capacity(Some(disk.used() + 20_000));
    let staged = store.stage_all(&to_stage);
    assert!(matches!(staged[..], [Err(StageError::Full), Ok(())]), "{staged:?}");
}
