//! The machine's clock, read here and passed in everywhere else.

use crate::timestamp::Timestamp;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads the time. It follows the monotonic clock from the wall clock at its start, so it never runs backwards and a
/// machine whose clock is set while it runs is not noticed before the next start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Timestamp,
    since: Instant,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    pub(crate) fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { started: Timestamp::EPOCH + wall, since: Instant::now() }
    }

    /// The time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.started + self.since.elapsed()
    }
}

/// A random number for identities and seeds.
///
/// # Panics
/// The operating system has no randomness to give: identities would repeat, so nothing may go on.
pub(crate) fn random_u128() -> u128 {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    u128::from_le_bytes(bytes)
}
