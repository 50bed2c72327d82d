//! The checkpoint on disk: fjall, by sorted ingestion.
//!
//! An ingestion writes one sorted run past memtable and journal, syncs its tables, their directory and the new version,
//! and switches to it at once; nothing else is ever written to the keyspace, so its journal stays empty. After a failure
//! the library leaves orphaned tables and, where its own compaction met it, stopped threads; opening it anew clears both.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Checkpoint, SortedRows};

/// A fjall database with one keyspace.
pub(in crate::store::embedded) struct SortedCheckpoint {
    path: PathBuf,
    cache_bytes: u64,
    /// `None` while it cannot be opened again after a failure.
    open: RwLock<Option<Open>>,
}

struct Open {
    database: Database,
    rows: Keyspace,
}

impl SortedCheckpoint {
    /// Opens the checkpoint at `path`, or makes an empty one.
    ///
    /// # Errors
    /// The medium failed, is full or corrupt.
    pub(in crate::store::embedded) fn open(path: &Path, cache_bytes: u64) -> io::Result<Self> {
        let open = Open::new(path, cache_bytes)?;
        Ok(Self { path: path.to_owned(), cache_bytes, open: RwLock::new(Some(open)) })
    }

    fn with<T>(&self, act: impl FnOnce(&Open) -> fjall::Result<T>) -> io::Result<T> {
        let guard = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let open =
            guard.as_ref().ok_or_else(|| io::Error::other("the checkpoint could not be opened again"))?;
        act(open).map_err(into_io)
    }

    fn reopen(&self) -> io::Result<()> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // The old one first: it holds the lock of its directory until it is gone.
        *open = None;
        *open = Some(Open::new(&self.path, self.cache_bytes)?);
        Ok(())
    }
}

impl Open {
    fn new(path: &Path, cache_bytes: u64) -> io::Result<Self> {
        let database =
            Database::builder(path).cache_size(cache_bytes).worker_threads(1).open().map_err(into_io)?;
        let rows = database.keyspace("rows", KeyspaceCreateOptions::default).map_err(into_io)?;
        Ok(Self { database, rows })
    }
}

impl Checkpoint for SortedCheckpoint {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.with(|open| Ok(open.rows.get(key)?.map(|value| value.to_vec())))
    }

    fn scan(&self, from: &[u8], below: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        self.with(|open| {
            for row in open.rows.range(from..below) {
                let (key, value) = row.into_inner()?;
                if !visit(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn ingest(&self, rows: &mut dyn SortedRows) -> io::Result<()> {
        // Its compaction may have failed on its own since the last round, which shows only here.
        if self.with(|open| open.database.persist(PersistMode::Buffer)).is_err() {
            self.reopen()?;
        }
        let ingested = self.with(|open| {
            let mut ingestion = open.rows.start_ingestion()?;
            while let Some((key, value)) = rows.next() {
                match value {
                    Some(value) => ingestion.write(key, value)?,
                    None => ingestion.write_tombstone(key)?,
                }
            }
            ingestion.finish()
        });
        if ingested.is_err() {
            // Whether it could be opened again shows when it is next used; what went wrong first is reported.
            drop(self.reopen());
        }
        ingested
    }
}

fn into_io(error: fjall::Error) -> io::Error {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, format!("checkpoint: {error}")),
    }
}
