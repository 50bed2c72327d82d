//! A derived entity runs the handler of the message's name, and reads every state it ever stored.
//!
//! Driven as the runtime drives it: without the entity's type, through its kind and an envelope's view.

use entity_runtime::{
    codec,
    context::{Effects, TurnInput},
    entity::{AnyEntity, Kind, KindOf},
    error::StateError,
    message::EnvelopeView,
    prelude::*,
    timestamp::Timestamp,
    turn::{self, TurnEnd},
};
use std::fmt::Debug;

#[derive(Message, Serialize, Deserialize)]
struct Deposit {
    cents: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Insufficient;

#[derive(Message, Serialize, Deserialize)]
#[message(name = "bank.withdraw", reply = Result<u64, Insufficient>)]
struct Withdraw {
    cents: u64,
}

#[derive(Message, Serialize, Deserialize)]
enum CloseAccount {
    Now,
    After { days: u64 },
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = Result<u64, Insufficient>)]
struct Balance;

#[derive(Message, Serialize, Deserialize)]
#[message(reply = String)]
struct HTTPStatus;

#[derive(Entity, Debug, Default, PartialEq, Serialize, Deserialize)]
#[entity(
    kind = "bank.account",
    handles(Deposit, Withdraw, CloseAccount),
    queries(Balance, HTTPStatus),
    version = 3,
    upcast(1 => from_v1, 2 => from_v2)
)]
struct Account {
    cents: u64,
    log: Vec<String>,
}

impl Handle<Deposit> for Account {
    fn handle(&mut self, deposit: Deposit, _: &mut Context<'_, Self>) {
        self.cents += deposit.cents;
    }
}

impl Handle<Withdraw> for Account {
    fn handle(&mut self, withdraw: Withdraw, ctx: &mut Context<'_, Self>) -> Result<u64, Insufficient> {
        ctx.send(Account::at("bank"), Deposit { cents: 1 });
        self.cents = self.cents.checked_sub(withdraw.cents).ok_or(Insufficient)?;
        Ok(self.cents)
    }
}

impl Handle<CloseAccount> for Account {
    fn handle(&mut self, close: CloseAccount, ctx: &mut Context<'_, Self>) {
        match close {
            CloseAccount::Now => ctx.delete(),
            CloseAccount::After { days } => self.log.push(format!("closes in {days} days")),
        }
    }
}

impl Query<Balance> for Account {
    fn query(&self, _: Balance) -> Result<u64, Insufficient> {
        Ok(self.cents)
    }
}

impl Query<HTTPStatus> for Account {
    fn query(&self, _: HTTPStatus) -> String {
        "200".to_owned()
    }
}

/// Version 1 kept whole euros.
#[derive(Serialize, Deserialize)]
struct AccountV1 {
    euros: u64,
}

/// Version 2 had no log.
#[derive(Serialize, Deserialize)]
struct AccountV2 {
    cents: u64,
}

fn from_v1(AccountV1 { euros }: AccountV1) -> AccountV2 {
    AccountV2 { cents: euros * 100 }
}

fn from_v2(AccountV2 { cents }: AccountV2) -> Account {
    Account { cents, log: vec!["from version 2".to_owned()] }
}

/// Stays at version 1, and handles nothing.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "idle")]
struct Idle;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "presence", handles(Deposit), volatile)]
struct Presence;

impl Handle<Deposit> for Presence {
    fn handle(&mut self, _: Deposit, _: &mut Context<'_, Self>) {}
}

const ACCOUNT: KindOf<Account> = KindOf::new();

fn encoded(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(value, &mut bytes).unwrap();
    bytes
}

fn envelope<'b>(name: &'b str, body: &'b [u8]) -> EnvelopeView<'b> {
    EnvelopeView { kind: "bank.account", key: "alice", name, sender: None, body }
}

/// One turn of `entity`.
fn turn(entity: &mut dyn AnyEntity, name: &str, body: &[u8]) -> (TurnEnd, Effects) {
    let input = TurnInput {
        kind: "bank.account",
        key: "alice",
        sender: None,
        now: Timestamp::from_micros(1),
        seed: 1,
        reminder_next: 1,
        message_len_max: 1 << 20,
    };
    let mut effects = Effects::new();
    let outcome = turn::run(entity, &envelope(name, body), &input, &mut effects);
    (outcome, effects)
}

fn state(entity: &dyn AnyEntity) -> Account {
    let mut bytes = Vec::new();
    entity.encode(&mut bytes).unwrap();
    codec::decode(&bytes).unwrap()
}

fn decoded<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    codec::decode(bytes).unwrap()
}

fn read<T: Serialize>(version: u32, old: &T) -> Result<Account, StateError> {
    ACCOUNT.decode(version, &encoded(old)).map(|entity| state(entity.as_ref()))
}

#[test]
fn names_come_from_the_attribute_or_the_type() {
    assert_eq!(ACCOUNT.name(), "bank.account");
    assert_eq!(ACCOUNT.handles(), ["deposit", "bank.withdraw", "close-account"]);
    assert_eq!(ACCOUNT.queries(), ["balance", "http-status"]);
    assert_eq!((ACCOUNT.version(), ACCOUNT.is_volatile()), (3, false));
    let presence = KindOf::<Presence>::new();
    assert_eq!((presence.version(), presence.is_volatile()), (1, true));
}

#[test]
fn a_message_reaches_the_handler_of_its_name() {
    let mut entity = ACCOUNT.create();
    let (outcome, effects) = turn(entity.as_mut(), "deposit", &encoded(&Deposit { cents: 500 }));
    assert_eq!(outcome, TurnEnd::Applied);
    assert_eq!(effects.reply(), encoded(&()), "the reply of a message that names none is `()`");

    let (outcome, effects) = turn(entity.as_mut(), "bank.withdraw", &encoded(&Withdraw { cents: 200 }));
    assert_eq!(outcome, TurnEnd::Applied);
    assert_eq!(decoded::<Result<u64, Insufficient>>(effects.reply()), Ok(300));
    assert_eq!(effects.sends().len(), 1);
    assert_eq!(state(entity.as_ref()).cents, 300);
}

#[test]
fn the_variants_of_an_enum_are_one_message() {
    let mut entity = ACCOUNT.create();
    let (outcome, effects) =
        turn(entity.as_mut(), "close-account", &encoded(&CloseAccount::After { days: 3 }));
    assert_eq!((outcome, effects.is_deleted()), (TurnEnd::Applied, false));
    assert_eq!(state(entity.as_ref()).log, ["closes in 3 days"]);

    let (outcome, effects) = turn(entity.as_mut(), "close-account", &encoded(&CloseAccount::Now));
    assert_eq!((outcome, effects.is_deleted()), (TurnEnd::Applied, true));
}

#[test]
fn a_reply_of_err_rejects_the_message_and_keeps_nothing_else() {
    let mut entity = ACCOUNT.create();
    let (outcome, effects) = turn(entity.as_mut(), "bank.withdraw", &encoded(&Withdraw { cents: 1 }));
    assert_eq!(outcome, TurnEnd::Rejected);
    assert_eq!(decoded::<Result<u64, Insufficient>>(effects.reply()), Err(Insufficient));
    assert_eq!(effects.sends().len(), 0, "what the handler sent before its `?` is undone");
}

#[test]
fn a_name_that_is_not_listed_is_refused() {
    let mut account = ACCOUNT.create();
    let mut idle = KindOf::<Idle>::new().create();
    // Queries are no messages, and a type's Rust name is no name.
    for name in ["", "Deposit", "deposi", "deposit2", "withdraw", "balance"] {
        for entity in [&mut account, &mut idle] {
            let (outcome, effects) = turn(entity.as_mut(), name, &encoded(&Deposit { cents: 1 }));
            assert!(matches!(outcome, TurnEnd::GivenUp(_)), "{name}: {outcome:?}");
            assert!(effects.is_empty());
        }
    }
    assert_eq!(state(account.as_ref()), Account::default());
}

#[test]
fn a_body_of_another_shape_is_refused() {
    let mut entity = ACCOUNT.create();
    let (outcome, effects) = turn(entity.as_mut(), "deposit", &encoded(&"five euros"));
    assert!(matches!(outcome, TurnEnd::GivenUp(_)), "{outcome:?}");
    assert!(effects.is_empty());
}

#[test]
fn a_query_is_answered_by_its_name() {
    let entity = ACCOUNT.decode(3, &encoded(&Account { cents: 7, log: Vec::new() })).unwrap();
    let mut reply = Vec::new();
    turn::ask(entity.as_ref(), &envelope("balance", &encoded(&Balance)), &mut reply).unwrap();
    assert_eq!(decoded::<Result<u64, Insufficient>>(&reply), Ok(7));

    reply.clear();
    turn::ask(entity.as_ref(), &envelope("http-status", &encoded(&HTTPStatus)), &mut reply).unwrap();
    assert_eq!(decoded::<String>(&reply), "200");

    // A handled message cannot be asked as a query, and an entity without queries answers none.
    for (entity, name) in [(entity, "deposit"), (KindOf::<Idle>::new().create(), "balance")] {
        let refused = turn::ask(entity.as_ref(), &envelope(name, &encoded(&Balance)), &mut Vec::new());
        assert_eq!(refused, Err(format!("no query `{name}`")));
    }
}

#[test]
fn the_present_version_is_read_as_it_was_written() {
    let account = Account { cents: 5, log: vec!["opened".to_owned()] };
    assert_eq!(read(3, &account), Ok(account));
}

#[test]
fn old_states_go_through_the_rest_of_the_chain() {
    let log = vec!["from version 2".to_owned()];
    assert_eq!(read(1, &AccountV1 { euros: 3 }), Ok(Account { cents: 300, log: log.clone() }));
    assert_eq!(read(2, &AccountV2 { cents: 42 }), Ok(Account { cents: 42, log }));
}

#[test]
fn a_state_that_cannot_be_read_is_an_error_and_never_empty() {
    let present = Account::default();
    assert_eq!(read(4, &present), Err(StateError::Newer { stored: 4, known: 3 }));
    assert_eq!(read(0, &present), Err(StateError::NoUpcast { stored: 0 }));
    // The stored version decides the shape, whatever the bytes would also fit.
    assert!(matches!(read(1, &AccountV2 { cents: 1 }), Err(StateError::Undecodable(_))));

    let idle = KindOf::<Idle>::new();
    assert_eq!(idle.decode(2, &encoded(&Idle)).err(), Some(StateError::Newer { stored: 2, known: 1 }));
    assert_eq!(idle.decode(0, &encoded(&Idle)).err(), Some(StateError::NoUpcast { stored: 0 }));
}
