//! Nodes over one store that is a few tables, with every fault between them.

use super::*;
use crate::{
    placement::Weight,
    store::{LedgerShard, NodeSays, Presence},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

mod chaos;
mod decisions;

const LEASE: Duration = Duration::from_secs(3);
const BEAT: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(100);
const SHARDS: u32 = 32;

/// A node as the store knows it.
#[derive(Debug, Clone)]
struct Known {
    name: NodeName,
    incarnation: u128,
    presence: Presence,
    lease_until: Timestamp,
    lease_since: Timestamp,
}

/// Epoch and owner of a shard.
type Row = (Epoch, Option<u128>);

/// A process.
struct Process {
    sharing: Sharing,
    /// What its kernels serve, and since which epoch.
    hosted: BTreeMap<ShardId, Epoch>,
    beats_at: Timestamp,
    presence: Presence,
    /// It is stopped in its tracks.
    is_frozen: bool,
    /// Kernels' answers that are on their way.
    later: Vec<SharingEvent>,
    /// Shards that are read again, and the rows that were found.
    reads: Vec<(ShardId, Option<Row>)>,
    alarms: Vec<String>,
}

/// A message between two nodes.
struct Letter {
    to: NodeName,
    event: SharingEvent,
}

/// One store of two servers and the nodes on it.
struct World {
    now: Timestamp,
    incarnations: u128,
    nodes: BTreeMap<NodeName, Known>,
    rows: Vec<Row>,
    processes: BTreeMap<NodeName, Process>,
    letters: Vec<Letter>,
    random: SmallRng,
    /// Out of a hundred messages and answers, so many are lost.
    loses: u32,
    nobody_hears: bool,
    /// The servers stand still.
    is_stalled: bool,
    /// Owners given or taken so far.
    moves: u64,
    takes: u64,
}

fn name(at: u32) -> NodeName {
    format!("n{at}").parse().unwrap()
}

fn server_of(shard: u32) -> u32 {
    shard % 2
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            now: Timestamp::EPOCH + Duration::from_secs(1_000),
            incarnations: 0,
            nodes: BTreeMap::new(),
            rows: vec![(Epoch(1), None); SHARDS as usize],
            processes: BTreeMap::new(),
            letters: Vec::new(),
            random: SmallRng::seed_from_u64(seed),
            loses: 0,
            nobody_hears: false,
            is_stalled: false,
            moves: 0,
            takes: 0,
        }
    }

    /// A node starts, in place of an earlier run of it.
    fn start(&mut self, at: u32) {
        let name = name(at);
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let before = self.nodes.get(&name).map(|known| known.incarnation);
        let mut owned = Vec::new();
        for (shard, row) in (0..).map(ShardId).zip(&mut self.rows) {
            if before.is_some() && row.1 == before {
                *row = (Epoch(row.0.0 + 1), Some(incarnation));
                owned.push(OwnedShard { shard, epoch: row.0, number: 0 });
            }
        }
        let (lease_until, lease_since) = (self.now + LEASE, self.now);
        let presence = Presence::Up;
        let known = Known { name: name.clone(), incarnation, presence, lease_until, lease_since };
        self.nodes.insert(name.clone(), known);
        let config = SharingConfig {
            here: name.clone(),
            incarnation,
            lease: LEASE,
            shards: Shards::new(SHARDS).unwrap(),
            server_of: (0..SHARDS).map(server_of).collect(),
            pace: rebalance::Settings { rest: Duration::from_secs(10), ..rebalance::Settings::default() },
        };
        let (sharing, actions) = Sharing::new(config, &owned, self.now);
        let process = Process {
            sharing,
            hosted: owned.iter().map(|owned| (owned.shard, owned.epoch)).collect(),
            beats_at: self.now,
            presence,
            is_frozen: false,
            later: Vec::new(),
            reads: Vec::new(),
            alarms: Vec::new(),
        };
        self.processes.insert(name.clone(), process);
        self.perform(&name, actions);
    }

    /// A node is gone, as by SIGKILL.
    fn kill(&mut self, at: u32) {
        self.processes.remove(&name(at));
    }

    fn process(&mut self, at: u32) -> &mut Process {
        self.processes.get_mut(&name(at)).expect("it runs")
    }

    fn loses(&mut self) -> bool {
        self.random.random_ratio(self.loses, 100)
    }

    fn step(&mut self, name: &NodeName, event: SharingEvent) {
        let Some(process) = self.processes.get_mut(name) else { return };
        let actions = process.sharing.step(event, self.now);
        self.perform(name, actions);
    }

    fn ledger(&self, server: u32) -> Ledger {
        let node = |known: &Known| LedgerNode {
            name: known.name.clone(),
            store: 7,
            incarnation: known.incarnation,
            says: NodeSays { address: String::new(), weight: Weight::default(), presence: known.presence },
            lives: self.now < known.lease_until,
            steady: if self.now < known.lease_until {
                self.now.since(known.lease_since)
            } else {
                Duration::ZERO
            },
        };
        let row = |(id, (epoch, owner)): (u32, &Row)| LedgerShard {
            shard: ShardId(id),
            epoch: *epoch,
            owner: *owner,
        };
        let rows = (0..).zip(&self.rows).filter(|(id, _)| server_of(*id) == server).map(row);
        Ledger {
            server,
            generation: 1,
            nodes: self.nodes.values().map(node).collect(),
            shards: rows.collect(),
        }
    }

    /// A node beats, and reads what both servers know.
    fn beat(&mut self, name: &NodeName) {
        let presence = self.processes[name].presence;
        let incarnation = self.processes[name].sharing.config.incarnation;
        let known = self.nodes.get_mut(name).expect("it has started");
        if known.incarnation != incarnation || self.is_stalled {
            return;
        }
        if known.lease_until <= self.now {
            known.lease_since = self.now;
        }
        (known.lease_until, known.presence) = (self.now + LEASE, presence);
        for server in 0..2 {
            let (ledger, took) = (self.ledger(server), Duration::from_millis(1));
            if !self.loses() {
                self.step(name, SharingEvent::Ledger { ledger, took });
            }
        }
    }

    fn lives(&self, incarnation: u128) -> bool {
        self.nodes.values().any(|known| known.incarnation == incarnation && self.now < known.lease_until)
    }

    fn perform(&mut self, name: &NodeName, actions: Vec<SharingAction>) {
        for action in actions {
            self.perform_one(name, action);
        }
    }

    fn perform_one(&mut self, name: &NodeName, action: SharingAction) {
        let incarnation = self.processes[name].sharing.config.incarnation;
        match action {
            SharingAction::Send { to, shard, transfer, message } => {
                let event = SharingEvent::Heard { from: name.clone(), store: 7, shard, transfer, message };
                if !self.nobody_hears && !self.loses() {
                    self.letters.push(Letter { to, event });
                }
            }
            SharingAction::Announce(announcement) => {
                for to in self.processes.keys().filter(|to| *to != name).cloned().collect::<Vec<_>>() {
                    if !self.nobody_hears && !self.loses() {
                        let event = SharingEvent::Announced(vec![announcement.clone()]);
                        self.letters.push(Letter { to, event });
                    }
                }
            }
            SharingAction::Order(shard, Order::Seal { transfer, to, store }) => {
                assert_eq!(store, 7);
                self.seal(name, shard, transfer, &to);
            }
            SharingAction::Order(..) | SharingAction::Routed(_) | SharingAction::Warm(..) => {}
            SharingAction::Host { shard, .. } => {
                // A load that is refused is told; one that is already hosted reads nothing.
                let row = self.rows[shard.0 as usize];
                let process = self.processes.get_mut(name).expect("it acts");
                if row.1 == Some(incarnation) {
                    process.hosted.entry(shard).or_insert(row.0);
                } else if !process.hosted.contains_key(&shard) {
                    process.later.push(SharingEvent::Left(shard));
                }
            }
            SharingAction::Lose(shard) => self.reload(name, shard),
            SharingAction::Beat(_) => self.processes.get_mut(name).expect("it acts").beats_at = self.now,
            SharingAction::Take { server, shards } => {
                let mut taken = Vec::new();
                for (shard, epoch) in shards {
                    assert_eq!(server_of(shard.0), server);
                    let (at, owner) = self.rows[shard.0 as usize];
                    if at == epoch && !owner.is_some_and(|owner| self.lives(owner)) && !self.is_stalled {
                        let epoch = Epoch(at.0 + 1);
                        self.rows[shard.0 as usize] = (epoch, Some(incarnation));
                        self.takes += u64::from(owner.is_some());
                        self.moves += 1;
                        taken.push(OwnedShard { shard, epoch, number: 0 });
                    }
                }
                let event = if self.loses() {
                    SharingEvent::NotTaken { server }
                } else {
                    SharingEvent::Taken { server, shards: taken }
                };
                self.processes.get_mut(name).expect("it acts").later.push(event);
            }
            SharingAction::Alarm(what) => {
                self.processes.get_mut(name).expect("it acts").alarms.push(what);
            }
        }
    }

    /// A kernel reads a shard again, because it was told that it may be another's.
    fn reload(&mut self, name: &NodeName, shard: ShardId) {
        let process = self.processes.get_mut(name).expect("it acts");
        if process.hosted.contains_key(&shard) {
            process.reads.push((shard, None));
        }
    }

    /// What was asked is read in one step and comes back in the next: whatever happens goes in between.
    fn read(&mut self, name: &NodeName) {
        let process = self.processes.get_mut(name).expect("it runs");
        for (shard, found) in std::mem::take(&mut process.reads) {
            match found {
                None => process.reads.push((shard, Some(self.rows[shard.0 as usize]))),
                Some(_) if !process.hosted.contains_key(&shard) => {}
                Some((epoch, owner)) if owner == Some(process.sharing.config.incarnation) => {
                    process.hosted.insert(shard, epoch);
                }
                Some(_) => {
                    process.hosted.remove(&shard);
                    process.later.push(SharingEvent::Left(shard));
                }
            }
        }
    }

    /// A kernel lets go of a shard, and its last batch comes to the store.
    fn seal(&mut self, name: &NodeName, shard: ShardId, transfer: TransferId, to: &NodeName) {
        let process = self.processes.get_mut(name).expect("it acts");
        let incarnation = process.sharing.config.incarnation;
        let Some(epoch) = process.hosted.remove(&shard) else {
            process.later.push(SharingEvent::News(shard, HandOffNews::Voided(transfer)));
            return;
        };
        process.later.push(SharingEvent::Left(shard));
        let hot = HandOffNews::Hot(transfer, vec![b"hot".to_vec()]);
        process.later.push(SharingEvent::News(shard, hot));
        let is_lost = self.loses();
        let heir =
            self.nodes.get(to).filter(|known| self.now < known.lease_until).map(|known| known.incarnation);
        let row = &mut self.rows[shard.0 as usize];
        let process = self.processes.get_mut(name).expect("it acts");
        let voided = SharingEvent::News(shard, HandOffNews::Voided(transfer));
        if *row != (epoch, Some(incarnation)) || self.is_stalled {
            process.later.push(voided);
            return;
        }
        // Written, and then the lane was lost for another reason.
        *row = (Epoch(epoch.0 + 1), heir);
        self.moves += 1;
        let sealed = HandOffNews::Sealed { transfer, epoch, number: 1 };
        process.later.push(if is_lost { voided } else { SharingEvent::News(shard, sealed) });
    }

    /// Lets some time pass.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = self.now + STEP;
            for name in self.processes.keys().cloned().collect::<Vec<_>>() {
                if self.processes[&name].is_frozen {
                    continue;
                }
                let later = std::mem::take(&mut self.processes.get_mut(&name).expect("it runs").later);
                for event in later {
                    self.step(&name, event);
                }
                self.read(&name);
                self.step(&name, SharingEvent::Tick);
                if self.processes[&name].beats_at <= self.now {
                    self.processes.get_mut(&name).expect("it runs").beats_at = self.now + BEAT;
                    self.beat(&name);
                }
            }
            for Letter { to, event } in std::mem::take(&mut self.letters) {
                if self.processes.get(&to).is_some_and(|process| !process.is_frozen) {
                    self.step(&to, event);
                }
            }
        }
    }

    /// How many shards each node serves, having checked that every shard is served by its owner and by nobody else.
    fn served(&self) -> BTreeMap<NodeName, usize> {
        for (shard, (epoch, owner)) in (0..).map(ShardId).zip(&self.rows) {
            let hosts: Vec<_> =
                self.processes.iter().filter(|(_, process)| process.hosted.contains_key(&shard)).collect();
            let [(name, process)] = hosts[..] else {
                panic!("{shard} is served by {:?}", hosts.iter().map(|(name, _)| name).collect::<Vec<_>>())
            };
            assert_eq!(Some(process.sharing.config.incarnation), *owner, "{shard} is served by {name}");
            assert_eq!(process.hosted[&shard], *epoch, "{shard} on {name}");
            assert_eq!(process.sharing.here[&shard], *epoch, "{shard} on {name}");
        }
        self.processes.iter().map(|(name, process)| (name.clone(), process.hosted.len())).collect()
    }

    /// Whether every node knows who has what.
    fn all_routes_are_right(&self) -> bool {
        let owner_of = |incarnation: u128| {
            self.nodes.values().find(|known| known.incarnation == incarnation).map(|known| &known.name)
        };
        (0..).map(ShardId).zip(&self.rows).all(|(shard, (epoch, owner))| {
            let owner = owner.and_then(owner_of).expect("every shard has an owner");
            self.processes
                .values()
                .all(|process| process.sharing.routes().get(shard) == Some((*epoch, owner)))
        })
    }
}
