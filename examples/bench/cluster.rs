//! Nodes as processes of their own on loopback: how fast they ask and pay each other, how soon they form a cluster, join
//! and come back, and how long a shard stands still when it moves.

use crate::{
    Load,
    entities::{Account, Balance, Pay, Scratch, deposit, key, kinds},
    machine::{cpu, cpu_of, rate},
    raw,
};
use anyhow::{Context as _, Result, bail, ensure};
use entity_runtime::{
    cluster::{Begin, ClusterConfig, Command, CommandAnswer, NodeStatus},
    prelude::*,
};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hdrhistogram::Histogram;
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

/// Tasks that ask; each has its share of what is outstanding.
const TASKS: usize = 8;
/// Between two looks at the nodes' status.
const LOOK: Duration = Duration::from_millis(5);
/// Longest that anything here is waited for.
const PATIENCE: Duration = Duration::from_mins(2);

/// The child: a node until it is killed.
pub(crate) async fn serve(
    name: &str,
    listen: &str,
    dir: &Path,
    join: Option<String>,
    workers: usize,
) -> Result<()> {
    let begin = join.map_or(Begin::Found, |seed| Begin::Join(vec![seed]));
    let config = ClusterConfig::new(name.parse()?, listen, begin);
    let runtime = kinds(workers).data_dir(dir).cluster(config).start().await?;
    println!("{}", runtime.listens_at().context("a node listens")?);
    runtime.departed().await;
    Ok(())
}

/// A node's process.
struct Node {
    child: Child,
    name: &'static str,
    dir: PathBuf,
    address: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    fn start(load: &Load, name: &'static str, join: Option<&str>) -> Result<Self> {
        let dir = load.dir.join(format!("node-{name}"));
        Self::start_at(load, name, "127.0.0.1:0", dir, join)
    }

    fn start_at(
        load: &Load,
        name: &'static str,
        listen: &str,
        dir: PathBuf,
        join: Option<&str>,
    ) -> Result<Self> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args(["--node", name, "--listen", listen, "--workers", &load.workers.to_string()]);
        command.arg("--serve").arg(&dir).args(join.iter().flat_map(|seed| ["--join", seed]));
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        BufReader::new(child.stdout.take().context("the child's output")?).read_line(&mut said)?;
        let node = Self { child, name, dir, address: said.trim().to_owned() };
        ensure!(!node.address.is_empty(), "node {name} did not start");
        Ok(node)
    }
}

async fn status(client: &Client, name: &str) -> Option<NodeStatus> {
    match client.command(Some(&name.parse().ok()?), Command::Status).await {
        Ok(CommandAnswer::Status(status)) => Some(*status),
        _ => None,
    }
}

/// Looks until every node says so; gives what they said.
async fn until(
    client: &Client,
    nodes: &[&str],
    is_so: impl Fn(&NodeStatus) -> bool,
) -> Result<Vec<NodeStatus>> {
    let started = Instant::now();
    loop {
        let mut all = Vec::new();
        for name in nodes {
            all.extend(status(client, name).await.filter(|status| is_so(status)));
        }
        if all.len() == nodes.len() {
            return Ok(all);
        }
        if PATIENCE < started.elapsed() {
            bail!("{nodes:?} did not come to rest within {PATIENCE:?}: {all:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn share(status: &NodeStatus, name: &str) -> usize {
    status.shards.iter().filter(|shard| shard.owner.as_str() == name).count()
}

/// Nothing moves, and each of these has at least half of its share.
fn is_at_rest(status: &NodeStatus, nodes: &[&str]) -> bool {
    let least = status.shards_total as usize / nodes.len() / 2;
    status.going + status.coming == 0 && nodes.iter().all(|node| least <= share(status, node))
}

/// Everything.
pub(crate) async fn measure(load: &Load) -> Result<()> {
    let raw = raw::measure(1_000, load.time)?;
    let (first, client) = found(load).await?;
    asks(load, &client, &[&first], raw).await?;
    let second = join(load, &client, &first).await?;
    asks(load, &client, &[&first, &second], raw).await?;
    transfers(load, &client, raw).await?;
    let second = come_back(load, &client, second).await?;
    drop((first, second));
    form(load).await
}

/// What goes between nodes while nothing moves.
pub(crate) async fn measure_at_rest(load: &Load) -> Result<()> {
    let all = ["a", "b"];
    let raw = raw::measure(1_000, load.time)?;
    let (first, client) = found(load).await?;
    asks(load, &client, &[&first], raw).await?;
    let second = Node::start(load, "b", Some(&first.address))?;
    until(&client, &all, |status| is_at_rest(status, &all)).await?;
    asks(load, &client, &[&first, &second], raw).await?;
    transfers(load, &client, raw).await
}

/// A node with all entities, and a client of it.
async fn found(load: &Load) -> Result<(Node, Client)> {
    let first = Node::start(load, "a", None)?;
    let client = Client::connect([first.address.clone()]).await?;
    let mut feed = client.feed("fill").await?;
    for number in 0..load.keys {
        feed.send(number + 1, Account::at(key(number)), deposit(number)).await?;
    }
    feed.flush().await?;
    Ok((first, client))
}

/// Asks over a connection: of one node, which is another process beside the client's as that of the raw echo is, or of several by turns.
async fn asks(load: &Load, client: &Client, nodes: &[&Node], raw: f64) -> Result<()> {
    let spent = || nodes.iter().map(|node| cpu_of(&node.child.id().to_string())).sum::<Duration>();
    let whom = if nodes.len() == 1 { "one node" } else { "two nodes" };
    for (what, outstanding) in [("volatile", 1), ("volatile", 1_000), ("durable", 64), ("durable", 1_024)] {
        let is_volatile = what == "volatile";
        let (here, there, started) = (cpu(), spent(), Instant::now());
        let times = asked(load, client, is_volatile, outstanding, load.time).await?;
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / times.len().max(1) as f64;
        let (here, there) = (each(cpu().saturating_sub(here)), each(spent().saturating_sub(there)));
        let per_second = times.len() as f64 / started.elapsed().as_secs_f64();
        let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "remote ask    {whom}, {what}, {outstanding} outstanding: {} ({here:.2} core-us at the client, {there:.2} at the nodes), \
             p50 {:.0} us, p99 {:.0} us; {:.3} of the raw echo{}",
            rate(per_second),
            micros(0.5),
            micros(0.99),
            per_second / raw,
            if is_volatile && outstanding == 1_000 && nodes.len() == 1 { "; floor 300 k/s" } else { "" },
        );
    }
    Ok(())
}

/// How long each ask took, with so many on their way at a time, of a few tasks.
async fn asked(
    load: &Load,
    client: &Client,
    is_volatile: bool,
    outstanding: usize,
    time: Duration,
) -> Result<Histogram<u64>> {
    let tasks = outstanding.min(TASKS);
    let tasks: Vec<_> = (0..tasks as u64)
        .map(|task| {
            let (client, keys) = (client.clone(), load.keys);
            let each = outstanding / tasks;
            tokio::spawn(async move {
                let mut numbers = Numbers(task.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let mut asking = FuturesUnordered::new();
                let mut times = Histogram::<u64>::new(3)?;
                let started = Instant::now();
                loop {
                    while asking.len() < each && started.elapsed() < time {
                        asking.push(one(client.clone(), is_volatile, numbers.next(keys)));
                    }
                    match asking.next().await {
                        Some(nanos) => times.record(nanos?)?,
                        None => return Ok::<_, anyhow::Error>(times),
                    }
                }
            })
        })
        .collect();
    let mut times = Histogram::<u64>::new(3)?;
    for task in tasks {
        times.add(task.await??)?;
    }
    Ok(times)
}

/// Numbers of keys, each task its own.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, keys: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(1);
        (self.0 >> 20) % keys
    }
}

async fn one(client: Client, is_volatile: bool, number: u64) -> Result<u64> {
    let started = Instant::now();
    if is_volatile {
        client.ask(Scratch::at(key(number)), deposit(number)).await?;
    } else {
        client.ask(Account::at(key(number)), deposit(number)).await?;
    }
    Ok(started.elapsed().as_nanos() as u64)
}

async fn applied(client: &Client) -> u64 {
    let mut sum = 0;
    for name in client.nodes() {
        sum += status(client, name.as_str()).await.map_or(0, |status| status.counters.applied);
    }
    sum
}

/// Each account pays another: half of the payments cross from node to node.
async fn transfers(load: &Load, client: &Client, raw: f64) -> Result<()> {
    let count = 100_000 * load.time.as_secs();
    let before = applied(client).await;
    let started = Instant::now();
    let mut feed = client.feed("transfers").await?;
    for number in 1..=count {
        let to = key(number.wrapping_mul(104_729) % load.keys);
        feed.send(number, Account::at(key(number.wrapping_mul(7_919) % load.keys)), Pay { to, cents: 1 })
            .await?;
    }
    feed.flush().await?;
    while applied(client).await < before + 2 * count {
        ensure!(started.elapsed() < PATIENCE, "the transfers did not arrive");
        tokio::time::sleep(LOOK).await;
    }
    let per_second = count as f64 / started.elapsed().as_secs_f64();
    println!(
        "transfers     {count} between accounts of two nodes, both ends durable: {}; {:.3} of the raw echo; floor 50 k/s",
        rate(per_second),
        per_second / raw
    );
    Ok(())
}

/// A node joins while asks go on.
async fn join(load: &Load, client: &Client, first: &Node) -> Result<Node> {
    let all = ["a", "b"];
    let asking = tokio::spawn({
        let (load, client) = (load.clone(), client.clone());
        async move { asked(&load, &client, false, 16, Duration::from_secs(8)).await }
    });
    let started = Instant::now();
    let second = Node::start(load, "b", Some(&first.address))?;
    let after = until(client, &all, |status| is_at_rest(status, &all)).await?;
    let joined = started.elapsed();
    let times = asking.await??;
    let sum = |of: &[NodeStatus], value: fn(&NodeStatus) -> u64| of.iter().map(value).sum::<u64>();
    let moved = sum(&after, |status| status.moves.moved);
    let stalled = sum(&after, |status| status.moves.stall_us_sum);
    let p99 = after.iter().map(|status| status.moves.stall_us_p99).max().unwrap_or(0);
    let longest = after.iter().map(|status| status.moves.stall_us_max).max().unwrap_or(0);
    let millis = |quantile| times.value_at_quantile(quantile) as f64 / 1e6;
    println!(
        "join          with {} entities: its shards are there {:.2} s after its start, {moved} moved; each stood still for {:.1} ms, \
         p99 {:.1} ms, max {:.1} ms; floors 3 s, p99 200 ms",
        load.keys,
        joined.as_secs_f64(),
        stalled as f64 / 1e3 / moved.max(1) as f64,
        p99 as f64 / 1e3,
        longest as f64 / 1e3,
    );
    println!(
        "meanwhile     {} durable asks, 16 outstanding: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms",
        times.len(),
        millis(0.5),
        millis(0.99),
        millis(0.999),
        millis(1.0)
    );
    Ok(second)
}

/// A node is killed, and starts again on what it has.
async fn come_back(load: &Load, client: &Client, mut node: Node) -> Result<Node> {
    let mut feed = client.feed("fill more").await?;
    for number in 1..=load.recover {
        feed.send(number, Account::at(key(number)), deposit(number)).await?;
    }
    feed.flush().await?;
    let here = until(client, &[node.name], |_| true).await?;
    let share = share(&here[0], node.name);
    node.child.kill()?;
    node.child.wait()?;
    let started = Instant::now();
    let node = Node::start_at(load, node.name, &node.address, node.dir.clone(), None)?;
    let serving = started.elapsed();
    let asks = (1..=1_000).map(|number| client.ask(Account::at(key(number)), Balance).into_future());
    for balance in futures_util::future::join_all(asks).await {
        balance?;
    }
    println!(
        "come back     after SIGKILL, with {share} of 256 shards of {} entities: serving in {:.2} s; 1,000 entities of all nodes asked \
         {:.2} s later",
        load.recover,
        serving.as_secs_f64(),
        started.elapsed().saturating_sub(serving).as_secs_f64()
    );
    Ok(node)
}

/// Three empty nodes, from nothing.
async fn form(load: &Load) -> Result<()> {
    let all = ["x", "y", "z"];
    let started = Instant::now();
    let first = Node::start(load, "x", None)?;
    let _others =
        [Node::start(load, "y", Some(&first.address))?, Node::start(load, "z", Some(&first.address))?];
    let client = Client::connect([first.address.clone()]).await?;
    until(&client, &all, |status| status.nodes.iter().filter(|node| node.is_connected).count() == 3).await?;
    let formed = started.elapsed();
    until(&client, &all, |status| is_at_rest(status, &all)).await?;
    println!(
        "form          three nodes know each other {:.2} s after the first was started, and have their shards after {:.2} s",
        formed.as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
