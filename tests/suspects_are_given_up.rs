//! A message that ends the process is given up after three crashes, and everyone else goes on.

use entity_runtime::{AskError, entity::Entity, limits::Limits};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, with},
    entities::{Account, Clock, Fund, Phoenix, Poison, Set, Transfer},
    running::{Deed, Do, Killer, Lived, builder, id, now, small_limits},
};
use std::{
    process::{Command, Output},
    time::Duration,
};

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

/// A message that lies in the store: in an outbox, in a waiting queue, as a due reminder.
fn pending(what: &str) -> Driven {
    let all = with::<Clock>(with::<Phoenix>(with::<Account>(kinds())));
    let mut driven = Driven::new(all, Limits::default(), 2, 1, 1);
    match what {
        "outbox" => {
            let (from, to) = (driven.key_in(Account::KIND, 0, 0), driven.key_in(Account::KIND, 1, 0));
            driven.request(1, 1, envelope::<Account, _>(&from, &Fund { cents: 10 }), true);
            driven.held_hands = Some(Vec::new());
            driven.request(1, 2, envelope::<Account, _>(&from, &Transfer { to, cents: 7 }), true);
        }
        "waiting queue" => {
            driven.request(1, 1, envelope::<Phoenix, _>("p", &Poison { number: 1 }), false);
            for _ in 0..20 {
                driven.pass(Duration::from_millis(100));
            }
            assert_eq!(driven.kernels[0].counters().waiting, 1);
        }
        _ => {
            driven.request(1, 1, envelope::<Clock, _>("c", &Set { number: 1, millis: 5 }), true);
        }
    }
    driven.settle();
    driven
}

#[test]
fn what_was_pending_in_the_store_is_named_before_it_runs_and_can_be_given_up() {
    for what in ["outbox", "waiting queue", "reminder"] {
        let mut driven = pending(what);
        driven.careful = true;
        // It runs, and the process ends before the commit: named the same each time.
        for _ in 0..3 {
            driven.restart();
            driven.held_hands = None;
            driven.wait(Duration::from_secs(1));
            driven.tick();
            // Its stream is opened, then through the door, the load of its entity, and its turn.
            let named = driven.suspects.len();
            for _ in 0..20 {
                driven.run();
                if named < driven.suspects.len() {
                    break;
                }
                while !driven.pending.is_empty() {
                    driven.commit();
                }
            }
        }
        let first = driven.suspects[0];
        assert_eq!(driven.suspects.iter().filter(|digest| **digest == first).count(), 3, "{what}");
        driven.condemned = Some(first);
        driven.restart();
        driven.pass(Duration::from_secs(1));
        let letters = driven.dead_letters();
        assert_eq!((letters.len(), letters[0].reason.as_str()), (1, "it is a suspect"), "{what}");
        driven.pass(Duration::from_secs(10));
        assert!(driven.kernels[0].is_quiet(), "{what}: {}", driven.kernels[0].unrest());
    }
}
