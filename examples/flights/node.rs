//! `flights node`: the same entities as in `run`, in a process that is one of many.

use crate::{load, security::SecurityArgs};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use entity_runtime::{
    Runtime,
    cluster::{Begin, ClusterConfig, Departure},
    placement::NodeName,
};
use std::{
    io::{self, Write},
    num::NonZeroUsize,
    path::PathBuf,
    pin::pin,
    process::ExitCode,
};

/// What `node` is told.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// What the node is called, for good; also in its certificate [default: the address of --listen]
    #[arg(long)]
    name: Option<NodeName>,

    /// Where its part of the entities is kept; made if it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Where it listens; port 0 takes any that is free
    #[arg(long, value_name = "HOST:PORT")]
    listen: String,

    /// On an empty directory: begin a cluster
    #[arg(long, conflicts_with = "join")]
    found: bool,

    /// On an empty directory: join the cluster of the nodes at these addresses
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    join: Vec<String>,

    /// Its share of the entities against others', from 1 to 100
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    weight: u16,

    /// Threads that run entities [default: one per core]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,

    #[command(flatten)]
    security: SecurityArgs,
}

/// Runs it, until it is told to stop or has left.
pub(crate) async fn node(args: NodeArgs) -> Result<ExitCode> {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    let name = match args.name {
        Some(name) => name,
        None => args.listen.parse().context("the address of --listen is no name; give one with --name")?,
    };
    let begin = match (args.found, args.join) {
        (true, _) => Begin::Found,
        (false, seeds) if seeds.is_empty() => Begin::Resume,
        (false, seeds) => Begin::Join(seeds),
    };
    let mut config = ClusterConfig::new(name.clone(), args.listen, begin);
    config.weight = args.weight;
    config.security = args.security.security()?;

    let mut asked = pin!(asked_to_stop()?);
    let mut builder = load::with_entities(Runtime::builder()).data_dir(&args.data_dir).cluster(config);
    if let Some(workers) = args.workers {
        builder = builder.workers(workers.get());
    }
    // While it waits for a node to join at it can be stopped as well.
    let runtime = tokio::select! {
        biased;
        () = &mut asked => return Ok(ExitCode::SUCCESS),
        started = builder.start() => started.context("the node cannot start")?,
    };
    let address = runtime.listens_at().expect("a node of a cluster listens");
    say(&format!("node {name} serves at {address}\n"))?;

    let departure = tokio::select! {
        biased;
        () = &mut asked => None,
        departure = runtime.departed() => Some(departure),
    };
    runtime.shutdown().await;
    match departure {
        None => {}
        Some(Departure::Left) => say(&format!("node {name} has handed everything over and left\n"))?,
        Some(Departure::Failed(why)) => {
            bail!("node {name} has failed: {why}; start it again from its directory")
        }
        Some(other) => bail!("node {name} has ended: {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes Ctrl-C and SIGTERM over, and is ready when one has come.
fn asked_to_stop() -> Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?
    };
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    })
}

fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}
