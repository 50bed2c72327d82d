//! The slow clock of the ports, and the end of a turn that never ends (P3).
//!
//! A handler that loops forever holds its worker and every shard of it, and no code of ours runs there any more. So
//! another thread looks, and ends the process: recovery then runs the suspects carefully (`suspects.rs`).

use super::Shared;
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(20);

/// What was seen of one worker.
#[derive(Clone, Copy, Default)]
struct Seen {
    running: Option<u64>,
    /// How long the same turn has been seen.
    seen_for: Duration,
}

/// Starts the watchdog.
pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    super::thread(shared, "entity-watchdog".into(), |shared| {
        let mut seen = vec![Seen::default(); shared.gauges.len()];
        let mut looked_at = Instant::now();
        while !shared.ended.load(Ordering::SeqCst) {
            std::thread::sleep(EVERY);
            shared.ports.tick();
            // Time in which this thread did not run counts once: a process that was stopped for an hour is no stuck turn.
            let passed = looked_at.elapsed().min(2 * EVERY);
            looked_at = Instant::now();
            for (gauge, seen) in shared.gauges.iter().zip(&mut seen) {
                let running = gauge.running();
                if running.is_none() || running != seen.running {
                    *seen = Seen { running, seen_for: Duration::ZERO };
                    continue;
                }
                seen.seen_for += passed;
                if seen.seen_for < shared.limits.turn_deadline {
                    continue;
                }
                let name = gauge.name();
                if gauge.running() == running {
                    give_up(&name, shared.limits.turn_deadline);
                }
            }
        }
    })
}

/// The state of a worker whose turn does not end is of no use to anyone: the store has what was acknowledged.
fn give_up(name: &str, deadline: Duration) {
    tracing::error!(name, ?deadline, "a turn did not end in time; the process is aborted");
    // Without a subscriber nobody would learn why the process died.
    eprintln!("entity-runtime: the turn of {name} did not end within {deadline:?}; the process is aborted");
    std::process::abort();
}
