//! One process at a time uses a data directory; the second is told who does.

use entity_runtime::{
    StartError,
    entity::Entity,
    store::disk::{Disk, RealDisk},
};
use entity_runtime_tests::running::{Ledger, Note, builder, small_limits};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

#[tokio::test]
async fn the_second_process_is_refused_with_the_first_ones_number() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = Command::new(env!("CARGO_BIN_EXE_victim"))
        .arg("hold")
        .arg(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let Err(refused) = builder(directory.path(), small_limits()).start().await else {
        panic!("two processes use one directory")
    };
    let text = refused.to_string();
    assert!(matches!(refused, StartError::Open(_)), "{text}");
    assert!(text.contains(&format!("process {}", first.id())), "{text}");
    assert!(text.contains(directory.path().to_str().unwrap()), "{text}");
    first.kill().unwrap();
    first.wait().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    runtime.client().ask(Ledger::at("a"), Note { number: 1, mirror: None }).await.unwrap();
    runtime.shutdown().await;
}

#[tokio::test]
async fn a_client_that_outlives_its_runtime_does_not_keep_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let client = runtime.client();
    let feed = client.feed("f").await.unwrap();
    let Err(refused) = builder(directory.path(), small_limits()).start().await else {
        panic!("two runtimes use one directory")
    };
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    runtime.shutdown().await;
    builder(directory.path(), small_limits()).start().await.unwrap().shutdown().await;
    drop(builder(directory.path(), small_limits()).start().await.unwrap());
    drop(builder(directory.path(), small_limits()).start().await.unwrap());
    drop((client, feed));
}

#[test]
fn a_process_that_is_just_starting_does_not_keep_a_directory_that_is_free() {
    let place = tempfile::tempdir().unwrap();
    let disk = RealDisk::existing(place.path()).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
        }
        let taken = (0..500).find_map(|_| disk.lock().err());
        is_over.store(true, Ordering::Relaxed);
        assert!(taken.is_none(), "{taken:?}");
    });
}
