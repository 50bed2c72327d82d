//! What the coordinator asks of the store, on a thread of its own: it reads, stages and syncs, and may take long.

use super::coordinator::{Notice, ToCoordinator};
use crate::{
    load,
    mover::{MoverAction, MoverEvent},
    node::{self, Shared},
    placement::ShardId,
    store::{LaneId, LoadError, Ownership, StageError},
};
use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

/// The note in which the membership is kept.
pub(super) const KNOWN_NODES: &str = "known-nodes";

/// The note in which the addresses stand that a node has joined at: what it asks for as long as it knows nobody.
pub(super) const JOINED_AT: &str = "joined-at";

/// What is asked, in order. Bounded by what moves at a time, and by one note.
pub(super) enum Job {
    /// Of a mover: to read, stage, clear or sweep.
    Move(MoverAction),
    /// Of the membership: to keep these bytes under this number.
    Keep(u64, Vec<u8>),
}

/// Starts the thread. It ends when the sender is dropped.
pub(super) fn start(
    shared: &Arc<Shared>,
    coordinator: ToCoordinator,
) -> io::Result<(mpsc::Sender<Job>, JoinHandle<()>)> {
    let (ask, asked) = mpsc::channel();
    let thread = node::thread(shared, "entity-storage".into(), move |shared| {
        while let Ok(first) = asked.recv() {
            // Copies that begin at the same time need one round of the checkpoint between them.
            let jobs: Vec<Job> = std::iter::once(first).chain(asked.try_iter()).collect();
            let mut loadable = Vec::new();
            for job in jobs {
                if let Err(error) = run(shared, &coordinator, job, &mut loadable) {
                    shared.fail(node::unreadable(&error));
                    return;
                }
            }
        }
    })?;
    Ok((ask, thread))
}

/// Carries out a job. `loadable`: lanes of which loads find everything that was durable when the job was asked for.
fn run(
    node: &Shared,
    coordinator: &ToCoordinator,
    job: Job,
    loadable: &mut Vec<LaneId>,
) -> Result<(), LoadError> {
    let store = &*node.store;
    let done = |event| coordinator.tell(Notice::Mover(event));
    match job {
        Job::Keep(number, bytes) => match store.keep_note(KNOWN_NODES, &bytes) {
            Ok(()) => coordinator.tell(Notice::Kept(number)),
            Err(LoadError::Io(error)) if is_full(&error) => {
                // Nobody new is let in meanwhile; it is tried again with the next change.
                tracing::warn!(
                    "the disk is full: what is known of other nodes was not kept; it is tried again every second"
                );
                coordinator.tell(Notice::NotKept(number, bytes));
            }
            Err(error) => return Err(error),
        },
        Job::Move(MoverAction::ReadRows { shard, epoch, transfer, attempt, from, bytes }) => {
            let lane = store.lane_of(shard);
            let read = if loadable.contains(&lane) {
                load::loadable_rows_to_copy(store, shard, epoch, &from, bytes)
            } else {
                load::rows_to_copy(store, shard, epoch, &from, bytes)
            };
            if from.is_empty() && read.is_ok() {
                loadable.push(lane);
            }
            match read {
                Ok((rows, next)) => done(MoverEvent::RowsRead { shard, transfer, attempt, rows, next }),
                // It has gone meanwhile; whoever asked knows by now, or will.
                Err(LoadError::NotOwned(_)) => {}
                Err(LoadError::Io(error)) if is_full(&error) => {
                    done(MoverEvent::ReadFailed { shard, transfer, attempt });
                }
                Err(error) => return Err(error),
            }
        }
        Job::Move(MoverAction::Clear { shard, epoch, transfer, place }) => {
            let cleared = store.begin_staging(shard, epoch, transfer);
            staged(&done, shard, place, cleared, MoverEvent::Cleared { shard, place })?;
        }
        Job::Move(MoverAction::Stage { shard, epoch, transfer, place, sections }) => {
            let result = load::stage(store, shard, epoch, transfer, &sections);
            staged(&done, shard, place, result, MoverEvent::Staged { shard, place })?;
        }
        Job::Move(MoverAction::Sweep(shard, epoch, transfer)) => {
            if let Err(StageError::Io(error)) = store.sweep_staging(shard, epoch, transfer) {
                return Err(LoadError::Io(error));
            }
        }
        Job::Move(MoverAction::ReadOwnership { shard, read }) => {
            let all = store.ownership()?;
            let found = all.into_iter().find(|(other, _)| *other == shard);
            let ownership = found.map_or(Ownership::Foreign, |(_, ownership)| ownership);
            done(MoverEvent::Ownership { shard, read, ownership });
        }
        Job::Move(action) => unreachable!("{action:?} asks nothing of the store"),
    }
    Ok(())
}

fn staged(
    done: &impl Fn(MoverEvent),
    shard: ShardId,
    place: u64,
    result: Result<(), StageError>,
    event: MoverEvent,
) -> Result<(), LoadError> {
    match result {
        Ok(()) => done(event),
        Err(StageError::Io(error)) => return Err(LoadError::Io(error)),
        Err(error) => done(MoverEvent::StagingFailed { shard, place, why: error.to_string() }),
    }
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
