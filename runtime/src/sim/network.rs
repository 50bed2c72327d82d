//! What travels between the nodes of a simulation, and what becomes of it on the way.
//!
//! A link leads from one node to another. What it carries arrives in order as over a connection, unless the seed loses it,
//! doubles it, lets it be overtaken, or keeps it for minutes as a resend of a connection long gone would be. A cut link loses
//! everything, in its one direction.

use super::{Due, Sim};
use crate::{
    handoff::Message,
    kernel::{Arrival, Event, Opening, Provenance, Receipt},
    membership::{Exchange, LastAnswer, LastQuestion},
    message::Envelope,
    mover::MoverEvent,
    placement::ShardId,
    router::{self, Announcement},
    store::TransferId,
};
use bytes::Bytes;
use std::{collections::BTreeMap, fmt};

/// What one node says to another. Typed and not encoded: the bytes are the transport's business.
#[derive(Debug, Clone)]
pub(super) enum Frame {
    /// A message of a stream, out of a committed outbox.
    Stream {
        source: ShardId,
        target: ShardId,
        number: u64,
        envelope: Envelope,
    },
    /// A message from or to a volatile entity.
    Volatile {
        target: ShardId,
        envelope: Envelope,
    },
    /// To the sending end of a stream.
    Receipt(Receipt),
    /// To the other end of a stream, before anything is sent in it.
    Opening(Opening),
    /// Who owns what, as far as the sender has heard.
    Announce(Vec<Announcement>),
    /// Of a shard that is handed off.
    HandOff {
        shard: ShardId,
        transfer: TransferId,
        message: Message,
    },
    /// What a membership says: a packet of its liveness,
    Packet(Packet),
    /// or what it knows of all.
    Members(Exchange),
    /// Of a node that leaves, and what it is told.
    LastQuestion(LastQuestion),
    LastAnswer(LastAnswer),
    /// A caller's request or question that came to a node without its shard. The answer goes to the caller.
    Request {
        arrival: Arrival,
        hops: u8,
    },
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
            | Self::HandOff { .. }
            | Self::Packet(_)
            | Self::Members(_)
            | Self::LastQuestion(_)
            | Self::LastAnswer(_) => true,
        }
    }
}

/// Bytes of a membership's liveness; in the trace they are one number.
#[derive(Clone)]
pub(super) struct Packet(pub(super) Bytes);

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes {:016x}", self.0.len(), xxhash_rust::xxh3::xxh3_64(&self.0))
    }
}

/// The links between the nodes.
pub(super) struct Network {
    nodes: usize,
    /// By sender, then by receiver.
    links: Vec<Link>,
    /// Between nodes with a membership, by number.
    connections: BTreeMap<u64, Connection>,
    connections_made: u64,
}

/// Two nodes that have found each other.
struct Connection {
    ends: [usize; 2],
    /// In which run each was when it was made.
    lives: [u64; 2],
    /// How many ends have let the other in.
    admitted: u8,
}

#[derive(Clone, Default)]
struct Link {
    cut_until: u64,
    /// When the last that keeps its place arrives.
    busy_until: u64,
}

impl Network {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            links: vec![Link::default(); nodes * nodes],
            connections: BTreeMap::new(),
            connections_made: 0,
        }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// From one node to the other nothing arrives before then.
    pub(super) fn cut(&mut self, from: usize, to: usize, until: u64) {
        let link = self.link(from, to);
        link.cut_until = link.cut_until.max(until);
    }

    /// Two nodes begin to shake hands.
    pub(super) fn connect(&mut self, ends: [usize; 2], lives: [u64; 2]) -> u64 {
        self.connections_made += 1;
        self.connections.insert(self.connections_made, Connection { ends, lives, admitted: 0 });
        self.connections_made
    }

    /// One end has let the other in.
    pub(super) fn admitted(&mut self, connection: u64) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.admitted += 1;
        }
    }

    /// Whether two nodes shake hands.
    pub(super) fn is_shaking(&self, one: usize, other: usize) -> bool {
        self.connections.values().any(|connection| {
            connection.admitted < 2 && (connection.ends == [one, other] || connection.ends == [other, one])
        })
    }

    /// Both ends with the run each was in; `None`: it is over.
    pub(super) fn ends(&self, connection: u64) -> Option<([usize; 2], [u64; 2])> {
        self.connections.get(&connection).map(|connection| (connection.ends, connection.lives))
    }

    /// The connections of a node, and with whom.
    pub(super) fn connections_of(&self, at: usize) -> Vec<(u64, usize)> {
        let with = |(number, connection): (&u64, &Connection)| match connection.ends {
            [one, other] if one == at => Some((*number, other)),
            [one, other] if other == at => Some((*number, one)),
            _ => None,
        };
        self.connections.iter().filter_map(with).collect()
    }

    /// A connection is over.
    pub(super) fn disconnect(&mut self, connection: u64) -> Option<[usize; 2]> {
        self.connections.remove(&connection).map(|connection| connection.ends)
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
        match node.holdings.routes().route(shard, &self.machines[at].name) {
            router::Route::Remote(owner) => {
                let to = self.machines.iter().position(|machine| machine.name == *owner);
                Place::There(to.expect("only nodes of the simulation are announced"))
            }
            // Its own, and not hosted any more: whoever has it will say so.
            router::Route::Local | router::Route::Hold => Place::Nowhere,
        }
    }

    /// Whether nothing gets from one node to the other.
    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.now < self.network.links[from * self.network.nodes + to].cut_until
    }

    pub(super) fn transmit(&mut self, from: usize, to: usize, frame: &Frame) {
        if !self.is_linked(from, to) {
            self.seen.frames_unconnected += 1;
            return;
        }
        if self.is_cut(from, to) {
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
        if self.is_cut(from, to) {
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
                let (from, store) = (self.machines[from].name.clone(), self.store_of(from));
                self.step_mover(to, MoverEvent::Heard { from, store, shard, transfer, message });
            }
            Frame::Request { arrival, hops } => {
                self.arrive(to, hops, arrival);
            }
            Frame::Packet(packet) => self.hear_packet(from, to, packet.0),
            Frame::Members(exchange) => self.hear_members(from, to, exchange),
            Frame::LastQuestion(question) => self.answer_last(from, to, question),
            Frame::LastAnswer(answer) => self.hear_last(from, to, answer),
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
        for chunk in &self.owners_known(at) {
            for to in 0..self.machines.len() {
                if to != at && self.is_linked(at, to) {
                    self.transmit(at, to, chunk);
                }
            }
        }
        let pause = self.random.between(1, 2 * self.announce_every);
        self.chore(at, pause, super::Chore::Announce);
    }

    /// All that is known of owners, to a connection that begins.
    pub(super) fn tell_owners(&mut self, at: usize, to: usize) {
        for chunk in &self.owners_known(at) {
            self.transmit(at, to, chunk);
        }
    }

    fn owners_known(&self, at: usize) -> Vec<Frame> {
        let node = self.machines[at].node.as_ref().expect("checked by the caller");
        let mut chunks = Vec::new();
        let mut from = Some(ShardId(0));
        while let Some(shard) = from {
            let (chunk, next) = node.holdings.routes().announce(shard);
            chunks.push(Frame::Announce(chunk));
            from = next;
        }
        chunks
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
        self.seen.cuts_one_way += u64::from(cut.len() == 1);
        self.trace.note(self.now, format_args!("cut {cut:?}"));
        for (from, to) in cut {
            self.network.cut(from, to, until);
            self.may_fall_silent(from, to, until);
        }
    }
}
