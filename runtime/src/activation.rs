//! Entities in memory: each one's living state, its last image, its mailbox.
//!
//! The hot path is cache misses, so the index holds slot numbers only, found by a hash that stands in the slot, and the
//! lookups of many messages are done before their turns.

use crate::{
    context::ReminderId,
    entity::AnyEntity,
    feeds::FeedId,
    message::{Envelope, RequestId},
    placement::ShardId,
    timestamp::Timestamp,
};
use hashbrown::HashTable;
use std::collections::VecDeque;

/// Names an activation while it is in memory. The generation tells a reused slot from the old one (P12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    index: u32,
    generation: u32,
}

/// The number of a kind in the runtime's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindIndex(pub u16);

/// Where an activation is in its life.
///
/// ```text
///              image asked for                     image read
///   (first message) ───────────► Loading ─────────────────────────► Active ───► (passivated)
///                                                                    │   its state cannot be read
///                                                                    └──────────────────────────► Parked
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its image is being read; messages wait in its mailbox.
    Loading,
    /// It runs turns; the first one reads its state.
    Active,
    /// Its stored state cannot be read; messages go to its waiting queue.
    Parked,
}

/// One entity in memory.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, a byte each, in a struct there are millions of"
)]
pub struct Activation {
    hash: u64,
    /// The entity's key.
    pub key: Box<str>,
    /// The living state. `None` unless active, and until the first turn has read it from the image.
    pub state: Option<Box<dyn AnyEntity>>,
    /// The encoded state at the end of its last turn, where it is kept: what a turn that does not count is undone from.
    pub image: Vec<u8>,
    /// Messages for later: it is loading, failing, or had its share of turns.
    pub mailbox: Option<Box<VecDeque<Mail>>>,
    /// Set while it fails or is parked.
    pub trouble: Option<Box<Trouble>>,
    /// The batch its last image is in. Loads may not find it before (P12).
    pub last_batch: u64,
    /// Its shard.
    pub shard: ShardId,
    generation: u32,
    /// When it last had a message, in seconds since the worker started.
    pub used_at: u32,
    /// In which run its turns were last counted, and how many it had.
    pub run: u32,
    /// See `run`.
    pub turns_in_run: u32,
    /// Bytes it was last counted with in the memory bound.
    pub weight: u32,
    /// Schema version of an image that was loaded and not read yet.
    pub image_version: u32,
    /// Its kind.
    pub kind: KindIndex,
    /// Where it is in its life.
    pub phase: Phase,
    /// It has an image in the store or in a batch on the way there.
    pub exists: bool,
    /// `image` holds the encoding of `state`. An entity that does not exist has none.
    pub has_image: bool,
    /// Its image belongs in the batch being built.
    pub dirty: bool,
    /// It is in the queue of entities with work.
    pub scheduled: bool,
}

/// A message taken into memory, and where it came from.
#[derive(Debug, Clone)]
pub struct Mail {
    /// The message.
    pub envelope: Envelope,
    /// Where it came from.
    pub origin: Origin,
}

impl Mail {
    /// Bytes it takes in a mailbox.
    pub fn bytes(&self) -> usize {
        self.envelope.len() + size_of::<Self>()
    }
}

/// Where a message came from: what is marked when it is consumed, and who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Another shard, or this one.
    Stream {
        /// The sending shard.
        source: ShardId,
        /// Its number in the stream.
        number: u64,
    },
    /// A client with a stable name.
    Feed {
        /// The feed.
        feed: FeedId,
        /// Its number in the feed's stream to this shard.
        number: u64,
    },
    /// A client's request.
    Request {
        /// Its id.
        id: RequestId,
        /// Who is told, and what.
        listener: Listener,
    },
    /// A client's question.
    Query(ReplyTo),
    /// A message of or to a volatile entity (P5).
    Volatile(Option<ReplyTo>),
    /// A due reminder.
    Reminder(ReminderId),
    /// The head of the entity's waiting queue.
    Waiting(u64),
}

/// Where a reply goes; the ring knows what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyTo {
    /// The connection or client within this process.
    pub connection: u32,
    /// Which of its requests.
    pub slot: u64,
}

/// A caller that waits for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Where the answer goes.
    pub to: ReplyTo,
    /// `ask`: only the reply will do. `send`: that the message is durably accepted is enough.
    pub wants_reply: bool,
}

/// Why an activation does not run its messages now.
#[derive(Debug)]
pub struct Trouble {
    /// When it began to fail.
    pub since: Timestamp,
    /// Tries of the message at the head.
    pub tries: u32,
    /// When the head is tried again; never, for a parked one.
    pub retry_at: Timestamp,
    /// What went wrong last.
    pub reason: String,
    /// Its waiting queue: numbers of the shard's waiting messages, in order.
    pub waiting: VecDeque<u64>,
}

/// A message in a waiting queue (P3).
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The message.
    pub envelope: Envelope,
    /// Whom it concerns beside its entity.
    pub behind: Behind,
}

/// What a waiting message came from, where that is not over yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// A stream, a feed or an operator: it is over.
    Nothing,
    /// A request, to be answered when the message is done.
    Request(RequestId),
    /// A reminder. It stays set, for its entity may still cancel it (P4).
    Reminder(ReminderId),
}

/// The activations of one worker.
#[derive(Default)]
pub struct Activations {
    index: HashTable<u32>,
    slab: Vec<Option<Activation>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    mail_bytes: usize,
}

impl Activations {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Bytes of all messages in mailboxes.
    pub fn mail_bytes(&self) -> usize {
        self.mail_bytes
    }

    /// Puts a message behind the others of an activation.
    pub fn push_mail(&mut self, slot: Slot, mail: Mail) {
        self.mail_bytes += mail.bytes();
        self.mailbox(slot).push_back(mail);
    }

    /// Puts a message back before the others of an activation.
    pub fn push_mail_front(&mut self, slot: Slot, mail: Mail) {
        self.mail_bytes += mail.bytes();
        self.mailbox(slot).push_front(mail);
    }

    fn mailbox(&mut self, slot: Slot) -> &mut VecDeque<Mail> {
        self.get_mut(slot).expect("mail goes to activations in memory").mailbox.get_or_insert_default()
    }

    /// Takes the first message of an activation; the mailbox goes with its last.
    pub fn pop_mail(&mut self, slot: Slot) -> Option<Mail> {
        let activation = self.get_mut(slot)?;
        let Some(mail) = activation.mailbox.as_mut()?.pop_front() else {
            activation.mailbox = None;
            return None;
        };
        self.mail_bytes -= mail.bytes();
        Some(mail)
    }

    /// How many slots there are, used or not, for a sweep by [`Activations::at`].
    pub fn slots(&self) -> usize {
        self.slab.len()
    }

    /// The activation in the n-th slot.
    pub fn at(&self, index: usize) -> Option<(Slot, &Activation)> {
        let activation = self.slab.get(index)?.as_ref()?;
        Some((Slot { index: index as u32, generation: activation.generation }, activation))
    }

    /// Reads what a turn of the entity of this hash will need first. Done for many hashes in a row, the cache misses
    /// overlap, which is worth more than anything else on the hot path. The value means nothing.
    pub fn touch(&self, hash: u64) -> u8 {
        let found = self.index.find(hash, |&index| {
            self.slab[index as usize].as_ref().is_some_and(|activation| activation.hash == hash)
        });
        let Some(activation) = found.and_then(|&index| self.slab[index as usize].as_ref()) else { return 0 };
        let first = |bytes: &[u8]| bytes.first().copied().unwrap_or(0);
        first(activation.key.as_bytes()) ^ first(&activation.image)
    }

    /// The slot of an entity.
    pub fn find(
        &self,
        hash: u64,
        kind: &str,
        key: &str,
        name_of: impl Fn(KindIndex) -> &'static str,
    ) -> Option<Slot> {
        let index = *self.index.find(hash, |&index| {
            let activation = self.slab[index as usize].as_ref().expect("the index names used slots");
            activation.hash == hash && *activation.key == *key && name_of(activation.kind) == kind
        })?;
        let generation = self.slab[index as usize].as_ref().expect("the index names used slots").generation;
        Some(Slot { index, generation })
    }

    /// Brings an entity into memory that is not there.
    pub fn insert(&mut self, hash: u64, kind: KindIndex, key: &str, shard: ShardId) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slab.push(None);
            self.generations.push(0);
            u32::try_from(self.slab.len() - 1).expect("a worker holds fewer than 2^32 activations")
        });
        let generation = self.generations[index as usize];
        self.slab[index as usize] = Some(Activation {
            hash,
            key: key.into(),
            state: None,
            image: Vec::new(),
            mailbox: None,
            trouble: None,
            last_batch: 0,
            shard,
            generation,
            used_at: 0,
            run: 0,
            turns_in_run: 0,
            weight: 0,
            image_version: 0,
            kind,
            phase: Phase::Loading,
            exists: false,
            has_image: false,
            dirty: false,
            scheduled: false,
        });
        let slab = &self.slab;
        self.index.insert_unique(hash, index, |&index| {
            slab[index as usize].as_ref().expect("the index names used slots").hash
        });
        Slot { index, generation }
    }

    /// Lets an activation go.
    pub fn remove(&mut self, slot: Slot) -> Option<Activation> {
        self.get(slot)?;
        let activation = self.slab[slot.index as usize].take()?;
        let entry = self.index.find_entry(activation.hash, |&index| index == slot.index);
        entry.expect("a used slot is in the index").remove();
        self.generations[slot.index as usize] = slot.generation.wrapping_add(1);
        self.free.push(slot.index);
        self.mail_bytes -=
            activation.mailbox.iter().flat_map(|mailbox| mailbox.iter()).map(Mail::bytes).sum::<usize>();
        Some(activation)
    }

    /// The activation of a slot; `None` where it has been let go since.
    pub fn get(&self, slot: Slot) -> Option<&Activation> {
        self.slab
            .get(slot.index as usize)?
            .as_ref()
            .filter(|activation| activation.generation == slot.generation)
    }

    /// As [`Activations::get`].
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Activation> {
        self.slab
            .get_mut(slot.index as usize)?
            .as_mut()
            .filter(|activation| activation.generation == slot.generation)
    }
}

impl Activation {
    /// Hash of the entity.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The messages in its mailbox, the first one first.
    pub fn mail(&self) -> impl Iterator<Item = &Mail> {
        self.mailbox.iter().flat_map(|mailbox| mailbox.iter())
    }

    /// Messages in the mailbox.
    pub fn mailbox_len(&self) -> usize {
        self.mailbox.as_ref().map_or(0, |mailbox| mailbox.len())
    }

    /// Bytes it takes in memory, about: the struct, its place in the index, key, state (as large as its image) and image.
    pub fn bytes(&self, state_len: usize) -> usize {
        size_of::<Self>() + 24 + self.key.len() + state_len + 32 + self.image.capacity()
    }
}
