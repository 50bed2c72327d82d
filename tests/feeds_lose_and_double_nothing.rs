//! A feed can be sent again from its start, twice at once, or cut off: each row counts once.

use entity_runtime::{
    Client, FeedError, Runtime,
    activation::ReplyTo,
    entity::Entity,
    feeds::FeedId,
    kernel::{Arrival, Event, FeedNews, Provenance},
    limits::Limits,
    placement,
};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, with},
    entities::{Row, Tally},
    running::{Counts, Dice, Ledger, Mirror, Note, builder, small_limits},
};
use std::{collections::BTreeMap, path::Path};

const ROWS: u64 = 3_000;

async fn start(directory: &Path) -> Runtime {
    builder(directory, small_limits()).start().await.unwrap()
}

async fn feed(client: Client, name: &str, rows: u64, salt: u64) -> Result<(), FeedError> {
    let mut feed = client.feed(name).await?;
    for row in 1..=rows {
        let note = Note { number: row + salt, mirror: Some(format!("m{}", row % 3)) };
        feed.send(row, Ledger::at(format!("l{}", row % 7)), note).await?;
    }
    feed.flush().await
}

async fn check(runtime: &Runtime, rows: u64) {
    runtime.quiesce().await;
    let client = runtime.client();
    let (mut ledgers, mut mirrors) = (BTreeMap::new(), BTreeMap::new());
    for n in 0..7 {
        ledgers.append(&mut client.ask(Ledger::at(format!("l{n}")), Counts).await.unwrap());
    }
    for n in 0..3 {
        mirrors.append(&mut client.ask(Mirror::at(format!("m{n}")), Counts).await.unwrap());
    }
    let expected: BTreeMap<u64, u32> = (1..=rows).map(|row| (row, 1)).collect();
    assert_eq!(ledgers, expected);
    assert_eq!(mirrors, expected);
    assert!(runtime.counters().balance());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_sent_again_from_its_first_row_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = start(directory.path()).await;
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    check(&runtime, ROWS).await;
    runtime.shutdown().await;
    let runtime = start(directory.path()).await;
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    // And a longer one goes on behind the end of the shorter.
    feed(runtime.client(), "f", ROWS + 100, 0).await.unwrap();
    check(&runtime, ROWS + 100).await;
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_feeds_under_one_name_at_once_count_once() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = start(directory.path()).await;
    let one = tokio::spawn(feed(runtime.client(), "f", ROWS, 0));
    let other = tokio::spawn(feed(runtime.client(), "f", ROWS, 0));
    one.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    check(&runtime, ROWS).await;
    runtime.shutdown().await;
}

async fn feed_part(runtime: &Runtime, rows: u64) {
    let mut feed = runtime.client().feed("f").await.unwrap();
    for row in 1..=rows {
        let note = Note { number: row, mirror: Some(format!("m{}", row % 3)) };
        feed.send(row, Ledger::at(format!("l{}", row % 7)), note).await.unwrap();
    }
    // Dropped with messages in flight.
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_cut_in_flight_loses_and_doubles_nothing() {
    let mut dice = Dice::new();
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..6 {
        let runtime = start(directory.path()).await;
        feed_part(&runtime, dice.below(ROWS)).await;
        feed_part(&runtime, dice.below(ROWS)).await;
        drop(runtime);
    }
    let runtime = start(directory.path()).await;
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    check(&runtime, ROWS).await;
    runtime.shutdown().await;
}

#[tokio::test]
async fn another_input_under_a_used_name_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = start(directory.path()).await;
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    let refused = feed(runtime.client(), "f", ROWS, 1).await.unwrap_err();
    assert!(matches!(&refused, FeedError::Collision { name, .. } if name == "f"), "{refused}");
    drop(runtime);
    let runtime = start(directory.path()).await;
    let refused = feed(runtime.client(), "f", ROWS, 1).await.unwrap_err();
    assert!(matches!(refused, FeedError::Collision { .. }), "{refused}");
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    check(&runtime, ROWS).await;
    let mut falling = runtime.client().feed("g").await.unwrap();
    let note = || Note { number: 1, mirror: None };
    falling.send(5, Ledger::at("other"), note()).await.unwrap();
    let error = falling.send(5, Ledger::at("other"), note()).await.unwrap_err();
    assert_eq!(error, FeedError::NotRising { own: 5, before: 5 });
    runtime.shutdown().await;
}

#[test]
fn a_collision_stops_the_feed_that_collided_and_no_other_of_its_name() {
    let mut driven = Driven::new(with::<Tally>(kinds()), Limits::default(), 1, 1, 1);
    let feed = FeedId::of("f");
    let [right, wrong] = [1, 2].map(|connection| ReplyTo { connection, slot: 0 });
    for to in [right, wrong] {
        driven.step(0, Event::OpenFeed { feed, name: "f".into(), to });
    }
    let row = |number, amount, to| {
        let envelope = envelope::<Tally, _>("t", &Row { amount });
        let shard = placement::ShardId(0);
        let from = Provenance::Feed { feed, number, own: number, to };
        Arrival { shard, hash: placement::hash(Tally::KIND, "t"), envelope, from }
    };
    driven.arrive(row(1, 10, right));
    driven.settle();
    // The other input's second row is on its way when its first is found to be another.
    driven.arrive(row(1, 11, wrong));
    driven.arrive(row(2, 12, wrong));
    driven.arrive(row(2, 20, right));
    driven.settle();
    let collided = |to| {
        let mut told = driven.feeds_told.iter().filter(|receipt| receipt.to == to);
        told.any(|receipt| matches!(receipt.news, FeedNews::Collision { .. }))
    };
    assert!(collided(wrong) && !collided(right), "{:?}", driven.feeds_told);
    let last = driven.feeds_told.iter().rfind(|receipt| receipt.to == right).unwrap();
    assert_eq!(last.news, FeedNews::Durable { through: 2, own: 2 });
    // Two rows, and what each sends on.
    assert_eq!(driven.kernels[0].counters().applied, 4);
}
