//! Moving one shard to another node while it serves, without I/O (P18).
//!
//! ```text
//!  source                                         target
//!  ──────                                         ──────
//!  Offer ────────────────────────────────────────► may I have it? then clears a place for it
//!        ◄──────────────────────────────────────── Ready
//!  rows, chunk by chunk ─────────────────────────► staged beside the log
//!  sections of batches, as they become durable ──► kept, newest write of each row; staged behind the rows
//!        ◄──────────────────────────────────────── Staged through n
//!  SEAL, durable: nothing is served from here on
//!  the last sections, and the hash over all ─────► staged; ACCEPT in one small commit: it serves
//!        ◄──────────────────────────────────────── Accepted
//!  MOVED, durable: its rows may go
//! ```
//!
//! What is shipped is a sequence of numbered [pieces](Piece), each an encoded [`Batch`](crate::store::Batch) of one section. Rows are read
//! from the store while the shard goes on writing, so a chunk may be older or newer than a section beside it. That does no
//! harm: sections are whole values, they are applied in order and behind all chunks, and the copy begins only when loads find
//! everything from before the first section that is shipped. So the newest write of every row is always the last applied.
//!
//! # Invariants
//! * Until its seal is durable the source owns the shard and may withdraw. From then on nobody serves it before the target has
//!   accepted, and there is no way back but an operator's.
//! * The target accepts only what hashes as the source's pieces do, all of them, in order.
//! * A hand-off is with one store: that of the target which was ready, and which the seal names beside it. Should another store
//!   have the target's name since, it is told nothing, and nothing it says is an answer.
//! * Whatever is lost is sent again: each side answers from what is durable with it. A target that has lost its staging says
//!   so, and the pieces begin anew as another *attempt* of the same transfer.
//! * Every answer names the attempt it is of, and the *place* at the target that was cleared for it: what comes late, over a
//!   connection of before or to a target that has begun anew since, is not taken for an answer of now (P12).
//!
//! # Caveats
//! * A target that restarts has lost what was staged; nothing is resumed in the middle.
//! * A shard written to faster than its pieces travel is not moved: the source gives up at
//!   [`HandOffLimits::backlog_bytes_max`] and may try again later.

mod encoding;
mod pieces;
mod source;
mod target;
#[cfg(test)]
mod tests;

pub use encoding::MessageError;
pub use pieces::{PIECE_ROWS_MAX, Piece, newest_writes};
pub use source::{Source, SourceAction, SourceEnd, SourceEvent};
pub use target::{OfferVerdict, Target, TargetAction, TargetEvent};

use crate::{
    placement::{Epoch, NodeName, ShardId},
    store::TransferId,
};
use bytes::Bytes;
use std::time::Duration;

/// One hand-off: which shard goes from whom to whom, and the epoch it will have there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Never used again, also not when the same shard goes the same way once more.
    pub id: TransferId,
    /// The shard.
    pub shard: ShardId,
    /// The epoch under which the target will own it.
    pub epoch: Epoch,
    /// Who owns it.
    pub source: NodeName,
    /// Who is to own it.
    pub target: NodeName,
}

/// What the two sides of a hand-off say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Source to target: take this shard.
    Offer {
        /// The hand-off.
        transfer: Transfer,
        /// Which attempt of its source: pieces are numbered anew in each, and a later one has a higher number, also where it is
        /// of a later hand-off.
        attempt: u64,
        /// Digest of the table that names the target.
        table: u64,
        /// The seal is durable: the shard has nowhere else to go.
        is_sealed: bool,
    },
    /// Target to source: send the pieces of this attempt.
    Ready {
        /// The attempt.
        attempt: u64,
        /// Digest of the target's table.
        table: u64,
        /// Which place was cleared for them: a later one has a higher number, and nothing of what an earlier one had.
        place: u64,
    },
    /// Target to source: not now.
    NotReady {
        /// The attempt.
        attempt: u64,
        /// Digest of the target's table; 0 where it has none.
        table: u64,
        /// It only has too many others to take.
        is_busy: bool,
        /// Why, in a sentence.
        reason: String,
    },
    /// Source to target.
    Piece {
        /// The attempt.
        attempt: u64,
        /// Number of the piece in the attempt, from 1.
        number: u64,
        /// The encoded [`Piece`].
        body: Bytes,
    },
    /// Target to source: pieces up to this one are staged, or kept for it.
    Staged {
        /// The attempt.
        attempt: u64,
        /// Where, as in [`Message::Ready`].
        place: u64,
        /// Number of the last one.
        through: u64,
    },
    /// Target to source: what was staged is lost; begin a new attempt.
    Lost {
        /// The one that is lost.
        attempt: u64,
    },
    /// Target to source: it has the shard, durably.
    Accepted,
    /// Source to target: it will not come to an end.
    Withdrawn,
    /// Source to target, where both have one store: the shard is the target's, durably, and nothing is copied.
    Given {
        /// Under which the target owns it.
        epoch: Epoch,
        /// Row keys of images that are wanted soon. Nothing is lost with them.
        hot: Vec<Vec<u8>>,
    },
}

/// Bounds of a hand-off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOffLimits {
    /// Bytes of pieces that are sent and not staged yet. At the bound the source reads no more rows. Default 1 MiB.
    pub window_bytes: usize,
    /// Most bytes of rows in a piece, but one row always fits. Default 256 KiB.
    pub chunk_bytes: usize,
    /// Bytes of sections that wait to be sent, at the source, or to be staged, at the target. At the bound the hand-off is
    /// given up, for the shard is written to faster than it can be moved. Once the seal is ordered the source lets go of the sections
    /// instead: behind the seal all of the shard is in its store, and is sent from there. Default 64 MiB.
    pub backlog_bytes_max: usize,
    /// A source seals when all rows are staged and no more bytes of sections than this are on their way: what the shard stands
    /// still for. Default 64 KiB.
    pub seal_bytes: usize,
    /// What is not answered is sent again after this. Default 500 ms.
    pub resend_after: Duration,
    /// An offer without an answer, or one whose target stages nothing of what was sent before the seal, is withdrawn after this; a
    /// target gives up after twice that. It counts only while the other node is waited for, not while a side waits for its own
    /// store or kernel. Default 10 s.
    pub patience: Duration,
}

impl Default for HandOffLimits {
    fn default() -> Self {
        Self {
            window_bytes: 1 << 20,
            chunk_bytes: 256 << 10,
            backlog_bytes_max: 64 << 20,
            seal_bytes: 64 << 10,
            resend_after: Duration::from_millis(500),
            patience: Duration::from_secs(10),
        }
    }
}
