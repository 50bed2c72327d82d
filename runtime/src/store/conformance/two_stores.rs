//! Two stores that give shards to one another, crashing as they please: each shard has at most one owner, and never two under
//! one epoch.

use std::collections::BTreeMap;

use super::running::{Running, accept, moved, write};
use super::{Engine, Memory, SHARDS, Simulated, shards};
use crate::placement::{Epoch, ShardId};
use crate::store::batch::own;
use crate::store::disk::SimulatedDisk;
use crate::store::{Batch, Founding, Ownership, OwnershipRecord, Row, StageError, TransferId};

/// `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }
}

/// What must be true, whatever happens.
#[derive(Default)]
struct Truth {
    /// The rows that were committed of each shard.
    rows: BTreeMap<u32, BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Which store owned a shard under an epoch.
    owners: BTreeMap<(u32, Epoch), usize>,
    moves: u64,
}

impl Truth {
    fn check(&mut self, stores: &[Running<'_>; 2]) {
        for shard in 0..SHARDS {
            let known = [stores[0].ownership(shard), stores[1].ownership(shard)];
            let owners: Vec<_> = (0..2).filter(|at| matches!(known[*at], Ownership::Owned { .. })).collect();
            assert!(owners.len() <= 1, "{shard} has two owners: {known:?}");
            let Some(&owner) = owners.first() else { continue };
            let epoch = known[owner].epoch();
            let before = self.owners.insert((shard, epoch), owner);
            assert!(before.is_none_or(|before| before == owner), "{shard} twice under {epoch}");
            let newest = self.owners.range((shard, Epoch(0))..=(shard, Epoch(u64::MAX))).next_back();
            assert_eq!(newest.unwrap().0.1, epoch, "the epoch of {shard} fell");
        }
    }

    fn check_rows(&self, store: &Running<'_>, shard: u32, epoch: Epoch) {
        let expected: Vec<Row> = self.rows.get(&shard).into_iter().flatten().map(owned_row).collect();
        assert_eq!(store.all_rows(shard, epoch.0), expected, "shard {shard} under {epoch}");
    }
}

fn owned_row((key, value): (&Vec<u8>, &Vec<u8>)) -> Row {
    (key.clone(), value.clone())
}

/// Seals a shard, for the other store.
fn seal(shard: u32, epoch: Epoch, number: u64, transfer: u128) -> Batch {
    let mut batch = Batch::new();
    let record =
        OwnershipRecord::Seal { transfer: TransferId(transfer), to: "other".parse().unwrap(), store: 8 };
    batch.section(ShardId(shard), epoch, number, |out| own(&record, out));
    batch
}

/// Copies a shard to the other store, as far as the dice let it. Returns the epoch under which it is staged whole.
fn copy(
    stores: &mut [Running<'_>; 2],
    from: usize,
    (shard, epoch): (u32, Epoch),
    transfer: u128,
    dice: &mut Dice,
) -> Option<u64> {
    let rows = stores[from].all_rows(shard, epoch.0);
    let target = &mut stores[1 - from];
    if matches!(target.ownership(shard), Ownership::Sealed { .. }) {
        let refused = target.store().begin_staging(ShardId(shard), Epoch(epoch.0 + 1), TransferId(transfer));
        assert!(matches!(refused, Err(StageError::Stale(_))));
        return None;
    }
    let above = epoch.max(target.ownership(shard).epoch()).0 + 1 + dice.below(3);
    target.begin(shard, above, transfer);
    for chunk in rows.chunks(3) {
        let chunk: Vec<_> =
            chunk.iter().map(|(key, value)| (key.as_slice(), Some(value.as_slice()))).collect();
        target.stage(shard, above, transfer, &chunk);
    }
    if dice.below(4) == 0 {
        target.crash();
        return None;
    }
    assert_eq!(target.staged(shard, above, transfer), rows);
    Some(above)
}

/// One step of whoever has to do with a shard, judged by what its stores say alone.
fn step(stores: &mut [Running<'_>; 2], truth: &mut Truth, dice: &mut Dice) {
    let shard = dice.below(3) as u32;
    let newest = stores[0].ownership(shard).epoch().max(stores[1].ownership(shard).epoch());
    for store in &mut *stores {
        // A source that was not told, or forgot to note it: a later epoch elsewhere is the proof that its transfer was
        // accepted. Until it is noted, that store takes nothing of the shard.
        if let Ownership::Sealed { epoch, number, transfer, .. } = store.ownership(shard)
            && epoch < newest
            && dice.below(2) == 0
        {
            store.commit(&[moved(shard, epoch.0, number + 1, transfer.0, newest.0)]).unwrap();
            truth.moves += 1;
            return;
        }
    }
    for at in [0, 1].into_iter().filter(|at| stores[*at].ownership(shard).epoch() == newest) {
        match stores[at].ownership(shard) {
            Ownership::Owned { epoch, number, .. } => {
                if dice.below(4) > 0 {
                    let (key, value) = (vec![dice.below(9) as u8], dice.below(1 << 40).to_be_bytes());
                    stores[at].commit(&[write(shard, epoch.0, number + 1, &key, &value)]).unwrap();
                    truth.rows.entry(shard).or_default().insert(key, value.to_vec());
                    return;
                }
                let transfer = u128::from(dice.below(u64::MAX));
                // Copied while it is served, in vain: what is written since would be missing.
                if dice.below(2) == 0 {
                    copy(stores, at, (shard, epoch), transfer, dice);
                }
                stores[at].commit(&[seal(shard, epoch, number + 1, transfer)]).unwrap();
                return;
            }
            Ownership::Sealed { epoch, transfer, .. } => {
                if let Some(above) = copy(stores, at, (shard, epoch), transfer.0, dice) {
                    let group = [accept(shard, above, transfer.0)];
                    stores[1 - at].commit(&group).unwrap();
                    if dice.below(3) == 0 {
                        stores[1 - at].commit(&group).unwrap();
                    }
                    truth.check_rows(&stores[1 - at], shard, Epoch(above));
                }
                return;
            }
            Ownership::Foreign | Ownership::Moved { .. } => {}
        }
    }
    unreachable!("a shard that was founded is somewhere");
}

fn go(mut source: impl Engine, mut target: impl Engine, seed: u64) -> u64 {
    let mut stores = [Running::start(&mut source), Running::start(&mut target)];
    let mut truth = Truth::default();
    let mut dice = Dice(seed);
    for _ in 0..150 {
        step(&mut stores, &mut truth, &mut dice);
        match dice.below(8) {
            0 => stores[0].crash(),
            1 => stores[1].crash(),
            at @ 2..4 => stores[at as usize - 2].store().maintain().unwrap(),
            _ => {}
        }
        truth.check(&stores);
    }
    for shard in 0..SHARDS {
        for store in &stores {
            if let Ownership::Owned { epoch, .. } = store.ownership(shard) {
                truth.check_rows(store, shard, epoch);
            }
        }
    }
    truth.moves
}

#[test]
fn an_epoch_of_a_shard_never_has_two_owners_and_its_rows_go_along() {
    let (founder, joined) = (Founding::founder(1, 2, shards()), Founding::joined(1, 3, shards()));
    let memory = |founding, lagging| Memory { founding, store: None, lanes: 2, lagging };
    let disk = |founding, seed| Simulated { founding, disk: SimulatedDisk::new(seed), founded: false };
    let mut moves = 0;
    for seed in 0..12 {
        moves += go(memory(founder, false), memory(joined, true), seed);
        moves += go(memory(founder, true), disk(joined, seed), seed);
        moves += go(disk(founder, seed), disk(joined, !seed), seed);
    }
    assert!(moves > 200, "{moves} moves");
}
