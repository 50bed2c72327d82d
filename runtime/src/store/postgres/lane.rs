//! The writing end of a lane on a server: groups in, one statement each, and no answer before it is known what became of them.
//!
//! A call that ends without an answer leaves a group in doubt. The same bytes are committed again, and the gate refuses them if
//! the first try was written after all, also if it is running still: the fence waits for its locks. Then the rows of the shards
//! tell. So nothing is written twice and nothing is dropped, and what is answered by looking at rows waits for the barrier: a
//! row can be seen while no standby has it yet.

use std::{collections::BTreeMap, io, time::Duration};

use tokio_postgres::types::Type;

use super::{
    group::{Group, Misuse},
    outcome::{Diagnosis, LaneError, Outcome, ShardRow, diagnose, of_error},
    session::{CallError, Dial, Session},
    statement::{BARRIER, LOOK, Uuid, parameter_types, parameters, text},
};
use crate::{
    placement::{Epoch, ShardId},
    store::Batch,
};

/// Longest wait for an answer. Above the server's own time-out for a statement, whose answer says more.
pub const PATIENCE: Duration = Duration::from_secs(35);
/// Rows of `entity.probe`. Lanes that share one wait for each other a little.
const PROBES: u128 = 64;

/// A lane, used by one thread.
pub struct PostgresLane {
    session: Session,
    group: Group,
    owner: Uuid,
    probe: i32,
    /// Batches committed so far.
    commits: u64,
    /// The group tried last may be written.
    in_doubt: bool,
    /// The connection on which the barrier was passed, or a commit, which is one.
    safe: u64,
}

impl PostgresLane {
    /// A lane of one run of a node, which owns its shards under `incarnation`. Connects with the first commit. `patience` is how
    /// long it waits for an answer: see [`PATIENCE`].
    ///
    /// # Errors
    /// The operating system gives no event queue.
    pub fn new(dial: Box<dyn Dial>, incarnation: u128, lane: u32, patience: Duration) -> io::Result<Self> {
        let probe = (incarnation ^ u128::from(lane)) % PROBES;
        Ok(Self {
            session: Session::new(dial, patience)?,
            group: Group::new(),
            owner: Uuid(incarnation),
            probe: i32::try_from(probe).expect("below 64"),
            commits: 0,
            in_doubt: false,
            safe: 0,
        })
    }

    /// Commits a group, confirms in the same write that the shards `seen` are still owned under their epochs (P14), and returns
    /// how many batches this lane has committed. A group without batches is the confirmation alone.
    ///
    /// # Errors
    /// See [`LaneError`]. Of a long group the first batches may be written, as it is with every group of unknown outcome; a
    /// group committed again is known by its numbers.
    pub fn commit(&mut self, group: &[Batch], seen: &[(ShardId, Epoch)]) -> Result<u64, LaneError> {
        let mut result = self.commit_all(group, seen);
        if let Err(LaneError::Fenced(shard)) = result
            && self.in_doubt
            && !group.iter().flat_map(Batch::sections).any(|section| section.shard == shard)
        {
            // What is refused is only to be shown. The first try may be running still and write the group, when its shards were
            // read again and numbered anew: it is over when it is known what became of it.
            result = self.commit_all(group, &[]).and(Err(LaneError::Fenced(shard)));
        }
        match result {
            Ok(()) => {
                self.in_doubt = false;
                self.commits += group.len() as u64;
                Ok(self.commits)
            }
            // Of this try nothing was written, but of an earlier one it is not known.
            Err(LaneError::Later(error)) if self.in_doubt => Err(LaneError::Unknown(error)),
            Err(error) => {
                self.in_doubt = matches!(error, LaneError::Unknown(_));
                Err(error)
            }
        }
    }

    /// Gives up what is under way: what is committed next is built anew, and goes by another connection.
    pub fn forget(&mut self) {
        self.session.disconnect();
        self.in_doubt = false;
    }

    fn commit_all(&mut self, group: &[Batch], seen: &[(ShardId, Epoch)]) -> Result<(), LaneError> {
        let mut rest = group;
        let mut is_second_look = false;
        while !rest.is_empty() {
            let taken = self.gather(rest, seen)?;
            match self.send() {
                Ok(()) => rest = &rest[taken..],
                Err(Outcome::Refused) => match self.diagnose(rest, seen)? {
                    Diagnosis::Applied(count) => {
                        self.barrier()?;
                        rest = &rest[count..];
                        if rest.is_empty() && !seen.is_empty() {
                            // It is not known what was confirmed along with it.
                            return self.confirm(seen);
                        }
                    }
                    Diagnosis::Continues if !is_second_look => is_second_look = true,
                    diagnosis => return Err(judge(&diagnosis)),
                },
                Err(outcome) => return Err(self.give_up(outcome)),
            }
        }
        if group.is_empty() && !seen.is_empty() { self.confirm(seen) } else { Ok(()) }
    }

    fn gather(&mut self, rest: &[Batch], seen: &[(ShardId, Epoch)]) -> Result<usize, LaneError> {
        self.group.gather(rest, seen).map_err(|misuse| match misuse {
            Misuse::Chain(shard) => LaneError::Fenced(shard),
            misuse => LaneError::Failed(io::Error::new(io::ErrorKind::InvalidInput, misuse)),
        })
    }

    /// Sends what was gathered. `Ok`: it is written, and as durable as the server makes it.
    fn send(&mut self) -> Result<(), Outcome> {
        let mask = self.group.mask();
        let (group, owner) = (&self.group, &self.owner);
        let answer = self.session.call(async |asking| {
            let prepare = async |client: &tokio_postgres::Client| {
                client.prepare_typed(&text(mask), &parameter_types(mask)).await
            };
            let statement = asking.statement(mask, prepare).await?;
            // Resolved by the answer behind the commit, never by the one before it.
            asking.client.query(&statement, &parameters(group, owner)).await
        });
        let answer = answer.map_err(of_error)?;
        if answer.warned {
            // Committed here, and perhaps not on the standby.
            return self.pass_barrier();
        }
        self.safe = self.session.connects();
        Ok(())
    }

    /// Confirms that shards are owned, where nothing is written.
    fn confirm(&mut self, seen: &[(ShardId, Epoch)]) -> Result<(), LaneError> {
        self.session.connect().map_err(|error| self.give_up(of_error(error)))?;
        if self.safe != self.session.connects() {
            // What an earlier connection has left may be seen and not be as durable yet.
            self.barrier()?;
        }
        self.gather(&[], seen)?;
        let mask = self.group.mask();
        let (group, owner) = (&self.group, &self.owner);
        let answer = self.session.call(async |asking| {
            let prepare = async |client: &tokio_postgres::Client| {
                client.prepare_typed(&text(mask), &parameter_types(mask)).await
            };
            let statement = asking.statement(mask, prepare).await?;
            let row = asking.client.query_opt(&statement, &parameters(group, owner)).await?;
            row.map(|row| row.try_get::<_, i32>(0)).transpose()
        });
        match answer {
            Ok(answer) => match answer.value.map(u32::try_from) {
                None => Ok(()),
                Some(Ok(shard)) => Err(LaneError::Fenced(ShardId(shard))),
                Some(Err(error)) => Err(LaneError::Fatal(io::Error::other(error))),
            },
            // Nothing was to be written.
            Err(error) => match self.give_up(of_error(error)) {
                LaneError::Unknown(error) => Err(LaneError::Later(error)),
                error => Err(error),
            },
        }
    }

    fn diagnose(&mut self, rest: &[Batch], seen: &[(ShardId, Epoch)]) -> Result<Diagnosis, LaneError> {
        let sections = rest.iter().flat_map(Batch::sections).map(|section| section.shard);
        let shards = sections.chain(seen.iter().map(|(shard, _)| *shard));
        let mut ids: Vec<i32> = shards.filter_map(|shard| i32::try_from(shard.0).ok()).collect();
        ids.sort_unstable();
        ids.dedup();
        let answer = self.session.call(async |asking| {
            let rows = asking.client.query_typed(LOOK, &[(&ids, Type::INT4_ARRAY)]).await?;
            rows.iter()
                .map(|row| {
                    let uuid = |at| row.try_get::<_, Option<Uuid>>(at).map(|uuid| uuid.map(|uuid| uuid.0));
                    let (epoch, batch) = (row.try_get(1)?, row.try_get(3)?);
                    let shard = ShardRow { epoch, owner: uuid(2)?, batch, moved_by: uuid(4)? };
                    Ok((row.try_get::<_, i32>(0)?.cast_unsigned(), shard))
                })
                .collect::<Result<BTreeMap<_, _>, tokio_postgres::Error>>()
        });
        let rows = answer.map_err(|error| self.in_doubt_by(error))?.value;
        Ok(diagnose(rest, seen, &rows, self.owner.0))
    }

    /// Waits until whatever is visible now is as durable as a commit is.
    fn barrier(&mut self) -> Result<(), LaneError> {
        self.pass_barrier().map_err(|outcome| self.give_up(outcome))
    }

    fn pass_barrier(&mut self) -> Result<(), Outcome> {
        let probe = self.probe;
        let answer = self
            .session
            .call(async |asking| asking.client.execute_typed(BARRIER, &[(&probe, Type::INT4)]).await);
        let doubt = |error: io::Error| Outcome::Unknown(error);
        match answer.map_err(of_error) {
            Ok(answer) if !answer.warned => {
                self.safe = self.session.connects();
                Ok(())
            }
            Ok(_) => Err(doubt(io::Error::other("the server gave up waiting for its standby"))),
            // Written or not, what is behind the barrier stays in doubt.
            Err(Outcome::Later { error, .. } | Outcome::Unknown(error)) => Err(doubt(error)),
            Err(outcome) => Err(outcome),
        }
    }

    /// An error while it is looked up what became of a group that the gate has refused.
    fn in_doubt_by(&mut self, error: CallError) -> LaneError {
        match self.give_up(of_error(error)) {
            LaneError::Later(error) => LaneError::Unknown(error),
            error => error,
        }
    }

    fn give_up(&mut self, outcome: Outcome) -> LaneError {
        match outcome {
            Outcome::Later { error, reconnect } => {
                if reconnect {
                    self.session.disconnect();
                }
                LaneError::Later(error)
            }
            Outcome::Unknown(error) => {
                self.session.disconnect();
                LaneError::Unknown(error)
            }
            Outcome::Fatal(error) => LaneError::Fatal(error),
            Outcome::Refused => LaneError::Fatal(io::Error::other("refused without a group")),
        }
    }
}

/// What a diagnosis means that ends the attempts.
fn judge(diagnosis: &Diagnosis) -> LaneError {
    match *diagnosis {
        Diagnosis::Fenced(shard) => LaneError::Fenced(shard),
        Diagnosis::WentBack { shard, had, has } => {
            tracing::error!(%shard, had, has, "the store went back: acknowledged commits are lost");
            LaneError::WentBack { shard, had, has }
        }
        Diagnosis::Missing(shard) => {
            tracing::error!(%shard, "the server has no row of a shard that it was founded with");
            LaneError::Fenced(shard)
        }
        Diagnosis::Applied(_) | Diagnosis::Continues => {
            LaneError::Fatal(io::Error::other("the server refuses a group that continues all its shards"))
        }
    }
}
