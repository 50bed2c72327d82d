//! A quarter of New York's flights, counted by entities that survive `kill -9`.
//!
//! * `flights run` reads a file of flights and sends each row to its aircraft, which passes it on to its two airports and
//!   its carrier; at the end it asks all of them what they have counted.
//! * `flights demo` runs that, kills it with SIGKILL again and again, and compares the end with a plain loop over the file.
//! * `flights node` has a part of the same entities, in a process that is one of many; `flights load` sends a file to them,
//!   and `flights report` asks them. `flights demo --nodes 3` starts some, loads a file, and does to them meanwhile what
//!   may happen to machines. `flights certs` makes certificates for nodes that talk TLS.
//!
//! Read `entities.rs` first: it is what a user of the runtime writes. `load.rs` is how a file gets in and the figures get
//! out. The rest is a command line.

mod certs;
mod demo;
mod entities;
mod load;
mod meter;
mod moves;
mod nodes;
mod quiet;
mod remote;
mod run;
mod server;
mod stop;
mod story;
mod teller;

use clap::{Parser, Subcommand};
use entity_runtime::{
    Runtime,
    command::{self, NodeCommand},
};
use std::{io, process::ExitCode};

const EXAMPLES: &str = "\
Examples:
  flights demo
      Kill the run five times and compare it with a plain loop over the bundled rows.
  flights demo --nodes 3
      The same on nodes that join, leave, are killed and hang while the rows are loaded.
  flights run --input examples/data/flights-2013-q1.csv.gz --data-dir /tmp/flights
      Count the bundled rows; run it again and nothing changes.
  flights help run
      What a file must look like, and what the exit codes mean.";

const RUN_EXAMPLES: &str = "\
The file has a header and the columns
  year,month,day,sched_dep_time,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest,distance
NA as dep_delay is a cancelled flight; a dep_delay and NA as arr_delay, a diverted one; NA as tailnum, an aircraft that
is not known. A row that is not like that ends the run; the rows before it stay counted.

Killed, stopped with Ctrl-C or ended by a bad row: run the same command again and it goes on, each row counted once.

Exit codes: 0 all rows counted; 1 an error, said on standard error; 2 a wrong command line; 130 stopped with Ctrl-C.

Examples:
  flights run --input flights.csv.gz --data-dir data
  flights run --input flights.csv.gz --data-dir data --workers 1 --json | jq '.airports.JFK'";

const DEMO_EXAMPLES: &str = "\
Prints what happened, both results, and `equal`; or exits with 1, the first differences, and the directory to look into.
With --nodes the directory holds a log of each node too. Kill any of them by hand meanwhile: the end is the same.

Examples:
  flights demo
  flights demo --nodes 3
  flights demo --kills 20 --seed 7
  flights demo --input flights.csv --data-dir /tmp/flights-demo";

const LOAD_EXAMPLES: &str = "\
The file is one as for `flights run`. Nodes may come, go, crash and come back meanwhile. Killed or stopped: run the same
command again and it goes on, each row counted once.

Exit codes: 0 all rows counted; 1 an error, said on standard error; 2 a wrong command line; 130 stopped with Ctrl-C.

Examples:
  flights load --connect 127.0.0.1:7001,127.0.0.1:7002 --input flights.csv.gz";

const REPORT_EXAMPLES: &str = "\
Waits until everything that was sent has arrived, on all nodes; then prints what `flights run` prints.

Examples:
  flights report --connect 127.0.0.1:7001
  flights report --connect 127.0.0.1:7001 --json | jq '.airports.JFK'";

const CERTS_EXAMPLES: &str = "\
Examples:
  flights certs --out certs --names a,b,c";

/// Counts flights in entities that survive kill -9.
///
/// Every row of a file of flights is sent to its aircraft, which passes it on to both airports and the carrier. All of
/// them are entities of entity-runtime: killed at any moment and started again, none loses a flight or counts one twice.
#[derive(Debug, Parser)]
#[command(name = "flights", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Count the rows of a file and show what the entities hold
    #[command(after_help = RUN_EXAMPLES)]
    Run(run::RunArgs),
    /// Kill a run again and again, or the nodes of a cluster, and compare the end with a plain loop
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(demo::DemoArgs),
    // `node`, `status`, `leave` and the rest of what an operator needs: the runtime brings them along.
    #[command(flatten)]
    Cluster(NodeCommand),
    /// Count the rows of a file in the entities of a cluster
    #[command(after_help = LOAD_EXAMPLES)]
    Load(remote::LoadArgs),
    /// Show what the entities of a cluster hold
    #[command(after_help = REPORT_EXAMPLES)]
    Report(remote::ReportArgs),
    /// Make certificates for trying out a cluster that talks TLS
    #[command(after_help = CERTS_EXAMPLES)]
    Certs(certs::CertsArgs),
}

// One thread beside this one is enough for signals and pipes; the cores belong to the runtime's workers.
#[tokio::main(worker_threads = 1)]
async fn main() -> ExitCode {
    stop::end_with_parent();
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(args).await,
        Command::Demo(args) => demo::demo(args).await,
        Command::Cluster(command) => Ok(command::run(load::with_entities(Runtime::builder()), command).await),
        Command::Load(args) => remote::load(args).await,
        Command::Report(args) => remote::report(args).await,
        Command::Certs(args) => certs::certs(&args),
    };
    match outcome {
        Ok(code) => code,
        // Whoever read our output has seen enough, as in `flights run ... | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            use io::Write;
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
