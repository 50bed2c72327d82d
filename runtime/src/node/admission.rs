//! What becomes of a client's message: it is taken for a worker of this process, passed on to the node that has its shard, or
//! refused.

use super::{Front, NotSent, Place};
use crate::{
    error::{Bound, Refusal},
    kernel::{Arrival, Event, Provenance},
    router,
    transport::frame::Way,
};
use std::sync::atomic::Ordering;

impl Front {
    /// Takes a message of a client, passes it on to the node that has its shard, or refuses it: where too much waits, and
    /// where nobody is known or reached who has the shard.
    pub(crate) fn admit(&self, arrival: Arrival, hops: u8) -> Result<(), Refusal> {
        self.admit_with(arrival, hops, |worker, arrival| {
            self.check_room(worker, 0)?;
            self.intakes[worker].push_arrival(arrival);
            Ok(())
        })
    }

    fn admit_with(
        &self,
        arrival: Arrival,
        hops: u8,
        take: impl FnOnce(usize, Arrival) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Refusal::Stopping);
        }
        match self.links.place(arrival.shard) {
            Place::Here => take(self.worker_of(arrival.shard), arrival),
            Place::There(outbound) => {
                let hops = router::forward(hops).ok_or(Refusal::Unavailable)?;
                let (way, to) = match arrival.from {
                    Provenance::Request { id, acknowledged, listener } if listener.wants_reply => {
                        (Way::Ask(id, acknowledged), listener.to)
                    }
                    Provenance::Request { id, acknowledged, listener } => {
                        (Way::Send(id, acknowledged), listener.to)
                    }
                    Provenance::Query(to) => (Way::Query, to),
                    from => unreachable!("a client sends requests and questions, not {from:?}"),
                };
                let sent = outbound.request(arrival.shard, hops, way, arrival.envelope, to);
                sent.map_err(|why| match why {
                    NotSent::Full => Refusal::Busy(Bound::Intake),
                    NotSent::Ended => {
                        let who = outbound.node.as_ref().map_or("a node", |node| node.as_str());
                        Refusal::OwnerUnavailable(format!("node {who}"))
                    }
                })
            }
            Place::Unreachable(node) => Err(Refusal::OwnerUnavailable(format!("node {node}"))),
            Place::Unknown => Err(Refusal::Unavailable),
        }
    }

    /// Refuses where as much waits for a worker as may. `more`: bytes that will wait, too.
    fn check_room(&self, worker: usize, more: usize) -> Result<(), Refusal> {
        let intake = &self.intakes[worker];
        if self.limits.intake_bytes_max <= intake.backlog() + more {
            intake.refused();
            return Err(Refusal::Busy(Bound::Intake));
        }
        Ok(())
    }
}

/// Messages that came in one frame, gathered: each worker is woken once for all of them. What other connections gather in the same moment
/// is not seen, so the bound may be passed by a frame of each. Dropped, as where the frame breaks the rules further on, nothing of what was
/// gathered was accepted, and whoever asked hears that its connection has ended.
pub(crate) struct Admitted<'f> {
    front: &'f Front,
    /// By worker, with their bytes.
    taken: Vec<(Vec<Arrival>, usize)>,
}

impl<'f> Admitted<'f> {
    pub(crate) fn by(front: &'f Front) -> Self {
        Self { front, taken: front.intakes.iter().map(|_| (Vec::new(), 0)).collect() }
    }

    /// As [`Front::admit`], but what is taken waits for [`Admitted::hand`].
    pub(crate) fn admit(&mut self, arrival: Arrival, hops: u8) -> Result<(), Refusal> {
        let (front, taken) = (self.front, &mut self.taken);
        front.admit_with(arrival, hops, |worker, arrival| {
            let (arrivals, bytes) = &mut taken[worker];
            front.check_room(worker, *bytes)?;
            *bytes += arrival.envelope.len();
            arrivals.push(arrival);
            Ok(())
        })
    }

    /// Hands what was taken to the workers.
    pub(crate) fn hand(self) {
        for (intake, (arrivals, _)) in self.front.intakes.iter().zip(self.taken) {
            if !arrivals.is_empty() {
                intake.push(Event::Arrived(arrivals));
            }
        }
    }
}
