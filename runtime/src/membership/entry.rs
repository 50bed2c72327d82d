//! What a node says of itself, and which of two such sayings is the newer.

use crate::{
    placement::NodeName,
    store::row::{put_varint, take, take_u128, take_varint},
};
use std::cmp::Ordering;

/// Longest address of a node, in bytes: a DNS name in brackets with a port.
pub const ADDRESS_LEN_MAX: usize = 264;
/// Longest description of a build, in bytes.
pub const BUILD_LEN_MAX: usize = 64;
/// Highest weight of a node; the lowest is 1.
pub const WEIGHT_MAX: u16 = 100;
/// Highest revision of an entry. Nobody changes so often; a higher one is refused, so that a node can always outbid
/// what others say in its name.
pub(super) const REV_MAX: u64 = u64::MAX >> 1;

/// How far a node is in the cluster.
///
/// ```text
/// Up ── leave ──> Leaving ── all is handed over ──> Left
///  ^                                                 │
///  └────────── started again: a higher boot ─────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum NodeState {
    /// It takes shards. Whether it is alive is another question (P21).
    Up = 0,
    /// It gives its shards away and takes no more.
    Leaving = 1,
    /// It has given all away and is not coming back in this run.
    Left = 2,
}

impl NodeState {
    fn from_number(number: u64) -> Option<Self> {
        [Self::Up, Self::Leaving, Self::Left].into_iter().find(|state| *state as u64 == number)
    }
}

/// What a node says of itself. It alone changes it, and raises `rev` with each change; of two, the one with the higher
/// (`boot`, `rev`) holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeEntry {
    /// Its configured name.
    pub name: NodeName,
    /// UUID of its store. A name is bound to one store (P19).
    pub store: u128,
    /// How often its store was opened.
    pub boot: u64,
    /// How often the entry changed in this run.
    pub rev: u64,
    /// Where it listens: 1 to [`ADDRESS_LEN_MAX`] printable ASCII characters without spaces.
    pub address: String,
    /// How far it is.
    pub state: NodeState,
    /// Its share of the shards against others': 1 to [`WEIGHT_MAX`].
    pub weight: u16,
    /// What it runs, for operators: up to [`BUILD_LEN_MAX`] printable ASCII characters.
    pub build: String,
}

/// An entry that no sound node would give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The address.
    #[error("an address has 1 to {ADDRESS_LEN_MAX} printable ASCII characters without spaces")]
    Address,
    /// The description of the build.
    #[error("a build is described by at most {BUILD_LEN_MAX} printable ASCII characters")]
    Build,
    /// The weight.
    #[error("a weight is a whole number from 1 to {WEIGHT_MAX}")]
    Weight,
    /// The revision.
    #[error("the revision is beyond what any node reaches")]
    Revision,
    /// Bytes that hold no entry.
    #[error("the bytes hold no entry")]
    Bytes,
}

impl NodeEntry {
    /// Whether every field is within its bounds.
    ///
    /// # Errors
    /// The first field that is not.
    pub fn check(&self) -> Result<(), EntryError> {
        let graphic = self.address.bytes().all(|byte| byte.is_ascii_graphic());
        if !graphic || self.address.is_empty() || self.address.len() > ADDRESS_LEN_MAX {
            return Err(EntryError::Address);
        }
        let printable = self.build.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        if !printable || self.build.len() > BUILD_LEN_MAX {
            return Err(EntryError::Build);
        }
        if !(1..=WEIGHT_MAX).contains(&self.weight) {
            return Err(EntryError::Weight);
        }
        if self.rev > REV_MAX {
            return Err(EntryError::Revision);
        }
        Ok(())
    }

    /// What two entries of one store are compared by.
    pub(super) fn age(&self) -> (u64, u64) {
        (self.boot, self.rev)
    }

    /// What `heard` is to `self`, the entry of the same node that is known.
    pub(super) fn judge(&self, heard: &Self) -> EntryAge {
        debug_assert_eq!((&self.name, self.store), (&heard.name, heard.store), "entries of one node");
        match heard.age().cmp(&self.age()) {
            Ordering::Greater => EntryAge::Newer,
            Ordering::Less => EntryAge::Older,
            Ordering::Equal if self == heard => EntryAge::Known,
            Ordering::Equal => EntryAge::Twin,
        }
    }

    /// The entry after a change of its node; the revision is the change's business.
    pub(super) fn revised(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut revised = self.clone();
        revised.rev = self.rev.saturating_add(1).min(REV_MAX);
        change(&mut revised);
        revised
    }

    /// Appends the entry.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_text(self.name.as_str(), out);
        out.extend_from_slice(&self.store.to_be_bytes());
        put_varint(self.boot, out);
        put_varint(self.rev, out);
        put_text(&self.address, out);
        out.push(self.state as u8);
        put_varint(u64::from(self.weight), out);
        put_text(&self.build, out);
    }

    /// Takes an entry that [`put`](Self::put) wrote from the front, and checks it.
    pub(super) fn take(bytes: &mut &[u8]) -> Result<Self, EntryError> {
        let mut read = || {
            Some(Self {
                name: take_name(bytes)?,
                store: take_u128(bytes)?,
                boot: take_varint(bytes)?,
                rev: take_varint(bytes)?,
                address: take_text(bytes, ADDRESS_LEN_MAX)?.to_owned(),
                state: NodeState::from_number(take_varint(bytes)?)?,
                weight: take_varint(bytes)?.try_into().ok()?,
                build: take_text(bytes, BUILD_LEN_MAX)?.to_owned(),
            })
        };
        let entry = read().ok_or(EntryError::Bytes)?;
        entry.check()?;
        Ok(entry)
    }
}

/// What an entry that was heard is to the one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum EntryAge {
    Newer,
    Known,
    Older,
    /// Of one age and different: two processes speak as one node.
    Twin,
}

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// Takes a text of at most `len_max` bytes. Nothing is allocated for it.
fn take_text<'b>(bytes: &mut &'b [u8], len_max: usize) -> Option<&'b str> {
    let len = usize::try_from(take_varint(bytes)?).ok().filter(|len| *len <= len_max)?;
    std::str::from_utf8(take(bytes, len)?).ok()
}

pub(super) fn take_name(bytes: &mut &[u8]) -> Option<NodeName> {
    take_text(bytes, crate::placement::NODE_NAME_LEN_MAX)?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A sound entry of a node whose store is derived from its name.
    pub(in crate::membership) fn entry(name: &str, boot: u64, rev: u64) -> NodeEntry {
        NodeEntry {
            name: name.parse().unwrap(),
            store: u128::from(xxhash_rust::xxh3::xxh3_64(name.as_bytes())),
            boot,
            rev,
            address: format!("{name}:7001"),
            state: NodeState::Up,
            weight: 1,
            build: "0.1.0".into(),
        }
    }

    prop_compose! {
        pub(in crate::membership) fn any_entry()(
            name in "[a-z0-9.-]{1,20}", store: u128, boot: u64, rev in 0..=REV_MAX, address in "[!-~]{1,30}",
            state in 0..3_u64, weight in 1..=WEIGHT_MAX, build in "[ -~]{0,20}",
        ) -> NodeEntry {
            let state = NodeState::from_number(state).unwrap();
            NodeEntry { name: name.parse().unwrap(), store, boot, rev, address, state, weight, build }
        }
    }

    proptest! {
        #[test]
        fn an_entry_comes_back(entry in any_entry(), tail: Vec<u8>) {
            let mut bytes = Vec::new();
            entry.put(&mut bytes);
            bytes.extend_from_slice(&tail);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(NodeEntry::take(&mut rest), Ok(entry));
            prop_assert_eq!(rest, tail.as_slice());
        }

        #[test]
        fn bytes_from_outside_are_an_entry_or_an_error(bytes: Vec<u8>) {
            if let Ok(entry) = NodeEntry::take(&mut bytes.as_slice()) {
                prop_assert_eq!(entry.check(), Ok(()));
            }
        }

        #[test]
        fn an_entry_cut_short_is_an_error(entry in any_entry(), cut: prop::sample::Index) {
            let mut bytes = Vec::new();
            entry.put(&mut bytes);
            bytes.truncate(cut.index(bytes.len()));
            prop_assert_eq!(NodeEntry::take(&mut bytes.as_slice()), Err(EntryError::Bytes));
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_field() {
        let good = entry("a", 1, 1);
        assert_eq!(good.check(), Ok(()));
        let bad = |change: fn(&mut NodeEntry)| {
            let mut bad = good.clone();
            change(&mut bad);
            let mut bytes = Vec::new();
            bad.put(&mut bytes);
            assert!(NodeEntry::take(&mut bytes.as_slice()).is_err());
            bad.check().unwrap_err()
        };
        assert_eq!(bad(|entry| entry.address = String::new()), EntryError::Address);
        assert_eq!(bad(|entry| entry.address = "two words".into()), EntryError::Address);
        assert_eq!(bad(|entry| entry.address = "a".repeat(ADDRESS_LEN_MAX + 1)), EntryError::Address);
        assert_eq!(bad(|entry| entry.build = "line\nbreak".into()), EntryError::Build);
        assert_eq!(bad(|entry| entry.build = "b".repeat(BUILD_LEN_MAX + 1)), EntryError::Build);
        assert_eq!(bad(|entry| entry.weight = 0), EntryError::Weight);
        assert_eq!(bad(|entry| entry.weight = WEIGHT_MAX + 1), EntryError::Weight);
        assert_eq!(bad(|entry| entry.rev = REV_MAX + 1), EntryError::Revision);
    }

    #[test]
    fn the_newer_boot_holds_whatever_the_revisions_are() {
        let known = entry("a", 2, 7);
        assert_eq!(known.judge(&entry("a", 3, 0)), EntryAge::Newer);
        assert_eq!(known.judge(&entry("a", 2, 8)), EntryAge::Newer);
        assert_eq!(known.judge(&entry("a", 2, 7)), EntryAge::Known);
        assert_eq!(known.judge(&entry("a", 1, 9)), EntryAge::Older);
        let twin = NodeEntry { weight: 2, ..known.clone() };
        assert_eq!(known.judge(&twin), EntryAge::Twin);
    }
}
