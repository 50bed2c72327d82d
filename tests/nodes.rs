//! Clusters in one process, for tests: real nodes on loopback, with hand-offs that begin soon.

use crate::running::{Counts, Ledger, Mirror, Note};
use entity_runtime::{
    Runtime, StartError,
    cluster::{Begin, ClusterConfig, Command, CommandAnswer, NodeStatus},
    placement::NodeName,
    prelude::*,
    transport::{Connection, Endpoint, Frame, Introduction, Tcp, TransportLimits, handshake::NodeIdentity},
};
use std::{collections::BTreeMap, fs, io, path::Path, time::Duration};

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
    start(config(name, listen, begin), directory).await
}

/// Of a node whose shards move soon, and that notices soon who is gone.
pub fn config(name: &str, listen: &str, begin: Begin) -> ClusterConfig {
    let mut config = ClusterConfig::new(name.parse().expect("a name"), listen, begin);
    config.pace.stable_for = Duration::from_millis(100);
    config.pace.rest = Duration::from_millis(200);
    config.pace.back_off = Duration::from_millis(100);
    config.membership.dial_period = Duration::from_millis(100);
    config.membership.compare_period = Duration::from_millis(100);
    config.transport.ping_after = Duration::from_millis(500);
    config.transport.idle_deadline = Duration::from_secs(2);
    config
}

/// Starts a node with the shared entities.
///
/// # Errors
/// It does not start.
pub async fn start(config: ClusterConfig, directory: Option<&Path>) -> Result<Runtime, StartError> {
    let builder =
        Runtime::builder().entity::<Ledger>().entity::<Mirror>().shards(32).workers(2).cluster(config);
    let builder = match directory {
        Some(directory) => builder.data_dir(directory).segment_bytes(32 << 20),
        None => builder.in_memory(),
    };
    builder.start().await
}

/// Copies a directory with all that is in it.
///
/// # Errors
/// What the file system says.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

/// What is fed: each number to its ledger, which tells its mirror.
pub struct Rows {
    /// Ledgers the numbers are spread over,
    pub ledgers: u64,
    /// and mirrors.
    pub mirrors: u64,
}

impl Rows {
    fn ledger(&self, number: u64) -> String {
        format!("l{}", number % self.ledgers)
    }

    fn mirror(&self, number: u64) -> String {
        format!("m{}", number % self.mirrors)
    }

    /// The message of a number, and the key it is for.
    pub fn note(&self, number: u64) -> (String, Note) {
        (self.ledger(number), Note { number, mirror: Some(self.mirror(number)) })
    }

    /// Feeds all numbers below `rows`; those that were fed before change nothing.
    pub async fn feed(&self, client: &Client, rows: u64) {
        let mut feed = client.feed("rows").await.expect("the name is one");
        for number in 0..rows {
            let (ledger, note) = self.note(number);
            feed.send(number, Ledger::at(ledger), note).await.expect("the feed goes on");
        }
        feed.flush().await.expect("the feed ends");
    }

    /// Each number below `rows` was noted once by its ledger, and reaches its mirror once.
    pub async fn check(&self, client: &Client, rows: u64) {
        let expected = |count: u64, of: u64| -> BTreeMap<u64, u32> {
            (0..rows).filter(|number| number % count == of).map(|number| (number, 1)).collect()
        };
        for of in 0..self.ledgers {
            let counts = client.ask(Ledger::at(self.ledger(of)), Counts).await.expect("a ledger answers");
            assert_eq!(counts, expected(self.ledgers, of), "ledger {of}");
        }
        for of in 0..self.mirrors {
            let (expected, mirror) = (expected(self.mirrors, of), self.mirror(of));
            let arrived = async {
                while client.ask(Mirror::at(&mirror), Counts).await.expect("a mirror answers") != expected {
                    tokio::task::yield_now().await;
                }
            };
            let arrived = tokio::time::timeout(Duration::from_mins(1), arrived).await;
            assert!(arrived.is_ok(), "mirror {of} never has each number once");
        }
    }
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

/// Comes to a node as this one, and says only what the test does. The connection, once it is let in; or why it is not.
///
/// # Errors
/// It is not let in.
///
/// # Panics
/// The node does not answer.
pub async fn come(address: &str, identity: NodeIdentity) -> Result<Connection, String> {
    let stranger = || Introduction { cluster: None, node: None, kinds: Vec::new() };
    let endpoint = Endpoint::new(Tcp::loopback(), TransportLimits::default(), stranger, |_| Ok(()));
    let cluster = endpoint.dial(address, None).await.expect("whoever asks is answered").other.cluster;
    let introduce =
        move || Introduction { cluster: cluster.clone(), node: Some(identity.clone()), kinds: Vec::new() };
    let endpoint = Endpoint::new(Tcp::loopback(), TransportLimits::default(), introduce, |_| Ok(()));
    let mut connection = endpoint.dial(address, None).await.map_err(|why| why.to_string())?;
    // Who is let in is told what is known; who is refused at the door hears that the connection ends.
    loop {
        match told(&mut connection).await {
            Some(Frame::Members(_)) => return Ok(connection),
            Some(_) => {}
            None => {
                let ended = connection.link.ended();
                return Err(ended.map_or_else(|| "it has ended".to_owned(), |ended| ended.to_string()));
            }
        }
    }
}

/// The next frame of a connection; `None`: it has ended.
///
/// # Panics
/// Nothing is said for a minute.
pub async fn told(connection: &mut Connection) -> Option<Frame> {
    let next = tokio::time::timeout(Duration::from_mins(1), connection.incoming.recv()).await;
    next.expect("nothing is said").map(|delivery| delivery.frame)
}
