//! The tables of a server: made and changed by numbered scripts, each once, whoever starts first.
//!
//! # Version changes
//! A script is never changed after a release; the next one is. Each says the oldest schema a build may know and still work
//! with what it leaves (`reads_from`). So a build refuses a database that is too new for it, at start and while it runs
//! ([`check`]), and changes one that is older than itself: old builds read on exactly as long as the script says.

use super::connect::{Link, shown, words};
use tokio_postgres::{Client, error::SqlState};

/// The schema this build makes and works with.
pub const SCHEMA: i32 = 2;

/// One script.
struct Migration {
    version: i32,
    name: &'static str,
    /// The oldest [`SCHEMA`] of a build that may work with what this leaves.
    reads_from: i32,
    script: &'static str,
}

/// In order, the first is 1.
const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "schema",
        reads_from: 1,
        script: include_str!("migrations/0001-schema.sql"),
    },
    // What people read alone: a build of before works with it.
    Migration { version: 2, name: "views", reads_from: 1, script: include_str!("migrations/0002-views.sql") },
];

/// The advisory lock of a database under which it is founded and migrated: "entity" as a number.
const LOCK: i64 = 0x656e_7469_7479;
/// How long another node may take to found or migrate.
const LOCK_TIMEOUT: &str = "1min";

/// Why a database cannot be used with its tables, or be given them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// A newer build has changed the tables beyond what this one knows.
    #[error(
        "{server} has schema {found} (migrated by entity-runtime {build} on {at}), and this build knows up to {SCHEMA}: start a newer build"
    )]
    TooNew {
        /// The server.
        server: String,
        /// Its schema.
        found: i32,
        /// Who made it.
        build: String,
        /// When.
        at: String,
    },
    /// The schema `entity` there is not ours, or was changed by hand.
    #[error(
        "{server} has a schema `entity` that is not of this runtime: {why}; give the cluster a database of its own"
    )]
    Foreign {
        /// The server.
        server: String,
        /// What was found.
        why: String,
    },
    /// The role may not make tables.
    #[error(
        "this role may not make the tables of {server}: make it the owner of the database, or GRANT CREATE ON DATABASE to it ({why})"
    )]
    NotAllowed {
        /// The server.
        server: String,
        /// In its words.
        why: String,
    },
    /// Another node is at it, for longer than it may take.
    #[error(
        "another node has been founding or migrating {server} for a minute: look for one that hangs, and end it"
    )]
    Busy {
        /// The server.
        server: String,
    },
    /// The server failed. Nothing of the script that failed is there.
    #[error("cannot migrate {server}: {why}")]
    Failed {
        /// The server.
        server: String,
        /// In its words.
        why: String,
    },
}

impl MigrateError {
    fn of(server: &str, error: &tokio_postgres::Error) -> Self {
        let (server, why) = (server.to_owned(), words(error));
        match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Self::NotAllowed { server, why },
            _ => Self::Failed { server, why },
        }
    }
}

/// What the newest row of `entity.migration` says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Newest {
    version: i32,
    name: String,
    reads_from: i32,
    build: String,
    at: String,
}

/// The first version whose script is to be run.
fn judge(server: &str, newest: Option<Newest>) -> Result<i32, MigrateError> {
    let Some(Newest { version, name, reads_from, build, at }) = newest else { return Ok(1) };
    let server = server.to_owned();
    let foreign = |why| Err(MigrateError::Foreign { server: server.clone(), why });
    if version < 1 || version < reads_from {
        return foreign(format!("its newest migration has the number {version}"));
    }
    if SCHEMA < version && SCHEMA < reads_from {
        return Err(MigrateError::TooNew { server, found: version, build, at });
    }
    let ours = MIGRATIONS.iter().find(|migration| migration.version == version);
    if ours.is_some_and(|ours| ours.name != name) {
        return foreign(format!("its migration {version} is called {name:?}"));
    }
    Ok(version + 1)
}

/// Gives a database the tables of this build, or finds that it has them. Another node that is at it is waited for.
///
/// # Errors
/// See [`MigrateError`].
pub async fn migrate(link: &mut Link, server: &str) -> Result<(), MigrateError> {
    lock(link, server).await?;
    let migrated = migrate_locked(link, server).await;
    // A session that is broken has given the lock back by its end, and a lock that is kept makes others wait.
    migrated.and(unlock(link, server).await)
}

/// The same under the lock, which is kept.
pub(super) async fn migrate_locked(link: &mut Link, server: &str) -> Result<(), MigrateError> {
    let newest = link.run(read).await.map_err(|error| MigrateError::of(server, &error))?;
    let from = judge(server, newest)?;
    for migration in MIGRATIONS.iter().filter(|migration| from <= migration.version) {
        link.run(|client| apply(client, migration)).await.map_err(|error| match error.code() {
            Some(
                &(SqlState::DUPLICATE_TABLE | SqlState::DUPLICATE_FUNCTION | SqlState::DUPLICATE_OBJECT),
            ) => MigrateError::Foreign { server: server.to_owned(), why: words(&error) },
            _ => MigrateError::of(server, &error),
        })?;
    }
    Ok(())
}

/// Whether this build may go on working with a database, which a newer one may have changed meanwhile. To be asked with every
/// heartbeat: one small read.
///
/// # Errors
/// [`MigrateError::TooNew`]; or the server failed, which says nothing about its tables.
pub async fn check(client: &Client, server: &str) -> Result<(), MigrateError> {
    let newest = read(client).await.map_err(|error| MigrateError::of(server, &error))?;
    judge(server, newest).map(|_| ())
}

/// Waits for the lock, which is the session's.
pub(super) async fn lock(link: &mut Link, server: &str) -> Result<(), MigrateError> {
    let statements = format!(
        "SET lock_timeout = '{LOCK_TIMEOUT}'; SELECT pg_advisory_lock({LOCK}); SET lock_timeout = '5s'"
    );
    let locked = link.run(|client| async move { client.batch_execute(&statements).await }).await;
    locked.map_err(|error| match error.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE) => MigrateError::Busy { server: server.to_owned() },
        _ => MigrateError::of(server, &error),
    })
}

pub(super) async fn unlock(link: &mut Link, server: &str) -> Result<(), MigrateError> {
    let statement = format!("SELECT pg_advisory_unlock({LOCK})");
    let unlocked = link.run(|client| async move { client.batch_execute(&statement).await }).await;
    unlocked.map_err(|error| MigrateError::of(server, &error))
}

async fn read(client: &Client) -> Result<Option<Newest>, tokio_postgres::Error> {
    let there = client.query_one("SELECT to_regclass('entity.migration') IS NOT NULL", &[]).await?;
    if !there.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let newest =
        "SELECT version, left(name, 64), reads_from, left(build, 64), to_char(at, 'YYYY-MM-DD HH24:MI TZ')
        FROM entity.migration ORDER BY version DESC LIMIT 1";
    let Some(row) = client.query_opt(newest, &[]).await? else { return Ok(None) };
    let text = |index| row.try_get::<_, &str>(index).map(shown);
    Ok(Some(Newest {
        version: row.try_get(0)?,
        name: text(1)?,
        reads_from: row.try_get(2)?,
        build: text(3)?,
        at: text(4)?,
    }))
}

/// One script and its row, or neither.
async fn apply(client: &Client, migration: &Migration) -> Result<(), tokio_postgres::Error> {
    let Migration { version, name, reads_from, script } = migration;
    let build = env!("CARGO_PKG_VERSION");
    // All of it is text of this build.
    let statements = format!(
        "BEGIN;\n{script}\nINSERT INTO entity.migration (version, name, build, reads_from) \
         VALUES ({version}, '{name}', '{build}', {reads_from});\nCOMMIT;"
    );
    let applied = client.batch_execute(&statements).await;
    if applied.is_err() {
        // The session goes on to be used, outside of what failed. Where it is broken there is nothing to leave.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    applied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest(version: i32, reads_from: i32) -> Newest {
        let known = MIGRATIONS.iter().find(|migration| migration.version == version);
        let name = known.map_or("later", |migration| migration.name).to_owned();
        Newest { version, name, reads_from, build: "9.9".into(), at: "now".into() }
    }

    #[test]
    fn the_scripts_are_numbered_from_one_to_this_builds_schema() {
        assert!(MIGRATIONS.iter().map(|migration| migration.version).eq(1..=SCHEMA));
        for Migration { name, version, reads_from, .. } in MIGRATIONS {
            assert!(1 <= *reads_from && reads_from <= version, "{name}");
            assert!(name.bytes().all(|letter| letter.is_ascii_lowercase() || letter == b'-'), "{name}");
        }
    }

    #[test]
    fn an_older_database_is_migrated_and_one_that_is_known_is_left() {
        assert_eq!(judge("", None).unwrap(), 1);
        assert_eq!(judge("", Some(newest(SCHEMA, 1))).unwrap(), SCHEMA + 1);
    }

    #[test]
    fn a_newer_database_is_used_as_long_as_it_allows_it() {
        assert_eq!(judge("", Some(newest(SCHEMA + 1, SCHEMA))).unwrap(), SCHEMA + 2);
        let error = judge("", Some(newest(SCHEMA + 6, SCHEMA + 1))).unwrap_err();
        assert!(matches!(error, MigrateError::TooNew { .. }));
        for word in [&format!("schema {}", SCHEMA + 6), "9.9", "newer build"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn what_no_build_of_ours_has_left_is_foreign() {
        for found in [newest(0, 0), newest(-1, 1), newest(1, 5), Newest { name: "x".into(), ..newest(1, 1) }]
        {
            let error = judge("", Some(found)).unwrap_err();
            assert!(matches!(error, MigrateError::Foreign { .. }), "{error}");
        }
    }
}
