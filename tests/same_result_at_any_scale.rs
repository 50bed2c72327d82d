//! The same entities on one node, on two, on three, and while nodes join and leave: the same figures.

use entity_runtime::{cluster::Begin, prelude::*};
use entity_runtime_tests::{
    nodes::{addresses, at, node, shards_of, until},
    running::{Counts, Ledger, Mirror, Note},
};
use std::collections::BTreeMap;

const LEDGERS: u64 = 40;

async fn note(client: &Client, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let mirror = Some(format!("m{}", number % 7));
        let note = Note { number, mirror };
        client.ask(Ledger::at(format!("l{}", number % LEDGERS)), note).await.unwrap();
    }
}

/// Every number once, in its ledger and in its mirror.
async fn check(client: &Client, numbers: u64) {
    for ledger in 0..LEDGERS {
        let counts = client.ask(Ledger::at(format!("l{ledger}")), Counts).await.unwrap();
        let expected: BTreeMap<u64, u32> =
            (0..numbers).filter(|number| number % LEDGERS == ledger).map(|number| (number, 1)).collect();
        assert_eq!(counts, expected, "ledger {ledger}");
    }
    for mirror in 0..7 {
        let expected: BTreeMap<u64, u32> =
            (0..numbers).filter(|number| number % 7 == mirror).map(|number| (number, 1)).collect();
        let arrived = async {
            while client.ask(Mirror::at(format!("m{mirror}")), Counts).await.unwrap() != expected {
                tokio::task::yield_now().await;
            }
        };
        let arrived = tokio::time::timeout(std::time::Duration::from_mins(1), arrived).await;
        assert!(arrived.is_ok(), "mirror {mirror} never has every number once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_and_leave_while_messages_flow() {
    let first = node("a", Begin::Found, None).await;
    let client = Client::connect(addresses(&[&first])).await.unwrap();
    note(&client, 0..200).await;
    check(&client, 200).await;

    let second = node("b", at(&[&first]), None).await;
    note(&client, 200..400).await;
    until(&client, "a", "b has its share", |status| 8 <= shards_of(status, "b")).await;
    check(&client, 400).await;

    let third = node("c", at(&[&second]), None).await;
    note(&client, 400..600).await;
    until(&client, "c", "c has its share", |status| 6 <= shards_of(status, "c")).await;
    // Also from within a node.
    let inside = third.client();
    note(&inside, 600..700).await;
    check(&inside, 700).await;

    first.leave();
    note(&client, 700..900).await;
    assert_eq!(first.departed().await, entity_runtime::cluster::Departure::Left);
    first.shutdown().await;
    check(&client, 900).await;
    note(&client, 900..1_000).await;
    check(&client, 1_000).await;
    second.shutdown().await;
    third.shutdown().await;
}
