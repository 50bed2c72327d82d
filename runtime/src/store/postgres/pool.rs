//! The few connections to one server that loads and notes share.

use super::{
    connect::{ConnectError, Purpose},
    lane::PATIENCE,
    outcome::{Outcome, of_error},
    session::CallError,
    watch::Watched,
};
use crate::store::LoadError;
use deadpool::{
    Runtime,
    managed::{self, Metrics, PoolError, RecycleError, RecycleResult},
};
use std::{io, sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Statement};

/// Most connections to one server for loads and notes.
pub(super) const POOL_SIZE: usize = 4;
/// How long to wait for one of them to be free.
const WAIT: Duration = Duration::from_secs(5);

pub(super) type Pool = managed::Pool<Manager>;

/// A pool that has no connection yet. They are driven by whichever runtime waits for it.
pub(super) fn pool(watched: Arc<Watched>) -> Pool {
    // To make a connection has a time-out of its own, for each address.
    let builder = managed::Pool::builder(Manager { watched }).max_size(POOL_SIZE).wait_timeout(Some(WAIT));
    builder.runtime(Runtime::Tokio1).build().expect("a pool with time-outs was given a runtime")
}

/// Does some work on a connection, when one is free, and gives it so long and no longer. A connection on which it failed, or that
/// is still in the middle of it, is not used again.
pub(super) async fn ask<T, E: From<LoadError>>(
    pool: &Pool,
    work: impl AsyncFnOnce(&mut Open) -> Result<T, E>,
) -> Result<T, E> {
    let mut open = pool.get().await.map_err(not_taken)?;
    open.is_sound = false;
    let result = timeout(PATIENCE, work(&mut open)).await.unwrap_or_else(|_| {
        let text = format!("no answer for {} s", PATIENCE.as_secs());
        Err(LoadError::Later(io::Error::new(io::ErrorKind::TimedOut, text)).into())
    });
    open.is_sound = result.is_ok();
    result
}

fn not_taken(error: PoolError<ConnectError>) -> LoadError {
    LoadError::Later(match error {
        PoolError::Timeout(_) => {
            let text = format!("all {POOL_SIZE} connections for loads were busy for {} s", WAIT.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, text)
        }
        PoolError::Backend(error) => io::Error::other(error),
        error => io::Error::other(error.to_string()),
    })
}

/// What an error of a server means for whoever reads or keeps a note.
pub(super) fn load_error(error: tokio_postgres::Error) -> LoadError {
    match of_error(CallError::Postgres(error)) {
        Outcome::Later { error, .. } | Outcome::Unknown(error) => LoadError::Later(error),
        Outcome::Fatal(error) => LoadError::Io(error),
        Outcome::Refused => LoadError::Io(io::Error::other("refused without a group")),
    }
}

/// Makes the connections.
#[derive(Debug)]
pub(super) struct Manager {
    watched: Arc<Watched>,
}

/// An open connection, and what was prepared on it.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) client: Client,
    /// The generation of the server it goes to.
    pub(super) generation: u64,
    /// By their texts, of which there are a handful.
    prepared: Vec<(&'static str, Statement)>,
    /// Nothing is under way on it.
    is_sound: bool,
    driver: JoinHandle<()>,
}

impl Open {
    /// The statement of a text, prepared with the first use.
    pub(super) async fn statement(&mut self, text: &'static str) -> Result<Statement, tokio_postgres::Error> {
        if let Some((_, statement)) = self.prepared.iter().find(|(known, _)| *known == text) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(text).await?;
        self.prepared.push((text, statement.clone()));
        Ok(statement)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Else it would read to its end what nobody waits for any more.
        self.driver.abort();
    }
}

impl managed::Manager for Manager {
    type Type = Open;
    type Error = ConnectError;

    async fn create(&self) -> Result<Open, ConnectError> {
        let (link, generation) = self.watched.connect(Purpose::Load).await?;
        let driver = tokio::spawn(async move {
            // Whoever waits for an answer hears of it.
            let _ = link.driver.await;
        });
        Ok(Open { client: link.client, generation, prepared: Vec::new(), is_sound: true, driver })
    }

    async fn recycle(&self, open: &mut Open, _: &Metrics) -> RecycleResult<ConnectError> {
        if open.client.is_closed() || !open.is_sound {
            return Err(RecycleError::message("the connection is of no more use"));
        }
        if open.generation != self.watched.generation() {
            return Err(RecycleError::message("the server is another than before"));
        }
        Ok(())
    }
}
