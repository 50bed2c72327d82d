//! What travels between the nodes of a simulation, and what becomes of it on the way.
//!
//! A link leads from one node to another. What it carries arrives in order as over a connection, unless the seed loses it,
//! doubles it, lets it be overtaken, or keeps it for minutes as a resend of a connection long gone would be. A cut link loses
//! everything, in its one direction.

use super::{Due, Sim};
use crate::{
    handoff::Message,
    kernel::{Arrival, Event, Opening, Provenance, Receipt},
    message::Envelope,
    mover::MoverEvent,
    placement::ShardId,
    router::{self, Announcement},
    store::TransferId,
};

/// What one node says to another. Typed and not encoded: the bytes are the transport's business.
#[derive(Debug, Clone)]
pub(super) enum Frame {
    /// A message of a stream, out of a committed outbox.
    Stream { source: ShardId, target: ShardId, number: u64, envelope: Envelope },
    /// A message from or to a volatile entity.
    Volatile { target: ShardId, envelope: Envelope },
    /// To the sending end of a stream.
    Receipt(Receipt),
    /// To the other end of a stream, before anything is sent in it.
    Opening(Opening),
    /// Who owns what, as far as the sender has heard.
    Announce(Vec<Announcement>),
    /// Of a shard that is handed off.
    HandOff { shard: ShardId, transfer: TransferId, message: Message },
    /// A caller's request or question that came to a node without its shard. The answer goes to the caller.
    Request { arrival: Arrival, hops: u8 },
}

impl Frame {
    /// What a volatile entity gets comes once at the most (P5). A request is passed on once: its caller takes a new id for it when
    /// every try was refused, so a second copy under the old one would take effect beside the new one.
    fn may_come_twice(&self) -> bool {
        match self {
            Self::Volatile { .. } | Self::Request { .. } => false,
            Self::Stream { .. }
            | Self::Receipt(_)
            | Self::Opening(_)
            | Self::Announce(_)
            | Self::HandOff { .. } => true,
        }
    }
}

/// The links between the nodes.
pub(super) struct Network {
    nodes: usize,
    /// By sender, then by receiver.
    links: Vec<Link>,
}

#[derive(Clone, Default)]
struct Link {
    cut_until: u64,
    /// When the last that keeps its place arrives.
    busy_until: u64,
}

impl Network {
    pub(super) fn new(nodes: usize) -> Self {
        Self { nodes, links: vec![Link::default(); nodes * nodes] }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// From one node to the other nothing arrives before then.
    pub(super) fn cut(&mut self, from: usize, to: usize, until: u64) {
        let link = self.link(from, to);
        link.cut_until = link.cut_until.max(until);
    }

    pub(super) fn heal(&mut self) {
        for link in &mut self.links {
            link.cut_until = 0;
        }
    }
}

/// Where a shard is, as one node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A worker of its own hosts it.
    Here,
    /// With this node, by the routes.
    There(usize),
    /// No owner is known.
    Nowhere,
}

impl Sim {
    /// Where a running node looks for a shard.
    pub(super) fn place(&self, at: usize, shard: ShardId) -> Place {
        let Some(node) = &self.machines[at].node else { return Place::Nowhere };
        if node.hosts(shard) {
            return Place::Here;
        }
        match node.mover.routes().route(shard, &self.machines[at].name) {
            router::Route::Remote(owner) => {
                let to = self.machines.iter().position(|machine| machine.name == *owner);
                Place::There(to.expect("only nodes of the simulation are announced"))
            }
            // Its own, and not hosted any more: whoever has it will say so.
            router::Route::Local | router::Route::Hold => Place::Nowhere,
        }
    }

    pub(super) fn transmit(&mut self, from: usize, to: usize, frame: &Frame) {
        if self.now < self.network.link(from, to).cut_until {
            self.seen.frames_cut += 1;
            self.trace.note(self.now, format_args!("n{from} is cut off from n{to}: {frame:?}"));
            return;
        }
        let copies = match self.random.below(1_000) {
            lost if lost < self.transit_faults() => {
                self.seen.frames_lost += 1;
                0
            }
            doubled if doubled < 2 * self.transit_faults() && frame.may_come_twice() => {
                self.seen.frames_doubled += 1;
                2
            }
            _ => 1,
        };
        self.trace.note(self.now, format_args!("n{from} > n{to} {copies} {frame:?}"));
        for _ in 0..copies {
            let due = self.arrives_at(from, to);
            self.schedule.push(due, Due::Frame { from, to, frame: frame.clone() });
        }
    }

    fn arrives_at(&mut self, from: usize, to: usize) -> u64 {
        let soon = self.now + self.random.below(self.transit_pause);
        let faults = self.transit_faults();
        if self.random.chance(faults / 10) {
            self.seen.frames_late += 1;
            return soon + self.random.between(1_000_000, 180_000_000);
        }
        if self.random.chance(5 * faults) {
            self.seen.frames_out_of_order += 1;
            return soon + self.random.below(10 * self.transit_pause);
        }
        let link = self.network.link(from, to);
        link.busy_until = link.busy_until.max(soon);
        link.busy_until
    }

    /// A frame is there, unless its link was cut meanwhile or there is no node.
    pub(super) fn frame_arrives(&mut self, from: usize, to: usize, frame: Frame) {
        if self.now < self.network.link(from, to).cut_until {
            self.seen.frames_cut += 1;
            return;
        }
        if self.machines[to].node.is_none() {
            return;
        }
        match frame {
            Frame::Stream { source, target, number, envelope } => {
                self.seen.streamed_across += 1;
                // It came out of a durable batch: no void of a lane here is its business.
                let from = Provenance::Stream { source, number, voids: None };
                self.arrive_across(to, target, envelope, from);
            }
            Frame::Volatile { target, envelope } => {
                self.arrive_across(to, target, envelope, Provenance::Volatile);
            }
            Frame::Receipt(receipt) => {
                self.step_worker(to, self.worker_of(receipt.source), Event::Receipts(vec![receipt]));
            }
            Frame::Opening(opening) => {
                self.step_worker(to, self.worker_of(opening.to()), Event::Openings(vec![opening]));
            }
            Frame::Announce(announcements) => self.step_mover(to, MoverEvent::Announced(announcements)),
            Frame::HandOff { shard, transfer, message } => {
                let from = self.machines[from].name.clone();
                self.step_mover(to, MoverEvent::Heard { from, shard, transfer, message });
            }
            Frame::Request { arrival, hops } => {
                self.arrive(to, hops, arrival);
            }
        }
    }

    fn arrive_across(&mut self, at: usize, shard: ShardId, envelope: Envelope, from: Provenance) {
        let view = envelope.view();
        let hash = crate::placement::hash(view.kind, view.key);
        let arrival = Arrival { shard, hash, envelope, from };
        self.step_worker(at, self.worker_of(shard), Event::Arrived(vec![arrival]));
    }

    /// A node tells the others what it owns and what it has heard, and will again, for what it says may be lost.
    pub(super) fn announce(&mut self, at: usize) {
        let node = self.machines[at].node.as_ref().expect("checked by the caller");
        let mut chunks = Vec::new();
        let mut from = Some(ShardId(0));
        while let Some(shard) = from {
            let (chunk, next) = node.mover.routes().announce(shard);
            chunks.push(Frame::Announce(chunk));
            from = next;
        }
        for chunk in &chunks {
            for to in (0..self.machines.len()).filter(|to| *to != at) {
                self.transmit(at, to, chunk);
            }
        }
        let pause = self.random.between(1, 2 * self.announce_every);
        self.chore(at, pause, super::Chore::Announce);
    }

    /// Cuts links at one node for a while: one of them in one direction or in both, or all of them.
    pub(super) fn cut(&mut self, at: usize) {
        let nodes = self.machines.len();
        if nodes == 1 {
            return;
        }
        let until = self.now + self.random.between(1_000, 3_000_000);
        let other = (at + self.random.between(1, nodes as u64 - 1) as usize) % nodes;
        let cut: Vec<(usize, usize)> = match self.random.below(4) {
            0 => vec![(at, other)],
            1 => vec![(other, at)],
            2 => vec![(at, other), (other, at)],
            _ => (0..nodes).filter(|to| *to != at).flat_map(|to| [(at, to), (to, at)]).collect(),
        };
        self.seen.links_cut += cut.len() as u64;
        self.trace.note(self.now, format_args!("cut {cut:?}"));
        for (from, to) in cut {
            self.network.cut(from, to, until);
        }
    }
}
