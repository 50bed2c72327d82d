//! A session: one connection to a server, used by one thread that waits for each answer.
//!
//! A lane is a blocking thread with one statement under way, so the connection is driven on that thread, by a runtime of its
//! own, and only while an answer is awaited. It is driven by hand and not spawned, because of the notices: a server that gave
//! up waiting for its standby answers a commit with success and a warning beside it, and nothing else tells.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{io::AsyncRead, io::AsyncWrite, runtime::Runtime};
use tokio_postgres::{AsyncMessage, Client, Connection, Statement, error::Severity};

use super::{
    connect::{Connector, Purpose},
    group::Mask,
};

/// Prepared statements that a session keeps. About ten occur; of more, the one not used for longest goes.
const STATEMENTS_MAX: usize = 32;

/// The half of a connection that does its I/O.
pub trait Drive: Send {
    /// Goes on with the I/O, and returns what the server says on its own account.
    fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>>;
}

impl<S, T> Drive for Connection<S, T>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>> {
        Connection::poll_message(self, context)
    }
}

/// A connection that is open: what asks, and what does its I/O.
pub type Connected = (Client, Box<dyn Drive>);

/// Opens the connections of a session, one after the other.
pub trait Dial: Send {
    /// Opens a connection. Its time-out is the dialler's business.
    fn dial(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Connected>> + Send + '_>>;
}

impl Dial for Connector {
    fn dial(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Connected>> + Send + '_>> {
        Box::pin(async {
            let link = self.connect(Purpose::Lane).await.map_err(io::Error::other)?;
            Ok((link.client, Box::new(link.driver) as Box<dyn Drive>))
        })
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// There is no connection, and nothing was sent.
    NotConnected(io::Error),
    /// The server has answered with an error, or the connection has ended with one.
    Postgres(tokio_postgres::Error),
    /// Nothing came within the time of a call. The connection was given up.
    TimedOut(Duration),
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: T,
    /// It has warned meanwhile.
    pub(super) warned: bool,
}

/// One connection at a time, opened when it is needed.
pub(super) struct Session {
    runtime: Runtime,
    dial: Box<dyn Dial>,
    link: Option<Link>,
    patience: Duration,
    /// How many connections there were.
    connects: u64,
}

/// An open connection.
struct Link {
    asking: Asking,
    drive: Box<dyn Drive>,
}

/// The half of a connection that asks, and what it has prepared.
pub(super) struct Asking {
    pub(super) client: Client,
    /// The one used last is last.
    prepared: Vec<(Mask, Statement)>,
}

impl Asking {
    /// The statement for groups of these parts, prepared by `prepare` where it is not yet.
    pub(super) async fn statement(
        &mut self,
        mask: Mask,
        prepare: impl AsyncFnOnce(&Client) -> Result<Statement, tokio_postgres::Error>,
    ) -> Result<Statement, tokio_postgres::Error> {
        let known = self.prepared.iter().position(|(known, _)| *known == mask);
        let entry = match known {
            Some(at) => self.prepared.remove(at),
            None => (mask, prepare(&self.client).await?),
        };
        if self.prepared.len() == STATEMENTS_MAX {
            self.prepared.remove(0);
        }
        let statement = entry.1.clone();
        self.prepared.push(entry);
        Ok(statement)
    }
}

impl Session {
    /// A session that is not connected yet. No call takes longer than `patience`.
    ///
    /// # Errors
    /// The operating system gives no event queue.
    pub(super) fn new(dial: Box<dyn Dial>, patience: Duration) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, dial, link: None, patience, connects: 0 })
    }

    /// How many connections there were. What was asked of an earlier one may still be running.
    pub(super) fn connects(&self) -> u64 {
        self.connects
    }

    /// Gives the connection up: the next call opens another.
    pub(super) fn disconnect(&mut self) {
        self.link = None;
    }

    /// Opens a connection if there is none, or if the one there was has ended meanwhile. When this fails, nothing was sent.
    ///
    /// # Errors
    /// See [`CallError::NotConnected`].
    pub(super) fn connect(&mut self) -> Result<(), CallError> {
        if let Some(link) = &mut self.link
            && !self.runtime.block_on(has_ended(link))
        {
            return Ok(());
        }
        self.link = None;
        let dialled = self.runtime.block_on(self.dial.dial());
        let (client, drive) = dialled.map_err(CallError::NotConnected)?;
        self.connects += 1;
        self.link = Some(Link { asking: Asking { client, prepared: Vec::new() }, drive });
        Ok(())
    }

    /// Asks the server, and waits for its answer. Where the connection ends, the error is what it ended with.
    ///
    /// # Errors
    /// See [`CallError`]. After a time-out and after the end of a connection the next call opens another.
    pub(super) fn call<T>(
        &mut self,
        ask: impl AsyncFnOnce(&mut Asking) -> Result<T, tokio_postgres::Error>,
    ) -> Result<Answer<T>, CallError> {
        self.connect()?;
        let patience = self.patience;
        // Taken out, and put back only if it goes on.
        let Some(Link { mut asking, mut drive }) = self.link.take() else {
            return Err(CallError::NotConnected(io::ErrorKind::NotConnected.into()));
        };
        let mut warned = false;
        let (result, drive) = self.runtime.block_on(async {
            let mut asked = pin!(ask(&mut asking));
            let first = async {
                tokio::select! {
                    biased;
                    result = &mut asked => Ok(result),
                    error = end_of(&mut *drive, &mut warned) => Err(error),
                }
            };
            match tokio::time::timeout(patience, first).await {
                Ok(Ok(result)) => (result.map_err(CallError::Postgres), Some(drive)),
                Ok(Err(ended)) => {
                    // Without the I/O half nothing more can come, so this ends at once. The answer may have come in whole before
                    // the end, or the server's last word with it.
                    drop(drive);
                    (or_ended(asked.await, ended), None)
                }
                Err(_) => (Err(CallError::TimedOut(patience)), None),
            }
        });
        if let Some(drive) = drive {
            self.link = Some(Link { asking, drive });
        }
        result.map(|value| Answer { value, warned })
    }
}

/// What a call came to whose connection has ended: its answer if that is there, else the more telling of both errors.
fn or_ended<T>(
    result: Result<T, tokio_postgres::Error>,
    ended: Option<tokio_postgres::Error>,
) -> Result<T, CallError> {
    result.map_err(|error| match ended {
        Some(ended) if error.is_closed() => CallError::Postgres(ended),
        _ => CallError::Postgres(error),
    })
}

/// Does the I/O of a connection until it ends, and tells why if it was no orderly end.
async fn end_of(drive: &mut dyn Drive, warned: &mut bool) -> Option<tokio_postgres::Error> {
    poll_fn(|context| {
        loop {
            match drive.poll_message(context) {
                Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => {
                    // A severity that cannot be read may be one.
                    let is_harmless = matches!(
                        notice.parsed_severity(),
                        Some(Severity::Notice | Severity::Debug | Severity::Info | Severity::Log)
                    );
                    if !is_harmless {
                        tracing::warn!(message = notice.message(), "the server warns");
                        *warned = true;
                    }
                }
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(error)),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Whether a connection that nothing was asked of has ended. Twice, for the first look only asks the operating system.
async fn has_ended(link: &mut Link) -> bool {
    if link.asking.client.is_closed() {
        return true;
    }
    let mut warned = false;
    for _ in 0..2 {
        let ended = tokio::select! {
            biased;
            _ = end_of(&mut *link.drive, &mut warned) => true,
            () = tokio::task::yield_now() => false,
        };
        if ended {
            return true;
        }
    }
    false
}
