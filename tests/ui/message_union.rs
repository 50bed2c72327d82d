//! A union cannot be encoded.
use entity_runtime::prelude::*;

#[derive(Message)]
union Deposit {
    cents: u64,
    euros: f64,
}

fn main() {}
