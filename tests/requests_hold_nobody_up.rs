//! A request that is never settled, given up or forged holds up nobody: not its client, not its shard.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use entity_runtime::{
    Limits, Refusal, Runtime, entity::Entity, error::Bound, kernel::Outcome, store::NoRoom,
};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, with},
    entities::{Account, Fund},
    running::{Ledger, Note},
};

fn note(number: u64) -> Note {
    Note { number, mirror: None }
}

/// A runtime in memory whose one shard keeps few replies.
async fn short_of_replies() -> Runtime {
    let mut limits = Limits::default();
    limits.replies_max = 100;
    Runtime::builder().entity::<Ledger>().in_memory().shards(1).limits(limits).start().await.unwrap()
}

#[tokio::test]
async fn an_id_that_was_kept_costs_its_own_reply_and_no_other() {
    let runtime = short_of_replies().await;
    let client = runtime.client();
    let mut ask = client.ask(Ledger::at("a"), note(0));
    let kept = ask.id();
    let first = ask.await.unwrap();
    for number in 1..500 {
        client.ask(Ledger::at("a"), note(number)).await.unwrap();
    }
    assert_eq!(client.ask(Ledger::at("a"), note(0)).with_id(kept).await.unwrap(), first);
    runtime.shutdown().await;
}

fn driven(limits: Limits) -> Driven {
    Driven::new(with::<Account>(kinds()), limits, 1, 1, 1)
}

fn fund() -> entity_runtime::message::Envelope {
    envelope::<Account, _>("a", &Fund { cents: 5 })
}

#[test]
fn stored_replies_are_bounded_by_bytes_and_given_back() {
    let mut limits = Limits::default();
    limits.reply_bytes_max = 20;
    let mut driven = driven(limits);
    let busy = Some(&Outcome::Refused(Refusal::Busy(Bound::Replies)));
    let mut stored = 0;
    let refused = loop {
        let to = driven.request(1, stored + 1, fund(), true);
        driven.settle();
        if driven.answer(to) == busy {
            break to;
        }
        stored += 1;
        assert!(stored < 100, "20 bytes hold no hundred replies");
    };
    assert!(0 < stored && driven.answer(refused) == busy);
    // The bytes are counted again after a restart.
    driven.restart();
    let to = driven.request(1, stored + 1, fund(), true);
    driven.settle();
    assert_eq!(driven.answer(to), busy);
    // Acknowledged, their room is given back; and that survives a restart too.
    driven.acknowledged = stored;
    let first = driven.request(1, stored + 1, fund(), true);
    driven.settle();
    assert!(matches!(driven.answer(first), Some(Outcome::Done(_))), "{:?}", driven.answer(first));
    driven.restart();
    let second = driven.request(1, stored + 2, fund(), true);
    driven.settle();
    assert!(matches!(driven.answer(second), Some(Outcome::Done(_))), "{:?}", driven.answer(second));
}

#[test]
fn without_room_repeats_are_answered_and_new_requests_wait_or_are_refused() {
    let mut driven = driven(Limits::default());
    let first = driven.request(1, 1, fund(), true);
    driven.settle();
    let reply = driven.answer(first).cloned().unwrap();

    driven.room = Err(NoRoom::DiskFull);
    let (repeat, other) = (driven.request(1, 1, fund(), true), driven.request(1, 2, fund(), true));
    driven.settle();
    assert_eq!(driven.answer(repeat), Some(&reply));
    assert_eq!(driven.answer(other), Some(&Outcome::Refused(Refusal::StorageFull)));

    // A checkpoint will soon have shortened the log.
    driven.room = Err(NoRoom::LogTail);
    let waits = driven.request(1, 3, fund(), true);
    let held = driven.kernels[0].arrival_bytes();
    driven.run();
    let repeat = driven.request(1, 1, fund(), true);
    for _ in 0..3 {
        driven.run();
    }
    driven.commit();
    assert_eq!((driven.answer(repeat), driven.answer(waits)), (Some(&reply), None));
    assert_eq!(driven.kernels[0].arrival_bytes(), held, "it counts against the intake");

    // The disk is full after all.
    driven.room = Err(NoRoom::DiskFull);
    driven.run();
    assert_eq!(driven.answer(waits), Some(&Outcome::Refused(Refusal::StorageFull)));
    driven.room = Err(NoRoom::LogTail);
    let waits = driven.request(1, 4, fund(), true);
    driven.run();
    driven.room = Ok(());
    driven.settle();
    assert!(matches!(driven.answer(waits), Some(Outcome::Done(_))));
}
