//! A directory of the file system.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, DiskFile, DiskLock, LockError};

/// Zeros are written in pieces of this size when a file is created.
const ZEROS: usize = 1 << 20;
/// The name of the lock file; it holds the process id of its holder.
const LOCK: &str = "lock";

/// A directory of the file system.
#[derive(Debug, Clone)]
pub struct RealDisk {
    directory: PathBuf,
}

impl RealDisk {
    /// The disk that is `directory`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], [`io::ErrorKind::NotADirectory`], or the file system refuses.
    pub fn existing(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        if !fs::metadata(&directory)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { directory })
    }

    /// Creates `directory` where it is missing, with its parents, durably.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotADirectory`], or the file system refuses.
    pub fn create_directory(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        let missing: Vec<_> = directory.ancestors().take_while(|path| !exists(path)).collect();
        fs::create_dir_all(&directory).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
            _ => error,
        })?;
        for made in missing {
            // Each is a name in its parent, durable when that is synced.
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(Self { directory })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = write_zeros(&file, len) {
            drop(file);
            fs::remove_file(&path)?;
            return Err(error);
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError> {
        let path = self.path(LOCK);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                write!(file, "{}", std::process::id())?;
                Ok(Box::new(RealLock { file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who holds it is for the message alone.
                let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                Err(LockError::Held(holder))
            }
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

/// The empty path, where the parents of a relative one end, is the working directory.
fn exists(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.exists()
}

fn write_zeros(file: &File, len: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS.min(usize::try_from(len).unwrap_or(ZEROS))];
    let mut at = 0;
    while at < len {
        let piece = (len - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..piece as usize], at)?;
        at += piece;
    }
    Ok(())
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.0.read_at(bytes, at) {
                Ok(0) => {
                    bytes.fill(0);
                    break;
                }
                Ok(read) => {
                    bytes = &mut bytes[read..];
                    at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// The operating system frees the lock when the file is closed, however the process ends.
#[derive(Debug)]
struct RealLock {
    file: File,
}

impl DiskLock for RealLock {}

impl Drop for RealLock {
    fn drop(&mut self) {
        // Closing is not enough: a process that another thread is just starting has a copy of the open file until it is
        // another program, and keeps the lock for so long. Where this fails, the close behind it is what is left.
        let _ = self.file.unlock();
    }
}
