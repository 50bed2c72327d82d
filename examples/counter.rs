//! The smallest entity.
fn main() {}
