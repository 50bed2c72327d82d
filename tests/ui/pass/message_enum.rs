//! A message with variants is one message.
use entity_runtime::prelude::*;

#[derive(Message, Serialize, Deserialize)]
#[message(name = "door.v1", reply = std::result::Result<(), String>)]
enum Door {
    Open,
    Close { slowly: bool },
}

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "house", handles(Door))]
struct House {
    open: bool,
}

impl Handle<Door> for House {
    fn handle(&mut self, door: Door, _: &mut Context<'_, Self>) -> Result<(), String> {
        self.open = matches!(door, Door::Open | Door::Close { slowly: true });
        Ok(())
    }
}

fn main() {
    assert!(<Door as Message>::is_rejection(&Err(String::new())));
}
