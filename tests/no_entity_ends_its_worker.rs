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
