//! Names and types that come through `macro_rules!` carry its hygiene.
use entity_runtime::prelude::*;

#[derive(Debug, Serialize, Deserialize)]
struct Refused;

macro_rules! ledger {
    ($entity:ident, $kind:literal, $message:ident, $listed:path, $reply:ty, $old:path) => {
        #[derive(Message, Serialize, Deserialize)]
        #[message(reply = $reply)]
        struct $message;

        #[derive(Entity, Default, Serialize, Deserialize)]
        #[entity(kind = $kind, handles($message, $listed), version = 2, upcast(1 => $old))]
        struct $entity;

        impl Handle<$message> for $entity {
            fn handle(&mut self, _: $message, _: &mut Context<'_, Self>) -> $reply {
                Err(Refused)
            }
        }
    };
}

#[derive(Message, Serialize, Deserialize)]
struct Other;

fn from_v1((): ()) -> Ledger {
    Ledger
}

ledger!(Ledger, "ledger", Post, crate::Other, Result<(), Refused>, from_v1);

impl Handle<Other> for Ledger {
    fn handle(&mut self, _: Other, _: &mut Context<'_, Self>) {}
}

fn main() {
    assert!(<Post as Message>::is_rejection(&Err(Refused)));
}
