//! What the promise tests share: entities that notice a broken promise, and the simulated world they live in.

pub mod entities;
pub mod world;
