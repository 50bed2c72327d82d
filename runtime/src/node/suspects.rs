//! The messages that may have ended a process: written down before they run, crossed out after (P3).
//!
//! A node with a data directory has a file for them. It lies beside the store and is never synced: a process that dies
//! leaves what it wrote to the system. A record that is torn or lost costs one more crash before the message is given up, no
//! more.

use crate::placement::ShardId;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Name of the file in the data directory.
pub(crate) const FILE: &str = "suspects";
/// Turns after an unclean exit that are run carefully, beyond those that were pending in the store: what feeds and clients
/// send again first. A message further back is reached after another crash, for all before it is durable then.
pub(crate) const CAREFUL_TURNS: u64 = 65_536;
/// A message that was running at so many crashes in a row is given up.
const CRASHES_MAX: u32 = 3;
/// Messages remembered.
const RECORDS: usize = 64;
const RECORD_LEN: usize = 24;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Record {
    /// Zero: no record.
    digest: u64,
    /// Crashes while it ran.
    crashes: u32,
    running: bool,
}

impl Record {
    fn encode(self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        bytes[..8].copy_from_slice(&self.digest.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.crashes.to_le_bytes());
        bytes[12] = u8::from(self.running);
        let checksum = crc32c::crc32c(&bytes[..16]);
        bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_LEN] = bytes.try_into().ok()?;
        let (body, checksum) = (&bytes[..16], &bytes[16..20]);
        if crc32c::crc32c(body).to_le_bytes() != *checksum {
            return None;
        }
        let digest = u64::from_le_bytes(body[..8].try_into().ok()?);
        let crashes = u32::from_le_bytes(body[8..12].try_into().ok()?);
        Some(Self { digest, crashes, running: body[12] == 1 })
    }
}

/// Where suspected messages are written down.
pub(crate) trait SuspectList: Send {
    /// A message is about to run. Returns how many processes in a row ended while it did. One that is given up for that
    /// ([`CRASHES_MAX`]) does not run, and stays as it is: should the commit of its dead letter be lost, it is known.
    fn begin(&mut self, shard: ShardId, digest: u64) -> u32;

    /// It has run and the process lives: nothing is held against it.
    fn over(&mut self, shard: ShardId, digest: u64);
}

/// The list of a node that uses its directory alone. Its shards are not told apart: a message names its entity.
struct SuspectFile {
    file: File,
    records: Vec<Record>,
}

/// See the module.
pub(crate) struct Suspects(Mutex<Box<dyn SuspectList>>);

/// One message runs. While it does no other runs carefully, or it would be blamed for that one's crash.
pub(crate) struct Running<'s> {
    list: MutexGuard<'s, Box<dyn SuspectList>>,
    shard: ShardId,
    digest: u64,
}

impl Suspects {
    /// After an unclean exit: reads what was running when the process died. After a clean one there is nothing to suspect.
    pub(crate) fn open(data_dir: &Path, was_clean: bool) -> io::Result<Option<Self>> {
        let path = data_dir.join(FILE);
        if was_clean {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(None),
            };
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; RECORDS * RECORD_LEN];
        let len = file.read_at(&mut bytes, 0)?;
        let mut records: Vec<Record> =
            bytes[..len].chunks(RECORD_LEN).map(|bytes| Record::decode(bytes).unwrap_or_default()).collect();
        records.resize(RECORDS, Record::default());
        for record in &mut records {
            record.crashes += u32::from(std::mem::take(&mut record.running));
        }
        let written: Vec<u8> = records.iter().flat_map(|record| record.encode()).collect();
        file.write_all_at(&written, 0)?;
        Ok(Some(Self(Mutex::new(Box::new(SuspectFile { file, records })))))
    }

    /// A message is about to run. `Err`: it must not, for this reason.
    pub(crate) fn begin(&self, shard: ShardId, digest: u64) -> Result<Running<'_>, String> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let crashes = list.begin(shard, digest);
        if CRASHES_MAX <= crashes {
            return Err(format!("the process ended {crashes} times in a row while this message ran"));
        }
        Ok(Running { list, shard, digest })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.list.over(self.shard, self.digest);
    }
}

impl SuspectFile {
    fn find(&self, digest: u64) -> Option<usize> {
        self.records.iter().position(|record| record.digest == digest)
    }

    fn set(&mut self, at: usize, record: Record) {
        self.records[at] = record;
        if let Err(error) = self.file.write_all_at(&record.encode(), (at * RECORD_LEN) as u64) {
            // A full disk, say. A message that ends the process is then not found out.
            tracing::warn!(%error, "a suspected message could not be written down");
        }
    }
}

impl SuspectList for SuspectFile {
    fn begin(&mut self, _: ShardId, digest: u64) -> u32 {
        let known = self.find(digest);
        let crashes = known.map_or(0, |at| self.records[at].crashes);
        if crashes < CRASHES_MAX {
            let at = known.unwrap_or_else(|| {
                let least = (0..RECORDS).min_by_key(|at| {
                    let record = self.records[*at];
                    (record.digest != 0, record.crashes)
                });
                least.expect("there are records")
            });
            self.set(at, Record { digest, crashes, running: true });
        }
        crashes
    }

    fn over(&mut self, _: ShardId, digest: u64) {
        if let Some(at) = self.find(digest) {
            self.set(at, Record::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(3);

    #[test]
    fn a_message_found_running_three_times_is_given_up_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Suspects::open(directory.path(), true).unwrap().is_none());
        for _ in 0..CRASHES_MAX {
            let suspects = Suspects::open(directory.path(), false).unwrap().unwrap();
            drop(suspects.begin(SHARD, 1).map_err(|_| "an innocent").unwrap());
            // A process that dies here drops nothing.
            std::mem::forget(suspects.begin(SHARD, 2).map_err(|_| "too early").unwrap());
        }
        let suspects = Suspects::open(directory.path(), false).unwrap().unwrap();
        assert!(suspects.begin(SHARD, 2).is_err());
        assert!(suspects.begin(SHARD, 1).is_ok());
        assert!(suspects.begin(SHARD, 2).is_err());
        drop(suspects);
        assert!(Suspects::open(directory.path(), true).unwrap().is_none());
        assert!(!directory.path().join(FILE).exists());
    }

    #[test]
    fn a_torn_file_is_no_error_and_many_messages_do_not_make_it_grow() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::fs::write(&path, [7; 100]).unwrap();
        let suspects = Suspects::open(directory.path(), false).unwrap().unwrap();
        for digest in 1..1_000 {
            drop(suspects.begin(SHARD, digest).map_err(|_| "an innocent").unwrap());
        }
        assert_eq!(std::fs::metadata(path).unwrap().len(), (RECORDS * RECORD_LEN) as u64);
    }
}
