//! Generated code names everything in full, so that what users call their types is their own affair.
#![deny(warnings, missing_docs, unused_qualifications)]

use entity_runtime::{Entity, Message, entity, prelude::{Deserialize, Serialize}};

mod core {}
mod std {}
struct Result;
struct Ok;
struct Err;
struct Vec;
#[allow(non_camel_case_types)]
struct u32;
#[allow(non_camel_case_types)]
struct str;

/// A message.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ::core::result::Result<(), ()>)]
pub struct Add;

/// A question.
#[derive(Message, Serialize, Deserialize)]
pub struct Total;

/// An entity.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "counter", handles(Add), queries(Total), version = 2, upcast(1 => Counter::from_v1))]
pub struct Counter;

impl Counter {
    const fn from_v1(_: ()) -> Self {
        Self
    }
}

impl entity::Handle<Add> for Counter {
    fn handle(&mut self, _: Add, _: &mut entity_runtime::context::Context<'_, Self>) -> ::core::result::Result<(), ()> {
        ::core::result::Result::Ok(())
    }
}

impl entity::Query<Total> for Counter {
    fn query(&self, _: Total) {}
}

fn main() {
    let _ = (Result, Ok, Err, Vec, u32, str);
}
