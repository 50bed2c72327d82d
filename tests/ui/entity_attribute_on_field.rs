//! The attribute stands on the type.
use entity_runtime::prelude::*;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account")]
struct Account {
    #[entity(volatile)]
    cents: u64,
}

fn main() {}
