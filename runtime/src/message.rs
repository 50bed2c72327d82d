//! Messages, the envelope that carries one, and the ids a repeat is recognised by.
//!
//! A message is encoded once, where it is sent; from there its [`Envelope`] travels as the same bytes through outbox,
//! log and mailbox.

use crate::{codec, entity::EntityId, timestamp::Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fmt, str::FromStr};

/// A message that entities handle or answer, written by `#[derive(Message)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "add `#[derive(Message, Serialize, Deserialize)]` to `{Self}`"
)]
pub trait Message: Sized + Send + 'static {
    /// Name on the wire and in the log. The derive takes the type's name in kebab case unless `name = "..."` is given.
    const NAME: &'static str;
    /// What the handler answers.
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// Whether a reply means that the handler rejected the message. The derive writes `reply.is_err()` where the reply
    /// type is spelled `Result<..>`.
    fn is_rejection(reply: &Self::Reply) -> bool {
        let _ = reply;
        false
    }

    /// How the message becomes bytes: `Self`, for every message.
    ///
    /// A bound on this type and not on the trait, because the bounds of a trait are asked for again wherever it is
    /// named: a message without serde would be an error at each handler and each list, and so it is one at its derive.
    #[doc(hidden)]
    type Body: Body<Self>;
}

/// Writes and reads messages `M` with serde. Hidden so that a missing derive is one error, as for an entity's state.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "message `{M}` cannot be sent",
    label = "derive `Serialize` and `Deserialize` for `{M}`",
    note = "a message is encoded with serde where it is sent"
)]
pub trait Body<M> {
    fn encode(message: &M, out: &mut Vec<u8>) -> Result<(), String>;
    fn decode(bytes: &[u8]) -> Result<M, String>;
}

#[diagnostic::do_not_recommend]
impl<M: Serialize + DeserializeOwned> Body<M> for M {
    fn encode(message: &M, out: &mut Vec<u8>) -> Result<(), String> {
        codec::encode(message, out)
    }

    fn decode(bytes: &[u8]) -> Result<M, String> {
        codec::decode(bytes)
    }
}

/// Appends the encoding of `message` to `out`.
///
/// # Errors
/// The type's own `Serialize` failed; `out` then holds a part that the caller must cut off.
pub fn encode<M: Message>(message: &M, out: &mut Vec<u8>) -> Result<(), String> {
    <M::Body as Body<M>>::encode(message, out)
}

/// Reads the message `bytes` are the encoding of.
///
/// # Errors
/// The bytes are not what the type expects; see [`codec::decode`].
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, String> {
    <M::Body as Body<M>>::decode(bytes)
}

/// Who sent a request. Random, and the same for the lifetime of one client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId(pub u128);

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The id by which a repeated request is recognised and answered with the stored reply (P11).
///
/// Its text form (`Display`, `FromStr`) can be kept by a program that wants to ask again after its own restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// The client.
    pub client: ClientId,
    /// Its number, rising from 1.
    pub number: u64,
    /// When the client first sent it; replies are kept for a limited time from then.
    pub issued_at: Timestamp,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}-{}", self.client.0, self.number, self.issued_at.as_micros())
    }
}

/// The text is not a request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a request id; the form is CLIENT-NUMBER-MICROSECONDS, with the client as 32 hexadecimal digits")]
pub struct ParseRequestIdError;

impl FromStr for RequestId {
    type Err = ParseRequestIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let (Some(client), Some(number), Some(at), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseRequestIdError);
        };
        if client.len() != 32 {
            return Err(ParseRequestIdError);
        }
        Ok(Self {
            client: ClientId(u128::from_str_radix(client, 16).map_err(|_| ParseRequestIdError)?),
            number: number.parse().map_err(|_| ParseRequestIdError)?,
            issued_at: Timestamp::from_micros(at.parse().map_err(|_| ParseRequestIdError)?),
        })
    }
}

/// Version of the envelope's layout; the first byte of each.
const ENVELOPE_FORMAT: u8 = 1;
/// format, lengths of kind (1), key (2), name (1), sender's kind (1) and sender's key (2).
const ENVELOPE_HEAD: usize = 8;

/// One message on its way, as bytes that are never encoded again.
///
/// Layout, little endian: format `u8` = 1, kind length `u8`, key length `u16`, name length `u8`, sender's kind length
/// `u8` (0: a client), sender's key length `u16`, then kind, key, name, sender's kind, sender's key, and the body to the
/// end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope(Bytes);

/// What an envelope says, borrowed from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeView<'b> {
    /// Kind of the target.
    pub kind: &'b str,
    /// Key of the target.
    pub key: &'b str,
    /// Name of the message.
    pub name: &'b str,
    /// Kind and key of the sending entity; `None` for a client.
    pub sender: Option<(&'b str, &'b str)>,
    /// The encoded message.
    pub body: &'b [u8],
}

/// The bytes are not an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an envelope of format {ENVELOPE_FORMAT}")]
pub struct EnvelopeError;

impl Envelope {
    /// Takes bytes that were an envelope when they were written; they are checked.
    ///
    /// # Errors
    /// They are not an envelope.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, EnvelopeError> {
        parse(&bytes)?;
        Ok(Self(bytes))
    }

    /// Appends head, names and sender to `out`; the caller appends the body.
    ///
    /// # Panics
    /// Never for ids that passed [`EntityId::check`]: the lengths fit their fields.
    pub fn write_head(kind: &str, key: &str, name: &str, sender: Option<(&str, &str)>, out: &mut Vec<u8>) {
        let (sender_kind, sender_key) = sender.unwrap_or(("", ""));
        let short = |len: usize| u8::try_from(len).expect("kinds and names have at most 64 bytes");
        let long = |len: usize| u16::try_from(len).expect("keys have at most 512 bytes").to_le_bytes();
        out.push(ENVELOPE_FORMAT);
        out.push(short(kind.len()));
        out.extend_from_slice(&long(key.len()));
        out.push(short(name.len()));
        out.push(short(sender_kind.len()));
        out.extend_from_slice(&long(sender_key.len()));
        for text in [kind, key, name, sender_kind, sender_key] {
            out.extend_from_slice(text.as_bytes());
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: an envelope has at least its head.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it says.
    pub fn view(&self) -> EnvelopeView<'_> {
        parse(&self.0).expect("an envelope's bytes are checked when it is made")
    }

    /// Kind of the target: of [`Envelope::view`] that alone.
    pub fn kind(&self) -> &str {
        let kind = self.0.get(ENVELOPE_HEAD..ENVELOPE_HEAD + usize::from(self.0[1]));
        let kind = kind.and_then(|kind| std::str::from_utf8(kind).ok());
        kind.expect("an envelope's bytes are checked when it is made")
    }

    /// Kind and key of the target.
    pub fn target(&self) -> EntityId {
        let view = self.view();
        EntityId::new(view.kind.to_owned(), view.key)
    }
}

fn parse(bytes: &[u8]) -> Result<EnvelopeView<'_>, EnvelopeError> {
    let (head, mut rest) = bytes.split_at_checked(ENVELOPE_HEAD).ok_or(EnvelopeError)?;
    if head[0] != ENVELOPE_FORMAT {
        return Err(EnvelopeError);
    }
    let mut take = |len: usize| {
        let (text, after) = rest.split_at_checked(len).ok_or(EnvelopeError)?;
        rest = after;
        std::str::from_utf8(text).map_err(|_| EnvelopeError)
    };
    let kind = take(usize::from(head[1]))?;
    let key = take(usize::from(u16::from_le_bytes([head[2], head[3]])))?;
    let name = take(usize::from(head[4]))?;
    let sender_kind = take(usize::from(head[5]))?;
    let sender_key = take(usize::from(u16::from_le_bytes([head[6], head[7]])))?;
    let sender = (!sender_kind.is_empty()).then_some((sender_kind, sender_key));
    Ok(EnvelopeView { kind, key, name, sender, body: rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_key_and_body_come_back(key in "\\PC{0,80}", sender in "\\PC{0,80}", body: Vec<u8>, from_entity: bool) {
            let sender = from_entity.then_some(("order", sender.as_str()));
            let mut bytes = Vec::new();
            Envelope::write_head("bank.account", &key, "deposit", sender, &mut bytes);
            bytes.extend_from_slice(&body);
            let envelope = Envelope::from_bytes(bytes.into()).expect("just written");
            let view = envelope.view();
            proptest::prop_assert_eq!(envelope.kind(), view.kind);
            proptest::prop_assert_eq!(
                (view.kind, view.key, view.name, view.sender, view.body),
                ("bank.account", key.as_str(), "deposit", sender, body.as_slice())
            );
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            let _ = Envelope::from_bytes(bytes.into());
        }

        #[test]
        fn a_request_id_survives_its_text_form(client: u128, number: u64, at: u64) {
            let id = RequestId { client: ClientId(client), number, issued_at: Timestamp::from_micros(at) };
            proptest::prop_assert_eq!(id.to_string().parse(), Ok(id));
        }
    }
}
