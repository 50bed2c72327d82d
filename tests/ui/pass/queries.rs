//! Queries beside handlers, and an entity of queries alone.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
struct Add(u64);

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Total;

#[derive(Message, Serialize, Deserialize)]
#[message(reply = Option<String>)]
struct Label;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "counter", handles(Add), queries(Total, Label,))]
struct Counter(u64);

impl Handle<Add> for Counter {
    fn handle(&mut self, add: Add, _: &mut Context<'_, Self>) {
        self.0 += add.0;
    }
}

impl Query<Total> for Counter {
    fn query(&self, _: Total) -> u64 {
        self.0
    }
}

impl Query<Label> for Counter {
    fn query(&self, _: Label) -> Option<String> {
        None
    }
}

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "constant", queries(Total))]
struct Constant;

impl Query<Total> for Constant {
    fn query(&self, _: Total) -> u64 {
        42
    }
}

fn main() {
    assert_eq!(<Counter as Entity>::QUERIES, ["total", "label"]);
    assert_eq!(<Constant as Entity>::HANDLES, [""; 0]);
}
