//! On a full disk new work is refused, questions are answered, and work goes on when there is space again.

use entity_runtime::entity::Entity;
use entity_runtime::{AskError, Refusal, error::Bound};
use entity_runtime_tests::running::{Counts, Ledger, Note, builder, small_limits};
use std::{fs, path::Path, process::Command};

/// A small file system of its own, gone when the test ends.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(bytes: u64) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(place.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(place)),
            Ok(output) => {
                println!("skipped: no tmpfs may be mounted: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(error) => {
                println!("skipped: no `mount`: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_work_answers_questions_and_resumes() {
    let Some(small) = Small::mount(48 << 20) else { return };
    let data = small.path().join("data");
    let mut limits = small_limits();
    limits.reply_retention = std::time::Duration::from_millis(50);
    let runtime = builder(&data, limits.clone()).log_budget(8 << 20).start().await.unwrap();
    let client = runtime.client();
    client.ask(Ledger::at("a"), Note { number: 0, mirror: None }).await.unwrap();

    // Someone else fills the disk to the last byte.
    let ballast = small.path().join("ballast");
    fill(&ballast);
    let mut noted = vec![0];
    let mut number = 0;
    let refused = loop {
        number += 1;
        let ledger = Ledger::at("a");
        let note = Note { number, mirror: Some("x".repeat(500)) };
        match client.ask(ledger, note).await {
            Ok(_) => noted.push(number),
            Err(AskError::Refused(Refusal::Busy(Bound::LogTail))) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
        assert!(number < 1_000_000, "a disk of 48 MiB holds everything");
    };
    assert_eq!(refused, AskError::Refused(Refusal::StorageFull));
    // Questions are answered, also of entities that must be read, and ticks that would trim and expire harm nothing.
    let expected = noted.iter().map(|number| (*number, 1)).collect();
    for _ in 0..50 {
        assert_eq!(client.ask(Ledger::at("a"), Counts).await.unwrap(), expected);
        assert!(client.ask(Ledger::at("never seen"), Counts).await.unwrap().is_empty());
        let refused = client.ask(Ledger::at("b"), Note { number: 1, mirror: None }).await;
        assert_eq!(refused, Err(AskError::Refused(Refusal::StorageFull)));
    }
    assert_eq!(runtime.failure(), None);

    fs::remove_file(&ballast).unwrap();
    loop {
        match client.ask(Ledger::at("b"), Note { number: 1, mirror: None }).await {
            Ok(noted) => break assert_eq!(noted.nth, 1),
            Err(AskError::Refused(Refusal::StorageFull | Refusal::Busy(Bound::LogTail))) => {
                tokio::task::yield_now().await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    runtime.quiesce().await;
    assert!(runtime.counters().balance());

    // A full disk keeps no runtime from stopping, nor from starting again.
    fill(&ballast);
    runtime.shutdown().await;
    fs::remove_file(&ballast).unwrap();
    let runtime = builder(&data, limits).log_budget(8 << 20).start().await.unwrap();
    assert_eq!(runtime.client().ask(Ledger::at("a"), Counts).await.unwrap(), expected);
    runtime.shutdown().await;
}

fn fill(path: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    let zeros = vec![0; 64 << 10];
    let mut piece = zeros.len();
    while piece > 0 {
        match file.write(&zeros[..piece]) {
            Ok(0) | Err(_) => piece /= 2,
            Ok(_) => {}
        }
    }
}
