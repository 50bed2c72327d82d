//! Where a row lies: the table of its key, and the key of a table's row.
//!
//! The mapping loses nothing in either direction: every key, of any bytes, has exactly one place, and that place gives the
//! same key back. A key that is malformed for the table of its type, or holds a number that a column cannot, lies among the
//! marks, whose key column takes any bytes. Values are never looked at.

use crate::store::RowType;
use crate::store::row::{take, take_u32, take_u64, take_u128};

/// The type column of the one key that has no type byte, the empty one.
const NO_TYPE: i16 = -1;
/// Longest kind (P6).
const KIND_LEN_MAX: usize = 64;

const OUTBOX: u8 = RowType::Outbox as u8;
const REPLY: u8 = RowType::Reply as u8;
const REMINDER: u8 = RowType::Reminder as u8;
const WAITING: u8 = RowType::Waiting as u8;
const DEAD_LETTER: u8 = RowType::DeadLetter as u8;
const IMAGE: u8 = RowType::Image as u8;

/// A table, and the columns of its primary key but the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place<'k> {
    /// `entity.state`: the shard is no part of its key, for it follows from the name.
    State { kind: &'k str, key: &'k [u8] },
    /// `entity.mark`.
    Mark { row_type: i16, key: &'k [u8] },
    /// `entity.outbox`.
    Outbox { target: i32, number: i64 },
    /// `entity.reply`.
    Reply { client: u128, number: i64 },
    /// `entity.item`.
    Item { row_type: i16, number: i64 },
}

/// A range of rows of one table, all numbers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// Of `entity.outbox`.
    Outbox { target: i32, low: i64, high: i64 },
    /// Of `entity.reply`.
    Reply { client: u128, low: i64, high: i64 },
    /// Of `entity.item`.
    Item { row_type: i16, low: i64, high: i64 },
}

/// A row of the server that this build would not have put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a row lies in a table where no row of its key belongs")]
pub(super) struct Misplaced;

impl<'k> Place<'k> {
    /// The place of a row.
    pub(super) fn of(key: &'k [u8]) -> Self {
        let Some((&row_type, rest)) = key.split_first() else {
            return Self::Mark { row_type: NO_TYPE, key };
        };
        let place = match row_type {
            IMAGE => state(rest),
            OUTBOX => outbox(rest),
            REPLY => reply(rest),
            REMINDER | WAITING | DEAD_LETTER => item(row_type, rest),
            _ => None,
        };
        place.unwrap_or(Self::Mark { row_type: i16::from(row_type), key: rest })
    }

    /// Appends the key of the row that lies here.
    ///
    /// # Errors
    /// No row of that key belongs here: columns come from the server and are not believed.
    pub(super) fn put_key(&self, out: &mut Vec<u8>) -> Result<(), Misplaced> {
        let from = out.len();
        match *self {
            Self::State { kind, key } => {
                out.push(IMAGE);
                out.extend_from_slice(kind.as_bytes());
                out.push(0);
                out.extend_from_slice(key);
            }
            Self::Mark { row_type, key } => {
                if row_type != NO_TYPE {
                    out.push(u8::try_from(row_type).map_err(|_| Misplaced)?);
                }
                out.extend_from_slice(key);
            }
            Self::Outbox { target, number } => {
                out.push(OUTBOX);
                out.extend_from_slice(&target.to_be_bytes());
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::Reply { client, number } => {
                out.push(REPLY);
                out.extend_from_slice(&client.to_be_bytes());
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::Item { row_type, number } => {
                out.push(u8::try_from(row_type).map_err(|_| Misplaced)?);
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
        // One look back judges every column: a negative number, a kind of other letters, a mark that has a table of its own.
        if Place::of(&out[from..]) == *self { Ok(()) } else { Err(Misplaced) }
    }
}

impl Span {
    /// The range of the rows `prefix ++ number`; `None` where their table keeps no ranges.
    pub(super) fn of(prefix: &[u8], from: u64, through: u64) -> Option<Self> {
        let (low, high) = (i64::try_from(from).ok()?, i64::try_from(through).ok()?);
        let (&row_type, mut rest) = prefix.split_first()?;
        let span = match row_type {
            OUTBOX => Self::Outbox { target: i32::try_from(take_u32(&mut rest)?).ok()?, low, high },
            REPLY => Self::Reply { client: take_u128(&mut rest)?, low, high },
            REMINDER | WAITING | DEAD_LETTER => Self::Item { row_type: i16::from(row_type), low, high },
            _ => return None,
        };
        rest.is_empty().then_some(span)
    }
}

fn state(rest: &[u8]) -> Option<Place<'_>> {
    let len = rest.iter().take(KIND_LEN_MAX + 1).position(|byte| *byte == 0)?;
    let is_letter = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let (kind, key) = (&rest[..len], &rest[len + 1..]);
    let is_kind = !kind.is_empty() && kind.iter().all(is_letter);
    is_kind.then(|| Place::State { kind: str::from_utf8(kind).expect("letters of ASCII"), key })
}

fn outbox(mut rest: &[u8]) -> Option<Place<'_>> {
    let target = i32::try_from(take_u32(&mut rest)?).ok()?;
    Some(Place::Outbox { target, number: last_number(rest)? })
}

fn reply(mut rest: &[u8]) -> Option<Place<'_>> {
    let client = take_u128(&mut rest)?;
    Some(Place::Reply { client, number: last_number(rest)? })
}

fn item(row_type: u8, rest: &[u8]) -> Option<Place<'_>> {
    Some(Place::Item { row_type: i16::from(row_type), number: last_number(rest)? })
}

/// The number that is all that is left, if a column can hold it.
fn last_number(mut rest: &[u8]) -> Option<i64> {
    let number = take_u64(&mut rest)?;
    if take(&mut rest, 1).is_some() {
        return None;
    }
    i64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key_of(place: Place<'_>) -> Result<Vec<u8>, Misplaced> {
        let mut key = vec![7];
        place.put_key(&mut key)?;
        Ok(key.split_off(1))
    }

    /// Keys of all types, most of them near the shape of their table.
    fn any_key() -> impl Strategy<Value = Vec<u8>> {
        let types =
            prop::sample::select(vec![0x01, 0x10, OUTBOX, 0x21, REPLY, REMINDER, WAITING, DEAD_LETTER]);
        let numbered = (types, prop::collection::vec(any::<u8>(), 0..26)).prop_map(|(row_type, rest)| {
            let mut key = vec![row_type];
            key.extend(rest);
            key
        });
        let good = (prop::sample::select(vec![OUTBOX, REPLY, WAITING]), any::<u128>(), any::<u64>())
            .prop_map(|(row_type, id, number)| {
                let id = id.to_be_bytes();
                let len = match row_type {
                    OUTBOX => 4,
                    REPLY => 16,
                    _ => 0,
                };
                [&[row_type], &id[..len], &number.to_be_bytes()].concat()
            });
        let image = ("[a-z0-9._-]{0,66}|[A-Za\0-]{1,3}", any::<Vec<u8>>(), any::<bool>()).prop_map(
            |(kind, key, has_end)| {
                let end: &[u8] = if has_end { &[0] } else { &[] };
                [&[IMAGE], kind.as_bytes(), end, &key].concat()
            },
        );
        prop_oneof![numbered, good, image, any::<Vec<u8>>()]
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_its_place(key in any_key()) {
            prop_assert_eq!(key_of(Place::of(&key)), Ok(key));
        }

        #[test]
        fn what_a_server_answers_is_a_key_of_that_place_or_misplaced(
            columns in (any::<i32>(), any::<i64>(), any::<u128>(), any::<i16>()),
            bytes: Vec<u8>,
            text: String,
        ) {
            let (target, number, client, row_type) = columns;
            let places = [
                Place::State { kind: &text, key: &bytes },
                Place::Mark { row_type, key: &bytes },
                Place::Outbox { target, number },
                Place::Reply { client, number },
                Place::Item { row_type, number },
            ];
            for place in places {
                if let Ok(key) = key_of(place) {
                    prop_assert_eq!(Place::of(&key), place);
                }
            }
        }

        #[test]
        fn a_span_holds_the_places_of_its_numbers_and_no_others(
            prefix in prop_oneof![Just(vec![OUTBOX, 0, 0, 0, 9]), Just(vec![REMINDER]), any_key()],
            from in 0_u64..9,
            len in 0_u64..9,
        ) {
            if let Some(span) = Span::of(&prefix, from, from + len) {
                for number in 0..20_u64 {
                    let key = [prefix.as_slice(), &number.to_be_bytes()].concat();
                    let (is_inside, at) = match (span, Place::of(&key)) {
                        (Span::Outbox { target, low, high }, Place::Outbox { target: of, number }) => {
                            (target == of && low <= number && number <= high, number)
                        }
                        (Span::Reply { client, low, high }, Place::Reply { client: of, number }) => {
                            (client == of && low <= number && number <= high, number)
                        }
                        (Span::Item { row_type, low, high }, Place::Item { row_type: of, number }) => {
                            (row_type == of && low <= number && number <= high, number)
                        }
                        other => panic!("{other:?}"),
                    };
                    prop_assert_eq!(at, i64::try_from(number).unwrap());
                    prop_assert_eq!(is_inside, (from..=from + len).contains(&number));
                }
            }
        }
    }

    #[test]
    fn rows_lie_in_the_table_of_their_type() {
        assert_eq!(Place::of(b"\xf0account\0ali\0ce"), Place::State { kind: "account", key: b"ali\0ce" });
        assert_eq!(Place::of(b"\x12\0\0\0\x09\0\0\0\0\0\0\x01\0"), Place::Outbox { target: 9, number: 256 });
        let reply = [&[0x22][..], &7_u128.to_be_bytes(), &5_u64.to_be_bytes()].concat();
        assert_eq!(Place::of(&reply), Place::Reply { client: 7, number: 5 });
        assert_eq!(Place::of(b"\x31\0\0\0\0\0\0\0\x02"), Place::Item { row_type: 0x31, number: 2 });
        assert_eq!(Place::of(b"\x10\0\0\0\x09"), Place::Mark { row_type: 0x10, key: b"\0\0\0\x09" });
        assert_eq!(Place::of(b""), Place::Mark { row_type: -1, key: b"" });
    }

    #[test]
    fn what_a_column_cannot_hold_lies_among_the_marks() {
        let too_high = [&[0x12, 0, 0, 0, 9][..], &(1_u64 << 63).to_be_bytes()].concat();
        let far_target = [&[0x12, 0x80, 0, 0, 0][..], &1_u64.to_be_bytes()].concat();
        for key in
            [too_high.as_slice(), &far_target, b"\x12", b"\x32\xff", b"\xf0UPPER\0x", b"\xf0\0x", b"\xf0kind"]
        {
            let mark = Place::Mark { row_type: i16::from(key[0]), key: &key[1..] };
            assert_eq!(Place::of(key), mark);
            assert_eq!(key_of(mark), Ok(key.to_vec()));
        }
    }

    #[test]
    fn a_row_in_the_wrong_table_is_told() {
        let wrong = [
            Place::Mark { row_type: 0x31, key: &[0; 8] },
            Place::Mark { row_type: 256, key: b"" },
            Place::Mark { row_type: -1, key: b"x" },
            Place::Outbox { target: -1, number: 1 },
            Place::Outbox { target: 1, number: -1 },
            Place::Item { row_type: 0x10, number: 1 },
            Place::State { kind: "UPPER", key: b"" },
        ];
        for place in wrong {
            assert_eq!(key_of(place), Err(Misplaced), "{place:?}");
        }
    }

    #[test]
    fn marks_and_images_have_no_ranges() {
        for prefix in [&b""[..], b"\x10", b"\xf0kind\0", b"\x12\0\0\0", b"\x30\0"] {
            assert_eq!(Span::of(prefix, 1, 2), None);
        }
        assert_eq!(Span::of(b"\x30", 1, u64::MAX), None);
    }
}
