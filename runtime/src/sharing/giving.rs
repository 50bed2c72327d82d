//! Shards that are given to another node: offered as in [`rebalance`](crate::rebalance), sealed by their owner's last batch, and served by
//! the heir as soon as it hears of it.

use super::{Owner, Seen, Sharing, SharingAction};
use crate::{
    handoff::{Message, Transfer},
    kernel::{HandOffNews, Order},
    placement::{Epoch, NodeName, ShardId},
    rebalance::{Answer, Ended, Offer, Ready, ReadyVerdict},
    store::TransferId,
    timestamp::Timestamp,
};
use xxhash_rust::xxh3::xxh3_128;

/// How far a give is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The heir has not answered.
    Offered,
    /// The seal is on its way to the store.
    Sealing,
    /// The kernel does not know what became of the seal: the next ledger does.
    Unsure,
}

/// A shard on its way to another node.
#[derive(Debug)]
pub(super) struct Give {
    /// The epoch is the heir's.
    transfer: Transfer,
    attempt: u64,
    phase: Phase,
    /// The heir's images that are wanted soon.
    hot: Vec<Vec<u8>>,
}

impl Give {
    pub(super) fn target(&self) -> &NodeName {
        &self.transfer.target
    }
}

impl Sharing {
    /// Offers what should go, and takes back what should not.
    pub(super) fn offer(&mut self, now: Timestamp) {
        for server in 0..self.servers.len() {
            let steps = self.servers[server].rebalance.step(now);
            for Offer { shard, epoch, to } in steps.withdrawn {
                match self.gives.get(&shard) {
                    Some(give) if give.phase == Phase::Offered => {
                        let transfer = give.transfer.id;
                        self.gives.remove(&shard);
                        self.send(to, shard, transfer, Message::Withdrawn);
                    }
                    // What is sealed is not taken back.
                    Some(_) => self.rebalance(shard).sealed(shard, epoch, &to),
                    None => {}
                }
            }
            for Offer { shard, epoch, to } in steps.offers {
                self.begin_give(shard, epoch, to);
            }
        }
    }

    fn begin_give(&mut self, shard: ShardId, epoch: Epoch, to: NodeName) {
        self.begun += 1;
        let attempt = self.begun;
        // Never given again: no other run has the incarnation.
        let mut bytes = self.config.incarnation.to_le_bytes().to_vec();
        bytes.extend_from_slice(&attempt.to_le_bytes());
        let id = TransferId(xxh3_128(&bytes));
        let source = self.config.here.clone();
        let transfer = Transfer { id, shard, epoch: Epoch(epoch.0 + 1), source, target: to.clone() };
        let table = self.digest(shard);
        let give = Give { transfer: transfer.clone(), attempt, phase: Phase::Offered, hot: Vec::new() };
        self.gives.insert(shard, give);
        self.send(to, shard, id, Message::Offer { transfer, attempt, table, is_sealed: false });
    }

    pub(super) fn hear(
        &mut self,
        (from, store): (&NodeName, u128),
        shard: ShardId,
        id: TransferId,
        message: Message,
        now: Timestamp,
    ) {
        let (attempt, digest, answer) = match message {
            Message::Offer { transfer, attempt, table, .. } => {
                return self.answer_offer(from, shard, &transfer, attempt, table);
            }
            Message::Given { epoch, hot } => return self.given(shard, epoch, hot, now),
            Message::Ready { attempt, table, .. } => (attempt, table, Answer::Accepts),
            Message::NotReady { attempt, table, is_busy: true, .. } => (attempt, table, Answer::Busy),
            Message::NotReady { attempt, table, .. } => (attempt, table, Answer::Refuses),
            // An offer that was answered left nothing behind; the rest is said where shards are copied.
            Message::Withdrawn
            | Message::Piece { .. }
            | Message::Staged { .. }
            | Message::Lost { .. }
            | Message::Accepted => return,
        };
        let is_answered = |give: &&mut Give| {
            give.transfer.id == id
                && give.transfer.target == *from
                && give.attempt == attempt
                && give.phase == Phase::Offered
        };
        let Some(give) = self.gives.get_mut(&shard).filter(is_answered) else { return };
        let epoch = Epoch(give.transfer.epoch.0 - 1);
        let ready = Ready { shard, epoch, from: from.clone(), digest, answer };
        match self.rebalance(shard).ready(&ready, now) {
            ReadyVerdict::Proceed => {
                self.rebalance(shard).sealed(shard, epoch, from);
                let give = self.gives.get_mut(&shard).expect("just seen");
                give.phase = Phase::Sealing;
                let seal = Order::Seal { transfer: id, to: from.clone(), store };
                self.actions.push(SharingAction::Order(shard, Order::Give(id)));
                self.actions.push(SharingAction::Order(shard, seal));
            }
            ReadyVerdict::Withdraw | ReadyVerdict::Late => drop(self.gives.remove(&shard)),
        }
    }

    /// Another node offers a shard to this one. Nothing is kept of it: whether it was given says the store.
    fn answer_offer(
        &mut self,
        from: &NodeName,
        shard: ShardId,
        transfer: &Transfer,
        attempt: u64,
        digest: u64,
    ) {
        let (table, id) = (self.digest(shard), transfer.id);
        let is_named = self.server(shard).named(shard) == Some(&self.config.here);
        let refusal = if self.leaving {
            Some((false, "it leaves".to_owned()))
        } else if let Some(lacks) = self.lacks.get(from) {
            Some((false, format!("its build lacks {lacks}")))
        } else if digest != table || !is_named {
            Some((true, "its view is another".to_owned()))
        } else {
            None
        };
        let answer = match refusal {
            Some((is_busy, reason)) => Message::NotReady { attempt, table, is_busy, reason },
            None => Message::Ready { attempt, table, place: 0 },
        };
        self.send(from.clone(), shard, id, answer);
    }

    /// The owner says that it has given a shard to this node. Believed at once, for whoever loads the shard asks the store; a
    /// ledger that was on its way may have told it before.
    fn given(&mut self, shard: ShardId, epoch: Epoch, hot: Vec<Vec<u8>>, now: Timestamp) {
        let Seen { epoch: known, owner, .. } = self.seen[shard.0 as usize];
        let is_news = known < epoch || (known == epoch && owner == Owner::Unknown);
        if is_news && !self.here.contains_key(&shard) {
            self.host(shard, epoch, now, false, now);
        }
        if self.here.get(&shard) == Some(&epoch) && !hot.is_empty() {
            self.actions.push(SharingAction::Warm(shard, hot));
        }
    }

    /// A kernel tells of a shard that is given away.
    pub(super) fn news(&mut self, shard: ShardId, news: HandOffNews, now: Timestamp) {
        let is_of = |give: &&mut Give| give.transfer.id == news.transfer();
        let Some(give) = self.gives.get_mut(&shard).filter(is_of) else { return };
        match news {
            HandOffNews::Hot(_, keys) => give.hot = keys,
            HandOffNews::Sealed { .. } => self.sealed(shard, now),
            HandOffNews::Voided(_) if give.phase == Phase::Sealing => {
                give.phase = Phase::Unsure;
                self.ask_ledger(shard);
            }
            // Its rows are in the store: nothing is copied, and no record follows.
            HandOffNews::Voided(_)
            | HandOffNews::CopyFrom(_)
            | HandOffNews::Section(..)
            | HandOffNews::Written(_) => {}
        }
    }

    /// The seal is durable: the shard is the heir's, or nobody's if that died meanwhile.
    fn sealed(&mut self, shard: ShardId, now: Timestamp) {
        let give = self.gives.remove(&shard).expect("looked at by the caller");
        let Transfer { id, epoch, target, .. } = give.transfer;
        self.let_go(shard, now);
        if self.seen[shard.0 as usize].epoch < epoch {
            self.believe(shard, epoch, Owner::Unknown);
        }
        self.learn(shard, epoch, &target);
        self.send(target, shard, id, Message::Given { epoch, hot: give.hot });
    }

    /// How far the give of a shard is, if there is one.
    pub(super) fn seal_of(&self, shard: ShardId) -> Option<Phase> {
        self.gives.get(&shard).map(|give| give.phase)
    }

    /// A ledger of after a seal that was lost with its lane's memory. Where the shard is still this node's, the kernel may have let it go
    /// all the same.
    pub(super) fn settle_give(&mut self, shard: ShardId, is_mine: bool, now: Timestamp) {
        let give = self.gives.remove(&shard).expect("looked at by the caller");
        let epoch = Epoch(give.transfer.epoch.0 - 1);
        if is_mine && self.seen[shard.0 as usize].epoch == epoch {
            self.rebalance(shard).ended(shard, epoch, Ended::Failed, now);
            self.actions.push(SharingAction::Host { shard, was_taken: false });
        } else {
            self.let_go(shard, now);
        }
    }

    fn digest(&self, shard: ShardId) -> u64 {
        self.server(shard).table.as_deref().map_or(0, crate::placement::Table::digest)
    }

    fn send(&mut self, to: NodeName, shard: ShardId, transfer: TransferId, message: Message) {
        self.actions.push(SharingAction::Send { to, shard, transfer, message });
    }
}
