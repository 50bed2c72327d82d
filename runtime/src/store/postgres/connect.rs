//! Connections to one server: one address after another until one takes writes, with the session set as the store needs it.
//!
//! Whatever the session rests on is sent with the first message and read back. What stands between node and server and
//! drops it, or gives each statement another session, is found here and not by a batch that was lost.

use super::{
    tls::{ServerTlsError, connector},
    url::{Host, ServerUrl},
};
use std::{error::Error as _, fmt, future::poll_fn, pin::pin, task::Poll, time::Duration};
use tokio::time::timeout;
use tokio_postgres::{
    Client, Config, Connection, Row, Socket,
    config::{SslMode, TargetSessionAttrs},
    error::SqlState,
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The oldest version of a server, as `server_version_num`.
pub const VERSION_MIN: u32 = 130_000;
/// Longest text of a server that is shown.
const SHOWN_LEN_MAX: usize = 400;

/// Settings of every session. All of them are known to every supported version.
const OPTIONS: &[(&str, &str)] = &[
    // A session that hangs must not hold its shards for ever.
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("tcp_user_timeout", "15s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    // The fence is judged on the newest version of a row (P23).
    ("default_transaction_isolation", "read\\ committed"),
    // A warning is how a server says that a commit has not reached its standby.
    ("client_min_messages", "warning"),
    // Whatever a role or a database has set, names mean what they say.
    ("search_path", "pg_catalog"),
    ("TimeZone", "UTC"),
    ("jit", "off"),
];
/// Besides, of sessions that run prepared statements over arrays: rows are to be locked in the order of the array.
const PLANNER_OPTIONS: &[(&str, &str)] = &[
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_seqscan", "off"),
];
/// Time of one statement, but where tables are made.
const STATEMENT_TIMEOUT: &str = "30s";

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The batches of one lane.
    Lane,
    /// Loads and notes.
    Load,
    /// Lease and takeover.
    Control,
    /// Settings, migrations and founding, at the start.
    Start,
}

/// One run of a node, as it is called on servers: all its connections are found, and ended, by this.
pub fn application_name(incarnation: u128) -> String {
    format!("entity-{incarnation:032x}")
}

/// The other half of a connection: it must be polled for the [`Client`] to get anywhere.
pub type Driver = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// A connection that takes writes.
pub struct Link {
    /// Sends statements.
    pub client: Client,
    /// Carries them.
    pub driver: Driver,
    /// Whom it goes to.
    pub server: Facts,
}

/// What a server says of itself when a connection begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `server_version_num`.
    pub version: u32,
    /// The timeline of its log, another one after each fail-over.
    pub timeline: u32,
    /// The identifier of its data directory, and of its standbys'.
    pub system: i64,
}

impl Link {
    /// Runs statements on this connection, driving it meanwhile.
    ///
    /// # Errors
    /// The statements' own, or that the connection has ended.
    pub async fn run<'a, T, E, F>(&'a mut self, work: impl FnOnce(&'a Client) -> F) -> Result<T, E>
    where
        E: From<tokio_postgres::Error>,
        F: Future<Output = Result<T, E>>,
    {
        driven(&mut self.driver, work(&self.client)).await
    }
}

/// Drives a connection while work on it goes on.
async fn driven<T, E>(driver: &mut Driver, work: impl Future<Output = Result<T, E>>) -> Result<T, E>
where
    E: From<tokio_postgres::Error>,
{
    let mut work = pin!(work);
    let mut is_open = true;
    poll_fn(|cx| {
        // First what has come, then who waits for it: an answer is never left lying.
        while is_open {
            match driver.poll_message(cx) {
                Poll::Ready(Some(Ok(_notice))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                // The work hears of it by the answer that does not come.
                Poll::Ready(None) => is_open = false,
                Poll::Pending => break,
            }
        }
        work.as_mut().poll(cx)
    })
    .await
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The files of TLS.
    #[error(transparent)]
    Tls(#[from] ServerTlsError),
    /// No address has let it in.
    #[error("cannot connect to {server}: {why}")]
    Unreachable {
        /// The server, without the password.
        server: String,
        /// For each address.
        why: String,
    },
    /// It let the connection in and is none this build works with; another try changes nothing.
    #[error("{server}: {why}")]
    Unfit {
        /// The server.
        server: String,
        /// What is wrong, and the way out.
        why: String,
    },
}

impl ConnectError {
    /// Whether the same try may succeed later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Why one address did not do.
enum Refused {
    /// The next one may, or this one later.
    Here(String),
    /// Nothing helps but a person.
    Unfit(String),
}

impl From<tokio_postgres::Error> for Refused {
    fn from(error: tokio_postgres::Error) -> Self {
        let text = words(&error);
        // Words of poolers for a first message with settings in it.
        if text.contains("unsupported startup parameter") {
            return Self::Unfit(POOLER.into());
        }
        Self::Here(text)
    }
}

const POOLER: &str = "something between node and server (PgBouncer?) does not pass the session's settings on: the URL is to \
                      name the server itself";

/// Makes connections to one server for one run of a node.
#[derive(Clone)]
pub struct Connector {
    url: ServerUrl,
    tls: MakeRustlsConnect,
    application_name: String,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the files that the URL names; connects to nothing yet.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn new(url: ServerUrl, incarnation: u128) -> Result<Self, ServerTlsError> {
        let tls = connector(url.tls.as_ref())?;
        Ok(Self { url, tls, application_name: application_name(incarnation) })
    }

    /// The server.
    pub fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// Connects to the first address that takes writes.
    ///
    /// # Errors
    /// None does, or what does is none this build works with.
    pub async fn connect(&self, purpose: Purpose) -> Result<Link, ConnectError> {
        let server = || self.url.to_string();
        let mut whys = Vec::new();
        for host in &self.url.hosts {
            let refused = match timeout(self.url.connect_timeout, self.try_host(host, purpose)).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(Refused::Here(refused))) => refused,
                Ok(Err(Refused::Unfit(why))) => return Err(ConnectError::Unfit { server: server(), why }),
                Err(_) => format!("no answer within {} s", self.url.connect_timeout.as_secs()),
            };
            whys.push(format!("{host}: {refused}"));
        }
        Err(ConnectError::Unreachable { server: server(), why: whys.join("; ") })
    }

    async fn try_host(&self, host: &Host, purpose: Purpose) -> Result<Link, Refused> {
        let (client, mut driver) = self.config(host, purpose).connect(self.tls.clone()).await?;
        let server = driven(&mut driver, self.prepare(&client, purpose)).await?;
        Ok(Link { client, driver, server })
    }

    fn config(&self, host: &Host, purpose: Purpose) -> Config {
        let mut config = Config::new();
        match host {
            Host::Tcp { host, port } => config.host(host).port(*port),
            Host::Unix { directory, port } => config.host_path(directory).port(*port),
        };
        if let Some(password) = &self.url.password {
            config.password(password);
        }
        let has_tls = self.url.tls.is_some() && matches!(host, Host::Tcp { .. });
        config
            .user(&self.url.user)
            .dbname(&self.url.database)
            .application_name(&self.application_name)
            .options(options(purpose))
            .ssl_mode(if has_tls { SslMode::Require } else { SslMode::Disable })
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(self.url.connect_timeout)
            .tcp_user_timeout(Duration::from_secs(15))
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3);
        config
    }

    /// Reads back what was sent with the first message, and sets what depends on the server.
    async fn prepare(&self, client: &Client, purpose: Purpose) -> Result<Facts, Refused> {
        let row = client.query_one(FACTS, &[]).await?;
        let version: i32 = row.try_get("version")?;
        let version = u32::try_from(version).unwrap_or(0);
        if version < VERSION_MIN {
            let why = format!(
                "it is PostgreSQL {}, and {} is the oldest that works",
                release(version),
                release(VERSION_MIN)
            );
            return Err(Refused::Unfit(why));
        }
        self.check_passed_on(&row, purpose)?;
        let synchronous_commit: &str = row.try_get("synchronous_commit")?;
        for (name, value) in later(version, synchronous_commit, purpose) {
            let set = client.query_one("SELECT set_config($1, $2, false)", &[&name, &value]).await;
            match set {
                Err(error) if is_not_offered(name, &error) => {}
                set => drop(set?),
            }
        }
        let timeline: &str = row.try_get("timeline")?;
        let timeline = u32::from_str_radix(timeline, 16)
            .map_err(|_| Refused::Unfit("its log has a name that is none of PostgreSQL's".into()))?;
        Ok(Facts { version, timeline, system: row.try_get("system")? })
    }

    fn check_passed_on(&self, row: &Row, purpose: Purpose) -> Result<(), Refused> {
        let is_ours = row.try_get::<_, &str>("application_name")? == self.application_name;
        let idle_timeout: &str = row.try_get("idle_timeout")?;
        let plans: &str = row.try_get("plans")?;
        let has_plans = !plans_arrays(purpose) || plans == "force_generic_plan";
        if is_ours && idle_timeout == "5s" && has_plans { Ok(()) } else { Err(Refused::Unfit(POOLER.into())) }
    }
}

const FACTS: &str = "SELECT current_setting('server_version_num')::int4 AS version,
    current_setting('application_name') AS application_name,
    current_setting('idle_in_transaction_session_timeout') AS idle_timeout,
    current_setting('plan_cache_mode') AS plans,
    current_setting('synchronous_commit') AS synchronous_commit,
    substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline,
    (SELECT system_identifier FROM pg_control_system()) AS system";

fn plans_arrays(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::Lane | Purpose::Load)
}

/// What goes with the first message.
fn options(purpose: Purpose) -> String {
    let planner: &[_] = if plans_arrays(purpose) { PLANNER_OPTIONS } else { &[] };
    // Making tables waits for locks, which has its own time, and builds indexes, which has none.
    let statements = if purpose == Purpose::Start { "0" } else { STATEMENT_TIMEOUT };
    let timeout = [("statement_timeout", statements)];
    let all = OPTIONS.iter().chain(planner).chain(&timeout);
    all.map(|(name, value)| format!("-c {name}={value}")).collect::<Vec<_>>().join(" ")
}

/// What is set when it is known who answers.
fn later(version: u32, synchronous_commit: &str, purpose: Purpose) -> Vec<(&'static str, &'static str)> {
    let mut settings = Vec::new();
    // Raised where a reply would leave before its commit is on the disk; what asks for more than that stays.
    if ["off", "local", "remote_write"].contains(&synchronous_commit) {
        settings.push(("synchronous_commit", "on"));
    }
    if 140_000 <= version {
        settings.push((CHECK_INTERVAL, "1s"));
    }
    // The only time-out that ends a session whose client stops between two messages of a statement.
    if 170_000 <= version && purpose != Purpose::Start {
        settings.push(("transaction_timeout", STATEMENT_TIMEOUT));
    }
    settings
}

const CHECK_INTERVAL: &str = "client_connection_check_interval";

/// Whether the server's system has no means for a setting that is a help and no more.
fn is_not_offered(name: &str, error: &tokio_postgres::Error) -> bool {
    name == CHECK_INTERVAL && error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE)
}

/// A version as people say it.
pub(super) fn release(version: u32) -> String {
    format!("{}.{}", version / 10_000, version % 10_000)
}

/// An error with all its causes, short enough and without what a terminal would obey.
pub(super) fn words(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    shown(&text)
}

/// Text of a server, as it is shown.
pub(super) fn shown(text: &str) -> String {
    let text: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let end = text.char_indices().map(|(at, _)| at).nth(SHOWN_LEN_MAX).unwrap_or(text.len());
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_sent_where_the_version_knows_it() {
        let names = |version, now| {
            later(version, now, Purpose::Lane).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(130_000, "on"), [""; 0]);
        assert_eq!(names(140_011, "on"), [CHECK_INTERVAL]);
        assert_eq!(names(170_000, "on"), [CHECK_INTERVAL, "transaction_timeout"]);
    }

    #[test]
    fn a_commit_waits_for_the_disk_and_for_no_less_than_it_would() {
        for low in ["off", "local", "remote_write"] {
            assert_eq!(later(130_000, low, Purpose::Start), [("synchronous_commit", "on")]);
        }
        for high in ["on", "remote_apply"] {
            assert_eq!(later(130_000, high, Purpose::Start), []);
        }
    }

    #[test]
    fn only_what_runs_over_arrays_gets_the_planners_settings() {
        assert!(options(Purpose::Lane).contains("-c enable_seqscan=off"));
        assert!(!options(Purpose::Control).contains("enable_seqscan"));
        assert!(options(Purpose::Lane).ends_with("-c statement_timeout=30s"));
        assert!(options(Purpose::Start).ends_with("-c statement_timeout=0"));
    }

    #[test]
    fn the_name_of_a_run_fits_in_what_servers_keep() {
        assert_eq!(application_name(0xab), "entity-000000000000000000000000000000ab");
        assert!(application_name(u128::MAX).len() < 64);
    }

    #[test]
    fn what_a_server_says_is_shown_cut_and_tame() {
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a [2Jb ");
        assert_eq!(shown(&"é".repeat(900)).chars().count(), SHOWN_LEN_MAX);
    }
}
