//! A node's door: where it listens, and who may come in.

use super::{
    Cluster, Coordinator, Notice, SharedMembership, ToCoordinator, admission::membership_hello, lock,
};
use crate::{
    clock::random_u128,
    cluster::{
        Begin, Identity, Network,
        control::Control,
        holdings::Holdings,
        joining::kept_seeds,
        sharing,
        status::{Beats, Moves},
        storage::{self, KNOWN_NODES},
    },
    membership::{
        HelloVerdict, IdentityRefusal, Known, Leaving, Membership, NodeEntry, NodeState, judge_hello,
    },
    mover::{Mover, MoverAction, MoverConfig},
    node::Shared,
    placement::Weight,
    sharing::{Sharing, SharingAction, SharingConfig},
    store::{LoadError, NodeSays, Presence, Store},
    timestamp::Timestamp,
    transport::{Endpoint, HelloRefusal, Listening, handshake::Hello},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::JoinHandle,
};
use tokio::sync::{mpsc, watch};

/// Shards that come to a node at a time; one that is sealed for it always may.
const TAKES_MAX: usize = 16;

/// What is to be done first.
pub(super) enum Begun {
    Own(Vec<MoverAction>),
    Common(Vec<SharingAction>),
}

/// A node that listens, and lets nobody in yet.
pub(crate) struct Door {
    network: Network,
    endpoint: Endpoint,
    listening: Listening,
    membership: SharedMembership,
    identity: Identity,
}

impl Door {
    /// Binds the address. First, so that a port that is taken ends the start before anything is done.
    pub(crate) async fn open(network: Network, identity: Identity, now: Timestamp) -> io::Result<Self> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let config = &identity.config;
        let transport =
            config.security.transport(Some(&config.name)).map_err(|why| invalid(why.to_string()))?;
        let known = match noted(&*identity.store, KNOWN_NODES).map_err(io::Error::other)? {
            Some(bytes) => Known::decode(&bytes).map_err(io::Error::other)?,
            None => Known::default(),
        };
        let own = identity.store.identity();
        let entry = NodeEntry {
            name: config.name.clone(),
            store: own.store,
            boot: own.boot,
            rev: 0,
            // Until the port is known.
            address: config.advertise.clone().unwrap_or_else(|| config.listen.clone()),
            state: NodeState::Up,
            weight: config.weight,
            build: concat!("entity-runtime ", env!("CARGO_PKG_VERSION")).into(),
        };
        let door = Arc::new(Mutex::new(None::<SharedMembership>));
        let introduce = {
            let identity = identity.clone();
            move || identity.introduce()
        };
        let judge = {
            let door = Arc::clone(&door);
            move |hello: &Hello| {
                let door = door.lock().unwrap_or_else(PoisonError::into_inner);
                door.as_ref().map_or(Ok(()), |membership| judge(lock(membership).known(), hello))
            }
        };
        let endpoint = Endpoint::new(transport, config.transport.clone(), introduce, judge);
        let listening = network.run({
            let (endpoint, listen) = (endpoint.clone(), config.listen.clone());
            async move { endpoint.listen(&listen).await }
        });
        let listening = listening.await??;
        let address = config.advertise.clone().unwrap_or_else(|| listening.address().to_owned());
        if let Ok(address) = address.parse::<std::net::SocketAddr>()
            && address.ip().is_unspecified()
        {
            return Err(invalid(format!(
                "no other node can reach {address}: say by `advertise` where this one is reached"
            )));
        }
        let entry = NodeEntry { address, ..entry };
        let seed = random_u128() as u64;
        let membership = Membership::new(config.membership.clone(), entry, known, seed, now)
            .map_err(|why| invalid(why.to_string()))?;
        let membership = Arc::new(Mutex::new(membership));
        *door.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&membership));
        Ok(Self { network, endpoint, listening, membership, identity })
    }

    /// Takes connections from here on. The node serves its shards already. Returns the threads that work for the
    /// coordinator.
    pub(crate) fn serve(self, shared: &Arc<Shared>) -> io::Result<(Cluster, Vec<JoinHandle<()>>)> {
        let (notices, told) = mpsc::unbounded_channel();
        let tell = ToCoordinator(notices);
        assert!(shared.cluster.set(tell.clone()).is_ok(), "a node is in one cluster");
        let (storage, thread) = storage::start(shared, tell.clone())?;
        let (depart, departed) = watch::channel(None);
        let Self { network, endpoint, mut listening, membership, identity } = self;
        let address = listening.address().to_owned();
        let now = shared.clock.now();
        let own = identity.store.identity();
        let seeds = match &identity.config.begin {
            Begin::Join(seeds) => seeds.clone(),
            Begin::Resume | Begin::Found => kept_seeds(&*identity.store).map_err(io::Error::other)?,
        };
        let mut threads = vec![thread];
        let (holdings, begun, settled) = match shared.store.shared() {
            None => {
                let config = MoverConfig {
                    here: identity.config.name.clone(),
                    store: own.store,
                    boot: own.boot,
                    shards: shared.layout,
                    limits: identity.config.hand_off.clone(),
                    pace: identity.config.pace.clone(),
                    takes_max: TAKES_MAX,
                };
                let ownership = identity.store.ownership().map_err(io::Error::other)?;
                let (mover, actions) = Mover::new(config, ownership, now);
                // Whatever its store has it serves.
                (Holdings::Own(Box::new(mover)), Begun::Own(actions), watch::channel(true).1)
            }
            Some(store) => {
                let config = SharingConfig {
                    here: identity.config.name.clone(),
                    incarnation: store.incarnation(),
                    lease: store.lease(),
                    shards: shared.layout,
                    server_of: shared.layout.iter().map(|shard| store.server_of(shard)).collect(),
                    pace: identity.config.pace.clone(),
                };
                let owned = identity.store.owned().map_err(io::Error::other)?;
                let (sharing, actions) = Sharing::new(config, &owned, now);
                let says = says(lock(&membership).own());
                let (control, controls) = Control::start(shared, &tell, says)?;
                threads.extend(controls);
                let (settled, is_settled) = watch::channel(false);
                let beats = vec![Beats::default(); store.servers() as usize];
                let held = sharing::Common { sharing, control, beats, settled };
                (Holdings::Common(Box::new(held)), Begun::Common(actions), is_settled)
            }
        };
        let mut coordinator = Coordinator {
            network: network.handle().clone(),
            shared: Arc::clone(shared),
            config: identity.config,
            kinds: identity.kinds,
            seeds,
            alone_since: Some(now),
            endpoint,
            membership,
            holdings,
            tell: tell.clone(),
            storage,
            at_door: BTreeMap::new(),
            tickets: 0,
            connected: BTreeMap::new(),
            clients: Vec::new(),
            dialling: BTreeSet::new(),
            sealed_at: BTreeMap::new(),
            moves: Moves::default(),
            forgetting: BTreeMap::new(),
            inquiry: None,
            stranded_said: BTreeSet::new(),
            stranded_said_at: Timestamp::EPOCH,
            unparking: Weak::new(),
            refused: None,
            not_kept: None,
            has_failed: false,
            is_stopping: false,
            leaving: Leaving::No,
            depart,
            started: now,
        };
        let accepting = tell.clone();
        network.handle().spawn(async move {
            while let Some(connection) = listening.accept().await {
                accepting.tell(Notice::Connection { connection, is_dialled: false });
            }
        });
        let task = network.handle().spawn(async move {
            coordinator.begin(begun);
            coordinator.run(told).await;
        });
        Ok((Cluster { network, tell, address, departed, settled, task }, threads))
    }
}

/// A note, or none where it cannot be read now from a store that nodes share: who has which name stands there too, and is read with
/// every ledger, so that a server that is away costs its own shards alone (P24).
fn noted(store: &dyn Store, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
    match store.note(name) {
        Err(LoadError::Later(error)) if store.shared().is_some() => {
            tracing::warn!(%error, name, "a note cannot be read now, and is done without");
            Ok(None)
        }
        noted => noted,
    }
}

/// What a node says of itself to a store that it shares.
fn says(own: &NodeEntry) -> NodeSays {
    let weight = Weight::new(u32::from(own.weight)).unwrap_or_default();
    NodeSays { address: own.address.clone(), weight, presence: Presence::Up }
}

fn judge(known: &Known, hello: &Hello) -> Result<(), HelloRefusal> {
    let Some(node) = &hello.node else { return Ok(()) };
    match judge_hello(known, &membership_hello(node)) {
        HelloVerdict::Fresh | HelloVerdict::Known => Ok(()),
        HelloVerdict::Refused(refusal) => {
            let why = refusal.to_string();
            Err(match refusal {
                IdentityRefusal::OlderBoot { seen, .. } => {
                    HelloRefusal::Past { boot: seen, position: 0, why }
                }
                IdentityRefusal::LogBehind { seen, .. } => {
                    HelloRefusal::Past { boot: 0, position: seen, why }
                }
                _ => HelloRefusal::Identity(why),
            })
        }
    }
}
