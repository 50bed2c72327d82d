//! What every store asks of a note: small values beside the shards, by name.

use std::io;

/// The longest note a store keeps; a longer one is refused.
pub const NOTE_BYTES_MAX: usize = 1 << 20;
/// The longest name of a note.
pub const NOTE_NAME_LEN_MAX: usize = 32;

/// Whether a name can be that of a note. Names come from the code of the rooms above, so this is for their mistakes.
pub(super) fn check_name(name: &str) -> io::Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=NOTE_NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(is_allowed) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} cannot name a note")))
}

/// Whether a note can be kept.
pub(super) fn check_note(name: &str, bytes: &[u8]) -> io::Result<()> {
    check_name(name)?;
    if bytes.len() > NOTE_BYTES_MAX {
        let what = format!("a note of {} bytes is longer than {NOTE_BYTES_MAX}", bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(())
}
