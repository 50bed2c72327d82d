//! What leaves a kernel: to its callers, to workers of its node, and to other nodes.

use super::{
    Chore, Due, Sim,
    network::{Frame, Place},
};
use crate::{
    kernel::{Arrival, Event, Output, Provenance},
    router,
};

impl Sim {
    pub(super) fn let_out(&mut self, at: usize, output: Output) {
        let pause = self.random.below(self.transit_pause);
        let is_certain = matches!(output, Output::Hand(_) | Output::HandOff(..));
        let is_lost = !is_certain && self.random.chance(self.transit_faults());
        if is_lost {
            self.seen.answers_lost += 1;
            self.trace.note(self.now, format_args!("lost: {output:?}"));
            return;
        }
        match output {
            Output::Reply(to, outcome) => self.plan(pause, Due::Reply { to, outcome }),
            Output::Receipt(receipt) => {
                if receipt.refused_from.is_some() {
                    self.seen.streams_refused += 1;
                }
                match self.place(at, receipt.source) {
                    Place::Here => {
                        let worker = self.worker_of(receipt.source);
                        let event = Event::Receipts(vec![receipt]);
                        self.chore(at, pause, Chore::Worker { worker, event });
                    }
                    Place::There(to) => self.transmit(at, to, &Frame::Receipt(receipt)),
                    Place::Nowhere => self.seen.unrouted += 1,
                }
            }
            Output::Opening(opening) => match self.place(at, opening.to()) {
                Place::Here => {
                    let worker = self.worker_of(opening.to());
                    let event = Event::Openings(vec![opening]);
                    self.chore(at, pause, Chore::Worker { worker, event });
                }
                Place::There(to) => self.transmit(at, to, &Frame::Opening(opening)),
                Place::Nowhere => self.seen.unrouted += 1,
            },
            Output::FeedReceipt(receipt) => self.plan(pause, Due::FeedReceipt(receipt)),
            Output::Hand(arrival) => self.hand(at, arrival),
            Output::HandOff(shard, news) => self.hand_off_news(at, shard, news),
        }
    }

    pub(super) fn transit_faults(&self) -> u64 {
        if self.healed { 0 } else { self.faults.transit }
    }

    /// To the shard's owner. Where none is known it is lost, and its sender sends it again after a while.
    fn hand(&mut self, at: usize, arrival: Arrival) {
        let target = arrival.shard;
        let to = match self.place(at, target) {
            Place::Here => return self.hand_near(at, &arrival),
            Place::There(to) => to,
            Place::Nowhere => {
                self.seen.unrouted += 1;
                return;
            }
        };
        let envelope = arrival.envelope;
        let frame = match arrival.from {
            Provenance::Stream { source, number, .. } => Frame::Stream { source, target, number, envelope },
            Provenance::Volatile => Frame::Volatile { target, envelope },
            from => self.fail(&format!("a kernel let out what a client sent: {from:?}")),
        };
        self.transmit(at, to, &frame);
    }

    /// From worker to worker inside the node. What may not be durable yet never leaves it: if no worker hosts the shard any
    /// more, it is lost here.
    pub(super) fn hand_near(&mut self, at: usize, arrival: &Arrival) {
        let worker = self.worker_of(arrival.shard);
        let is_stream = matches!(arrival.from, Provenance::Stream { .. });
        let copies = match self.random.below(1_000) {
            lost if lost < self.transit_faults() => {
                self.seen.hands_lost += 1;
                0
            }
            doubled if doubled < 2 * self.transit_faults() && is_stream => {
                self.seen.hands_doubled += 1;
                2
            }
            _ => 1,
        };
        for copy in 0..copies {
            // The second comes late, maybe after its shard has lost its memory.
            let pause = self.random.below(self.transit_pause * (1 + 200 * copy));
            let event = Event::Arrived(vec![arrival.clone()]);
            self.chore(at, pause, Chore::Worker { worker, event });
        }
    }

    /// A caller has asked a node without the shard. It passes the request on to whom it takes for the owner. Where it knows none,
    /// where the request has gone round too often, and now and then besides, its kernel says that the shard is elsewhere.
    pub(super) fn forward(&mut self, at: usize, hops: u8, arrival: Arrival) {
        let is_request = matches!(arrival.from, Provenance::Request { .. } | Provenance::Query(_));
        match (self.place(at, arrival.shard), router::forward(hops)) {
            (Place::There(to), Some(hops)) if is_request && !self.random.chance(100) => {
                self.seen.requests_forwarded += 1;
                self.transmit(at, to, &Frame::Request { arrival, hops });
            }
            _ => {
                let worker = self.worker_of(arrival.shard);
                self.step_worker(at, worker, Event::Arrived(vec![arrival]));
            }
        }
    }
}
