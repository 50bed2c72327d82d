//! A node whose directory is an older copy of itself: the others have seen more of it, and it stays outside.

use entity_runtime::{
    Runtime,
    cluster::Begin,
    prelude::*,
    transport::{Connection, Frame, handshake::NodeIdentity},
};
use entity_runtime_tests::{
    nodes::{Rows, addresses, come, copy, node, shards_of, status, told, until},
    running::{Ledger, Mirror},
};
use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

const ROWS: Rows = Rows { ledgers: 24, mirrors: 5 };

/// Node b, in a process of its own.
struct Process(Child);

impl Process {
    fn start(directory: &Path, seed: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_victim"));
        command.args(["node", "b", "127.0.0.1:0"]).arg(directory).arg(seed);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Self(command.spawn().unwrap());
        let mut line = String::new();
        let said = BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line);
        assert!(said.is_ok() && line.trim() == "serves", "it says {line:?}");
        process
    }

    fn stop(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }

    /// Waits until it ends by itself, and what it says then.
    async fn ended(mut self) -> (ExitStatus, String) {
        let ended = async {
            loop {
                match self.0.try_wait().unwrap() {
                    Some(code) => return code,
                    None => tokio::task::yield_now().await,
                }
            }
        };
        let code = tokio::time::timeout(Duration::from_mins(1), ended).await.expect("it does not go on");
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a store once more, on a machine that reaches nobody.
async fn open_alone(directory: &Path) {
    let builder = Runtime::builder().entity::<Ledger>().entity::<Mirror>().workers(2);
    let alone = builder.data_dir(directory).shards(32).segment_bytes(32 << 20).start().await.unwrap();
    alone.shutdown().await;
}

/// How often a node has opened its store, as the others have heard.
async fn boots(client: &Client, of: &str) -> u64 {
    let status = status(client, "a").await.unwrap();
    status.nodes.iter().find(|node| node.name.as_str() == of).unwrap().boot
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_has_acknowledged_since_its_handshake_is_held_against_an_older_copy() {
    let directory = tempfile::tempdir().unwrap();
    let [present, past] = ["b", "older"].map(|name| directory.path().join(name));
    let a = node("a", Begin::Found, Some(&directory.path().join("a"))).await;
    let seed = addresses(&[&a]).remove(0);
    let client = Client::connect([seed.clone()]).await.unwrap();
    let b = Process::start(&present, &seed);
    until(&client, "a", "b has its share", |status| 12 <= shards_of(status, "b")).await;
    ROWS.feed(&client, 240).await;
    b.stop();
    copy(&present, &past).unwrap();

    // In its next run b shakes hands as the copy would, and only then acknowledges more.
    let b = Process::start(&present, &seed);
    until(&client, "a", "b is back", |status| {
        status.nodes.iter().any(|node| node.name.as_str() == "b" && node.is_connected)
    })
    .await;
    ROWS.feed(&client, 2_400).await;
    ROWS.check(&client, 2_400).await;
    let known = boots(&client, "b").await;
    // As by `kill -9`: nobody says good-bye.
    drop(b);

    // Its starts are no less than those that were seen: what tells the copy is how far its log goes.
    for _ in 0..3 {
        open_alone(&past).await;
    }
    let accepted = status(&client, "a").await.unwrap().counters.accepted;
    let (code, said) = Process::start(&past, &seed).ended().await;
    assert!(!code.success() && said.contains("start b on its newest directory"), "{code}: {said}");
    assert!(said.contains("it was durable up to"), "{said}");
    assert_eq!(status(&client, "a").await.unwrap().counters.accepted, accepted, "a has heard nothing of it");
    assert_eq!(boots(&client, "b").await, known, "it was never let in");

    // The newest directory is as good as ever.
    let b = Process::start(&present, &seed);
    ROWS.check(&client, 2_400).await;
    b.stop();
    a.shutdown().await;
}

/// Node b in this run of its store, durable up to there.
fn b(boot: u64, durable: u64) -> NodeIdentity {
    NodeIdentity { name: "b".parse().unwrap(), store: 2, boot, durable }
}

/// Says how far the log is durable by now, and returns when it was heard.
async fn say_durable(connection: &mut Connection, position: u64) {
    connection.link.send(Frame::Durable(position)).unwrap();
    // What is asked behind it is answered behind it.
    connection.link.send(Frame::AskEpochs { slot: position, shards: Vec::new() }).unwrap();
    while !matches!(told(connection).await, Some(Frame::Epochs { slot, .. }) if slot == position) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_counts_when_a_later_run_is_at_the_door_or_its_connection_has_ended() {
    let a = node("a", Begin::Found, None).await;
    let address = addresses(&[&a]).remove(0);
    let mut first = come(&address, b(1, 0)).await.unwrap();
    say_durable(&mut first, 1_000).await;
    // The earlier connection still stands while the later run knocks.
    let why = come(&address, b(2, 999)).await.expect_err("it is let in");
    assert!(why.contains("start b on its newest directory"), "{why}");
    let mut second = come(&address, b(2, 1_000)).await.unwrap();
    say_durable(&mut second, 2_000).await;
    drop((first, second));
    // At the door it may have been overtaken by what was said since; once it is let in, the other connection is over.
    drop(come(&address, b(2, 1_500)).await);
    let why = come(&address, b(2, 1_999)).await.expect_err("it is let in");
    assert!(why.contains("start b on its newest directory"), "{why}");
    come(&address, b(2, 2_000)).await.unwrap();
    a.shutdown().await;
}
