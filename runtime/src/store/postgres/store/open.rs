//! From a list of servers to a store: each is met, looked through, and told of this run, in the order of the list.

use super::{
    super::{
        connect::{ConnectError, Connector, words},
        founding::{Cluster, ClusterFounding, FoundingError, Server, found, open as find},
        lanes::Gauges,
        ledger::{AskError, Page},
        look::ReadError,
        mirror::Mirror,
        pool::POOL_SIZE,
        settings::{Demands, SettingsError, report},
        site::{Common, Site},
        start::{Run, Started, raise, start, store_of},
        tls::ServerTlsError,
        watch::Watched,
    },
    PostgresConfig,
};
use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Most lanes to one server.
const LANES_MAX: u32 = 64;
/// The shortest and the longest lease: below, a pause of a node makes its shards move; above, a dead one's wait.
const LEASE_MIN: Duration = Duration::from_millis(100);
const LEASE_MAX: Duration = Duration::from_mins(10);

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// What it was to be opened with.
    #[error("the store cannot be opened with {0}")]
    Config(&'static str),
    /// The files of TLS.
    #[error(transparent)]
    Tls(#[from] ServerTlsError),
    /// A server that this build does not work with.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The cluster and its servers.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// What a server is set to.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A server did not take note of this run.
    #[error("{server} does not take this node: {why}")]
    Start {
        /// The server.
        server: String,
        /// In its words.
        why: String,
    },
    /// The operating system gave no threads or no randomness.
    #[error("the system gives no thread or no randomness: {0}")]
    System(io::Error),
}

/// What a store is made of.
pub(super) struct Opened {
    pub(super) common: Common,
    pub(super) sites: Vec<Site>,
    pub(super) was_clean: bool,
}

pub(super) async fn open(config: &PostgresConfig) -> Result<Opened, OpenError> {
    check(config)?;
    let incarnation = random()?;
    let mut watched = Vec::with_capacity(config.servers.len());
    for url in &config.servers {
        watched.push(Arc::new(Watched::new(Connector::new(url.clone(), incarnation)?)));
    }
    let mut servers = Vec::with_capacity(watched.len());
    for watched in &watched {
        let mut server = Server::reach(watched.connector()).await?;
        if let Err(why) = server.link() {
            tracing::warn!(%why, "a server of the store does not let this node in: its shards wait until it does");
        }
        servers.push(server);
    }
    let cluster = find_or_found(&mut servers, config.founding).await?;
    let connections = config.lanes + POOL_SIZE as u32 + 1;
    let demands =
        Demands { require_sync: config.require_sync, unsafe_fsync: false, is_running: false, connections };
    let mut reports = Vec::new();
    let mut generations = Vec::new();
    for (server, watched) in servers.iter_mut().zip(&watched) {
        let name = server.name().to_owned();
        let Ok(link) = server.link() else {
            generations.push(0);
            continue;
        };
        generations.push(watched.meet(&link.server)?);
        let unsafe_fsync = watched.connector().url().accepts_unsafe_fsync();
        reports.push(report(link, &name, Demands { unsafe_fsync, ..demands }).await?);
    }
    let store = match store_of_name(&mut servers, config).await? {
        Some(store) => store,
        None => random()?,
    };
    let mut run = Run { name: config.name.clone(), store, boot: 1, incarnation, lease: config.lease };
    let begun = begin(&mut servers, &mut run, config).await?;
    let mut was_clean = true;
    let mut mirror = Mirror::new(cluster.shards.count());
    for Begun { at, page, other_roles, was_clean: here } in begun {
        was_clean &= here;
        page.heard(incarnation).for_each(|heard| mirror.hear(generations[at], heard));
        let name = servers[at].name();
        if let (false, Some(report)) =
            (other_roles.is_empty(), reports.iter_mut().find(|report| report.server == name))
        {
            report.warnings.push(format!(
                "other nodes log in as {}: GRANT these roles and this one to each other, or none of them can end what a dead \
                 node has left",
                other_roles.join(", ")
            ));
        }
    }
    let gauges = Gauges::new(servers.len() as u32, config.lanes);
    let sites = (0_u32..).zip(watched).zip(generations);
    let sites = sites.map(|((at, watched), generation)| Site::new(at, watched, generation)).collect();
    let (mirror, reports) = (Mutex::new(mirror), Mutex::new(reports));
    Ok(Opened { common: Common { run, cluster, demands, mirror, reports, gauges }, sites, was_clean })
}

fn check(config: &PostgresConfig) -> Result<(), OpenError> {
    if !(1..=LANES_MAX).contains(&config.lanes) {
        return Err(OpenError::Config("so many lanes: there are 1 to 64 to each server"));
    }
    if !(LEASE_MIN..=LEASE_MAX).contains(&config.lease) {
        return Err(OpenError::Config("such a lease: it is between 100 milliseconds and 10 minutes"));
    }
    Ok(())
}

async fn find_or_found(
    servers: &mut [Server],
    founding: Option<ClusterFounding>,
) -> Result<Cluster, FoundingError> {
    let Some(founding) = founding else { return find(servers).await };
    match found(servers, founding).await {
        // It may have been founded long ago, and one of its servers be away today.
        Err(away @ FoundingError::Away { .. }) => match find(servers).await {
            Err(FoundingError::NotFounded { .. } | FoundingError::NobodyAnswers) => Err(away),
            found => found,
        },
        founded => founded,
    }
}

/// The UUID that stays with the node's name: of the first server that knows it.
async fn store_of_name(servers: &mut [Server], config: &PostgresConfig) -> Result<Option<u128>, OpenError> {
    for server in servers {
        let name = server.name().to_owned();
        let Ok(link) = server.link() else { continue };
        let known = link.run(|client| store_of(client, &config.name)).await;
        let known = known.map_err(|error| OpenError::Start { server: name, why: words(&error) })?;
        if known.is_some() {
            return Ok(known);
        }
    }
    Ok(None)
}

/// What a server said when the run began there.
struct Begun {
    at: usize,
    page: Page,
    other_roles: Vec<String>,
    was_clean: bool,
}

/// Begins the run on every server that is there. Its boot is the highest of all, and all know it in the end, so that it rises
/// with the next run whichever of them are away then.
async fn begin(
    servers: &mut [Server],
    run: &mut Run,
    config: &PostgresConfig,
) -> Result<Vec<Begun>, OpenError> {
    let mut all = Vec::new();
    for (at, server) in servers.iter_mut().enumerate() {
        let name = server.name().to_owned();
        let Ok(link) = server.link() else { continue };
        let of = &*run;
        match link.run(|client| start(client, of, &config.says, true)).await {
            Ok(Started::Here { boot, was_clean, other_roles, page }) => {
                run.boot = boot;
                all.push(Begun { at, page, other_roles, was_clean });
            }
            Ok(Started::Replaced) => {
                let why = "another process began to run as this node just now".to_owned();
                return Err(OpenError::Start { server: name, why });
            }
            Err(error) => return Err(OpenError::Start { server: name, why: why(error) }),
        }
    }
    let run = &*run;
    for server in servers {
        let name = server.name().to_owned();
        let Ok(link) = server.link() else { continue };
        let raised = link.run(|client| raise(client, run)).await;
        raised.map_err(|error| OpenError::Start { server: name, why: words(&error) })?;
    }
    Ok(all)
}

fn why(error: AskError) -> String {
    match error {
        AskError::Read(ReadError::Postgres(error)) => words(&error),
        AskError::Read(ReadError::Damaged(what)) => what,
        AskError::Migrate(error) => error.to_string(),
    }
}

fn random() -> Result<u128, OpenError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| OpenError::System(io::Error::other(error.to_string())))?;
    Ok(u128::from_le_bytes(bytes))
}
