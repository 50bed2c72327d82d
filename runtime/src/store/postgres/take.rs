//! Shards of dead nodes, and of nobody, taken by one conditional update (P23).

use super::{
    ledger::AskError,
    look::{ReadError, unsigned},
    start::{Run, TERMINATE},
    statement::Uuid,
};
use crate::{
    placement::{Epoch, ShardId},
    store::OwnedShard,
};
use tokio_postgres::{
    Client,
    error::SqlState,
    types::{ToSql, Type},
};

/// How long what the last owner has begun is waited for.
const LOCK_TIMEOUT: &str = "300ms";

/// The runs that own some of these shards and have no lease that runs.
const DEAD: &str = "SELECT DISTINCT s.owner FROM entity.shard s LEFT JOIN entity.node n ON n.incarnation = s.owner \
     WHERE s.id = ANY($1) AND s.owner <> $2 AND (n.lease_until IS NULL OR n.lease_until < clock_timestamp())";

/// Those of the shards that may be taken, locked in order. A lease that is renewed meanwhile is seen by the statement behind it.
const LOCK: &str = "SELECT s.id FROM entity.shard s LEFT JOIN entity.node n ON n.incarnation = s.owner \
     WHERE s.id = ANY($1) AND (s.owner IS NULL \
         OR s.owner <> $2 AND (n.lease_until IS NULL OR n.lease_until < clock_timestamp())) \
     ORDER BY s.id FOR UPDATE OF s";

/// A run that the server does not know takes nothing: its shards would be a dead owner's.
const TAKE: &str = "UPDATE entity.shard s SET epoch = s.epoch + 1, owner = $2, batch = 0, moved_by = $2, \
         moved_at = clock_timestamp() \
     FROM unnest($3::int4[], $4::int8[]) AS t(id, epoch) \
     WHERE s.id = ANY($1) AND s.id = t.id AND s.epoch = t.epoch \
         AND EXISTS (SELECT FROM entity.node m WHERE m.incarnation = $2) \
         AND (s.owner IS NULL OR s.owner <> $2 AND NOT EXISTS (SELECT FROM entity.node n \
             WHERE n.incarnation = s.owner AND n.lease_until > clock_timestamp())) \
     RETURNING s.id, s.epoch";

/// Takes what of these shards is still under its epoch, and nobody's or a dead run's.
pub(super) async fn take(
    client: &Client,
    run: &Run,
    wanted: &[(ShardId, Epoch)],
) -> Result<Vec<OwnedShard>, AskError> {
    let (mut ids, mut epochs) = (Vec::new(), Vec::new());
    for (shard, epoch) in wanted {
        // What no column can hold is on no server.
        if let (Ok(id), Ok(epoch)) = (i32::try_from(shard.0), i64::try_from(epoch.0)) {
            ids.push(id);
            epochs.push(epoch);
        }
    }
    // First, for a client that was stopped between two messages holds its locks until its session is ended.
    let me = Uuid(run.incarnation);
    let dead = client.query_typed(DEAD, &[(&ids, Type::INT4_ARRAY), (&me, Type::UUID)]).await?;
    let dead = dead.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
    if !dead.is_empty() {
        client.query_typed(TERMINATE, &[(&dead, Type::UUID_ARRAY)]).await?;
    }
    match take_in(client, me, &ids, &epochs, LOCK).await {
        // One that is still written to must not keep the others.
        Err(AskError::Read(ReadError::Postgres(error)))
            if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) =>
        {
            client.batch_execute("ROLLBACK").await?;
            take_in(client, me, &ids, &epochs, &format!("{LOCK} SKIP LOCKED")).await
        }
        taken => taken,
    }
}

async fn take_in(
    client: &Client,
    me: Uuid,
    ids: &Vec<i32>,
    epochs: &Vec<i64>,
    lock: &str,
) -> Result<Vec<OwnedShard>, AskError> {
    client.batch_execute(&format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")).await?;
    let locked = client.query_typed(lock, &[(ids, Type::INT4_ARRAY), (&me, Type::UUID)]).await?;
    let locked = locked.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i32>, _>>()?;
    let parameters: [(&(dyn ToSql + Sync), Type); 4] =
        [(&locked, Type::INT4_ARRAY), (&me, Type::UUID), (ids, Type::INT4_ARRAY), (epochs, Type::INT8_ARRAY)];
    let taken = client.query_typed(TAKE, &parameters).await?;
    let mut shards = Vec::with_capacity(taken.len());
    for row in &taken {
        let shard = ShardId(row.try_get::<_, i32>(0)?.cast_unsigned());
        shards.push(OwnedShard { shard, epoch: Epoch(unsigned(row, 1)?), number: 0 });
    }
    client.batch_execute("COMMIT").await?;
    shards.sort_unstable_by_key(|taken| taken.shard);
    Ok(shards)
}
