//! Finding the end of the log, and whether what lies there is a torn tail or corruption (P15).

use std::collections::VecDeque;
use std::io;

use super::OpenError;
use super::group::{ALIGN, GroupHeader, HEADER};
use super::log::Segments;
use super::segment::{HeaderVerdict, Segment, SegmentHeader, StoreId, number};
use super::walk::Walk;
use crate::store::disk::Disk;

/// The version of segments, for messages; the segment module has the constant it compares.
const FORMAT: u32 = 2;

/// Segment files as their headers sort them.
struct Found {
    /// Part of the log at some time, oldest first.
    used: Vec<Segment>,
    unused: Vec<Segment>,
    unreadable: Vec<Segment>,
    next_number: u64,
}

/// Brings the log in order: finds its end from the checkpoint's `position` on, refuses it if anything durable is
/// damaged, cuts a torn tail, and makes durable what it found.
///
/// Nothing is changed before all was judged, and a crash in the midst is recovered by doing it again.
pub(super) fn recover(
    disk: &dyn Disk,
    store: StoreId,
    position: u64,
    segment_bytes: u64,
) -> Result<Segments, OpenError> {
    let failed = |error| OpenError::io("the log", error);
    let mut found = find(disk, store)?;
    let mut walk = Walk::new(&found.used, store, position);
    let mut first = None;
    let mut last = None;
    let mut opened = Vec::new();
    while let Some(span) = walk.next_span(u64::MAX).map_err(failed)? {
        first.get_or_insert(span.segment);
        opened.push((span.segment, span.after));
        last = Some((span.segment, span.last.clone(), span.last_group().to_vec()));
    }
    let end = walk.position;
    judge(&found, store, end)?;
    let here = found.used.iter().position(|segment| segment.header.covers(end));
    let active = match (&last, here) {
        (Some((segment, ..)), _) => Some(*segment),
        (None, Some(segment)) => Some(segment),
        (None, None) if position == 0 => None,
        (None, None) => {
            let what = "the segment that holds it is missing".to_owned();
            return Err(OpenError::Corrupt { file: "the log".into(), position, what });
        }
    };
    for (segment, after) in opened {
        let segment = &mut found.used[segment];
        // A span that begins behind the segment's first group does not tell when the segment was opened; it was
        // at or below the checkpoint's position, and so is this.
        segment.opened_at = if after < segment.header.first() { after } else { 0 };
    }
    if let Some((segment, range, group)) = last {
        rewrite(&found.used[segment], store, range.start, group).map_err(failed)?;
    }
    let live = active.map_or(0..0, |active| first.unwrap_or(active)..active + 1);
    sort_out(disk, store, found, live, segment_bytes, end).map_err(failed)
}

fn find(disk: &dyn Disk, store: StoreId) -> Result<Found, OpenError> {
    let failed = |error| OpenError::io("the log", error);
    let mut found = Found { used: Vec::new(), unused: Vec::new(), unreadable: Vec::new(), next_number: 1 };
    for name in disk.list().map_err(failed)? {
        let Some(number) = number(&name) else { continue };
        found.next_number = found.next_number.max(number + 1);
        let file = disk.open(&name).map_err(failed)?;
        let mut bytes = [0; HEADER];
        file.read_at(&mut bytes, 0).map_err(failed)?;
        let verdict = SegmentHeader::decode(&bytes, store);
        let header = match verdict {
            HeaderVerdict::Good(header) => header,
            HeaderVerdict::Unreadable => SegmentHeader::unused(file.byte_len().map_err(failed)?),
            HeaderVerdict::OtherFormat(found) => {
                return Err(OpenError::Format { file: name, found, known: FORMAT });
            }
        };
        let segment = Segment { name, file, header, opened_at: 0 };
        match verdict {
            HeaderVerdict::Good(header) if header.is_unused() => found.unused.push(segment),
            HeaderVerdict::Good(_) => found.used.push(segment),
            _ => found.unreadable.push(segment),
        }
    }
    found.used.sort_by_key(|segment| segment.header.generation);
    Ok(found)
}

/// Whether the log may end at `end`: it may unless some group says that more was durable. Positions only rise, and no
/// group of a torn tail was ever followed by another, so any such group is proof.
fn judge(found: &Found, store: StoreId, end: u64) -> Result<(), OpenError> {
    let later = found.used.iter().filter(|segment| segment.header.end() > end);
    let later =
        later.map(|segment| (segment, if segment.header.covers(end) { end } else { segment.header.start }));
    // A file without a header may be any part of the log, so it is searched from its front.
    let unreadable = found.unreadable.iter().map(|segment| (segment, segment.header.start));
    for (segment, from) in later.chain(unreadable) {
        let bytes =
            segment.read(from, segment.header.end()).map_err(|error| OpenError::io("the log", error))?;
        let headers = bytes.chunks(ALIGN as usize).filter_map(|bytes| GroupHeader::decode(bytes, store.seed));
        let Some(proof) = headers.max_by_key(|header| header.durable_through) else { continue };
        if proof.durable_through > end {
            let covering = found.used.iter().find(|segment| segment.header.covers(end));
            let file = covering.map_or_else(|| "the log".to_owned(), |segment| segment.name.clone());
            let what = format!(
                "no whole group continues the log there, but the one at position {} of {} says that it was durable up to {}",
                proof.position, segment.name, proof.durable_through
            );
            return Err(OpenError::Corrupt { file, position: end, what });
        }
    }
    Ok(())
}

/// Writes the last group again where it is and syncs: the cache may hold what the disk does not.
fn rewrite(segment: &Segment, store: StoreId, position: u64, group: Vec<u8>) -> io::Result<()> {
    let (bytes, at) = if position == segment.header.first() {
        ([segment.header.encode(store).as_slice(), &group].concat(), 0)
    } else {
        (group, position - segment.header.start)
    };
    segment.file.write_at(&bytes, at)?;
    segment.file.sync_data()
}

/// Sorts the files into those of the log and those it may use again, and removes what it cannot use.
fn sort_out(
    disk: &dyn Disk,
    store: StoreId,
    found: Found,
    live: std::ops::Range<usize>,
    segment_bytes: u64,
    end: u64,
) -> io::Result<Segments> {
    let mut segments =
        Segments { live: VecDeque::new(), free: Vec::new(), next_number: found.next_number, durable: end };
    let mut spare = found.unused;
    for (index, mut segment) in found.used.into_iter().enumerate() {
        if live.contains(&index) {
            // Cut off from outside; the log must find its room where it counted on it.
            let len = segment.file.byte_len()?;
            if len < segment.header.len {
                segment.file.write_at(&vec![0; (segment.header.len - len) as usize], len)?;
                segment.file.sync_data()?;
            }
            segments.live.push_back(segment);
            continue;
        }
        if index >= live.end {
            // Opened by a group that was torn. Its generation is given out again.
            segment.write_unused(store)?;
        }
        spare.push(segment);
    }
    let mut removed = false;
    for segment in spare {
        if segment.header.len == segment_bytes && segment.file.byte_len()? == segment_bytes {
            segments.free.push(segment);
        } else {
            disk.remove(&segment.name)?;
            removed = true;
        }
    }
    for segment in found.unreadable {
        disk.remove(&segment.name)?;
        removed = true;
    }
    if removed {
        disk.sync_directory()?;
    }
    Ok(segments)
}
