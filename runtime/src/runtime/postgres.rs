//! How a runtime gets at a store on PostgreSQL.

use super::StartError;
use crate::{
    cluster::{Begin, ClusterConfig, Security, placement_digest},
    placement::{NodeName, Shards},
    store::{
        ServerReport, SharedStore,
        postgres::{
            Access, ClusterFounding, LANES_DEFAULT, LEASE_DEFAULT, OpenError, PostgresConfig, PostgresStore,
            ServerUrl, UrlError,
        },
    },
};
use std::{sync::Arc, time::Duration};

/// What the only node of a runtime without a cluster is called.
const ALONE: &str = "runtime";

/// Why there is no store on PostgreSQL to start with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// A server's URL cannot be read.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The servers have let nobody in, or hold another cluster.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What was said of the servers.
#[derive(Debug, Clone)]
pub(super) struct Wishes {
    pub(super) urls: Vec<String>,
    pub(super) lanes: u32,
    pub(super) lease: Duration,
    pub(super) require_sync: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { urls: Vec::new(), lanes: LANES_DEFAULT, lease: LEASE_DEFAULT, require_sync: false }
    }
}

/// A node that nobody joins: its store is the cluster.
pub(super) fn alone() -> ClusterConfig {
    let name = ALONE.parse().expect("letters are a name");
    ClusterConfig::new(name, "127.0.0.1:0", Begin::Found)
}

impl Wishes {
    /// Opens the store of a node, or founds its cluster where it is to.
    pub(super) async fn open(
        self,
        cluster: &ClusterConfig,
        shards: Shards,
        id: u128,
    ) -> Result<Arc<PostgresStore>, StartError> {
        let config = self.config(&cluster.name, cluster, shards, id).map_err(PostgresError::from)?;
        let opened = tokio::task::spawn_blocking(move || PostgresStore::open(&config)).await;
        let store = opened.map_err(std::io::Error::other)?.map_err(PostgresError::from)?;
        for server in store.report().servers {
            let ServerReport {
                name,
                version,
                timeline,
                synchronous_commit,
                synchronous_standbys,
                standbys,
                warnings,
            } = server;
            match version {
                Some(version) => tracing::info!(
                    server = %name, version, timeline, synchronous_commit, synchronous_standbys, standbys,
                    "state is kept here"
                ),
                None => tracing::warn!(server = %name, "it does not answer: its shards wait until it does"),
            }
            warnings.iter().for_each(|warning| tracing::warn!(server = %name, "{warning}"));
        }
        Ok(Arc::new(store))
    }

    fn config(
        self,
        name: &NodeName,
        cluster: &ClusterConfig,
        shards: Shards,
        id: u128,
    ) -> Result<PostgresConfig, UrlError> {
        let access = Access::from_environment(matches!(cluster.security, Security::Insecure));
        let servers = self.urls.iter().map(|url| ServerUrl::parse(url, &access));
        let founding = ClusterFounding { cluster: id, shards, placement: placement_digest() };
        Ok(PostgresConfig {
            founding: matches!(cluster.begin, Begin::Found).then_some(founding),
            lanes: self.lanes,
            lease: self.lease,
            require_sync: self.require_sync,
            ..PostgresConfig::new(servers.collect::<Result<_, _>>()?, name.clone())
        })
    }
}
