//! A node that ends and starts again, is away, or is not who it says: what the others and their clients see.

use entity_runtime::{
    AskError, Refusal, Runtime, StartError,
    cluster::{Begin, Command, CommandAnswer, Departure, NodeStatus},
    placement::Shards,
    prelude::*,
    store::{Founding, LaneId, memory::MemoryStore},
};
use entity_runtime_tests::{
    nodes::{Rows, addresses, at, config, node, shards_of, start, try_node, until},
    running::{Counts, Ledger, Mirror, Note},
};
use std::{sync::Arc, time::Duration};

const LEDGERS: u64 = 24;

const ROWS: Rows = Rows { ledgers: LEDGERS, mirrors: 5 };

async fn two_nodes(directory: &std::path::Path) -> (Runtime, Runtime, Client) {
    let a = node("a", Begin::Found, Some(&directory.join("a"))).await;
    let b = node("b", at(&[&a]), Some(&directory.join("b"))).await;
    let client = Client::connect(addresses(&[&a, &b])).await.unwrap();
    // A shard that is on its way when a node ends is with nobody, which is another story.
    until(&client, "a", "b has its share", |status| status.going == 0 && 12 <= shards_of(status, "b")).await;
    (a, b, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_goes_on_over_nodes_that_end_and_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b, client) = two_nodes(directory.path()).await;
    ROWS.feed(&client, 500).await;
    // Dropped, it stops where it is.
    let port = b.listens_at().unwrap().to_owned();
    drop(b);
    let feeding = tokio::spawn({
        let client = client.clone();
        async move { ROWS.feed(&client, 1_000).await }
    });
    let b = node_at("b", &port, &directory.path().join("b")).await;
    feeding.await.unwrap();
    ROWS.check(&client, 1_000).await;

    let port = a.listens_at().unwrap().to_owned();
    a.shutdown().await;
    let feeding = tokio::spawn({
        let client = client.clone();
        async move { ROWS.feed(&client, 1_500).await }
    });
    let a = node_at("a", &port, &directory.path().join("a")).await;
    feeding.await.unwrap();
    ROWS.check(&client, 1_500).await;
    a.shutdown().await;
    b.shutdown().await;
}

async fn node_at(name: &str, address: &str, directory: &std::path::Path) -> Runtime {
    try_node(name, address, Begin::Resume, Some(directory)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_away_is_said_to_be_and_its_messages_wait() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b, client) = two_nodes(directory.path()).await;
    ROWS.feed(&client, 240).await;
    let port = b.listens_at().unwrap().to_owned();
    drop(b);
    let (mut here, mut away) = (0, 0);
    let asks = (0..LEDGERS).map(|of| {
        let client = client.clone();
        tokio::spawn(async move {
            let (ledger, note) = ROWS.note(240 + of);
            client.ask(Ledger::at(ledger), note).await
        })
    });
    for ask in asks.collect::<Vec<_>>() {
        match ask.await.unwrap() {
            Ok(_) => here += 1,
            Err(AskError::Refused(Refusal::OwnerUnavailable(who))) => {
                assert_eq!(who, "node b");
                away += 1;
            }
            Err(AskError::Unknown(_)) => away += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(0 < here && 0 < away, "{here} are here and {away} away");
    // What a's ledgers have sent to b's mirrors meanwhile arrives when it is back; what was refused never was.
    let b = node_at("b", &port, &directory.path().join("b")).await;
    let mut noted = 0;
    for of in 0..LEDGERS {
        let counts = client.ask(Ledger::at(format!("l{of}")), Counts).await.unwrap();
        assert!(counts.values().all(|times| *times == 1));
        noted += counts.len() - 10;
    }
    assert!(here <= noted && noted <= LEDGERS as usize);
    let mirrored = async {
        loop {
            let mut all = 0;
            for of in 0..5 {
                let counts = client.ask(Mirror::at(format!("m{of}")), Counts).await.unwrap();
                assert!(counts.values().all(|times| *times == 1));
                all += counts.len();
            }
            if all == 240 + noted {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), mirrored).await.expect("every mirror hears of every note");
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_directory_founds_or_joins_and_never_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let refused = try_node("a", "127.0.0.1:0", Begin::Resume, Some(directory.path())).await;
    let error = refused.err().expect("it does not start");
    assert!(matches!(error, StartError::NeitherFoundNorJoin { .. }), "{error}");
    assert!(error.to_string().contains("found a cluster"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = try_node("a", &address, Begin::Found, None).await.err().expect("it does not start");
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_directory_under_a_known_name_stays_outside_until_it_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let a = node("a", Begin::Found, Some(&directory.path().join("a"))).await;
    let client = Client::connect(addresses(&[&a])).await.unwrap();
    let b = node("b", at(&[&a]), Some(&directory.path().join("b"))).await;
    until(&client, "a", "b is here", |status| status.nodes.len() == 2).await;
    // Before it has anything: what it owns would be gone with it.
    b.command(Command::Leave).await.unwrap();
    b.departed().await;
    b.shutdown().await;
    std::fs::remove_dir_all(directory.path().join("b")).unwrap();

    // It asks for the cluster as a stranger, founds its store, and is then known for another.
    let b = node("b", at(&[&a]), Some(&directory.path().join("b"))).await;
    until(&client, "a", "b is away", |status| {
        !status.nodes.iter().any(|node| node.name.as_str() == "b" && node.is_connected)
    })
    .await;
    let a_name = "a".parse().unwrap();
    let forget = || client.command(Some(&a_name), Command::Forget("b".parse().unwrap()));
    let forgotten = async {
        while !matches!(forget().await.unwrap(), CommandAnswer::Done(_)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), forgotten).await.expect("b is forgotten");
    until(&client, "a", "the new b is let in", |status| {
        status.nodes.iter().any(|node| node.name.as_str() == "b" && node.is_connected && node.state == "up")
    })
    .await;
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_node_does_not_leave() {
    let a = node("a", Begin::Found, None).await;
    let client = Client::connect(addresses(&[&a])).await.unwrap();
    let said = client.command(None, Command::Leave).await.unwrap();
    assert!(matches!(&said, CommandAnswer::Refused(why) if why.contains("only node")), "{said:?}");
    a.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reaches_nobody_says_whom_it_has_tried() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = Client::connect([free.clone()]).await.err().expect("nobody is there");
    assert!(error.to_string().contains(&free), "{error}");
}

fn is_connected(status: &NodeStatus, node: &str) -> bool {
    status.nodes.iter().any(|other| other.name.as_str() == node && other.is_connected)
}

fn state_of<'s>(status: &'s NodeStatus, node: &str) -> &'s str {
    let other = status.nodes.iter().find(|other| other.name.as_str() == node);
    other.map_or("unknown", |other| &other.state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_finds_its_cluster_where_it_once_joined_though_all_have_moved() {
    let directory = tempfile::tempdir().unwrap();
    let (home_of_a, home_of_b) = (directory.path().join("a"), directory.path().join("b"));
    let later = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let a = node("a", Begin::Found, Some(&home_of_a)).await;
    let seeds = [addresses(&[&a]), vec![later.clone()]].concat();
    let b = node("b", Begin::Join(seeds), Some(&home_of_b)).await;
    let client = Client::connect(addresses(&[&a])).await.unwrap();
    until(&client, "a", "b is here", |status| is_connected(status, "b")).await;
    drop(client);
    a.shutdown().await;
    b.shutdown().await;

    // Neither is where the other has known it: what is left is the second of the addresses that b was once given.
    let b = node_at("b", "127.0.0.1:0", &home_of_b).await;
    let a = node_at("a", &later, &home_of_a).await;
    let client = Client::connect([later]).await.unwrap();
    until(&client, "a", "b has found it", |status| is_connected(status, "b")).await;
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_waits_until_another_has_heard_that_it_has_left() {
    let directory = tempfile::tempdir().unwrap();
    let settled = |name: &str, begin: Begin| {
        let mut config = config(name, "127.0.0.1:0", begin);
        // Nothing moves.
        config.pace.stable_for = Duration::from_hours(1);
        config
    };
    let home_of_a = directory.path().join("a");
    let a = start(settled("a", Begin::Found), Some(&home_of_a)).await.unwrap();
    let b = start(settled("b", at(&[&a])), None).await.unwrap();
    let client = Client::connect(addresses(&[&b])).await.unwrap();
    until(&client, "b", "they know each other", |status| is_connected(status, "a")).await;
    let home = a.listens_at().unwrap().to_owned();
    drop(a);

    let said = b.command(Command::Leave).await.unwrap();
    assert!(matches!(said, CommandAnswer::Done(_)), "{said:?}");
    let departed = tokio::spawn(async move {
        let departure = b.departed().await;
        b.shutdown().await;
        departure
    });
    // It has nothing, so it left at once; and it is still there when whom it could tell would have been told long ago.
    let left = until(&client, "b", "it has left", |status| state_of(status, "b") == "left").await;
    until(&client, "b", "it is still there", |status| left.uptime_ms + 3_000 < status.uptime_ms).await;
    let a = node_at("a", &home, &home_of_a).await;
    let client = Client::connect(addresses(&[&a])).await.unwrap();
    until(&client, "a", "it hears that b has left", |status| state_of(status, "b") == "left").await;
    // Sooner than after the minute in which it would wait for one that says nothing: `a` has answered.
    let departure = tokio::time::timeout(Duration::from_secs(50), departed).await.expect("b goes then");
    assert_eq!(departure.unwrap(), Departure::Left);
    a.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_store_has_failed_is_away_for_the_others() {
    let founding = Founding::founder(1, 2, Shards::new(32).unwrap());
    let store = MemoryStore::founded(&founding, 1);
    let b = Runtime::builder().entity::<Ledger>().entity::<Mirror>().workers(2);
    let b = b.store(Arc::new(store.clone())).cluster(config("b", "127.0.0.1:0", Begin::Found));
    let b = b.start().await.unwrap();
    let a = node("a", at(&[&b]), None).await;
    let client = Client::connect(addresses(&[&a])).await.unwrap();
    until(&client, "a", "b is here", |status| is_connected(status, "b")).await;

    store.faults().die(LaneId(0));
    let _ = b.client().ask(Ledger::at("one of its own"), Note { number: 1, mirror: None }).await;
    let departure = tokio::time::timeout(Duration::from_mins(1), b.departed()).await;
    assert!(matches!(departure, Ok(Departure::Failed(_))), "{departure:?}");
    // Its process goes on, and nobody takes it for a node any more.
    until(&client, "a", "b is away", |status| {
        let b = status.nodes.iter().find(|node| node.name.as_str() == "b").unwrap();
        !b.is_connected && !b.is_alive
    })
    .await;
    drop(b);
    a.shutdown().await;
}
