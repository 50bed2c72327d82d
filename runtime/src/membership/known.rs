//! Which store each name is bound to, what each node last said of itself, and which stores are given up: what a node
//! knows of the others across its own restarts.

use super::{
    entry::{EntryAge, EntryError, NodeEntry, put_text, take_name},
    hello::{Hello, IdentityRefusal},
};
use crate::{
    placement::NodeName,
    store::row::{put_varint, take, take_u128, take_varint},
};
use std::{collections::BTreeMap, sync::Arc};

/// Most nodes a cluster knows, those that left included. The next one is refused until one is forgotten.
pub const NODES_MAX: usize = 1_024;
/// Most stores that are remembered as forgotten. The next one is not forgotten.
pub const FORGOTTEN_MAX: usize = 1_024;

const VERSION: u8 = 1;

/// What is known of the nodes of the cluster.
///
/// It merges: the newest entry of each node, and all stores ever forgotten, in whatever order and however often they are
/// heard. Only the binding of a name is first come, first served, and deliberately so: whoever could turn it over could
/// make a sender that has restarted hand a shard to a second store. Where two halves of a cluster have bound one name to
/// two stores, both say so, and an operator forgets one.
///
/// # Invariants
/// * A name has one store and a store one name; no store that was forgotten has any.
/// * The boot counter and log position of a node never fall.
///
/// # Format
/// `version` u8 = 1; number of nodes, then for each: 1 and its entry, or 0, name and store; its boot counter and log
/// position. Number of forgotten stores, then for each: store and name. Numbers are LEB128, stores 16 bytes, texts have
/// their length before them. The checksum is the business of whoever keeps the bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    nodes: BTreeMap<NodeName, KnownNode>,
    /// The name of each store bound.
    names: BTreeMap<u128, NodeName>,
    /// Stores that stay outside for good, with the name each had.
    forgotten: BTreeMap<u128, NodeName>,
}

/// One name that is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownNode {
    pub(super) store: u128,
    /// Highest boot counter seen.
    pub(super) boot: u64,
    /// Highest durable log position it has told.
    pub(super) position: u64,
    /// What it last said of itself. `None` between its first hello and its first word.
    pub(super) entry: Option<Arc<NodeEntry>>,
}

/// The bytes are not what [`Known::encode`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KnownError {
    /// Written by another build.
    #[error("the known nodes are written in format {0}, and this build reads {VERSION}")]
    Version(u8),
    /// Too short, too long, or impossible.
    #[error("the known nodes cannot be read")]
    Bytes,
    /// One of the entries.
    #[error("the known nodes cannot be read: {0}")]
    Entry(#[from] EntryError),
}

impl Known {
    /// What is bound to a name and a store; `None` where neither has been seen.
    pub(super) fn bound(&self, name: &NodeName, store: u128) -> Result<Option<&KnownNode>, IdentityRefusal> {
        if let Some(name) = self.forgotten.get(&store) {
            return Err(IdentityRefusal::Forgotten { name: name.clone(), store });
        }
        if let Some(bound) = self.names.get(&store).filter(|bound| *bound != name) {
            let (bound, offered) = (bound.clone(), name.clone());
            return Err(IdentityRefusal::OtherName { store, bound, offered });
        }
        match self.nodes.get(name) {
            Some(node) if node.store == store => Ok(Some(node)),
            Some(node) => {
                let (name, bound) = (name.clone(), node.store);
                Err(IdentityRefusal::OtherStore { name, bound, offered: store })
            }
            None if self.nodes.len() >= NODES_MAX => Err(IdentityRefusal::Full { name: name.clone() }),
            None => Ok(None),
        }
    }

    pub(super) fn get(&self, name: &NodeName) -> Option<&KnownNode> {
        self.nodes.get(name)
    }

    /// All names that are bound, in order.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&NodeName, &KnownNode)> {
        self.nodes.iter()
    }

    /// Every name that is bound, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.keys()
    }

    /// Whether a store has this name.
    pub(crate) fn is_bound(&self, name: &NodeName) -> bool {
        self.nodes.contains_key(name)
    }

    /// Which store has this name.
    pub(crate) fn store_of(&self, name: &NodeName) -> Option<u128> {
        self.nodes.get(name).map(|node| node.store)
    }

    /// Whether a store of this name was forgotten.
    pub(crate) fn was_forgotten(&self, name: &NodeName) -> bool {
        self.forgotten.values().any(|forgotten| forgotten == name)
    }

    /// The stores of this name that were forgotten.
    pub(crate) fn forgotten_of(&self, name: &NodeName) -> impl Iterator<Item = u128> {
        self.forgotten.iter().filter(move |(_, had)| *had == name).map(|(store, _)| *store)
    }

    /// Whether one of these stores has this name, or had it until it was forgotten. A name that another store has by now is that
    /// one's alone.
    pub(crate) fn is_store_of(&self, name: &NodeName, stores: &[u128]) -> bool {
        match self.nodes.get(name) {
            Some(node) => stores.contains(&node.store),
            None => stores.iter().any(|store| self.forgotten.get(store) == Some(name)),
        }
    }

    /// Every entry, in order of the names.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<NodeEntry>> {
        self.nodes.values().filter_map(|node| node.entry.as_ref())
    }

    /// Every store that was forgotten, with the name it had.
    pub(super) fn forgotten(&self) -> impl Iterator<Item = (u128, &NodeName)> {
        self.forgotten.iter().map(|(store, name)| (*store, name))
    }

    /// Takes in a node that [`judge_hello`](super::judge_hello) did not refuse.
    pub(super) fn meet(&mut self, hello: &Hello) -> Learned {
        let node = self.bind(&hello.name, hello.store);
        let advanced = Self::advance_node(node, hello.position);
        Self::raise(node, hello.boot).max(advanced)
    }

    /// A store has said how far its log is durable. One that was forgotten since says nothing of the store that has its name.
    pub(super) fn advance(&mut self, name: &NodeName, store: u128, position: u64) -> Learned {
        let node = self.nodes.get_mut(name).filter(|node| node.store == store);
        node.map_or(Learned::Nothing, |node| Self::advance_node(node, position))
    }

    fn advance_node(node: &mut KnownNode, position: u64) -> Learned {
        let advanced = node.position < position;
        node.position = node.position.max(position);
        if advanced { Learned::Detail } else { Learned::Nothing }
    }

    /// What an entry that was heard is to what is known.
    pub(super) fn judge(&self, entry: &NodeEntry) -> Result<EntryAge, IdentityRefusal> {
        let known = self.bound(&entry.name, entry.store)?.and_then(|node| node.entry.as_ref());
        Ok(known.map_or(EntryAge::Newer, |known| known.judge(entry)))
    }

    /// Takes an entry that [`judge`](Self::judge) found newer.
    pub(super) fn learn(&mut self, entry: Arc<NodeEntry>) -> Learned {
        let node = self.bind(&entry.name, entry.store);
        let raised = Self::raise(node, entry.boot);
        let placed = |entry: &NodeEntry| (entry.state, entry.weight);
        let is_detail = node.entry.as_ref().is_some_and(|before| placed(before) == placed(&entry));
        node.entry = Some(entry);
        raised.max(if is_detail { Learned::Detail } else { Learned::Now })
    }

    fn bind(&mut self, name: &NodeName, store: u128) -> &mut KnownNode {
        self.names.entry(store).or_insert_with(|| name.clone());
        // A boot counter begins at 1, so that the first one seen is a change.
        self.nodes.entry(name.clone()).or_insert(KnownNode { store, boot: 0, position: 0, entry: None })
    }

    fn raise(node: &mut KnownNode, boot: u64) -> Learned {
        let raised = node.boot < boot;
        node.boot = node.boot.max(boot);
        if raised { Learned::Now } else { Learned::Nothing }
    }

    /// Gives a store up for good, and frees the name it is bound to. Whether that was new.
    pub(super) fn bury(&mut self, store: u128, name: &NodeName) -> Result<bool, IdentityRefusal> {
        if let Some(before) = self.forgotten.get_mut(&store) {
            // Two who heard different names for it still end with one.
            let lower = name < before;
            if lower {
                before.clone_from(name);
            }
            return Ok(lower);
        }
        if self.forgotten.len() >= FORGOTTEN_MAX {
            return Err(IdentityRefusal::ManyForgotten { name: name.clone() });
        }
        self.forgotten.insert(store, name.clone());
        if let Some(bound) = self.names.remove(&store) {
            self.nodes.remove(&bound);
        }
        Ok(true)
    }

    /// Equal on two nodes that know the same entries and have forgotten the same stores.
    pub(crate) fn digest(&self) -> u64 {
        let mut bytes = Vec::with_capacity(96 * self.nodes.len());
        for entry in self.entries() {
            entry.put(&mut bytes);
        }
        self.put_forgotten(&mut bytes);
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }

    fn put_forgotten(&self, out: &mut Vec<u8>) {
        put_varint(self.forgotten.len() as u64, out);
        for (store, name) in self.forgotten() {
            out.extend_from_slice(&store.to_be_bytes());
            put_text(name.as_str(), out);
        }
    }

    /// The bytes to be kept; below 1 MiB.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(self.nodes.len() as u64, &mut out);
        for (name, node) in &self.nodes {
            out.push(u8::from(node.entry.is_some()));
            if let Some(entry) = &node.entry {
                entry.put(&mut out);
            } else {
                put_text(name.as_str(), &mut out);
                out.extend_from_slice(&node.store.to_be_bytes());
            }
            put_varint(node.boot, &mut out);
            put_varint(node.position, &mut out);
        }
        self.put_forgotten(&mut out);
        out
    }

    /// What [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// It was written by another build, or is damaged.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, KnownError> {
        let bytes = &mut bytes;
        match take(bytes, 1) {
            Some([VERSION]) => {}
            Some([other]) => return Err(KnownError::Version(*other)),
            _ => return Err(KnownError::Bytes),
        }
        let mut known = Self::default();
        for _ in 0..take_count(bytes, NODES_MAX)? {
            known.take_node(bytes)?;
        }
        for _ in 0..take_count(bytes, FORGOTTEN_MAX)? {
            let (store, name) = take_forgotten(bytes).ok_or(KnownError::Bytes)?;
            if known.names.contains_key(&store) || known.forgotten.insert(store, name).is_some() {
                return Err(KnownError::Bytes);
            }
        }
        if bytes.is_empty() { Ok(known) } else { Err(KnownError::Bytes) }
    }

    fn take_node(&mut self, bytes: &mut &[u8]) -> Result<(), KnownError> {
        let (name, store, entry) = match take(bytes, 1) {
            Some([1]) => {
                let entry = NodeEntry::take(bytes)?;
                (entry.name.clone(), entry.store, Some(Arc::new(entry)))
            }
            Some([0]) => {
                let name = take_name(bytes).ok_or(KnownError::Bytes)?;
                (name, take_u128(bytes).ok_or(KnownError::Bytes)?, None)
            }
            _ => return Err(KnownError::Bytes),
        };
        let boot = take_varint(bytes).ok_or(KnownError::Bytes)?;
        let position = take_varint(bytes).ok_or(KnownError::Bytes)?;
        let node = KnownNode { store, boot, position, entry };
        let twice =
            self.names.insert(store, name.clone()).is_some() || self.nodes.insert(name, node).is_some();
        if twice { Err(KnownError::Bytes) } else { Ok(()) }
    }
}

/// How much a change matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[must_use]
pub(super) enum Learned {
    Nothing,
    /// It is kept sooner or later.
    Detail,
    /// A binding or a boot counter, kept before it is acted upon; or what placement reads, kept at once so that a node
    /// that starts alone begins with the same ring.
    Now,
}

/// A number of things to come, at most `max`.
pub(super) fn take_count(bytes: &mut &[u8], max: usize) -> Result<usize, KnownError> {
    let count = take_varint(bytes).and_then(|count| usize::try_from(count).ok());
    count.filter(|count| *count <= max).ok_or(KnownError::Bytes)
}

pub(super) fn take_forgotten(bytes: &mut &[u8]) -> Option<(u128, NodeName)> {
    Some((take_u128(bytes)?, take_name(bytes)?))
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::{any_entry, entry};
    use super::*;
    use proptest::prelude::*;

    /// Something to be heard of others.
    #[derive(Debug, Clone)]
    enum Heard {
        Entry(NodeEntry),
        Forgotten(u128, NodeName),
    }

    fn hear(known: &mut Known, heard: &Heard) {
        match heard {
            Heard::Entry(entry) => {
                if known.judge(entry) == Ok(EntryAge::Newer) {
                    let _ = known.learn(Arc::new(entry.clone()));
                }
            }
            Heard::Forgotten(store, name) => {
                known.bury(*store, name).unwrap();
            }
        }
    }

    /// Nodes as they are: what one says at an age is one thing, and a second store under a name comes only after the
    /// first was given up.
    fn any_heard() -> impl Strategy<Value = Heard> {
        (0..4_u8, 1..4_u64, 0..4_u64, 0..8_u8).prop_map(|(node, boot, rev, kind)| {
            let said = entry(&format!("n{node}"), boot, rev);
            match kind {
                0 => Heard::Forgotten(said.store, said.name),
                _ => Heard::Entry(NodeEntry { weight: (1 + boot * 4 + rev) as u16, ..said }),
            }
        })
    }

    fn merged<'h>(heard: impl IntoIterator<Item = &'h Heard>) -> Known {
        let mut known = Known::default();
        for heard in heard {
            hear(&mut known, heard);
        }
        known
    }

    fn merge(into: &Known, other: &Known) -> Known {
        let mut merged = into.clone();
        for (store, name) in other.forgotten() {
            hear(&mut merged, &Heard::Forgotten(store, name.clone()));
        }
        for entry in other.entries() {
            hear(&mut merged, &Heard::Entry((**entry).clone()));
        }
        merged
    }

    #[test]
    fn a_store_is_its_nodes_also_when_it_was_forgotten_but_not_once_another_has_the_name() {
        let (first, second) = (entry("c", 1, 0), NodeEntry { store: 77, ..entry("c", 1, 0) });
        let c = &first.name;
        let mut known = merged(&[Heard::Entry(first.clone()), Heard::Entry(entry("d", 1, 0))]);
        let d = entry("d", 1, 0).store;
        assert!(known.is_store_of(c, &[5, first.store]) && !known.is_store_of(c, &[5, d]));
        hear(&mut known, &Heard::Forgotten(first.store, c.clone()));
        assert!(known.is_store_of(c, &[first.store]) && !known.is_store_of(c, &[5, d]));
        hear(&mut known, &Heard::Entry(second));
        assert!(known.is_store_of(c, &[77]) && !known.is_store_of(c, &[first.store]));
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(
            a in prop::collection::vec(any_heard(), 0..12),
            b in prop::collection::vec(any_heard(), 0..12),
            c in prop::collection::vec(any_heard(), 0..12),
        ) {
            let (a, b, c) = (merged(&a), merged(&b), merged(&c));
            prop_assert_eq!(merge(&a, &b).digest(), merge(&b, &a).digest());
            prop_assert_eq!(merge(&merge(&a, &b), &c).digest(), merge(&a, &merge(&b, &c)).digest());
            prop_assert_eq!(merge(&a, &a), a);
        }

        #[test]
        fn any_order_and_repetition_ends_in_the_same(
            heard in prop::collection::vec(any_heard(), 1..20).prop_flat_map(|heard| {
                let twice: Vec<_> = heard.iter().chain(&heard).cloned().collect();
                (Just(heard), Just(twice).prop_shuffle())
            }),
        ) {
            let (once, shuffled) = heard;
            prop_assert_eq!(merged(&once).digest(), merged(&shuffled).digest());
        }

        #[test]
        fn what_is_kept_comes_back(
            entries in prop::collection::vec(any_entry(), 0..12),
            forgotten in prop::collection::btree_map(any::<u128>(), "[a-z]{1,9}", 0..6),
            position: u64,
        ) {
            let mut known = Known::default();
            for (store, name) in &forgotten {
                known.bury(*store, &name.parse().unwrap()).unwrap();
            }
            for entry in &entries {
                hear(&mut known, &Heard::Entry(entry.clone()));
                let _ = known.advance(&entry.name, entry.store, position);
            }
            let hello = Hello { name: "only-met".parse().unwrap(), store: 1, boot: 3, position };
            if known.bound(&hello.name, hello.store) == Ok(None) {
                let _ = known.meet(&hello);
            }
            prop_assert_eq!(Known::decode(&known.encode()), Ok(known));
        }

        #[test]
        fn bytes_from_a_disk_are_read_or_refused(mut bytes: Vec<u8>, right_version: bool) {
            if let (Some(first), true) = (bytes.first_mut(), right_version) {
                *first = VERSION;
            }
            if let Ok(known) = Known::decode(&bytes) {
                prop_assert_eq!(Known::decode(&known.encode()), Ok(known));
            }
        }

        #[test]
        fn a_flipped_byte_never_panics(at: prop::sample::Index, flip in 1..=u8::MAX) {
            let mut known = merged(&["a", "b", "c"].map(|name| Heard::Entry(entry(name, 3, 4))));
            known.bury(9, &"d".parse().unwrap()).unwrap();
            let mut bytes = known.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_ne!(Known::decode(&bytes), Ok(known));
        }
    }

    #[test]
    fn a_position_is_of_one_store_and_not_of_a_name() {
        let mut known = merged(&[Heard::Entry(entry("a", 1, 0))]);
        let (name, store) = ("a".parse().unwrap(), entry("a", 1, 0).store);
        let before = known.clone();
        assert_eq!(known.advance(&name, store + 1, 9), Learned::Nothing);
        assert_eq!(known, before);
        assert_eq!(known.advance(&name, store, 9), Learned::Detail);
        assert_eq!(known.get(&name).unwrap().position, 9);
    }

    #[test]
    fn another_format_is_told_by_its_number() {
        assert_eq!(Known::decode(&[7, 0, 0]), Err(KnownError::Version(7)));
        assert_eq!(Known::decode(&[]), Err(KnownError::Bytes));
        assert_eq!(Known::decode(&[VERSION, 0, 0]), Ok(Known::default()));
    }

    #[test]
    fn a_full_cluster_refuses_the_next_and_is_kept_below_a_mebibyte() {
        let long = |number: usize| format!("{number:0>253}");
        let mut known = Known::default();
        for number in 0..NODES_MAX {
            let store = number as u128;
            let entry = NodeEntry {
                store,
                boot: u64::MAX,
                rev: u64::MAX >> 1,
                address: "a".repeat(super::super::entry::ADDRESS_LEN_MAX),
                build: "b".repeat(super::super::entry::BUILD_LEN_MAX),
                ..entry(&long(number), 1, 0)
            };
            hear(&mut known, &Heard::Entry(entry));
            known.bury(u128::MAX - store, &long(number).parse().unwrap()).unwrap();
        }
        let next = entry("next", 1, 0);
        assert_eq!(known.judge(&next), Err(IdentityRefusal::Full { name: next.name.clone() }));
        assert_eq!(
            known.bury(u128::MAX / 2, &next.name),
            Err(IdentityRefusal::ManyForgotten { name: next.name.clone() })
        );
        let bytes = known.encode();
        assert!(bytes.len() < 1 << 20, "{}", bytes.len());
        assert_eq!(Known::decode(&bytes), Ok(known));
    }
}
