//! The lease of a run, and what a server knows: nodes and shards.
//!
//! Time is the server's alone. Leases are compared with its clock where they stand, and no clock of a node is asked.

use super::{
    look::{ReadError, damaged, no_name, unsigned},
    migrate::{MigrateError, check},
    mirror::{Heard, Owner},
    start::Run,
    statement::Uuid,
};
use crate::{
    placement::{Epoch, ShardId, Weight},
    store::{LedgerNode, LedgerShard, NodeSays, Presence, SharedError},
};
use std::{collections::BTreeMap, time::Duration};
use tokio_postgres::{Client, Row, types::Type};

/// Most nodes that a server is believed to know.
const NODES_MAX: usize = 4_096;
/// Longest address of a node, in letters.
const ADDRESS_LEN_MAX: usize = 512;

/// A row of `entity.shard` with what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardSays {
    pub(super) shard: LedgerShard,
    pub(super) number: u64,
}

/// What a server knows, of one moment.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) nodes: Vec<LedgerNode>,
    pub(super) shards: Vec<ShardSays>,
    /// Tells apart this page's shards from others of the same generation: epochs only rise.
    digest: String,
}

impl Page {
    /// What is to be remembered of each shard, for the run `me`.
    pub(super) fn heard(&self, me: u128) -> impl Iterator<Item = Heard> {
        let names: BTreeMap<_, _> = self.nodes.iter().map(|node| (node.incarnation, &node.name)).collect();
        self.shards.iter().map(move |says| {
            let LedgerShard { shard, epoch, owner } = says.shard;
            let owner = match owner {
                Some(owner) if owner == me => Owner::Me,
                // Of a run that is in no row any more nobody has a lease.
                Some(owner) => names.get(&owner).map_or(Owner::Nobody, |name| Owner::Other((*name).clone())),
                None => Owner::Nobody,
            };
            Heard { shard, epoch, owner, number: says.number }
        })
    }
}

/// What a beat comes to.
pub(super) enum Beat {
    /// The lease runs on.
    Renewed(Page),
    /// The server does not know this run: it was away when the run began, or has forgotten it.
    Unknown,
    /// It knows a later run of this name.
    Replaced,
}

/// Why a server could not be asked, or what it was asked has no answer.
#[derive(Debug)]
pub(super) enum AskError {
    /// The answer.
    Read(ReadError),
    /// Its tables are of no use to this build any more.
    Migrate(MigrateError),
}

impl From<tokio_postgres::Error> for AskError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Read(error.into())
    }
}

impl From<ReadError> for AskError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<AskError> for SharedError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Read(error) => match error.into_load_error() {
                crate::store::LoadError::Io(error) => Self::Fatal(error),
                error => Self::Later(std::io::Error::other(error)),
            },
            AskError::Migrate(error) => error.into(),
        }
    }
}

impl From<MigrateError> for SharedError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::TooNew { .. } => Self::Outdated(error.to_string()),
            MigrateError::Foreign { .. } => Self::Fatal(damaged(error.to_string())),
            MigrateError::NotAllowed { .. } => Self::Fatal(std::io::Error::other(error)),
            MigrateError::Busy { .. } | MigrateError::Failed { .. } => {
                Self::Later(std::io::Error::other(error))
            }
        }
    }
}

/// Renews the lease of a run and reads the ledger behind it. A beat that is lost costs availability alone, so its commit waits
/// for no disk and no standby: a node is not to lose its lease because commits wait.
pub(super) async fn beat(
    client: &Client,
    server: &str,
    run: &Run,
    says: &NodeSays,
    before: Option<&Page>,
) -> Result<Beat, AskError> {
    check(client, server).await.map_err(AskError::Migrate)?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL synchronous_commit = off").await?;
    let (weight, state) = (says.weight.get().cast_signed(), state_of(says.presence));
    let renew = "UPDATE entity.node SET lease_until = clock_timestamp() + lease, \
             lease_since = CASE WHEN lease_until < clock_timestamp() THEN clock_timestamp() ELSE lease_since END, \
             address = $2, weight = $3, state = $4 WHERE incarnation = $1 AND lease > '0'";
    let renewed = client
        .execute_typed(
            renew,
            &[
                (&Uuid(run.incarnation), Type::UUID),
                (&says.address, Type::TEXT),
                (&weight, Type::INT4),
                (&state, Type::INT2),
            ],
        )
        .await?;
    if renewed == 0 {
        let known = "SELECT boot FROM entity.node WHERE name = $1";
        let known = client.query_typed(known, &[(&run.name.as_str(), Type::TEXT)]).await?;
        client.batch_execute("ROLLBACK").await?;
        let known = known.first().map(|row| unsigned(row, 0)).transpose()?;
        return Ok(if known.is_some_and(|boot| run.boot <= boot) { Beat::Replaced } else { Beat::Unknown });
    }
    let page = read(client, before).await?;
    client.batch_execute("COMMIT").await?;
    Ok(Beat::Renewed(page))
}

/// Reads the ledger; shards that have not changed are taken over from the page before, which is to be of the same generation.
pub(super) async fn read(client: &Client, before: Option<&Page>) -> Result<Page, AskError> {
    let nodes = format!(
        "SELECT name, uuid, incarnation, left(address, {ADDRESS_LEN_MAX}), weight, state, lease_until > clock_timestamp(), \
             extract(epoch FROM clock_timestamp() - lease_since)::float8 \
         FROM (SELECT * FROM entity.node ORDER BY lease_until DESC LIMIT {NODES_MAX}) AS n ORDER BY name"
    );
    let nodes = client.query_typed(&nodes, &[]).await?;
    let nodes = nodes.iter().map(node).collect::<Result<_, _>>()?;
    let digest = "SELECT concat_ws('/', count(*), sum(epoch)) FROM entity.shard";
    let digest = client.query_typed(digest, &[]).await?;
    let digest: String = digest.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
    if let Some(before) = before.filter(|before| before.digest == digest) {
        return Ok(Page { nodes, shards: before.shards.clone(), digest });
    }
    let shards = "SELECT id, epoch, owner, batch FROM entity.shard ORDER BY id";
    let shards = client.query_typed(shards, &[]).await?;
    let shards = shards.iter().map(shard).collect::<Result<_, _>>()?;
    Ok(Page { nodes, shards, digest })
}

fn node(row: &Row) -> Result<LedgerNode, ReadError> {
    let name: &str = row.try_get(0)?;
    let name = name.parse().map_err(|_| ReadError::Damaged(no_name(name)))?;
    let weight = u32::try_from(row.try_get::<_, i32>(4)?).ok().and_then(Weight::new);
    let presence = presence_of(row.try_get(5)?);
    let (Some(weight), Some(presence)) = (weight, presence) else {
        return Err(ReadError::Damaged(format!("node {name} has a weight or a state that none has")));
    };
    let lives: bool = row.try_get(6)?;
    let steady = row.try_get::<_, Option<f64>>(7)?.filter(|_| lives).unwrap_or(0.0);
    Ok(LedgerNode {
        name,
        store: row.try_get::<_, Uuid>(1)?.0,
        incarnation: row.try_get::<_, Uuid>(2)?.0,
        says: NodeSays { address: row.try_get(3)?, weight, presence },
        lives,
        // A clock that was put back is no time at all.
        steady: Duration::try_from_secs_f64(steady).unwrap_or_default(),
    })
}

fn shard(row: &Row) -> Result<ShardSays, ReadError> {
    let shard = LedgerShard {
        shard: ShardId(row.try_get::<_, i32>(0)?.cast_unsigned()),
        epoch: Epoch(unsigned(row, 1)?),
        owner: row.try_get::<_, Option<Uuid>>(2)?.map(|owner| owner.0),
    };
    Ok(ShardSays { shard, number: unsigned(row, 3)? })
}

pub(super) fn state_of(presence: Presence) -> i16 {
    match presence {
        Presence::Up => 0,
        Presence::Leaving => 1,
        Presence::Left => 2,
    }
}

fn presence_of(state: i16) -> Option<Presence> {
    [Presence::Up, Presence::Leaving, Presence::Left]
        .into_iter()
        .find(|presence| state_of(*presence) == state)
}
