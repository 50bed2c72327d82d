//! Keys are opaque: any character, up to 512 bytes, never a path.

use entity_runtime::entity::Entity;
use entity_runtime::{AskError, Refusal};
use entity_runtime_tests::running::{Counts, Ledger, Note, builder, small_limits};
use proptest::prelude::*;
use std::{collections::BTreeSet, path::Path};

fn keys() -> impl Strategy<Value = Vec<String>> {
    // Every plane, and what file systems, shells and SQL trip over.
    let nasty = prop::sample::select(vec![
        "/",
        "..",
        ".",
        "\0",
        "\n",
        "\r",
        "'",
        "\"",
        "\\",
        ";",
        "--",
        "%00",
        "\u{feff}",
        "\u{202e}",
        "\u{10ffff}",
    ]);
    let part = prop_oneof![nasty.prop_map(str::to_owned), any::<char>().prop_map(String::from)];
    let key = prop::collection::vec(part, 0..40).prop_map(|parts| {
        let mut key: String = parts.concat();
        while key.len() > 512 {
            key.pop();
        }
        key
    });
    prop::collection::vec(key, 1..40)
}

fn files(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_key_comes_back_after_a_restart_and_names_no_file() {
    let place = tempfile::tempdir().unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() };
    let case = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let ran = runner.run(&keys(), |mut keys| {
        case.set(case.get() + 1);
        let data = place.path().join(format!("data-{}", case.get()));
        let outside = {
            let mut outside = files(place.path());
            outside.insert(format!("data-{}", case.get()));
            outside
        };
        keys.push("k".repeat(512));
        keys.push("../../etc/passwd".to_owned());
        keys.push("\u{10ffff}".repeat(128));
        let keys: BTreeSet<String> = keys.into_iter().collect();
        tokio.block_on(async {
            let runtime = builder(&data, small_limits()).start().await.unwrap();
            let client = runtime.client();
            for (number, key) in keys.iter().enumerate() {
                client.ask(Ledger::at(key), Note { number: number as u64, mirror: None }).await.unwrap();
            }
            runtime.shutdown().await;
            let runtime = builder(&data, small_limits()).start().await.unwrap();
            let client = runtime.client();
            for (number, key) in keys.iter().enumerate() {
                let counts = client.ask(Ledger::at(key), Counts).await.unwrap();
                assert_eq!(counts, [(number as u64, 1)].into(), "{key:?}");
            }
            runtime.shutdown().await;
        });
        let allowed = |name: &String| {
            name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)) && !name.contains("passwd")
        };
        prop_assert!(files(&data).iter().all(allowed), "{:?}", files(&data));
        prop_assert_eq!(files(place.path()), outside);
        Ok(())
    });
    ran.unwrap();
}

#[tokio::test]
async fn a_key_too_long_is_refused_with_both_lengths() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let refused = runtime.client().ask(Ledger::at("k".repeat(513)), Counts).await.unwrap_err();
    assert!(matches!(refused, AskError::Refused(Refusal::TooLarge { len: 513, max: 512, .. })), "{refused}");
    runtime.shutdown().await;
}
