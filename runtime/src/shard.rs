//! One shard in memory: everything but its activations, and the part of the batch that is being built for it.

mod rows;

pub use rows::{OutboxPart, OutboxRows, OutboxTicket, ShardRows};

use crate::{
    activation::{Behind, Listener, Slot, Waiting},
    context::ReminderId,
    feeds::{Claim, Feed, FeedId},
    kernel::Arrival,
    message::{ClientId, Envelope, RequestId},
    placement::{Epoch, NodeName, ShardId},
    reminders::{Reminder, Reminders},
    requests::Requests,
    store::{
        RowType, TransferId,
        batch::{delete, put},
        row::{put_varint, take, take_u32, take_u64, take_u128, take_varint},
    },
    stream::{Inbox, Outbox},
    timestamp::Timestamp,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// Last byte of the key of a feed's row: its marks.
pub const FEED_MARKS: u8 = 0;
/// The same: its name.
pub const FEED_NAME: u8 = 1;
/// The same: the claim on its name.
pub const FEED_CLAIM: u8 = 2;

/// Whether a shard's rows have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardPhase {
    /// They are being read; what arrives is held.
    Loading,
    /// It serves.
    Serving,
}

/// Counters of a shard that never restart, and its horizon.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Id of the next reminder.
    pub reminder_next: u64,
    /// Number of the next waiting message.
    pub waiting_next: u64,
    /// Number of the next dead letter.
    pub dead_next: u64,
    /// See [`Requests::horizon`].
    pub horizon: Timestamp,
}

impl Head {
    fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.reminder_next, self.waiting_next, self.dead_next, self.horizon.as_micros()] {
            put_varint(number, out);
        }
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        Some(Self {
            reminder_next: take_varint(&mut bytes)?,
            waiting_next: take_varint(&mut bytes)?,
            dead_next: take_varint(&mut bytes)?,
            horizon: Timestamp::from_micros(take_varint(&mut bytes)?),
        })
    }
}

/// What of a shard belongs in the batch being built. Rows that change often are named here and encoded once, when the
/// batch is closed; the others are encoded at once into `writes`.
#[derive(Debug, Default)]
pub struct Changes {
    /// Encoded writes.
    pub writes: Vec<u8>,
    /// How many of their bytes are counted in the lane's batch.
    pub measured: usize,
    /// Activations whose image changed.
    pub images: Vec<Slot>,
    /// Streams consumed from.
    pub inboxes: BTreeSet<ShardId>,
    /// Feeds consumed from.
    pub feeds: BTreeSet<FeedId>,
    /// Streams whose acknowledged messages leave the store.
    pub trims: BTreeSet<ShardId>,
    /// Clients who have settled more.
    pub clients: BTreeSet<ClientId>,
    /// The head changed.
    pub head: bool,
    /// This section seals the shard, by this transfer for this node and store.
    pub seal: Option<(TransferId, NodeName, u128)>,
    /// The shard is in the lane's list of touched shards.
    pub touched: bool,
}

/// Bytes of what a shard keeps in memory for long, whoever its entities are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Stored replies.
    pub replies: usize,
    /// Messages of stuck entities.
    pub waiting: usize,
    /// Messages of reminders.
    pub reminders: usize,
}

impl Kept {
    /// A sum of which one part, counted as `before`, is now another.
    #[must_use]
    pub fn with(self, before: Self, now: Self) -> Self {
        Self {
            replies: self.replies + now.replies - before.replies,
            waiting: self.waiting + now.waiting - before.waiting,
            reminders: self.reminders + now.reminders - before.reminders,
        }
    }
}

/// A stream's receiver was asked how far it is.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    /// When it is asked again.
    pub again: Timestamp,
    /// The pause before that.
    pub pause: Duration,
}

/// One shard.
#[derive(Debug)]
pub struct Shard {
    /// Which.
    pub id: ShardId,
    /// Epoch of the ownership.
    pub epoch: Epoch,
    /// Number of the last section submitted.
    pub number: u64,
    /// The kernel's index of its lane.
    pub lane: usize,
    /// How often its memory was voided; late answers from before are dropped (P12).
    pub resets: u64,
    /// Whether it serves.
    pub phase: ShardPhase,
    /// What arrived while it was loading.
    pub held: VecDeque<Arrival>,
    /// Images to be loaded when it serves, by row key: its last owner says that they are wanted.
    pub hot: Vec<Vec<u8>>,
    /// Counters.
    pub head: Head,
    /// Receiving ends, by source shard.
    pub inboxes: BTreeMap<ShardId, Inbox>,
    /// Sending ends, by target shard.
    pub outboxes: BTreeMap<ShardId, Outbox>,
    /// Bytes in all outboxes.
    pub outbox_bytes: usize,
    /// Targets with acknowledged messages that are still in the store.
    pub trims: BTreeSet<ShardId>,
    /// Targets with something handed and not acknowledged, and since when.
    pub unanswered: BTreeMap<ShardId, Timestamp>,
    /// Targets that were asked to open their stream, and when they are asked again.
    pub asking: BTreeMap<ShardId, Asking>,
    /// Feeds.
    pub feeds: BTreeMap<FeedId, Feed>,
    /// Who has the names of feeds whose claims lie here.
    pub claims: BTreeMap<FeedId, Claim>,
    /// Clients' requests.
    pub requests: Requests,
    /// Callers beyond the first of a request, and those of waiting messages.
    pub listeners: BTreeMap<RequestId, Vec<Listener>>,
    /// Reminders.
    pub reminders: Reminders,
    /// Messages of stuck entities.
    pub waiting: BTreeMap<u64, Waiting>,
    /// Bytes of them.
    pub waiting_bytes: usize,
    /// What it was last counted with in its worker's sum.
    pub counted: Kept,
    /// Numbers of the dead letters; the letters themselves are in the store.
    pub dead: BTreeSet<u64>,
    /// Bytes of its outboxes that may be on their way into memory.
    pub outbox_asked: usize,
    /// A copy of each section leaves with its batch: the shard is being handed off by this transfer.
    pub gives: Option<TransferId>,
    /// The batch being built.
    pub changes: Changes,
}

/// A row of the store is not what this build writes: corruption, or a newer build's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{shard} has a row that this build cannot read (type {row_type:#04x}); it may be a newer build's")]
pub struct RowError {
    /// The shard.
    pub shard: ShardId,
    /// Type byte of the row.
    pub row_type: u8,
}

impl Shard {
    /// A shard whose rows are not read yet.
    pub fn new(id: ShardId, lane: usize) -> Self {
        Self {
            id,
            epoch: Epoch(0),
            number: 0,
            lane,
            resets: 0,
            phase: ShardPhase::Loading,
            held: VecDeque::new(),
            hot: Vec::new(),
            head: Head::default(),
            inboxes: BTreeMap::new(),
            outboxes: BTreeMap::new(),
            outbox_bytes: 0,
            trims: BTreeSet::new(),
            unanswered: BTreeMap::new(),
            asking: BTreeMap::new(),
            feeds: BTreeMap::new(),
            claims: BTreeMap::new(),
            requests: Requests::default(),
            listeners: BTreeMap::new(),
            reminders: Reminders::default(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            counted: Kept::default(),
            dead: BTreeSet::new(),
            outbox_asked: 0,
            gives: None,
            changes: Changes::default(),
        }
    }

    /// Whether its rows are read.
    pub fn is_serving(&self) -> bool {
        self.phase == ShardPhase::Serving
    }

    /// What it keeps now.
    pub fn kept(&self) -> Kept {
        Kept {
            replies: self.requests.reply_bytes(),
            waiting: self.waiting_bytes,
            reminders: self.reminders.bytes(),
        }
    }

    /// Forgets all memory: the lane was voided. What was held has not been judged and stays.
    pub fn reset(&mut self) {
        let held = std::mem::take(&mut self.held);
        *self = Self { resets: self.resets + 1, epoch: self.epoch, held, ..Self::new(self.id, self.lane) };
    }

    /// Takes the rows read from the store.
    ///
    /// # Errors
    /// A row is not what this build writes.
    pub fn restore(&mut self, read: ShardRows) -> Result<(), RowError> {
        for (key, value) in read.rows {
            let row_type = key.first().copied().unwrap_or(0);
            let error = RowError { shard: self.id, row_type };
            let rest = key.get(1..).unwrap_or_default();
            RowType::from_byte(row_type)
                .and_then(|row_type| self.restore_row(row_type, rest, value))
                .ok_or(error)?;
        }
        for rest in read.rests {
            let outbox = self.outboxes.get_mut(&rest.target).filter(|outbox| outbox.last() < rest.through);
            outbox
                .is_some_and(|outbox| outbox.restore_rest(rest.through, rest.bytes))
                .then_some(())
                .ok_or(RowError { shard: self.id, row_type: RowType::Outbox as u8 })?;
            self.outbox_bytes += rest.bytes;
        }
        if !self.outboxes.values().all(Outbox::is_sound) {
            return Err(RowError { shard: self.id, row_type: RowType::Sent as u8 });
        }
        self.phase = ShardPhase::Serving;
        Ok(())
    }

    fn restore_row(&mut self, row_type: RowType, mut key: &[u8], value: Vec<u8>) -> Option<()> {
        match row_type {
            RowType::Head => {
                self.head = Head::decode(&value)?;
                self.requests.set_horizon(self.head.horizon);
            }
            RowType::Inbox => {
                self.inboxes.insert(ShardId(take_u32(&mut key)?), Inbox::decode(&value)?);
            }
            RowType::Sent => {
                self.outboxes.insert(ShardId(take_u32(&mut key)?), Outbox::decode(&value)?);
            }
            RowType::Outbox => {
                let (target, number) = (ShardId(take_u32(&mut key)?), take_u64(&mut key)?);
                let envelope = Envelope::from_bytes(value.into()).ok()?;
                self.outbox_bytes += envelope.len();
                let outbox = self.outboxes.entry(target).or_default();
                outbox.restore(number, envelope.bytes().clone()).then_some(())?;
            }
            RowType::Feed => {
                let id = FeedId(take_u128(&mut key)?);
                match key {
                    [FEED_MARKS] => drop(self.feeds.insert(id, Feed::decode(&value)?)),
                    // For operators.
                    [FEED_NAME] => {}
                    [FEED_CLAIM] => drop(self.claims.insert(id, Claim::decode(&value)?)),
                    _ => return None,
                }
            }
            RowType::Client => self.requests.restore_client(key, &value).then_some(())?,
            RowType::Reply => self.requests.restore_reply(key, &value).then_some(())?,
            RowType::Reminder => {
                let id = ReminderId(take_u64(&mut key)?);
                let mut value = value.as_slice();
                let due = Timestamp::from_micros(take_varint(&mut value)?);
                let envelope = Envelope::from_bytes(Bytes::copy_from_slice(value)).ok()?;
                let hash = hash_of(&envelope);
                self.reminders.set(id, Reminder { due, hash, envelope, fired: false });
            }
            RowType::Waiting => {
                let number = take_u64(&mut key)?;
                let waiting = decode_waiting(&value)?;
                match waiting.behind {
                    Behind::Nothing => {}
                    Behind::Request(request) => {
                        let digest = xxhash_rust::xxh3::xxh3_64(waiting.envelope.bytes());
                        self.requests.restore_pending(request, digest).then_some(())?;
                    }
                    Behind::Reminder(reminder) => self.reminders.set_fired(reminder),
                }
                self.waiting_bytes += waiting.envelope.len();
                self.waiting.insert(number, waiting);
            }
            RowType::DeadLetter => {
                self.dead.insert(take_u64(&mut key)?);
            }
            RowType::Image => return None,
        }
        Some(())
    }

    /// Appends the changes since the last batch to `out`, the images aside, and forgets them.
    pub fn write_changes(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.changes.writes);
        self.changes.measured = 0;
        let mut value = Vec::new();
        for source in std::mem::take(&mut self.changes.inboxes) {
            value.clear();
            self.inboxes[&source].encode(&mut value);
            put(&[&[RowType::Inbox as u8], &source.0.to_be_bytes()], &[&value], out);
        }
        for feed in std::mem::take(&mut self.changes.feeds) {
            value.clear();
            self.feeds[&feed].encode(&mut value);
            put(&[&[RowType::Feed as u8], &feed.0.to_be_bytes(), &[FEED_MARKS]], &[&value], out);
        }
        for client in std::mem::take(&mut self.changes.clients) {
            value.clear();
            self.requests.encode_client(client, &mut value);
            put(&[&[RowType::Client as u8], &client.0.to_be_bytes()], &[&value], out);
        }
        for target in std::mem::take(&mut self.changes.trims) {
            let outbox = self.outboxes.get_mut(&target).expect("a trimmed stream has an outbox");
            while let Some((from, through)) = outbox.trim() {
                let prefix: [&[u8]; 2] = [&[RowType::Outbox as u8], &target.0.to_be_bytes()];
                crate::store::batch::delete_range(&prefix, from, through, out);
            }
            put_sent(target, outbox, out);
        }
        if std::mem::take(&mut self.changes.head) {
            value.clear();
            self.head.horizon = self.requests.horizon();
            self.head.encode(&mut value);
            put(&[&[RowType::Head as u8]], &[&value], out);
        }
    }

    /// Appends the row of a stream's sending end, as it is now.
    pub fn write_sent(&mut self, target: ShardId) {
        let outbox = &self.outboxes[&target];
        put_sent(target, outbox, &mut self.changes.writes);
    }

    /// Appends the row of a feed's name, which lies beside its marks and beside its claim, for operators.
    pub fn name_feed(&mut self, feed: FeedId, name: &str) {
        let key: [&[u8]; 3] = [&[RowType::Feed as u8], &feed.0.to_be_bytes(), &[FEED_NAME]];
        put(&key, &[name.as_bytes()], &mut self.changes.writes);
    }

    /// Keeps a claim on the name of a feed, and appends its row.
    pub fn claim_feed(&mut self, feed: FeedId, claim: Claim) {
        let mut value = Vec::new();
        claim.encode(&mut value);
        let key: [&[u8]; 3] = [&[RowType::Feed as u8], &feed.0.to_be_bytes(), &[FEED_CLAIM]];
        put(&key, &[&value], &mut self.changes.writes);
        self.claims.insert(feed, claim);
    }

    /// Forgets a part of a feed, and appends the deletion of its row.
    pub fn forget_feed(&mut self, feed: FeedId, part: u8) {
        match part {
            FEED_MARKS => {
                self.feeds.remove(&feed);
                // Its row is not to be written again with this batch.
                self.changes.feeds.remove(&feed);
            }
            FEED_CLAIM => drop(self.claims.remove(&feed)),
            _ => {}
        }
        delete(&[&[RowType::Feed as u8], &feed.0.to_be_bytes(), &[part]], &mut self.changes.writes);
    }
}

fn put_sent(target: ShardId, outbox: &Outbox, out: &mut Vec<u8>) {
    let mut value = Vec::with_capacity(20);
    outbox.encode(&mut value);
    put(&[&[RowType::Sent as u8], &target.0.to_be_bytes()], &[&value], out);
}

/// Hash of an envelope's target.
pub fn hash_of(envelope: &Envelope) -> u64 {
    let view = envelope.view();
    crate::placement::hash(view.kind, view.key)
}

/// Row value of a waiting message: what is behind it, the envelope.
pub fn encode_waiting(waiting: &Waiting, out: &mut Vec<u8>) {
    match waiting.behind {
        Behind::Nothing => out.push(0),
        Behind::Request(id) => {
            out.push(1);
            out.extend_from_slice(&id.client.0.to_be_bytes());
            put_varint(id.number, out);
            put_varint(id.issued_at.as_micros(), out);
        }
        Behind::Reminder(id) => {
            out.push(2);
            put_varint(id.0, out);
        }
    }
    out.extend_from_slice(waiting.envelope.bytes());
}

/// Reads the row value of a waiting message; `None` where it is not one.
pub fn decode_waiting(mut value: &[u8]) -> Option<Waiting> {
    let behind = match take(&mut value, 1)?[0] {
        0 => Behind::Nothing,
        1 => Behind::Request(RequestId {
            client: ClientId(take_u128(&mut value)?),
            number: take_varint(&mut value)?,
            issued_at: Timestamp::from_micros(take_varint(&mut value)?),
        }),
        2 => Behind::Reminder(ReminderId(take_varint(&mut value)?)),
        _ => return None,
    };
    let envelope = Envelope::from_bytes(Bytes::copy_from_slice(value)).ok()?;
    Some(Waiting { envelope, behind })
}

/// A message that was given up, as it lies in the store for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterRow {
    /// When it was given up.
    pub at: Timestamp,
    /// How often it was tried.
    pub tries: u32,
    /// Why.
    pub reason: String,
    /// The message.
    pub envelope: Envelope,
}

impl LetterRow {
    /// Row value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(self.at.as_micros(), out);
        put_varint(u64::from(self.tries), out);
        put_varint(self.reason.len() as u64, out);
        out.extend_from_slice(self.reason.as_bytes());
        out.extend_from_slice(self.envelope.bytes());
    }

    /// Reads a row value; `None` where it is not one.
    pub fn decode(mut value: &[u8]) -> Option<Self> {
        let at = Timestamp::from_micros(take_varint(&mut value)?);
        let tries = u32::try_from(take_varint(&mut value)?).ok()?;
        let len = usize::try_from(take_varint(&mut value)?).ok()?;
        let reason = std::str::from_utf8(take(&mut value, len)?).ok()?.to_owned();
        let envelope = Envelope::from_bytes(Bytes::copy_from_slice(value)).ok()?;
        Some(Self { at, tries, reason, envelope })
    }
}
