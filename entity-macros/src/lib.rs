//! The derives of `entity-runtime`. Use them from there: `use entity_runtime::prelude::*`.
//!
//! Each writes one impl that a person could have written; the page of `entity_runtime::entity` shows one by hand. The
//! files are the pipeline: `parse` reads the attributes, `validate` judges them, `expand` writes the impl. All complaints
//! of a derive are told at once, and after them it still writes an impl, so that a wrong attribute is not repeated as an
//! error at every use of the type.

mod expand;
mod parse;
mod validate;

use parse::{EntityAttrs, Errors, MessageAttrs};
use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Makes a struct an entity: keyed, durable data with handlers.
///
/// The struct also derives `Default` (an entity before its first message), `Serialize` and `Deserialize` (how it is
/// kept). For each listed message there is an `impl Handle` or `impl Query`. It has no generics; an enum goes into one
/// of its fields.
///
/// ```
/// use entity_runtime::prelude::*;
///
/// #[derive(Message, Serialize, Deserialize)]
/// struct Deposit { cents: u64 }
///
/// #[derive(Message, Serialize, Deserialize)]
/// #[message(reply = u64)]
/// struct Balance;
///
/// #[derive(Entity, Default, Serialize, Deserialize)]
/// #[entity(kind = "account", handles(Deposit), queries(Balance))]
/// struct Account { cents: u64 }
///
/// impl Handle<Deposit> for Account {
///     fn handle(&mut self, deposit: Deposit, _: &mut Context<'_, Self>) {
///         self.cents += deposit.cents;
///     }
/// }
///
/// impl Query<Balance> for Account {
///     fn query(&self, _: Balance) -> u64 { self.cents }
/// }
///
/// assert_eq!(Account::at("alice").id().to_string(), "account/alice");
/// ```
///
/// # Attributes
///
/// All stand in `#[entity(...)]`; `kind` is required.
///
/// * **`kind = "account"`** names the entity in keys, logs and on the wire: 1 to 64 of the characters `a-z`, `0-9`, `.`,
///   `_` and `-`. It is written out because it names durable data: renaming the type changes nothing, and changing the
///   kind makes new, empty entities.
/// * **`handles(Deposit, Withdraw)`** lists the messages the entity takes, each with an `impl Handle`. A message reaches
///   its handler by its name; two messages of one name do not compile.
/// * **`queries(Balance)`** lists the messages it answers without changing, each with an `impl Query`. A message is
///   handled or queried, not both.
/// * **`version = 2`** is the version of the state's shape; 1 when it is not given. Raise it when old bytes no longer
///   decode. Adding a field with `#[serde(default)]` needs no new version.
/// * **`upcast(1 => from_v1)`** leads from each older version to the next, so that no state that was ever stored becomes
///   unreadable: every version below the present has its function, which takes the state of that version (any type with
///   `Deserialize`) and returns that of the next. State of a newer version than this build knows is refused, never reset.
/// * **`volatile`** keeps the entity in memory only: it is lost by a crash, a move and passivation. It has no version.
/// * **`crate = "path"`** is where the runtime is found when it is not `::entity_runtime`.
///
/// # Example: the third shape of a state
///
/// ```
/// use entity_runtime::prelude::*;
///
/// #[derive(Deserialize)]
/// struct AccountV1 { euros: u64 }
///
/// #[derive(Deserialize)]
/// struct AccountV2 { cents: u64 }
///
/// #[derive(Entity, Default, Serialize, Deserialize)]
/// #[entity(kind = "account", version = 3, upcast(1 => from_v1, 2 => from_v2))]
/// struct Account { cents: u64, currency: String }
///
/// fn from_v1(old: AccountV1) -> AccountV2 {
///     AccountV2 { cents: old.euros * 100 }
/// }
///
/// fn from_v2(old: AccountV2) -> Account {
///     Account { cents: old.cents, currency: "EUR".to_owned() }
/// }
///
/// // What version 1 stored: {"euros": 3}.
/// let account = Account::decode_versioned(1, b"\x81\xa5euros\x03")?;
/// assert_eq!((account.cents, account.currency.as_str()), (300, "EUR"));
/// # Ok::<(), entity_runtime::error::StateError>(())
/// ```
#[proc_macro_derive(Entity, attributes(entity))]
pub fn derive_entity(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let mut errors = Errors::default();
    let attrs = EntityAttrs::read(&input.attrs, &mut errors);
    let krate = attrs.krate();
    match validate::entity(&input, attrs, errors) {
        Ok(entity) => expand::entity(&entity),
        Err(error) => expand::entity_refused(&input, &krate, &error),
    }
    .into()
}

/// Makes a struct or an enum a message that entities handle or answer.
///
/// The type also derives `Serialize` and `Deserialize`: a message is encoded once, where it is sent. It owns its data and
/// has no generics.
///
/// ```
/// use entity_runtime::prelude::*;
///
/// #[derive(Serialize, Deserialize)]
/// struct Insufficient;
///
/// #[derive(Message, Serialize, Deserialize)]
/// #[message(name = "bank.transfer", reply = Result<u64, Insufficient>)]
/// struct Transfer { to: String, cents: u64 }
///
/// #[derive(Message, Serialize, Deserialize)]
/// enum CloseAccount { Now, After { days: u64 } }
///
/// assert_eq!(Transfer::NAME, "bank.transfer");
/// assert_eq!(CloseAccount::NAME, "close-account");
/// assert!(Transfer::is_rejection(&Err(Insufficient)));
/// ```
///
/// # Attributes
///
/// All stand in `#[message(...)]`, and each may be left out.
///
/// * **`name = "bank.transfer"`** is the name on the wire and in the log, 1 to 64 of the characters `a-z`, `0-9`, `.`, `_`
///   and `-`. Without it the name is the type's in kebab case: `CloseAccount` is `close-account`. A message that may lie
///   in a queue keeps its name: give it one before the type is renamed.
/// * **`reply = Type`** is what the handler answers, `()` when it is not given. Where it is spelled `Result<T, E>`, an
///   `Err` rejects the message: the error is the answer, and everything else the turn did is undone. The derive sees
///   names and not types, so an alias such as `TransferResult` is refused: nobody should think that its `Err` undoes a
///   turn when it does not.
/// * **`crate = "path"`** is where the runtime is found when it is not `::entity_runtime`.
#[proc_macro_derive(Message, attributes(message))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let mut errors = Errors::default();
    let attrs = MessageAttrs::read(&input.attrs, &mut errors);
    let krate = attrs.krate();
    let reply = attrs.reply.as_ref().map(|reply| reply.value.clone());
    match validate::message(&input, attrs, errors) {
        Ok(message) => expand::message(&message),
        Err(error) => expand::message_refused(&input, &krate, reply.as_ref(), &error),
    }
    .into()
}
