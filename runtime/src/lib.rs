//! x
#![allow(missing_docs)]
// The derives name the crate as users do.
extern crate self as entity_runtime;
pub mod codec;
pub mod context;
pub mod entity;
pub mod error;
pub mod message;
pub mod placement;
pub mod store;
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
