//! Streams between shards move on, whatever is full, refused, late or lost (P7, P8).

use entity_runtime::{
    entity::Entity,
    kernel::{Arrival, Provenance, Receipt},
    limits::Limits,
    message::Envelope,
    placement::{self, ShardId},
    store::NoRoom,
};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, named, with},
    entities::{
        Account, Books, Fund, Heard, Listener, Phoenix, Poison, Speak, Speaker, Touch, Transfer, Word,
    },
};
use std::{collections::BTreeMap, time::Duration};

fn cents(driven: &mut Driven, key: &str) -> u64 {
    let to = driven.query(named::<Books>(Account::KIND, key, &Books));
    driven.settle();
    let Some(entity_runtime::kernel::Outcome::Done(reply)) = driven.answer(to) else { panic!("no answer") };
    entity_runtime::codec::decode::<(u64, u64)>(&reply.body).expect("books").0
}

#[test]
fn an_old_receipt_stops_no_stream() {
    let mut driven = Driven::new(with::<Account>(kinds()), Limits::default(), 2, 1, 1);
    let (from, to) = (driven.key_in(Account::KIND, 0, 0), driven.key_in(Account::KIND, 1, 0));
    driven.request(1, 1, envelope::<Account, _>(&from, &Fund { cents: 10 }), true);
    driven.settle();
    driven.held_hands = Some(Vec::new());
    driven.request(1, 2, envelope::<Account, _>(&from, &Transfer { to: to.clone(), cents: 7 }), true);
    driven.settle();
    // It is lost on the way. A refusal of it sets a time to send it again; then comes an old receipt.
    driven.held_hands = None;
    let (source, target) = (ShardId(0), ShardId(1));
    for refused_from in [Some(1), None] {
        let receipt = Receipt { source, target, through: 0, refused_from, go_on: false };
        driven.step(0, entity_runtime::kernel::Event::Receipts(vec![receipt]));
    }
    driven.pass(Duration::from_mins(1));
    assert!(driven.kernels[0].is_quiet(), "{}", driven.kernels[0].unrest());
    assert_eq!(cents(&mut driven, &to), 7, "the stream stood still");
}

#[test]
fn two_shards_with_full_outboxes_exchange_transfers_to_the_last() {
    let mut limits = Limits::default();
    limits.outbox_bytes_max = 200;
    limits.stream_window = 2;
    limits.mailbox_len_max = 2;
    let mut driven = Driven::new(with::<Account>(kinds()), limits, 2, 2, 2);
    let keys = [driven.key_in(Account::KIND, 0, 0), driven.key_in(Account::KIND, 1, 0)];
    let mut number = 0;
    for key in &keys {
        number += 1;
        driven.request(1, number, envelope::<Account, _>(key, &Fund { cents: 1_000 }), true);
        driven.settle();
    }
    let mut accepted = [0_u64; 2];
    for round in 0..200 {
        for side in 0..2 {
            number += 1;
            let transfer = Transfer { to: keys[1 - side].clone(), cents: 1 };
            let to = driven.request(1, number, envelope::<Account, _>(&keys[side], &transfer), true);
            driven.run();
            if round % 40 == 39 {
                driven.settle();
            }
            // Clients are held back by a full outbox, and by nothing are streams.
            if !matches!(driven.answer(to), Some(entity_runtime::kernel::Outcome::Refused(_))) {
                accepted[side] += 1;
            }
        }
    }
    for _ in 0..400 {
        driven.pass(Duration::from_millis(500));
    }
    assert!(driven.kernels.iter().all(entity_runtime::kernel::Kernel::is_quiet), "a stream stands still");
    let refused = driven
        .told
        .iter()
        .filter(|(_, outcome)| matches!(outcome, entity_runtime::kernel::Outcome::Refused(_)));
    assert!(refused.count() > 0, "the bound was never met");
    assert!(accepted[0] > 10 && accepted[1] > 10);
    assert_eq!(cents(&mut driven, &keys[0]) + cents(&mut driven, &keys[1]), 2_000);
}

#[test]
fn acknowledged_messages_are_not_trimmed_without_room() {
    let mut driven = Driven::new(with::<Speaker>(with::<Account>(kinds())), Limits::default(), 2, 1, 1);
    let from = driven.key_in(Account::KIND, 0, 0);
    let to = driven.key_in(Account::KIND, 1, 0);
    driven.request(1, 1, envelope::<Account, _>(&from, &Fund { cents: 10 }), true);
    driven.request(1, 2, envelope::<Account, _>(&from, &Transfer { to, cents: 7 }), true);
    driven.settle();
    driven.room = Err(NoRoom::DiskFull);
    driven.wait(Duration::from_secs(5));
    driven.tick();
    let speak = Speak { to: vec![], times: 0 };
    let refused = driven.request(1, 3, envelope::<Speaker, _>("s", &speak), true);
    driven.run();
    assert!(driven.pending.iter().all(|(_, submission)| submission.batch.is_empty()), "rows without room");
    assert!(matches!(driven.answer(refused), Some(entity_runtime::kernel::Outcome::Refused(_))));
    // What is stored stays readable.
    assert_eq!(read_once(&mut driven, &from), 3);
    driven.room = Ok(());
    driven.settle();
    assert!(driven.kernels[0].is_quiet());
}

/// Asks without waiting for quiet, which there is none of without room.
fn read_once(driven: &mut Driven, key: &str) -> u64 {
    let to = driven.query(named::<Books>(Account::KIND, key, &Books));
    for _ in 0..3 {
        driven.run();
        while !driven.pending.is_empty() {
            driven.commit();
        }
    }
    let Some(entity_runtime::kernel::Outcome::Done(reply)) = driven.answer(to) else { panic!("no answer") };
    entity_runtime::codec::decode::<(u64, u64)>(&reply.body).expect("books").0
}

/// The last number of each speaker, if there was no gap.
fn heard(driven: &mut Driven, listener: &str) -> BTreeMap<String, u64> {
    let to = driven.query(named::<Heard>(Listener::KIND, listener, &Heard));
    driven.settle();
    let Some(entity_runtime::kernel::Outcome::Done(reply)) = driven.answer(to) else { panic!("no answer") };
    let (heard, gaps): (BTreeMap<_, _>, Vec<(String, u64, u64)>) =
        entity_runtime::codec::decode(&reply.body).expect("what was heard");
    assert_eq!(gaps, []);
    heard
}

#[test]
fn a_long_outbox_is_read_back_window_by_window() {
    for (memory_max, restarts) in [(16 << 20, false), (16 << 20, true), (1, false), (1, true)] {
        let mut limits = Limits::default();
        limits.stream_window = 8;
        limits.outbox_memory_max = memory_max;
        let mut driven = Driven::new(with::<Listener>(with::<Speaker>(kinds())), limits, 2, 2, 2);
        let (speaker, listener) = (driven.key_in(Speaker::KIND, 0, 0), driven.key_in(Listener::KIND, 1, 0));
        // The receiver hears nothing of it for now.
        driven.held_hands = Some(Vec::new());
        for number in 1..=10 {
            let speak = Speak { to: vec![listener.clone()], times: 100 };
            driven.request(1, number, envelope::<Speaker, _>(&speaker, &speak), true);
            driven.settle();
        }
        let (all, before) = driven.kernels[0].outbox_bytes();
        assert_eq!(all, before, "no load would find them yet");
        driven.checkpoint();
        let window = if memory_max == 1 { 1 } else { 8 };
        // The first messages are the shortest.
        let holds_a_window = |driven: &Driven| {
            let (kept, in_memory) = driven.kernels[0].outbox_bytes();
            kept == all && 0 < in_memory && in_memory <= all / 1_000 * window
        };
        assert!(holds_a_window(&driven), "{:?} of {all}", driven.kernels[0].outbox_bytes());
        if restarts {
            driven.restart();
            assert!(holds_a_window(&driven), "{:?} of {all}", driven.kernels[0].outbox_bytes());
        }
        driven.held_hands = None;
        driven.pass(Duration::from_mins(1));
        assert_eq!(heard(&mut driven, &listener), BTreeMap::from([(speaker, 1_000)]));
        assert!(driven.outboxes_read >= 100, "{} reads", driven.outboxes_read);
        assert_eq!(driven.kernels[0].outbox_bytes(), (0, 0));
        assert!(driven.kernels.iter().all(entity_runtime::kernel::Kernel::is_quiet), "a stream stands still");
    }
}

#[test]
fn a_long_outbox_survives_a_void() {
    let mut limits = Limits::default();
    limits.stream_window = 4;
    let mut driven = Driven::new(with::<Listener>(with::<Speaker>(kinds())), limits, 2, 2, 2);
    let (speaker, listener) = (driven.key_in(Speaker::KIND, 0, 0), driven.key_in(Listener::KIND, 1, 0));
    let speak = |times| Speak { to: vec![listener.clone()], times };
    driven.held_hands = Some(Vec::new());
    driven.request(1, 1, envelope::<Speaker, _>(&speaker, &speak(50)), true);
    driven.checkpoint();
    driven.faults().fail(driven.kernels[0].lanes()[0]);
    driven.request(1, 2, envelope::<Speaker, _>(&speaker, &speak(50)), true);
    driven.settle();
    assert_eq!(driven.kernels[0].counters().voided, 1, "nothing was voided");
    driven.request(1, 2, envelope::<Speaker, _>(&speaker, &speak(50)), true);
    driven.settle();
    driven.held_hands = None;
    driven.pass(Duration::from_mins(1));
    assert_eq!(heard(&mut driven, &listener), BTreeMap::from([(speaker, 100)]));
    assert_eq!(driven.kernels[0].outbox_bytes(), (0, 0));
}

/// A message of a stream whose sender is the test.
fn from_stream(driven: &mut Driven, source: u32, number: u64, envelope: Envelope) {
    let view = envelope.view();
    let hash = placement::hash(view.kind, view.key);
    let shard = driven.shard_of(view.kind, view.key);
    let from = Provenance::Stream { source: ShardId(source), number, voids: Some(0) };
    driven.arrive(Arrival { shard, hash, envelope, from });
}

#[test]
fn a_hot_entity_slows_no_stream_but_its_own() {
    let mut limits = Limits::default();
    limits.intake_bytes_max = 4_000;
    limits.failing_for_max = Duration::from_mins(10);
    let mut driven = Driven::new(with::<Phoenix>(with::<Listener>(kinds())), limits, 4, 1, 1);
    let (stuck, listener) = (driven.key_in(Phoenix::KIND, 1, 0), driven.key_in(Listener::KIND, 1, 0));
    from_stream(&mut driven, 0, 1, envelope::<Phoenix, _>(&stuck, &Poison { number: 1 }));
    driven.settle();
    // What follows waits for the entity in memory, until no more is taken.
    for number in 2..=200 {
        let touch = Touch { life: 0, remind_millis: 0 };
        from_stream(&mut driven, 0, number, envelope::<Phoenix, _>(&stuck, &touch));
    }
    driven.settle();
    let held = driven.kernels[0].intake_bytes();
    assert!((4_000..5_000).contains(&held), "{held} bytes are held");
    let mut speaker = 0;
    while speaker < 10 {
        speaker += 1;
        from_stream(&mut driven, 2, speaker, envelope::<Listener, _>(&listener, &Word { number: speaker }));
    }
    driven.settle();
    assert_eq!(heard(&mut driven, &listener), BTreeMap::from([(String::new(), 10)]));
}

/// Numbers handed to the receiver since.
fn handed(driven: &mut Driven) -> Vec<u64> {
    driven.settle();
    let hands = driven.held_hands.replace(Vec::new()).expect("they are held");
    let number = |arrival: &Arrival| match arrival.from {
        Provenance::Stream { number, .. } => number,
        ref other => panic!("{other:?}"),
    };
    hands.iter().map(number).collect()
}

#[test]
fn what_was_refused_is_handed_over_when_there_is_room_and_not_before() {
    let mut driven = Driven::new(with::<Listener>(with::<Speaker>(kinds())), Limits::default(), 2, 1, 1);
    let (speaker, listener) = (driven.key_in(Speaker::KIND, 0, 0), driven.key_in(Listener::KIND, 1, 0));
    driven.held_hands = Some(Vec::new());
    let speak = Speak { to: vec![listener], times: 6 };
    driven.request(1, 1, envelope::<Speaker, _>(&speaker, &speak), true);
    assert_eq!(handed(&mut driven), [1, 2, 3, 4, 5, 6]);
    let mut tell = |through, refused_from, go_on| {
        let receipt = Receipt { source: ShardId(0), target: ShardId(1), through, refused_from, go_on };
        driven.step(0, entity_runtime::kernel::Event::Receipts(vec![receipt]));
        handed(&mut driven)
    };
    assert_eq!(tell(0, Some(3), false), [0; 0]);
    // What was taken before the refusal becomes durable meanwhile.
    assert_eq!(tell(2, None, false), [0; 0], "it would be refused again without a word");
    assert_eq!(tell(0, Some(3), true), [3, 4, 5, 6]);
    // A refusal that comes late holds nothing up.
    assert_eq!(tell(4, None, false), [0; 0]);
    assert_eq!(tell(0, Some(4), false), [0; 0]);
    assert_eq!(tell(0, Some(5), false), [0; 0]);
    assert_eq!(tell(5, None, false), [6], "5 was taken in spite of the refusal");
}

#[test]
fn a_refused_stream_whose_word_to_go_on_was_lost_goes_on_by_the_clock() {
    let mut driven = Driven::new(with::<Listener>(with::<Speaker>(kinds())), Limits::default(), 2, 1, 1);
    let (speaker, listener) = (driven.key_in(Speaker::KIND, 0, 0), driven.key_in(Listener::KIND, 1, 0));
    driven.held_hands = Some(Vec::new());
    let speak = Speak { to: vec![listener], times: 4 };
    driven.request(1, 1, envelope::<Speaker, _>(&speaker, &speak), true);
    assert_eq!(handed(&mut driven), [1, 2, 3, 4]);
    // Everything before the refusal is acknowledged, so nothing is on its way; then the receiver's word is lost.
    for (through, refused_from) in [(0, Some(3)), (2, None)] {
        let receipt = Receipt { source: ShardId(0), target: ShardId(1), through, refused_from, go_on: false };
        driven.step(0, entity_runtime::kernel::Event::Receipts(vec![receipt]));
        assert_eq!(handed(&mut driven), [0; 0]);
    }
    driven.pass(Duration::from_mins(1));
    assert_eq!(handed(&mut driven), [3, 4]);
}

#[test]
fn a_receiver_that_has_room_again_says_from_where_on() {
    let mut limits = Limits::default();
    limits.intake_bytes_max = 1_000;
    let mut driven = Driven::new(with::<Phoenix>(kinds()), limits, 2, 1, 1);
    let phoenix = driven.key_in(Phoenix::KIND, 1, 0);
    let touch = || envelope::<Phoenix, _>(&phoenix, &Touch { life: 0, remind_millis: 0 });
    from_stream(&mut driven, 0, 1, envelope::<Phoenix, _>(&phoenix, &Poison { number: 1 }));
    driven.settle();
    driven.held_receipts = Some(Vec::new());
    for number in 2..=50 {
        from_stream(&mut driven, 0, number, touch());
    }
    driven.settle();
    let told = |driven: &mut Driven| {
        let receipts = driven.held_receipts.replace(Vec::new()).expect("they are held");
        receipts.iter().map(|receipt| (receipt.refused_from, receipt.go_on)).collect::<Vec<_>>()
    };
    let refused = told(&mut driven);
    let [(Some(from), false)] = refused[..] else { panic!("{refused:?}") };
    assert!((3..50).contains(&from));
    // The entity fails for a second; then what it has in memory goes into its waiting queue.
    driven.pass(Duration::from_secs(2));
    driven.tick();
    assert!(told(&mut driven).contains(&(Some(from), true)));
}

#[test]
fn a_refused_stream_goes_on_as_soon_as_there_is_room() {
    let mut limits = Limits::default();
    limits.intake_bytes_max = 2_000;
    limits.turns_in_row_max = 1;
    limits.batch_len = 200;
    let mut driven = Driven::new(with::<Listener>(with::<Speaker>(kinds())), limits, 8, 1, 2);
    let listeners = [driven.key_in(Listener::KIND, 1, 0), driven.key_in(Listener::KIND, 1, 1)];
    let speakers: Vec<String> = [0, 2, 3, 4].map(|shard| driven.key_in(Speaker::KIND, shard, 0)).into();
    for round in 1..=20 {
        for (client, speaker) in (1..).zip(&speakers) {
            let speak = Speak { to: listeners.to_vec(), times: 10 };
            driven.request(client, round, envelope::<Speaker, _>(speaker, &speak), true);
        }
        // Receipts of what was consumed come between the refusals.
        driven.run();
        if !driven.pending.is_empty() {
            driven.commit();
        }
    }
    // No time passes: nothing is sent again by the clock.
    for _ in 0..50 {
        driven.settle();
        driven.tick();
    }
    let all: BTreeMap<String, u64> = speakers.into_iter().map(|speaker| (speaker, 200)).collect();
    for listener in &listeners {
        assert_eq!(heard(&mut driven, listener), all);
    }
    let duplicates: u64 = driven.kernels.iter().map(|kernel| kernel.counters().duplicates).sum();
    assert!(duplicates < 200, "{duplicates} of 1,600 messages were sent again though they were taken");
}

#[test]
fn what_all_shards_have_acknowledged_leaves_the_store_batch_by_batch() {
    let mut limits = Limits::default();
    limits.batch_len = 2 << 10;
    limits.message_len_max = 1 << 10;
    limits.turn_len_max = 4 << 10;
    limits.state_len_max = 4 << 10;
    let mut driven = Driven::new(with::<Listener>(with::<Speaker>(kinds())), limits, 64, 1, 1);
    let listeners: Vec<String> = (0..64).map(|shard| driven.key_in(Listener::KIND, shard, 0)).collect();
    driven.held_receipts = Some(Vec::new());
    for shard in 0..64 {
        let speaker = driven.key_in(Speaker::KIND, shard, 0);
        for (number, part) in (1..).zip(listeners.chunks(16)) {
            let speak = Speak { to: part.to_vec(), times: 1 };
            driven.request(u128::from(shard), number, envelope::<Speaker, _>(&speaker, &speak), true);
        }
        driven.settle();
    }
    // All are acknowledged at once, and nothing else is written: `Driven` holds each batch against what was reserved.
    let receipts = driven.held_receipts.take().expect("they are held");
    driven.step(0, entity_runtime::kernel::Event::Receipts(receipts));
    driven.pass(Duration::from_secs(2));
    driven.restart();
    assert_eq!(driven.kernels[0].outbox_bytes(), (0, 0));
}

#[test]
fn long_outboxes_share_the_memory_there_is() {
    let mut limits = Limits::default();
    limits.outbox_memory_max = 40_000;
    let mut driven = Driven::new(with::<Listener>(with::<Speaker>(kinds())), limits, 32, 1, 1);
    let listener = driven.key_in(Listener::KIND, 31, 0);
    driven.held_hands = Some(Vec::new());
    for shard in 0..30 {
        let speaker = driven.key_in(Speaker::KIND, shard, 0);
        for number in 1..=5 {
            let speak = Speak { to: vec![listener.clone()], times: 200 };
            driven.request(u128::from(shard), number, envelope::<Speaker, _>(&speaker, &speak), true);
            driven.settle();
        }
    }
    driven.checkpoint();
    driven.restart();
    driven.held_hands = None;
    // Each of the thirty may hold one message beyond it.
    let mut highest = 0;
    for _ in 0..2_000 {
        driven.run();
        while !driven.pending.is_empty() {
            driven.commit();
            highest = highest.max(driven.kernels[0].outbox_bytes().1);
        }
    }
    assert!(highest < 40_000 + 30 * 60, "{highest} bytes of outboxes were in memory");
    assert!(highest > 20_000, "{highest}: what there is was not used");
    driven.pass(Duration::from_mins(1));
    assert_eq!(heard(&mut driven, &listener).values().sum::<u64>(), 30 * 1_000);
}
