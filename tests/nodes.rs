//! Clusters in one process, for tests: real nodes on loopback, with hand-offs that begin soon.

use crate::running::{Ledger, Mirror};
use entity_runtime::{
    Runtime, StartError,
    cluster::{Begin, ClusterConfig, Command, CommandAnswer, NodeStatus},
    placement::NodeName,
    prelude::*,
};
use std::{path::Path, time::Duration};

/// A node whose shards move soon, on a directory of its own or in memory.
pub async fn node(name: &str, begin: Begin, directory: Option<&Path>) -> Runtime {
    try_node(name, "127.0.0.1:0", begin, directory).await.expect("the node starts")
}

/// The same at an address, which may not start.
///
/// # Errors
/// It does not.
pub async fn try_node(
    name: &str,
    listen: &str,
    begin: Begin,
    directory: Option<&Path>,
) -> Result<Runtime, StartError> {
    let mut config = ClusterConfig::new(name.parse().expect("a name"), listen, begin);
    config.pace.stable_for = Duration::from_millis(100);
    config.pace.rest = Duration::from_millis(200);
    config.pace.back_off = Duration::from_millis(100);
    config.membership.dial_period = Duration::from_millis(100);
    config.membership.compare_period = Duration::from_millis(100);
    let builder =
        Runtime::builder().entity::<Ledger>().entity::<Mirror>().shards(32).workers(2).cluster(config);
    let builder = match directory {
        Some(directory) => builder.data_dir(directory).segment_bytes(32 << 20),
        None => builder.in_memory(),
    };
    builder.start().await
}

/// Joins at these nodes.
pub fn at(nodes: &[&Runtime]) -> Begin {
    Begin::Join(addresses(nodes))
}

/// Where nodes listen.
pub fn addresses(nodes: &[&Runtime]) -> Vec<String> {
    nodes.iter().map(|node| node.listens_at().expect("a node listens").to_owned()).collect()
}

/// What a node says of itself.
pub async fn status(client: &Client, node: &str) -> Option<NodeStatus> {
    let name: NodeName = node.parse().expect("a name");
    match client.command(Some(&name), Command::Status).await {
        Ok(CommandAnswer::Status(status)) => Some(*status),
        _ => None,
    }
}

/// Asks a node until it says so.
pub async fn until(
    client: &Client,
    node: &str,
    what: &str,
    is_so: impl Fn(&NodeStatus) -> bool,
) -> NodeStatus {
    let mut last = None;
    let waiting = async {
        loop {
            if let Some(status) = status(client, node).await {
                if is_so(&status) {
                    return status;
                }
                last = Some(status);
            }
            tokio::task::yield_now().await;
        }
    };
    let status = tokio::time::timeout(Duration::from_mins(1), waiting).await.ok();
    status.unwrap_or_else(|| panic!("{node} never: {what}; it says {last:?}"))
}

/// How many shards each node has, as this one knows.
pub fn shards_of(status: &NodeStatus, node: &str) -> usize {
    status.shards.iter().filter(|shard| shard.owner.as_str() == node).count()
}
