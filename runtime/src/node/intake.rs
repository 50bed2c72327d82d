//! A worker's intake: what waits to be stepped, and what the worker tells of itself.

use super::LaneProgress;
use crate::{
    kernel::{Counters, Event},
    store::LaneId,
    worker::Waker,
};
use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};
use tokio::sync::watch;

/// What a worker last said of itself.
#[derive(Debug, Default, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each answers another wait")]
pub(crate) struct Stats {
    pub(crate) counters: Counters,
    /// Activations in memory, and the bytes they are counted with.
    pub(crate) activations: (usize, usize),
    /// Every shard is loaded.
    pub(crate) serving: bool,
    /// Nothing is on its way.
    pub(crate) quiet: bool,
    /// Nothing is in memory that is not durable.
    pub(crate) drained: bool,
    /// Rises with every tick.
    pub(crate) ticks: u64,
    /// The node has failed: nothing of the above may ever come.
    pub(crate) failed: bool,
}

/// What a word of a feed counts with.
const WORD_BYTES: usize = 256;

/// What an event counts with while it is queued: all that comes from outside.
pub(crate) fn weight(event: &Event) -> usize {
    match event {
        Event::Arrived(arrivals) => arrivals.iter().map(|arrival| arrival.envelope.len()).sum(),
        Event::OpenFeed { .. } | Event::AskFeed { .. } | Event::CloseFeed { .. } => WORD_BYTES,
        _ => 0,
    }
}

/// The shared end of a worker.
pub(crate) struct Intake {
    events: Mutex<Vec<Event>>,
    /// The worker has been woken and has not yet taken what is there.
    awake: AtomicBool,
    waker: OnceLock<Waker>,
    /// Bytes of messages in `events`, and of those taken that the worker has not counted yet.
    queued: AtomicUsize,
    /// Bytes of messages in the kernel that have had no turn yet.
    held: AtomicUsize,
    /// Messages refused because of the backlog.
    refused: AtomicU64,
    pub(crate) progress: Vec<LaneProgress>,
    stats: watch::Sender<Stats>,
}

impl Intake {
    pub(crate) fn new(lanes: u32) -> Self {
        Self {
            events: Mutex::default(),
            awake: AtomicBool::new(false),
            waker: OnceLock::new(),
            queued: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            progress: (0..lanes).map(|lane| LaneProgress::new(LaneId(lane))).collect(),
            stats: watch::channel(Stats::default()).0,
        }
    }

    /// The worker is there: from now on it is woken.
    pub(crate) fn attend(&self, waker: Waker) {
        assert!(self.waker.set(waker).is_ok(), "a worker sits down once");
        self.wake();
    }

    /// Adds an event and wakes the worker where it sleeps.
    pub(crate) fn push(&self, event: Event) {
        let weight = weight(&event);
        if 0 < weight {
            self.queued.fetch_add(weight, Ordering::Relaxed);
        }
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        self.wake();
    }

    /// Adds one message to the last batch of arrivals.
    pub(crate) fn push_arrival(&self, arrival: crate::kernel::Arrival) {
        self.queued.fetch_add(arrival.envelope.len(), Ordering::Relaxed);
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Event::Arrived(arrivals)) = events.last_mut() {
            arrivals.push(arrival);
        } else {
            events.push(Event::Arrived(vec![arrival]));
        }
        drop(events);
        self.wake();
    }

    /// Whether something has been pushed since the last take.
    pub(crate) fn has_news(&self) -> bool {
        self.awake.load(Ordering::Acquire)
    }

    pub(crate) fn wake(&self) {
        if !self.awake.swap(true, Ordering::AcqRel)
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
    }

    /// Takes all events. A push from now on wakes the worker again.
    pub(crate) fn take(&self, into: &mut Vec<Event>) {
        self.awake.store(false, Ordering::Release);
        std::mem::swap(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner), into);
    }

    /// A message was refused before it got here.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of messages that wait for a turn.
    pub(crate) fn backlog(&self) -> usize {
        self.queued.load(Ordering::Relaxed) + self.held.load(Ordering::Relaxed)
    }

    /// Messages of so many bytes are no longer in the queue, and `held` is what the kernel holds by now.
    pub(crate) fn taken(&self, bytes: usize, held: usize) {
        // In this order, so that nothing is overlooked between the two.
        self.held.store(held, Ordering::Relaxed);
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = *self.stats.borrow();
        stats.counters.refused += self.refused.load(Ordering::Relaxed);
        stats
    }

    pub(crate) fn tell(&self, stats: Stats) {
        self.stats.send_modify(|told| *told = Stats { failed: told.failed, ..stats });
    }

    /// The node has failed: whoever waits for the worker waits no longer.
    pub(crate) fn fail(&self) {
        self.stats.send_modify(|told| told.failed = true);
    }

    /// Waits for what the worker may say, or for the failure of the node.
    async fn until(&self, mut wanted: impl FnMut(&Stats) -> bool) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.stats.subscribe().wait_for(|stats| stats.failed || wanted(stats)).await;
    }

    /// Waits until every shard of the worker serves.
    pub(crate) async fn serving(&self) {
        self.until(|stats| stats.serving).await;
    }

    /// Waits for the worker's next tick and says whether nothing was on its way then.
    pub(crate) async fn is_quiet(&self) -> bool {
        self.next_tick().await;
        self.stats().quiet
    }

    /// Waits for the worker's next tick.
    pub(crate) async fn next_tick(&self) {
        let ticks = self.stats().ticks;
        self.until(|stats| ticks < stats.ticks).await;
    }

    /// Waits until nothing is in memory that is not durable.
    pub(crate) async fn drained(&self) {
        self.next_tick().await;
        self.until(|stats| stats.drained).await;
    }
}
