use super::*;
use crate::{
    activation::Activations,
    kinds::Kinds,
    limits::Limits,
    node::{Front, Intake, LaneQueue, Links},
    placement::{Shards, Weight},
    store::{
        LaneId, NodeSays, Presence,
        memory::{Servers, SharedMemory},
    },
};
use std::sync::{OnceLock, atomic::AtomicBool};

const LEASE: Duration = Duration::from_secs(3);
const PART: OutboxPart = OutboxPart { len_max: 100, bytes_max: 1 << 20 };

fn says() -> NodeSays {
    NodeSays { address: "localhost:1".into(), weight: Weight::default(), presence: Presence::Up }
}

/// A run that owns what nobody has, of four shards on two servers.
fn open(servers: &Servers, name: &str) -> SharedMemory {
    let run = servers.open(&name.parse().unwrap(), &says());
    for server in 0..2 {
        let ledger = run.beat(server, &says()).unwrap();
        let shards: Vec<_> = ledger.shards.iter().map(|row| (row.shard, row.epoch)).collect();
        run.take(server, &shards).unwrap();
    }
    run
}

fn servers() -> Servers {
    Servers::found(1, Shards::new(4).unwrap(), (2, 1), LEASE, 9 * LEASE)
}

/// A node without threads, of one worker.
fn node(store: SharedMemory) -> Shared {
    let layout = store.shards();
    let intakes = vec![Arc::new(Intake::new(store.lanes()))];
    Shared {
        front: Arc::new(Front::new(Limits::default(), Links::alone(layout), layout, intakes)),
        kinds: Arc::new(Kinds::default()),
        lanes: (0..store.lanes()).map(|lane| Arc::new(LaneQueue::new(LaneId(lane)))).collect(),
        gauges: vec![Arc::default()],
        suspects: None,
        loader: Loader::new(&store),
        store: Arc::new(store),
        cluster: OnceLock::new(),
        ended: AtomicBool::new(false),
        want_loadable: AtomicBool::new(false),
    }
}

/// Does what one server is asked for now. What the worker is told, and how many jobs are left to do later.
fn work(node: &Shared, server: usize) -> (Vec<Event>, usize) {
    let queue = &node.loader.queues[server];
    let jobs = std::mem::take(&mut queue.jobs().queue);
    let mut later = 0;
    for job in jobs {
        match run(node, queue, job) {
            Ok(()) => {}
            Err(Fault::Later(..)) => later += 1,
            Err(Fault::Fenced(shard)) => panic!("the lane of {shard} would be void for a move as well"),
            Err(Fault::Fatal(error)) => panic!("{error}"),
        }
    }
    let mut told = Vec::new();
    node.intakes[0].take(&mut told);
    (told, later)
}

fn ticket(store: &dyn Store, shard: u32, resets: u64) -> ImageTicket {
    let shard = ShardId(shard);
    let epoch = store.owned_shard(shard).unwrap().unwrap().epoch;
    let slot = Activations::default().insert(0, crate::activation::KindIndex(0), "key", shard);
    ImageTicket { key: ImageKey { shard, epoch, key: vec![0xf0] }, slot, resets }
}

#[test]
fn a_shard_that_another_owner_has_is_lost_and_stops_no_node() {
    let servers = servers();
    let node = node(open(&servers, "a"));
    node.loader.shard(0, ShardId(0), PART, 3);
    assert!(matches!(work(&node, 0).0[..], [Event::ShardLoaded { resets: 3, .. }]));
    servers.pass(LEASE);
    open(&servers, "b");
    node.loader.shard(0, ShardId(0), PART, 4);
    assert!(matches!(work(&node, 0).0[..], [Event::Lost { shard: ShardId(0), resets: 4 }]));
}

#[test]
fn a_refused_image_is_told_to_its_kernel_and_the_others_are_read() {
    let servers = servers();
    let a = open(&servers, "a");
    let tickets: Vec<_> = [0, 2].map(|shard| ticket(&a, shard, u64::from(shard))).into();
    let outbox = OutboxTicket {
        source: ShardId(0),
        epoch: tickets[0].key.epoch,
        target: ShardId(1),
        from: 1,
        part: PART,
        resets: 7,
    };
    let node = node(a);
    servers.pass(LEASE);
    let b = servers.open(&"b".parse().unwrap(), &says());
    assert_eq!(b.take(0, &[(ShardId(0), outbox.epoch)]).unwrap().len(), 1);
    node.loader.images(0, tickets);
    node.loader.outbox(0, outbox);
    let (told, later) = work(&node, 0);
    let [Event::Lost { shard: ShardId(0), resets: 0 }, Event::ImagesLoaded(images), lost] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(images.iter().map(|(ticket, _)| ticket.key.shard).collect::<Vec<_>>(), [ShardId(2)]);
    assert!(matches!(lost, Event::Lost { shard: ShardId(0), resets: 7 }));
    assert_eq!(later, 0);
}

#[test]
fn what_lies_on_a_server_that_is_away_waits_and_nothing_else_does() {
    let servers = servers();
    let a = open(&servers, "a");
    let tickets: Vec<_> = (0..4).map(|shard| ticket(&a, shard, 0)).collect();
    let node = node(a);
    servers.set_away(1, true);
    node.loader.images(0, tickets);
    node.loader.shard(0, ShardId(1), PART, 0);
    node.loader.shard(0, ShardId(2), PART, 0);
    let (told, later) = work(&node, 0);
    let [Event::ImagesLoaded(images), Event::ShardLoaded { .. }] = &told[..] else { panic!("{told:?}") };
    assert_eq!(images.iter().map(|(ticket, _)| ticket.key.shard.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(later, 0);
    let (told, later) = work(&node, 1);
    assert!(told.is_empty(), "{told:?}");
    assert_eq!(later, 2);
}
