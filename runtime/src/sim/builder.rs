//! Setting up a simulation: what the test fixes, and what the seed picks for the rest.

use super::{
    FaultClass, Faults, Moves, Random, Seen, Sim, deal,
    machine::{Machine, store_of},
    network::Network,
    oracle::Owners,
    schedule::Schedule,
    servers::Shared,
    storage::Storage,
    trace::{self, Trace},
};
use crate::{
    entity::{Entity, KindOf},
    kinds::Kinds,
    limits::Limits,
    placement::{ShardId, Shards},
    store::embedded::Founding,
};
use std::{sync::Arc, time::Duration};

/// Most nodes of a simulation.
const NODES_MAX: usize = 9;

/// Sets up a [`Sim`].
pub struct Builder {
    seed: u64,
    random: Random,
    kinds: Kinds,
    limits: Limits,
    shards: u32,
    workers: usize,
    nodes: usize,
    moves: Moves,
    /// How many nodes are there from the start, where they find each other.
    present: Option<usize>,
    /// Who owns a shard at the start; `None`: the first node has all.
    owner: Option<Box<dyn Fn(ShardId) -> usize>>,
    store: StoreChoice,
    faults: Faults,
    sink: Option<trace::Sink>,
}

#[derive(Clone, Copy)]
enum StoreChoice {
    Memory { lanes: u32, lagging: bool },
    Embedded { segment_bytes: u64, segments: u64 },
    Shared { servers: u32, lanes: u32 },
}

impl Builder {
    pub(super) fn by_seed(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let limits = limits_by_seed(&mut random);
        let faults = Faults::by_seed(&mut random);
        Self {
            seed,
            random,
            kinds: Kinds::default(),
            limits,
            shards: 4,
            workers: 2,
            nodes: 1,
            moves: Moves::No,
            present: None,
            owner: None,
            store: StoreChoice::Memory { lanes: 1, lagging: false },
            faults,
            sink: None,
        }
    }

    /// Registers a kind of entity.
    ///
    /// # Panics
    /// One of its name is registered.
    pub fn entity<E: Entity>(mut self) -> Self {
        assert!(self.kinds.register(Box::new(KindOf::<E>::new())), "kind `{}` is registered twice", E::KIND);
        self
    }

    /// How many shards there are, a power of two. Default 4.
    pub fn shards(mut self, shards: u32) -> Self {
        self.shards = shards;
        self
    }

    /// How many workers each node has. Default 2.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// How many nodes there are, 1 to 9. Default 1. The first founds the cluster and owns all shards, unless they are
    /// [dealt](Builder::dealt).
    ///
    /// # Panics
    /// None, or more than nine.
    pub fn nodes(mut self, nodes: usize) -> Self {
        assert!((1..=NODES_MAX).contains(&nodes), "a simulation has 1 to {NODES_MAX} nodes");
        self.nodes = nodes;
        self
    }

    /// Which node owns a shard at the start, numbered from 0. The first hands it over before anything is in it.
    pub fn dealt(mut self, owner: impl Fn(ShardId) -> usize + 'static) -> Self {
        self.owner = Some(Box::new(owner));
        self
    }

    /// On a memory store whose lanes fail independently. The default, with one lane.
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.store = StoreChoice::Memory { lanes, lagging: false };
        self
    }

    /// As [`Builder::lanes`], with what is committed becoming loadable only by and by.
    pub fn lagging_lanes(mut self, lanes: u32) -> Self {
        self.store = StoreChoice::Memory { lanes, lagging: true };
        self
    }

    /// On the embedded store, whose disk loses what was not synced.
    pub fn embedded(mut self) -> Self {
        self.store = StoreChoice::Embedded { segment_bytes: 256 << 10, segments: 6 };
        self
    }

    /// On a store that all nodes share, which lies on so many servers with so many lanes each. Shards go to whom the leases name, and nodes
    /// leave and come back. That they do, and that servers do not answer, are faults, which are among those of every seed unless
    /// [`Builder::faults`] or [`Builder::calm`] comes behind this.
    pub fn shared(mut self, servers: u32, lanes: u32) -> Self {
        self.store = StoreChoice::Shared { servers, lanes };
        self.moves = Moves::ByLeases;
        self.faults.add(FaultClass::Server);
        self
    }

    /// As [`Builder::shared`], and a standby that lags becomes a server now and then: acknowledged commits are lost.
    pub fn shared_and_lagging(self, servers: u32, lanes: u32) -> Self {
        let mut builder = self.shared(servers, lanes);
        builder.faults.add(FaultClass::Promotion);
        builder
    }

    /// The bounds. Default: small ones, picked by the seed.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Changes some of the bounds.
    pub fn with_limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// The faults. Default: picked by the seed.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// No faults but those asked for.
    pub fn calm(self) -> Self {
        self.faults(Faults::none())
    }

    /// Gives a line for everything that happens, when it happens.
    pub fn traced(mut self, sink: impl FnMut(&str) + 'static) -> Self {
        self.sink = Some(Box::new(sink));
        self
    }

    /// Lets nodes join and leave the view while it runs, and shards move where it then names them.
    pub fn moving(mut self) -> Self {
        self.moves = Moves::ByView;
        self
    }

    /// Lets the nodes find each other by membership: so many are there from the start, the others join, all of them may leave and come
    /// back, and shards move where the nodes' own views then name them. That they come and go is a fault, which is among those of every seed
    /// unless [`Builder::faults`] or [`Builder::calm`] comes behind this.
    ///
    /// # Panics
    /// None is there from the start, or more than there are.
    pub fn membership(mut self, present: usize) -> Self {
        assert!((1..=self.nodes).contains(&present), "of {} nodes {present} cannot be there", self.nodes);
        (self.moves, self.present) = (Moves::ByMembers, Some(present));
        self.faults.add(FaultClass::View);
        self
    }

    /// Starts the nodes and lets them serve.
    ///
    /// # Panics
    /// The number of shards is not a power of two, or a shard is dealt to a node that is not there.
    pub fn start(mut self) -> Sim {
        let random = &mut self.random;
        let layout = Shards::new(self.shards).expect("the number of shards is a power of two");
        let shared = match self.store {
            StoreChoice::Shared { servers, lanes } => {
                let (cluster, lease) = (u128::from(self.seed) + 1, random.pick(&[200, 600, 2_000]));
                Some(Shared::new(cluster, layout, servers, lanes, Duration::from_millis(lease)))
            }
            StoreChoice::Memory { .. } | StoreChoice::Embedded { .. } => None,
        };
        let mut machines: Vec<Machine> = (0..self.nodes)
            .map(|at| {
                let (cluster, store) = (u128::from(self.seed) + 1, store_of(at));
                let founding = match at {
                    0 => Founding::founder(cluster, store, layout),
                    _ => Founding::joined(cluster, store, layout),
                };
                let storage = match self.store {
                    StoreChoice::Memory { lanes, lagging } => Storage::memory(&founding, lanes, lagging),
                    StoreChoice::Embedded { segment_bytes, segments } => {
                        Storage::embedded(founding, random.draw(), segment_bytes, segments)
                    }
                    StoreChoice::Shared { .. } => {
                        Storage::shared(&shared.as_ref().expect("just made").servers)
                    }
                };
                let mut machine = Machine::new(at, storage);
                machine.is_away = self.present.is_some_and(|present| present <= at);
                machine
            })
            .collect();
        if self.present.is_some() || shared.is_some() {
            for machine in &mut machines {
                machine.weight = random.pick(&[1, 1, 2, 3]);
            }
        }
        if let Some(owner) = &self.owner {
            deal::deal(&mut machines, layout, owner);
        }
        let mut trace = Trace::new();
        if let Some(sink) = self.sink {
            trace.write_to(sink);
        }
        let mut sim = Sim {
            seed: self.seed,
            now: 0,
            schedule: Schedule::new(),
            trace,
            seen: Seen::default(),
            kinds: Arc::new(self.kinds),
            limits: self.limits,
            layout,
            workers: self.workers,
            faults: self.faults,
            healed: false,
            network: Network::new(machines.len()),
            members: vec![self.moves == Moves::ByView; machines.len()],
            moves: self.moves,
            machines,
            owners: Owners::new(layout),
            shared,
            callers: Vec::new(),
            calls: Vec::new(),
            open_calls: 0,
            feeds: Vec::new(),
            tick_every: random.pick(&[10_000, 25_000, 50_000]),
            run_pause: random.pick(&[10, 200, 2_000]),
            commit_pause: random.pick(&[100, 2_000, 10_000]),
            load_pause: random.pick(&[100, 2_000, 20_000]),
            transit_pause: random.pick(&[10, 1_000, 10_000]),
            maintain_every: random.pick(&[10_000, 100_000, 1_000_000]),
            announce_every: random.pick(&[20_000, 200_000, 1_000_000]),
            restart_pause: random.pick(&[2_000, 200_000, 1_000_000]),
            crash_cuts_power: random.chance(700),
            random: self.random,
        };
        for at in (0..sim.machines.len()).filter(|at| self.present.is_none_or(|present| *at < present)) {
            sim.boot(at);
        }
        if !sim.faults.classes.is_empty() {
            sim.plan_fault();
        }
        sim
    }
}

/// Small bounds, so that every one is met: the seed picks how small.
fn limits_by_seed(random: &mut Random) -> Limits {
    let mut limits = Limits {
        message_len_max: 4 << 10,
        state_len_max: 32 << 10,
        turn_len_max: 16 << 10,
        resend_after: Duration::from_millis(random.pick(&[50, 200, 1_000])),
        trim_after: Duration::from_millis(random.pick(&[50, 200, 1_000])),
        retry_after: Duration::from_millis(random.pick(&[5, 20, 100])),
        failing_for_max: Duration::from_millis(random.pick(&[0, 50, 1_000])),
        ..Limits::default()
    };
    limits.mailbox_len_max = random.pick(&[1, 4, 64, 1_024]);
    limits.turns_in_row_max = random.pick(&[1, 2, 64]);
    limits.intake_bytes_max = random.pick(&[1 << 10, 16 << 10, 16 << 20]);
    limits.batch_len = random.pick(&[100, 1 << 10, 8 << 10]);
    limits.undurable_bytes_max = random.pick(&[1, 4 << 10, 1 << 20]);
    limits.stream_window = random.pick(&[1, 3, 64]);
    limits.outbox_bytes_max = random.pick(&[500, 64 << 10, 16 << 20]);
    limits.outbox_memory_max = random.pick(&[1, 4 << 10, 16 << 20]);
    limits.activation_bytes_max = random.pick(&[3 << 10, 16 << 10, 16 << 20]);
    limits.idle_after = Duration::from_secs(random.pick(&[1, 600]));
    limits.replies_max = random.pick(&[24, 65_536]);
    limits.reply_bytes_max = random.pick(&[100, 64 << 20]);
    limits.reply_retention = Duration::from_mins(1);
    limits.waiting_len_max = random.pick(&[2, 16_384]);
    limits.tries_max = random.pick(&[2, 6]);
    limits
}
