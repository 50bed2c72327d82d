//! Reads on threads of their own: shards at the start, images of entities that are not in memory, long outboxes. One thread, or
//! one for each server where the store lies on several: one that does not answer holds up nothing of the others (P24).

use super::{Shared, unreadable};
use crate::{
    kernel::{Event, ImageTicket},
    load,
    placement::{Epoch, ShardId},
    shard::{OutboxPart, OutboxTicket},
    store::{ImageKey, LoadError, SharedStore, Store},
};
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How often a job is tried again for which the store has no room or no time: where it is full, each try writes until the disk is.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

enum Job {
    Shard { worker: usize, shard: ShardId, part: OutboxPart, resets: u64 },
    Outbox { worker: usize, ticket: OutboxTicket },
    Images { worker: usize, tickets: Vec<ImageTicket> },
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    /// What could not be done: shards whose rows are durable and cannot be found before there is room, and what a store cannot read
    /// now.
    waiting: Vec<Job>,
    /// When they are tried again.
    again_at: Option<Instant>,
    ended: bool,
}

/// The jobs of one loader thread. Bounded by what the kernels ask: one job per shard and per stream, one ticket per activation.
#[derive(Default)]
struct JobQueue {
    jobs: Mutex<Jobs>,
    filled: Condvar,
}

/// What is to be read, by the server that it lies on.
pub(crate) struct Loader {
    queues: Vec<JobQueue>,
    /// By shard number.
    server_of: Vec<u32>,
}

impl Loader {
    pub(crate) fn new(store: &dyn Store) -> Self {
        let shared = store.shared();
        let servers = shared.map_or(1, SharedStore::servers);
        let server_of = store.shards().iter().map(|shard| shared.map_or(0, |shared| shared.server_of(shard)));
        Self { queues: (0..servers).map(|_| JobQueue::default()).collect(), server_of: server_of.collect() }
    }

    /// How many threads it takes.
    pub(super) fn servers(&self) -> usize {
        self.queues.len()
    }

    pub(crate) fn shard(&self, worker: usize, shard: ShardId, part: OutboxPart, resets: u64) {
        self.of(shard).push(Job::Shard { worker, shard, part, resets });
    }

    pub(crate) fn outbox(&self, worker: usize, ticket: OutboxTicket) {
        self.of(ticket.source).push(Job::Outbox { worker, ticket });
    }

    pub(crate) fn images(&self, worker: usize, mut tickets: Vec<ImageTicket>) {
        while let Some(first) = tickets.first() {
            let server = self.server_of(first.key.shard);
            let others =
                tickets.extract_if(.., |ticket| self.server_of(ticket.key.shard) != server).collect();
            let here = std::mem::replace(&mut tickets, others);
            self.queues[server].push(Job::Images { worker, tickets: here });
        }
    }

    pub(crate) fn end(&self) {
        for queue in &self.queues {
            queue.jobs().ended = true;
            queue.filled.notify_one();
        }
    }

    fn server_of(&self, shard: ShardId) -> usize {
        self.server_of[shard.0 as usize] as usize
    }

    fn of(&self, shard: ShardId) -> &JobQueue {
        &self.queues[self.server_of(shard)]
    }
}

impl JobQueue {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) {
        self.jobs().queue.push_back(job);
        self.filled.notify_one();
    }

    fn take(&self) -> Option<Job> {
        let mut jobs = self.jobs();
        loop {
            if jobs.ended {
                return None;
            }
            let now = Instant::now();
            if jobs.again_at.is_some_and(|again_at| again_at <= now) {
                jobs.again_at = None;
                let waiting = std::mem::take(&mut jobs.waiting);
                jobs.queue.extend(waiting);
            }
            if let Some(job) = jobs.queue.pop_front() {
                return Some(job);
            }
            jobs = match jobs.again_at {
                None => self.filled.wait(jobs).unwrap_or_else(PoisonError::into_inner),
                Some(again_at) => {
                    let waited = self.filled.wait_timeout(jobs, again_at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Whether the store had no room or no time a moment ago.
    fn is_waiting(&self) -> bool {
        self.jobs().again_at.is_some()
    }

    /// Takes a job back until it may go.
    fn again(&self, job: Job) {
        let mut jobs = self.jobs();
        jobs.waiting.push(job);
        jobs.again_at.get_or_insert_with(|| Instant::now() + AGAIN_AFTER);
    }
}

/// Starts the loader of one server.
pub(super) fn spawn(shared: &Arc<Shared>, server: usize) -> io::Result<JoinHandle<()>> {
    let name = if server == 0 { "entity-loader".into() } else { format!("entity-loader-{server}") };
    super::thread(shared, name, move |shared| {
        let queue = &shared.loader.queues[server];
        while let Some(job) = queue.take() {
            match run(shared, queue, job) {
                Ok(()) => {}
                // Whoever asked works on memory of before. Its commits will be fenced too; where none is on its way, only
                // this tells it, and it asks again under the epoch it finds then (P12, P13).
                Err(Fault::Fenced(at)) => {
                    let lane = shared.store.lane_of(at);
                    tracing::warn!(shard = %at, lane = lane.0, "a load was fenced; its lane is void");
                    shared.lanes[lane.0 as usize].stale();
                }
                Err(Fault::Later(job, error)) => {
                    if !queue.is_waiting() {
                        tracing::warn!(server, %error, "the store cannot be read; it is tried again");
                    }
                    queue.again(job);
                }
                Err(Fault::Fatal(error)) => {
                    shared.fail(unreadable(&error));
                    return;
                }
            }
        }
    })
}

/// Why a job was not done.
enum Fault {
    /// The shard has another epoch than the one asked under, and was not handed off.
    Fenced(ShardId),
    /// The store cannot be read now: this is left to do.
    Later(Job, io::Error),
    /// The node cannot go on.
    Fatal(LoadError),
}

impl Fault {
    /// Of a job that is to be done all the same.
    fn of(error: LoadError, job: impl FnOnce() -> Job) -> Self {
        match error {
            LoadError::Later(error) => Self::Later(job(), error),
            error => Self::Fatal(error),
        }
    }
}

fn run(shared: &Shared, queue: &JobQueue, job: Job) -> Result<(), Fault> {
    let store = &*shared.store;
    match job {
        Job::Shard { worker, shard, part, resets } => {
            let job = || Job::Shard { worker, shard, part, resets };
            // The kernel has forgotten the images it kept until loads would find them: now loads must.
            if 0 < resets && !is_loadable(store, queue, shard).map_err(|error| Fault::of(error, job))? {
                queue.again(job());
                return Ok(());
            }
            let Some(owned) = store.owned_shard(shard).map_err(|error| Fault::of(error, job))? else {
                if store.shared().is_some() {
                    shared.intakes[worker].push(Event::Lost { shard, resets });
                    return Ok(());
                }
                // Nobody else could have it: there is no other owner than a fault's.
                let error = LoadError::NotOwned(shard);
                let has_left = load::has_left(store, shard, Epoch(0));
                return if has_left.map_err(|error| Fault::of(error, job))? {
                    Ok(())
                } else {
                    Err(Fault::Fatal(error))
                };
            };
            match load::shard(store, shard, owned.epoch, part) {
                Ok(rows) => shared.intakes[worker].push(Event::ShardLoaded { resets, owned, rows }),
                Err(error) => refused(shared, worker, error, owned.epoch, resets, job)?,
            }
        }
        Job::Outbox { worker, ticket } => match load::outbox(store, &ticket) {
            Ok(envelopes) => shared.intakes[worker].push(Event::OutboxLoaded(ticket, envelopes)),
            Err(error) => {
                let (epoch, resets) = (ticket.epoch, ticket.resets);
                refused(shared, worker, error, epoch, resets, || Job::Outbox { worker, ticket })?;
            }
        },
        Job::Images { worker, mut tickets } => {
            while !tickets.is_empty() {
                let keys: Vec<ImageKey> = tickets.iter().map(|ticket| ticket.key.clone()).collect();
                match store.load_images(&keys) {
                    Ok(images) => {
                        let images = tickets.into_iter().zip(images).collect();
                        shared.intakes[worker].push(Event::ImagesLoaded(images));
                        break;
                    }
                    Err(LoadError::NotOwned(gone)) => {
                        // What is asked in one step of a shard is asked under one epoch.
                        let first = tickets.iter().find(|ticket| ticket.key.shard == gone);
                        let first = first.expect("a load is refused for what it asked");
                        let (epoch, resets) = (first.key.epoch, first.resets);
                        let job = || Job::Images { worker, tickets: tickets.clone() };
                        refused(shared, worker, LoadError::NotOwned(gone), epoch, resets, job)?;
                        // The others wait for theirs.
                        tickets.retain(|ticket| ticket.key.shard != gone);
                    }
                    Err(error) => return Err(Fault::of(error, || Job::Images { worker, tickets })),
                }
            }
        }
    }
    Ok(())
}

/// Lets loads find everything of the shard that is durable. False: the disk is too full for that now.
fn is_loadable(store: &dyn Store, queue: &JobQueue, of: ShardId) -> Result<bool, LoadError> {
    if queue.is_waiting() {
        return Ok(false);
    }
    match store.make_loadable(store.lane_of(of)) {
        Ok(()) => Ok(true),
        Err(LoadError::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
            tracing::warn!(shard = %of, "the disk is too full to load a shard; it is tried again");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A load that was refused is dropped where its shard has left by a hand-off meanwhile: nobody waits for it. In a store that several
/// nodes share, a shard that was given and one that was taken look the same, and its kernel knows whether it waits.
fn refused(
    node: &Shared,
    worker: usize,
    error: LoadError,
    epoch: Epoch,
    resets: u64,
    job: impl FnOnce() -> Job,
) -> Result<(), Fault> {
    let store = &*node.store;
    match error {
        LoadError::NotOwned(shard) if store.shared().is_some() => {
            node.intakes[worker].push(Event::Lost { shard, resets });
            Ok(())
        }
        LoadError::NotOwned(shard) => match load::has_left(store, shard, epoch) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Fault::Fenced(shard)),
            Err(error) => Err(Fault::of(error, job)),
        },
        error => Err(Fault::of(error, job)),
    }
}

#[cfg(test)]
mod tests;
