//! The faults of a simulation: which it meets, how often, and what each does.

use super::{CLOCK_JUMP_MAX, Due, Moves, Sim, random::Random, storage::Storage};
use crate::{
    placement::ShardId,
    store::{LaneId, NoRoom},
};

/// The classes of faults. A run meets a random subset, so that they also meet one another alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultClass {
    /// A node stops at any step and starts again; on a simulated disk, what was not synced is lost in part.
    Crash,
    /// A crash in the midst of an operation of the disk, or of the recovery.
    CrashInDisk,
    /// A commit fails and changes nothing.
    CommitFailed,
    /// It is not known whether a commit was done.
    CommitUnknown,
    /// A commit and some loads cannot be done now, and are done later.
    Later,
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
    /// Messages and receipts, inside a node and between nodes, are lost, doubled and late.
    Transit,
    /// Commits take long for a while.
    Slow,
    /// A node does nothing for a while, and then goes on.
    Pause,
    /// Links between nodes are cut for a while, in one direction or in both.
    Cut,
    /// A node joins the view or leaves it, and its shards move. Where nodes find each other: several come and go at once.
    View,
    /// A server of a store that the nodes share stands still for a while, or does not answer.
    Server,
    /// A standby that lags becomes such a server: commits are lost, and with them what the entities must hold.
    Promotion,
}

impl FaultClass {
    /// All that a seed picks among; servers are struck where the nodes share them.
    pub const ALL: [Self; 15] = [
        Self::Crash,
        Self::CrashInDisk,
        Self::CommitFailed,
        Self::CommitUnknown,
        Self::Later,
        Self::Fenced,
        Self::CommitFatal,
        Self::LaneHung,
        Self::NoRoom,
        Self::Clock,
        Self::Transit,
        Self::Slow,
        Self::Pause,
        Self::Cut,
        Self::View,
    ];
}

/// Which faults a simulation meets, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    pub(super) classes: Vec<FaultClass>,
    /// Mean pause between two faults, in microseconds.
    pub(super) pause: u64,
    /// Of a thousand messages on their way, how many are lost, and how many doubled.
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

    /// One class more.
    pub(super) fn add(&mut self, class: FaultClass) {
        if !self.classes.contains(&class) {
            self.classes.push(class);
        }
    }

    /// What a seed picks: each class in a third of the runs, once in 50 ms to 2 s.
    pub fn by_seed(random: &mut Random) -> Self {
        let classes: Vec<_> = FaultClass::ALL.into_iter().filter(|_| random.chance(350)).collect();
        let pause = random.pick(&[50, 150, 500, 2_000]);
        Self::of(&classes, pause)
    }
}

impl Sim {
    pub(super) fn plan_fault(&mut self) {
        let pause = self.random.between(1, 2 * self.faults.pause);
        self.plan(pause, Due::Fault);
    }

    pub(super) fn fault(&mut self) {
        if self.healed {
            return;
        }
        let class = self.random.pick(&self.faults.classes.clone());
        let at = self.random.below(self.machines.len() as u64) as usize;
        self.trace.note(self.now, format_args!("n{at} fault {class:?}"));
        let lanes = self.machines[at].lanes();
        let lane = LaneId(self.random.below(u64::from(lanes)) as u32);
        let memory = match &self.machines[at].storage {
            Storage::Memory { faults, .. } => Some(faults.clone()),
            Storage::Embedded { .. } | Storage::Shared { .. } => None,
        };
        let disk = match &self.machines[at].storage {
            Storage::Embedded { disk, .. } => Some(disk.clone()),
            Storage::Memory { .. } | Storage::Shared { .. } => None,
        };
        let nth = self.random.between(1, 40);
        match (class, memory, disk) {
            (FaultClass::Crash, ..) => {
                let power = self.random.chance(700);
                self.kill(at, power);
            }
            (FaultClass::CrashInDisk, _, Some(disk)) => disk.crash_at(nth),
            (FaultClass::CommitFatal, _, Some(disk)) => disk.fail_sync_at(nth),
            (FaultClass::CommitFatal, Some(faults), _) => faults.die(lane),
            (FaultClass::CommitFailed, Some(faults), _) => faults.fail(lane),
            (FaultClass::CommitUnknown, Some(faults), _) => {
                let applied = self.random.chance(500);
                faults.unknown(lane, applied);
            }
            (FaultClass::Later, Some(faults), _) => {
                faults.later(lane);
                faults.refuse_loads(self.random.below(4) as u32);
            }
            // Where shards move, who took one is a node of the simulation.
            (FaultClass::Fenced, Some(faults), _) if self.moves == Moves::No => {
                let shard = ShardId(self.random.below(u64::from(self.layout.count())) as u32);
                faults.advance_epoch(shard);
            }
            (FaultClass::LaneHung, Some(faults), _) => {
                self.seen.lanes_hung += 1;
                faults.hang(lane);
                let pause = self.random.between(1_000, 1_500_000);
                self.plan(pause, Due::ReleaseRoom { at });
            }
            (FaultClass::NoRoom, Some(faults), _) => {
                let why = self.random.pick(&[NoRoom::LogTail, NoRoom::DiskFull]);
                faults.refuse_room(lane, Some(why));
                let pause = self.random.between(1_000, 1_000_000);
                self.plan(pause, Due::ReleaseRoom { at });
            }
            (FaultClass::NoRoom, _, Some(disk)) => {
                disk.set_capacity(Some(disk.used()));
                let pause = self.random.between(1_000, 1_000_000);
                self.plan(pause, Due::ReleaseDisk { at });
            }
            (FaultClass::Clock, ..) => {
                let ahead = self.random.below(CLOCK_JUMP_MAX / 4);
                let clock_ahead = &mut self.machines[at].clock_ahead;
                if self.random.chance(500) && *clock_ahead + ahead <= CLOCK_JUMP_MAX {
                    self.seen.clock_forward += 1;
                    *clock_ahead += ahead;
                } else {
                    self.seen.clock_back += 1;
                    *clock_ahead -= ahead.min(*clock_ahead);
                }
            }
            (FaultClass::Slow, ..) => {
                self.machines[at].slow_until = self.now + self.random.below(1_000_000);
            }
            (FaultClass::Pause, ..) => self.pause(at),
            (FaultClass::Cut, ..) => self.cut(at),
            (FaultClass::View, ..) => self.change_view(at),
            (FaultClass::Server, ..) => self.strike_server(),
            (FaultClass::Promotion, ..) => self.lag(),
            _ => self.strike_shared(at, class, lane),
        }
        self.plan_fault();
    }

    /// What befalls a run of a store that the nodes share.
    fn strike_shared(&mut self, at: usize, class: FaultClass, lane: LaneId) {
        let Storage::Shared { run: Some(run), .. } = &self.machines[at].storage else { return };
        match class {
            FaultClass::CommitFailed => run.fail(lane),
            FaultClass::CommitUnknown => run.unknown(lane, self.random.chance(500)),
            FaultClass::Later => {
                run.later(lane);
                run.refuse_loads(self.random.below(4) as u32);
            }
            FaultClass::LaneHung => {
                self.seen.lanes_hung += 1;
                run.hang(lane);
                let pause = self.random.between(1_000, 1_500_000);
                self.plan(pause, Due::ReleaseRoom { at });
            }
            _ => {}
        }
    }

    pub(super) fn release_room(&mut self, at: usize) {
        let machine = &self.machines[at];
        if let Storage::Shared { run: Some(run), .. } = &machine.storage {
            (0..machine.lanes()).for_each(|lane| run.end_hang(LaneId(lane)));
        }
        if let Storage::Memory { faults, .. } = &machine.storage {
            for lane in (0..machine.lanes()).map(LaneId) {
                faults.release(lane);
                faults.refuse_room(lane, None);
            }
        }
    }

    pub(super) fn release_disk(&mut self, at: usize) {
        if let Storage::Embedded { disk, .. } = &self.machines[at].storage {
            disk.set_capacity(None);
        }
    }
}
