//! The store's upkeep beside the hot path.

use super::{Shared, unreadable};
use crate::store::{LaneId, NoRoom};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How often upkeep is looked at.
const EVERY: Duration = Duration::from_millis(20);
/// How often a full disk is tried again: each try writes until the disk is full.
const FULL_EVERY: Duration = Duration::from_millis(250);

/// Starts the maintainer.
pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    super::thread(shared, "entity-maintainer".into(), |shared| {
        let mut full_since = None;
        // Until the end, not until the stop: what is drained may need room that only upkeep makes.
        while !shared.ended.load(Ordering::SeqCst) && shared.failure().is_none() {
            std::thread::sleep(EVERY);
            if full_since.is_some_and(|since: Instant| since.elapsed() < FULL_EVERY) {
                continue;
            }
            let wanted = shared.want_loadable.swap(false, Ordering::AcqRel);
            if wanted || shared.store.wants_maintenance() {
                if let Err(error) = shared.store.maintain() {
                    shared.fail(unreadable(&error));
                    return;
                }
                full_since = is_full(shared).then(Instant::now);
            }
        }
    })
}

fn is_full(shared: &Shared) -> bool {
    let lane = LaneId(0);
    let room = shared.store.reserve(lane, 1);
    if room.is_ok() {
        shared.store.release(lane, 1);
    }
    room == Err(NoRoom::DiskFull)
}
