//! Offers: made by the owner, judged by whom the table names.

use super::{Mover, MoverAction};
use crate::{
    handoff::{Message, OfferVerdict, Source, SourceEvent, Target, TargetEvent, Transfer},
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
            let attempt = self.next_attempt();
            let transfer = Transfer {
                id: self.transfer_id(),
                shard,
                epoch: Epoch(epoch.0 + 1),
                source: self.config.here.clone(),
                target: to,
            };
            let (table, limits) = (self.table_digest(), self.config.limits.clone());
            let (source, actions) = Source::offer(transfer.clone(), attempt, table, limits, now);
            self.sources.insert(shard, source);
            self.do_source(&transfer, actions, false, now);
        }
    }

    /// The number of one that was counted in this run, above all of earlier runs.
    pub(super) fn number(&self, counted: u64) -> u64 {
        self.config.boot << 32 | counted
    }

    /// Of a hand-off that begins. Until it is sealed it has one attempt; one that is counts on from it, and into numbers of other
    /// shards, for of its own there is no other under its epoch.
    pub(super) fn next_attempt(&mut self) -> u64 {
        self.begun += 1;
        self.number(self.begun)
    }

    /// Of the hand-off begun last. Never given again: no other store has the UUID, and no other run of this one the boot counter.
    fn transfer_id(&self) -> TransferId {
        let mut bytes = self.config.store.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.config.boot.to_le_bytes());
        bytes.extend_from_slice(&self.begun.to_le_bytes());
        TransferId(xxh3_128(&bytes))
    }

    pub(super) fn hear(
        &mut self,
        (from, store): (&NodeName, u128),
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
                    self.target_event(shard, TargetEvent::Heard(message), now);
                } else if let Message::Piece { attempt, .. } = message {
                    // Accepted or lost: an offer is what this is judged by, so one is asked for.
                    self.send(from.clone(), shard, transfer, Message::Lost { attempt });
                }
            }
            // Said where several nodes have one store, and a cluster is of one sort.
            Message::Given { .. } => {}
            Message::Ready { .. }
            | Message::NotReady { .. }
            | Message::Staged { .. }
            | Message::Lost { .. }
            | Message::Accepted => {
                let is_mine =
                    |source: &Source| source.transfer().id == transfer && source.transfer().target == *from;
                if self.sources.get(&shard).is_some_and(is_mine) && !self.is_held(shard, transfer) {
                    self.judge_answer((from, store), shard, transfer, message, now);
                }
            }
        }
    }

    /// The target of a hand-off answers.
    fn judge_answer(
        &mut self,
        (from, store): (&NodeName, u128),
        shard: ShardId,
        transfer: TransferId,
        message: Message,
        now: Timestamp,
    ) {
        let source = &self.sources[&shard];
        let epoch = Epoch(source.transfer().epoch.0 - 1);
        let answer = match message {
            Message::Ready { attempt, table, .. } => Some((attempt, table, Answer::Accepts)),
            Message::NotReady { attempt, table, is_busy: true, .. } => Some((attempt, table, Answer::Busy)),
            Message::NotReady { attempt, table, .. } => Some((attempt, table, Answer::Refuses)),
            _ => None,
        };
        let answer = answer.filter(|(attempt, ..)| source.is_offered() && *attempt == source.attempt());
        if let Some((_, digest, answer)) = answer {
            let ready = Ready { shard, epoch, from: from.clone(), digest, answer };
            match self.rebalance.ready(&ready, now) {
                ReadyVerdict::Proceed => {
                    self.source_event(shard, transfer, SourceEvent::Heard { store, message }, now);
                }
                ReadyVerdict::Withdraw | ReadyVerdict::Late => {
                    let source = self.sources.get_mut(&shard).expect("just seen");
                    let transfer = source.transfer().clone();
                    let why = match message {
                        Message::NotReady { reason, .. } => format!("{from} is not ready: {reason}"),
                        _ => format!("{from} is ready under another view"),
                    };
                    let actions = source.withdraw(&why);
                    self.do_source(&transfer, actions, true, now);
                }
            }
            return;
        }
        self.source_event(shard, transfer, SourceEvent::Heard { store, message }, now);
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
            if !self.let_go(shard) {
                let source = transfer.source;
                return self
                    .alarm(format!("{source} offers {shard}, which an operator has opened again here"));
            }
            // Its epoch is the proof that the target of the hand-off from here has accepted, though it was not heard.
            self.source_event(shard, sealed, SourceEvent::Outrun, now);
            self.refuse(&transfer, attempt, true, "it has not let it go yet");
            return;
        }
        if matches!(known, Ownership::Owned { .. }) {
            let epoch = known.epoch();
            self.alarm(format!("{} offers {shard}, which is here under {epoch}", transfer.source));
            return;
        }
        let known = self.routes.get(shard).map(|(epoch, owner)| (epoch, owner.clone()));
        if let Some((epoch, owner)) = known
            && transfer.epoch <= epoch
            && owner != self.config.here
        {
            // Taken, it would be served twice.
            self.refuse(&transfer, attempt, false, &format!("{owner} owns it under {epoch}"));
            return;
        }
        let offer = Message::Offer { transfer: transfer.clone(), attempt, table, is_sealed };
        if let Some(running) = self.targets.get(&shard) {
            let (verdict, is_accepting) = (running.judge(&transfer, attempt), running.is_accepting());
            match verdict {
                OfferVerdict::Repeat => return self.target_event(shard, TargetEvent::Heard(offer), now),
                OfferVerdict::Stale => {
                    return self.refuse(&transfer, attempt, true, "a later hand-off of it runs");
                }
                // It has all pieces of this one, and is told when it is accepted.
                OfferVerdict::Newer if is_accepting && running.transfer().id == id => return,
                OfferVerdict::Newer if is_accepting => {
                    let source = transfer.source;
                    return self.alarm(format!("{source} offers {shard}, which another hand-off has sealed"));
                }
                OfferVerdict::Newer => {}
            }
        }
        match self.refusal(&transfer, table).filter(|_| !is_sealed) {
            Some((is_busy, reason)) => self.refuse(&transfer, attempt, is_busy, &reason),
            None => self.begin_target(&transfer, attempt, now),
        }
    }

    /// Why a shard that has not been sealed for this node is not taken, and whether only for now. That views differ is nobody's
    /// fault: the digest says it.
    fn refusal(&self, transfer: &Transfer, table: u64) -> Option<(bool, String)> {
        let shard = transfer.shard;
        let names_here = self.table.as_ref().is_some_and(|table| *table.owner(shard) == self.config.here);
        let coming = self.targets.keys().filter(|coming| **coming != shard).count();
        if self.leaving {
            Some((false, "it leaves".to_owned()))
        } else if let Some(lacks) = self.lacks.get(&transfer.source) {
            Some((false, format!("its build lacks {lacks}")))
        } else if table != self.table_digest() || !names_here {
            Some((true, "its view is another".to_owned()))
        } else if self.config.takes_max <= coming {
            Some((true, format!("{coming} shards are on their way to it")))
        } else {
            None
        }
    }

    fn refuse(&mut self, transfer: &Transfer, attempt: u64, is_busy: bool, reason: &str) {
        let (table, reason) = (self.table_digest(), reason.to_owned());
        let answer = Message::NotReady { attempt, table, is_busy, reason };
        self.send(transfer.source.clone(), transfer.shard, transfer.id, answer);
    }

    pub(super) fn send(&mut self, to: NodeName, shard: ShardId, transfer: TransferId, message: Message) {
        if self.is_held(shard, transfer) {
            return;
        }
        let source = self.sources.get(&shard).filter(|source| source.transfer().id == transfer);
        let store = source.and_then(Source::store);
        self.actions.push(MoverAction::Send { to, store, shard, transfer, message });
    }
}
