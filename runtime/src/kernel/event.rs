//! What goes into a kernel and what comes out: events, actions, and what they carry.

use super::{HandOffNews, Order};
use crate::{
    activation::{Listener, ReplyTo, Slot},
    error::Refusal,
    feeds::{DropStep, FeedId, FeedIdentity, FeedQuestion},
    message::{Envelope, RequestId},
    placement::{Epoch, ShardId},
    requests::{Acknowledged, Reply},
    shard::{OutboxPart, OutboxTicket, RowError, ShardRows},
    store::{Batch, ImageKey, LaneId, NoRoom, OwnedShard},
};
use bytes::Bytes;
use std::sync::Arc;

/// A message at the door of its shard.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The shard it is for.
    pub shard: ShardId,
    /// Hash of its entity.
    pub hash: u64,
    /// The message.
    pub envelope: Envelope,
    /// Where it comes from.
    pub from: Provenance,
}

/// Where an [`Arrival`] comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// A client's request.
    Request {
        /// Its id.
        id: RequestId,
        /// What its client has settled.
        acknowledged: Acknowledged,
        /// Who is told.
        listener: Listener,
    },
    /// A client's question.
    Query(ReplyTo),
    /// A feed.
    Feed {
        /// The feed, opened before with [`Event::OpenFeed`].
        feed: FeedId,
        /// The message's number in the feed's stream to this shard.
        number: u64,
        /// The feed's own number.
        own: u64,
        /// Who sends it, as in [`Event::OpenFeed`]: several may feed under one name.
        to: ReplyTo,
    },
    /// Another shard, or this one.
    Stream {
        /// The sending shard.
        source: ShardId,
        /// Its number in the stream.
        number: u64,
        /// Handed over within a lane, before it was durable: how often that had been voided then. It dies with its batch, so
        /// one from before the last void is dropped. `None` came out of a durable batch.
        voids: Option<u64>,
    },
    /// A volatile entity, or a durable one to a volatile one.
    Volatile,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// Messages have arrived.
    Arrived(Vec<Arrival>),
    /// Receivers have consumed, or refused, what was handed to them.
    Receipts(Vec<Receipt>),
    /// Other ends of streams say how far they are.
    Openings(Vec<Opening>),
    /// A feed begins: its receipts go to `to`.
    OpenFeed {
        /// The feed.
        feed: FeedId,
        /// Its name.
        name: Arc<str>,
        /// Where its receipts go.
        to: ReplyTo,
    },
    /// A feed asks a shard before it sends there. An answer that does not come was lost: ask again.
    AskFeed {
        /// The feed, opened before.
        feed: FeedId,
        /// The shard.
        shard: ShardId,
        /// What it asks.
        question: FeedQuestion,
        /// As in [`Event::OpenFeed`].
        to: ReplyTo,
    },
    /// A feed has ended.
    CloseFeed {
        /// The feed.
        feed: FeedId,
        /// Where its receipts went.
        to: ReplyTo,
    },
    /// Every batch up to this number is durable.
    Durable {
        /// The lane.
        lane: LaneId,
        /// Number of the batch among this kernel's for the lane.
        through: u64,
    },
    /// Loads find what batches up to this number have written.
    Loadable {
        /// The lane.
        lane: LaneId,
        /// As in [`Event::Durable`].
        through: u64,
    },
    /// A batch of the lane failed: it and all later ones are void, and so is everything built on them (P13).
    Voided {
        /// The lane.
        lane: LaneId,
        /// How often the lane was voided; batches name it, and older ones are dropped.
        voids: u64,
    },
    /// A shard's rows were read.
    ShardLoaded {
        /// As it was in [`Action::LoadShard`]; an answer to an older one is dropped (P12).
        resets: u64,
        /// The shard with its epoch and last number.
        owned: OwnedShard,
        /// Its rows.
        rows: ShardRows,
    },
    /// A load of a shard was refused: in a store that several nodes share, it is another owner's.
    Lost {
        /// The shard.
        shard: ShardId,
        /// Its resets when the load was asked for; an answer to an older one is dropped (P12).
        resets: u64,
    },
    /// Messages of an outbox were read: in order from the first that was asked for.
    OutboxLoaded(OutboxTicket, Vec<Bytes>),
    /// Images were read.
    ImagesLoaded(Vec<(ImageTicket, Option<Vec<u8>>)>),
    /// Run turns for what has arrived, up to one batch of the lane, if the store has room for it.
    Run {
        /// The lane.
        lane: LaneId,
        /// Whether room for a batch is reserved.
        room: Result<(), NoRoom>,
    },
    /// In careful mode, do what [`Kernel::next_turn`](super::Kernel::next_turn) has named, with room reserved.
    Turn {
        /// The lane.
        lane: LaneId,
        /// The message is given up for this reason, and not run.
        condemned: Option<String>,
    },
    /// An operator lets a dead letter be tried again, or drops it.
    DeadLetter {
        /// Its shard.
        shard: ShardId,
        /// Its number.
        number: u64,
        /// The message to try again; `None` drops it.
        retry: Option<Envelope>,
        /// Who is told.
        to: ReplyTo,
    },
    /// An operator drops a feed, step by step.
    DropFeed {
        /// The shard that is to take the step.
        shard: ShardId,
        /// Name of the feed.
        name: Arc<str>,
        /// The step.
        step: DropStep,
        /// Who is told.
        to: ReplyTo,
    },
    /// An operator asks which entities are stuck; the reply's body is a [`StuckPage`](super::StuckPage).
    ListStuck {
        /// Where to go on: 0 at first, then [`StuckPage::next`](super::StuckPage::next).
        from: u64,
        /// Who is told.
        to: ReplyTo,
    },
    /// An operator asks which streams to shards of this kernel are parked; the reply's body is a
    /// [`ParkedPage`](super::ParkedPage).
    ListParked {
        /// Who is told.
        to: ReplyTo,
    },
    /// An operator accepts that a disk is lost at one end of a parked stream: it goes on from where its sender is. The reply's body is
    /// a [`ParkedPage`](super::ParkedPage) of that stream, or of none where it is not parked any more.
    Unpark {
        /// The stream, to a shard of this kernel, with what was shown to be lost. Where it is not so any more, nothing is done.
        shown: super::ParkedStream,
        /// Who is told, once it is durable.
        to: ReplyTo,
    },
    /// A shard that came here: load the images with these row keys before anybody asks for them.
    Warm {
        /// The shard.
        shard: ShardId,
        /// As in [`HandOffNews::Hot`](super::HandOffNews::Hot), or of another node's making.
        images: Vec<Vec<u8>>,
    },
    /// This worker hosts a shard from now on: the store owns it.
    Host {
        /// The shard.
        shard: ShardId,
        /// It was taken from a node that is gone. What ended that one may be pending in the shard, so for a while its turns are
        /// [named](super::Kernel::next_turn) before they run (P3).
        was_taken: bool,
    },
    /// A worker of this node hosts a shard from now on, or none does any more. Told of other workers' shards too: between
    /// shards of one lane messages go before they are durable, and only within a node (P13).
    InNode {
        /// The shard.
        shard: ShardId,
        /// Whether one does.
        is: bool,
    },
    /// A shard is served by another owner than before: what was handed to the old one and is not acknowledged may be lost,
    /// and goes again at once.
    SendAgain {
        /// The receiving shard.
        target: ShardId,
    },
    /// A shard is handed off.
    HandOff {
        /// The shard.
        shard: ShardId,
        /// What this kernel is to do for it.
        order: Order,
    },
    /// Time has passed.
    Tick,
    /// The node is stopping: begin nothing new. Messages in outboxes stay there and go on at the next start, or entities
    /// that send to each other without end would keep it from ever stopping.
    Drain,
}

/// Names an image that was asked for, so that a late answer is known (P12).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTicket {
    /// What to load.
    pub key: ImageKey,
    /// The activation that waits.
    pub slot: Slot,
    /// Resets of the shard when it was asked for.
    pub resets: u64,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Submit this batch to the lane; when it is durable, let `outputs` out, in order. When it is void, they die.
    Commit(Submission),
    /// Let this out now: it depends on nothing that is not durable.
    Put(Output),
    /// Hand these to the workers of their shards: the batch they come from has its place in the lane.
    Hand(Vec<Arrival>),
    /// Read a shard's rows, by [`load::shard`](crate::load::shard).
    LoadShard {
        /// The shard.
        shard: ShardId,
        /// How much of its outboxes is wanted.
        part: OutboxPart,
        /// To be returned with the answer.
        resets: u64,
    },
    /// Read messages of an outbox, by [`load::outbox`](crate::load::outbox).
    LoadOutbox(OutboxTicket),
    /// Read images.
    LoadImages(Vec<ImageTicket>),
    /// Memory can be let go only when a checkpoint covers it: make one soon.
    WantLoadable,
    /// The shard is not hosted here any more, for it is sealed or was [lost](Event::Lost): the other workers of this node hear of
    /// it by [`Event::InNode`]. Where it was lost nothing of it is in any batch, and it may be hosted again.
    Left(ShardId),
    /// What is in memory of a lane is an owner's of before: void the lane, behind what is being committed now.
    Stale(LaneId),
    /// A shard holds rows this build cannot read: stop, and say so.
    Stop(RowError),
}

/// A batch on its way to its lane.
#[derive(Debug)]
pub struct Submission {
    /// The lane.
    pub lane: LaneId,
    /// How often the lane had been voided when the batch was built.
    pub voids: u64,
    /// Number among this kernel's batches for the lane, from 1.
    pub number: u64,
    /// The rows; empty where only outputs wait for what came before.
    pub batch: Batch,
    /// What leaves when it is durable.
    pub outputs: Vec<Output>,
    /// Shards whose state the outputs show, though the batch may have nothing of them, each with its epoch. The outputs leave
    /// when these are confirmed to be still owned so (P14).
    pub shown: Vec<(ShardId, Epoch)>,
}

/// What leaves a kernel.
#[derive(Debug)]
pub enum Output {
    /// To a caller.
    Reply(ReplyTo, Outcome),
    /// To the sending end of a stream.
    Receipt(Receipt),
    /// To the other end of a stream, on another node.
    Opening(Opening),
    /// To a feed.
    FeedReceipt(FeedReceipt),
    /// Messages to shards of another lane or node, or of volatile entities.
    Hand(Arrival),
    /// Of a shard that is handed off.
    HandOff(ShardId, HandOffNews),
}

/// What a caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The message was consumed, and this is how it ended.
    Done(Reply),
    /// The message is durably accepted and waits for an entity that is stuck; for `send` that is enough.
    Waiting,
    /// Nothing happened.
    Refused(Refusal),
    /// Nothing happened: the shard is not hosted where it was asked. Ask its owner.
    Elsewhere,
    /// It may have happened; ask again with the same id.
    Unknown(String),
}

/// To the sending end of a stream: what was durably consumed, and from where on to send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The sending shard.
    pub source: ShardId,
    /// The receiving shard.
    pub target: ShardId,
    /// Consumed up to here.
    pub through: u64,
    /// The receiver did not take messages from this number on.
    pub refused_from: Option<u64>,
    /// There is room: send what waits now, and not only after a while.
    pub go_on: bool,
}

/// Said before the first message of a stream is handed over: the two ends compare how far they are (P19).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The sending shard.
    pub source: ShardId,
    /// The receiving shard.
    pub target: ShardId,
    /// Names the opening; the answer carries it back.
    pub number: u64,
    /// Within a lane, how often it was voided before this was asked. To another lane, or to another node, `None`: there only
    /// what is durable was told.
    pub voids: Option<u64>,
    /// Which end says what.
    pub says: OpeningWord,
}

/// What one end of a stream says in an [`Opening`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpeningWord {
    /// The sender.
    Sender {
        /// First number it keeps; one above `last` where it keeps none.
        first: u64,
        /// The highest number that the receiver can have seen.
        last: u64,
        /// It has found that the ends do not fit, and waits for no answer.
        parks: bool,
    },
    /// The receiver, in answer.
    Receiver {
        /// Everything up to here is consumed.
        floor: u64,
        /// The highest number it has seen.
        mark: u64,
        /// It has found that the ends do not fit.
        parks: bool,
    },
}

impl Opening {
    /// The shard that is to hear it.
    pub fn to(&self) -> ShardId {
        match self.says {
            OpeningWord::Sender { .. } => self.target,
            OpeningWord::Receiver { .. } => self.source,
        }
    }
}

/// To a feed, about one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedReceipt {
    /// Where it goes.
    pub to: ReplyTo,
    /// The feed.
    pub feed: FeedId,
    /// The shard.
    pub shard: ShardId,
    /// What happened.
    pub news: FeedNews,
}

/// What a [`FeedReceipt`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedNews {
    /// Durably consumed up to `through`, and judged to be what this feed has sent.
    Durable {
        /// Number in the feed's stream to the shard.
        through: u64,
    },
    /// Something is missing or there was no room: send again from here on.
    SendFrom(u64),
    /// The shard's memory was lost: send again from the first that is not known to be durable, or ask again.
    Lost,
    /// The feed has its name, durably.
    Claimed,
    /// Another input has the name.
    ClaimedBy(FeedIdentity),
    /// To one that goes on: this much is durable.
    Resumed {
        /// Number in the feed's stream to the shard; the next is one higher.
        floor: u64,
        /// The feed's own number there; what is not above it is durable.
        own: u64,
        /// The claim on the name lies in this shard.
        claimed: bool,
    },
    /// Another input was sent under this name. `number` is where they part, `own` the feed's own number there.
    Collision {
        /// Number in the feed's stream to the shard.
        number: u64,
        /// The feed's own number there.
        own: u64,
    },
    /// The feed cannot go on.
    Refused(Refusal),
}

/// What a caller is told whose message was in memory when its lane was voided.
pub(super) const VOIDED: &str = "the batch it was in did not become durable";

impl Output {
    /// What is to be told in place of this output when its batch will never be durable; `None` where nothing is.
    #[must_use]
    pub fn into_void(self) -> Option<Self> {
        match self {
            Self::Reply(to, outcome @ (Outcome::Refused(_) | Outcome::Elsewhere)) => {
                Some(Self::Reply(to, outcome))
            }
            Self::Reply(to, _) => Some(Self::Reply(to, Outcome::Unknown(VOIDED.into()))),
            Self::FeedReceipt(receipt) => {
                Some(Self::FeedReceipt(FeedReceipt { news: FeedNews::Lost, ..receipt }))
            }
            // The sending end of a stream sends again after a while. A message must not leave: its turn never was, or
            // it is handed over again when its outbox has been read back.
            // Of a shard that is handed off, nothing is given that is not durable.
            Self::Receipt(_)
            | Self::Opening(_)
            | Self::Hand(_)
            | Self::HandOff(_, HandOffNews::CopyFrom(_) | HandOffNews::Section(..)) => None,
            Self::HandOff(shard, news) => Some(Self::HandOff(shard, HandOffNews::Voided(news.transfer()))),
        }
    }
}
