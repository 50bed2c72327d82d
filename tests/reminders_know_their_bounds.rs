//! Reminders are held back where there is no room for what they do, and none is lost by it.

use entity_runtime::{entity::Entity, kernel::Outcome, limits::Limits, prelude::*};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, named, with},
    entities::{Listener, Speak, Speaker},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Counts how often it was reminded.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "sleeper", handles(Sleep, Wake), queries(Wakes))]
struct Sleeper {
    wakes: u64,
}

/// Sets a reminder.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
struct Sleep {
    seconds: u64,
    padding: String,
}

/// A reminder.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
struct Wake {
    padding: String,
}

/// How often it was reminded.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Wakes;

impl Handle<Sleep> for Sleeper {
    fn handle(&mut self, sleep: Sleep, ctx: &mut Context<'_, Self>) {
        ctx.remind(Duration::from_secs(sleep.seconds), Wake { padding: sleep.padding });
    }
}

impl Handle<Wake> for Sleeper {
    fn handle(&mut self, _: Wake, _: &mut Context<'_, Self>) {
        self.wakes += 1;
    }
}

impl Query<Wakes> for Sleeper {
    fn query(&self, _: Wakes) -> u64 {
        self.wakes
    }
}

fn sleep() -> Sleep {
    Sleep { seconds: 1, padding: String::new() }
}

fn wakes(driven: &mut Driven, key: &str) -> u64 {
    let to = driven.query(named::<Wakes>(Sleeper::KIND, key, &Wakes));
    driven.settle();
    match driven.answer(to) {
        Some(Outcome::Done(reply)) => entity_runtime::codec::decode(&reply.body).expect("a count"),
        other => panic!("no answer: {other:?}"),
    }
}

#[test]
fn a_full_outbox_holds_back_reminders_until_it_is_read() {
    let mut limits = Limits::default();
    limits.outbox_bytes_max = 500;
    let all = with::<Sleeper>(with::<Listener>(with::<Speaker>(kinds())));
    let mut driven = Driven::new(all, limits, 2, 1, 1);
    let sleeper = driven.key_in(Sleeper::KIND, 0, 0);
    let (speaker, listener) = (driven.key_in(Speaker::KIND, 0, 0), driven.key_in(Listener::KIND, 1, 0));
    driven.request(1, 1, envelope::<Sleeper, _>(&sleeper, &sleep()), true);
    driven.held_hands = Some(Vec::new());
    driven.request(1, 2, envelope::<Speaker, _>(&speaker, &Speak { to: vec![listener], times: 100 }), true);
    driven.pass(Duration::from_secs(3));
    assert_eq!(wakes(&mut driven, &sleeper), 0, "it fired though its shard's outbox is full");
    driven.held_hands = None;
    driven.pass(Duration::from_mins(1));
    driven.tick();
    assert_eq!(wakes(&mut driven, &sleeper), 1);
}

#[test]
fn reminders_due_at_once_come_into_memory_as_there_is_room() {
    const COUNT: u64 = 500;
    let mut limits = Limits::default();
    limits.intake_bytes_max = 4_000;
    limits.activation_bytes_max = 40_000;
    let mut driven = Driven::new(with::<Sleeper>(kinds()), limits, 2, 1, 1);
    for number in 1..=COUNT {
        let sleep = Sleep { seconds: 3_600, padding: String::new() };
        driven.request(1, number, envelope::<Sleeper, _>(&format!("s{number}"), &sleep), true);
        driven.checkpoint();
        if number % 20 == 0 {
            // Those before are let go of.
            driven.pass(Duration::from_secs(2));
        }
    }
    assert_eq!(driven.kernels[0].counters().refused, 0);
    driven.wait(Duration::from_hours(1));
    let mut ticks = 0;
    while driven.kernels[0].counters().applied < 2 * COUNT {
        driven.tick();
        let held = driven.kernels[0].intake_bytes();
        assert!(held < 4_500, "{held} bytes of reminders are in memory");
        driven.checkpoint();
        driven.wait(Duration::from_secs(2));
        ticks += 1;
        assert!(ticks < 1_000, "reminders stand still: {:?}", driven.kernels[0].counters());
    }
    for number in [1, COUNT / 2, COUNT] {
        assert_eq!(wakes(&mut driven, &format!("s{number}")), 1);
    }
}

#[test]
fn reminders_are_bounded_by_their_bytes() {
    let mut limits = Limits::default();
    limits.reminder_bytes_max = 1_000;
    let mut driven = Driven::new(with::<Sleeper>(kinds()), limits, 1, 1, 1);
    let long = || Sleep { seconds: 1, padding: "x".repeat(600) };
    let first = driven.request(1, 1, envelope::<Sleeper, _>("s", &long()), true);
    let second = driven.request(1, 2, envelope::<Sleeper, _>("s", &long()), true);
    driven.settle();
    let text = |to| format!("{:?}", driven.answer(to));
    assert!(text(first).contains("Applied"), "{}", text(first));
    assert!(text(second).contains("more than 1000 bytes"), "{}", text(second));
    driven.pass(Duration::from_secs(2));
    // The first has fired, and there is room again.
    let third = driven.request(1, 3, envelope::<Sleeper, _>("s", &long()), true);
    driven.settle();
    assert!(format!("{:?}", driven.answer(third)).contains("Applied"));
}

/// Of it nothing is durable.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "daydreamer", handles(Sleep), volatile)]
struct Daydreamer;

impl Handle<Sleep> for Daydreamer {
    fn handle(&mut self, _: Sleep, ctx: &mut Context<'_, Self>) {
        ctx.remind(Duration::from_secs(1), sleep());
    }
}

#[test]
fn a_volatile_entity_that_sets_a_reminder_is_told_why_not() {
    let mut driven = Driven::new(with::<Daydreamer>(kinds()), Limits::default(), 1, 1, 1);
    let to = driven.request(1, 1, envelope::<Daydreamer, _>("d", &sleep()), true);
    driven.settle();
    let answer = format!("{:?}", driven.answer(to));
    assert!(
        answer.contains("DeadLettered") && answer.contains("volatile entity cannot set a reminder"),
        "{answer}"
    );
}
