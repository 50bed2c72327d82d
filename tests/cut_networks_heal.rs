//! Three nodes, each in a network namespace of its own: what one sends to another is dropped on its way out while the other
//! way stays open, and then goes again.

use entity_runtime::{cluster::Security, prelude::*};
use entity_runtime_tests::nodes::{Rows, shards_of, until};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

const ROWS: Rows = Rows { ledgers: 30, mirrors: 6 };

/// Runs `ip`; an error is what it says.
fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.map_err(|error| format!("`ip` cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`ip {arguments}`: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Namespaces that are joined by a bridge, and gone when this is dropped.
struct Networks {
    /// Of this process alone, so that several tests can run.
    name: String,
    /// Third number of all addresses.
    net: u32,
    nodes: u8,
}

impl Networks {
    fn new(nodes: u8) -> Result<Self, String> {
        let process = std::process::id();
        // Of those that are nobody's, a net for each process that tests.
        let networks = Self { name: format!("er{process}"), net: process % 251, nodes };
        let name = &networks.name;
        ip(&format!("link add {name} type bridge"))?;
        ip(&format!("addr add {}/24 dev {name}", networks.address(254)))?;
        ip(&format!("link set {name} up"))?;
        for node in 1..=nodes {
            let space = networks.space(node);
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {space} type veth peer name eth0 netns {space}"))?;
            ip(&format!("link set {space} master {name} up"))?;
            ip(&format!("-n {space} addr add {}/24 dev eth0", networks.address(node)))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
        }
        Ok(networks)
    }

    fn space(&self, node: u8) -> String {
        format!("{}n{node}", self.name)
    }

    fn address(&self, host: u8) -> String {
        format!("10.213.{}.{host}", self.net)
    }

    /// Nothing that one node sends reaches the other any more.
    fn cut(&self, from: u8, to: u8) {
        ip(&format!("-n {} route add blackhole {}/32", self.space(from), self.address(to))).unwrap();
    }

    fn heal(&self, from: u8, to: u8) {
        ip(&format!("-n {} route del blackhole {}/32", self.space(from), self.address(to))).unwrap();
    }

    /// Starts a node in its namespace, and waits until it serves.
    fn start(&self, node: u8, directory: &Path, seed: Option<u8>) -> Node {
        let address = format!("{}:7000", self.address(node));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(node), env!("CARGO_BIN_EXE_victim")]);
        command.args(["node", &format!("n{node}"), &address]).arg(directory.join(format!("n{node}")));
        command.args(seed.map(|seed| format!("{}:7000", self.address(seed))));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("`ip` was run before");
        let mut line = String::new();
        let said = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        assert!(said.is_ok() && line.trim() == "serves", "node {node} says {line:?}");
        Node(child)
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for node in 1..=self.nodes {
            // Where one was not made there is nothing to be taken away.
            let _ = ip(&format!("netns del {}", self.space(node)));
        }
        let _ = ip(&format!("link del {}", self.name));
    }
}

struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_in_one_direction_delays_messages_and_loses_none() {
    let networks = match Networks::new(3) {
        Ok(networks) => networks,
        Err(why) => {
            println!("skipped: network namespaces cannot be made here: {why}");
            return;
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let _nodes = [
        networks.start(1, directory.path(), None),
        networks.start(2, directory.path(), Some(1)),
        networks.start(3, directory.path(), Some(1)),
    ];
    let addresses = (1..=3).map(|node| format!("{}:7000", networks.address(node)));
    let client = Client::connect_with(addresses, &Security::Insecure).await.unwrap();
    for node in ["n1", "n2", "n3"] {
        until(&client, node, "every node has shards", |status| {
            ["n1", "n2", "n3"].iter().all(|owner| 6 <= shards_of(status, owner))
        })
        .await;
    }
    ROWS.feed(&client, 300).await;
    ROWS.check(&client, 300).await;

    networks.cut(1, 2);
    // The client reaches everyone, so all is noted; what ledgers tell mirrors over the cut waits.
    ROWS.feed(&client, 900).await;
    let is_cut_off = |status: &entity_runtime::cluster::NodeStatus, other: &str| {
        status.nodes.iter().any(|node| node.name.as_str() == other && !node.is_connected)
    };
    until(&client, "n2", "n1 does not answer", |status| is_cut_off(status, "n1")).await;
    ROWS.feed(&client, 1_200).await;

    networks.heal(1, 2);
    ROWS.check(&client, 1_200).await;
    until(&client, "n1", "n2 is back", |status| !is_cut_off(status, "n2")).await;
    // Nobody has two owners, and nothing has moved for a cut alone.
    let mut owned = std::collections::BTreeMap::new();
    for node in ["n1", "n2", "n3"] {
        let status = until(&client, node, "nothing moves", |status| status.going + status.coming == 0).await;
        for shard in status.shards.iter().filter(|shard| shard.owner.as_str() == node) {
            assert_eq!(owned.insert(shard.shard, node), None, "shard {} has two owners", shard.shard);
        }
    }
    assert_eq!(owned.len(), 32);
}
