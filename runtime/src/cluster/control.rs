//! The threads that speak with the servers of a shared store: one for each, so that one that does not answer costs the lease of no other.
//!
//! A thread beats, so that its node counts as living there, and asks for shards; what it hears it tells the coordinator. Whatever
//! fails it says once, until it goes well again.

use super::coordinator::{Notice, ToCoordinator};
use crate::{
    node::{self, Shared},
    placement::{Epoch, ShardId},
    sharing::SharingEvent,
    store::{NodeSays, SharedError, SharedStore},
};
use std::{
    io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Beats in a lease. More than one or two may be lost then without anybody taking this node for dead.
const BEATS_PER_LEASE: u32 = 6;

enum Ask {
    Beat,
    Take(Vec<(ShardId, Epoch)>),
}

/// What the coordinator asks of the servers.
pub(super) struct Control {
    servers: Vec<mpsc::Sender<Ask>>,
    says: Arc<Mutex<NodeSays>>,
}

impl Control {
    /// Starts a thread for each server. They end when this is dropped.
    pub(super) fn start(
        shared: &Arc<Shared>,
        coordinator: &ToCoordinator,
        says: NodeSays,
    ) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let says = Arc::new(Mutex::new(says));
        let servers = shared.store.shared().map_or(0, SharedStore::servers);
        let (mut asks, mut threads) = (Vec::new(), Vec::new());
        for server in 0..servers {
            let (ask, asked) = mpsc::channel();
            let (coordinator, says) = (coordinator.clone(), Arc::clone(&says));
            let thread = node::thread(shared, format!("entity-control-{server}"), move |shared| {
                let store = shared.store.shared().expect("a store does not change while it is open");
                Thread { store, server, coordinator, says, is_away: false }.run(&asked, shared);
            })?;
            asks.push(ask);
            threads.push(thread);
        }
        Ok((Self { servers: asks, says }, threads))
    }

    /// Beats at once.
    pub(super) fn beat(&self, server: u32) {
        self.ask(server, Ask::Beat);
    }

    /// Asks for shards. The answer is [`SharingEvent::Taken`] or [`SharingEvent::NotTaken`].
    pub(super) fn take(&self, server: u32, shards: Vec<(ShardId, Epoch)>) {
        self.ask(server, Ask::Take(shards));
    }

    /// What every server hears of this node from now on; if that is another thing than before, at once.
    pub(super) fn say(&self, says: impl FnOnce(&mut NodeSays)) {
        let mut current = self.says.lock().unwrap_or_else(PoisonError::into_inner);
        let before = current.clone();
        says(&mut current);
        let is_new = *current != before;
        drop(current);
        if is_new {
            (0..).zip(&self.servers).for_each(|(server, _)| self.beat(server));
        }
    }

    fn ask(&self, server: u32, ask: Ask) {
        if let Some(server) = self.servers.get(server as usize) {
            // Should the thread have ended, the node has failed and says so.
            let _ = server.send(ask);
        }
    }
}

/// One server's thread.
struct Thread<'s> {
    store: &'s dyn SharedStore,
    server: u32,
    coordinator: ToCoordinator,
    says: Arc<Mutex<NodeSays>>,
    /// It did not answer, as was said.
    is_away: bool,
}

impl Thread<'_> {
    fn run(mut self, asked: &mpsc::Receiver<Ask>, shared: &Shared) {
        let period = self.store.lease() / BEATS_PER_LEASE;
        let mut beats_at = Instant::now();
        // A node that has failed serves nothing: others are to take what it has.
        while shared.failure().is_none() {
            let pause = beats_at.saturating_duration_since(Instant::now());
            match asked.recv_timeout(pause) {
                Ok(Ask::Take(shards)) => self.take(&shards),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Ok(Ask::Beat) | Err(mpsc::RecvTimeoutError::Timeout) => {
                    beats_at = Instant::now() + period;
                    self.beat();
                }
            }
        }
    }

    fn beat(&mut self) {
        let says = self.says.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let begun = Instant::now();
        match self.store.beat(self.server, &says) {
            Ok(ledger) => {
                self.answers(begun.elapsed());
                self.tell(SharingEvent::Ledger { ledger, took: begun.elapsed() });
            }
            Err(error) => self.failed(error),
        }
    }

    fn take(&mut self, shards: &[(ShardId, Epoch)]) {
        let server = self.server;
        match self.store.take(server, shards) {
            Ok(shards) => self.tell(SharingEvent::Taken { server, shards }),
            Err(error) => {
                self.tell(SharingEvent::NotTaken { server });
                self.failed(error);
            }
        }
    }

    fn tell(&self, event: SharingEvent) {
        self.coordinator.tell(Notice::Sharing(event));
    }

    fn answers(&mut self, took: Duration) {
        if std::mem::take(&mut self.is_away) {
            tracing::info!(server = self.server, ?took, "the server of the store answers again");
        }
    }

    fn failed(&mut self, error: SharedError) {
        match error {
            SharedError::Later(error) if self.is_away => {
                tracing::debug!(server = self.server, %error, "the server of the store still does not answer");
            }
            SharedError::Later(error) => {
                self.is_away = true;
                tracing::warn!(
                    server = self.server, %error,
                    "a server of the store does not answer: its shards wait, and others may take them; it is asked on"
                );
            }
            error => self.coordinator.tell(Notice::ShutOut(error.to_string())),
        }
    }
}
