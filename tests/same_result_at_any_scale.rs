//! The same entities on one node, on two, on three, and while nodes join and leave: the same figures.

use entity_runtime::{
    cluster::{Begin, Command},
    prelude::*,
};
use entity_runtime_tests::{
    nodes::{Rows, addresses, at, node, shards_of, until},
    running::Ledger,
};
const ROWS: Rows = Rows { ledgers: 40, mirrors: 7 };

async fn note(client: &Client, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let (ledger, note) = ROWS.note(number);
        client.ask(Ledger::at(ledger), note).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_and_leave_while_messages_flow() {
    let first = node("a", Begin::Found, None).await;
    let client = Client::connect(addresses(&[&first])).await.unwrap();
    note(&client, 0..200).await;
    ROWS.check(&client, 200).await;

    let second = node("b", at(&[&first]), None).await;
    note(&client, 200..400).await;
    until(&client, "a", "b has its share", |status| 8 <= shards_of(status, "b")).await;
    ROWS.check(&client, 400).await;

    let third = node("c", at(&[&second]), None).await;
    note(&client, 400..600).await;
    until(&client, "c", "c has its share", |status| 6 <= shards_of(status, "c")).await;
    // Also from within a node.
    let inside = third.client();
    note(&inside, 600..700).await;
    ROWS.check(&inside, 700).await;

    first.command(Command::Leave).await.unwrap();
    note(&client, 700..900).await;
    assert_eq!(first.departed().await, entity_runtime::cluster::Departure::Left);
    first.shutdown().await;
    ROWS.check(&client, 900).await;
    note(&client, 900..1_000).await;
    ROWS.check(&client, 1_000).await;
    second.shutdown().await;
    third.shutdown().await;
}
