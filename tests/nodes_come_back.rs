//! A node that ends and starts again, is away, or is not who it says: what the others and their clients see.

use entity_runtime::{
    AskError, Refusal, Runtime, StartError,
    cluster::{Begin, Command, CommandAnswer},
    prelude::*,
};
use entity_runtime_tests::{
    nodes::{Rows, addresses, at, node, shards_of, try_node, until},
    running::{Counts, Ledger, Mirror},
};
use std::time::Duration;

const LEDGERS: u64 = 24;

const ROWS: Rows = Rows { ledgers: LEDGERS, mirrors: 5 };

async fn two_nodes(directory: &std::path::Path) -> (Runtime, Runtime, Client) {
    let a = node("a", Begin::Found, Some(&directory.join("a"))).await;
    let b = node("b", at(&[&a]), Some(&directory.join("b"))).await;
    let client = Client::connect(addresses(&[&a, &b])).await.unwrap();
    until(&client, "a", "b has its share", |status| 12 <= shards_of(status, "b")).await;
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
