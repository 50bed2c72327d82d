//! `flights load` and `flights report`: what `run` does in one process, to nodes that others have started.

use crate::{
    load::{self, End, Loaded, Source},
    meter::Meter,
    quiet::quiet,
    run,
    stop::{STOPPED, Stop},
};
use anyhow::{Context as _, Result};
use clap::Args;
use entity_runtime::{Client, command::SecurityArgs};
use flights_plain::{
    report::{Counters, Report},
    rows::Rows,
};
use std::{
    io::{self, Write},
    num::NonZeroU64,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

/// Which nodes.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Addresses of nodes; one that answers is enough, the rest is heard of there
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    connect: Vec<String>,

    #[command(flatten)]
    security: SecurityArgs,
}

/// What `load` is told.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    nodes: ConnectArgs,

    /// The rows: a .csv file, gzipped or not
    #[arg(long, value_name = "FILE")]
    input: PathBuf,

    /// Name of the feed: rows that were counted under it are not counted again [default: the file's name]
    #[arg(long, value_name = "NAME")]
    feed: Option<String>,

    /// Tell another program on standard error how far it is, every so many rows
    #[arg(long, value_name = "ROWS", hide = true)]
    progress_lines: Option<NonZeroU64>,
}

/// What `report` is told.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    #[command(flatten)]
    nodes: ConnectArgs,

    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,

    /// How long to wait until nothing is on its way any more
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    within: u64,
}

impl ConnectArgs {
    async fn client(&self) -> Result<Client> {
        Ok(Client::connect_with(&self.connect, &self.security.clone().security()?).await?)
    }
}

/// Runs `load`.
pub(crate) async fn load(args: LoadArgs) -> Result<ExitCode> {
    let name = match &args.feed {
        Some(name) => name,
        None => load::feed_name(&args.input)?,
    };
    let mut rows = Rows::open(&args.input)?;
    let stop = Stop::listen();
    let source = Source { file: &args.input, name, place: "the cluster" };
    let client = tokio::select! {
        biased;
        () = stop.asked() => return Ok(ExitCode::from(STOPPED)),
        client = args.nodes.client() => client?,
    };
    let mut meter = Meter::new(args.progress_lines, &rows);
    let loaded = load::load(&client, &source, &mut rows, &mut meter, &stop).await;
    meter.clear();
    let Loaded { end, progress } = loaded?;
    match end {
        End::Whole => meter.close(progress),
        End::Stopped => {
            let _ = writeln!(io::stderr(), "{}", source.stopped(progress));
            return Ok(ExitCode::from(STOPPED));
        }
        End::Bad(error) => return Err(source.bad_row(&error, progress.durable)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `report`.
pub(crate) async fn report(args: ReportArgs) -> Result<ExitCode> {
    let client = args.nodes.client().await?;
    let report = gather(&client, Duration::from_secs(args.within)).await?;
    run::print(&report, args.json)
}

/// The figures of all entities when everything that was sent has arrived.
pub(crate) async fn gather(client: &Client, within: Duration) -> Result<Report> {
    let statuses = quiet(client, within).await?;
    let tables = load::tables(client).await.context("cannot read the figures")?;
    let mut counters = Counters::default();
    for status in statuses.values() {
        counters.applied += status.counters.applied;
        counters.duplicates += status.counters.duplicates;
        counters.dead_letters += status.counters.dead_lettered;
    }
    Ok(Report { tables, counters })
}
