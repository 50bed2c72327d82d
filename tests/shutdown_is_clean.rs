//! A runtime stops when it is told to: what was accepted is durable, whoever waits is told, and nothing hangs.

use entity_runtime::{
    AskError, FeedError, Refusal, Runtime,
    placement::Shards,
    prelude::*,
    store::{LaneId, memory::MemoryStore},
};
use entity_runtime_tests::running::{Counts, Ledger, Mirror, Note, builder, small_limits};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Two of these send to each other for ever.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "player", handles(Ball), queries(Played))]
struct Player {
    played: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
struct Ball {
    to: String,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Played;

impl Handle<Ball> for Player {
    fn handle(&mut self, ball: Ball, ctx: &mut Context<'_, Self>) {
        self.played += 1;
        let me = ctx.key().to_owned();
        ctx.send(Player::at(ball.to), Ball { to: me });
    }
}

impl Query<Played> for Player {
    fn query(&self, _: Played) -> u64 {
        self.played
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entities_that_send_without_end_do_not_keep_it_from_stopping() {
    let directory = tempfile::tempdir().unwrap();
    let mut played = 0;
    for _ in 0..3 {
        let runtime = builder(directory.path(), small_limits()).entity::<Player>().start().await.unwrap();
        let client = runtime.client();
        if played == 0 {
            client.send(Player::at("a"), Ball { to: "b".into() }).await.unwrap();
        }
        // The ball is still in play after each restart.
        let before = played;
        while played < before + 20 {
            let now = client.ask(Player::at("a"), Played).await.unwrap();
            assert!(played <= now, "what was answered is gone");
            played = now;
        }
        runtime.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_told_and_what_was_accepted_is_there() {
    const ASKED: u64 = 2_000;
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let ledger = |number: u64| Ledger::at(format!("l{}", number % 9));
    let mut asks = tokio::task::JoinSet::new();
    for number in 0..ASKED {
        let client = runtime.client();
        asks.spawn(async move { (number, client.ask(ledger(number), Note { number, mirror: None }).await) });
    }
    let mut told = vec![asks.join_next().await.unwrap().unwrap()];
    let client = runtime.client();
    let mut feed = client.feed("f").await.unwrap();
    let stopping = tokio::spawn(runtime.shutdown());
    // One after the other until the door is shut, so that there are some before and one behind it.
    for number in ASKED.. {
        let outcome = client.ask(ledger(number), Note { number, mirror: None }).await;
        let is_shut = outcome == Err(AskError::Refused(Refusal::Stopping));
        told.push((number, outcome));
        if is_shut {
            break;
        }
    }
    stopping.await.unwrap();
    while let Some(ask) = asks.join_next().await {
        told.push(ask.unwrap());
    }
    let note = Note { number: 1, mirror: None };
    let cut = feed.send(1, Ledger::at("x"), note).await.unwrap_err();
    assert!(matches!(cut, FeedError::CutOff { .. }), "{cut}");

    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let mut there = BTreeMap::new();
    for number in 0..9 {
        there.append(&mut runtime.client().ask(ledger(number), Counts).await.unwrap());
    }
    for (number, outcome) in told {
        let times = there.get(&number).copied().unwrap_or(0);
        match outcome {
            Ok(_) => assert_eq!(times, 1, "{number} was answered"),
            Err(AskError::Refused(Refusal::Stopping)) => assert_eq!(times, 0, "{number} was refused"),
            // Between door and stop: it may have happened.
            Err(AskError::Unknown(_)) => assert!(times <= 1, "{number} happened twice"),
            Err(other) => panic!("{number}: {other}"),
        }
    }
    runtime.shutdown().await;
}

#[tokio::test]
async fn an_ask_that_is_not_answered_in_time_is_unknown_and_can_be_asked_again() {
    let lane = LaneId(0);
    let note = || Note { number: 1, mirror: None };
    let start = |store: &MemoryStore| {
        let store = Arc::new(store.clone());
        Runtime::builder().entity::<Ledger>().entity::<Mirror>().workers(1).store(store).start()
    };
    // It happens behind the time-out: the lane takes it when its caller has given up. Or never: the process ends first.
    for happens in [true, false] {
        let store = MemoryStore::new(Shards::new(1).unwrap(), 1);
        let runtime = start(&store).await.unwrap();
        let client = runtime.client();
        store.faults().hang(lane);
        let mut ask = client.ask(Ledger::at("a"), note()).timeout(Duration::ZERO);
        let id = ask.id();
        assert!(matches!(ask.await, Err(AskError::Unknown(_))));
        let first = if happens {
            store.faults().release(lane);
            let first = client.ask(Ledger::at("a"), note()).with_id(id).await.unwrap();
            runtime.shutdown().await;
            Some(first)
        } else {
            drop(runtime);
            None
        };
        let runtime = start(&store.restart()).await.unwrap();
        let client = runtime.client();
        let before = client.ask(Ledger::at("a"), Counts).await.unwrap();
        assert_eq!(before, if happens { [(1, 1)].into() } else { BTreeMap::new() });
        let again = client.ask(Ledger::at("a"), note()).with_id(id).await.unwrap();
        assert_eq!(again.nth, 1);
        assert!(first.is_none_or(|first| first == again), "it ran again");
        assert_eq!(client.ask(Ledger::at("a"), Counts).await.unwrap(), [(1, 1)].into());
        runtime.shutdown().await;
    }
}
