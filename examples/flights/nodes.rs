//! Nodes as processes of this program: started, watched, and started again where a signal has ended one.

use crate::{stop::ENDS_WITH_PARENT, teller::Teller};
use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeMap,
    env, fs,
    net::TcpListener,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Lines of a node's log that are shown when it fails.
const COMPLAINTS_MAX: usize = 20;
/// Ports that are tried. Below those that a system gives to outgoing connections: a node that is away for a moment must
/// find its own port free.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// How a node gets into the cluster where its directory is empty.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    /// It begins it.
    Found,
    /// It joins at these addresses.
    Join(Vec<String>),
}

/// What a node's process is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It was started so often, and does not serve yet.
    Starting(u32),
    /// It was started so often, and serves.
    Serving(u32),
    /// It has left, or was told to stop and has stopped.
    Ended,
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Kill,
    /// And it is not started again.
    KillForGood,
    Signal(Signal),
}

struct Node {
    address: String,
    orders: mpsc::UnboundedSender<Order>,
    state: watch::Receiver<State>,
}

/// The nodes of one cluster, by name. Dropped, it ends them all.
pub(crate) struct Nodes {
    directory: PathBuf,
    /// The server that keeps what they all have; else each has a directory.
    store: Option<String>,
    workers: Option<NonZeroUsize>,
    /// Those that have not left.
    present: BTreeMap<String, Node>,
    started: usize,
    watches: JoinSet<Result<()>>,
    /// Says what happens to a node that nobody has ordered.
    teller: Teller,
}

impl Nodes {
    /// None yet. Each will have a log in this directory, and a directory too where no server keeps what it has.
    pub(crate) fn new(
        directory: &Path,
        store: Option<String>,
        workers: Option<NonZeroUsize>,
        teller: Teller,
    ) -> Self {
        Self {
            directory: directory.to_owned(),
            store,
            workers,
            present: BTreeMap::new(),
            started: 0,
            watches: JoinSet::new(),
            teller,
        }
    }

    /// Starts another and waits until it serves. Returns its name.
    pub(crate) async fn add(&mut self) -> Result<String> {
        let entry = match self.addresses() {
            none if none.is_empty() => Entry::Found,
            addresses => Entry::Join(addresses),
        };
        let name = format!("n{}", self.started + 1);
        let address = free_address(self.started)?;
        self.started += 1;
        let launch = Launch {
            name: name.clone(),
            address: address.clone(),
            entry,
            data_dir: self.directory.join(&name),
            store: self.store.clone(),
            log: self.directory.join(format!("{name}.log")),
            workers: self.workers,
        };
        let (orders, taken) = mpsc::unbounded_channel();
        let (tell, state) = watch::channel(State::Starting(0));
        self.watches.spawn(launch.watch(taken, tell, self.teller.clone()));
        self.present.insert(name.clone(), Node { address, orders, state });
        self.until(&name, |state| matches!(state, State::Serving(_))).await?;
        Ok(name)
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.present.values().map(|node| node.address.clone()).collect()
    }

    /// What they are called.
    pub(crate) fn names(&self) -> Vec<String> {
        self.present.keys().cloned().collect()
    }

    /// Ends one with SIGKILL, and waits until it was started again and serves.
    pub(crate) async fn kill(&mut self, name: &str) -> Result<()> {
        let before = match &*self.node(name)?.state.borrow() {
            State::Starting(starts) | State::Serving(starts) => *starts,
            State::Ended => bail!("node {name} has ended"),
        };
        self.order(name, Order::Kill)?;
        self.until(name, |state| matches!(state, State::Serving(starts) if before < *starts)).await
    }

    /// Ends one with SIGKILL, and it does not come back.
    pub(crate) async fn kill_for_good(&mut self, name: &str) -> Result<()> {
        self.order(name, Order::KillForGood)?;
        self.left(name).await
    }

    /// Holds one up, as a machine does that is put to sleep.
    pub(crate) fn pause(&self, name: &str) -> Result<()> {
        self.order(name, Order::Signal(Signal::STOP))
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self, name: &str) -> Result<()> {
        self.order(name, Order::Signal(Signal::CONT))
    }

    /// Waits until one that was told to end has ended.
    pub(crate) async fn left(&mut self, name: &str) -> Result<()> {
        self.until(name, |state| *state == State::Ended).await?;
        self.present.remove(name);
        Ok(())
    }

    /// Stops all of them in peace.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        for name in self.names() {
            self.order(&name, Order::Signal(Signal::TERM))?;
        }
        for name in self.names() {
            self.left(&name).await?;
        }
        Ok(())
    }

    /// Ends all of them at once.
    pub(crate) async fn end(&mut self) {
        self.watches.shutdown().await;
    }

    fn node(&self, name: &str) -> Result<&Node> {
        self.present.get(name).with_context(|| format!("there is no node {name}"))
    }

    fn order(&self, name: &str, order: Order) -> Result<()> {
        self.node(name)?.orders.send(order).map_err(|_| anyhow!("node {name} has ended"))
    }

    /// Waits until a node does this, or any of them has failed.
    async fn until(&mut self, name: &str, is_so: impl FnMut(&State) -> bool) -> Result<()> {
        let mut state = self.node(name)?.state.clone();
        let mut reached = std::pin::pin!(state.wait_for(is_so));
        loop {
            tokio::select! {
                biased;
                reached = &mut reached => {
                    if reached.is_ok() {
                        return Ok(());
                    }
                    // Its watch has ended without it: why, its result says.
                    self.failed().await?;
                    bail!("node {name} has ended");
                }
                Some(ended) = self.watches.join_next() => ended.context("a watch has ended")??,
            }
        }
    }

    /// Waits for something, and for no longer than no node fails.
    pub(crate) async fn beside<T>(&mut self, something: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = something => done,
            failed = self.failed() => {
                failed?;
                bail!("a node has failed")
            }
        }
    }

    /// Waits for a node that fails; for ever where none does.
    async fn failed(&mut self) -> Result<()> {
        while let Some(ended) = self.watches.join_next().await {
            ended.context("a watch has ended")??;
        }
        std::future::pending().await
    }
}

/// How one node is started, each time.
struct Launch {
    name: String,
    address: String,
    entry: Entry,
    data_dir: PathBuf,
    store: Option<String>,
    log: PathBuf,
    workers: Option<NonZeroUsize>,
}

impl Launch {
    /// Starts it, and starts it again for as long as signals end it.
    async fn watch(
        self,
        mut orders: mpsc::UnboundedReceiver<Order>,
        state: watch::Sender<State>,
        teller: Teller,
    ) -> Result<()> {
        let name = &self.name;
        let mut is_stopping = false;
        for starts in 1.. {
            state.send_replace(State::Starting(starts));
            let mut child = self.spawn()?;
            let mut lines = BufReader::new(child.stdout.take().context("its output is a pipe")?).lines();
            // Held for as long as this process lives.
            let _stdin = child.stdin.take();
            let (mut is_killed, mut has_left, mut has_output) = (false, false, true);
            let mut is_for_good = false;
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status.context("cannot wait for a node")?,
                    line = lines.next_line(), if has_output => match line.context("cannot read what a node says")? {
                        Some(line) if line.contains(" serves at ") => {
                            state.send_replace(State::Serving(starts));
                        }
                        Some(line) => has_left |= line.ends_with(" has left the cluster"),
                        None => has_output = false,
                    },
                    Some(order) = orders.recv() => match order {
                        Order::Kill => {
                            is_killed = true;
                            child.start_kill().context("cannot kill a node")?;
                        }
                        Order::KillForGood => {
                            is_for_good = true;
                            child.start_kill().context("cannot kill a node")?;
                        }
                        Order::Signal(signal) => {
                            is_stopping |= signal == Signal::TERM;
                            signal_to(&child, signal)?;
                        }
                    },
                }
            };
            while has_output && let Ok(Some(line)) = lines.next_line().await {
                has_left |= line.ends_with(" has left the cluster");
            }
            // Somebody else may be quicker than what it was told; it must not be started again for that.
            let has_stopped = is_stopping && status.code().is_none_or(|code| code == 0);
            if is_for_good || status.success() && has_left || has_stopped {
                state.send_replace(State::Ended);
                return Ok(());
            }
            if status.code().is_some_and(|code| code != 0) {
                bail!("node {name} failed ({status}):\n{}", self.complaints());
            }
            if !is_killed {
                // Somebody else did it. That must not change anything either.
                teller
                    .tell(&format!("{name} was ended by somebody else ({status}), and is started again"))?;
            }
        }
        unreachable!("a node is started again for ever")
    }

    fn spawn(&self) -> Result<Child> {
        let program = env::current_exe().context("cannot find this program's own file")?;
        let log = fs::File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(program);
        command.arg("node").args(["--name", &self.name, "--listen", &self.address]);
        match &self.store {
            // Not an argument: it has a password.
            Some(url) => command.env("ENTITY_STORE", url),
            None => command.arg("--data-dir").arg(&self.data_dir),
        };
        match &self.entry {
            Entry::Found => command.arg("--found"),
            // Who shares a store finds the others in it.
            Entry::Join(_) if self.store.is_some() => &mut command,
            Entry::Join(addresses) => command.arg("--join").arg(addresses.join(",")),
        };
        if let Some(workers) = self.workers {
            command.arg("--workers").arg(workers.to_string());
        }
        command.env(ENDS_WITH_PARENT, "yes").stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        command.spawn().context("cannot start this program as a node")
    }

    /// The end of its log.
    fn complaints(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(COMPLAINTS_MAX)..].join("\n")
    }
}

fn signal_to(child: &Child, signal: Signal) -> Result<()> {
    // One that has ended has no id any more, and is told so by its state.
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    pid.map_or(Ok(()), |pid| kill_process(pid, signal)).context("cannot send a node a signal")
}

/// An address of this machine that nobody listens at.
fn free_address(salt: usize) -> Result<String> {
    let span = usize::from(PORTS.end - PORTS.start);
    let first = (std::process::id() as usize * 31 + salt * 7) % span;
    for step in 0..span {
        let port = PORTS.start + ((first + step) % span) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(format!("127.0.0.1:{port}"));
        }
    }
    bail!("no port from {} to {} is free", PORTS.start, PORTS.end)
}
