//! What joins a node to others: connections, membership, hand-offs.

mod command;
mod config;
mod stub;

pub use command::{Command, CommandAnswer, MemberStatus, MoveStatus, NodeCounters, NodeStatus, ShardStatus};
pub use config::{Begin, ClusterConfig, Security};
pub use stub::{CommandError, ConnectError, Departure};
