//! A message that ends the process is given up after three crashes, and everyone else goes on.

use entity_runtime::{AskError, entity::Entity};
use entity_runtime_tests::running::{Deed, Do, Killer, Lived, builder, id, now, small_limits};
use std::process::{Command, Output};

/// Restarts the process until it lives. Returns how often it died, and how it ended.
fn live(directory: &std::path::Path, issued: &str, deed: &str) -> (usize, Vec<Output>) {
    let mut deaths = Vec::new();
    loop {
        let victim = Command::new(env!("CARGO_BIN_EXE_victim"))
            .arg("deed")
            .arg(directory)
            .args([issued, deed])
            .output()
            .unwrap();
        let lived = victim.status.success();
        deaths.push(victim);
        if lived {
            return (deaths.len() - 1, deaths);
        }
        assert!(deaths.len() < 10, "it dies for ever: {:?}", deaths.last());
    }
}

#[test]
fn a_message_whose_state_ends_the_process_when_it_is_read_is_dead_lettered_too() {
    let directory = tempfile::tempdir().unwrap();
    let (deaths, outputs) = live(directory.path(), &now().as_micros().to_string(), "curse");
    assert_eq!(deaths, 4, "{outputs:?}");
    let said = String::from_utf8_lossy(&outputs[4].stdout).into_owned();
    assert!(said.contains("neighbour 1\n") && said.contains("ended 3 times in a row"), "{said}");
}

#[tokio::test]
async fn a_message_that_ends_the_process_is_dead_lettered_after_three_crashes() {
    for deed in ["abort", "overflow", "loop"] {
        let directory = tempfile::tempdir().unwrap();
        let issued = now();
        let (deaths, outputs) = live(directory.path(), &issued.as_micros().to_string(), deed);
        // The first crash is in a run that suspects nobody; then three of which each is written down.
        assert_eq!(deaths, 4, "{deed}: {outputs:?}");
        let said = String::from_utf8_lossy(&outputs[4].stdout).into_owned();
        assert!(said.contains("neighbour 1\n") && said.contains("dead-lettered"), "{deed}: {said}");
        assert!(said.contains("ended 3 times in a row") && said.contains("after 1\n"), "{deed}: {said}");
        if deed == "loop" {
            let complaint = String::from_utf8_lossy(&outputs[0].stderr).into_owned();
            assert!(complaint.contains("message `do` to killer \"poisoned\" from client"), "{complaint}");
        }

        let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
        let client = runtime.client();
        let abort = Do { deed: Deed::Abort };
        if deed == "abort" {
            let again = client.ask(Killer::at("poisoned"), abort).with_id(id(9, 1, issued)).await;
            assert!(
                matches!(&again, Err(AskError::DeadLettered(why)) if why.contains("3 times")),
                "{again:?}"
            );
        }
        for key in ["neighbour", "poisoned"] {
            assert_eq!(client.ask(Killer::at(key), Lived).await, Ok(1), "{deed}: {key}");
        }
        assert!(!directory.path().join("suspects").exists(), "a clean end clears everyone");
        runtime.shutdown().await;
    }
}
