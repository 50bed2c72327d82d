//! Who a node is to others, and how one with an empty directory learns which cluster it joins.

use super::{ClusterConfig, Network, storage::JOINED_AT};
use crate::{
    entity::Kind,
    kinds::Kinds,
    placement::{PlacementParameters, Shards},
    store::{LoadError, NOTE_BYTES_MAX, Store},
    transport::{
        CloseReason, DialError, Endpoint, Introduction, TlsError, TransportLimits,
        handshake::{Cluster, HandshakeError, KnownKind, NodeIdentity},
    },
};
use std::{sync::Arc, time::Duration};
use xxhash_rust::xxh3::xxh3_64;

/// Between two rounds over the addresses to join at.
const ROUND: Duration = Duration::from_secs(1);
/// How shards are cut; see P17.
const LAYOUT: u32 = 0;

/// Why a node does not get into a cluster. What may pass is waited for instead, and said in the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Its certificate or key.
    #[error(transparent)]
    Security(#[from] TlsError),
    /// No address is given to join at.
    #[error("no address to join at is given: name one node that is running, as `host:port`")]
    NoSeeds,
    /// The other end does not take it.
    #[error("{0}")]
    Refused(String),
    /// The number of shards is not one.
    #[error("the cluster at {address} says it has {shards} shards, which cannot be")]
    Shards {
        /// Where.
        address: String,
        /// How many.
        shards: u32,
    },
}

/// Names what places entities and shards: two builds with the same digest place them alike.
pub(crate) fn placement_digest() -> u64 {
    xxh3_64(format!("{:?}", PlacementParameters::CURRENT).as_bytes())
}

/// What all nodes of a store's cluster share.
pub(crate) fn cluster_of(id: u128, shards: Shards) -> Cluster {
    let placement = format!("{:?}", PlacementParameters::CURRENT);
    Cluster { id, layout: LAYOUT, shards: shards.count(), placement_digest: placement_digest(), placement }
}

/// Keeps the addresses a node joins at, before it serves: where it ends before another node is known here, it finds its way
/// back without being told again.
pub(crate) fn keep_seeds(store: &dyn Store, seeds: &[String]) -> Result<(), LoadError> {
    let mut text = seeds.join("\n");
    text.truncate(text.floor_char_boundary(NOTE_BYTES_MAX));
    store.keep_note(JOINED_AT, text.as_bytes())
}

/// The addresses that were kept.
pub(super) fn kept_seeds(store: &dyn Store) -> Result<Vec<String>, LoadError> {
    let text = match store.note(JOINED_AT) {
        // The others stand in the store itself.
        Err(LoadError::Later(_)) if store.shared().is_some() => None,
        noted => noted?,
    };
    let text = text.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
}

/// Who a node is, as it says in each hello.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) config: ClusterConfig,
    pub(crate) kinds: Vec<KnownKind>,
    pub(crate) store: Arc<dyn Store>,
}

impl Identity {
    pub(crate) fn new(config: ClusterConfig, kinds: &Kinds, store: &Arc<dyn Store>) -> Self {
        Self { config, kinds: known_kinds(kinds), store: Arc::clone(store) }
    }

    pub(crate) fn introduce(&self) -> Introduction {
        let identity = self.store.identity();
        Introduction {
            cluster: Some(cluster_of(identity.cluster, self.store.shards())),
            node: Some(NodeIdentity {
                name: self.config.name.clone(),
                store: identity.store,
                boot: identity.boot,
                durable: identity.durable.0,
            }),
            kinds: self.kinds.clone(),
        }
    }
}

/// What this build lacks to serve the entities of another node, in words.
pub(super) fn lacks(ours: &[KnownKind], theirs: &[KnownKind]) -> Option<String> {
    let lacking: Vec<String> = theirs
        .iter()
        .filter_map(|theirs| match ours.iter().find(|ours| ours.kind == theirs.kind) {
            None => Some(format!("kind `{}`", theirs.kind)),
            Some(ours) if ours.version < theirs.version => Some(format!(
                "version {} of kind `{}` (it reads up to {})",
                theirs.version, theirs.kind, ours.version
            )),
            Some(ours) => {
                let unknown = theirs.messages.iter().find(|message| !ours.messages.contains(message));
                unknown.map(|message| format!("message `{message}` of kind `{}`", theirs.kind))
            }
        })
        .collect();
    (!lacking.is_empty()).then(|| lacking.join(", "))
}

fn known_kinds(kinds: &Kinds) -> Vec<KnownKind> {
    let known = |kind: &dyn Kind| KnownKind {
        kind: kind.name().to_owned(),
        version: kind.version(),
        messages: kind.handles().iter().chain(kind.queries()).map(|name| (*name).to_owned()).collect(),
    };
    kinds.names().filter_map(|name| Some(known(kinds.get(kinds.find(name)?)))).collect()
}

/// Asks the nodes at these addresses which cluster they are of, until one says. Asked as a client: the name is not bound to a
/// store before there is one.
pub(crate) async fn find_cluster(
    network: &Network,
    config: &ClusterConfig,
    seeds: &[String],
) -> Result<(u128, Shards), JoinError> {
    if seeds.is_empty() {
        return Err(JoinError::NoSeeds);
    }
    let transport = config.security.transport(Some(&config.name))?;
    let endpoint = stranger(transport, config.transport.clone());
    let seeds = seeds.to_vec();
    let found = network.run(async move {
        let mut round = 0_u64;
        loop {
            for address in &seeds {
                match endpoint.dial(address, None).await {
                    Ok(connection) => {
                        connection.link.close(CloseReason::Stopping);
                        if let Some(cluster) = connection.other.cluster {
                            return Ok((address.clone(), cluster));
                        }
                    }
                    Err(DialError::Handshake { why: HandshakeError::RefusedHere(why), .. }) => {
                        return Err(JoinError::Refused(format!(
                            "{address} does not let this node in: {why}"
                        )));
                    }
                    Err(DialError::Handshake { why: HandshakeError::Refused(why), .. }) => {
                        return Err(JoinError::Refused(format!("{address} cannot be joined: {why}")));
                    }
                    Err(error) if round == 0 => {
                        tracing::warn!(%error, "waiting for a node to join at; it is asked every second");
                    }
                    Err(error) => tracing::debug!(%error, "still waiting for a node to join at"),
                }
            }
            round += 1;
            tokio::time::sleep(ROUND).await;
        }
    });
    let ended = |error: std::io::Error| Err(JoinError::Refused(format!("the network has ended: {error}")));
    let (address, cluster) = found.await.unwrap_or_else(ended)?;
    let ours = cluster_of(cluster.id, Shards::new(1).expect("one is a power of two"));
    if cluster.placement_digest != ours.placement_digest {
        return Err(JoinError::Refused(format!(
            "{address} places shards by {:?}, and this build by {:?}: run the same build on both",
            cluster.placement, ours.placement
        )));
    }
    let shards = Shards::new(cluster.shards).ok_or(JoinError::Shards { address, shards: cluster.shards })?;
    Ok((cluster.id, shards))
}

/// An endpoint that says nothing of itself and takes whoever answers.
pub(super) fn stranger(transport: Box<dyn crate::transport::Transport>, limits: TransportLimits) -> Endpoint {
    let introduce = || Introduction { cluster: None, node: None, kinds: Vec::new() };
    Endpoint::new(transport, limits, introduce, |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(kinds: &[(&str, u32)]) -> Vec<KnownKind> {
        let known =
            |&(kind, version): &(&str, u32)| KnownKind { kind: kind.into(), version, messages: Vec::new() };
        kinds.iter().map(known).collect()
    }

    #[test]
    fn an_older_build_lacks_what_a_newer_one_writes_and_not_the_other_way_round() {
        let (old, new) = (known(&[("account", 1)]), known(&[("account", 2), ("order", 1)]));
        assert_eq!(
            lacks(&old, &new).as_deref(),
            Some("version 2 of kind `account` (it reads up to 1), kind `order`")
        );
        let mut asks = known(&[("account", 1)]);
        asks[0].messages.push("Audit".into());
        assert_eq!(lacks(&old, &asks).as_deref(), Some("message `Audit` of kind `account`"));
        assert_eq!(lacks(&asks, &old), None);
        assert_eq!(lacks(&new, &old), None);
        assert_eq!(lacks(&new, &new), None);
    }
}
