//! One server, as the store uses it: its pool, and the one connection for leases and takeovers, which waits for no load.

use super::{
    connect::{Link, Purpose},
    founding::{Cluster, FoundingError, Server, verify},
    lanes::Gauges,
    ledger::{AskError, Beat, Page, beat},
    mirror::Mirror,
    pool::{Pool, pool},
    settings::{Demands, Report, SettingsError, report},
    start::{Run, Started, release, start},
    take::take,
    watch::Watched,
};
use crate::{
    placement::{Epoch, ShardId},
    store::{Ledger, NodeSays, OwnedShard, SharedError},
};
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync, time::timeout};

/// How long a server may take that is met for the first time: another node may be migrating it.
const FIRST_PATIENCE: Duration = Duration::from_secs(90);
/// How long a server may take to let go of what a node that ends has.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// What all servers of a store share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) run: Run,
    pub(super) cluster: Cluster,
    pub(super) demands: Demands,
    pub(super) mirror: Mutex<Mirror>,
    pub(super) reports: Mutex<Vec<Report>>,
    pub(super) gauges: Gauges,
}

impl Common {
    pub(super) fn mirror(&self) -> MutexGuard<'_, Mirror> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hear(&self, generation: u64, page: &Page) {
        let mut mirror = self.mirror();
        page.heard(self.run.incarnation).for_each(|heard| mirror.hear(generation, heard));
    }

    pub(super) fn keep(&self, report: Report) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.retain(|other| other.server != report.server);
        reports.push(report);
    }
}

/// One server.
pub(super) struct Site {
    /// Its place in the list.
    at: u32,
    pub(super) watched: Arc<Watched>,
    pub(super) pool: Pool,
    control: sync::Mutex<Control>,
}

/// The connection for leases, if there is one.
#[derive(Default)]
struct Control {
    link: Option<(Link, u64)>,
    /// The generation in which the server was found to be the one of the list.
    verified: u64,
    /// What it said last, and in which generation.
    page: Option<(u64, Page)>,
}

/// What a try to beat comes to.
enum Tried {
    Beaten(u64, Page),
    /// First it is to be found out whose this server is, or who runs there.
    Unverified,
    Unknown,
}

impl Site {
    /// A server that may have been verified in this generation already.
    pub(super) fn new(at: u32, watched: Arc<Watched>, verified: u64) -> Self {
        let pool = pool(Arc::clone(&watched));
        Self { at, watched, pool, control: sync::Mutex::new(Control { verified, ..Control::default() }) }
    }

    /// See [`SharedStore::beat`](crate::store::SharedStore::beat).
    pub(super) async fn beat(&self, common: &Common, says: &NodeSays) -> Result<Ledger, SharedError> {
        let mut control = self.control.lock().await;
        let beaten = self.beat_with(&mut control, common, says).await;
        if beaten.is_err() {
            // In the middle of something, or to nobody.
            control.link = None;
        }
        beaten
    }

    async fn beat_with(
        &self,
        control: &mut Control,
        common: &Common,
        says: &NodeSays,
    ) -> Result<Ledger, SharedError> {
        // Verified, begun, and beaten: each answer but the last is met once, unless the server changes meanwhile.
        for _ in 0..4 {
            let tried =
                self.asked(control, common, async |control| self.try_beat(control, common, says).await);
            match tried.await? {
                Tried::Beaten(generation, page) => return self.ledger(control, common, generation, page),
                Tried::Unverified => self.verify(control, common).await?,
                Tried::Unknown => self.begin(control, common, says).await?,
            }
        }
        Err(SharedError::Later(io::Error::other("the server was another one with each try")))
    }

    /// Asks on the connection for leases, within half a lease; once more where the connection has ended unseen.
    async fn asked<T>(
        &self,
        control: &mut Control,
        common: &Common,
        ask: impl AsyncFn(&mut Control) -> Result<T, SharedError>,
    ) -> Result<T, SharedError> {
        let patience = common.run.lease / 2;
        let asked = timeout(patience, async {
            let was_open = control.link.is_some();
            match ask(control).await {
                Err(SharedError::Later(_)) if was_open => {
                    control.link = None;
                    ask(control).await
                }
                asked => asked,
            }
        });
        asked.await.unwrap_or_else(|_| {
            let text = format!("no answer for {} s, half a lease", patience.as_secs_f32());
            Err(SharedError::Later(io::Error::new(io::ErrorKind::TimedOut, text)))
        })
    }

    async fn link<'c>(&self, control: &'c mut Control) -> Result<&'c mut (Link, u64), SharedError> {
        // Another connection has found out that the server is another one.
        control.link = control.link.take().filter(|(_, generation)| *generation == self.watched.generation());
        if control.link.is_none() {
            let connected = self.watched.connect(Purpose::Control).await;
            control.link = Some(connected.map_err(|error| SharedError::Later(io::Error::other(error)))?);
        }
        Ok(control.link.as_mut().expect("just connected"))
    }

    async fn try_beat(
        &self,
        control: &mut Control,
        common: &Common,
        says: &NodeSays,
    ) -> Result<Tried, SharedError> {
        let verified = control.verified;
        let before = control.page.take();
        let (link, generation) = self.link(control).await?;
        let generation = *generation;
        if generation != verified {
            return Ok(Tried::Unverified);
        }
        let before = before.filter(|(of, _)| *of == generation).map(|(_, page)| page);
        let server = self.watched.connector().url().to_string();
        let asked = link.run(|client| beat(client, &server, &common.run, says, before.as_ref()));
        match asked.await? {
            Beat::Renewed(page) => Ok(Tried::Beaten(generation, page)),
            Beat::Unknown => Ok(Tried::Unknown),
            Beat::Replaced => Err(SharedError::Replaced),
        }
    }

    fn ledger(
        &self,
        control: &mut Control,
        common: &Common,
        generation: u64,
        page: Page,
    ) -> Result<Ledger, SharedError> {
        let is_here = |shard: ShardId| common.cluster.server_of.get(shard.0 as usize) == Some(&self.at);
        if let Some(says) = page.shards.iter().find(|says| !is_here(says.shard.shard)) {
            let what = format!("server {} has {}, which is not its own", self.at, says.shard.shard);
            return Err(SharedError::Fatal(super::look::damaged(what)));
        }
        common.hear(generation, &page);
        let (nodes, shards) = (page.nodes.clone(), page.shards.iter().map(|says| says.shard).collect());
        control.page = Some((generation, page));
        Ok(Ledger { server: self.at, generation, nodes, shards })
    }

    /// Finds out whether the server is the one of the list, and what it is set to.
    async fn verify(&self, control: &mut Control, common: &Common) -> Result<(), SharedError> {
        let connector = self.watched.connector();
        let verified = timeout(FIRST_PATIENCE, async {
            let later = |error| SharedError::Later(io::Error::other(error));
            let mut server = Server::reach(connector).await.map_err(later)?;
            let name = server.name().to_owned();
            let facts = match server.link() {
                Ok(link) => link.server.clone(),
                Err(error) => return Err(SharedError::Later(io::Error::other(error.to_string()))),
            };
            let generation = self.watched.meet(&facts).map_err(later)?;
            verify(&mut server, self.at as usize, &common.cluster).await.map_err(not_verified)?;
            let link =
                server.link().map_err(|error| SharedError::Later(io::Error::other(error.to_string())))?;
            let unsafe_fsync = connector.url().accepts_unsafe_fsync();
            let demands = Demands { unsafe_fsync, is_running: true, ..common.demands };
            common.keep(report(link, &name, demands).await.map_err(|error| match error {
                SettingsError::Failed { .. } => SharedError::Later(io::Error::other(error)),
                error @ SettingsError::Refused { .. } => SharedError::Fatal(io::Error::other(error)),
            })?);
            Ok(generation)
        });
        control.verified = verified.await.unwrap_or_else(|_| {
            let text = format!("not looked through for {} s", FIRST_PATIENCE.as_secs());
            Err(SharedError::Later(io::Error::new(io::ErrorKind::TimedOut, text)))
        })?;
        Ok(())
    }

    /// Begins this run where it is not known.
    async fn begin(
        &self,
        control: &mut Control,
        common: &Common,
        says: &NodeSays,
    ) -> Result<(), SharedError> {
        let begun = self.asked(control, common, async |control| {
            let (link, generation) = self.link(control).await?;
            let generation = *generation;
            let started = link.run(|client| start(client, &common.run, says, false)).await?;
            Ok((generation, started))
        });
        match begun.await? {
            (generation, Started::Here { page, .. }) => {
                common.hear(generation, &page);
                Ok(())
            }
            (_, Started::Replaced) => Err(SharedError::Replaced),
        }
    }

    /// See [`SharedStore::take`](crate::store::SharedStore::take).
    pub(super) async fn take(
        &self,
        common: &Common,
        wanted: &[(ShardId, Epoch)],
    ) -> Result<Vec<OwnedShard>, SharedError> {
        let mut control = self.control.lock().await;
        let taken = self.asked(&mut control, common, async |control| {
            let verified = control.verified;
            let (link, generation) = self.link(control).await?;
            let generation = *generation;
            if generation != verified {
                return Err(SharedError::Later(io::Error::other("the server is another than before")));
            }
            let taken = link.run(|client| take(client, &common.run, wanted)).await?;
            Ok((generation, taken))
        });
        let taken = taken.await;
        if taken.is_err() {
            control.link = None;
        }
        let (generation, taken) = taken?;
        let mut mirror = common.mirror();
        for OwnedShard { shard, epoch, number } in taken.iter().copied() {
            mirror.hear(
                generation,
                super::mirror::Heard { shard, epoch, owner: super::mirror::Owner::Me, number },
            );
        }
        Ok(taken)
    }

    /// Lets go of everything this run has here.
    pub(super) async fn close(&self, common: &Common) -> Result<(), SharedError> {
        let mut control = self.control.lock().await;
        let closed = timeout(CLOSE_PATIENCE, async {
            let (link, _) = self.link(&mut control).await?;
            link.run(|client| release(client, &common.run)).await.map_err(AskError::from)?;
            Ok(())
        });
        let closed = closed.await.unwrap_or_else(|_| {
            Err(SharedError::Later(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
        });
        control.link = None;
        self.pool.close();
        closed
    }
}

fn not_verified(error: FoundingError) -> SharedError {
    match error {
        FoundingError::Migrate(error) => error.into(),
        FoundingError::Failed { .. } | FoundingError::Away { .. } | FoundingError::NobodyAnswers => {
            SharedError::Later(io::Error::other(error))
        }
        // Another server than the list had, or what is left of one.
        error => SharedError::Fatal(io::Error::other(error)),
    }
}
