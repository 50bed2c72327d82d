//! Reading the log: from a position on, group after group, to where they no longer continue.

use std::io;
use std::ops::Range;

use super::group::Group;
use super::segment::{Segment, StoreId};

/// Reads a log whose segments lie before it, oldest first.
pub(super) struct Walk<'l> {
    segments: &'l [Segment],
    store: StoreId,
    /// The end of the last group found, at first where to start.
    pub(super) position: u64,
}

/// The groups found in one stretch of one segment, all checksums good.
pub(super) struct Span {
    bytes: Vec<u8>,
    batches: Vec<Range<usize>>,
    /// Which segment of the walk.
    pub(super) segment: usize,
    /// The position at which the log was before this span: where its segment was opened, if it holds the first group.
    pub(super) after: u64,
    /// The positions of the last group.
    pub(super) last: Range<u64>,
    from: u64,
}

impl<'l> Walk<'l> {
    pub(super) fn new(segments: &'l [Segment], store: StoreId, position: u64) -> Self {
        Self { segments, store, position }
    }

    /// The next groups, at most those before `through`; `None` where the log does not continue.
    ///
    /// A log continues right where it is, or, when the next group did not fit there, at the front of the next segment;
    /// either way the group says that the log was durable exactly to here.
    pub(super) fn next_span(&mut self, through: u64) -> io::Result<Option<Span>> {
        let here = self.segments.iter().position(|segment| segment.header.covers(self.position));
        if let Some(index) = here
            && let Some(span) = self.span(index, self.position, through)?
        {
            return Ok(Some(span));
        }
        let next = self.segments.iter().position(|segment| segment.header.start >= self.position);
        match next {
            Some(index) => self.span(index, self.segments[index].header.first(), through),
            None => Ok(None),
        }
    }

    fn span(&mut self, index: usize, from: u64, through: u64) -> io::Result<Option<Span>> {
        let segment = &self.segments[index];
        let to = segment.header.end().min(through);
        if to <= from {
            return Ok(None);
        }
        let bytes = segment.read(from, to)?;
        let mut batches = Vec::new();
        let mut last = None;
        let (after, mut at, mut position) = (self.position, 0, from);
        let mut durable_through = self.position;
        while let Some(group) = bytes.get(at..).and_then(|bytes| {
            Group::decode(bytes, segment.header.generation, position, durable_through, self.store.seed)
        }) {
            batches.extend(group.batches().map(|batch| at + batch.start..at + batch.end));
            last = Some(position..group.header.end());
            position = group.header.end();
            durable_through = position;
            at = usize::try_from(position - from).expect("a segment fits in memory");
        }
        let Some(last) = last else { return Ok(None) };
        self.position = position;
        Ok(Some(Span { bytes, batches, segment: index, after, last, from }))
    }
}

impl Span {
    /// The bytes of its batches, in order.
    pub(super) fn batches(&self) -> impl Iterator<Item = &[u8]> {
        self.batches.iter().map(|range| &self.bytes[range.clone()])
    }

    /// How many bytes of log it holds.
    pub(super) fn len(&self) -> u64 {
        self.last.end - self.from
    }

    /// The bytes of its last group. Padding that was cut off with the file counts as the zeros it was.
    pub(super) fn last_group(&self) -> &[u8] {
        let from = usize::try_from(self.last.start - self.from).expect("a segment fits in memory");
        let to = usize::try_from(self.last.end - self.from).expect("a segment fits in memory");
        &self.bytes[from..to]
    }
}
