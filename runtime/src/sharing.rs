//! Which shards of a shared store this node owns, takes and gives away, without I/O: what [`mover`](crate::mover) is where every
//! node has a store of its own.
//!
//! Whose a shard is says its row in the store, and nothing else does. So nothing is copied and no record waits for another:
//! a node reads [ledgers](Ledger), believes the highest epoch, and asks the store to take what has no living owner. What is
//! decided here is who asks, and when, so that shards neither stand still nor go to and fro.
//!
//! ```text
//!                    ledger: its owner is dead or nobody,
//!                    and the table names this node                 Offer, Ready
//!   of another node ───────────────────────► taken ──► here ──────────────────────► sealing ──► given
//!          ▲                                             │                             │           │
//!          └─────────────────────────────────────────────┴─────────────────────────────┴───────────┘
//!             ledger or kernel: another node has it                    durable, or the ledger tells
//! ```
//!
//! # Liveness
//! A node lives while its lease runs, by the server's clock. Every node reads the same leases, so their tables do not differ
//! for longer than a beat, and nodes that cannot hear each other go on as they are (P21). Against going to and fro:
//!
//! * an owner that is dead must be so in two ledgers, some time apart, before its shard is taken;
//! * a node whose own lease had run out, or whose beat took long, takes nothing from the dead for one lease: the server may
//!   have stood still, and then all leases have run out at once;
//! * who has come back gets shards again once its leases have followed each other for as long as one lasts;
//! * a shard that came by give or from the dead rests, as in [`rebalance`];
//! * only whom the table names takes a shard; others do after two more leases, one after the other.
//!
//! # Invariants
//! * A row of a ledger changes nothing where a higher epoch of its shard is known, of the same generation of its server, unless the next
//!   ledger does not know it either.
//! * Of one server no second take runs beside the first.
//! * A shard whose seal is on its way is left alone until the kernel has told what became of it.
//!
//! # What it is not
//! Safety. That nobody writes to a shard that another node has, and shows nothing of it, is the store's fence (P14, P23): all
//! of this could be wrong and only time would be lost. A shard that was believed to be here and is not comes back as
//! [`SharingEvent::Left`], and the next ledger decides.

mod giving;
mod ledger;
mod taking;
#[cfg(test)]
mod tests;

use crate::{
    handoff::Message,
    kernel::{HandOffNews, Order},
    placement::{Epoch, NodeName, ShardId, Shards, Table},
    rebalance::{self, Ended, Rebalance},
    router::{Announcement, Heard, Routes},
    store::{Ledger, LedgerNode, OwnedShard, TransferId},
    timestamp::Timestamp,
};
use giving::{Give, Phase};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Who decides, and for what.
#[derive(Debug, Clone)]
pub struct SharingConfig {
    /// This node.
    pub here: NodeName,
    /// This run of it.
    pub incarnation: u128,
    /// How long a lease lasts.
    pub lease: Duration,
    /// All shards.
    pub shards: Shards,
    /// The server of each shard.
    pub server_of: Vec<u32>,
    /// How fast shards are given away.
    pub pace: rebalance::Settings,
}

/// What happens.
#[derive(Debug)]
pub enum SharingEvent {
    /// A server has answered a beat.
    Ledger {
        /// With this.
        ledger: Ledger,
        /// After so long.
        took: Duration,
    },
    /// Shards were taken, as [`SharingAction::Take`] asked.
    Taken {
        /// From this server.
        server: u32,
        /// All that were.
        shards: Vec<OwnedShard>,
    },
    /// None was, as far as is known.
    NotTaken {
        /// From this server.
        server: u32,
    },
    /// Another node says something of a give.
    Heard {
        /// Who,
        from: NodeName,
        /// and the UUID that stays with its name.
        store: u128,
        /// Of which shard.
        shard: ShardId,
        /// Of which give.
        transfer: TransferId,
        /// What.
        message: Message,
    },
    /// Somebody tells who owns shards.
    Announced(Vec<Announcement>),
    /// A kernel tells of a shard that is given away.
    News(ShardId, HandOffNews),
    /// A kernel hosts a shard no longer: it is sealed, or the store has told that another node owns it.
    Left(ShardId),
    /// A node has connected, and this is what of its kinds and versions this build lacks; `None`: nothing.
    Build {
        /// The node.
        node: NodeName,
        /// In words.
        lacks: Option<String>,
    },
    /// This node leaves: its shards go as soon as may be.
    Leave,
    /// Time has passed: a few times a second.
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum SharingAction {
    /// Tell another node.
    Send {
        /// Whom.
        to: NodeName,
        /// Of which shard.
        shard: ShardId,
        /// Of which give.
        transfer: TransferId,
        /// What.
        message: Message,
    },
    /// Tell every node that this one owns a shard now.
    Announce(Announcement),
    /// A shard has another owner than was known: messages for it go there.
    Routed(ShardId),
    /// Order the shard's kernel.
    Order(ShardId, Order),
    /// Let the shard's kernel host it, if it does not yet.
    Host {
        /// The shard.
        shard: ShardId,
        /// It was taken from a node that died, perhaps of a message that is pending in it (P3).
        was_taken: bool,
    },
    /// Behind [`SharingAction::Host`]: let it load the images with these row keys.
    Warm(ShardId, Vec<Vec<u8>>),
    /// Another node owns a shard that is hosted here: let its lane find out, though nothing may be written there now.
    Lose(ShardId),
    /// Beat now: what this server knows is wanted.
    Beat(u32),
    /// Ask a server for shards that are under these epochs, once for all of them.
    Take {
        /// The server.
        server: u32,
        /// The shards.
        shards: Vec<(ShardId, Epoch)>,
    },
    /// Something is wrong that an operator must see.
    Alarm(String),
}

/// Whose a shard is, as was heard last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Nothing was heard under this epoch.
    Unknown,
    Nobody,
    Run(u128),
}

/// The newest that is known of a shard.
#[derive(Debug, Clone, Copy)]
struct Seen {
    epoch: Epoch,
    owner: Owner,
    /// Since when it is known that its owner is dead or nobody.
    orphan_since: Option<Timestamp>,
}

impl Seen {
    const NOTHING: Self = Self { epoch: Epoch(0), owner: Owner::Unknown, orphan_since: None };
}

/// An epoch that was heard of, and that is higher than what a ledger says. Epochs only rise, so one that is so in two ledgers, of which
/// the second was asked for behind the first, is of a server that is gone: of commits that were lost with it.
#[derive(Debug, Default, Clone, Copy)]
struct Doubt {
    /// The last ledger did not bear it out.
    once: Option<Epoch>,
    /// The highest that was found to be such a one. It is not believed again, whoever repeats it: ledgers tell when the shard gets there
    /// anew.
    refuted: Option<Epoch>,
}

/// One server of the store, as it was heard of last.
#[derive(Debug)]
struct Server {
    generation: u64,
    nodes: Vec<LedgerNode>,
    table: Option<Arc<Table>>,
    rebalance: Rebalance,
    /// A take is asked.
    is_taking: bool,
    /// Until then nothing is taken from the dead.
    suspended_until: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub struct Sharing {
    config: SharingConfig,
    servers: Vec<Server>,
    /// By shard.
    seen: Vec<Seen>,
    /// By shard: what ledgers do not bear out.
    doubts: Vec<Doubt>,
    /// What this node's kernels host, or were told to.
    here: BTreeMap<ShardId, Epoch>,
    gives: BTreeMap<ShardId, Give>,
    /// Gives begun since the start.
    begun: u64,
    routes: Routes,
    /// What this build lacks of the kinds and versions of other nodes, where it lacks something.
    lacks: BTreeMap<NodeName, String>,
    leaving: bool,
    actions: Vec<SharingAction>,
}

impl Sharing {
    /// Begins with the shards that this node has taken over from its own earlier run.
    pub fn new(config: SharingConfig, owned: &[OwnedShard], now: Timestamp) -> (Self, Vec<SharingAction>) {
        let servers = config.server_of.iter().max().map_or(0, |last| last + 1);
        let server = |_| Server {
            generation: 0,
            nodes: Vec::new(),
            table: None,
            rebalance: Rebalance::new(config.here.clone(), config.pace.clone()),
            is_taking: false,
            suspended_until: Timestamp::EPOCH,
        };
        let mut sharing = Self {
            servers: (0..servers).map(server).collect(),
            seen: vec![Seen::NOTHING; config.shards.count() as usize],
            doubts: vec![Doubt::default(); config.shards.count() as usize],
            here: BTreeMap::new(),
            gives: BTreeMap::new(),
            begun: 0,
            routes: Routes::new(config.shards),
            lacks: BTreeMap::new(),
            leaving: false,
            actions: Vec::new(),
            config,
        };
        for OwnedShard { shard, epoch, .. } in owned {
            sharing.believe(*shard, *epoch, Owner::Run(sharing.config.incarnation));
            sharing.here.insert(*shard, *epoch);
            sharing.rebalance(*shard).own(*shard, *epoch, Timestamp::EPOCH, now);
            let here = sharing.config.here.clone();
            sharing.learn(*shard, *epoch, &here);
        }
        let actions = std::mem::take(&mut sharing.actions);
        (sharing, actions)
    }

    /// Who owns which shard, as far as is known.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Whose leases run, and what the nodes say of themselves, as one server knows it.
    pub fn nodes(&self, server: u32) -> &[LedgerNode] {
        self.servers.get(server as usize).map_or(&[], |server| &server.nodes)
    }

    /// Whether every server was heard of, and every shard has an owner that lives.
    pub fn is_settled(&self) -> bool {
        self.seen.iter().all(|seen| matches!(seen.owner, Owner::Run(_)) && seen.orphan_since.is_none())
    }

    /// How many shards are on their way from here.
    pub fn running(&self) -> usize {
        self.gives.len()
    }

    /// How many shards are on their way from here to a node that takes no more. `None`: a table here names that node, so further
    /// ones may be offered to it.
    pub fn going_to(&self, node: &NodeName) -> Option<u64> {
        let names = |table: &Arc<Table>| table.members().iter().any(|(name, _)| name == node);
        let is_named = self.servers.iter().filter_map(|server| server.table.as_ref()).any(names);
        let going = self.gives.values().filter(|give| give.target() == node).count();
        (!is_named).then_some(going as u64)
    }

    /// Whether a shard is this node's, as far as is known.
    pub fn has(&self, shard: ShardId) -> bool {
        self.here.contains_key(&shard)
    }

    /// Whether nothing of this node's is left: what one that leaves waits for.
    pub fn is_empty(&self) -> bool {
        self.here.is_empty() && self.gives.is_empty()
    }

    /// Takes one event and returns what is to be done, in order.
    pub fn step(&mut self, event: SharingEvent, now: Timestamp) -> Vec<SharingAction> {
        match event {
            SharingEvent::Ledger { ledger, took } => self.read(ledger, took, now),
            SharingEvent::Taken { server, shards } => self.taken(server, &shards, now),
            SharingEvent::NotTaken { server } => self.not_taken(server),
            SharingEvent::Heard { from, shard, .. } if self.config.shards.count() <= shard.0 => {
                self.alarm(format!("{from} speaks of {shard}, which does not exist"));
            }
            SharingEvent::Heard { from, store, shard, transfer, message } => {
                self.hear((&from, store), shard, transfer, message, now);
            }
            SharingEvent::Announced(announcements) => {
                for Announcement { shard, epoch, owner } in announcements {
                    if self.is_refuted(shard, epoch) {
                        continue;
                    }
                    self.learn(shard, epoch, &owner);
                    if self.here.get(&shard).is_some_and(|ours| *ours < epoch) {
                        self.ask_ledger(shard);
                    }
                }
            }
            SharingEvent::News(shard, news) => self.news(shard, news, now),
            SharingEvent::Left(shard) => self.left(shard, now),
            SharingEvent::Build { node, lacks: Some(lacks) } => drop(self.lacks.insert(node, lacks)),
            SharingEvent::Build { node, lacks: None } => drop(self.lacks.remove(&node)),
            SharingEvent::Leave => {
                self.leaving = true;
                self.servers.iter_mut().for_each(|server| server.rebalance.leave());
            }
            SharingEvent::Tick => {}
        }
        self.offer(now);
        std::mem::take(&mut self.actions)
    }

    /// The kernel hosts a shard no longer. Unless that was for a seal, the store names another owner: which one, and since when, is
    /// in the next ledger, and what was believed until now is not to stand against it.
    fn left(&mut self, shard: ShardId, now: Timestamp) {
        if matches!(self.seal_of(shard), Some(Phase::Sealing | Phase::Unsure)) {
            return;
        }
        self.seen[shard.0 as usize] = Seen::NOTHING;
        self.let_go(shard, now);
        self.ask_ledger(shard);
    }

    /// The shard is another node's.
    fn let_go(&mut self, shard: ShardId, now: Timestamp) {
        self.gives.remove(&shard);
        if let Some(epoch) = self.here.remove(&shard) {
            self.rebalance(shard).ended(shard, epoch, Ended::Moved, now);
        }
    }

    fn believe(&mut self, shard: ShardId, epoch: Epoch, owner: Owner) {
        self.seen[shard.0 as usize] = Seen { epoch, owner, orphan_since: None };
    }

    /// A shard is this node's, and its kernel is to serve it.
    fn host(&mut self, shard: ShardId, epoch: Epoch, came_at: Timestamp, was_taken: bool, now: Timestamp) {
        self.believe(shard, epoch, Owner::Run(self.config.incarnation));
        self.here.insert(shard, epoch);
        self.rebalance(shard).own(shard, epoch, came_at, now);
        let owner = self.config.here.clone();
        self.learn(shard, epoch, &owner);
        self.actions.push(SharingAction::Host { shard, was_taken });
        self.actions.push(SharingAction::Announce(Announcement { shard, epoch, owner }));
    }

    /// Hears of an owner.
    fn learn(&mut self, shard: ShardId, epoch: Epoch, owner: &NodeName) {
        match self.routes.learn(shard, epoch, owner) {
            Heard::Newer => self.actions.push(SharingAction::Routed(shard)),
            Heard::Known | Heard::Older => {}
            Heard::Conflict => {
                let known = self.routes.get(shard).map_or_else(String::new, |(_, known)| known.to_string());
                self.alarm(format!("{shard} is owned by {known} and by {owner}, both under {epoch}"));
            }
            Heard::NoShard => self.alarm(format!("{owner} says it owns {shard}, which does not exist")),
        }
    }

    fn server_of(&self, shard: ShardId) -> u32 {
        self.config.server_of[shard.0 as usize]
    }

    fn server(&self, shard: ShardId) -> &Server {
        &self.servers[self.server_of(shard) as usize]
    }

    fn rebalance(&mut self, shard: ShardId) -> &mut Rebalance {
        let server = self.server_of(shard);
        &mut self.servers[server as usize].rebalance
    }

    fn ask_ledger(&mut self, shard: ShardId) {
        let beat = SharingAction::Beat(self.server_of(shard));
        if !self.actions.contains(&beat) {
            self.actions.push(beat);
        }
    }

    fn alarm(&mut self, what: String) {
        self.actions.push(SharingAction::Alarm(what));
    }
}
