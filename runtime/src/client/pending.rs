//! The requests of one client that wait for their outcome.

use crate::{
    clock::Clock,
    kernel::{FeedReceipt, Outcome},
    message::{ClientId, RequestId},
    node::{Port, Slots},
    placement::ShardId,
    requests::{Acknowledged, OPEN_MAX},
    timestamp::Timestamp,
};
use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::oneshot;

/// Said of a request whose outcome did not come in time.
pub(super) const TIMED_OUT: &str = "no answer in time";
/// A number that is not settled while so many behind it were allotted is passed by. Fewer are on their way at a time in
/// nearly every program, and then no request carries a list.
const BEHIND_MAX: usize = 4_096;

/// A request on its way.
struct Entry {
    tell: oneshot::Sender<Outcome>,
    number: Option<u64>,
    /// The caller knows the id and may ask again.
    is_kept: bool,
    until: Timestamp,
    /// It waits for nothing but time to pass, or a shard to be routed elsewhere.
    is_pause: bool,
}

/// What is known of a number above the floor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Its request is on its way.
    Open,
    /// It will not be settled before long: the floor passes it by.
    Kept,
    /// Its reply will not be asked for again.
    Settled,
}

/// Which numbers are settled, to tell the shards which replies they need not keep.
#[derive(Default)]
struct Numbers {
    /// Everything up to here is settled, but for `open`.
    floor: u64,
    /// By rising number; at most [`OPEN_MAX`].
    open: Vec<u64>,
    /// `open` as it was last told, while it is the same.
    told: Option<Arc<[u64]>>,
    /// From `floor + 1`.
    above: VecDeque<Standing>,
}

impl Numbers {
    fn allot(&mut self) -> u64 {
        self.above.push_back(Standing::Open);
        self.rise();
        self.floor + self.above.len() as u64
    }

    fn settle(&mut self, number: u64) {
        if let Ok(at) = self.open.binary_search(&number) {
            self.open.remove(at);
            self.told = None;
        }
        self.stand(number, Standing::Settled);
    }

    /// The number will be settled, but not soon.
    fn keep(&mut self, number: u64) {
        self.stand(number, Standing::Kept);
    }

    fn stand(&mut self, number: u64, standing: Standing) {
        let at = number.checked_sub(self.floor + 1);
        if let Some(now) = at.and_then(|at| self.above.get_mut(at as usize))
            && *now != Standing::Settled
        {
            *now = standing;
        }
        self.rise();
    }

    fn rise(&mut self) {
        while let Some(first) = self.above.front() {
            if *first != Standing::Settled {
                let is_passed = *first == Standing::Kept || BEHIND_MAX < self.above.len();
                if !is_passed || self.open.len() == OPEN_MAX {
                    break;
                }
                self.open.push(self.floor + 1);
                self.told = None;
            }
            self.above.pop_front();
            self.floor += 1;
        }
    }

    fn acknowledged(&mut self) -> Acknowledged {
        if !self.open.is_empty() && self.told.is_none() {
            self.told = Some(self.open.as_slice().into());
        }
        Acknowledged { floor: self.floor, open: self.told.clone() }
    }
}

#[derive(Default)]
struct State {
    entries: Slots<Entry>,
    numbers: Numbers,
    /// Requests that may be asked again, with the time after which their replies are given up.
    kept: VecDeque<(Timestamp, u64)>,
    failure: Option<String>,
}

impl State {
    /// A request has its outcome. Its reply need not be stored any longer, unless the caller may ask again.
    fn end(&mut self, number: Option<u64>, is_kept: bool, kept_until: Timestamp) {
        match number {
            Some(number) if is_kept => {
                self.numbers.keep(number);
                self.kept.push_back((kept_until, number));
            }
            Some(number) => self.numbers.settle(number),
            None => {}
        }
    }
}

/// See the module.
pub(super) struct Pending {
    client: ClientId,
    clock: Clock,
    /// How long a reply is kept for a repeat.
    retention: Duration,
    state: Mutex<State>,
}

impl Pending {
    pub(super) fn new(client: ClientId, clock: Clock, retention: Duration) -> Self {
        Self { client, clock, retention, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh request id.
    pub(super) fn allot(&self) -> RequestId {
        let number = self.state().numbers.allot();
        RequestId { client: self.client, number, issued_at: self.clock.now() }
    }

    /// What to tell as settled with a request of this id: nothing with one that is another client's. Never the id
    /// itself, or its repeat would drop the very reply it asks for.
    fn settled_with(&self, id: Option<RequestId>, state: &mut State) -> Acknowledged {
        let Some(number) = self.number(id) else { return Acknowledged::default() };
        let settled = state.numbers.acknowledged();
        if settled.settles(number) { Acknowledged::default() } else { settled }
    }

    /// Waits for the outcome that is delivered to the waiter's slot.
    pub(super) fn wait(self: &Arc<Self>, id: Option<RequestId>, is_kept: bool, until: Timestamp) -> Waiter {
        let (tell, outcome) = oneshot::channel();
        let number = self.number(id);
        let mut state = self.state();
        let settled = self.settled_with(id, &mut state);
        let slot = state.entries.insert(Entry { tell, number, is_kept, until, is_pause: false });
        if let Some(why) = state.failure.clone()
            && let Some(entry) = state.entries.remove(slot)
        {
            let _ = entry.tell.send(Outcome::Unknown(why));
        }
        Waiter { slot, settled, outcome }
    }

    /// Waits until then, or until some shard has another owner, or the runtime ends.
    pub(super) fn pause(&self, until: Timestamp) -> Waiter {
        let (tell, outcome) = oneshot::channel();
        let mut state = self.state();
        if let Some(why) = state.failure.clone() {
            let _ = tell.send(Outcome::Unknown(why));
            return Waiter { slot: u64::MAX, settled: Acknowledged::default(), outcome };
        }
        let slot = state.entries.insert(Entry { tell, number: None, is_kept: false, until, is_pause: true });
        Waiter { slot, settled: Acknowledged::default(), outcome }
    }

    /// A try was refused before it left: its place is free, and its number stays as it was.
    pub(super) fn take_back(&self, slot: u64) {
        self.state().entries.remove(slot);
    }

    /// Nobody waits for this request any more: it was refused before it left, its outcome is given back as unknown, or
    /// its future was dropped. An answer that comes all the same finds no entry.
    ///
    /// Where the caller does not know the id nobody can ask again, so its number is settled, although the request may
    /// still be on its way. It is ahead of every request that could tell of that, so it is judged before.
    pub(super) fn let_go(&self, slot: Option<u64>, id: Option<RequestId>, is_kept: bool) {
        let kept_until = self.clock.now() + self.retention;
        let mut state = self.state();
        if let Some(slot) = slot {
            state.entries.remove(slot);
        }
        state.end(self.number(id), is_kept, kept_until);
    }

    /// The number of a request, where it is this client's.
    fn number(&self, id: Option<RequestId>) -> Option<u64> {
        id.filter(|id| id.client == self.client).map(|id| id.number)
    }
}

impl Port for Pending {
    fn reply(&self, outcomes: &mut dyn Iterator<Item = (u64, Outcome)>) {
        let mut told = Vec::new();
        let kept_until = self.clock.now() + self.retention;
        let mut state = self.state();
        for (slot, outcome) in outcomes {
            let Some(entry) = state.entries.remove(slot) else { continue };
            // One whose outcome is unknown is asked again, and so may one be that left no mark: under the same number.
            if matches!(outcome, Outcome::Done(_) | Outcome::Waiting) {
                state.end(entry.number, entry.is_kept, kept_until);
            }
            told.push((entry.tell, outcome));
        }
        drop(state);
        // Waking a task takes longer than anything above; the lock is not held for it.
        for (tell, outcome) in told {
            let _ = tell.send(outcome);
        }
    }

    fn feed(&self, receipts: &mut dyn Iterator<Item = FeedReceipt>) {
        receipts.for_each(drop);
    }

    fn tick(&self) {
        let now = self.clock.now();
        let mut state = self.state();
        for slot in state.entries.matching(|entry| entry.until <= now) {
            let entry = state.entries.remove(slot).expect("just listed");
            let _ = entry.tell.send(Outcome::Unknown(TIMED_OUT.into()));
        }
        while let Some(&(at, number)) = state.kept.front()
            && at <= now
        {
            state.kept.pop_front();
            state.numbers.settle(number);
        }
    }

    fn routed(&self, _: &[ShardId]) {
        let mut state = self.state();
        for slot in state.entries.matching(|entry| entry.is_pause) {
            let entry = state.entries.remove(slot).expect("just listed");
            let _ = entry.tell.send(Outcome::Elsewhere);
        }
    }

    fn fail(&self, why: &str) {
        let mut state = self.state();
        state.failure = Some(why.to_owned());
        for slot in state.entries.matching(|_| true) {
            let entry = state.entries.remove(slot).expect("just listed");
            let _ = entry.tell.send(Outcome::Unknown(why.to_owned()));
        }
    }
}

#[cfg(test)]
impl Pending {
    /// What would be told as settled with a request of this id.
    pub(super) fn acknowledged(&self, id: RequestId) -> Acknowledged {
        self.settled_with(Some(id), &mut self.state())
    }

    /// Requests that are held, numbers that are, and the floor.
    pub(super) fn held(&self) -> (usize, usize, u64) {
        let state = self.state();
        let held = state.entries.places() + state.kept.len();
        (held, state.numbers.above.len() + state.numbers.open.len(), state.numbers.floor)
    }
}

/// Resolves with the outcome delivered to its slot.
pub(super) struct Waiter {
    pub(super) slot: u64,
    /// What to tell as settled with the request.
    pub(super) settled: Acknowledged,
    outcome: oneshot::Receiver<Outcome>,
}

impl Future for Waiter {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.outcome)
            .poll(cx)
            .map(|outcome| outcome.unwrap_or_else(|_| Outcome::Unknown("the runtime has stopped".into())))
    }
}
