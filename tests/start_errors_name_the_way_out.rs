//! A runtime that does not start says what is wrong and what to do.

use entity_runtime::{
    Runtime,
    placement::Shards,
    runtime::Builder,
    store::{
        disk::SimulatedDisk,
        embedded::{EmbeddedConfig, EmbeddedStore, Founding},
    },
};
use entity_runtime_tests::running::{Ledger, Mirror, builder, small_limits};
use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc};

async fn error(builder: Builder) -> String {
    match builder.start().await {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    }
}

fn on(directory: &Path) -> Builder {
    builder(directory, small_limits())
}

#[tokio::test]
async fn what_was_forgotten_in_the_program_is_named() {
    let text = error(Runtime::builder().entity::<Ledger>()).await;
    assert!(text.contains(".data_dir(") && text.contains(".in_memory()"), "{text}");
    let text = error(Runtime::builder().in_memory()).await;
    assert!(text.contains(".entity::<"), "{text}");
    let text = error(Runtime::builder().in_memory().entity::<Ledger>().entity::<Ledger>()).await;
    assert!(text.contains("`ledger`"), "{text}");
    let text = error(Runtime::builder().in_memory().entity::<Ledger>().shards(3)).await;
    assert!(text.contains("power of two"), "{text}");
    let directory = tempfile::tempdir().unwrap();
    let text = error(on(directory.path()).segment_bytes(1 << 20)).await;
    assert!(text.contains(".segment_bytes("), "{text}");
    let disk = SimulatedDisk::new(1);
    let founding = Founding::founder(1, 2, Shards::new(8).unwrap());
    let config = EmbeddedConfig { segment_bytes: 1 << 20, ..EmbeddedConfig::default() };
    let store = EmbeddedStore::found_on(Arc::new(disk), &founding, &config).unwrap();
    let text = error(on(directory.path()).store(Arc::new(store))).await;
    assert!(text.contains(".segment_bytes("), "{text}");
    let text = error(on(directory.path()).log_budget(4 << 20)).await;
    assert!(text.contains("at least two segments"), "{text}");
    let mut limits = small_limits();
    limits.stream_window = 0;
    let text = error(builder(directory.path(), limits)).await;
    assert!(text.contains("`stream_window` is at least 1"), "{text}");
    assert!(
        fs::read_dir(directory.path()).unwrap().next().is_none(),
        "a start that failed left something behind"
    );
}

#[tokio::test]
async fn a_directory_that_is_none_or_not_ours_is_named() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "precious").unwrap();
    let text = error(on(&file)).await;
    assert!(text.contains("not a directory") && text.contains(file.to_str().unwrap()), "{text}");
    let text = error(on(&file.join("below"))).await;
    assert!(text.contains("not a directory"), "{text}");
    let text = error(on(place.path())).await;
    assert!(text.contains("`file`") && text.contains("empty directory"), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "a foreign directory stays as it is");
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_named() {
    let text = error(on(Path::new("/proc/entity-runtime"))).await;
    assert!(text.contains("/proc/entity-runtime"), "{text}");
    let place = tempfile::tempdir().unwrap();
    let mut rights = fs::metadata(place.path()).unwrap().permissions();
    rights.set_readonly(true);
    fs::set_permissions(place.path(), rights).unwrap();
    // Root writes there all the same, but makes no directory among the terminals.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let place = if is_root { Path::new("/dev/pts") } else { place.path() };
    let text = error(on(&place.join("data"))).await;
    assert!(text.contains("give this user the right"), "{text}");
}

#[tokio::test]
async fn another_number_of_shards_is_named_with_both() {
    let directory = tempfile::tempdir().unwrap();
    on(directory.path()).start().await.unwrap().shutdown().await;
    let text = error(on(directory.path()).shards(16)).await;
    assert!(text.contains("8 shards, not 16") && text.contains("configure 8"), "{text}");
    // Other kinds and more workers are no error.
    let other = Runtime::builder().entity::<Mirror>().data_dir(directory.path()).shards(8);
    let other = other.limits(small_limits()).segment_bytes(4 << 20).log_budget(32 << 20).workers(5);
    other.start().await.unwrap().shutdown().await;
}

#[tokio::test]
async fn what_the_system_said_is_said_once() {
    let error = on(Path::new("/proc/nobody-can-make-this")).start().await.err().unwrap();
    let whole = format!("{:#}", anyhow::Error::new(error));
    assert_eq!(whole.matches("os error").count(), 1, "{whole}");
}
