//! A node that was stopped for longer than its lease, and goes on as if nothing had been: nothing of what it does counts.

use super::load::{Load, builder};
use entity_runtime::{Runtime, cluster::Begin, prelude::*};
use entity_runtime_tests::nodes::{addresses, config, shards_of, until};
use entity_runtime_tests::private_postgres::Server;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio_postgres::{Client as Sql, SimpleQueryMessage};

const LEASE: Duration = Duration::from_millis(300);
/// Times that an owner is stopped in the middle of its work.
const ROUNDS: u32 = 5;

/// The node `z`, in a process of its own.
struct Zombie(Child);

impl Zombie {
    fn start(url: &str) -> Self {
        let lease = LEASE.as_millis().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_victim"));
        command.args(["share", "z", url, &lease]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "serves\n");
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Zombie {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two nodes on a database: one here, and one that will be stopped.
struct World {
    server: Arc<Server>,
    database: String,
    survivor: Runtime,
    zombie: Zombie,
    client: Client,
}

impl World {
    /// The survivor gives a shard away again after `rest`.
    async fn start(rest: Duration) -> Self {
        let server = Server::shared();
        let url = server.database().await;
        let mut survivor = config("a", "127.0.0.1:0", Begin::Found);
        survivor.pace.rest = rest;
        let survivor = builder([&url]).lease(LEASE).cluster(survivor).start().await.unwrap();
        let database = url.rsplit('/').next().unwrap().to_owned();
        let zombie = tokio::task::spawn_blocking(move || Zombie::start(&url)).await.unwrap();
        let client = Client::connect(addresses(&[&survivor])).await.unwrap();
        Self { server, database, survivor, zombie, client }
    }

    async fn sql(&self) -> Sql {
        self.server.client("postgres", &self.database).await
    }

    async fn until(&self, what: &str, is_so: impl Fn(usize) -> bool) {
        until(&self.client, "a", what, |status| is_so(shards_of(status, "z"))).await;
    }

    /// Stops the zombie for ten leases, in which the survivor takes all it had.
    async fn stop_for_long(&self) {
        let sql = self.sql().await;
        self.zombie.signal(Signal::STOP);
        let ends =
            value(&sql, &format!("SELECT clock_timestamp() + interval '{} ms'", 10 * LEASE.as_millis()))
                .await;
        self.until("the other node has all shards", |shards| shards == 0).await;
        while value(&sql, &format!("SELECT clock_timestamp() < '{ends}'")).await == "t" {
            tokio::task::yield_now().await;
        }
    }

    /// Lets it go on, until its lease was renewed so often.
    async fn wake(&self, beats: u32) {
        let sql = self.sql().await;
        self.zombie.signal(Signal::CONT);
        let lease = "SELECT lease_until FROM entity.node WHERE name = 'z'";
        let mut last = value(&sql, lease).await;
        for _ in 0..beats {
            loop {
                let now = value(&sql, lease).await;
                if std::mem::replace(&mut last, now.clone()) != now {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn value(sql: &Sql, query: &str) -> String {
    let messages = sql.simple_query(query).await.unwrap();
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("-").to_owned()),
        _ => None,
    });
    row.expect("one row")
}

/// Everything there is of entities and shards.
async fn contents(sql: &Sql) -> Vec<String> {
    let mut contents = Vec::new();
    for table in ["shard", "state", "mark", "outbox", "reply", "item"] {
        let rows = format!("SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM entity.{table} t");
        contents.push(value(sql, &rows).await);
    }
    contents
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_stopped_while_idle_writes_nothing_when_it_goes_on() {
    let world = World::start(Duration::from_hours(1)).await;
    world.until("the zombie has its share", |shards| 10 < shards).await;
    let mut load = Load::begin(&world.client).await;
    load.more(200).await;
    load.check().await;
    world.stop_for_long().await;
    world.survivor.quiesce().await;
    let sql = world.sql().await;
    let before = contents(&sql).await;
    world.wake(20).await;
    assert_eq!(contents(&sql).await, before);
    // What was taken from it is served, and a call to it finds its way.
    let mut load = Load::begin(&world.client).await;
    load.more(50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_was_stopped_in_the_middle_of_its_work_undoes_and_doubles_nothing() {
    let world = World::start(Duration::from_millis(200)).await;
    world.until("the zombie has a share", |shards| 5 < shards).await;
    let mut load = Load::begin(&world.client).await;
    for _ in 0..ROUNDS {
        load.more(100).await;
        world.stop_for_long().await;
        load.more(50).await;
        world.wake(3).await;
        load.more(50).await;
        world.until("the zombie has a share again", |shards| 5 < shards).await;
    }
    load.check().await;
    let operator = world.survivor.operator();
    assert_eq!(operator.stuck(10).await.unwrap().len(), 0);
}
