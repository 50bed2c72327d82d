//! Simulated callers: they ask again with the same id until they know, and sometimes when they know already.

use super::{Due, Sim};
use crate::{
    activation::{Listener, ReplyTo},
    error::{Bound, Refusal},
    kernel::{Arrival, Event, Outcome, Provenance},
    message::{ClientId, Envelope, RequestId},
    placement::ShardId,
    requests::{Acknowledged, OPEN_MAX, Reply},
    timestamp::Timestamp,
};
use std::collections::BTreeSet;

/// The first connection number of feeds; callers are numbered from 0.
pub(super) const FEEDS_FROM: u32 = 1 << 16;

/// One of a simulation's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Ask,
    Send,
    Query,
}

pub(super) struct Caller {
    next_number: u64,
    open: BTreeSet<u64>,
    /// What was told to the node as known.
    acknowledged: Acknowledged,
}

impl Caller {
    pub(super) fn new() -> Self {
        Self { next_number: 1, open: BTreeSet::new(), acknowledged: Acknowledged::default() }
    }

    /// What the caller knows, with at most so many exceptions.
    fn known(&self, open_max: usize) -> Acknowledged {
        let first_above = self.open.iter().nth(open_max).copied();
        let floor = first_above.unwrap_or(self.next_number) - 1;
        let open: Vec<u64> = self.open.range(..=floor).copied().collect();
        Acknowledged { floor, open: (!open.is_empty()).then(|| open.into()) }
    }
}

pub(super) struct Call {
    caller: usize,
    way: Way,
    id: RequestId,
    envelope: Envelope,
    hash: u64,
    shard: ShardId,
    /// At most once, answered before anything is durable: nothing can be compared.
    is_volatile: bool,
    attempts: u32,
    /// Tries that were refused. Where all were, nothing has happened, and a new id may be taken.
    refused: u32,
    pub(super) outcome: Option<Outcome>,
    /// The first reply; every later one must be the same, byte for byte.
    reply: Option<Reply>,
}

impl Sim {
    /// A call by one of the simulation's callers.
    pub(super) fn call(&mut self, caller: usize, way: Way, envelope: Envelope) -> Ticket {
        while self.callers.len() <= caller {
            self.callers.push(Caller::new());
        }
        let view = envelope.view();
        let hash = crate::placement::hash(view.kind, view.key);
        let kind = self.kinds.find(view.kind);
        let is_volatile = kind.is_some_and(|kind| self.kinds.get(kind).is_volatile());
        let issued_at = Timestamp::from_micros(super::START + self.now);
        let state = &mut self.callers[caller];
        let number = state.next_number;
        state.next_number += 1;
        state.open.insert(number);
        let client = ClientId(u128::from(self.seed) << 32 | caller as u128);
        let call = Call {
            caller,
            way,
            id: RequestId { client, number, issued_at },
            hash,
            shard: self.layout.place(hash),
            envelope,
            is_volatile,
            attempts: 0,
            refused: 0,
            outcome: None,
            reply: None,
        };
        let ticket = Ticket(self.calls.len());
        self.calls.push(call);
        self.open_calls += 1;
        self.plan(0, Due::Call { ticket, attempt: 0 });
        ticket
    }

    /// Sends a call, and plans the next try for the case that no answer comes.
    pub(super) fn send_call(&mut self, ticket: Ticket, attempt: u32) {
        let call = &mut self.calls[ticket.0];
        let is_repeat = call.outcome.is_some();
        // Answered, or another try is on its way.
        if call.attempts != attempt && !is_repeat {
            return;
        }
        if attempt > 0 {
            self.seen.requests_repeated += 1;
        }
        call.attempts += 1;
        let next = call.attempts;
        let to = ReplyTo { connection: call.caller as u32, slot: ticket.0 as u64 };
        let caller = &mut self.callers[call.caller];
        if self.random.chance(300) {
            let open_max = self.random.pick(&[0, 2, OPEN_MAX]);
            // A caller that allows fewer exceptions than before would have to take back a floor.
            let known = caller.known(open_max);
            if caller.acknowledged.floor <= known.floor {
                caller.acknowledged = known;
            }
        }
        let from = match call.way {
            Way::Query => Provenance::Query(to),
            way => Provenance::Request {
                id: call.id,
                acknowledged: caller.acknowledged.clone(),
                listener: Listener { to, wants_reply: way == Way::Ask },
            },
        };
        let arrival = Arrival { shard: call.shard, hash: call.hash, envelope: call.envelope.clone(), from };
        if !is_repeat {
            let pause = self.random.between(100_000, 1_000_000).saturating_mul(u64::from(next.min(4)));
            self.plan(pause, Due::Call { ticket, attempt: next });
        }
        let pause = self.random.below(self.transit_pause);
        // Any node will do. In peace a caller has heard who is there: where most have left it might else grow old at doors where
        // nobody is.
        let any = self.random.below(self.machines.len() as u64) as usize;
        let is_there = |at: &usize| !self.healed || !self.machines[*at].is_away;
        let at = (any..self.machines.len()).chain(0..any).find(is_there).unwrap_or(any);
        self.plan(pause, Due::Arrive { at, arrival });
    }

    /// What a client or a feed sent is there, after so many hops. Returns whether it was taken: the worker's intake is bounded.
    pub(super) fn arrive(&mut self, at: usize, hops: u8, arrival: Arrival) -> bool {
        let worker = self.worker_of(arrival.shard);
        let Some(node) = &self.machines[at].node else { return false };
        if !node.hosts(arrival.shard) {
            self.forward(at, hops, arrival);
            return true;
        }
        if self.limits.intake_bytes_max <= node.kernels[worker].intake_bytes() {
            match arrival.from {
                Provenance::Request { listener, .. } => {
                    let outcome = Outcome::Refused(Refusal::Busy(Bound::Intake));
                    self.plan(0, Due::Reply { to: listener.to, outcome });
                }
                Provenance::Query(to) => {
                    let outcome = Outcome::Refused(Refusal::Busy(Bound::Intake));
                    self.plan(0, Due::Reply { to, outcome });
                }
                // A feed sees that there is no room.
                _ => {}
            }
            return false;
        }
        self.step_worker(at, worker, Event::Arrived(vec![arrival]));
        true
    }

    /// Whether an answer to this address must wait for a commit.
    pub(super) fn is_durable_request(&self, to: ReplyTo) -> bool {
        to.connection < FEEDS_FROM && self.calls.get(to.slot as usize).is_some_and(|call| !call.is_volatile)
    }

    pub(super) fn reply(&mut self, to: ReplyTo, outcome: Outcome) {
        let ticket = Ticket(to.slot as usize);
        self.trace.note(self.now, format_args!("call {} is told {outcome:?}", ticket.0));
        match &outcome {
            Outcome::Done(reply) => self.done(ticket, reply.clone(), outcome.clone()),
            Outcome::Waiting => {
                if self.calls[ticket.0].way != Way::Send {
                    self.fail("an ask was told that its message waits");
                }
                self.seen.told_waiting += 1;
                self.settle(ticket, outcome);
            }
            Outcome::Refused(refusal) => {
                let refusal = refusal.clone();
                self.refused(ticket, &refusal, outcome);
            }
            Outcome::Elsewhere => {
                self.seen.asked_elsewhere += 1;
                self.again(ticket);
            }
            Outcome::Unknown(_) => {
                self.seen.unknown += 1;
                self.again(ticket);
            }
        }
    }

    fn done(&mut self, ticket: Ticket, reply: Reply, outcome: Outcome) {
        let call = &mut self.calls[ticket.0];
        if call.way != Way::Query && !call.is_volatile {
            match &call.reply {
                None => call.reply = Some(reply),
                Some(first) if *first == reply => self.seen.replies_repeated += 1,
                // The first was lost with its commit.
                Some(_) if self.shared.as_ref().is_some_and(|shared| shared.has_lost) => {}
                Some(first) => {
                    let text = format!("call {ticket:?} was told {first:?}, then {reply:?}");
                    self.fail(&text);
                }
            }
        }
        self.settle(ticket, outcome);
    }

    fn refused(&mut self, ticket: Ticket, refusal: &Refusal, outcome: Outcome) {
        let has_lost = self.has_lost_commits();
        let seen = &mut self.seen;
        let is_passing = match refusal {
            Refusal::Busy(bound) => {
                match bound {
                    Bound::Intake => seen.busy_intake += 1,
                    Bound::Mailbox => seen.busy_mailbox += 1,
                    Bound::Outbox => seen.busy_outbox += 1,
                    Bound::Memory => seen.busy_memory += 1,
                    Bound::Replies => seen.busy_replies += 1,
                    Bound::LogTail | Bound::Clients | Bound::DeadLetters => {}
                }
                true
            }
            Refusal::StorageFull => {
                seen.storage_full += 1;
                true
            }
            Refusal::Unavailable | Refusal::Stopping => true,
            Refusal::Expired(_) => {
                seen.expired += 1;
                self.check_expired(ticket);
                false
            }
            Refusal::Collision(_) if !has_lost => self.fail(&format!("call {ticket:?} collided: {refusal}")),
            _ => false,
        };
        if is_passing {
            self.calls[ticket.0].refused += 1;
            if matches!(refusal, Refusal::Busy(Bound::Replies)) {
                self.renumber(ticket);
            }
            self.again(ticket);
        } else {
            self.settle(ticket, outcome);
        }
    }

    /// A call of which every try was refused has left no mark. It takes a new id, or it would grow too old while it waits
    /// for room.
    fn renumber(&mut self, ticket: Ticket) {
        let call = &mut self.calls[ticket.0];
        if call.outcome.is_some() || call.refused < call.attempts {
            return;
        }
        let caller = &mut self.callers[call.caller];
        caller.open.remove(&call.id.number);
        call.id.number = caller.next_number;
        call.id.issued_at = Timestamp::from_micros(super::START + self.now);
        (call.attempts, call.refused) = (call.attempts + 1, call.refused + 1);
        caller.open.insert(call.id.number);
        caller.next_number += 1;
    }

    /// Only what the caller acknowledged, or what is older than the replies are kept, may have expired.
    fn check_expired(&mut self, ticket: Ticket) {
        let call = &self.calls[ticket.0];
        let age = (super::START + self.now).saturating_sub(call.id.issued_at.as_micros());
        let is_known = self.callers[call.caller].acknowledged.settles(call.id.number);
        // The node's clock may be ahead by its jumps.
        let ahead = super::CLOCK_JUMP_MAX;
        if !is_known && u128::from(age + ahead) < self.limits.reply_retention.as_micros() {
            self.fail(&format!("call {ticket:?} expired at the age of {age} microseconds"));
        }
    }

    /// Asks again after a pause, with the same id.
    fn again(&mut self, ticket: Ticket) {
        let call = &self.calls[ticket.0];
        if call.outcome.is_none() {
            let attempt = call.attempts;
            let pause = self.random.between(1_000, 200_000);
            self.plan(pause, Due::Call { ticket, attempt });
        }
    }

    fn settle(&mut self, ticket: Ticket, outcome: Outcome) {
        let call = &mut self.calls[ticket.0];
        if call.outcome.is_some() {
            if matches!(call.outcome, Some(Outcome::Waiting)) && matches!(outcome, Outcome::Done(_)) {
                call.outcome = Some(outcome);
            }
            return;
        }
        call.outcome = Some(outcome);
        let number = call.id.number;
        self.callers[call.caller].open.remove(&number);
        self.open_calls -= 1;
        // An old repeat, in flight for long.
        if call.way != Way::Query && !self.healed && self.random.chance(250) {
            let pause = self.random.between(1, 3_000_000);
            let attempt = self.calls[ticket.0].attempts;
            self.plan(pause, Due::Call { ticket, attempt });
        }
    }
}
