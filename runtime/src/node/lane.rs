//! A lane's queue and its writer thread: group commit, and the outputs that wait for it.

use super::{Patience, Shared};
use crate::{
    kernel::{Event, Submission},
    placement::{Epoch, ShardId},
    store::{Batch, CommitError, Lane, LaneId, Position},
};
use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// A lane is quiet when nothing came for this long.
const QUIET_AFTER: Duration = Duration::from_millis(50);
/// Pause before a group that is not known to be written is committed again. It doubles,
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// up to this.
const AGAIN_AFTER_MAX: Duration = Duration::from_millis(500);

/// A submission and the worker it came from.
pub(crate) struct Submitted {
    pub(crate) worker: usize,
    pub(crate) submission: Submission,
    /// Room set aside for it in the store.
    pub(crate) reserved: Option<u64>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Submitted>,
    /// How often the lane was voided; submissions from before are void.
    voids: u64,
    /// A load was fenced: what the lane's workers have in memory is another owner's past.
    is_stale: bool,
    ended: bool,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.is_stale && !self.ended
    }
}

/// The batches on their way to a lane, in the order of their place in it.
pub(crate) struct LaneQueue {
    pub(crate) id: LaneId,
    queue: Mutex<Queue>,
    filled: Condvar,
}

impl LaneQueue {
    pub(crate) fn new(id: LaneId) -> Self {
        Self { id, queue: Mutex::default(), filled: Condvar::new() }
    }

    /// Gives a batch its place in the lane.
    pub(crate) fn push(&self, submitted: Submitted) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = queue.waiting.is_empty();
        queue.waiting.push_back(submitted);
        drop(queue);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Lets the writer finish what is queued and end.
    pub(crate) fn end(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.filled.notify_one();
    }

    /// A load was fenced: the writer voids the lane, as it does where a commit is, behind what it commits now.
    pub(crate) fn stale(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_stale = true;
        self.filled.notify_one();
    }

    fn take_stale(&self) -> bool {
        std::mem::take(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_stale)
    }

    fn has_come(&self) -> bool {
        !self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_idle()
    }

    /// Waits for batches and takes them all. `Some(empty)`: a quiet moment. `None`: ended and empty.
    fn take(&self, into: &mut VecDeque<Submitted>, patience: &mut Patience) -> Option<u64> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.waiting.is_empty() {
            if queue.ended {
                return None;
            }
            drop(queue);
            let came = patience.look(|| self.has_come());
            queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if !came && queue.is_idle() {
                let waited = self.filled.wait_timeout(queue, QUIET_AFTER);
                queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if !queue.waiting.is_empty() {
                patience.woken();
            }
        }
        std::mem::swap(&mut queue.waiting, into);
        Some(queue.voids)
    }

    /// Voids the lane: returns how often it was voided by now, and what was queued.
    fn void(&self) -> (u64, VecDeque<Submitted>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.voids += 1;
        (queue.voids, std::mem::take(&mut queue.waiting))
    }
}

/// How far a worker's batches have come in one lane.
pub(crate) struct LaneProgress {
    pub(crate) lane: LaneId,
    durable: AtomicU64,
    /// The worker cannot go on before more is durable.
    blocked: AtomicBool,
    /// Positions of durable batches that loads may not find yet.
    positions: Mutex<VecDeque<(u64, Position)>>,
}

impl LaneProgress {
    pub(crate) fn new(lane: LaneId) -> Self {
        let (durable, blocked) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { lane, durable, blocked, positions: Mutex::default() }
    }

    fn advance(&self, number: u64, position: Position) {
        // In this order, and read in the other: what can be loaded is never ahead of what is durable.
        self.durable.store(number, Ordering::SeqCst);
        self.positions.lock().unwrap_or_else(PoisonError::into_inner).push_back((number, position));
    }

    /// The worker's last durable batch.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// The worker sleeps until more is durable. Returns the last durable batch as it is after that was said: of a later one
    /// it is woken.
    pub(crate) fn block(&self) -> u64 {
        self.blocked.store(true, Ordering::SeqCst);
        self.durable.load(Ordering::SeqCst)
    }

    /// The worker's last batch that loads find, if there is news.
    pub(crate) fn loadable(&self, position: Position) -> Option<u64> {
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut loadable = None;
        while let Some(&(number, at)) = positions.front() {
            if position < at {
                break;
            }
            positions.pop_front();
            loadable = Some(number);
        }
        loadable
    }
}

/// Starts the writer of a lane.
pub(super) fn spawn(shared: &Arc<Shared>, lane: usize) -> io::Result<JoinHandle<()>> {
    super::thread(shared, format!("entity-lane-{lane}"), move |shared| {
        let shared = Arc::clone(shared);
        let queue = Arc::clone(&shared.lanes[lane]);
        let engine = shared.store.open_lane(queue.id);
        Writer {
            shared,
            queue,
            engine,
            taken: VecDeque::new(),
            group: Vec::new(),
            batches: Vec::new(),
            shown: Vec::new(),
        }
        .run();
    })
}

struct Writer {
    shared: Arc<Shared>,
    queue: Arc<LaneQueue>,
    engine: Box<dyn Lane>,
    /// Not begun yet.
    taken: VecDeque<Submitted>,
    /// Committed now.
    group: Vec<Submitted>,
    batches: Vec<Batch>,
    /// Shards whose state the group's outputs show (P14).
    shown: Vec<(ShardId, Epoch)>,
}

impl Writer {
    fn run(mut self) {
        let group_bytes_max = self.shared.store.group_bytes_max();
        let mut quiet_done = false;
        let mut patience = Patience::default();
        while let Some(voids) = self.queue.take(&mut self.taken, &mut patience) {
            if self.queue.take_stale() {
                self.void();
                continue;
            }
            if self.taken.is_empty() {
                if !std::mem::replace(&mut quiet_done, true)
                    && let Err(error) = self.engine.quiet()
                {
                    self.shared.fail(error.to_string());
                }
                continue;
            }
            quiet_done = false;
            self.drop_void(voids);
            while self.begin_group(group_bytes_max) {
                if !self.commit() {
                    self.give_up();
                    return;
                }
            }
        }
    }

    /// Of what was taken nothing is of before the last void any more.
    fn drop_void(&mut self, voids: u64) {
        let (void, taken) =
            std::mem::take(&mut self.taken).into_iter().partition(|of| of.submission.voids < voids);
        self.taken = taken;
        for submitted in void {
            self.void_one(submitted);
        }
    }

    /// Takes as many of the first as one group may have, and one at least. False: there are none.
    fn begin_group(&mut self, bytes_max: u64) -> bool {
        let mut bytes = 0;
        while let Some(next) = self.taken.front() {
            bytes += next.submission.batch.bytes().len() as u64;
            if !self.group.is_empty() && bytes_max < bytes {
                break;
            }
            self.group.extend(self.taken.pop_front());
        }
        !self.group.is_empty()
    }

    /// Commits the group. False: the store has failed, or the node has ended before it answered.
    fn commit(&mut self) -> bool {
        self.gather();
        let mut again_after = AGAIN_AFTER;
        let position = loop {
            if self.batches.is_empty() && self.shown.is_empty() {
                break None;
            }
            match self.engine.commit_and_confirm(&self.batches, &self.shown) {
                Ok(position) => break (!self.batches.is_empty()).then_some(position),
                // Nobody waits for it any more; what is written is found at the next start.
                Err(CommitError::Unknown(_) | CommitError::Later(_))
                    if self.shared.ended.load(Ordering::SeqCst) =>
                {
                    return false;
                }
                Err(error @ (CommitError::Unknown(_) | CommitError::Later(_))) => {
                    if again_after == AGAIN_AFTER {
                        let lane = self.queue.id.0;
                        tracing::warn!(lane, %error, "the same group is committed again until it is known to be written");
                    }
                    std::thread::sleep(again_after);
                    again_after = AGAIN_AFTER_MAX.min(2 * again_after);
                }
                Err(error @ (CommitError::Fenced(_) | CommitError::Failed(_))) => {
                    tracing::warn!(%error, "a lane is void; its shards are loaded again");
                    self.void();
                    return true;
                }
                Err(CommitError::Fatal(error)) => {
                    self.shared.fail(format!("the store has failed: {error}"));
                    return false;
                }
            }
        };
        self.shared.keep_buffers(self.batches.drain(..));
        if position.is_some() {
            // Before the outputs: no other node hears of them and not of the position.
            let durable = self.shared.store.identity().durable;
            self.shared.durable.fetch_max(durable.0, Ordering::Release);
        }
        self.release(position);
        true
    }

    /// The rows of the group, and the shards that are to be confirmed beside those that it writes to.
    fn gather(&mut self) {
        self.batches.clear();
        self.shown.clear();
        for Submitted { submission, .. } in &mut self.group {
            let batch = std::mem::take(&mut submission.batch);
            if !batch.is_empty() {
                self.batches.push(batch);
            }
            self.shown.append(&mut submission.shown);
        }
        if !self.shown.is_empty() {
            let written: BTreeSet<ShardId> =
                self.batches.iter().flat_map(Batch::sections).map(|section| section.shard).collect();
            self.shown.retain(|(shard, _)| !written.contains(shard));
            self.shown.sort_unstable();
            self.shown.dedup();
        }
    }

    /// The group is durable: its outputs may leave.
    fn release(&mut self, position: Option<Position>) {
        let lane = self.queue.id;
        let mut outputs = Vec::new();
        for submitted in self.group.drain(..) {
            let Submitted { worker, submission, reserved } = submitted;
            if let Some(reserved) = reserved {
                self.shared.store.release(lane, reserved);
            }
            let intake = &self.shared.intakes[worker];
            let progress = &intake.progress[lane.0 as usize];
            // A group of outputs alone lies at the place of what was durable before it: zero is before everything.
            progress.advance(submission.number, position.unwrap_or_default());
            outputs.extend(submission.outputs);
            if progress.blocked.swap(false, Ordering::SeqCst) {
                intake.wake();
            }
        }
        self.shared.put(outputs);
    }

    fn void_one(&self, submitted: Submitted) {
        if let Some(reserved) = submitted.reserved {
            self.shared.store.release(self.queue.id, reserved);
        }
        self.shared
            .put(submitted.submission.outputs.into_iter().filter_map(crate::kernel::Output::into_void));
    }

    /// The group and everything behind it is void (P13).
    fn void(&mut self) {
        let (voids, queued) = self.queue.void();
        self.void_all(queued);
        for intake in &self.shared.intakes {
            intake.push(Event::Voided { lane: self.queue.id, voids });
        }
    }

    fn give_up(mut self) {
        let (_, queued) = self.queue.void();
        self.void_all(queued);
    }

    fn void_all(&mut self, queued: VecDeque<Submitted>) {
        let begun = std::mem::take(&mut self.group).into_iter();
        for submitted in begun.chain(std::mem::take(&mut self.taken)).chain(queued) {
            self.void_one(submitted);
        }
    }
}
