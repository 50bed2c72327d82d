//! Lanes as the node's writers see them: a few for each server, opened when they are first used.

use super::{
    connect::Purpose,
    lane::{PATIENCE, PostgresLane},
    outcome::LaneError,
    session::{Connected, Dial, Drive},
    site::Common,
    watch::Watched,
};
use crate::{
    placement::{Epoch, ShardId},
    store::{Batch, CommitError, Lane, LaneId, NoRoom, Position},
};
use std::{
    future::Future,
    io,
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// How far each lane is, for those who do not use it.
#[derive(Debug)]
pub(super) struct Gauges {
    per_server: u32,
    lanes: Vec<Gauge>,
}

#[derive(Debug, Default)]
struct Gauge {
    taken: AtomicBool,
    durable: AtomicU64,
    /// Its last attempt found the server's disk full. Its writer tries again, and so finds out when it is not any more.
    full: AtomicBool,
}

impl Gauges {
    pub(super) fn new(servers: u32, per_server: u32) -> Self {
        Self { per_server, lanes: (0..servers * per_server).map(|_| Gauge::default()).collect() }
    }

    pub(super) fn lanes(&self) -> u32 {
        self.lanes.len() as u32
    }

    /// The lane of a shard on a server.
    pub(super) fn lane_of(&self, shard: ShardId, server: u32) -> LaneId {
        LaneId(server * self.per_server + shard.0 % self.per_server)
    }

    /// Takes a lane, and returns the server it goes to.
    ///
    /// # Panics
    /// It was taken before.
    pub(super) fn take(&self, lane: LaneId) -> u32 {
        let taken = self.gauge(lane).taken.swap(true, Ordering::Relaxed);
        assert!(!taken, "a lane is taken once");
        lane.0 / self.per_server
    }

    pub(super) fn durable(&self, lane: LaneId) -> Position {
        Position(self.gauge(lane).durable.load(Ordering::Acquire))
    }

    /// Whether there is room for a batch, as far as the lanes of the same server have found.
    pub(super) fn room(&self, lane: LaneId) -> Result<(), NoRoom> {
        let first = lane.0 / self.per_server * self.per_server;
        let lanes: Range<usize> = first as usize..(first + self.per_server) as usize;
        let is_full = self.lanes[lanes].iter().any(|gauge| gauge.full.load(Ordering::Relaxed));
        if is_full { Err(NoRoom::DiskFull) } else { Ok(()) }
    }

    fn gauge(&self, lane: LaneId) -> &Gauge {
        &self.lanes[lane.0 as usize]
    }
}

/// A lane of one run of a node.
pub(super) struct SharedLane {
    common: Arc<Common>,
    watched: Arc<Watched>,
    lane: LaneId,
    /// The generation of the server that this lane's batches are built on. Zero: it was never reached.
    generation: Arc<AtomicU64>,
    /// Made with the first commit, on the thread that uses it.
    engine: Option<PostgresLane>,
}

impl SharedLane {
    pub(super) fn new(common: Arc<Common>, watched: Arc<Watched>, lane: LaneId) -> Self {
        let generation = Arc::new(AtomicU64::new(watched.generation()));
        Self { common, watched, lane, generation, engine: None }
    }

    fn engine(&mut self) -> io::Result<&mut PostgresLane> {
        if self.engine.is_none() {
            let dial =
                WatchedDial { watched: Arc::clone(&self.watched), generation: Arc::clone(&self.generation) };
            let incarnation = self.common.run.incarnation;
            self.engine = Some(PostgresLane::new(Box::new(dial), incarnation, self.lane.0, PATIENCE)?);
        }
        Ok(self.engine.as_mut().expect("just made"))
    }

    /// Whether the server is another than the one that what is to be committed was built on. Said once, and then forgotten.
    fn has_changed(&mut self) -> bool {
        let (of, now) = (self.generation.load(Ordering::Relaxed), self.watched.generation());
        // One that was never reached is met for the first time as the first that the store has seen.
        if of == now || of == 0 && now <= 1 {
            return false;
        }
        self.generation.store(now, Ordering::Relaxed);
        if let Some(engine) = &mut self.engine {
            engine.forget();
        }
        true
    }

    fn committed(&self, group: &[Batch], position: u64) -> Position {
        self.common.mirror().committed(self.generation.load(Ordering::Relaxed), group);
        self.common.gauges.gauge(self.lane).durable.store(position, Ordering::Release);
        Position(position)
    }
}

impl Lane for SharedLane {
    fn commit(&mut self, group: &[Batch]) -> Result<Position, CommitError> {
        self.commit_and_confirm(group, &[])
    }

    fn commit_and_confirm(
        &mut self,
        group: &[Batch],
        shown: &[(ShardId, Epoch)],
    ) -> Result<Position, CommitError> {
        // Before, for batches built on what was read from the server of before; and behind it, for what that one has
        // acknowledged is not there any more.
        if self.has_changed() {
            return Err(changed());
        }
        let result = self.engine().map_err(LaneError::Later).and_then(|lane| lane.commit(group, shown));
        let is_full =
            matches!(&result, Err(LaneError::Later(error)) if error.kind() == io::ErrorKind::StorageFull);
        self.common.gauges.gauge(self.lane).full.store(is_full, Ordering::Relaxed);
        if self.has_changed() {
            return Err(changed());
        }
        match result {
            Ok(position) => Ok(self.committed(group, position)),
            Err(error) => {
                if matches!(error, LaneError::WentBack { .. }) {
                    self.common.mirror().went_back();
                }
                Err(error.into())
            }
        }
    }

    fn quiet(&mut self) -> Result<(), CommitError> {
        Ok(())
    }
}

fn changed() -> CommitError {
    CommitError::Failed(io::Error::other("the server is another than before, and may have lost commits"))
}

/// Connects a lane to a server, as long as that is the one its batches are built on.
struct WatchedDial {
    watched: Arc<Watched>,
    generation: Arc<AtomicU64>,
}

impl Dial for WatchedDial {
    fn dial(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Connected>> + Send + '_>> {
        Box::pin(async {
            let (link, generation) = self.watched.connect(Purpose::Lane).await.map_err(io::Error::other)?;
            match self.generation.load(Ordering::Relaxed) {
                // Of a later one shards may have been read, from the one before it.
                0 if generation <= 1 => self.generation.store(generation, Ordering::Relaxed),
                of if of == generation => {}
                _ => return Err(io::Error::other("the server is another than before")),
            }
            Ok((link.client, Box::new(link.driver) as Box<dyn Drive>))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_refuses_batches_of_its_server_until_the_lane_that_met_it_gets_on() {
        let gauges = Gauges::new(3, 2);
        let set = |lane: u32, is_full| gauges.gauge(LaneId(lane)).full.store(is_full, Ordering::Relaxed);
        set(3, true);
        let refused: Vec<_> =
            (0..gauges.lanes()).filter(|lane| gauges.room(LaneId(*lane)).is_err()).collect();
        assert_eq!(refused, [2, 3]);
        set(3, false);
        assert_eq!(gauges.room(LaneId(2)), Ok(()));
    }

    #[test]
    fn lanes_of_a_server_stand_together_and_a_shard_is_in_one_of_them() {
        let gauges = Gauges::new(3, 4);
        assert_eq!(gauges.lane_of(ShardId(6), 0), LaneId(2));
        assert_eq!(gauges.lane_of(ShardId(6), 2), LaneId(10));
        assert_eq!(gauges.take(LaneId(10)), 2);
    }

    #[test]
    #[should_panic(expected = "a lane is taken once")]
    fn a_lane_is_taken_once() {
        let gauges = Gauges::new(1, 1);
        gauges.take(LaneId(0));
        gauges.take(LaneId(0));
    }
}
