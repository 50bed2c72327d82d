//! The one task that drives membership and mover, and changes routes.

mod admission;
mod destroyed;
mod door;
mod operating;
mod stranded;
mod unparking;

pub(crate) use door::Door;

use door::Begun;

use super::{
    ClusterConfig, Command, CommandAnswer, JoinError, Network, connections::Connected, holdings::Holdings,
    status::Moves, storage::Job,
};
use crate::{
    kernel::HandOffNews,
    membership::{
        Exchange, LastAnswer, LastQuestion, Leaving, Membership, MembershipAction, MembershipEvent, NodeState,
    },
    mover::MoverEvent,
    node::{Outbound, Shared},
    placement::{NodeName, ShardId},
    router::Announcement,
    sharing::SharingEvent,
    timestamp::Timestamp,
    transport::{CloseReason, Connection, Credit, Endpoint, Frame, frame::Route, handshake::KnownKind},
};
use bytes::Bytes;
use destroyed::Inquiry;
use operating::Asker;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering, mpsc as threads},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};

/// Resolution of everything the coordinator waits for.
const TICK: Duration = Duration::from_millis(20);
/// Between two looks at what still has to leave at the end.
const PART_TICK: Duration = Duration::from_millis(5);
/// After so long a note that found no room on the disk is tried again.
const KEEP_AGAIN: Duration = Duration::from_secs(1);
/// After so long without a connection a node says that it is alone.
const ALONE_AFTER: Duration = Duration::from_secs(5);

/// What the coordinator is told.
pub(crate) enum Notice {
    /// Two ends have agreed.
    Connection { connection: Connection, is_dialled: bool },
    /// A dial is over; the connection it may have led to was told before.
    Dialled(String),
    /// A node that was dialled has seen this node's store after so many starts, or durable up to this position, and refuses
    /// what it is now.
    Outdated { boot: u64, position: u64, why: String },
    /// A connection has ended.
    Ended(Arc<Outbound>),
    /// A frame that is not for workers.
    Frame(Arc<Outbound>, Frame, Credit),
    /// The other end thinks these shards are here.
    Misplaced(Arc<Outbound>, BTreeSet<ShardId>),
    /// A node that was dialled does not let this one in, for this reason.
    NotLetIn(String),
    /// From the storage thread or a kernel.
    Mover(MoverEvent),
    /// From a server of a store that nodes share.
    Sharing(SharingEvent),
    /// A worker hosts a shard no longer.
    Left(ShardId),
    /// The store lets this run of the node write no more, for this reason.
    ShutOut(String),
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

    pub(crate) fn left(&self, shard: ShardId) {
        self.tell(Notice::Left(shard));
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
    /// Others have seen a later state of its store; in words, with what to do. To start it again changes nothing.
    Refused(String),
}

/// The cluster side of a running node.
pub(crate) struct Cluster {
    network: Network,
    tell: ToCoordinator,
    address: String,
    departed: watch::Receiver<Option<Departure>>,
    /// Every shard is served by somebody, as far as this node knows.
    settled: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

/// What the door needs of the membership, which the coordinator changes.
type SharedMembership = Arc<Mutex<Membership>>;

fn lock(membership: &SharedMembership) -> MutexGuard<'_, Membership> {
    membership.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Waits until every shard has an owner that lives, as far as this node knows, but no longer than this.
    pub(crate) async fn settled(&self, within: Duration) {
        let mut settled = self.settled.clone();
        let waited = self.network.run(async move {
            // An error is the end of the node, which says so elsewhere.
            let _ = tokio::time::timeout(within, settled.wait_for(|settled| *settled)).await;
        });
        let _ = waited.await;
    }

    /// Closes all connections and waits until nothing of the cluster side is left.
    pub(crate) async fn stop(self) {
        self.tell.tell(Notice::Stop);
        let _ = self.task.await;
        let network = self.network;
        let _ = tokio::task::spawn_blocking(move || drop(network)).await;
    }
}

pub(super) struct Coordinator {
    pub(super) network: tokio::runtime::Handle,
    pub(super) shared: Arc<Shared>,
    pub(super) config: ClusterConfig,
    /// That this build knows.
    kinds: Vec<KnownKind>,
    /// Where it asks while it knows nobody.
    pub(super) seeds: Vec<String>,
    /// Since when there is no connection to a node, unless that was said.
    alone_since: Option<Timestamp>,
    endpoint: Endpoint,
    membership: SharedMembership,
    pub(super) holdings: Holdings,
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
    pub(super) moves: Moves,
    /// Operators who wait until a node is forgotten.
    forgetting: BTreeMap<NodeName, Vec<Asker>>,
    /// What an operator asks of all others, for one of them is destroyed.
    inquiry: Option<Inquiry>,
    /// Stores that shards are stranded for, as was said.
    stranded_said: BTreeSet<String>,
    /// When it was said last.
    stranded_said_at: Timestamp,
    /// What asks the workers for parked streams, in the name of an operator.
    unparking: Weak<()>,
    /// Why another node did not let it in, until one does.
    pub(super) refused: Option<String>,
    /// What found no room on the disk.
    not_kept: Option<(u64, Vec<u8>, Timestamp)>,
    /// The node has failed, and has nothing to do with others any more.
    has_failed: bool,
    /// The node is stopping, as was said to a store that is shared.
    pub(super) is_stopping: bool,
    pub(super) leaving: Leaving,
    depart: watch::Sender<Option<Departure>>,
    pub(super) started: Timestamp,
}

impl Coordinator {
    fn begin(&mut self, begun: Begun) {
        match begun {
            Begun::Own(actions) => self.perform_moves(actions),
            Begun::Common(actions) => self.perform_sharing(actions),
        }
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
        self.say_presence();
        let now = self.now();
        if let Some((number, bytes, _)) = self.not_kept.take_if(|(.., since)| *since + KEEP_AGAIN <= now) {
            let _ = self.storage.send(Job::Keep(number, bytes));
        }
        self.at_door.retain(|_, (connection, _)| connection.link.ended().is_none());
        self.depart_when_empty();
        self.watch_inquiry();
        self.say_if_stranded();
        self.say_if_alone();
        self.note_positions();
    }

    /// The node's time in the cluster is over; the first reason stays.
    pub(super) fn depart(&self, how: Departure) {
        self.depart.send_if_modified(|departure| {
            let is_first = departure.is_none();
            departure.get_or_insert(how);
            is_first
        });
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
        if tried.is_empty() && self.holdings.is_empty() {
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
            Notice::Outdated { boot, position, why } => self.outdated(boot, position, why),
            Notice::NotLetIn(why) => {
                // Where some let it in, the others hear from them.
                if self.connected.is_empty() {
                    self.refused = Some(why);
                }
            }
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
            Notice::Sharing(event) => self.step_sharing(event),
            Notice::Left(shard) => self.left(shard),
            Notice::ShutOut(why) => self.shut_out(why),
            Notice::Kept(number) => self.step_membership(MembershipEvent::Kept(number)),
            Notice::NotKept(number, bytes) => {
                self.not_kept = Some((number, bytes, self.now()));
            }
            Notice::Asked(command, tell) => self.carry_out(Asker::Here(tell), command),
            Notice::Failed(why) => {
                self.has_failed = true;
                self.close_all();
                self.depart(Departure::Failed(why));
            }
            Notice::Stop => unreachable!("taken by the loop"),
        }
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
                Ok(exchange) => self.step_membership(MembershipEvent::Exchange { from, exchange }),
                Err(error) => close(outbound, &error),
            },
            Frame::HandOff(bytes) => {
                let Some(store) = self.bound_store(&from, outbound) else { return };
                match crate::handoff::Message::decode(&bytes) {
                    Ok((shard, transfer, message)) => {
                        self.step_mover(MoverEvent::Heard { from, store, shard, transfer, message });
                    }
                    Err(error) => close(outbound, &error),
                }
            }
            Frame::Moved(routes) => {
                let announced = routes.into_iter().map(|Route { shard, epoch, owner }| Announcement {
                    shard,
                    epoch,
                    owner,
                });
                self.step_mover(MoverEvent::Announced(announced.collect()));
            }
            Frame::LastQuestion { boot, emptied } => {
                self.answer_last(&from, outbound, LastQuestion { boot, emptied });
            }
            Frame::LastAnswer { boot, emptied, coming } => {
                if self.bound_store(&from, outbound).is_none() {
                    return;
                }
                let (question, now) = (LastQuestion { boot, emptied }, self.now());
                let answer = LastAnswer { question, coming };
                self.leaving.answered(&from, answer, lock(&self.membership).own(), now);
            }
            Frame::AskEpochs { slot, shards } => self.tell_epochs(outbound, slot, &shards),
            Frame::Epochs { slot, epochs } => self.hear_epochs(&from, slot, epochs),
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
                self.step_mover(MoverEvent::Forgotten(name));
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
                self.has_forgotten(&name);
            }
            MembershipAction::Refused(refusal) => tracing::warn!("{refusal}"),
        }
    }

    /// The view has changed: another table, and other nodes for clients to connect to.
    fn view_changed(&mut self) {
        let view = Arc::clone(self.membership().view());
        let table = view.table(self.shared.layout).map(Arc::new);
        self.step_mover(MoverEvent::Table(table));
        // Shards may go from here in a moment, and most of what their copies would wait for is done until then.
        self.shared.want_loadable.store(true, Ordering::Release);
        for client in &self.clients {
            self.tell_nodes(client);
        }
    }
}

/// Ends a connection whose frame cannot be understood.
fn close(outbound: &Outbound, why: &dyn std::fmt::Display) {
    outbound.link().close(CloseReason::Violation(why.to_string()));
}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> Self {
        io::Error::other(error)
    }
}
