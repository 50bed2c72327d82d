//! What the coordinator asks of the store, on a thread of its own: it reads, stages and syncs, and may take long.

use super::coordinator::{Notice, ToCoordinator};
use crate::{
    load::{self, Sections},
    mover::{MoverAction, MoverEvent},
    node::{self, Shared},
    placement::{Epoch, ShardId},
    store::{Batch, LaneId, LoadError, Ownership, StageError, Store, TransferId},
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
            let jobs = std::iter::once(first).chain(asked.try_iter());
            if let Err(error) = Gathered::new(&*shared.store, &coordinator).run(jobs) {
                shared.fail(node::unreadable(&error));
                return;
            }
        }
    })?;
    Ok((ask, thread))
}

/// The jobs that were there when the thread looked. What several shards ask for at the same time costs as many syncs as for one:
/// their pieces are staged at once, and copies that begin need one round of the checkpoint between them.
struct Gathered<'s> {
    store: &'s dyn Store,
    coordinator: &'s ToCoordinator,
    /// To be staged, each of another shard.
    stages: Vec<Stage>,
    /// Done behind the stagings, which others stand still for.
    reads: Vec<MoverAction>,
    /// Lanes of which loads find everything that was durable when these were gathered.
    loadable: Vec<LaneId>,
}

struct Stage {
    shard: ShardId,
    epoch: Epoch,
    transfer: TransferId,
    place: u64,
    sections: Vec<Batch>,
}

impl<'s> Gathered<'s> {
    fn new(store: &'s dyn Store, coordinator: &'s ToCoordinator) -> Self {
        Self { store, coordinator, stages: Vec::new(), reads: Vec::new(), loadable: Vec::new() }
    }

    fn run(mut self, jobs: impl Iterator<Item = Job>) -> Result<(), LoadError> {
        for job in jobs {
            match job {
                Job::Keep(number, bytes) => self.keep(number, bytes)?,
                Job::Move(MoverAction::Stage { shard, epoch, transfer, place, sections }) => {
                    self.stage_before(shard)?;
                    self.stages.push(Stage { shard, epoch, transfer, place, sections });
                }
                Job::Move(MoverAction::Clear { shard, epoch, transfer, place }) => {
                    self.stage_before(shard)?;
                    let cleared = self.store.begin_staging(shard, epoch, transfer);
                    self.answer(shard, place, cleared, MoverEvent::Cleared { shard, place })?;
                }
                Job::Move(MoverAction::Sweep(shard, epoch, transfer)) => {
                    self.stage_before(shard)?;
                    if let Err(StageError::Io(error)) = self.store.sweep_staging(shard, epoch, transfer) {
                        return Err(LoadError::Io(error));
                    }
                }
                Job::Move(read) => self.reads.push(read),
            }
        }
        self.stage()?;
        for read in std::mem::take(&mut self.reads) {
            self.read(read)?;
        }
        Ok(())
    }

    /// What is asked of a shard's place is done in the order in which it was asked.
    fn stage_before(&mut self, shard: ShardId) -> Result<(), LoadError> {
        if self.stages.iter().any(|stage| stage.shard == shard) { self.stage() } else { Ok(()) }
    }

    fn stage(&mut self) -> Result<(), LoadError> {
        let stages = std::mem::take(&mut self.stages);
        if stages.is_empty() {
            return Ok(());
        }
        let sections = stages.iter().map(|&Stage { shard, epoch, transfer, ref sections, .. }| Sections {
            shard,
            epoch,
            transfer,
            sections,
        });
        let answers = load::stage_all(self.store, &sections.collect::<Vec<_>>());
        for (Stage { shard, place, .. }, staged) in stages.into_iter().zip(answers) {
            self.answer(shard, place, staged, MoverEvent::Staged { shard, place })?;
        }
        Ok(())
    }

    fn answer(
        &self,
        shard: ShardId,
        place: u64,
        result: Result<(), StageError>,
        event: MoverEvent,
    ) -> Result<(), LoadError> {
        match result {
            Ok(()) => self.tell(event),
            Err(StageError::Io(error)) => return Err(LoadError::Io(error)),
            Err(error) => self.tell(MoverEvent::StagingFailed { shard, place, why: error.to_string() }),
        }
        Ok(())
    }

    fn tell(&self, event: MoverEvent) {
        self.coordinator.tell(Notice::Mover(event));
    }

    fn keep(&self, number: u64, bytes: Vec<u8>) -> Result<(), LoadError> {
        match self.store.keep_note(KNOWN_NODES, &bytes) {
            Ok(()) => self.coordinator.tell(Notice::Kept(number)),
            // Names and their runs stand in the ledgers too, so nobody new waits for the one server that keeps notes.
            Err(LoadError::Later(error)) if self.store.shared().is_some() => {
                tracing::debug!(%error, "what is known of other nodes was not kept");
                self.coordinator.tell(Notice::Kept(number));
            }
            Err(error) if is_for_later(&error) => {
                // Nobody new is let in meanwhile; it is tried again with the next change.
                tracing::warn!(
                    %error,
                    "what is known of other nodes was not kept; it is tried again every second"
                );
                self.coordinator.tell(Notice::NotKept(number, bytes));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn read(&mut self, asked: MoverAction) -> Result<(), LoadError> {
        match asked {
            MoverAction::ReadRows { shard, epoch, transfer, attempt, from, bytes } => {
                let lane = self.store.lane_of(shard);
                let read = if self.loadable.contains(&lane) {
                    load::loadable_rows_to_copy(self.store, shard, epoch, &from, bytes)
                } else {
                    load::rows_to_copy(self.store, shard, epoch, &from, bytes)
                };
                if from.is_empty() && read.is_ok() {
                    self.loadable.push(lane);
                }
                match read {
                    Ok((rows, next)) => {
                        self.tell(MoverEvent::RowsRead { shard, transfer, attempt, rows, next });
                    }
                    // It has gone meanwhile; whoever asked knows by now, or will.
                    Err(LoadError::NotOwned(_)) => {}
                    Err(error) if is_for_later(&error) => {
                        self.tell(MoverEvent::ReadFailed { shard, transfer, attempt });
                    }
                    Err(error) => return Err(error),
                }
            }
            MoverAction::ReadOwnership { shard, read } => {
                let all = self.store.ownership()?;
                let found = all.into_iter().find(|(other, _)| *other == shard);
                let ownership = found.map_or(Ownership::Foreign, |(_, ownership)| ownership);
                self.tell(MoverEvent::Ownership { shard, read, ownership });
            }
            action => unreachable!("{action:?} asks nothing of the store"),
        }
        Ok(())
    }
}

/// Whether nothing is wrong with the store but that it has no room, or no time.
fn is_for_later(error: &LoadError) -> bool {
    let is_full =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    match error {
        LoadError::Io(error) => is_full(error),
        LoadError::Later(_) => true,
        LoadError::NotOwned(_) => false,
    }
}
