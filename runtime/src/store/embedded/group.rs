//! Groups and the records in them: the bytes of one sync. `docs/format.md` draws them.
//!
//! Every checksum starts from the store's UUID and covers generation and position, so a group of another store, of an
//! earlier use of the segment or of another place never passes for one that belongs here (P15), and neither does a
//! message body that imitates one.

use std::ops::Range;

/// Groups start at multiples of this, so that a damaged log can be searched for later ones.
pub(super) const ALIGN: u64 = 64;
/// Length of a group's header.
pub(super) const HEADER: usize = 64;
/// Length of what stands before each batch in a group.
pub(super) const RECORD_HEADER: usize = 8;

const MAGIC: u32 = u32::from_le_bytes(*b"EGRP");

/// What a group says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupHeader {
    /// Of the segment it lies in.
    pub(super) generation: u64,
    /// Its log position: where its header starts.
    pub(super) position: u64,
    /// Up to which position the log was durable when it was written: the end of the group before it.
    pub(super) durable_through: u64,
    /// Length of its records, without the padding behind them.
    pub(super) body_len: u64,
    /// How many records.
    pub(super) batches: u32,
}

impl GroupHeader {
    /// The position behind the group, where the next may start.
    pub(super) fn end(&self) -> u64 {
        self.position + group_len(self.body_len)
    }

    /// Its bytes.
    pub(super) fn encode(&self, seed: u32) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.position.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.durable_through.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.batches.to_le_bytes());
        let checksum = crc32c::crc32c_append(seed, &bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header at the front of `bytes`, if there is one.
    pub(super) fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if word(0) != MAGIC || word(4) != crc32c::crc32c_append(seed, &bytes[8..]) {
            return None;
        }
        let (generation, position, durable_through) = (long(8), long(16), long(24));
        Some(Self { generation, position, durable_through, body_len: long(32), batches: word(40) })
    }
}

/// The room a group with this much body takes.
pub(super) fn group_len(body_len: u64) -> u64 {
    (HEADER as u64 + body_len).next_multiple_of(ALIGN)
}

/// The room a batch takes in a body.
pub(super) fn record_len(batch: &[u8]) -> u64 {
    (RECORD_HEADER + batch.len()) as u64
}

/// Appends a whole group, padding included.
pub(super) fn encode_group<'b>(
    mut header: GroupHeader,
    batches: impl Iterator<Item = &'b [u8]>,
    seed: u32,
    out: &mut Vec<u8>,
) -> GroupHeader {
    let start = out.len();
    out.resize(start + HEADER, 0);
    header.batches = 0;
    for batch in batches {
        let position = header.position + (out.len() - start) as u64;
        let len = u32::try_from(batch.len()).expect("a batch fits in a segment, far below 4 GiB");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&record_checksum(header.generation, position, batch, seed).to_le_bytes());
        out.extend_from_slice(batch);
        header.batches += 1;
    }
    header.body_len = (out.len() - start - HEADER) as u64;
    out[start..start + HEADER].copy_from_slice(&header.encode(seed));
    out.resize(start + group_len(header.body_len) as usize, 0);
    header
}

fn record_checksum(generation: u64, position: u64, batch: &[u8], seed: u32) -> u32 {
    let mut place = [0; 20];
    place[..8].copy_from_slice(&generation.to_le_bytes());
    place[8..16].copy_from_slice(&position.to_le_bytes());
    place[16..].copy_from_slice(&(batch.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &place), batch)
}

/// A group whose every checksum was found good.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group<'s> {
    /// Its header.
    pub(super) header: GroupHeader,
    body: &'s [u8],
}

impl<'s> Group<'s> {
    /// The group at the front of `bytes`, if it is whole, stands at `position` in a segment of `generation` and follows
    /// the one that ends at `durable_through`.
    pub(super) fn decode(
        bytes: &'s [u8],
        generation: u64,
        position: u64,
        durable_through: u64,
        seed: u32,
    ) -> Option<Self> {
        let header = GroupHeader::decode(bytes, seed)?;
        if (header.generation, header.position, header.durable_through)
            != (generation, position, durable_through)
        {
            return None;
        }
        let body_len = usize::try_from(header.body_len).ok()?;
        let body = bytes.get(HEADER..)?.get(..body_len)?;
        let group = Self { header, body };
        let mut found = 0;
        let mut at = 0;
        while at < body.len() {
            let (batch, checksum) = group.record(at)?;
            if checksum != record_checksum(generation, position + (HEADER + at) as u64, batch, seed) {
                return None;
            }
            found += 1;
            at += RECORD_HEADER + batch.len();
        }
        (found == header.batches).then_some(group)
    }

    /// Where its batches lie, counted from the group's first byte.
    pub(super) fn batches(self) -> impl Iterator<Item = Range<usize>> + use<'s> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let (batch, _) = self.record(at)?;
            let start = HEADER + at + RECORD_HEADER;
            at += RECORD_HEADER + batch.len();
            Some(start..start + batch.len())
        })
    }

    fn record(&self, at: usize) -> Option<(&'s [u8], u32)> {
        let header = self.body.get(at..)?.get(..RECORD_HEADER)?;
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let batch = self.body.get(at + RECORD_HEADER..)?.get(..word(0) as usize)?;
        Some((batch, word(4)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u32 = 77;

    fn encoded() -> Vec<u8> {
        let header =
            GroupHeader { generation: 3, position: 640, durable_through: 576, body_len: 0, batches: 0 };
        let mut bytes = Vec::new();
        encode_group(header, [b"first".as_slice(), b"", b"second"].into_iter(), SEED, &mut bytes);
        bytes
    }

    #[test]
    fn a_group_comes_back_as_it_was_written() {
        let bytes = encoded();
        assert_eq!(bytes.len() as u64 % ALIGN, 0);
        let group = Group::decode(&bytes, 3, 640, 576, SEED).unwrap();
        let batches: Vec<_> = group.batches().map(|batch| &bytes[batch]).collect();
        assert_eq!(batches, [b"first".as_slice(), b"", b"second"]);
        assert_eq!(group.header.end(), 640 + bytes.len() as u64);
    }

    #[test]
    fn a_group_of_another_place_time_or_store_is_none() {
        let bytes = encoded();
        assert!(Group::decode(&bytes, 2, 640, 576, SEED).is_none());
        assert!(Group::decode(&bytes, 3, 704, 576, SEED).is_none());
        assert!(Group::decode(&bytes, 3, 640, 512, SEED).is_none());
        assert!(Group::decode(&bytes, 3, 640, 576, SEED + 1).is_none());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_group_is_seen() {
        let bytes = encoded();
        let used = HEADER + 3 * RECORD_HEADER + 11;
        for bit in 0..used * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Group::decode(&flipped, 3, 640, 576, SEED).is_none(), "bit {bit}");
        }
        for len in 0..used {
            assert!(Group::decode(&bytes[..len], 3, 640, 576, SEED).is_none(), "cut at {len}");
        }
    }
}
