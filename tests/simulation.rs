//! Thousands of seeds: no promise is broken in any of them, and no fault was only talked about.

use entity_runtime::sim::Seen;
use entity_runtime_tests::world;
use std::{
    panic,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

fn seeds_to_run() -> u64 {
    std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(5_000)
}

/// Handlers panic on purpose in most seeds; only what fails a seed is worth a word.
fn be_quiet_about_panics() {
    panic::set_hook(Box::new(|_| {}));
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

#[test]
fn no_seed_breaks_a_promise_and_every_fault_is_seen() {
    be_quiet_about_panics();
    let (next, broken, all) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(Seen::default()));
    let count = seeds_to_run();
    let workers = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if count <= seed {
                        break;
                    }
                    match panic::catch_unwind(|| world::run(seed, false)) {
                        Ok(report) => *all.lock().expect("no panic while it is held") += report.seen,
                        Err(panic) => {
                            let failure = (seed, text(panic.as_ref()));
                            broken.lock().expect("no panic while it is held").push(failure);
                        }
                    }
                }
            });
        }
    });
    // From here on a panic is this test's own.
    drop(panic::take_hook());
    let mut failures = broken.into_inner().expect("no panic while it was held");
    failures.sort();
    let seen = all.into_inner().expect("no panic while it was held");
    for (name, count) in seen.list() {
        println!("{name:>22} {count}");
    }
    let lines: Vec<String> = failures
        .iter()
        .take(20)
        .map(|(seed, text)| format!("make simulate SEED={seed}    # {}", text.lines().next().unwrap_or("")))
        .collect();
    assert!(failures.is_empty(), "{} of {count} seeds failed:\n{}", failures.len(), lines.join("\n"));
    let unseen: Vec<_> = seen.list().into_iter().filter(|(_, count)| *count == 0).collect();
    assert!(unseen.is_empty(), "never happened: {unseen:?}");
}

#[test]
fn the_same_seed_gives_the_same_hash() {
    be_quiet_about_panics();
    for seed in [3, 1_000_003, u64::MAX] {
        let (first, second) = (world::run(seed, false), world::run(seed, false));
        assert_eq!(first.hash, second.hash, "seed {seed} gave two runs");
        assert_eq!(first.seen, second.seen);
    }
    assert_ne!(world::run(3, false).hash, world::run(4, false).hash);
}
