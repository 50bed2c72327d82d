//! The machine's clock, read here and passed in everywhere else.

use crate::timestamp::Timestamp;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reads the time. It follows the monotonic clock from the wall clock at its start, so it never runs backwards and a
/// machine whose clock is set while it runs is not noticed before the next start.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Timestamp,
    since: Instant,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { started: Timestamp::EPOCH + wall, since: Instant::now() }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.started + self.since.elapsed()
    }
}

/// Random bytes for identities and seeds.
///
/// # Errors
/// The operating system has none to give.
pub fn random_u128() -> std::io::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(u128::from_le_bytes(bytes))
}
