//! Streams between shards move on, whatever is full, refused, late or lost (P7, P8).

use entity_runtime::{entity::Entity, kernel::Receipt, limits::Limits, placement::ShardId, store::NoRoom};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, named, with},
    entities::{Account, Books, Fund, Speak, Speaker, Transfer},
};
use std::time::Duration;

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
