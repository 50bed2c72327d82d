//! How an operator's listings are read: by key range, in pages, where the store may block.

use super::{LetterId, Operator, OperatorError, PAGE_MAX};
use crate::{
    placement::ShardId,
    store::{LoadError, OwnedShard, RowType, Store, row::take_u64},
};
use std::{ops::Range, sync::Arc};

impl Operator<'_> {
    /// Rows that are committed but not yet in the checkpoint are not seen by loads.
    pub(super) async fn make_loadable(&self) -> Result<(), OperatorError> {
        let store = Arc::clone(self.store);
        blocking(move || Ok(store.maintain()?)).await
    }

    /// Reads rows where nobody's executor waits for it.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Rows) -> Result<T, OperatorError> + Send + 'static,
    ) -> Result<T, OperatorError> {
        let store = Arc::clone(self.store);
        blocking(move || read(&Rows { owned: store.owned()?, store })).await
    }

    /// A page reads the rows it has, and no others; what the shards hold besides is not looked at.
    pub(super) async fn page<T: Send + 'static>(
        &self,
        after: Option<LetterId>,
        limit: usize,
        row_type: RowType,
        decode: impl Fn(LetterId, &[u8]) -> Option<T> + Send + 'static,
    ) -> Result<Vec<T>, OperatorError> {
        self.make_loadable().await?;
        let (layout, limit) = (self.front.layout, limit.min(PAGE_MAX));
        self.read(move |rows| {
            let mut page = Vec::new();
            for shard in layout.iter() {
                let from = match after {
                    Some(after) if shard < after.shard => continue,
                    Some(after) if shard == after.shard => after.number.checked_add(1),
                    _ => Some(0),
                };
                let Some(from) = from else { continue };
                if page.len() == limit {
                    break;
                }
                let (from, below) = (row_key(row_type, from), [row_type as u8 + 1]);
                rows.visit(shard, &from..&below, |key, value| {
                    let mut rest = &key[1..];
                    let id = LetterId { shard, number: take_u64(&mut rest)? };
                    page.push(decode(id, value)?);
                    Some(page.len() < limit)
                })?;
            }
            Ok(page)
        })
        .await
    }
}

/// The rows of a store, to be read where it may block.
pub(super) struct Rows {
    store: Arc<dyn Store>,
    owned: Vec<OwnedShard>,
}

impl Rows {
    /// Visits rows as [`Store::load_rows`] does; `visit` says `None` of a row that it cannot read.
    pub(super) fn visit(
        &self,
        shard: ShardId,
        keys: Range<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Option<bool>,
    ) -> Result<(), OperatorError> {
        let owned = self.owned.iter().find(|owned| owned.shard == shard);
        let mut is_read = true;
        self.store.load_rows(
            shard,
            owned.ok_or(LoadError::NotOwned(shard))?.epoch,
            keys,
            &mut |key, value| {
                let go_on = visit(key, value);
                is_read = go_on.is_some();
                go_on == Some(true)
            },
        )?;
        if is_read { Ok(()) } else { Err(OperatorError::Row(shard)) }
    }
}

pub(super) fn row_key(row_type: RowType, number: u64) -> Vec<u8> {
    [&[row_type as u8][..], &number.to_be_bytes()].concat()
}

/// Blocks a thread that is there for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OperatorError> + Send + 'static,
) -> Result<T, OperatorError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(OperatorError::Unknown(error.to_string())),
    }
}
