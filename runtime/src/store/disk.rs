//! The one door to files: a real directory, or a simulated disk that forgets what was not synced.
//!
//! The embedded store writes its log and its small files through [`Disk`] alone, so every crash a disk can cause can be
//! caused in a test. The rules of the medium are those of POSIX at its least helpful:
//!
//! * what was written is durable only when [`DiskFile::sync_data`] has returned `Ok`;
//! * a file created, renamed or removed is so for good only when [`Disk::sync_directory`] has returned `Ok`;
//! * a failed sync has lost an unknown part of what it should have kept, and a later one does not bring it back.

mod real;
mod simulated;

use std::io;
use std::sync::Arc;

pub use real::RealDisk;
pub use simulated::{DiskFaults, SimulatedDisk};

/// A flat directory of files.
pub trait Disk: Send + Sync + 'static {
    /// Creates a file of `len` zeros, all of them written, so that later writes allocate nothing. Neither the zeros nor
    /// the name are durable yet.
    ///
    /// # Errors
    /// The name is taken, the disk is full (then nothing is left of the file), or the medium failed.
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// There is none of this name, or the medium failed.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, in place of the file that had it.
    ///
    /// # Errors
    /// There is none of this name, or the medium failed.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// There is none of this name, or the medium failed.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// All names, sorted; subdirectories are among them.
    ///
    /// # Errors
    /// The medium failed.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes the names durable: what was created, renamed and removed before.
    ///
    /// # Errors
    /// The medium failed; which names it keeps is not known.
    fn sync_directory(&self) -> io::Result<()>;

    /// Takes the directory for this process until the lock is dropped or the process ends.
    ///
    /// # Errors
    /// Another has it, or the medium failed.
    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError>;
}

/// An open file. Reads and writes of different threads go on beside one another.
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The medium failed.
    fn byte_len(&self) -> io::Result<u64>;

    /// Fills `bytes` from offset `at`; what lies behind the end of the file reads as zeros.
    ///
    /// # Errors
    /// The medium failed.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()>;

    /// Writes all of `bytes` at offset `at`, extending the file where needed. Not durable yet.
    ///
    /// # Errors
    /// The medium failed or is full; a part may be written.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Makes everything written to this file durable.
    ///
    /// # Errors
    /// The medium failed. Never to be tried again: a later success says nothing about these writes.
    fn sync_data(&self) -> io::Result<()>;
}

/// Held while a directory is in use.
pub trait DiskLock: Send + Sync {}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another holder, with its process id where it is known.
    #[error("held by {}", .0.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    Held(Option<u32>),
    /// The medium failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// All bytes of a file that is small.
pub(super) fn read_whole(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.byte_len()?).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = vec![0; len];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}
