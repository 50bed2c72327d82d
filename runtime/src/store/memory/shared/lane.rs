//! The writing end of a lane of one run.

use std::io;

use super::{Fault, SharedMemory, is_away, lane_at};
use crate::placement::{Epoch, ShardId};
use crate::store::{Batch, CommitError, Lane, Position};

pub(super) struct SharedLane {
    pub(super) run: SharedMemory,
    pub(super) lane: usize,
}

impl Lane for SharedLane {
    fn commit(&mut self, group: &[Batch]) -> Result<Position, CommitError> {
        self.run.commit_to(self.lane, group, &[])
    }

    fn commit_and_confirm(
        &mut self,
        group: &[Batch],
        shown: &[(ShardId, Epoch)],
    ) -> Result<Position, CommitError> {
        self.run.commit_to(self.lane, group, shown)
    }

    fn quiet(&mut self) -> Result<(), CommitError> {
        Ok(())
    }
}

impl SharedMemory {
    fn commit_to(
        &self,
        lane: usize,
        group: &[Batch],
        shown: &[(ShardId, Epoch)],
    ) -> Result<Position, CommitError> {
        let mut state = self.servers.state();
        let server = lane / state.lanes_per_server as usize;
        let written = group.iter().flat_map(Batch::sections).map(|section| section.shard);
        let of: Vec<ShardId> = written.chain(shown.iter().map(|(shard, _)| *shard)).collect();
        let Some(&first) = of.first() else { return Ok(Position::default()) };
        for shard in of {
            assert_eq!(lane_at(&state, shard), lane, "{shard} is not of this lane");
        }
        let generation = state.servers[server].generation;
        let (away, now) = (state.away[server], state.now);
        let own = &mut self.run(&mut state).lanes[lane];
        if own.hung {
            return Err(CommitError::Unknown(io::ErrorKind::TimedOut.into()));
        }
        if away {
            return Err(CommitError::Later(is_away()));
        }
        let fault = own.plan.pop_front();
        match fault {
            Some(Fault::Fail) => return Err(CommitError::Failed(io::Error::other("planned to fail"))),
            Some(Fault::Later) => return Err(CommitError::Later(io::Error::other("planned for later"))),
            Some(Fault::Unknown { applied: false }) => {
                return Err(CommitError::Unknown(io::Error::other("planned to be unknown, not applied")));
            }
            Some(Fault::Die) => return Err(CommitError::Fatal(io::Error::other("planned to die"))),
            Some(Fault::Unknown { applied: true }) | None => {}
        }
        // What the lane has in memory is of a server that is gone.
        if std::mem::replace(&mut own.generation, generation) != generation {
            return Err(CommitError::Fenced(first));
        }
        let lost = shown.iter().find(|(shard, epoch)| !state.owns(self.incarnation, *shard, *epoch));
        if let Some((shard, _)) = lost {
            return Err(CommitError::Fenced(*shard));
        }
        let fresh = state.servers[server].commit(self.incarnation, now, group)?;
        let own = &mut self.run(&mut state).lanes[lane];
        own.position += fresh as u64;
        let position = Position(own.position);
        match fault {
            Some(_) => Err(CommitError::Unknown(io::Error::other("planned to be unknown, applied"))),
            None => Ok(position),
        }
    }
}
