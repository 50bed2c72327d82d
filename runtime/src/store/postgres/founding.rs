//! A cluster is founded on a list of servers once, and found again on the same list (P24).
//!
//! The first server holds the founding's lock and fixes who the others are; each gets its row of the cluster together with the
//! rows of its shards; then all but the first are marked as founded, and the first is last. So a founding that was cut off is
//! seen as such by every node, and whoever founds again goes on with it.
//!
//! Rows of shards are made here and nowhere else: one that is missing is an error for ever, and never made anew.

mod list;

use super::{
    connect::{ConnectError, Connector, Link, Purpose, words},
    migrate::{MigrateError, check, lock, migrate, migrate_locked, unlock},
};
use crate::placement::{NodeName, PlacementParameters, SHARDS_MAX, Shards, Table, Weight};
use list::{ClusterRow, Heard, LAYOUT, judge, judge_list, judge_one, known};
use std::collections::BTreeMap;
use tokio_postgres::{Client, Row};

/// Most servers of a cluster.
pub const SERVERS_MAX: usize = 64;

/// What is fixed when a cluster is founded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterFounding {
    /// The cluster.
    pub cluster: u128,
    /// The number of shards.
    pub shards: Shards,
    /// A digest of what places shards on nodes.
    pub placement: u64,
}

/// A cluster as its servers keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster.
    pub id: u128,
    /// The number of shards.
    pub shards: Shards,
    /// As it was founded with.
    pub placement: u64,
    /// Who the servers are, in the order of the list.
    pub servers: Vec<u128>,
    /// The server of each shard, as a place in the list.
    pub server_of: Vec<u32>,
    /// Which servers have answered. What lies on the others waits for them.
    pub is_reachable: Vec<bool>,
}

/// One server of the list.
pub struct Server {
    name: String,
    /// The connection, or why there is none at present.
    link: Result<Link, ConnectError>,
}

impl Server {
    /// Connects, as far as that is possible now.
    ///
    /// # Errors
    /// The server is none this build works with; it being away is no error here.
    pub async fn reach(connector: &Connector) -> Result<Self, ConnectError> {
        let name = connector.url().to_string();
        match connector.connect(Purpose::Start).await {
            Err(error) if !error.may_pass() => Err(error),
            link => Ok(Self { name, link }),
        }
    }

    /// What it is called in errors: its URL, without the password.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The connection to it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn link(&mut self) -> Result<&mut Link, &ConnectError> {
        self.link.as_mut().map_err(|error| &*error)
    }

    /// Runs statements, with the error in words.
    async fn run<'a, T, F>(&'a mut self, work: impl FnOnce(&'a Client) -> F) -> Result<T, FoundingError>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let Self { name, link } = self;
        let failed = |why| FoundingError::Failed { server: name.clone(), why };
        let link = link.as_mut().map_err(|error| failed(error.to_string()))?;
        link.run(work).await.map_err(|error| failed(words(&error)))
    }
}

/// Why a cluster was not founded, or not found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FoundingError {
    /// The list has no server, or too many.
    #[error("a cluster is kept by 1 to {SERVERS_MAX} servers, and {0} are named")]
    Count(usize),
    /// None is there.
    #[error("no server of the list answers: look at them, and at the network")]
    NobodyAnswers,
    /// To found, all must be there.
    #[error("a cluster is founded on all of its servers at once: {why}")]
    Away {
        /// Which is not, and why.
        why: String,
    },
    /// There is no cluster.
    #[error(
        "no cluster was founded on {servers}: start one node with --found, or name the servers of the cluster"
    )]
    NotFounded {
        /// The list.
        servers: String,
    },
    /// Founding was cut off, or is going on.
    #[error(
        "the founding of the cluster has not come to its end on {server}: start the node that founds it, with --found, again"
    )]
    HalfFounded {
        /// The first server that is not done.
        server: String,
    },
    /// A server of a founded cluster has nothing.
    #[error(
        "{server} has no cluster though others of the list have: restore it, or name the server that has its shards"
    )]
    Emptied {
        /// The server.
        server: String,
    },
    /// The list is longer or shorter.
    #[error("the cluster is kept by {founded} servers, and {given} are named: name those of its founding")]
    Length {
        /// Servers in the list.
        given: usize,
        /// Servers of the founding.
        founded: usize,
    },
    /// Two entries are one server.
    #[error("{first} and {second} are the same server: name each once")]
    Twice {
        /// The earlier one.
        first: String,
        /// The later one.
        second: String,
    },
    /// They are the right ones, in another order.
    #[error(
        "the servers are named in another order than the cluster was founded with; name them as: {order}"
    )]
    Order {
        /// All of them, in order.
        order: String,
    },
    /// One is of another cluster.
    #[error("{server} keeps another cluster than {other} does: name the servers of one")]
    OtherCluster {
        /// The one that differs.
        server: String,
        /// From this.
        other: String,
    },
    /// Founded by a build that stores otherwise.
    #[error(
        "the cluster was founded with {found}, and this build knows {known}: start the build that founded it"
    )]
    OtherBuild {
        /// What it has.
        found: String,
        /// What we know.
        known: String,
    },
    /// Rows that no founding leaves.
    #[error("{server} is damaged: {what}; restore it from a copy")]
    Damaged {
        /// The server.
        server: String,
        /// What was found.
        what: String,
    },
    /// The tables.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// A server failed. What was founded before stays, and is gone on with.
    #[error("{server} failed: {why}; start again")]
    Failed {
        /// The server.
        server: String,
        /// In its words.
        why: String,
    },
}

/// Which server each shard is founded on: the ring's wish over servers by their place in the list.
pub fn spread(servers: usize, shards: Shards) -> Vec<u32> {
    let name =
        |server: usize| -> NodeName { format!("server-{server}").parse().expect("letters and digits") };
    let places: BTreeMap<_, _> = (0..servers).map(|server| (name(server), server as u32)).collect();
    let members = places.keys().map(|name| (name.clone(), Weight::default())).collect();
    let table = Table::new(&members, shards).expect("a cluster has a server");
    table.iter().map(|(_, owner)| places[owner]).collect()
}

/// Finds the cluster of a list of servers, some of which may be away, and gives the others the tables of this build.
///
/// # Errors
/// See [`FoundingError`]. Nothing is made where there is no cluster.
pub async fn open(servers: &mut [Server]) -> Result<Cluster, FoundingError> {
    let heard = hear(servers).await?;
    let cluster = judge(&names(servers), &heard)?;
    for Server { name, link } in servers {
        if let Ok(link) = link {
            migrate(link, name).await?;
        }
    }
    Ok(cluster)
}

/// Whether a server that was away is the one of its place in a cluster that is known, with the shards that it is known to have;
/// gives it the tables of this build.
///
/// # Errors
/// See [`FoundingError`].
pub(super) async fn verify(server: &mut Server, at: usize, cluster: &Cluster) -> Result<(), FoundingError> {
    let heard = hear(std::slice::from_mut(server)).await?;
    let name = server.name.clone();
    judge_one(&name, heard.first(), at, cluster)?;
    with_link(server, migrate).await
}

/// Founds a cluster on servers that have none, goes on with a founding that was cut off, or finds the cluster that is there:
/// it may be another than `founding` names.
///
/// # Errors
/// See [`FoundingError`]. A list that is wrong changes nothing on any server.
pub async fn found(servers: &mut [Server], founding: ClusterFounding) -> Result<Cluster, FoundingError> {
    if let Some(Server { link: Err(why), .. }) = servers.iter().find(|server| server.link.is_err()) {
        return Err(FoundingError::Away { why: why.to_string() });
    }
    count(servers)?;
    // Before the locks, for which one server would wait for itself.
    refuse_twice(servers).await?;
    let mut founded = Ok(());
    let mut locked = 0;
    // In the order of the list, so that of two who found on it one comes after the other.
    for server in servers.iter_mut() {
        founded = with_link(server, async |link, name| lock(link, name).await).await;
        if founded.is_err() {
            break;
        }
        locked += 1;
    }
    if founded.is_ok() {
        founded = found_locked(servers, founding).await;
    }
    for server in &mut servers[..locked] {
        let unlocked = with_link(server, async |link, name| unlock(link, name).await).await;
        founded = founded.and(unlocked);
    }
    founded?;
    let heard = hear(servers).await?;
    judge(&names(servers), &heard)
}

async fn found_locked(servers: &mut [Server], founding: ClusterFounding) -> Result<(), FoundingError> {
    let heard = hear(servers).await?;
    let names = names(servers);
    let first = match judge_list(&names, &heard)? {
        Some(row) => row.clone(),
        None => ClusterRow {
            id: founding.cluster,
            layout: LAYOUT,
            shards: founding.shards.count().cast_signed(),
            hash: PlacementParameters::CURRENT.hash.into_owned(),
            placement: founding.placement.cast_signed(),
            server: 0,
            servers: random(servers.len())?,
            founded: false,
        },
    };
    let (shards, _) = known(&names[0], &first)?;
    if first.founded && heard.contains(&Heard::Nothing) {
        // Founded once, so its shards were there once: judged below, and never made again.
        return Ok(());
    }
    for server in servers.iter_mut() {
        with_link(server, async |link, name| migrate_locked(link, name).await).await?;
    }
    let places = spread(servers.len(), shards);
    for (at, server) in servers.iter_mut().enumerate().filter(|(at, _)| heard[*at] == Heard::Nothing) {
        let ids = places.iter().enumerate().filter(|(_, place)| **place as usize == at);
        let ids: Vec<i32> = ids.map(|(id, _)| (id as u32).cast_signed()).collect();
        let row = ClusterRow { server: (at as u32).cast_signed(), founded: false, ..first.clone() };
        server.run(|client| async move { write(client, &row, &ids).await }).await?;
    }
    let (first, others) = servers.split_first_mut().expect("the list has a server");
    for server in others.iter_mut().chain([first]) {
        let mark = "UPDATE entity.cluster SET founded = true WHERE NOT founded";
        server.run(|client| async move { client.execute(mark, &[]).await }).await?;
    }
    Ok(())
}

fn count(servers: &[Server]) -> Result<(), FoundingError> {
    let count = servers.len();
    if (1..=SERVERS_MAX).contains(&count) { Ok(()) } else { Err(FoundingError::Count(count)) }
}

fn names(servers: &[Server]) -> Vec<String> {
    servers.iter().map(|server| server.name.clone()).collect()
}

async fn with_link(
    server: &mut Server,
    work: impl AsyncFnOnce(&mut Link, &str) -> Result<(), MigrateError>,
) -> Result<(), FoundingError> {
    match &mut server.link {
        Ok(link) => Ok(work(link, &server.name).await?),
        Err(why) => Err(FoundingError::Away { why: why.to_string() }),
    }
}

/// Random numbers, locked by one connection each, are seen by whoever is on the same server.
async fn refuse_twice(servers: &mut [Server]) -> Result<(), FoundingError> {
    let keys: Vec<i64> = random(servers.len())?.into_iter().map(|id| id as i64).collect();
    for (server, key) in servers.iter_mut().zip(&keys) {
        server
            .run(|client| async move { client.execute("SELECT pg_advisory_lock($1)", &[key]).await })
            .await?;
    }
    let held = "SELECT k.at::int4 FROM unnest($1::int8[]) WITH ORDINALITY AS k(key, at)
        WHERE EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 1
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (l.classid::int8 << 32 | l.objid::int8) = k.key) ORDER BY k.at";
    let all = names(servers);
    let mut twice = None;
    for (at, server) in servers.iter_mut().enumerate() {
        let rows = server.run(|client| async { client.query(held, &[&keys]).await }).await?;
        let seen = rows
            .iter()
            .filter_map(|row| usize::try_from(row.try_get::<_, i32>(0).ok()?).ok()?.checked_sub(1));
        let other = seen.filter(|seen| *seen < at).find_map(|seen| all.get(seen));
        twice = twice.or(other.map(|other| (other.clone(), all[at].clone())));
    }
    for (server, key) in servers.iter_mut().zip(&keys) {
        server
            .run(|client| async move { client.execute("SELECT pg_advisory_unlock($1)", &[key]).await })
            .await?;
    }
    twice.map_or(Ok(()), |(first, second)| Err(FoundingError::Twice { first, second }))
}

fn random(count: usize) -> Result<Vec<u128>, FoundingError> {
    let mut bytes = vec![0; count * 16];
    let why = |error: getrandom::Error| FoundingError::Failed {
        server: "the system's randomness".to_owned(),
        why: error.to_string(),
    };
    getrandom::fill(&mut bytes).map_err(why)?;
    let ids = bytes.as_chunks().0.iter();
    Ok(ids.map(|id| u128::from_le_bytes(*id)).collect())
}

/// What every server says.
async fn hear(servers: &mut [Server]) -> Result<Vec<Heard>, FoundingError> {
    count(servers)?;
    let mut heard = Vec::with_capacity(servers.len());
    for server in servers {
        if server.link.is_err() {
            heard.push(Heard::Unreachable);
            continue;
        }
        // First whether its tables are known at all.
        let name = server.name.clone();
        server.run(|client| async { Ok(check(client, &name).await) }).await??;
        heard.push(server.run(read).await?);
    }
    Ok(heard)
}

async fn read(client: &Client) -> Result<Heard, tokio_postgres::Error> {
    let there = client.query_one("SELECT to_regclass('entity.cluster') IS NOT NULL", &[]).await?;
    if !there.try_get::<_, bool>(0)? {
        return Ok(Heard::Nothing);
    }
    // Bounded there, and not only here: what stands in them is not ours to believe.
    let statement = format!(
        "SELECT id::text, layout, shards, left(hash, 64), placement, server, founded, ARRAY(SELECT s.id::text
            FROM unnest(servers) WITH ORDINALITY AS s(id, at) ORDER BY s.at LIMIT {}) FROM entity.cluster",
        SERVERS_MAX + 1
    );
    let Some(row) = client.query_opt(&statement, &[]).await? else { return Ok(Heard::Nothing) };
    let row = cluster_row(&row)?;
    let statement = format!("SELECT id FROM entity.shard ORDER BY id LIMIT {}", SHARDS_MAX + 1);
    let ids = client.query(&statement, &[]).await?;
    let ids: Result<_, _> = ids.iter().map(|row| row.try_get(0)).collect();
    Ok(Heard::Row(row, ids?))
}

fn cluster_row(row: &Row) -> Result<ClusterRow, tokio_postgres::Error> {
    Ok(ClusterRow {
        id: uuid(row.try_get(0)?),
        layout: row.try_get(1)?,
        shards: row.try_get(2)?,
        hash: row.try_get(3)?,
        placement: row.try_get(4)?,
        server: row.try_get(5)?,
        founded: row.try_get(6)?,
        servers: row.try_get::<_, Vec<&str>>(7)?.into_iter().map(uuid).collect(),
    })
}

/// A UUID as the server writes it. What is none is nobody's: zero.
fn uuid(text: &str) -> u128 {
    u128::from_str_radix(&text.replace('-', ""), 16).unwrap_or(0)
}

/// The row of the cluster with those of the shards, or none of them.
async fn write(client: &Client, row: &ClusterRow, ids: &[i32]) -> Result<u64, tokio_postgres::Error> {
    let statement = "WITH c AS (INSERT INTO entity.cluster (id, layout, shards, hash, placement, server, servers, founded)
            VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7::text[]::uuid[], false))
        INSERT INTO entity.shard (id, epoch, batch) SELECT id, 1, 0 FROM unnest($8::int4[]) AS s(id)";
    let id = format!("{:032x}", row.id);
    let servers: Vec<_> = row.servers.iter().map(|id| format!("{id:032x}")).collect();
    let ClusterRow { layout, shards, hash, placement, server, .. } = row;
    client.execute(statement, &[&id, layout, shards, hash, placement, server, &servers, &ids]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_spread_over_all_servers_as_they_always_were() {
        let shards = Shards::new(256).unwrap();
        assert_eq!(spread(1, shards), [0; 256]);
        let places = spread(12, shards);
        // The ring's bound, 1.2 of the share; and by place, for in order of name server-10 comes before server-2.
        for server in 0..12 {
            let count = places.iter().filter(|place| **place == server).count();
            assert!((1..=26).contains(&count), "{count} shards on server {server}");
        }
        // Golden: a build that spreads otherwise would take shards of a server that is away for missing.
        let digest = places
            .iter()
            .fold(0_u64, |digest, place| digest.wrapping_mul(31).wrapping_add(u64::from(*place)));
        assert_eq!(digest, 16_639_047_403_432_656_721);
    }

    #[test]
    fn a_uuid_is_read_as_it_is_written() {
        assert_eq!(uuid("00000000-0000-0000-0000-0000000000ff"), 0xff);
        assert_eq!(uuid("no"), 0);
    }
}
