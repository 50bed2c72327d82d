//! What a node says of itself to operators.

use super::{
    LeaseStatus, MemberStatus, MoveStatus, NodeStatus, ServerStatus, ShardStatus, SharedStatus,
    coordinator::Coordinator, holdings::Holdings,
};
use crate::{
    kernel::Counters,
    membership::NodeState,
    store::{LedgerNode, Presence, ServerReport, SharedStore},
    timestamp::Timestamp,
};
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

/// When a server of a shared store has answered, by the clock of this node: for operators alone, as leases run by the server's.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Beats {
    since: Timestamp,
    last: Option<Timestamp>,
}

impl Beats {
    /// The server has answered a beat.
    pub(super) fn answered(&mut self, lease: Duration, now: Timestamp) {
        if !self.runs(lease, now) {
            self.since = now;
        }
        self.last = Some(now);
    }

    fn runs(&self, lease: Duration, now: Timestamp) -> bool {
        self.last.is_some_and(|last| now <= last + lease)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl ServerStatus {
    fn new(report: ServerReport, beats: Beats, lease: Duration, now: Timestamp) -> Self {
        let ServerReport {
            name,
            version,
            timeline,
            synchronous_commit,
            synchronous_standbys,
            standbys,
            warnings,
        } = report;
        let lease_runs = beats.runs(lease, now);
        Self {
            server: name,
            version,
            timeline,
            synchronous_commit,
            synchronous_standbys,
            standbys,
            warnings,
            lease_runs,
            beat_ms_ago: beats.last.map(|last| millis(now.since(last))),
            reached_for_ms: lease_runs.then(|| millis(now.since(beats.since))),
            ..Self::default()
        }
    }
}

impl From<&LedgerNode> for LeaseStatus {
    fn from(node: &LedgerNode) -> Self {
        let state = match node.says.presence {
            Presence::Up => "up",
            Presence::Leaving => "leaving",
            Presence::Left => "left",
        };
        Self {
            node: node.name.clone(),
            state: state.into(),
            runs: node.lives,
            steady_ms: millis(node.steady),
        }
    }
}

impl Coordinator {
    fn shared_status(&self, store: &dyn SharedStore) -> SharedStatus {
        let (lease, now) = (store.lease(), self.now());
        let report = store.report();
        let servers = (0_u32..).zip(report.servers).map(|(at, report)| {
            let shards =
                self.shared.layout.iter().filter(|shard| store.server_of(*shard) == at).count() as u64;
            let (beats, leases) = match &self.holdings {
                Holdings::Common(common) => (
                    common.beats.get(at as usize).copied().unwrap_or_default(),
                    common.sharing.nodes(at).iter().map(LeaseStatus::from).collect(),
                ),
                Holdings::Own(_) => (Beats::default(), Vec::new()),
            };
            ServerStatus { shards, leases, ..ServerStatus::new(report, beats, lease, now) }
        });
        SharedStatus {
            lease_ms: millis(lease),
            lost_commits: report.lost_commits,
            servers: servers.collect(),
        }
    }

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
            uptime_ms: millis(self.now().since(self.started)),
            activations,
            is_quiet: stats.iter().all(|stats| stats.quiet),
            refused: self.refused.clone(),
            shared: shared.store.shared().map(|store| self.shared_status(store)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_runs_for_as_long_as_beats_are_answered_in_time() {
        let lease = Duration::from_secs(3);
        let at = |seconds| Timestamp::EPOCH + Duration::from_secs(seconds);
        let told = |beats: Beats, now| {
            let status = ServerStatus::new(ServerReport::default(), beats, lease, at(now));
            (status.lease_runs, status.beat_ms_ago, status.reached_for_ms)
        };
        let mut beats = Beats::default();
        assert_eq!(told(beats, 10), (false, None, None));
        for now in [10, 12, 15] {
            beats.answered(lease, at(now));
        }
        assert_eq!(told(beats, 16), (true, Some(1_000), Some(6_000)));
        assert_eq!(told(beats, 19), (false, Some(4_000), None));
        beats.answered(lease, at(20));
        assert_eq!(told(beats, 20), (true, Some(0), Some(0)), "there was a gap");
    }

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
