//! The log's segments and what is known of them: which are live, which may be used again, how far all is durable.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::room::{Reserved, Room};
use super::segment::{Segment, SegmentHeader, StoreId};
use crate::store::disk::Disk;
use crate::store::{CommitError, NoRoom};

/// Segments kept ready for the log to go on in, as long as its length allows.
const SPARES: usize = 2;

/// The log as its lane and the maintenance share it.
///
/// # Invariants
/// * Live segments follow one another without a gap in generation and position; the last is the active one.
/// * A segment is freed only when a synced checkpoint covers every group in it (P16).
/// * What lies below `durable` was synced, and is written again by nobody.
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    pub(super) store: StoreId,
    segment_bytes: u64,
    /// Most live segments for which room is granted.
    segments_max: u64,
    table: Mutex<Table>,
    durable: AtomicU64,
    failed: OnceLock<String>,
}

struct Table {
    live: VecDeque<Segment>,
    free: Vec<Segment>,
    next_number: u64,
    reserved: Reserved,
    /// The disk was full when it was last asked for more.
    disk_full: bool,
    /// Room was refused since the last maintenance.
    short: bool,
}

/// The segments as recovery found them.
pub(super) struct Segments {
    pub(super) live: VecDeque<Segment>,
    pub(super) free: Vec<Segment>,
    pub(super) next_number: u64,
    pub(super) durable: u64,
}

impl Log {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        store: StoreId,
        segment_bytes: u64,
        tail_bytes: u64,
        found: Segments,
    ) -> Self {
        let table = Table {
            live: found.live,
            free: found.free,
            next_number: found.next_number,
            reserved: Reserved::default(),
            disk_full: false,
            short: false,
        };
        Self {
            disk,
            store,
            segment_bytes,
            segments_max: tail_bytes / segment_bytes,
            table: Mutex::new(table),
            durable: AtomicU64::new(found.durable),
            failed: OnceLock::new(),
        }
    }

    /// The end of the last durable group.
    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Called after the sync that made it so.
    pub(super) fn set_durable(&self, position: u64) {
        self.durable.store(position, Ordering::Release);
    }

    /// Stops everything: nothing is committed any more until the store is opened anew.
    pub(super) fn fail(&self, error: io::Error) -> CommitError {
        // The first failure is the one to report; which of two at once it is matters to nobody.
        drop(self.failed.set(error.to_string()));
        CommitError::Fatal(error)
    }

    /// Whether the log still works.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.failed.get() {
            Some(failure) => Err(io::Error::other(format!("failed before: {failure}"))),
            None => Ok(()),
        }
    }

    /// The live segments, oldest first.
    pub(super) fn live(&self) -> Vec<Segment> {
        self.table().live.iter().cloned().collect()
    }

    /// The segment being written and how many could follow it at once.
    pub(super) fn active(&self) -> (Option<Segment>, usize) {
        let table = self.table();
        (table.live.back().cloned(), table.free.len())
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Opens the next segment, in memory: its header is written together with its first group.
    pub(super) fn open_next(&self) -> Segment {
        let mut table = self.table();
        let mut next = table.free.pop().expect("the lane counted the free segments before it began to write");
        let (generation, start) =
            table.live.back().map_or((1, 0), |active| (active.header.generation + 1, active.header.end()));
        next.header = SegmentHeader { generation, start, len: next.header.len };
        next.opened_at = self.durable();
        table.live.push_back(next.clone());
        next
    }

    /// Frees the segments all of whose groups lie at or below `position`.
    pub(super) fn recycle(&self, position: u64) {
        let mut table = self.table();
        while table.live.get(1).is_some_and(|next| next.opened_at <= position) {
            let freed = table.live.pop_front().expect("there are two");
            if freed.header.len == self.segment_bytes {
                table.free.push(freed);
            }
        }
    }

    /// Whether segments should be made.
    pub(super) fn wants_spares(&self) -> bool {
        let table = self.table();
        table.disk_full || table.short || self.spares_missing(&table)
    }

    fn spares_missing(&self, table: &Table) -> bool {
        table.free.len() < SPARES && (table.live.len() + table.free.len()) as u64 <= self.segments_max
    }

    /// Makes the first spare segment, where there is none: what it takes to begin. The others follow beside the work.
    pub(super) fn make_first_spare(&self) -> io::Result<()> {
        self.make_spares_up_to(1)
    }

    /// Makes the segments that are missing.
    pub(super) fn make_spares(&self) -> io::Result<()> {
        self.make_spares_up_to(SPARES)
    }

    fn make_spares_up_to(&self, spares: usize) -> io::Result<()> {
        loop {
            let number = {
                let mut table = self.table();
                table.short = false;
                if spares <= table.free.len() || !self.spares_missing(&table) {
                    return Ok(());
                }
                table.next_number += 1;
                table.next_number - 1
            };
            // Without the lock: writing and syncing a whole segment takes its time, and commits go on beside it.
            let segment = Segment::create(&*self.disk, number, self.segment_bytes, self.store)?;
            self.table().free.insert(0, segment);
        }
    }

    /// Refuses all room, or no longer, because the disk is full.
    pub(super) fn set_disk_full(&self, full: bool) {
        self.table().disk_full = full;
    }

    pub(super) fn reserve(&self, bytes: u64) -> Result<(), NoRoom> {
        let mut table = self.table();
        if table.disk_full {
            return Err(NoRoom::DiskFull);
        }
        if let Some(reserved) = table.reserved.with(bytes, self.room(&table)) {
            table.reserved = reserved;
            return Ok(());
        }
        table.short = true;
        Err(NoRoom::LogTail)
    }

    pub(super) fn release(&self, bytes: u64) {
        let mut table = self.table();
        table.reserved = table.reserved.without(bytes);
    }

    /// Gives back what a batch turned out not to need.
    pub(super) fn shrink(&self, from: u64, to: u64) {
        let mut table = self.table();
        table.reserved = table.reserved.shrunk(from, to);
    }

    /// Whether `bytes` of the active segment can be spent without touching what is reserved.
    pub(super) fn spare_bytes(&self, bytes: u64) -> bool {
        let table = self.table();
        let room = self.room(&table);
        room.active >= bytes && table.reserved.fits(Room { active: room.active - bytes, ..room })
    }

    fn room(&self, table: &Table) -> Room {
        let active = table
            .live
            .back()
            .map_or(0, |active| active.header.end() - self.durable().max(active.header.first()));
        let may_open = self.segments_max.saturating_sub(table.live.len() as u64);
        Room { active, segments: may_open.min(table.free.len() as u64), segment_bytes: self.segment_bytes }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
