//! The begin and the end of a run of a node on one server: a transaction each.

use super::{
    ledger::{AskError, Page, read, state_of},
    look::unsigned,
    statement::Uuid,
};
use crate::{placement::NodeName, store::NodeSays};
use std::time::Duration;
use tokio_postgres::{Client, types::Type};

/// One run of one node.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) name: NodeName,
    /// The UUID that stays with the name (P19).
    pub(super) store: u128,
    /// Rises with each run.
    pub(super) boot: u64,
    pub(super) incarnation: u128,
    pub(super) lease: Duration,
}

/// What became of a run's begin.
#[derive(Debug)]
pub(super) enum Started {
    /// The server knows it now.
    Here {
        /// As the server counts.
        boot: u64,
        /// The run before ended in peace, or there was none.
        was_clean: bool,
        /// Roles that other nodes log in as.
        other_roles: Vec<String>,
        /// What the server knows now.
        page: Page,
    },
    /// A later run of this name is there.
    Replaced,
}

/// Ends the sessions of runs, so that what they have begun ends. Of another role's sessions it is not allowed to.
pub(super) const TERMINATE: &str = "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a \
     WHERE a.datname = current_database() AND a.usename = session_user \
     AND a.application_name IN (SELECT 'entity-' || replace(i::text, '-', '') FROM unnest($1::uuid[]) AS i)";

/// The UUID that stays with a name, if the server knows the name.
pub(super) async fn store_of(
    client: &Client,
    name: &NodeName,
) -> Result<Option<u128>, tokio_postgres::Error> {
    let text = "SELECT uuid FROM entity.node WHERE name = $1";
    let rows = client.query_typed(text, &[(&name.as_str(), Type::TEXT)]).await?;
    rows.first().map(|row| row.try_get::<_, Uuid>(0).map(|uuid| uuid.0)).transpose()
}

/// Begins a run: from here on the shards of the run before are its own. Where `opens`, the boot is at least what the server's
/// clock says, so that it rises also past servers that are away; else the server comes late, and the run is as it began elsewhere.
pub(super) async fn start(
    client: &Client,
    run: &Run,
    says: &NodeSays,
    opens: bool,
) -> Result<Started, AskError> {
    client.batch_execute("BEGIN").await?;
    let started = start_in(client, run, says, opens).await;
    let end = if matches!(started, Ok(Started::Here { .. })) { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await;
    let started = started?;
    ended?;
    Ok(started)
}

async fn start_in(client: &Client, run: &Run, says: &NodeSays, opens: bool) -> Result<Started, AskError> {
    let text = "SELECT incarnation, boot, lease > '0' FROM entity.node WHERE name = $1 FOR UPDATE";
    let before = client.query_typed(text, &[(&run.name.as_str(), Type::TEXT)]).await?;
    let mut was_clean = true;
    let mut old = None;
    if let Some(row) = before.first() {
        let known: Uuid = row.try_get(0)?;
        if known.0 == run.incarnation {
            // Begun before, by a transaction whose answer was lost.
            let (boot, page) = (unsigned(row, 1)?, read(client, None).await?);
            return Ok(Started::Here { boot, was_clean: true, other_roles: Vec::new(), page });
        }
        if !opens && run.boot <= unsigned(row, 1)? {
            return Ok(Started::Replaced);
        }
        old = Some(known);
        was_clean = !row.try_get::<_, bool>(2)?;
    }
    if let Some(old) = old {
        client.query_typed(TERMINATE, &[(&vec![old], Type::UUID_ARRAY)]).await?;
    }
    let text = "INSERT INTO entity.node AS n (name, uuid, boot, incarnation, address, weight, state, build, role, lease, \
             lease_until, lease_since) \
         VALUES ($1, $2, greatest($3, CASE WHEN $4 THEN extract(epoch FROM clock_timestamp())::int8 END), $5, $6, $7, $8, \
             $9, session_user, make_interval(secs => $10), clock_timestamp() + make_interval(secs => $10), clock_timestamp()) \
         ON CONFLICT (name) DO UPDATE SET uuid = excluded.uuid, boot = greatest(n.boot + 1, excluded.boot), \
             incarnation = excluded.incarnation, address = excluded.address, weight = excluded.weight, \
             state = excluded.state, build = excluded.build, role = excluded.role, lease = excluded.lease, \
             lease_until = excluded.lease_until, lease_since = excluded.lease_since \
         RETURNING boot";
    let (weight, state) = (says.weight.get().cast_signed(), state_of(says.presence));
    let incarnation = Uuid(run.incarnation);
    let rows = client
        .query_typed(
            text,
            &[
                (&run.name.as_str(), Type::TEXT),
                (&Uuid(run.store), Type::UUID),
                (&i64::try_from(run.boot).unwrap_or(i64::MAX), Type::INT8),
                (&opens, Type::BOOL),
                (&incarnation, Type::UUID),
                (&says.address, Type::TEXT),
                (&weight, Type::INT4),
                (&state, Type::INT2),
                (&env!("CARGO_PKG_VERSION"), Type::TEXT),
                (&run.lease.as_secs_f64(), Type::FLOAT8),
            ],
        )
        .await?;
    let boot = rows.first().map_or(Ok(run.boot), |row| unsigned(row, 0))?;
    if let Some(old) = old {
        // In order, as every lane locks them. What is in flight of the run before is waited for.
        let text = "UPDATE entity.shard SET owner = $1, epoch = epoch + 1, batch = 0, moved_by = $1, \
             moved_at = clock_timestamp() \
             WHERE id IN (SELECT id FROM entity.shard WHERE owner = $2 ORDER BY id FOR UPDATE)";
        client.execute_typed(text, &[(&incarnation, Type::UUID), (&old, Type::UUID)]).await?;
    }
    let text = "SELECT DISTINCT role::text FROM entity.node WHERE role <> session_user ORDER BY 1 LIMIT 8";
    let roles = client.query_typed(text, &[]).await?;
    let other_roles = roles.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let page = read(client, None).await?;
    Ok(Started::Here { boot, was_clean, other_roles, page })
}

/// Raises the boot that a server knows to what it is on another.
pub(super) async fn raise(client: &Client, run: &Run) -> Result<u64, tokio_postgres::Error> {
    let text = "UPDATE entity.node SET boot = $2 WHERE incarnation = $1 AND boot < $2";
    let boot = i64::try_from(run.boot).unwrap_or(i64::MAX);
    client.execute_typed(text, &[(&Uuid(run.incarnation), Type::UUID), (&boot, Type::INT8)]).await
}

/// Ends a run in peace: its shards are nobody's, behind the last batch of each, and its lease is over.
pub(super) async fn release(client: &Client, run: &Run) -> Result<(), tokio_postgres::Error> {
    let incarnation = Uuid(run.incarnation);
    let me = [(&incarnation as &(dyn tokio_postgres::types::ToSql + Sync), Type::UUID)];
    client.batch_execute("BEGIN").await?;
    let shards = "UPDATE entity.shard SET owner = NULL, epoch = epoch + 1, batch = 0, moved_by = $1, \
         moved_at = clock_timestamp() \
         WHERE id IN (SELECT id FROM entity.shard WHERE owner = $1 ORDER BY id FOR UPDATE)";
    client.execute_typed(shards, &me).await?;
    // A lease of no length tells the next run that this one did not crash.
    let lease = "UPDATE entity.node SET lease = '0', lease_until = least(lease_until, clock_timestamp()) WHERE incarnation = $1";
    client.execute_typed(lease, &me).await?;
    client.batch_execute("COMMIT").await
}
