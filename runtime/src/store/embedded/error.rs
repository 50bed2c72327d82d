//! Why a store could not be opened or founded. Each message tells the way out.

use std::io;

/// Why a store was not opened or founded. Nothing was lost by the attempt, and it may be repeated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no store here.
    #[error("no store in {place}: found one, or name the directory (mount the volume) that holds it")]
    NotFounded {
        /// The directory.
        place: String,
    },
    /// There is a store already.
    #[error("{place} holds a store already: open it instead of founding one")]
    AlreadyFounded {
        /// The directory.
        place: String,
    },
    /// The path is not a directory.
    #[error("{place} is not a directory: name one that is, or can be made")]
    NotADirectory {
        /// The path.
        place: String,
    },
    /// The directory refuses to be read or written.
    #[error("cannot read and write {place}: give this user the right to ({error})")]
    NotWritable {
        /// The directory.
        place: String,
        /// What the system said.
        error: io::Error,
    },
    /// Something else lies in the directory.
    #[error("{place} holds `{name}`, which is not of a store: found the store in an empty directory")]
    NotEmpty {
        /// The directory.
        place: String,
        /// The foreign name.
        name: String,
    },
    /// In use.
    #[error("{} uses data directory {place}: stop it, or use another directory", .by.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    Locked {
        /// The directory.
        place: String,
        /// Process id of the holder, where it is known.
        by: Option<u32>,
    },
    /// Written by a build that stores otherwise.
    #[error("{file} has format version {found}, this build reads {known}: start the build that wrote it")]
    Format {
        /// The file.
        file: String,
        /// Version found.
        found: u32,
        /// Version this build reads.
        known: u32,
    },
    /// The number of shards is fixed at founding.
    #[error("the store was founded with {founded} shards, not {configured}: configure {founded}")]
    Shards {
        /// As founded.
        founded: u32,
        /// As configured.
        configured: u32,
    },
    /// What was durable is damaged. Nothing is skipped and nothing was changed.
    #[error(
        "{file} is corrupt at log position {position}: {what}; restore this node's data directory from a copy, \
         or replace the disk and give up the node"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// The log position, zero where the damage is not in the log.
        position: u64,
        /// What was found.
        what: String,
    },
    /// No space for what opening needs.
    #[error("the disk of {place} is full: free some space and start again")]
    Full {
        /// The directory.
        place: String,
    },
    /// The settings contradict themselves.
    #[error("configuration: {0}")]
    Config(&'static str),
    /// The medium failed.
    #[error("{place}: {error}; check the disk and start again")]
    Io {
        /// The directory.
        place: String,
        /// What the system said.
        error: io::Error,
    },
}

impl OpenError {
    /// Sorts a system error by what its reader can do about it.
    pub(super) fn io(place: &str, error: io::Error) -> Self {
        let place = place.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { place },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { place, error }
            }
            io::ErrorKind::NotADirectory => Self::NotADirectory { place },
            _ => Self::Io { place, error },
        }
    }
}
