//! What an operator is shown.

use crate::{entity::EntityId, placement::ShardId, timestamp::Timestamp};
use std::{fmt, num::ParseIntError, str::FromStr};

/// Names a dead letter or a waiting message: its shard and its number there, which is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// The shard.
    pub shard: ShardId,
    /// The number.
    pub number: u64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.shard.0, self.number)
    }
}

/// The text is not the id of a letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a letter; the form is SHARD-NUMBER")]
pub struct ParseLetterIdError;

impl From<ParseIntError> for ParseLetterIdError {
    fn from(_: ParseIntError) -> Self {
        Self
    }
}

impl FromStr for LetterId {
    type Err = ParseLetterIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (shard, number) = text.split_once('-').ok_or(ParseLetterIdError)?;
        Ok(Self { shard: ShardId(shard.parse()?), number: number.parse()? })
    }
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its name for [`Operator::retry`](super::Operator::retry) and [`Operator::drop_letter`](super::Operator::drop_letter).
    pub id: LetterId,
    /// When it was given up.
    pub at: Timestamp,
    /// How often its handler panicked; 0 where it was given up without a try.
    pub tries: u32,
    /// Why it was given up.
    pub reason: String,
    /// The entity it was for.
    pub target: EntityId,
    /// Name of the message.
    pub message: String,
    /// The message, encoded.
    pub body: Vec<u8>,
}

/// A message that waits for an entity that is parked or keeps failing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingMessage {
    /// Its place in the shard's waiting queue.
    pub id: LetterId,
    /// The entity it waits for.
    pub target: EntityId,
    /// Name of the message.
    pub message: String,
    /// Length of the encoded message.
    pub len: usize,
}

/// An entity whose messages wait, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StuckEntity {
    /// The entity.
    pub target: EntityId,
    /// Its stored state cannot be read: it waits for a build that can. Otherwise its handler panics, and it is tried again.
    pub is_parked: bool,
    /// What went wrong last.
    pub reason: String,
    /// Since when, as far as this process knows: a start begins anew.
    pub since: Timestamp,
    /// How often the first of its messages was tried in vain.
    pub tries: u32,
    /// How many of its messages wait.
    pub waiting: u64,
}

/// A feed that has been used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedProgress {
    /// Its name.
    pub name: String,
    /// Messages applied, in all shards.
    pub applied: u64,
    /// The highest own number (row, offset) below which each shard has what is its.
    pub own: u64,
    /// Shards that have a mark of it.
    pub shards: u32,
    /// Somebody began to drop it, and has not finished: [`Operator::drop_feed`](super::Operator::drop_feed) goes on.
    pub dropping: bool,
}
