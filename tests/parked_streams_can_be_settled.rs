//! After a real loss - the only disk of a node is gone, and an older copy of it is adopted - what its shards had sent and taken since
//! is known to the others alone. Their streams are parked, until an operator accepts the loss.

use entity_runtime::{cluster::Begin, prelude::*};
use entity_runtime_tests::{
    nodes::{Rows, addresses, at, copy, node, shards_of, status, until},
    running::{Counts, Ledger, Mirror, Note},
};
use std::{
    cell::Cell,
    fs,
    process::{Command, Output},
    time::Duration,
};

const ROWS: Rows = Rows { ledgers: 24, mirrors: 12 };
/// Numbers from here on were noted after the loss.
const NEW: u64 = 1_000_000;

/// An operator's command, in a process of its own, and what it says.
async fn operator(line: String) -> (bool, String) {
    let command = move || -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_victim"));
        command.args(line.split(' ')).output().unwrap()
    };
    let ran = tokio::time::timeout(Duration::from_mins(2), tokio::task::spawn_blocking(command)).await;
    let Output { status, stdout, stderr } = ran.expect("it never ends").unwrap();
    let said = [stdout, stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    (status.success(), said)
}

/// Gives a command until it is answered so.
async fn operator_until(line: &str, is_so: impl Fn(bool, &str) -> bool) -> String {
    let asking = async {
        loop {
            let (is_done, said) = operator(line.to_owned()).await;
            if is_so(is_done, &said) {
                return said;
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(2), asking).await.expect("it is never answered so")
}

/// Every ledger notes one more number for every mirror. The numbers of a mirror are those from `NEW + 1000 * mirror` on.
async fn note_for_all(client: &Client, round: u64) {
    for mirror in 0..ROWS.mirrors {
        for ledger in 0..ROWS.ledgers {
            let number = NEW + 1_000 * mirror + round * ROWS.ledgers + ledger;
            let note = Note { number, mirror: Some(format!("m{mirror}")) };
            client.ask(Ledger::at(format!("l{ledger}")), note).await.unwrap();
        }
    }
}

/// How many of the new numbers have reached the mirrors. None has twice.
async fn arrived(client: &Client) -> usize {
    let mut arrived = 0;
    for mirror in 0..ROWS.mirrors {
        let counts = client.ask(Mirror::at(format!("m{mirror}")), Counts).await.unwrap();
        let new: Vec<_> = counts.range(NEW..).collect();
        assert!(new.iter().all(|(_, times)| **times == 1), "m{mirror}: {new:?}");
        arrived += new.len();
    }
    arrived
}

async fn parked(client: &Client) -> u64 {
    let mut parked = 0;
    for node in ["a", "b"] {
        parked += status(client, node).await.unwrap().counters.parked_streams;
    }
    parked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_disk_has_parked_goes_on_when_an_operator_accepts_the_loss() {
    let directory = tempfile::tempdir().unwrap();
    let [present, past] = ["c", "copy"].map(|name| directory.path().join(name));
    let a = node("a", Begin::Found, None).await;
    let b = node("b", at(&[&a]), None).await;
    let c = node("c", at(&[&a]), Some(&present)).await;
    let client = Client::connect(addresses(&[&a, &b])).await.unwrap();
    until(&client, "a", "each has its share", |status| {
        ["a", "b", "c"].iter().all(|node| 8 <= shards_of(status, node))
    })
    .await;
    ROWS.feed(&client, 480).await;
    ROWS.check(&client, 480).await;
    c.shutdown().await;
    copy(&present, &past).unwrap();
    let c = node("c", at(&[&a]), Some(&present)).await;
    ROWS.feed(&client, 1_920).await;
    ROWS.check(&client, 1_920).await;
    c.shutdown().await;
    fs::remove_dir_all(&present).unwrap();

    for node in ["a", "b"] {
        until(&client, node, "c is gone", |status| {
            status.nodes.iter().any(|node| node.name.as_str() == "c" && !node.is_alive)
        })
        .await;
    }
    let seeds = addresses(&[&a, &b]).join(",");
    let adopt = format!("adopt --data-dir {} --join {seeds} --name c --original-destroyed", past.display());
    let (is_done, said) = operator(adopt).await;
    assert!(is_done, "{said}");
    until(&client, "a", "the others have all shards", |status| {
        shards_of(status, "a") + shards_of(status, "b") == 32 && status.going + status.coming == 0
    })
    .await;

    // Now every ledger sends to every mirror. What was lost shows, and other streams go on.
    note_for_all(&client, 0).await;
    let sent = (ROWS.ledgers * ROWS.mirrors) as usize;
    let list = format!("unpark --connect {seeds}");
    let is_clear = |_, said: &str| said.contains("Nothing was changed") && !said.contains("being compared");
    let said = operator_until(&list, is_clear).await;
    let before = arrived(&client).await;
    assert!(before < sent && 0 < parked(&client).await, "no loss shows: {before} of {sent}\n{said}");

    let accept = format!("unpark --connect {seeds} --accept-loss");
    let is_given_up = Cell::new(false);
    let said = operator_until(&accept, |is_done, said| {
        is_given_up.set(is_given_up.get() || said.contains("set going: what was lost is given up"));
        is_done
    });
    let said = said.await;
    assert!(is_given_up.get(), "{said}");
    // What waited arrives, once, and so does what comes now.
    note_for_all(&client, 1).await;
    let all = async {
        while arrived(&client).await < 2 * sent || 0 < parked(&client).await {
            tokio::task::yield_now().await;
        }
    };
    let all = tokio::time::timeout(Duration::from_mins(1), all).await;
    assert!(
        all.is_ok(),
        "{} of {} arrived, {} parked",
        arrived(&client).await,
        2 * sent,
        parked(&client).await
    );
    let (is_done, said) = operator(accept).await;
    assert!(is_done && said.trim() == "no stream is parked", "{said}");
    a.shutdown().await;
    b.shutdown().await;
}
