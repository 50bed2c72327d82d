//! A handler that answers `Err` leaves nothing but its answer.

use entity_runtime::AskError;
use entity_runtime::entity::Entity;
use entity_runtime_tests::running::{
    Counts, Grow, Ledger, Mirror, Note, Reject, builder, id, now, small_limits,
};

#[tokio::test]
async fn a_rejection_is_an_outcome_and_leaves_no_other_trace() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let client = runtime.client();
    client.ask(Ledger::at("a"), Note { number: 1, mirror: None }).await.unwrap();
    let request = id(7, 1, now());
    for _ in 0..2 {
        let reject = Reject { why: "no".into() };
        let rejected = client.ask(Ledger::at("a"), reject).with_id(request).await.unwrap();
        assert_eq!(rejected, Err("no".to_owned()));
    }
    // One that was never there before does not come to be by a rejection.
    assert_eq!(client.ask(Ledger::at("b"), Reject { why: "no".into() }).await.unwrap(), Err("no".to_owned()));
    // `send` looks at no reply: a rejected message is durably dealt with.
    client.send(Ledger::at("b"), Reject { why: "no".into() }).await.unwrap();
    runtime.quiesce().await;
    let counters = runtime.counters();
    assert_eq!((counters.rejected, counters.duplicates, counters.applied), (3, 1, 4));
    assert!(counters.balance());
    runtime.shutdown().await;

    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let client = runtime.client();
    assert_eq!(client.ask(Ledger::at("a"), Counts).await.unwrap(), [(1, 1)].into());
    assert!(client.ask(Ledger::at("b"), Counts).await.unwrap().is_empty());
    assert!(client.ask(Mirror::at("rejected"), Counts).await.unwrap().is_empty());
    let again = client.ask(Ledger::at("a"), Reject { why: "no".into() }).with_id(request).await.unwrap();
    assert_eq!(again, Err("no".to_owned()), "the stored error answers the repeat");
    runtime.shutdown().await;
}

#[tokio::test]
async fn a_state_over_its_bound_is_undone_and_dead_lettered_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let limits = small_limits();
    let too_much = Grow { bytes: limits.state_len_max + 1 };
    let runtime = builder(directory.path(), limits).start().await.unwrap();
    let client = runtime.client();
    client.ask(Ledger::at("a"), Note { number: 1, mirror: None }).await.unwrap();
    let error = client.ask(Ledger::at("a"), too_much).await.unwrap_err();
    assert!(matches!(&error, AskError::DeadLettered(why) if why.contains("the limit is")), "{error}");
    assert_eq!(client.ask(Ledger::at("a"), Counts).await.unwrap(), [(1, 1)].into());
    runtime.quiesce().await;
    assert_eq!(runtime.counters().dead_lettered, 1);
    runtime.shutdown().await;
}
