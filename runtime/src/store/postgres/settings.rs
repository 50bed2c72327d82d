//! What a server is set to, judged once at start: what would lose acknowledged commits is refused, what may is said.

use super::connect::{Facts, Link, release, shown, words};
use crate::store::ServerReport;
use std::fmt;

/// What a node asks of its servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demands {
    /// Commits are to be on a standby too before they are acknowledged.
    pub require_sync: bool,
    /// A server that does not sync is accepted.
    pub unsafe_fsync: bool,
    /// The node works already: a standby that is not there is waited for, by every commit, and is no reason to end.
    pub is_running: bool,
    /// How many connections the node will hold to each server.
    pub connections: u32,
}

/// What a server was found to be, for operators: printed at start, and in the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The server, without the password.
    pub server: String,
    /// Its version and its log.
    pub facts: Facts,
    /// When a commit of ours is acknowledged.
    pub synchronous_commit: String,
    /// The standbys a commit waits for, in the server's words; empty where it waits for none.
    pub synchronous_standbys: String,
    /// How many standbys follow it.
    pub standbys: u32,
    /// How many connections it takes, of this role.
    pub connections_max: u32,
    /// What may lose acknowledged commits, or will be in the way.
    pub warnings: Vec<String>,
}

impl Report {
    /// As nodes tell it to each other and to operators.
    pub(super) fn in_short(&self) -> ServerReport {
        ServerReport {
            name: self.server.clone(),
            version: Some(format!("PostgreSQL {}", release(self.facts.version))),
            timeline: self.facts.timeline,
            synchronous_commit: self.synchronous_commit.clone(),
            synchronous_standbys: self.synchronous_standbys.clone(),
            standbys: self.standbys,
            warnings: self.warnings.clone(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { server, facts, synchronous_commit, standbys, connections_max, .. } = self;
        write!(
            f,
            "{server}: PostgreSQL {}, timeline {}, synchronous_commit {synchronous_commit}, {standbys} standbys",
            release(facts.version),
            facts.timeline,
        )?;
        if !self.synchronous_standbys.is_empty() {
            write!(f, " (commits wait for {})", self.synchronous_standbys)?;
        }
        write!(f, ", {connections_max} connections")?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\n  warning: {warning}"))
    }
}

/// Why a server is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// It is set so that commits may be lost that were acknowledged, or so that it cannot be used at all.
    #[error("{server} is not used: {why}")]
    Refused {
        /// The server.
        server: String,
        /// The setting and the way out.
        why: String,
    },
    /// It could not be asked.
    #[error("cannot ask {server} for its settings: {why}")]
    Failed {
        /// The server.
        server: String,
        /// In its words.
        why: String,
    },
}

/// The settings as they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "they are what the server calls on and off")]
struct Found {
    fsync: bool,
    full_page_writes: bool,
    zero_damaged_pages: bool,
    ignore_checksum_failure: bool,
    encoding: String,
    synchronous_commit: String,
    synchronous_standbys: String,
    /// Standbys, of which this role sees the state of some, of which some are synchronous.
    standbys: u32,
    seen: u32,
    synchronous: u32,
    /// Connections it takes of roles like this one.
    connections_max: u32,
    superuser: bool,
}

const SETTINGS: &str = "SELECT current_setting('fsync')::bool AS fsync,
    current_setting('full_page_writes')::bool AS full_page_writes,
    coalesce(current_setting('zero_damaged_pages', true)::bool, false) AS zero_damaged_pages,
    coalesce(current_setting('ignore_checksum_failure', true)::bool, false) AS ignore_checksum_failure,
    current_setting('server_encoding') AS encoding,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS synchronous_standbys,
    (SELECT count(*) FROM pg_stat_replication)::int4 AS standbys,
    (SELECT count(sync_state) FROM pg_stat_replication)::int4 AS seen,
    (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))::int4 AS synchronous,
    least(current_setting('max_connections')::int4 - current_setting('superuser_reserved_connections')::int4
            - coalesce(nullif(current_setting('reserved_connections', true), '')::int4, 0),
          (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
          (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())) AS connections_max,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser";

/// Reads and judges the settings of a server.
///
/// # Errors
/// It is not to be used, or did not answer.
pub async fn report(link: &mut Link, server: &str, demands: Demands) -> Result<Report, SettingsError> {
    let found = link.run(|client| async move {
        let row = client.query_one(SETTINGS, &[]).await?;
        let count = |name| row.try_get::<_, i32>(name).map(|count| u32::try_from(count).unwrap_or(0));
        let text = |name| row.try_get::<_, &str>(name).map(shown);
        Ok::<_, tokio_postgres::Error>(Found {
            fsync: row.try_get("fsync")?,
            full_page_writes: row.try_get("full_page_writes")?,
            zero_damaged_pages: row.try_get("zero_damaged_pages")?,
            ignore_checksum_failure: row.try_get("ignore_checksum_failure")?,
            encoding: text("encoding")?,
            synchronous_commit: text("synchronous_commit")?,
            synchronous_standbys: text("synchronous_standbys")?,
            standbys: count("standbys")?,
            seen: count("seen")?,
            synchronous: count("synchronous")?,
            connections_max: count("connections_max")?,
            superuser: row.try_get::<_, Option<bool>>("superuser")?.unwrap_or(false),
        })
    });
    let found = found
        .await
        .map_err(|error| SettingsError::Failed { server: server.to_owned(), why: words(&error) })?;
    let warnings = judge(&found, demands)
        .map_err(|why| SettingsError::Refused { server: server.to_owned(), why: why.to_owned() })?;
    Ok(Report {
        server: server.to_owned(),
        facts: link.server.clone(),
        synchronous_commit: found.synchronous_commit,
        synchronous_standbys: found.synchronous_standbys,
        standbys: found.standbys,
        connections_max: found.connections_max,
        warnings,
    })
}

/// The warnings; or why the server is not used.
fn judge(found: &Found, demands: Demands) -> Result<Vec<String>, &'static str> {
    if found.encoding != "UTF8" {
        return Err("the database is not in UTF-8; make it with ENCODING 'UTF8' and TEMPLATE template0");
    }
    if !found.fsync && !demands.unsafe_fsync {
        return Err(
            "fsync is off: what it acknowledges may be gone after a crash of its machine; turn it on, or add \
             unsafe_fsync=1 to the URL where nothing depends on it",
        );
    }
    if demands.require_sync {
        if found.synchronous_standbys.is_empty() {
            return Err(
                "a synchronous standby is required and synchronous_standby_names is empty; set it, or take out \
                        --require-sync",
            );
        }
        if found.synchronous == 0 && found.seen < found.standbys && !demands.is_running {
            return Err(
                "a synchronous standby is required and this role may not see any: GRANT pg_read_all_stats to it, \
                        or take out --require-sync",
            );
        }
        if found.synchronous == 0 && !demands.is_running {
            return Err(
                "a synchronous standby is required and none is connected; connect one, or take out --require-sync",
            );
        }
    }
    let mut warnings = Vec::new();
    let mut warn = |is_so, text: &str| {
        if is_so {
            warnings.push(text.to_owned());
        }
    };
    warn(!found.fsync, "fsync is off, as the URL accepts: a crash of its machine loses acknowledged commits");
    warn(
        !found.full_page_writes,
        "full_page_writes is off: a crash of its machine may leave torn pages, unless its file system never does",
    );
    warn(found.zero_damaged_pages, "zero_damaged_pages is on: damage becomes loss without an error");
    warn(found.ignore_checksum_failure, "ignore_checksum_failure is on: damage is read as if it were data");
    warn(
        found.synchronous_standbys.is_empty() && 0 < found.standbys,
        "its standbys are asynchronous: a fail-over to one may lose acknowledged commits; set synchronous_standby_names",
    );
    warn(
        demands.require_sync && found.synchronous == 0,
        "a synchronous standby is required and none is seen: commits wait until one is connected",
    );
    warn(
        found.superuser,
        "the role is a superuser: give nodes a role of their own, whose connections each of them may end",
    );
    let (ours, most) = (demands.connections, found.connections_max);
    if most / 3 < ours {
        warnings.push(format!(
            "this node holds {ours} connections and the server takes {most} of this role: raise max_connections, or lower \
             the lanes, before there are more nodes"
        ));
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Found {
        Found {
            fsync: true,
            full_page_writes: true,
            encoding: "UTF8".into(),
            synchronous_commit: "on".into(),
            connections_max: 97,
            ..Found::default()
        }
    }

    const NODE: Demands =
        Demands { require_sync: false, unsafe_fsync: false, is_running: false, connections: 9 };
    const SYNC: Demands = Demands { require_sync: true, ..NODE };

    #[test]
    fn a_server_as_it_is_installed_is_used_without_a_word() {
        assert_eq!(judge(&good(), NODE), Ok(vec![]));
    }

    #[test]
    fn each_setting_that_may_lose_commits_is_said() {
        type Change = fn(&mut Found);
        let cases: [(Change, &str); 6] = [
            (|found| found.full_page_writes = false, "full_page_writes"),
            (|found| found.zero_damaged_pages = true, "zero_damaged_pages"),
            (|found| found.ignore_checksum_failure = true, "ignore_checksum_failure"),
            (|found| found.standbys = 1, "asynchronous"),
            (|found| found.superuser = true, "superuser"),
            (|found| found.connections_max = 26, "max_connections"),
        ];
        for (change, word) in cases {
            let mut found = good();
            change(&mut found);
            let warnings = judge(&found, NODE).unwrap();
            assert!(warnings.len() == 1 && warnings[0].contains(word), "{warnings:?}");
        }
        let standbys = Found { standbys: 1, synchronous_standbys: "b".into(), ..good() };
        assert_eq!(judge(&standbys, NODE), Ok(vec![]));
    }

    #[test]
    fn a_server_that_does_not_sync_is_used_on_the_urls_word_alone() {
        let found = Found { fsync: false, ..good() };
        assert!(judge(&found, NODE).unwrap_err().contains("unsafe_fsync"));
        assert!(judge(&found, Demands { unsafe_fsync: true, ..NODE }).unwrap()[0].contains("fsync"));
        assert!(judge(&Found { encoding: "SQL_ASCII".into(), ..good() }, NODE).is_err());
    }

    #[test]
    fn a_required_standby_must_be_named_seen_and_there() {
        let named = Found { synchronous_standbys: "b".into(), ..good() };
        let cases = [
            (good(), "is empty"),
            (named.clone(), "none is connected"),
            (Found { standbys: 1, ..named.clone() }, "pg_read_all_stats"),
            (Found { standbys: 1, seen: 1, ..named.clone() }, "none is connected"),
        ];
        for (found, word) in cases {
            let why = judge(&found, SYNC).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
        assert_eq!(judge(&Found { standbys: 2, seen: 2, synchronous: 1, ..named }, SYNC), Ok(vec![]));
    }
}
