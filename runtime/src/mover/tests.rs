//! Movers over real stores: nodes join, leave, crash and disagree, messages are lost, doubled and late, and every shard ends
//! with all its rows where the table names, owned once.

mod by_hand;

use super::{Mover, MoverAction, MoverConfig, MoverEvent};
use crate::{
    handoff::{HandOffLimits, Message, Transfer},
    kernel::{HandOffNews, Order},
    load,
    placement::{Epoch, NodeName, ShardId, Shards, Table, Weight},
    rebalance,
    router::Announcement,
    sim::Random,
    store::{
        Batch, Founding, LaneId, Ownership, OwnershipRecord, Store, TransferId, batch, memory::MemoryStore,
    },
    timestamp::Timestamp,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const SHARDS: u32 = 16;

fn name(node: usize) -> NodeName {
    format!("n{node}").parse().unwrap()
}

fn store_of(node: usize) -> u128 {
    node as u128 + 1
}

struct Node {
    store: MemoryStore,
    mover: Mover,
    lane: Box<dyn crate::store::Lane>,
    boot: u64,
    /// Shards whose sections its kernels give.
    gives: BTreeMap<ShardId, TransferId>,
}

struct World {
    random: Random,
    now: Timestamp,
    nodes: Vec<Node>,
    /// To whom, when, what.
    network: Vec<(usize, Timestamp, MoverEvent)>,
    members: Vec<usize>,
    healed: bool,
    moves: u32,
    voids: u32,
}

fn shards() -> Shards {
    Shards::new(SHARDS).unwrap()
}

impl World {
    fn new(seed: u64, nodes: usize) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            now: Timestamp::from_millis(1_000),
            nodes: Vec::new(),
            network: Vec::new(),
            members: vec![0],
            healed: false,
            moves: 0,
            voids: 0,
        };
        for node in 0..nodes {
            let store = store_of(node);
            let founding = if node == 0 {
                Founding::founder(1, store, shards())
            } else {
                Founding::joined(1, store, shards())
            };
            let store = MemoryStore::founded(&founding, 1);
            world.start(node, store, 1);
        }
        // Something to carry: three rows a shard.
        for shard in shards().iter() {
            let mut rows = Batch::new();
            rows.section(shard, Epoch(1), 1, |out| {
                (0..3_u8).for_each(|row| batch::put(&[&[0xf0, row]], &[&shard.0.to_le_bytes()], out));
            });
            world.nodes[0].lane.commit(&[rows]).unwrap();
        }
        world
    }

    fn start(&mut self, node: usize, store: MemoryStore, boot: u64) {
        let pace = rebalance::Settings { rest: Duration::from_secs(5), ..rebalance::Settings::default() };
        let config = MoverConfig {
            here: name(node),
            store: store_of(node),
            boot,
            shards: shards(),
            limits: HandOffLimits { chunk_bytes: 8, ..HandOffLimits::default() },
            pace,
            takes_max: 4,
        };
        let (mover, actions) = Mover::new(config, store.ownership().unwrap(), self.now);
        let lane = store.open_lane(LaneId(0));
        let started = Node { store, mover, lane, boot, gives: BTreeMap::new() };
        if node < self.nodes.len() {
            self.nodes[node] = started;
        } else {
            self.nodes.push(started);
        }
        self.perform(node, actions);
        self.table(node);
    }

    /// The node hears of the present view.
    fn table(&mut self, node: usize) {
        let members: BTreeMap<_, _> =
            self.members.iter().map(|member| (name(*member), Weight::default())).collect();
        let table = Table::new(&members, shards()).map(Arc::new);
        self.event(node, MoverEvent::Table(table));
    }

    fn event(&mut self, node: usize, event: MoverEvent) {
        let actions = self.nodes[node].mover.step(event, self.now);
        self.perform(node, actions);
    }

    /// A word of the node's own ring: late, but never lost while the node lives.
    fn tell(&mut self, node: usize, event: MoverEvent) {
        let due = self.now + Duration::from_millis(self.random.below(30));
        self.network.push((node, due, event));
    }

    fn send(&mut self, to: usize, event: impl Fn() -> MoverEvent) {
        let copies = match self.random.below(100) {
            lost if lost < 10 && !self.healed => 0,
            doubled if doubled < 20 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let late = if self.random.chance(20) { 3_000 } else { 20 };
            let due = self.now + Duration::from_millis(self.random.below(late));
            self.network.push((to, due, event()));
        }
    }

    fn commit(&mut self, node: usize, shard: ShardId, epoch: Epoch, number: u64, record: &OwnershipRecord) {
        let mut batch = Batch::new();
        batch.section(shard, epoch, number, |out| batch::own(record, out));
        self.nodes[node].lane.commit(&[batch]).unwrap();
    }

    /// The memory of all a node's shards is lost.
    fn void(&mut self, node: usize) {
        self.voids += self.nodes[node].gives.len() as u32;
        for (shard, transfer) in std::mem::take(&mut self.nodes[node].gives) {
            self.tell(node, MoverEvent::News(shard, HandOffNews::Voided(transfer)));
        }
    }

    fn order(&mut self, node: usize, shard: ShardId, order: Order) {
        let (is_lost, is_written) = (!self.healed && self.random.chance(60), self.random.chance(500));
        let news = match order {
            Order::Give(transfer) if is_lost => HandOffNews::Voided(transfer),
            Order::Give(transfer) => {
                self.nodes[node].gives.insert(shard, transfer);
                HandOffNews::CopyFrom(transfer)
            }
            Order::StopGiving(transfer) => {
                self.nodes[node].gives.retain(|_, gives| *gives != transfer);
                return;
            }
            Order::Seal { transfer, .. } if self.nodes[node].gives.get(&shard) != Some(&transfer) => {
                HandOffNews::Voided(transfer)
            }
            Order::Seal { transfer, .. } if is_lost && !is_written => {
                self.nodes[node].gives.remove(&shard);
                HandOffNews::Voided(transfer)
            }
            Order::Seal { transfer, to, store } => {
                self.nodes[node].gives.remove(&shard);
                let owned = self.nodes[node].store.owned().unwrap();
                let owned = owned.into_iter().find(|owned| owned.shard == shard).expect("it is owned here");
                let (epoch, number) = (owned.epoch, owned.number + 1);
                let hot = HandOffNews::Hot(transfer, vec![b"hot".to_vec()]);
                self.tell(node, MoverEvent::News(shard, hot));
                self.commit(node, shard, epoch, number, &OwnershipRecord::Seal { transfer, to, store });
                // It was written, and then the lane was void.
                if is_lost {
                    HandOffNews::Voided(transfer)
                } else {
                    HandOffNews::Sealed { transfer, epoch, number }
                }
            }
            Order::Write {
                record: OwnershipRecord::Accept { transfer, .. } | OwnershipRecord::Moved { transfer, .. },
                ..
            } if is_lost && !is_written => HandOffNews::Voided(transfer),
            Order::Write { epoch, number, record } => {
                self.moves += u32::from(matches!(record, OwnershipRecord::Accept { .. }));
                self.commit(node, shard, epoch, number, &record);
                let news = HandOffNews::Written(record);
                if is_lost { HandOffNews::Voided(news.transfer()) } else { news }
            }
        };
        self.tell(node, MoverEvent::News(shard, news));
    }

    fn perform(&mut self, node: usize, actions: Vec<MoverAction>) {
        for action in actions {
            match action {
                MoverAction::Send { to, store, shard, transfer, message } => {
                    let to = to.as_str()[1..].parse().unwrap();
                    assert!(store.is_none_or(|store| store == store_of(to)));
                    let from = name(node);
                    self.send(to, || MoverEvent::Heard {
                        from: from.clone(),
                        store: store_of(node),
                        shard,
                        transfer,
                        message: message.clone(),
                    });
                }
                MoverAction::Announce(announcement) => self.announce(&[announcement]),
                MoverAction::Order(shard, order) => self.order(node, shard, order),
                MoverAction::ReadRows { shard, epoch, transfer, attempt, from, bytes } => {
                    let read = load::rows_to_copy(&self.nodes[node].store, shard, epoch, &from, bytes);
                    let (rows, next) = read.expect("it is owned or sealed");
                    self.tell(node, MoverEvent::RowsRead { shard, transfer, attempt, rows, next });
                }
                MoverAction::Clear { shard, epoch, transfer, place } => {
                    self.nodes[node].store.begin_staging(shard, epoch, transfer).unwrap();
                    self.tell(node, MoverEvent::Cleared { shard, place });
                }
                MoverAction::Stage { shard, epoch, transfer, place, sections } => {
                    let staged = load::stage(&self.nodes[node].store, shard, epoch, transfer, &sections);
                    let event = match staged {
                        Ok(()) => MoverEvent::Staged { shard, place },
                        // Another hand-off of the shard was offered meanwhile.
                        Err(error) => MoverEvent::StagingFailed { shard, place, why: error.to_string() },
                    };
                    self.tell(node, event);
                }
                MoverAction::Sweep(shard, epoch, transfer) => {
                    self.nodes[node].store.sweep_staging(shard, epoch, transfer).unwrap();
                }
                MoverAction::ReadOwnership { shard, read } => {
                    let all = self.nodes[node].store.ownership().unwrap();
                    let found = all.into_iter().find(|(other, _)| *other == shard);
                    let ownership = found.map_or(Ownership::Foreign, |(_, ownership)| ownership);
                    self.tell(node, MoverEvent::Ownership { shard, read, ownership });
                }
                MoverAction::Alarm(what) => panic!("n{node}: {what}"),
                MoverAction::Warm(_, images) => assert_eq!(images, [b"hot"]),
                MoverAction::Host(_) | MoverAction::Routed(_) | MoverAction::Reopened(_) => {}
            }
        }
    }

    fn announce(&mut self, announcements: &[Announcement]) {
        for node in 0..self.nodes.len() {
            self.send(node, || MoverEvent::Announced(announcements.to_vec()));
        }
    }

    /// How many stores own each shard.
    fn owners(&self) -> BTreeMap<ShardId, Vec<usize>> {
        let mut owners: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        for (node, Node { store, .. }) in self.nodes.iter().enumerate() {
            for owned in store.owned().unwrap() {
                owners.entry(owned.shard).or_default().push(node);
            }
        }
        owners
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(10);
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.network).into_iter().partition(|(_, due, _)| *due <= self.now);
        self.network = later;
        for (node, _, event) in due {
            self.event(node, event);
        }
        let node = self.random.below(self.nodes.len() as u64) as usize;
        self.event(node, MoverEvent::Tick);
        if !self.healed && self.random.chance(60) {
            self.void(node);
        }
        if !self.healed && self.random.chance(6) {
            // It starts again on what its store has; what was on its way within it is gone, what others sent is not.
            let (store, boot) = (self.nodes[node].store.restart(), self.nodes[node].boot + 1);
            self.network.retain(|(to, _, event)| {
                *to != node || matches!(event, MoverEvent::Heard { .. } | MoverEvent::Announced(_))
            });
            self.start(node, store, boot);
        }
        assert!(self.owners().values().all(|owners| owners.len() <= 1), "{:?}", self.owners());
    }

    fn change_members(&mut self, members: Vec<usize>) {
        self.members = members;
        for node in 0..self.nodes.len() {
            // Some hear of it late; a later change finds them.
            if self.healed || !self.random.chance(200) {
                self.table(node);
            }
        }
    }

    fn settle(&mut self) {
        self.healed = true;
        self.change_members(self.members.clone());
        for _ in 0..20_000 {
            self.step();
            let table: BTreeMap<_, _> =
                self.members.iter().map(|member| (name(*member), Weight::default())).collect();
            let table = Table::new(&table, shards()).unwrap();
            let owners = self.owners();
            let is_there = |shard: ShardId| {
                owners.get(&shard).is_some_and(|owners| name(owners[0]) == *table.owner(shard))
            };
            let is_quiet = self.nodes.iter().all(|node| node.mover.running() == (0, 0));
            if shards().iter().all(is_there) && is_quiet {
                return;
            }
        }
        let running: Vec<_> =
            self.nodes.iter().map(|node| (&node.mover.sources, &node.mover.targets)).collect();
        panic!("not settled: {:?}, {running:?}", self.owners());
    }

    fn assert_whole(&self) {
        for shard in shards().iter() {
            let node = self.owners()[&shard][0];
            let store = &self.nodes[node].store;
            let owned = store.owned().unwrap().into_iter().find(|owned| owned.shard == shard).unwrap();
            let mut rows = 0;
            let mut visit = |_: &[u8], value: &[u8]| {
                assert_eq!(value, shard.0.to_le_bytes());
                rows += 1;
                true
            };
            store.load_rows(shard, owned.epoch, &[]..&[0xff], &mut visit).unwrap();
            assert_eq!(rows, 3, "{shard} has lost rows on its way");
        }
    }
}

#[test]
fn shards_go_where_the_table_names_through_joins_leaves_and_crashes() {
    let (mut moves, mut voids) = (0, 0);
    for seed in 0..40 {
        let mut world = World::new(seed, 4);
        for _ in 0..6 {
            let mut members: Vec<usize> = (0..4).filter(|_| world.random.chance(600)).collect();
            if members.is_empty() {
                members.push(0);
            }
            world.change_members(members);
            for _ in 0..world.random.below(900) {
                world.step();
            }
        }
        world.settle();
        world.assert_whole();
        moves += world.moves;
        voids += world.voids;
    }
    assert!(40 * 10 < moves && 40 < voids, "{moves} {voids}");
}

#[test]
fn views_that_differ_for_ever_move_nothing_between_them() {
    let mut world = World::new(1, 2);
    world.healed = true;
    // The first believes in both, the second in itself alone.
    world.members = vec![0, 1];
    world.table(0);
    world.members = vec![1];
    world.table(1);
    for _ in 0..3_000 {
        world.step();
    }
    assert_eq!(world.moves, 0);
}

#[test]
fn a_node_that_leaves_ends_empty() {
    let mut world = World::new(2, 2);
    world.healed = true;
    world.change_members(vec![1]);
    world.event(0, MoverEvent::Leave);
    for _ in 0..3_000 {
        world.step();
    }
    assert!(world.nodes[0].mover.is_empty());
    assert_eq!(world.nodes[1].store.owned().unwrap().len(), SHARDS as usize);
    world.assert_whole();
}

#[test]
fn what_is_said_of_no_shard_or_by_a_stranger_changes_nothing() {
    let mut world = World::new(3, 2);
    world.healed = true;
    world.change_members(vec![0, 1]);
    let transfer = |shard, source: usize| Transfer {
        id: TransferId(1),
        shard: ShardId(shard),
        epoch: Epoch(2),
        source: name(source),
        target: name(1),
    };
    let offer = |shard, source, from| {
        let transfer = transfer(shard, source);
        let message = Message::Offer { transfer, attempt: 1, table: 0, is_sealed: true };
        MoverEvent::Heard {
            from: name(from),
            store: store_of(from),
            shard: ShardId(shard),
            transfer: TransferId(1),
            message,
        }
    };
    let mut said = |event| world.nodes[1].mover.step(event, world.now);
    assert!(matches!(&said(offer(SHARDS, 0, 0))[..], [MoverAction::Alarm(_)]));
    assert_eq!(said(offer(0, 0, 7)), [], "offered by another than its source");
    let of_nothing = |message| MoverEvent::Heard {
        from: name(0),
        store: store_of(0),
        shard: ShardId(1),
        transfer: TransferId(9),
        message,
    };
    assert_eq!(said(of_nothing(Message::Accepted)), []);
    assert_eq!(said(of_nothing(Message::Staged { attempt: 1, place: 1, through: u64::MAX })), []);
    assert_eq!(said(of_nothing(Message::Withdrawn)), []);
    assert_eq!(world.nodes[1].mover.running(), (0, 0));
}
