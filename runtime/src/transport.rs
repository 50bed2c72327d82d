//! Frames between nodes.
mod fields;
pub mod frame;
