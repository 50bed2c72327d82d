//! Kernels driven by hand over the memory store: every step is the test's own, no thread, no chance.

use entity_runtime::{
    activation::{Listener, ReplyTo},
    entity::{Entity, Handle, KindOf},
    kernel::{
        Action, Arrival, Event, FeedReceipt, HandOffNews, ImageTicket, Kernel, NextTurn, Opening,
        OpeningWord, Outcome, Output, Provenance, Receipt, Seat, Submission,
    },
    kinds::Kinds,
    limits::Limits,
    load,
    message::{self, ClientId, Envelope, Message, RequestId},
    placement::{self, ShardId, Shards},
    requests::Acknowledged,
    shard::LetterRow,
    store::{
        CommitError, Lane, LaneId, LoadError, NoRoom, RowType, Store,
        memory::{Faults, MemoryStore},
    },
    timestamp::Timestamp,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Kernels and their store. Shards go to the workers in turn, lanes to the shards in turn.
pub struct Driven<S: Store = MemoryStore> {
    kinds: Arc<Kinds>,
    limits: Limits,
    /// What the kernels stand on.
    pub store: S,
    lanes: Vec<Box<dyn Lane>>,
    voids: Vec<u64>,
    /// The kernels, one per worker.
    pub kernels: Vec<Kernel>,
    /// Submitted and not committed.
    pub pending: VecDeque<(usize, Submission)>,
    /// What callers were told, in order.
    pub told: Vec<(ReplyTo, Outcome)>,
    /// What feeds were told, in order.
    pub feeds_told: Vec<FeedReceipt>,
    /// Receipts are kept here instead of delivered, where this is set.
    pub held_receipts: Option<Vec<Receipt>>,
    /// Messages between shards are kept here instead of delivered, where this is set.
    pub held_hands: Option<Vec<Arrival>>,
    /// Openings to shards that are not here are kept here instead of answered, where this is set.
    pub held_openings: Option<Vec<Opening>>,
    /// Images that were asked for are not read while this is set.
    pub images_held: bool,
    images: Vec<(usize, Vec<ImageTicket>)>,
    /// How often messages of an outbox were read from the store.
    pub outboxes_read: u64,
    /// Kernels that start run their turns one at a time, as after an unclean exit, where this is set.
    pub careful: bool,
    /// The messages named before their turns then, in order, and which of them are given up.
    pub suspects: Vec<u64>,
    /// See `suspects`.
    pub condemned: Option<u64>,
    /// Requests say that their client has the replies up to here.
    pub acknowledged: u64,
    /// Whether the store grants room.
    pub room: Result<(), NoRoom>,
    /// The most that any kernel held after a step.
    pub peaks: Held,
    /// What was told of shards that are handed off.
    pub handed_off: Vec<(ShardId, HandOffNews)>,
    /// Messages and receipts for shards that are not here.
    pub sent_away: Vec<Output>,
    /// Last durable batch by worker and lane.
    durable: BTreeMap<(usize, LaneId), u64>,
    now: Timestamp,
    next_slot: u64,
}

/// Bytes a kernel has in memory.
#[derive(Debug, Default, Clone, Copy)]
pub struct Held {
    /// Of messages that had no turn yet.
    pub intake: usize,
    /// Of messages kept for receivers.
    pub outbox: usize,
    /// Of messages kept for receivers, in memory or in the store alone.
    pub kept: usize,
    /// Of activations.
    pub activations: usize,
}

/// The kinds of [`Driven`].
pub fn kinds() -> Kinds {
    Kinds::default()
}

/// Adds a kind.
///
/// # Panics
/// It is there already.
pub fn with<E: Entity>(mut kinds: Kinds) -> Kinds {
    assert!(kinds.register(Box::new(KindOf::<E>::new())), "registered twice");
    kinds
}

/// The encoded message to an entity.
///
/// # Panics
/// It does not encode.
pub fn envelope<E: Entity + Handle<M>, M: Message>(key: &str, message: &M) -> Envelope {
    named::<M>(E::KIND, key, message)
}

/// The encoded message to an entity of a kind given by name.
///
/// # Panics
/// It does not encode.
pub fn named<M: Message>(kind: &str, key: &str, message: &M) -> Envelope {
    let mut bytes = Vec::new();
    Envelope::write_head(kind, key, M::NAME, None, &mut bytes);
    message::encode(message, &mut bytes).expect("a test's message encodes");
    Envelope::from_bytes(bytes.into()).expect("it was written as one")
}

impl Driven {
    /// Kernels over a new store, serving.
    ///
    /// # Panics
    /// The number of shards is not a power of two.
    pub fn new(kinds: Kinds, limits: Limits, shards: u32, lanes: u32, workers: usize) -> Self {
        let layout = Shards::new(shards).expect("a power of two");
        Self::over(kinds, limits, MemoryStore::lagging(layout, lanes), workers)
    }

    /// The process ends and starts again on what is durable.
    pub fn restart(&mut self) {
        let workers = self.kernels.len();
        self.pending.clear();
        self.durable.clear();
        self.kernels.clear();
        self.store = self.store.restart();
        self.start(workers);
    }

    /// Plans faults of the store.
    pub fn faults(&self) -> Faults {
        self.store.faults()
    }
}

impl<S: Store> Driven<S> {
    /// Kernels over a store, serving what it owns.
    pub fn over(kinds: Kinds, limits: Limits, store: S, workers: usize) -> Self {
        let mut driven = Self {
            kinds: Arc::new(kinds),
            limits,
            lanes: Vec::new(),
            voids: Vec::new(),
            kernels: Vec::new(),
            store,
            pending: VecDeque::new(),
            told: Vec::new(),
            feeds_told: Vec::new(),
            handed_off: Vec::new(),
            sent_away: Vec::new(),
            held_receipts: None,
            held_hands: None,
            held_openings: None,
            images_held: false,
            images: Vec::new(),
            outboxes_read: 0,
            careful: false,
            suspects: Vec::new(),
            condemned: None,
            acknowledged: 0,
            room: Ok(()),
            peaks: Held::default(),
            durable: BTreeMap::new(),
            now: Timestamp::from_millis(1_000_000),
            next_slot: 0,
        };
        driven.start(workers);
        driven
    }

    fn start(&mut self, workers: usize) {
        self.lanes = (0..self.store.lanes()).map(|lane| self.store.open_lane(LaneId(lane))).collect();
        self.voids = vec![0; self.lanes.len()];
        let layout = self.store.shards();
        let owned = self.store.owned().expect("a memory store can be read");
        self.kernels = (0..workers)
            .map(|worker| {
                let lane_of = |shard| self.store.lane_of(shard);
                let is_mine = |shard: ShardId| shard.0 as usize % workers == worker;
                let seat = Seat::new(layout, lane_of, &owned, is_mine);
                let (kinds, limits) = (Arc::clone(&self.kinds), self.limits.clone());
                let kernel = Kernel::new(kinds, limits, seat, worker as u64, self.now);
                kernel.be_careful(u64::from(self.careful))
            })
            .collect();
        for worker in 0..workers {
            self.step(worker, Event::Tick);
        }
    }

    /// The n-th key of a kind in a shard.
    ///
    /// # Panics
    /// None of a million keys is.
    pub fn key_in(&self, kind: &str, shard: u32, nth: usize) -> String {
        let mut keys = (0..1_000_000).map(|number| format!("k{number}"));
        let found = keys.by_ref().filter(|key| self.shard_of(kind, key) == ShardId(shard)).nth(nth);
        found.expect("every shard has keys")
    }

    /// The shard of an entity.
    pub fn shard_of(&self, kind: &str, key: &str) -> ShardId {
        self.store.shards().place(placement::hash(kind, key))
    }

    /// Whether the store owns the shard.
    ///
    /// # Panics
    /// Never: memory does not fail.
    pub fn owns(&self, shard: ShardId) -> bool {
        self.store.owned().expect("memory does not fail").iter().any(|owned| owned.shard == shard)
    }

    /// The worker of a shard, where it is hosted.
    pub fn worker_of(&self, shard: ShardId) -> usize {
        shard.0 as usize % self.kernels.len()
    }

    /// One event, and its actions carried out; batches stay pending.
    ///
    /// # Panics
    /// The balance of P1 does not hold, a batch is too long, or the store's rows cannot be read.
    pub fn step(&mut self, worker: usize, event: Event) {
        let actions = self.kernels[worker].step(event, self.now);
        let audit = self.kernels[worker].audit();
        assert!(audit.balances(), "{audit:?}");
        let kernel = &self.kernels[worker];
        self.peaks = Held {
            intake: self.peaks.intake.max(kernel.intake_bytes()),
            outbox: self.peaks.outbox.max(kernel.outbox_bytes().1),
            kept: self.peaks.kept.max(kernel.outbox_bytes().0),
            activations: self.peaks.activations.max(kernel.activations().1),
        };
        for action in actions {
            match action {
                Action::Commit(submission) => {
                    let (len, max) = (submission.batch.bytes().len(), self.limits.batch_len_max());
                    assert!(len <= max, "a batch of {len} bytes has outgrown the {max} reserved for it");
                    self.pending.push_back((worker, submission));
                }
                Action::Put(output) => self.let_out(output),
                Action::Hand(arrivals) => arrivals.into_iter().for_each(|arrival| self.hand(arrival)),
                Action::LoadShard { shard, part, resets } => {
                    self.store.maintain().expect("memory does not fail");
                    let event = match self.store.owned_shard(shard).expect("memory does not fail") {
                        Some(owned) => {
                            let rows = load::shard(&self.store, shard, owned.epoch, part);
                            Event::ShardLoaded { resets, owned, rows: rows.expect("it is owned") }
                        }
                        None => Event::Lost { shard, resets },
                    };
                    self.step(worker, event);
                }
                Action::LoadImages(tickets) if self.images_held => self.images.push((worker, tickets)),
                Action::LoadOutbox(ticket) => {
                    let envelopes = load::outbox(&self.store, &ticket).expect("it is owned");
                    self.outboxes_read += 1;
                    self.step(worker, Event::OutboxLoaded(ticket, envelopes));
                }
                Action::LoadImages(tickets) => self.load_images(worker, tickets),
                Action::Left(shard) => {
                    for other in (0..self.kernels.len()).filter(|other| *other != worker) {
                        self.step(other, Event::InNode { shard, is: false });
                    }
                }
                Action::Stale(lane) => self.void_lane(lane),
                Action::WantLoadable => {}
                Action::Stop(error) => panic!("{error}"),
            }
        }
    }

    /// Reads the images that were held, and those asked for from now on at once.
    ///
    /// # Panics
    /// A shard of theirs is not owned any more.
    pub fn release_images(&mut self) {
        self.images_held = false;
        for (worker, tickets) in std::mem::take(&mut self.images) {
            self.load_images(worker, tickets);
        }
    }

    fn load_images(&mut self, worker: usize, mut tickets: Vec<ImageTicket>) {
        let keys: Vec<_> = tickets.iter().map(|ticket| ticket.key.clone()).collect();
        let event = match self.store.load_images(&keys) {
            Ok(images) => Event::ImagesLoaded(tickets.into_iter().zip(images).collect()),
            Err(LoadError::NotOwned(shard)) if self.store.shared().is_some() => {
                let refused = tickets.iter().position(|ticket| ticket.key.shard == shard);
                let resets = tickets.swap_remove(refused.expect("it was asked for")).resets;
                tickets.retain(|ticket| ticket.key.shard != shard);
                if !tickets.is_empty() {
                    self.load_images(worker, tickets);
                }
                Event::Lost { shard, resets }
            }
            Err(error) => panic!("{error}"),
        };
        self.step(worker, event);
    }

    fn let_out(&mut self, output: Output) {
        match output {
            Output::Reply(to, outcome) => self.told.push((to, outcome)),
            Output::FeedReceipt(receipt) => self.feeds_told.push(receipt),
            Output::HandOff(shard, news) => self.handed_off.push((shard, news)),
            // To a shard that is not here, which agrees.
            Output::Opening(opening) => {
                if let Some(held) = &mut self.held_openings {
                    return held.push(opening);
                }
                let says = OpeningWord::Receiver { floor: 0, mark: 0, parks: false };
                let agreed = Opening { says, ..opening };
                self.step(self.worker_of(agreed.to()), Event::Openings(vec![agreed]));
            }
            Output::Receipt(receipt) if !self.owns(receipt.source) => self.sent_away.push(output),
            Output::Hand(ref arrival) if !self.owns(arrival.shard) => self.sent_away.push(output),
            Output::Receipt(receipt) => match &mut self.held_receipts {
                Some(held) => held.push(receipt),
                None => self.step(self.worker_of(receipt.source), Event::Receipts(vec![receipt])),
            },
            Output::Hand(arrival) => self.hand(arrival),
        }
    }

    fn hand(&mut self, arrival: Arrival) {
        match &mut self.held_hands {
            Some(held) => held.push(arrival),
            None => self.arrive(arrival),
        }
    }

    /// Something arrives at its worker.
    pub fn arrive(&mut self, arrival: Arrival) {
        self.step(self.worker_of(arrival.shard), Event::Arrived(vec![arrival]));
    }

    /// A client's request arrives. Returns where it is answered.
    pub fn request(&mut self, client: u128, number: u64, envelope: Envelope, wants_reply: bool) -> ReplyTo {
        self.next_slot += 1;
        let to = ReplyTo { connection: 0, slot: self.next_slot };
        let issued_at = Timestamp::from_millis(1_000_000);
        let id = RequestId { client: ClientId(client), number, issued_at };
        let acknowledged = Acknowledged::through(self.acknowledged);
        let from = Provenance::Request { id, acknowledged, listener: Listener { to, wants_reply } };
        self.arrive_from(envelope, from);
        to
    }

    /// A query arrives.
    pub fn query(&mut self, envelope: Envelope) -> ReplyTo {
        self.next_slot += 1;
        let to = ReplyTo { connection: 0, slot: self.next_slot };
        self.arrive_from(envelope, Provenance::Query(to));
        to
    }

    fn arrive_from(&mut self, envelope: Envelope, from: Provenance) {
        let view = envelope.view();
        let hash = placement::hash(view.kind, view.key);
        let shard = self.store.shards().place(hash);
        self.arrive(Arrival { shard, hash, envelope, from });
    }

    /// One run of every lane that has work.
    pub fn run(&mut self) {
        for worker in 0..self.kernels.len() {
            for lane in self.kernels[worker].lanes() {
                if self.kernels[worker].has_work(lane) {
                    let room = self.room;
                    if room.is_ok() {
                        self.run_carefully(worker, lane);
                    }
                    self.step(worker, Event::Run { lane, room });
                }
            }
        }
    }

    fn run_carefully(&mut self, worker: usize, lane: LaneId) {
        while let Some(next) = self.kernels[worker].next_turn(lane) {
            let mut condemned = None;
            if let NextTurn::Message { digest, .. } = next {
                self.suspects.push(digest);
                condemned = (self.condemned == Some(digest)).then(|| "it is a suspect".to_owned());
            }
            self.step(worker, Event::Turn { lane, condemned });
        }
    }

    /// Commits the first pending batch; its outputs leave, or die with it and all others of its lane.
    ///
    /// # Panics
    /// There is none, or it ended in a way the test did not plan.
    pub fn commit(&mut self) {
        let (worker, submission) = self.pending.pop_front().expect("a batch is pending");
        let lane = submission.lane;
        let at = lane.0 as usize;
        if submission.voids < self.voids[at] {
            self.void(submission);
            return;
        }
        let batch = std::slice::from_ref(&submission.batch);
        let group = if submission.batch.is_empty() { &[] } else { batch };
        let mut shown = submission.shown.clone();
        shown.retain(|(shard, _)| !submission.batch.sections().any(|section| section.shard == *shard));
        match self.lanes[at].commit_and_confirm(group, &shown) {
            Ok(_) => {
                let through = submission.number;
                self.durable.insert((worker, lane), through);
                for output in submission.outputs {
                    self.let_out(output);
                }
                self.step(worker, Event::Durable { lane, through });
            }
            Err(CommitError::Failed(_) | CommitError::Fenced(_)) => {
                self.void(submission);
                self.void_lane(lane);
            }
            // The same group again, the next time: nothing of its lane may overtake it.
            Err(CommitError::Later(_)) => self.pending.push_front((worker, submission)),
            Err(error) => panic!("not planned: {error}"),
        }
    }

    /// Nothing of a lane that is not durable will be.
    fn void_lane(&mut self, lane: LaneId) {
        self.voids[lane.0 as usize] += 1;
        let voids = self.voids[lane.0 as usize];
        let (dead, alive): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pending).into_iter().partition(|(_, other)| other.lane == lane);
        self.pending = alive.into();
        for (_, submission) in dead {
            self.void(submission);
        }
        for worker in 0..self.kernels.len() {
            if self.kernels[worker].lanes().contains(&lane) {
                self.step(worker, Event::Voided { lane, voids });
            }
        }
    }

    fn void(&mut self, submission: Submission) {
        for output in submission.outputs.into_iter().filter_map(Output::into_void) {
            self.let_out(output);
        }
    }

    /// Runs and commits until there is nothing to do.
    ///
    /// # Panics
    /// There still is after 100,000 rounds.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            self.run();
            if self.pending.is_empty() && !self.has_work() {
                return;
            }
            while !self.pending.is_empty() {
                self.commit();
            }
        }
        panic!("still busy");
    }

    /// Whether a run would do something.
    pub fn has_work(&self) -> bool {
        self.kernels.iter().any(|kernel| kernel.lanes().into_iter().any(|lane| kernel.has_work(lane)))
    }

    /// Time passes, then everything there is to do is done.
    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.tick();
        self.settle();
    }

    /// Every worker looks at the time.
    pub fn tick(&mut self) {
        for worker in 0..self.kernels.len() {
            self.step(worker, Event::Tick);
        }
    }

    /// Time passes and nobody looks.
    pub fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    /// What was committed can be loaded, and the workers know.
    ///
    /// # Panics
    /// Something is not durable yet.
    pub fn checkpoint(&mut self) {
        self.settle();
        self.make_loadable();
    }

    /// What is durable by now can be loaded, and the workers know.
    ///
    /// # Panics
    /// A worker asks for what cannot be read.
    pub fn make_loadable(&mut self) {
        self.store.maintain().expect("memory does not fail");
        for ((worker, lane), through) in self.durable.clone() {
            self.step(worker, Event::Loadable { lane, through });
        }
    }

    /// What a caller was told; the last, where it was told more than once.
    pub fn answer(&self, to: ReplyTo) -> Option<&Outcome> {
        self.told.iter().rev().find(|(other, _)| *other == to).map(|(_, outcome)| outcome)
    }

    /// The dead letters in the store.
    ///
    /// # Panics
    /// A row is not one.
    pub fn dead_letters(&self) -> Vec<LetterRow> {
        self.store.maintain().expect("memory does not fail");
        let rows = self
            .store
            .owned()
            .expect("memory does not fail")
            .into_iter()
            .flat_map(|owned| self.store.load_shard(owned.shard, owned.epoch).expect("it is owned"));
        rows.filter(|(key, _)| key.first() == Some(&(RowType::DeadLetter as u8)))
            .map(|(_, value)| LetterRow::decode(&value).expect("a dead letter's row"))
            .collect()
    }
}
