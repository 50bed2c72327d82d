//! What is true of all stores together, whatever the nodes think: one owner of each shard, under rising epochs.

use super::Sim;
use crate::{
    placement::{Epoch, ShardId, Shards},
    store::Ownership,
};

/// Who owned what when it was last looked at. A node that is down owns what it owned then: nothing accepts a shard before
/// its source has said that it is sealed.
pub(super) struct Owners {
    /// By shard: the owner, and the highest epoch ever seen.
    shards: Vec<(Option<usize>, Epoch)>,
}

impl Owners {
    pub(super) fn new(shards: Shards) -> Self {
        Self { shards: vec![(None, Epoch(0)); shards.count() as usize] }
    }

    /// Takes what one store says now.
    fn see(&mut self, at: usize, known: &[(ShardId, Ownership)]) -> Result<(), String> {
        for (shard, ownership) in known {
            let (owner, highest) = &mut self.shards[shard.0 as usize];
            let Ownership::Owned { epoch, .. } = ownership else {
                if *owner == Some(at) {
                    *owner = None;
                }
                continue;
            };
            let is_new = *owner != Some(at);
            if let Some(other) = owner.filter(|_| is_new) {
                return Err(format!("n{other} and n{at} both own {shard}"));
            }
            // A shard that changes hands does so under an epoch nobody had.
            if *epoch < *highest || is_new && *epoch == *highest {
                return Err(format!("n{at} owns {shard} under {epoch:?}, and {highest:?} was there before"));
            }
            (*owner, *highest) = (Some(at), *epoch);
        }
        Ok(())
    }

    /// Who owned a shard when it was last looked at.
    pub(super) fn of(&self, shard: ShardId) -> Option<usize> {
        self.shards[shard.0 as usize].0
    }

    /// A shard nobody owns.
    fn orphan(&self) -> Option<usize> {
        self.shards.iter().position(|(owner, _)| owner.is_none())
    }
}

impl Sim {
    /// Looks at the store of a node that has just opened it, or has changed what it owns.
    pub(super) fn check_owners(&mut self, at: usize) {
        if self.is_shared() {
            return self.check_rows();
        }
        let store = &self.machines[at].node.as_ref().expect("called with a node").store;
        let known = store.ownership().expect("an open store knows what it owns");
        if let Err(what) = self.owners.see(at, &known) {
            self.fail(&what);
        }
    }

    /// Where nothing is on its way every shard has an owner.
    pub(super) fn check_every_shard_is_owned(&self) {
        if self.is_shared() {
            // That each is served where it belongs is part of having settled.
            return;
        }
        if let Some(shard) = self.owners.orphan() {
            self.fail(&format!("nobody owns shard {shard}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(epoch: u64) -> Vec<(ShardId, Ownership)> {
        vec![(ShardId(0), Ownership::Owned { epoch: Epoch(epoch), stay: Epoch(1), number: 0 })]
    }

    fn moved(epoch: u64) -> Vec<(ShardId, Ownership)> {
        let to = "other".parse().unwrap();
        vec![(ShardId(0), Ownership::Moved { epoch: Epoch(epoch), to })]
    }

    #[test]
    fn two_owners_and_a_falling_epoch_are_found_out() {
        let mut owners = Owners::new(Shards::new(1).unwrap());
        assert_eq!(owners.orphan(), Some(0));
        owners.see(0, &owned(1)).unwrap();
        owners.see(0, &owned(3)).unwrap();
        owners.see(0, &owned(2)).unwrap_err();
        owners.see(1, &owned(4)).unwrap_err();
        owners.see(0, &moved(4)).unwrap();
        assert_eq!(owners.orphan(), Some(0));
        owners.see(1, &owned(3)).unwrap_err();
        owners.see(1, &owned(4)).unwrap();
        assert_eq!(owners.orphan(), None);
    }
}
