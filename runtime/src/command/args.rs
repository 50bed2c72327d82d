//! What can be said on the command line.

use super::{
    address::Address,
    help,
    servers::{Lease, ServerSaid},
};
use crate::placement::{NodeName, Weight};
use clap::Args;
use std::{num::NonZeroUsize, path::PathBuf};

/// What is said of a node: `node`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = help::of_program(help::NODE))]
pub struct NodeArgs {
    /// Its name, which its certificate says too; the cluster binds it to this data directory for good, and of two processes of one
    /// name on a shared store the later one goes on [default: --listen]
    #[arg(long)]
    pub(super) name: Option<NodeName>,
    /// Where it keeps state; one process at a time uses it
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// In place of a directory: the PostgreSQL server on which all nodes keep state, so that the others go on with the shards of one
    /// that is gone; said once for each server, on every node in the same order
    #[arg(long, value_name = "URL", conflicts_with = "data_dir")]
    pub(super) store: Vec<ServerSaid>,
    /// Of --store: refuse a server that acknowledges before a synchronous standby has it
    #[arg(long, conflicts_with = "data_dir")]
    pub(super) require_sync: bool,
    /// Of --store: for how long this node counts as living after it was heard of last [default: 3s]
    #[arg(long, value_name = "TIME", conflicts_with = "data_dir")]
    pub(super) lease: Option<Lease>,
    /// Of --store: connections to each server that commit side by side, 1 to 64 [default: 4]
    #[arg(long, value_name = "N", conflicts_with = "data_dir")]
    pub(super) store_lanes: Option<u32>,
    /// Where it listens [default: 127.0.0.1:7001]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) listen: Option<Address>,
    /// Where the others reach it, if that is another address than the one it listens at
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) advertise: Option<Address>,
    /// Found a new cluster, if the data directory is empty, or there is none on the servers
    #[arg(long, conflicts_with = "join")]
    pub(super) found: bool,
    /// Join the cluster of these nodes, if the data directory is empty; one that answers is enough, and with --store none is needed
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub(super) join: Vec<Address>,
    /// Its share of the shards against the others', 1 to 100 [default: 1]
    #[arg(long)]
    pub(super) weight: Option<Weight>,
    /// Threads that run turns [default: one per core]
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<NonZeroUsize>,
    /// Into how many shards a new cluster is divided, a power of two; with --found, and never changed [default: 256]
    #[arg(long, value_name = "N")]
    pub(super) shards: Option<u32>,
    #[command(flatten)]
    pub(super) security: SecurityArgs,
    /// A TOML file that says what is said neither here nor in the environment
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

/// How connections are secured: the same for nodes and for those who ask them.
#[derive(Debug, Clone, Default, Args)]
pub struct SecurityArgs {
    /// Certificates of the authority that signed those of all nodes, PEM
    #[arg(long, value_name = "FILE")]
    pub(super) tls_authority: Option<PathBuf>,
    /// The own certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub(super) tls_certificate: Option<PathBuf>,
    /// The key of the certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,
    /// Talk in the clear beyond this machine: everyone on the way can read and change it, and claim to be any node
    #[arg(long)]
    pub(super) insecure: bool,
}

/// Which nodes are asked.
#[derive(Debug, Clone, Default, Args)]
pub struct ConnectArgs {
    /// Nodes to ask; one that answers is enough [default: `ENTITY_CONNECT`, else 127.0.0.1:7001]
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub(super) connect: Vec<Address>,
    #[command(flatten)]
    pub(super) security: SecurityArgs,
}

/// What is to be seen of a cluster: `status`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = help::of_program(help::STATUS))]
pub struct StatusArgs {
    #[command(flatten)]
    pub(super) to: ConnectArgs,
    /// Ask this node alone
    #[arg(long, value_name = "NAME")]
    pub(super) node: Option<NodeName>,
    /// One JSON object instead of tables: {"nodes": [...], "unreachable": [...]}
    #[arg(long)]
    pub(super) json: bool,
}

/// Who is to leave: `leave`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = help::of_program(help::LEAVE))]
pub struct LeaveArgs {
    #[command(flatten)]
    pub(super) to: ConnectArgs,
    /// The node that is to leave [default: the one at --connect, where that is one address]
    #[arg(long, value_name = "NAME")]
    pub(super) node: Option<NodeName>,
}

/// Whose directory is given to the others: `adopt`.
#[derive(Debug, Clone, Args)]
#[command(after_help = help::of_program(help::ADOPT))]
pub struct AdoptArgs {
    /// The dead node's data directory
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: PathBuf,
    /// Nodes of its cluster
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', required = true)]
    pub(super) join: Vec<Address>,
    /// The dead node's name [default: that of the only node that is not alive]
    #[arg(long)]
    pub(super) name: Option<NodeName>,
    /// Where it listens meanwhile
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub(super) listen: Address,
    /// Where the others reach it meanwhile, if that is another address than the one it listens at
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) advertise: Option<Address>,
    /// The directory is a copy, and the original is destroyed: say by --name whose
    #[arg(long, requires = "name")]
    pub(super) original_destroyed: bool,
    #[command(flatten)]
    pub(super) security: SecurityArgs,
}

/// Whose shards are to be owned again: `reopen`.
#[derive(Debug, Clone, Args)]
#[command(after_help = help::of_program(help::REOPEN))]
pub struct ReopenArgs {
    /// The node whose disk is destroyed
    #[arg(long, value_name = "NAME")]
    pub(super) destroyed: NodeName,
    /// Do it, knowing what may be lost
    #[arg(long)]
    pub(super) yes: bool,
    #[command(flatten)]
    pub(super) to: ConnectArgs,
}

/// Which streams are to go on without what was lost: `unpark`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = help::of_program(help::UNPARK))]
pub struct UnparkArgs {
    /// Let all of them go on, knowing what is lost
    #[arg(long)]
    pub(super) accept_loss: bool,
    #[command(flatten)]
    pub(super) to: ConnectArgs,
}

/// Who is to be forgotten: `forget`.
#[derive(Debug, Clone, Args)]
#[command(after_help = help::of_program(help::FORGET))]
pub struct ForgetArgs {
    /// The node that will never come back
    #[arg(value_name = "NAME")]
    pub(super) name: NodeName,
    #[command(flatten)]
    pub(super) to: ConnectArgs,
}

#[cfg(test)]
mod tests {
    use super::AdoptArgs;
    use clap::{Parser, error::ErrorKind};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        adopt: AdoptArgs,
    }

    #[test]
    fn whose_copy_it_is_has_to_be_said() {
        let adopt = ["adopt", "--data-dir", "/backup", "--join", "a:7001"];
        let parse = |rest: &[&'static str]| Cli::try_parse_from(adopt.iter().chain(rest));
        assert_eq!(parse(&["--original-destroyed"]).unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
        let named = parse(&["--original-destroyed", "--name", "c"]).unwrap();
        assert!(named.adopt.original_destroyed);
        assert!(parse(&[]).is_ok(), "of the directory itself the others know whose it is");
    }
}
