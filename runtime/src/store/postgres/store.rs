//! The store of a cluster: shards that many nodes share, on one server or on several.
//!
//! # Who waits for whom
//! Every lane has a connection and a runtime of its own, on its writer's thread. Loads and notes share a pool for each server, and
//! beats and takeovers one connection beside it; both are driven by a single thread of the store. What asks blocks, for no longer
//! than the time-outs of its server, and never for another server. What this node owns is answered from memory.

mod open;

use super::{
    founding::ClusterFounding,
    lanes::SharedLane,
    load::{self, Refused},
    look,
    mirror::{Heard, Owner},
    notes, pool,
    settings::Report,
    site::{Common, Site},
    url::ServerUrl,
};
use crate::{
    placement::{Epoch, NodeName, ShardId, Shards, Weight},
    store::{
        ImageKey, Lane, LaneId, Ledger, LoadError, NoRoom, NodeSays, OwnedShard, Ownership, Position,
        Presence, ServerReport, SharedError, SharedStore, StageError, Store, StoreIdentity, StoreReport,
        TAKES_MAX, ToStage, TransferId,
        notes::{check_name, check_note},
    },
};
pub use open::OpenError;
use std::{
    collections::BTreeMap, future::Future, io, ops::Range, sync::Arc, sync::PoisonError, thread,
    time::Duration,
};
use tokio::runtime::{Handle, Runtime};

/// Lanes to each server, where nothing is said.
pub const LANES_DEFAULT: u32 = 4;
/// For how long a node counts as living after a beat, where nothing is said.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(3);

/// What a store is opened with.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// The servers, in the order of the cluster's founding.
    pub servers: Vec<ServerUrl>,
    /// What this node is called.
    pub name: NodeName,
    /// What other nodes are told of it, until it beats.
    pub says: NodeSays,
    /// To found a cluster where there is none; else there must be one.
    pub founding: Option<ClusterFounding>,
    /// Lanes to each server.
    pub lanes: u32,
    /// For how long it counts as living after a beat.
    pub lease: Duration,
    /// Refuse servers that acknowledge commits before a standby has them.
    pub require_sync: bool,
}

impl PostgresConfig {
    /// A node of a cluster that is there.
    pub fn new(servers: Vec<ServerUrl>, name: NodeName) -> Self {
        let says = NodeSays { address: String::new(), weight: Weight::default(), presence: Presence::Up };
        let (lanes, lease) = (LANES_DEFAULT, LEASE_DEFAULT);
        Self { servers, name, says, founding: None, lanes, lease, require_sync: false }
    }
}

/// The shards of a cluster, and what this node may do with them.
pub struct PostgresStore {
    common: Arc<Common>,
    sites: Vec<Site>,
    was_clean: bool,
    runtime: Driving,
}

/// The thread that drives the connections, and ends with the store: wherever that is dropped.
struct Driving(Option<Runtime>);

impl Driving {
    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until it is dropped")
    }

    /// Waits for work on connections, also where the caller's thread runs tasks, which it stops meanwhile.
    fn wait<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> T {
        if Handle::try_current().is_err() {
            return self.runtime().block_on(work());
        }
        thread::scope(|scope| {
            let waiting = scope.spawn(|| self.runtime().block_on(work()));
            waiting.join().expect("what waits for a server does not panic")
        })
    }
}

impl Drop for Driving {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl PostgresStore {
    /// Reaches the servers, founds or finds the cluster, and begins a run of this node: an earlier run of its name is ended,
    /// wherever it is, and its shards are this one's. A server of a founded cluster that is away is no error: its shards wait,
    /// and the first beat that reaches it begins the run there.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: &PostgresConfig) -> Result<Self, OpenError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("entity-postgres")
            .enable_all()
            .build();
        let runtime = Driving(Some(runtime.map_err(OpenError::System)?));
        let opened = runtime.wait(|| open::open(config))?;
        Ok(Self {
            common: Arc::new(opened.common),
            sites: opened.sites,
            was_clean: opened.was_clean,
            runtime,
        })
    }

    /// What each server was found to be; of one that was never reached there is none.
    pub fn reports(&self) -> Vec<Report> {
        self.common.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often a shard of this node was found to have less than was acknowledged: a server failed over to a standby that
    /// lagged, or was restored. Each was logged as an error.
    pub fn lost_commits(&self) -> u64 {
        self.common.mirror().lost()
    }

    fn me(&self) -> u128 {
        self.common.run.incarnation
    }

    fn site(&self, shard: ShardId) -> Option<&Site> {
        let server = *self.common.cluster.server_of.get(shard.0 as usize)?;
        self.sites.get(server as usize)
    }

    /// Reads the row of a shard, and takes note of it.
    async fn look(&self, site: &Site, shard: ShardId) -> Result<Heard, LoadError> {
        pool::ask(&site.pool, async |open| {
            let statement = open.statement(look::SHARD).await.map_err(pool::load_error)?;
            let row = open.client.query_opt(&statement, &[&shard.0.cast_signed()]).await;
            let row = row.map_err(pool::load_error)?.ok_or_else(|| look::missing(shard).into_load_error())?;
            let heard = look::heard(&row, self.me()).map_err(look::ReadError::into_load_error)?;
            self.common.mirror().hear(open.generation, heard.clone());
            Ok(heard)
        })
        .await
    }

    /// The images of one server.
    async fn images(&self, site: &Site, keys: &[&ImageKey]) -> Result<Vec<Option<Vec<u8>>>, LoadError> {
        match pool::ask(&site.pool, async |open| load::images(open, self.me(), keys).await).await {
            Ok(images) => Ok(images),
            Err(Refused::NotOwned(shard)) => {
                // Whoever asks next whose it is shall know; that it is not ours is known already.
                let _ = self.look(site, shard).await;
                Err(LoadError::NotOwned(shard))
            }
            Err(Refused::Error(error)) => Err(error),
        }
    }
}

impl Store for PostgresStore {
    fn shards(&self) -> Shards {
        self.common.cluster.shards
    }

    fn lanes(&self) -> u32 {
        self.common.gauges.lanes()
    }

    fn lane_of(&self, shard: ShardId) -> LaneId {
        self.common.gauges.lane_of(shard, self.server_of(shard))
    }

    fn identity(&self) -> StoreIdentity {
        let run = &self.common.run;
        // How far a log is durable is the servers' to know.
        StoreIdentity {
            cluster: self.common.cluster.id,
            store: run.store,
            boot: run.boot,
            durable: Position(0),
        }
    }

    fn owned(&self) -> Result<Vec<OwnedShard>, LoadError> {
        Ok(self.common.mirror().owned())
    }

    fn ownership(&self) -> Result<Vec<(ShardId, Ownership)>, LoadError> {
        Ok(self.common.mirror().ownership())
    }

    fn owned_shard(&self, shard: ShardId) -> Result<Option<OwnedShard>, LoadError> {
        let Some(site) = self.site(shard) else { return Ok(None) };
        let Heard { epoch, owner, number, .. } = self.runtime.wait(|| self.look(site, shard))?;
        Ok((owner == Owner::Me).then_some(OwnedShard { shard, epoch, number }))
    }

    fn shared(&self) -> Option<&dyn SharedStore> {
        Some(self)
    }

    fn open_lane(&self, lane: LaneId) -> Box<dyn Lane> {
        let server = self.common.gauges.take(lane);
        let watched = Arc::clone(&self.sites[server as usize].watched);
        Box::new(SharedLane::new(Arc::clone(&self.common), watched, lane))
    }

    /// Blocks its thread, which must not be one that runs tasks: `visit` cannot be sent to another.
    fn load_rows(
        &self,
        shard: ShardId,
        epoch: Epoch,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), LoadError> {
        let Some(site) = self.site(shard) else { return Err(LoadError::NotOwned(shard)) };
        let loaded = self.runtime.runtime().block_on(pool::ask(&site.pool, async |open| {
            let heard = |generation, heard| self.common.mirror().hear(generation, heard);
            load::rows(open, self.me(), (shard, epoch), keys, visit, heard).await
        }));
        loaded.map_err(|refused| match refused {
            Refused::NotOwned(shard) => LoadError::NotOwned(shard),
            Refused::Error(error) => error,
        })
    }

    fn load_images(&self, keys: &[ImageKey]) -> Result<Vec<Option<Vec<u8>>>, LoadError> {
        let mut of_servers = BTreeMap::<u32, Vec<usize>>::new();
        for (at, image) in keys.iter().enumerate() {
            let server = self.common.cluster.server_of.get(image.shard.0 as usize);
            of_servers.entry(*server.ok_or(LoadError::NotOwned(image.shard))?).or_default().push(at);
        }
        let mut images = vec![None; keys.len()];
        for (server, places) in of_servers {
            let wanted: Vec<_> = places.iter().map(|at| &keys[*at]).collect();
            let site = &self.sites[server as usize];
            let loaded = self.runtime.wait(|| self.images(site, &wanted))?;
            for (at, image) in places.into_iter().zip(loaded) {
                images[at] = image;
            }
        }
        Ok(images)
    }

    fn begin_staging(&self, _: ShardId, _: Epoch, _: TransferId) -> Result<(), StageError> {
        Err(nothing_is_staged())
    }

    fn stage_all(&self, stagings: &[ToStage<'_>]) -> Vec<Result<(), StageError>> {
        stagings.iter().map(|_| Err(nothing_is_staged())).collect()
    }

    fn load_staged(
        &self,
        _: ShardId,
        _: Epoch,
        _: TransferId,
        _: Range<&[u8]>,
        _: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StageError> {
        Err(nothing_is_staged())
    }

    fn sweep_staging(&self, _: ShardId, _: Epoch, _: TransferId) -> Result<(), StageError> {
        // There is none, which is no error.
        Ok(())
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
        check_name(name)?;
        self.runtime.wait(|| {
            pool::ask(&self.sites[0].pool, async |open| notes::read(open, self.common.run.store, name).await)
        })
    }

    fn keep_note(&self, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
        check_note(name, bytes)?;
        self.runtime.wait(|| {
            let store = self.common.run.store;
            pool::ask(&self.sites[0].pool, async move |open| notes::keep(open, store, name, bytes).await)
        })
    }

    fn loadable(&self, lane: LaneId) -> Position {
        // What is committed is seen by whoever reads behind it.
        self.durable(lane)
    }

    fn durable(&self, lane: LaneId) -> Position {
        self.common.gauges.durable(lane)
    }

    fn reserve(&self, lane: LaneId, bytes: u64) -> Result<(), NoRoom> {
        if self.batch_bytes_max() < bytes {
            return Err(NoRoom::LogTail);
        }
        self.common.gauges.room(lane)
    }

    fn release(&self, _: LaneId, _: u64) {
        // Room is the server's, and nothing of it is set aside.
    }

    fn shrink(&self, _: LaneId, from: u64, to: u64) {
        assert!(to <= from, "a batch takes no more than was reserved for it");
    }

    fn batch_bytes_max(&self) -> u64 {
        super::group::BATCH_BYTES_MAX as u64
    }

    fn group_bytes_max(&self) -> u64 {
        super::group::STATEMENT_BYTES_MAX as u64
    }

    fn was_clean(&self) -> bool {
        self.was_clean
    }

    fn wants_maintenance(&self) -> bool {
        false
    }

    fn maintain(&self) -> Result<(), LoadError> {
        Ok(())
    }

    /// Lets go of all shards on every server that answers; on one that does not they wait for this run's lease to run out.
    fn close(&self) -> Result<(), LoadError> {
        self.runtime.wait(|| async {
            for site in &self.sites {
                if let Err(error) = site.close(&self.common).await {
                    let server = site.watched.connector().url();
                    tracing::warn!(%server, %error, "shards were not let go of: they wait for the lease to run out");
                }
            }
        });
        Ok(())
    }
}

fn nothing_is_staged() -> StageError {
    let text = "shards of a shared store are given, and nothing of them is staged";
    StageError::Io(io::Error::new(io::ErrorKind::Unsupported, text))
}

impl SharedStore for PostgresStore {
    fn incarnation(&self) -> u128 {
        self.me()
    }

    fn lease(&self) -> Duration {
        self.common.run.lease
    }

    fn servers(&self) -> u32 {
        self.sites.len() as u32
    }

    fn server_of(&self, shard: ShardId) -> u32 {
        self.common.cluster.server_of[shard.0 as usize]
    }

    fn report(&self) -> StoreReport {
        let reports = self.reports();
        let server = |site: &Site| {
            let name = site.watched.connector().url().to_string();
            let known = reports.iter().find(|report| report.server == name);
            known.map_or(ServerReport { name, ..ServerReport::default() }, Report::in_short)
        };
        StoreReport { servers: self.sites.iter().map(server).collect(), lost_commits: self.lost_commits() }
    }

    fn beat(&self, server: u32, says: &NodeSays) -> Result<Ledger, SharedError> {
        self.runtime.wait(|| self.sites[server as usize].beat(&self.common, says))
    }

    fn take(&self, server: u32, shards: &[(ShardId, Epoch)]) -> Result<Vec<OwnedShard>, SharedError> {
        assert!(shards.len() <= TAKES_MAX, "no more shards are taken at once than one transaction locks");
        self.runtime.wait(|| self.sites[server as usize].take(&self.common, shards))
    }
}
