//! The shards that have moved while the demo went on, and how long each stood still.

use crate::quiet::status;
use entity_runtime::{Client, cluster::MoveStatus, placement::NodeName};
use flights_plain::table::{aligned, number};
use futures_util::future::join_all;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};

/// How often nodes are asked: what a node has counted is gone when it is killed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Hand-offs that nodes have counted, by name and by how often the node was started.
#[derive(Debug, Default, Clone)]
pub(crate) struct Moves(Arc<Mutex<BTreeMap<(NodeName, u64), MoveStatus>>>);

impl Moves {
    /// Looks again and again, so that of a node that has left or was killed the last look is there.
    pub(crate) async fn watch(self, client: Client) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let nodes = client.nodes();
            let asked = join_all(nodes.iter().map(|node| status(&client, node))).await;
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for status in asked.into_iter().flatten() {
                all.insert((status.name, status.boot), status.moves);
            }
        }
    }

    /// As a table: a node a line, with all its starts together.
    pub(crate) fn table(&self) -> String {
        let mut by_node = BTreeMap::<NodeName, MoveStatus>::new();
        for ((node, _), moves) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let sum = by_node.entry(node.clone()).or_default();
            sum.moved += moves.moved;
            sum.stall_us_sum += moves.stall_us_sum;
            sum.stall_us_max = sum.stall_us_max.max(moves.stall_us_max);
            sum.stall_us_p99 = sum.stall_us_p99.max(moves.stall_us_p99);
        }
        let millis = |us: u64| format!("{}.{} ms", number(us / 1_000), us / 100 % 10);
        let mut lines = vec![
            ["from node", "shards moved", "mean stall", "p99 stall", "longest stall"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (node, moves) in by_node {
            let mean = moves.stall_us_sum.checked_div(moves.moved);
            lines.push(vec![
                node.to_string(),
                number(moves.moved),
                mean.map_or("-".to_owned(), millis),
                mean.map_or("-".to_owned(), |_| millis(moves.stall_us_p99)),
                mean.map_or("-".to_owned(), |_| millis(moves.stall_us_max)),
            ]);
        }
        format!("Moves\n{}", aligned(&lines))
    }
}
