//! Segments: the preallocated files of the log, used again and again.
//!
//! A segment covers a fixed range of log positions, `start` to `start + len`: its header is position `start`, its first
//! group `start + 64`. Using a file again means writing a new header, with the next generation and range, in the same
//! write as its first group; its name stays, so that a recycled segment costs no directory operation.

use std::io;
use std::sync::Arc;

use super::group::HEADER;
use crate::store::disk::{Disk, DiskFile};

/// Smallest segment that may be configured.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Largest segment that may be configured.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

const MAGIC: &[u8; 8] = b"ENTITLOG";
/// Version of the log's format, in every segment header.
const FORMAT: u32 = 2;
/// See P17: shards are never renumbered, but may one day be split.
const LAYOUT: u32 = 0;
/// The generation of a file that has never been part of the log.
const UNUSED: u64 = 0;

/// Identity of the store a file belongs to: its UUID, and the checksum seed that follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoreId {
    pub(super) uuid: u128,
    pub(super) seed: u32,
}

impl StoreId {
    pub(super) fn new(uuid: u128) -> Self {
        Self { uuid, seed: crc32c::crc32c(&uuid.to_le_bytes()) }
    }
}

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) generation: u64,
    pub(super) start: u64,
    pub(super) len: u64,
}

impl SegmentHeader {
    pub(super) fn unused(len: u64) -> Self {
        Self { generation: UNUSED, start: 0, len }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.generation == UNUSED
    }

    /// The position behind the segment: the start of the next.
    pub(super) fn end(&self) -> u64 {
        self.start + self.len
    }

    /// The position of its first group.
    pub(super) fn first(&self) -> u64 {
        self.start + HEADER as u64
    }

    /// Whether a log that ends at `position` may go on in this segment.
    pub(super) fn covers(&self, position: u64) -> bool {
        self.first() <= position && position <= self.end()
    }

    pub(super) fn encode(&self, store: StoreId) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&LAYOUT.to_le_bytes());
        bytes[16..32].copy_from_slice(&store.uuid.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.generation.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.start.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.len.to_le_bytes());
        let checksum = crc32c::crc32c_append(store.seed, &bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Judges a header. The version is read before the checksum: another version may check differently.
    pub(super) fn decode(bytes: &[u8; HEADER], store: StoreId) -> HeaderVerdict {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let good = &bytes[..8] == MAGIC && word(60) == crc32c::crc32c_append(store.seed, &bytes[..60]);
        match (good, word(8), word(12)) {
            (false, ..) => HeaderVerdict::Unreadable,
            (true, FORMAT, LAYOUT) => {
                HeaderVerdict::Good(Self { generation: long(32), start: long(40), len: long(48) })
            }
            (true, format, _) => HeaderVerdict::OtherFormat(format),
        }
    }
}

/// What the first bytes of a segment file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderVerdict {
    Good(SegmentHeader),
    /// Torn when the file was made, or corrupt: what lies behind it decides.
    Unreadable,
    OtherFormat(u32),
}

/// A segment file, open.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) header: SegmentHeader,
    /// Where the log ended when it went on in this segment; what the first group calls durable.
    pub(super) opened_at: u64,
}

impl Segment {
    /// Makes a file of `len` bytes that has never been part of the log, durable with its name.
    pub(super) fn create(disk: &dyn Disk, number: u64, len: u64, store: StoreId) -> io::Result<Self> {
        let name = name(number);
        let header = SegmentHeader::unused(len);
        let file = disk.create(&name, len)?;
        let synced = file
            .write_at(&header.encode(store), 0)
            .and_then(|()| file.sync_data())
            .and_then(|()| disk.sync_directory());
        if let Err(error) = synced {
            // It is not part of anything yet; an open that finds it half made removes it too.
            drop(disk.remove(&name));
            return Err(error);
        }
        Ok(Self { name, file, header, opened_at: 0 })
    }

    /// Takes the file out of the log, durably.
    pub(super) fn write_unused(&mut self, store: StoreId) -> io::Result<()> {
        self.header = SegmentHeader::unused(self.header.len);
        self.file.write_at(&self.header.encode(store), 0)?;
        self.file.sync_data()
    }

    /// The bytes of the positions `from..to`.
    pub(super) fn read(&self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let len = usize::try_from(to - from).expect("a segment fits in memory");
        let mut bytes = vec![0; len];
        self.file.read_at(&mut bytes, from - self.header.start)?;
        Ok(bytes)
    }
}

/// Whether a file was part of a log, of whichever store.
pub(super) fn was_used(file: &dyn DiskFile) -> io::Result<bool> {
    let mut bytes = [0; HEADER];
    file.read_at(&mut bytes, 0)?;
    Ok(&bytes[..8] == MAGIC && bytes[32..40] != UNUSED.to_le_bytes())
}

/// The name of the segment file with this number. Names carry no meaning but that they differ.
pub(super) fn name(number: u64) -> String {
    format!("segment-{number:06}.log")
}

/// The number in a segment file's name, if it is one.
pub(super) fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".log")?;
    (digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_every_flipped_bit_is_seen() {
        let store = StoreId::new(9);
        let header = SegmentHeader { generation: 4, start: 3 << 16, len: 1 << 16 };
        let bytes = header.encode(store);
        assert_eq!(SegmentHeader::decode(&bytes, store), HeaderVerdict::Good(header));
        assert_eq!(SegmentHeader::decode(&bytes, StoreId::new(8)), HeaderVerdict::Unreadable);
        for bit in 0..HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped, store), HeaderVerdict::Unreadable, "bit {bit}");
        }
    }

    #[test]
    fn only_our_names_are_segments() {
        assert_eq!(number(&name(7)), Some(7));
        assert_eq!(number(&name(12_345_678)), Some(12_345_678));
        for other in ["segment-7.log", "segment-00000x.log", "segment-000001", "000001.log"] {
            assert_eq!(number(other), None);
        }
    }
}
