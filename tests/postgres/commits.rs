//! The commit of a lane on a real server: fence, chain and mark in one (P23), and what is answered when it is not known.
//!
//! Order is forced by locks: a session that holds a row makes a statement wait, and `pg_stat_activity` says when it does.

use entity_runtime::{
    placement::{Epoch, ShardId},
    store::{
        Batch, OwnershipRecord, TransferId,
        batch::{delete_range, own, put},
        postgres::{Access, Connector, LaneError, PATIENCE, PostgresLane, ServerUrl, application_name},
    },
};
use entity_runtime_tests::private_postgres::{ROLE, Server};
use std::{sync::Arc, thread};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, SimpleQueryMessage};

const SCHEMA: &str = include_str!("../../runtime/src/store/postgres/migrations/0001-schema.sql");
const A: u128 = 0xa;
const B: u128 = 0xb;

/// A database with eight shards, all owned by A under epoch 1.
struct Founded {
    server: Arc<Server>,
    runtime: Runtime,
    url: String,
    /// A session beside the lanes.
    client: Client,
    /// One that looks on: in a transaction `pg_stat_activity` stays as it was.
    watcher: Client,
}

/// What a statement gave, each row as text.
fn asked(runtime: &Runtime, client: &Client, text: &str) -> Result<Vec<String>, String> {
    let messages = runtime.block_on(client.simple_query(text)).map_err(|error| code(&error))?;
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).unwrap_or("-")).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

fn code(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

impl Founded {
    fn new(server: Arc<Server>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = runtime.block_on(server.database());
        let client = runtime.block_on(server.client(ROLE, database(&url)));
        runtime.block_on(client.batch_execute(SCHEMA)).unwrap();
        let watcher = runtime.block_on(server.client(ROLE, database(&url)));
        let founded = Self { server, runtime, url, client, watcher };
        founded.sql(&format!(
            "INSERT INTO entity.shard (id, epoch, owner, batch) SELECT id, 1, '{}', 0 FROM generate_series(0, 7) id",
            uuid(A)
        ));
        founded
    }

    fn lane(&self, incarnation: u128) -> PostgresLane {
        let connector =
            Connector::new(ServerUrl::parse(&self.url, &Access::default()).unwrap(), incarnation).unwrap();
        PostgresLane::new(Box::new(connector), incarnation, 0, PATIENCE).unwrap()
    }

    /// One more session beside the lanes.
    fn session(&self) -> Client {
        self.runtime.block_on(self.server.client(ROLE, database(&self.url)))
    }

    fn sql(&self, text: &str) -> Vec<String> {
        self.sql_in(&self.client, text)
    }

    fn sql_in(&self, client: &Client, text: &str) -> Vec<String> {
        asked(&self.runtime, client, text).unwrap()
    }

    fn superuser(&self, text: &str) {
        self.runtime.block_on(self.server.execute(database(&self.url), text));
    }

    /// Waits until so many sessions of a node wait for `what` (`Lock`, `SyncRep`) in a statement like this.
    fn wait_until_waiting(&self, incarnation: u128, count: usize, what: &str, statement: &str) {
        let text = format!(
            "SELECT pid {} AND '{what}' IN (wait_event_type, wait_event) AND query LIKE '{statement}%'",
            sessions_of(incarnation)
        );
        while self.sql_in(&self.watcher, &text).len() < count {
            thread::yield_now();
        }
    }

    fn shard(&self, id: u32) -> String {
        self.sql(&format!("SELECT epoch, right(owner::text, 1), batch FROM entity.shard WHERE id = {id}"))
            .concat()
    }

    fn images(&self) -> Vec<String> {
        self.sql("SELECT encode(key, 'escape'), encode(image, 'escape') FROM entity.state ORDER BY key")
    }
}

/// The sessions of a node, in this database: tests share a server.
fn sessions_of(incarnation: u128) -> String {
    let name = application_name(incarnation);
    format!("FROM pg_stat_activity WHERE datname = current_database() AND application_name = '{name}'")
}

fn database(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

fn uuid(id: u128) -> String {
    format!("{id:032x}")
}

fn take(shard: u32, incarnation: u128) -> String {
    format!(
        "UPDATE entity.shard SET epoch = epoch + 1, owner = '{0}', moved_by = '{0}', batch = 0 WHERE id = {shard} \
         RETURNING epoch",
        uuid(incarnation)
    )
}

/// A batch that gives the entity `k<shard>` of each shard an image.
fn batch(shards: &[u32], epoch: u64, number: u64, image: &str) -> Batch {
    let mut batch = Batch::new();
    for shard in shards {
        batch.section(ShardId(*shard), Epoch(epoch), number, |out| {
            put(&[b"\xf0kind\0k", shard.to_string().as_bytes()], &[image.as_bytes()], out);
        });
    }
    batch
}

fn is_fenced(result: &Result<u64, LaneError>, shard: u32) -> bool {
    matches!(result, Err(LaneError::Fenced(by)) if *by == ShardId(shard))
}

#[test]
fn a_repeat_is_known_and_what_does_not_follow_is_fenced() {
    let founded = Founded::new(Server::shared());
    let mut lane = founded.lane(A);
    assert_eq!(lane.commit(&[batch(&[1], 1, 1, "one")], &[]).unwrap(), 1);
    assert_eq!(lane.commit(&[batch(&[1], 1, 1, "one")], &[]).unwrap(), 2, "known by its number");
    let gap = lane.commit(&[batch(&[1], 1, 3, "three")], &[]);
    assert!(matches!(gap, Err(LaneError::WentBack { shard: ShardId(1), had: 2, has: 1 })), "{gap:?}");
    assert!(is_fenced(&lane.commit(&[batch(&[1], 2, 2, "two")], &[]), 1));
    assert!(is_fenced(&lane.commit(&[batch(&[9], 1, 1, "none")], &[]), 9));
    assert_eq!(founded.images(), ["k1 one"]);
    // A group whose first batch is written already, and the rest is not.
    lane.commit(&[batch(&[1], 1, 1, "one"), batch(&[1, 2], 1, 2, "no")], &[]).unwrap_err();
    lane.commit(&[batch(&[1], 1, 1, "one"), batch(&[1], 1, 2, "two")], &[]).unwrap();
    assert_eq!((founded.shard(1), founded.shard(2)), ("1 a 2".into(), "1 a 0".into()));
    assert_eq!(founded.images(), ["k1 two"]);
}

#[test]
fn a_stale_statement_that_waits_behind_a_takeover_writes_nothing() {
    let founded = Founded::new(Server::shared());
    let mut lane = founded.lane(A);
    founded.sql(&format!("BEGIN; {}", take(2, B)));
    thread::scope(|scope| {
        let stale = scope.spawn(|| lane.commit(&[batch(&[2], 1, 1, "stale")], &[]));
        founded.wait_until_waiting(A, 1, "Lock", "WITH fence");
        founded.sql("COMMIT");
        assert!(is_fenced(&stale.join().unwrap(), 2));
    });
    assert_eq!(founded.images(), [""; 0]);
    assert_eq!(founded.shard(2), "2 b 0");
}

#[test]
fn a_takeover_waits_for_the_commit_in_flight_and_sees_it() {
    let founded = Founded::new(Server::shared());
    let mut lane = founded.lane(A);
    lane.commit(&[batch(&[3], 1, 1, "first")], &[]).unwrap();
    let rival = founded.session();
    // Whoever holds the image stops the statement between its fence and its end.
    founded.sql("BEGIN; SELECT 1 FROM entity.state FOR UPDATE");
    thread::scope(|scope| {
        let owner = scope.spawn(|| lane.commit(&[batch(&[3], 1, 2, "in flight")], &[]));
        founded.wait_until_waiting(A, 1, "Lock", "WITH fence");
        assert_eq!(
            asked(&founded.runtime, &rival, &format!("SET lock_timeout = 100; {}", take(3, B))),
            Err("55P03".into()),
            "the row is the owner's while its commit is in flight"
        );
        founded.sql("COMMIT");
        owner.join().unwrap().unwrap();
    });
    assert_eq!(founded.sql_in(&rival, &take(3, B)), ["2"]);
    assert_eq!(founded.images(), ["k3 in flight"]);
    assert!(is_fenced(&lane.commit(&[batch(&[3], 1, 3, "zombie")], &[]), 3));
    assert_eq!(founded.images(), ["k3 in flight"]);
}

#[test]
fn the_same_bytes_wait_for_the_first_try_and_are_written_once() {
    let founded = Founded::new(Server::shared());
    let (mut first, mut again) = (founded.lane(A), founded.lane(A));
    first.commit(&[batch(&[4], 1, 1, "one")], &[]).unwrap();
    founded.sql("BEGIN; SELECT 1 FROM entity.state FOR UPDATE");
    thread::scope(|scope| {
        let first = scope.spawn(|| first.commit(&[batch(&[4], 1, 2, "two")], &[]));
        founded.wait_until_waiting(A, 1, "Lock", "WITH fence");
        let again = scope.spawn(|| again.commit(&[batch(&[4], 1, 2, "two")], &[]));
        founded.wait_until_waiting(A, 2, "Lock", "WITH fence");
        founded.sql("COMMIT");
        first.join().unwrap().unwrap();
        again.join().unwrap().unwrap();
    });
    assert_eq!(founded.shard(4), "1 a 2");
}

#[test]
fn of_two_shards_one_taken_nothing_lands() {
    let founded = Founded::new(Server::shared());
    let mut lane = founded.lane(A);
    founded.sql(&take(5, B));
    assert!(is_fenced(&lane.commit(&[batch(&[4, 5], 1, 1, "half")], &[]), 5));
    assert_eq!((founded.shard(4), founded.images()), ("1 a 0".into(), vec![]));
}

#[test]
fn a_terminated_commit_is_unknown_and_then_fenced_where_the_shard_was_taken() {
    let founded = Founded::new(Server::shared());
    let mut lane = founded.lane(A);
    lane.commit(&[batch(&[6], 1, 1, "one")], &[]).unwrap();
    founded.sql("BEGIN; SELECT 1 FROM entity.state FOR UPDATE");
    let group = [batch(&[6], 1, 2, "two")];
    let rival = founded.session();
    thread::scope(|scope| {
        let cut = scope.spawn(|| lane.commit(&group, &[]));
        founded.wait_until_waiting(A, 1, "Lock", "WITH fence");
        let terminate = format!("SELECT pg_terminate_backend(pid) {}", sessions_of(A));
        assert_eq!(founded.sql_in(&rival, &terminate), ["t"]);
        assert!(matches!(cut.join().unwrap(), Err(LaneError::Unknown(_))));
    });
    assert_eq!(founded.sql_in(&rival, &take(6, B)), ["2"]);
    founded.sql("COMMIT");
    assert!(is_fenced(&lane.commit(&group, &[]), 6));
    assert_eq!(founded.images(), ["k6 one"]);
}

#[test]
fn an_idle_connection_that_was_ended_is_opened_again_without_a_doubt() {
    let founded = Founded::new(Server::shared());
    let mut lane = founded.lane(A);
    lane.commit(&[batch(&[1], 1, 1, "one")], &[]).unwrap();
    let sessions = sessions_of(A);
    founded.sql(&format!("SELECT pg_terminate_backend(pid) {sessions}"));
    while !founded.sql(&format!("SELECT pid {sessions}")).is_empty() {
        thread::yield_now();
    }
    lane.commit(&[batch(&[1], 1, 2, "two")], &[]).unwrap();
    assert_eq!(founded.shard(1), "1 a 2");
}

/// Ends a commit's wait for a standby that is not there by a function of the server, and returns how often its lane did not
/// know the outcome before it did.
fn unknown_after(end: &str) -> usize {
    // Only a lane waits for the standby: its session is raised to what a commit needs.
    let settings = [("synchronous_standby_names", "ghost"), ("synchronous_commit", "local")];
    let founded = Founded::new(Arc::new(Server::start_with(&settings, &[])));
    let mut lane = founded.lane(A);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let group = [batch(&[1], 1, 1, end)];
            let mut unknown = 0;
            loop {
                match lane.commit(&group, &[]) {
                    Ok(_) => return unknown,
                    Err(LaneError::Unknown(_)) => unknown += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        founded.wait_until_waiting(A, 1, "SyncRep", "WITH fence");
        founded.sql(&format!("SELECT {end}(pid) {}", sessions_of(A)));
        // It can be seen, and is answered only behind a commit that a standby has.
        founded.wait_until_waiting(A, 1, "SyncRep", "INSERT INTO entity.probe");
        assert_eq!(founded.shard(1), "1 a 1");
        assert!(!waiting.is_finished());
        founded.superuser("ALTER SYSTEM SET synchronous_standby_names = ''");
        founded.superuser("SELECT pg_reload_conf()");
        waiting.join().unwrap()
    })
}

#[test]
fn a_commit_that_gave_up_on_its_standby_waits_for_the_barrier() {
    assert_eq!(unknown_after("pg_cancel_backend"), 0);
}

#[test]
fn a_commit_ended_while_it_waits_for_its_standby_is_known_again_behind_the_barrier() {
    assert_eq!(unknown_after("pg_terminate_backend"), 1);
}

#[test]
fn shards_are_given_with_their_last_rows_and_what_was_seen_is_confirmed_in_the_same_write() {
    let founded = Founded::new(Server::shared());
    for (name, id, lease) in [("b", B, "1 hour"), ("c", 0xc, "-1 hour")] {
        founded.sql(&format!(
            "INSERT INTO entity.node (name, uuid, boot, incarnation, address, weight, state, build, lease, lease_until, \
             lease_since) VALUES ('{name}', '{}', 1, '{}', '', 1, 0, '', '3 s', now() + interval '{lease}', now())",
            uuid(id << 4),
            uuid(id)
        ));
    }
    let mut lane = founded.lane(A);
    let seen = |shards: &[u32]| shards.iter().map(|shard| (ShardId(*shard), Epoch(1))).collect::<Vec<_>>();
    let mut first = batch(&[1, 2], 1, 1, "one");
    first.section(ShardId(3), Epoch(1), 1, |out| {
        for number in 1..=9_u64 {
            put(&[&[0x12, 0, 0, 0, 7], &number.to_be_bytes()], &[b"m"], out);
        }
        put(&[&[0x10, 0, 0, 0, 7]], &[b"mark"], out);
        put(&[&[0x22], &5_u128.to_be_bytes(), &1_u64.to_be_bytes()], &[b"reply"], out);
        put(&[&[0x30], &1_u64.to_be_bytes()], &[b"item"], out);
    });
    lane.commit(&[first], &seen(&[5, 6])).unwrap();
    lane.commit(&[], &seen(&[1, 5, 6])).unwrap();
    founded.sql(&take(6, B));
    assert!(is_fenced(&lane.commit(&[], &seen(&[5, 6])), 6));
    assert!(is_fenced(&lane.commit(&[batch(&[1], 1, 2, "two")], &seen(&[5, 6])), 6));
    assert_eq!(founded.shard(1), "1 a 1");

    let mut gives = Batch::new();
    for (shard, heir) in [(1, B << 4), (2, 0xc << 4)] {
        gives.section(ShardId(shard), Epoch(1), 2, |out| {
            let (transfer, to) = (TransferId(1), "b".parse().unwrap());
            own(&OwnershipRecord::Seal { transfer, to, store: heir }, out);
            put(&[b"\xf0kind\0k", shard.to_string().as_bytes()], &[b"last"], out);
        });
    }
    gives.section(ShardId(3), Epoch(1), 2, |out| delete_range(&[&[0x12, 0, 0, 0, 7]], 1, 8, out));
    for _ in 0..2 {
        // The second time it is known by the shard that stayed.
        lane.commit(&[gives.clone()], &[]).unwrap();
        assert_eq!((founded.shard(1), founded.shard(2)), ("2 b 0".into(), "2 - 0".into()));
        assert_eq!(founded.images(), ["k1 last", "k2 last"]);
        assert_eq!(founded.sql("SELECT target, number FROM entity.outbox"), ["7 9"]);
    }
    let counts = "SELECT (SELECT count(*) FROM entity.mark), (SELECT count(*) FROM entity.reply), \
                  (SELECT count(*) FROM entity.item)";
    assert_eq!(founded.sql(counts), ["1 1 1"]);
}

#[test]
fn rivals_never_write_under_an_older_epoch() {
    const ROUNDS: u32 = 150;
    let founded = Founded::new(Server::shared());
    let refused: u32 = thread::scope(|scope| {
        let rivals: Vec<_> = (0..4_u32)
            .map(|nth| {
                let founded = &founded;
                scope.spawn(move || rival(founded, nth, ROUNDS))
            })
            .collect();
        rivals.into_iter().map(|rival| rival.join().unwrap()).sum()
    });
    assert!(refused > 0, "rivals met");
}

/// Takes shards from others at random and commits to those it has; returns how often it was fenced.
fn rival(founded: &Founded, nth: u32, rounds: u32) -> u32 {
    let me = 0x100 + u128::from(nth);
    let (session, mut lane) = (founded.session(), founded.lane(me));
    let mut random = nth + 1;
    let mut mine = std::collections::BTreeMap::<u32, (u64, u64)>::new();
    let mut refused = 0;
    for round in 0..rounds {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if random >> 29 == 0 || mine.is_empty() {
            let shard = random >> 8 & 3;
            let epoch = founded.sql_in(&session, &take(shard, me)).concat().parse().unwrap();
            mine.insert(shard, (epoch, 0));
            continue;
        }
        let mut batch = Batch::new();
        for (shard, (epoch, number)) in mine.iter().take(2) {
            batch.section(ShardId(*shard), Epoch(*epoch), number + 1, |out| {
                let image = format!("{epoch:09} {round} {me}");
                put(&[b"\xf0kind\0r", shard.to_string().as_bytes()], &[image.as_bytes()], out);
            });
        }
        let written: Vec<_> = mine.keys().take(2).copied().collect();
        match lane.commit(&[batch], &[]) {
            Ok(_) => {
                for shard in written {
                    let (epoch, number) = mine.get_mut(&shard).unwrap();
                    *number += 1;
                    let text =
                        format!("SELECT encode(image, 'escape') FROM entity.state WHERE key = 'r{shard}'");
                    let image = founded.sql_in(&session, &text).concat();
                    assert!(image[..9].parse::<u64>().unwrap() >= *epoch, "{image} over {epoch}");
                }
            }
            Err(LaneError::Fenced(ShardId(shard))) => {
                refused += 1;
                let (epoch, _) = mine.remove(&shard).unwrap();
                let now = founded.shard(shard);
                assert!(now.split(' ').next().unwrap().parse::<u64>().unwrap() > epoch, "{now}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    refused
}
