//! x
#![allow(missing_docs)]
// The derives name the crate as users do.
#[allow(unused_extern_crates)]
extern crate self as entity_runtime;
pub mod activation;
pub mod codec;
pub mod context;
pub mod entity;
pub mod error;
pub mod feeds;
pub mod kernel;
pub mod kinds;
pub mod limits;
pub mod message;
pub mod placement;
pub mod reminders;
pub mod requests;
pub mod shard;
pub mod sim;
pub mod store;
pub mod stream;
pub mod timestamp;
pub mod turn;

pub use entity_macros::{Entity, Message};

pub mod prelude {
    pub use crate::{
        context::Context,
        entity::{Entity, EntityId, Handle, Query},
        message::Message,
    };
    pub use entity_macros::{Entity, Message};
    pub use serde::{Deserialize, Serialize};
}
