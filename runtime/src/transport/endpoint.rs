//! Connections that are agreed on: the same way in for every transport.

use super::{
    Fault, HelloRefusal, Opening, Transport, TransportCounters, TransportLimits,
    connection::{self, Connection},
    handshake::{
        Agreed, Cluster, Expected, HandshakeError, Hello, KnownKind, NodeIdentity, Protocols, greet,
    },
    tls,
};
use crate::{clock::random_u128, placement::NodeName};
use bytes::BytesMut;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

/// Connections that are agreed on and wait for their owner.
const WAITING_MAX: usize = 16;
/// How long nothing is accepted after the machine has refused to: it is out of files, and asking again at once would not
/// free one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What this end says of itself, apart from what an endpoint knows by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The cluster; `None` for a client, and for a node that is to learn it by joining.
    pub cluster: Option<Cluster>,
    /// The node; `None` for a client.
    pub node: Option<NodeIdentity>,
    /// The kinds it knows.
    pub kinds: Vec<KnownKind>,
}

/// Says who this end is, as it is at this moment.
type Introduce = dyn Fn() -> Introduction + Send + Sync;
/// Whether the membership takes another end.
type Judge = dyn Fn(&Hello) -> Result<(), HelloRefusal> + Send + Sync;

/// Opens connections, both ways. The clones are one.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    transport: Box<dyn Transport>,
    limits: TransportLimits,
    counters: Arc<TransportCounters>,
    introduce: Box<Introduce>,
    judge: Box<Judge>,
}

/// Why there is no connection to an address.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answered, or it is not allowed.
    #[error("cannot connect to {address}: {why}")]
    Unreachable {
        /// The address.
        address: String,
        /// What the machine says.
        why: io::Error,
    },
    /// It took too long.
    #[error("{address} did not answer within {after:?} ({what})")]
    Silent {
        /// The address.
        address: String,
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// TLS failed.
    #[error("cannot trust {address}: {why}")]
    Insecure {
        /// The address.
        address: String,
        /// Which way.
        fault: Fault,
        /// In words.
        why: String,
    },
    /// The two ends did not agree.
    #[error("no agreement with {address}: {why}")]
    Handshake {
        /// The address.
        address: String,
        /// Why not.
        why: HandshakeError,
    },
}

/// Takes connections until it is dropped.
#[derive(Debug)]
pub struct Listening {
    address: String,
    connections: mpsc::Receiver<Connection>,
    accepting: JoinHandle<()>,
}

impl Listening {
    /// Where.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next connection both ends have agreed on.
    pub async fn accept(&mut self) -> Option<Connection> {
        self.connections.recv().await
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Endpoint {
    /// An endpoint that says `introduce` of itself and takes whom `judge` lets in.
    pub fn new(
        transport: impl Transport,
        limits: TransportLimits,
        introduce: impl Fn() -> Introduction + Send + Sync + 'static,
        judge: impl Fn(&Hello) -> Result<(), HelloRefusal> + Send + Sync + 'static,
    ) -> Self {
        let limits = limits.sound();
        Self(Arc::new(Inner {
            transport: Box::new(transport),
            counters: Arc::new(TransportCounters::new(&limits)),
            limits,
            introduce: Box::new(introduce),
            judge: Box::new(judge),
        }))
    }

    /// What went wrong so far.
    pub fn counters(&self) -> &TransportCounters {
        &self.0.counters
    }

    /// Connects to an address, to whoever answers there or to `expected` alone.
    ///
    /// # Errors
    /// There is no connection; nothing was sent but the hello.
    pub async fn dial(&self, address: &str, expected: Option<&NodeName>) -> Result<Connection, DialError> {
        let inner = &self.0;
        let connecting = timeout(inner.limits.connect_deadline, inner.transport.dial(address)).await;
        let unreachable = |why| DialError::Unreachable { address: address.to_owned(), why };
        let silent = |what, after| DialError::Silent { address: address.to_owned(), what, after };
        let opening = connecting
            .map_err(|_| silent("a connection", inner.limits.connect_deadline))?
            .map_err(unreachable)?;
        inner.agree(opening, expected, ()).await.map_err(|refused| {
            let address = address.to_owned();
            match refused.why {
                Why::Silent => silent("a hello", inner.limits.handshake_deadline),
                Why::Insecure(why) => DialError::Insecure { address, fault: refused.fault, why },
                Why::Handshake(why) => DialError::Handshake { address, why },
            }
        })
    }

    /// Takes connections at an address.
    ///
    /// # Errors
    /// As of [`Transport::listen`].
    pub async fn listen(&self, address: &str) -> io::Result<Listening> {
        let mut listener = self.0.transport.listen(address).await?;
        let address = listener.address();
        let (ready, connections) = mpsc::channel(WAITING_MAX);
        let inner = self.0.clone();
        let accepting = tokio::spawn(async move {
            let handshakes = Arc::new(Semaphore::new(inner.limits.handshakes_max));
            let opened = Arc::new(Semaphore::new(inner.limits.connections_max));
            let mut agreeing = JoinSet::new();
            let mut has_failed = false;
            loop {
                let opening = tokio::select! {
                    opening = listener.accept() => opening,
                    Some(_) = agreeing.join_next() => continue,
                };
                let opening = match opening {
                    Ok(opening) => {
                        has_failed = false;
                        opening
                    }
                    Err(error) => {
                        // It goes on failing until somebody frees what is missing: once is enough.
                        if !std::mem::replace(&mut has_failed, true) {
                            tracing::warn!(%error, "a connection could not be accepted");
                        }
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let (Ok(handshake), Ok(place)) =
                    (handshakes.clone().try_acquire_owned(), opened.clone().try_acquire_owned())
                else {
                    inner.counters.note(Fault::TooMany, &opening.address, &"closed at once");
                    continue;
                };
                let (inner, ready) = (inner.clone(), ready.clone());
                agreeing.spawn(async move {
                    let agreed = inner.agree(opening, None, place).await;
                    drop(handshake);
                    if let Ok(connection) = agreed {
                        // Nobody takes connections any more: it closes as it is dropped.
                        drop(ready.send(connection).await);
                    }
                });
            }
        });
        Ok(Listening { address, connections, accepting })
    }
}

/// A connection that came to nothing, counted.
struct Refused {
    fault: Fault,
    why: Why,
}

enum Why {
    Silent,
    Insecure(String),
    Handshake(HandshakeError),
}

impl Inner {
    fn hello(&self) -> Hello {
        let Introduction { cluster, node, kinds } = (self.introduce)();
        Hello {
            protocols: Protocols::own(),
            cluster,
            node,
            kinds,
            frame_len_max: self.limits.frame_len_max as u64,
            window: self.limits.window as u64,
            nonce: random_u128(),
        }
    }

    /// Secures a connection and agrees on it, in time.
    async fn agree(
        &self,
        opening: Opening,
        expected: Option<&NodeName>,
        kept: impl Send + Sync + 'static,
    ) -> Result<Connection, Refused> {
        let Opening { address, secured } = opening;
        let both = async {
            let mut stream = secured
                .await
                .map_err(|insecure| Refused { fault: insecure.fault, why: Why::Insecure(insecure.why) })?;
            let mut buffer = BytesMut::new();
            let expected = Expected { name: expected, certified: stream.certified.as_ref() };
            let agreed = greet(
                &mut stream.io,
                &mut buffer,
                &self.hello(),
                expected,
                self.limits.close_deadline,
                &self.judge,
            )
            .await
            .map_err(refused)?;
            Ok::<(_, BytesMut, Agreed), Refused>((stream.io, buffer, agreed))
        };
        let agreed = timeout(self.limits.handshake_deadline, both)
            .await
            .unwrap_or(Err(Refused { fault: Fault::HandshakeDeadline, why: Why::Silent }));
        match agreed {
            Ok((io, buffer, agreed)) => {
                let (limits, counters) = (self.limits.clone(), self.counters.clone());
                Ok(connection::start(io, buffer, agreed, address, limits, counters, kept))
            }
            Err(refused) => {
                let why = match &refused.why {
                    Why::Silent => format!("nothing agreed within {:?}", self.limits.handshake_deadline),
                    Why::Insecure(why) => why.clone(),
                    Why::Handshake(why) => why.to_string(),
                };
                self.counters.note(refused.fault, &address, &why);
                Err(refused)
            }
        }
    }
}

fn refused(why: HandshakeError) -> Refused {
    let fault = match &why {
        HandshakeError::Refused(refusal) => match refusal {
            HelloRefusal::Protocol { .. } => Fault::Protocol,
            HelloRefusal::Cluster { .. }
            | HelloRefusal::Unfounded
            | HelloRefusal::Layout { .. }
            | HelloRefusal::Shards { .. }
            | HelloRefusal::Placement { .. } => Fault::Cluster,
            HelloRefusal::Name { .. } | HelloRefusal::Namesake(_) | HelloRefusal::Certificate { .. } => {
                Fault::Name
            }
            HelloRefusal::Replayed => Fault::Replayed,
            HelloRefusal::Identity(_) | HelloRefusal::Past { .. } => Fault::Identity,
            HelloRefusal::Unsound(_) => Fault::Greeting,
        },
        HandshakeError::RefusedHere(_) => Fault::RefusedHere,
        HandshakeError::Greeting(_) => Fault::Greeting,
        // The other end of TLS may judge this one's certificate only now.
        HandshakeError::Vanished(error) => match tls::fault_of(error) {
            Some(insecure) => return Refused { fault: insecure.fault, why: Why::Insecure(insecure.why) },
            None => Fault::Vanished,
        },
    };
    Refused { fault, why: Why::Handshake(why) }
}
