//! The sending end of a feed: it claims the name, numbers messages by shard, and sends again what may be lost (P10).

use super::{FeedError, Parting};
use crate::{
    activation::ReplyTo,
    error::Refusal,
    feeds::{FeedId, FeedIdentity, FeedQuestion},
    kernel::{self, Arrival, Event, FeedNews, FeedReceipt, Outcome},
    message::Envelope,
    node::{Front, Intake, Outbound, Port},
    placement::ShardId,
    timestamp::Timestamp,
    transport::{Frame, frame::FeedMessage},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::sync::Notify;

/// Messages that may be sent and not yet durable.
pub(super) const UNDURABLE_MAX: usize = 65_536;
/// Bytes of them.
pub(super) const UNDURABLE_BYTES_MAX: usize = 16 << 20;
/// Messages gathered for one worker before they are handed over.
const GATHER: usize = 256;
/// A stream of which nothing became durable for so long is sent again: the word to do so is said once for a whole burst,
/// and what was sent again may have been refused within the same burst.
const SILENCE: Duration = Duration::from_secs(1);

/// Whether a feed has its name. Until then no row leaves.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// Nothing was sent yet.
    #[default]
    Unasked,
    /// Asked for with the first message, at this time.
    Asked(FeedIdentity, Timestamp),
    /// Claimed, durably.
    Held,
}

struct Unacknowledged {
    own: u64,
    hash: u64,
    envelope: Envelope,
}

/// The sending end towards one shard.
#[derive(Default)]
struct Stream {
    /// Number of the first message that is not known to be durable.
    first: u64,
    kept: VecDeque<Unacknowledged>,
    /// Number of the first message that was not gathered for the worker, or is to be sent again. It waits for the window.
    next: u64,
    /// Number of the last message that was handed to the worker in this run.
    handed: u64,
    /// How many messages may be on their way. One window of a stream after a refusal, and more by each that became durable
    /// since, up to [`FeedPort::window_max`].
    window: u64,
    /// When something last became durable, or was sent after nothing or again.
    moved_at: Timestamp,
    /// Messages from this number on are to be sent again at the next tick.
    again: Option<u64>,
    /// Of a feed that goes on: messages up to this own number were durable when it was opened.
    resumed_at: Option<u64>,
}

impl Stream {
    /// A stream whose messages up to this number are durable.
    fn behind(floor: u64, window: u64) -> Self {
        Self { first: floor + 1, next: floor + 1, handed: floor, window, ..Self::default() }
    }

    /// Number of the first message that does not exist yet.
    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }
}

#[derive(Default)]
pub(super) struct State {
    naming: Naming,
    /// Shards that have not said yet where to go on, and when they were asked.
    pub(super) unanswered: BTreeSet<ShardId>,
    asked_at: Timestamp,
    streams: BTreeMap<ShardId, Stream>,
    /// Messages not known to be durable, and their bytes.
    pub(super) undurable: usize,
    pub(super) undurable_bytes: usize,
    pub(super) durable: u64,
    /// The own number of the last message.
    own: Option<u64>,
    /// By group of shards: those of one worker, where this process has workers.
    gathered: Vec<Vec<Arrival>>,
    /// Groups whose messages leave when all receipts at hand are taken.
    go_on: BTreeSet<usize>,
    pub(super) error: Option<FeedError>,
    pub(super) closed: bool,
}

pub(super) struct FeedPort {
    pub(super) shared: Arc<Front>,
    pub(super) id: FeedId,
    pub(super) name: Arc<str>,
    pub(super) to: ReplyTo,
    state: Mutex<State>,
    pub(super) progress: Notify,
}

impl State {
    /// See [`Feed::undurable_from`](super::Feed::undurable_from).
    pub(super) fn undurable_from(&self) -> Option<u64> {
        self.streams.values().filter_map(|stream| stream.kept.front()).map(|kept| kept.own).min()
    }
}

impl FeedPort {
    /// A port of its own for this name, known to all workers.
    pub(super) fn open(shared: &Arc<Front>, name: &str) -> Arc<Self> {
        let (id, name) = (FeedId::of(name), Arc::<str>::from(name));
        let to = ReplyTo { connection: shared.ports.next(), slot: 0 };
        let groups = shared.intakes.len().max(1);
        let state = State { gathered: (0..groups).map(|_| Vec::new()).collect(), ..State::default() };
        let port = Arc::new(FeedPort {
            shared: Arc::clone(shared),
            id,
            name: Arc::clone(&name),
            to,
            state: Mutex::new(state),
            progress: Notify::new(),
        });
        shared.ports.open(to.connection, port.clone());
        for intake in &shared.intakes {
            intake.push(Event::OpenFeed { feed: id, name: Arc::clone(&name), to });
        }
        // One that connects from here on is told by `connected`, some by both.
        for outbound in shared.links.all() {
            port.open_at(&outbound);
        }
        port
    }

    /// Opens the feed at another node.
    fn open_at(&self, outbound: &Outbound) {
        let frame = Frame::OpenFeed { slot: self.slot(), name: self.name.to_string() };
        let _ = outbound.frame(frame, self.name.len());
    }

    /// Closes the feed everywhere.
    pub(super) fn close(&self) {
        self.shared.ports.close(self.to.connection);
        for intake in &self.shared.intakes {
            intake.push(Event::CloseFeed { feed: self.id, to: self.to });
        }
        for outbound in self.shared.links.all() {
            let _ = outbound.frame(Frame::CloseFeed { slot: self.slot(), feed: self.id }, 0);
        }
    }

    /// What names the feed on connections: receipts carry it back.
    fn slot(&self) -> u64 {
        u64::from(self.to.connection)
    }

    fn group(&self, shard: ShardId) -> usize {
        shard.0 as usize % self.shared.intakes.len().max(1)
    }

    /// Asks every shard where to go on.
    pub(super) fn ask_all(&self) {
        let mut state = self.state();
        state.unanswered = self.shared.layout.iter().collect();
        self.ask_unanswered(&mut state);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers a message and gathers it for its worker.
    pub(super) fn push(
        &self,
        state: &mut State,
        own: u64,
        hash: u64,
        envelope: Envelope,
    ) -> Result<(), FeedError> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(FeedError::Refused { name: self.name.to_string(), refusal: Refusal::Stopping });
        }
        if let Some(before) = state.own
            && own <= before
        {
            return Err(FeedError::NotRising { own, before });
        }
        state.own = Some(own);
        let shard = self.shared.layout.place(hash);
        if state.streams.get(&shard).is_some_and(|stream| stream.resumed_at.is_some_and(|at| own <= at)) {
            state.durable += 1;
            return Ok(());
        }
        if state.naming == Naming::Unasked {
            let identity = FeedIdentity::of(own, envelope.bytes());
            self.claim(state, identity, self.shared.clock.now());
        }
        state.undurable += 1;
        state.undurable_bytes += envelope.len();
        let stream = state.streams.entry(shard).or_insert_with(|| Stream::behind(0, self.window_max()));
        if stream.kept.is_empty() {
            stream.moved_at = self.shared.clock.now();
        }
        stream.kept.push_back(Unacknowledged { own, hash, envelope });
        if stream.again.is_some() {
            // It goes with those before it, when they are sent again.
            return Ok(());
        }
        let group = self.group(shard);
        self.gather(shard, stream, &mut state.gathered[group]);
        if GATHER <= state.gathered[group].len() {
            self.hand(state, group);
        }
        Ok(())
    }

    /// The most messages that are on their way to one shard, while it refuses none: its share of all that may be. A store of
    /// few shards writes one batch while it runs the turns of the next, and one window of a stream is too little for both.
    fn window_max(&self) -> u64 {
        let share = UNDURABLE_MAX as u64 / u64::from(self.shared.layout.count());
        share.max(self.shared.limits.stream_window)
    }

    /// Gathers what comes next, as far as the window reaches.
    fn gather(&self, shard: ShardId, stream: &mut Stream, gathered: &mut Vec<Arrival>) {
        let next = stream.next.max(stream.first);
        let below = stream.end().min(stream.first + stream.window).max(next);
        let at = |number| (number - stream.first) as usize;
        for (number, kept) in (next..).zip(stream.kept.range(at(next)..at(below))) {
            let from = kernel::Provenance::Feed { feed: self.id, number, own: kept.own, to: self.to };
            let (hash, envelope) = (kept.hash, kept.envelope.clone());
            gathered.push(Arrival { shard, hash, envelope, from });
        }
        stream.next = below;
    }

    /// Asks for the name. The shard answers when the claim is durable: should this input be another one than the name
    /// stands for, then no row of it may ever have left, for not every shard would know it for a wrong one.
    fn claim(&self, state: &mut State, identity: FeedIdentity, now: Timestamp) {
        state.naming = Naming::Asked(identity, now);
        self.ask(self.home(), FeedQuestion::Claim(identity));
    }

    fn ask(&self, shard: ShardId, question: FeedQuestion) {
        if self.shared.links.is_here(shard) {
            let event = Event::AskFeed { feed: self.id, shard, question, to: self.to };
            self.shared.intakes[self.shared.worker_of(shard)].push(event);
        } else if let Some(owner) = self.shared.links.owner(shard) {
            let _ = owner.frame(Frame::AskFeed { slot: self.slot(), feed: self.id, shard, question }, 0);
        }
    }

    fn ask_unanswered(&self, state: &mut State) {
        state.asked_at = self.shared.clock.now();
        state.unanswered.iter().for_each(|shard| self.ask(*shard, FeedQuestion::Resume));
    }

    /// The shard of the claim.
    fn home(&self) -> ShardId {
        self.shared.layout.place(self.id.hash())
    }

    fn hand(&self, state: &mut State, group: usize) {
        if state.naming == Naming::Held && !state.gathered[group].is_empty() {
            let arrivals = std::mem::replace(&mut state.gathered[group], Vec::with_capacity(GATHER));
            for arrival in &arrivals {
                if let kernel::Provenance::Feed { number, .. } = arrival.from
                    && let Some(stream) = state.streams.get_mut(&arrival.shard)
                {
                    stream.handed = stream.handed.max(number);
                }
            }
            self.send(arrivals);
        }
    }

    /// To the worker, or to the nodes of the shards. What is for a shard that nobody has at the moment is not sent, and goes
    /// again after a while.
    fn send(&self, mut arrivals: Vec<Arrival>) {
        let links = &self.shared.links;
        if !links.is_alone() {
            let mut used = Vec::new();
            for arrival in arrivals.extract_if(.., |arrival| !links.is_here(arrival.shard)) {
                let kernel::Provenance::Feed { number, own, .. } = arrival.from else {
                    unreachable!("only the feed's messages are gathered")
                };
                let Some(owner) = links.owner(arrival.shard) else { continue };
                let (shard, envelope) = (arrival.shard, arrival.envelope);
                owner.feed_message(self.slot(), self.id, FeedMessage { shard, number, own, envelope });
                if !used.iter().any(|other| Arc::ptr_eq(other, &owner)) {
                    used.push(owner);
                }
            }
            for outbound in used {
                outbound.flush();
            }
        }
        if !arrivals.is_empty() {
            self.shared.hand_near(arrivals);
        }
    }

    pub(super) fn hand_all(&self, state: &mut State) {
        (0..state.gathered.len()).for_each(|group| self.hand(state, group));
    }

    /// Sends again what the shards asked for, and what nothing was heard of.
    fn tick_at(&self, now: Timestamp) {
        let mut state = self.state();
        let state = &mut *state;
        if state.closed || state.error.is_some() {
            return;
        }
        if !state.unanswered.is_empty() && state.asked_at + SILENCE <= now {
            self.ask_unanswered(state);
        }
        match state.naming {
            Naming::Asked(identity, at) if at + SILENCE <= now => self.claim(state, identity, now),
            _ => {}
        }
        if state.naming != Naming::Held {
            return;
        }
        for (&shard, stream) in &mut state.streams {
            let group = self.group(shard);
            // A worker with a full intake is slow and has forgotten nothing, and what comes now it refuses.
            let is_full = |intake: &Arc<Intake>| self.shared.limits.intake_bytes_max <= intake.backlog();
            if self.shared.links.is_here(shard) && self.shared.intakes.get(group).is_some_and(is_full) {
                continue;
            }
            if !stream.kept.is_empty() && stream.moved_at + SILENCE <= now {
                stream.again = Some(stream.first);
            }
            let Some(again) = stream.again.take() else { continue };
            stream.moved_at = stream.moved_at.max(now);
            // Gathered messages go in their turn behind those before them, or they would be refused at once.
            state.gathered[group].retain(|arrival| arrival.shard != shard);
            stream.next = stream.next.min(again);
            stream.window = self.shared.limits.stream_window;
            self.gather(shard, stream, &mut state.gathered[group]);
        }
        self.hand_all(state);
    }

    fn receipt(&self, state: &mut State, receipt: FeedReceipt, now: Timestamp) {
        if receipt.news == FeedNews::Lost && state.unanswered.contains(&receipt.shard) {
            state.asked_at = Timestamp::EPOCH;
        }
        if receipt.news == FeedNews::Lost
            && receipt.shard == self.home()
            && let Naming::Asked(_, at) = &mut state.naming
        {
            // At the next tick, and not at once: the shard is loading, or has no room.
            *at = Timestamp::EPOCH;
        }
        let stream = state.streams.get_mut(&receipt.shard);
        match (receipt.news, stream) {
            (FeedNews::Durable { through }, Some(stream)) => {
                // A feed that starts over is told of messages it has not sent yet in this run. Those are judged first:
                // they may be another input's.
                while stream.first <= through.min(stream.handed) {
                    let Some(done) = stream.kept.pop_front() else { break };
                    stream.first += 1;
                    stream.window = self.window_max().min(stream.window + 1);
                    stream.moved_at = now;
                    state.undurable -= 1;
                    state.undurable_bytes -= done.envelope.len();
                    state.durable += 1;
                }
                // What waited for the window waits no longer, and not for the next tick either.
                if stream.again.is_none() && stream.next < stream.end() {
                    let group = self.group(receipt.shard);
                    self.gather(receipt.shard, stream, &mut state.gathered[group]);
                    state.go_on.insert(group);
                }
            }
            (FeedNews::SendFrom(number), Some(stream)) => {
                stream.again = Some(stream.again.map_or(number, |again| again.min(number)));
            }
            // What has not left cannot have been lost.
            (FeedNews::Lost, Some(stream)) if state.naming == Naming::Held => {
                stream.again = Some(stream.first);
            }
            (FeedNews::Durable { .. } | FeedNews::SendFrom(_), None) | (FeedNews::Lost, _) => {}
            (FeedNews::Resumed { floor, own, claimed }, _) => {
                if !state.unanswered.remove(&receipt.shard) {
                    return;
                }
                if 0 < floor {
                    let stream = Stream { resumed_at: Some(own), ..Stream::behind(floor, self.window_max()) };
                    state.streams.insert(receipt.shard, stream);
                }
                // Where nobody has the name yet it is claimed with the first message, as by any feed.
                if claimed {
                    state.naming = Naming::Held;
                }
            }
            (FeedNews::Claimed, _) => {
                if let Naming::Asked(..) = state.naming {
                    state.naming = Naming::Held;
                    // What was sent meanwhile leaves only now.
                    state.streams.values_mut().for_each(|stream| stream.moved_at = now);
                    self.hand_all(state);
                }
            }
            (FeedNews::ClaimedBy(holder), _) => {
                if let Naming::Asked(this, _) = state.naming {
                    self.collide(state, Parting::First { holder, this });
                }
            }
            (FeedNews::Collision { own, .. }, _) => self.collide(state, Parting::At { own }),
            (FeedNews::Refused(refusal), _) => {
                state.error.get_or_insert(FeedError::Refused { name: self.name.to_string(), refusal });
            }
        }
    }

    fn collide(&self, state: &mut State, parting: Parting) {
        state.error.get_or_insert(FeedError::Collision { name: self.name.to_string(), parting });
    }
}

impl Port for FeedPort {
    fn reply(&self, outcomes: &mut dyn Iterator<Item = (u64, Outcome)>) {
        outcomes.for_each(drop);
    }

    fn feed(&self, receipts: &mut dyn Iterator<Item = FeedReceipt>) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        let now = self.shared.clock.now();
        receipts.for_each(|receipt| self.receipt(&mut state, receipt, now));
        while let Some(group) = state.go_on.pop_first() {
            self.hand(&mut state, group);
        }
        drop(state);
        self.progress.notify_waiters();
    }

    fn tick(&self) {
        self.tick_at(self.shared.clock.now());
    }

    fn connected(&self, outbound: &Arc<Outbound>) {
        // Held meanwhile, so that nothing of the feed's end comes before this.
        let state = self.state();
        if !state.closed {
            self.open_at(outbound);
        }
    }

    /// What was sent to the owner before may be lost: it goes again with the next tick, and so do the questions.
    fn routed(&self, shards: &[ShardId]) {
        let mut state = self.state();
        let state = &mut *state;
        if state.closed {
            return;
        }
        for shard in shards {
            if let Some(stream) = state.streams.get_mut(shard).filter(|stream| !stream.kept.is_empty()) {
                stream.again = Some(stream.first);
            }
            if state.unanswered.contains(shard) {
                state.asked_at = Timestamp::EPOCH;
            }
        }
        if let Naming::Asked(_, at) = &mut state.naming
            && shards.contains(&self.home())
        {
            *at = Timestamp::EPOCH;
        }
    }

    fn fail(&self, why: &str) {
        let error = FeedError::CutOff { name: self.name.to_string(), why: why.to_owned() };
        self.state().error.get_or_insert(error);
        self.progress.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Feed, *};
    use crate::{
        limits::Limits,
        node::Links,
        placement::{self, Shards},
    };

    /// A feed that has its name.
    fn feed() -> (Feed, Arc<Front>, ShardId) {
        let (feed, front, shard) = nameless();
        feed.port.state().naming = Naming::Held;
        (feed, front, shard)
    }

    /// A feed whose one worker is the test: what it is handed and told is up to the sentence.
    fn nameless() -> (Feed, Arc<Front>, ShardId) {
        let layout = Shards::new(1).unwrap();
        let front = Arc::new(Front::new(
            Limits::default(),
            Links::alone(layout),
            layout,
            vec![Arc::new(Intake::new(1))],
        ));
        let feed = Feed::open(&front, "f", None).unwrap();
        (feed, front, layout.place(0))
    }

    fn push(feed: &Feed, own: u64) {
        let mut bytes = Vec::new();
        Envelope::write_head("kind", "key", "Message", None, &mut bytes);
        let envelope = Envelope::from_bytes(bytes.into()).unwrap();
        let hash = placement::hash("kind", "key");
        feed.port.push(&mut feed.port.state(), own, hash, envelope).unwrap();
    }

    /// The numbers that were handed to the worker since.
    fn handed(front: &Front) -> Vec<u64> {
        let mut events = Vec::new();
        front.intakes[0].take(&mut events);
        let arrivals = events.into_iter().filter_map(|event| match event {
            Event::Arrived(arrivals) => Some(arrivals),
            _ => None,
        });
        let numbers = arrivals.flatten().map(|arrival| match arrival.from {
            kernel::Provenance::Feed { number, .. } => number,
            _ => unreachable!("only the feed sends"),
        });
        numbers.collect()
    }

    fn tell(feed: &Feed, shard: ShardId, news: FeedNews) {
        let (to, id) = (feed.port.to, feed.port.id);
        feed.port.feed(&mut std::iter::once(FeedReceipt { to, feed: id, shard, news }));
    }

    #[test]
    fn a_feed_that_is_told_nothing_sends_again() {
        let (feed, front, shard) = feed();
        (1..=3).for_each(|own| push(&feed, own));
        let start = front.clock.now();
        feed.port.tick_at(start);
        assert_eq!(handed(&front), [1, 2, 3]);
        tell(&feed, shard, FeedNews::SendFrom(2));
        feed.port.tick_at(start);
        assert_eq!(handed(&front), [2, 3]);
        // They were refused again, of which nothing is told: one word was enough for the burst.
        feed.port.tick_at(start + SILENCE / 2);
        assert_eq!(handed(&front), [0; 0]);
        let later = start + SILENCE * 2;
        feed.port.tick_at(later);
        assert_eq!(handed(&front), [1, 2, 3]);
        feed.port.tick_at(later + SILENCE / 2);
        assert_eq!(handed(&front), [0; 0]);
    }

    #[test]
    fn what_is_sent_again_takes_along_what_was_gathered() {
        let (feed, front, shard) = feed();
        (1..=2).for_each(|own| push(&feed, own));
        feed.port.tick_at(front.clock.now());
        push(&feed, 3);
        tell(&feed, shard, FeedNews::SendFrom(1));
        handed(&front);
        feed.port.tick_at(front.clock.now());
        assert_eq!(handed(&front), [1, 2, 3]);
    }

    /// Makes the worker's intake as full as it may be.
    fn fill(front: &Front) {
        let mut bytes = Vec::new();
        Envelope::write_head("kind", "key", "Message", None, &mut bytes);
        bytes.resize(front.limits.intake_bytes_max, 0);
        let (envelope, hash) = (Envelope::from_bytes(bytes.into()).unwrap(), placement::hash("kind", "key"));
        let shard = front.layout.place(hash);
        front.hand(vec![Arrival { shard, hash, envelope, from: kernel::Provenance::Volatile }]);
    }

    #[test]
    fn no_more_than_a_window_is_on_its_way() {
        let (feed, front, shard) = feed();
        let most = feed.port.window_max();
        let all = most + 300;
        (1..=all).for_each(|own| push(&feed, own));
        feed.port.tick_at(front.clock.now());
        assert_eq!(handed(&front), (1..=most).collect::<Vec<_>>());
        // What waits goes on at once, and not with a tick.
        tell(&feed, shard, FeedNews::Durable { through: 100 });
        assert_eq!(handed(&front), (most + 1..=most + 100).collect::<Vec<_>>());
        tell(&feed, shard, FeedNews::Durable { through: most + 100 });
        assert_eq!(handed(&front), (most + 101..=all).collect::<Vec<_>>());
        assert_eq!(feed.durable(), most + 100);
    }

    #[test]
    fn what_was_refused_is_sent_again_a_window_at_a_time() {
        let (feed, front, shard) = feed();
        let (window, most) = (front.limits.stream_window, feed.port.window_max());
        (1..=20_000).for_each(|own| push(&feed, own));
        assert!(window < most);
        // A mailbox is full again and again: each tick costs a window, and not all that is kept.
        for _ in 0..3 {
            tell(&feed, shard, FeedNews::SendFrom(11));
            handed(&front);
            feed.port.tick_at(front.clock.now());
            assert_eq!(handed(&front), (11..=window).collect::<Vec<_>>());
        }
        // It widens with what becomes durable.
        tell(&feed, shard, FeedNews::Durable { through: 10 });
        assert_eq!(handed(&front), (window + 1..=window + 20).collect::<Vec<_>>());
        for through in (1_000..=20_000).step_by(1_000) {
            tell(&feed, shard, FeedNews::Durable { through });
        }
        assert_eq!((feed.durable(), handed(&front).last()), (20_000, Some(&20_000)));
    }

    #[test]
    fn nothing_is_sent_again_to_a_worker_without_room() {
        let (feed, front, shard) = feed();
        (1..=3).for_each(|own| push(&feed, own));
        feed.port.tick_at(front.clock.now());
        handed(&front);
        let before = front.intakes[0].backlog();
        fill(&front);
        front.intakes[0].take(&mut Vec::new());
        tell(&feed, shard, FeedNews::SendFrom(2));
        feed.port.tick_at(front.clock.now());
        assert_eq!(handed(&front), [0; 0]);
        // It has had its turns.
        front.intakes[0].taken(front.intakes[0].backlog() - before, 0);
        feed.port.tick_at(front.clock.now());
        assert_eq!(handed(&front), [2, 3]);
    }

    #[test]
    fn only_what_was_handed_can_become_durable() {
        let (feed, front, shard) = feed();
        (1..=2).for_each(|own| push(&feed, own));
        feed.port.tick_at(front.clock.now());
        push(&feed, 3);
        // An earlier run sent more.
        tell(&feed, shard, FeedNews::Durable { through: 9 });
        assert_eq!(feed.durable(), 2);
        feed.port.tick_at(front.clock.now());
        tell(&feed, shard, FeedNews::Durable { through: 9 });
        assert_eq!(feed.durable(), 3);
    }

    #[test]
    fn no_row_leaves_before_the_name_is_claimed() {
        let (feed, front, shard) = nameless();
        let claims = |front: &Front| {
            let mut events = Vec::new();
            front.intakes[0].take(&mut events);
            assert!(!events.iter().any(|event| matches!(event, Event::Arrived(_))), "a row has left");
            events.iter().filter(|event| matches!(event, Event::AskFeed { .. })).count()
        };
        (1..=2 * GATHER as u64).for_each(|own| push(&feed, own));
        assert_eq!(claims(&front), 1);
        let start = front.clock.now();
        feed.port.tick_at(start);
        assert_eq!(claims(&front), 0);
        // No answer, then one that says to ask again.
        feed.port.tick_at(start + SILENCE * 2);
        assert_eq!(claims(&front), 1);
        tell(&feed, shard, FeedNews::Lost);
        feed.port.tick_at(start + SILENCE * 2);
        assert_eq!(claims(&front), 1);
        tell(&feed, shard, FeedNews::Claimed);
        assert_eq!(handed(&front), (1..=2 * GATHER as u64).collect::<Vec<_>>());
        feed.port.tick_at(front.clock.now());
        assert_eq!(handed(&front), [0; 0]);
    }
}
