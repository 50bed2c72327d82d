//! The second ring around the kernel: it carries out actions over a real store, in virtual time.

use super::{Due, Sim};
use crate::{
    kernel::{Action, Arrival, Event, ImageTicket, Kernel, Outcome, Output, Seat, Submission},
    load,
    placement::ShardId,
    shard::{OutboxPart, OutboxTicket},
    store::{Batch, CommitError, Lane, LaneId, LoadError, NoRoom, Position, Store},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// A running node.
pub(super) struct Node {
    pub(super) kernels: Vec<Kernel>,
    pub(super) store: Arc<dyn Store>,
    pub(super) lanes: Vec<LaneRing>,
    workers: Vec<WorkerRing>,
    /// A checkpoint is on its way.
    maintaining: bool,
}

/// What the ring keeps for one worker.
#[derive(Default)]
struct WorkerRing {
    /// What lanes tell a worker comes in order.
    told_until: u64,
    /// Lanes with a run on its way.
    running: Vec<LaneId>,
}

/// What the ring keeps for one lane.
pub(super) struct LaneRing {
    writer: Box<dyn Lane>,
    voids: u64,
    queue: VecDeque<Queued>,
    group: Option<Group>,
    committed: Position,
    /// Durable and not yet loadable: last numbers by worker.
    unloadable: VecDeque<(Position, BTreeMap<usize, u64>)>,
}

struct Queued {
    worker: usize,
    reserved: Option<u64>,
    submission: Submission,
}

/// What is committed together. After an unknown outcome the same group is committed again.
struct Group {
    members: Vec<Queued>,
    batches: Vec<Batch>,
    result: Option<Result<Position, CommitError>>,
}

impl LaneRing {
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.group.is_none()
    }
}

impl Node {
    pub(super) fn is_quiet(&self) -> bool {
        self.lanes.iter().all(LaneRing::is_idle)
            && self.kernels.iter().all(|kernel| kernel.is_serving() && kernel.is_quiet())
    }
}

impl Sim {
    /// Starts a node on what the storage holds.
    pub(super) fn boot(&mut self) {
        assert!(self.node.is_none(), "a node is started when there is none");
        let store = match self.storage.open() {
            Ok(store) => store,
            Err(error) if !self.healed => {
                // A crash planned into the recovery.
                self.trace.note(self.now, format_args!("start failed: {error}"));
                self.seen.crashes_in_recovery += 1;
                self.storage.crash(true);
                let pause = self.random.between(1_000, 100_000);
                self.plan(pause, Due::Boot);
                return;
            }
            Err(error) => self.fail(&format!("the store cannot be opened: {error}")),
        };
        self.life += 1;
        let now = self.wall();
        let lanes = (0..store.lanes())
            .map(|lane| LaneRing {
                writer: store.open_lane(LaneId(lane)),
                voids: 0,
                queue: VecDeque::new(),
                group: None,
                committed: store.loadable(LaneId(lane)),
                unloadable: VecDeque::new(),
            })
            .collect();
        let owned = store.owned().expect("a store that was just opened can be read");
        let kernels: Vec<Kernel> = (0..self.workers)
            .map(|worker| {
                let lane_of = |shard| store.lane_of(shard);
                let seat = Seat::new(self.layout, lane_of, &owned, |shard| self.worker_of(shard) == worker);
                let (kinds, limits) = (Arc::clone(&self.kinds), self.limits.clone());
                let seed = self.seed ^ self.life << 8 ^ worker as u64;
                Kernel::new(kinds, limits, seat, seed, now)
            })
            .collect();
        let workers = kernels.iter().map(|_| WorkerRing::default()).collect();
        self.trace.note(self.now, format_args!("start {}", self.life));
        self.node = Some(Node { kernels, store, lanes, workers, maintaining: false });
        for worker in 0..self.workers {
            self.plan(0, Due::Tick { life: self.life, worker });
        }
        let life = self.life;
        self.plan(self.maintain_every, Due::Maintain { life });
        self.reopen_feeds();
    }

    /// The worker that hosts a shard.
    pub(super) fn worker_of(&self, shard: ShardId) -> usize {
        (shard.0 as usize / 2) % self.workers
    }

    /// Ends the node at once: everything but the storage is gone.
    pub(super) fn kill(&mut self, power: bool) {
        let Some(node) = self.node.take() else { return };
        self.trace.note(self.now, format_args!("crash, power {power}"));
        for kernel in &node.kernels {
            self.seen.count(&kernel.counters());
        }
        drop(node);
        self.seen.crashes += 1;
        self.storage.crash(power);
        let pause = self.random.between(1_000, self.restart_pause);
        self.plan(pause, Due::Boot);
    }

    /// One event into one kernel, and what follows from it.
    pub(super) fn step_worker(&mut self, worker: usize, event: Event) {
        let now = self.wall();
        self.trace.note(self.now, format_args!("{worker} < {event:?}"));
        let is_tick = matches!(event, Event::Tick);
        let node = self.node.as_mut().expect("checked by the caller");
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
        for action in actions {
            self.carry_out(worker, action, None);
        }
        self.plan_runs(worker, 0);
    }

    fn plan_runs(&mut self, worker: usize, pause: u64) {
        let Some(node) = self.node.as_mut() else { return };
        for lane in node.kernels[worker].lanes() {
            if node.kernels[worker].has_work(lane) && !node.workers[worker].running.contains(&lane) {
                node.workers[worker].running.push(lane);
                let pause = pause + self.random.below(self.run_pause);
                let life = self.life;
                self.schedule.push(self.now + pause, Due::Run { life, worker, lane });
            }
        }
    }

    /// A run of a lane, with room for its batch reserved before.
    pub(super) fn run_worker(&mut self, worker: usize, lane: LaneId) {
        let now = self.wall();
        let bytes = self.limits.batch_len_max() as u64;
        let node = self.node.as_mut().expect("checked by the caller");
        node.workers[worker].running.retain(|running| *running != lane);
        let room = node.store.reserve(lane, bytes);
        self.trace.note(self.now, format_args!("{worker} runs lane {} {room:?}", lane.0));
        let kernel = &mut node.kernels[worker];
        let actions = kernel.step(Event::Run { lane, room }, now);
        let audit = kernel.audit();
        if !audit.balances() {
            self.fail(&format!("the balance of P1 is broken in a run: {audit:?}"));
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
            self.carry_out(worker, action, reserved);
        }
        if room.is_err() {
            self.plan_maintenance(2_000);
            self.plan_runs(worker, 20_000);
        } else {
            self.plan_runs(worker, 0);
        }
    }

    fn carry_out(&mut self, worker: usize, action: Action, reserved: Option<u64>) {
        // A fatal load in the midst of an event's actions ends the node, and what it still had to do.
        if self.node.is_none() {
            return;
        }
        match action {
            Action::Commit(submission) => self.submit(worker, submission, reserved),
            Action::Put(output) => {
                if let Output::Reply(to, Outcome::Done(_)) = &output
                    && self.is_durable_request(*to)
                {
                    self.fail("a request was answered before its batch was durable");
                }
                self.let_out(output);
            }
            Action::Hand(arrivals) => {
                for arrival in &arrivals {
                    self.hand(arrival);
                }
            }
            Action::LoadShard { shard, part, resets } => {
                let pause = self.random.below(self.load_pause);
                self.plan(pause, Due::LoadShard { life: self.life, worker, shard, part, resets });
            }
            Action::LoadOutbox(ticket) => {
                let pause = self.random.below(self.load_pause);
                self.plan(pause, Due::LoadOutbox { life: self.life, worker, ticket });
            }
            Action::LoadImages(tickets) => {
                let pause = self.random.below(self.load_pause);
                self.plan(pause, Due::LoadImages { life: self.life, worker, tickets });
            }
            Action::Left(shard) => {
                for other in (0..self.workers).filter(|other| *other != worker) {
                    let event = Event::InNode { shard, is: false };
                    self.plan(0, Due::Worker { life: self.life, worker: other, event });
                }
            }
            Action::WantLoadable => self.plan_maintenance(1_000),
            Action::Stop(error) => self.fail(&format!("a shard's rows cannot be read: {error}")),
        }
    }

    fn submit(&mut self, worker: usize, submission: Submission, reserved: Option<u64>) {
        self.trace.note(
            self.now,
            format_args!(
                "{worker} submits {} of lane {} voided {}: {:?}",
                submission.number, submission.lane.0, submission.voids, submission.outputs
            ),
        );
        self.trace.bytes(submission.batch.bytes());
        let used = submission.batch.bytes().len() as u64;
        if !submission.batch.is_empty() && reserved.is_none() {
            self.fail("rows were submitted without reserved room");
        }
        if reserved.is_some_and(|reserved| reserved < used) {
            self.fail("a batch is larger than the room reserved for it");
        }
        let lane_id = submission.lane;
        let node = self.node.as_mut().expect("a kernel has a node");
        let reserved = reserved.map(|reserved| {
            node.store.shrink(lane_id, reserved, used);
            used
        });
        let lane = &mut node.lanes[lane_id.0 as usize];
        let queued = Queued { worker, reserved, submission };
        if queued.submission.voids < lane.voids {
            self.void(lane_id, vec![queued]);
            return;
        }
        lane.queue.push_back(queued);
        if lane.group.is_none() && lane.queue.len() == 1 {
            self.plan_commit(lane_id);
        }
    }

    fn plan_commit(&mut self, lane: LaneId) {
        let pause = self.random.between(1, self.commit_pause());
        self.plan(pause, Due::Commit { life: self.life, lane });
    }

    fn commit_pause(&self) -> u64 {
        if self.now < self.slow_until { self.commit_pause * 50 } else { self.commit_pause }
    }

    /// Commits a group: its effect is in the store from here on, told to nobody yet.
    pub(super) fn commit(&mut self, id: LaneId) {
        let life = self.life;
        let node = self.node.as_mut().expect("checked by the caller");
        let lane = &mut node.lanes[id.0 as usize];
        if lane.group.is_none() {
            if lane.queue.is_empty() {
                return;
            }
            let len = self.random.between(1, lane.queue.len() as u64) as usize;
            let members: Vec<Queued> = lane.queue.drain(..len).collect();
            let batches = members
                .iter()
                .filter(|queued| !queued.submission.batch.is_empty())
                .map(|queued| queued.submission.batch.clone())
                .collect();
            lane.group = Some(Group { members, batches, result: None });
        }
        let group = lane.group.as_mut().expect("just made");
        let result =
            if group.batches.is_empty() { Ok(lane.committed) } else { lane.writer.commit(&group.batches) };
        self.trace.note(self.now, format_args!("lane {} commits {}: {result:?}", id.0, group.members.len()));
        group.result = Some(result);
        let pause = self.random.between(1, self.commit_pause());
        self.plan(pause, Due::Committed { life, lane: id });
    }

    /// The outcome of a commit is known.
    pub(super) fn committed(&mut self, id: LaneId) {
        let node = self.node.as_mut().expect("checked by the caller");
        let lane = &mut node.lanes[id.0 as usize];
        let group = lane.group.as_mut().expect("its commit was begun");
        match group.result.take().expect("its commit was begun") {
            Ok(position) => {
                let group = lane.group.take().expect("just seen");
                lane.committed = lane.committed.max(position);
                self.durable(id, group.members);
            }
            Err(CommitError::Unknown(_)) => {
                self.seen.commits_unknown += 1;
                let pause = self.random.between(1_000, 50_000);
                self.plan(pause, Due::Commit { life: self.life, lane: id });
                return;
            }
            Err(CommitError::Fatal(_)) => {
                self.seen.commits_fatal += 1;
                self.kill(self.crash_cuts_power);
                return;
            }
            Err(error) => {
                match error {
                    CommitError::Fenced(_) => self.seen.commits_fenced += 1,
                    _ => self.seen.commits_failed += 1,
                }
                if self.is_embedded() {
                    // There is no other place for its shards: it starts anew (P13).
                    self.kill(false);
                    return;
                }
                self.void_lane(id);
            }
        }
        let lane = &self.node.as_ref().expect("still there").lanes[id.0 as usize];
        if !lane.queue.is_empty() {
            self.plan_commit(id);
        }
    }

    fn durable(&mut self, id: LaneId, members: Vec<Queued>) {
        let node = self.node.as_mut().expect("called with a node");
        let mut through = BTreeMap::new();
        for queued in &members {
            through.insert(queued.worker, queued.submission.number);
            if let Some(reserved) = queued.reserved {
                node.store.release(id, reserved);
            }
        }
        let lane = &mut node.lanes[id.0 as usize];
        lane.unloadable.push_back((lane.committed, through.clone()));
        for queued in members {
            for output in queued.submission.outputs {
                self.let_out(output);
            }
        }
        for (worker, through) in through {
            self.tell(worker, Event::Durable { lane: id, through });
        }
        self.tell_loadable();
    }

    /// Tells workers what loads find by now.
    fn tell_loadable(&mut self) {
        let mut news = Vec::new();
        let Some(node) = self.node.as_mut() else { return };
        for (at, lane) in node.lanes.iter_mut().enumerate() {
            let id = LaneId(at as u32);
            let loadable = node.store.loadable(id);
            let mut through = BTreeMap::new();
            while lane.unloadable.front().is_some_and(|(position, _)| *position <= loadable) {
                through.extend(lane.unloadable.pop_front().expect("just seen").1);
            }
            news.extend(through.into_iter().map(|(worker, through)| (worker, id, through)));
        }
        for (worker, lane, through) in news {
            self.tell(worker, Event::Loadable { lane, through });
        }
    }

    /// What lanes tell a worker arrives in the order in which it was told.
    fn tell(&mut self, worker: usize, event: Event) {
        let pause = self.random.below(self.run_pause);
        let node = self.node.as_mut().expect("called with a node");
        let due = node.workers[worker].told_until.max(self.now + pause);
        node.workers[worker].told_until = due;
        self.schedule.push(due, Due::Worker { life: self.life, worker, event });
    }

    /// The lane's group and everything behind it will never be durable.
    pub(super) fn void_lane(&mut self, id: LaneId) {
        let node = self.node.as_mut().expect("called with a node");
        let lane = &mut node.lanes[id.0 as usize];
        lane.voids += 1;
        let voids = lane.voids;
        let members = lane.group.take().into_iter().flat_map(|group| group.members);
        let members: Vec<Queued> = members.chain(lane.queue.drain(..)).collect();
        self.trace.note(self.now, format_args!("lane {} void, {} batches", id.0, members.len()));
        self.void(id, members);
        for worker in 0..self.workers {
            self.tell(worker, Event::Voided { lane: id, voids });
        }
    }

    fn void(&mut self, id: LaneId, members: Vec<Queued>) {
        for queued in members {
            self.seen.batches_voided += 1;
            let node = self.node.as_ref().expect("called with a node");
            if let Some(reserved) = queued.reserved {
                node.store.release(id, reserved);
            }
            for output in queued.submission.outputs.into_iter().filter_map(Output::into_void) {
                self.let_out(output);
            }
        }
    }

    fn let_out(&mut self, output: Output) {
        let pause = self.random.below(self.transit_pause);
        let is_lost = !matches!(output, Output::Hand(_)) && self.random.chance(self.transit_faults());
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
                let worker = self.worker_of(receipt.source);
                let event = Event::Receipts(vec![receipt]);
                self.plan(pause, Due::Worker { life: self.life, worker, event });
            }
            Output::FeedReceipt(receipt) => self.plan(pause, Due::FeedReceipt(receipt)),
            Output::Hand(arrival) => self.hand(&arrival),
            Output::HandOff(shard, _) => self.fail(&format!("nobody hands off {shard}")),
        }
    }

    fn transit_faults(&self) -> u64 {
        if self.healed { 0 } else { self.faults.transit }
    }

    /// From worker to worker inside the node.
    fn hand(&mut self, arrival: &Arrival) {
        let worker = self.worker_of(arrival.shard);
        let is_stream = matches!(arrival.from, crate::kernel::Provenance::Stream { .. });
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
            self.plan(pause, Due::Worker { life: self.life, worker, event });
        }
    }

    pub(super) fn load_shard(&mut self, worker: usize, shard: ShardId, part: OutboxPart, resets: u64) {
        let node = self.node.as_mut().expect("checked by the caller");
        let store = Arc::clone(&node.store);
        let id = store.lane_of(shard);
        // Nothing is loaded before all that was committed can be found (P12). After a void that may be more than was
        // told: a group of unknown outcome was written, and then its repeat was fenced.
        let is_behind = store.loadable(id) < node.lanes[id.0 as usize].committed;
        if (is_behind || 0 < resets) && store.maintain().is_err() {
            self.kill(self.crash_cuts_power);
            return;
        }
        self.tell_loadable();
        let loaded = store.owned().and_then(|owned| {
            let owned = owned.into_iter().find(|owned| owned.shard == shard);
            let owned = owned.ok_or(LoadError::NotOwned(shard))?;
            Ok((owned, load::shard(&*store, shard, owned.epoch, part)?))
        });
        match loaded {
            Ok((owned, rows)) => {
                let pause = self.random.below(self.load_pause);
                let event = Event::ShardLoaded { resets, owned, rows };
                self.plan(pause, Due::Worker { life: self.life, worker, event });
            }
            Err(_) => self.kill(self.crash_cuts_power),
        }
    }

    pub(super) fn load_outbox(&mut self, worker: usize, ticket: OutboxTicket) {
        let node = self.node.as_mut().expect("checked by the caller");
        match load::outbox(&*node.store, &ticket) {
            Ok(envelopes) => {
                self.seen.outboxes_reloaded += 1;
                let pause = self.random.below(self.load_pause);
                let event = Event::OutboxLoaded(ticket, envelopes);
                self.plan(pause, Due::Worker { life: self.life, worker, event });
            }
            Err(LoadError::NotOwned(shard)) => {
                // As with images. Whoever asked forgets the shard then, so nobody waits for this answer.
                let lane = node.store.lane_of(shard);
                if node.lanes[lane.0 as usize].is_idle() {
                    self.void_lane(lane);
                } else {
                    self.plan(5_000, Due::LoadOutbox { life: self.life, worker, ticket });
                }
            }
            Err(LoadError::Io(_)) => self.kill(self.crash_cuts_power),
        }
    }

    pub(super) fn load_images(&mut self, worker: usize, tickets: Vec<ImageTicket>) {
        let node = self.node.as_mut().expect("checked by the caller");
        let keys: Vec<_> = tickets.iter().map(|ticket| ticket.key.clone()).collect();
        match node.store.load_images(&keys) {
            Ok(images) => {
                self.seen.reloads += images.iter().flatten().count() as u64;
                let pause = self.random.below(self.load_pause);
                let event = Event::ImagesLoaded(tickets.into_iter().zip(images).collect());
                self.plan(pause, Due::Worker { life: self.life, worker, event });
            }
            Err(LoadError::NotOwned(shard)) => {
                // Its commits are fenced too. Where none is on its way, nothing else would tell the workers.
                let lane = node.store.lane_of(shard);
                if node.lanes[lane.0 as usize].is_idle() {
                    self.void_lane(lane);
                }
                self.retry_loads(worker, tickets);
            }
            Err(LoadError::Io(_)) => self.kill(self.crash_cuts_power),
        }
    }

    /// Asks again for images of shards whose epoch is still the asker's.
    fn retry_loads(&mut self, worker: usize, tickets: Vec<ImageTicket>) {
        let node = self.node.as_ref().expect("checked by the caller");
        let Ok(owned) = node.store.owned() else { return };
        let (current, stale): (Vec<_>, Vec<_>) = tickets.into_iter().partition(|ticket| {
            owned.iter().any(|owned| (owned.shard, owned.epoch) == (ticket.key.shard, ticket.key.epoch))
        });
        let lanes: Vec<LaneId> = stale.iter().map(|ticket| node.store.lane_of(ticket.key.shard)).collect();
        let is_busy = lanes.iter().any(|lane| !node.lanes[lane.0 as usize].is_idle());
        if !current.is_empty() {
            self.plan(1_000, Due::LoadImages { life: self.life, worker, tickets: current });
        }
        if is_busy {
            // What is on its way there will be fenced, or was done before; look again then.
            self.plan(5_000, Due::LoadImages { life: self.life, worker, tickets: stale });
        }
    }

    fn plan_maintenance(&mut self, pause: u64) {
        let Some(node) = self.node.as_mut() else { return };
        if !std::mem::replace(&mut node.maintaining, true) {
            self.plan(pause, Due::Maintain { life: self.life });
        }
    }

    pub(super) fn maintain(&mut self) {
        let life = self.life;
        let node = self.node.as_mut().expect("checked by the caller");
        node.maintaining = false;
        let result = node.store.maintain();
        self.trace.note(self.now, format_args!("maintain: {result:?}"));
        self.seen.maintenances += 1;
        if result.is_err() {
            self.kill(self.crash_cuts_power);
            return;
        }
        self.tell_loadable();
        let pause = self.random.between(1, 2 * self.maintain_every);
        self.plan(pause, Due::Maintain { life });
    }
}
