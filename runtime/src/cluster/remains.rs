//! What is left of a destroyed node: a copy of its store, made ready to hand over what is not the past elsewhere (P20).

use super::{HeldShard, joining::keep_seeds, storage::KNOWN_NODES};
use crate::{
    clock::random_u128,
    membership::Known,
    placement::{Epoch, NodeName, ShardId},
    store::{
        Batch, CommitError, LaneId, LoadError, Ownership, OwnershipRecord, Store, TransferId,
        batch::own,
        embedded::{EmbeddedConfig, EmbeddedStore, OpenError},
    },
};
use std::path::Path;

/// The only lane of an embedded store.
const LANE: LaneId = LaneId(0);

/// A copy of a store whose original is destroyed. Held, nobody else uses its directory.
pub(crate) struct Remains(EmbeddedStore);

/// Why a copy is not made ready. The same may be done again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemainsError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Remains {
    /// Opens the copy in this directory, under its lock.
    pub(crate) fn open(directory: &Path, config: &EmbeddedConfig) -> Result<Self, OpenError> {
        EmbeddedStore::open(directory, config).map(Self)
    }

    /// Id of its cluster, as [`NodeStatus`](super::NodeStatus) says it.
    pub(crate) fn cluster(&self) -> String {
        format!("{:032x}", self.0.identity().cluster)
    }

    /// By which the others may know it: the UUID it was founded with, and the one it has, as [`Command::Bury`](super::Command)
    /// says them. The second is another one where it was made ready before.
    pub(crate) fn stores(&self) -> Vec<String> {
        [self.0.founding().store, self.0.identity().store].map(|store| format!("{store:032x}")).to_vec()
    }

    /// What it could hand over, with the epoch above which it is the past. A shard that it has sealed was given away under the
    /// next one: whoever has it under that may have it from here.
    pub(crate) fn shards(&self) -> Result<Vec<HeldShard>, LoadError> {
        let held = self.0.ownership()?.into_iter().filter_map(|(shard, ownership)| {
            let epoch = match ownership {
                Ownership::Owned { epoch, .. } => epoch.0,
                Ownership::Sealed { epoch, .. } => epoch.0 + 1,
                Ownership::Foreign | Ownership::Moved { .. } => return None,
            };
            Some(HeldShard { shard: shard.0, epoch, node: None })
        });
        Ok(held.collect())
    }

    /// Lets go of the shards that are newer elsewhere, and gives the store an identity of its own: that of the original is given
    /// up. The identity comes last: until then no node lets the copy in, for it comes as the store that is given up.
    pub(crate) fn make_ready(
        self,
        name: &NodeName,
        newer: &[HeldShard],
        seeds: &[String],
    ) -> Result<(), RemainsError> {
        let Self(store) = self;
        let mut group = Vec::new();
        for (shard, ownership) in store.ownership()? {
            let Some(newer) = newer.iter().find(|newer| newer.shard == shard.0) else { continue };
            match ownership {
                Ownership::Owned { epoch, number, .. } => {
                    // To whom it went, as far as anybody knows.
                    let to = newer.node.clone().unwrap_or_else(|| name.clone());
                    let transfer = TransferId(random_u128());
                    // It is let go in the same commit: whose store it went to plays no part.
                    let seal = OwnershipRecord::Seal { transfer, to, store: 0 };
                    group.push(record(shard, epoch, number + 1, &seal));
                    let moved = OwnershipRecord::Moved { transfer, epoch: Epoch(newer.epoch) };
                    group.push(record(shard, epoch, number + 2, &moved));
                }
                // That it went on shows that its target has accepted.
                Ownership::Sealed { epoch, number, transfer, .. } => {
                    let moved = OwnershipRecord::Moved { transfer, epoch: Epoch(epoch.0 + 1) };
                    group.push(record(shard, epoch, number + 1, &moved));
                }
                Ownership::Foreign | Ownership::Moved { .. } => {}
            }
        }
        if !group.is_empty() {
            store.open_lane(LANE).commit(&group)?;
        }
        // In it stands that this node is the store it was. Whom it knew it hears of from whom it joins.
        store.keep_note(KNOWN_NODES, &Known::default().encode())?;
        keep_seeds(&store, seeds)?;
        store.take_identity(random_u128())?;
        store.close()?;
        Ok(())
    }
}

fn record(shard: ShardId, epoch: Epoch, number: u64, record: &OwnershipRecord) -> Batch {
    let mut batch = Batch::new();
    batch.section(shard, epoch, number, |out| own(record, out));
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::storage::JOINED_AT, placement::Shards, store::Founding};

    fn config() -> EmbeddedConfig {
        EmbeddedConfig { segment_bytes: 64 << 10, tail_bytes: 384 << 10, ..EmbeddedConfig::default() }
    }

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[test]
    fn what_is_newer_elsewhere_is_let_go_and_the_rest_is_another_stores() {
        let directory = tempfile::tempdir().unwrap();
        let founding = Founding::founder(5, 6, Shards::new(4).unwrap());
        drop(EmbeddedStore::found(directory.path(), &founding, &config()).unwrap());
        let remains = Remains::open(directory.path(), &config()).unwrap();
        assert_eq!(remains.cluster(), format!("{:032x}", 5));
        assert_eq!(remains.stores(), [6, 6].map(|store| format!("{store:032x}")));
        let held = |shard, epoch| HeldShard { shard, epoch, node: None };
        assert_eq!(remains.shards().unwrap(), [held(0, 1), held(1, 1), held(2, 1), held(3, 1)]);
        let newer = [HeldShard { node: Some(name("b")), ..held(2, 7) }];
        let seeds = ["b:7001".to_owned()];
        remains.make_ready(&name("c"), &newer, &seeds).unwrap();

        let store = EmbeddedStore::open(directory.path(), &config()).unwrap();
        let owned: Vec<u32> = store.owned().unwrap().into_iter().map(|owned| owned.shard.0).collect();
        assert_eq!(owned, [0, 1, 3]);
        let moved = Ownership::Moved { epoch: Epoch(7), to: name("b") };
        assert_eq!(store.ownership().unwrap()[2], (ShardId(2), moved));
        let identity = store.identity();
        assert_eq!(identity.cluster, 5);
        assert_ne!(identity.store, 6, "that one is given up");
        assert_eq!(store.note(JOINED_AT).unwrap().unwrap(), b"b:7001");
        assert_eq!(store.note(KNOWN_NODES).unwrap(), Some(Known::default().encode()));
        drop(store);
        let again = Remains::open(directory.path(), &config()).unwrap();
        assert_eq!(again.stores(), [6, identity.store].map(|store| format!("{store:032x}")));
    }

    #[test]
    fn of_what_was_on_its_way_already_only_that_goes_on_which_nobody_has_had_since() {
        let directory = tempfile::tempdir().unwrap();
        let founding = Founding::founder(5, 6, Shards::new(4).unwrap());
        let store = EmbeddedStore::found(directory.path(), &founding, &config()).unwrap();
        let seal = |shard| {
            let seal = OwnershipRecord::Seal { transfer: TransferId(shard), to: name("b"), store: 8 };
            record(ShardId(shard as u32), Epoch(1), 1, &seal)
        };
        store.open_lane(LANE).commit(&[seal(1), seal(3)]).unwrap();
        drop(store);
        let remains = Remains::open(directory.path(), &config()).unwrap();
        let held = |shard, epoch| HeldShard { shard, epoch, node: None };
        // Under 2 it may have gone to b from here.
        assert_eq!(remains.shards().unwrap(), [held(0, 1), held(1, 2), held(2, 1), held(3, 2)]);
        let newer = [HeldShard { node: Some(name("d")), ..held(3, 4) }];
        remains.make_ready(&name("c"), &newer, &[]).unwrap();

        let store = EmbeddedStore::open(directory.path(), &config()).unwrap();
        let known = store.ownership().unwrap();
        let sealed = matches!(&known[1].1, Ownership::Sealed { to, .. } if *to == name("b"));
        assert!(sealed, "{known:?}");
        // Whose it is under 4 the others say; that b had it under 2 is all that is known here.
        assert_eq!(known[3].1, Ownership::Moved { epoch: Epoch(2), to: name("b") });
    }
}
