//! What a sender can do about each failure.
//!
//! The one question every error of this crate answers is: *was anything committed, and may I send it again?* The three
//! outcomes are told apart by type: [`AskError::Refused`] left no mark and may be sent again as a new message;
//! a reply (or [`AskError::DeadLettered`]) is final; [`AskError::Unknown`] may have happened, and asking again *with the
//! same id* finds out, because a repeat is answered with the stored reply.

use std::fmt;

/// Why a message was refused. Nothing happened: no mark was left, no handler ran.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A queue on the way is full. Send again after a pause; the runtime never queues without bound.
    #[error("busy: {0} is full; send again after a pause")]
    Busy(Bound),
    /// The store has no room for another batch. What is stored stays readable; work is accepted again when there is space.
    #[error("the store has no room left; free disk space and send again")]
    StorageFull,
    /// The shard's state is still being read from the store, or its owner is not reachable.
    #[error("the entity's shard is not available now; send again after a pause")]
    Unavailable,
    /// The node that has the entity cannot be reached: it has crashed, is cut off, or hangs.
    #[error("{0}, which has the entity, cannot be reached; send again when it is back")]
    OwnerUnavailable(String),
    /// The runtime is shutting down.
    #[error("the runtime is stopping; send again when it is back")]
    Stopping,
    /// The request is older than the replies that are kept, so it cannot be told whether it ran. Never run twice.
    #[error("request {0} is older than the stored replies; whether it took effect can no longer be told")]
    Expired(String),
    /// The request says it was issued so far in the future that its reply would be stored far longer than others.
    #[error(
        "request {0} was issued in the future; set the clock where it was issued right and send it under a fresh id"
    )]
    IssuedAhead(String),
    /// The same request id was used before for another message: a bug of the sender.
    #[error("request {0} was already used for another message; use a fresh id for each message")]
    Collision(String),
    /// No registered entity has this kind.
    #[error("no entity of kind `{0}` is registered; add `.entity::<...>()` to the runtime's builder")]
    UnknownKind(String),
    /// The entity neither handles nor answers a message of this name.
    #[error("entity kind `{kind}` does not handle `{name}`; list it in `handles(...)` or `queries(...)`")]
    UnknownMessage {
        /// Kind of the entity the message was for.
        kind: String,
        /// Name of the message.
        name: String,
    },
    /// A length is over its limit.
    #[error("{what} has {len} bytes; the limit is {max}")]
    TooLarge {
        /// What was too large: a key, a message, a feed name.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The query panicked or could not be read; nothing was changed by it.
    #[error("the query failed: {0}")]
    QueryFailed(String),
    /// The entity's stored state cannot be read by this build, so it cannot answer; its messages wait.
    #[error("the entity is parked: {0}")]
    Parked(String),
    /// There is no dead letter of this number (any more).
    #[error("there is no dead letter {0}; list them again")]
    NoDeadLetter(u64),
    /// Somebody has the feed open, or messages of it are still on their way.
    #[error("feed `{0}` is in use; close it everywhere, and let what it has sent become durable")]
    FeedOpen(String),
    /// An operator drops the feed, or began to.
    #[error("feed `{0}` is being dropped; where that was cut short, drop it again")]
    FeedDropping(String),
    /// No feed of this name was ever used, or it was dropped.
    #[error("there is no feed `{0}`; list them again")]
    NoFeed(String),
    /// The message could not be encoded.
    #[error("the message cannot be encoded: {0}")]
    Unencodable(String),
}

/// The queue that was full when a message was refused with [`Refusal::Busy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bound {
    /// What a worker has taken in and not yet run.
    Intake,
    /// The mailbox of the one entity the message was for.
    Mailbox,
    /// The outbox of the entity's shard: receivers do not keep up.
    Outbox,
    /// The memory for activations.
    Memory,
    /// The log is longer than a restart should have to read; the checkpoint is behind. Said to operators: requests wait
    /// for it, as far as the worker's intake has room.
    LogTail,
    /// The number of clients or feeds of a shard.
    Clients,
    /// The replies a shard has stored: their number, or their bytes.
    Replies,
    /// The dead letters of a shard: an operator should look at them.
    DeadLetters,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bound::Intake => "the worker's intake",
            Bound::Mailbox => "the entity's mailbox",
            Bound::Outbox => "the shard's outbox",
            Bound::Memory => "the memory for activations",
            Bound::LogTail => "the log",
            Bound::Clients => "the shard's table of clients",
            Bound::Replies => "the shard's store of replies",
            Bound::DeadLetters => "the shard's list of dead letters (retry or drop some)",
        })
    }
}

/// What `ask` and `send` return when there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nothing happened. Sending again, as the same or as a new request, is safe.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The message may have taken effect or not. Ask again with the same request id, as long as replies are stored: if it
    /// did, the repeat is answered with the stored reply; if it did not, it happens now, once. The text says so where it
    /// helps: not where the reply is stored no longer.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The message was consumed without effect and lies in the dead letters, where an operator can retry or drop it.
    #[error("dead-lettered: {0}")]
    DeadLettered(String),
    /// The reply was stored, but cannot be read as the type the caller expects.
    #[error("the reply cannot be decoded: {0}")]
    Reply(String),
}

// Not by `#[from]`: its words are part of this error's own, and would be said twice where a chain of sources is printed.
impl From<Refusal> for AskError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Stored state that cannot be turned into a living entity. The entity is parked: its messages wait, its stored state
/// is left as it is, and nobody ever sees it empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The state was written by a newer build.
    #[error("state has version {stored}, this build reads up to {known}; start the newer build again")]
    Newer {
        /// Version found in the store.
        stored: u32,
        /// Highest version this build reads.
        known: u32,
    },
    /// No upcast leads from the stored version to the present one.
    #[error("state has version {stored} and no `upcast({stored} => ...)` is declared")]
    NoUpcast {
        /// Version found in the store.
        stored: u32,
    },
    /// The bytes are not what the type expects.
    #[error("state cannot be decoded: {0}")]
    Undecodable(String),
}
