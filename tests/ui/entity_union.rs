//! A union cannot be stored.
use entity_runtime::prelude::*;

#[derive(Entity)]
#[entity(kind = "account")]
union Account {
    cents: u64,
    euros: f64,
}

fn main() {}
