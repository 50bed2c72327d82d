//! Shards that come.

use super::{Mover, MoverAction};
use crate::{
    handoff::{Target, TargetAction, TargetEvent, Transfer},
    kernel::Order,
    placement::{NodeName, ShardId},
    router::Announcement,
    store::OwnershipRecord,
    timestamp::Timestamp,
};

impl Mover {
    /// Begins to take a shard, in place of an earlier hand-off of it.
    pub(super) fn begin_target(&mut self, transfer: &Transfer, attempt: u64, now: Timestamp) {
        self.places_begun += 1;
        let (place, table) = (self.number(self.places_begun), self.table_digest());
        let limits = self.config.limits.clone();
        let (target, actions) = Target::new(transfer.clone(), attempt, place, table, limits, now);
        self.targets.insert(transfer.shard, target);
        self.do_target(transfer, actions);
    }

    /// A node's store is given up.
    pub(super) fn orphan(&mut self, node: &NodeName, now: Timestamp) {
        let its = |target: &&Target| target.transfer().source == *node;
        let orphans = self.targets.values().filter(its).map(|target| target.transfer().shard);
        for shard in orphans.collect::<Vec<_>>() {
            let why = format!("the store of {node} is forgotten");
            self.target_event(shard, TargetEvent::Orphaned(why), now);
        }
    }

    /// What names a place or a hand-off names it in the event: whoever calls has looked that it is of this target.
    pub(super) fn target_event(&mut self, shard: ShardId, event: TargetEvent, now: Timestamp) {
        let Some(target) = self.targets.get_mut(&shard) else { return };
        let transfer = target.transfer().clone();
        let actions = target.step(event, now);
        self.do_target(&transfer, actions);
    }

    pub(super) fn do_target(&mut self, transfer: &Transfer, actions: Vec<TargetAction>) {
        let (shard, epoch, id) = (transfer.shard, transfer.epoch, transfer.id);
        for action in actions {
            match action {
                TargetAction::Send(message) => self.send(transfer.source.clone(), shard, id, message),
                TargetAction::Clear(place) => {
                    self.actions.push(MoverAction::Clear { shard, epoch, transfer: id, place });
                }
                TargetAction::Stage(place, sections) => {
                    self.actions.push(MoverAction::Stage { shard, epoch, transfer: id, place, sections });
                }
                TargetAction::WriteAccept { rows, hash } => {
                    let from = transfer.source.clone();
                    let record = OwnershipRecord::Accept { transfer: id, from, rows, hash };
                    let order = Order::Write { epoch, number: 1, record };
                    self.actions.push(MoverAction::Order(shard, order));
                }
                TargetAction::Serve(hot) => {
                    self.targets.remove(&shard);
                    self.actions.push(MoverAction::Host(shard));
                    if !hot.is_empty() {
                        self.actions.push(MoverAction::Warm(shard, hot));
                    }
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
