//! What the demo does to its nodes and when, from a seed: the same seed does the same at the same rows again.

use crate::kills::{next, points};

/// What is done to a node, or with one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Another node joins.
    Add,
    /// A node is told to leave, and hands everything over.
    Drain,
    /// A node gets SIGKILL, and is started again on its directory; or is gone for good, where others can have what it had.
    Kill,
    /// A node gets SIGSTOP, and SIGCONT after longer than any of the others waits for it.
    Pause,
    /// The server that keeps the state of all ends without a shutdown, and is started again.
    Restart,
}

/// Where the nodes keep what the entities are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Each in a directory of its own.
    Apart,
    /// All on one server.
    Together,
}

/// One deed of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// It is done when so many rows are durable.
    pub row: u64,
    /// What is done.
    pub deed: Deed,
    /// Chooses the node: one of those that are there then.
    pub pick: u64,
}

/// Everything that is done while `rows` rows are loaded into this many nodes: each deed once, and so many kills. A server is restarted
/// as often as nodes are killed.
pub fn plan(seed: u64, nodes: usize, kills: usize, rows: u64, keeping: Keeping) -> Vec<Step> {
    let mut deeds = vec![Deed::Add, Deed::Drain, Deed::Pause];
    deeds.resize(deeds.len() + kills, Deed::Kill);
    if keeping == Keeping::Together {
        deeds.resize(deeds.len() + kills, Deed::Restart);
    }
    // Not the state that gave the rows: the order would go with them.
    let mut state = !seed;
    for at in (1..deeds.len()).rev() {
        deeds.swap(at, (next(&mut state) % (at as u64 + 1)) as usize);
    }
    // The only node has nobody to hand anything over to.
    if nodes == 1 {
        deeds.sort_by_key(|deed| *deed != Deed::Add);
    }
    let rows = points(seed, deeds.len(), rows);
    rows.into_iter().zip(deeds).map(|(row, deed)| Step { row, deed, pick: next(&mut state) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_deed_comes_once_and_kills_as_often_as_asked() {
        for seed in 0..200 {
            let plan = plan(seed, 3, 2, 80_789, Keeping::Apart);
            let count = |deed| plan.iter().filter(|step| step.deed == deed).count();
            assert_eq!(
                [Deed::Add, Deed::Drain, Deed::Pause, Deed::Kill, Deed::Restart].map(count),
                [1, 1, 1, 2, 0]
            );
            assert!(plan.is_sorted_by_key(|step| step.row), "{plan:?}");
        }
        let together = super::plan(7, 3, 2, 80_789, Keeping::Together);
        assert_eq!(together.iter().filter(|step| step.deed == Deed::Restart).count(), 2);
    }

    #[test]
    fn a_seed_chooses_the_order_and_the_nodes() {
        assert_eq!(plan(7, 3, 2, 80_789, Keeping::Apart), plan(7, 3, 2, 80_789, Keeping::Apart));
        let first = |seed| plan(seed, 3, 2, 80_789, Keeping::Apart)[0].deed;
        assert!((1..50).any(|seed| first(seed) != first(0)));
        let pick = |seed| plan(seed, 3, 2, 80_789, Keeping::Apart)[0].pick % 3;
        assert!((1..50).any(|seed| pick(seed) != pick(0)));
    }

    #[test]
    fn the_only_node_is_joined_before_it_leaves() {
        for seed in 0..50 {
            assert_eq!(plan(seed, 1, 2, 80_789, Keeping::Apart)[0].deed, Deed::Add);
        }
    }
}
