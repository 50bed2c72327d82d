//! Nodes that find each other: a membership beside each mover, and what their ring does for it.
//!
//! It is what the coordinator does between sockets, over links that the seed cuts: views become tables, a node that leaves hands
//! over what it has, and what was kept is all that a crash leaves of the others.

use super::{
    Chore, Sim,
    connections::{Guest, Link},
    machine::store_of,
    network::{Frame, Packet},
};
use crate::{
    membership::{
        Exchange, Hello, Known, LastAnswer, LastQuestion, Leaving, LeavingStep, Membership, MembershipAction,
        MembershipEvent, MembershipSettings, NodeEntry, NodeState,
    },
    mover::MoverEvent,
    placement::NodeName,
    store::{LoadError, Store},
    timestamp::Timestamp,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// The note in which a node keeps what it knows of the others.
const KNOWN_NODES: &str = "known-nodes";
/// Pause between two ticks of a membership, in microseconds.
const TICK: u64 = 50_000;
/// After so long what found no room on the disk is kept again, in microseconds.
const KEEP_AGAIN: u64 = 100_000;

/// What a node is to the others.
pub(super) struct Member {
    pub(super) membership: Membership,
    pub(super) leaving: Leaving,
    /// Connections whose other end is not let in yet, by ticket.
    pub(super) at_door: BTreeMap<u64, Guest>,
    /// Connections to other machines.
    pub(super) links: BTreeMap<usize, Link>,
    /// Machines that are being dialled.
    pub(super) dialling: BTreeSet<usize>,
}

/// Where a machine is reached.
pub(super) fn address(name: &NodeName) -> String {
    format!("{name}:7001")
}

/// Everything is soon, so that a short run has much of it.
fn settings() -> MembershipSettings {
    MembershipSettings {
        probe_period: Duration::from_millis(200),
        probe_timeout: Duration::from_millis(80),
        suspicion: Duration::from_millis(400),
        gossip_period: Duration::from_millis(100),
        announce_to_down_period: Duration::from_secs(1),
        announce_period: Duration::from_millis(100),
        compare_period: Duration::from_millis(250),
        dial_period: Duration::from_millis(250),
        keep_period: Duration::from_millis(500),
    }
}

impl Sim {
    /// The membership of a node that starts, with what its store remembers.
    pub(super) fn make_member(&mut self, at: usize, store: &dyn Store) -> Result<Option<Member>, LoadError> {
        if !self.has_members() {
            return Ok(None);
        }
        let known = match store.note(KNOWN_NODES)? {
            Some(bytes) => Known::decode(&bytes).expect("it is read as it was kept"),
            None => Known::default(),
        };
        let (identity, name) = (store.identity(), self.machines[at].name.clone());
        let entry = NodeEntry {
            address: address(&name),
            name,
            store: identity.store,
            boot: identity.boot,
            rev: 0,
            state: NodeState::Up,
            weight: self.machines[at].weight,
            build: String::new(),
        };
        let (seed, now) = (self.random.draw(), self.steady());
        match Membership::new(settings(), entry, known, seed, now) {
            Ok(membership) => Ok(Some(Member {
                membership,
                leaving: Leaving::No,
                at_door: BTreeMap::new(),
                links: BTreeMap::new(),
                dialling: BTreeSet::new(),
            })),
            Err(error) => self.fail(&format!("n{at} does not know itself: {error}")),
        }
    }

    /// The node has started.
    pub(super) fn begin_member(&mut self, at: usize) {
        self.view_changed(at);
        self.find_others(at);
        self.chore(at, TICK, Chore::MemberTick);
    }

    /// An operator says where other nodes are.
    pub(super) fn find_others(&mut self, at: usize) {
        let others = self.machines.iter().enumerate().filter(|(other, there)| *other != at && !there.is_away);
        let seeds = others.map(|(_, machine)| address(&machine.name)).collect();
        self.step_member(at, MembershipEvent::Join { seeds });
    }

    /// Of the clock that runs while a process does: it never jumps, and never back.
    pub(super) fn steady(&self) -> Timestamp {
        Timestamp::from_micros(super::START + self.now)
    }

    pub(super) fn member(&self, at: usize) -> Option<&Member> {
        self.machines[at].node.as_ref()?.member.as_ref()
    }

    pub(super) fn member_mut(&mut self, at: usize) -> Option<&mut Member> {
        self.machines[at].node.as_mut()?.member.as_mut()
    }

    pub(super) fn machine_named(&self, name: &NodeName) -> usize {
        let at = self.machines.iter().position(|machine| machine.name == *name);
        at.expect("only nodes of the simulation are named")
    }

    pub(super) fn step_member(&mut self, at: usize, event: MembershipEvent) {
        let now = self.steady();
        let Some(member) = self.member_mut(at) else { return };
        for action in member.membership.step(event, now) {
            // What follows from one may end the node.
            if self.machines[at].node.is_some() {
                self.perform_for_member(at, action);
            }
        }
    }

    pub(super) fn perform_for_member(&mut self, at: usize, action: MembershipAction) {
        match action {
            MembershipAction::Admit { ticket } => self.admit(at, ticket),
            MembershipAction::Reject { ticket, refusal } => self.reject(at, ticket, &refusal),
            MembershipAction::Send { to, bytes } => {
                self.transmit(at, self.machine_named(&to), &Frame::Packet(Packet(Bytes::from(bytes))));
            }
            MembershipAction::SendExchange { to, exchange } => {
                self.transmit(at, self.machine_named(&to), &Frame::Members(exchange));
            }
            MembershipAction::Dial { address, .. } => self.dial(at, &address),
            MembershipAction::Keep { number, bytes } => {
                let pause = self.random.below(self.commit_pause(at));
                self.chore(at, pause, Chore::Keep { number, bytes });
            }
            MembershipAction::ViewChanged => self.view_changed(at),
            MembershipAction::Refused(refusal) => self.fail(&format!("n{at} does not believe: {refusal}")),
            MembershipAction::HangUp(name) => self.fail(&format!("n{at} was told to forget {name}")),
            MembershipAction::Forgotten { name, .. } => self.fail(&format!("n{at} has forgotten {name}")),
        }
    }

    /// Makes durable what a node knows of the others.
    pub(super) fn keep(&mut self, at: usize, number: u64, bytes: Vec<u8>) {
        let node = self.machines[at].node.as_ref().expect("checked by the caller");
        match node.store.keep_note(KNOWN_NODES, &bytes) {
            Ok(()) => self.step_member(at, MembershipEvent::Kept(number)),
            Err(LoadError::Io(error)) if error.kind() == std::io::ErrorKind::StorageFull => {
                self.chore(at, KEEP_AGAIN, Chore::Keep { number, bytes });
            }
            Err(_) => self.kill(at, self.crash_cuts_power),
        }
    }

    fn view_changed(&mut self, at: usize) {
        let Some(member) = self.member(at) else { return };
        let view = Arc::clone(member.membership.view());
        self.seen.views_changed += 1;
        let text: Vec<_> = view
            .nodes()
            .map(|(name, node)| (name.as_str(), node.entry.boot, node.entry.state, node.is_alive))
            .collect();
        self.trace.note(self.now, format_args!("n{at} sees {text:?}"));
        let is_missed = |machine: &&super::Machine| {
            machine.paused.is_some() && view.get(&machine.name).is_some_and(|node| !node.is_alive)
        };
        self.seen.paused_missed += self.machines.iter().filter(is_missed).count() as u64;
        let table = view.table(self.layout).map(Arc::new);
        self.step_mover(at, MoverEvent::Table(table));
    }

    pub(super) fn tick_member(&mut self, at: usize) {
        self.chore(at, TICK, Chore::MemberTick);
        self.step_member(at, MembershipEvent::Tick);
        let now = self.steady();
        let Some(member) = self.member(at).filter(|member| member.leaving.is_going()) else { return };
        let connected: Vec<_> = member.links.keys().map(|other| self.machines[*other].name.clone()).collect();
        let node = self.machines[at].node.as_mut().expect("it has a member");
        let is_empty = node.holdings.is_empty();
        let Some(Member { membership, leaving, .. }) = &mut node.member else { return };
        let is_connected = |node: &NodeName| connected.contains(node);
        match leaving.step(is_empty, membership.own(), membership.view(), is_connected, now) {
            LeavingStep::Wait | LeavingStep::Stuck => {}
            LeavingStep::Drained => self.step_member(at, MembershipEvent::Drained),
            LeavingStep::Ask { introduction, question, whom, .. } => {
                for to in whom.keys().map(|to| self.machine_named(to)).collect::<Vec<_>>() {
                    self.transmit(at, to, &Frame::Members(introduction.clone()));
                    self.transmit(at, to, &Frame::LastQuestion(question));
                }
            }
            LeavingStep::Depart { is_known, .. } => self.depart(at, is_known),
        }
    }

    /// A packet of another node.
    pub(super) fn hear_packet(&mut self, from: usize, at: usize, bytes: Bytes) {
        if self.is_linked(at, from) {
            let from = self.machines[from].name.clone();
            self.step_member(at, MembershipEvent::Packet { from, bytes });
        }
    }

    /// What another node knows.
    pub(super) fn hear_members(&mut self, from: usize, at: usize, exchange: Exchange) {
        if !self.is_linked(at, from) {
            return;
        }
        let from = self.machines[from].name.clone();
        self.step_member(at, MembershipEvent::Exchange { from, exchange });
    }

    /// A node that leaves asks whether something is on its way to it.
    pub(super) fn answer_last(&mut self, from: usize, at: usize, question: LastQuestion) {
        let Some(member) = self.member(at) else { return };
        let asker = &self.machines[from].name;
        let holdings = &self.machines[at].node.as_ref().expect("it has a member").holdings;
        let going = holdings.going_to(asker, store_of(from));
        if let Some(answer) = question.answer(asker, member.membership.view(), going) {
            self.transmit(at, from, &Frame::LastAnswer(answer));
        }
    }

    /// And is answered.
    pub(super) fn hear_last(&mut self, from: usize, at: usize, answer: LastAnswer) {
        let (from, now) = (self.machines[from].name.clone(), self.steady());
        if let Some(Member { membership, leaving, .. }) = self.member_mut(at) {
            leaving.answered(&from, answer, membership.own(), now);
        }
    }

    /// What a running node says of itself at a door.
    pub(super) fn hello(&self, at: usize) -> Hello {
        let machine = &self.machines[at];
        let node = machine.node.as_ref().expect("checked by the caller");
        let identity = node.store.identity();
        let (store, boot, position) = (identity.store, identity.boot, identity.durable.0);
        Hello { name: machine.name.clone(), store, boot, position }
    }
}
