//! A batch that is void takes everything with it: its messages, its replies, and what was built on it (P13).

use entity_runtime::{entity::Entity, kernel::Outcome, limits::Limits, placement::ShardId};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, with},
    entities::{Account, Books, Credit, Fund, Transfer},
};
use std::time::Duration;

fn accounts(shards: u32, lanes: u32, workers: usize) -> Driven {
    Driven::new(with::<Account>(kinds()), Limits::default(), shards, lanes, workers)
}

fn cents(driven: &mut Driven, key: &str) -> u64 {
    let to = driven.query(entity_runtime_tests::driven::named::<Books>(Account::KIND, key, &Books));
    driven.settle();
    let Some(Outcome::Done(reply)) = driven.answer(to) else { panic!("no answer") };
    entity_runtime::codec::decode::<(u64, u64)>(&reply.body).expect("books").0
}

#[test]
fn a_message_to_another_lane_never_leaves_a_void_batch() {
    let mut driven = accounts(2, 2, 1);
    let (from, to) = (driven.key_in(Account::KIND, 0, 0), driven.key_in(Account::KIND, 1, 0));
    driven.request(1, 1, envelope::<Account, _>(&from, &Fund { cents: 10 }), true);
    driven.settle();
    driven.request(1, 2, envelope::<Account, _>(&from, &Transfer { to: to.clone(), cents: 7 }), true);
    // The turn's batch is durable; the next one carries the message to the other lane, and is void.
    driven.run();
    driven.commit();
    driven.run();
    driven.faults().fail(entity_runtime::store::LaneId(0));
    driven.request(1, 3, envelope::<Account, _>(&from, &Fund { cents: 1 }), true);
    driven.run();
    while !driven.pending.is_empty() {
        driven.commit();
    }
    driven.pass(Duration::from_secs(2));
    assert_eq!(cents(&mut driven, &to), 7, "the message came twice, or never");
}

#[test]
fn a_message_handed_over_before_its_batch_was_void_is_dropped() {
    // Two workers share the lane: what one hands over, the other may judge after both have lost their memory.
    let mut driven = accounts(2, 1, 2);
    let (from, to) = (driven.key_in(Account::KIND, 0, 0), driven.key_in(Account::KIND, 1, 0));
    driven.request(1, 1, envelope::<Account, _>(&from, &Fund { cents: 11 }), true);
    // The first message of a stream waits until both ends are compared; this is for those after it.
    driven.request(2, 1, envelope::<Account, _>(&from, &Transfer { to: to.clone(), cents: 1 }), true);
    driven.settle();
    driven.held_hands = Some(Vec::new());
    driven.request(1, 2, envelope::<Account, _>(&from, &Transfer { to: to.clone(), cents: 7 }), true);
    driven.run();
    let late = driven.held_hands.take().expect("just set");
    assert_eq!(late.len(), 1, "it is handed over when its batch has its place in the lane");
    driven.faults().fail(entity_runtime::store::LaneId(0));
    while !driven.pending.is_empty() {
        driven.commit();
    }
    for arrival in late {
        driven.arrive(arrival);
    }
    driven.settle();
    assert_eq!(cents(&mut driven, &to), 1, "a turn that never was took effect elsewhere");
    // The number is given to another message, which must not be taken for a repeat.
    driven.request(1, 3, envelope::<Account, _>(&from, &Transfer { to: to.clone(), cents: 3 }), true);
    driven.settle();
    assert_eq!((cents(&mut driven, &from), cents(&mut driven, &to)), (7, 4));
}

#[test]
fn a_query_of_a_shard_that_another_owner_has_is_not_answered() {
    // Two shards in one lane, so that what is written to one takes along what is shown of the other.
    for writes in [false, true] {
        let mut driven = accounts(2, 1, 1);
        let (mine, gone) = (driven.key_in(Account::KIND, 0, 0), driven.key_in(Account::KIND, 1, 0));
        driven.request(1, 1, envelope::<Account, _>(&gone, &Fund { cents: 10 }), true);
        driven.settle();
        driven.faults().advance_epoch(ShardId(1));
        let to = driven.query(entity_runtime_tests::driven::named::<Books>(Account::KIND, &gone, &Books));
        if writes {
            driven.request(1, 2, envelope::<Account, _>(&mine, &Fund { cents: 1 }), true);
        }
        driven.settle();
        let told = driven.answer(to);
        assert!(matches!(told, Some(Outcome::Unknown(_))), "{told:?} is of an owner of before");
        // It is its own again, and read anew.
        assert_eq!(cents(&mut driven, &gone), 10);
    }
}

#[test]
fn every_caller_of_a_request_hears_of_the_void() {
    let mut driven = accounts(1, 1, 1);
    driven.request(2, 1, envelope::<Account, _>("x", &Fund { cents: 1 }), true);
    driven.settle();
    driven.told.clear();
    let other = driven.request(2, 2, envelope::<Account, _>("x", &Fund { cents: 1 }), true);
    let credit = envelope::<Account, _>("a", &Credit { cents: 5 });
    let callers = [
        driven.request(1, 1, credit.clone(), true),
        driven.request(1, 1, credit.clone(), true),
        driven.request(1, 1, credit.clone(), false),
    ];
    // The other's turn is in the batch; this one's entity is read, and its message waits for the next run.
    driven.run();
    assert!(driven.told.is_empty(), "nothing is answered before its batch is durable");
    driven.faults().fail(entity_runtime::store::LaneId(0));
    driven.commit();
    for to in callers.into_iter().chain([other]) {
        assert!(matches!(driven.answer(to), Some(Outcome::Unknown(_))), "a caller was left without a word");
    }
    let again = driven.request(1, 1, credit, true);
    driven.settle();
    assert!(matches!(driven.answer(again), Some(Outcome::Done(_))));
    assert_eq!(cents(&mut driven, "a"), 5);
}
