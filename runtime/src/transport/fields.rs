//! How single fields look on the wire, for types of other rooms that know no serde.

use crate::{
    error::{Bound, Refusal},
    feeds::{FeedId, FeedIdentity, FeedQuestion},
    kernel::{FeedNews, Opening, OpeningWord, Outcome, Receipt},
    message::Envelope,
    placement::{Epoch, SHARDS_MAX, ShardId},
    requests::{Reply, ReplyClass},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes, as one bin. What is read is copied out of its frame: a slice would keep the whole frame in memory for as long
/// as one message of it waits in a mailbox, and bounds that count messages would hold no longer.
pub(super) mod octets {
    use bytes::Bytes;
    use serde::{Deserializer, Serializer, de};
    use std::fmt;

    pub(in crate::transport) fn serialize<S: Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(in crate::transport) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        deserializer.deserialize_bytes(Copied)
    }

    struct Copied;

    impl de::Visitor<'_> for Copied {
        type Value = Bytes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }
    }
}

/// An envelope, as the bytes it travels in everywhere; they are checked.
pub(super) mod envelope {
    use super::{Envelope, octets};
    use serde::{Deserializer, Serializer, de::Error};

    pub(in crate::transport) fn serialize<S: Serializer>(
        envelope: &Envelope,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        octets::serialize(envelope.bytes(), serializer)
    }

    pub(in crate::transport) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Envelope, D::Error> {
        Envelope::from_bytes(octets::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A shard, as its number. One that no cluster can have is refused; whether *this* cluster has it is the handler's
/// question.
pub(super) mod shard {
    use super::{Deserialize, SHARDS_MAX, ShardId};
    use serde::{Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(in crate::transport) fn serialize<S: Serializer>(
        shard: &ShardId,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(shard.0)
    }

    pub(in crate::transport) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ShardId, D::Error> {
        let number = u32::deserialize(deserializer)?;
        if number < SHARDS_MAX {
            return Ok(ShardId(number));
        }
        Err(D::Error::custom(format_args!("there is no shard {number}; a cluster has at most {SHARDS_MAX}")))
    }
}

/// What was too large, as a text: this build's own words have no allocation.
mod words {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Every `what` of [`Refusal::TooLarge`](crate::error::Refusal::TooLarge) that crosses a connection.
    const KNOWN: [&str; 5] = [
        "the message",
        "the entity's key",
        "a message sent",
        "the list of messages sent in one turn",
        "the list of reminders set in one turn",
    ];

    pub(super) fn serialize<S: Serializer>(word: &str, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(word)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
        let word = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        // Another build may name something else; the two lengths beside it still say what to do.
        Ok(KNOWN.into_iter().find(|known| *known == word).unwrap_or("something"))
    }
}

// The forms below mirror enums and structs of other rooms. A variant that is added there is a compile error here, and
// a change of the wire: see `docs/wire.md`, "Version changes".

#[derive(Serialize, Deserialize)]
#[serde(remote = "FeedId")]
pub(super) struct FeedIdForm(u128);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Epoch")]
pub(super) struct EpochForm(u64);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Receipt")]
pub(super) struct ReceiptForm {
    #[serde(with = "shard")]
    source: ShardId,
    #[serde(with = "shard")]
    target: ShardId,
    through: u64,
    refused_from: Option<u64>,
    go_on: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Opening")]
pub(super) struct OpeningForm {
    #[serde(with = "shard")]
    source: ShardId,
    #[serde(with = "shard")]
    target: ShardId,
    number: u64,
    /// Lanes are a node's own.
    #[serde(skip)]
    voids: Option<u64>,
    #[serde(with = "OpeningWordForm")]
    says: OpeningWord,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "OpeningWord", rename_all = "snake_case")]
enum OpeningWordForm {
    Sender { first: u64, last: u64, parks: bool },
    Receiver { floor: u64, mark: u64, parks: bool },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "FeedIdentity")]
struct FeedIdentityForm {
    own: u64,
    digest: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "FeedQuestion", rename_all = "snake_case")]
pub(super) enum FeedQuestionForm {
    Claim(#[serde(with = "FeedIdentityForm")] FeedIdentity),
    Resume,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "FeedNews", rename_all = "snake_case")]
pub(super) enum FeedNewsForm {
    Durable { through: u64 },
    SendFrom(u64),
    Lost,
    Claimed,
    ClaimedBy(#[serde(with = "FeedIdentityForm")] FeedIdentity),
    Resumed { floor: u64, own: u64, claimed: bool },
    Collision { number: u64, own: u64 },
    Refused(#[serde(with = "RefusalForm")] Refusal),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Outcome", rename_all = "snake_case")]
pub(super) enum OutcomeForm {
    Done(#[serde(with = "ReplyForm")] Reply),
    Waiting,
    Refused(#[serde(with = "RefusalForm")] Refusal),
    Elsewhere,
    Unknown(String),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Reply")]
struct ReplyForm {
    #[serde(with = "ReplyClassForm")]
    class: ReplyClass,
    #[serde(with = "octets")]
    body: Bytes,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ReplyClass", rename_all = "snake_case")]
enum ReplyClassForm {
    Applied,
    Rejected,
    DeadLettered,
}

/// serde would take the bytes of a `&'static str` for borrowed if it saw that it is one.
type Word = &'static str;

#[derive(Serialize, Deserialize)]
#[serde(remote = "Refusal", rename_all = "snake_case")]
pub(super) enum RefusalForm {
    Busy(#[serde(with = "BoundForm")] Bound),
    StorageFull,
    Unavailable,
    OwnerUnavailable(String),
    Stopping,
    Expired(String),
    IssuedAhead(String),
    Collision(String),
    UnknownKind(String),
    UnknownMessage {
        kind: String,
        name: String,
    },
    TooLarge {
        #[serde(with = "words")]
        what: Word,
        len: usize,
        max: usize,
    },
    QueryFailed(String),
    Parked(String),
    NoDeadLetter(u64),
    FeedOpen(String),
    FeedDropping(String),
    NoFeed(String),
    Unencodable(String),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Bound", rename_all = "snake_case")]
enum BoundForm {
    Intake,
    Mailbox,
    Outbox,
    Memory,
    LogTail,
    Clients,
    Replies,
    DeadLetters,
}
