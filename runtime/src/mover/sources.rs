//! Shards that go.

use super::{Mover, MoverAction};
use crate::{
    handoff::{Source, SourceAction, SourceEnd, SourceEvent, TargetEvent, Transfer},
    kernel::Order,
    placement::{Epoch, NodeName, ShardId},
    rebalance::Ended,
    store::{Ownership, OwnershipRecord, TransferId},
    timestamp::Timestamp,
};

impl Mover {
    /// Goes on with a hand-off whose seal is in the store.
    pub(super) fn resume(
        &mut self,
        shard: ShardId,
        epoch: Epoch,
        id: TransferId,
        (target, store): (&NodeName, u128),
        now: Timestamp,
    ) {
        self.rebalance.sealed(shard, epoch, target);
        let (source, target) = (self.config.here.clone(), target.clone());
        let transfer = Transfer { id, shard, epoch: Epoch(epoch.0 + 1), source, target };
        let (attempt, limits) = (self.next_attempt(), self.config.limits.clone());
        let (source, actions) = Source::resume(transfer.clone(), store, attempt, limits, now);
        self.sources.insert(shard, source);
        self.do_source(&transfer, actions, false, now);
    }

    pub(super) fn source_event(
        &mut self,
        shard: ShardId,
        transfer: TransferId,
        event: SourceEvent,
        now: Timestamp,
    ) {
        let source = self.sources.get_mut(&shard).filter(|source| source.transfer().id == transfer);
        let Some(source) = source else { return };
        let transfer = source.transfer().clone();
        let actions = source.step(event, now);
        self.do_source(&transfer, actions, false, now);
    }

    /// The shard's seal is durable.
    pub(super) fn take_seal(
        &mut self,
        shard: ShardId,
        transfer: TransferId,
        epoch: Epoch,
        number: u64,
        now: Timestamp,
    ) {
        let Some(source) = self.sources.get(&shard).filter(|source| source.transfer().id == transfer) else {
            self.alarm(format!("{shard} was sealed for a hand-off that is not known"));
            return;
        };
        let to = source.transfer().target.clone();
        let store = source.store().expect("what is sealed is sealed for a store");
        let stay = match self.ownership.get(&shard) {
            Some(Ownership::Owned { stay, .. }) => *stay,
            _ => epoch,
        };
        self.ownership.insert(shard, Ownership::Sealed { epoch, stay, number, to, store, transfer });
        self.source_event(shard, transfer, SourceEvent::Sealed, now);
    }

    /// Does what a source wants. `is_withdrawn`: the rebalancer knows that it ends.
    pub(super) fn do_source(
        &mut self,
        transfer: &Transfer,
        actions: Vec<SourceAction>,
        is_withdrawn: bool,
        now: Timestamp,
    ) {
        let (shard, id) = (transfer.shard, transfer.id);
        let owned = Epoch(transfer.epoch.0 - 1);
        for action in actions {
            match action {
                SourceAction::Send(message) => self.send(transfer.target.clone(), shard, id, message),
                SourceAction::GiveSections => self.actions.push(MoverAction::Order(shard, Order::Give(id))),
                SourceAction::StopGiving => {
                    self.actions.push(MoverAction::Order(shard, Order::StopGiving(id)));
                }
                SourceAction::ReadRows { from, bytes, attempt } => {
                    let (epoch, transfer) = (owned, id);
                    self.actions.push(MoverAction::ReadRows { shard, epoch, transfer, attempt, from, bytes });
                }
                SourceAction::Seal(store) => {
                    self.rebalance.sealed(shard, owned, &transfer.target);
                    let order = Order::Seal { transfer: id, to: transfer.target.clone(), store };
                    self.actions.push(MoverAction::Order(shard, order));
                }
                SourceAction::WriteMoved => self.write_moved(transfer),
                SourceAction::End(SourceEnd::Moved) => {
                    self.sources.remove(&shard);
                    self.rebalance.ended(shard, owned, Ended::Moved, now);
                    tracing::debug!(%shard, to = %transfer.target, epoch = transfer.epoch.0, "a shard has moved");
                }
                SourceAction::End(SourceEnd::Withdrawn(why)) => {
                    self.sources.remove(&shard);
                    if !is_withdrawn {
                        self.rebalance.ended(shard, owned, Ended::Failed, now);
                    }
                    tracing::debug!(%shard, to = %transfer.target, why, "a hand-off was withdrawn");
                }
            }
        }
    }

    /// The target has the shard.
    fn write_moved(&mut self, transfer: &Transfer) {
        let shard = transfer.shard;
        self.learn(shard, transfer.epoch, &transfer.target);
        let Some(Ownership::Sealed { epoch, number, .. }) = self.ownership.get(&shard) else {
            self.alarm(format!("{shard} was accepted by {} and is not sealed here", transfer.target));
            return;
        };
        let record = OwnershipRecord::Moved { transfer: transfer.id, epoch: transfer.epoch };
        let order = Order::Write { epoch: *epoch, number: number + 1, record };
        self.actions.push(MoverAction::Order(shard, order));
    }

    /// Looks what a route that was heard means for a hand-off of the shard. One beyond the target of a seal from here is the proof
    /// that the target has accepted and handed it on, though nobody said so; and what another node owns does not come. That the
    /// target itself has it, only the target says: should its disk be gone, what is here may be the last there is.
    pub(super) fn outrun(&mut self, shard: ShardId, now: Timestamp) {
        let Some((epoch, owner)) = self.routes.get(shard).map(|(epoch, owner)| (epoch, owner.clone())) else {
            return;
        };
        if owner == self.config.here {
            return;
        }
        if let Some(source) = self.sources.get(&shard).filter(|source| source.is_sealed()) {
            let Transfer { id, epoch: given, .. } = *source.transfer();
            if given < epoch && !self.is_held(shard, id) {
                self.source_event(shard, id, SourceEvent::Outrun, now);
            }
        }
        if self.targets.get(&shard).is_some_and(|target| target.transfer().epoch <= epoch) {
            let why = format!("{owner} owns it under {epoch}");
            self.target_event(shard, TargetEvent::Orphaned(why), now);
        }
    }
}
