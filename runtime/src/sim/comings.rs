//! Nodes that come and go: several at once, struck in the midst of it, and visited by who is not who he says.

use super::{Due, Sim, ring::Node};
use crate::{
    membership::{Hello, HelloVerdict, IdentityRefusal, MembershipAction, MembershipEvent, judge_hello},
    mover::MoverEvent,
    store::Ownership,
};

/// Most nodes that come and go at once.
const AT_ONCE_MAX: u64 = 4;
/// Until so long after it began to come or to go a node may be struck, in microseconds.
const STRIKE_MAX: u64 = 1_500_000;
/// No store of the simulation has this UUID.
const STRANGE_STORE: u128 = u128::MAX;

impl Sim {
    /// Some nodes begin to come or to go.
    pub(super) fn storm(&mut self) {
        for _ in 0..self.random.between(1, AT_ONCE_MAX) {
            let at = self.random.below(self.machines.len() as u64) as usize;
            let has_begun = if self.machines[at].is_away {
                self.come(at);
                true
            } else {
                self.go(at)
            };
            if has_begun && self.random.chance(300) {
                let pause = self.random.between(1_000, STRIKE_MAX);
                self.plan(pause, Due::Strike { at });
            }
        }
        let (door, name) = (self.random.below(self.machines.len() as u64), self.random.below(9));
        self.knock(door as usize, name as usize % self.machines.len());
    }

    /// A node comes: for the first time, or again after it has left.
    pub(super) fn come(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        self.seen.nodes_returned += u64::from(0 < machine.life);
        (machine.is_away, machine.is_joining) = (false, true);
        self.boot(at);
    }

    /// A node is told to leave, and goes if there is somebody else. Whether it does from now on.
    pub(super) fn go(&mut self, at: usize) -> bool {
        if !self.machines[at].answers() {
            return false;
        }
        let here = self.machines[at].name.clone();
        let Some(member) = self.member_mut(at) else { return false };
        let view = member.membership.view();
        if member.leaving.is_going() || !member.leaving.begin(&here, view) {
            return false;
        }
        self.trace.note(self.now, format_args!("n{at} leaves"));
        self.step_mover(at, MoverEvent::Leave);
        self.step_member(at, MembershipEvent::Leave);
        true
    }

    /// A node loses its power in the midst of coming or going.
    pub(super) fn strike(&mut self, at: usize) {
        let machine = &self.machines[at];
        let is_going = self.member(at).is_some_and(|member| member.leaving.is_going());
        if !self.healed && (machine.is_joining || is_going) {
            let power = self.random.chance(700);
            self.kill(at, power);
        }
    }

    /// A node hosts a shard.
    pub(super) fn has_arrived(&mut self, at: usize) {
        if std::mem::take(&mut self.machines[at].is_joining) {
            self.seen.nodes_joined += 1;
            self.seen.nodes_joined_under_load += u64::from(0 < self.open_calls);
        }
    }

    /// A node in the midst of it is gone.
    pub(super) fn count_struck(&mut self, at: usize, node: &Node) {
        let is_going = node.member.as_ref().is_some_and(|member| member.leaving.is_going());
        if !self.healed {
            self.seen.crashes_joining += u64::from(self.machines[at].is_joining);
            self.seen.crashes_leaving += u64::from(is_going);
        }
    }

    /// A node has handed everything over and ends.
    pub(super) fn depart(&mut self, at: usize, is_known: bool) {
        let node = self.machines[at].node.take().expect("it has stepped just now");
        self.trace.note(self.now, format_args!("n{at} has left, known {is_known}"));
        let ownership = node.store.ownership().expect("an open store knows what it owns");
        let is_here =
            |ownership: &Ownership| matches!(ownership, Ownership::Owned { .. } | Ownership::Sealed { .. });
        if let Some((shard, ownership)) = ownership.iter().find(|(_, ownership)| is_here(ownership)) {
            self.fail(&format!("n{at} has left, and has {shard}: {ownership:?}"));
        }
        for kernel in &node.kernels {
            self.seen.count(&kernel.counters());
        }
        drop(node);
        self.end_connections(at);
        self.machines[at].storage.crash(false);
        (self.machines[at].is_away, self.machines[at].is_joining) = (true, false);
        self.seen.nodes_left += 1;
    }

    /// Somebody comes to a door under the name of a node: from another directory, or from an old copy of its own.
    fn knock(&mut self, door: usize, named: usize) {
        if !self.machines[door].answers() || door == named {
            return;
        }
        let name = self.machines[named].name.clone();
        let now = self.steady();
        let Some(member) = self.member_mut(door) else { return };
        let membership = &mut member.membership;
        let entry = membership.view().get(&name).map(|node| node.entry.clone());
        // Whom nobody has bound is taken for who he says.
        let Some(entry) = entry else { return };
        let is_copy = 1 < entry.boot && now.as_micros().is_multiple_of(2);
        let hello = if is_copy {
            Hello { name, store: entry.store, boot: entry.boot - 1, position: u64::MAX }
        } else {
            Hello { name, store: STRANGE_STORE, boot: u64::MAX / 2, position: u64::MAX }
        };
        let expected = |refusal: &IdentityRefusal| match refusal {
            IdentityRefusal::OtherStore { .. } => !is_copy,
            IdentityRefusal::OlderBoot { .. } => is_copy,
            _ => false,
        };
        let verdict = judge_hello(membership.known(), &hello);
        let at_endpoint = matches!(&verdict, HelloVerdict::Refused(refusal) if expected(refusal));
        let before = membership.known().clone();
        let actions = membership.step(MembershipEvent::Hello { ticket: u64::MAX, hello }, now);
        let at_door =
            matches!(actions.first(), Some(MembershipAction::Reject { refusal, .. }) if expected(refusal));
        let is_unchanged = before == *membership.known();
        if !(at_endpoint && at_door && is_unchanged) {
            self.fail(&format!("n{door} lets in who is not n{named}: {verdict:?}, {actions:?}"));
        }
        self.seen.strangers_refused += 1;
        // Nobody waits for the answer; what else was due is done.
        for action in actions {
            self.perform_for_member(door, action);
        }
    }
}
