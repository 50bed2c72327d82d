//! Reads on a thread of their own: shards at the start, images of entities that are not in memory, long outboxes.

use super::{Shared, unreadable};
use crate::{
    kernel::{Event, ImageTicket},
    load,
    placement::ShardId,
    shard::{OutboxPart, OutboxTicket},
    store::{ImageKey, LoadError},
};
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
};

enum Job {
    Shard { worker: usize, shard: ShardId, part: OutboxPart, resets: u64 },
    Outbox { worker: usize, ticket: OutboxTicket },
    Images { worker: usize, tickets: Vec<ImageTicket> },
}

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    ended: bool,
}

/// The jobs of the loader thread. Bounded by what the kernels ask: one job per shard and per stream, one ticket per activation.
#[derive(Default)]
pub(crate) struct Loader {
    jobs: Mutex<Jobs>,
    filled: Condvar,
}

impl Loader {
    pub(crate) fn shard(&self, worker: usize, shard: ShardId, part: OutboxPart, resets: u64) {
        self.push(Job::Shard { worker, shard, part, resets });
    }

    pub(crate) fn outbox(&self, worker: usize, ticket: OutboxTicket) {
        self.push(Job::Outbox { worker, ticket });
    }

    pub(crate) fn images(&self, worker: usize, tickets: Vec<ImageTicket>) {
        self.push(Job::Images { worker, tickets });
    }

    pub(crate) fn end(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.filled.notify_one();
    }

    fn push(&self, job: Job) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).queue.push_back(job);
        self.filled.notify_one();
    }

    fn take(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if jobs.ended {
                return None;
            }
            if let Some(job) = jobs.queue.pop_front() {
                return Some(job);
            }
            jobs = self.filled.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts the loader.
pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    super::thread(shared, "entity-loader".into(), |shared| {
        while let Some(job) = shared.loader.take() {
            match run(shared, job) {
                Ok(()) => {}
                // Whoever asked works on memory of before. Its commits will be fenced too; where none is on its way, only
                // this tells it, and it asks again under the epoch it finds then (P12, P13).
                Err(Fault::Fenced(at)) => {
                    let lane = shared.store.lane_of(at);
                    tracing::warn!(shard = %at, lane = lane.0, "a load was fenced; its lane is void");
                    shared.lanes[lane.0 as usize].stale();
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
    /// The shard has another epoch than the one asked under.
    Fenced(ShardId),
    /// The node cannot go on.
    Fatal(LoadError),
}

impl From<LoadError> for Fault {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::NotOwned(shard) => Self::Fenced(shard),
            LoadError::Io(_) => Self::Fatal(error),
        }
    }
}

fn run(shared: &Shared, job: Job) -> Result<(), Fault> {
    match job {
        Job::Shard { worker, shard, part, resets } => {
            if 0 < resets {
                // The kernel has forgotten the images it kept until loads would find them: now loads must.
                shared.store.maintain()?;
            }
            let owned = shared.store.owned()?.into_iter().find(|owned| owned.shard == shard);
            // Nobody could give it back: there is no other owner than a fault's.
            let owned = owned.ok_or(Fault::Fatal(LoadError::NotOwned(shard)))?;
            let rows = load::shard(&*shared.store, shard, owned.epoch, part)?;
            shared.intakes[worker].push(Event::ShardLoaded { resets, owned, rows });
        }
        Job::Outbox { worker, ticket } => {
            let envelopes = load::outbox(&*shared.store, &ticket)?;
            shared.intakes[worker].push(Event::OutboxLoaded(ticket, envelopes));
        }
        Job::Images { worker, tickets } => {
            let keys: Vec<ImageKey> = tickets.iter().map(|ticket| ticket.key.clone()).collect();
            let images = shared.store.load_images(&keys)?;
            shared.intakes[worker].push(Event::ImagesLoaded(tickets.into_iter().zip(images).collect()));
        }
    }
    Ok(())
}
