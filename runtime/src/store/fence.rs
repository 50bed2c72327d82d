//! Whether a group may be applied: the epoch is the fence, the section numbers are chain and mark in one.

use std::collections::BTreeMap;

use super::{Batch, CommitError, OwnedShard, Section};
use crate::placement::{Epoch, ShardId};

/// Epoch and last section number of every shard a store owns.
///
/// # Invariants
/// * A number rises by one with each section, and starts at zero with each epoch.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    shards: Vec<Option<(Epoch, u64)>>,
    /// Shards whose number was raised on trial, kept for its memory.
    raised: Vec<u32>,
}

impl Fence {
    /// Nothing is owned yet.
    pub(super) fn new(shards: u32) -> Self {
        Self { shards: vec![None; shards as usize], raised: Vec::new() }
    }

    /// Owns a shard from here on, with this number as its last.
    pub(super) fn own(&mut self, shard: ShardId, epoch: Epoch, number: u64) {
        self.shards[shard.0 as usize] = Some((epoch, number));
    }

    /// The epoch a shard is owned under.
    pub(super) fn epoch(&self, shard: ShardId) -> Option<Epoch> {
        self.get(shard).map(|(epoch, _)| epoch)
    }

    /// Whether a section is the next of its shard.
    pub(super) fn continues_with(&self, section: &Section<'_>) -> bool {
        self.get(section.shard) == Some((section.epoch, section.number.wrapping_sub(1)))
    }

    /// All shards owned, in order.
    pub(super) fn owned(&self) -> Vec<OwnedShard> {
        let shards = (0_u32..).map(ShardId).zip(&self.shards);
        shards
            .filter_map(|(shard, owned)| owned.map(|(epoch, number)| OwnedShard { shard, epoch, number }))
            .collect()
    }

    fn get(&self, shard: ShardId) -> Option<(Epoch, u64)> {
        self.shards.get(shard.0 as usize).copied().flatten()
    }

    /// How many leading batches of a group are already applied; the rest is fresh. Changes nothing.
    ///
    /// A batch is known again when each of its sections is at or below its shard's last number and that number lies
    /// within the group: it is the repeat of a group whose outcome was unknown. Anything else that does not continue is
    /// refused, an old repeat too.
    pub(super) fn judge(&mut self, group: &[Batch]) -> Result<usize, CommitError> {
        if self.continues(group) {
            return Ok(0);
        }
        // The last number each shard has after the group, and the number reached on the way through it.
        let mut finals = BTreeMap::new();
        for section in group.iter().flat_map(Batch::sections) {
            if self.epoch(section.shard) != Some(section.epoch) {
                return Err(CommitError::Fenced(section.shard));
            }
            finals.insert(section.shard, section.number);
        }
        let mut reached = BTreeMap::new();
        let mut repeated = 0;
        for (index, batch) in group.iter().enumerate() {
            let mut known = 0;
            let mut fresh = 0;
            let mut odd = None;
            for section in batch.sections() {
                let last = self.get(section.shard).map_or(0, |(_, number)| number);
                let before = reached.insert(section.shard, section.number).unwrap_or(last);
                if section.number <= last && last <= finals[&section.shard] {
                    known += 1;
                    reached.insert(section.shard, last);
                } else if section.number == before + 1 {
                    fresh += 1;
                } else {
                    odd = Some(section.shard);
                }
                if known > 0 && fresh > 0 {
                    odd = Some(section.shard);
                }
            }
            // A batch known again behind a fresh one would be out of order.
            let behind_fresh = known > 0 && repeated < index;
            match odd.or_else(|| behind_fresh.then(|| batch.sections().next().map(|s| s.shard)).flatten()) {
                Some(shard) => return Err(CommitError::Fenced(shard)),
                None if known > 0 => repeated = index + 1,
                None => {}
            }
        }
        Ok(repeated)
    }

    /// Whether all of a group is fresh: nearly always, and on the path of every commit, so without a map.
    fn continues(&mut self, group: &[Batch]) -> bool {
        let mut sections = group.iter().flat_map(Batch::sections);
        let all = sections.all(|section| match self.shards.get_mut(section.shard.0 as usize) {
            Some(Some((epoch, number))) if *epoch == section.epoch && *number + 1 == section.number => {
                *number += 1;
                self.raised.push(section.shard.0);
                true
            }
            _ => false,
        });
        for shard in self.raised.drain(..) {
            if let Some((_, number)) = &mut self.shards[shard as usize] {
                *number -= 1;
            }
        }
        all
    }

    /// Takes a group's numbers as applied.
    pub(super) fn advance(&mut self, group: &[Batch]) {
        for section in group.iter().flat_map(Batch::sections) {
            self.own(section.shard, section.epoch, section.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(sections: &[(u32, u64, u64)]) -> Batch {
        let mut batch = Batch::new();
        for &(shard, epoch, number) in sections {
            batch.section(ShardId(shard), Epoch(epoch), number, |_| {});
        }
        batch
    }

    fn fence() -> Fence {
        let mut fence = Fence::new(4);
        fence.own(ShardId(0), Epoch(2), 10);
        fence.own(ShardId(1), Epoch(2), 0);
        fence
    }

    #[test]
    fn numbers_that_continue_are_fresh() {
        let group = [batch(&[(0, 2, 11), (1, 2, 1)]), batch(&[(0, 2, 12)])];
        assert_eq!(fence().judge(&group).unwrap(), 0);
    }

    #[test]
    fn a_repeated_group_is_known_and_its_rest_is_fresh() {
        let group = [batch(&[(0, 2, 9)]), batch(&[(0, 2, 10)]), batch(&[(0, 2, 11), (1, 2, 1)])];
        assert_eq!(fence().judge(&group[..2]).unwrap(), 2);
        assert_eq!(fence().judge(&group).unwrap(), 2);
    }

    #[test]
    fn whatever_else_does_not_continue_is_fenced() {
        let refused = [
            vec![batch(&[(0, 1, 11)])],
            vec![batch(&[(0, 3, 11)])],
            vec![batch(&[(0, 2, 12)])],
            vec![batch(&[(0, 2, 9)])],
            vec![batch(&[(2, 2, 1)])],
            vec![batch(&[(9, 2, 1)])],
            vec![batch(&[(0, 2, 10), (1, 2, 1)])],
            vec![batch(&[(0, 2, 11)]), batch(&[(0, 2, 11)])],
            vec![batch(&[(1, 2, 1)]), batch(&[(0, 2, 10)])],
        ];
        for group in refused {
            assert!(matches!(fence().judge(&group), Err(CommitError::Fenced(_))), "{group:?}");
        }
    }
}
