//! Offers: made by the owner, judged by whom the table names.

use super::{Mover, MoverAction};
use crate::{
    handoff::{Message, Source, SourceEvent, Target, TargetEvent, Transfer},
    placement::{Epoch, NodeName, ShardId},
    rebalance::{Answer, Offer, Ready, ReadyVerdict},
    store::{Ownership, TransferId},
    timestamp::Timestamp,
};
use xxhash_rust::xxh3::xxh3_128;

impl Mover {
    /// Offers what should go, and takes back what should not.
    pub(super) fn offer(&mut self, now: Timestamp) {
        let steps = self.rebalance.step(now);
        for Offer { shard, epoch, to } in steps.withdrawn {
            let Some(source) = self.sources.get_mut(&shard) else { continue };
            if source.is_past_seal() {
                self.rebalance.sealed(shard, epoch, &to);
                continue;
            }
            let transfer = source.transfer().clone();
            let actions = source.withdraw("it is not to go there any more");
            self.do_source(&transfer, actions, true, now);
        }
        for Offer { shard, epoch, to } in steps.offers {
            let transfer = Transfer {
                id: self.next_transfer(),
                shard,
                epoch: Epoch(epoch.0 + 1),
                source: self.config.here.clone(),
                target: to,
            };
            let limits = self.config.limits.clone();
            let (source, actions) =
                Source::offer(transfer.clone(), self.config.boot, self.table_digest(), limits, now);
            self.sources.insert(shard, source);
            self.do_source(&transfer, actions, false, now);
        }
    }

    /// Never given again: no other store has the UUID, and no other run of this one the boot counter.
    fn next_transfer(&mut self) -> TransferId {
        self.begun += 1;
        let mut bytes = self.config.store.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.config.boot.to_le_bytes());
        bytes.extend_from_slice(&self.begun.to_le_bytes());
        TransferId(xxh3_128(&bytes))
    }

    pub(super) fn hear(
        &mut self,
        from: &NodeName,
        shard: ShardId,
        transfer: TransferId,
        message: Message,
        now: Timestamp,
    ) {
        match message {
            Message::Offer { transfer, attempt, table, is_sealed } => {
                // Epochs rise with each move: none of an honest node is so high, and one more would not fit.
                let is_sound = transfer.shard == shard && transfer.epoch.0 < u64::MAX / 2;
                if is_sound && transfer.source == *from && transfer.target == self.config.here {
                    self.judge_offer(transfer, attempt, table, is_sealed, now);
                }
            }
            Message::Piece { .. } | Message::Withdrawn => {
                let is_mine = |target: &Target| {
                    target.transfer().id == transfer
                        && target.transfer().source == *from
                        && !target.is_ended()
                };
                if self.targets.get(&shard).is_some_and(is_mine) {
                    self.target_event(shard, transfer, TargetEvent::Heard(message), now);
                } else if matches!(message, Message::Piece { .. }) {
                    // Accepted or lost: an offer is what this is judged by, so one is asked for.
                    self.send(from.clone(), shard, transfer, Message::Lost);
                }
            }
            Message::Ready { .. }
            | Message::NotReady { .. }
            | Message::Staged { .. }
            | Message::Lost
            | Message::Accepted => {
                let is_mine =
                    |source: &Source| source.transfer().id == transfer && source.transfer().target == *from;
                if self.sources.get(&shard).is_some_and(is_mine) {
                    self.judge_answer(from, shard, transfer, message, now);
                }
            }
        }
    }

    /// The target of a hand-off answers.
    fn judge_answer(
        &mut self,
        from: &NodeName,
        shard: ShardId,
        transfer: TransferId,
        message: Message,
        now: Timestamp,
    ) {
        let source = &self.sources[&shard];
        let epoch = Epoch(source.transfer().epoch.0 - 1);
        let answer = match &message {
            Message::Ready { table, .. } => Some((*table, Answer::Accepts)),
            Message::NotReady { table, is_busy: true, .. } => Some((*table, Answer::Busy)),
            Message::NotReady { table, is_busy: false, .. } => Some((*table, Answer::Refuses)),
            _ => None,
        };
        if let Some((digest, answer)) = answer.filter(|_| source.is_offered()) {
            let ready = Ready { shard, epoch, from: from.clone(), digest, answer };
            match self.rebalance.ready(&ready, now) {
                ReadyVerdict::Proceed => self.source_event(shard, transfer, SourceEvent::Heard(message), now),
                ReadyVerdict::Withdraw | ReadyVerdict::Late => {
                    let source = self.sources.get_mut(&shard).expect("just seen");
                    let transfer = source.transfer().clone();
                    let actions = source.withdraw("its target is not ready");
                    self.do_source(&transfer, actions, true, now);
                }
            }
            return;
        }
        self.source_event(shard, transfer, SourceEvent::Heard(message), now);
    }

    /// Another node offers a shard to this one.
    fn judge_offer(&mut self, transfer: Transfer, attempt: u64, table: u64, is_sealed: bool, now: Timestamp) {
        let (shard, id) = (transfer.shard, transfer.id);
        let known = self.ownership.get(&shard).unwrap_or(&Ownership::Foreign);
        if transfer.epoch <= known.epoch() && *known != Ownership::Foreign {
            // Only this node could have accepted that epoch, and it has: what came later came from here.
            self.send(transfer.source, shard, id, Message::Accepted);
            return;
        }
        if let Ownership::Sealed { transfer: sealed, .. } = *known {
            // Its epoch is the proof that the target of the hand-off from here has accepted, though it was not heard.
            self.source_event(shard, sealed, SourceEvent::Heard(Message::Accepted), now);
            let (table, reason) = (self.table_digest(), "it has not let it go yet".to_owned());
            self.send(transfer.source, shard, id, Message::NotReady { table, is_busy: true, reason });
            return;
        }
        if matches!(known, Ownership::Owned { .. }) {
            let epoch = known.epoch();
            self.alarm(format!("{} offers {shard}, which is here under {epoch}", transfer.source));
            return;
        }
        if let Some(target) = self.targets.get(&shard)
            && target.transfer().id == id
            && !target.is_ended()
        {
            let offer = Message::Offer { transfer, attempt, table, is_sealed };
            self.target_event(shard, id, TargetEvent::Heard(offer), now);
            return;
        }
        if self.targets.get(&shard).is_some_and(Target::is_accepting) {
            self.alarm(format!("{} offers {shard}, which another hand-off has sealed", transfer.source));
            return;
        }
        let here = self.table_digest();
        let coming = self.running().1;
        let names_here = self.table.as_ref().is_some_and(|table| *table.owner(shard) == self.config.here);
        let refusal = if is_sealed {
            None
        } else if self.leaving {
            Some("it leaves".to_owned())
        } else if table != here || !names_here {
            Some("its view is another".to_owned())
        } else if self.config.takes_max <= coming {
            Some(format!("{coming} shards are on their way to it"))
        } else {
            None
        };
        if let Some(reason) = refusal {
            // That views differ is nobody's fault: the digest says it.
            let is_busy = !self.leaving;
            self.send(transfer.source, shard, id, Message::NotReady { table: here, is_busy, reason });
            return;
        }
        let limits = self.config.limits.clone();
        let (target, actions) = Target::new(transfer.clone(), attempt, here, limits, now);
        self.targets.insert(shard, target);
        self.do_target(&transfer, actions);
    }

    pub(super) fn send(&mut self, to: NodeName, shard: ShardId, transfer: TransferId, message: Message) {
        self.actions.push(MoverAction::Send { to, shard, transfer, message });
    }
}
