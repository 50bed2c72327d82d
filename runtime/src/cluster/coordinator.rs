//! The one task that drives membership and mover, and changes routes.

use super::{
    Begin, ClusterConfig, Command, CommandAnswer, Identity, JoinError, MoveStatus, Network,
    connections::{Connected, serve},
    joining::{kept_seeds, lacks},
    storage::{self, Job, KNOWN_NODES},
};
use crate::{
    clock::random_u128,
    kernel::HandOffNews,
    membership::{
        self, Exchange, HelloVerdict, Known, Membership, MembershipAction, MembershipEvent, NodeEntry,
        NodeState, judge_hello,
    },
    mover::{Mover, MoverAction, MoverConfig, MoverEvent},
    node::{Outbound, Shared},
    placement::{NodeName, ShardId, Table, Weight},
    router::Announcement,
    timestamp::Timestamp,
    transport::{
        CloseReason, Connection, Credit, Endpoint, Frame, HelloRefusal, Listening,
        frame::Route,
        handshake::{Hello, KnownKind},
    },
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as threads},
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};

/// Resolution of everything the coordinator waits for.
const TICK: Duration = Duration::from_millis(20);
/// How long a node that has left stays connected, so that the others hear of it,
const FAREWELL: Duration = Duration::from_secs(1);
/// and how much longer where none has said that it has heard.
const FAREWELL_MAX: Duration = Duration::from_mins(1);
/// Between two looks at what still has to leave at the end.
const PART_TICK: Duration = Duration::from_millis(5);
/// After so long a note that found no room on the disk is tried again.
const KEEP_AGAIN: Duration = Duration::from_secs(1);
/// After so long without a connection a node says that it is alone.
const ALONE_AFTER: Duration = Duration::from_secs(5);
/// Shards that come to a node at a time; one that is sealed for it always may.
const TAKES_MAX: usize = 16;

/// What the coordinator is told.
pub(crate) enum Notice {
    /// Two ends have agreed.
    Connection { connection: Connection, is_dialled: bool },
    /// A dial is over; the connection it may have led to was told before.
    Dialled(String),
    /// A connection has ended.
    Ended(Arc<Outbound>),
    /// A frame that is not for workers.
    Frame(Arc<Outbound>, Frame, Credit),
    /// The other end thinks these shards are here.
    Misplaced(Arc<Outbound>, BTreeSet<ShardId>),
    /// From the storage thread or a kernel.
    Mover(MoverEvent),
    /// A note is durable,
    Kept(u64),
    /// or found no room.
    NotKept(u64, Vec<u8>),
    /// A command of this process.
    Asked(Command, oneshot::Sender<CommandAnswer>),
    /// The node has failed.
    Failed(String),
    /// Close all connections.
    Stop,
}

/// Tells the coordinator something. The clones tell the same one.
#[derive(Clone)]
pub(crate) struct ToCoordinator(mpsc::UnboundedSender<Notice>);

impl ToCoordinator {
    pub(super) fn new(notices: mpsc::UnboundedSender<Notice>) -> Self {
        Self(notices)
    }

    pub(super) fn tell(&self, notice: Notice) {
        // After its end there is nobody who could care.
        let _ = self.0.send(notice);
    }

    pub(crate) fn news(&self, shard: ShardId, news: HandOffNews) {
        self.tell(Notice::Mover(MoverEvent::News(shard, news)));
    }

    pub(crate) fn fail(&self, why: String) {
        self.tell(Notice::Failed(why));
    }
}

/// How a node's time in its cluster ends.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Departure {
    /// It was told to leave, and has handed everything over.
    Left,
    /// It has failed, for this reason: start it again from its directory.
    Failed(String),
}

/// The cluster side of a running node.
pub(crate) struct Cluster {
    network: Network,
    tell: ToCoordinator,
    address: String,
    departed: watch::Receiver<Option<Departure>>,
    task: tokio::task::JoinHandle<()>,
}

/// What the door needs of the membership, which the coordinator changes.
type SharedMembership = Arc<Mutex<Membership>>;

fn lock(membership: &SharedMembership) -> MutexGuard<'_, Membership> {
    membership.lock().unwrap_or_else(PoisonError::into_inner)
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
        let known = match identity.store.note(KNOWN_NODES).map_err(io::Error::other)? {
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

    /// Takes connections from here on. The node serves its shards already. Returns the thread that works for the coordinator.
    pub(crate) fn serve(self, shared: &Arc<Shared>) -> io::Result<(Cluster, JoinHandle<()>)> {
        let (notices, told) = mpsc::unbounded_channel();
        let tell = ToCoordinator(notices);
        assert!(shared.cluster.set(tell.clone()).is_ok(), "a node is in one cluster");
        let (storage, thread) = storage::start(shared, tell.clone())?;
        let (depart, departed) = watch::channel(None);
        let Self { network, endpoint, mut listening, membership, identity } = self;
        let address = listening.address().to_owned();
        let now = shared.clock.now();
        let own = identity.store.identity();
        let ownership = identity.store.ownership().map_err(io::Error::other)?;
        let seeds = match &identity.config.begin {
            Begin::Join(seeds) => seeds.clone(),
            Begin::Resume | Begin::Found => kept_seeds(&*identity.store).map_err(io::Error::other)?,
        };
        let (mover, actions) = Mover::new(
            MoverConfig {
                here: identity.config.name.clone(),
                store: own.store,
                boot: own.boot,
                shards: shared.layout,
                limits: identity.config.hand_off.clone(),
                pace: identity.config.pace.clone(),
                takes_max: TAKES_MAX,
            },
            ownership,
            now,
        );
        let mut coordinator = Coordinator {
            network: network.handle().clone(),
            shared: Arc::clone(shared),
            config: identity.config,
            kinds: identity.kinds,
            seeds,
            alone_since: Some(now),
            endpoint,
            membership,
            mover,
            tell: tell.clone(),
            storage,
            at_door: BTreeMap::new(),
            tickets: 0,
            connected: BTreeMap::new(),
            clients: Vec::new(),
            dialling: BTreeSet::new(),
            sealed_at: BTreeMap::new(),
            moves: MoveStatus::default(),
            forgetting: BTreeMap::new(),
            not_kept: None,
            has_failed: false,
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
            coordinator.begin(actions);
            coordinator.run(told).await;
        });
        Ok((Cluster { network, tell, address, departed, task }, thread))
    }
}

fn judge(known: &Known, hello: &Hello) -> Result<(), HelloRefusal> {
    let Some(node) = &hello.node else { return Ok(()) };
    match judge_hello(known, &membership_hello(node)) {
        HelloVerdict::Fresh | HelloVerdict::Known => Ok(()),
        HelloVerdict::Refused(refusal) => Err(HelloRefusal::Identity(refusal.to_string())),
    }
}

fn membership_hello(node: &crate::transport::handshake::NodeIdentity) -> membership::Hello {
    membership::Hello { name: node.name.clone(), store: node.store, boot: node.boot, position: node.durable }
}

impl Cluster {
    /// Where the node listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Carries out a command. `None`: the node has ended.
    pub(crate) async fn command(&self, command: Command) -> Option<CommandAnswer> {
        let (tell, told) = oneshot::channel();
        self.tell.tell(Notice::Asked(command, tell));
        told.await.ok()
    }

    /// Waits for the end of the node's time in the cluster.
    pub(crate) async fn departed(&self) -> Departure {
        let mut departed = self.departed.clone();
        let ended = departed.wait_for(Option::is_some).await;
        ended
            .ok()
            .and_then(|departure| departure.clone())
            .unwrap_or(Departure::Failed("the node has stopped".into()))
    }

    /// Closes all connections and waits until nothing of the cluster side is left.
    pub(crate) async fn stop(self) {
        self.tell.tell(Notice::Stop);
        let _ = self.task.await;
        let network = self.network;
        let _ = tokio::task::spawn_blocking(move || drop(network)).await;
    }
}

/// How far a node is on its way out of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It stays.
    No,
    /// It hands its shards over.
    Draining,
    /// It has had none since then; and another node knows as much as this one, so it knows that too.
    Empty { since: Timestamp, is_known: bool },
}

pub(super) struct Coordinator {
    pub(super) network: tokio::runtime::Handle,
    pub(super) shared: Arc<Shared>,
    pub(super) config: ClusterConfig,
    /// That this build knows.
    kinds: Vec<KnownKind>,
    /// Where it asks while it knows nobody.
    seeds: Vec<String>,
    /// Since when there is no connection to a node, unless that was said.
    alone_since: Option<Timestamp>,
    endpoint: Endpoint,
    membership: SharedMembership,
    pub(super) mover: Mover,
    tell: ToCoordinator,
    pub(super) storage: threads::Sender<Job>,
    /// Connections whose nodes are not let in yet, by ticket.
    at_door: BTreeMap<u64, (Connection, bool)>,
    tickets: u64,
    pub(super) connected: BTreeMap<NodeName, Connected>,
    pub(super) clients: Vec<Arc<Outbound>>,
    /// Addresses that are being dialled.
    dialling: BTreeSet<String>,
    /// Shards on their way out, since when they stand still.
    pub(super) sealed_at: BTreeMap<ShardId, Timestamp>,
    pub(super) moves: MoveStatus,
    /// Operators who wait until a node is forgotten.
    forgetting: BTreeMap<NodeName, Vec<Asker>>,
    /// What found no room on the disk.
    not_kept: Option<(u64, Vec<u8>, Timestamp)>,
    /// The node has failed, and has nothing to do with others any more.
    has_failed: bool,
    pub(super) leaving: Leaving,
    depart: watch::Sender<Option<Departure>>,
    pub(super) started: Timestamp,
}

impl Coordinator {
    fn begin(&mut self, actions: Vec<MoverAction>) {
        self.perform_moves(actions);
        self.view_changed();
        self.step_membership(MembershipEvent::Join { seeds: self.seeds.clone() });
    }

    async fn run(&mut self, mut told: mpsc::UnboundedReceiver<Notice>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notice = told.recv() => match notice {
                    None | Some(Notice::Stop) => return self.part().await,
                    Some(notice) => self.take(notice),
                },
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    pub(super) fn membership(&self) -> MutexGuard<'_, Membership> {
        lock(&self.membership)
    }

    /// Lets what was answered last leave, and says good-bye.
    async fn part(&mut self) {
        let all = |coordinator: &Self| -> Vec<Arc<Outbound>> {
            let nodes = coordinator.connected.values().map(|connected| &connected.outbound);
            nodes.chain(&coordinator.clients).cloned().collect()
        };
        let sent = async {
            while all(self).iter().any(|outbound| outbound.link().ended().is_none() && !outbound.is_empty()) {
                tokio::time::sleep(PART_TICK).await;
            }
        };
        let _ = tokio::time::timeout(self.config.transport.close_deadline, sent).await;
        self.close_all();
        // The writers' last word.
        tokio::time::sleep(PART_TICK).await;
    }

    fn close_all(&mut self) {
        let nodes = self.connected.values().map(|connected| &connected.outbound);
        for outbound in nodes.chain(&self.clients) {
            outbound.link().close(CloseReason::Stopping);
        }
    }

    fn tick(&mut self) {
        self.step_membership(MembershipEvent::Tick);
        self.step_mover(MoverEvent::Tick);
        let now = self.now();
        if let Some((number, bytes, _)) = self.not_kept.take_if(|(.., since)| *since + KEEP_AGAIN <= now) {
            let _ = self.storage.send(Job::Keep(number, bytes));
        }
        self.at_door.retain(|_, (connection, _)| connection.link.ended().is_none());
        self.depart_when_empty();
        self.say_if_alone();
    }

    /// A node that reaches no other says so once, and whom it tries.
    fn say_if_alone(&mut self) {
        let now = self.now();
        if !self.connected.is_empty() {
            self.alone_since = Some(now);
            return;
        }
        let Some(since) = self.alone_since.filter(|since| *since + ALONE_AFTER <= now) else { return };
        let view = Arc::clone(self.membership().view());
        let others = view
            .nodes()
            .filter(|(name, node)| **name != self.config.name && node.entry.state != NodeState::Left);
        let mut tried: Vec<String> =
            others.map(|(name, node)| format!("{name} at {}", node.entry.address)).collect();
        tried.extend(
            self.seeds
                .iter()
                .filter(|seed| !tried.iter().any(|tried| tried.ends_with(*seed)))
                .cloned()
                .collect::<Vec<_>>(),
        );
        if tried.is_empty() && self.mover.is_empty() {
            tracing::warn!("this node has no shard and knows no other node: start it with `--join`");
        }
        if !tried.is_empty() {
            let (tried, since) = (tried.join(", "), now.since(since));
            tracing::warn!(tried, ?since, "no other node is reached; they are tried every second");
        }
        self.alone_since = None;
    }

    fn take(&mut self, notice: Notice) {
        match notice {
            Notice::Connection { connection, is_dialled } => self.greet(connection, is_dialled),
            Notice::Dialled(address) => {
                self.dialling.remove(&address);
            }
            Notice::Ended(outbound) => self.disconnected(&outbound),
            Notice::Frame(outbound, frame, credit) => {
                self.frame(&outbound, frame);
                drop(credit);
            }
            Notice::Misplaced(outbound, shards) => self.tell_owners(&outbound, shards),
            Notice::Mover(event) => self.step_mover(event),
            Notice::Kept(number) => self.step_membership(MembershipEvent::Kept(number)),
            Notice::NotKept(number, bytes) => {
                self.not_kept = Some((number, bytes, self.now()));
            }
            Notice::Asked(command, tell) => self.carry_out(Asker::Here(tell), command),
            Notice::Failed(why) => {
                self.has_failed = true;
                self.close_all();
                self.depart.send_if_modified(|departure| {
                    let is_first = departure.is_none();
                    departure.get_or_insert(Departure::Failed(why));
                    is_first
                });
            }
            Notice::Stop => unreachable!("taken by the loop"),
        }
    }

    /// Another end is at the door.
    fn greet(&mut self, connection: Connection, is_dialled: bool) {
        if self.has_failed {
            return connection.link.close(CloseReason::Stopping);
        }
        let Some(node) = &connection.other.node else {
            return self.welcome_client(connection);
        };
        let hello = membership_hello(node);
        self.tickets += 1;
        let ticket = self.tickets;
        self.at_door.insert(ticket, (connection, is_dialled));
        self.step_membership(MembershipEvent::Hello { ticket, hello });
    }

    fn welcome_client(&mut self, connection: Connection) {
        if self.config.transport.connections_max / 2 <= self.clients.len() {
            // The other half is for nodes: without clients a cluster is a cluster.
            let why = "it has as many clients as it takes (half of `connections_max`)".to_owned();
            return connection.link.close(CloseReason::Violation(why));
        }
        let outbound = Outbound::new(None, connection.link);
        self.clients.push(Arc::clone(&outbound));
        self.tell_nodes(&outbound);
        self.tell_all_owners(&outbound);
        serve(&self.network, &self.shared.front, &outbound, connection.incoming, self.tell.clone());
    }

    fn reject(&mut self, ticket: u64, refusal: &membership::IdentityRefusal) {
        let Some((connection, _)) = self.at_door.remove(&ticket) else { return };
        let (address, why) = (connection.link.address().to_owned(), refusal.to_string());
        tracing::warn!(address, why, "a node is not let in");
        connection.link.close(CloseReason::Violation(why));
    }

    /// A node is let in: frames go both ways from here on.
    fn admit(&mut self, ticket: u64) {
        let Some((connection, is_dialled)) = self.at_door.remove(&ticket) else { return };
        let Connection { other, link, incoming, .. } = connection;
        if link.ended().is_some() {
            return;
        }
        let node = other.node.expect("only nodes wait at the door");
        let (name, boot, now) = (node.name, node.boot, self.now());
        let is_lesser = self.config.name < name;
        if let Some(connected) = self.connected.get(&name) {
            if connected.outlasts(boot, is_dialled, is_lesser, now) || boot < connected.boot {
                return link.close(CloseReason::Replaced);
            }
            connected.outbound.link().close(CloseReason::Replaced);
            let outbound = Arc::clone(&connected.outbound);
            self.disconnected(&outbound);
        }
        tracing::info!(node = %name, address = link.address(), boot, "connected");
        let outbound = Outbound::new(Some(name.clone()), link);
        let connected = Connected { outbound: Arc::clone(&outbound), boot, is_dialled, since: now };
        self.connected.insert(name.clone(), connected);
        self.shared.links.connect(&name, Arc::clone(&outbound));
        let lacking = lacks(&self.kinds, &other.kinds);
        if let Some(lacking) = &lacking {
            tracing::warn!(node = %name, lacking, "this build takes no shards from a node that knows more");
        }
        self.step_mover(MoverEvent::Build { node: name.clone(), lacks: lacking });
        self.tell_all_owners(&outbound);
        self.shared.ports.connected(&outbound);
        serve(&self.network, &self.shared.front, &outbound, incoming, self.tell.clone());
        // What was sent on an earlier connection may be lost.
        let mover = &self.mover;
        let its = |shard: &ShardId| mover.routes().get(*shard).is_some_and(|(_, owner)| *owner == name);
        let shards: Vec<ShardId> = self.shared.layout.iter().filter(its).collect();
        self.send_again(&shards);
        self.step_membership(MembershipEvent::Connected { name, boot });
    }

    fn disconnected(&mut self, outbound: &Arc<Outbound>) {
        let Some(name) = outbound.node.clone() else {
            self.clients.retain(|client| !Arc::ptr_eq(client, outbound));
            return;
        };
        self.shared.links.disconnect(&name, outbound);
        let connected = self.connected.get(&name);
        let Some(boot) = connected
            .filter(|connected| Arc::ptr_eq(&connected.outbound, outbound))
            .map(|connected| connected.boot)
        else {
            return;
        };
        self.connected.remove(&name);
        let ended = outbound.link().ended().map_or_else(String::new, |ended| ended.to_string());
        tracing::info!(node = %name, ended, "disconnected");
        self.step_membership(MembershipEvent::Disconnected { name, boot });
    }

    /// A frame of a connection that is let in.
    fn frame(&mut self, outbound: &Arc<Outbound>, frame: Frame) {
        if let Frame::Command { slot, command } = frame {
            return self.command(outbound, slot, &command);
        }
        let Some(from) = outbound.node.clone() else { return };
        // What an earlier connection brought is of the same node all the same.
        match frame {
            Frame::Membership(bytes) => self.step_membership(MembershipEvent::Packet { from, bytes }),
            Frame::Members(bytes) => match Exchange::decode(&bytes) {
                Ok(exchange) => {
                    if let (Leaving::Empty { is_known, .. }, Exchange::Digest(digest)) =
                        (&mut self.leaving, &exchange)
                    {
                        *is_known |= *digest == lock(&self.membership).known().digest();
                    }
                    self.step_membership(MembershipEvent::Exchange { from, exchange });
                }
                Err(error) => close(outbound, &error),
            },
            Frame::HandOff(bytes) => match crate::handoff::Message::decode(&bytes) {
                Ok((shard, transfer, message)) => {
                    self.step_mover(MoverEvent::Heard { from, shard, transfer, message });
                }
                Err(error) => close(outbound, &error),
            },
            Frame::Moved(routes) => {
                let announced = routes.into_iter().map(|Route { shard, epoch, owner }| Announcement {
                    shard,
                    epoch,
                    owner,
                });
                self.step_mover(MoverEvent::Announced(announced.collect()));
            }
            _ => close(outbound, &"a frame nobody has asked for"),
        }
    }

    pub(super) fn step_membership(&mut self, event: MembershipEvent) {
        let now = self.now();
        let actions = self.membership().step(event, now);
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: MembershipAction) {
        match action {
            MembershipAction::Admit { ticket } => self.admit(ticket),
            MembershipAction::Reject { ticket, refusal } => self.reject(ticket, &refusal),
            MembershipAction::Send { to, bytes } => {
                if let Some(connected) = self.connected.get(&to) {
                    // Lost, it is as a datagram would be.
                    let _ = connected.outbound.link().send(Frame::Membership(bytes.into()));
                }
            }
            MembershipAction::SendExchange { to, exchange } => {
                if let Some(connected) = self.connected.get(&to) {
                    let bytes: Bytes = exchange.encode().into();
                    let len = bytes.len();
                    let _ = connected.outbound.frame(Frame::Members(bytes), len);
                }
            }
            MembershipAction::Dial { name, address } => self.dial(name, address),
            MembershipAction::HangUp(name) => {
                if let Some(connected) = self.connected.get(&name) {
                    let why = format!("an operator has given the store of {name} up");
                    connected.outbound.link().close(CloseReason::Violation(why));
                }
            }
            MembershipAction::Keep { number, bytes } => {
                let _ = self.storage.send(Job::Keep(number, bytes));
            }
            MembershipAction::ViewChanged => self.view_changed(),
            MembershipAction::Forgotten { name, store } => {
                for asker in self.forgetting.remove(&name).unwrap_or_default() {
                    let done =
                        format!("{name} is forgotten, and its store {store:032x} is never let in again");
                    asker.tell(CommandAnswer::Done(done));
                }
            }
            MembershipAction::Refused(refusal) => tracing::warn!("{refusal}"),
        }
    }

    fn dial(&mut self, name: Option<NodeName>, address: String) {
        if self.has_failed || !self.dialling.insert(address.clone()) {
            return;
        }
        let (endpoint, tell) = (self.endpoint.clone(), self.tell.clone());
        self.network.spawn(async move {
            match endpoint.dial(&address, name.as_ref()).await {
                Ok(connection) => tell.tell(Notice::Connection { connection, is_dialled: true }),
                // Counted and logged, once in a while, by the endpoint where it is a fault; else the node is away.
                Err(error) => tracing::debug!(%error, "a dial came to nothing"),
            }
            tell.tell(Notice::Dialled(address));
        });
    }

    /// The view has changed: another table, and other nodes for clients to connect to.
    fn view_changed(&mut self) {
        let view = Arc::clone(self.membership().view());
        let weight = |weight| Weight::new(u32::from(weight)).expect("an entry's weight is within bounds");
        let members: BTreeMap<NodeName, Weight> =
            view.ring_members().into_iter().map(|(name, share)| (name, weight(share))).collect();
        let table = Table::new(&members, self.shared.layout).map(Arc::new);
        self.step_mover(MoverEvent::Table(table));
        for client in &self.clients {
            self.tell_nodes(client);
        }
    }

    /// Tells a client where the nodes are.
    fn tell_nodes(&self, client: &Outbound) {
        let view = Arc::clone(self.membership().view());
        let entries = view.nodes().map(|(_, node)| (*node.entry).clone()).collect();
        let exchange = Exchange::Entries { entries, forgotten: Vec::new(), answer: false };
        let bytes: Bytes = exchange.encode().into();
        let len = bytes.len();
        let _ = client.frame(Frame::Members(bytes), len);
    }

    /// An operator's word over a connection.
    fn command(&mut self, outbound: &Arc<Outbound>, slot: u64, command: &[u8]) {
        let asker = Asker::There(Arc::clone(outbound), slot);
        match crate::codec::decode(command) {
            Ok(command) => self.carry_out(asker, command),
            Err(why) => {
                asker.tell(CommandAnswer::Refused(format!("this build does not know the command: {why}")));
            }
        }
    }

    fn carry_out(&mut self, asker: Asker, command: Command) {
        let said = match command {
            Command::Status => CommandAnswer::Status(Box::new(self.status())),
            Command::Leave => match self.leave() {
                Ok(()) => {
                    CommandAnswer::Done(format!("{} hands its shards over and leaves", self.config.name))
                }
                Err(why) => CommandAnswer::Refused(why),
            },
            Command::Forget(name) => return self.forget(asker, name),
            Command::Reopen { destroyed } => CommandAnswer::Refused(format!(
                "shards that were on their way to {destroyed} cannot be opened again by this build"
            )),
        };
        asker.tell(said);
    }

    fn forget(&mut self, asker: Asker, name: NodeName) {
        let now = self.now();
        let actions = self.membership().step(MembershipEvent::Forget(name.clone()), now);
        let refused = actions.iter().find_map(|action| match action {
            MembershipAction::Refused(refusal) => Some(refusal.to_string()),
            _ => None,
        });
        match refused {
            Some(why) => asker.tell(CommandAnswer::Refused(why)),
            None => self.forgetting.entry(name).or_default().push(asker),
        }
        for action in actions {
            self.perform(action);
        }
    }

    fn leave(&mut self) -> Result<(), String> {
        if self.leaving != Leaving::No {
            return Ok(());
        }
        let others = self.membership().view().ring_members();
        if others.keys().all(|name| *name == self.config.name) {
            return Err(format!(
                "{} is the only node that takes shards: it would have nobody to hand them over to; stop it instead, and \
                 start it again from its directory",
                self.config.name
            ));
        }
        self.leaving = Leaving::Draining;
        self.step_mover(MoverEvent::Leave);
        self.step_membership(MembershipEvent::Leave);
        Ok(())
    }

    fn depart_when_empty(&mut self) {
        let now = self.now();
        match self.leaving {
            Leaving::Draining if self.mover.is_empty() => {
                self.leaving = Leaving::Empty { since: now, is_known: false };
                self.step_membership(MembershipEvent::Drained);
            }
            // A shard that was sealed for this node has come all the same.
            Leaving::Empty { .. } if !self.mover.is_empty() => self.leaving = Leaving::Draining,
            Leaving::Empty { since, is_known }
                if since + if is_known { FAREWELL } else { FAREWELL_MAX } <= now =>
            {
                if !is_known {
                    tracing::warn!(
                        "no other node has heard that this one has left: let one of them `forget` it"
                    );
                }
                self.depart.send_if_modified(|departure| {
                    let is_first = departure.is_none();
                    departure.get_or_insert(Departure::Left);
                    is_first
                });
            }
            _ => {}
        }
    }
}

/// Ends a connection whose frame cannot be understood.
fn close(outbound: &Outbound, why: &dyn std::fmt::Display) {
    outbound.link().close(CloseReason::Violation(why.to_string()));
}

/// Who has given a command.
pub(super) enum Asker {
    /// Over a connection, under this number.
    There(Arc<Outbound>, u64),
    /// In this process.
    Here(oneshot::Sender<CommandAnswer>),
}

impl Asker {
    fn tell(self, said: CommandAnswer) {
        match self {
            Self::There(outbound, slot) => {
                let bytes: Bytes = said.encode().into();
                let len = bytes.len();
                if outbound.frame(Frame::CommandAnswer { slot, answer: bytes }, len).is_err() {
                    outbound.link().close(CloseReason::Violation("it does not take its answers".into()));
                }
            }
            // Whoever asked may have given up.
            Self::Here(tell) => drop(tell.send(said)),
        }
    }
}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        io::Error::other(error)
    }
}
