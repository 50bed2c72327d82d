//! The load program behind `make bench`: the whole path, measured beside the raw disk in the same run.
//!
//! Every figure of the runtime stands beside one of the same machine at the same moment, because these machines differ
//! and drift: read the ratios. What each section does is said in its file.

#![expect(clippy::cast_precision_loss, reason = "figures are read to three digits")]

mod asks;
mod cluster;
mod disk;
mod entities;
mod feed;
mod machine;
mod memory;
mod postgres;
mod raw;
mod recovery;
mod volatile;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use std::{path::PathBuf, time::Duration};

/// Messages are allocated and freed on different threads, which the system's allocator takes ill.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the runtime against the raw disk of this machine.
#[derive(Parser)]
#[command(version, after_help = "Examples:\n  bench\n  bench --only feed --seconds 10 --dir /mnt/fast")]
struct Arguments {
    /// Measure only this; all in turn otherwise.
    #[arg(long, value_enum)]
    only: Vec<Section>,
    /// How long each load runs.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Where stores are made, on the disk to be measured. A fresh directory below the current one unless given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Entities in the loads.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Workers; one per core unless given.
    #[arg(long)]
    workers: Option<usize>,
    /// Entities that are recovered.
    #[arg(long, default_value_t = 1_000_000)]
    recover: u64,
    /// Fill a store and wait to be killed: the child of the recovery section.
    #[arg(long, hide = true)]
    fill: Option<PathBuf>,
    /// Measure memory only and say nothing else: the child of the memory section.
    #[arg(long, hide = true)]
    weigh: bool,
    /// Be a node of this name: a child of the cluster section.
    #[arg(long, hide = true, requires = "serve")]
    node: Option<String>,
    #[arg(long, hide = true, default_value = "127.0.0.1:0")]
    listen: String,
    /// On this directory.
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
    #[arg(long, hide = true)]
    join: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    Disk,
    Feed,
    Asks,
    Volatile,
    Memory,
    Recovery,
    Cluster,
    /// On a private server, which must be installed (`tools/postgres.sh`).
    Postgres,
    /// Of the cluster only what goes between nodes at rest: asks and transfers.
    Remote,
}

/// What every section is told.
#[derive(Clone)]
struct Load {
    time: Duration,
    keys: u64,
    workers: usize,
    dir: PathBuf,
    /// Entities that are recovered.
    recover: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if let (Some(name), Some(dir)) = (&arguments.node, &arguments.serve) {
        let workers = arguments.workers.unwrap_or(cores);
        return cluster::serve(name, &arguments.listen, dir, arguments.join, workers).await;
    }
    let place = match &arguments.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            tempfile::tempdir_in(dir)?
        }
        None => tempfile::tempdir_in(".")?,
    };
    let load = Load {
        time: Duration::from_secs(arguments.seconds),
        keys: arguments.keys,
        workers: arguments.workers.unwrap_or(cores),
        dir: place.path().to_path_buf(),
        recover: arguments.recover,
    };
    if let Some(dir) = &arguments.fill {
        return recovery::fill(dir, arguments.recover, load.workers).await;
    }
    if arguments.weigh {
        return memory::measure(&load).await;
    }
    let wanted = |section| arguments.only.is_empty() || arguments.only.contains(&section);
    println!("{}", machine::describe());
    println!("{} keys, {} workers, {} s a load\n", load.keys, load.workers, arguments.seconds);
    let mut floor = disk::Floor::default();
    if wanted(Section::Disk) || wanted(Section::Feed) || wanted(Section::Asks) {
        floor = disk::measure(&load)?;
    }
    if wanted(Section::Feed) {
        feed::measure(&load, &floor).await?;
    }
    if wanted(Section::Asks) {
        asks::measure(&load, &floor).await?;
    }
    if wanted(Section::Volatile) {
        volatile::measure(&load).await?;
    }
    if wanted(Section::Memory) {
        memory::measure_alone(&load)?;
    }
    if wanted(Section::Recovery) {
        recovery::measure(&load, arguments.recover).await?;
    }
    if wanted(Section::Cluster) {
        cluster::measure(&load).await?;
    }
    if wanted(Section::Postgres) {
        postgres::measure(&load).await?;
    }
    if arguments.only.contains(&Section::Remote) {
        cluster::measure_at_rest(&load).await?;
    }
    Ok(())
}
