//! What a node says of itself to operators.

use super::{MemberStatus, NodeStatus, ShardStatus, coordinator::Coordinator};
use crate::{kernel::Counters, membership::NodeState};
use std::sync::Arc;

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
            let (epoch, owner) = self.mover.routes().get(shard)?;
            Some(ShardStatus { shard: shard.0, epoch: epoch.0, owner: owner.clone() })
        });
        let stats: Vec<_> = shared.intakes.iter().map(|intake| intake.stats()).collect();
        let counters = stats.iter().fold(Counters::default(), |sum, stats| sum.plus(stats.counters));
        let activations = stats.iter().fold((0, 0), |sum, stats| {
            (sum.0 + stats.activations.0 as u64, sum.1 + stats.activations.1 as u64)
        });
        let (going, coming) = self.mover.running();
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
            moves: self.moves,
            counters: counters.into(),
            uptime_ms: u64::try_from(self.now().since(self.started).as_millis()).unwrap_or(u64::MAX),
            activations,
            is_quiet: stats.iter().all(|stats| stats.quiet),
        }
    }
}
