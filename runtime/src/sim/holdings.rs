//! What decides on a simulated node which shards move: a mover where each node has a store of its own, or what nodes decide by that
//! share one.

use super::{Sim, sharing::Common};
use crate::{
    kernel::HandOffNews,
    mover::{Mover, MoverAction, MoverEvent},
    placement::NodeName,
    router::Routes,
    sharing::{SharingAction, SharingEvent},
    store::{OwnedShard, Store},
    timestamp::Timestamp,
};

pub(super) enum Holdings {
    Own(Box<Mover>),
    Common(Box<Common>),
}

/// What a node that starts does first.
pub(super) enum Begun {
    Own(Vec<MoverAction>),
    Common(Vec<SharingAction>),
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

    pub(super) fn is_quiet(&self) -> bool {
        self.running() == (0, 0)
    }

    /// Whether nothing of this node's is left.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Own(mover) => mover.is_empty(),
            Self::Common(common) => common.sharing.is_empty(),
        }
    }

    /// How many shards are going to a node that takes no more.
    pub(super) fn going_to(&self, node: &NodeName, store: u128) -> Option<u64> {
        match self {
            Self::Own(mover) => mover.going_to(node, store),
            Self::Common(common) => common.sharing.going_to(node),
        }
    }

    /// Takes what a mover may be told, and returns what is to be done; nothing, where it means nothing to a store that is shared.
    fn step(&mut self, event: MoverEvent, now: Timestamp) -> Begun {
        match self {
            Self::Own(mover) => Begun::Own(mover.step(event, now)),
            Self::Common(common) => {
                let event = shared_event(event);
                Begun::Common(event.map_or_else(Vec::new, |event| common.sharing.step(event, now)))
            }
        }
    }
}

/// What of a mover's events comes up here where the store is shared.
fn shared_event(event: MoverEvent) -> Option<SharingEvent> {
    Some(match event {
        MoverEvent::Heard { from, store, shard, transfer, message } => {
            SharingEvent::Heard { from, store, shard, transfer, message }
        }
        MoverEvent::Announced(announcements) => SharingEvent::Announced(announcements),
        MoverEvent::News(shard, news) => SharingEvent::News(shard, news),
        MoverEvent::Leave => SharingEvent::Leave,
        MoverEvent::Tick => SharingEvent::Tick,
        _ => return None,
    })
}

impl Sim {
    pub(super) fn make_holdings(
        &mut self,
        at: usize,
        store: &dyn Store,
        owned: &[OwnedShard],
    ) -> (Holdings, Begun) {
        if let Some(shared) = store.shared() {
            let (common, begun) = self.make_sharing(at, shared, owned);
            return (Holdings::Common(Box::new(common)), Begun::Common(begun));
        }
        let ownership = store.ownership().expect("a store that was just opened can be read");
        let (mover, begun) = self.make_mover(at, ownership);
        (Holdings::Own(Box::new(mover)), Begun::Own(begun))
    }

    pub(super) fn begin(&mut self, at: usize, begun: Begun) {
        match begun {
            Begun::Own(actions) => self.perform_moves(at, actions),
            Begun::Common(actions) => self.perform_sharing(at, actions),
        }
    }

    pub(super) fn step_mover(&mut self, at: usize, event: MoverEvent) {
        if let MoverEvent::News(shard, HandOffNews::Sealed { .. }) = &event
            && self.is_shared()
        {
            // It is durable: from here on only its next owner serves it.
            self.unroute(at, *shard);
        }
        let now = self.mover_clock(at);
        let Some(node) = self.machines[at].node.as_mut() else { return };
        let done = node.holdings.step(event, now);
        self.begin(at, done);
    }
}
