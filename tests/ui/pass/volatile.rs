//! An entity that is kept in memory only.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
struct Seen;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "presence", handles(Seen), volatile)]
struct Presence;

impl Handle<Seen> for Presence {
    fn handle(&mut self, _: Seen, _: &mut Context<'_, Self>) {}
}

fn main() {
    assert!(<Presence as Entity>::VOLATILE);
}
