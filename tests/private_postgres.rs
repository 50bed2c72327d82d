//! PostgreSQL servers of one test process: each in a temporary directory, on a port that was free, and gone with its handle.
//!
//! * A server is a direct child, so what is stopped or killed is known by its own process id. It refuses to run as root;
//!   where the tests are root it runs as `postgres`.
//! * The directory is made once for each process, and every server starts from a copy of it.
//! * When the test process itself is killed, a shell that waits for the end of a pipe stops the server and removes it.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "what needs a server cannot go on without it"
)]

use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::{
    collections::VecDeque,
    env, fs,
    io::{self, BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
};
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// The role that nodes log in as. Not a superuser: another role could not terminate its connections.
pub const ROLE: &str = "entity";
/// Its password, and the superuser's.
pub const PASSWORD: &str = "tests: only";
/// The same as it stands in a URL.
const PASSWORD_IN_URL: &str = "tests%3A%20only";
/// Lines of a server's log that are kept to explain why it did not start.
const LINES_KEPT: usize = 40;
/// Ports tried, and starts after a kill, while what was killed still holds on to them.
const STARTS_MAX: u32 = 50;

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Cuts connections, then writes everything: a restart by an operator.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
    /// The machine's way: no process of the server is asked.
    Kill,
}

/// One server.
pub struct Server {
    running: Option<Running>,
    port: u16,
    directory: TempDir,
}

struct Running {
    child: Child,
    /// Open as long as this process lives; see the module.
    watcher: (Child, ChildStdin),
}

impl Server {
    /// The server that tests share. It is started by the first who asks, and gone with the last.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A server of one's own.
    pub fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// A server of one's own, with settings and with files in its directory, over those that are there.
    pub fn start_with(settings: &[(&str, &str)], files: &[(&str, &[u8])]) -> Self {
        let template = TEMPLATE.as_ref().unwrap_or_else(|why| panic!("{why}"));
        let directory = temporary().unwrap();
        let data = directory.path().join("data");
        // Copied by the user it is for, who is its owner then.
        let from = template.path.join("data");
        run(as_owner(Command::new("cp").arg("-R").arg(from).arg(&data))).unwrap();
        let mut conf = fs::read_to_string(data.join("postgresql.conf")).unwrap();
        conf.push_str("listen_addresses = '127.0.0.1'\nlc_messages = 'C'\nlogging_collector = off\n");
        for (name, value) in settings {
            conf.extend([name, " = '", value, "'\n"]);
        }
        let conf = ("postgresql.conf", conf.as_bytes());
        for (name, bytes) in [conf].iter().chain(files) {
            let path = data.join(name);
            fs::write(&path, bytes).unwrap();
            // A key that others may read is refused.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            give(&path).unwrap();
        }
        let mut server = Self { running: None, port: 0, directory };
        server.start_again();
        server
    }

    /// Starts it where it was stopped, on the port it had.
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "the server runs already");
        let mut log = String::new();
        let is_new = self.port == 0;
        for _ in 0..STARTS_MAX {
            if is_new {
                // Free now; who takes it before the server does makes one more round.
                self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            }
            match self.try_start() {
                Ok(running) => {
                    self.running = Some(running);
                    return;
                }
                Err(lines) => log = lines,
            }
            // After a kill the last of its processes end when they look for their parent.
            let goes_away = ["could not create any TCP/IP sockets", "shared memory block", "lock file"];
            assert!(goes_away.iter().any(|words| log.contains(words)), "the server does not start:\n{log}");
        }
        panic!("the server does not start:\n{log}");
    }

    /// One try; else what it wrote.
    fn try_start(&self) -> Result<Running, String> {
        let data = self.directory.path().join("data");
        let mut command = Command::new(binary("postgres"));
        command.arg("-D").arg(&data).args(["-p", &self.port.to_string(), "-k"]).arg(self.directory.path());
        let mut child = as_owner(&mut command).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (ready, is_ready) = mpsc::channel();
        // Reads to the end, so that the server never waits for its log to be read.
        let reader = thread::spawn(move || {
            let mut lines = VecDeque::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains("is ready to accept") {
                    // Nobody listens any more when it recovers by itself later.
                    let _ = ready.send(());
                }
                lines.truncate(LINES_KEPT - 1);
                lines.push_front(line);
            }
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        });
        if is_ready.recv().is_err() {
            child.wait().unwrap();
            return Err(reader.join().unwrap());
        }
        Ok(Running { watcher: watch(child.id(), self.directory.path()), child })
    }

    /// Stops it and waits for its end. Its directory and its port are kept.
    pub fn stop(&mut self, how: Stop) {
        let running = self.running.take().expect("the server runs");
        running.stop(how);
    }

    /// The port it listens on, of 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its unix socket is, and its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A database of its own for a test, which belongs to [`ROLE`]; its URL.
    pub async fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.execute("postgres", &format!("CREATE DATABASE {name} OWNER {ROLE}")).await;
        self.url(&name)
    }

    /// The URL of a database for [`ROLE`].
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}:{PASSWORD_IN_URL}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs statements as superuser.
    pub async fn execute(&self, database: &str, statements: &str) {
        self.client("postgres", database).await.batch_execute(statements).await.unwrap();
    }

    /// A plain connection, made without the code under test.
    pub async fn client(&self, role: &str, database: &str) -> tokio_postgres::Client {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(role).password(PASSWORD).dbname(database);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(async move {
            // Ends with its client, or with the server, which the client tells.
            let _ = connection.await;
        });
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop(Stop::Immediate);
        }
    }
}

impl Running {
    fn stop(self, how: Stop) {
        let Self { mut child, watcher: (mut shell, mut pipe) } = self;
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
            Stop::Kill => Signal::KILL,
        };
        // Not waited for yet, so the id is still its own.
        let pid = Pid::from_child(&child);
        // It may have ended by itself; then there is nothing to stop.
        let _ = kill_process(pid, signal);
        // Before the id is free for others: the shell is not to stop whoever gets it.
        let _ = pipe.write_all(b"done\n");
        let _ = shell.wait();
        let _ = child.wait();
    }
}

/// Stops the server and removes its directory when this process ends without having done so.
fn watch(server: u32, directory: &Path) -> (Child, ChildStdin) {
    let script = "read -r done && exit; kill -QUIT \"$1\"; while kill -0 \"$1\" 2>&-; do sleep 0.1; done; rm -rf -- \"$2\"";
    shell(&["-c", script, "watch", &server.to_string()], directory)
}

/// A shell that hears of the end of this process: its input ends then.
fn shell(arguments: &[&str], directory: &Path) -> (Child, ChildStdin) {
    let mut command = Command::new("sh");
    // A group of its own: what interrupts the tests at a terminal is not to end it before its work is done.
    let mut shell =
        command.args(arguments).arg(directory).process_group(0).stdin(Stdio::piped()).spawn().unwrap();
    let pipe = shell.stdin.take().unwrap();
    (shell, pipe)
}

/// What every server is copied from; or what to do. A static is never dropped, so a shell removes it when this process has ended.
static TEMPLATE: LazyLock<Result<Template, String>> =
    LazyLock::new(|| make_template().map_err(|error| error.to_string()));

struct Template {
    path: PathBuf,
    _pipe: ChildStdin,
}

fn make_template() -> io::Result<Template> {
    let directory = temporary()?;
    let (data, password) = (directory.path().join("data"), directory.path().join("password"));
    fs::write(&password, PASSWORD)?;
    give(&password)?;
    let mut initdb = Command::new(try_binary("initdb")?);
    initdb.args(["--no-sync", "--no-locale", "-E", "UTF8", "-U", "postgres", "-A", "scram-sha-256"]);
    run(as_owner(initdb.arg("--pwfile").arg(password).arg("-D").arg(&data)))?;
    // Without a server, so that a server that was started needs nothing more.
    let mut single = Command::new(try_binary("postgres")?);
    as_owner(single.arg("--single").arg("-D").arg(&data).arg("postgres"));
    let mut child = single.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let statement = format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'\n");
    child.stdin.take().expect("it is piped").write_all(statement.as_bytes())?;
    if !child.wait()?.success() {
        return Err(io::Error::other("cannot make the role of the tests"));
    }
    let path = directory.keep();
    let pipe = shell(&["-c", "read -r done; rm -rf -- \"$1\"", "remove"], &path).1;
    Ok(Template { path, _pipe: pipe })
}

/// A temporary directory that the server's user can use.
fn temporary() -> io::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("entity-postgres-").tempdir()?;
    give(directory.path())?;
    Ok(directory)
}

/// Who runs servers instead of root, by user and group; `None` where the tests are not root.
static OWNER: LazyLock<Option<(u32, u32)>> = LazyLock::new(|| {
    let id = |what: &str| -> u32 {
        let output = Command::new("id").args([what, "postgres"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .expect("PostgreSQL does not run as root, and there is no user `postgres` to run it: run tools/postgres.sh")
    };
    geteuid().is_root().then(|| (id("-u"), id("-g")))
});

fn give(path: &Path) -> io::Result<()> {
    OWNER.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
}

/// To be run as the user of servers, without what this environment says to clients.
fn as_owner(command: &mut Command) -> &mut Command {
    if let Some((user, group)) = *OWNER {
        command.uid(user).gid(group).current_dir("/");
    }
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null())
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))))
}

fn binary(name: &str) -> PathBuf {
    try_binary(name).unwrap_or_else(|error| panic!("{error}"))
}

fn try_binary(name: &str) -> io::Result<PathBuf> {
    static DIRECTORY: LazyLock<Option<PathBuf>> = LazyLock::new(find);
    let missing = "PostgreSQL is not installed, and these tests need its server; run `tools/postgres.sh`, which installs it, \
                   or set PG_BIN to the directory of `postgres` and `initdb`";
    let directory = DIRECTORY.as_ref().ok_or_else(|| io::Error::other(missing))?;
    Ok(directory.join(name))
}

/// Where the programs of the newest server are: `PG_BIN` alone where it is set, else where packages put them.
fn find() -> Option<PathBuf> {
    let has_server = |path: &PathBuf| path.join("postgres").is_file() && path.join("initdb").is_file();
    if let Some(path) = env::var_os("PG_BIN") {
        return Some(PathBuf::from(path)).filter(has_server);
    }
    let asked = Command::new("pg_config").arg("--bindir").output().ok();
    let asked = asked.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    asked.filter(has_server).or_else(|| {
        let versions = |parent: &str| {
            let entries = fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
            let mut paths: Vec<_> = entries
                .filter_map(|entry| {
                    let name = entry.file_name().into_string().ok()?;
                    let version: u32 = name.trim_start_matches("postgresql@").parse().ok()?;
                    Some((version, entry.path().join("bin")))
                })
                .filter(|(_, path)| has_server(path))
                .collect();
            paths.sort();
            paths.pop()
        };
        let parents = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"];
        parents.into_iter().filter_map(versions).max().map(|(_, path)| path)
    })
}
