//! The type's name gives no message name.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
struct Einzahlungübergabe;

fn main() {}
