//! What one node says to another, and the bytes in which it says it.
//!
//! `docs/wire.md` describes the bytes; this file is where they are made and read. A frame is judged from the outside in,
//! so that a hostile one costs nothing: its length before memory is taken for it, its checksum before it is looked at, its
//! nesting before serde recurses over it, its values before anyone acts on them.

use super::fields::{
    EpochForm, FeedIdForm, FeedNewsForm, FeedQuestionForm, OpeningForm, OutcomeForm, ReceiptForm, envelope,
    octets, shard,
};
use crate::{
    codec,
    feeds::{FEED_NAME_LEN_MAX, FeedId, FeedQuestion},
    kernel::{FeedNews, Opening, Outcome, Receipt},
    message::{Envelope, RequestId},
    placement::{Epoch, NodeName, ShardId},
    requests::{Acknowledged, OPEN_MAX},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::fmt;

/// First byte of every frame: what begins otherwise is not ours.
pub const FORMAT: u8 = 0xe1;
/// Format, length and checksum.
pub const HEADER_LEN: usize = 9;
/// What the limit of a frame is at least, so that the words a connection needs for itself always fit.
pub(super) const FRAME_LEN_LEAST: usize = HEADER_LEN + 1_024;
/// Deepest nesting of a frame. Messages and replies inside it are opaque bytes with a limit of their own.
pub const FRAME_NESTING_MAX: usize = 16;
/// What an item of a list takes beside its envelope or body, at the most: who cuts a long list into frames adds it up.
pub const ITEM_LEN_MAX: usize = 1_024;

/// What one end of a connection tells the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frame {
    /// So many bytes of frames have been consumed: as many more may be sent.
    Credit(u64),
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// The connection ends.
    Close(CloseReason),
    /// Messages of streams between shards.
    Messages(Vec<StreamMessage>),
    /// Messages outside of streams: at most once.
    Volatile(Vec<VolatileMessage>),
    /// To the sending ends of streams.
    Receipts(Vec<StreamReceipt>),
    /// To the other ends of streams, before anything is sent in them.
    Openings(Vec<StreamOpening>),
    /// How far the sending node's log is durable: at least as far as all it has said before, and what comes next, depend on.
    Durable(u64),
    /// Requests of clients.
    Requests(Vec<Request>),
    /// What became of requests.
    Replies(Vec<Answer>),
    /// A feed begins.
    OpenFeed {
        /// Names the feed on this connection; receipts carry it back.
        slot: u64,
        /// Its name.
        name: String,
    },
    /// A feed asks a shard before it sends there.
    AskFeed {
        /// As in [`Frame::OpenFeed`].
        slot: u64,
        /// The feed.
        #[serde(with = "FeedIdForm")]
        feed: FeedId,
        /// The shard.
        #[serde(with = "shard")]
        shard: ShardId,
        /// What it asks.
        #[serde(with = "FeedQuestionForm")]
        question: FeedQuestion,
    },
    /// Messages of one feed.
    FeedMessages {
        /// As in [`Frame::OpenFeed`].
        slot: u64,
        /// The feed.
        #[serde(with = "FeedIdForm")]
        feed: FeedId,
        /// The messages.
        messages: Vec<FeedMessage>,
    },
    /// To feeds.
    FeedReceipts(Vec<FeedAnswer>),
    /// A feed has ended.
    CloseFeed {
        /// As in [`Frame::OpenFeed`].
        slot: u64,
        /// The feed.
        #[serde(with = "FeedIdForm")]
        feed: FeedId,
    },
    /// Who owns which shard, said on change and where a message came to the wrong node (P22).
    Moved(Vec<Route>),
    /// A packet of the failure detector. Outside of credit: a slow handler is no reason to be thought dead.
    Membership(#[serde(with = "octets")] Bytes),
    /// What nodes say of themselves; read by the membership room.
    Members(#[serde(with = "octets")] Bytes),
    /// A step of a hand-off; read by the hand-off room.
    HandOff(#[serde(with = "octets")] Bytes),
    /// An operator's command to the node; read by the cluster room.
    Command {
        /// Names the command on this connection; its answer carries it back.
        slot: u64,
        /// The command.
        #[serde(with = "octets")]
        command: Bytes,
    },
    /// What became of a command; read by the cluster room.
    CommandAnswer {
        /// As in [`Frame::Command`].
        slot: u64,
        /// The answer.
        #[serde(with = "octets")]
        answer: Bytes,
    },
    /// The sender leaves and has nothing left: how many shards are on their way to it? Read by the membership room.
    LastQuestion {
        /// How often its store was opened.
        boot: u64,
        /// Which time it has nothing in that run.
        emptied: u64,
    },
    /// How many there are; of a node that has not heard yet that the other one leaves there is no answer.
    LastAnswer {
        /// As in [`Frame::LastQuestion`].
        boot: u64,
        /// As in [`Frame::LastQuestion`].
        emptied: u64,
        /// The number. 0: none, and none will be.
        coming: u64,
    },
    /// Which epochs the other end knows of these shards; read by the cluster room.
    AskEpochs {
        /// Names the question on this connection; its answer carries it back.
        slot: u64,
        /// The shards, rising.
        shards: Vec<AskedShard>,
    },
    /// What is known of shards that were asked for, in that order; read by the cluster room.
    Epochs {
        /// As in [`Frame::AskEpochs`].
        slot: u64,
        /// One of each.
        epochs: Vec<KnownEpoch>,
    },
}

/// Why an end closes a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// It stops.
    Stopping,
    /// There is a newer connection between the two.
    Replaced,
    /// The other end broke the rules of the wire, in words.
    Violation(String),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopping => f.write_str("it stops"),
            Self::Replaced => f.write_str("a newer connection takes its place"),
            Self::Violation(why) => write!(f, "the rules were broken: {why:?}"),
        }
    }
}

/// A message of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamMessage {
    /// The sending shard.
    #[serde(with = "shard")]
    pub source: ShardId,
    /// The receiving shard.
    #[serde(with = "shard")]
    pub target: ShardId,
    /// Its number in the stream.
    pub number: u64,
    /// The message.
    #[serde(with = "envelope")]
    pub envelope: Envelope,
}

/// A message without a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolatileMessage {
    /// The shard it is for.
    #[serde(with = "shard")]
    pub target: ShardId,
    /// The message.
    #[serde(with = "envelope")]
    pub envelope: Envelope,
}

/// A [`Receipt`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReceipt(#[serde(with = "ReceiptForm")] pub Receipt);

/// An [`Opening`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamOpening(#[serde(with = "OpeningForm")] pub Opening);

/// A request of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Names the request on this connection; its answer carries it back.
    pub slot: u64,
    /// The shard it is for.
    #[serde(with = "shard")]
    pub shard: ShardId,
    /// How many nodes have passed it on.
    pub hops: u8,
    /// What the client waits for.
    pub way: Way,
    /// The message.
    #[serde(with = "envelope")]
    pub envelope: Envelope,
}

/// What a client waits for, with the id of what may leave a mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The reply.
    Ask(RequestId, #[serde(with = "settled")] Acknowledged),
    /// That it is durably accepted.
    Send(RequestId, #[serde(with = "settled")] Acknowledged),
    /// The answer to a question, which leaves no mark.
    Query,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// As in [`Request::slot`].
    pub slot: u64,
    /// What the client is told.
    #[serde(with = "OutcomeForm")]
    pub outcome: Outcome,
}

/// A message of a feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedMessage {
    /// The shard it is for.
    #[serde(with = "shard")]
    pub shard: ShardId,
    /// Its number in the feed's stream to this shard.
    pub number: u64,
    /// The feed's own number.
    pub own: u64,
    /// The message.
    #[serde(with = "envelope")]
    pub envelope: Envelope,
}

/// To a feed, about one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedAnswer {
    /// As in [`Frame::OpenFeed`].
    pub slot: u64,
    /// The feed.
    #[serde(with = "FeedIdForm")]
    pub feed: FeedId,
    /// The shard.
    #[serde(with = "shard")]
    pub shard: ShardId,
    /// What happened.
    #[serde(with = "FeedNewsForm")]
    pub news: FeedNews,
}

/// Who owns a shard. A route is replaced by one of a higher epoch only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The shard.
    #[serde(with = "shard")]
    pub shard: ShardId,
    /// Under this epoch,
    #[serde(with = "EpochForm")]
    pub epoch: Epoch,
    /// this node does.
    pub owner: NodeName,
}

/// A shard that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedShard(#[serde(with = "shard")] pub ShardId);

/// What a node knows of a shard's epochs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownEpoch {
    /// The shard.
    #[serde(with = "shard")]
    pub shard: ShardId,
    /// The highest that is or was in its own store, or may be there soon.
    #[serde(with = "EpochForm")]
    pub held: Epoch,
    /// Whom it has heard of as owner.
    pub heard: Option<Route>,
    /// It is being accepted there.
    pub is_accepting: bool,
}

/// Why bytes are not a frame, or a value not one that can be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first byte is another.
    #[error(
        "a frame begins with {FORMAT:#04x} and not with {0:#04x}: not this protocol, or another version of it"
    )]
    Format(u8),
    /// The length is over the limit.
    #[error("a frame of {len} bytes; the limit is {max}")]
    TooLong {
        /// Bytes it has, or claims to have.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The bytes are not those that were sent.
    #[error("the checksum of a frame is wrong: its bytes were changed on the way")]
    Checksum,
    /// They do not read as a frame.
    #[error("a frame cannot be read: {0}")]
    Unreadable(String),
}

impl Frame {
    /// Whether it goes outside of credit.
    pub fn is_control(&self) -> bool {
        matches!(self, Self::Credit(_) | Self::Ping | Self::Pong | Self::Close(_) | Self::Membership(_))
    }

    /// Appends the frame to `out`, and returns how many bytes it takes.
    ///
    /// # Errors
    /// It would be longer than `len_max` in all; `out` is as it was.
    pub fn encode(&self, out: &mut BytesMut, len_max: usize) -> Result<usize, FrameError> {
        seal(out, len_max, |body| {
            let mut serializer = rmp_serde::Serializer::new(body);
            self.serialize(&mut serializer).expect("every value a frame can have can be encoded");
        })
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// It is not one.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let len = codec::check_nesting(body, FRAME_NESTING_MAX).map_err(FrameError::Unreadable)?;
        if len != body.len() {
            return Err(FrameError::Unreadable("bytes behind its end".into()));
        }
        let frame: Self = rmp_serde::from_slice(body).map_err(|e| FrameError::Unreadable(e.to_string()))?;
        match &frame {
            Self::OpenFeed { name, .. } if !(1..=FEED_NAME_LEN_MAX).contains(&name.len()) => {
                Err(FrameError::Unreadable(format!("a feed's name of {} bytes", name.len())))
            }
            _ => Ok(frame),
        }
    }
}

/// Appends header and body to `out`, the body as `write` writes it; returns the length of both.
pub(super) fn seal(
    out: &mut BytesMut,
    len_max: usize,
    write: impl FnOnce(bytes::buf::Writer<&mut BytesMut>),
) -> Result<usize, FrameError> {
    let start = out.len();
    out.put_bytes(0, HEADER_LEN);
    write((&mut *out).writer());
    let len = out.len() - start;
    let body_len = u32::try_from(len - HEADER_LEN).ok().filter(|_| len <= len_max);
    let Some(body_len) = body_len else {
        out.truncate(start);
        return Err(FrameError::TooLong { len, max: len_max });
    };
    let frame = &mut out[start..];
    frame[0] = FORMAT;
    frame[1..5].copy_from_slice(&body_len.to_le_bytes());
    let checksum = checksum(frame);
    frame[5..HEADER_LEN].copy_from_slice(&checksum.to_le_bytes());
    Ok(len)
}

/// Of length and body. The length is under it: where it was changed on the way, the rest is not taken for a frame.
fn checksum(frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&frame[1..5]), &frame[HEADER_LEN..])
}

/// Looks for a frame at the front of `bytes`: its length in all, once all of it has come.
///
/// # Errors
/// What has come cannot be the front of a frame; known from the header, before there is memory for the rest.
pub fn front(bytes: &[u8], len_max: usize) -> Result<Option<usize>, FrameError> {
    let Some(&format) = bytes.first() else { return Ok(None) };
    if format != FORMAT {
        return Err(FrameError::Format(format));
    }
    let Some(mut header) = bytes.get(1..HEADER_LEN) else { return Ok(None) };
    let len = header.get_u32_le() as usize + HEADER_LEN;
    if len_max < len {
        return Err(FrameError::TooLong { len, max: len_max });
    }
    let Some(frame) = bytes.get(..len) else { return Ok(None) };
    if checksum(frame) != header.get_u32_le() {
        return Err(FrameError::Checksum);
    }
    Ok(Some(len))
}

/// What a client has settled, as floor and exceptions: few, rising, and below the floor.
mod settled {
    use super::{Acknowledged, OPEN_MAX};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(settled: &Acknowledged, serializer: S) -> Result<S::Ok, S::Error> {
        (settled.floor, settled.open.as_deref().unwrap_or_default()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Acknowledged, D::Error> {
        let (floor, open) = <(u64, Vec<u64>)>::deserialize(deserializer)?;
        let is_sound = open.len() <= OPEN_MAX
            && open.is_sorted_by(|one, next| one < next)
            && open.last().is_none_or(|last| *last <= floor);
        if !is_sound {
            return Err(D::Error::custom("exceptions of a client's floor that it cannot have"));
        }
        Ok(Acknowledged { floor, open: (!open.is_empty()).then(|| open.into()) })
    }
}

#[cfg(test)]
mod tests;
