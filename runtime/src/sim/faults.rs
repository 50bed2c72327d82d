//! Which faults a simulation meets, and how often.

use super::random::Random;

/// The classes of faults. A run meets a random subset, so that they also meet one another alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultClass {
    /// The node stops at any step and starts again; on a simulated disk, what was not synced is lost in part.
    Crash,
    /// A crash in the midst of an operation of the disk, or of the recovery.
    CrashInDisk,
    /// A commit fails and changes nothing.
    CommitFailed,
    /// It is not known whether a commit was done.
    CommitUnknown,
    /// Another owner took a shard and gave it back.
    Fenced,
    /// A commit stops its node.
    CommitFatal,
    /// A lane hangs for a while.
    LaneHung,
    /// The store grants no room for a while.
    NoRoom,
    /// The clock jumps, forward or back.
    Clock,
    /// Messages and receipts inside the node are lost, doubled and late.
    Transit,
    /// Commits take long for a while.
    Slow,
}

impl FaultClass {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Crash,
        Self::CrashInDisk,
        Self::CommitFailed,
        Self::CommitUnknown,
        Self::Fenced,
        Self::CommitFatal,
        Self::LaneHung,
        Self::NoRoom,
        Self::Clock,
        Self::Transit,
        Self::Slow,
    ];
}

/// Which faults a simulation meets, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    pub(super) classes: Vec<FaultClass>,
    /// Mean pause between two faults, in microseconds.
    pub(super) pause: u64,
    /// Of a thousand messages inside the node, how many are lost, and how many doubled.
    pub(super) transit: u64,
}

impl Faults {
    /// None at all.
    pub fn none() -> Self {
        Self { classes: Vec::new(), pause: 1_000_000, transit: 0 }
    }

    /// These classes, once in `pause_millis` on the average.
    pub fn of(classes: &[FaultClass], pause_millis: u64) -> Self {
        let transit = if classes.contains(&FaultClass::Transit) { 20 } else { 0 };
        Self { classes: classes.to_vec(), pause: pause_millis * 1_000, transit }
    }

    /// What a seed picks: each class in a third of the runs, once in 50 ms to 2 s.
    pub fn by_seed(random: &mut Random) -> Self {
        let classes: Vec<_> = FaultClass::ALL.into_iter().filter(|_| random.chance(350)).collect();
        let pause = random.pick(&[50, 150, 500, 2_000]);
        Self::of(&classes, pause)
    }
}
