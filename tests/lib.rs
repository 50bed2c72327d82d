//! What the promise tests share: entities that notice a broken promise, the simulated world they live in, and a running
//! runtime with small bounds.

pub mod entities;
pub mod running;
pub mod world;
