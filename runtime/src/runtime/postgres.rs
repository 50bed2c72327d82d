//! How a runtime gets at a store on PostgreSQL.

use super::StartError;
use crate::{
    cluster::{Begin, ClusterConfig, Security, placement_digest},
    placement::{NodeName, Shards},
    store::{
        ServerReport, SharedStore,
        postgres::{
            Access, ClusterFounding, FoundingError, LANES_DEFAULT, LEASE_DEFAULT, MigrateError, OpenError,
            PostgresConfig, PostgresStore, ServerUrl, UrlError,
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

impl PostgresError {
    /// What was said of the servers cannot be meant.
    pub(crate) fn is_misuse(&self) -> bool {
        matches!(self, Self::Url(_) | Self::Open(OpenError::Config(_)))
    }

    /// Another build is needed: to start this one again changes nothing.
    pub(crate) fn is_for_good(&self) -> bool {
        let too_new =
            |error: &FoundingError| matches!(error, FoundingError::Migrate(MigrateError::TooNew { .. }));
        matches!(self, Self::Open(OpenError::Founding(error)) if too_new(error))
    }
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
            // Of one that is away, what there is to say was said.
            if let Some(version) = version {
                tracing::info!(
                    server = %name, version, timeline, synchronous_commit, synchronous_standbys, standbys,
                    "state is kept here"
                );
            }
            for warning in warnings {
                tracing::warn!(server = %name, "{warning}");
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_no_restart_helps_is_told_from_one_that_may_go_well_later() {
        let too_new = MigrateError::TooNew {
            server: "s".into(),
            found: 7,
            build: "0.3.0".into(),
            at: "yesterday".into(),
        };
        let too_new = PostgresError::from(OpenError::from(FoundingError::from(too_new)));
        assert!(too_new.is_for_good() && !too_new.is_misuse(), "{too_new}");
        let away = PostgresError::from(OpenError::from(FoundingError::NobodyAnswers));
        assert!(!away.is_for_good() && !away.is_misuse(), "{away}");
        let wrong = ServerUrl::parse("mysql://e@h/d", &Access::from_environment(false)).unwrap_err();
        assert!(PostgresError::from(wrong).is_misuse());
    }
}
