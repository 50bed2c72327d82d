//! What a simulation has planned, and doing it when it is due.

use super::{
    FeedTicket, Sim, Ticket,
    control::{Answer, Ask},
    network::Frame,
};
use crate::{
    activation::ReplyTo,
    kernel::{Arrival, Event, FeedReceipt, ImageTicket, Outcome},
    membership::Hello,
    mover::MoverEvent,
    placement::ShardId,
    shard::{OutboxPart, OutboxTicket},
    sharing::SharingEvent,
    store::LaneId,
};

/// What is planned. A node is named by its place among the machines, `at`.
pub(super) enum Due {
    Fault,
    /// A node is struck if it is coming or going.
    Strike {
        at: usize,
    },
    /// A connection is over if nothing has come over it.
    Silence {
        connection: u64,
    },
    Boot {
        at: usize,
    },
    /// Of a node, and of no later one on the same machine.
    Chore {
        at: usize,
        life: u64,
        what: Chore,
    },
    Call {
        ticket: Ticket,
        attempt: u32,
    },
    Arrive {
        at: usize,
        arrival: Arrival,
    },
    Frame {
        from: usize,
        to: usize,
        frame: Frame,
    },
    Reply {
        to: ReplyTo,
        outcome: Outcome,
    },
    FeedReceipt(FeedReceipt),
    Pump {
        feed: FeedTicket,
    },
    ReleaseRoom {
        at: usize,
    },
    ReleaseDisk {
        at: usize,
    },
    ServerBack {
        server: u32,
    },
    /// A standby becomes a server.
    Promote,
}

/// What a node is to do.
pub(super) enum Chore {
    Tick {
        worker: usize,
    },
    Run {
        worker: usize,
        lane: LaneId,
    },
    Worker {
        worker: usize,
        event: Event,
    },
    Commit {
        lane: LaneId,
    },
    Committed {
        lane: LaneId,
    },
    LoadShard {
        worker: usize,
        shard: ShardId,
        part: OutboxPart,
        resets: u64,
    },
    LoadOutbox {
        worker: usize,
        ticket: OutboxTicket,
    },
    LoadImages {
        worker: usize,
        tickets: Vec<ImageTicket>,
    },
    Maintain,
    Announce,
    Resume,
    /// The node hears of the view.
    View,
    MoverTick,
    Mover(MoverEvent),
    MemberTick,
    /// What is known of the others is to be durable.
    Keep {
        number: u64,
        bytes: Vec<u8>,
    },
    Dial {
        to: usize,
    },
    /// A node is at the door.
    Greet {
        ticket: u64,
        hello: Hello,
    },
    /// A connection is over.
    Ended {
        connection: u64,
    },
    /// A server is to hear that the node lives.
    Beat {
        server: u32,
    },
    /// What a server was asked is there.
    Asked {
        server: u32,
        ask: Ask,
        begun: u64,
    },
    Answered {
        server: u32,
        answer: Answer,
        begun: u64,
    },
    Sharing(SharingEvent),
}

impl Due {
    /// The node that must not be paused for it; `None` for what needs none.
    fn needs(&self) -> Option<usize> {
        match *self {
            Self::Chore { what: Chore::Resume, .. } => None,
            Self::Chore { at, .. } | Self::Arrive { at, .. } | Self::Frame { to: at, .. } => Some(at),
            _ => None,
        }
    }

    /// Whether it is done by a server, to which it was sent before.
    fn is_sent(&self) -> bool {
        matches!(self, Self::Chore { what: Chore::Commit { .. } | Chore::Asked { .. }, .. })
    }
}

impl Sim {
    pub(super) fn plan(&mut self, pause: u64, what: Due) {
        self.schedule.push(self.now + pause, what);
    }

    /// Plans what a node is to do, if it still runs then.
    pub(super) fn chore(&mut self, at: usize, pause: u64, what: Chore) {
        self.plan(pause, Due::Chore { at, life: self.machines[at].life, what });
    }

    /// Does what is due next. Panics where nothing is planned, for a node ticks for ever.
    pub(super) fn step(&mut self) {
        let (due, what) = self.schedule.pop().expect("a simulation always has something to do");
        self.advance(due);
        let is_done_beside = self.is_shared() && what.is_sent();
        if let Some(at) = what.needs()
            && self.machines[at].paused.is_some()
            && !(is_done_beside && self.is_done_in_pause())
        {
            let waiting = self.machines[at].paused.as_mut().expect("just seen");
            waiting.push(what);
        } else {
            self.carry_out_due(what);
        }
    }

    pub(super) fn carry_out_due(&mut self, what: Due) {
        match what {
            Due::Boot { at } => self.boot(at),
            Due::Fault => self.fault(),
            Due::Strike { at } => self.strike(at),
            Due::Silence { connection } => self.silence(connection),
            Due::Chore { at, life, what } => {
                // Of a node that is gone; what is on the network survives it.
                if self.machines[at].life == life && self.machines[at].node.is_some() {
                    self.do_chore(at, what);
                }
            }
            Due::Call { ticket, attempt } => self.send_call(ticket, attempt),
            Due::Arrive { at, arrival } => {
                self.arrive(at, 0, arrival);
            }
            Due::Frame { from, to, frame } => self.frame_arrives(from, to, frame),
            Due::Reply { to, outcome } => self.reply(to, outcome),
            Due::FeedReceipt(receipt) => self.feed_receipt(&receipt),
            Due::Pump { feed } => self.pump(feed),
            Due::ReleaseRoom { at } => self.release_room(at),
            Due::ReleaseDisk { at } => self.release_disk(at),
            Due::ServerBack { server } => self.server_back(server),
            Due::Promote => self.promote(),
        }
    }

    fn do_chore(&mut self, at: usize, what: Chore) {
        match what {
            Chore::Tick { worker } => {
                self.step_worker(at, worker, Event::Tick);
                self.chore(at, self.tick_every, Chore::Tick { worker });
            }
            Chore::Run { worker, lane } => self.run_worker(at, worker, lane),
            Chore::Worker { worker, event } => self.step_worker(at, worker, event),
            Chore::Commit { lane } => self.commit(at, lane),
            Chore::Committed { lane } => self.committed(at, lane),
            Chore::LoadShard { worker, shard, part, resets } => {
                self.load_shard(at, worker, shard, part, resets);
            }
            Chore::LoadOutbox { worker, ticket } => self.load_outbox(at, worker, ticket),
            Chore::LoadImages { worker, tickets } => self.load_images(at, worker, tickets),
            Chore::Maintain => self.maintain(at),
            Chore::Announce => self.announce(at),
            Chore::Resume => self.resume(at),
            Chore::View => self.hear_view(at),
            Chore::MoverTick => self.tick_mover(at),
            Chore::Mover(event) => self.step_mover(at, event),
            Chore::MemberTick => self.tick_member(at),
            Chore::Keep { number, bytes } => self.keep(at, number, bytes),
            Chore::Dial { to } => self.dialled(at, to),
            Chore::Greet { ticket, hello } => self.greet(at, ticket, hello),
            Chore::Ended { connection } => self.ended(at, connection),
            Chore::Beat { server } => self.beat(at, server),
            Chore::Asked { server, ask, begun } => self.asked(at, server, ask, begun),
            Chore::Answered { server, answer, begun } => self.answered_by(at, server, answer, begun),
            Chore::Sharing(event) => self.step_sharing(at, event),
        }
    }
}
