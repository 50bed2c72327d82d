//! The checkpoint as a file of all rows, for simulated disks and small stores.
//!
//! Two files take turns; each holds a whole checkpoint with its sequence number and checksum, and the newest that is whole
//! counts. A round writes everything again, so this is for stores whose rows fit in memory many times over.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use super::{Checkpoint, SortedRows};
use crate::store::disk::{Disk, read_whole};
use crate::store::embedded::segment::StoreId;

const NAMES: [&str; 2] = ["checkpoint-0.rows", "checkpoint-1.rows"];
const MAGIC: &[u8; 8] = b"ENTITCKP";
const FORMAT: u32 = 1;
/// Magic, format, checksum, UUID, sequence number, length of the rows.
const HEADER: usize = 8 + 4 + 4 + 16 + 8 + 8;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// All rows in memory and in one of two files.
pub(in crate::store::embedded) struct SnapshotCheckpoint {
    disk: Arc<dyn Disk>,
    store: StoreId,
    state: RwLock<State>,
}

struct State {
    sequence: u64,
    rows: Rows,
}

impl SnapshotCheckpoint {
    /// Opens the newer whole file, or begins with nothing.
    ///
    /// # Errors
    /// The medium failed.
    pub(in crate::store::embedded) fn open(disk: Arc<dyn Disk>, store: StoreId) -> io::Result<Self> {
        let mut newest = State { sequence: 0, rows: Rows::new() };
        let mut newest_file = None;
        for name in NAMES {
            let file = match disk.open(name) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // One that is not whole was being written when the power went; the other has what counts. If it has not,
            // the log no longer continues at its position, and the store refuses to open.
            let bytes = read_whole(&*file)?;
            if let Some(state) = decode(&bytes, store)
                && state.sequence > newest.sequence
            {
                newest = state;
                newest_file = Some((file, bytes));
            }
        }
        // What was read may be in memory alone: a sync that failed in the run before has lost it for the disk. The next round
        // writes over the other file, so this one must be there before (P15).
        if let Some((file, bytes)) = newest_file {
            file.write_at(&bytes, 0)?;
            file.sync_data()?;
            disk.sync_directory()?;
        }
        Ok(Self { disk, store, state: RwLock::new(newest) })
    }
}

impl Checkpoint for SnapshotCheckpoint {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state.read().unwrap_or_else(PoisonError::into_inner).rows.get(key).cloned())
    }

    fn scan(&self, from: &[u8], below: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let range = (std::ops::Bound::Included(from), std::ops::Bound::Excluded(below));
        let _ = state.rows.range::<[u8], _>(range).all(|(key, value)| visit(key, value));
        Ok(())
    }

    fn ingest(&self, rows: &mut dyn SortedRows) -> io::Result<()> {
        let (sequence, mut merged) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.sequence + 1, state.rows.clone())
        };
        while let Some((key, value)) = rows.next() {
            match value {
                Some(value) => drop(merged.insert(key.to_vec(), value.to_vec())),
                None => drop(merged.remove(key)),
            }
        }
        let bytes = encode(sequence, &merged, self.store);
        let name = NAMES[(sequence % 2) as usize];
        match self.disk.remove(name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = self.disk.create(name, bytes.len() as u64)?;
        file.write_at(&bytes, 0)?;
        file.sync_data()?;
        self.disk.sync_directory()?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = State { sequence, rows: merged };
        Ok(())
    }
}

fn encode(sequence: u64, rows: &Rows, store: StoreId) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    for (key, value) in rows {
        bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    let len = (bytes.len() - HEADER) as u64;
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[16..32].copy_from_slice(&store.uuid.to_le_bytes());
    bytes[32..40].copy_from_slice(&sequence.to_le_bytes());
    bytes[40..48].copy_from_slice(&len.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[16..]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8], store: StoreId) -> Option<State> {
    let (header, mut rest) = bytes.split_at_checked(HEADER)?;
    let good = &header[..8] == MAGIC
        && header[8..12] == FORMAT.to_le_bytes()
        && header[12..16] == crc32c::crc32c(&bytes[16..]).to_le_bytes()
        && header[16..32] == store.uuid.to_le_bytes()
        && header[40..48] == (rest.len() as u64).to_le_bytes();
    if !good {
        return None;
    }
    let sequence = u64::from_le_bytes(header[32..40].try_into().ok()?);
    let mut rows = Rows::new();
    while !rest.is_empty() {
        let (lens, behind) = rest.split_at_checked(8)?;
        let len =
            |at: usize| u32::from_le_bytes([lens[at], lens[at + 1], lens[at + 2], lens[at + 3]]) as usize;
        let (key, behind) = behind.split_at_checked(len(0))?;
        let (value, behind) = behind.split_at_checked(len(4))?;
        rows.insert(key.to_vec(), value.to_vec());
        rest = behind;
    }
    Some(State { sequence, rows })
}
