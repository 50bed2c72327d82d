//! A node's command line, and its operator's: one line makes a program a node.
//!
//! ```no_run
//! # use entity_runtime::prelude::*;
//! # #[derive(Entity, Default, Serialize, Deserialize)]
//! # #[entity(kind = "counter", handles(Add))]
//! # struct Counter { count: u64 }
//! # #[derive(Message, Serialize, Deserialize)]
//! # #[message(reply = u64)]
//! # struct Add { by: u64 }
//! # impl Handle<Add> for Counter {
//! #     fn handle(&mut self, add: Add, _: &mut Context<'_, Self>) -> u64 { self.count += add.by; self.count }
//! # }
//! fn main() -> std::process::ExitCode {
//!     Runtime::builder().entity::<Counter>().run_from_args()
//! }
//! ```
//!
//! The program then has the subcommands `node`, `status`, `leave`, `adopt`, `reopen`, `unpark` and `forget`; `--help` teaches them. A
//! program with subcommands of its own takes these among them: [`NodeCommand`] is flattened, [`run`] carries it out.
//!
//! ```no_run
//! # use entity_runtime::prelude::*;
//! # fn builder() -> entity_runtime::Builder { Runtime::builder() }
//! use clap::{Parser, Subcommand};
//! use entity_runtime::command::{self, NodeCommand};
//!
//! #[derive(Parser)]
//! struct Cli {
//!     #[command(subcommand)]
//!     command: Command,
//! }
//!
//! #[derive(Subcommand)]
//! enum Command {
//!     /// Count something
//!     Count,
//!     #[command(flatten)]
//!     Node(NodeCommand),
//! }
//!
//! #[tokio::main]
//! async fn main() -> std::process::ExitCode {
//!     match Cli::parse().command {
//!         Command::Count => std::process::ExitCode::SUCCESS,
//!         Command::Node(command) => command::run(builder(), command).await,
//!     }
//! }
//! ```
//!
//! So clap 4 is a part of this room's API, and of no other's: its next major version is one of this crate too. What can be
//! said on a command line has no public fields; a program that knows what it wants says it by
//! [`Builder::cluster`](crate::Builder::cluster).
//!
//! # Caveats
//! The operator's commands ask nodes as any client does, and whoever may connect may give them.

mod address;
mod args;
mod config_file;
mod copied;
mod environment;
mod help;
mod logging;
mod operate;
mod reach;
mod serve;
mod servers;
mod settings;
mod status;
mod stop;
mod table;
mod unpark;

pub use args::{
    AdoptArgs, ConnectArgs, ForgetArgs, LeaveArgs, NodeArgs, ReopenArgs, SecurityArgs, StatusArgs, UnparkArgs,
};

use crate::runtime::Builder;
use clap::{Parser, Subcommand};
use environment::Lookup;
use settings::SettingsError;
use std::{io, io::Write, process::ExitCode};
use tracing_subscriber::filter::LevelFilter;

/// What a node does, and what its operator asks for.
#[derive(Debug, Clone, Subcommand)]
pub enum NodeCommand {
    /// Run a node of a cluster
    Node(Box<NodeArgs>),
    /// Show the nodes of a cluster, what they do, and who owns which shards
    Status(StatusArgs),
    /// Take a node out for good: it hands over all it owns, and ends
    Leave(LeaveArgs),
    /// Hand over what a dead node owns, out of its data directory
    Adopt(AdoptArgs),
    /// Own the shards again that were on their way to a node whose disk is destroyed
    Reopen(ReopenArgs),
    /// Show the streams that are parked because a disk is lost, and let them go on without what it had
    Unpark(UnparkArgs),
    /// Give a node up for good, so that its name is free
    Forget(ForgetArgs),
}

/// A node of a cluster, and what its operator needs.
#[derive(Debug, Parser)]
#[command(after_help = help::of_program(help::APP), arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: NodeCommand,
}

/// Why a command came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// It cannot be what was meant: exit code 2.
    Usage(String),
    /// It was tried: exit code 1.
    Failed(String),
    /// Others have the node's place, or what is stored is of a newer build: to start it again changes nothing. Exit code 3.
    Refused(String),
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl Builder {
    /// Does what the command line says, and returns how the process is to end: the whole of a program that is a node. Of
    /// this builder holds what the command line, the environment and the configuration file leave open. See
    /// [`command`](crate::command).
    ///
    /// It is called from `fn main`, for it waits, on threads of its own.
    pub fn run_from_args(self) -> ExitCode {
        let cli = match Cli::try_parse() {
            Ok(cli) => cli,
            Err(wrong) => {
                // Where not even that can be written there is nobody to tell.
                let _ = wrong.print();
                return if wrong.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
            }
        };
        let threads = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(threads) => threads,
            Err(error) => return ended(Err(Failure::Failed(format!("no threads can be started: {error}")))),
        };
        let code = threads.block_on(run(self, cli.command));
        // A node that serves has stopped by now. One that was stopped while it opened its directory is not waited for.
        threads.shutdown_background();
        code
    }
}

/// Carries out one of the commands, within tokio, and returns how the process is to end. It takes over Ctrl-C and SIGTERM while a node
/// runs, prints to standard output, and logs to standard error, unless the program has set a `tracing` subscriber.
pub async fn run(builder: Builder, command: NodeCommand) -> ExitCode {
    let is_node = matches!(command, NodeCommand::Node(_) | NodeCommand::Adopt(_));
    let unless_said = if is_node { LevelFilter::INFO } else { LevelFilter::WARN };
    logging::to_standard_error(unless_said, &environment::process);
    ended(carry_out(builder, command, &environment::process).await)
}

async fn carry_out(builder: Builder, command: NodeCommand, lookup: Lookup<'_>) -> Result<(), Failure> {
    match command {
        // Both hold a whole runtime, which is much to have on the stack of every other command.
        NodeCommand::Node(args) => Box::pin(serve::node(builder, *args, lookup)).await,
        NodeCommand::Adopt(args) => Box::pin(serve::adopt(builder, args, lookup)).await,
        NodeCommand::Status(args) => {
            let (reach, addresses) = operate::way(args.to, lookup)?;
            status::status(&reach, &addresses, args.node.as_ref(), args.json).await
        }
        NodeCommand::Leave(args) => {
            let (reach, addresses) = operate::way(args.to, lookup)?;
            operate::leave(&reach, &addresses, args.node).await
        }
        NodeCommand::Reopen(args) => {
            let (reach, addresses) = operate::way(args.to, lookup)?;
            operate::reopen(&reach, &addresses, args.destroyed, args.yes).await
        }
        NodeCommand::Unpark(args) => {
            let (reach, addresses) = operate::way(args.to, lookup)?;
            unpark::unpark(&reach, &addresses, args.accept_loss).await
        }
        NodeCommand::Forget(args) => {
            let (reach, addresses) = operate::way(args.to, lookup)?;
            operate::forget(&reach, &addresses, args.name).await
        }
    }
}

fn ended(outcome: Result<(), Failure>) -> ExitCode {
    let (code, why) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(why)) => (ExitCode::from(2), why),
        Err(Failure::Failed(why)) => (ExitCode::FAILURE, why),
        Err(Failure::Refused(why)) => (ExitCode::from(3), why),
    };
    let _ = writeln!(io::stderr(), "error: {why}");
    code
}

/// Prints a line, at once. Whoever reads no longer, as in `status | head`, has seen enough: nothing ends by that.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn wrong(line: &str) -> String {
        Cli::try_parse_from(line.split(' ')).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.clone().render_help().to_string();
            let example = format!("\n  {} {}", help::program(), command.get_name());
            assert!(help.contains(&example), "{help}");
        }
    }

    #[test]
    fn the_examples_of_the_help_can_be_said() {
        let texts = [
            help::APP,
            help::NODE,
            help::STATUS,
            help::LEAVE,
            help::ADOPT,
            help::REOPEN,
            help::UNPARK,
            help::FORGET,
        ];
        let lines = texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("  {app} "));
        let mut said = 0;
        for line in lines {
            let line = line.split('|').next().unwrap();
            if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                panic!("{line}: {error}");
            }
            said += 1;
        }
        assert!(said > 10, "{said} examples were found");
    }

    #[test]
    fn what_is_missing_or_in_excess_is_named() {
        for (line, named) in [
            ("app adopt --data-dir d", "--join <HOST:PORT,...>"),
            ("app adopt --join a:1", "--data-dir <DIR>"),
            ("app forget", "<NAME>"),
            ("app reopen", "--destroyed <NAME>"),
            ("app node --found --join a:1", "'--found' cannot be used with '--join <HOST:PORT,...>'"),
            ("app node --listen localhost", "HOST:PORT, as in 127.0.0.1:7001"),
            ("app node --weight 0", "a whole number from 1 to 100"),
            ("app node --workers 0", "'--workers <N>'"),
            ("app status --connect a:1,,b:1", "is no address"),
        ] {
            let error = wrong(line);
            assert!(error.contains(named), "{line}: {error}");
        }
    }

    #[tokio::test]
    async fn a_command_line_that_contradicts_itself_is_told_from_a_failure() {
        for line in ["app node --tls-key k", "app status --insecure --tls-key k", "app reopen --destroyed c"]
        {
            let command = Cli::try_parse_from(line.split(' ')).unwrap().command;
            let outcome = carry_out(crate::runtime::Runtime::builder(), command, &|_| None).await;
            assert!(matches!(outcome, Err(Failure::Usage(_))), "{line}: {outcome:?}");
        }
    }
}
