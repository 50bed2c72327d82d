//! Ten times more work than there is room for: refused and counted, never dropped in silence, never held.

use entity_runtime::entity::Entity;
use entity_runtime::{AskError, Refusal, error::Bound, limits::Limits};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, named, with},
    entities::{Account, Books, Fund, Phoenix, Poison, Touch},
    running::{Counts, Ledger, Note, builder, small_limits},
};
use std::{collections::BTreeMap, time::Duration};

const TASKS: u64 = 400;
const EACH: u64 = 25;

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_refused_and_counted_and_every_accepted_ask_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let mut limits = small_limits();
    limits.intake_bytes_max = 4 << 10;
    limits.mailbox_len_max = 8;
    limits.activation_bytes_max = 64 << 10;
    limits.replies_max = 200;
    let memory_max = limits.activation_bytes_max;
    let runtime = builder(directory.path(), limits).start().await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let client = runtime.client();
        tasks.spawn(async move {
            let (mut noted, mut refused) = (Vec::new(), 0_u64);
            for n in 0..EACH {
                let number = task * EACH + n;
                let ledger = Ledger::at(format!("l{}", number % 50));
                match client.ask(ledger, Note { number, mirror: None }).await {
                    Ok(_) => noted.push(number),
                    Err(AskError::Refused(Refusal::Busy(_))) => refused += 1,
                    Err(other) => panic!("neither done nor refused: {other}"),
                }
            }
            (noted, refused)
        });
    }
    let (mut noted, mut refused) = (Vec::new(), 0);
    while let Some(task) = tasks.join_next().await {
        let (some, few) = task.unwrap();
        noted.extend(some);
        refused += few;
        // One message more than the bound, and one activation for each worker.
        let (_, bytes) = runtime.activations();
        assert!(bytes < 2 * memory_max + (64 << 10), "{bytes} bytes of activations");
    }
    assert!(refused > 0, "nothing was refused: this is no overload");
    runtime.quiesce().await;
    let counters = runtime.counters();
    assert_eq!(counters.refused, refused);
    assert_eq!((counters.applied, counters.in_flight), (noted.len() as u64, 0));
    assert!(counters.balance());

    // It recovers: what was refused can be sent again.
    let client = runtime.client();
    let mut there = BTreeMap::new();
    for n in 0..50 {
        let counts = loop {
            match client.ask(Ledger::at(format!("l{n}")), Counts).await {
                Err(AskError::Refused(Refusal::Busy(Bound::Memory))) => tokio::task::yield_now().await,
                counts => break counts.unwrap(),
            }
        };
        there.extend(counts);
    }
    noted.sort_unstable();
    assert_eq!(there, noted.iter().map(|number| (*number, 1)).collect());
    runtime.shutdown().await;
}

#[test]
fn short_memory_lets_go_of_no_more_than_it_must() {
    let mut limits = Limits::default();
    limits.activation_bytes_max = 256 << 10;
    let (max, mark) = (limits.activation_bytes_max, limits.activation_bytes_max * 7 / 8);
    let mut driven = Driven::new(with::<Account>(kinds()), limits, 1, 1, 1);
    let mut number = 0;
    while driven.kernels[0].activations().1 < mark {
        number += 1;
        let fund = Fund { cents: 1 };
        driven.request(1, number, envelope::<Account, _>(&format!("a{number}"), &fund), true);
        driven.settle();
    }
    driven.checkpoint();
    // All are idle, but for less than it takes to be let go of for that alone.
    driven.pass(Duration::from_secs(2));
    let (_, bytes) = driven.kernels[0].activations();
    assert!(bytes < mark && max * 3 / 4 < bytes, "{bytes} of {max} bytes are left");
}

#[test]
fn replies_that_wait_for_a_lane_are_bounded() {
    let mut limits = Limits::default();
    limits.batch_len = 10;
    limits.undurable_bytes_max = 100;
    let mut driven = Driven::new(with::<Account>(kinds()), limits, 1, 1, 1);
    for _ in 0..1_000 {
        driven.query(named::<Books>(Account::KIND, "a", &Books));
    }
    // Nothing is durable meanwhile, also not the empty batches that only queries ride on.
    for _ in 0..100 {
        driven.run();
    }
    let waiting: usize = driven.pending.iter().map(|(_, submission)| submission.outputs.len()).sum();
    assert!((10..200).contains(&waiting), "{waiting} replies wait");
    driven.settle();
    assert_eq!(driven.told.len(), 1_000);
}

#[test]
fn messages_that_wait_for_a_stuck_entity_count_as_taken_in() {
    let mut limits = Limits::default();
    limits.intake_bytes_max = 4_000;
    limits.failing_for_max = Duration::from_mins(10);
    let mut driven = Driven::new(with::<Phoenix>(kinds()), limits, 1, 1, 1);
    driven.request(1, 1, envelope::<Phoenix, _>("p", &Poison { number: 1 }), true);
    for number in 2..=100 {
        let touch = Touch { life: 0, remind_millis: 0 };
        driven.request(1, number, envelope::<Phoenix, _>("p", &touch), true);
    }
    driven.settle();
    assert!(driven.kernels[0].intake_bytes() > 100 * 50, "{}", driven.kernels[0].intake_bytes());
}
