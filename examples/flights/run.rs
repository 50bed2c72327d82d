//! `flights run`: a file through the entities, and what they answer.

use crate::{
    load::{self, End, Loaded, Source},
    meter::Meter,
    stop::{STOPPED, Stop},
};
use anyhow::{Context as _, Result};
use clap::Args;
use entity_runtime::Runtime;
use flights_plain::{
    progress::Progress,
    report::{Counters, Report},
    rows::Rows,
    table,
};
use std::{
    io::{self, Write},
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    process::ExitCode,
};

/// What `run` is told.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The rows: a .csv file, gzipped or not
    ///
    /// Its file name is the name of the feed: rows that were counted under this name are not counted again, and another
    /// file under the same name is refused.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,

    /// Where the entities are kept; made if it is not there
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Threads that run entities [default: one per core]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,

    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,

    /// Tell another program on standard error how far it is, every so many rows
    #[arg(long, value_name = "ROWS", hide = true)]
    progress_lines: Option<NonZeroU64>,
}

enum Ended {
    Counted(Report),
    Stopped(Progress),
}

/// Runs it.
pub(crate) async fn run(args: RunArgs) -> Result<ExitCode> {
    // The file is looked at before the directory is made: a mistyped name leaves nothing behind.
    let name = load::feed_name(&args.input)?;
    let mut rows = Rows::open(&args.input)?;
    let stop = Stop::listen();
    let place = args.data_dir.display().to_string();
    let source = Source { file: &args.input, name, place: &place };
    let mut builder = load::with_entities(Runtime::builder()).data_dir(&args.data_dir);
    if let Some(workers) = args.workers {
        builder = builder.workers(workers.get());
    }
    let runtime =
        builder.start().await.with_context(|| format!("cannot start on the data directory {place}"))?;

    let ended = count(&runtime, &source, &mut rows, args.progress_lines, &stop).await;
    // Also after an error: what was read before it stays applied.
    runtime.shutdown().await;

    match ended? {
        Ended::Counted(report) => print(&report, args.json),
        Ended::Stopped(progress) => {
            let _ = writeln!(io::stderr(), "{}", source.stopped(progress));
            Ok(ExitCode::from(STOPPED))
        }
    }
}

async fn count(
    runtime: &Runtime,
    source: &Source<'_>,
    rows: &mut Rows,
    lines_every: Option<NonZeroU64>,
    stop: &Stop,
) -> Result<Ended> {
    let client = runtime.client();
    let mut meter = Meter::new(lines_every, rows);
    let loaded = load::load(&client, source, rows, &mut meter, stop).await;
    meter.clear();
    let Loaded { end, progress } = loaded?;
    match end {
        End::Whole => meter.close(progress),
        End::Stopped => return Ok(Ended::Stopped(progress)),
        End::Bad(error) => return Err(source.bad_row(&error, progress.durable)),
    }
    let report = async {
        runtime.quiesce().await;
        let tables = load::tables(&client).await?;
        let counters = runtime.counters();
        let counters = Counters {
            applied: counters.applied,
            duplicates: counters.duplicates,
            dead_letters: counters.dead_lettered,
        };
        Ok(Ended::Counted(Report { tables, counters }))
    };
    tokio::select! {
        biased;
        () = stop.asked() => Ok(Ended::Stopped(progress)),
        report = report => report,
    }
}

/// Prints a report, for people or for programs.
pub(crate) fn print(report: &Report, is_json: bool) -> Result<ExitCode> {
    let text = if is_json {
        serde_json::to_string(report).context("cannot write the report as JSON")? + "\n"
    } else {
        table::render(report)
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write the report")?;
    Ok(ExitCode::SUCCESS)
}
