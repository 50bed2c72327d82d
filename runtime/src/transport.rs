//! Frames between nodes, and the connections they travel on.
//!
//! ```text
//!   Endpoint            who may connect, with deadlines and limits: the same for every transport
//!   ├── Transport       bytes from one end to the other: TCP, TLS over it, or memory
//!   ├── handshake       both ends say who they are, and judge
//!   └── Connection      frames both ways, under credit
//! ```
//!
//! Of a connection nobody believes anything until it is agreed on, and nothing is promised but order: what a connection
//! loses, its sender still has. `docs/wire.md` describes the bytes.
//!
//! # Caveats
//! A node with a certificate is believed when it says what it owns and has consumed; the bounds here only keep one that is
//! broken from bringing others down. A certificate cannot be taken back before it expires: replace the authority. Bulk and
//! single messages share a connection and wait for each other.

mod certs;
mod connection;
mod counters;
mod endpoint;
mod fields;
pub mod frame;
pub mod handshake;
mod identity;
mod limits;
mod memory;
mod outgoing;
mod tcp;
mod tls;

#[cfg(test)]
mod tests;

pub use certs::{DevelopmentCertificates, Issued, development_certificates};
pub use connection::{Connection, Credit, Delivery, Ended, Incoming, Link, SendError};
pub use counters::{Fault, TransportCounters};
pub use endpoint::{DialError, Endpoint, Introduction, Listening};
pub use frame::{CloseReason, Frame};
pub use handshake::{Hello, HelloRefusal};
pub use identity::Certified;
pub use limits::TransportLimits;
pub use memory::{Memory, MemoryNetwork};
pub use tcp::Tcp;
pub use tls::{Tls, TlsError, TlsFiles};

use std::{io, pin::Pin};
use tokio::io::{AsyncRead, AsyncWrite};

/// What a transport does while others wait for it.
pub type Boxed<'t, T> = Pin<Box<dyn Future<Output = T> + Send + 't>>;

/// Brings bytes from one end to the other, in order, for as long as there is a connection.
pub trait Transport: Send + Sync + 'static {
    /// Takes connections at an address.
    ///
    /// # Errors
    /// The address is taken, cannot be resolved, or is not allowed; the text says which.
    fn listen<'t>(&'t self, address: &'t str) -> Boxed<'t, io::Result<Box<dyn Listener>>>;

    /// Connects to an address.
    ///
    /// # Errors
    /// Nobody answers there, it cannot be resolved, or it is not allowed.
    fn dial<'t>(&'t self, address: &'t str) -> Boxed<'t, io::Result<Opening>>;
}

/// Which one is chosen when a node starts.
impl Transport for Box<dyn Transport> {
    fn listen<'t>(&'t self, address: &'t str) -> Boxed<'t, io::Result<Box<dyn Listener>>> {
        (**self).listen(address)
    }

    fn dial<'t>(&'t self, address: &'t str) -> Boxed<'t, io::Result<Opening>> {
        (**self).dial(address)
    }
}

/// Takes connections.
pub trait Listener: Send {
    /// Where: with the port that was chosen, if any would do.
    fn address(&self) -> String;

    /// The next connection.
    ///
    /// # Errors
    /// This one came to nothing; the next may.
    fn accept(&mut self) -> Boxed<'_, io::Result<Opening>>;
}

/// A connection that is not secured yet.
pub struct Opening {
    /// Address of the other end.
    pub address: String,
    /// Secures it. Apart from accepting, so that a slow end holds up nobody who comes after it.
    pub secured: Boxed<'static, Result<Stream, Insecure>>,
}

/// A connection without frames yet.
pub struct Stream {
    /// Its bytes.
    pub io: Box<dyn Io>,
    /// The certificate of the other end, where the transport asks for one.
    pub certified: Option<Certified>,
}

/// A stream of bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}

/// A connection could not be secured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Insecure {
    /// Which way.
    pub fault: Fault,
    /// In words.
    pub why: String,
}
