//! The actix ring around a kernel: events in, actions out, one worker per core.
//!
//! The actors run in a system of their own on threads of their own, so that a runtime works from any tokio program and
//! nobody needs a special main. An actor message is only a wake; the work lies in the worker's intake. An actor whose
//! mailbox is never empty starves its arbiter, so a worker yields after each batch and takes its ticks from the clock it
//! passes to the kernel.

use crate::{
    kernel::{Action, Event, Kernel, NextTurn},
    node::{self, Intake, Patience, Shared},
    store::{LaneId, OwnedShard},
    timestamp::Timestamp,
};
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, WrapFuture};
use actix_rt::{Arbiter, System};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::oneshot;

/// Resolution of reminders, retries and time-outs.
const TICK: Duration = Duration::from_millis(20);

/// There may be something in the intake.
struct Wake;

impl Message for Wake {
    type Result = ();
}

/// Wakes a worker from any thread.
pub(crate) struct Waker(Addr<Worker>);

impl Waker {
    pub(crate) fn wake(&self) {
        self.0.do_send(Wake);
    }
}

/// What a worker is made of, on its own thread.
pub(crate) struct WorkerSeat {
    pub(crate) shared: Arc<Shared>,
    pub(crate) worker: usize,
    /// What the store owns at the start, with other workers' shards.
    pub(crate) owned: Arc<[OwnedShard]>,
    pub(crate) seed: u64,
}

/// The system and arbiters that carry the workers. Dropping it stops them and waits for their threads.
pub(crate) struct Host {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts one arbiter per seat.
    pub(crate) async fn start(seats: Vec<WorkerSeat>) -> io::Result<Self> {
        let (ready_tx, ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("entity-system".into()).spawn(move || {
            System::new().block_on(async move {
                let mut arbiters = Vec::new();
                let mut workers = Vec::new();
                for seat in seats {
                    let arbiter = Arbiter::new();
                    workers.push(Worker::start_in_arbiter(&arbiter.handle(), move |_| Worker::new(seat)));
                    arbiters.push(arbiter);
                }
                if ready_tx.send(()).is_err() {
                    return;
                }
                // An error means that the host was dropped: stop all the same.
                let _ = stopped.await;
                for arbiter in &arbiters {
                    arbiter.stop();
                }
                for arbiter in arbiters {
                    let _ = arbiter.join();
                }
                drop(workers);
            });
        })?;
        ready.await.map_err(io::Error::other)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[expect(clippy::struct_field_names, reason = "`worker` is its number, as everywhere in the ring")]
struct Worker {
    shared: Arc<Shared>,
    intake: Arc<Intake>,
    worker: usize,
    kernel: Kernel,
    lanes: Vec<LaneId>,
    events: Vec<Event>,
    patience: Patience,
    /// Last durable batch the kernel knows of, by lane.
    durable: Vec<u64>,
    ticked_at: Timestamp,
    ticks: u64,
    /// The store had no room for the last run of some lane.
    without_room: bool,
    /// The kernel knows that the node is stopping.
    draining: bool,
}

impl Worker {
    fn new(seat: WorkerSeat) -> Self {
        let kernel = node::kernel(&seat.shared, seat.worker, &seat.owned, seat.seed);
        let intake = Arc::clone(&seat.shared.intakes[seat.worker]);
        Self {
            lanes: kernel.lanes(),
            intake,
            worker: seat.worker,
            kernel,
            events: Vec::new(),
            patience: Patience::default(),
            durable: vec![0; seat.shared.lanes.len()],
            ticked_at: Timestamp::EPOCH,
            ticks: 0,
            without_room: false,
            draining: false,
            shared: seat.shared,
        }
    }

    /// Steps everything queued and at most one batch per lane. Returns whether there is more to do at once.
    fn step(&mut self) -> bool {
        let now = self.shared.clock.now();
        let mut events = std::mem::take(&mut self.events);
        self.intake.take(&mut events);
        // Before the events: a void among them takes away everything that is not known to be durable, and the writer has
        // told of what is before it pushed the void.
        self.progress(now);
        let mut taken = 0;
        for event in events.drain(..) {
            taken += node::weight(&event);
            self.event(event, now);
        }
        self.events = events;
        if now < self.kernel.time() {
            // Before anyone is served: a client that issued ids by the clock as it was would be refused as expired.
            self.shared.clock.raise(self.kernel.time());
        }
        if self.shared.stopping.load(Ordering::Relaxed) && !std::mem::replace(&mut self.draining, true) {
            self.event(Event::Drain, now);
        }
        self.kernel.recycle(&mut self.shared.spare_buffers());
        let mut more = false;
        self.without_room = false;
        for at in 0..self.lanes.len() {
            let lane = self.lanes[at];
            if self.kernel.has_work(lane) {
                let has_room = self.run(lane, now);
                self.without_room |= !has_room;
                // Without room the work stays, and is looked at again with the next tick: room comes from elsewhere.
                more |= has_room && self.kernel.has_work(lane);
            }
        }
        self.intake.taken(taken, self.kernel.intake_bytes());
        if self.ticked_at + TICK <= now {
            self.ticked_at = now;
            self.event(Event::Tick, now);
            self.tell();
        }
        more
    }

    fn event(&mut self, event: Event, now: Timestamp) {
        let actions = self.kernel.step(event, now);
        self.perform(actions, None);
    }

    /// What has become durable or loadable since.
    fn progress(&mut self, now: Timestamp) {
        let intake = Arc::clone(&self.intake);
        for at in 0..self.lanes.len() {
            let lane = self.lanes[at];
            let progress = &intake.progress[lane.0 as usize];
            debug_assert_eq!(progress.lane, lane, "progress is kept by lane number");
            let loadable = progress.loadable(self.shared.store.loadable(lane));
            let through = progress.durable();
            self.durable[lane.0 as usize] = through;
            self.event(Event::Durable { lane, through }, now);
            if let Some(through) = loadable {
                self.event(Event::Loadable { lane, through }, now);
            }
        }
    }

    /// Runs one batch of a lane. Returns whether the store had room for it.
    fn run(&mut self, lane: LaneId, now: Timestamp) -> bool {
        let reserved = self.shared.limits.batch_len_max() as u64;
        let room = self.shared.store.reserve(lane, reserved);
        if room.is_ok() {
            self.run_carefully(lane, now);
        }
        let actions = self.kernel.step(Event::Run { lane, room }, now);
        let submits = actions.iter().any(|action| matches!(action, Action::Commit(_)));
        self.perform(actions, (room.is_ok() && submits).then_some(reserved));
        if room.is_ok() && !submits {
            self.shared.store.release(lane, reserved);
        }
        if !self.kernel.has_work(lane) {
            // What is left may wait for batches to become durable; the writer wakes the worker then. Where it was faster
            // than this word, nobody does: look again.
            let progress = &self.intake.progress[lane.0 as usize];
            if progress.block() != self.durable[lane.0 as usize] {
                self.intake.wake();
            }
        }
        room.is_ok()
    }

    /// After an unclean exit, here or of the node that a shard was taken from: what was pending runs one turn at a time, written down
    /// before (P3). The rows of these turns go into the batch that the run behind them closes.
    fn run_carefully(&mut self, lane: LaneId, now: Timestamp) {
        let shared = Arc::clone(&self.shared);
        while let Some(next) = self.kernel.next_turn(lane) {
            let (running, condemned) = match (next, &shared.suspects) {
                (NextTurn::Message { shard, digest }, Some(suspects)) => {
                    match suspects.begin(shard, digest) {
                        Ok(running) => (Some(running), None),
                        Err(why) => (None, Some(why)),
                    }
                }
                // Where nothing is written down, nobody is found out.
                (NextTurn::Message { .. }, None) | (NextTurn::Harmless, _) => (None, None),
            };
            let actions = self.kernel.step(Event::Turn { lane, condemned }, now);
            drop(running);
            self.perform(actions, None);
        }
    }

    fn perform(&mut self, actions: Vec<Action>, mut reserved: Option<u64>) {
        let shared = Arc::clone(&self.shared);
        for action in actions {
            match action {
                Action::Commit(submission) => {
                    let lane = submission.lane.0 as usize;
                    let reserved = reserved.take().map(|reserved| {
                        // What was set aside was for the largest batch there can be.
                        let used = submission.batch.bytes().len() as u64;
                        shared.store.shrink(submission.lane, reserved, used);
                        used
                    });
                    shared.lanes[lane].push(node::Submitted { worker: self.worker, submission, reserved });
                }
                Action::Put(output) => shared.put([output]),
                Action::Hand(arrivals) => shared.hand_near(arrivals),
                Action::LoadShard { shard, part, resets } => {
                    shared.loader.shard(self.worker, shard, part, resets);
                }
                Action::LoadOutbox(ticket) => shared.loader.outbox(self.worker, ticket),
                Action::LoadImages(tickets) => shared.loader.images(self.worker, tickets),
                Action::Left(left) => {
                    let others = shared.intakes.iter().enumerate().filter(|(other, _)| *other != self.worker);
                    others.for_each(|(_, intake)| intake.push(Event::InNode { shard: left, is: false }));
                    if let Some(cluster) = shared.cluster.get() {
                        cluster.left(left);
                    }
                }
                Action::Stale(lane) => shared.lanes[lane.0 as usize].stale(),
                Action::WantLoadable => shared.want_loadable.store(true, Ordering::Release),
                Action::Stop(error) => shared.fail(error.to_string()),
            }
        }
    }

    fn tell(&mut self) {
        self.ticks += 1;
        let quiet = self.kernel.is_quiet();
        // What cannot run for lack of room would keep a node from ever stopping. It was accepted in memory only.
        let stuck = self.without_room && self.kernel.is_durable();
        let counters = self.kernel.counters();
        self.intake.tell(node::Stats {
            counters,
            activations: self.kernel.activations(),
            serving: self.kernel.is_serving(),
            quiet,
            drained: quiet || stuck || self.kernel.is_drained(),
            ticks: self.ticks,
            failed: false,
        });
    }
}

impl Actor for Worker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.intake.attend(Waker(ctx.address()));
        ctx.run_interval(TICK, Worker::go_on);
    }
}

impl Worker {
    fn go_on(&mut self, ctx: &mut Context<Self>) {
        self.patience.woken();
        if self.step() || self.patience.look(|| self.intake.has_news()) {
            // The intake's own flag, so that at most one wake is ever queued.
            self.intake.wake();
        }
        // The only yield actix knows; without it the arbiter's timers and neighbours starve.
        ctx.wait(tokio::task::yield_now().into_actor(self));
    }
}

impl Handler<Wake> for Worker {
    type Result = ();

    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        self.go_on(ctx);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // An actor that panicked is gone without a word (its executor has caught the panic): whoever waits must hear.
        if !self.shared.ended.load(Ordering::SeqCst) {
            self.shared.fail(format!("worker {} panicked; this is a bug of the runtime", self.worker));
        }
    }
}
