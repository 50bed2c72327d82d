//! Reading rows: everything of one moment, and only what its reader owns at that moment.
//!
//! Whether the shard is still owned is read in the same snapshot as its rows. Read before them it would say nothing: another owner
//! may have written between. Read from a snapshot of one's own takeover it would not either, for a shard may be taken on.
//!
//! Rows come by pages from a portal for each table and are merged by their keys. So a long outbox is never in memory whole, and
//! a reader that has seen enough leaves the rest on the server.

use super::{
    bounds::{ItemBounds, MarkBounds, OutboxBounds, ReplyBounds, StateBounds},
    look::{self, ReadError},
    mirror::{Heard, Owner},
    pool::Open,
    rows::{Misplaced, Place},
    statement::Uuid,
};
use crate::{
    placement::{Epoch, ShardId},
    store::{ImageKey, LoadError},
};
use std::{collections::BTreeSet, ops::Range};
use tokio_postgres::{IsolationLevel, Portal, Row, Statement, Transaction, types::ToSql};

/// Rows of the first page of a table, of which nothing is known.
const PAGE_ROWS: i32 = 32;
const PAGE_ROWS_MAX: i32 = 4_096;
/// About how many bytes a later page has.
const PAGE_BYTES: usize = 1 << 20;

/// What a load comes to that has no rows for its reader.
#[derive(Debug)]
pub(super) enum Refused {
    /// The shard is not owned so.
    NotOwned(ShardId),
    /// Nothing is known.
    Error(LoadError),
}

impl From<LoadError> for Refused {
    fn from(error: LoadError) -> Self {
        Self::Error(error)
    }
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        Self::Error(error.into_load_error())
    }
}

impl From<tokio_postgres::Error> for Refused {
    fn from(error: tokio_postgres::Error) -> Self {
        ReadError::from(error).into()
    }
}

impl From<Misplaced> for Refused {
    fn from(error: Misplaced) -> Self {
        Self::Error(LoadError::Io(look::damaged(error.to_string())))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Mark,
    Outbox,
    Reply,
    Item,
    State,
}

const MARK: &str = "SELECT type, key, value FROM entity.mark \
     WHERE shard = $1 AND (type, key) >= ($2, $3) AND (type, key) < ($4, $5) ORDER BY type, key";
const OUTBOX: &str = "SELECT target, number, message FROM entity.outbox \
     WHERE shard = $1 AND (target, number) >= ($2, $3) AND (target, number) <= ($4, $5) ORDER BY target, number";
const REPLY: &str = "SELECT client, number, value FROM entity.reply \
     WHERE shard = $1 AND (client, number) >= ($2, $3) AND (client, number) <= ($4, $5) ORDER BY client, number";
const ITEM: &str = "SELECT type, number, value FROM entity.item \
     WHERE shard = $1 AND (type, number) >= ($2, $3) AND (type, number) <= ($4, $5) ORDER BY type, number";
// No index has a shard's images together: for tests and operators.
const STATE: &str = "SELECT kind, key, image FROM entity.state \
     WHERE shard = $1 AND (kind, key) >= ($2, $3) AND (kind, key) < ($4, $5) ORDER BY kind, key";

/// Shards that are not owned so, then images that are there. One statement is one snapshot.
const IMAGES: &str = "SELECT 0::int8 AS at, f.id, NULL::bytea AS image FROM unnest($1::int4[], $2::int8[]) AS f(id, epoch) \
         WHERE NOT EXISTS (SELECT FROM entity.shard s WHERE s.id = f.id AND s.epoch = f.epoch AND s.owner = $3) \
     UNION ALL SELECT i.at, i.shard, s.image \
         FROM unnest($4::int8[], $5::int4[], $6::text[], $7::bytea[]) AS i(at, shard, kind, key) \
         JOIN entity.state s ON s.kind = i.kind AND s.key = i.key AND s.shard = i.shard \
     UNION ALL SELECT i.at, i.shard, m.value \
         FROM unnest($8::int8[], $9::int4[], $10::int2[], $11::bytea[]) AS i(at, shard, type, key) \
         JOIN entity.mark m ON m.shard = i.shard AND m.type = i.type AND m.key = i.key";

/// Visits the rows of a shard that `me` owns, as [`Store::load_rows`](crate::store::Store::load_rows) does; tells whose the shard is
/// where it is not.
pub(super) async fn rows(
    open: &mut Open,
    me: u128,
    (shard, epoch): (ShardId, Epoch),
    keys: Range<&[u8]>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    hear: impl FnOnce(u64, Heard),
) -> Result<(), Refused> {
    let statements = Statements::of(open, &keys).await?;
    let transaction = open.client.build_transaction().read_only(true);
    let transaction = transaction.isolation_level(IsolationLevel::RepeatableRead).start().await?;
    let id = shard.0.cast_signed();
    let row = transaction.query_opt(&statements.shard, &[&id]).await?;
    let heard = look::heard(&row.ok_or_else(|| look::missing(shard))?, me)?;
    if (heard.epoch, &heard.owner) != (epoch, &Owner::Me) {
        hear(open.generation, heard);
        return Err(Refused::NotOwned(shard));
    }
    let mut sources = statements.open(&transaction, id, &keys).await?;
    let mut key = Vec::new();
    while let Some(at) = least(&sources) {
        let source = &mut sources[at];
        std::mem::swap(&mut key, &mut source.key);
        // Of a bound that was widened there are rows too many.
        let goes_on = !keys.contains(&key.as_slice()) || visit(&key, source.value()?);
        if !goes_on {
            break;
        }
        source.advance(&transaction).await?;
    }
    // Nothing was written: what the end of it comes to says nothing about what was read.
    drop(transaction);
    Ok(())
}

/// The values of images, all of one server, as [`Store::load_images`](crate::store::Store::load_images) has them.
pub(super) async fn images(
    open: &mut Open,
    me: u128,
    keys: &[&ImageKey],
) -> Result<Vec<Option<Vec<u8>>>, Refused> {
    let owned: BTreeSet<_> = keys.iter().map(|image| (image.shard, image.epoch)).collect();
    let (mut ids, mut epochs) = (Vec::new(), Vec::new());
    for (shard, epoch) in owned {
        // No row has an epoch that no column holds.
        epochs.push(i64::try_from(epoch.0).map_err(|_| Refused::NotOwned(shard))?);
        ids.push(shard.0.cast_signed());
    }
    let (mut places, mut shards, mut kinds, mut names) = (vec![], vec![], vec![], vec![]);
    let (mut mark_places, mut mark_shards, mut types, mut mark_keys) = (vec![], vec![], vec![], vec![]);
    for (at, image) in (1_i64..).zip(keys) {
        match Place::of(&image.key) {
            Place::State { kind, key } => {
                places.push(at);
                shards.push(image.shard.0.cast_signed());
                kinds.push(kind);
                names.push(key);
            }
            // A name that no entity has lies among the marks.
            Place::Mark { row_type, key } => {
                mark_places.push(at);
                mark_shards.push(image.shard.0.cast_signed());
                types.push(row_type);
                mark_keys.push(key);
            }
            // The key of no image: there is none.
            Place::Outbox { .. } | Place::Reply { .. } | Place::Item { .. } => {}
        }
    }
    let statement = open.statement(IMAGES).await?;
    let me = Uuid(me);
    let parameters: [&(dyn ToSql + Sync); 11] = [
        &ids,
        &epochs,
        &me,
        &places,
        &shards,
        &kinds,
        &names,
        &mark_places,
        &mark_shards,
        &types,
        &mark_keys,
    ];
    let rows = open.client.query(&statement, &parameters).await?;
    let mut images = vec![None; keys.len()];
    for row in &rows {
        let at: i64 = row.try_get(0)?;
        if at == 0 {
            return Err(Refused::NotOwned(ShardId(row.try_get::<_, i32>(1)?.cast_unsigned())));
        }
        let image = usize::try_from(at - 1).ok().and_then(|at| images.get_mut(at));
        let image = image.ok_or_else(|| ReadError::Damaged("an image nobody has asked for".into()))?;
        *image = Some(row.try_get(2)?);
    }
    Ok(images)
}

/// What was prepared for one load.
struct Statements {
    shard: Statement,
    tables: [Option<Statement>; 5],
}

impl Statements {
    async fn of(open: &mut Open, keys: &Range<&[u8]>) -> Result<Self, tokio_postgres::Error> {
        let wanted = [
            (MARK, MarkBounds::of(keys).is_some()),
            (OUTBOX, OutboxBounds::of(keys).is_some()),
            (REPLY, ReplyBounds::of(keys).is_some()),
            (ITEM, ItemBounds::of(keys).is_some()),
            (STATE, StateBounds::of(keys).is_some()),
        ];
        let mut tables = [const { None }; 5];
        for (table, (text, is_wanted)) in tables.iter_mut().zip(wanted) {
            if is_wanted {
                *table = Some(open.statement(text).await?);
            }
        }
        Ok(Self { shard: open.statement(look::SHARD).await?, tables })
    }

    /// The tables that the range lies in, each at its first row: asked for together.
    async fn open(
        &self,
        transaction: &Transaction<'_>,
        id: i32,
        keys: &Range<&[u8]>,
    ) -> Result<Vec<Source>, Refused> {
        let [mark, outbox, reply, item, state] = &self.tables;
        let mark = async {
            let Some((statement, of)) = mark.as_ref().zip(MarkBounds::of(keys)) else { return Ok(None) };
            let ((from, from_key), (below, below_key)) = (of.from, of.below);
            Source::open(transaction, Table::Mark, statement, &[&id, &from, &from_key, &below, &below_key])
                .await
        };
        let outbox = async {
            let Some((statement, of)) = outbox.as_ref().zip(OutboxBounds::of(keys)) else { return Ok(None) };
            let (from, through) = (of.from, of.through);
            let parameters: Parameters<'_> = &[&id, &from.0, &from.1, &through.0, &through.1];
            Source::open(transaction, Table::Outbox, statement, parameters).await
        };
        let reply = async {
            let Some((statement, of)) = reply.as_ref().zip(ReplyBounds::of(keys)) else { return Ok(None) };
            let (from, through) = (Uuid(of.from.0), Uuid(of.through.0));
            let parameters: Parameters<'_> = &[&id, &from, &of.from.1, &through, &of.through.1];
            Source::open(transaction, Table::Reply, statement, parameters).await
        };
        let item = async {
            let Some((statement, of)) = item.as_ref().zip(ItemBounds::of(keys)) else { return Ok(None) };
            let (from, through) = (of.from, of.through);
            let parameters: Parameters<'_> = &[&id, &from.0, &from.1, &through.0, &through.1];
            Source::open(transaction, Table::Item, statement, parameters).await
        };
        let state = async {
            let Some((statement, of)) = state.as_ref().zip(StateBounds::of(keys)) else { return Ok(None) };
            let (from, below) = (&of.from, &of.below);
            let parameters: Parameters<'_> = &[&id, &from.0, &from.1, &below.0, &below.1];
            Source::open(transaction, Table::State, statement, parameters).await
        };
        let opened: Result<_, Refused> = tokio::try_join!(mark, outbox, reply, item, state);
        let (mark, outbox, reply, item, state) = opened?;
        Ok([mark, outbox, reply, item, state].into_iter().flatten().collect())
    }
}

type Parameters<'p> = &'p [&'p (dyn ToSql + Sync)];

/// The source whose next row has the lowest key.
fn least(sources: &[Source]) -> Option<usize> {
    let open = sources.iter().enumerate().filter(|(_, source)| source.at < source.page.len());
    open.min_by(|(_, one), (_, other)| one.key.cmp(&other.key)).map(|(at, _)| at)
}

/// One table, read page by page.
struct Source {
    table: Table,
    portal: Portal,
    page: Vec<Row>,
    /// The next row; behind the page there is none.
    at: usize,
    /// The key of that row.
    key: Vec<u8>,
    /// How many rows the page was asked for.
    asked: i32,
}

impl Source {
    /// `None`: it has no row.
    async fn open(
        transaction: &Transaction<'_>,
        table: Table,
        statement: &Statement,
        parameters: Parameters<'_>,
    ) -> Result<Option<Self>, Refused> {
        let portal = transaction.bind(statement, parameters).await?;
        let mut source = Self { table, portal, page: Vec::new(), at: 0, key: Vec::new(), asked: PAGE_ROWS };
        source.turn_page(transaction).await?;
        Ok((!source.page.is_empty()).then_some(source))
    }

    async fn turn_page(&mut self, transaction: &Transaction<'_>) -> Result<(), Refused> {
        self.page = transaction.query_portal(&self.portal, self.asked).await?;
        self.at = 0;
        self.take_key()
    }

    /// Goes on to the next row.
    async fn advance(&mut self, transaction: &Transaction<'_>) -> Result<(), Refused> {
        self.at += 1;
        if self.at < self.page.len() {
            return self.take_key();
        }
        // A short page was the last.
        if i32::try_from(self.page.len()).is_ok_and(|len| len == self.asked) {
            self.asked = rows_of_next(&self.page)?;
            return self.turn_page(transaction).await;
        }
        Ok(())
    }

    fn take_key(&mut self) -> Result<(), Refused> {
        let Some(row) = self.page.get(self.at) else { return Ok(()) };
        self.key.clear();
        match self.table {
            Table::Mark => Place::Mark { row_type: row.try_get(0)?, key: row.try_get(1)? },
            Table::Outbox => Place::Outbox { target: row.try_get(0)?, number: row.try_get(1)? },
            Table::Reply => Place::Reply { client: row.try_get::<_, Uuid>(0)?.0, number: row.try_get(1)? },
            Table::Item => Place::Item { row_type: row.try_get(0)?, number: row.try_get(1)? },
            Table::State => Place::State { kind: row.try_get(0)?, key: row.try_get(1)? },
        }
        .put_key(&mut self.key)?;
        Ok(())
    }

    fn value(&self) -> Result<&[u8], Refused> {
        Ok(self.page[self.at].try_get(2)?)
    }
}

/// How many rows the page behind this one should have, to be neither long nor many.
fn rows_of_next(page: &[Row]) -> Result<i32, Refused> {
    let mut bytes = 0;
    for row in page {
        bytes += row.try_get::<_, &[u8]>(2)?.len();
    }
    let each = bytes / page.len().max(1) + 1;
    Ok(i32::try_from(PAGE_BYTES / each).map_or(PAGE_ROWS_MAX, |rows| rows.clamp(1, PAGE_ROWS_MAX)))
}
