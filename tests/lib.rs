//! What the promise tests share: entities that notice a broken promise, the simulated world they live in, and a running
//! runtime with small bounds; kernels driven by hand.

pub mod driven;
pub mod entities;
pub mod nodes;
pub mod private_postgres;
pub mod running;
pub mod world;
