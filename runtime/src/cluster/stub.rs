//! Stands in for the ring of a node until it is there: what `command` is written against.

use super::{ClusterConfig, Command, CommandAnswer, Security};
use crate::{
    client::Client,
    placement::NodeName,
    runtime::{Builder, Runtime},
};
use std::future::{pending, ready};

/// How a node ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Departure {
    /// All it had is handed over.
    Left,
    /// It cannot go on.
    Failed(String),
}

/// No node could be connected with.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(String);

/// A command has no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CommandError(String);

impl Builder {
    /// Makes it a node of a cluster.
    pub fn cluster(self, _: ClusterConfig) -> Self {
        self
    }
}

impl Runtime {
    /// Resolves when the node has left or failed.
    pub async fn departed(&self) -> Departure {
        pending().await
    }

    /// Where it listens.
    pub fn listens_at(&self) -> Option<&str> {
        Some("127.0.0.1:7001")
    }
}

impl Client {
    /// Connects in the clear, on loopback.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn connect(
        addresses: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, ConnectError> {
        Self::connect_with(addresses, Security::default()).await
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn connect_with(
        addresses: impl IntoIterator<Item = impl Into<String>>,
        _: Security,
    ) -> Result<Self, ConnectError> {
        let addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
        ready(Err(ConnectError(format!("nobody answers at {}", addresses.join(", "))))).await
    }

    /// The nodes it is connected with.
    pub fn nodes(&self) -> Vec<NodeName> {
        Vec::new()
    }

    /// Asks a node.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn command(
        &self,
        _: Option<&NodeName>,
        command: Command,
    ) -> Result<CommandAnswer, CommandError> {
        let bytes = command.encode().len() + CommandAnswer::Done(String::new()).encode().len();
        ready(Err(CommandError(format!("not connected for {bytes} bytes")))).await
    }
}
