//! Whole nodes on PostgreSQL: the same entities and clients as on any other store.

use entity_runtime::{
    Builder, Runtime,
    cluster::{Begin, Departure},
    prelude::*,
};
use entity_runtime_tests::private_postgres::{Server, Stop};
use entity_runtime_tests::{
    nodes::{Rows, addresses, config, shards_of, status, until},
    running::{Counts, Ledger, Mirror, Note},
};
use std::time::Duration;

/// Short, so that tests do not wait: beats every 100 ms.
const LEASE: Duration = Duration::from_millis(600);

fn builder(url: &str) -> Builder {
    Runtime::builder()
        .entity::<Ledger>()
        .entity::<Mirror>()
        .shards(32)
        .workers(2)
        .postgres([url])
        .lease(LEASE)
}

async fn node(url: &str, name: &str, begin: Begin) -> Runtime {
    builder(url).cluster(config(name, "127.0.0.1:0", begin)).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_needs_a_url_and_nothing_else() {
    let server = Server::shared();
    let url = server.database().await;
    let rows = Rows { ledgers: 7, mirrors: 3 };
    let runtime = builder(&url).start().await.unwrap();
    rows.feed(&runtime.client(), 500).await;
    rows.check(&runtime.client(), 500).await;
    runtime.shutdown().await;
    // Again, and again as after a crash: nothing is closed.
    let runtime = builder(&url).start().await.unwrap();
    rows.check(&runtime.client(), 500).await;
    rows.feed(&runtime.client(), 800).await;
    drop(runtime);
    let runtime = builder(&url).start().await.unwrap();
    rows.check(&runtime.client(), 800).await;
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_of_a_name_takes_the_place_of_the_first() {
    let server = Server::shared();
    let url = server.database().await;
    let first = builder(&url).start().await.unwrap();
    first.client().ask(Ledger::at("l"), Counts).await.unwrap();
    let second = builder(&url).start().await.unwrap();
    let Departure::Refused(why) = first.departed().await else { panic!("it departs otherwise") };
    assert!(why.contains("another process runs as this node"), "{why}");
    assert!(first.client().ask(Ledger::at("l"), Counts).await.is_err());
    second.client().ask(Ledger::at("l"), Counts).await.unwrap();
    first.shutdown().await;
    second.client().ask(Ledger::at("l"), Counts).await.unwrap();
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_the_shards_and_take_those_of_one_that_is_gone() {
    let server = Server::shared();
    let url = server.database().await;
    let rows = Rows { ledgers: 50, mirrors: 20 };
    let a = node(&url, "a", Begin::Found).await;
    let client = Client::connect(addresses(&[&a])).await.unwrap();
    rows.feed(&client, 1_000).await;
    let b = node(&url, "b", Begin::Resume).await;
    let c = node(&url, "c", Begin::Resume).await;
    let is_even = |status: &_| ["a", "b", "c"].iter().all(|node| (5..=13).contains(&shards_of(status, node)));
    until(&client, "a", "the shards are shared by three", is_even).await;
    rows.check(&client, 1_000).await;
    // Gone without a word, while a feed goes on.
    let feeding = async {
        rows.feed(&client, 4_000).await;
    };
    let dying = async {
        until(&client, "a", "b is there", |status| 0 < shards_of(status, "b")).await;
        drop(b);
    };
    tokio::join!(feeding, dying);
    let left = |status: &_| shards_of(status, "a") + shards_of(status, "c") == 32;
    until(&client, "a", "two have all shards", left).await;
    rows.check(&client, 4_000).await;
    assert!(status(&client, "c").await.is_some());
    // It leaves in peace, which loses nothing either.
    c.shutdown().await;
    until(&client, "a", "one has all shards", |status| shards_of(status, "a") == 32).await;
    rows.feed(&client, 4_500).await;
    rows.check(&client, 4_500).await;
    a.shutdown().await;
}

/// How many of some entities answer soon.
async fn answering(client: &Client) -> usize {
    let mut answered = 0;
    for key in 0..24 {
        let asked = client.ask(Ledger::at(format!("l{key}")), Counts).timeout(Duration::from_millis(300));
        answered += usize::from(asked.await.is_ok());
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_costs_its_own_shards_alone_also_at_a_start_and_at_an_end() {
    let (mut first, second) = (Server::start(), Server::start());
    let urls = [first.database().await, second.database().await];
    let node = |name: &str, begin| {
        let builder = Runtime::builder().entity::<Ledger>().entity::<Mirror>().shards(32).workers(2);
        let builder = builder.postgres(urls.clone()).lease(LEASE);
        builder.cluster(config(name, "127.0.0.1:0", begin)).start()
    };
    let a = node("a", Begin::Found).await.unwrap();
    assert_eq!(answering(&a.client()).await, 24);
    a.shutdown().await;
    first = tokio::task::spawn_blocking(move || {
        first.stop(Stop::Fast);
        first
    })
    .await
    .unwrap();
    let a = node("a", Begin::Resume).await.unwrap();
    let answered = answering(&a.client()).await;
    assert!((1..24).contains(&answered), "{answered} of 24 answer without one of two servers");
    // Another node is let in, and has its share of what there is.
    let b = node("b", Begin::Resume).await.unwrap();
    let client = Client::connect(addresses(&[&a])).await.unwrap();
    until(&client, "a", "b has a share", |status| 4 <= shards_of(status, "b")).await;
    first = tokio::task::spawn_blocking(move || {
        first.start_again();
        first
    })
    .await
    .unwrap();
    until(&client, "a", "all shards have owners", |status| {
        shards_of(status, "a") + shards_of(status, "b") == 32 && 10 < shards_of(status, "b")
    })
    .await;
    assert_eq!(answering(&client).await, 24);
    // It goes away again, in the middle of what it is asked; the nodes end all the same.
    let asking = client.clone();
    let asks = tokio::spawn(async move {
        for number in 0.. {
            let ledger = Ledger::at(format!("l{}", number % 24));
            let asked = asking.ask(ledger, Note { number, mirror: None });
            if asked.timeout(Duration::from_millis(200)).await.is_err() {
                return;
            }
        }
    });
    drop(first);
    asks.await.unwrap();
    tokio::join!(a.shutdown(), b.shutdown());
}
