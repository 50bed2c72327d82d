//! `flights` on several nodes: the same entities, the same figures, whatever is done to the nodes meanwhile.

use flights_plain::{
    report::{Report, differences},
    rows::Rows,
    totals::{Tables, fold},
};
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights-2013-q1.csv.gz")
}

/// The first rows of the bundled ones, in a directory of its own.
fn part(rows: usize) -> (TempDir, PathBuf) {
    let mut plain = String::new();
    flate2::read::GzDecoder::new(fs::File::open(bundled()).expect("the rows are bundled"))
        .read_to_string(&mut plain)
        .expect("they are good");
    let part: String = plain.split_inclusive('\n').take(1 + rows).collect();
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = dir.path().join("part.csv");
    fs::write(&file, part).expect("a temporary file can be written");
    (dir, file)
}

fn folded(input: &Path) -> Tables {
    fold(&mut Rows::open(input).expect("the input is good")).expect("the input is good")
}

/// Turns that all rows take: one of the aircraft, two airports and the carrier each, and one in which each enlists.
fn turns(tables: &Tables) -> u64 {
    let entities = tables.aircraft.len() + tables.airports.len() + tables.carriers.len();
    4 * tables.rows + entities as u64
}

fn flights(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flights"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command does that must end well.
fn done(mut command: Command) -> String {
    let output = command.output().expect("the program starts");
    let (told, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{told}\n{said}", output.status);
    told
}

/// What a command says on standard error that must fail with exit code 1.
fn complaint(mut command: Command) -> String {
    let output: Output = command.output().expect("the program starts");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
    assert_eq!(text(&output.stdout), "");
    assert!(said.contains("error: ") && !said.contains("panicked"), "{said}");
    said
}

/// A node's process, ended with the value.
struct Node {
    child: Child,
    address: String,
}

impl Node {
    /// Starts one and waits until it serves.
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("the node says something");
        let (_, address) = line.trim_end().split_once(" serves at ").unwrap_or_else(|| panic!("{line:?}"));
        Self { address: address.to_owned(), child }
    }

    fn found(name: &str, data_dir: &Path) -> Self {
        let mut command = flights(&["node", "--name", name, "--listen", "127.0.0.1:0", "--found"]);
        command.arg("--data-dir").arg(data_dir.join(name));
        Self::start(command)
    }

    fn join(name: &str, data_dir: &Path, at: &Node) -> Self {
        let mut command =
            flights(&["node", "--name", name, "--listen", "127.0.0.1:0", "--join", &at.address]);
        command.arg("--data-dir").arg(data_dir.join(name));
        Self::start(command)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn load(at: &Node, input: &Path) -> Command {
    let mut command = flights(&["load", "--connect", &at.address]);
    command.arg("--input").arg(input);
    command
}

fn report(at: &Node) -> Report {
    let told = done(flights(&["report", "--connect", &at.address, "--json"]));
    serde_json::from_str(&told).expect("standard output is one JSON object")
}

/// One seed a test, so that they run beside each other.
fn told_with_seed(seed: &str, nodes: &str) {
    let (dir, file) = part(8_000);
    let mut command = flights(&["demo", "--nodes", nodes, "--seed", seed, "--pause", "1", "--rate", "0"]);
    command.arg("--input").arg(&file).arg("--data-dir").arg(dir.path().join("demo"));
    let told = done(command);
    for (what, times) in [
        (" joins, ", 1),
        (" is told to leave\n", 1),
        (" and left after ", 1),
        ("SIGSTOP of ", 1),
        ("kill -9 of ", 2),
    ] {
        assert_eq!(told.matches(what).count(), times, "{what}: {told}");
    }
    assert!(told.contains("\nequal: ") && told.contains("\nMoves\n"), "{told}");
}

#[test]
fn nodes_that_join_leave_crash_and_hang_give_the_figures_of_a_plain_fold() {
    told_with_seed("1", "3");
}

#[test]
fn so_do_others_in_another_order() {
    told_with_seed("2", "3");
}

#[test]
fn so_does_a_cluster_that_begins_with_one_node() {
    told_with_seed("3", "1");
}

/// The server is a private one, and ends in the middle of it.
#[test]
fn nodes_that_share_a_database_give_the_same_figures_though_killed_for_good() {
    let (dir, file) = part(8_000);
    let mut command = flights(&["demo", "--nodes", "3", "--postgres", "--seed", "4", "--pause", "4"]);
    command.args(["--rate", "0", "--kills", "1"]);
    command.arg("--input").arg(&file).arg("--data-dir").arg(dir.path().join("demo"));
    let told = done(command);
    for (what, times) in [
        (" answers elsewhere after ", 1),
        ("the PostgreSQL server ends without a shutdown", 1),
        (" and left after ", 1),
        ("SIGSTOP of ", 1),
        ("\nequal: ", 1),
    ] {
        assert_eq!(told.matches(what).count(), times, "{what}: {told}");
    }
}

#[test]
fn the_report_of_three_nodes_is_that_of_one_process_and_loading_twice_changes_nothing() {
    let (dir, file) = part(8_000);
    let mut command = flights(&["run", "--json"]);
    command.arg("--input").arg(&file).arg("--data-dir").arg(dir.path().join("run"));
    let one: Report = serde_json::from_str(&done(command)).unwrap();

    let a = Node::found("a", dir.path());
    let b = Node::join("b", dir.path(), &a);
    let c = Node::join("c", dir.path(), &b);
    done(load(&a, &file));
    let three = report(&b);
    assert_eq!(differences(&three.tables, &one.tables), []);
    assert_eq!(differences(&three.tables, &folded(&file)), []);
    assert_eq!((three.counters.applied, three.counters.dead_letters), (turns(&one.tables), 0));

    done(load(&c, &file));
    let again = report(&c);
    assert_eq!(differences(&again.tables, &one.tables), []);
    assert_eq!(again.counters.applied, three.counters.applied, "no turn was taken twice");

    let table = done(flights(&["report", "--connect", &a.address]));
    assert!(table.contains("Carriers\n  carrier"), "{table}");
}

#[test]
fn a_load_goes_on_when_a_node_is_killed_and_comes_back() {
    let (dir, file) = part(20_000);
    let a = Node::found("a", dir.path());
    let mut b = Node::join("b", dir.path(), &a);
    let mut command = load(&a, &file);
    command.args(["--progress-lines", "1"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut loading = command.spawn().unwrap();
    let mut lines = BufReader::new(loading.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("progress "));

    let data_dir = dir.path().join("b");
    b.child.kill().unwrap();
    b.child.wait().unwrap();
    // Killed so soon it may not have been let in yet, so it is told again where to join.
    let mut command = flights(&["node", "--name", "b", "--listen", &b.address, "--join", &a.address]);
    command.arg("--data-dir").arg(data_dir);
    let b = Node::start(command);

    let said: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(loading.wait().unwrap().success(), "{:?}", said.last());
    assert_eq!(differences(&report(&b).tables, &folded(&file)), []);
}

/// How many shards a node has, as the first knows.
fn shards_of(first: &Node, name: &str) -> usize {
    let told = done(flights(&["status", "--node", "a", "--connect", &first.address, "--json"]));
    let told: serde_json::Value = serde_json::from_str(&told).expect("standard output is one JSON object");
    let shards = told["nodes"][0]["shards"].as_array().expect("one node has answered");
    shards.iter().filter(|shard| shard["owner"] == name).count()
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[test]
fn a_copy_stands_in_for_a_disk_that_is_destroyed() {
    let (dir, file) = part(4_000);
    let a = Node::found("a", dir.path());
    let b = Node::join("b", dir.path(), &a);
    let begun = Instant::now();
    while shards_of(&a, "b") < 100 {
        assert!(begun.elapsed() < Duration::from_mins(1), "b never has its share");
    }
    done(load(&a, &file));
    let loaded = report(&a);
    drop(b);
    let (home, saved) = (dir.path().join("b"), dir.path().join("saved"));
    copy(&home, &saved).unwrap();
    // It runs once more, so that the others have seen it later than its copy was made; and then its disk is gone.
    let mut again = flights(&["node", "--name", "b", "--listen", "127.0.0.1:0", "--join", &a.address]);
    again.arg("--data-dir").arg(&home);
    let b = Node::start(again);
    let all = report(&b);
    assert_eq!(differences(&all.tables, &loaded.tables), []);
    drop(b);
    fs::remove_dir_all(&home).unwrap();

    let adopt = || {
        let mut command = flights(&["adopt", "--name", "b", "--original-destroyed"]);
        command.args(["--join", &a.address]).arg("--data-dir").arg(&saved);
        command.output().unwrap()
    };
    // Until the others have noticed that it is gone they do not give it up.
    let begun = Instant::now();
    let told = loop {
        let output = adopt();
        if output.status.success() {
            break text(&output.stdout);
        }
        let said = text(&output.stderr);
        assert!(said.contains("node b is alive") && begun.elapsed() < Duration::from_mins(1), "{said}");
    };
    assert!(told.contains("the store that node b had is never let in again; its copy has "), "{told}");
    assert!(told.ends_with("node b has left the cluster\n"), "{told}");
    assert_eq!((shards_of(&a, "a"), shards_of(&a, "b")), (256, 0));
    assert_eq!(differences(&report(&a).tables, &folded(&file)), []);
}

#[test]
fn another_file_under_the_name_of_a_feed_is_refused() {
    let (dir, file) = part(100);
    let (_other, other) = part(100);
    let changed = fs::read_to_string(&other).unwrap().replacen(",UA,", ",XX,", 1);
    fs::write(&other, changed).unwrap();
    let a = Node::found("a", dir.path());
    done(load(&a, &file));
    let said = complaint(load(&a, &other));
    assert!(said.contains("is not the file that was read under the feed name `part.csv` before"), "{said}");
    // Under a name of its own it is another file, and counts.
    let mut named = load(&a, &other);
    named.args(["--feed", "changed"]);
    done(named);
    assert_eq!(report(&a).tables.rows, 200);
}

#[test]
fn where_no_node_can_be_reached_it_says_so() {
    let (_dir, file) = part(1);
    // A port that was free a moment ago, below those given to outgoing connections.
    let port =
        (20_000..30_000).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    let address = format!("127.0.0.1:{port}");
    let mut load = flights(&["load", "--connect", &address]);
    load.arg("--input").arg(&file);
    for command in [load, flights(&["report", "--connect", &address])] {
        let said = complaint(command);
        assert!(said.contains("no node could be reached: ") && said.contains(&address), "{said}");
    }
}

#[test]
fn a_node_on_an_empty_directory_is_told_what_to_do_there() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("a");
    let mut command = flights(&["node", "--name", "a", "--listen", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(&data_dir);
    let said = complaint(command);
    assert!(said.contains("found a cluster with this node, or name the nodes to join at"), "{said}");
    assert!(!data_dir.exists());
}

#[cfg(unix)]
#[test]
fn a_node_stops_in_peace_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::found("a", dir.path());
    for signal in ["-TERM", "-INT"] {
        let killed = Command::new("kill").arg(signal).arg(node.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        assert_eq!(node.child.wait().unwrap().code(), Some(0));
        let mut rest = String::new();
        node.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "one line when it serves, and no more");
        node = Node::found("a", dir.path());
    }
}

#[test]
fn certificates_make_a_cluster_that_nobody_without_one_can_talk_to() {
    let (dir, file) = part(500);
    let certs = dir.path().join("certs");
    let make = || {
        let mut command = flights(&["certs", "--names", "a,b"]);
        command.arg("--out").arg(&certs);
        command
    };
    let told = done(make());
    assert!(told.contains("a.pem: of node a") && told.contains("flights node --name a "), "{told}");
    assert!(complaint(make()).contains("it is there already and is not overwritten"));

    let with = |mut command: Command, who: &str| {
        command.arg("--tls-authority").arg(certs.join("ca.pem"));
        command.arg("--tls-certificate").arg(certs.join(format!("{who}.pem")));
        command.arg("--tls-key").arg(certs.join(format!("{who}.key")));
        command
    };
    let node = |name: &str, begin: &[&str]| {
        let mut command = flights(&["node", "--name", name, "--listen", "127.0.0.1:0"]);
        command.args(begin).arg("--data-dir").arg(dir.path().join(name));
        Node::start(with(command, name))
    };
    let a = node("a", &["--found"]);
    let b = node("b", &["--join", &a.address]);
    done(with(load(&b, &file), "client"));
    let told = done(with(flights(&["report", "--connect", &a.address, "--json"]), "client"));
    let found: Report = serde_json::from_str(&told).unwrap();
    assert_eq!(differences(&found.tables, &folded(&file)), []);

    complaint(load(&a, &file));
    let strangers = dir.path().join("strangers");
    let mut command = flights(&["certs", "--out"]);
    command.arg(&strangers);
    done(command);
    let mut stranger = load(&a, &file);
    stranger.arg("--tls-authority").arg(certs.join("ca.pem"));
    stranger.arg("--tls-certificate").arg(strangers.join("client.pem"));
    stranger.arg("--tls-key").arg(strangers.join("client.key"));
    complaint(stranger);
}

/// No destructor of the demo runs, and its nodes end all the same.
#[cfg(unix)]
#[test]
fn no_node_outlives_the_demo_that_started_it() {
    let (dir, file) = part(8_000);
    let mut command = flights(&["demo", "--nodes", "2", "--rate", "1"]);
    command.arg("--input").arg(&file).arg("--data-dir").arg(dir.path().join("demo"));
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("n1, n2 serve")));
    demo.kill().unwrap();
    demo.wait().unwrap();
    // Its directories are free again: nobody holds the lock, so a node can be started there.
    for name in ["n1", "n2"] {
        let started = Instant::now();
        let served = loop {
            let mut command = flights(&["node", "--name", name, "--listen", "127.0.0.1:0"]);
            command.arg("--data-dir").arg(dir.path().join("demo").join(name));
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            let _ = child.kill();
            child.wait().unwrap();
            if !line.is_empty() || Duration::from_secs(30) < started.elapsed() {
                break line;
            }
        };
        assert!(served.contains(" serves at "), "{name} is still there: {served}");
    }
}

/// One text serves `run` and `node`, and nothing in it knows which it is.
#[test]
fn the_entities_know_of_nothing_below_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("flights");
    let entities = fs::read_to_string(source.join("entities.rs")).unwrap();
    assert_eq!(
        entities.matches("entity_runtime::").collect::<Vec<_>>().len(),
        entities.matches("use entity_runtime::prelude::*;\n").count(),
        "the prelude is all they use of the runtime"
    );
    let lower = entities.to_lowercase();
    let words: Vec<&str> = lower.split(|letter: char| !letter.is_alphanumeric()).collect();
    for word in [
        "node",
        "nodes",
        "cluster",
        "shard",
        "shards",
        "epoch",
        "view",
        "placement",
        "membership",
        "router",
        "transport",
        "store",
        "worker",
        "disk",
        "address",
        "thread",
        "clock",
    ] {
        assert!(!words.contains(&word), "entities.rs says `{word}`");
    }

    // And one place names them to the runtime, for `run` and for `node`.
    let registers = |file: &str| fs::read_to_string(source.join(file)).unwrap().matches(".entity::<").count();
    assert_eq!(registers("load.rs"), 4);
    for file in ["run.rs", "main.rs"] {
        let text = fs::read_to_string(source.join(file)).unwrap();
        assert!(text.contains("load::with_entities(Runtime::builder())") && registers(file) == 0, "{file}");
    }
}

#[test]
fn every_subcommand_teaches_by_examples() {
    for subcommand in ["load", "report", "certs"] {
        let told = done(flights(&[subcommand, "--help"]));
        assert!(told.contains("Examples:\n  flights "), "{told}");
    }
    // What the runtime brings along calls the program by its name.
    for subcommand in ["node", "status", "leave", "adopt", "reopen", "unpark", "forget"] {
        let told = done(flights(&[subcommand, "--help"]));
        assert!(told.contains(&format!("\n  flights {subcommand}")), "{told}");
        assert!(!told.contains(" app "), "{told}");
    }
}
