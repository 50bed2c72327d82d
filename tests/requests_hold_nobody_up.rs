//! A request that is never settled, given up or forged holds up nobody: not its client, not its shard.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use entity_runtime::entity::Entity;
use entity_runtime::{Limits, Runtime};
use entity_runtime_tests::running::{Ledger, Note};

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
