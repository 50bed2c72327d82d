//! A hand-off's messages as bytes, for the frame that carries them.
//!
//! ```text
//! message := format:u8 = 1, shard:varint, transfer:u128le, word
//! word    := 1:u8, epoch:varint, source:name, target:name, attempt:varint, table:u64le, is_sealed:u8     offer
//!          | 2:u8, attempt:varint, table:u64le, place:varint                                             ready
//!          | 3:u8, attempt:varint, table:u64le, is_busy:u8, reason:text                                  not ready
//!          | 4:u8, attempt:varint, number:varint, piece                                                  piece
//!          | 5:u8, attempt:varint, place:varint, through:varint                                          staged
//!          | 6:u8, attempt:varint                                                                        lost
//!          | 7:u8                                                                                        accepted
//!          | 8:u8                                                                                        withdrawn
//!          | 9:u8, epoch:varint, (len:varint, key) ...                                                   given
//! name    := len:varint, text                      text, piece := all the bytes that are left
//! ```

use super::{
    Message, Transfer,
    pieces::{put_keys, take_keys},
};
use crate::{
    placement::{Epoch, NODE_NAME_LEN_MAX, NodeName, ShardId},
    store::{
        TransferId,
        row::{put_varint, take, take_varint},
    },
};
use bytes::Bytes;

const FORMAT: u8 = 1;
/// Longest reason that is taken from another node.
const REASON_LEN_MAX: usize = 1_024;

/// The bytes are not a message of this build's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a message of a hand-off, in format {FORMAT}")]
pub struct MessageError;

impl Message {
    /// The message as bytes, with what it is about.
    pub fn encode(&self, shard: ShardId, transfer: TransferId) -> Bytes {
        let mut out = Vec::with_capacity(64);
        out.push(FORMAT);
        put_varint(u64::from(shard.0), &mut out);
        out.extend_from_slice(&transfer.0.to_le_bytes());
        match self {
            Self::Offer { transfer, attempt, table, is_sealed } => {
                out.push(1);
                put_varint(transfer.epoch.0, &mut out);
                for name in [&transfer.source, &transfer.target] {
                    put_varint(name.as_str().len() as u64, &mut out);
                    out.extend_from_slice(name.as_str().as_bytes());
                }
                put_varint(*attempt, &mut out);
                out.extend_from_slice(&table.to_le_bytes());
                out.push(u8::from(*is_sealed));
            }
            Self::Ready { attempt, table, place } => {
                out.push(2);
                put_varint(*attempt, &mut out);
                out.extend_from_slice(&table.to_le_bytes());
                put_varint(*place, &mut out);
            }
            Self::NotReady { attempt, table, is_busy, reason } => {
                out.push(3);
                put_varint(*attempt, &mut out);
                out.extend_from_slice(&table.to_le_bytes());
                out.push(u8::from(*is_busy));
                out.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(REASON_LEN_MAX)]);
            }
            Self::Piece { attempt, number, body } => {
                out.reserve_exact(body.len() + 16);
                out.push(4);
                put_varint(*attempt, &mut out);
                put_varint(*number, &mut out);
                out.extend_from_slice(body);
            }
            Self::Staged { attempt, place, through } => {
                out.push(5);
                put_varint(*attempt, &mut out);
                put_varint(*place, &mut out);
                put_varint(*through, &mut out);
            }
            Self::Lost { attempt } => {
                out.push(6);
                put_varint(*attempt, &mut out);
            }
            Self::Accepted => out.push(7),
            Self::Withdrawn => out.push(8),
            Self::Given { epoch, hot } => {
                out.push(9);
                put_varint(epoch.0, &mut out);
                put_keys(hot, &mut out);
            }
        }
        out.into()
    }

    /// Reads a message and what it is about.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<(ShardId, TransferId, Self), MessageError> {
        Self::take_all(bytes).ok_or(MessageError)
    }

    fn take_all(bytes: &[u8]) -> Option<(ShardId, TransferId, Self)> {
        let mut rest = bytes.strip_prefix(&[FORMAT])?;
        let shard = ShardId(u32::try_from(take_varint(&mut rest)?).ok()?);
        let id = TransferId(u128::from_le_bytes(take(&mut rest, 16)?.try_into().expect("sixteen bytes")));
        let word = take(&mut rest, 1)?[0];
        let message = match word {
            1 => {
                let epoch = Epoch(take_varint(&mut rest)?);
                let (source, target) = (take_name(&mut rest)?, take_name(&mut rest)?);
                let attempt = take_varint(&mut rest)?;
                let (table, is_sealed) = (take_u64(&mut rest)?, take_bool(&mut rest)?);
                let transfer = Transfer { id, shard, epoch, source, target };
                Self::Offer { transfer, attempt, table, is_sealed }
            }
            2 => {
                let (attempt, table) = (take_varint(&mut rest)?, take_u64(&mut rest)?);
                Self::Ready { attempt, table, place: take_varint(&mut rest)? }
            }
            3 => {
                let attempt = take_varint(&mut rest)?;
                let (table, is_busy) = (take_u64(&mut rest)?, take_bool(&mut rest)?);
                let reason = std::mem::take(&mut rest);
                let is_short = reason.len() <= REASON_LEN_MAX;
                let reason = str::from_utf8(reason).ok().filter(|_| is_short)?.to_owned();
                Self::NotReady { attempt, table, is_busy, reason }
            }
            4 => {
                let (attempt, number) = (take_varint(&mut rest)?, take_varint(&mut rest)?);
                Self::Piece { attempt, number, body: Bytes::copy_from_slice(std::mem::take(&mut rest)) }
            }
            5 => {
                let (attempt, place) = (take_varint(&mut rest)?, take_varint(&mut rest)?);
                Self::Staged { attempt, place, through: take_varint(&mut rest)? }
            }
            6 => Self::Lost { attempt: take_varint(&mut rest)? },
            7 => Self::Accepted,
            8 => Self::Withdrawn,
            9 => {
                let epoch = Epoch(take_varint(&mut rest)?);
                Self::Given { epoch, hot: take_keys(std::mem::take(&mut rest))? }
            }
            _ => return None,
        };
        rest.is_empty().then_some((shard, id, message))
    }
}

fn take_name(rest: &mut &[u8]) -> Option<NodeName> {
    let len = usize::try_from(take_varint(rest)?).ok().filter(|len| *len <= NODE_NAME_LEN_MAX)?;
    str::from_utf8(take(rest, len)?).ok()?.parse().ok()
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(rest, 8)?.try_into().expect("eight bytes")))
}

fn take_bool(rest: &mut &[u8]) -> Option<bool> {
    match take(rest, 1)?[0] {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        let name = |name: &str| name.parse().unwrap();
        let (id, shard) = (TransferId(u128::MAX - 5), ShardId(4_095));
        let transfer =
            Transfer { id, shard, epoch: Epoch(300), source: name("a"), target: name("[::1]:7001") };
        vec![
            Message::Offer { transfer, attempt: 1 << 32 | 7, table: u64::MAX, is_sealed: true },
            Message::Ready { attempt: 1, table: 0, place: 1 << 32 | 3 },
            Message::NotReady { attempt: 8, table: 9, is_busy: false, reason: "it leaves".into() },
            Message::Piece { attempt: 1, number: u64::MAX, body: Bytes::from_static(b"piece") },
            Message::Staged { attempt: 2, place: 4, through: 3 },
            Message::Lost { attempt: 300 },
            Message::Accepted,
            Message::Withdrawn,
            Message::Given { epoch: Epoch(u64::MAX), hot: vec![b"key".to_vec(), Vec::new()] },
        ]
    }

    #[test]
    fn a_message_comes_back_as_it_was_said() {
        let (shard, id) = (ShardId(4_095), TransferId(u128::MAX - 5));
        for message in messages() {
            let bytes = message.encode(shard, id);
            assert_eq!(Message::decode(&bytes), Ok((shard, id, message.clone())));
            let ends_openly =
                matches!(message, Message::Piece { .. } | Message::NotReady { .. } | Message::Given { .. });
            if !ends_openly {
                let longer = [&bytes, b"x".as_slice()].concat();
                assert_eq!(Message::decode(&longer), Err(MessageError), "bytes behind {message:?}");
            }
        }
    }

    #[test]
    fn a_long_reason_is_cut_and_not_refused() {
        let reason = "ä".repeat(REASON_LEN_MAX);
        let message = Message::NotReady { attempt: 1, table: 0, is_busy: true, reason };
        let (_, _, again) = Message::decode(&message.encode(ShardId(0), TransferId(0))).unwrap();
        assert!(matches!(again, Message::NotReady { reason, .. } if reason.len() == REASON_LEN_MAX));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(at in 0..9_usize, mut tail: Vec<u8>, cut in 0..64_usize) {
            let mut bytes = messages()[at].encode(ShardId(1), TransferId(2)).to_vec();
            bytes.truncate(cut);
            bytes.append(&mut tail);
            let _ = Message::decode(&bytes);
        }
    }
}
