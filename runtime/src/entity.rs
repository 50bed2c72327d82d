//! What an entity is: keyed, disjoint data with handlers, and the traits its derive writes.
//!
//! An entity is an actor by its contract: addressed by [`EntityId`], private state, one message at a time, created by
//! its first message. Nothing here knows where it lives.
//!
//! # An entity by hand
//!
//! `#[derive(Entity)]` writes one [`Entity`] impl and nothing else. This is what a person could have written:
//!
//! ```
//! use entity_runtime::prelude::*;
//! use entity_runtime::entity::{Answer, MessageError, handle, query};
//! use entity_runtime::context::{Effects, TurnInput};
//! use entity_runtime::message::Message;
//!
//! #[derive(Default, Serialize, Deserialize)]
//! struct Counter { count: u64 }
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[message(reply = u64)]
//! struct Add { by: u64 }
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[message(reply = u64)]
//! struct Total;
//!
//! impl Handle<Add> for Counter {
//!     fn handle(&mut self, add: Add, _: &mut Context<'_, Self>) -> u64 { self.count += add.by; self.count }
//! }
//! impl Query<Total> for Counter {
//!     fn query(&self, _: Total) -> u64 { self.count }
//! }
//!
//! impl Entity for Counter {
//!     type State = Self;
//!     const KIND: &'static str = "counter";
//!     const HANDLES: &'static [&'static str] = &[<Add as Message>::NAME];
//!     const QUERIES: &'static [&'static str] = &[<Total as Message>::NAME];
//!
//!     fn handle_named(&mut self, name: &str, body: &[u8], input: &TurnInput<'_>, effects: &mut Effects)
//!         -> Result<Answer, MessageError>
//!     {
//!         match name {
//!             <Add as Message>::NAME => handle::<Self, Add>(self, body, input, effects),
//!             _ => Err(MessageError::Unknown),
//!         }
//!     }
//!
//!     fn query_named(&self, name: &str, body: &[u8], reply: &mut Vec<u8>) -> Result<(), MessageError> {
//!         match name {
//!             <Total as Message>::NAME => query::<Self, Total>(self, body, reply),
//!             _ => Err(MessageError::Unknown),
//!         }
//!     }
//! }
//! ```

use crate::{
    codec,
    context::{Context, Effects, TurnInput},
    error::{Refusal, StateError},
    message::{self, Message},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{borrow::Cow, fmt, marker::PhantomData};

/// Longest key in bytes. A longer one is refused as [`Refusal::TooLarge`].
pub const KEY_LEN_MAX: usize = 512;
/// Longest kind and longest message name in bytes.
pub const NAME_LEN_MAX: usize = 64;

/// The name of one entity: its kind and its key.
///
/// The key is opaque: any string up to [`KEY_LEN_MAX`] bytes. It is never a path and never part of a query text, and
/// [`Display`](fmt::Display) shows it escaped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntityId {
    kind: Cow<'static, str>,
    key: String,
}

impl EntityId {
    /// The entity of this kind and key. Nothing is checked until a message is sent to it.
    pub fn new(kind: impl Into<Cow<'static, str>>, key: impl Into<String>) -> Self {
        Self { kind: kind.into(), key: key.into() }
    }

    /// The kind: the string of the derive, never a Rust type name.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Checks what a message needs of its target.
    ///
    /// # Errors
    /// The kind or the key is outside its limits.
    pub fn check(kind: &str, key: &str) -> Result<(), Refusal> {
        if !is_name(kind) {
            return Err(Refusal::UnknownKind(kind.escape_debug().to_string()));
        }
        if key.len() > KEY_LEN_MAX {
            return Err(Refusal::TooLarge { what: "the entity's key", len: key.len(), max: KEY_LEN_MAX });
        }
        Ok(())
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.key.escape_debug())
    }
}

/// Whether `name` may stand as a kind or message name: `[a-z0-9._-]{1,64}` (P6). Anything else would make
/// `(kind, 0, key)` ambiguous.
pub const fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !matches!(bytes[at], b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-') {
            return false;
        }
        at += 1;
    }
    !bytes.is_empty() && bytes.len() <= NAME_LEN_MAX
}

/// A typed address: the entity of kind `E` with a key. Cheap, `Send` whatever the state is, and valid after any move.
pub struct EntityRef<E> {
    key: String,
    entity: PhantomData<fn() -> E>,
}

impl<E: Entity> EntityRef<E> {
    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The untyped name.
    pub fn id(&self) -> EntityId {
        EntityId::new(E::KIND, self.key.clone())
    }
}

impl<E> Clone for EntityRef<E> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), entity: PhantomData }
    }
}

impl<E: Entity> fmt::Debug for EntityRef<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntityRef({}/{})", E::KIND, self.key.escape_debug())
    }
}

/// A durable thing with a key, written by `#[derive(Entity)]`.
///
/// The module's page shows one by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an entity",
    label = "add `#[derive(Entity)]` and `#[entity(kind = \"...\", handles(...))]` to `{Self}`"
)]
pub trait Entity: Sized + 'static {
    /// How the state is made, written and read: `Self`, for every entity.
    ///
    /// A bound on this type and not on the trait, because the bounds of a trait are asked for again wherever it is used:
    /// a missing serde derive would be an error at each `Account::at(..)`, and so it is one at the entity.
    #[doc(hidden)]
    type State: State<Self>;
    /// Name of the kind in keys, logs and on the wire; [`is_name`] says what is allowed. Renaming it makes new entities.
    const KIND: &'static str;
    /// Version of the state's shape, from 1. Raise it when old bytes no longer decode, and give an upcast.
    const VERSION: u32 = 1;
    /// Kept in memory only: lost by crash, move and passivation, delivered at most once, never part of a durable promise.
    const VOLATILE: bool = false;
    /// Names of the handled messages.
    const HANDLES: &'static [&'static str];
    /// Names of the queries.
    const QUERIES: &'static [&'static str] = &[];

    /// Runs the handler of the message called `name`.
    ///
    /// # Errors
    /// There is no such handler, or the body or the reply does not encode.
    fn handle_named(
        &mut self,
        name: &str,
        body: &[u8],
        input: &TurnInput<'_>,
        effects: &mut Effects,
    ) -> Result<Answer, MessageError>;

    /// Answers the query called `name` into `reply`.
    ///
    /// # Errors
    /// There is no such query, or the body or the reply does not encode.
    fn query_named(&self, name: &str, body: &[u8], reply: &mut Vec<u8>) -> Result<(), MessageError> {
        let _ = (name, body, reply);
        Err(MessageError::Unknown)
    }

    /// Reads state stored at `version`.
    ///
    /// # Errors
    /// The version is newer than this build or has no upcast, or the bytes do not decode.
    fn decode_versioned(version: u32, bytes: &[u8]) -> Result<Self, StateError> {
        decode_present::<Self>(version, bytes)
    }

    /// The entity of this kind with `key`.
    fn at(key: impl Into<String>) -> EntityRef<Self> {
        EntityRef { key: key.into(), entity: PhantomData }
    }
}

/// Handles messages of type `M`: one turn, all or nothing.
///
/// The handler may run more than once for one message (after a crash before its commit, or a panic), but exactly one run
/// takes effect. A handler that returns `Err` has rejected the message: the error is the answer, and whatever it did to
/// `self` or recorded in `ctx` is undone. A panic leaves no trace and is retried.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{M}`",
    label = "write `impl Handle<{M}> for {Self}` and list `{M}` in `handles(...)`"
)]
pub trait Handle<M: Message>: Sized {
    /// Applies `message` to the entity. Record effects in `ctx`; perform none.
    fn handle(&mut self, message: M, ctx: &mut Context<'_, Self>) -> M::Reply;
}

/// Answers questions of type `M` without changing anything.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not answer `{M}`",
    label = "write `impl Query<{M}> for {Self}` and list `{M}` in `queries(...)`"
)]
pub trait Query<M: Message>: Sized {
    /// The answer. An entity that never had a message answers from its `Default`, and is not created by it.
    fn query(&self, message: M) -> M::Reply;
}

/// What the state of entity `E` can do: be made empty, written and read. Implemented for every
/// `Default + Serialize + Deserialize` type; hidden so that a missing derive is one error and not one per trait.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "the state of entity `{E}` cannot be stored",
    label = "derive `Default`, `Serialize` and `Deserialize` for `{E}`",
    note = "an entity starts from `Default` and is kept with serde"
)]
pub trait State<E> {
    fn empty() -> E;
    fn encode(entity: &E, out: &mut Vec<u8>) -> Result<(), String>;
    fn decode(bytes: &[u8]) -> Result<E, String>;
}

#[diagnostic::do_not_recommend]
impl<E: Default + Serialize + DeserializeOwned> State<E> for E {
    fn empty() -> E {
        E::default()
    }

    fn encode(entity: &E, out: &mut Vec<u8>) -> Result<(), String> {
        codec::encode(entity, out)
    }

    fn decode(bytes: &[u8]) -> Result<E, String> {
        codec::decode(bytes)
    }
}

/// How a handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The turn counts; its reply lies in the effects.
    Applied,
    /// The handler returned `Err`: the reply is the error, everything else is undone.
    Rejected,
}

/// Why a message did not reach its handler, or its reply did not leave it. Running it again would end the same way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The entity has no handler of this name.
    #[error("the entity has no handler for it")]
    Unknown,
    /// The body is not what the handler's type expects.
    #[error("its body cannot be decoded: {0}")]
    Undecodable(String),
    /// The reply does not encode.
    #[error("its reply cannot be encoded: {0}")]
    Unencodable(String),
}

/// Decodes `body`, runs the handler and encodes its reply: the arm of the derived `match`.
///
/// # Errors
/// The body does not decode or the reply does not encode.
pub fn handle<E: Entity + Handle<M>, M: Message>(
    entity: &mut E,
    body: &[u8],
    input: &TurnInput<'_>,
    effects: &mut Effects,
) -> Result<Answer, MessageError> {
    let message: M = message::decode(body).map_err(MessageError::Undecodable)?;
    let reply = {
        let mut context = Context::new(input, effects);
        <E as Handle<M>>::handle(entity, message, &mut context)
    };
    codec::encode(&reply, effects.reply_mut()).map_err(MessageError::Unencodable)?;
    Ok(if <M as Message>::is_rejection(&reply) { Answer::Rejected } else { Answer::Applied })
}

/// Decodes `body`, asks the entity and encodes the reply.
///
/// # Errors
/// The body does not decode or the reply does not encode.
pub fn query<E: Entity + Query<M>, M: Message>(
    entity: &E,
    body: &[u8],
    reply: &mut Vec<u8>,
) -> Result<(), MessageError> {
    let message: M = message::decode(body).map_err(MessageError::Undecodable)?;
    codec::encode(&<E as Query<M>>::query(entity, message), reply).map_err(MessageError::Unencodable)
}

/// Reads state of the present version.
///
/// # Errors
/// The version is another one, or the bytes do not decode.
pub fn decode_present<E: Entity>(version: u32, bytes: &[u8]) -> Result<E, StateError> {
    if version > E::VERSION {
        return Err(StateError::Newer { stored: version, known: E::VERSION });
    }
    if version < E::VERSION {
        return Err(StateError::NoUpcast { stored: version });
    }
    <E::State as State<E>>::decode(bytes).map_err(StateError::Undecodable)
}

/// Reads a state of an older shape, for the first step of an upcast.
///
/// # Errors
/// The bytes do not decode.
pub fn decode_old<Old: DeserializeOwned>(bytes: &[u8]) -> Result<Old, StateError> {
    codec::decode(bytes).map_err(StateError::Undecodable)
}

/// One step of an upcast: `step` leads from the state of a version to that of the next.
///
/// # Errors
/// The state before could not be read.
pub fn upcast<Old, New>(
    old: Result<Old, StateError>,
    step: impl FnOnce(Old) -> New,
) -> Result<New, StateError> {
    old.map(step)
}

/// A kind of entity as the runtime sees it, without its type. Kinds from elsewhere than the derive can implement it too.
pub trait Kind: Send + Sync + 'static {
    /// Name of the kind.
    fn name(&self) -> &'static str;
    /// Version this build writes.
    fn version(&self) -> u32;
    /// Whether its entities are kept in memory only.
    fn is_volatile(&self) -> bool;
    /// Names of the handled messages.
    fn handles(&self) -> &'static [&'static str];
    /// Names of the queries.
    fn queries(&self) -> &'static [&'static str];
    /// An entity before its first message.
    fn create(&self) -> Box<dyn AnyEntity>;
    /// An entity from its stored state.
    ///
    /// # Errors
    /// See [`StateError`]: the entity is then parked.
    fn decode(&self, version: u32, bytes: &[u8]) -> Result<Box<dyn AnyEntity>, StateError>;
}

/// One entity's state without its type.
pub trait AnyEntity {
    /// See [`Entity::handle_named`].
    ///
    /// # Errors
    /// As there.
    fn handle(
        &mut self,
        name: &str,
        body: &[u8],
        input: &TurnInput<'_>,
        effects: &mut Effects,
    ) -> Result<Answer, MessageError>;
    /// See [`Entity::query_named`].
    ///
    /// # Errors
    /// As there.
    fn query(&self, name: &str, body: &[u8], reply: &mut Vec<u8>) -> Result<(), MessageError>;
    /// Appends the encoded state to `out`.
    ///
    /// # Errors
    /// The type's `Serialize` failed.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), String>;
}

impl<E: Entity> AnyEntity for E {
    fn handle(
        &mut self,
        name: &str,
        body: &[u8],
        input: &TurnInput<'_>,
        effects: &mut Effects,
    ) -> Result<Answer, MessageError> {
        self.handle_named(name, body, input, effects)
    }

    fn query(&self, name: &str, body: &[u8], reply: &mut Vec<u8>) -> Result<(), MessageError> {
        self.query_named(name, body, reply)
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), String> {
        <E::State as State<E>>::encode(self, out)
    }
}

/// The [`Kind`] of a Rust type.
pub struct KindOf<E>(PhantomData<fn() -> E>);

impl<E: Entity> KindOf<E> {
    /// The kind of `E`.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<E: Entity> Default for KindOf<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Entity> Kind for KindOf<E> {
    fn name(&self) -> &'static str {
        E::KIND
    }

    fn version(&self) -> u32 {
        E::VERSION
    }

    fn is_volatile(&self) -> bool {
        E::VOLATILE
    }

    fn handles(&self) -> &'static [&'static str] {
        E::HANDLES
    }

    fn queries(&self) -> &'static [&'static str] {
        E::QUERIES
    }

    fn create(&self) -> Box<dyn AnyEntity> {
        Box::new(<E::State as State<E>>::empty())
    }

    fn decode(&self, version: u32, bytes: &[u8]) -> Result<Box<dyn AnyEntity>, StateError> {
        E::decode_versioned(version, bytes).map(|entity| Box::new(entity) as Box<dyn AnyEntity>)
    }
}

/// For the derive: whether the names are all different. Evaluated at compile time.
#[doc(hidden)]
pub const fn names_differ(names: &[&str]) -> bool {
    let mut left = 0;
    while left < names.len() {
        let mut right = left + 1;
        while right < names.len() {
            if same(names[left], names[right]) {
                return false;
            }
            right += 1;
        }
        left += 1;
    }
    true
}

const fn same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut at = 0;
    while at < left.len() {
        if left[at] != right[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Marks how an entity answers a message, so that one `ask` serves handlers and queries.
#[doc(hidden)]
pub mod way {
    pub struct Handled;
    pub struct Queried;
}

/// An entity that answers `M`, as a message or as a query; `Way` is inferred.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` neither handles nor answers `{M}`",
    label = "list `{M}` in `handles(...)` or `queries(...)` of `{Self}` and write the `Handle` or `Query` impl"
)]
pub trait Answers<M: Message, Way>: Entity {
    const IS_QUERY: bool;
}

#[diagnostic::do_not_recommend]
impl<M: Message, E: Entity + Handle<M>> Answers<M, way::Handled> for E {
    const IS_QUERY: bool = false;
}

#[diagnostic::do_not_recommend]
impl<M: Message, E: Entity + Query<M>> Answers<M, way::Queried> for E {
    const IS_QUERY: bool = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_p6_allows() {
        assert!(is_name("bank.account-2_x"));
        for bad in ["", "Account", "a/b", "a\0b", "ä", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_id_is_shown_escaped() {
        assert_eq!(EntityId::new("file", "a\n\"\0").to_string(), "file/a\\n\\\"\\0");
    }
}
