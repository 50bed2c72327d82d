//! The runtime a program holds: built from kinds and a store, asked for clients, stopped.

#[cfg(feature = "postgres")]
mod postgres;

#[cfg(feature = "postgres")]
pub use postgres::PostgresError;

use crate::{
    client::{Client, Operator},
    clock::{Clock, random_u128},
    cluster::{
        Begin, ClusterConfig, Command, CommandAnswer, Departure, Door, Identity, JoinError, Network,
        find_cluster, keep_seeds,
    },
    entity::{Entity, Kind, KindOf},
    kernel::Counters,
    kinds::Kinds,
    limits::Limits,
    node::{Node, Suspects},
    placement::{SHARDS_DEFAULT, SHARDS_MAX, Shards},
    store::{
        Store,
        embedded::{EmbeddedConfig, EmbeddedStore, Founding, OpenError},
        memory::MemoryStore,
    },
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why a runtime did not start. Each says the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No place to keep state was chosen.
    #[error(
        "no store was chosen; call `.data_dir(\"...\")` to keep state on disk, or `.in_memory()` to lose it at the end"
    )]
    NoStore,
    /// No kind was registered.
    #[error("no entity is registered; call `.entity::<...>()` for each kind")]
    NoEntities,
    /// Two kinds have the same name.
    #[error("two entities are called `{0}`; a kind names durable data and must be unique")]
    DuplicateKind(&'static str),
    /// The number of shards is not possible.
    #[error("{0} shards are not possible; choose a power of two from 1 to {SHARDS_MAX}")]
    Shards(u32),
    /// A runtime cannot work within the [`Limits`].
    #[error("the limits allow nothing to be done: {0}")]
    Limits(&'static str),
    /// The store can take no batch of the size the limits allow, so nothing could ever be accepted.
    #[error(
        "the limits allow batches of {needed} bytes, but a segment of the log takes {most}; call `.segment_bytes(...)` with more, or lower `state_len_max`, `turn_len_max` or `batch_len`"
    )]
    BatchTooLong {
        /// Bytes of the largest batch that the store can take.
        most: u64,
        /// Bytes of the largest batch.
        needed: u64,
    },
    /// The program is built so that a panicking handler ends the process.
    #[error(
        "this program is built with `panic = \"abort\"`, so a panicking handler could not be undone; build it with `panic = \"unwind\"`"
    )]
    PanicAborts,
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no store on PostgreSQL to start with.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// A node of a cluster finds no store, and was not told where to get in.
    #[error(
        "{place} holds no store: found a cluster with this node, or name the nodes to join at; if the node was in a cluster \
         before, mount the directory that holds its store, for an empty one makes it another node (P19)"
    )]
    NeitherFoundNorJoin {
        /// The directory.
        place: String,
    },
    /// It does not get into its cluster.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The node cannot listen, or is not who its directory says.
    #[error("the node cannot take its place in the cluster: {0}")]
    Door(io::Error),
    /// Threads could not be started, or the store could not be read.
    #[error("the runtime cannot start: {0}")]
    Io(io::Error),
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

enum StoreChoice {
    Memory,
    Embedded(PathBuf),
    #[cfg(feature = "postgres")]
    Postgres,
    Given(Arc<dyn Store>),
}

/// Builds a [`Runtime`].
#[must_use = "a builder does nothing before `start`"]
pub struct Builder {
    kinds: Kinds,
    duplicate: Option<&'static str>,
    store: Option<StoreChoice>,
    workers: Option<usize>,
    shards: u32,
    limits: Limits,
    embedded: EmbeddedConfig,
    cluster: Option<ClusterConfig>,
    #[cfg(feature = "postgres")]
    postgres: postgres::Wishes,
}

impl Builder {
    /// Registers an entity.
    pub fn entity<E: Entity>(self) -> Self {
        self.kind(KindOf::<E>::new())
    }

    /// Registers a kind that was not written by the derive.
    pub fn kind(mut self, kind: impl Kind) -> Self {
        let name = kind.name();
        if !self.kinds.register(Box::new(kind)) {
            self.duplicate = Some(name);
        }
        self
    }

    /// Keeps state in this directory, which is made where it is missing. One process at a time uses it.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.store = Some(StoreChoice::Embedded(path.into()));
        self
    }

    /// Keeps state in memory only: it is lost when the runtime stops.
    pub fn in_memory(mut self) -> Self {
        self.store = Some(StoreChoice::Memory);
        self
    }

    /// Keeps state in PostgreSQL, where the nodes of a cluster share it: each shard is owned by one node at a time, and when that
    /// is gone another takes it. `servers` are URLs, `postgres://user:password@host:port/database`, of one server or of several
    /// over which the shards are spread when the cluster is founded; later they must be the same, in the same order (P24).
    /// Connections are verified by TLS (`sslmode=verify-full`) except to the machine itself.
    ///
    /// Without [`Builder::cluster`] it founds a cluster where there is none, and is its only node, called `runtime`: a second
    /// process that is started so takes the place of the first, which stops.
    ///
    /// # Crashes
    /// What was acknowledged is as durable as a commit of the server: see the settings that it is started with
    /// ([`Builder::require_sync`]). A node that is gone keeps its shards for as long as its lease runs ([`Builder::lease`]), or until
    /// it is started again.
    #[cfg(feature = "postgres")]
    pub fn postgres<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.postgres.urls = servers.into_iter().map(Into::into).collect();
        self.store = Some(StoreChoice::Postgres);
        self
    }

    /// Of PostgreSQL: for how long a node counts as living after it was heard of last, 3 s unless said otherwise. A shorter lease
    /// makes for a faster fail-over, and takes shards from nodes that have only paused.
    #[cfg(feature = "postgres")]
    pub fn lease(mut self, lease: std::time::Duration) -> Self {
        self.postgres.lease = lease;
        self
    }

    /// Of PostgreSQL: refuses to start on a server that acknowledges commits before a standby has them, so that a fail-over to one
    /// loses nothing. Without this it is warned about.
    #[cfg(feature = "postgres")]
    pub fn require_sync(mut self) -> Self {
        self.postgres.require_sync = true;
        self
    }

    /// Of PostgreSQL: how many connections to each server commit at a time, 4 unless said otherwise.
    #[cfg(feature = "postgres")]
    pub fn store_lanes(mut self, lanes: u32) -> Self {
        self.postgres.lanes = lanes;
        self
    }

    /// Keeps state in a store that is open already. Of what is set for a log here nothing applies to it.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(StoreChoice::Given(store));
        self
    }

    /// How many workers run turns: one per core unless said otherwise.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How many shards a new store is founded with, a power of two. It cannot be changed later.
    pub fn shards(mut self, shards: u32) -> Self {
        self.shards = shards;
        self
    }

    /// Length of one segment of the commit log on disk, 64 MiB unless said otherwise: a multiple of 4096 from 64 KiB to
    /// 1 GiB. Two of them are written with zeros when a store is founded, so small ones found sooner; the largest batch
    /// that [`Limits`] allow must fit in one.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.embedded.segment_bytes = bytes;
        self
    }

    /// How long the commit log may grow beyond the checkpoint, 512 MiB unless said otherwise, and at least two segments.
    /// It bounds the disk space of the log and the time to recover; at the bound messages wait until the checkpoint has
    /// caught up, and are refused as [busy](crate::error::Bound::Intake) where too many wait.
    pub fn log_budget(mut self, bytes: u64) -> Self {
        self.embedded.tail_bytes = bytes;
        self
    }

    /// What was set for a log here.
    pub(crate) fn log_config(&self) -> &EmbeddedConfig {
        &self.embedded
    }

    /// Makes the runtime a node of a cluster: it listens, and shards move between it and the others. The entities are the same.
    pub fn cluster(mut self, config: ClusterConfig) -> Self {
        self.cluster = Some(config);
        self
    }

    /// Other bounds than the default.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Opens the store, recovers what it holds, and serves.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self) -> Result<Runtime, StartError> {
        if cfg!(panic = "abort") {
            return Err(StartError::PanicAborts);
        }
        if let Some(name) = self.duplicate {
            return Err(StartError::DuplicateKind(name));
        }
        if self.kinds.names().next().is_none() {
            return Err(StartError::NoEntities);
        }
        self.limits.check().map_err(StartError::Limits)?;
        let shards = Shards::new(self.shards).ok_or(StartError::Shards(self.shards))?;
        let workers =
            self.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let needed = self.limits.batch_len_max() as u64;
        let fits = |most: u64| {
            if most < needed { Err(StartError::BatchTooLong { most, needed }) } else { Ok(()) }
        };
        #[cfg(feature = "postgres")]
        let cluster = match self.store {
            // It is a node also where it is the only one: it holds leases, and is told what it has.
            Some(StoreChoice::Postgres) => Some(self.cluster.clone().unwrap_or_else(postgres::alone)),
            _ => self.cluster.clone(),
        };
        #[cfg(not(feature = "postgres"))]
        let cluster = self.cluster.clone();
        let network = cluster.is_some().then(Network::start).transpose()?;
        let joined = cluster.as_ref().zip(network.as_ref());
        let store: Arc<dyn Store> = match self.store.ok_or(StartError::NoStore)? {
            StoreChoice::Given(store) => store,
            StoreChoice::Memory => match joined {
                None => Arc::new(MemoryStore::new(shards, 1)),
                Some((config, network)) => {
                    let founding = founding(network, config, shards).await?;
                    let place = || "the memory of a process that starts".to_owned();
                    let founding =
                        founding.ok_or_else(|| StartError::NeitherFoundNorJoin { place: place() })?;
                    Arc::new(MemoryStore::founded(&founding, 1))
                }
            },
            #[cfg(feature = "postgres")]
            StoreChoice::Postgres => {
                let cluster = cluster.as_ref().expect("it is a node");
                self.postgres.open(cluster, shards, random_u128()).await?
            }
            StoreChoice::Embedded(path) => {
                // Before anything is founded.
                fits(self.embedded.batch_bytes_max())?;
                match joined {
                    None => {
                        let config = EmbeddedConfig { shards: Some(shards), ..self.embedded };
                        Arc::new(blocking(move || open_or_found(&path, &config, shards)).await?)
                    }
                    Some((config, network)) => {
                        open_or_join(path, self.embedded, network, config, shards).await?
                    }
                }
            }
        };
        fits(store.batch_bytes_max())?;
        let suspects = match store.data_dir() {
            Some(path) => Suspects::open(path, store.was_clean())?,
            None => None,
        };
        let kinds = Arc::new(self.kinds);
        let door = match cluster.zip(network) {
            None => None,
            Some((config, network)) => {
                let identity = Identity::new(config, &kinds, &store);
                Some(Door::open(network, identity, Clock::start().now()).await.map_err(StartError::Door)?)
            }
        };
        let mut node =
            Node::start(kinds, self.limits, Arc::clone(&store), suspects, workers, door.is_none()).await?;
        if let Some(door) = door {
            node.join(door)?;
        }
        if let Some(shared) = store.shared() {
            // What nobody has it takes with its first word to the servers. What others had who are gone comes later.
            node.settled(shared.lease()).await?;
            let (taken, all) = (store.owned().map_err(io::Error::other)?.len(), store.shards().count());
            tracing::info!(shards = taken, of = all, "shards of the store are this node's");
        }
        Ok(Runtime { node, store })
    }
}

fn founder(shards: Shards) -> Founding {
    Founding::founder(random_u128(), random_u128(), shards)
}

/// How the store of a node begins; `None`: it does not.
async fn founding(
    network: &Network,
    config: &ClusterConfig,
    shards: Shards,
) -> Result<Option<Founding>, StartError> {
    Ok(match &config.begin {
        Begin::Resume => None,
        Begin::Found => Some(founder(shards)),
        Begin::Join(seeds) => {
            let (cluster, shards) = find_cluster(network, config, seeds).await?;
            Some(Founding::joined(cluster, random_u128(), shards))
        }
    })
}

/// Opens the store of a node, or founds it as its configuration says.
async fn open_or_join(
    path: PathBuf,
    embedded: EmbeddedConfig,
    network: &Network,
    config: &ClusterConfig,
    shards: Shards,
) -> Result<Arc<dyn Store>, StartError> {
    let opened = {
        let (path, embedded) = (path.clone(), embedded.clone());
        blocking(move || EmbeddedStore::open(&path, &embedded)).await
    };
    match opened {
        Ok(store) => Ok(Arc::new(store)),
        Err(StartError::Open(OpenError::NotFounded { place })) => {
            let founding = founding(network, config, shards).await?;
            let founding = founding.ok_or(StartError::NeitherFoundNorJoin { place })?;
            let store: Arc<dyn Store> =
                Arc::new(blocking(move || EmbeddedStore::found(&path, &founding, &embedded)).await?);
            if let Begin::Join(seeds) = &config.begin {
                keep_seeds(&*store, seeds).map_err(io::Error::other)?;
            }
            Ok(store)
        }
        Err(error) => Err(error),
    }
}

/// Opens a store beside the caller's tasks: it reads for as long as it takes.
async fn blocking(
    open: impl FnOnce() -> Result<EmbeddedStore, OpenError> + Send + 'static,
) -> Result<EmbeddedStore, StartError> {
    Ok(tokio::task::spawn_blocking(open).await.map_err(io::Error::other)??)
}

/// The one-process runtime founds its store by itself (P19).
fn open_or_found(path: &Path, config: &EmbeddedConfig, shards: Shards) -> Result<EmbeddedStore, OpenError> {
    match EmbeddedStore::open(path, config) {
        Err(OpenError::NotFounded { .. }) => {
            let founding = Founding::founder(random_u128(), random_u128(), shards);
            EmbeddedStore::found(path, &founding, config)
        }
        opened => opened,
    }
}

/// A running runtime: one node of one process.
///
/// ```
/// # use entity_runtime::prelude::*;
/// #[derive(Entity, Default, Serialize, Deserialize)]
/// #[entity(kind = "counter", handles(Add))]
/// struct Counter { count: u64 }
///
/// #[derive(Message, Serialize, Deserialize)]
/// #[message(reply = u64)]
/// struct Add { by: u64 }
///
/// impl Handle<Add> for Counter {
///     fn handle(&mut self, add: Add, _: &mut Context<'_, Self>) -> u64 { self.count += add.by; self.count }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> anyhow::Result<()> {
/// let runtime = Runtime::builder().entity::<Counter>().in_memory().start().await?;
/// let count = runtime.client().ask(Counter::at("visits"), Add { by: 1 }).await?;
/// assert_eq!(count, 1);
/// runtime.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// Dropping it without [`Runtime::shutdown`] stops it at once; what was acknowledged is durable all the same.
pub struct Runtime {
    node: Node,
    store: Arc<dyn Store>,
}

impl Runtime {
    /// Begins a runtime.
    pub fn builder() -> Builder {
        Builder {
            kinds: Kinds::default(),
            duplicate: None,
            store: None,
            workers: None,
            shards: SHARDS_DEFAULT,
            limits: Limits::default(),
            embedded: EmbeddedConfig::default(),
            cluster: None,
            #[cfg(feature = "postgres")]
            postgres: postgres::Wishes::default(),
        }
    }

    /// A client with an identity of its own.
    pub fn client(&self) -> Client {
        Client::open(&self.node.shared.front)
    }

    /// The operator's view: dead letters, waiting messages, stuck entities, feeds.
    pub fn operator(&self) -> Operator<'_> {
        Operator::new(&self.node.shared.front, &self.store)
    }

    /// What the runtime has done since it started, as of the last 20 ms or so.
    pub fn counters(&self) -> Counters {
        self.node.counters()
    }

    /// Activations in memory, and the bytes they are counted with.
    pub fn activations(&self) -> (usize, usize) {
        self.node
            .shared
            .intakes
            .iter()
            .map(|intake| intake.stats().activations)
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Why the runtime takes no more messages, if its store has failed. It must be started anew.
    pub fn failure(&self) -> Option<String> {
        self.node.shared.failure()
    }

    /// Where this node listens, with the port that was chosen where any would do; `None` where it is no node of a cluster.
    pub fn listens_at(&self) -> Option<&str> {
        self.node.cluster().map(crate::cluster::Cluster::address)
    }

    /// Carries out an operator's command at this node, as [`Client::command`] does at others; `None` where it is no node of a
    /// cluster, or has ended. [`Runtime::departed`] tells when it has left after a [`Command::Leave`].
    pub async fn command(&self, command: Command) -> Option<CommandAnswer> {
        self.node.cluster()?.command(command).await
    }

    /// Waits until this node has left its cluster, has failed, or is refused by the others for good. For ever where nothing of
    /// this happens.
    pub async fn departed(&self) -> Departure {
        match self.node.cluster() {
            Some(cluster) => cluster.departed().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until no message is on its way: every outbox is empty and everything is durable. Waiting messages of stuck
    /// entities and reminders that are not due do not count.
    pub async fn quiesce(&self) {
        self.node.quiesce().await;
    }

    /// Takes no more messages, finishes those in memory, and stops. Messages between entities that are still in an
    /// outbox go on at the next start.
    pub async fn shutdown(self) {
        let failed = self.node.shared.failure().is_some();
        self.node.stop().await;
        if failed {
            return;
        }
        let store = self.store;
        let closed = tokio::task::spawn_blocking(move || store.close()).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(%error, "the store was not closed in peace; the next start recovers it");
        }
    }
}
