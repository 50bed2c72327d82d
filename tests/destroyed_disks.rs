//! A node's disk is gone for good, with shards on their way to it: what was sealed for it is served again where it is, when an
//! operator says so and every other node has answered.

use entity_runtime::{
    Runtime,
    cluster::{Begin, ClusterConfig, Command, CommandAnswer, HeldShard, NodeStatus, StrandedStatus},
    placement::{Epoch, ShardId, Shards},
    prelude::*,
    store::{
        Batch, Founding, LaneId, NoRoom, Ownership, OwnershipRecord, Store, TransferId, batch::own,
        memory::MemoryStore,
    },
    transport::{
        DialError, Endpoint, Frame, Introduction, Tcp, TransportLimits,
        frame::{AskedShard, KnownEpoch},
        handshake::{HandshakeError, NodeIdentity},
    },
};
use entity_runtime_tests::{
    nodes::{Rows, addresses, at, come, config, shards_of, start, told, until},
    running::{Ledger, Mirror},
};
use std::{path::Path, sync::Arc, time::Duration};

const ROWS: Rows = Rows { ledgers: 40, mirrors: 7 };
const LANE: LaneId = LaneId(0);
const STORE_OF_C: u128 = 3;
/// So many of the 32 shards were on their way.
const SEALED: u32 = 9;

fn founding(store: u128) -> Founding {
    let founder = Founding::founder(7, store, Shards::new(32).unwrap());
    Founding { owns: store == 1, ..founder }
}

/// A node that moves nothing by itself.
fn still(name: &str, listen: &str, begin: Begin) -> ClusterConfig {
    let mut config = config(name, listen, begin);
    config.pace.stable_for = Duration::from_hours(1);
    config
}

async fn node(name: &str, listen: &str, begin: Begin, store: &MemoryStore) -> Runtime {
    on(store, still(name, listen, begin)).await
}

async fn on(store: &MemoryStore, config: ClusterConfig) -> Runtime {
    let builder = Runtime::builder().entity::<Ledger>().entity::<Mirror>().workers(2);
    builder.store(Arc::new(store.clone())).cluster(config).start().await.unwrap()
}

fn commit(store: &MemoryStore, shard: ShardId, epoch: u64, number: u64, record: &OwnershipRecord) {
    let mut batch = Batch::new();
    batch.section(shard, Epoch(epoch), number, |out| own(record, out));
    store.restart().open_lane(LANE).commit(&[batch]).unwrap();
}

/// What a crash behind its seal leaves of a shard.
fn seal(store: &MemoryStore, shard: ShardId) {
    let found = store.restart().ownership().unwrap().into_iter().find(|(other, _)| *other == shard);
    let Some((_, Ownership::Owned { epoch, number, .. })) = found else { panic!("{found:?}") };
    let (transfer, to) = (TransferId(shard.0.into()), "c".parse().unwrap());
    commit(store, shard, epoch.0, number + 1, &OwnershipRecord::Seal { transfer, to, store: STORE_OF_C });
}

async fn reopen(client: &Client) -> CommandAnswer {
    let a = "a".parse().unwrap();
    client.command(Some(&a), Command::Reopen { destroyed: "c".parse().unwrap() }).await.unwrap()
}

/// Says that there is a copy of a destroyed node's store.
async fn bury(client: &Client, destroyed: &str, store: u128, shards: Vec<HeldShard>) -> CommandAnswer {
    let (a, destroyed) = ("a".parse().unwrap(), destroyed.parse().unwrap());
    let bury = Command::Bury { destroyed, stores: vec![format!("{store:032x}")], shards };
    client.command(Some(&a), bury).await.unwrap()
}

/// Gives the command until it is not refused for this reason any more.
async fn reopen_beyond(client: &Client, why: &str) -> CommandAnswer {
    let asking = async {
        loop {
            match reopen(client).await {
                CommandAnswer::Refused(said) if said.contains(why) => tokio::task::yield_now().await,
                answer => return answer,
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), asking).await.expect("it is refused for ever")
}

/// `a` has sealed shards for `c`, whose disk is gone, and runs again; `b`, which it knows, does not run. Returns `a` and its store.
async fn after_the_loss(directory: &Path) -> (Runtime, MemoryStore) {
    let store = MemoryStore::founded(&founding(1), 1);
    let a = node("a", "127.0.0.1:0", Begin::Found, &store).await;
    let home = addresses(&[&a]).remove(0);
    let b = start(still("b", "127.0.0.1:0", at(&[&a])), Some(directory)).await.unwrap();
    let c = node("c", "127.0.0.1:0", at(&[&a]), &MemoryStore::founded(&founding(STORE_OF_C), 1)).await;
    let client = Client::connect(addresses(&[&a])).await.unwrap();
    for other in ["a", "b", "c"] {
        until(&client, other, "all know each other", |status| {
            status.nodes.len() == 3 && status.nodes.iter().all(|node| node.is_connected)
        })
        .await;
    }
    ROWS.feed(&client, 400).await;
    ROWS.check(&client, 400).await;
    drop(client);
    drop(c);
    b.shutdown().await;
    a.shutdown().await;
    for shard in 0..SEALED {
        seal(&store, ShardId(shard));
    }
    let store = store.restart();
    (node("a", &home, Begin::Resume, &store).await, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_on_their_way_to_a_destroyed_disk_are_served_again_when_everybody_has_answered() {
    let directory = tempfile::tempdir().unwrap();
    let (a, store) = after_the_loss(directory.path()).await;
    let client = Client::connect(addresses(&[&a])).await.unwrap();
    // Who does not answer is named, and nothing is changed.
    let CommandAnswer::Refused(why) = reopen(&client).await else { panic!("b was not asked") };
    assert!(why.contains("and b did not answer") && why.contains("`forget`"), "{why}");
    assert!(matches!(ownership(&store, 0), Ownership::Sealed { .. }));

    let b = start(still("b", "127.0.0.1:0", at(&[&a])), Some(directory.path())).await.unwrap();
    let answer = reopen_beyond(&client, "b did not answer").await;
    let CommandAnswer::Done(said) = answer else { panic!("{answer:?}") };
    assert!(said.starts_with("a owns 9 shards that were on their way to c again"), "{said}");
    assert!(said.contains("had accepted for them, and acknowledged, is lost"), "{said}");
    // It is durable, above what c may have had, and everybody has it so.
    for shard in 0..SEALED {
        let owned = ownership(&store, shard);
        assert!(matches!(owned, Ownership::Owned { epoch: Epoch(3), .. }), "{shard}: {owned:?}");
    }
    until(&client, "b", "a has all shards", |status| shards_of(status, "a") == 32).await;
    ROWS.check(&client, 400).await;
    ROWS.feed(&client, 600).await;
    ROWS.check(&client, 600).await;

    // There is nothing left to open, and c is not let in again.
    let CommandAnswer::Refused(why) = reopen(&client).await else { panic!("it was done twice") };
    assert!(why.contains("no shard of a is on its way to c"), "{why}");
    for node in [&a, &b] {
        let why = knock(&addresses(&[node])[0]).await;
        assert!(why.contains("was forgotten by an operator"), "{why}");
    }
    a.shutdown().await;
    b.shutdown().await;
}

fn ownership(store: &MemoryStore, shard: u32) -> Ownership {
    store.ownership().unwrap().into_iter().find(|(other, _)| other.0 == shard).unwrap().1
}

/// Comes as `c`, with its own store; returns why it is not let in.
async fn knock(address: &str) -> String {
    let stranger = || Introduction { cluster: None, node: None, kinds: Vec::new() };
    let endpoint = Endpoint::new(Tcp::loopback(), TransportLimits::default(), stranger, |_| Ok(()));
    let cluster = endpoint.dial(address, None).await.unwrap().other.cluster;
    let node = NodeIdentity { name: "c".parse().unwrap(), store: STORE_OF_C, boot: 9, durable: 1 << 40 };
    let c = move || Introduction { cluster: cluster.clone(), node: Some(node.clone()), kinds: Vec::new() };
    let endpoint = Endpoint::new(Tcp::loopback(), TransportLimits::default(), c, |_| Ok(()));
    match endpoint.dial(address, None).await {
        Err(DialError::Handshake { why: HandshakeError::RefusedHere(why), .. }) => why.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_node_under_a_forgotten_name_does_not_take_what_was_sealed_for_the_store_before() {
    let directory = tempfile::tempdir().unwrap();
    let (a, store) = after_the_loss(directory.path()).await;
    let home = addresses(&[&a]).remove(0);
    let client = Client::connect([home.clone()]).await.unwrap();
    let (name, forget) = ("a".parse().unwrap(), Command::Forget("c".parse().unwrap()));
    let forgotten = client.command(Some(&name), forget).await.unwrap();
    assert!(matches!(forgotten, CommandAnswer::Done(_)), "{forgotten:?}");
    let stranded = |status: &NodeStatus| {
        let (node, store) = ("c".parse().unwrap(), format!("{STORE_OF_C:032x}"));
        status.stranded == [StrandedStatus { node, store, shards: SEALED.into() }]
    };
    until(&client, "a", "it says that nobody serves them", stranded).await;
    drop(client);
    a.shutdown().await;

    // Shards move now: to whoever is called c by now go those that were not sealed, and later than the others were offered.
    let mut moving = config("a", &home, Begin::Resume);
    moving.pace.stable_for = Duration::from_secs(2);
    let store = store.restart();
    let a = on(&store, moving).await;
    let heir = MemoryStore::founded(&founding(STORE_OF_C + 1), 1);
    let b = start(still("b", "127.0.0.1:0", at(&[&a])), Some(directory.path())).await.unwrap();
    let c = node("c", "127.0.0.1:0", at(&[&a]), &heir).await;
    let client = Client::connect([home]).await.unwrap();
    until(&client, "a", "c has shards, and only what was sealed before is on its way", |status| {
        0 < shards_of(status, "c") && status.going == u64::from(SEALED)
    })
    .await;
    let still_stranded = until(&client, "a", "it says that nobody serves them", stranded).await;
    assert!(still_stranded.nodes.iter().any(|node| node.name.as_str() == "c" && node.is_connected));
    for shard in 0..SEALED {
        let sealed = ownership(&store, shard);
        assert!(matches!(sealed, Ownership::Sealed { store: STORE_OF_C, .. }), "{shard}: {sealed:?}");
    }
    let taken: Vec<u32> = heir.owned().unwrap().iter().map(|owned| owned.shard.0).collect();
    assert!(taken.iter().all(|shard| SEALED <= *shard), "{taken:?}");

    // An operator settles it, and the node of today is asked like the others.
    let answer = reopen_beyond(&client, "did not answer").await;
    let CommandAnswer::Done(said) = answer else { panic!("{answer:?}") };
    assert!(said.starts_with("a owns 9 shards that were on their way to c again"), "{said}");
    let settled = until(&client, "a", "nothing waits any more", |status| status.stranded.is_empty()).await;
    assert!(settled.nodes.iter().any(|node| node.name.as_str() == "c"), "it is not forgotten");
    ROWS.check(&client, 400).await;
    ROWS.feed(&client, 600).await;
    ROWS.check(&client, 600).await;
    for node in [a, b, c] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_went_on_from_the_destroyed_disk_stays_where_it_is() {
    let (here, there) = (MemoryStore::founded(&founding(1), 1), MemoryStore::founded(&founding(2), 1));
    let c = MemoryStore::founded(&founding(STORE_OF_C), 1);
    let a = node("a", "127.0.0.1:0", Begin::Found, &here).await;
    let home = addresses(&[&a]).remove(0);
    let b = node("b", "127.0.0.1:0", at(&[&a]), &there).await;
    let c = node("c", "127.0.0.1:0", at(&[&a]), &c).await;
    let client = Client::connect(addresses(&[&a])).await.unwrap();
    for other in ["a", "b", "c"] {
        until(&client, other, "all know each other", |status| {
            status.nodes.len() == 3 && status.nodes.iter().all(|node| node.is_connected)
        })
        .await;
    }
    drop(client);
    drop(c);
    b.shutdown().await;
    a.shutdown().await;
    // Of two shards one was accepted by c and handed on to b; a has heard neither.
    seal(&here, ShardId(0));
    seal(&here, ShardId(1));
    let (shard, epoch, transfer) = (ShardId(1), Epoch(3), TransferId(77));
    let there = there.restart();
    there.begin_staging(shard, epoch, transfer).unwrap();
    there.stage(shard, epoch, transfer, &[]).unwrap();
    let accept = OwnershipRecord::Accept { transfer, from: "c".parse().unwrap(), rows: 0, hash: 0 };
    let mut batch = Batch::new();
    batch.section(shard, epoch, 1, |out| own(&accept, out));
    there.open_lane(LANE).commit(&[batch]).unwrap();

    let here = here.restart();
    let a = node("a", &home, Begin::Resume, &here).await;
    let b = node("b", "127.0.0.1:0", at(&[&a]), &there.restart()).await;
    let client = Client::connect([home]).await.unwrap();
    // Who has a copy of another node's store, or says the wrong name, gives nobody up.
    let held = |shard, epoch, node: Option<&str>| {
        let node = node.map(|node| node.parse().unwrap());
        HeldShard { shard, epoch, node }
    };
    for (destroyed, store) in [("c", 2), ("b", STORE_OF_C)] {
        let CommandAnswer::Refused(why) = bury(&client, destroyed, store, Vec::new()).await else {
            panic!("{destroyed} was given up for a copy of store {store}")
        };
        assert!(why.starts_with("neither store UUID of the copy is or was that of "), "{why}");
    }
    until(&client, "a", "nobody is given up", |status| status.nodes.len() == 3).await;
    let answer = reopen_beyond(&client, "b did not answer").await;
    let CommandAnswer::Done(said) = answer else { panic!("{answer:?}") };
    assert!(said.starts_with("a owns 1 shard "), "{said}");
    assert!(matches!(ownership(&here, 0), Ownership::Owned { epoch: Epoch(3), .. }));
    // That b has the other, as b itself tells, shows that c had accepted it.
    until(&client, "a", "it knows who has the other, and lets it go", |status| {
        shards_of(status, "b") == 1 && status.going == 0
    })
    .await;
    let moved = Ownership::Moved { epoch: Epoch(2), to: "c".parse().unwrap() };
    assert_eq!(ownership(&here, 1), moved);
    // Of an old copy of c's disk nothing is left to take.
    let copied = vec![held(0, 1, None), held(1, 2, None)];
    let newer = vec![held(0, 3, Some("a")), held(1, 3, Some("b"))];
    assert_eq!(bury(&client, "c", STORE_OF_C, copied).await, CommandAnswer::Newer(newer));
    a.shutdown().await;
    b.shutdown().await;
}

/// What an operator hears when something does not come in time.
mod in_time {
    use super::*;

    /// `a` alone knows of `c`, whose disk is gone, and has sealed a shard for it.
    async fn alone_after_the_loss() -> (Runtime, MemoryStore, Client) {
        let store = MemoryStore::founded(&founding(1), 1);
        let a = node("a", "127.0.0.1:0", Begin::Found, &store).await;
        let c = node("c", "127.0.0.1:0", at(&[&a]), &MemoryStore::founded(&founding(STORE_OF_C), 1)).await;
        let client = Client::connect(addresses(&[&a])).await.unwrap();
        until(&client, "a", "it knows c", |status| status.nodes.len() == 2).await;
        drop((client, c));
        a.shutdown().await;
        seal(&store, ShardId(0));
        let store = store.restart();
        let a = node("a", "127.0.0.1:0", Begin::Resume, &store).await;
        let client = Client::connect(addresses(&[&a])).await.unwrap();
        (a, store, client)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_opens_shards_again_is_told_that_the_log_does_not_take_it_and_again_when_it_has() {
        let (a, store, client) = alone_after_the_loss().await;
        store.faults().hang(LANE);
        for _ in 0..2 {
            let CommandAnswer::Refused(why) = reopen(&client).await else { panic!("nothing is durable") };
            assert!(why.starts_with("a has not yet written down that it owns 1 shard again"), "{why}");
        }
        assert!(matches!(ownership(&store, 0), Ownership::Sealed { .. }));
        // The order is given, and given once.
        let asked = tokio::spawn(async move {
            let answer = reopen(&client).await;
            (client, answer)
        });
        store.faults().release(LANE);
        let (client, answer) = asked.await.unwrap();
        match answer {
            CommandAnswer::Done(said) => assert!(said.starts_with("a owns 1 shard "), "{said}"),
            // It was durable before the command came.
            CommandAnswer::Refused(why) => assert!(why.contains("no shard of a is on its way to c"), "{why}"),
            answer => panic!("{answer:?}"),
        }
        assert!(matches!(ownership(&store, 0), Ownership::Owned { epoch: Epoch(3), .. }));
        until(&client, "a", "it has all shards", |status| shards_of(status, "a") == 32).await;
        a.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_asked_while_the_disk_has_no_room_to_forget_the_destroyed_node() {
        let (a, store, client) = alone_after_the_loss().await;
        store.faults().refuse_room(LANE, Some(NoRoom::DiskFull));
        let CommandAnswer::Refused(why) = reopen(&client).await else { panic!("nothing is durable") };
        assert!(why.starts_with("a has not yet written down that c is forgotten"), "{why}");
        assert!(matches!(ownership(&store, 0), Ownership::Sealed { .. }));
        store.faults().refuse_room(LANE, None);
        let answer = reopen_beyond(&client, "has not yet written down").await;
        assert!(matches!(answer, CommandAnswer::Done(_)), "{answer:?}");
        assert!(matches!(ownership(&store, 0), Ownership::Owned { epoch: Epoch(3), .. }));
        a.shutdown().await;
    }

    /// A node with a store of its own.
    fn with_store(name: &str, store: u128) -> NodeIdentity {
        NodeIdentity { name: name.parse().unwrap(), store, boot: 1, durable: 0 }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_opened_when_another_node_has_taken_the_name_meanwhile() {
        let (a, store, client) = alone_after_the_loss().await;
        let address = addresses(&[&a]).remove(0);
        let mut b = come(&address, with_store("b", 2)).await.unwrap();
        let asking = tokio::spawn(async move { reopen(&client).await });
        let (slot, shards) = loop {
            if let Frame::AskEpochs { slot, shards } = told(&mut b).await.unwrap() {
                break (slot, shards);
            }
        };
        // `c` is forgotten by now, and its name is free.
        let c = come(&address, with_store("c", 4)).await.unwrap();
        let known =
            |AskedShard(shard)| KnownEpoch { shard, held: Epoch(1), heard: None, is_accepting: false };
        let epochs = shards.into_iter().map(known).collect();
        b.link.send(Frame::Epochs { slot, epochs }).unwrap();
        let CommandAnswer::Refused(why) = asking.await.unwrap() else { panic!("it was opened") };
        assert_eq!(why, "another store is called c by now: give the command again");
        assert!(matches!(ownership(&store, 0), Ownership::Sealed { .. }));
        drop((b, c));
        a.shutdown().await;
    }
}

/// The node that opens shards again crashes with its records on their way to the disk.
mod crashes {
    use super::*;
    use entity_runtime::cluster::Departure;

    /// `a` crashes so while it opens its shards again, and starts once more. Returns how many were open by then.
    async fn crash(fault: impl FnOnce(&MemoryStore)) -> u32 {
        let directory = tempfile::tempdir().unwrap();
        let (a, store) = after_the_loss(directory.path()).await;
        let home = addresses(&[&a]).remove(0);
        let client = Client::connect([home.clone()]).await.unwrap();
        let b = start(still("b", "127.0.0.1:0", at(&[&a])), Some(directory.path())).await.unwrap();
        until(&client, "a", "b is here, and nothing is on its way to the disk", |status| {
            status.is_quiet && status.nodes.iter().any(|node| node.name.as_str() == "b" && node.is_connected)
        })
        .await;
        fault(&store);
        let asking = tokio::spawn(async move { reopen_beyond(&client, "b did not answer").await });
        let departure = tokio::time::timeout(Duration::from_mins(1), a.departed()).await;
        assert!(matches!(departure, Ok(Departure::Failed(_))), "{departure:?}");
        asking.abort();
        drop(a);

        let store = store.restart();
        let is_open = |shard: &u32| match ownership(&store, *shard) {
            Ownership::Owned { epoch: Epoch(3), .. } => true,
            Ownership::Sealed { .. } => false,
            other => panic!("{shard}: {other:?}"),
        };
        let open = (0..SEALED).filter(is_open).count() as u32;
        let a = node("a", &home, Begin::Resume, &store).await;
        let client = Client::connect([home]).await.unwrap();
        until(&client, "a", "the others are still on their way", |status| {
            status.going == u64::from(SEALED - open)
        })
        .await;
        let answer = reopen_beyond(&client, "b did not answer").await;
        match answer {
            CommandAnswer::Done(said) => {
                assert!(said.starts_with(&format!("a owns {} shards", SEALED - open)), "{said}");
            }
            CommandAnswer::Refused(why) => {
                assert!(open == SEALED && why.contains("no shard of a is on its way to c"), "{why}");
            }
            answer => panic!("{answer:?}"),
        }
        for shard in 0..SEALED {
            let owned = ownership(&store, shard);
            assert!(matches!(owned, Ownership::Owned { epoch: Epoch(3), .. }), "{shard}: {owned:?}");
        }
        ROWS.check(&client, 400).await;
        ROWS.feed(&client, 500).await;
        ROWS.check(&client, 500).await;
        a.shutdown().await;
        b.shutdown().await;
        open
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn shards_whose_records_were_lost_are_opened_by_the_next_command() {
        let open = crash(|store| store.faults().die(LANE)).await;
        assert_eq!(open, 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn shards_whose_records_were_written_and_not_told_are_open_after_the_start() {
        let written = |store: &MemoryStore| {
            store.faults().unknown(LANE, true);
            store.faults().die(LANE);
        };
        let open = crash(written).await;
        assert!(0 < open, "none was written");
    }
}
