//! Looking again for a moment before a thread sleeps.
//!
//! Waking a sleeping core costs more than most waits of a busy node: tens of microseconds on a virtual machine, three
//! times on the way of one ask. So a thread that was woken soon after it had gone to sleep looks again for a moment
//! first, next time; one that slept long does not, and an idle node burns nothing.

use std::time::{Duration, Instant};

/// How long a thread looks before it sleeps.
const LOOK: Duration = Duration::from_micros(200);

/// Whether looking has paid lately.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    pays: bool,
    slept_at: Option<Instant>,
}

impl Patience {
    /// Looks until `is_there`, giving way to other threads between two looks. False: sleep now.
    pub(crate) fn look(&mut self, is_there: impl Fn() -> bool) -> bool {
        let since = Instant::now();
        while self.pays {
            if is_there() {
                return true;
            }
            self.pays = since.elapsed() < LOOK;
            std::thread::yield_now();
        }
        self.slept_at = Some(since);
        is_there()
    }

    /// Something came after [`Patience::look`] had given up.
    pub(crate) fn woken(&mut self) {
        if let Some(slept_at) = self.slept_at.take() {
            self.pays = slept_at.elapsed() < LOOK;
        }
    }
}
