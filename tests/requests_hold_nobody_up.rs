//! A request that is never settled, given up or forged holds up nobody: not its client, not its shard.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use entity_runtime::{
    Limits, Refusal, Runtime,
    activation::{Listener, ReplyTo},
    entity::Entity,
    error::Bound,
    kernel::{Arrival, Outcome, Provenance},
    message::{ClientId, RequestId},
    placement::{self, Epoch, ShardId, Shards},
    prelude::*,
    requests::Acknowledged,
    store::{Batch, LaneId, NoRoom, RowType, Store, batch, memory::MemoryStore, row::put_varint},
    timestamp::Timestamp,
};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, with},
    entities::{Account, Fund},
    running::{Ledger, Note, now},
};
use std::{sync::Arc, time::Duration};

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

/// A request of the first client, issued at a time of the test's own.
fn issued_at(driven: &mut Driven, number: u64, at: Timestamp) -> ReplyTo {
    let to = ReplyTo { connection: 9, slot: number };
    let id = RequestId { client: ClientId(1), number, issued_at: at };
    let listener = Listener { to, wants_reply: true };
    let from = Provenance::Request { id, acknowledged: Acknowledged::default(), listener };
    let hash = placement::hash("account", "a");
    driven.arrive(Arrival { shard: ShardId(0), hash, envelope: fund(), from });
    driven.settle();
    to
}

#[test]
fn an_id_from_the_future_is_refused_and_leaves_no_record() {
    let mut driven = driven(Limits::default());
    let start = Timestamp::from_millis(1_000_000);
    let retention = Limits::default().reply_retention;
    let far = start + retention + Duration::from_secs(1);
    let to = issued_at(&mut driven, 1, far);
    let Some(Outcome::Refused(Refusal::IssuedAhead(id))) = driven.answer(to) else {
        panic!("{:?}", driven.answer(to));
    };
    assert!(id.ends_with(&far.as_micros().to_string()));
    // With a record this would be a collision.
    let to = issued_at(&mut driven, 1, start + retention);
    assert!(matches!(driven.answer(to), Some(Outcome::Done(_))));
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
    let held = driven.kernels[0].intake_bytes();
    driven.run();
    let repeat = driven.request(1, 1, fund(), true);
    for _ in 0..3 {
        driven.run();
    }
    driven.commit();
    assert_eq!((driven.answer(repeat), driven.answer(waits)), (Some(&reply), None));
    assert_eq!(driven.kernels[0].intake_bytes(), held, "it counts against the intake");

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

/// Tells the time.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "watch", handles(Look))]
struct Watch;

#[derive(Message, Serialize, Deserialize)]
#[message(reply = Timestamp)]
struct Look;

impl Handle<Look> for Watch {
    fn handle(&mut self, _: Look, ctx: &mut Context<'_, Self>) -> Timestamp {
        ctx.now()
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_expires_no_new_request() {
    // A store that has forgotten requests of tomorrow.
    let store = MemoryStore::new(Shards::new(1).unwrap(), 1);
    let horizon = now() + Duration::from_hours(24);
    let mut head = Vec::new();
    for number in [0, 0, 0, horizon.as_micros()] {
        put_varint(number, &mut head);
    }
    let mut first = Batch::new();
    first.section(ShardId(0), Epoch(1), 1, |out| batch::put(&[&[RowType::Head as u8]], &[&head], out));
    store.open_lane(LaneId(0)).commit(&[first]).unwrap();

    let builder = Runtime::builder().entity::<Watch>().store(Arc::new(store.restart()));
    let runtime = builder.start().await.unwrap();
    let client = runtime.client();
    let seen = client.ask(Watch::at("w"), Look).await.unwrap();
    assert!(horizon < seen, "time goes on from what the store has seen");
    assert!(seen <= client.ask(Watch::at("w"), Look).await.unwrap());
    runtime.shutdown().await;
}
