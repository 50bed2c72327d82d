//! One lane as the kernel sees it: what waits for a turn, the batch being built, and what is not durable yet.

use super::{Arrival, ImageTicket, Order, Output, counters::Counts};
use crate::{
    activation::{ReplyTo, Slot},
    feeds::{DropStep, FeedId, FeedQuestion},
    message::Envelope,
    placement::{Epoch, SHARDS_MAX, ShardId},
    store::{LaneId, NoRoom, OwnershipRecord},
    timestamp::Timestamp,
};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

/// The kernel's part of one lane.
pub(super) struct LaneWork {
    pub(super) id: LaneId,
    pub(super) voids: u64,
    /// Judged when a run takes them.
    pub(super) arrivals: VecDeque<Arrival>,
    pub(super) arrival_bytes: usize,
    /// How many of `arrivals`, from the first, wait for room of this kind and for nothing else.
    pub(super) at_door: Option<(NoRoom, usize)>,
    /// Entities with mail.
    pub(super) ready: VecDeque<Slot>,
    /// The same of those whose turns are named before they run.
    pub(super) named: VecDeque<Slot>,
    /// Shards with something in the batch being built.
    pub(super) touched: Vec<ShardId>,
    /// Streams with something to hand over, as (source, target).
    pub(super) sending: BTreeSet<(ShardId, ShardId)>,
    /// Streams that are open again and go on when their rows, which name how far they were told, are written anew.
    pub(super) opened: BTreeSet<(ShardId, ShardId)>,
    /// Streams with messages that are in memory only until a load would find them.
    pub(super) backed: BTreeSet<(ShardId, ShardId)>,
    pub(super) outputs: Vec<Output>,
    /// Shards whose state the outputs show.
    pub(super) shown: Vec<ShardId>,
    pub(super) loads: Vec<ImageTicket>,
    /// Bytes of outboxes that may be on their way into memory.
    pub(super) outbox_asked: usize,
    /// Number of the last batch submitted.
    pub(super) number: u64,
    pub(super) durable: u64,
    pub(super) loadable: u64,
    pub(super) undurable: VecDeque<(u64, usize, Counts)>,
    pub(super) undurable_bytes: usize,
    /// Bytes of the batch being built, about.
    pub(super) batch_bytes: usize,
    /// Bytes of what waits for it and is in none of its rows: replies to queries, messages to volatile entities.
    pub(super) output_bytes: usize,
    pub(super) counts: Counts,
    /// When acknowledged messages must leave the store at the latest.
    pub(super) trim_at: Option<Timestamp>,
    /// Clients have rows in its shards, or may have: there are replies that will be old.
    pub(super) has_clients: bool,
    /// Its last run found no room in the store.
    pub(super) without_room: bool,
    /// When old replies are looked for again.
    pub(super) expire_at: Timestamp,
    /// What operators and feeds ask for, done in the next run that has room.
    pub(super) operations: VecDeque<Operation>,
    /// The same for hand-offs.
    pub(super) orders: VecDeque<(ShardId, Order)>,
    /// Ownership records of shards that are not hosted here, for the batch being built: epoch and number of their sections.
    pub(super) records: Vec<(ShardId, Epoch, u64, OwnershipRecord)>,
    /// Shards that were let go: the batch their seal is in, and how many messages waited in them.
    pub(super) leaving: VecDeque<(u64, u64)>,
    /// Streams that go on when the batch of this number is durable, as (source, target).
    pub(super) unparking: VecDeque<(u64, (ShardId, ShardId))>,
}

/// What is asked of one shard, beside messages.
pub(super) struct Operation {
    pub(super) shard: ShardId,
    pub(super) what: Operated,
    pub(super) to: ReplyTo,
}

/// See [`Operation`].
pub(super) enum Operated {
    /// See [`Event::DeadLetter`](super::Event::DeadLetter).
    Letter { number: u64, retry: Option<Envelope> },
    /// See [`Event::AskFeed`](super::Event::AskFeed).
    Feed { feed: FeedId, question: FeedQuestion },
    /// See [`Event::DropFeed`](super::Event::DropFeed).
    DropFeed { name: Arc<str>, step: DropStep },
    /// See [`Event::Unpark`](super::Event::Unpark).
    Unpark { shown: super::ParkedStream },
}

impl LaneWork {
    pub(super) fn new(id: LaneId) -> Self {
        Self {
            id,
            voids: 0,
            arrivals: VecDeque::new(),
            arrival_bytes: 0,
            at_door: None,
            ready: VecDeque::new(),
            named: VecDeque::new(),
            touched: Vec::new(),
            sending: BTreeSet::new(),
            opened: BTreeSet::new(),
            backed: BTreeSet::new(),
            outputs: Vec::new(),
            shown: Vec::new(),
            loads: Vec::new(),
            outbox_asked: 0,
            number: 0,
            durable: 0,
            loadable: 0,
            undurable: VecDeque::new(),
            undurable_bytes: 0,
            batch_bytes: 0,
            output_bytes: 0,
            counts: Counts::default(),
            trim_at: None,
            has_clients: false,
            without_room: false,
            expire_at: Timestamp::EPOCH,
            operations: VecDeque::new(),
            orders: VecDeque::new(),
            records: Vec::new(),
            leaving: VecDeque::new(),
            unparking: VecDeque::new(),
        }
    }
}

/// Most questions of operators and feeds that wait for one lane: a few for every shard there can be. Beyond it an operator
/// is told busy, and a feed asks again by itself.
pub const OPERATIONS_MAX: usize = 4 * SHARDS_MAX as usize;
/// What a shard takes in a batch beside what is counted one by one: the head of its section and the row of its counters.
pub(super) const SECTION_LEN: usize = 96;
/// What a row of marks takes without its window, a client's row, or the trimming of an outbox.
pub(super) const MARKS_LEN: usize = 64;
/// What one number in a window takes: for a feed it is two.
pub(super) const MARK_LEN: usize = 24;
/// What a row takes beside the message in it.
pub(super) const ROW_LEN: usize = 24;
