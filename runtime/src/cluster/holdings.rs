//! The machine that decides which shards move: one where this node has a store of its own, another where nodes share one.

use super::sharing::Common;
use crate::{
    mover::{Mover, MoverEvent, SealedShard, Standing},
    placement::{Epoch, NodeName, ShardId},
    router::Routes,
    sharing::SharingEvent,
};

/// Which it is, for as long as the node runs.
pub(super) enum Holdings {
    /// The rows of a shard are in its owner's store: they are copied when it goes.
    Own(Box<Mover>),
    /// All rows are in one store: its ledgers say whose a shard is.
    Common(Box<Common>),
}

impl Holdings {
    pub(super) fn routes(&self) -> &Routes {
        match self {
            Self::Own(mover) => mover.routes(),
            Self::Common(common) => common.sharing.routes(),
        }
    }

    /// How many shards are going, and how many are coming.
    pub(super) fn running(&self) -> (usize, usize) {
        match self {
            Self::Own(mover) => mover.running(),
            Self::Common(common) => (common.sharing.running(), 0),
        }
    }

    /// As [`Mover::going_to`]. A shared store knows a node by its name alone.
    pub(super) fn going_to(&self, node: &NodeName, store: u128) -> Option<u64> {
        match self {
            Self::Own(mover) => mover.going_to(node, store),
            Self::Common(common) => common.sharing.going_to(node),
        }
    }

    /// Whether nothing of this node's is left.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Own(mover) => mover.is_empty(),
            Self::Common(common) => common.sharing.is_empty(),
        }
    }

    /// Shards that stand still until another store has accepted them: of a shared one there are none.
    pub(super) fn sealed(&self) -> impl Iterator<Item = SealedShard> {
        let mover = match self {
            Self::Own(mover) => Some(mover),
            Self::Common(_) => None,
        };
        mover.into_iter().flat_map(|mover| mover.sealed())
    }

    /// What is answered of a shard's epochs, to one who asks after the loss of a disk.
    pub(super) fn standing(&self, shard: ShardId) -> Standing {
        match self {
            Self::Own(mover) => mover.standing(shard),
            Self::Common(common) => {
                let heard = common.sharing.routes().get(shard).map(|(epoch, owner)| (epoch, owner.clone()));
                let held = heard.as_ref().map_or(Epoch(0), |(epoch, _)| *epoch);
                Standing { held, heard, is_accepting: false }
            }
        }
    }

    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Common(_))
    }
}

/// What of a mover's events means something where the store is shared. There liveness is the store's, nothing is copied, and no disk of
/// a node can be lost.
pub(super) fn shared_event(event: MoverEvent) -> Option<SharingEvent> {
    Some(match event {
        MoverEvent::Heard { from, store, shard, transfer, message } => {
            SharingEvent::Heard { from, store, shard, transfer, message }
        }
        MoverEvent::Announced(announcements) => SharingEvent::Announced(announcements),
        MoverEvent::News(shard, news) => SharingEvent::News(shard, news),
        MoverEvent::Build { node, lacks } => SharingEvent::Build { node, lacks },
        MoverEvent::Leave => SharingEvent::Leave,
        MoverEvent::Tick => SharingEvent::Tick,
        MoverEvent::Ownership { .. }
        | MoverEvent::RowsRead { .. }
        | MoverEvent::ReadFailed { .. }
        | MoverEvent::Cleared { .. }
        | MoverEvent::Staged { .. }
        | MoverEvent::StagingFailed { .. }
        | MoverEvent::Table(_)
        | MoverEvent::Forgotten(_)
        | MoverEvent::Hold(_)
        | MoverEvent::Release(_)
        | MoverEvent::Reopen { .. } => return None,
    })
}
