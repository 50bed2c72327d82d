//! The bytes of foca's packets: read before foca sees them, so that what is not believed can be left out.
//!
//! # Format
//! `version` u8 = 1; entry of the sender and its incarnation; entry of the receiver; `kind` u8, and for the four that go
//! round a third node its entry and the number of the probe. Then, except for the kinds that carry none: number of
//! members u16, and for each its entry, incarnation and `state` u8.

use super::entry::NodeEntry;
use crate::store::row::{put_varint, take, take_varint};
use bytes::{Buf, BufMut};
use foca::{Header, Identity, Member, Message, State};
use std::sync::Arc;

/// Longest packet, sent or taken. More members than fit are told in later packets.
pub(super) const PACKET_LEN_MAX: usize = 32 << 10;

const VERSION: u8 = 1;

/// A node as foca knows it: its entry is its identity, so that a change of it travels with every packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Id(pub(super) Arc<NodeEntry>);

impl Identity for Id {
    /// The store, not the name: who comes under a forgotten name is somebody else.
    type Addr = u128;

    fn addr(&self) -> u128 {
        self.0.store
    }

    /// Who is taken for down while it lives comes back with a higher revision. Who has left does not.
    fn renew(&self) -> Option<Self> {
        let has_left = self.0.state == super::NodeState::Left;
        (!has_left).then(|| Self(Arc::new(self.0.revised(|_| {}))))
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.0.age() >= adversary.0.age()
    }
}

/// Why a packet is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet cannot be {0}")]
pub(super) struct PacketError(&'static str);

const UNREADABLE: PacketError = PacketError("read");
const NO_ROOM: PacketError = PacketError("written: there is no room");

/// A packet, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) header: Header<Id>,
    pub(super) members: Vec<Member<Id>>,
    /// Whether it has a list of members, be it empty.
    has_list: bool,
}

impl Packet {
    #[cfg(test)]
    pub(super) fn new(header: Header<Id>, members: Vec<Member<Id>>) -> Self {
        let has_list = !members.is_empty();
        Self { header, members, has_list }
    }

    /// Reads a packet as a whole.
    pub(super) fn open(mut bytes: &[u8]) -> Result<Self, PacketError> {
        if bytes.len() > PACKET_LEN_MAX {
            return Err(UNREADABLE);
        }
        let bytes = &mut bytes;
        let header = take_header(bytes).ok_or(UNREADABLE)?;
        // Nothing of ours travels as a broadcast.
        if header.message == Message::Broadcast {
            return Err(UNREADABLE);
        }
        let mut members = Vec::new();
        let has_list = !bytes.is_empty();
        if has_list {
            let count = take(bytes, 2).ok_or(UNREADABLE)?;
            for _ in 0..u16::from_be_bytes([count[0], count[1]]) {
                members.push(take_member(bytes).ok_or(UNREADABLE)?);
            }
        }
        if bytes.is_empty() { Ok(Self { header, members, has_list }) } else { Err(UNREADABLE) }
    }

    /// The bytes of what is left of the packet.
    pub(super) fn seal(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_header(&self.header, &mut out);
        if self.has_list {
            let count = u16::try_from(self.members.len()).expect("members of one packet");
            out.extend_from_slice(&count.to_be_bytes());
            for member in &self.members {
                put_member(member, &mut out);
            }
        }
        out
    }
}

/// foca's codec.
pub(super) struct Codec;

impl foca::Codec<Id> for Codec {
    type Error = PacketError;

    fn encode_header(&mut self, header: &Header<Id>, buf: impl BufMut) -> Result<(), PacketError> {
        let mut bytes = Vec::with_capacity(256);
        put_header(header, &mut bytes);
        put_whole(&bytes, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Id>, PacketError> {
        take_whole(buf, take_header)
    }

    fn encode_member(&mut self, member: &Member<Id>, buf: impl BufMut) -> Result<(), PacketError> {
        let mut bytes = Vec::with_capacity(128);
        put_member(member, &mut bytes);
        put_whole(&bytes, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Id>, PacketError> {
        take_whole(buf, take_member)
    }
}

/// All or nothing: foca goes on with the buffer when a member does not fit.
fn put_whole(bytes: &[u8], mut buf: impl BufMut) -> Result<(), PacketError> {
    if buf.remaining_mut() < bytes.len() {
        return Err(NO_ROOM);
    }
    buf.put_slice(bytes);
    Ok(())
}

fn take_whole<T>(mut buf: impl Buf, take: impl FnOnce(&mut &[u8]) -> Option<T>) -> Result<T, PacketError> {
    let whole = buf.chunk();
    let mut rest = whole;
    let taken = take(&mut rest).ok_or(UNREADABLE)?;
    let len = whole.len() - rest.len();
    buf.advance(len);
    Ok(taken)
}

fn take_id(bytes: &mut &[u8]) -> Option<Id> {
    NodeEntry::take(bytes).ok().map(|entry| Id(Arc::new(entry)))
}

fn take_incarnation(bytes: &mut &[u8]) -> Option<u16> {
    take_varint(bytes)?.try_into().ok()
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    take(bytes, 1).map(|byte| byte[0])
}

fn put_header(header: &Header<Id>, out: &mut Vec<u8>) {
    out.push(VERSION);
    header.src.0.put(out);
    put_varint(header.src_incarnation.into(), out);
    header.dst.0.put(out);
    let mut round = |kind: u8, third: &Id, probe: u8| {
        out.push(kind);
        third.0.put(out);
        out.push(probe);
    };
    match &header.message {
        Message::Ping(probe) => out.extend_from_slice(&[0, *probe]),
        Message::Ack(probe) => out.extend_from_slice(&[1, *probe]),
        Message::PingReq { target, probe_number } => round(2, target, *probe_number),
        Message::IndirectPing { origin, probe_number } => round(3, origin, *probe_number),
        Message::IndirectAck { target, probe_number } => round(4, target, *probe_number),
        Message::ForwardedAck { origin, probe_number } => round(5, origin, *probe_number),
        Message::Announce => out.push(6),
        Message::Feed => out.push(7),
        Message::Gossip => out.push(8),
        Message::Broadcast => out.push(9),
        Message::TurnUndead => out.push(10),
    }
}

fn take_header(bytes: &mut &[u8]) -> Option<Header<Id>> {
    if take_byte(bytes)? != VERSION {
        return None;
    }
    let src = take_id(bytes)?;
    let src_incarnation = take_incarnation(bytes)?;
    let dst = take_id(bytes)?;
    let message = match take_byte(bytes)? {
        0 => Message::Ping(take_byte(bytes)?),
        1 => Message::Ack(take_byte(bytes)?),
        2 => Message::PingReq { target: take_id(bytes)?, probe_number: take_byte(bytes)? },
        3 => Message::IndirectPing { origin: take_id(bytes)?, probe_number: take_byte(bytes)? },
        4 => Message::IndirectAck { target: take_id(bytes)?, probe_number: take_byte(bytes)? },
        5 => Message::ForwardedAck { origin: take_id(bytes)?, probe_number: take_byte(bytes)? },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        _ => return None,
    };
    Some(Header { src, src_incarnation, dst, message })
}

fn put_member(member: &Member<Id>, out: &mut Vec<u8>) {
    member.id().0.put(out);
    put_varint(member.incarnation().into(), out);
    out.push(match member.state() {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    });
}

fn take_member(bytes: &mut &[u8]) -> Option<Member<Id>> {
    let id = take_id(bytes)?;
    let incarnation = take_incarnation(bytes)?;
    let state = match take_byte(bytes)? {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return None,
    };
    Some(Member::new(id, incarnation, state))
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::{any_entry, entry};
    use super::*;
    use proptest::prelude::*;

    fn any_id() -> impl Strategy<Value = Id> {
        any_entry().prop_map(|entry| Id(Arc::new(entry)))
    }

    fn any_message() -> impl Strategy<Value = Message<Id>> {
        (0..10_u8, any_id(), any::<u8>()).prop_map(|(kind, id, probe_number)| match kind {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: id, probe_number },
            3 => Message::IndirectPing { origin: id, probe_number },
            4 => Message::IndirectAck { target: id, probe_number },
            5 => Message::ForwardedAck { origin: id, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            _ => Message::TurnUndead,
        })
    }

    fn any_member() -> impl Strategy<Value = Member<Id>> {
        let state = prop_oneof![Just(State::Alive), Just(State::Suspect), Just(State::Down)];
        (any_id(), any::<u16>(), state)
            .prop_map(|(id, incarnation, state)| Member::new(id, incarnation, state))
    }

    prop_compose! {
        fn any_packet()(
            src in any_id(), src_incarnation: u16, dst in any_id(), message in any_message(),
            members in prop::option::of(prop::collection::vec(any_member(), 0..6)),
        ) -> Packet {
            let header = Header { src, src_incarnation, dst, message };
            Packet { header, has_list: members.is_some(), members: members.unwrap_or_default() }
        }
    }

    proptest! {
        #[test]
        fn a_packet_comes_back(packet in any_packet()) {
            prop_assert_eq!(Packet::open(&packet.seal()), Ok(packet));
        }

        #[test]
        fn a_packet_cut_short_or_lengthened_is_refused(
            packet in any_packet(), cut: prop::sample::Index, more in 1..=u8::MAX,
        ) {
            let bytes = packet.seal();
            // Cut just behind its header it is a packet without a list.
            if let Ok(cut) = Packet::open(&bytes[..cut.index(bytes.len())]) {
                prop_assert_eq!((cut.header, cut.has_list), (packet.header.clone(), false));
            }
            let mut longer = bytes;
            longer.push(more);
            prop_assert_eq!(Packet::open(&longer), Err(UNREADABLE));
        }

        #[test]
        fn bytes_from_outside_never_panic(mut bytes: Vec<u8>, right_version: bool) {
            if let (Some(first), true) = (bytes.first_mut(), right_version) {
                *first = VERSION;
            }
            if let Ok(packet) = Packet::open(&bytes) {
                prop_assert_eq!(Packet::open(&packet.seal()), Ok(packet));
            }
        }

        #[test]
        fn a_flipped_byte_never_panics(packet in any_packet(), at: prop::sample::Index, flip in 1..=u8::MAX) {
            let mut bytes = packet.seal();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_ne!(Packet::open(&bytes), Ok(packet));
        }
    }

    #[test]
    fn a_member_that_does_not_fit_leaves_the_buffer_as_it_was() {
        let member = Member::alive(Id(Arc::new(entry("a", 1, 0))));
        let mut buffer = Vec::new().limit(10);
        assert_eq!(foca::Codec::encode_member(&mut Codec, &member, &mut buffer), Err(NO_ROOM));
        assert_eq!(buffer.into_inner(), Vec::<u8>::new());
    }
}
