//! Notes: small values beside the shards, each in a file that is replaced whole.
//!
//! ```text
//! note := "ENTITNOT", format:u32le, checksum:u32le, store:u128le, bytes
//! ```
//! The checksum is of all that follows it, and begins with that of the note's name.

use std::io;

use super::segment::StoreId;
use crate::store::disk::{Disk, read_whole};
use crate::store::notes::{NOTE_BYTES_MAX, check_name, check_note};

const MAGIC: &[u8; 8] = b"ENTITNOT";
const FORMAT: u32 = 1;
const HEADER: usize = 32;

/// Reads a note; `None` if it was never kept.
pub(super) fn read(disk: &dyn Disk, store: StoreId, name: &str) -> io::Result<Option<Vec<u8>>> {
    check_name(name)?;
    let file_name = file_name(name);
    let file = match disk.open(&file_name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{file_name} is damaged"));
    if file.byte_len()? > (HEADER + NOTE_BYTES_MAX) as u64 {
        return Err(damaged());
    }
    let mut bytes = read_whole(&*file)?;
    let good = bytes.len() >= HEADER
        && &bytes[..8] == MAGIC
        && bytes[8..12] == FORMAT.to_le_bytes()
        && bytes[12..16] == checksum(name, &bytes[16..]).to_le_bytes()
        && bytes[16..32] == store.uuid.to_le_bytes();
    if !good {
        return Err(damaged());
    }
    bytes.drain(..HEADER);
    Ok(Some(bytes))
}

/// Puts a note in place of the one before: after a crash it is the one or the other.
pub(super) fn write(disk: &dyn Disk, store: StoreId, name: &str, bytes: &[u8]) -> io::Result<()> {
    check_note(name, bytes)?;
    let file_name = file_name(name);
    let mut whole = vec![0; 16];
    whole.extend_from_slice(&store.uuid.to_le_bytes());
    whole.extend_from_slice(bytes);
    whole[..8].copy_from_slice(MAGIC);
    whole[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let checksum = checksum(name, &whole[16..]);
    whole[12..16].copy_from_slice(&checksum.to_le_bytes());
    let new = format!("{file_name}.new");
    // Left by a crash, or by a disk that was full.
    match disk.remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&new, whole.len() as u64)?;
    file.write_at(&whole, 0)?;
    file.sync_data()?;
    disk.rename(&new, &file_name)?;
    disk.sync_directory()
}

fn file_name(name: &str) -> String {
    format!("note-{name}")
}

fn checksum(name: &str, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(name.as_bytes()), bytes)
}
