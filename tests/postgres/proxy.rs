//! Stands between nodes and a server, and cuts connections where it hurts most: in the middle of a commit.
//!
//! It reads the framing of the protocol and nothing else: after the first message, which has no type, each is a type, a length
//! and a body. A lane's statement is known by its text when it is prepared, so that only connections of lanes are cut.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, watch},
    task::AbortHandle,
};

/// How the statement of a lane begins.
const COMMIT: &[u8] = b"WITH fence";
/// Longest message that is passed on. Above what a commit may have.
const MESSAGE_LEN_MAX: u32 = 256 << 20;

/// Where a commit is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Before the server has the statement.
    BeforeExecute,
    /// The server has it, and waits for the end of the transaction.
    BeforeSync,
    /// The server has everything, and commits; its answer is lost.
    BeforeAnswer,
    /// The statement is answered, and whether it is committed is not.
    BeforeReady,
    /// In the middle of a message.
    InMessage,
}

impl Cut {
    pub(super) const ALL: [Self; 5] =
        [Self::BeforeExecute, Self::BeforeSync, Self::BeforeAnswer, Self::BeforeReady, Self::InMessage];
}

#[derive(Default)]
struct Plan {
    /// The next commit of a lane is cut like this.
    next: Mutex<Option<Cut>>,
    done: AtomicU32,
    is_done: Notify,
}

/// A proxy to one server, for as long as it is there.
pub(super) struct Proxy {
    port: u16,
    plan: Arc<Plan>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Listens on a port of its own, and passes connections on.
    pub(super) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::new(Plan::default());
        let to_all = Arc::clone(&plan);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let plan = Arc::clone(&to_all);
                // Ends with either of its ends, as a connection does.
                tokio::spawn(async move { pass(client, server, plan).await });
            }
        });
        Self { port, plan, accepting: accepting.abort_handle() }
    }

    /// The URL of a server's database, through here.
    pub(super) fn url(&self, url: &str, server: u16) -> String {
        url.replace(&format!("127.0.0.1:{server}"), &format!("127.0.0.1:{}", self.port))
    }

    /// Cuts the next commit, and waits until it is cut. Returns how many were so far.
    pub(super) async fn cut(&self, how: Cut) -> u32 {
        let is_done = self.plan.is_done.notified();
        *self.plan.next.lock().unwrap() = Some(how);
        is_done.await;
        self.plan.done.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What the half that reads the client tells the half that reads the server: drop the answer from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Pass,
    Drop,
    DropReady,
}

async fn pass(client: TcpStream, server: u16, plan: Arc<Plan>) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (tell, told) = watch::channel(Answers::Pass);
    let asks = asks(from_client, to_server, plan.clone(), tell);
    let answers = answers(from_server, to_client, plan, told);
    // Both halves go with the first that ends, and with them both connections.
    tokio::select! {
        ended = asks => ended,
        ended = answers => ended,
    }
}

/// One message behind the first of a connection.
async fn message(from: &mut OwnedReadHalf) -> io::Result<(u8, Vec<u8>)> {
    let kind = from.read_u8().await?;
    let len = from.read_u32().await?;
    if !(4..=MESSAGE_LEN_MAX).contains(&len) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len as usize + 1];
    bytes[0] = kind;
    bytes[1..5].copy_from_slice(&len.to_be_bytes());
    from.read_exact(&mut bytes[5..]).await?;
    Ok((kind, bytes))
}

async fn asks(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    plan: Arc<Plan>,
    tell: watch::Sender<Answers>,
) -> io::Result<()> {
    let len = from.read_u32().await?;
    let mut first = vec![0; (len as usize).saturating_sub(4)];
    from.read_exact(&mut first).await?;
    to.write_u32(len).await?;
    to.write_all(&first).await?;
    let mut is_lane = false;
    let mut cut = None;
    loop {
        let (kind, bytes) = message(&mut from).await?;
        match kind {
            b'P' => is_lane |= bytes.windows(COMMIT.len()).any(|part| part == COMMIT),
            b'E' if is_lane && cut.is_none() => cut = plan.next.lock().unwrap().take(),
            _ => {}
        }
        match (cut, kind) {
            (Some(Cut::BeforeExecute), b'E') | (Some(Cut::BeforeSync), b'S') => break,
            (Some(Cut::InMessage), b'S') => {
                to.write_all(&bytes[..3]).await?;
                break;
            }
            // Told before the server is asked, or its answer would be faster.
            (Some(Cut::BeforeAnswer), b'S') => drop(tell.send(Answers::Drop)),
            (Some(Cut::BeforeReady), b'S') => drop(tell.send(Answers::DropReady)),
            _ => {}
        }
        to.write_all(&bytes).await?;
    }
    plan.done();
    Ok(())
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    plan: Arc<Plan>,
    told: watch::Receiver<Answers>,
) -> io::Result<()> {
    loop {
        let (kind, bytes) = message(&mut from).await?;
        match *told.borrow() {
            // The first word of the answer is there: the statement was carried out.
            Answers::Drop => break,
            Answers::DropReady if kind == b'Z' => break,
            _ => {}
        }
        to.write_all(&bytes).await?;
    }
    plan.done();
    Ok(())
}

impl Plan {
    fn done(&self) {
        self.done.fetch_add(1, Ordering::SeqCst);
        self.is_done.notify_waiters();
    }
}
