//! A range of row keys as ranges of the tables' own keys.
//!
//! A range may begin and end anywhere, also in the middle of a number. What is asked of a table holds all rows of the range that lie
//! there, and may hold a few beside it: whoever reads them compares keys once more. So a bound that no column can
//! hold is widened to one that it can.

use crate::store::RowType;
use std::ops::Range;

/// First and last keys of `entity.outbox`: target, number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutboxBounds {
    pub(super) from: (i32, i64),
    pub(super) through: (i32, i64),
}

/// First and last keys of `entity.reply`: client, number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyBounds {
    pub(super) from: (u128, i64),
    pub(super) through: (u128, i64),
}

/// First and last keys of `entity.item`: type, number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ItemBounds {
    pub(super) from: (i16, i64),
    pub(super) through: (i16, i64),
}

/// First key of `entity.mark`, and the one behind the last: type, rest of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MarkBounds<'k> {
    pub(super) from: (i16, &'k [u8]),
    pub(super) below: (i16, &'k [u8]),
}

/// First key of `entity.state`, and the one behind the last: kind, key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StateBounds<'k> {
    pub(super) from: (String, &'k [u8]),
    pub(super) below: (String, &'k [u8]),
}

const OUTBOX_LEN: usize = 1 + 4 + 8;
const REPLY_LEN: usize = 1 + 16 + 8;
const ITEM_LEN: usize = 1 + 8;
const IMAGE: u8 = RowType::Image as u8;
/// Behind every letter of a kind (P6).
const BEHIND_LETTERS: char = '~';

impl OutboxBounds {
    pub(super) fn of(keys: &Range<&[u8]>) -> Option<Self> {
        let (from, through) = fixed::<OUTBOX_LEN>(keys, RowType::Outbox, RowType::Outbox)?;
        let target = |key: &[u8; OUTBOX_LEN]| u32::from_be_bytes(key[1..5].try_into().expect("four bytes"));
        let low = i32::try_from(target(&from)).unwrap_or(i32::MAX);
        let through = match i32::try_from(target(&through)) {
            Ok(target) => (target, number(&through)),
            Err(_) => (i32::MAX, i64::MAX),
        };
        Some(Self { from: (low, number(&from)), through })
    }
}

impl ReplyBounds {
    pub(super) fn of(keys: &Range<&[u8]>) -> Option<Self> {
        let (from, through) = fixed::<REPLY_LEN>(keys, RowType::Reply, RowType::Reply)?;
        let client =
            |key: &[u8; REPLY_LEN]| u128::from_be_bytes(key[1..17].try_into().expect("sixteen bytes"));
        Some(Self { from: (client(&from), number(&from)), through: (client(&through), number(&through)) })
    }
}

impl ItemBounds {
    pub(super) fn of(keys: &Range<&[u8]>) -> Option<Self> {
        let (from, through) = fixed::<ITEM_LEN>(keys, RowType::Reminder, RowType::DeadLetter)?;
        let of = |key: &[u8; ITEM_LEN]| (i16::from(key[0]), number(key));
        Some(Self { from: of(&from), through: of(&through) })
    }
}

impl<'k> MarkBounds<'k> {
    pub(super) fn of(keys: &Range<&'k [u8]>) -> Option<Self> {
        let split = |key: &'k [u8]| key.split_first().map(|(row_type, rest)| (i16::from(*row_type), rest));
        // The empty key has a type of its own, below all others.
        let from = split(keys.start).unwrap_or((-1, keys.start));
        let below = split(keys.end)?;
        (from < below).then_some(Self { from, below })
    }
}

impl<'k> StateBounds<'k> {
    pub(super) fn of(keys: &Range<&'k [u8]>) -> Option<Self> {
        let from = match keys.start.split_first() {
            Some((&row_type, _)) if IMAGE < row_type => return None,
            Some((&row_type, rest)) if row_type == IMAGE => match name(rest) {
                Ok(name) => name,
                // Names that go on as this begins are behind it, or among those left aside later.
                Err(letters) => (letters.to_owned(), &[][..]),
            },
            _ => (String::new(), &[][..]),
        };
        let below = match keys.end.split_first() {
            Some((&row_type, rest)) if row_type == IMAGE => match name(rest) {
                Ok(name) => name,
                // Nothing of a kind that begins so, not even of the kind itself.
                Err(letters) if letters.len() == rest.len() => (letters.to_owned(), &[][..]),
                Err(letters) => (format!("{letters}{BEHIND_LETTERS}"), &[][..]),
            },
            Some((&row_type, _)) if IMAGE < row_type => (BEHIND_LETTERS.to_string(), &[][..]),
            _ => return None,
        };
        (from < below).then_some(Self { from, below })
    }
}

/// What follows the type in the key of an image: kind and key; or the letters of a kind that it begins with.
fn name(rest: &[u8]) -> Result<(String, &[u8]), &str> {
    let is_letter = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let len = rest.iter().position(|byte| !is_letter(byte)).unwrap_or(rest.len());
    let letters = str::from_utf8(&rest[..len]).expect("letters of ASCII");
    match rest.get(len) {
        Some(0) => Ok((letters.to_owned(), &rest[len + 1..])),
        _ => Err(letters),
    }
}

/// The first and the last key of `LEN` bytes that a range may hold, of a few types in a row; `None` if it holds none.
fn fixed<const LEN: usize>(
    keys: &Range<&[u8]>,
    first: RowType,
    last: RowType,
) -> Option<([u8; LEN], [u8; LEN])> {
    let padded = |key: &[u8], with: u8| {
        let mut bytes = [with; LEN];
        let len = key.len().min(LEN);
        bytes[..len].copy_from_slice(&key[..len]);
        bytes
    };
    let from = padded(keys.start, 0).max(padded(&[first as u8], 0));
    // Behind the end where that is not a key of this length: a few too many.
    let through = padded(keys.end, u8::MAX).min(padded(&[last as u8], u8::MAX));
    (from <= through && keys.start < keys.end).then_some((from, through))
}

/// The number that a key ends with.
fn number(key: &[u8]) -> i64 {
    let bytes = key.last_chunk().expect("keys of numbered rows end with eight bytes");
    i64::try_from(u64::from_be_bytes(*bytes)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::postgres::rows::Place;
    use proptest::prelude::*;

    /// Keys near the ends of tables and of columns.
    fn any_key() -> impl Strategy<Value = Vec<u8>> {
        let row_type = prop::sample::select(vec![0x01, 0x11, 0x12, 0x13, 0x22, 0x30, 0x31, 0x32, 0xf0, 0xf1]);
        let byte = prop::sample::select(vec![0, 1, 0x7f, 0x80, b'a', b'b', b'-', b'~', 0xff]);
        let rest = prop::collection::vec(byte, 0..26);
        let shaped = (row_type, rest).prop_map(|(row_type, rest)| {
            let len = match row_type {
                0x12 => 12,
                0x22 => 24,
                0x30..=0x32 => 8,
                _ => rest.len(),
            };
            let mut key = vec![row_type];
            key.extend(rest.into_iter().cycle().take(len));
            key
        });
        let image = ("[a-c.-]{1,3}", prop::collection::vec(any::<u8>(), 0..3))
            .prop_map(|(kind, key)| [&[IMAGE], kind.as_bytes(), &[0], &key].concat());
        prop_oneof![4 => shaped, 2 => image, 1 => any::<Vec<u8>>()]
    }

    /// A key, or the beginning of one.
    fn any_end() -> impl Strategy<Value = Vec<u8>> {
        (any_key(), any::<prop::sample::Index>()).prop_map(|(mut key, cut)| {
            let len = cut.index(2 * key.len() + 1);
            key.truncate(len);
            key
        })
    }

    fn is_asked_for(keys: &Range<&[u8]>, place: Place<'_>) -> bool {
        match place {
            Place::Outbox { target, number } => {
                OutboxBounds::of(keys).is_some_and(|of| (of.from..=of.through).contains(&(target, number)))
            }
            Place::Reply { client, number } => {
                ReplyBounds::of(keys).is_some_and(|of| (of.from..=of.through).contains(&(client, number)))
            }
            Place::Item { row_type, number } => {
                ItemBounds::of(keys).is_some_and(|of| (of.from..=of.through).contains(&(row_type, number)))
            }
            Place::Mark { row_type, key } => {
                MarkBounds::of(keys).is_some_and(|of| (of.from..of.below).contains(&(row_type, key)))
            }
            Place::State { kind, key } => {
                StateBounds::of(keys).is_some_and(|of| (of.from..of.below).contains(&(kind.to_owned(), key)))
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]
        #[test]
        fn every_row_of_a_range_is_asked_for(key in any_key(), ends in (any_end(), any_end())) {
            let range = ends.0.as_slice()..ends.1.as_slice();
            if range.contains(&key.as_slice()) {
                prop_assert!(is_asked_for(&range, Place::of(&key)), "{:?} in {range:?}", Place::of(&key));
            }
            let alone = [key.as_slice(), &[0]].concat();
            prop_assert!(is_asked_for(&(&key[..]..&alone[..]), Place::of(&key)), "{key:?} alone");
        }
    }

    #[test]
    fn tables_outside_of_a_range_are_not_asked() {
        let all = &b""[..]..&b"\xf0"[..];
        assert_eq!(StateBounds::of(&all), None);
        let outbox = &b"\x12\0\0\0\x09"[..]..&b"\x12\0\0\0\x0a"[..];
        let (from, through) = ((9, 0), (10, i64::MAX));
        assert_eq!(OutboxBounds::of(&outbox), Some(OutboxBounds { from, through }));
        assert_eq!((ReplyBounds::of(&outbox), ItemBounds::of(&outbox)), (None, None));
        assert_eq!(StateBounds::of(&outbox), None);
        let none = &b"\x12\x01"[..]..&b"\x12\x01"[..];
        assert_eq!((OutboxBounds::of(&none), MarkBounds::of(&none)), (None, None));
    }
}
