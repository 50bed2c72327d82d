//! One process: workers, lanes, loaders and maintainer around one store.
//!
//! ```text
//!   client, feed ──Event──► Intake ──► Worker (arbiter, one per core) ──Submission──► LaneQueue ──► writer thread
//!        ▲                    ▲           │  LoadShard, LoadImages                                     │
//!        │                    └───────────┼──────────── loader thread ◄──┘                             │
//!        └──────── Port ◄─────────────────┴──────── outputs, when their batch is durable ◄─────────────┘
//! ```
//!
//! Work lies in intakes and queues of our own, bounded by admission at the client; an actix message is only a wake.

mod admission;
mod intake;
mod lane;
mod links;
mod loader;
mod maintainer;
mod outbound;
mod patience;
mod ports;
mod questions;
mod remote;
mod slots;
mod suspects;
mod watchdog;

pub(crate) use admission::Admitted;
pub(crate) use intake::{Intake, Stats, weight};
pub(crate) use lane::{LaneProgress, LaneQueue, Submitted};
pub(crate) use links::{Links, Place};
pub(crate) use loader::Loader;
pub(crate) use outbound::{NotSent, Outbound};
pub(crate) use patience::Patience;
pub(crate) use ports::{Port, Ports};
pub(crate) use remote::{Remote, Violation};
pub(crate) use slots::Slots;
pub(crate) use suspects::Suspects;

use crate::{
    clock::{Clock, random_u128},
    cluster::{Cluster, Door, ToCoordinator},
    kernel::{Arrival, Counters, Event, Kernel, Output, Receipt, Seat, TurnGauge},
    kinds::Kinds,
    limits::Limits,
    placement::{ShardId, Shards},
    store::{Batch, LaneId, LoadError, OwnedShard, Store},
    worker::{Host, WorkerSeat},
};
use std::{
    io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// How long a node that stops waits for the servers of a shared store to take what it has in memory.
const SHARED_DRAIN_MAX: Duration = Duration::from_secs(10);

/// What clients hold on to. The store is not part of it: a client that outlives its runtime must not keep the data
/// directory locked.
pub(crate) struct Front {
    pub(crate) limits: Limits,
    pub(crate) layout: Shards,
    pub(crate) clock: Clock,
    pub(crate) intakes: Vec<Arc<Intake>>,
    pub(crate) ports: Ports,
    /// Where the shards are.
    pub(crate) links: Links,
    /// How far the node's log is durable. Here and not asked of the store, which outlives nobody's connection.
    pub(crate) durable: Arc<AtomicU64>,
    /// Held while an operator drops a feed.
    pub(crate) dropping_feed: tokio::sync::Mutex<()>,
    /// No new messages are taken.
    pub(crate) stopping: AtomicBool,
    /// Why the node failed, once it has.
    failure: Mutex<Option<String>>,
    /// Buffers of batches that are durable.
    spare: Mutex<Vec<Vec<u8>>>,
}

/// What every part of a node holds on to.
pub(crate) struct Shared {
    pub(crate) front: Arc<Front>,
    pub(crate) kinds: Arc<Kinds>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) lanes: Vec<Arc<LaneQueue>>,
    /// What each worker runs now.
    pub(crate) gauges: Vec<Arc<TurnGauge>>,
    /// After an unclean exit: the messages that may have caused it.
    pub(crate) suspects: Option<Suspects>,
    pub(crate) loader: Loader,
    /// The coordinator of the cluster, once there is one.
    pub(crate) cluster: OnceLock<ToCoordinator>,
    /// The threads may end.
    pub(crate) ended: AtomicBool,
    /// The store should make what is committed loadable soon.
    pub(crate) want_loadable: AtomicBool,
}

impl std::ops::Deref for Shared {
    type Target = Front;

    fn deref(&self) -> &Front {
        &self.front
    }
}

impl Front {
    pub(crate) fn new(limits: Limits, links: Links, layout: Shards, intakes: Vec<Arc<Intake>>) -> Self {
        Self {
            limits,
            layout,
            clock: Clock::start(),
            intakes,
            ports: Ports::default(),
            links,
            durable: Arc::default(),
            dropping_feed: tokio::sync::Mutex::default(),
            stopping: AtomicBool::new(false),
            failure: Mutex::new(None),
            spare: Mutex::default(),
        }
    }

    /// The worker that hosts a shard.
    pub(crate) fn worker_of(&self, shard: ShardId) -> usize {
        shard.0 as usize % self.intakes.len()
    }

    /// Hands durable messages to the shards they are for, wherever these are.
    pub(crate) fn hand(&self, mut arrivals: Vec<Arrival>) {
        if !self.links.is_alone() {
            let far = arrivals.extract_if(.., |arrival| !self.links.is_here(arrival.shard));
            self.links.send(far);
        }
        if !arrivals.is_empty() {
            self.hand_near(arrivals);
        }
    }

    /// Hands messages to the workers of their shards, one push per worker. They may not be durable yet, and never leave the
    /// process: a worker that does not host the shard any more drops them (P13).
    pub(crate) fn hand_near(&self, arrivals: Vec<Arrival>) {
        if self.intakes.len() == 1 {
            self.intakes[0].push(Event::Arrived(arrivals));
            return;
        }
        let mut per_worker: Vec<Vec<Arrival>> = self.intakes.iter().map(|_| Vec::new()).collect();
        for arrival in arrivals {
            per_worker[self.worker_of(arrival.shard)].push(arrival);
        }
        for (intake, arrivals) in self.intakes.iter().zip(per_worker) {
            if !arrivals.is_empty() {
                intake.push(Event::Arrived(arrivals));
            }
        }
    }

    /// Why the node failed, if it has.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    /// Lets outputs out, in order, in one push per receiver.
    pub(crate) fn put(&self, outputs: impl IntoIterator<Item = Output>) {
        let mut replies = Vec::new();
        let mut receipts: Vec<Vec<Receipt>> = self.intakes.iter().map(|_| Vec::new()).collect();
        let mut arrivals = Vec::new();
        let mut fed = Vec::new();
        let mut far = Vec::new();
        for output in outputs {
            match output {
                Output::Reply(to, outcome) => replies.push((to, outcome)),
                Output::FeedReceipt(receipt) => fed.push(receipt),
                Output::Receipt(receipt) if self.links.is_here(receipt.source) => {
                    receipts[self.worker_of(receipt.source)].push(receipt);
                }
                Output::Receipt(receipt) => far.push(receipt),
                Output::Opening(opening) if self.links.is_here(opening.to()) => {
                    self.intakes[self.worker_of(opening.to())].push(Event::Openings(vec![opening]));
                }
                Output::Opening(opening) => self.links.opening(opening),
                Output::Hand(arrival) => arrivals.push(arrival),
                Output::HandOff(shard, news) => {
                    self.cluster.get().expect("only a cluster orders hand-offs").news(shard, news);
                }
            }
        }
        if !replies.is_empty() {
            self.ports.reply(replies);
        }
        if !fed.is_empty() {
            self.ports.feed(fed);
        }
        for (intake, receipts) in self.intakes.iter().zip(receipts) {
            if !receipts.is_empty() {
                intake.push(Event::Receipts(receipts));
            }
        }
        if !arrivals.is_empty() {
            self.hand(arrivals);
        }
        if !far.is_empty() {
            self.links.receipts(far);
        }
    }

    /// Keeps the buffers of durable batches for the next ones.
    pub(crate) fn keep_buffers(&self, batches: impl Iterator<Item = Batch>) {
        /// More are not on their way at a time, and larger ones are rare.
        const COUNT_MAX: usize = 16;
        const BYTES_MAX: usize = 4 << 20;
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.extend(batches.map(Batch::into_buffer).filter(|buffer| buffer.capacity() <= BYTES_MAX));
        spare.truncate(COUNT_MAX);
    }

    /// Takes a kept buffer.
    pub(crate) fn spare_buffers(&self) -> Vec<Vec<u8>> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let from = spare.len().saturating_sub(2);
        spare.split_off(from)
    }

    /// The node cannot go on: the store has failed. Everyone who waits is told that the outcome is unknown.
    pub(crate) fn fail(&self, why: impl Into<String>) {
        let why = why.into();
        tracing::error!(why, "the node has failed and takes no more messages");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.clone());
        self.stopping.store(true, Ordering::SeqCst);
        self.ports.fail(&why);
        self.intakes.iter().for_each(|intake| intake.fail());
        if let Some(cluster) = self.cluster.get() {
            cluster.fail(why);
        }
    }
}

/// A running node. Dropping it stops it without draining; what was acknowledged is durable all the same.
pub(crate) struct Node {
    pub(crate) shared: Arc<Shared>,
    host: Option<Host>,
    threads: Vec<JoinHandle<()>>,
    cluster: Option<Cluster>,
}

impl Node {
    /// Starts the threads and loads the shards. Returns when every shard serves.
    pub(crate) async fn start(
        kinds: Arc<Kinds>,
        limits: Limits,
        store: Arc<dyn Store>,
        suspects: Option<Suspects>,
        workers: usize,
        is_alone: bool,
    ) -> io::Result<Self> {
        let layout = store.shards();
        let workers = workers.clamp(1, layout.count() as usize);
        let intakes: Vec<Arc<Intake>> = (0..workers).map(|_| Arc::new(Intake::new(store.lanes()))).collect();
        let lanes: Vec<Arc<LaneQueue>> =
            (0..store.lanes()).map(|lane| Arc::new(LaneQueue::new(LaneId(lane)))).collect();
        let owned: Arc<[OwnedShard]> = store.owned().map_err(io::Error::other)?.into();
        let links = if is_alone {
            Links::alone(layout)
        } else {
            Links::node(layout, owned.iter().map(|owned| owned.shard))
        };
        let front = Arc::new(Front::new(limits, links, layout, intakes));
        front.durable.store(store.identity().durable.0, Ordering::Release);
        let loader = Loader::new(&*store);
        let shared = Arc::new(Shared {
            front,
            kinds,
            store,
            lanes,
            suspects,
            gauges: (0..workers).map(|_| Arc::default()).collect(),
            loader,
            cluster: OnceLock::new(),
            ended: AtomicBool::new(false),
            want_loadable: AtomicBool::new(false),
        });
        // From here on whatever goes wrong ends the threads there are: the node is dropped.
        let mut node = Self { shared: Arc::clone(&shared), host: None, threads: Vec::new(), cluster: None };
        for server in 0..shared.loader.servers() {
            node.threads.push(loader::spawn(&shared, server)?);
        }
        node.threads.push(maintainer::spawn(&shared)?);
        node.threads.push(watchdog::spawn(&shared)?);
        for lane in 0..shared.lanes.len() {
            node.threads.push(lane::spawn(&shared, lane)?);
        }
        let seed = random_u128() as u64;
        let seats = (0..workers).map(|worker| {
            let (shared, owned) = (Arc::clone(&shared), Arc::clone(&owned));
            WorkerSeat { shared, worker, owned, seed: seed.wrapping_add(worker as u64) }
        });
        node.host = Some(Host::start(seats.collect()).await?);
        node.serving().await?;
        Ok(node)
    }

    /// Lets other nodes and clients in.
    pub(crate) fn join(&mut self, door: Door) -> io::Result<()> {
        let (cluster, threads) = door.serve(&self.shared)?;
        self.threads.extend(threads);
        self.cluster = Some(cluster);
        Ok(())
    }

    /// Waits until every shard has an owner that lives, but no longer than this, and those of this node serve.
    pub(crate) async fn settled(&self, within: Duration) -> io::Result<()> {
        if let Some(cluster) = &self.cluster {
            cluster.settled(within).await;
        }
        self.serving().await
    }

    /// The cluster side, where there is one.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Waits until every shard serves, or the node has failed.
    async fn serving(&self) -> io::Result<()> {
        for intake in &self.shared.intakes {
            intake.serving().await;
        }
        match self.shared.failure() {
            Some(why) => Err(io::Error::other(why)),
            None => Ok(()),
        }
    }

    /// Waits until no message is on its way in this node.
    pub(crate) async fn quiesce(&self) {
        loop {
            // A message handed from one worker to another is in neither for a moment: all must be quiet twice in a row.
            if self.all_quiet().await && self.all_quiet().await || self.shared.failure().is_some() {
                return;
            }
            self.shared.intakes[0].next_tick().await;
        }
    }

    async fn all_quiet(&self) -> bool {
        for intake in &self.shared.intakes {
            if !intake.is_quiet().await {
                return false;
            }
        }
        true
    }

    /// The counters of all workers, as of their last step.
    pub(crate) fn counters(&self) -> Counters {
        self.shared.intakes.iter().fold(Counters::default(), |sum, intake| sum.plus(intake.stats().counters))
    }

    /// Takes no more messages, finishes what is in memory, and stops the threads.
    pub(crate) async fn stop(mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if self.shared.failure().is_none() {
            self.drained().await;
        }
        if let Some(cluster) = self.cluster.take() {
            cluster.stop().await;
        }
        self.end();
        let (host, threads) = (self.host.take(), std::mem::take(&mut self.threads));
        // Joining blocks; nobody's executor should.
        let joined = tokio::task::spawn_blocking(move || {
            drop(host);
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the node panicked");
                }
            }
        });
        let _ = joined.await;
        self.shared.ports.fail("the runtime has stopped");
        self.shared.ports.clear();
    }

    /// Waits until nothing is in memory that is not durable. Of servers that several nodes share one may be away: it is not waited for,
    /// for the lease there runs out, and those of the others must not wait for it.
    async fn drained(&self) {
        let drained = async {
            for intake in &self.shared.intakes {
                intake.drained().await;
            }
        };
        let is_too_long = async {
            let until = self.shared.clock.now() + SHARED_DRAIN_MAX;
            while self.shared.store.shared().is_none() || self.shared.clock.now() < until {
                self.shared.intakes[0].next_tick().await;
            }
        };
        tokio::select! {
            () = drained => {}
            () = is_too_long => tracing::warn!(
                "a server of the store does not take what is in memory: nobody was told that it is durable, and the node stops"
            ),
        }
    }

    fn end(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.ended.store(true, Ordering::SeqCst);
        for lane in &self.shared.lanes {
            lane.end();
        }
        self.shared.loader.end();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.cluster.take());
        self.end();
        drop(self.host.take());
        // Waited for, so that the data directory is free when the drop returns.
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
        self.shared.ports.fail("the runtime has stopped");
        self.shared.ports.clear();
    }
}

/// Starts a thread of the node. Should it panic, everyone who waits hears of it.
pub(crate) fn thread(
    shared: &Arc<Shared>,
    name: String,
    run: impl FnOnce(&Arc<Shared>) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    let named = name.clone();
    std::thread::Builder::new().name(name).spawn(move || {
        // What it shares is behind locks that are taken again after a panic; nothing is served from then on.
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&shared)));
        if ran.is_err() {
            shared.fail(format!("thread {named} panicked; this is a bug of the runtime"));
        }
    })
}

/// The kernel of one worker.
pub(crate) fn kernel(shared: &Shared, worker: usize, owned: &[OwnedShard], seed: u64) -> Kernel {
    let (kinds, limits) = (Arc::clone(&shared.kinds), shared.limits.clone());
    let lane_of = |shard| shared.store.lane_of(shard);
    let seat = Seat::new(shared.layout, lane_of, owned, |shard| shared.worker_of(shard) == worker);
    Kernel::new(kinds, limits, seat, seed, shared.clock.now())
        .watched_by(Arc::clone(&shared.gauges[worker]))
        .be_careful(if shared.suspects.is_some() { suspects::CAREFUL_TURNS } else { 0 })
}

/// The node stops because its store cannot be read.
pub(crate) fn unreadable(error: &LoadError) -> String {
    format!("the store cannot be read: {error}")
}
