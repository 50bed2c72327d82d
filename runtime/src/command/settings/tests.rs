use super::{super::args::NodeArgs, *};
use clap::Parser;
use std::{collections::BTreeMap, ffi::OsString, fmt::Write};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    node: NodeArgs,
}

fn args(line: &str) -> NodeArgs {
    Cli::try_parse_from(std::iter::once("node").chain(line.split_whitespace())).unwrap().node
}

fn gather(line: &str, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let environment: BTreeMap<_, _> = environment.iter().copied().collect();
    Settings::gather(args(line), &|variable| environment.get(variable).map(OsString::from))
}

fn error(line: &str, environment: &[(&str, &str)]) -> String {
    gather(line, environment).unwrap_err().to_string()
}

/// A file with this text, and its path as an argument.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

#[test]
fn the_command_line_comes_before_the_environment_and_that_before_the_file() {
    let (_directory, path) = file(
        "name = \"file\"\ndata_dir = \"file\"\nlisten = \"file:1\"\nadvertise = \"file:2\"\nweight = 3\nworkers = 3\n",
    );
    let environment = [
        ("ENTITY_NODE_NAME", "env"),
        ("ENTITY_DATA_DIR", "env"),
        ("ENTITY_LISTEN", "env:1"),
        ("ENTITY_WEIGHT", "2"),
    ];
    let settings = gather(&format!("--config {path} --name line --data-dir line"), &environment).unwrap();
    assert_eq!(settings.cluster.name.as_str(), "line");
    assert_eq!(settings.place, Some(Place::Directory("line".into())));
    assert_eq!(settings.cluster.listen, "env:1");
    assert_eq!(settings.cluster.weight, 2);
    assert_eq!(settings.cluster.advertise.as_deref(), Some("file:2"));
    assert_eq!(settings.workers.map(NonZeroUsize::get), Some(3));
    // What nobody has said.
    assert_eq!(settings.shards, None);
    assert_eq!((settings.cluster.begin, settings.cluster.security), (Begin::Resume, Security::Loopback));
}

#[test]
fn without_a_word_a_node_listens_on_loopback_is_called_so_and_goes_on() {
    let Settings { cluster, place, workers, shards } = gather("", &[("ENTITY_LISTEN", "")]).unwrap();
    assert_eq!((cluster.name.as_str(), cluster.listen.as_str()), (LISTEN_DEFAULT, LISTEN_DEFAULT));
    assert_eq!((cluster.begin, cluster.weight, cluster.advertise), (Begin::Resume, 1, None));
    assert_eq!((place, workers, shards), (None, None, None));
}

#[test]
fn the_file_can_be_named_by_the_environment() {
    let (_directory, path) = file("name = \"file\"");
    assert_eq!(gather("", &[("ENTITY_CONFIG", &path)]).unwrap().cluster.name.as_str(), "file");
}

#[test]
fn whatever_can_be_said_can_be_said_in_all_three_ways() {
    let said = [
        ("name", "ENTITY_NODE_NAME", "n"),
        ("data_dir", "ENTITY_DATA_DIR", "d"),
        ("listen", "ENTITY_LISTEN", "l:1"),
        ("advertise", "ENTITY_ADVERTISE", "a:1"),
        ("weight", "ENTITY_WEIGHT", "7"),
        ("workers", "ENTITY_WORKERS", "8"),
        ("shards", "ENTITY_SHARDS", "16"),
        ("tls_authority", "ENTITY_TLS_AUTHORITY", "authority"),
        ("tls_certificate", "ENTITY_TLS_CERTIFICATE", "certificate"),
        ("tls_key", "ENTITY_TLS_KEY", "key"),
    ];
    let mut line = "--found".to_owned();
    let mut environment = vec![("ENTITY_FOUND", "true")];
    let mut text = "found = true\n".to_owned();
    for (key, variable, value) in said {
        let _ = write!(line, " --{} {value}", key.replace('_', "-"));
        environment.push((variable, value));
        let quote = if value.parse::<u32>().is_ok() { "" } else { "\"" };
        let _ = writeln!(text, "{key} = {quote}{value}{quote}");
    }
    let (_directory, path) = file(&text);
    let ways = [gather(&line, &[]), gather("", &environment), gather(&format!("--config {path}"), &[])];
    let [first, second, third] = ways.map(|settings| format!("{:?}", settings.unwrap()));
    assert!(first.contains("Found") && first.contains("\"key\""), "{first}");
    assert_eq!((&first, &first), (&second, &third));

    let (_directory, path) = file("join = [\"a:1\", \"b:2\"]\ninsecure = true");
    for settings in [
        gather("--join a:1,b:2 --insecure", &[]),
        gather("--join a:1 --join b:2 --insecure", &[]),
        gather("", &[("ENTITY_JOIN", "a:1, b:2"), ("ENTITY_INSECURE", "true")]),
        gather(&format!("--config {path}"), &[]),
    ] {
        let cluster = settings.unwrap().cluster;
        assert_eq!(cluster.begin, Begin::Join(vec!["a:1".into(), "b:2".into()]));
        assert_eq!(cluster.security, Security::Insecure);
    }
}

#[test]
fn one_source_cannot_found_and_join_and_of_two_the_first_is_heard() {
    let both = Cli::try_parse_from(["node", "--found", "--join", "a:1"]).unwrap_err();
    assert_eq!(both.kind(), clap::error::ErrorKind::ArgumentConflict);
    let environment = [("ENTITY_FOUND", "true"), ("ENTITY_JOIN", "a:1")];
    assert_eq!(
        error("", &environment),
        "the environment says both `found` and `join`: one node founds the cluster, the others join it"
    );
    let (_directory, path) = file("found = true\njoin = [\"a:1\"]");
    let said = error(&format!("--config {path}"), &[]);
    assert!(said.starts_with(&format!("{path} says both `found` and `join`")), "{said}");

    let begin = |line, environment: &[_]| gather(line, environment).unwrap().cluster.begin;
    assert_eq!(begin("--found", &environment[1..]), Begin::Found);
    assert_eq!(begin("--join b:1", &environment[..1]), Begin::Join(vec!["b:1".into()]));
    // To say that it does not found is to say nothing of how it begins.
    let (_directory, path) = file("join = [\"c:1\"]");
    let not = begin(&format!("--config {path}"), &[("ENTITY_FOUND", "false")]);
    assert_eq!(not, Begin::Join(vec!["c:1".into()]));
}

fn on(urls: &[&str]) -> Servers {
    let urls = urls.iter().map(|url| url.parse().unwrap()).collect();
    Servers { urls, require_sync: false, lease: None, lanes: None }
}

#[test]
fn servers_are_named_in_all_three_ways() {
    let urls = ["postgres://e:hidden@a,b/d", "postgres://e@c/d"];
    let expected = || {
        let (lease, lanes) = (Some(Duration::from_millis(1_500)), Some(2));
        Some(Place::Servers(Servers { require_sync: true, lease, lanes, ..on(&urls) }))
    };
    let [first, second] = urls;
    let line = format!("--store {first} --store {second} --require-sync --lease 1500ms --store-lanes 2");
    let listed = urls.join(" ");
    let environment = [
        ("ENTITY_STORE", listed.as_str()),
        ("ENTITY_REQUIRE_SYNC", "true"),
        ("ENTITY_LEASE", "1500ms"),
        ("ENTITY_STORE_LANES", "2"),
    ];
    let text =
        format!("store = {urls:?}\nrequire_sync = true\nlease = \"1500ms\"\nstore_lanes = 2\nname = \"n\"");
    let (_directory, path) = file(&text);
    for settings in [gather(&line, &[]), gather("", &environment), gather(&format!("--config {path}"), &[])] {
        let settings = settings.unwrap();
        assert_eq!(settings.place, expected());
        assert!(!format!("{settings:?}").contains("hidden"), "{settings:?}");
    }
    // One alone needs no list.
    let (_directory, path) = file("store = \"postgres://e@c/d\"");
    let settings = gather(&format!("--config {path}"), &[]).unwrap();
    assert_eq!(settings.place, Some(Place::Servers(on(&urls[1..]))));
}

#[test]
fn state_is_kept_in_one_place_and_of_two_sources_the_first_is_heard() {
    let environment =
        [("ENTITY_STORE", "postgres://e@c/d"), ("ENTITY_DATA_DIR", "d"), ("ENTITY_LEASE", "1s")];
    assert_eq!(
        error("", &environment),
        "the environment says both `data_dir` and `store`: a node keeps state in a directory of its own, or on servers that all \
         nodes share"
    );
    let place = |line, environment: &[_]| gather(line, environment).unwrap().place;
    // What was said of the servers does not concern who uses a directory.
    let [store, directory, lease] = environment;
    assert_eq!(place("--data-dir x", &[store, lease]), Some(Place::Directory("x".into())));
    assert_eq!(
        place("--store postgres://e@c/d", &[directory]),
        Some(Place::Servers(on(&["postgres://e@c/d"])))
    );
    assert_eq!(place("", &[("ENTITY_STORE", " ")]), None);
    for flag in ["--require-sync", "--lease 3s", "--store-lanes 2"] {
        let clash = Cli::try_parse_from(format!("node --data-dir d {flag}").split(' ')).unwrap_err();
        assert_eq!(clash.kind(), clap::error::ErrorKind::ArgumentConflict, "{flag}");
        let why = error(flag, &[directory]);
        let flag = flag.split(' ').next().unwrap();
        assert!(why.starts_with(&format!("{flag} goes with --store alone")), "{why}");
    }
}

#[test]
fn no_error_shows_a_password() {
    let url = "postgres://e:hidden@c/d";
    let clash = Cli::try_parse_from(["node", "--data-dir", "d", "--store", url]).unwrap_err();
    let mut said = vec![clash.to_string(), error("", &[("ENTITY_STORE", url), ("ENTITY_DATA_DIR", "d")])];
    for text in [
        format!("store = {{ url = \"{url}\" }}"),
        format!("store = [\"{url}\", 7]"),
        format!("data_dir = \"d\"\nstore = \"{url}\""),
        format!("store = \"{url}"),
    ] {
        let (_directory, path) = file(&text);
        said.push(error(&format!("--config {path}"), &[]));
    }
    assert!(said[2].ends_with("line 1: `store` is the URL of a server, or a list of URLs"), "{}", said[2]);
    for said in said {
        assert!(!said.contains("hidden"), "{said}");
    }
}

#[test]
fn an_address_that_names_no_node_is_refused_as_its_name() {
    assert_eq!(
        error("--listen 127.0.0.1:0", &[]),
        "a node that listens at 127.0.0.1:0 cannot be called that, for its port is another each time: give it a --name"
    );
    assert_eq!(
        error("--listen 0.0.0.0:7001 --advertise a:1", &[]),
        "a node that listens at 0.0.0.0:7001 cannot be called that, for that stands for any machine: give it a --name"
    );
    assert!(error("--listen bücher:1", &[]).contains("characters no name can have"));
    assert_eq!(
        error("--listen [::]:7001 --name n", &[]),
        "[::]:7001 stands for every address of this machine: say by --advertise at which the others reach the node"
    );
    assert!(gather("--listen 0.0.0.0:0 --advertise a:1 --name n", &[]).is_ok());
}

#[test]
fn only_a_founder_chooses_the_number_of_shards() {
    let refused =
        "--shards goes with --found alone: a cluster keeps the number of shards it was founded with";
    assert_eq!(error("--shards 16 --join a:1", &[]), refused);
    assert_eq!(error("", &[("ENTITY_SHARDS", "16")]), refused);
    assert_eq!(gather("--found --shards 16", &[]).unwrap().shards, Some(16));
}

#[test]
fn half_a_security_is_none() {
    assert_eq!(
        error("--tls-authority a --tls-key k", &[]),
        "TLS needs --tls-authority, --tls-certificate and --tls-key; --tls-certificate is missing"
    );
    assert!(error("--tls-authority a --tls-certificate c", &[]).ends_with("; --tls-key is missing"));
    assert!(error("", &[("ENTITY_TLS_KEY", "k")]).ends_with("; --tls-authority is missing"));
    assert_eq!(
        error("--insecure", &[("ENTITY_TLS_KEY", "k")]),
        "--insecure and certificates exclude each other: leave one of them out"
    );
}

#[test]
fn a_variable_that_cannot_be_read_is_named() {
    let weight = error("", &[("ENTITY_WEIGHT", "101")]);
    assert_eq!(
        weight,
        "ENTITY_WEIGHT in the environment: \"101\": the weight of a node is a whole number from 1 to 100"
    );
    let found = error("", &[("ENTITY_FOUND", "yes")]);
    assert_eq!(found, "ENTITY_FOUND in the environment: \"yes\": provided string was not `true` or `false`");
    let join = error("", &[("ENTITY_JOIN", "a:1,,b:1")]);
    assert!(join.starts_with("ENTITY_JOIN in the environment: \"\" is no address"), "{join}");
}

#[cfg(unix)]
#[test]
fn a_directory_may_have_any_name_and_nothing_else_may() {
    use std::os::unix::ffi::OsStringExt;
    let odd = || OsString::from_vec(vec![0xff]);
    let gather = |named: &'static str| {
        Settings::gather(NodeArgs::default(), &move |variable| (variable == named).then(odd))
    };
    assert_eq!(gather("ENTITY_DATA_DIR").unwrap().place, Some(Place::Directory(odd().into())));
    let error = gather("ENTITY_LISTEN").unwrap_err().to_string();
    assert_eq!(error, "ENTITY_LISTEN in the environment: it is not UTF-8");
}

#[test]
fn who_asks_nodes_says_how_by_the_same_words() {
    let security = |args, variable: &'static str| {
        security(args, &move |asked| (asked == variable).then(|| "true".into()))
    };
    assert_eq!(security(SecurityArgs::default(), "ENTITY_INSECURE").unwrap(), Security::Insecure);
    // What is said of a node alone does not concern it.
    assert_eq!(security(SecurityArgs::default(), "ENTITY_WEIGHT").unwrap(), Security::Loopback);
}
