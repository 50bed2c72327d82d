//! The second ring around the kernel: it carries out actions over a real store, in virtual time.

use super::{Chore, Due, Moves, Sim, holdings::Holdings, lane::LaneRing, members::Member};
use crate::{
    kernel::{Action, Event, Kernel, Outcome, Output, Seat},
    placement::ShardId,
    store::{LaneId, NoRoom, Store},
};
use std::sync::Arc;

/// A running node.
pub(super) struct Node {
    pub(super) kernels: Vec<Kernel>,
    pub(super) store: Arc<dyn Store>,
    pub(super) lanes: Vec<LaneRing>,
    pub(super) workers: Vec<WorkerRing>,
    /// A checkpoint is on its way.
    pub(super) maintaining: bool,
    /// By shard number: whether a worker hosts it.
    hosted: Vec<bool>,
    /// Its hand-offs, and who owns what as far as it has heard since it started.
    pub(super) holdings: Holdings,
    /// What the node tells its holdings comes in order.
    pub(super) holdings_told_until: u64,
    /// What it is to the others, where nodes find each other.
    pub(super) member: Option<Member>,
}

/// What the ring keeps for one worker.
#[derive(Default)]
pub(super) struct WorkerRing {
    /// What lanes tell a worker comes in order.
    pub(super) told_until: u64,
    /// Lanes with a run on its way.
    running: Vec<LaneId>,
}

impl Node {
    /// Whether a worker of this node hosts the shard.
    pub(super) fn hosts(&self, shard: ShardId) -> bool {
        self.hosted[shard.0 as usize]
    }

    pub(super) fn set_hosted(&mut self, shard: ShardId, is: bool) {
        self.hosted[shard.0 as usize] = is;
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.holdings.is_quiet()
            && self.lanes.iter().all(LaneRing::is_idle)
            && self.kernels.iter().all(|kernel| kernel.is_serving() && kernel.is_quiet())
    }
}

impl Sim {
    /// Starts a node on what the storage holds.
    pub(super) fn boot(&mut self, at: usize) {
        assert!(self.machines[at].node.is_none(), "a node is started when there is none");
        if self.waits_for_servers(at) {
            return;
        }
        let store = match self.machines[at].open() {
            Ok(store) => store,
            Err(error) => return self.start_failed(at, &error),
        };
        let member = match self.make_member(at, &*store) {
            Ok(member) => member,
            Err(error) => {
                drop(store);
                return self.start_failed(at, &error);
            }
        };
        self.machines[at].life += 1;
        let life = self.machines[at].life;
        let now = self.wall(at);
        let lanes = (0..store.lanes())
            .map(LaneId)
            .map(|lane| LaneRing::new(store.open_lane(lane), store.loadable(lane)))
            .collect();
        let owned = store.owned().expect("a store that was just opened can be read");
        let kernels: Vec<Kernel> = (0..self.workers)
            .map(|worker| {
                let lane_of = |shard| store.lane_of(shard);
                let seat = Seat::new(self.layout, lane_of, &owned, |shard| self.worker_of(shard) == worker);
                let (kinds, limits) = (Arc::clone(&self.kinds), self.limits.clone());
                let seed = self.seed ^ (at as u64) << 32 ^ life << 8 ^ worker as u64;
                Kernel::new(kinds, limits, seat, seed, now)
            })
            .collect();
        let workers = kernels.iter().map(|_| WorkerRing::default()).collect();
        let mut hosted = vec![false; self.layout.count() as usize];
        for owned in &owned {
            hosted[owned.shard.0 as usize] = true;
        }
        let (holdings, begun) = self.make_holdings(at, &*store, &owned);
        self.trace.note(self.now, format_args!("n{at} starts, {life}"));
        let node = Node {
            kernels,
            store,
            lanes,
            workers,
            maintaining: false,
            hosted,
            holdings,
            holdings_told_until: 0,
            member,
        };
        self.machines[at].node = Some(node);
        self.check_owners(at);
        for worker in 0..self.workers {
            self.chore(at, 0, Chore::Tick { worker });
        }
        self.chore(at, self.maintain_every, Chore::Maintain);
        if self.machines.len() > 1 {
            self.begin(at, begun);
            self.chore(at, 0, Chore::Announce);
            self.chore(at, 0, Chore::MoverTick);
            if self.has_members() {
                self.begin_member(at);
            } else if self.moves == Moves::ByView {
                self.tell_view(at);
            } else if self.is_shared() {
                self.begin_beats(at);
            }
        }
        self.reopen_feeds(at);
    }

    /// A store did not open, or not to the end.
    fn start_failed(&mut self, at: usize, error: &dyn std::error::Error) {
        if self.healed {
            self.fail(&format!("the store cannot be opened: {error}"));
        }
        // A crash planned into the recovery.
        self.trace.note(self.now, format_args!("n{at} start failed: {error}"));
        self.seen.crashes_in_recovery += 1;
        self.machines[at].storage.crash(true);
        let pause = self.random.between(1_000, 100_000);
        self.plan(pause, Due::Boot { at });
    }

    /// The worker that hosts a shard.
    pub(super) fn worker_of(&self, shard: ShardId) -> usize {
        (shard.0 as usize / 2) % self.workers
    }

    /// Ends the node at once: everything but the storage is gone.
    pub(super) fn kill(&mut self, at: usize, power: bool) {
        let Some(node) = self.machines[at].node.take() else { return };
        self.trace.note(self.now, format_args!("n{at} crashes, power {power}"));
        for kernel in &node.kernels {
            self.seen.count(&kernel.counters());
        }
        self.count_struck(at, &node);
        drop(node);
        self.end_connections(at);
        self.seen.crashes += 1;
        // What had come to it while it was paused lay in its memory.
        self.machines[at].paused = None;
        self.machines[at].storage.crash(power);
        let pause = self.random.between(1_000, self.restart_pause);
        self.plan(pause, Due::Boot { at });
    }

    /// The node does nothing for a while, as a process that is stopped; what comes meanwhile waits.
    pub(super) fn pause(&mut self, at: usize) {
        if self.machines[at].answers() {
            self.seen.pauses += 1;
            self.machines[at].paused = Some(Vec::new());
            let pause = self.random.pick(&[10_000, 300_000, 3_000_000]);
            let pause = self.random.between(1_000, pause);
            self.chore(at, pause, Chore::Resume);
            self.may_miss(at, pause);
        }
    }

    /// A paused node goes on: first with what has become due since, in the order in which it would have been done.
    pub(super) fn resume(&mut self, at: usize) {
        let Some(waiting) = self.machines[at].paused.take() else { return };
        self.trace.note(self.now, format_args!("n{at} goes on with {}", waiting.len()));
        for what in waiting {
            self.carry_out_due(what);
        }
    }

    /// An event of the world outside for a worker. One whose node is paused waits with what else it has to do; where there is
    /// no node it is lost.
    pub(super) fn deliver(&mut self, at: usize, worker: usize, event: Event) {
        let machine = &mut self.machines[at];
        if let Some(waiting) = &mut machine.paused {
            waiting.push(Due::Chore { at, life: machine.life, what: Chore::Worker { worker, event } });
        } else if machine.node.is_some() {
            self.step_worker(at, worker, event);
        }
    }

    /// One event into one kernel, and what follows from it.
    pub(super) fn step_worker(&mut self, at: usize, worker: usize, event: Event) {
        let now = self.wall(at);
        self.trace.note(self.now, format_args!("n{at} {worker} < {event:?}"));
        let is_tick = matches!(event, Event::Tick);
        let node = self.machines[at].node.as_mut().expect("checked by the caller");
        let kernel = &mut node.kernels[worker];
        let (activations, waiting) = (kernel.activations().0, kernel.counters().waiting);
        let actions = kernel.step(event, now);
        let audit = kernel.audit();
        let counters = kernel.counters();
        self.seen.waiting = self.seen.waiting.max(waiting);
        if is_tick {
            self.seen.passivations += activations.saturating_sub(kernel.activations().0) as u64;
        }
        if !audit.balances() || !counters.balance() || counters.in_flight != audit.in_flight {
            self.fail(&format!("the balance of P1 is broken: {audit:?} {counters:?}"));
        }
        // No disk here forgets what it has synced, and no run of before says anything, so all ends fit.
        if 0 < counters.parked_streams && !self.has_lost_commits() {
            self.fail(&format!("n{at} {worker} has parked a stream: {counters:?}"));
        }
        for action in actions {
            self.carry_out(at, worker, action, None);
        }
        self.plan_runs(at, worker, 0);
    }

    fn plan_runs(&mut self, at: usize, worker: usize, pause: u64) {
        let machine = &mut self.machines[at];
        let Some(node) = machine.node.as_mut() else { return };
        for lane in node.kernels[worker].lanes() {
            if node.kernels[worker].has_work(lane) && !node.workers[worker].running.contains(&lane) {
                node.workers[worker].running.push(lane);
                let pause = pause + self.random.below(self.run_pause);
                let due = self.now + pause;
                let what = Chore::Run { worker, lane };
                self.schedule.push(due, Due::Chore { at, life: machine.life, what });
            }
        }
    }

    /// A run of a lane, with room for its batch reserved before.
    pub(super) fn run_worker(&mut self, at: usize, worker: usize, lane: LaneId) {
        let now = self.wall(at);
        let bytes = self.limits.batch_len_max() as u64;
        let node = self.machines[at].node.as_mut().expect("checked by the caller");
        node.workers[worker].running.retain(|running| *running != lane);
        let room = node.store.reserve(lane, bytes);
        self.trace.note(self.now, format_args!("n{at} {worker} runs lane {} {room:?}", lane.0));
        let kernel = &mut node.kernels[worker];
        let mut actions = Vec::new();
        // Nothing here ends a process in the midst of a turn, so nothing is written down.
        while room.is_ok() && kernel.next_turn(lane).is_some() {
            actions.extend(kernel.step(Event::Turn { lane, condemned: None }, now));
        }
        actions.extend(kernel.step(Event::Run { lane, room }, now));
        let audit = kernel.audit();
        let forgotten = kernel.forgotten_opening();
        if !audit.balances() {
            self.fail(&format!("the balance of P1 is broken in a run: {audit:?}"));
        }
        if let Some((source, target)) = forgotten {
            self.fail(&format!("n{at} {worker}: nothing opens the stream from {source} to {target}"));
        }
        let submits = actions.iter().any(|action| matches!(action, Action::Commit(_)));
        match room {
            Ok(()) if !submits => node.store.release(lane, bytes),
            Ok(()) => {}
            Err(NoRoom::LogTail) => {
                self.seen.room_refused_log += 1;
                self.seen.waits_for_log += u64::from(0 < kernel.intake_bytes());
            }
            Err(NoRoom::DiskFull) => self.seen.room_refused_disk += 1,
        }
        let reserved = (room.is_ok() && submits).then_some(bytes);
        for action in actions {
            self.carry_out(at, worker, action, reserved);
        }
        if room.is_err() {
            self.plan_maintenance(at, 2_000);
            self.plan_runs(at, worker, 20_000);
        } else {
            self.plan_runs(at, worker, 0);
        }
    }

    fn carry_out(&mut self, at: usize, worker: usize, action: Action, reserved: Option<u64>) {
        // A fatal load in the midst of an event's actions ends the node, and what it still had to do.
        if self.machines[at].node.is_none() {
            return;
        }
        match action {
            Action::Commit(submission) => self.submit(at, worker, submission, reserved),
            Action::Put(output) => {
                if let Output::Reply(to, Outcome::Done(_)) = &output
                    && self.is_durable_request(*to)
                {
                    self.fail("a request was answered before its batch was durable");
                }
                if matches!(output, Output::Opening(_)) && self.is_shared() {
                    self.fail("how far a shard is was told before its owner was confirmed");
                }
                self.let_out(at, output);
            }
            Action::Hand(arrivals) => {
                for arrival in &arrivals {
                    self.hand_near(at, arrival);
                }
            }
            Action::LoadShard { shard, part, resets } => {
                let pause = self.random.below(self.load_pause);
                self.chore(at, pause, Chore::LoadShard { worker, shard, part, resets });
            }
            Action::LoadOutbox(ticket) => {
                let pause = self.random.below(self.load_pause);
                self.chore(at, pause, Chore::LoadOutbox { worker, ticket });
            }
            Action::LoadImages(tickets) => {
                let pause = self.random.below(self.load_pause);
                self.chore(at, pause, Chore::LoadImages { worker, tickets });
            }
            Action::Left(shard) => self.has_left(at, worker, shard),
            Action::Stale(lane) => self.stale_lane(at, lane),
            Action::WantLoadable => self.plan_maintenance(at, 1_000),
            Action::Stop(error) => self.fail(&format!("a shard's rows cannot be read: {error}")),
        }
    }
}
