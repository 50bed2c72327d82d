//! What a worker decides: a state machine without clock, socket, file or thread.
//!
//! A kernel hosts the shards assigned to one worker, with their activations. It is driven by one function,
//! [`Kernel::step`]: an [`Event`] and the time go in, [`Action`]s come out. The actix worker is one ring around it, the
//! simulator another.
//!
//! # The path of a message
//!
//! 1. An [`Arrival`] is judged (`arrival.rs`): next in its stream, a repeat, or to be refused. Fresh ones are taken.
//! 2. Its entity is found or brought into memory, and the turn runs, at once or when it has its turn (`mailboxes.rs`,
//!    `turns.rs`).
//! 3. The turn's effects become rows of the batch being built: image, mark, outbox, reminders, reply (`effects.rs`).
//! 4. The batch is closed (`close.rs`) and submitted with everything that may leave only when it is durable.
//!
//! # Invariants
//! * **Output gate.** A reply, receipt or message to another lane travels *in* [`Action::Commit`], and leaves when that batch
//!   is durable or dies with it. Nothing else answers a message that was accepted.
//! * A message to a shard of the same lane is handed over after the batch has its place in the lane, never before (P13).
//! * Whatever may be needed again is kept in memory until [`Event::Loadable`] says that a load would find it (P12).
//! * accepted = applied + waiting + dead-lettered + in flight + voided, at every step ([`Kernel::audit`], P1).
//!
//! # Caveats
//! * Acknowledged replies are dropped by what the client says with its next request to the same shard; a client that falls
//!   silent leaves its last replies until the horizon passes them.

mod arrival;
mod careful;
mod close;
mod counters;
mod effects;
mod event;
mod feed;
mod gauge;
mod handoff;
mod hot;
mod lane;
mod lost;
mod mailboxes;
mod openings;
mod passivate;
mod seat;
mod streams;
mod stuck;
mod trouble;
mod turns;
mod unpark;

pub use careful::NextTurn;
pub use counters::{Audit, Counters};
pub use event::{
    Action, Arrival, Event, FeedNews, FeedReceipt, ImageTicket, Opening, OpeningWord, Outcome, Output,
    Provenance, Receipt, Submission,
};
pub use gauge::TurnGauge;
pub use handoff::{HandOffNews, Order};
pub use hot::HOT_MAX;
pub use seat::Seat;
pub use stuck::{Stuck, StuckPage};
pub use unpark::{Numbers, ParkedPage, ParkedState, ParkedStream};

use crate::{
    activation::{Activations, Mail, Origin, ReplyTo, Slot},
    context::Effects,
    error::{Bound, Refusal},
    feeds::FeedId,
    kinds::Kinds,
    limits::Limits,
    placement::{ShardId, Shards},
    shard::{Kept, OutboxPart, Shard, ShardPhase},
    store::{LaneId, NoRoom},
    timestamp::Timestamp,
};
use counters::Counts;
use feed::OpenFeed;
pub use lane::OPERATIONS_MAX;
use lane::{LaneWork, MARK_LEN, MARKS_LEN, Operated, Operation, ROW_LEN, SECTION_LEN};
use openings::Parked;
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// The kinds, as this worker counts its uses of them.
struct SharedKinds(Arc<Kinds>);

impl std::ops::Deref for SharedKinds {
    type Target = Kinds;

    fn deref(&self) -> &Kinds {
        &self.0
    }
}

/// One worker's state machine. See the module.
pub struct Kernel {
    /// Counted without atomics: workers share the kinds, and a turn asks for them more than once.
    kinds: Rc<SharedKinds>,
    limits: Limits,
    layout: Shards,
    /// By shard number; `None` for shards of other workers and nodes.
    shards: Vec<Option<Box<Shard>>>,
    /// The shards hosted here, in order.
    hosted: Vec<ShardId>,
    lanes: Vec<LaneWork>,
    /// By shard number: its lane, here and with other workers of this node.
    lane_of: Vec<LaneId>,
    /// By shard number: whether a worker of this node hosts it, so that its lane is one of this node's.
    in_node: Vec<bool>,
    /// By shard number: resets of those that were hosted here and have left, so that no late answer to an earlier stay
    /// meets a later one (P12).
    left: BTreeMap<ShardId, u64>,
    activations: Activations,
    activation_bytes: usize,
    /// Bytes of what is held for shards that are loading.
    held_bytes: usize,
    /// Bytes of messages kept in memory for receivers.
    outbox_memory: usize,
    /// What the shards keep, as of their last batches.
    kept: Kept,
    /// Streams that hold messages which have had no turn yet.
    streams_held: usize,
    /// Where the sweep for idle activations goes on.
    sweep_at: usize,
    /// When failing entities are tried again.
    retries: BTreeSet<(Timestamp, Slot)>,
    open_feeds: BTreeMap<FeedId, OpenFeed>,
    /// Streams refused from some number on, as (source, target): their senders wait to hear that there is room.
    starved: BTreeSet<(ShardId, ShardId)>,
    /// Streams whose ends do not fit, as (source, target): nothing is sent or taken in them.
    parked: BTreeMap<(ShardId, ShardId), Parked>,
    /// Number of the last opening; the first one is anywhere.
    opening: u64,
    /// By shard: after so many resets, from this number on, the messages of an outbox were not in the store as they are known here.
    unread: BTreeMap<ShardId, (u64, u64)>,
    /// Openings of streams to shards that are loading, the newest of each.
    held_openings: BTreeMap<(ShardId, ShardId), Opening>,
    /// Feeds told to send again since the last tick; one word is enough for a whole burst.
    refused_feeds: BTreeSet<(ReplyTo, FeedId, ShardId)>,
    effects: Effects,
    /// Where a state is encoded before it becomes the image.
    scratch: Vec<u8>,
    /// Buffers of batches that are durable, for the next ones.
    spare: Vec<Vec<u8>>,
    seed: u64,
    turns: u64,
    run: u32,
    now: Timestamp,
    started: Timestamp,
    /// The node is stopping: what is in memory is finished, and nothing new is begun.
    draining: bool,
    gauge: Arc<TurnGauge>,
    /// Turns still to be run one at a time, each named before (P3): of all shards,
    careful: u64,
    /// and of those that were taken from a node that is gone.
    careful_of: BTreeMap<ShardId, u64>,
    /// The message whose turn is next is given up, for this reason.
    condemned: Option<String>,
    /// No second turn may run in this step.
    one_turn: bool,
    counters: Counters,
    actions: Vec<Action>,
}

/// What a request is told when there is no room for its turn.
fn refusal(why: NoRoom) -> Refusal {
    match why {
        NoRoom::LogTail => Refusal::Busy(Bound::LogTail),
        NoRoom::DiskFull => Refusal::StorageFull,
    }
}

impl Kernel {
    /// A kernel that hosts some of the store's shards. It serves none before they are loaded: the first
    /// [`Kernel::step`] asks for them, whatever its event.
    pub fn new(kinds: Arc<Kinds>, limits: Limits, seat: Seat, seed: u64, now: Timestamp) -> Self {
        let Seat { layout, lane_of, in_node, hosted } = seat;
        let lane_ids: BTreeSet<LaneId> = lane_of.iter().copied().collect();
        let mut kernel = Self {
            kinds: Rc::new(SharedKinds(kinds)),
            limits,
            layout,
            shards: layout.iter().map(|_| None).collect(),
            hosted: Vec::new(),
            lanes: lane_ids.into_iter().map(LaneWork::new).collect(),
            lane_of,
            in_node,
            left: BTreeMap::new(),
            activations: Activations::default(),
            activation_bytes: 0,
            held_bytes: 0,
            outbox_memory: 0,
            kept: Kept::default(),
            streams_held: 0,
            sweep_at: 0,
            retries: BTreeSet::new(),
            open_feeds: BTreeMap::new(),
            starved: BTreeSet::new(),
            refused_feeds: BTreeSet::new(),
            parked: BTreeMap::new(),
            unread: BTreeMap::new(),
            opening: seed,
            held_openings: BTreeMap::new(),
            effects: Effects::new(),
            scratch: Vec::new(),
            spare: Vec::new(),
            seed,
            turns: 0,
            run: 0,
            now,
            started: now,
            draining: false,
            gauge: Arc::default(),
            careful: 0,
            careful_of: BTreeMap::new(),
            condemned: None,
            one_turn: false,
            counters: Counters::default(),
            actions: Vec::new(),
        };
        for shard in hosted {
            kernel.seat(shard);
        }
        for at in 0..kernel.hosted.len() {
            kernel.load_shard(kernel.hosted[at]);
        }
        kernel
    }

    /// Asks for the rows of a shard. Its outboxes come into memory as far as their share of it allows.
    fn load_shard(&mut self, id: ShardId) {
        let part = OutboxPart {
            len_max: self.limits.stream_window,
            bytes_max: self.limits.outbox_memory_max / self.hosted.len().max(1),
        };
        let resets = self.host(id).resets;
        self.actions.push(Action::LoadShard { shard: id, part, resets });
    }

    /// Takes one event and returns what is to be done, in order. `now` never runs backwards here, whatever is passed.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Action> {
        self.now = self.now.max(now);
        match event {
            Event::Arrived(arrivals) => self.arrive(arrivals),
            Event::Receipts(receipts) => receipts.into_iter().for_each(|receipt| self.receipt(receipt)),
            Event::Openings(openings) => openings.into_iter().for_each(|opening| self.opening(opening)),
            Event::OpenFeed { feed, name, to } => self.open_feed(feed, name, to),
            Event::AskFeed { feed, shard, question, to } => self.feed_asks(feed, shard, question, to),
            Event::CloseFeed { feed, to } => self.close_feed(feed, to),
            Event::Durable { lane, through } => self.durable(lane, through),
            Event::Loadable { lane, through } => self.loadable(lane, through),
            Event::Voided { lane, voids } => self.voided(lane, voids),
            Event::ShardLoaded { resets, owned, rows } => self.shard_loaded(resets, owned, rows),
            Event::Lost { shard, resets } => self.lost(shard, resets),
            Event::OutboxLoaded(ticket, envelopes) => self.outbox_loaded(&ticket, envelopes),
            Event::ImagesLoaded(images) => self.images_loaded(images),
            Event::Run { lane, room } => self.run(lane, room),
            Event::Turn { lane, condemned } => self.one_turn(lane, condemned),
            Event::DeadLetter { shard, number, retry, to } => {
                self.operator_asks(Operation { shard, what: Operated::Letter { number, retry }, to });
            }
            Event::DropFeed { shard, name, step, to } => {
                self.operator_asks(Operation { shard, what: Operated::DropFeed { name, step }, to });
            }
            Event::ListStuck { from, to } => self.list_stuck(from, to),
            Event::ListParked { to } => self.list_parked(to),
            Event::Unpark { shown, to } => {
                self.operator_asks(Operation { shard: shown.target, what: Operated::Unpark { shown }, to });
            }
            Event::Host { shard, was_taken } => self.host_shard(shard, was_taken),
            Event::Warm { shard, images } => self.warm(shard, images),
            Event::InNode { shard, is } => self.is_in_node(shard, is),
            Event::SendAgain { target } => self.send_again(target),
            Event::HandOff { shard, order } => self.order(shard, order),
            Event::Tick => self.tick(),
            Event::Drain => {
                self.draining = true;
                // What was acknowledged leaves the store now, or the next start would send it again for nothing.
                let now = self.now;
                for lane in &mut self.lanes {
                    lane.sending.clear();
                    lane.trim_at = lane.trim_at.map(|_| now);
                }
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// The time as of the last step. Ahead of what was passed where a shard has seen later: the clock was set back, and the
    /// ring should go on from here.
    pub fn time(&self) -> Timestamp {
        self.now
    }

    /// Takes back buffers of batches that are durable. Without them each batch's memory is new, and the system clears it.
    pub fn recycle(&mut self, buffers: &mut Vec<Vec<u8>>) {
        /// More are not in use at a time.
        const SPARE_MAX: usize = 4;
        self.spare.append(buffers);
        self.spare.truncate(SPARE_MAX);
    }

    /// Tells which turn runs now by this gauge.
    pub fn watched_by(mut self, gauge: Arc<TurnGauge>) -> Self {
        self.gauge = gauge;
        self
    }

    /// The lanes its shards may be in, in order.
    pub fn lanes(&self) -> Vec<LaneId> {
        self.lanes.iter().map(|lane| lane.id).collect()
    }

    /// Whether a run of the lane would do something now. After a run that had no room this may stay true: pause before
    /// the next.
    pub fn has_work(&self, lane: LaneId) -> bool {
        let Some(lane) = self.lanes.iter().find(|work| work.id == lane) else { return false };
        let waits = self.limits.undurable_bytes_max <= lane.undurable_bytes;
        let asked = !lane.operations.is_empty() || !lane.orders.is_empty();
        let ready = !lane.ready.is_empty() || !lane.named.is_empty();
        let turns = !lane.arrivals.is_empty() || ready || asked;
        let trims = lane.trim_at.is_some_and(|at| at <= self.now);
        let chores = trims || !lane.opened.is_empty() || self.expires(lane);
        let built = !lane.touched.is_empty() || !lane.records.is_empty();
        let unsent = built || !lane.outputs.is_empty() || !lane.sending.is_empty();
        ((turns || chores) && !waits) || unsent || !lane.loads.is_empty()
    }

    /// Whether every shard serves.
    pub fn is_serving(&self) -> bool {
        self.hosted
            .iter()
            .all(|shard| self.shard(*shard).is_some_and(|shard| shard.phase == ShardPhase::Serving))
    }

    /// Whether no message is on its way here: nothing arrived, waits for a turn, for a commit or for a receiver.
    pub fn is_quiet(&self) -> bool {
        self.counters().in_flight == 0
            && self.lanes.iter().all(|lane| lane.arrivals.is_empty() && lane.undurable.is_empty())
            && !self.lanes.iter().any(|lane| self.has_work(lane.id))
            && self
                .hosted
                .iter()
                .filter_map(|shard| self.shard(*shard))
                // No message is without a byte.
                .all(|shard| shard.held.is_empty() && shard.outbox_bytes == 0)
    }

    /// Whether nothing is in memory that is not durable, beside what is sent again from the store at the next start.
    pub fn is_drained(&self) -> bool {
        self.lanes.iter().all(|lane| lane.undurable.is_empty() && !self.has_work(lane.id))
    }

    /// Whether everything submitted is durable, whatever waits to be run.
    pub fn is_durable(&self) -> bool {
        self.lanes.iter().all(|lane| lane.undurable.is_empty())
    }

    /// What keeps [`Kernel::is_quiet`] from being true, in words.
    pub fn unrest(&self) -> String {
        let lanes: Vec<_> = self
            .lanes
            .iter()
            .map(|lane| {
                let work = self.has_work(lane.id);
                (lane.id.0, lane.arrivals.len(), lane.undurable.len(), work)
            })
            .collect();
        let outboxes: Vec<_> = self
            .hosted
            .iter()
            .filter_map(|shard| self.shard(*shard))
            .flat_map(|shard| {
                let sent = |(target, outbox): (&ShardId, &crate::stream::Outbox)| {
                    (!outbox.is_empty()).then_some((shard.id.0, target.0, outbox.len()))
                };
                shard.outboxes.iter().filter_map(sent)
            })
            .collect();
        format!("lanes (id, arrivals, undurable, work) {lanes:?}, outboxes (from, to, kept) {outboxes:?}")
    }

    /// How many activations are in memory, and the bytes they are counted with.
    pub fn activations(&self) -> (usize, usize) {
        (self.activations.len(), self.activation_bytes)
    }

    /// Bytes of messages kept for receivers: all of them, and those in memory.
    pub fn outbox_bytes(&self) -> (usize, usize) {
        let shards = self.hosted.iter().filter_map(|id| self.shard(*id));
        (shards.map(|shard| shard.outbox_bytes).sum(), self.outbox_memory)
    }

    /// Bytes of messages that arrived and have had no turn yet: what [`Limits::intake_bytes_max`] bounds.
    pub fn intake_bytes(&self) -> usize {
        let arrived: usize = self.lanes.iter().map(|lane| lane.arrival_bytes).sum();
        self.held_bytes + arrived + self.activations.mail_bytes()
    }

    fn kinds(&self) -> Rc<SharedKinds> {
        Rc::clone(&self.kinds)
    }

    fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.get(id.0 as usize)?.as_deref()
    }

    fn shard_mut(&mut self, id: ShardId) -> Option<&mut Shard> {
        self.shards.get_mut(id.0 as usize)?.as_deref_mut()
    }

    /// A shard that is known to be hosted here.
    fn host(&mut self, id: ShardId) -> &mut Shard {
        self.shard_mut(id).expect("the shard of an activation is hosted here")
    }

    fn lane_index(&self, id: LaneId) -> usize {
        self.lanes.iter().position(|lane| lane.id == id).expect("events name lanes of this kernel")
    }

    /// The shard has something in the batch being built.
    fn touch(&mut self, id: ShardId) -> &mut Shard {
        let shard = self.shards[id.0 as usize].as_deref_mut().expect("only hosted shards are touched");
        if !shard.changes.touched {
            shard.changes.touched = true;
            let lane = &mut self.lanes[shard.lane];
            lane.touched.push(id);
            lane.batch_bytes += SECTION_LEN;
            // What was acknowledged rides along, as far as there is room (P9), and one stream's at least.
            let room = self.limits.batch_len.saturating_sub(lane.batch_bytes) / MARKS_LEN;
            let first_left = shard.trims.iter().nth(room.max(1)).copied();
            let left = first_left.map_or_else(BTreeSet::new, |first| shard.trims.split_off(&first));
            shard.changes.trims = std::mem::replace(&mut shard.trims, left);
            lane.batch_bytes += shard.changes.trims.len() * MARKS_LEN;
        }
        shard
    }

    /// Counts what was written for a shard since the last time. Whoever writes calls this, or a batch may outgrow the room
    /// reserved for it (P15).
    fn measure(&mut self, id: ShardId) {
        let shard = self.shards[id.0 as usize].as_deref_mut().expect("only hosted shards are written");
        let written = shard.changes.writes.len();
        let before = std::mem::replace(&mut shard.changes.measured, written);
        self.lanes[shard.lane].batch_bytes += written - before;
    }

    /// Marks a message of a stream or feed as consumed. The row of its marks is written when the batch is closed.
    fn mark(&mut self, id: ShardId, mail: &Mail) {
        let shard = self.touch(id);
        let (is_first, window) = match mail.origin {
            Origin::Stream { source, number } => {
                let inbox = shard.inboxes.get_mut(&source).expect("judged at the door");
                inbox.consume(number, mail.bytes());
                let (is_first, window) = (shard.changes.inboxes.insert(source), inbox.window_len());
                let holds_none = inbox.held() == 0;
                self.streams_held -= usize::from(holds_none);
                (is_first, window)
            }
            Origin::Feed { feed, number } => {
                let marks = shard.feeds.get_mut(&feed).expect("judged at the door");
                marks.consume(number);
                (shard.changes.feeds.insert(feed), marks.window_len())
            }
            _ => return,
        };
        let lane = self.host(id).lane;
        self.lanes[lane].batch_bytes += if is_first { MARKS_LEN + window * MARK_LEN } else { MARK_LEN };
    }

    /// What the shards of this worker keep, with this one as it is now.
    fn kept_with(&self, id: ShardId) -> Kept {
        let shard = self.shard(id).expect("hosted");
        self.kept.with(shard.counted, shard.kept())
    }

    /// Counts what a shard keeps by now in the worker's sum.
    fn count_kept(&mut self, id: ShardId) {
        let shard = self.shards[id.0 as usize].as_deref_mut().expect("hosted");
        let now = shard.kept();
        self.kept = self.kept.with(std::mem::replace(&mut shard.counted, now), now);
    }

    /// Bytes the batch being built has room for.
    fn batch_room(&self, lane: usize) -> usize {
        self.limits.batch_len.saturating_sub(self.lanes[lane].batch_bytes)
    }

    /// Whether the batch being built takes no more turns: it is as long as one should be, or what waits for it and is in
    /// none of its rows is.
    fn is_batch_full(&self, lane: usize) -> bool {
        let lane = &self.lanes[lane];
        self.limits.batch_len <= lane.batch_bytes.max(lane.output_bytes)
    }

    /// Lets something out with the batch being built.
    fn put_gated(&mut self, lane: usize, output: Output) {
        self.lanes[lane].outputs.push(output);
    }

    /// Lets something out that shows the state of a shard, as it is when the batch being built is durable. A fact that is
    /// never taken back, as a reply that was stored, needs no more than [`Kernel::put_gated`].
    fn put_shown(&mut self, lane: usize, shard: ShardId, output: Output) {
        let lane = &mut self.lanes[lane];
        lane.outputs.push(output);
        if lane.shown.last() != Some(&shard) {
            lane.shown.push(shard);
        }
    }

    fn put_now(&mut self, output: Output) {
        self.actions.push(Action::Put(output));
    }

    fn run(&mut self, lane: LaneId, room: Result<(), NoRoom>) {
        let lane = self.lane_index(lane);
        self.lanes[lane].without_room = room.is_err();
        if self.lanes[lane].undurable_bytes < self.limits.undurable_bytes_max {
            self.run = self.run.wrapping_add(1);
            self.run_chores(lane, room);
            self.run_ready(lane, room);
            self.run_arrivals(lane, room);
            if room.is_ok() {
                self.feed_starved(false);
            }
        }
        assert!(
            room.is_ok() || self.lanes[lane].touched.is_empty(),
            "without room nothing is written, or the submitted batch could fail for lack of it"
        );
        self.close(lane);
    }

    fn tick(&mut self) {
        self.refused_feeds.clear();
        if !self.draining {
            self.fire_reminders();
            self.resend();
            self.ask_again();
            self.forget_silent();
        }
        self.retry_failing();
        self.passivate();
        self.feed_starved(true);
        if self.limits.outbox_memory_max < self.outbox_memory
            && self.lanes.iter().any(|lane| !lane.backed.is_empty())
        {
            self.actions.push(Action::WantLoadable);
        }
    }

    /// Hands due reminders to their entities, as far as there is room for them: the others are due with the next tick.
    fn fire_reminders(&mut self) {
        for at in 0..self.hosted.len() {
            let (id, now) = (self.hosted[at], self.now);
            loop {
                let has_room = self.activation_bytes < self.limits.activation_bytes_max
                    && self.activations.mail_bytes() < self.limits.intake_bytes_max;
                if !has_room {
                    return;
                }
                let outbox_bytes_max = self.limits.outbox_bytes_max;
                let shard = self.host(id);
                // What a reminder sends has no room either (P8).
                let is_held_back = outbox_bytes_max <= shard.outbox_bytes;
                let due = if is_held_back { None } else { shard.reminders.fire(now) };
                let Some((reminder, hash, envelope)) = due else { break };
                let Some(slot) = self.activate(id, hash, &envelope) else {
                    // Its kind is not registered in this build: it stays set and is looked at again.
                    let due = self.now + Duration::from_mins(1);
                    self.host(id).reminders.defer(reminder, due);
                    continue;
                };
                let full = self
                    .activations
                    .get(slot)
                    .is_some_and(|a| self.limits.mailbox_len_max <= a.mailbox_len());
                if full {
                    let due = self.now + self.limits.retry_after;
                    self.host(id).reminders.defer(reminder, due);
                    continue;
                }
                self.counters.accepted += 1;
                self.mail_later(slot, Mail { envelope, origin: Origin::Reminder(reminder) });
            }
        }
    }

    /// What is written without a message: trims, rows of opened streams, dropped replies, operators' words. Only with room, for
    /// every row needs it (P15).
    fn run_chores(&mut self, lane: usize, room: Result<(), NoRoom>) {
        self.run_operations(lane, room);
        if room.is_err() {
            return;
        }
        // Before the turns: those may leave no room in any batch.
        self.run_orders(lane);
        self.forget_told(lane);
        if self.lanes[lane].trim_at.is_some_and(|at| at <= self.now) {
            self.trim(lane);
        }
        if self.expires(&self.lanes[lane]) {
            self.expire_requests(lane);
        }
    }

    fn trim(&mut self, lane: usize) {
        for at in 0..self.hosted.len() {
            let id = self.hosted[at];
            let has_trims = self.shard(id).is_some_and(|shard| shard.lane == lane && !shard.trims.is_empty());
            if has_trims && (self.is_batch_full(lane) || !self.touch(id).trims.is_empty()) {
                // The rest goes with the next batch.
                return;
            }
        }
        self.lanes[lane].trim_at = None;
    }

    /// Whether it is time to look for old replies in the lane.
    fn expires(&self, lane: &LaneWork) -> bool {
        lane.has_clients && lane.expire_at <= self.now
    }
}
