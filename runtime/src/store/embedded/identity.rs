//! Who a store is, on disk: what was fixed when it was founded, and how often it was opened.

use std::io;

use super::OpenError;
use super::segment::StoreId;
use crate::placement::Shards;
use crate::store::Founding;
use crate::store::disk::{Disk, DiskFile, read_whole};

/// The founding record. Its presence is what makes a directory a store.
pub(super) const FOUNDING: &str = "founding";
/// The founding record before it has its name.
pub(super) const FOUNDING_NEW: &str = "founding.new";
/// Boot counter and clean-close marker.
pub(super) const BOOT: &str = "boot";

const FOUNDING_MAGIC: &[u8; 8] = b"ENTFOUND";
const FOUNDING_LEN: usize = 96;
const FORMAT: u32 = 1;
const LAYOUT: u32 = 0;
/// XXH3 of 64 bits, seed 0: [`crate::placement::hash`].
const HASH: &[u8; 16] = b"xxh3-64\0\0\0\0\0\0\0\0\0";
const HASH_SEED: u64 = 0;

const BOOT_MAGIC: &[u8; 8] = b"ENTITBOO";
/// The two records lie in sectors of their own, so that writing one never tears the other.
const BOOT_SLOT: u64 = 512;
const BOOT_LEN: usize = 64;

impl Founding {
    fn encode(&self) -> [u8; FOUNDING_LEN] {
        let mut bytes = [0; FOUNDING_LEN];
        bytes[0..8].copy_from_slice(FOUNDING_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&LAYOUT.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[32..48].copy_from_slice(&self.store.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.shards.count().to_le_bytes());
        bytes[56..64].copy_from_slice(&HASH_SEED.to_le_bytes());
        bytes[64..80].copy_from_slice(HASH);
        bytes[80..88].copy_from_slice(&self.placement.to_le_bytes());
        bytes[88] = u8::from(self.owns);
        let checksum = crc32c::crc32c(&bytes[..92]);
        bytes[92..96].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, OpenError> {
        let corrupt =
            |what: &str| OpenError::Corrupt { file: FOUNDING.into(), position: 0, what: what.into() };
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let id = |at: usize| u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"));
        if bytes.len() < 16 || &bytes[..8] != FOUNDING_MAGIC {
            return Err(corrupt("it is not a founding record"));
        }
        if word(8) != FORMAT {
            return Err(OpenError::Format { file: FOUNDING.into(), found: word(8), known: FORMAT });
        }
        if bytes.len() != FOUNDING_LEN || word(92) != crc32c::crc32c(&bytes[..92]) {
            return Err(corrupt("its checksum does not match"));
        }
        if word(12) != LAYOUT || bytes[56..64] != HASH_SEED.to_le_bytes() || &bytes[64..80] != HASH {
            return Err(corrupt("it names a layout or hash this build does not know"));
        }
        let shards = Shards::new(word(48)).ok_or_else(|| corrupt("its number of shards is impossible"))?;
        let placement = u64::from_le_bytes(bytes[80..88].try_into().expect("eight bytes"));
        let owns = match bytes[88] {
            0 => false,
            1 => true,
            _ => return Err(corrupt("it neither owns all shards nor none")),
        };
        Ok(Self { cluster: id(16), store: id(32), shards, placement, owns })
    }

    /// Writes the record and gives it its name: the one step that founds.
    pub(super) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.create(FOUNDING_NEW, FOUNDING_LEN as u64)?;
        file.write_at(&self.encode(), 0)?;
        file.sync_data()?;
        // The name last, and only when all else of the directory is durable under its own.
        disk.sync_directory()?;
        disk.rename(FOUNDING_NEW, FOUNDING)?;
        disk.sync_directory()
    }

    pub(super) fn read(disk: &dyn Disk) -> Result<Self, OpenError> {
        let bytes = disk.open(FOUNDING).and_then(|file| read_whole(&*file));
        Self::decode(&bytes.map_err(|error| OpenError::io(FOUNDING, error))?)
    }
}

/// How often a store was opened, and whether it was closed in peace the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Boot {
    /// Raised by every change of the record; its parity says which slot is the older.
    sequence: u64,
    pub(super) count: u64,
    pub(super) clean: bool,
}

impl Boot {
    /// The record of a store that was never opened.
    pub(super) fn create(disk: &dyn Disk, store: StoreId) -> io::Result<()> {
        let file = disk.create(BOOT, 2 * BOOT_SLOT)?;
        let boot = Self { sequence: 0, count: 0, clean: true };
        boot.write(&*file, store)
    }

    /// The newer readable record.
    pub(super) fn read(disk: &dyn Disk, store: StoreId) -> Result<Self, OpenError> {
        let bytes = disk.open(BOOT).and_then(|file| read_whole(&*file));
        let bytes = bytes.map_err(|error| OpenError::io(BOOT, error))?;
        let slot = |at: u64| bytes.get(at as usize..).and_then(|bytes| Self::decode(bytes, store));
        let (even, odd) = (slot(0), slot(BOOT_SLOT));
        let newest = even.into_iter().chain(odd).max_by_key(|boot| boot.sequence);
        let Some(mut newest) = newest else {
            let what = "neither of its records is whole".into();
            return Err(OpenError::Corrupt { file: BOOT.into(), position: 0, what });
        };
        if newest.sequence > 0 && (even.is_none() || odd.is_none()) {
            // The other record was torn in a crash, or damaged; it may have been the newer. No count is used twice.
            newest.count += 1;
            newest.clean = false;
        }
        Ok(newest)
    }

    /// Replaces the older record, durably.
    pub(super) fn change(self, disk: &dyn Disk, store: StoreId, count: u64, clean: bool) -> io::Result<Self> {
        let boot = Self { sequence: self.sequence + 1, count, clean };
        boot.write(&*disk.open(BOOT)?, store)?;
        Ok(boot)
    }

    fn write(self, file: &dyn DiskFile, store: StoreId) -> io::Result<()> {
        file.write_at(&self.encode(store), (self.sequence % 2) * BOOT_SLOT)?;
        file.sync_data()
    }

    fn encode(self, store: StoreId) -> [u8; BOOT_LEN] {
        let mut bytes = [0; BOOT_LEN];
        bytes[0..8].copy_from_slice(BOOT_MAGIC);
        bytes[8..24].copy_from_slice(&store.uuid.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.count.to_le_bytes());
        bytes[40] = u8::from(self.clean);
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], store: StoreId) -> Option<Self> {
        let bytes = bytes.get(..BOOT_LEN)?;
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let good = &bytes[..8] == BOOT_MAGIC
            && bytes[8..24] == store.uuid.to_le_bytes()
            && bytes[60..64] == crc32c::crc32c(&bytes[..60]).to_le_bytes();
        good.then(|| Self { sequence: long(24), count: long(32), clean: bytes[40] == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::SimulatedDisk;

    #[test]
    fn a_founding_record_comes_back_and_every_flipped_bit_is_seen() {
        let founding = Founding { placement: 7, ..Founding::joined(5, 6, Shards::new(64).unwrap()) };
        let bytes = founding.encode();
        assert_eq!(Founding::decode(&bytes).unwrap(), founding);
        let founder = Founding { owns: true, ..founding };
        assert_eq!(Founding::decode(&founder.encode()).unwrap(), founder);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let refused = Founding::decode(&flipped).unwrap_err();
            assert!(
                matches!(refused, OpenError::Corrupt { .. } | OpenError::Format { .. }),
                "bit {bit}: {refused}"
            );
        }
    }

    #[test]
    fn the_boot_counter_rises_through_a_crash_at_any_operation() {
        let store = StoreId::new(1);
        for seed in 0..40 {
            let disk = SimulatedDisk::new(seed);
            Boot::create(&disk, store).unwrap();
            disk.sync_directory().unwrap();
            let mut highest = 0;
            for nth in (1..=4).cycle().take(12) {
                let boot = Boot::read(&disk, store).unwrap();
                disk.crash_at(nth);
                if let Ok(raised) = boot.change(&disk, store, boot.count + 1, false) {
                    assert!(raised.count > highest, "seed {seed}");
                    highest = raised.count;
                }
                disk.crash();
                disk.restart();
            }
        }
    }
}
