//! Whatever an entity does in its turn, the worker that runs it goes on.

use entity_runtime::{error::Refusal, kernel::Outcome, limits::Limits, prelude::*, store::NoRoom};
use entity_runtime_tests::driven::{Driven, envelope, kinds, with};

/// Forgets itself.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "moth", handles(Burn), volatile)]
struct Moth {
    burnt: u64,
}

/// Ends a moth.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Burn;

impl Handle<Burn> for Moth {
    fn handle(&mut self, _: Burn, ctx: &mut Context<'_, Self>) -> u64 {
        self.burnt += 1;
        if self.burnt == 2 {
            ctx.delete();
        }
        self.burnt
    }
}

/// Has no first state. Kept in memory only.
#[derive(Entity, Serialize, Deserialize)]
#[entity(kind = "stillborn", handles(Burn), volatile)]
struct Stillborn;

impl Default for Stillborn {
    fn default() -> Self {
        panic!("no first state");
    }
}

impl Handle<Burn> for Stillborn {
    fn handle(&mut self, _: Burn, _: &mut Context<'_, Self>) -> u64 {
        unreachable!("it never lives");
    }
}

thread_local! {
    static BARREN: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Has a first state now and then.
#[derive(Entity, Serialize, Deserialize)]
#[entity(kind = "barren", handles(End))]
struct Barren {
    ends: u64,
}

/// Ends the entity, or panics.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct End {
    panics: bool,
}

impl Default for Barren {
    fn default() -> Self {
        assert!(!BARREN.get(), "no first state");
        Self { ends: 0 }
    }
}

impl Handle<End> for Barren {
    fn handle(&mut self, end: End, ctx: &mut Context<'_, Self>) -> u64 {
        BARREN.set(true);
        assert!(!end.panics, "as asked");
        ctx.delete();
        self.ends += 1;
        self.ends
    }
}

/// As long as it was told to be.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "sponge", handles(Soak, Refuse))]
struct Sponge {
    water: Vec<u8>,
}

/// Sets the length.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Soak {
    bytes: usize,
}

/// Is rejected at such length.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = Result<(), String>)]
struct Refuse {
    bytes: usize,
}

impl Handle<Soak> for Sponge {
    fn handle(&mut self, soak: Soak, _: &mut Context<'_, Self>) -> u64 {
        self.water = vec![1; soak.bytes];
        soak.bytes as u64
    }
}

impl Handle<Refuse> for Sponge {
    fn handle(&mut self, refuse: Refuse, _: &mut Context<'_, Self>) -> Result<(), String> {
        Err("x".repeat(refuse.bytes))
    }
}

/// Bounds under which a batch may have some 80 kB.
fn small() -> Limits {
    let mut limits = Limits::default();
    (limits.batch_len, limits.turn_len_max, limits.state_len_max) = (8 << 10, 4 << 10, 4 << 10);
    limits
}

fn reply(outcome: Option<&Outcome>) -> u64 {
    let Some(Outcome::Done(reply)) = outcome else { panic!("not done: {outcome:?}") };
    entity_runtime::codec::decode(&reply.body).expect("the reply's type")
}

fn is_dead_lettered(outcome: Option<&Outcome>) -> bool {
    matches!(outcome, Some(Outcome::Done(reply)) if reply.class == entity_runtime::requests::ReplyClass::DeadLettered)
}

#[test]
fn a_volatile_entity_deletes_itself_without_room() {
    let mut driven = Driven::new(with::<Moth>(kinds()), Limits::default(), 1, 1, 1);
    driven.room = Err(NoRoom::DiskFull);
    for expected in [1, 2, 1] {
        let to = driven.request(1, 1, envelope::<Moth, _>("m", &Burn), true);
        driven.run();
        assert_eq!(reply(driven.answer(to)), expected);
    }
}

#[test]
fn a_volatile_entity_without_a_first_state_is_no_ones_end() {
    let kinds = with::<Stillborn>(with::<Moth>(kinds()));
    let mut driven = Driven::new(kinds, Limits::default(), 1, 1, 1);
    for room in [Ok(()), Err(NoRoom::DiskFull), Ok(())] {
        driven.room = room;
        driven.request(1, 1, envelope::<Stillborn, _>("s", &Burn), true);
        let beside = driven.request(1, 1, envelope::<Moth, _>("m", &Burn), true);
        driven.run();
        driven.run();
        assert!(driven.answer(beside).is_some());
    }
    driven.settle();
    let given_up = driven.told.iter().filter(|(_, outcome)| is_dead_lettered(Some(outcome)));
    assert_eq!(given_up.count(), 3, "{:?}", driven.told);
}

#[test]
fn an_entity_whose_first_state_panics_in_its_turn_is_parked() {
    let mut driven = Driven::new(with::<Barren>(kinds()), Limits::default(), 1, 1, 1);
    // By a delete, and by the undoing of a first turn.
    let ended = driven.request(1, 1, envelope::<Barren, _>("d", &End { panics: false }), true);
    driven.settle();
    assert!(is_dead_lettered(driven.answer(ended)), "{:?}", driven.told);
    BARREN.set(false);
    let undone = driven.request(1, 2, envelope::<Barren, _>("u", &End { panics: true }), true);
    driven.settle();
    assert_eq!(driven.answer(undone), None);
    BARREN.set(true);
    driven.pass(std::time::Duration::from_secs(5));
    assert_eq!(driven.kernels[0].counters().waiting, 1, "it waits for a build that can make one");
    let query = driven.query(envelope::<Barren, _>("u", &End { panics: false }));
    driven.settle();
    assert!(matches!(driven.answer(query), Some(Outcome::Refused(Refusal::UnknownMessage { .. }))));
}

#[test]
fn images_that_grow_in_a_batch_are_counted() {
    let mut driven = Driven::new(with::<Sponge>(kinds()), small(), 1, 1, 1);
    for (step, bytes) in [0, 1, 4_000].into_iter().enumerate() {
        for key in 0..60 {
            let number = step as u64 * 100 + key + 1;
            driven.request(1, number, envelope::<Sponge, _>(&format!("s{key}"), &Soak { bytes }), true);
        }
        // The last two are run together.
        if step == 0 {
            driven.settle();
        }
    }
    driven.settle();
    assert_eq!(driven.kernels[0].counters().applied, 180);
}

#[test]
fn a_flood_of_acknowledged_replies_leaves_batch_by_batch() {
    /// Their deletions are longer than the longest batch.
    const REPLIES: u64 = 5_000;
    let mut driven = Driven::new(with::<Sponge>(kinds()), small(), 1, 1, 1);
    let soak = || envelope::<Sponge, _>("s", &Soak { bytes: 1 });
    for number in 1..=REPLIES {
        driven.request(1, number, soak(), true);
        if number % 500 == 0 {
            driven.settle();
        }
    }
    driven.acknowledged = REPLIES;
    driven.request(1, REPLIES + 1, soak(), true);
    driven.settle();
    // What has not left yet is answered still.
    driven.acknowledged = 0;
    let repeat = driven.request(1, REPLIES, soak(), true);
    driven.settle();
    assert_eq!(reply(driven.answer(repeat)), 1);
    driven.acknowledged = REPLIES;
    for number in 2..=100 {
        driven.request(1, REPLIES + number, soak(), true);
        driven.settle();
    }
    let gone = driven.request(1, REPLIES, soak(), true);
    driven.settle();
    assert!(matches!(driven.answer(gone), Some(Outcome::Refused(Refusal::Expired(_)))));
    // And so do those that have grown old.
    driven.restart();
    driven.pass(Limits::default().reply_retention * 2);
    assert!(driven.kernels[0].is_quiet());
}

#[test]
fn a_rejection_may_be_as_long_as_an_applied_reply() {
    let mut driven = Driven::new(with::<Sponge>(kinds()), small(), 1, 1, 1);
    let short = driven.request(1, 1, envelope::<Sponge, _>("s", &Refuse { bytes: 4_000 }), true);
    let long = driven.request(1, 2, envelope::<Sponge, _>("s", &Refuse { bytes: 100_000 }), true);
    driven.settle();
    assert!(!is_dead_lettered(driven.answer(short)));
    assert!(is_dead_lettered(driven.answer(long)), "{:?}", driven.told);
}
