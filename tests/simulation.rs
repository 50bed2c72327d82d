//! Thousands of seeds: no promise is broken in any of them, and no fault was only talked about.

use entity_runtime::sim::Seen;
use entity_runtime_tests::world::{self, Report, Scale};
use std::{
    cell::Cell,
    panic,
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// What cannot happen where no shard moves,
const BY_MOVES: [&str; 2] = ["shards_moved", "views_changed"];
/// where no node comes or goes,
const BY_STORMS: [&str; 9] = [
    "nodes_joined",
    "nodes_joined_under_load",
    "nodes_returned",
    "nodes_left",
    "crashes_joining",
    "crashes_leaving",
    "paused_missed",
    "strangers_refused",
    "frames_unconnected",
];
/// where no store is shared,
const BY_SERVERS: [&str; 11] = [
    "servers_stalled",
    "servers_away",
    "servers_promoted",
    "servers_refused",
    "done_in_pause",
    "shards_taken",
    "taken_from_dead",
    "shards_given",
    "seals_voided",
    "shards_lost",
    "nodes_shut_out",
];
/// Where it is, there is no disk and no room to run out of,
const OF_A_DISK: [&str; 9] = [
    "crashes_in_recovery",
    "commits_fatal",
    "room_refused_log",
    "room_refused_disk",
    "writes_lost",
    "writes_torn",
    "syncs_failed",
    "waits_for_log",
    "storage_full",
];
/// and no view but that of the leases.
const BY_VIEWS: [&str; 8] = [
    "views_changed",
    "nodes_joined",
    "nodes_joined_under_load",
    "crashes_joining",
    "crashes_leaving",
    "paused_missed",
    "strangers_refused",
    "frames_unconnected",
];
/// What cannot happen where there is one node.
const BETWEEN_NODES: [&str; 11] = [
    "cuts_one_way",
    "links_cut",
    "frames_cut",
    "frames_lost",
    "frames_doubled",
    "frames_late",
    "frames_out_of_order",
    "streamed_across",
    "unrouted",
    "requests_forwarded",
    "asked_elsewhere",
];

fn seeds_to_run(default: u64) -> u64 {
    std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(default)
}

thread_local! {
    /// Whether panics of this thread are told by nobody.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs one seed, or says why it failed. Handlers panic on purpose in most seeds, so panics of this thread are not told;
/// those of the tests beside this one are.
fn run(seed: u64, scale: Scale) -> Result<Report, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                tell(panic);
            }
        }));
    });
    QUIET.set(true);
    let ran = panic::catch_unwind(|| world::run(seed, scale, false));
    QUIET.set(false);
    ran.map_err(|panic| text(panic.as_ref()))
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

/// Runs so many seeds and returns what never happened in any. The first of those that failed are told.
fn run_all(count: u64, scale: Scale) -> Vec<&'static str> {
    let (next, broken, all) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(Seen::default()));
    let workers = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if count <= seed {
                        break;
                    }
                    match run(seed, scale) {
                        Ok(report) => *all.lock().unwrap() += report.seen,
                        Err(why) => broken.lock().unwrap().push((seed, why)),
                    }
                }
            });
        }
    });
    let (mut failures, seen) = (broken.into_inner().unwrap(), all.into_inner().unwrap());
    failures.sort();
    for (name, count) in seen.list() {
        println!("{name:>22} {count}");
    }
    let again = match scale {
        Scale::OneNode => "make simulate SEED=",
        Scale::Cluster => "make simulate CLUSTER=yes SEED=",
        Scale::Moving => "make simulate MOVING=yes SEED=",
        Scale::Storm => "make simulate STORM=yes SEED=",
        Scale::Shared => "make simulate SHARED=yes SEED=",
    };
    let lines: Vec<String> = failures
        .iter()
        .take(20)
        .map(|(seed, text)| format!("{again}{seed}    # {}", text.lines().next().unwrap_or("")))
        .collect();
    assert!(failures.is_empty(), "{} of {count} seeds failed:\n{}", failures.len(), lines.join("\n"));
    seen.list().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
}

#[test]
fn no_seed_breaks_a_promise_and_every_fault_is_seen() {
    let unseen = run_all(seeds_to_run(5_000), Scale::OneNode);
    assert_eq!(unseen, [&BY_MOVES[..], &BY_STORMS, &BETWEEN_NODES, &BY_SERVERS].concat());
}

#[test]
fn no_seed_breaks_a_promise_of_a_cluster() {
    let unseen = run_all(seeds_to_run(5_000), Scale::Cluster);
    assert_eq!(unseen, [&BY_MOVES[..], &BY_STORMS, &BY_SERVERS].concat());
}

#[test]
fn no_seed_breaks_a_promise_while_shards_move() {
    let unseen = run_all(seeds_to_run(2_000), Scale::Moving);
    assert_eq!(unseen, [&["commits_fenced"][..], &BY_STORMS, &BY_SERVERS].concat());
}

#[test]
fn no_seed_breaks_a_promise_in_a_storm() {
    let unseen = run_all(seeds_to_run(500), Scale::Storm);
    assert_eq!(unseen, [&["commits_fenced"][..], &BY_SERVERS].concat());
}

#[test]
fn no_seed_breaks_a_promise_of_nodes_that_share_a_store() {
    let unseen = run_all(seeds_to_run(5_000), Scale::Shared);
    assert_eq!(unseen, [&OF_A_DISK[..], &BY_VIEWS].concat());
}

#[test]
fn the_same_seed_gives_the_same_hash() {
    for scale in [Scale::OneNode, Scale::Cluster, Scale::Moving, Scale::Storm, Scale::Shared] {
        for seed in [3, 1_000_003, u64::MAX] {
            let (first, second) = (run(seed, scale).unwrap(), run(seed, scale).unwrap());
            assert_eq!(first.hash, second.hash, "seed {seed} gave two runs");
            assert_eq!(first.seen, second.seen);
        }
        assert_ne!(run(3, scale).unwrap().hash, run(4, scale).unwrap().hash);
    }
}
