//! `MessagePack` with field names, and the check that keeps hostile nesting away from serde.
//!
//! State and messages are encoded as maps, so that fields can be added while old bytes lie in logs and queues. serde
//! recurses on the stack and rmp-serde does not count the levels of enums, so a body is scanned without recursion
//! before it is decoded: a stack overflow cannot be caught.

use serde::{Serialize, de::DeserializeOwned};

/// Deepest nesting of a message or state. Beyond it decoding is an error, not a stack overflow.
pub const NESTING_MAX: usize = 128;

/// Appends the encoding of `value` to `out`.
///
/// # Errors
/// The type's own `Serialize` failed; `out` then holds a part that the caller must cut off.
pub fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), String> {
    let mut serializer = rmp_serde::Serializer::new(out).with_struct_map();
    value.serialize(&mut serializer).map_err(|error| error.to_string())
}

/// Reads one value from the front of `bytes`.
///
/// # Errors
/// The bytes are truncated, nested deeper than [`NESTING_MAX`], or of another shape.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    // Every level takes at least a byte, so a short body cannot nest too deep and needs no scan.
    if bytes.len() > NESTING_MAX {
        check_nesting(bytes, NESTING_MAX)?;
    }
    rmp_serde::from_slice(bytes).map_err(|error| error.to_string())
}

/// Walks one encoded value without recursion and returns its length.
///
/// # Errors
/// The value is truncated, nested deeper than `depth_max`, or claims more elements than there are bytes.
pub fn check_nesting(bytes: &[u8], depth_max: usize) -> Result<usize, String> {
    let mut reader = Scan { rest: bytes };
    // Children still to come, one count per open level.
    let mut open: Vec<usize> = Vec::new();
    loop {
        let children = reader.head()?;
        if children > reader.rest.len() {
            return Err("more elements than bytes".into());
        }
        if children > 0 {
            if open.len() == depth_max {
                return Err(format!("nested deeper than {depth_max} levels"));
            }
            open.push(children);
            continue;
        }
        loop {
            match open.last_mut() {
                None => return Ok(bytes.len() - reader.rest.len()),
                Some(left) => {
                    *left -= 1;
                    if *left > 0 {
                        break;
                    }
                    open.pop();
                }
            }
        }
    }
}

struct Scan<'b> {
    rest: &'b [u8],
}

impl Scan<'_> {
    fn skip(&mut self, len: usize) -> Result<(), String> {
        self.rest = self.rest.get(len..).ok_or("truncated")?;
        Ok(())
    }

    fn number(&mut self, width: usize) -> Result<usize, String> {
        let (head, rest) = self.rest.split_at_checked(width).ok_or("truncated")?;
        self.rest = rest;
        Ok(head.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    /// Reads one marker with its length and skips its scalar bytes; returns how many values follow inside it.
    fn head(&mut self) -> Result<usize, String> {
        let marker = self.number(1)?;
        let (skipped, children) = match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
            0x80..=0x8f => (0, 2 * (marker & 15)),
            0x90..=0x9f => (0, marker & 15),
            0xa0..=0xbf => (marker & 31, 0),
            0xc4 | 0xd9 => (self.number(1)?, 0),
            0xc5 | 0xda => (self.number(2)?, 0),
            0xc6 | 0xdb => (self.number(4)?, 0),
            0xc7 => (self.number(1)? + 1, 0),
            0xc8 => (self.number(2)? + 1, 0),
            0xc9 => (self.number(4)? + 1, 0),
            0xcc | 0xd0 => (1, 0),
            0xcd | 0xd1 => (2, 0),
            0xca | 0xce | 0xd2 => (4, 0),
            0xcb | 0xcf | 0xd3 => (8, 0),
            0xd4..=0xd8 => ((1 << (marker - 0xd4)) + 1, 0),
            0xdc => (0, self.number(2)?),
            0xdd => (0, self.number(4)?),
            0xde => (0, 2 * self.number(2)?),
            0xdf => (0, 2 * self.number(4)?),
            _ => return Err("reserved marker".into()),
        };
        self.skip(skipped)?;
        Ok(children)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Chain {
        End,
        Next(Box<Chain>),
    }

    fn chain(levels: usize) -> Vec<u8> {
        // `{"Next": ...}` per level, written by hand: building the value would recurse in drop.
        let mut bytes = Vec::new();
        for _ in 0..levels {
            bytes.extend_from_slice(b"\x81\xa4Next");
        }
        bytes.extend_from_slice(b"\xa3End");
        bytes
    }

    #[test]
    fn deep_enum_nesting_is_an_error_and_not_a_stack_overflow() {
        assert!(decode::<Chain>(&chain(20)).is_ok());
        let error = decode::<Chain>(&chain(40_000)).expect_err("40,000 levels");
        assert!(error.contains("nested deeper"), "{error}");
    }

    #[test]
    fn lies_about_lengths_are_errors() {
        for bytes in
            [&b"\xdd\xff\xff\xff\xff"[..], b"\xc6\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff\x01", b"\xc1", b""]
        {
            assert!(check_nesting(bytes, 8).is_err(), "{bytes:x?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_scan_agrees_with_the_encoder(value: Vec<(String, Vec<u8>, Option<i64>, f64)>) {
            let mut bytes = Vec::new();
            encode(&value, &mut bytes).expect("encodes");
            proptest::prop_assert_eq!(check_nesting(&bytes, NESTING_MAX), Ok(bytes.len()));
        }

        #[test]
        fn any_bytes_are_scanned_without_a_panic(bytes: Vec<u8>) {
            let _ = check_nesting(&bytes, 16);
            let _ = decode::<Vec<Vec<u8>>>(&bytes);
        }
    }
}
