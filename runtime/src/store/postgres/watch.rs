//! Connections to one server, and whether it is still the server that it was.
//!
//! A standby that was promoted has another timeline, and a copy that was restored has one too, or another identifier. What was
//! acknowledged before may not be there, so each such change begins a new *generation*: whatever was read or prepared under an
//! earlier one is forgotten, before anything is answered from it.

use super::connect::{ConnectError, Connector, Facts, Link, Purpose};
use std::sync::{Mutex, PoisonError};

/// Connects to one server, for all who use it.
#[derive(Debug)]
pub(super) struct Watched {
    connector: Connector,
    met: Mutex<Met>,
}

#[derive(Debug, Default)]
struct Met {
    /// Counted from 1. Zero: it was never reached.
    generation: u64,
    /// The identifier and the timeline of its log.
    log: Option<(i64, u32)>,
}

impl Watched {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector, met: Mutex::default() }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The generation of the server, as far as is known: of the newest connection to it.
    pub(super) fn generation(&self) -> u64 {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// Connects, and says under which generation.
    pub(super) async fn connect(&self, purpose: Purpose) -> Result<(Link, u64), ConnectError> {
        let link = self.connector.connect(purpose).await?;
        let generation = self.meet(&link.server)?;
        Ok((link, generation))
    }

    /// Takes note of whom a connection goes to.
    ///
    /// # Errors
    /// To one that was left behind: its log has an earlier timeline than one that was met, so another was promoted over it.
    pub(super) fn meet(&self, facts: &Facts) -> Result<u64, ConnectError> {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let log = (facts.system, facts.timeline);
        match met.log {
            Some(known) if known == log => return Ok(met.generation),
            Some((system, timeline)) if system == facts.system && facts.timeline < timeline => {
                let why = format!(
                    "it is on timeline {}, and another was promoted to timeline {timeline}: stop it, it must not take writes",
                    facts.timeline
                );
                return Err(ConnectError::Unreachable { server: self.connector.url().to_string(), why });
            }
            Some((system, timeline)) => tracing::warn!(
                server = %self.connector.url(),
                was = %format_args!("timeline {timeline} of {system}"),
                is = %format_args!("timeline {} of {}", facts.timeline, facts.system),
                "the server is another than before: all that was read from it is forgotten"
            ),
            None => {}
        }
        *met = Met { generation: met.generation + 1, log: Some(log) };
        Ok(met.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::postgres::{Access, ServerUrl};

    #[test]
    fn a_generation_begins_with_each_other_server_and_an_old_one_is_left() {
        let url = ServerUrl::parse("postgres://u@127.0.0.1/d", &Access::default()).unwrap();
        let watched = Watched::new(Connector::new(url, 1).unwrap());
        let meet = |system, timeline| {
            watched.meet(&Facts { version: 150_000, timeline, system }).map_err(|error| error.may_pass())
        };
        assert_eq!(meet(7, 1), Ok(1));
        assert_eq!(meet(7, 1), Ok(1));
        assert_eq!(meet(7, 3), Ok(2), "promoted");
        assert_eq!(meet(7, 2), Err(true), "the one before");
        assert_eq!(meet(8, 1), Ok(3), "restored elsewhere");
        assert_eq!(watched.generation(), 3);
    }
}
