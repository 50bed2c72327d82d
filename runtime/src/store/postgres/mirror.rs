//! Whose each shard is, as far as this node has heard: read without a server, and never what makes a write safe (P23).
//!
//! News of a shard come from four sides, in any order: commits of its lane, what was taken or given, the ledgers of beats, and
//! rows that were read by themselves. So each carries the *generation* of the server it comes from and the epoch, and whatever
//! is older than what is known is left aside. Of one generation an epoch only rises. With the next one, which begins where a
//! server turned out to be another than before, it may fall: then it is counted what this node was promised and has lost.

use crate::{
    placement::{Epoch, NodeName, ShardId},
    store::{Batch, OwnedShard, Ownership, OwnershipRecord},
};

/// Who has a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// Nobody, or a run of which nobody knows.
    Nobody,
    /// This run of this node.
    Me,
    /// Another node.
    Other(NodeName),
}

/// What was heard of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
    pub(super) owner: Owner,
    /// The number of its last batch under that epoch.
    pub(super) number: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Zero: nothing was heard of it yet.
    generation: u64,
    epoch: Epoch,
    owner: Owner,
    number: u64,
}

/// Whose each shard of the cluster is.
#[derive(Debug)]
pub(super) struct Mirror {
    shards: Vec<Entry>,
    /// How many shards had less, in a new generation, than had been acknowledged in the one before.
    lost: u64,
}

impl Mirror {
    pub(super) fn new(shards: u32) -> Self {
        let unknown = Entry { generation: 0, epoch: Epoch(0), owner: Owner::Nobody, number: 0 };
        Self { shards: vec![unknown; shards as usize], lost: 0 }
    }

    /// Takes what a server of a generation, numbered from 1, has said of a shard.
    pub(super) fn hear(&mut self, generation: u64, heard: Heard) {
        let Heard { shard, epoch, owner, number } = heard;
        let Some(entry) = self.shards.get_mut(shard.0 as usize) else { return };
        if (generation, epoch) < (entry.generation, entry.epoch) {
            return;
        }
        if entry.generation < generation {
            self.lost += u64::from(entry.has_lost(shard, epoch, &owner, number));
        } else if epoch == entry.epoch && owner == entry.owner {
            // Both are true of their moment, and of one epoch numbers rise.
            entry.number = entry.number.max(number);
            return;
        }
        *entry = Entry { generation, epoch, owner, number };
    }

    /// Takes batches that are durable.
    pub(super) fn committed(&mut self, generation: u64, batches: &[Batch]) {
        for section in batches.iter().flat_map(Batch::sections) {
            let Some(entry) = self.shards.get_mut(section.shard.0 as usize) else { continue };
            if (entry.generation, entry.epoch) != (generation, section.epoch) || entry.owner != Owner::Me {
                continue;
            }
            entry.number = entry.number.max(section.number);
            if let Some(Ok(OwnershipRecord::Seal { to, .. })) = section.record() {
                // Or nobody's, if that node does not live: the next ledger tells.
                entry.owner = Owner::Other(to);
                (entry.epoch, entry.number) = (Epoch(section.epoch.0.saturating_add(1)), 0);
            }
        }
    }

    /// A lane has found that a shard has less than was acknowledged.
    pub(super) fn went_back(&mut self) {
        self.lost += 1;
    }

    /// How often a shard was found to have less than was acknowledged.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// All shards that are this run's, in order.
    pub(super) fn owned(&self) -> Vec<OwnedShard> {
        let mine = self.entries().filter(|(_, entry)| entry.owner == Owner::Me);
        mine.map(|(shard, entry)| OwnedShard { shard, epoch: entry.epoch, number: entry.number }).collect()
    }

    /// All shards that somebody has, in order.
    pub(super) fn ownership(&self) -> Vec<(ShardId, Ownership)> {
        let known = self.entries().filter_map(|(shard, entry)| {
            let (epoch, number) = (entry.epoch, entry.number);
            match &entry.owner {
                Owner::Nobody => None,
                Owner::Me => Some((shard, Ownership::Owned { epoch, stay: epoch, number })),
                Owner::Other(to) => Some((shard, Ownership::Moved { epoch, to: to.clone() })),
            }
        });
        known.collect()
    }

    fn entries(&self) -> impl Iterator<Item = (ShardId, &Entry)> {
        (0_u32..).map(ShardId).zip(&self.shards)
    }
}

impl Entry {
    /// Whether a shard, heard of in a later generation, has less than this run was promised.
    fn has_lost(&self, shard: ShardId, epoch: Epoch, owner: &Owner, number: u64) -> bool {
        if self.owner != Owner::Me {
            return false;
        }
        // Under a higher epoch others have gone on from what was there, whatever that was.
        let is_lost =
            epoch < self.epoch || epoch == self.epoch && (*owner != Owner::Me || number < self.number);
        if is_lost {
            tracing::error!(
                %shard,
                had = %format_args!("batch {} of epoch {}", self.number, self.epoch.0),
                has = %format_args!("batch {number} of epoch {}", epoch.0),
                "acknowledged commits were lost: the server failed over to a standby that lagged, or was restored"
            );
        }
        is_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{TransferId, batch::own};

    const SHARD: ShardId = ShardId(1);

    fn heard(epoch: u64, owner: Owner, number: u64) -> Heard {
        Heard { shard: SHARD, epoch: Epoch(epoch), owner, number }
    }

    fn other() -> Owner {
        Owner::Other("b".parse().unwrap())
    }

    fn batch(epoch: u64, number: u64, seals: bool) -> Batch {
        let record = OwnershipRecord::Seal { transfer: TransferId(1), to: "b".parse().unwrap(), store: 8 };
        let mut batch = Batch::new();
        batch.section(SHARD, Epoch(epoch), number, |out| {
            if seals {
                own(&record, out);
            }
        });
        batch
    }

    /// A mirror of four shards, one of which is ours under epoch 5, at batch 7.
    fn mirror() -> Mirror {
        let mut mirror = Mirror::new(4);
        mirror.hear(1, heard(5, Owner::Me, 0));
        mirror.committed(1, &[batch(5, 6, false), batch(5, 7, false)]);
        mirror
    }

    fn owned(mirror: &Mirror) -> Vec<(u64, u64)> {
        mirror.owned().iter().map(|owned| (owned.epoch.0, owned.number)).collect()
    }

    #[test]
    fn what_is_older_than_what_is_known_changes_nothing() {
        let mut mirror = mirror();
        mirror.hear(1, heard(4, other(), 9));
        mirror.hear(1, heard(5, Owner::Me, 3));
        mirror.committed(1, &[batch(4, 9, true), batch(5, 2, false)]);
        mirror.committed(2, &[batch(5, 9, true)]);
        assert_eq!(owned(&mirror), [(5, 7)]);
        assert_eq!(mirror.lost(), 0);
    }

    #[test]
    fn a_shard_that_was_given_or_taken_is_known_by_its_owner() {
        let mut given = mirror();
        given.committed(1, &[batch(5, 8, true), batch(5, 9, false)]);
        let moved = Ownership::Moved { epoch: Epoch(6), to: "b".parse().unwrap() };
        assert_eq!(given.ownership(), [(SHARD, moved)]);
        // The heir did not live: the same epoch, and nobody's.
        given.hear(1, heard(6, Owner::Nobody, 0));
        assert_eq!(given.ownership(), []);
        let mut taken = mirror();
        taken.hear(1, heard(6, other(), 0));
        assert_eq!(owned(&taken), []);
        taken.hear(1, heard(7, Owner::Me, 2));
        let number = 2;
        assert_eq!(
            taken.ownership(),
            [(SHARD, Ownership::Owned { epoch: Epoch(7), stay: Epoch(7), number })]
        );
    }

    #[test]
    fn in_a_new_generation_what_fell_is_taken_and_counted() {
        let cases = [
            (heard(4, other(), 9), 1),
            (heard(5, Owner::Me, 6), 1),
            (heard(5, other(), 9), 1),
            (heard(5, Owner::Nobody, 0), 1),
            (heard(5, Owner::Me, 7), 0),
            (heard(6, other(), 0), 0),
        ];
        for (heard, lost) in cases {
            let mut mirror = mirror();
            mirror.hear(2, heard.clone());
            assert_eq!(mirror.lost(), lost, "{heard:?}");
            let is_mine = heard.owner == Owner::Me;
            let expected = is_mine.then_some((heard.epoch.0, heard.number));
            assert_eq!(owned(&mirror), Vec::from_iter(expected), "{heard:?}");
            // What the server of before has said comes too late.
            mirror.hear(1, self::heard(99, Owner::Me, 99));
            assert_eq!(owned(&mirror), Vec::from_iter(expected), "{heard:?}");
        }
    }

    #[test]
    fn a_shard_of_another_node_is_not_ours_to_lose() {
        let mut mirror = Mirror::new(4);
        mirror.hear(1, heard(5, other(), 0));
        mirror.hear(2, heard(3, Owner::Nobody, 0));
        assert_eq!(mirror.lost(), 0);
        mirror.hear(2, Heard { shard: ShardId(4), ..heard(3, Owner::Me, 0) });
        assert_eq!(mirror.owned(), [], "there is no such shard");
    }
}
