//! The network side of a client that is no node: connections to all nodes it hears of, and their routes.

use super::{
    Network, Security,
    connections::{dial, serve},
    coordinator::{Notice, ToCoordinator},
    joining::stranger,
};
use crate::{
    limits::Limits,
    membership::{Exchange, NodeState},
    node::{Front, Links, Outbound},
    placement::{NodeName, ShardId, Shards},
    router::{Heard, Routes},
    transport::{
        CloseReason, Connection, Endpoint, Frame, TlsError, TransportLimits, frame::Route, handshake::Cluster,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, timeout},
};

/// Resolution of time-outs.
const TICK: Duration = Duration::from_millis(20);
/// How long a new client waits to know all owners and to reach all nodes. It works without, over whom it reaches.
const SETTLE_WITHIN: Duration = Duration::from_secs(1);
/// Longest message a client sends: what a frame has room for.
const MESSAGE_LEN_MAX: usize = 8 << 20;
/// Between two tries to connect to a node.
const DIAL_EVERY: Duration = Duration::from_secs(1);

/// Why a client could not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No address is given.
    #[error("no address to connect to is given: name one node at least, as `host:port`")]
    NoAddress,
    /// The client's certificate or key.
    #[error(transparent)]
    Security(#[from] TlsError),
    /// No address has led to a node.
    #[error("no node could be reached: {}", .0.join("; "))]
    Unreachable(Vec<String>),
    /// What answered is no node of a cluster that can be used.
    #[error("{address} cannot be used: {why}")]
    Unusable {
        /// Where.
        address: String,
        /// Why not.
        why: String,
    },
    /// Threads could not be started.
    #[error("the client cannot start: {0}")]
    Io(#[from] io::Error),
}

/// Why a command was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The client is not connected with the node.
    #[error("there is no connection to {}", .0.as_ref().map_or_else(|| "any node".to_owned(), |name| format!("node {name}")))]
    NotConnected(Option<NodeName>),
    /// The connection ended before the answer; the command may have been carried out.
    #[error("the connection to {0} ended before its answer")]
    Cut(String),
    /// The node did not answer in time; the command may have been carried out.
    #[error("node {0} did not answer in time")]
    Silent(String),
    /// The answer cannot be read: the node runs another build.
    #[error("the answer of {node} cannot be read, it may run another build: {why}")]
    Unreadable {
        /// Who has answered.
        node: String,
        /// Why not.
        why: String,
    },
}

/// Keeps a client connected for as long as it is held.
pub(crate) struct Caller {
    pub(crate) front: Arc<Front>,
    /// Dropped, it ends all connections.
    network: Option<Network>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        // First, or a connection that comes up would open its port again.
        drop(self.network.take());
        self.front.ports.fail("the client was closed");
        self.front.ports.clear();
    }
}

/// Connects to the first of the addresses that answers, and from there to the rest of the cluster.
pub(crate) async fn connect(addresses: Vec<String>, security: &Security) -> Result<Caller, ConnectError> {
    if addresses.is_empty() {
        return Err(ConnectError::NoAddress);
    }
    let network = Network::start()?;
    let endpoint = stranger(security.transport(None)?, TransportLimits::default());
    let (first, address, cluster) = first_of(&network, &endpoint, &addresses).await?;
    let unusable = |why: String| ConnectError::Unusable { address: address.clone(), why };
    let layout = Shards::new(cluster.shards)
        .ok_or_else(|| unusable(format!("it says its cluster has {} shards", cluster.shards)))?;
    // What is too long for the nodes they refuse themselves.
    let limits = Limits { message_len_max: MESSAGE_LEN_MAX, ..Limits::default() };
    let front = Arc::new(Front::new(limits, Links::client(layout), layout, Vec::new()));
    let (notices, told) = mpsc::unbounded_channel();
    let handle = network.handle().clone();
    let mut calling = Calling {
        network: handle.clone(),
        front: Arc::clone(&front),
        endpoint,
        cluster: cluster.id,
        routes: Routes::new(layout),
        addresses: addresses.into_iter().map(|address| (address, None)).collect(),
        connected: BTreeMap::new(),
        dialling: BTreeSet::new(),
        tell: ToCoordinator::new(notices),
        settled: None,
    };
    let settled = network.run(async move {
        let (tell, settled) = oneshot::channel();
        calling.settled = Some(tell);
        calling.connected(first);
        tokio::spawn(async move { calling.run(told).await });
        // The owners, and connections to them: what is asked from here on goes straight there, in order.
        drop(timeout(SETTLE_WITHIN, settled).await);
    });
    settled.await?;
    Ok(Caller { front, network: Some(network) })
}

async fn first_of(
    network: &Network,
    endpoint: &Endpoint,
    addresses: &[String],
) -> Result<(Connection, String, Cluster), ConnectError> {
    let mut failed = Vec::new();
    for address in addresses {
        let (endpoint, dialled) = (endpoint.clone(), address.clone());
        match network.run(async move { endpoint.dial(&dialled, None).await }).await? {
            Ok(connection) => {
                match connection.other.cluster.clone().filter(|_| connection.other.node.is_some()) {
                    Some(cluster) => return Ok((connection, address.clone(), cluster)),
                    None => failed.push(format!("{address} is no node of a cluster")),
                }
            }
            Err(error) => failed.push(error.to_string()),
        }
    }
    Err(ConnectError::Unreachable(failed))
}

struct Calling {
    network: tokio::runtime::Handle,
    front: Arc<Front>,
    endpoint: Endpoint,
    cluster: u128,
    routes: Routes,
    /// Where nodes are, with their names where they are known.
    addresses: BTreeMap<String, Option<NodeName>>,
    connected: BTreeMap<NodeName, Arc<Outbound>>,
    dialling: BTreeSet<String>,
    tell: ToCoordinator,
    /// Told when it first knows all owners and is connected with all nodes.
    settled: Option<oneshot::Sender<()>>,
}

impl Calling {
    async fn run(&mut self, mut told: mpsc::UnboundedReceiver<Notice>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dials = tokio::time::interval(DIAL_EVERY);
        dials.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notice = told.recv() => match notice {
                    Some(notice) => {
                        self.take(notice);
                        self.tell_if_settled();
                    }
                    None => return,
                },
                _ = ticks.tick() => self.front.ports.tick(),
                _ = dials.tick() => self.dial(),
            }
        }
    }

    fn tell_if_settled(&mut self) {
        if self.settled.is_some() && self.dialling.is_empty() && self.front.links.knows_all() {
            let _ = self.settled.take().map(|tell| tell.send(()));
        }
    }

    fn take(&mut self, notice: Notice) {
        match notice {
            Notice::Connection { connection, .. } => self.connected(connection),
            Notice::Dialled(address) => {
                self.dialling.remove(&address);
            }
            Notice::Ended(outbound) => {
                let Some(name) = &outbound.node else { return };
                self.front.links.disconnect(name, &outbound);
                if self.connected.get(name).is_some_and(|present| Arc::ptr_eq(present, &outbound)) {
                    self.connected.remove(name);
                }
                // At once: where it was stopped and is back, nobody should wait.
                self.dial();
            }
            Notice::Frame(outbound, frame, credit) => {
                match frame {
                    Frame::Moved(routes) => self.routed(routes),
                    Frame::Members(bytes) => self.members(&outbound, &bytes),
                    _ => outbound
                        .link()
                        .close(CloseReason::Violation("a frame that is not for clients".into())),
                }
                drop(credit);
            }
            // A client has no shards, so nobody takes one to be here.
            _ => {}
        }
    }

    fn connected(&mut self, connection: Connection) {
        let Connection { other, link, incoming, .. } = connection;
        let (Some(node), Some(cluster)) = (other.node, other.cluster) else {
            return link.close(CloseReason::Violation("no node of a cluster".into()));
        };
        if cluster.id != self.cluster {
            let address = link.address();
            tracing::warn!(address, "a node of another cluster is left aside");
            return link.close(CloseReason::Violation("of another cluster".into()));
        }
        if let Some(before) = self.connected.remove(&node.name) {
            before.link().close(CloseReason::Replaced);
        }
        let outbound = Outbound::new(Some((node.name.clone(), node.store)), link, None);
        self.front.links.connect(&node.name, Arc::clone(&outbound));
        self.connected.insert(node.name.clone(), Arc::clone(&outbound));
        self.front.ports.connected(&outbound);
        serve(&self.network, &self.front, &outbound, incoming, self.tell.clone());
        let its = |shard: &ShardId| self.routes.get(*shard).is_some_and(|(_, owner)| *owner == node.name);
        let shards: Vec<ShardId> = self.front.layout.iter().filter(its).collect();
        self.front.ports.routed(&shards);
    }

    fn routed(&mut self, routes: Vec<Route>) {
        let mut newer = Vec::new();
        for Route { shard, epoch, owner } in routes {
            if self.routes.learn(shard, epoch, &owner) == Heard::Newer {
                self.front.links.set_there(shard, &owner);
                newer.push(shard);
            }
        }
        if !newer.is_empty() {
            self.front.ports.routed(&newer);
        }
    }

    fn members(&mut self, outbound: &Outbound, bytes: &[u8]) {
        match Exchange::decode(bytes) {
            Ok(Exchange::Entries { entries, .. }) => {
                for entry in entries {
                    self.addresses.retain(|address, name| {
                        name.as_ref() != Some(&entry.name) || *address == entry.address
                    });
                    if entry.state == NodeState::Left {
                        self.addresses.remove(&entry.address);
                    } else {
                        self.addresses.insert(entry.address, Some(entry.name));
                    }
                }
                self.dial();
            }
            Ok(Exchange::Digest(_)) => {}
            Err(error) => outbound.link().close(CloseReason::Violation(error.to_string())),
        }
    }

    /// Dials the nodes there is no connection to.
    fn dial(&mut self) {
        let is_alone = self.connected.is_empty();
        let missing = self.addresses.iter().filter(|(_, name)| match name {
            Some(name) => !self.connected.contains_key(name),
            // An address that was given: who is there is known from the others, while there is one.
            None => is_alone,
        });
        let missing: Vec<_> = missing.map(|(address, name)| (address.clone(), name.clone())).collect();
        for (address, name) in missing {
            if !self.dialling.insert(address.clone()) {
                continue;
            }
            dial(&self.network, &self.endpoint, &self.tell, address, name);
        }
    }
}
