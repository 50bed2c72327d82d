//! Connections between nodes with a membership: dialled, judged at both ends, and ended when one end is gone or silent.

use super::{Chore, Due, Sim, members};
use crate::{
    kernel::Event,
    membership::{Hello, HelloVerdict, IdentityRefusal, MembershipEvent, judge_hello},
    placement::ShardId,
};

/// After so long without a word a connection ends, in microseconds.
const IDLE: u64 = 1_000_000;

/// The other end of a connection that is not let in yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guest {
    /// Its machine.
    pub(super) at: usize,
    boot: u64,
}

/// A connection as one end has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    connection: u64,
    boot: u64,
}

impl Sim {
    /// Whether a node can send to another. Without a membership it always can.
    pub(super) fn is_linked(&self, at: usize, to: usize) -> bool {
        !self.has_members() || self.member(at).is_some_and(|member| member.links.contains_key(&to))
    }

    pub(super) fn dial(&mut self, at: usize, to: &str) {
        let to = self.machines.iter().position(|machine| members::address(&machine.name) == to);
        let to = to.expect("only nodes of the simulation have an address");
        let Some(member) = self.member_mut(at) else { return };
        if member.dialling.insert(to) {
            let pause = self.random.below(self.transit_pause);
            self.chore(at, pause, Chore::Dial { to });
        }
    }

    /// Somebody answers, or nobody does: then it is dialled again. A node that has moved on since it asked for this needs it
    /// no more.
    pub(super) fn dialled(&mut self, at: usize, to: usize) {
        self.member_mut(at).expect("checked by the caller").dialling.remove(&to);
        let is_open = !self.is_cut(at, to) && !self.is_cut(to, at) && self.machines[to].answers();
        if !is_open || self.is_linked(at, to) || self.network.is_shaking(at, to) {
            return;
        }
        let hellos = [(to, at, self.hello(at)), (at, to, self.hello(to))];
        for (door, guest, hello) in &hellos {
            let known = self.member(*door).expect("it answers").membership.known();
            if let HelloVerdict::Refused(refusal) = judge_hello(known, hello) {
                self.fail(&format!("n{door} does not let n{guest} in: {refusal}"));
            }
        }
        let lives = [self.machines[at].life, self.machines[to].life];
        let connection = self.network.connect([at, to], lives);
        for (door, guest, hello) in hellos {
            let boot = hello.boot;
            let member = self.member_mut(door).expect("it answers");
            member.at_door.insert(connection, Guest { at: guest, boot });
            let pause = self.random.below(self.transit_pause);
            self.chore(door, pause, Chore::Greet { ticket: connection, hello });
        }
    }

    pub(super) fn greet(&mut self, at: usize, ticket: u64, hello: Hello) {
        self.step_member(at, MembershipEvent::Hello { ticket, hello });
    }

    /// A node is let in: frames go there from here on.
    pub(super) fn admit(&mut self, at: usize, ticket: u64) {
        let member = self.member_mut(at).expect("a membership has a node");
        let Some(guest) = member.at_door.remove(&ticket) else { return };
        let before = member.links.get(&guest.at).copied();
        if self.network.ends(ticket).is_none() {
            return;
        }
        if let Some(before) = before {
            if guest.boot < before.boot {
                return self.end_connection(ticket);
            }
            // The later is there because the earlier is broken.
            self.end_connection(before.connection);
            self.ended(at, before.connection);
        }
        self.network.admitted(ticket);
        let boot = guest.boot;
        let Some(member) = self.member_mut(at) else { return };
        member.links.insert(guest.at, Link { connection: ticket, boot });
        self.trace.note(self.now, format_args!("n{at} is connected with n{}, {boot}", guest.at));
        self.tell_owners(at, guest.at);
        let name = self.machines[guest.at].name.clone();
        let routes = self.machines[at].node.as_ref().expect("just seen").holdings.routes();
        let is_its = |shard: &ShardId| routes.get(*shard).is_some_and(|(_, owner)| *owner == name);
        let its: Vec<ShardId> = self.layout.iter().filter(is_its).collect();
        for target in its {
            for worker in 0..self.workers {
                if self.machines[at].node.is_some() {
                    self.step_worker(at, worker, Event::SendAgain { target });
                }
            }
        }
        self.step_member(at, MembershipEvent::Connected { name, boot });
    }

    /// A node at the door is turned away, as only one may be that has started again since it knocked.
    pub(super) fn reject(&mut self, at: usize, ticket: u64, refusal: &IdentityRefusal) {
        let member = self.member_mut(at).expect("a membership has a node");
        let Some(guest) = member.at_door.remove(&ticket) else { return };
        let is_late = matches!(refusal, IdentityRefusal::OlderBoot { .. }) && !self.goes_on(ticket);
        if !is_late {
            self.fail(&format!("n{at} turns n{} away: {refusal}", guest.at));
        }
    }

    /// A connection is over, and both ends will notice.
    pub(super) fn end_connection(&mut self, connection: u64) {
        let Some(ends) = self.network.disconnect(connection) else { return };
        for at in ends {
            let pause = self.random.below(self.transit_pause);
            self.chore(at, pause, Chore::Ended { connection });
        }
    }

    /// One end of a connection notices that it is over.
    pub(super) fn ended(&mut self, at: usize, connection: u64) {
        let Some(member) = self.member_mut(at) else { return };
        member.at_door.remove(&connection);
        let link = member.links.iter().find(|(_, link)| link.connection == connection);
        let Some((other, boot)) = link.map(|(other, link)| (*other, link.boot)) else { return };
        member.links.remove(&other);
        let name = self.machines[other].name.clone();
        self.step_member(at, MembershipEvent::Disconnected { name, boot });
    }

    /// The connections of a node that is gone.
    pub(super) fn end_connections(&mut self, at: usize) {
        for (connection, other) in self.network.connections_of(at) {
            // Its end is heard of, or it is missed.
            if self.is_cut(at, other) {
                self.plan(IDLE, Due::Silence { connection });
            } else {
                self.end_connection(connection);
            }
        }
    }

    /// Nothing may come over a connection for so long that it ends.
    pub(super) fn may_fall_silent(&mut self, at: usize, to: usize, until: u64) {
        if self.now + IDLE < until {
            for (connection, _) in
                self.network.connections_of(at).into_iter().filter(|(_, other)| *other == to)
            {
                self.plan(IDLE, Due::Silence { connection });
            }
        }
    }

    /// Whether a connection is there, and both ends are who made it.
    fn goes_on(&self, connection: u64) -> bool {
        let is_there =
            |(at, life): (usize, u64)| self.machines[at].node.is_some() && self.machines[at].life == life;
        self.network.ends(connection).is_some_and(|(ends, lives)| ends.into_iter().zip(lives).all(is_there))
    }

    /// A node that stands still for so long is given up by the others.
    pub(super) fn may_miss(&mut self, at: usize, pause: u64) {
        if IDLE < pause {
            for (connection, _) in self.network.connections_of(at) {
                self.plan(IDLE, Due::Silence { connection });
            }
        }
    }

    /// A connection has been silent, unless it goes on by now.
    pub(super) fn silence(&mut self, connection: u64) {
        let Some(([one, other], _)) = self.network.ends(connection) else { return };
        let is_cut = self.is_cut(one, other) || self.is_cut(other, one);
        let answer = self.machines[one].answers() && self.machines[other].answers();
        if is_cut || !answer || !self.goes_on(connection) {
            self.end_connection(connection);
        }
    }
}
