//! What a node says of itself to operators.

use super::{MemberStatus, MoveStatus, NodeStatus, ShardStatus, coordinator::Coordinator};
use crate::{kernel::Counters, membership::NodeState};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// Of how many moves the times are kept.
const MOVES_KEPT: usize = 1_024;

/// How long the shards that left stood still.
#[derive(Default)]
pub(super) struct Moves {
    all: MoveStatus,
    last_us: VecDeque<u64>,
}

impl Moves {
    pub(super) fn add(&mut self, stall: Duration) {
        let stall_us = u64::try_from(stall.as_micros()).unwrap_or(u64::MAX);
        self.all.moved += 1;
        self.all.stall_us_max = self.all.stall_us_max.max(stall_us);
        self.all.stall_us_sum = self.all.stall_us_sum.saturating_add(stall_us);
        self.last_us.push_back(stall_us);
        if MOVES_KEPT < self.last_us.len() {
            self.last_us.pop_front();
        }
    }

    fn status(&self) -> MoveStatus {
        let mut sorted: Vec<u64> = self.last_us.iter().copied().collect();
        sorted.sort_unstable();
        let p99 = (sorted.len() * 99).div_ceil(100);
        let stall_us_p99 = p99.checked_sub(1).map_or(0, |at| sorted[at]);
        MoveStatus { stall_us_p99, ..self.all }
    }
}

impl Coordinator {
    pub(super) fn status(&self) -> NodeStatus {
        let shared = &self.shared;
        let identity = shared.store.identity();
        let view = Arc::clone(self.membership().view());
        let name = &self.config.name;
        let nodes = view.nodes().map(|(node, seen)| MemberStatus {
            name: node.clone(),
            address: seen.entry.address.clone(),
            state: match seen.entry.state {
                NodeState::Up => "up",
                NodeState::Leaving => "leaving",
                NodeState::Left => "left",
            }
            .into(),
            weight: seen.entry.weight,
            is_alive: seen.is_alive || node == name,
            is_connected: node == name || self.connected.contains_key(node),
            boot: seen.entry.boot,
            build: seen.entry.build.clone(),
        });
        let shards = shared.layout.iter().filter_map(|shard| {
            let (epoch, owner) = self.holdings.routes().get(shard)?;
            Some(ShardStatus { shard: shard.0, epoch: epoch.0, owner: owner.clone() })
        });
        let stats: Vec<_> = shared.intakes.iter().map(|intake| intake.stats()).collect();
        let counters = stats.iter().fold(Counters::default(), |sum, stats| sum.plus(stats.counters));
        let activations = stats.iter().fold((0, 0), |sum, stats| {
            (sum.0 + stats.activations.0 as u64, sum.1 + stats.activations.1 as u64)
        });
        let (going, coming) = self.holdings.running();
        NodeStatus {
            name: name.clone(),
            cluster: format!("{:032x}", identity.cluster),
            boot: identity.boot,
            build: concat!("entity-runtime ", env!("CARGO_PKG_VERSION")).into(),
            view: view.number(),
            view_digest: view.digest(),
            nodes: nodes.collect(),
            shards_total: shared.layout.count(),
            shards: shards.collect(),
            going: going as u64,
            coming: coming as u64,
            stranded: self.stranded(),
            moves: self.moves.status(),
            counters: counters.into(),
            uptime_ms: u64::try_from(self.now().since(self.started).as_millis()).unwrap_or(u64::MAX),
            activations,
            is_quiet: stats.iter().all(|stats| stats.quiet),
            refused: self.refused.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_told_of_all_moves_and_ranked_among_the_last() {
        let mut moves = Moves::default();
        assert_eq!(moves.status(), MoveStatus::default());
        moves.add(Duration::from_millis(70));
        let first = MoveStatus { moved: 1, stall_us_max: 70_000, stall_us_sum: 70_000, stall_us_p99: 70_000 };
        assert_eq!(moves.status(), first);
        (1..=MOVES_KEPT as u64).for_each(|micros| moves.add(Duration::from_micros(micros)));
        let status = moves.status();
        assert_eq!((status.moved, status.stall_us_max), (MOVES_KEPT as u64 + 1, 70_000));
        assert_eq!(
            status.stall_us_p99, 1_014,
            "of 1,024 ten were longer, and the first one is not among them"
        );
    }
}
