//! Shards that come.

use super::{Mover, MoverAction};
use crate::{
    handoff::{TargetAction, TargetEvent, Transfer},
    kernel::Order,
    placement::ShardId,
    router::Announcement,
    store::{OwnershipRecord, TransferId},
    timestamp::Timestamp,
};

impl Mover {
    pub(super) fn target_event(
        &mut self,
        shard: ShardId,
        transfer: TransferId,
        event: TargetEvent,
        now: Timestamp,
    ) {
        let target = self.targets.get_mut(&shard).filter(|target| target.transfer().id == transfer);
        let Some(target) = target else { return };
        let transfer = target.transfer().clone();
        let actions = target.step(event, now);
        self.do_target(&transfer, actions);
    }

    pub(super) fn do_target(&mut self, transfer: &Transfer, actions: Vec<TargetAction>) {
        let (shard, epoch, id) = (transfer.shard, transfer.epoch, transfer.id);
        for action in actions {
            match action {
                TargetAction::Send(message) => self.send(transfer.source.clone(), shard, id, message),
                TargetAction::Clear => self.actions.push(MoverAction::Clear(shard, epoch, id)),
                TargetAction::Stage(sections) => {
                    self.actions.push(MoverAction::Stage(shard, epoch, id, sections));
                }
                TargetAction::WriteAccept { rows, hash } => {
                    let from = transfer.source.clone();
                    let record = OwnershipRecord::Accept { transfer: id, from, rows, hash };
                    let order = Order::Write { epoch, number: 1, record };
                    self.actions.push(MoverAction::Order(shard, order));
                }
                TargetAction::Serve => {
                    self.targets.remove(&shard);
                    self.actions.push(MoverAction::Host(shard));
                    let owner = self.config.here.clone();
                    self.actions.push(MoverAction::Announce(Announcement { shard, epoch, owner }));
                }
                TargetAction::End(why) => {
                    self.targets.remove(&shard);
                    self.actions.push(MoverAction::Sweep(shard, epoch, id));
                    tracing::debug!(%shard, from = %transfer.source, why, "a shard does not come");
                }
            }
        }
    }
}
