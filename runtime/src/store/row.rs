//! Rows: everything a shard has, as key and value.
//!
//! The log, the checkpoint and recovery know rows only by their bytes: a [`Batch`](super::Batch) is a list of row
//! writes per shard, the newest value of a key wins. What a row means is the business of the room that writes it; its
//! type byte is listed here, so that no two rooms use one twice and an operator's tool can name what it finds.

/// What a row is about: the first byte of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RowType {
    /// Counters of the shard. One row, key empty.
    Head = 0x01,
    /// Receiving end of a stream. Key: source shard `u32`.
    Inbox = 0x10,
    /// Sending end of a stream. Key: target shard `u32`.
    Sent = 0x11,
    /// A message committed and not yet acknowledged. Key: target shard `u32`, number `u64`.
    Outbox = 0x12,
    /// A feed. Key: hash of its name, `u128`, and which part of it, `u8`: its receiving end, its name, its claim.
    Feed = 0x20,
    /// What a client has settled: its floor and the exceptions. Key: client `u128`.
    Client = 0x21,
    /// A stored reply. Key: client `u128`, number `u64`.
    Reply = 0x22,
    /// A durable reminder. Key: id `u64`.
    Reminder = 0x30,
    /// A message of a stuck entity. Key: number `u64`.
    Waiting = 0x31,
    /// A message that was given up. Key: number `u64`.
    DeadLetter = 0x32,
    /// An entity's state. Key: kind, zero, key. The highest type: a shard is loaded without its images.
    Image = 0xf0,
}

impl RowType {
    /// All of them, in key order.
    pub const ALL: [Self; 11] = [
        Self::Head,
        Self::Inbox,
        Self::Sent,
        Self::Outbox,
        Self::Feed,
        Self::Client,
        Self::Reply,
        Self::Reminder,
        Self::Waiting,
        Self::DeadLetter,
        Self::Image,
    ];

    /// The type whose byte this is.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|row_type| *row_type as u8 == byte)
    }
}

/// One change of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write<'b> {
    /// The row now has this value.
    Put {
        /// Key of the row: type byte first.
        key: &'b [u8],
        /// Its value.
        value: &'b [u8],
    },
    /// The row is gone.
    Delete {
        /// Key of the row.
        key: &'b [u8],
    },
    /// The rows `prefix ++ number` (big endian `u64`) are gone for every number of the range, at most
    /// [`DELETE_RANGE_MAX`](super::batch::DELETE_RANGE_MAX) of them. Each was put once in all its life, so that a put
    /// and its delete may vanish together before they reach the checkpoint. Those not there are no error.
    DeleteRange {
        /// What their keys begin with.
        prefix: &'b [u8],
        /// First number.
        from: u64,
        /// Last number.
        through: u64,
    },
}

/// A row as it is loaded: key with its type byte, and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Appends an unsigned number in seven-bit groups, least first (LEB128).
pub fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number that [`put_varint`] wrote from the front of `bytes`; `None` where there is none.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let group = u64::from(byte & 0x7f);
        if shift == 63 && group > 1 {
            return None;
        }
        number |= group << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Takes `len` bytes from the front; `None` where there are fewer.
pub fn take<'b>(bytes: &mut &'b [u8], len: usize) -> Option<&'b [u8]> {
    let (head, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(head)
}

/// Takes a big-endian number of four bytes, as keys hold them.
pub fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes, 4).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")))
}

/// Takes a big-endian number of eight bytes, as keys hold them.
pub fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes, 8).map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes")))
}

/// Takes a big-endian number of sixteen bytes, as keys hold them.
pub fn take_u128(bytes: &mut &[u8]) -> Option<u128> {
    take(bytes, 16).map(|bytes| u128::from_be_bytes(bytes.try_into().expect("sixteen bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_varint_comes_back(number: u64, tail: Vec<u8>) {
            let mut bytes = Vec::new();
            put_varint(number, &mut bytes);
            bytes.extend_from_slice(&tail);
            let mut rest = bytes.as_slice();
            proptest::prop_assert_eq!(take_varint(&mut rest), Some(number));
            proptest::prop_assert_eq!(rest, tail.as_slice());
        }
    }

    #[test]
    fn an_overlong_varint_is_none() {
        assert_eq!(take_varint(&mut [0xff; 11].as_slice()), None);
        assert_eq!(take_varint(&mut [0x80].as_slice()), None);
        let mut most = vec![0xff; 9];
        most.push(2);
        assert_eq!(take_varint(&mut most.as_slice()), None);
    }
}
