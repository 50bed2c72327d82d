//! What a node keeps beside the shards, under the UUID that stays with its name: on the first server of the list.

use super::{
    look::damaged,
    pool::{Open, load_error},
    statement::Uuid,
};
use crate::store::{LoadError, NOTE_BYTES_MAX};
use std::io;

const NOTE_LEN_MAX: i32 = (NOTE_BYTES_MAX as u32).cast_signed();
// A longer one was not written by a node, and is not sent at all.
const READ: &str = "SELECT CASE WHEN octet_length(value) <= $3 THEN value END FROM entity.note WHERE node = $1 AND name = $2";
const KEEP: &str = "INSERT INTO entity.note (node, name, value) VALUES ($1, $2, $3) \
     ON CONFLICT (node, name) DO UPDATE SET value = excluded.value";

pub(super) async fn read(open: &mut Open, node: u128, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
    let statement = open.statement(READ).await.map_err(load_error)?;
    let row =
        open.client.query_opt(&statement, &[&Uuid(node), &name, &NOTE_LEN_MAX]).await.map_err(load_error)?;
    let Some(row) = row else { return Ok(None) };
    match row.try_get(0).map_err(load_error)? {
        Some(value) => Ok(Some(value)),
        None => Err(LoadError::Io(damaged(format!("the note {name:?} is longer than notes are")))),
    }
}

pub(super) async fn keep(open: &mut Open, node: u128, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
    let statement = open.statement(KEEP).await.map_err(load_error)?;
    match open.client.execute(&statement, &[&Uuid(node), &name, &bytes]).await.map_err(load_error) {
        Ok(_) => Ok(()),
        // As other stores have it: the old note is there.
        Err(LoadError::Later(error)) if error.kind() == io::ErrorKind::StorageFull => {
            Err(LoadError::Io(error))
        }
        Err(error) => Err(error),
    }
}
