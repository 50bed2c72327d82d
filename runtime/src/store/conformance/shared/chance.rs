//! Three nodes that do whatever they may, in any order: each epoch of a shard has one owner, and its rows are what its owners
//! committed.

use super::{Run, Sharing, is_fenced, on_every_sharing, write};
use crate::placement::{Epoch, ShardId};
use crate::store::{CommitError, OwnedShard, Row};
use std::collections::BTreeMap;

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

/// The shards that are looked at.
const LOOKED_AT: u32 = 3;
const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Default)]
struct Truth {
    owners: BTreeMap<(u32, Epoch), u128>,
    rows: BTreeMap<u32, BTreeMap<Vec<u8>, Vec<u8>>>,
    fenced: u32,
    passed: u32,
}

impl Truth {
    fn check(&mut self, sharing: &dyn Sharing, runs: &[Run]) {
        for shard in 0..LOOKED_AT {
            let owners = runs.iter().filter_map(|run| Some((run.me(), run.owned(shard)?.epoch)));
            let owners: Vec<_> = owners.collect();
            assert!(owners.len() <= 1, "{shard} has two owners: {owners:?}");
            if let Some(&(owner, epoch)) = owners.first() {
                let before = self.owners.insert((shard, epoch), owner);
                assert!(before.is_none_or(|before| before == owner), "{shard} twice under {epoch}");
                self.passed += u32::from(before.is_none());
                let newest = self.owners.range((shard, Epoch(0))..=(shard, Epoch(u64::MAX))).next_back();
                assert_eq!(newest.unwrap().0.1, epoch, "the epoch of {shard} fell");
            }
            let rows: Vec<Row> = self.rows.entry(shard).or_default().clone().into_iter().collect();
            assert_eq!(sharing.rows(shard), rows);
        }
    }
}

#[test]
fn every_epoch_has_one_owner_and_only_owners_write() {
    on_every_sharing(|sharing| {
        let mut dice = Dice(u64::from(sharing.rows(0).is_empty()));
        let mut runs: Vec<Run> = NAMES.iter().map(|name| Run::start(sharing, name)).collect();
        // What each run believes that it owns: it may be long ago.
        let mut beliefs: Vec<BTreeMap<u32, OwnedShard>> = vec![BTreeMap::new(); NAMES.len()];
        let mut truth = Truth::default();
        for step in 0..4_000_u32 {
            let at = dice.below(3) as usize;
            let shard = dice.below(u64::from(LOOKED_AT)) as u32;
            match dice.below(12) {
                0 => drop(runs[at].beat()),
                1 | 2 => {
                    let ledger = runs[at].beat().into_iter().flat_map(|ledger| ledger.shards);
                    let epoch = ledger.into_iter().find(|row| row.shard == ShardId(shard)).unwrap().epoch;
                    beliefs[at]
                        .extend(runs[at].take(&[(shard, epoch)]).unwrap().pop().map(|own| (shard, own)));
                }
                3 => sharing.pass(dice.below(120) as u32),
                4 => {
                    let newest = Run::start(sharing, NAMES[at]);
                    let mut earlier = std::mem::replace(&mut runs[at], newest);
                    for (shard, belief) in std::mem::take(&mut beliefs[at]) {
                        assert!(is_fenced(&earlier.commit(&[write(belief, b"k", b"late")]), shard));
                        truth.fenced += 1;
                    }
                }
                5 if step % 7 == 0 => runs[at].store.close().unwrap(),
                6 => beliefs[at].extend(runs[at].owned(shard).map(|owned| (shard, owned))),
                7 => {
                    let heir = runs[dice.below(3) as usize].store.identity().store;
                    let Some(belief) = beliefs[at].remove(&shard) else { continue };
                    let (key, value) = (vec![belief.epoch.0 as u8], step.to_le_bytes());
                    match runs[at].commit(&[super::give(belief, heir, &key, &value)]) {
                        Ok(_) => drop(truth.rows.entry(shard).or_default().insert(key, value.to_vec())),
                        Err(CommitError::Fenced(_)) => truth.fenced += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                _ => {
                    let Some(belief) = beliefs[at].get_mut(&shard) else { continue };
                    let (key, value) = (vec![belief.number as u8], step.to_le_bytes());
                    match runs[at].commit(&[write(*belief, &key, &value)]) {
                        Ok(_) => {
                            belief.number += 1;
                            truth.rows.entry(shard).or_default().insert(key, value.to_vec());
                        }
                        Err(CommitError::Fenced(_)) => {
                            truth.fenced += 1;
                            beliefs[at].remove(&shard);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            truth.check(sharing, &runs);
        }
        assert!(truth.fenced > 50 && truth.passed > 100, "{} {}", truth.fenced, truth.passed);
    });
}
