//! Leases by the server's clock, shards of nobody and of the dead, and what becomes of a dead run's sessions.

use super::store::{Cluster, SHARDS, batch, lane_of, owned, says, settled, take_all};
use entity_runtime::{
    placement::{Epoch, ShardId, Weight},
    store::{
        Batch, CommitError, LedgerNode, NodeSays, OwnedShard, OwnershipRecord, Presence, SharedError,
        SharedStore, Store, TransferId,
        batch::{own, put},
        postgres::{PostgresStore, application_name},
    },
};
use entity_runtime_tests::private_postgres::{PASSWORD, ROLE, Server};
use std::{sync::Arc, thread, time::Duration};
use tokio_postgres::{Client, NoTls};

/// A session of a run, made without the code under test.
fn session_of(cluster: &Cluster, incarnation: u128) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(cluster.servers[0].port()).user(ROLE).password(PASSWORD);
    config
        .dbname(cluster.urls[0].rsplit('/').next().unwrap())
        .application_name(application_name(incarnation));
    let (client, connection) = cluster.runtime.block_on(config.connect(NoTls)).unwrap();
    cluster.runtime.spawn(async move {
        // Ends with its client, or with its session.
        let _ = connection.await;
    });
    client
}

fn is_fenced(result: &Result<impl Sized, CommitError>, shard: u32) -> bool {
    matches!(result, Err(CommitError::Fenced(by)) if *by == ShardId(shard))
}

fn nodes(ledger: &[LedgerNode]) -> Vec<(&str, bool)> {
    ledger.iter().map(|node| (node.name.as_str(), node.lives)).collect()
}

#[test]
fn a_shard_is_taken_when_its_owners_lease_has_run_out_and_not_before() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.open("a"), cluster.open("b"));
    let all = take_all(&a, 0);
    assert_eq!((all.len(), all[0].epoch), (SHARDS as usize, Epoch(2)));
    assert_eq!(take_all(&b, 0), [], "its lease runs");
    assert_eq!(take_all(&a, 0), [], "they are its own");
    let mut lane = lane_of(&a, 1);
    lane.commit(&[batch(&all[1..2], "one")]).unwrap();

    cluster.end_lease("a");
    let ledger = b.beat(0, &says()).unwrap();
    assert_eq!(nodes(&ledger.nodes), [("a", false), ("b", true)]);
    let taken =
        b.take(0, &[(ShardId(1), Epoch(1)), (ShardId(2), Epoch(2)), (ShardId(99), Epoch(2))]).unwrap();
    assert_eq!(
        taken,
        [OwnedShard { shard: ShardId(2), epoch: Epoch(3), number: 0 }],
        "under the epoch named"
    );
    // A lease that ran out may go on where nobody took anything.
    let ledger = a.beat(0, &says()).unwrap();
    assert_eq!(nodes(&ledger.nodes), [("a", true), ("b", true)]);
    assert!(ledger.nodes[0].steady < ledger.nodes[1].steady, "it begins anew");
    assert_eq!(take_all(&b, 0), []);
    lane.commit(&[batch(&[OwnedShard { number: 1, ..all[1] }], "two")]).unwrap();
    assert_eq!(a.owned().unwrap().len(), SHARDS as usize - 1, "the ledger has told");

    cluster.end_lease("a");
    assert_eq!(take_all(&b, 0).len(), SHARDS as usize - 1);
    let zombie = settled(&mut *lane, &[batch(&[OwnedShard { number: 2, ..all[1] }], "zombie")]);
    assert!(is_fenced(&zombie, 1), "{zombie:?}");
    assert_eq!(cluster.sql("SELECT encode(image, 'escape') FROM entity.state"), ["two"]);
    let mine = owned(&b, 1);
    lane_of(&b, 1).commit(&[batch(&[mine], "three")]).unwrap();
}

#[test]
fn what_a_dead_run_has_begun_is_ended_with_its_session_and_a_living_ones_is_not() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.open("a"), cluster.open("b"));
    let all = take_all(&a, 0);
    // A client that is stopped in the middle of a transaction: it holds the rows, and nothing of it times out.
    let frozen = session_of(&cluster, a.incarnation());
    let run = |text: &str| cluster.runtime.block_on(frozen.batch_execute(text));
    run("BEGIN; UPDATE entity.shard SET batch = 1 WHERE id IN (3, 4)").unwrap();
    let wanted: Vec<_> = all.iter().map(|shard| (shard.shard, shard.epoch)).collect();
    assert_eq!(b.take(0, &wanted).unwrap(), []);
    run("SELECT 1").unwrap();
    cluster.end_lease("a");
    let taken = b.take(0, &wanted).unwrap();
    assert_eq!(taken.len(), SHARDS as usize);
    run("COMMIT").unwrap_err();
    assert_eq!(cluster.sql("SELECT DISTINCT batch FROM entity.shard"), ["0"]);
}

#[test]
fn a_shard_that_somebody_holds_does_not_keep_the_others() {
    let cluster = Cluster::new();
    let b = cluster.open("b");
    let stranger = cluster.client(0, ROLE);
    cluster
        .runtime
        .block_on(stranger.batch_execute("BEGIN; SELECT 1 FROM entity.shard WHERE id = 7 FOR UPDATE"))
        .unwrap();
    let taken = take_all(&b, 0);
    assert_eq!(taken.len(), SHARDS as usize - 1);
    assert!(taken.iter().all(|taken| taken.shard != ShardId(7)));
    cluster.runtime.block_on(stranger.batch_execute("COMMIT")).unwrap();
    assert_eq!(take_all(&b, 0).len(), 1);
}

fn give(of: OwnedShard, store: u128, to: &str) -> Batch {
    let record = OwnershipRecord::Seal { transfer: TransferId(1), to: to.parse().unwrap(), store };
    let mut batch = Batch::new();
    batch.section(of.shard, of.epoch, of.number + 1, |out| {
        own(&record, out);
        put(&[b"\xf0kind\0k", of.shard.0.to_string().as_bytes()], &[b"last"], out);
    });
    batch
}

#[test]
fn a_shard_is_given_to_an_heir_that_lives_and_to_nobody_else() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.open("a"), cluster.open("b"));
    let all = take_all(&a, 0);
    let heir = b.identity().store;
    let mut lane = lane_of(&a, 1);
    lane.commit(&[give(all[1], heir, "b")]).unwrap();
    let owners = |store: &PostgresStore| {
        store.owned().unwrap().into_iter().map(|owned| owned.shard.0).collect::<Vec<_>>()
    };
    assert!(!owners(&a).contains(&1));
    assert_eq!(owners(&b), [] as [u32; 0]);
    b.beat(0, &says()).unwrap();
    assert_eq!(b.owned().unwrap(), [OwnedShard { shard: ShardId(1), epoch: Epoch(3), number: 0 }]);
    assert!(is_fenced(&lane.commit(&[batch(&[OwnedShard { number: 1, ..all[1] }], "late")]), 1));

    cluster.end_lease("b");
    lane.commit(&[give(all[5], heir, "b")]).unwrap();
    let ledger = a.beat(0, &says()).unwrap();
    assert_eq!((ledger.shards[5].epoch, ledger.shards[5].owner), (Epoch(3), None), "anyone may take it");
    assert!(a.ownership().unwrap().iter().all(|(shard, _)| *shard != ShardId(5)));
    assert_eq!(a.take(0, &[(ShardId(5), Epoch(3))]).unwrap()[0].epoch, Epoch(4));
    let kept =
        cluster.sql("SELECT encode(key, 'escape'), encode(image, 'escape') FROM entity.state ORDER BY key");
    assert_eq!(kept, ["k1 last", "k5 last"]);
}

#[test]
fn a_ledger_shows_what_nodes_say_and_who_has_what() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.open("a"), cluster.open("b"));
    take_all(&a, 0);
    let leaving = NodeSays {
        address: "b.example:9".into(),
        weight: Weight::new(3).unwrap(),
        presence: Presence::Leaving,
    };
    b.beat(0, &leaving).unwrap();
    let ledger = a.beat(0, &says()).unwrap();
    assert_eq!((ledger.server, ledger.generation), (0, 1));
    assert_eq!(ledger.nodes[0].says, says());
    assert_eq!(ledger.nodes[1].says, leaving);
    assert_eq!(ledger.nodes[1].store, b.identity().store);
    assert_eq!(
        (ledger.nodes[0].incarnation, ledger.nodes[1].incarnation),
        (a.incarnation(), b.incarnation())
    );
    assert!(
        ledger.shards.iter().all(|shard| shard.owner == Some(a.incarnation()) && shard.epoch == Epoch(2))
    );
    assert!(ledger.shards.iter().map(|shard| shard.shard.0).eq(0..SHARDS));
    a.close().unwrap();
    let ledger = b.beat(0, &leaving).unwrap();
    assert_eq!(nodes(&ledger.nodes), [("a", false), ("b", true)]);
    assert!(ledger.shards.iter().all(|shard| shard.owner.is_none() && shard.epoch == Epoch(3)));
}

#[test]
fn a_node_that_a_server_has_forgotten_begins_there_again() {
    let cluster = Cluster::new();
    let a = cluster.open("a");
    let all = take_all(&a, 0);
    let boot = a.identity().boot;
    cluster.sql("DELETE FROM entity.node");
    let ledger = a.beat(0, &says()).unwrap();
    assert_eq!(nodes(&ledger.nodes), [("a", true)]);
    assert_eq!(a.owned().unwrap(), all, "nobody has taken them");
    // As a standby that lagged has it: an earlier run of this name, with shards.
    cluster.sql(&format!(
        "UPDATE entity.node SET boot = {}, incarnation = '{:032x}'; UPDATE entity.shard SET owner = '{:032x}' WHERE id = 4",
        boot - 1,
        9,
        9
    ));
    a.beat(0, &says()).unwrap();
    assert_eq!(owned(&a, 4).epoch, Epoch(3), "of its own earlier run");
    cluster.sql(&format!("UPDATE entity.node SET boot = {}, incarnation = '{:032x}'", boot + 1, 9));
    assert!(matches!(a.beat(0, &says()), Err(SharedError::Replaced)));
}

#[test]
fn a_beat_finds_a_newer_schema_and_rows_that_are_none() {
    let cluster = Cluster::new();
    let a = cluster.open("a");
    cluster.sql("UPDATE entity.node SET state = 0, weight = 0");
    // Its own row is put right by the beat itself.
    a.beat(0, &says()).unwrap();
    cluster.sql(
        "INSERT INTO entity.node SELECT 'b', md5('b')::uuid, 1, md5('c')::uuid, '', 0, 0, '', role, lease, lease_until, \
         lease_since FROM entity.node",
    );
    assert!(matches!(a.beat(0, &says()), Err(SharedError::Fatal(_))), "no node has no weight");
    cluster.sql("DELETE FROM entity.node WHERE name = 'b'");
    a.beat(0, &says()).unwrap();
    cluster.sql(
        "INSERT INTO entity.migration (version, name, build, reads_from) VALUES (99, 'later', '9.9', 99)",
    );
    match a.beat(0, &says()) {
        Err(SharedError::Outdated(why)) => assert!(why.contains("newer build"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_beat_waits_for_no_standby_and_what_a_take_was_not_told_the_next_ledger_tells() {
    let cluster = Cluster::on(vec![Arc::new(Server::start())]);
    let mut config = cluster.config("a");
    config.lease = Duration::from_secs(2);
    let a = PostgresStore::open(&config).unwrap();
    let standbys = |names: &str| {
        cluster.sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
        cluster.sql("SELECT pg_reload_conf()");
        while cluster.sql("SHOW synchronous_standby_names").concat() != names {
            thread::yield_now();
        }
    };
    // On a connection that is older and on one that begins with it.
    a.beat(0, &says()).unwrap();
    standbys("ghost");
    a.beat(0, &says()).unwrap();
    assert!(matches!(a.take(0, &[(ShardId(3), Epoch(1))]), Err(SharedError::Later(_))));
    a.beat(0, &says()).unwrap();
    assert_eq!(a.owned().unwrap(), [], "it is not acknowledged");
    standbys("");
    while a.beat(0, &says()).unwrap().shards[3].owner.is_none() {}
    assert_eq!(a.owned().unwrap(), [OwnedShard { shard: ShardId(3), epoch: Epoch(2), number: 0 }]);
}
