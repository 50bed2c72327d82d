//! The embedded store: a commit log of our own, and a checkpoint beside it. Needs nothing but a directory.
//!
//! ```text
//! commit ──> log (one write, one sync) ──> durable ──> acknowledge
//!             │
//!  maintain   └──> newest write of each row, sorted ──> checkpoint ──> loads
//!                  then the segments behind it are used again
//! ```
//!
//! There is one lane. A commit touches the log alone; [`Store::maintain`] reads the durable log itself, so the hot path
//! keeps no table of rows, and what was committed since the last round must be kept by whoever needs it (P12).
//! Opening replays the tail of the log into the checkpoint by the same code and is then ready to load everything.
//! What is staged of a shard on its way here goes into the checkpoint directly, under the stay that is yet to begin; the log
//! has only the record that accepts it. The bytes are in `docs/format.md`.
//!
//! # Caveats
//! * One disk: what it loses after a sync is lost.

mod bookkeeping;
mod checkpoint;
mod error;
mod group;
mod identity;
mod lane;
mod log;
mod maintain;
mod notes;
mod recover;
mod room;
mod round;
mod segment;
mod staging;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use super::founding::Founding;
pub use error::OpenError;
pub use segment::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};

use checkpoint::Checkpoint;
use checkpoint::snapshot::SnapshotCheckpoint;
use checkpoint::sorted::SortedCheckpoint;
use identity::{BOOT, Boot, FOUNDING, FOUNDING_NEW};
use lane::LogLane;
use log::{Log, Segments};
use segment::StoreId;

use super::disk::{Disk, DiskLock, LockError, RealDisk};
use super::fence::Fence;
use super::staging::Stagings;
use super::{
    ImageKey, Lane, LaneId, LoadError, NoRoom, OwnedShard, Ownership, Position, StageError, Store,
    StoreIdentity, ToStage, TransferId,
};
use crate::placement::{Epoch, ShardId, Shards};

/// The checkpoint's directory.
const CHECKPOINT: &str = "checkpoint";
/// Taken by [`Disk::lock`].
const LOCK: &str = "lock";
/// What a volume's root may hold without being of anyone.
const LOST_AND_FOUND: &str = "lost+found";
/// The note in which the UUID of a store stands that is another than it was founded with.
const IDENTITY: &str = "identity";

/// Settings of an embedded store. None of them changes what is promised: every commit is synced.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// Length of a log segment, a multiple of 4096 from [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`]. A batch must
    /// fit in one. Default 64 MiB.
    pub segment_bytes: u64,
    /// How long the log may grow beyond the checkpoint, at least two segments: this bounds the time to open. At the
    /// bound room is refused ([`NoRoom::LogTail`]) until a round of the checkpoint is done. Default 512 MiB.
    pub tail_bytes: u64,
    /// How much log a round of the checkpoint takes into memory before it is ingested; exceeded by at most a segment.
    /// Default 128 MiB.
    pub round_bytes: u64,
    /// Memory for blocks of the checkpoint that loads have read. Default 64 MiB.
    pub cache_bytes: u64,
    /// The number of shards the store must have been founded with; `None` takes any.
    pub shards: Option<Shards>,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            tail_bytes: 512 << 20,
            round_bytes: 128 << 20,
            cache_bytes: 64 << 20,
            shards: None,
        }
    }
}

impl EmbeddedConfig {
    /// The most bytes a batch may have to fit in a segment.
    pub fn batch_bytes_max(&self) -> u64 {
        room::batch_bytes_max(self.segment_bytes)
    }

    fn check(&self) -> Result<(), OpenError> {
        let segment = self.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment) || !segment.is_multiple_of(4_096) {
            return Err(OpenError::Config("segment_bytes is a multiple of 4096 from 64 KiB to 1 GiB"));
        }
        if self.tail_bytes < 2 * segment {
            return Err(OpenError::Config("tail_bytes is at least two segments"));
        }
        Ok(())
    }
}

/// A store in one directory, used by one process at a time. Clones are handles of the same open store.
#[derive(Clone)]
pub struct EmbeddedStore {
    inner: Arc<Inner>,
}

/// What lane, loads and maintenance share.
pub(super) struct Inner {
    log: Log,
    checkpoint: Box<dyn Checkpoint>,
    founding: Founding,
    /// What it says it is: the UUID it was founded with, unless it took another.
    uuid: u128,
    boot: Mutex<Boot>,
    was_clean: bool,
    /// Ownership and numbers of what is committed.
    fence: Mutex<Fence>,
    /// Ownership and numbers of what is in the checkpoint; held for a whole maintenance, so that there is one at a time.
    covered: Mutex<Fence>,
    /// What is staged and not accepted yet.
    stagings: Mutex<Stagings>,
    /// Stays that are over and stagings that will never be accepted: their rows are still to be dropped.
    ended: Mutex<BTreeSet<(ShardId, Epoch)>>,
    /// Held for each ingestion, for the checkpoint takes one at a time.
    ingesting: Mutex<()>,
    /// Held while a note is read or replaced.
    notes: Mutex<()>,
    /// The checkpoint's position.
    loadable: AtomicU64,
    config: EmbeddedConfig,
    /// Where a real disk's files lie.
    directory: Option<PathBuf>,
    lane_taken: AtomicBool,
    disk: Arc<dyn Disk>,
    /// Given back last.
    _lock: Box<dyn DiskLock>,
}

/// Where the rows of a checkpoint lie.
enum CheckpointPlace<'p> {
    /// In a directory of its own in this one.
    Directory(&'p Path),
    Disk,
}

impl EmbeddedStore {
    /// Opens the store in `directory`: locks it, recovers, and raises the boot counter.
    ///
    /// # Errors
    /// See [`OpenError`]. A failed open has changed nothing that was durable.
    pub fn open(directory: &Path, config: &EmbeddedConfig) -> Result<Self, OpenError> {
        let place = directory.display().to_string();
        let disk = match RealDisk::existing(directory) {
            Ok(disk) => Arc::new(disk),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::NotFounded { place });
            }
            Err(error) => return Err(OpenError::io(&place, error)),
        };
        Self::open_at(disk, &CheckpointPlace::Directory(directory), &place, config)
    }

    /// Founds a store in `directory`, which is made where it is missing, and opens it. A founding that was interrupted
    /// is done again from the start.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn found(directory: &Path, founding: &Founding, config: &EmbeddedConfig) -> Result<Self, OpenError> {
        let place = directory.display().to_string();
        let disk = RealDisk::create_directory(directory).map_err(|error| OpenError::io(&place, error))?;
        Self::found_at(Arc::new(disk), &CheckpointPlace::Directory(directory), &place, founding, config)
    }

    /// Opens a store that lies wholly on `disk`, its checkpoint in two files that are written anew in each round: for
    /// simulated disks.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_on(disk: Arc<dyn Disk>, config: &EmbeddedConfig) -> Result<Self, OpenError> {
        Self::open_at(disk, &CheckpointPlace::Disk, "the disk", config)
    }

    /// Founds a store as [`EmbeddedStore::open_on`] opens it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn found_on(
        disk: Arc<dyn Disk>,
        founding: &Founding,
        config: &EmbeddedConfig,
    ) -> Result<Self, OpenError> {
        Self::found_at(disk, &CheckpointPlace::Disk, "the disk", founding, config)
    }

    /// What was fixed at founding.
    pub fn founding(&self) -> &Founding {
        &self.inner.founding
    }

    /// How often the store was opened, this time included (P19).
    pub fn boot(&self) -> u64 {
        lock(&self.inner.boot).count
    }

    /// Whether the run before this one ended with [`EmbeddedStore::close`], or there was none.
    pub fn was_clean(&self) -> bool {
        self.inner.was_clean
    }

    /// Gives the store another UUID, from the next open on: it is the copy of one that was given up (P20).
    ///
    /// # Errors
    /// The medium failed; it has the one or the other.
    pub fn take_identity(&self, uuid: u128) -> Result<(), LoadError> {
        self.keep_note(IDENTITY, &uuid.to_le_bytes())
    }

    /// Bytes of log beyond the checkpoint: what an open would replay now.
    pub fn tail_bytes(&self) -> u64 {
        self.inner.log.durable() - self.inner.loadable()
    }

    /// Ends this run in peace: brings the checkpoint up to the log and leaves the mark that the next open reports as
    /// [`EmbeddedStore::was_clean`]. Commits fail from here on. The directory is free when all handles are dropped.
    ///
    /// # Errors
    /// The medium failed; the next open recovers as after a crash.
    pub fn close(&self) -> Result<(), LoadError> {
        self.inner.log.check()?;
        // From here on nothing is committed, so that the checkpoint taken now is of everything.
        self.inner.log.fail(io::Error::other("the store is closed"));
        self.inner.maintain()?;
        let mut boot = lock(&self.inner.boot);
        *boot = boot.change(&*self.inner.disk, self.inner.log.store, boot.count, true)?;
        Ok(())
    }

    fn found_at(
        disk: Arc<dyn Disk>,
        checkpoint: &CheckpointPlace<'_>,
        place: &str,
        founding: &Founding,
        config: &EmbeddedConfig,
    ) -> Result<Self, OpenError> {
        config.check()?;
        let failed = |error| OpenError::io(place, error);
        {
            let names = disk.list().map_err(failed)?;
            if names.iter().any(|name| name == FOUNDING) {
                return Err(OpenError::AlreadyFounded { place: place.to_owned() });
            }
            for name in &names {
                if !may_found_over(&*disk, name).map_err(failed)? {
                    return Err(OpenError::NotEmpty { place: place.to_owned(), name: name.clone() });
                }
            }
            let _lock = lock_disk(&*disk, place)?;
            for name in names.iter().filter(|name| ![LOCK, LOST_AND_FOUND].contains(&name.as_str())) {
                disk.remove(name).map_err(failed)?;
            }
            let store = StoreId::new(founding.store);
            Boot::create(&*disk, store).map_err(failed)?;
            let segments = Segments { live: [].into(), free: Vec::new(), next_number: 1, durable: 0 };
            let log = Log::new(Arc::clone(&disk), store, config.segment_bytes, config.tail_bytes, segments);
            log.make_first_spare().map_err(failed)?;
            founding.write(&*disk).map_err(failed)?;
        }
        Self::open_at(disk, checkpoint, place, config)
    }

    fn open_at(
        disk: Arc<dyn Disk>,
        checkpoint_place: &CheckpointPlace<'_>,
        place: &str,
        config: &EmbeddedConfig,
    ) -> Result<Self, OpenError> {
        config.check()?;
        let failed = |error| OpenError::io(place, error);
        // Before the lock, which leaves a file: a directory that is not ours stays as it is.
        if !disk.list().map_err(failed)?.iter().any(|name| name == FOUNDING) {
            return Err(OpenError::NotFounded { place: place.to_owned() });
        }
        let lock = lock_disk(&*disk, place)?;
        let founding = Founding::read(&*disk)?;
        if let Some(configured) = config.shards
            && configured != founding.shards
        {
            let (founded, configured) = (founding.shards.count(), configured.count());
            return Err(OpenError::Shards { founded, configured });
        }
        let store = StoreId::new(founding.store);
        let boot = Boot::read(&*disk, store)?;
        let damaged = |error| corrupt_or("note-identity", 0, failed, error);
        let uuid = match notes::read(&*disk, store, IDENTITY).map_err(damaged)? {
            None => founding.store,
            Some(bytes) => bytes.try_into().map(u128::from_le_bytes).map_err(|_| {
                let what = "its length is not that of a UUID".into();
                OpenError::Corrupt { file: "note-identity".into(), position: 0, what }
            })?,
        };
        let checkpoint: Box<dyn Checkpoint> = match checkpoint_place {
            CheckpointPlace::Directory(directory) => {
                let opened = SortedCheckpoint::open(&directory.join(CHECKPOINT), config.cache_bytes);
                let opened = opened.map_err(|error| corrupt_or(CHECKPOINT, 0, failed, error))?;
                // The library syncs what is in its directory, not the directory's name, and without that the log must
                // not be shortened.
                disk.sync_directory().map_err(failed)?;
                Box::new(opened)
            }
            CheckpointPlace::Disk => {
                Box::new(SnapshotCheckpoint::open(Arc::clone(&disk), store).map_err(failed)?)
            }
        };
        let books =
            bookkeeping::read(&*checkpoint).map_err(|error| corrupt_or(CHECKPOINT, 0, failed, error))?;
        let position = books.position;
        let mut fence = Fence::founded(founding.shards, founding.owns);
        for (shard, ownership) in books.shards {
            if shard.0 >= founding.shards.count() {
                let what = format!("it has a row of {shard}, which does not exist");
                return Err(OpenError::Corrupt { file: CHECKPOINT.into(), position, what });
            }
            fence.set(shard, ownership);
        }
        let found = recover::recover(&*disk, store, position, config.segment_bytes)?;
        let log = Log::new(Arc::clone(&disk), store, config.segment_bytes, config.tail_bytes, found);
        let inner = Inner {
            log,
            checkpoint,
            founding,
            uuid,
            boot: Mutex::new(boot),
            was_clean: boot.clean,
            fence: Mutex::new(fence.clone()),
            covered: Mutex::new(fence),
            stagings: Mutex::default(),
            ended: Mutex::default(),
            ingesting: Mutex::default(),
            notes: Mutex::default(),
            loadable: AtomicU64::new(position),
            config: config.clone(),
            directory: match checkpoint_place {
                CheckpointPlace::Directory(directory) => Some(directory.to_path_buf()),
                CheckpointPlace::Disk => None,
            },
            lane_taken: AtomicBool::new(false),
            disk,
            _lock: lock,
        };
        inner.replay().map_err(|error| corrupt_or("the log", inner.loadable(), failed, error))?;
        inner.serve().map_err(failed)?;
        tracing::info!(
            place,
            checkpoint = position,
            log = inner.log.durable(),
            clean = boot.clean,
            "opened the store"
        );
        Ok(Self { inner: Arc::new(inner) })
    }
}

fn lock_disk(disk: &dyn Disk, place: &str) -> Result<Box<dyn DiskLock>, OpenError> {
    disk.lock().map_err(|error| match error {
        LockError::Held(by) => OpenError::Locked { place: place.to_owned(), by },
        LockError::Io(error) => OpenError::io(place, error),
    })
}

fn corrupt_or(
    file: &str,
    position: u64,
    failed: impl Fn(io::Error) -> OpenError,
    error: io::Error,
) -> OpenError {
    match error.kind() {
        io::ErrorKind::InvalidData => {
            OpenError::Corrupt { file: file.into(), position, what: error.to_string() }
        }
        _ => failed(error),
    }
}

/// Whether a name is what an interrupted founding may have left. A checkpoint, or a segment that was in use, is not: it
/// is of a store that lost its founding record, and nothing may be founded over that.
fn may_found_over(disk: &dyn Disk, name: &str) -> io::Result<bool> {
    if segment::number(name).is_some() {
        return Ok(!segment::was_used(&*disk.open(name)?)?);
    }
    Ok([FOUNDING_NEW, BOOT, LOCK, LOST_AND_FOUND].contains(&name))
}

impl Inner {
    fn fence(&self) -> MutexGuard<'_, Fence> {
        lock(&self.fence)
    }

    fn loadable(&self) -> u64 {
        self.loadable.load(Ordering::Acquire)
    }

    /// Opens for commits: from here on a crash is no clean end.
    fn serve(&self) -> io::Result<()> {
        match self.log.make_first_spare() {
            Err(error) if is_full(&error) => self.log.set_disk_full(true),
            made => made?,
        }
        let mut boot = lock(&self.boot);
        *boot = boot.change(&*self.disk, self.log.store, boot.count + 1, false)?;
        Ok(())
    }

    /// Under which stay the rows of a shard lie.
    fn stay(&self, shard: ShardId, epoch: Epoch) -> Result<Epoch, LoadError> {
        self.fence().stay(shard, epoch).ok_or(LoadError::NotOwned(shard))
    }
}

/// Takes a mutex whose holders leave whole values behind, whatever ended them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Store for EmbeddedStore {
    fn shards(&self) -> Shards {
        self.inner.founding.shards
    }

    fn lanes(&self) -> u32 {
        1
    }

    fn lane_of(&self, _shard: ShardId) -> LaneId {
        LaneId(0)
    }

    fn owned(&self) -> Result<Vec<OwnedShard>, LoadError> {
        Ok(self.inner.fence().owned())
    }

    fn ownership(&self) -> Result<Vec<(ShardId, Ownership)>, LoadError> {
        Ok(self.inner.fence().known())
    }

    fn open_lane(&self, lane: LaneId) -> Box<dyn Lane> {
        assert_eq!(lane, LaneId(0), "an embedded store has one lane");
        let taken = self.inner.lane_taken.swap(true, Ordering::AcqRel);
        assert!(!taken, "a lane is taken once");
        Box::new(LogLane::new(Arc::clone(&self.inner)))
    }

    fn load_rows(
        &self,
        shard: ShardId,
        epoch: Epoch,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), LoadError> {
        let stay = self.inner.stay(shard, epoch)?;
        let from = checkpoint::row_key(shard, stay, keys.start);
        let below = checkpoint::row_key(shard, stay, keys.end);
        self.inner
            .checkpoint
            .scan(&from, &below, &mut |key, value| visit(&key[checkpoint::PREFIX..], value))?;
        // If it ended meanwhile its rows may have been dropped, and what was read is no answer.
        self.inner.stay(shard, epoch).map(drop)
    }

    fn load_images(&self, keys: &[ImageKey]) -> Result<Vec<Option<Vec<u8>>>, LoadError> {
        let load = |image: &ImageKey| {
            let stay = self.inner.stay(image.shard, image.epoch)?;
            Ok(self.inner.checkpoint.get(&checkpoint::row_key(image.shard, stay, &image.key))?)
        };
        let images = keys.iter().map(load).collect::<Result<_, LoadError>>()?;
        // As with rows.
        let fence = self.inner.fence();
        match keys.iter().find(|image| fence.stay(image.shard, image.epoch).is_none()) {
            Some(image) => Err(LoadError::NotOwned(image.shard)),
            None => Ok(images),
        }
    }

    fn begin_staging(&self, shard: ShardId, epoch: Epoch, transfer: TransferId) -> Result<(), StageError> {
        self.inner.begin_staging(shard, epoch, transfer)
    }

    fn stage_all(&self, stagings: &[ToStage<'_>]) -> Vec<Result<(), StageError>> {
        self.inner.stage_all(stagings)
    }

    fn load_staged(
        &self,
        shard: ShardId,
        epoch: Epoch,
        transfer: TransferId,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StageError> {
        self.inner.load_staged(shard, epoch, transfer, keys, visit)
    }

    fn sweep_staging(&self, shard: ShardId, epoch: Epoch, transfer: TransferId) -> Result<(), StageError> {
        self.inner.sweep_staging(shard, epoch, transfer)
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
        let _one = lock(&self.inner.notes);
        Ok(notes::read(&*self.inner.disk, self.inner.log.store, name)?)
    }

    fn keep_note(&self, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
        let _one = lock(&self.inner.notes);
        Ok(notes::write(&*self.inner.disk, self.inner.log.store, name, bytes)?)
    }

    fn identity(&self) -> StoreIdentity {
        let (cluster, store) = (self.inner.founding.cluster, self.inner.uuid);
        StoreIdentity { cluster, store, boot: self.boot(), durable: Position(self.inner.log.durable()) }
    }

    fn batch_bytes_max(&self) -> u64 {
        self.inner.config.batch_bytes_max()
    }

    fn data_dir(&self) -> Option<&Path> {
        self.inner.directory.as_deref()
    }

    fn durable(&self, _lane: LaneId) -> Position {
        Position(self.inner.log.durable())
    }

    fn loadable(&self, _lane: LaneId) -> Position {
        Position(self.inner.loadable())
    }

    fn reserve(&self, _lane: LaneId, bytes: u64) -> Result<(), NoRoom> {
        self.inner.log.reserve(bytes)
    }

    fn release(&self, _lane: LaneId, bytes: u64) {
        self.inner.log.release(bytes);
    }

    fn shrink(&self, _lane: LaneId, from: u64, to: u64) {
        self.inner.log.shrink(from, to);
    }

    fn was_clean(&self) -> bool {
        EmbeddedStore::was_clean(self)
    }

    fn close(&self) -> Result<(), LoadError> {
        EmbeddedStore::close(self)
    }

    fn make_loadable(&self, _: LaneId) -> Result<(), LoadError> {
        self.inner.make_loadable()
    }

    fn wants_maintenance(&self) -> bool {
        self.inner.log.wants_spares()
            || self.tail_bytes() > self.inner.config.tail_bytes / 4
            || !lock(&self.inner.ended).is_empty()
    }

    fn maintain(&self) -> Result<(), LoadError> {
        self.inner.maintain()
    }
}
