//! On a full disk new work is refused, questions are answered, and work goes on when there is space again.
//!
//! Held on a simulated disk, which every machine has, and on a real file system where one may be mounted.

use entity_runtime::{
    AskError, Refusal, Runtime,
    entity::Entity,
    error::Bound,
    limits::Limits,
    placement::Shards,
    store::{
        NoRoom,
        disk::SimulatedDisk,
        embedded::{EmbeddedConfig, EmbeddedStore, Founding},
    },
};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, with},
    entities::{Account, Fund},
    running::{Counts, Ledger, Mirror, Note, builder, small_limits},
};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

const LOG_BUDGET: u64 = 8 << 20;

/// What can be filled to the last byte by someone else, and freed again.
trait Medium {
    async fn start(&self) -> Runtime;
    fn fill(&self);
    fn free(&self);
}

async fn promise(medium: impl Medium) {
    let runtime = medium.start().await;
    let client = runtime.client();
    client.ask(Ledger::at("a"), Note { number: 0, mirror: None }).await.unwrap();

    medium.fill();
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
        assert!(number < 1_000_000, "a full disk holds everything");
    };
    assert_eq!(refused, AskError::Refused(Refusal::StorageFull));
    // Questions are answered, also of entities that must be read.
    let expected = noted.iter().map(|number| (*number, 1)).collect();
    for _ in 0..50 {
        assert_eq!(client.ask(Ledger::at("a"), Counts).await.unwrap(), expected);
        assert!(client.ask(Ledger::at("never seen"), Counts).await.unwrap().is_empty());
        let refused = client.ask(Ledger::at("b"), Note { number: 1, mirror: None }).await;
        assert_eq!(refused, Err(AskError::Refused(Refusal::StorageFull)));
    }
    assert_eq!(runtime.failure(), None);

    // It is tried again now and then; nobody need start anything.
    medium.free();
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
    medium.fill();
    runtime.shutdown().await;
    medium.free();
    let runtime = medium.start().await;
    assert_eq!(runtime.client().ask(Ledger::at("a"), Counts).await.unwrap(), expected);
    runtime.shutdown().await;
}

/// A watchdog, for what never resumes.
async fn in_time(promise: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_mins(2), promise)
        .await
        .expect("work goes on when there is space again");
}

impl Medium for SimulatedDisk {
    async fn start(&self) -> Runtime {
        let shards = Shards::new(8).unwrap();
        let config =
            EmbeddedConfig { segment_bytes: 4 << 20, tail_bytes: LOG_BUDGET, ..EmbeddedConfig::default() };
        let disk = Arc::new(self.clone());
        let store = match self.used() {
            0 => EmbeddedStore::found_on(disk, &Founding::founder(1, 2, shards), &config),
            _ => EmbeddedStore::open_on(disk, &config),
        };
        let builder = Runtime::builder().entity::<Ledger>().entity::<Mirror>().workers(2);
        builder.limits(small_limits()).store(Arc::new(store.unwrap())).start().await.unwrap()
    }

    fn fill(&self) {
        self.set_capacity(Some(self.used()));
    }

    fn free(&self) {
        self.set_capacity(None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_work_answers_questions_and_resumes() {
    let disk = SimulatedDisk::new(0);
    in_time(promise(disk.clone())).await;
    assert!(0 < disk.faults().refused_full, "the disk was never full");
}

#[test]
fn replies_that_grow_old_are_kept_until_there_is_room() {
    let mut limits = Limits::default();
    limits.reply_retention = Duration::from_secs(1);
    let mut driven = Driven::new(with::<Account>(kinds()), limits, 1, 1, 1);
    driven.request(1, 1, envelope::<Account, _>("a", &Fund { cents: 5 }), true);
    driven.settle();
    driven.room = Err(NoRoom::DiskFull);
    driven.wait(Duration::from_secs(5));
    driven.tick();
    driven.run();
    let writes = |driven: &Driven| driven.pending.iter().any(|(_, submission)| !submission.batch.is_empty());
    assert!(!writes(&driven), "rows without room");
    driven.room = Ok(());
    driven.tick();
    driven.run();
    assert!(writes(&driven), "the old reply stays for ever");
}

/// A small file system of its own, gone when the test ends.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(bytes: u64) -> Result<Self, String> {
        let place = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place.path()).output();
        let mounted = mounted.map_err(|error| format!("no `mount`: {error}"))?;
        if !mounted.status.success() {
            return Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned());
        }
        Ok(Self(place))
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

impl Medium for Small {
    async fn start(&self) -> Runtime {
        let data = self.0.path().join("data");
        builder(&data, small_limits()).log_budget(LOG_BUDGET).start().await.unwrap()
    }

    fn fill(&self) {
        fill(&self.ballast());
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_file_system_does_too() {
    match Small::mount(48 << 20) {
        Ok(small) => in_time(promise(small)).await,
        // Past the harness, which shows nothing of a test that passes.
        Err(why) => writeln!(
            io::stderr(),
            "\nNOT TESTED: a full file system, for no tmpfs may be mounted here ({why}); a full simulated disk was\n"
        )
        .unwrap(),
    }
}

fn fill(path: &Path) {
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
