//! The row of a shard, read with the name of its owner: what every read begins with, in the same snapshot.

use super::{
    mirror::{Heard, Owner},
    statement::Uuid,
};
use crate::{
    placement::{Epoch, ShardId},
    store::LoadError,
};
use std::io;
use tokio_postgres::Row;

/// One shard by its id; columns as [`heard`] wants them.
pub(super) const SHARD: &str = "SELECT s.id, s.epoch, s.owner, s.batch, n.name FROM entity.shard s \
     LEFT JOIN entity.node n ON n.incarnation = s.owner WHERE s.id = $1";

/// Why what a server has answered was of no use.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The server's own error, or the connection's.
    Postgres(tokio_postgres::Error),
    /// Rows that no build has left there.
    Damaged(String),
}

impl From<tokio_postgres::Error> for ReadError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl ReadError {
    /// As an error of reading rows.
    pub(super) fn into_load_error(self) -> LoadError {
        match self {
            Self::Postgres(error) => super::pool::load_error(error),
            Self::Damaged(what) => LoadError::Io(damaged(what)),
        }
    }
}

pub(super) fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// A number that is never negative.
pub(super) fn unsigned(row: &Row, at: usize) -> Result<u64, ReadError> {
    let number: i64 = row.try_get(at)?;
    u64::try_from(number)
        .map_err(|_| ReadError::Damaged(format!("the server has {number} where numbers begin with 0")))
}

/// A row of [`SHARD`], as the run `me` of a node understands it.
pub(super) fn heard(row: &Row, me: u128) -> Result<Heard, ReadError> {
    let id: i32 = row.try_get(0)?;
    let owner: Option<Uuid> = row.try_get(2)?;
    let name: Option<&str> = row.try_get(4)?;
    let owner = match (owner, name) {
        (Some(Uuid(owner)), _) if owner == me => Owner::Me,
        (Some(_), Some(name)) => Owner::Other(name.parse().map_err(|_| ReadError::Damaged(no_name(name)))?),
        // Nobody knows of that run any more: it has no lease.
        (_, None) | (None, _) => Owner::Nobody,
    };
    Ok(Heard {
        shard: ShardId(id.cast_unsigned()),
        epoch: Epoch(unsigned(row, 1)?),
        owner,
        number: unsigned(row, 3)?,
    })
}

pub(super) fn no_name(name: &str) -> String {
    format!("{:?} is the name of no node", super::connect::shown(name))
}

pub(super) fn missing(shard: ShardId) -> ReadError {
    ReadError::Damaged(format!("the server has no row of {shard}, which it was founded with"))
}
