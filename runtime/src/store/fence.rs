//! Whether a group may be applied: the epoch is the fence, the section numbers are chain and mark in one.

use std::collections::BTreeMap;

use super::{Batch, CommitError, OwnedShard, Ownership, Section};
use crate::placement::{Epoch, ShardId, Shards};

/// Who owns each shard of a store, and how far its sections have come.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    shards: Vec<Ownership>,
    /// Shards whose number was raised on trial, kept for its memory.
    raised: Vec<u32>,
}

/// What a group that may be applied is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) struct Judged {
    /// How many leading batches are applied already; the rest is fresh.
    pub(super) repeated: usize,
    /// Whether one of the fresh ones changes the ownership of a shard.
    pub(super) has_records: bool,
}

impl Fence {
    /// As a store is founded: every shard its own, or none.
    pub(super) fn founded(shards: Shards, owns: bool) -> Self {
        let ownership = if owns {
            Ownership::Owned { epoch: super::FOUNDED, stay: super::FOUNDED, number: 0 }
        } else {
            Ownership::Foreign
        };
        Self { shards: vec![ownership; shards.count() as usize], raised: Vec::new() }
    }

    /// Takes what is stored of a shard.
    pub(super) fn set(&mut self, shard: ShardId, ownership: Ownership) {
        self.shards[shard.0 as usize] = ownership;
    }

    /// Who owns a shard; `None` if there is no such shard.
    pub(super) fn get(&self, shard: ShardId) -> Option<&Ownership> {
        self.shards.get(shard.0 as usize)
    }

    /// Under which epoch the rows of a shard lie, if it can be read under `epoch`.
    pub(super) fn stay(&self, shard: ShardId, epoch: Epoch) -> Option<Epoch> {
        self.get(shard)?.stay(epoch)
    }

    /// Whether rows of this stay can be read under some epoch.
    pub(super) fn is_read(&self, shard: ShardId, stay: Epoch) -> bool {
        self.get(shard).is_some_and(|ownership| ownership.stay(ownership.epoch()) == Some(stay))
    }

    /// All shards owned, in order.
    pub(super) fn owned(&self) -> Vec<OwnedShard> {
        let shards = (0_u32..).map(ShardId).zip(&self.shards);
        shards
            .filter_map(|(shard, ownership)| match ownership {
                Ownership::Owned { epoch, number, .. } => {
                    Some(OwnedShard { shard, epoch: *epoch, number: *number })
                }
                _ => None,
            })
            .collect()
    }

    /// All shards that are or were here, in order.
    pub(super) fn known(&self) -> Vec<(ShardId, Ownership)> {
        let shards = (0_u32..).map(ShardId).zip(&self.shards);
        shards
            .filter(|(_, ownership)| **ownership != Ownership::Foreign)
            .map(|(shard, ownership)| (shard, ownership.clone()))
            .collect()
    }

    /// Takes a section as applied, and returns the stay its rows belong to; `None` if it does not continue its shard.
    pub(super) fn take(&mut self, section: &Section<'_>) -> Option<Epoch> {
        let ownership = self.shards.get_mut(section.shard.0 as usize)?;
        if let Ownership::Owned { epoch, stay, number } = ownership
            && is_next(section, *epoch, *number)
        {
            *number = section.number;
            return Some(*stay);
        }
        let after = ownership.after(section)?;
        let before = std::mem::replace(ownership, after);
        match ownership {
            Ownership::Owned { stay, .. } | Ownership::Sealed { stay, .. } => Some(*stay),
            Ownership::Foreign | Ownership::Moved { .. } => before.stay(section.epoch),
        }
    }

    /// What a group is. Changes nothing.
    ///
    /// A batch is known again when the group leads to where its shards are: it is the repeat of a group whose outcome was
    /// unknown. Anything else that does not continue is refused, an old repeat too.
    pub(super) fn judge(&mut self, group: &[Batch]) -> Result<Judged, CommitError> {
        if self.continues(group) {
            return Ok(Judged { repeated: 0, has_records: false });
        }
        let repeated = self.known_again(group)?;
        let mut reached: BTreeMap<ShardId, Ownership> = BTreeMap::new();
        let mut has_records = false;
        for section in group[repeated..].iter().flat_map(Batch::sections) {
            let shard = section.shard;
            let before = reached.get(&shard).or_else(|| self.get(shard));
            let after = before.and_then(|before| before.after(&section));
            reached.insert(shard, after.ok_or(CommitError::Fenced(shard))?);
            has_records |= section.has_record();
        }
        Ok(Judged { repeated, has_records })
    }

    /// How many leading batches of a group are applied already. They are, if the last section that each of them has of
    /// a shard is the last one that was applied to it.
    fn known_again(&self, group: &[Batch]) -> Result<usize, CommitError> {
        let is_last =
            |section: &Section<'_>| self.get(section.shard).is_some_and(|shard| shard.came_of(section));
        let Some(last) = group.iter().rposition(|batch| batch.sections().any(|section| is_last(&section)))
        else {
            return Ok(0);
        };
        let repeated = last + 1;
        let mut newest = BTreeMap::new();
        for section in group[..repeated].iter().flat_map(Batch::sections) {
            newest.insert(section.shard, is_last(&section));
        }
        match newest.into_iter().find(|(_, is_last)| !is_last) {
            Some((shard, _)) => Err(CommitError::Fenced(shard)),
            None => Ok(repeated),
        }
    }

    /// Whether all of a group is fresh and changes no ownership: nearly always, and on the path of every commit, so
    /// without a map.
    fn continues(&mut self, group: &[Batch]) -> bool {
        let mut sections = group.iter().flat_map(Batch::sections);
        let all = sections.all(|section| match self.shards.get_mut(section.shard.0 as usize) {
            Some(Ownership::Owned { epoch, number, .. }) if is_next(&section, *epoch, *number) => {
                *number = section.number;
                self.raised.push(section.shard.0);
                true
            }
            _ => false,
        });
        for shard in self.raised.drain(..) {
            if let Ownership::Owned { number, .. } = &mut self.shards[shard as usize] {
                *number -= 1;
            }
        }
        all
    }

    /// Takes a group that was judged as applied.
    pub(super) fn advance(&mut self, group: &[Batch]) {
        for section in group.iter().flat_map(Batch::sections) {
            self.take(&section).expect("the group was judged, and nobody else changes the fence");
        }
    }
}

/// Whether a section is the next of a shard that stays owned.
fn is_next(section: &Section<'_>, epoch: Epoch, number: u64) -> bool {
    section.epoch == epoch && section.number == number.wrapping_add(1) && !section.has_record()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::batch::own;
    use crate::store::{OwnershipRecord, TransferId};

    fn batch(sections: &[(u32, u64, u64)]) -> Batch {
        let mut batch = Batch::new();
        for &(shard, epoch, number) in sections {
            batch.section(ShardId(shard), Epoch(epoch), number, |_| {});
        }
        batch
    }

    /// A batch of one section, of shard 0, with a record.
    fn change(epoch: u64, number: u64, record: &OwnershipRecord) -> Batch {
        let mut batch = Batch::new();
        batch.section(ShardId(0), Epoch(epoch), number, |out| own(record, out));
        batch
    }

    fn seal(epoch: u64, number: u64) -> Batch {
        change(
            epoch,
            number,
            &OwnershipRecord::Seal { transfer: TransferId(epoch.into()), to: "b".parse().unwrap(), store: 8 },
        )
    }

    fn moved(epoch: u64, number: u64) -> Batch {
        let transfer = TransferId(epoch.into());
        change(epoch, number, &OwnershipRecord::Moved { transfer, epoch: Epoch(epoch + 1) })
    }

    fn accept(epoch: u64) -> Batch {
        let (transfer, from) = (TransferId(epoch.into()), "b".parse().unwrap());
        change(epoch, 1, &OwnershipRecord::Accept { transfer, from, rows: 0, hash: 0 })
    }

    fn reopen(sealed: u64, epoch: u64) -> Batch {
        change(epoch, 1, &OwnershipRecord::Reopen { transfer: TransferId(sealed.into()) })
    }

    fn fence() -> Fence {
        let mut fence = Fence::founded(Shards::new(4).unwrap(), false);
        let owned = |number| Ownership::Owned { epoch: Epoch(2), stay: Epoch(2), number };
        fence.set(ShardId(0), owned(10));
        fence.set(ShardId(1), owned(0));
        fence
    }

    /// Through all that can happen to a shard, and back to where it is owned.
    fn whole_life() -> [Batch; 9] {
        [
            batch(&[(0, 2, 11), (1, 2, 1)]),
            seal(2, 12),
            moved(2, 13),
            accept(7),
            batch(&[(0, 7, 2), (1, 2, 2)]),
            seal(7, 3),
            reopen(7, 9),
            batch(&[(0, 9, 2)]),
            seal(9, 3),
        ]
    }

    fn repeated(fence: &mut Fence, group: &[Batch]) -> Option<usize> {
        match fence.judge(group) {
            Ok(judged) => Some(judged.repeated),
            Err(CommitError::Fenced(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn numbers_that_continue_are_fresh() {
        let group = [batch(&[(0, 2, 11), (1, 2, 1)]), batch(&[(0, 2, 12)])];
        assert_eq!(fence().judge(&group).unwrap(), Judged { repeated: 0, has_records: false });
    }

    #[test]
    fn a_repeated_group_is_known_and_its_rest_is_fresh() {
        let group = [batch(&[(0, 2, 9)]), batch(&[(0, 2, 10)]), batch(&[(0, 2, 11), (1, 2, 1)])];
        assert_eq!(repeated(&mut fence(), &group[..2]), Some(2));
        assert_eq!(repeated(&mut fence(), &group), Some(2));
    }

    #[test]
    fn whatever_else_does_not_continue_is_fenced() {
        let refused = [
            vec![batch(&[(0, 1, 11)])],
            vec![batch(&[(0, 3, 11)])],
            vec![batch(&[(0, 2, 12)])],
            vec![batch(&[(0, 2, 9)])],
            vec![batch(&[(1, 2, 0)])],
            vec![batch(&[(2, 2, 1)])],
            vec![batch(&[(9, 2, 1)])],
            vec![batch(&[(0, 2, 10), (1, 2, 1)])],
            vec![batch(&[(0, 2, 11)]), batch(&[(0, 2, 11)])],
            vec![batch(&[(1, 2, 1)]), batch(&[(0, 2, 10)])],
            vec![seal(2, 11), batch(&[(0, 2, 12)])],
            vec![seal(2, 11), seal(2, 12)],
            vec![seal(2, 11), moved(2, 12), batch(&[(0, 2, 13)])],
            vec![seal(2, 11), moved(2, 12), accept(3)],
            vec![moved(2, 11)],
            vec![accept(3)],
            vec![reopen(2, 3)],
        ];
        for group in refused {
            let mut fence = fence();
            assert!(matches!(fence.judge(&group), Err(CommitError::Fenced(_))), "{group:?}");
            assert_eq!(fence.shards, super::tests::fence().shards, "judging changes nothing");
        }
    }

    #[test]
    fn one_group_may_take_a_shard_through_its_whole_life() {
        let mut fence = fence();
        let life = whole_life();
        assert_eq!(fence.judge(&life).unwrap(), Judged { repeated: 0, has_records: true });
        fence.advance(&life);
        let sealed = Ownership::Sealed {
            epoch: Epoch(9),
            stay: Epoch(7),
            number: 3,
            to: "b".parse().unwrap(),
            store: 8,
            transfer: TransferId(9),
        };
        assert_eq!(fence.get(ShardId(0)), Some(&sealed));
        assert_eq!(fence.owned(), [OwnedShard { shard: ShardId(1), epoch: Epoch(2), number: 2 }]);
        assert_eq!(fence.known().len(), 2);
    }

    #[test]
    fn a_group_with_changes_of_ownership_is_known_again_however_much_of_it_was_applied() {
        let life = whole_life();
        for from in 0..life.len() {
            for applied in from..=life.len() {
                for to in applied..=life.len() {
                    let mut fence = fence();
                    fence.advance(&life[..applied]);
                    let group = &life[from..to];
                    let judged = repeated(&mut fence, group);
                    assert_eq!(judged, Some(applied - from), "{from}..{to}, applied to {applied}");
                }
                // Wholly of before what was applied last, it is an old repeat.
                for to in from + 1..applied {
                    let mut fence = fence();
                    fence.advance(&life[..applied]);
                    assert_eq!(repeated(&mut fence, &life[from..to]), None, "{from}..{to} of {applied}");
                }
            }
        }
    }

    #[test]
    fn the_rows_of_a_section_belong_to_the_stay_it_was_written_in() {
        let mut fence = fence();
        let life = whole_life();
        let stays: Vec<_> =
            life.iter().map(|batch| fence.take(&batch.sections().next().unwrap()).unwrap().0).collect();
        assert_eq!(stays, [2, 2, 2, 7, 7, 7, 7, 7, 7]);
    }
}
