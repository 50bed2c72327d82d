//! A repeat of a request is answered with the first reply, byte for byte, and changes nothing.

use entity_runtime::entity::Entity;
use entity_runtime::{AskError, Refusal, Runtime};
use entity_runtime_tests::running::{Counts, Grow, Ledger, Note, Noted, builder, id, now, small_limits};
use std::time::Duration;

fn note(number: u64) -> Note {
    Note { number, mirror: Some("m".into()) }
}

async fn repeat(runtime: &Runtime, request: entity_runtime::RequestId) -> Noted {
    runtime.client().ask(Ledger::at("a"), note(1)).with_id(request).await.unwrap()
}

#[tokio::test]
async fn a_repeat_by_the_same_client_gets_the_first_reply() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let client = runtime.client();
    let mut ask = client.ask(Ledger::at("a"), note(1));
    let request = ask.id();
    let first = ask.await.unwrap();
    // Others in between acknowledge what the client has; an id that was asked for stays.
    for number in 2..20 {
        client.ask(Ledger::at("a"), note(number)).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(client.ask(Ledger::at("a"), note(1)).with_id(request).await.unwrap(), first);
    }
    assert_eq!(client.ask(Ledger::at("a"), Counts).await.unwrap()[&1], 1);
    runtime.shutdown().await;
    assert_eq!(client.ask(Ledger::at("a"), note(1)).await, Err(Refusal::Stopping.into()));
}

#[tokio::test]
async fn a_repeat_gets_the_first_reply_after_restart_passivation_and_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let request = id(7, 1, now());
    let mut limits = small_limits();
    limits.idle_after = Duration::ZERO;
    let runtime = builder(directory.path(), limits.clone()).start().await.unwrap();
    let first = repeat(&runtime, request).await;
    // Twice at once, before anything is durable as well as after.
    let (again, once_more) = tokio::join!(repeat(&runtime, request), repeat(&runtime, request));
    assert_eq!((again, once_more), (first, first));
    drop(runtime);

    // Recovered from the log, as after a crash. One worker lets go of everything in one sweep.
    let restarted = builder(directory.path(), limits.clone()).workers(1).log_budget(8 << 20);
    let runtime = restarted.start().await.unwrap();
    assert_eq!(repeat(&runtime, request).await, first);
    // What is idle goes as soon as a load would find it, which is when other work has filled a share of the log. That work's
    // own entity may stay: its last image is the youngest.
    let mut works = 0;
    runtime.quiesce().await;
    while runtime.activations().0 > 1 {
        works += 1;
        assert!(works < 500, "nothing is ever passivated: {:?}", runtime.activations());
        runtime.client().ask(Ledger::at("b"), Grow { bytes: 400 << 10 }).await.unwrap();
        runtime.quiesce().await;
    }
    assert_eq!(repeat(&runtime, request).await, first);
    runtime.shutdown().await;

    // Recovered from the checkpoint alone.
    let runtime = builder(directory.path(), limits).start().await.unwrap();
    assert_eq!(repeat(&runtime, request).await, first);
    assert_eq!(runtime.client().ask(Ledger::at("a"), Counts).await.unwrap()[&1], 1);
    runtime.quiesce().await;
    let mirrored =
        runtime.client().ask(entity_runtime_tests::running::Mirror::at("m"), Counts).await.unwrap();
    assert_eq!(mirrored[&1], 1);
    runtime.shutdown().await;
}

#[tokio::test]
async fn an_id_used_for_another_message_is_a_collision() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let request = id(7, 1, now());
    repeat(&runtime, request).await;
    let other = runtime.client().ask(Ledger::at("a"), note(2)).with_id(request).await;
    assert_eq!(other, Err(Refusal::Collision(request.to_string()).into()));
    assert_eq!(runtime.client().ask(Ledger::at("a"), Counts).await.unwrap().len(), 1);
    runtime.shutdown().await;
}

#[tokio::test]
async fn a_repeat_that_came_too_late_is_refused_and_never_run() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    // Issued so long ago that its reply is dropped as soon as old replies are looked for.
    let request = id(7, 1, now().before(small_limits().reply_retention * 2));
    let first = repeat(&runtime, request).await;
    let expired = loop {
        match runtime.client().ask(Ledger::at("a"), note(1)).with_id(request).await {
            Ok(again) => assert_eq!(again, first),
            Err(error) => break error,
        }
        runtime.quiesce().await;
    };
    // It says so in words, and not that nothing happened.
    assert_eq!(expired, AskError::Unknown(Refusal::Expired(request.to_string()).to_string()));
    drop(runtime);
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let again = runtime.client().ask(Ledger::at("a"), note(1)).with_id(request).await;
    assert_eq!(again, Err(expired));
    assert_eq!(runtime.client().ask(Ledger::at("a"), Counts).await.unwrap()[&1], 1);
    runtime.shutdown().await;
}
