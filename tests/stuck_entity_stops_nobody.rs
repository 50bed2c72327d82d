//! An entity that fails or cannot be read stops nobody but itself (P3), and nothing of it is lost.

use entity_runtime::{
    entity::Entity,
    kernel::{Counters, Event, Outcome},
    limits::Limits,
    requests::ReplyClass,
    store::NoRoom,
};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, named, with},
    entities::{
        Account, Alternate, BRITTLE_BROKEN, Books, Brittle, Cancel, Clock, Count, Credit, Frail, Fund, Heard,
        Listener, NERVES, Phoenix, Poison, Press, Presses, Rings, Set, Speak, Speaker, Touch, Transfer,
    },
};
use std::{collections::BTreeMap, time::Duration};

fn done<R: serde::de::DeserializeOwned>(outcome: Option<&Outcome>) -> R {
    match outcome {
        Some(Outcome::Done(reply)) if reply.class == ReplyClass::Applied => {
            entity_runtime::codec::decode(&reply.body).expect("the reply's type")
        }
        other => panic!("not done: {other:?}"),
    }
}

fn counters(driven: &Driven) -> Counters {
    driven.kernels.iter().fold(Counters::default(), |sum, kernel| sum.plus(kernel.counters()))
}

#[test]
fn a_parked_entity_with_10_000_waiting_holds_up_no_other() {
    let mut driven = Driven::new(with::<Account>(with::<Brittle>(kinds())), Limits::default(), 1, 1, 1);
    driven.request(1, 1, envelope::<Brittle, _>("b", &Press), true);
    driven.settle();
    driven.restart();
    BRITTLE_BROKEN.set(true);
    for number in 2..=10_001 {
        driven.request(1, number, envelope::<Brittle, _>("b", &Press), false);
        if number % 500 == 0 {
            driven.settle();
        }
    }
    driven.settle();
    assert_eq!(counters(&driven).waiting, 10_000, "they wait, durably");
    // Others of the shard, by request and by stream.
    let fund = driven.request(2, 1, envelope::<Account, _>("a", &Fund { cents: 9 }), true);
    let transfer = Transfer { to: "other".into(), cents: 4 };
    driven.request(2, 2, envelope::<Account, _>("a", &transfer), true);
    driven.settle();
    assert_eq!(done::<u64>(driven.answer(fund)), 9);
    let books = driven.query(named::<Books>(Account::KIND, "other", &Books));
    driven.settle();
    assert_eq!(done::<(u64, u64)>(driven.answer(books)).0, 4);
    // A repeat of a send that waits is answered at once; an ask is not.
    let send = driven.request(1, 5_000, envelope::<Brittle, _>("b", &Press), false);
    let ask = driven.request(1, 5_001, envelope::<Brittle, _>("b", &Press), true);
    driven.settle();
    assert_eq!(driven.answer(send), Some(&Outcome::Waiting));
    assert_eq!(driven.answer(ask), None);
    // The next build reads the state: all that waited takes effect, in order, and it was never empty.
    BRITTLE_BROKEN.set(false);
    driven.restart();
    let ask = driven.request(1, 5_001, envelope::<Brittle, _>("b", &Press), true);
    driven.settle();
    assert_eq!(done::<u64>(driven.answer(ask)), 5_001);
    let presses = driven.query(named::<Presses>(Brittle::KIND, "b", &Presses));
    driven.settle();
    assert_eq!(done::<u64>(driven.answer(presses)), 10_001);
    assert_eq!(counters(&driven).waiting, 0);
}

/// The last number a listener of some kind has heard of each speaker; there was no gap.
fn heard(driven: &mut Driven, kind: &str, listener: &str) -> BTreeMap<String, u64> {
    let to = driven.query(named::<Heard>(kind, listener, &Heard));
    driven.settle();
    let (heard, gaps) = done::<(BTreeMap<_, _>, Vec<(String, u64, u64)>)>(driven.answer(to));
    assert_eq!(gaps, []);
    heard
}

#[test]
fn a_parked_entity_with_10_000_waiting_holds_up_no_other_of_its_senders_stream() {
    let mut limits = Limits::default();
    limits.stream_window = 8;
    // No room for even one window of what the streams bring.
    limits.intake_bytes_max = 500;
    limits.mailbox_len_max = 2;
    let all = with::<Frail>(with::<Listener>(with::<Speaker>(kinds())));
    let mut driven = Driven::new(all, limits, 4, 2, 2);
    let (speaker, neighbour) = (driven.key_in(Speaker::KIND, 0, 0), driven.key_in(Speaker::KIND, 0, 1));
    let stranger = driven.key_in(Speaker::KIND, 2, 0);
    let (frail, sound) = (driven.key_in(Frail::KIND, 1, 0), driven.key_in(Listener::KIND, 1, 1));
    let alternate = |times| {
        let alternate = Alternate { frail: frail.clone(), sound: sound.clone(), times };
        envelope::<Speaker, _>(&speaker, &alternate)
    };
    driven.request(1, 1, alternate(1), true);
    driven.settle();
    driven.restart();
    BRITTLE_BROKEN.set(true);
    // No time passes from here on: who waits for a timer waits for ever.
    for round in 1..=100 {
        driven.request(1, 1 + round, alternate(100), true);
        // Others of the sender's shard, through the same stream, and of another shard.
        for (client, other) in [(2, &neighbour), (3, &stranger)] {
            let speak = Speak { to: vec![sound.clone()], times: 2 };
            driven.request(client, round, envelope::<Speaker, _>(other, &speak), true);
        }
        driven.settle();
        assert_eq!(counters(&driven).waiting, 100 * round);
        let expected = [(&speaker, 1 + 100 * round), (&neighbour, 2 * round), (&stranger, 2 * round)];
        let expected = expected.map(|(speaker, words)| (speaker.clone(), words));
        assert_eq!(heard(&mut driven, Listener::KIND, &sound), BTreeMap::from(expected));
    }
    // They wait durably, and their senders have nothing of them any more.
    driven.restart();
    driven.settle();
    assert_eq!(counters(&driven).waiting, 10_000);
    assert!(driven.kernels.iter().all(|kernel| kernel.outbox_bytes() == (0, 0)));
    driven.request(1, 102, alternate(1), true);
    driven.settle();
    assert_eq!(heard(&mut driven, Listener::KIND, &sound)[&speaker], 10_002);
    // The next build reads the state: all that waited takes effect, in order.
    BRITTLE_BROKEN.set(false);
    driven.restart();
    driven.settle();
    assert_eq!(heard(&mut driven, Frail::KIND, &frail), BTreeMap::from([(speaker, 10_002)]));
    assert_eq!((counters(&driven).waiting, driven.dead_letters().len()), (0, 0));
}

#[test]
fn a_poison_message_is_given_up_once_and_marked_in_that_commit() {
    let mut driven = Driven::new(with::<Phoenix>(kinds()), Limits::default(), 1, 1, 1);
    let touch = || envelope::<Phoenix, _>("p", &Touch { life: 0, remind_millis: 0 });
    driven.request(1, 1, touch(), true);
    let poison = driven.request(1, 2, envelope::<Phoenix, _>("p", &Poison { number: 1 }), true);
    let after = driven.request(1, 3, touch(), true);
    let neighbour =
        driven.request(1, 4, envelope::<Phoenix, _>("q", &Touch { life: 0, remind_millis: 0 }), true);
    driven.settle();
    assert_eq!(done::<u64>(driven.answer(neighbour)), 1, "the neighbours go on");
    for _ in 0..40 {
        driven.pass(Duration::from_millis(500));
    }
    assert!(
        matches!(driven.answer(poison), Some(Outcome::Done(reply)) if reply.class == ReplyClass::DeadLettered)
    );
    assert_eq!(done::<u64>(driven.answer(after)), 2, "the panics left no trace");
    assert_eq!(driven.dead_letters().len(), 1);
    // Its mark was in the same commit: after a restart a repeat finds the reply, and nothing runs again.
    driven.restart();
    let repeat = driven.request(1, 2, envelope::<Phoenix, _>("p", &Poison { number: 1 }), true);
    driven.settle();
    assert_eq!(driven.answer(repeat), driven.answer(poison));
    assert_eq!((driven.dead_letters().len(), counters(&driven).panics), (1, 0));
    let count = driven.query(named::<Count>(Phoenix::KIND, "p", &Count));
    driven.settle();
    assert_eq!(done::<(u64, u64)>(driven.answer(count)).0, 2);
}

#[test]
fn a_reminder_that_waits_can_still_be_cancelled() {
    let mut driven = Driven::new(with::<Clock>(kinds()), Limits::default(), 1, 1, 1);
    driven.request(1, 1, envelope::<Clock, _>("c", &Set { number: 1, millis: 3_000 }), true);
    driven.settle();
    // The clock fails for so long that the cancellation and then the reminder go into its waiting queue.
    NERVES.set(1_000);
    let cancel = driven.request(1, 2, envelope::<Clock, _>("c", &Cancel { number: 1 }), true);
    for _ in 0..9 {
        driven.pass(Duration::from_millis(350));
    }
    assert_eq!(counters(&driven).waiting, 2, "both wait");
    NERVES.set(0);
    driven.restart();
    driven.pass(Duration::from_secs(5));
    assert_eq!(driven.answer(cancel), None, "its caller went with the process");
    let rings = driven.query(named::<Rings>(Clock::KIND, "c", &Rings));
    driven.settle();
    let (set, cancelled, rung) = done::<(Vec<u64>, Vec<u64>, BTreeMap<u64, u64>)>(driven.answer(rings));
    assert_eq!((set, cancelled, rung.len()), (vec![], vec![1], 0), "it fired after it was cancelled");
    assert_eq!(counters(&driven).waiting, 0);
}

#[test]
fn a_hot_entity_starves_no_other() {
    let mut limits = Limits::default();
    limits.mailbox_len_max = 20_000;
    let mut driven = Driven::new(with::<Account>(kinds()), limits, 1, 1, 1);
    for number in 1..=10_000 {
        driven.request(1, number, envelope::<Account, _>("hot", &Credit { cents: 1 }), false);
    }
    driven.run();
    let others: Vec<_> = (0..10)
        .map(|key| {
            driven.request(2, key + 1, envelope::<Account, _>(&format!("o{key}"), &Fund { cents: 1 }), true)
        })
        .collect();
    // Their images are read in one run, and they have their turns in the next.
    for _ in 0..2 {
        driven.run();
        while !driven.pending.is_empty() {
            driven.commit();
        }
    }
    assert!(counters(&driven).in_flight > 9_000, "the hot one still has its queue");
    for other in others {
        assert_eq!(done::<u64>(driven.answer(other)), 1);
    }
}

#[test]
fn what_an_operator_retries_runs_behind_the_other_messages() {
    let mut limits = Limits::default();
    (limits.tries_max, limits.turns_in_row_max) = (1, 1);
    let mut driven = Driven::new(with::<Account>(kinds()), limits, 1, 1, 1);
    NERVES.set(1_000);
    let late = envelope::<Account, _>("a", &Fund { cents: 100 });
    driven.request(1, 1, late.clone(), true);
    driven.settle();
    NERVES.set(0);
    assert_eq!(driven.dead_letters().len(), 1);
    let asks: Vec<_> = (2..=6)
        .map(|number| driven.request(1, number, envelope::<Account, _>("a", &Fund { cents: 1 }), true))
        .collect();
    // One has its turn, the others are in the mailbox.
    driven.run();
    let to = entity_runtime::activation::ReplyTo { connection: 1, slot: 0 };
    let shard = driven.shard_of(Account::KIND, "a");
    driven.step(0, Event::DeadLetter { shard, number: 0, retry: Some(late), to });
    driven.settle();
    assert!(driven.answer(to).is_some());
    let balances: Vec<u64> = asks.into_iter().map(|ask| done(driven.answer(ask))).collect();
    assert_eq!(balances, [1, 2, 3, 4, 5]);
    let last = driven.request(1, 7, envelope::<Account, _>("a", &Fund { cents: 1 }), true);
    driven.settle();
    assert_eq!(done::<u64>(driven.answer(last)), 106);
}

#[test]
fn without_room_a_mailbox_keeps_its_order_when_its_entity_cannot_be_read() {
    let mut driven = Driven::new(with::<Account>(with::<Brittle>(kinds())), Limits::default(), 1, 1, 1);
    driven.request(1, 1, envelope::<Brittle, _>("b", &Press), true);
    driven.settle();
    driven.restart();
    BRITTLE_BROKEN.set(true);
    driven.images_held = true;
    let press =
        |driven: &mut Driven, number| driven.request(1, number, envelope::<Brittle, _>("b", &Press), true);
    press(&mut driven, 2);
    driven.query(named::<Presses>(Brittle::KIND, "b", &Presses));
    press(&mut driven, 3);
    driven.run();
    driven.room = Err(NoRoom::LogTail);
    driven.release_images();
    driven.run();
    driven.room = Ok(());
    driven.settle();
    // The next build reads the state.
    BRITTLE_BROKEN.set(false);
    driven.restart();
    let (first, second) = (press(&mut driven, 2), press(&mut driven, 3));
    driven.settle();
    assert_eq!((done::<u64>(driven.answer(first)), done::<u64>(driven.answer(second))), (2, 3));
}

#[test]
fn an_entity_that_cannot_be_read_leaves_memory_to_others() {
    let mut limits = Limits::default();
    limits.activation_bytes_max = 64 << 10;
    let mut driven = Driven::new(with::<Account>(with::<Brittle>(kinds())), limits, 1, 1, 1);
    let keys: Vec<String> = (0..1_000).map(|number| format!("b{number}")).collect();
    for (number, key) in (1..).zip(&keys) {
        driven.request(1, number, envelope::<Brittle, _>(key, &Press), true);
        driven.checkpoint();
        if number % 100 == 0 {
            driven.pass(Duration::from_secs(2));
        }
    }
    driven.restart();
    BRITTLE_BROKEN.set(true);
    for (number, key) in (1..).zip(&keys) {
        driven.query(named::<Presses>(Brittle::KIND, key, &Presses));
        driven.settle();
        if number % 100 == 0 {
            driven.pass(Duration::from_secs(2));
        }
    }
    BRITTLE_BROKEN.set(false);
    driven.pass(Duration::from_secs(2));
    let fund = driven.request(2, 1, envelope::<Account, _>("a", &Fund { cents: 9 }), true);
    driven.settle();
    assert_eq!(done::<u64>(driven.answer(fund)), 9);
}
