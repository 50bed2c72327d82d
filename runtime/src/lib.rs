//! A scale-independent entity runtime: derive [`Entity`] on a struct, write plain synchronous handlers, send messages to
//! entity ids, and every accepted message takes effect exactly once, whatever crashes.
//!
//! ```
//! use entity_runtime::prelude::*;
//!
//! #[derive(Entity, Default, Serialize, Deserialize)]
//! #[entity(kind = "account", handles(Deposit, Transfer))]
//! struct Account { cents: u64 }
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[message(reply = u64)]
//! struct Deposit { cents: u64 }
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[message(reply = Result<u64, Insufficient>)]
//! struct Transfer { to: String, cents: u64 }
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct Insufficient;
//!
//! impl Handle<Deposit> for Account {
//!     fn handle(&mut self, deposit: Deposit, _: &mut Context<'_, Self>) -> u64 {
//!         self.cents += deposit.cents;
//!         self.cents
//!     }
//! }
//!
//! impl Handle<Transfer> for Account {
//!     fn handle(&mut self, transfer: Transfer, ctx: &mut Context<'_, Self>) -> Result<u64, Insufficient> {
//!         self.cents = self.cents.checked_sub(transfer.cents).ok_or(Insufficient)?;
//!         ctx.send(Account::at(&transfer.to), Deposit { cents: transfer.cents });
//!         Ok(self.cents)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! # let directory = tempfile::tempdir()?;
//! # let data_dir = directory.path();
//! let runtime = Runtime::builder().entity::<Account>().data_dir(data_dir).start().await?;
//! let client = runtime.client();
//! client.ask(Account::at("alice"), Deposit { cents: 900 }).await?;
//! // The outer result: refused or unknown. The inner: what the entity answered.
//! let left = client.ask(Account::at("alice"), Transfer { to: "bob".into(), cents: 500 }).await?;
//! assert_eq!(left, Ok(400));
//! runtime.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Life of a message
//!
//! 1. **Send.** A [`Client`], a [`Feed`] or a handler's [`Context`](context::Context) encodes it, once, into an
//!    [`Envelope`](message::Envelope).
//! 2. **Place.** Kind and key give a hash, the hash a [shard](placement), the shard a [worker](mod@kernel).
//! 3. **Accept.** At the shard's door it is judged against its [stream], [request id](requests) or [feed](feeds):
//!    fresh, repeated, or refused.
//! 4. **Handle.** Its entity's [activation] runs one [turn], a pure function of state, message and input.
//! 5. **Commit.** Image, mark, outgoing messages, reminders and reply become rows of one [`Batch`](store::Batch), which
//!    the [store] makes durable whole or not at all.
//! 6. **Deliver.** Only then do the reply and the messages leave; the outbox keeps each until its receiver's commit.
//!
//! Names that end in no room of this list are the ring around it: `worker`, `node`, `client`, [`runtime`], [`command`].

// The derives name the crate as users do, also in this crate's own tests and docs.
#[allow(unused_extern_crates)]
extern crate self as entity_runtime;

// Upper floor: scale-agnostic.

// What a sender can do about each failure.
pub mod error;

// A point in time as a value of a turn.
pub mod timestamp;

// `MessagePack` with field names, checked before it is decoded.
pub mod codec;

// What an entity is.
pub mod entity;

// Messages, envelopes, request ids.
pub mod message;

// What a handler may ask for.
pub mod context;

// One message applied to one entity.
pub mod turn;

// Lower floor: scale-aware.

// Bounds, each with what happens when it is reached.
pub mod limits;

// Entity to hash to shard to node.
pub mod placement;

// Who is in the cluster.
pub mod membership;

// Shard to the node that owns it, as far as is known.
pub mod router;

// Which shards are to be handed off, to whom, and when.
pub mod rebalance;

// The kinds a program registered.
pub mod kinds;

// The numbered messages from one shard to another.
pub mod stream;

// Clients' request ids and stored replies.
pub mod requests;

// Clients with a stable name.
pub mod feeds;

// Due times of a shard.
pub mod reminders;

// Entities in memory.
pub mod activation;

// One shard in memory.
pub mod shard;

// What a worker decides, without I/O.
pub mod kernel;

// Moving one shard to another node, without I/O.
pub mod handoff;

// Every hand-off of one node, without I/O.
pub mod mover;

// Which shards of a shared store a node takes and gives, without I/O.
pub mod sharing;

// Batches in, rows out.
pub mod store;

// What a kernel and a mover ask the store for, carried out.
pub mod load;

// Many crashes under one seed.
pub mod sim;

// The machine's clock.
mod clock;

// Frames between nodes, and the connections they travel on.
pub mod transport;

// What joins a node to others: connections, membership, hand-offs.
pub mod cluster;

// The actix ring around a kernel.
mod worker;

// The threads of one process.
mod node;

// What a user holds to talk to entities.
pub mod client;

// What a program holds: built, asked for clients, stopped.
pub mod runtime;

// A node's command line, and its operator's.
pub mod command;

pub use client::{Ask, Client, Feed, FeedError};
pub use entity_macros::{Entity, Message};
pub use error::{AskError, Refusal};
pub use kernel::Counters;
pub use limits::Limits;
pub use message::RequestId;
#[cfg(feature = "postgres")]
pub use runtime::PostgresError;
pub use runtime::{Builder, Runtime, StartError};
pub use sim::Sim;

/// What most programs need.
pub mod prelude {
    pub use crate::{
        client::Client,
        context::{Context, ReminderId},
        entity::{Entity, EntityId, EntityRef, Handle, Query},
        message::Message,
        runtime::Runtime,
    };
    pub use entity_macros::{Entity, Message};
    pub use serde::{Deserialize, Serialize};
}
