//! The store's upkeep beside the hot path, and the slow clock of the ports.

use super::{Shared, unreadable};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

/// How often upkeep is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// Starts the maintainer.
pub(super) fn spawn(shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("entity-maintainer".into()).spawn(move || {
        while !shared.stopping.load(Ordering::SeqCst) {
            std::thread::sleep(EVERY);
            shared.ports.tick();
            let wanted = shared.want_loadable.swap(false, Ordering::AcqRel);
            if (wanted || shared.store.wants_maintenance())
                && let Err(error) = shared.store.maintain()
            {
                shared.fail(unreadable(&error));
                return;
            }
        }
    })
}
