//! What operators ask of a node, and how it leaves.

use super::{Coordinator, Departure};
use crate::{
    cluster::{Command, CommandAnswer},
    membership::{LastAnswer, LastQuestion, LeavingStep, MembershipAction, MembershipEvent},
    mover::MoverEvent,
    node::Outbound,
    placement::NodeName,
    transport::{CloseReason, Frame},
};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::oneshot;

/// What a last question or its answer counts with on its way to a connection.
const LAST_WORD_BYTES: usize = 64;

/// Where no disk of a node can be lost.
const DISKLESS: &str = "the nodes of this cluster share a store: the shards of one that is gone are taken by the others when its \
                        lease has run out, and nothing has to be forgotten or opened again";

/// Who has given a command.
pub(crate) enum Asker {
    /// Over a connection, under this number.
    There(Arc<Outbound>, u64),
    /// In this process.
    Here(oneshot::Sender<CommandAnswer>),
}

impl Asker {
    pub(super) fn tell(self, said: CommandAnswer) {
        match self {
            Self::There(outbound, slot) => {
                let bytes: Bytes = said.encode().into();
                let len = bytes.len();
                if outbound.frame(Frame::CommandAnswer { slot, answer: bytes }, len).is_err() {
                    outbound.link().close(CloseReason::Violation("it does not take its answers".into()));
                }
            }
            // Whoever asked may have given up.
            Self::Here(tell) => drop(tell.send(said)),
        }
    }
}

impl Coordinator {
    /// An operator's word over a connection.
    pub(super) fn command(&mut self, outbound: &Arc<Outbound>, slot: u64, command: &[u8]) {
        let asker = Asker::There(Arc::clone(outbound), slot);
        match crate::codec::decode(command) {
            Ok(command) => self.carry_out(asker, command),
            Err(why) => {
                asker.tell(CommandAnswer::Refused(format!("this build does not know the command: {why}")));
            }
        }
    }

    pub(super) fn carry_out(&mut self, asker: Asker, command: Command) {
        let said = match command {
            Command::Status => CommandAnswer::Status(Box::new(self.status())),
            Command::Leave => match self.leave() {
                Ok(()) => {
                    CommandAnswer::Done(format!("{} hands its shards over and leaves", self.config.name))
                }
                Err(why) => CommandAnswer::Refused(why),
            },
            Command::Forget(_) | Command::Reopen { .. } | Command::Bury { .. }
                if self.holdings.is_shared() =>
            {
                CommandAnswer::Refused(DISKLESS.to_owned())
            }
            Command::Forget(name) => return self.forget(asker, name),
            Command::Reopen { destroyed } => return self.reopen(asker, destroyed),
            Command::Bury { destroyed, stores, shards } => {
                return self.bury(asker, destroyed, &stores, &shards);
            }
            Command::Unpark { accept_loss } => return self.unpark(asker, accept_loss),
        };
        asker.tell(said);
    }

    pub(super) fn forget(&mut self, asker: Asker, name: NodeName) {
        let now = self.now();
        let actions = self.membership().step(MembershipEvent::Forget(name.clone()), now);
        let refused = actions.iter().find_map(|action| match action {
            MembershipAction::Refused(refusal) => Some(refusal.to_string()),
            _ => None,
        });
        match refused {
            Some(why) => asker.tell(CommandAnswer::Refused(why)),
            None => self.forgetting.entry(name).or_default().push(asker),
        }
        for action in actions {
            self.perform(action);
        }
    }

    pub(super) fn leave(&mut self) -> Result<(), String> {
        if self.leaving.is_going() {
            return Ok(());
        }
        let view = Arc::clone(self.membership().view());
        if !self.leaving.begin(&self.config.name, &view) {
            let again = if self.holdings.is_shared() {
                "whoever starts on the store next takes them"
            } else {
                "start it again from its directory"
            };
            return Err(format!(
                "{} is the only node that takes shards: it would have nobody to hand them over to; stop it instead, and {again}",
                self.config.name
            ));
        }
        self.step_mover(MoverEvent::Leave);
        self.step_membership(MembershipEvent::Leave);
        Ok(())
    }

    /// Another node has nothing left, and asks whether something is on its way to it.
    pub(super) fn answer_last(&mut self, from: &NodeName, outbound: &Outbound, question: LastQuestion) {
        let Some(store) = self.bound_store(from, outbound) else { return };
        let going = self.holdings.going_to(from, store);
        let answer = question.answer(from, self.membership().view(), going);
        if let Some(LastAnswer { question: LastQuestion { boot, emptied }, coming }) = answer {
            // Lost, it is asked for again.
            let _ = outbound.frame(Frame::LastAnswer { boot, emptied, coming }, LAST_WORD_BYTES);
        }
    }

    /// The store at the other end, if the node's name is bound to it: of one that is forgotten nothing begins again, and nothing it
    /// says counts.
    pub(super) fn bound_store(&self, from: &NodeName, outbound: &Outbound) -> Option<u128> {
        let bound = self.membership().known().store_of(from);
        outbound.store.filter(|store| bound == Some(*store))
    }

    pub(super) fn depart_when_empty(&mut self) {
        if !self.leaving.is_going() {
            return;
        }
        let (own, view) = {
            let membership = self.membership();
            (membership.own().clone(), Arc::clone(membership.view()))
        };
        let now = self.now();
        let is_connected = |node: &NodeName| self.connected.contains_key(node);
        match self.leaving.step(self.holdings.is_empty(), &own, &view, is_connected, now) {
            LeavingStep::Wait => {}
            LeavingStep::Stuck => tracing::error!(
                "this node leaves, and so does every other one: nobody takes its shards. Start a node that joins, or start this \
                 one again to keep them"
            ),
            LeavingStep::Drained => self.step_membership(MembershipEvent::Drained),
            LeavingStep::Ask { introduction, question: LastQuestion { boot, emptied }, whom, is_long } => {
                if is_long {
                    let waits_for = in_words(&whom);
                    tracing::info!(
                        waits_for,
                        "this node has nothing left, and leaves when they have nothing for it"
                    );
                }
                for to in whom.into_keys() {
                    let exchange = introduction.clone();
                    self.perform(MembershipAction::SendExchange { to: to.clone(), exchange });
                    if let Some(connected) = self.connected.get(&to) {
                        let _ =
                            connected.outbound.frame(Frame::LastQuestion { boot, emptied }, LAST_WORD_BYTES);
                    }
                }
            }
            LeavingStep::Depart { is_known, silent } => {
                if !is_known {
                    tracing::warn!(
                        "no other node has heard that this one has left: let one of them `forget` it"
                    );
                }
                for node in silent {
                    tracing::warn!(
                        %node,
                        "it has answered nothing for a minute: should it have sealed a shard for this node, start this one again"
                    );
                }
                self.depart(Departure::Left);
            }
        }
    }
}

/// Whom a node that leaves waits for.
fn in_words(whom: &BTreeMap<NodeName, Option<u64>>) -> String {
    let words = whom.iter().map(|(node, coming)| match coming {
        Some(coming) => format!("{node} (shards on their way from it: {coming})"),
        None => format!("{node} (no answer)"),
    });
    words.collect::<Vec<_>>().join(", ")
}
