//! Who is in the cluster, as one node sees it.

use super::{NodeEntry, NodeState};
use crate::placement::{NodeName, Shards, Table, Weight};
use std::{collections::BTreeMap, sync::Arc};

/// The members as one node knows them, numbered: two views of one node with different numbers differ. Between nodes the
/// numbers mean nothing; the [`digest`](Self::digest) does.
///
/// A node is here once its binding is durable at this one, and stays until it is forgotten, alive or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub(super) number: u64,
    pub(super) nodes: BTreeMap<NodeName, NodeInView>,
}

/// One node of a [`View`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInView {
    /// What it last said of itself.
    pub entry: Arc<NodeEntry>,
    /// Whether it answers. A hint for operators and for messages that need not be tried: no input of placement (P21),
    /// and safety never reads it.
    pub is_alive: bool,
}

impl View {
    /// Rises with each change that is seen here.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// All nodes, this one included, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &NodeInView)> {
        self.nodes.iter()
    }

    /// One node.
    pub fn get(&self, name: &NodeName) -> Option<&NodeInView> {
        self.nodes.get(name)
    }

    /// The members of the ring with their weights: all nodes that are not leaving or gone, alive or not (P21).
    pub fn ring_members(&self) -> BTreeMap<NodeName, u16> {
        self.on_ring().map(|(name, weight)| (name.clone(), weight)).collect()
    }

    /// Which of them each shard belongs to; `None`: there are none, and every shard stays where it is.
    pub fn table(&self, shards: Shards) -> Option<Table> {
        let weight = |weight| Weight::new(u32::from(weight)).expect("an entry's weight is within bounds");
        let members = self.on_ring().map(|(name, share)| (name.clone(), weight(share))).collect();
        Table::new(&members, shards)
    }

    /// Equal where placement reads the same: names and weights of the ring's members.
    pub fn digest(&self) -> u64 {
        let mut bytes = Vec::with_capacity(32 * self.nodes.len());
        for (name, weight) in self.on_ring() {
            super::entry::put_text(name.as_str(), &mut bytes);
            bytes.extend_from_slice(&weight.to_be_bytes());
        }
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }

    fn on_ring(&self) -> impl Iterator<Item = (&NodeName, u16)> {
        let up = self.nodes.iter().filter(|(_, node)| node.entry.state == NodeState::Up);
        up.map(|(name, node)| (name, node.entry.weight))
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::entry;
    use super::*;

    fn view(nodes: &[(&str, u16, NodeState, bool)]) -> View {
        let nodes = nodes.iter().map(|&(name, weight, state, is_alive)| {
            let entry = NodeEntry { state, weight, ..entry(name, 1, 0) };
            (entry.name.clone(), NodeInView { entry: Arc::new(entry), is_alive })
        });
        View { number: 1, nodes: nodes.collect() }
    }

    #[test]
    fn placement_reads_names_and_weights_of_who_is_up_and_nothing_else() {
        use NodeState::{Leaving, Left, Up};
        let all =
            view(&[("a", 1, Up, true), ("b", 3, Up, true), ("c", 1, Leaving, true), ("d", 1, Left, false)]);
        let names = all.ring_members().into_iter().map(|(name, weight)| (name.to_string(), weight));
        assert_eq!(names.collect::<Vec<_>>(), [("a".to_owned(), 1), ("b".to_owned(), 3)]);
        // Dead or alive, with or without those that go: the same.
        assert_eq!(all.digest(), view(&[("a", 1, Up, false), ("b", 3, Up, true)]).digest());
        assert_ne!(all.digest(), view(&[("a", 1, Up, true), ("b", 4, Up, true)]).digest());
        assert_ne!(all.digest(), view(&[("a", 1, Up, true)]).digest());
        assert_ne!(all.digest(), view(&[("a", 1, Up, true), ("b3", 3, Up, true)]).digest());
    }
}
