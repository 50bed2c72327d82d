//! The numbered messages from one shard to another: what the receiver has taken, and what the sender still keeps.
//!
//! # Invariants
//! * Numbers are 1, 2, 3... per (source shard, target shard), and every number at or below the floor has been consumed
//!   in a commit, exactly once (P7).
//! * A message is taken into memory only after all before it. The window holds what was *consumed* out of order,
//!   because an entity was still loading or failing; it is empty for nearly every stream.
//! * The sender keeps a message until the receiver's commit is acknowledged.

mod inbox;
mod outbox;

pub use inbox::{Inbox, Verdict};
pub use outbox::Outbox;
