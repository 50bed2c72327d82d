//! How a node takes part in a cluster.

use crate::{
    handoff::HandOffLimits,
    membership::MembershipSettings,
    placement::NodeName,
    rebalance,
    transport::{TlsFiles, TransportLimits},
};

/// How a node takes part in a cluster: its name, where it listens, how it gets in. Given to
/// [`Builder::cluster`](crate::Builder::cluster).
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Its name, which its certificate says too and which the cluster binds to its store for good (P19).
    pub name: NodeName,
    /// Where it listens: host and port.
    pub listen: String,
    /// Where others reach it, if that is not where it listens.
    pub advertise: Option<String>,
    /// What it does where its data directory is empty.
    pub begin: Begin,
    /// Its share of the shards against others': 1 to 100.
    pub weight: u16,
    /// How its connections are secured.
    pub security: Security,
    /// How fast shards move.
    pub pace: rebalance::Settings,
    /// Bounds of each hand-off.
    pub hand_off: HandOffLimits,
    /// How fast the cluster notices.
    pub membership: MembershipSettings,
    /// Bounds and deadlines of connections.
    pub transport: TransportLimits,
}

impl ClusterConfig {
    /// A node of this name that listens there, in the clear and on loopback only, with every bound at its default.
    pub fn new(name: NodeName, listen: impl Into<String>, begin: Begin) -> Self {
        Self {
            name,
            listen: listen.into(),
            advertise: None,
            begin,
            weight: 1,
            security: Security::Loopback,
            pace: rebalance::Settings::default(),
            hand_off: HandOffLimits::default(),
            membership: MembershipSettings::default(),
            transport: TransportLimits::default(),
        }
    }
}

/// What a node does where its data directory is empty. On one with a store it goes on with that, whatever is said here; the
/// addresses to join at are asked as well, should all nodes it knew have moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// It does not start: a node that has lost its directory must not found an empty cluster beside the one it was in (P19).
    Resume,
    /// It founds a cluster, and owns all of it until others join.
    Found,
    /// It joins the cluster of the nodes at these addresses. One that answers is enough; they are asked until one does.
    Join(Vec<String>),
}

/// How connections are secured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Security {
    /// Not, and so only between processes of one machine.
    #[default]
    Loopback,
    /// Not, wherever it goes: everyone on the way can read and change what is said, and claim any name.
    Insecure,
    /// TLS with certificates both ways, from these files.
    Tls(TlsFiles),
}
