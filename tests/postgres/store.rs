//! A store on PostgreSQL servers: founded and opened again, by one process of a name at a time, with servers that go and come.

use entity_runtime::{
    placement::{Epoch, ShardId, Shards, Weight},
    store::{
        Batch, CommitError, Lane, LoadError, NOTE_BYTES_MAX, NodeSays, OwnedShard, Presence, SharedError,
        SharedStore, StageError, Store, TAKES_MAX, TransferId,
        batch::put,
        postgres::{
            Access, ClusterFounding, FoundingError, OpenError, PostgresConfig, PostgresStore, ServerUrl,
        },
    },
};
use entity_runtime_tests::private_postgres::{Server, Stop};
use std::{fs, process::Command, sync::Arc, time::Duration};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, SimpleQueryMessage};

pub(super) const SHARDS: u32 = 16;

/// Databases of a cluster, a server each or one for all.
pub(super) struct Cluster {
    pub(super) servers: Vec<Arc<Server>>,
    pub(super) urls: Vec<String>,
    pub(super) runtime: Runtime,
}

impl Cluster {
    /// Not founded yet, on a database of the server that tests share.
    pub(super) fn new() -> Self {
        Self::on(vec![Server::shared()])
    }

    pub(super) fn on(servers: Vec<Arc<Server>>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let urls = servers.iter().map(|server| runtime.block_on(server.database())).collect();
        Self { servers, urls, runtime }
    }

    pub(super) fn config(&self, name: &str) -> PostgresConfig {
        let urls = self.urls.iter().map(|url| ServerUrl::parse(url, &Access::default()).unwrap());
        let mut config = PostgresConfig::new(urls.collect(), name.parse().unwrap());
        let shards = Shards::new(SHARDS).unwrap();
        config.founding = Some(ClusterFounding { cluster: 0xc, shards, placement: 7 });
        // No lease runs out by itself while a test looks on.
        config.lease = Duration::from_mins(2);
        config
    }

    pub(super) fn open(&self, name: &str) -> PostgresStore {
        PostgresStore::open(&self.config(name)).unwrap()
    }

    pub(super) fn client(&self, at: usize, role: &str) -> Client {
        let database = self.urls[at].rsplit('/').next().unwrap();
        self.runtime.block_on(self.servers[at].client(role, database))
    }

    /// What a statement gives on a server, each row as text.
    pub(super) fn sql_on(&self, at: usize, text: &str) -> Vec<String> {
        let client = self.client(at, "postgres");
        let messages = self.runtime.block_on(client.simple_query(text)).unwrap();
        let row = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).unwrap_or("-")).collect::<Vec<_>>().join(" "))
            }
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }

    pub(super) fn sql(&self, text: &str) -> Vec<String> {
        self.sql_on(0, text)
    }

    /// Lets the lease of a node run out, by the server's clock.
    pub(super) fn end_lease(&self, name: &str) {
        self.sql(&format!(
            "UPDATE entity.node SET lease_until = clock_timestamp() - interval '1 s' WHERE name = '{name}'"
        ));
    }
}

pub(super) fn says() -> NodeSays {
    NodeSays { address: "10.0.0.1:7000".into(), weight: Weight::default(), presence: Presence::Up }
}

/// Takes all shards of a server that may be taken.
pub(super) fn take_all(store: &PostgresStore, server: u32) -> Vec<OwnedShard> {
    let ledger = store.beat(server, &says()).unwrap();
    let wanted: Vec<_> = ledger.shards.iter().map(|shard| (shard.shard, shard.epoch)).collect();
    wanted.chunks(TAKES_MAX).flat_map(|wanted| store.take(server, wanted).unwrap()).collect()
}

/// A batch that gives an entity of each shard an image.
pub(super) fn batch(shards: &[OwnedShard], image: &str) -> Batch {
    let mut batch = Batch::new();
    for OwnedShard { shard, epoch, number } in shards {
        batch.section(*shard, *epoch, number + 1, |out| {
            put(&[b"\xf0kind\0k", shard.0.to_string().as_bytes()], &[image.as_bytes()], out);
        });
    }
    batch
}

pub(super) fn lane_of(store: &dyn Store, shard: u32) -> Box<dyn Lane> {
    store.open_lane(store.lane_of(ShardId(shard)))
}

/// Commits as a node's writer does: again, as long as it is not known what became of it.
pub(super) fn settled(lane: &mut dyn Lane, group: &[Batch]) -> Result<(), CommitError> {
    loop {
        match lane.commit(group) {
            Err(CommitError::Unknown(_)) => {}
            known => return known.map(drop),
        }
    }
}

pub(super) fn owned(store: &PostgresStore, shard: u32) -> OwnedShard {
    store.owned_shard(ShardId(shard)).unwrap().unwrap()
}

fn is_fenced(result: &Result<impl Sized, CommitError>, shard: u32) -> bool {
    matches!(result, Err(CommitError::Fenced(by)) if *by == ShardId(shard))
}

#[test]
fn a_run_that_ended_in_peace_leaves_its_shards_and_one_that_did_not_leaves_them_to_the_next() {
    let cluster = Cluster::new();
    let mut unfounded = cluster.config("a");
    unfounded.founding = None;
    let error = PostgresStore::open(&unfounded).err().unwrap();
    assert!(matches!(error, OpenError::Founding(FoundingError::NotFounded { .. })), "{error}");

    let first = cluster.open("a");
    let (identity, shards) = (first.identity(), first.shards());
    assert_eq!((identity.cluster, shards.count(), first.lanes()), (0xc, SHARDS, 4));
    assert_eq!(first.reports().len(), 1);
    assert!(first.was_clean(), "there was none before");
    assert_eq!(first.owned().unwrap(), [], "founding owns nothing: shards are taken");
    assert_eq!(take_all(&first, 0).len(), SHARDS as usize);
    let mine = owned(&first, 3);
    lane_of(&first, 3).commit(&[batch(&[mine], "one")]).unwrap();
    assert_eq!(owned(&first, 3), OwnedShard { number: 1, ..mine });
    assert_eq!(first.owned().unwrap()[3], owned(&first, 3), "as is known without asking");
    first.close().unwrap();
    drop(first);
    assert_eq!(cluster.sql("SELECT DISTINCT owner, epoch, batch FROM entity.shard"), ["- 3 0"]);

    let second = cluster.open("a");
    assert!(second.was_clean());
    assert_eq!(second.identity().store, identity.store, "it stays with the name");
    assert!(second.identity().boot > identity.boot);
    assert_eq!(second.owned().unwrap(), []);
    take_all(&second, 0);
    drop(second);

    let third = cluster.open("a");
    assert!(!third.was_clean());
    let all = third.owned().unwrap();
    assert_eq!((all.len(), all[3].epoch, all[3].number), (SHARDS as usize, Epoch(5), 0));
    assert_ne!(cluster.open("b").identity().store, identity.store);
}

#[test]
fn a_second_process_of_a_name_takes_the_place_of_the_first() {
    let cluster = Cluster::new();
    let first = cluster.open("a");
    let all = take_all(&first, 0);
    let mut lane = lane_of(&first, 1);
    lane.commit(&[batch(&all[1..2], "one")]).unwrap();
    let second = cluster.open("a");
    assert_eq!(second.owned().unwrap().len(), SHARDS as usize);
    // Its session was ended; it comes back by another, and is told.
    let again = settled(&mut *lane, &[batch(&[OwnedShard { number: 1, ..all[1] }], "zombie")]);
    assert!(is_fenced(&again, 1), "{again:?}");
    let refused = lane.commit_and_confirm(&[], &[(ShardId(1), all[1].epoch)]);
    assert!(is_fenced(&refused, 1), "{refused:?}");
    assert!(matches!(first.beat(0, &says()), Err(SharedError::Replaced)));
    second.close().unwrap();
    let wanted = [(ShardId(2), owned_epoch(&cluster, 2))];
    assert_eq!(first.take(0, &wanted).unwrap(), [], "whom the server does not know takes nothing");
    assert_eq!(cluster.sql("SELECT encode(image, 'escape') FROM entity.state"), ["one"]);
}

fn owned_epoch(cluster: &Cluster, shard: u32) -> Epoch {
    let epoch = cluster.sql(&format!("SELECT epoch FROM entity.shard WHERE id = {shard}"));
    Epoch(epoch.concat().parse().unwrap())
}

#[test]
fn a_server_that_is_away_holds_up_its_own_shards_and_is_joined_by_the_first_beat() {
    let mut cluster = Cluster::on(vec![Server::shared(), Arc::new(Server::start())]);
    // Founded, and left by an earlier run.
    let earlier = cluster.open("a");
    take_all(&earlier, 1);
    let there = earlier.owned().unwrap();
    drop(earlier);
    Arc::get_mut(&mut cluster.servers[1]).unwrap().stop(Stop::Fast);

    let store = cluster.open("a");
    let here = take_all(&store, 0);
    assert_eq!(here.len() + there.len(), SHARDS as usize);
    assert!(matches!(store.beat(1, &says()), Err(SharedError::Later(_))));
    let far = there[0];
    assert!(matches!(store.owned_shard(far.shard), Err(LoadError::Later(_))));
    let mut far_lane = lane_of(&store, far.shard.0);
    assert!(matches!(far_lane.commit(&[batch(&[far], "no")]), Err(CommitError::Later(_))));
    lane_of(&store, here[0].shard.0).commit(&[batch(&here[..1], "one")]).unwrap();

    Arc::get_mut(&mut cluster.servers[1]).unwrap().start_again();
    let ledger = store.beat(1, &says()).unwrap();
    assert_eq!((ledger.server, ledger.shards.len()), (1, there.len()));
    assert_eq!(store.reports().len(), 2);
    let taken_over = owned(&store, far.shard.0);
    assert_eq!(taken_over.epoch, Epoch(far.epoch.0 + 1), "of the earlier run");
    assert!(is_fenced(&far_lane.commit(&[batch(&[far], "no")]), far.shard.0));
    far_lane.commit(&[batch(&[taken_over], "one")]).unwrap();
    assert_eq!(cluster.sql_on(1, "SELECT boot FROM entity.node"), [store.identity().boot.to_string()]);
}

#[test]
fn boots_rise_whichever_server_is_there() {
    let mut cluster = Cluster::on(vec![Server::shared(), Arc::new(Server::start())]);
    drop(cluster.open("a"));
    // Its clock is far ahead, or the node was started very often.
    cluster.sql_on(1, "UPDATE entity.node SET boot = 9000000000");
    let high = cluster.open("a").identity().boot;
    assert_eq!(high, 9_000_000_001);
    Arc::get_mut(&mut cluster.servers[1]).unwrap().stop(Stop::Fast);
    assert_eq!(cluster.open("a").identity().boot, high + 1);
}

#[test]
fn notes_stay_with_the_name() {
    let cluster = Cluster::new();
    let first = cluster.open("a");
    assert_eq!(first.note("known-nodes").unwrap(), None);
    first.keep_note("known-nodes", b"one").unwrap();
    first.keep_note("known-nodes", b"two").unwrap();
    let long = vec![7; NOTE_BYTES_MAX];
    first.keep_note("long", &long).unwrap();
    assert!(matches!(first.keep_note("long", &[long.as_slice(), &[7]].concat()), Err(LoadError::Io(_))));
    assert!(first.keep_note("No Name", b"").is_err());
    let second = cluster.open("a");
    assert_eq!(second.note("known-nodes").unwrap().unwrap(), b"two");
    assert_eq!(second.note("long").unwrap().unwrap(), long);
    assert_eq!(cluster.open("b").note("known-nodes").unwrap(), None);
    cluster.sql("UPDATE entity.note SET value = value || 'x' WHERE name = 'long'");
    assert!(matches!(second.note("long"), Err(LoadError::Io(_))), "no node has written that");
}

#[test]
fn nothing_is_staged() {
    let cluster = Cluster::new();
    let store = cluster.open("a");
    let begun = store.begin_staging(ShardId(1), Epoch(9), TransferId(1));
    assert!(matches!(begun, Err(StageError::Io(error)) if error.to_string().contains("given")));
    store.sweep_staging(ShardId(1), Epoch(9), TransferId(1)).unwrap();
}

#[tokio::test]
async fn a_store_can_be_used_and_dropped_where_tasks_run() {
    let cluster = tokio::task::spawn_blocking(Cluster::new).await.unwrap();
    let store = cluster.open("a");
    store.beat(0, &says()).unwrap();
    store.keep_note("known-nodes", b"one").unwrap();
    assert_eq!(store.owned_shard(ShardId(0)).unwrap(), None);
    store.close().unwrap();
    drop(store);
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
}

/// Puts back a copy of a server's directory and lets it begin a new timeline, as a standby does that is promoted.
fn restore(server: &mut Server, copy: &str) {
    server.stop(Stop::Fast);
    let (data, before) = (server.directory().join("data"), server.directory().join(copy));
    fs::remove_dir_all(&data).unwrap();
    fs::rename(before, &data).unwrap();
    fs::write(data.join("recovery.signal"), "").unwrap();
    let conf = data.join("postgresql.auto.conf");
    let text = fs::read_to_string(&conf).unwrap() + "restore_command = 'false'\n";
    fs::write(conf, text).unwrap();
    server.start_again();
}

#[test]
fn a_server_that_went_back_voids_its_lanes_and_what_it_lost_is_counted() {
    let mut cluster = Cluster::on(vec![Arc::new(Server::start())]);
    let store = cluster.open("a");
    let all = take_all(&store, 0);
    let mut lane = lane_of(&store, 0);
    lane.commit(&[batch(&[all[0], all[4]], "one")]).unwrap();
    let server = Arc::get_mut(&mut cluster.servers[0]).unwrap();
    server.stop(Stop::Fast);
    let data = server.directory().join("data");
    assert!(
        Command::new("cp").arg("-a").args([&data, &data.with_file_name("copy")]).status().unwrap().success()
    );
    server.start_again();
    let at = |shard: usize, number| OwnedShard { number, ..all[shard] };
    // Of two shards one goes on, and the other is as it was when the copy was made.
    settled(&mut *lane, &[batch(&[at(0, 1)], "two")]).unwrap();
    assert_eq!(store.lost_commits(), 0);
    let before = store.beat(0, &says()).unwrap().generation;
    restore(Arc::get_mut(&mut cluster.servers[0]).unwrap(), "copy");

    // It may be recovering at first.
    let ledger = loop {
        match store.beat(0, &says()) {
            Ok(ledger) => break ledger,
            Err(SharedError::Later(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(ledger.generation, before + 1);
    assert_eq!(store.lost_commits(), 1);
    assert_eq!(owned(&store, 0).number, 1);
    // Each lane is told once, also one whose own shards have lost nothing.
    let void = lane.commit(&[batch(&[at(4, 1)], "two")]);
    assert!(matches!(void, Err(CommitError::Failed(_))), "{void:?}");
    settled(&mut *lane, &[batch(&[at(0, 1), at(4, 1)], "three")]).unwrap();
    // One that was not used before knew nothing that could be gone.
    lane_of(&store, 1).commit_and_confirm(&[], &[(ShardId(1), all[1].epoch)]).unwrap();
    assert_eq!(store.lost_commits(), 1);
}
