//! A runtime stops when it is told to: what was accepted is durable, whoever waits is told, and nothing hangs.

use entity_runtime::{AskError, FeedError, Refusal, prelude::*};
use entity_runtime_tests::running::{Counts, Ledger, Note, builder, small_limits};
use std::time::Duration;

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
            played = client.ask(Player::at("a"), Played).await.unwrap();
        }
        runtime.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_told_and_what_was_accepted_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let mut asks = tokio::task::JoinSet::new();
    for number in 0..2_000_u64 {
        let client = runtime.client();
        asks.spawn(async move {
            let note = Note { number, mirror: None };
            (number, client.ask(Ledger::at(format!("l{}", number % 9)), note).await)
        });
    }
    let first = asks.join_next().await.unwrap().unwrap();
    let client = runtime.client();
    let mut feed = client.feed("f").await.unwrap();
    runtime.shutdown().await;
    let mut noted = vec![first.0];
    while let Some(ask) = asks.join_next().await {
        match ask.unwrap() {
            (number, Ok(_)) => noted.push(number),
            // Refused at the door, or between door and stop: then it may have happened.
            (_, Err(AskError::Refused(Refusal::Stopping) | AskError::Unknown(_))) => {}
            (number, Err(other)) => panic!("{number}: {other}"),
        }
    }
    let note = Note { number: 1, mirror: None };
    let refused = feed.send(1, Ledger::at("x"), note).await.unwrap_err();
    assert!(matches!(refused, FeedError::Refused { .. } | FeedError::CutOff { .. }), "{refused}");
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    for number in noted {
        let counts = runtime.client().ask(Ledger::at(format!("l{}", number % 9)), Counts).await.unwrap();
        assert_eq!(counts[&number], 1);
    }
    runtime.shutdown().await;
}

#[tokio::test]
async fn an_ask_that_is_not_answered_in_time_is_unknown_and_can_be_asked_again() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let client = runtime.client();
    let note = || Note { number: 1, mirror: None };
    let mut ask = client.ask(Ledger::at("a"), note()).timeout(Duration::ZERO);
    let id = ask.id();
    // The reply may still be faster than the clock.
    assert!(matches!(ask.await, Ok(_) | Err(AskError::Unknown(_))));
    assert_eq!(client.ask(Ledger::at("a"), note()).with_id(id).await.unwrap().nth, 1);
    assert_eq!(client.ask(Ledger::at("a"), note()).with_id(id).await.unwrap().nth, 1);
    runtime.shutdown().await;
}
