//! The writing end of the log: one write and one sync for a group of batches.
//!
//! Nobody else writes here, so a batch that does not continue or does not fit is a bug and no case to go on from: such an
//! error is fatal and stops the node (P13). Only what would be accepted and is not staged fails for itself.

use std::io;
use std::sync::Arc;

use super::group::{ALIGN, GroupHeader, HEADER, encode_group, group_len, record_len};
use super::segment::Segment;
use super::{Inner, lock};
use crate::store::ownership::accepts;
use crate::store::{Batch, CommitError, Lane, Position};

/// The one lane of an embedded store.
pub(super) struct LogLane {
    inner: Arc<Inner>,
    active: Option<Segment>,
    position: u64,
    buffer: Vec<u8>,
    /// The last group is an empty one, or was durable before: there is nothing left to declare.
    quiet: bool,
}

/// A run of batches that become one group.
struct Piece {
    batches: usize,
    opens_segment: bool,
}

impl LogLane {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        let (active, _) = inner.log.active();
        let position = inner.log.durable();
        Self { inner, active, position, buffer: Vec::new(), quiet: false }
    }

    /// Cuts a group where a segment ends. Nothing is written yet, so that what cannot be written whole is refused whole.
    fn cut(&self, group: &[Batch]) -> Result<Vec<Piece>, CommitError> {
        let capacity = self.inner.log.segment_bytes() - HEADER as u64;
        let (active, free) = self.inner.log.active();
        let mut left =
            active.map_or(0, |active| active.header.end() - self.position.max(active.header.first()));
        let mut pieces: Vec<Piece> = Vec::new();
        let mut opened = 0;
        let mut body = 0;
        for batch in group {
            let len = record_len(batch.bytes());
            if body > 0 && group_len(body + len) <= left {
                body += len;
                pieces.last_mut().expect("a body has a piece").batches += 1;
                continue;
            }
            if body > 0 {
                left -= group_len(body);
            }
            let opens_segment = group_len(len) > left;
            if opens_segment {
                if group_len(len) > capacity {
                    let error = format!("a batch of {} bytes is longer than a segment", batch.bytes().len());
                    return Err(CommitError::Fatal(io::Error::new(io::ErrorKind::InvalidInput, error)));
                }
                left = capacity;
                opened += 1;
            }
            body = len;
            pieces.push(Piece { batches: 1, opens_segment });
        }
        if opened > free {
            let error = "the log has no free segment; the batches were not reserved";
            return Err(CommitError::Fatal(io::Error::new(io::ErrorKind::StorageFull, error)));
        }
        Ok(pieces)
    }

    fn write(&mut self, batches: &[Batch], opens_segment: bool) -> Result<(), CommitError> {
        self.buffer.clear();
        if opens_segment {
            let next = self.inner.log.open_next();
            self.buffer.extend_from_slice(&next.header.encode(self.inner.log.store));
            self.active = Some(next);
        }
        let active = self.active.as_ref().expect("a group that fits nowhere opens a segment");
        let position = self.position.max(active.header.first());
        let header = GroupHeader {
            generation: active.header.generation,
            position: if opens_segment { active.header.first() } else { position },
            durable_through: self.position,
            body_len: 0,
            batches: 0,
        };
        let bytes = batches.iter().map(Batch::bytes);
        let header = encode_group(header, bytes, self.inner.log.store.seed, &mut self.buffer);
        let at = if opens_segment { 0 } else { header.position - active.header.start };
        let written = active.file.write_at(&self.buffer, at).and_then(|()| active.file.sync_data());
        written.map_err(|error| self.inner.log.fail(error))?;
        self.position = header.end();
        self.inner.log.set_durable(self.position);
        Ok(())
    }
}

impl Lane for LogLane {
    fn commit(&mut self, group: &[Batch]) -> Result<Position, CommitError> {
        self.inner.log.check().map_err(CommitError::Fatal)?;
        let judged = self.inner.fence().judge(group);
        let judged = judged.map_err(|error| CommitError::Fatal(io::Error::other(error.to_string())))?;
        let fresh = &group[judged.repeated..];
        let pieces = self.cut(fresh)?;
        let mut accepted = Vec::new();
        if judged.has_records {
            accepted.extend(accepts(fresh.iter().flat_map(Batch::sections)));
            lock(&self.inner.stagings).hold(&accepted)?;
        }
        let mut rest = fresh;
        for piece in pieces {
            let (batches, behind) = rest.split_at(piece.batches);
            self.write(batches, piece.opens_segment)?;
            rest = behind;
            self.quiet = false;
        }
        self.inner.fence().advance(fresh);
        if !accepted.is_empty() {
            // Only now, for whoever finds neither a staging nor an owner takes the rows for nobody's.
            lock(&self.inner.stagings).accepted(&accepted);
        }
        Ok(Position(self.position))
    }

    fn quiet(&mut self) -> Result<(), CommitError> {
        self.inner.log.check().map_err(CommitError::Fatal)?;
        // Worth 64 bytes that are free, never a segment, nor room that was promised.
        if self.quiet || self.active.is_none() || !self.inner.log.spare_bytes(ALIGN) {
            return Ok(());
        }
        self.write(&[], false)?;
        self.quiet = true;
        Ok(())
    }
}
