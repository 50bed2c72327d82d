//! Connections within one process, which can be cut and healed like a network.

use super::{Boxed, Insecure, Listener, Opening, Stream, Transport};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    sync::{mpsc, watch},
};

/// Bytes that fit between the two ends of a connection.
const ROOM: usize = 1 << 16;
/// Connections that were dialled and not accepted yet. Further dials wait.
const BACKLOG: usize = 64;

/// From one host to another.
type Way = (String, String);

/// Hosts in one process that reach each other by name. The clones are one.
///
/// A cut keeps what is sent and lets it through when it is healed, as TCP does by sending again: nothing is lost unless an
/// end gives the connection up.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Inner>);

struct Inner {
    listeners: Mutex<BTreeMap<String, Place>>,
    cuts: watch::Sender<BTreeSet<Way>>,
}

/// Where a host listens.
struct Place {
    host: String,
    dialled: mpsc::Sender<(DuplexStream, String)>,
}

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self(Arc::new(Inner { listeners: Mutex::default(), cuts: watch::Sender::new(BTreeSet::new()) }))
    }
}

impl MemoryNetwork {
    /// A network without hosts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport of one host.
    pub fn host(&self, name: &str) -> Memory {
        Memory { network: self.clone(), host: name.to_owned() }
    }

    /// Nothing goes from one host to another any more; back it still does.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        self.0.cuts.send_modify(|cuts| {
            cuts.insert((from.to_owned(), to.to_owned()));
        });
    }

    /// Nothing goes between two hosts any more.
    pub fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Everything goes between two hosts again.
    pub fn heal(&self, one: &str, other: &str) {
        self.0.cuts.send_modify(|cuts| {
            cuts.retain(|(from, to)| (from != one || to != other) && (from != other || to != one));
        });
    }

    /// Waits until something can go this way.
    async fn open(&self, way: &Way) {
        let mut cuts = self.0.cuts.subscribe();
        cuts.wait_for(|cuts| !cuts.contains(way)).await.expect("the network holds the sender");
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Place>> {
        self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections of one host of a [`MemoryNetwork`].
#[derive(Clone)]
pub struct Memory {
    network: MemoryNetwork,
    host: String,
}

impl Transport for Memory {
    fn listen<'t>(&'t self, address: &'t str) -> Boxed<'t, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let (dialled, waiting) = mpsc::channel(BACKLOG);
            let mut listeners = self.network.listeners();
            if listeners.get(address).is_some_and(|place| !place.dialled.is_closed()) {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!("cannot listen at {address}: it is taken"),
                ));
            }
            listeners.insert(address.to_owned(), Place { host: self.host.clone(), dialled });
            Ok(Box::new(Waiting { address: address.to_owned(), waiting }) as Box<dyn Listener>)
        })
    }

    fn dial<'t>(&'t self, address: &'t str) -> Boxed<'t, io::Result<Opening>> {
        Box::pin(async move {
            let nobody = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let found = self
                .network
                .listeners()
                .get(address)
                .map(|place| (place.host.clone(), place.dialled.clone()));
            let (host, dialled) = found.ok_or_else(nobody)?;
            let (there, back) = ((self.host.clone(), host.clone()), (host, self.host.clone()));
            // A connection takes a word each way.
            self.network.open(&there).await;
            self.network.open(&back).await;
            let (near, near_wire) = duplex(ROOM);
            let (far_wire, far) = duplex(ROOM);
            dialled.send((far, self.host.clone())).await.map_err(|_| nobody())?;
            let (near_read, near_write) = split(near_wire);
            let (far_read, far_write) = split(far_wire);
            tokio::spawn(carry(self.network.clone(), there, near_read, far_write));
            tokio::spawn(carry(self.network.clone(), back, far_read, near_write));
            Ok(opening(near, address.to_owned()))
        })
    }
}

/// Carries bytes one way, while that is open.
async fn carry(
    network: MemoryNetwork,
    way: Way,
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
) {
    let mut bytes = vec![0; ROOM];
    loop {
        // An error and an end are the same here: no more will come.
        let len = from.read(&mut bytes).await.unwrap_or(0);
        network.open(&way).await;
        if len == 0 {
            drop(to.shutdown().await);
            return;
        }
        if to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}

struct Waiting {
    address: String,
    waiting: mpsc::Receiver<(DuplexStream, String)>,
}

impl Listener for Waiting {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn accept(&mut self) -> Boxed<'_, io::Result<Opening>> {
        Box::pin(async {
            // The network keeps its sender until another listens in this place, which it may only after this is gone.
            let (stream, host) = self.waiting.recv().await.ok_or(io::ErrorKind::NotConnected)?;
            Ok(opening(stream, host))
        })
    }
}

fn opening(stream: DuplexStream, address: String) -> Opening {
    let secured = async { Ok::<_, Insecure>(Stream { io: Box::new(stream), certified: None }) };
    Opening { address, secured: Box::pin(secured) }
}
