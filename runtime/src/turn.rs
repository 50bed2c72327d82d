//! One message applied to one entity: a pure function that judges how the turn ended.
//!
//! Here the path of a message dips into the user's code and comes back with an [`TurnEnd`]. Undoing a turn that does
//! not count is the caller's part: it has the image of the state before.

use crate::{
    context::{Effects, TurnInput},
    entity::{Answer, AnyEntity, Kind, MessageError},
    message::EnvelopeView,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a turn ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnEnd {
    /// State and effects count.
    Applied,
    /// The handler returned `Err`: its reply counts, the state must be restored (P1).
    Rejected,
    /// The handler panicked: no trace may remain, and it is tried again (P2).
    Panicked(String),
    /// Running it again would end the same way: no trace may remain, and the message is dead-lettered at once (P2).
    GivenUp(String),
}

/// Runs the handler of one message. `effects` must be clear, and holds what counts afterwards.
pub fn run(
    entity: &mut dyn AnyEntity,
    message: &EnvelopeView<'_>,
    input: &TurnInput<'_>,
    effects: &mut Effects,
) -> TurnEnd {
    debug_assert!(effects.is_empty(), "effects of another turn are still there");
    // The state may be half changed after a panic; the caller restores it from its image, so nothing sees it.
    let ended = catch_unwind(AssertUnwindSafe(|| entity.handle(message.name, message.body, input, effects)));
    let outcome = match ended {
        Ok(Ok(_)) if effects.over_bound().is_some() => {
            TurnEnd::GivenUp(effects.over_bound().expect("just seen").to_string())
        }
        Ok(Ok(Answer::Applied)) => TurnEnd::Applied,
        Ok(Ok(Answer::Rejected)) => TurnEnd::Rejected,
        Ok(Err(error)) => TurnEnd::GivenUp(format!("message `{}`: {error}", message.name)),
        Err(panic) => TurnEnd::Panicked(describe(panic.as_ref())),
    };
    match outcome {
        TurnEnd::Applied => {}
        TurnEnd::Rejected => effects.keep_reply_only(),
        TurnEnd::Panicked(_) | TurnEnd::GivenUp(_) => effects.clear(),
    }
    outcome
}

/// Answers a query into `reply`.
///
/// # Errors
/// The query is unknown, does not decode, or panicked; said in words.
pub fn ask(entity: &dyn AnyEntity, message: &EnvelopeView<'_>, reply: &mut Vec<u8>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(|| entity.query(message.name, message.body, reply))) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(MessageError::Unknown)) => Err(format!("no query `{}`", message.name)),
        Ok(Err(error)) => Err(format!("query `{}`: {error}", message.name)),
        Err(panic) => Err(format!("query `{}` panicked: {}", message.name, describe(panic.as_ref()))),
    }
}

/// Encodes a state. A type's own code runs here as in a handler, and panics no less.
///
/// # Errors
/// It failed or panicked; said in words. `out` may then hold a part.
pub fn encode(entity: &dyn AnyEntity, out: &mut Vec<u8>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| entity.encode(out)))
        .unwrap_or_else(|panic| Err(format!("writing the state panicked: {}", describe(panic.as_ref()))))
}

/// Reads a state back, or makes the first one where there is none.
///
/// # Errors
/// It cannot be read, or doing so panicked; said in words.
pub fn decode(kind: &dyn Kind, image: Option<(u32, &[u8])>) -> Result<Box<dyn AnyEntity>, String> {
    let read = AssertUnwindSafe(|| match image {
        Some((version, bytes)) => kind.decode(version, bytes).map_err(|error| error.to_string()),
        None => Ok(kind.create()),
    });
    catch_unwind(read)
        .unwrap_or_else(|panic| Err(format!("reading the state panicked: {}", describe(panic.as_ref()))))
}

/// The text of a panic, cut to a length that fits a log line and a stored reply.
fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned());
    text.chars().take(512).collect()
}
