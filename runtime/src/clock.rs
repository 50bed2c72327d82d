//! The machine's clock, read here and passed in everywhere else.

use crate::timestamp::Timestamp;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Reads the time. It follows the monotonic clock from the wall clock at its start, so it never runs backwards and a
/// machine whose clock is set while it runs is not noticed before the next start. The clones are one clock.
///
/// At a start the wall clock may be behind what the store has seen. The shards then raise this clock, and it runs on from
/// there: no faster, so that nobody waits for the wall clock to catch up, and no slower, so that time-outs stay what they
/// are. It is raised to the horizon of the stored replies and not to the time at which that was set: what lies between is
/// the retention as it was then, and with a longer one configured now the clock would be put into the future.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    started: Timestamp,
    since: Instant,
    /// Microseconds it was raised.
    raised: Arc<AtomicU64>,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    pub(crate) fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { started: Timestamp::EPOCH + wall, since: Instant::now(), raised: Arc::default() }
    }

    /// The time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.unraised() + Duration::from_micros(self.raised.load(Ordering::Relaxed))
    }

    fn unraised(&self) -> Timestamp {
        self.started + self.since.elapsed()
    }

    /// From now on it is at least so late.
    pub(crate) fn raise(&self, least: Timestamp) {
        let by = least.since(self.unraised()).as_micros();
        // The largest of what several workers ask for, not their sum.
        let before = self.raised.fetch_max(u64::try_from(by).unwrap_or(u64::MAX), Ordering::Relaxed);
        if u128::from(before) < by {
            tracing::warn!(%least, "the machine's clock is behind what the store has seen; time goes on from there");
        }
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
