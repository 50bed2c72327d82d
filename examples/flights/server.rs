//! The private PostgreSQL server of the demo: it is there for as long as the demo is, and restarted in the middle of it.

use crate::teller::Teller;
use anyhow::{Context as _, Result};
use entity_runtime_tests::private_postgres::{Server, Stop};

/// A server, and the database on it that the nodes share.
pub(crate) struct SharedServer {
    /// Away only while it is restarted.
    server: Option<Server>,
    url: String,
}

impl SharedServer {
    pub(crate) async fn start(teller: &Teller) -> Result<Self> {
        let server =
            tokio::task::spawn_blocking(Server::start).await.context("no PostgreSQL server starts")?;
        let url = server.database().await;
        teller.tell(&format!("a private PostgreSQL server listens on port {}", server.port()))?;
        Ok(Self { server: Some(server), url })
    }

    /// Its URL, with the password.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Ends it as a fault would, and starts it again on what its disk has.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let mut server = self.server.take().context("the server was not started again")?;
        let restarted = tokio::task::spawn_blocking(move || {
            server.stop(Stop::Immediate);
            server.start_again();
            server
        });
        self.server = Some(restarted.await.context("the server does not start again")?);
        Ok(())
    }
}
