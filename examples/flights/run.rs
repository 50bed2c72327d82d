//! `flights run`: a file through the entities, and what they answer.

use crate::{
    load::{self, End, Loaded},
    meter::Meter,
    stop::{STOPPED, Stop},
};
use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use entity_runtime::Runtime;
use flights_plain::{
    report::Report,
    rows::Rows,
    table::{self, number},
};
use std::{
    io::{self, Write},
    num::{NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
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
    Stopped { sent: u64, durable: u64 },
}

/// Runs it.
pub(crate) async fn run(args: RunArgs) -> Result<ExitCode> {
    // The file is looked at before the directory is made: a mistyped name leaves nothing behind.
    let name = feed_name(&args.input)?;
    let mut rows = Rows::open(&args.input)?;
    let stop = Stop::listen();
    let runtime = load::start(&args.data_dir, args.workers).await?;

    let ended = count(&runtime, name, &mut rows, &args, &stop).await;
    // Also after an error: what was read before it stays applied.
    runtime.shutdown().await;

    match ended? {
        Ended::Counted(report) => {
            let text = if args.json {
                serde_json::to_string(&report).context("cannot write the report as JSON")? + "\n"
            } else {
                table::render(&report)
            };
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write the report")?;
            Ok(ExitCode::SUCCESS)
        }
        Ended::Stopped { sent, durable } => {
            let _ = writeln!(
                io::stderr(),
                "stopped: {} of {} rows read are durable in {}; run the same command again and it goes on from there",
                number(durable),
                number(sent),
                args.data_dir.display()
            );
            Ok(ExitCode::from(STOPPED))
        }
    }
}

async fn count(runtime: &Runtime, name: &str, rows: &mut Rows, args: &RunArgs, stop: &Stop) -> Result<Ended> {
    let mut meter = Meter::new(args.progress_lines, rows);
    let loaded = load::load(runtime, name, &args.input, rows, &mut meter, stop).await;
    meter.clear();
    let Loaded { end, progress, keys } = loaded?;
    let stopped = Ended::Stopped { sent: progress.sent, durable: progress.durable };
    match end {
        End::Whole => meter.close(progress),
        End::Stopped => return Ok(stopped),
        End::Bad(error) => {
            let before = match progress.durable {
                0 => "nothing was counted".to_owned(),
                1 => format!("the row before it is counted and durable in {}", args.data_dir.display()),
                rows => format!(
                    "the {} rows before it are counted and durable in {}",
                    number(rows),
                    args.data_dir.display()
                ),
            };
            return Err(anyhow!("{error}\n  {before}; mend the file and run the same command again"));
        }
    }
    tokio::select! {
        biased;
        () = stop.asked() => Ok(stopped),
        report = load::report(runtime, progress.sent, &keys) => report.map(Ended::Counted),
    }
}

/// The feed is named by its file, wherever the file lies.
fn feed_name(input: &Path) -> Result<&str> {
    let name = input.file_name().with_context(|| format!("{} names no file", input.display()))?;
    name.to_str().with_context(|| {
        format!(
            "the name of {} is not UTF-8, and it is to be the feed's name; rename the file",
            input.display()
        )
    })
}
