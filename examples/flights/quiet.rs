//! When a cluster is quiet: everything that was sent has taken effect, on all nodes, and nothing is on its way.

use anyhow::{Result, bail};
use entity_runtime::{
    Client,
    cluster::{Command, CommandAnswer, NodeStatus},
    placement::NodeName,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long a node may take to answer: far longer than it needs, unless it is stopped.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Between two rounds: how often a node looks whether it is quiet.
const PAUSE: Duration = Duration::from_millis(20);

/// What all nodes that have not left say of themselves, by name.
pub(crate) type Statuses = BTreeMap<NodeName, NodeStatus>;

/// Asks one node.
///
/// # Errors
/// It cannot be reached or does not answer; in words.
pub(crate) async fn status(client: &Client, node: &NodeName) -> Result<NodeStatus, String> {
    let asked = client.command(Some(node), Command::Status);
    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(CommandAnswer::Status(status))) => Ok(*status),
        Ok(Ok(other)) => Err(format!("{node} answers {other:?}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{node} does not answer")),
    }
}

/// Asks all nodes that have not left. Also returns who cannot be asked, and why.
async fn statuses(client: &Client) -> (Statuses, BTreeMap<NodeName, String>) {
    let (mut all, mut silent) = (Statuses::new(), BTreeMap::new());
    let mut unasked = client.nodes();
    while let Some(node) = unasked.pop() {
        if all.contains_key(&node) || silent.contains_key(&node) {
            continue;
        }
        match status(client, &node).await {
            Ok(status) => {
                // Also those that only other nodes know; one that has left has nothing any more.
                let members = status.nodes.iter().filter(|member| member.state != "left");
                unasked.extend(members.map(|member| member.name.clone()));
                all.insert(node, status);
            }
            Err(why) => {
                silent.insert(node, why);
            }
        }
    }
    (all, silent)
}

/// Waits until nothing is on its way on any node and no shard is between two.
///
/// All must be quiet twice in a row and have done nothing in between: then there was a moment at which all were quiet. One
/// round would not do, for a message could go from a node that is yet to be asked to one that was asked already.
///
/// # Errors
/// It is not so within this time.
pub(crate) async fn quiet(client: &Client, within: Duration) -> Result<Statuses> {
    let started = Instant::now();
    let mut before: Option<Statuses> = None;
    loop {
        let (all, silent) = statuses(client).await;
        let unrest = all.values().find_map(unrest).or_else(|| gap(&all, &silent));
        let why = match unrest {
            None if before.as_ref().is_some_and(|before| is_same(before, &all)) => return Ok(all),
            None => {
                before = Some(all);
                "nodes still have something to do".to_owned()
            }
            Some(why) => {
                before = None;
                why
            }
        };
        if within < started.elapsed() {
            bail!(
                "the figures are not complete: {why}, {} s after it was asked first; try again when all nodes are there",
                within.as_secs()
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a node still has to do.
fn unrest(status: &NodeStatus) -> Option<String> {
    let name = &status.name;
    if status.going + status.coming != 0 {
        Some(format!("{} shards are on their way from {name} and {} to it", status.going, status.coming))
    } else if !status.is_quiet {
        Some(format!("messages of {name} are on their way"))
    } else {
        None
    }
}

/// What is missing, should these nodes not have all shards. One that cannot be asked and has none is not missed: it may have
/// left without anybody hearing of it. And one that has just come back may not know of the others yet.
fn gap(all: &Statuses, silent: &BTreeMap<NodeName, String>) -> Option<String> {
    let owned = |status: &NodeStatus| status.shards.iter().filter(|shard| shard.owner == status.name).count();
    let present: usize = all.values().map(owned).sum();
    // Shards are numbered from 0, and their count is a power of two.
    let highest = all.values().flat_map(|status| &status.shards).map(|shard| shard.shard as usize).max();
    let total = highest.map_or(1, |highest| (highest + 1).next_power_of_two());
    if present == total {
        return None;
    }
    Some(match silent.values().next() {
        Some(why) => why.clone(),
        None if all.is_empty() => "there is no connection to any node".to_owned(),
        None => {
            let names: Vec<&str> = all.keys().map(NodeName::as_str).collect();
            format!("the nodes that can be asked, {}, have {present} of {total} shards", names.join(", "))
        }
    })
}

fn is_same(before: &Statuses, now: &Statuses) -> bool {
    before.len() == now.len()
        && before.iter().zip(now).all(|((name, one), (other_name, other))| {
            name == other_name && one.boot == other.boot && one.counters == other.counters
        })
}
