//! A name is one type.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
struct Deposit<T> {
    cents: T,
}

#[derive(Message, Serialize, Deserialize)]
struct Note<'a> {
    text: &'a str,
}

fn main() {}
