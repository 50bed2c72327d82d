//! The rooms of the runtime name only the rooms they may, and only a few of them touch the world.
//!
//! `ARCHITECTURE.md` says why; here the table is data, held against the `crate::` paths of `runtime/src`. Tests inside the
//! files are left out: they may use what they like.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Where a room stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Floor {
    /// Scale-agnostic: what a handler can reach.
    Upper,
    /// Scale-aware, and without I/O.
    Lower,
    /// Around both: it drives kernel and store, with files, threads and clocks or with a seed in their place.
    Ring,
}
use Floor::{Lower, Ring, Upper};

/// The rooms in the order of `lib.rs`, each with the rooms it may name.
const ROOMS: &[(&str, Floor, &[&str])] = &[
    ("error", Upper, &[]),
    ("timestamp", Upper, &[]),
    ("codec", Upper, &[]),
    ("entity", Upper, &["error", "codec", "message", "context"]),
    ("message", Upper, &["timestamp", "codec", "entity"]),
    ("context", Upper, &["error", "timestamp", "entity", "message"]),
    ("turn", Upper, &["entity", "message", "context"]),
    ("limits", Lower, &[]),
    ("placement", Lower, &[]),
    ("membership", Lower, &["timestamp", "placement", "store"]),
    ("router", Lower, &["placement"]),
    ("rebalance", Lower, &["timestamp", "placement"]),
    ("kinds", Lower, &["entity", "activation"]),
    ("stream", Lower, &["store"]),
    ("requests", Lower, &["timestamp", "message", "store"]),
    ("feeds", Lower, &["stream", "store"]),
    ("reminders", Lower, &["timestamp", "message", "context"]),
    ("activation", Lower, &["timestamp", "entity", "message", "context", "placement", "feeds"]),
    (
        "shard",
        Lower,
        &[
            "timestamp",
            "message",
            "context",
            "placement",
            "stream",
            "requests",
            "feeds",
            "reminders",
            "activation",
            "kernel",
            "store",
        ],
    ),
    (
        "kernel",
        Lower,
        &[
            "error",
            "timestamp",
            "message",
            "context",
            "turn",
            "limits",
            "placement",
            "kinds",
            "stream",
            "requests",
            "feeds",
            "reminders",
            "activation",
            "shard",
            "store",
        ],
    ),
    ("handoff", Lower, &["timestamp", "placement", "store"]),
    ("mover", Lower, &["timestamp", "placement", "router", "rebalance", "kernel", "handoff", "store"]),
    ("sharing", Lower, &["timestamp", "placement", "router", "rebalance", "kernel", "handoff", "store"]),
    ("store", Ring, &["placement"]),
    ("load", Ring, &["placement", "shard", "handoff", "store"]),
    (
        "sim",
        Ring,
        &[
            "error",
            "timestamp",
            "codec",
            "entity",
            "message",
            "limits",
            "placement",
            "membership",
            "router",
            "rebalance",
            "kinds",
            "requests",
            "feeds",
            "activation",
            "shard",
            "kernel",
            "handoff",
            "mover",
            "sharing",
            "store",
            "load",
        ],
    ),
    ("clock", Ring, &["timestamp"]),
    (
        "transport",
        Ring,
        &["error", "codec", "entity", "message", "placement", "requests", "feeds", "kernel", "clock"],
    ),
    (
        "cluster",
        Ring,
        &[
            "timestamp",
            "codec",
            "entity",
            "limits",
            "placement",
            "membership",
            "router",
            "rebalance",
            "kinds",
            "kernel",
            "handoff",
            "mover",
            "sharing",
            "store",
            "load",
            "clock",
            "transport",
            "node",
        ],
    ),
    ("worker", Ring, &["timestamp", "kernel", "store", "node"]),
    (
        "node",
        Ring,
        &[
            "error",
            "entity",
            "message",
            "limits",
            "placement",
            "router",
            "kinds",
            "feeds",
            "activation",
            "shard",
            "kernel",
            "store",
            "load",
            "clock",
            "transport",
            "cluster",
            "worker",
        ],
    ),
    (
        "client",
        Ring,
        &[
            "error",
            "timestamp",
            "codec",
            "entity",
            "message",
            "placement",
            "requests",
            "feeds",
            "activation",
            "shard",
            "kernel",
            "store",
            "clock",
            "transport",
            "cluster",
            "node",
        ],
    ),
    (
        "runtime",
        Ring,
        &["entity", "limits", "placement", "kinds", "kernel", "store", "clock", "cluster", "node", "client"],
    ),
    ("command", Ring, &["placement", "transport", "cluster", "client", "runtime"]),
];

/// What of the store a room of the lower floor may name: rows and batches are values, an engine is not.
const STORE_WITHOUT_IO: &[&str] = &[
    "row",
    "batch",
    "Row",
    "RowType",
    "Batch",
    "TransferId",
    "Ownership",
    "OwnershipRecord",
    "ImageKey",
    "LaneId",
    "NoRoom",
    "OwnedShard",
    "Ledger",
    "LedgerNode",
    "LedgerShard",
    "Presence",
    "TAKES_MAX",
];

/// Rooms that may touch files, sockets, threads and clocks.
const WORLD: &[&str] = &["store", "clock", "transport", "cluster", "worker", "node", "command"];
/// One call elsewhere that asks the world and changes nothing in it: how many cores there are.
const WORLD_EXCEPT: (&str, &str) = ("runtime", "thread::available_parallelism");

/// One file of `runtime/src`, its comments and its tests removed.
struct Source {
    /// Path below `src`.
    name: String,
    room: String,
    code: String,
}

fn runtime() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/src")
}

fn sources() -> Vec<Source> {
    let src = runtime();
    let mut directories = vec![src.clone()];
    let mut sources = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                directories.push(path);
            } else if !is_test(&name) && name != "lib.rs" {
                let room = name.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
                sources.push(Source { name, room, code: code(&fs::read_to_string(path).unwrap()) });
            }
        }
    }
    assert!(
        sources.len() > 40,
        "the runtime has more files than that; is {} the right place?",
        src.display()
    );
    sources
}

/// Whether a whole file is compiled for tests only.
fn is_test(name: &str) -> bool {
    name.split('/').any(|part| ["tests", "tests.rs", "conformance.rs"].contains(&part))
}

/// The code of a file: no comments, nothing from its own tests on, which stand last.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect()
}

/// The paths named behind `root::`, in `use` lines and elsewhere, each as its segments joined by `::`.
fn paths(code: &str, root: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let root = format!("{root}::");
    for (at, _) in code.match_indices(&root) {
        // `mycrate::` and `other::crate::` are not the root meant.
        if !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':') {
            tree(&code[at + root.len()..], "", &mut found);
        }
    }
    found
}

/// Reads one tree of a `use` (or the path of an expression) into whole paths; returns what stands behind it.
fn tree<'c>(code: &'c str, before: &str, found: &mut BTreeSet<String>) -> &'c str {
    let code = code.trim_start();
    if let Some(mut rest) = code.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(rest) = rest.strip_prefix('}') {
                return rest;
            }
            let len = rest.len();
            rest = tree(rest, before, found).trim_start();
            // `as name` renames; what was named stands.
            if let Some(renamed) = rest.strip_prefix("as ") {
                rest = renamed.trim_start().trim_start_matches(is_word);
            }
            rest = rest.trim_start().trim_start_matches(',');
            assert!(rest.len() < len, "cannot read the imports at `{}`", &rest[..rest.len().min(60)]);
        }
    }
    let end = code.find(|letter: char| !is_word(letter)).unwrap_or(code.len());
    let (word, rest) = code.split_at(end);
    if word.is_empty() {
        // A glob, a turbofish, the end of a macro's path.
        found.insert(before.to_owned());
        return rest.strip_prefix('*').unwrap_or(rest);
    }
    let path = if before.is_empty() { word.to_owned() } else { format!("{before}::{word}") };
    if let Some(rest) = rest.strip_prefix("::") {
        return tree(rest, &path, found);
    }
    found.insert(path);
    rest
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn head(path: &str) -> &str {
    path.split("::").next().unwrap()
}

fn floor(room: &str) -> Floor {
    ROOMS
        .iter()
        .find(|(name, _, _)| *name == room)
        .unwrap_or_else(|| panic!("`{room}` has no row in the table"))
        .1
}

#[test]
fn lib_rs_lists_the_rooms_of_the_table_in_its_order() {
    let lib = fs::read_to_string(runtime().join("lib.rs")).unwrap();
    let listed: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ").or(line.strip_prefix("mod ")))
        .filter_map(|rest| rest.strip_suffix(';'))
        .collect();
    let table: Vec<&str> = ROOMS.iter().map(|(name, _, _)| *name).collect();
    assert_eq!(listed, table, "a new room gets a row here and in ARCHITECTURE.md");
}

#[test]
fn a_room_names_the_rooms_of_its_row_and_no_others() {
    for (room, _, may) in ROOMS {
        let mut named = BTreeSet::new();
        for source in sources().iter().filter(|source| source.room == *room) {
            for path in paths(&source.code, "crate") {
                let other = head(&path).to_owned();
                // Names that `lib.rs` exports again would hide which room is meant.
                assert!(
                    ROOMS.iter().any(|(name, _, _)| *name == other),
                    "{} names `crate::{path}`; name the room it comes from",
                    source.name
                );
                assert!(
                    other == *room || may.contains(&other.as_str()),
                    "{} names `crate::{path}`, and `{room}` may use only {may:?}",
                    source.name
                );
                named.insert(other);
            }
        }
        let stale: Vec<_> = may.iter().filter(|other| !named.contains(**other)).collect();
        assert!(stale.is_empty(), "`{room}` no longer uses {stale:?}: take them out of its row");
    }
}

#[test]
fn no_path_climbs_out_of_its_room_by_super() {
    for Source { name, code, .. } in sources() {
        let depth = name.split('/').count();
        assert!(!code.contains(&"super::".repeat(depth)), "{name} names the crate's root by `super`");
    }
}

#[test]
fn the_upper_floor_names_nothing_below_it() {
    for (room, floor_of_room, may) in ROOMS {
        for other in *may {
            if *floor_of_room == Upper {
                assert_eq!(floor(other), Upper, "`{room}` is scale-agnostic and names `{other}`");
            }
        }
    }
}

#[test]
fn the_lower_floor_does_no_io() {
    for source in sources().iter().filter(|source| floor(&source.room) == Lower) {
        for path in paths(&source.code, "crate") {
            let other = head(&path);
            assert!(
                floor(other) != Ring || other == "store",
                "{} is without I/O and names `crate::{path}`",
                source.name
            );
            if other == "store" {
                let part = path.split("::").nth(1).unwrap_or("*");
                assert!(
                    STORE_WITHOUT_IO.contains(&part),
                    "{} names `crate::{path}`: of the store, the lower floor knows rows and batches only",
                    source.name
                );
            }
        }
    }
}

#[test]
fn kernel_and_below_name_no_executor() {
    for Source { name, room, code } in sources() {
        for root in ["actix", "actix_rt", "tokio"] {
            let named = paths(&code, root);
            assert!(floor(&room) == Ring || named.is_empty(), "{name} names {root}: {named:?}");
        }
        let actors = paths(&code, "actix");
        assert!(room == "worker" || actors.is_empty(), "{name} names actix; only `worker` may");
    }
}

#[test]
fn only_a_few_rooms_touch_the_world() {
    for Source { name, room, code } in sources() {
        for path in paths(&code, "std") {
            let touches = ["fs", "net", "thread", "process", "env"].contains(&head(&path))
                || ["time::Instant", "time::SystemTime"].iter().any(|clock| path.starts_with(clock));
            let is_allowed = WORLD.contains(&room.as_str()) || (room.as_str(), path.as_str()) == WORLD_EXCEPT;
            assert!(!touches || is_allowed, "{name} names `std::{path}`; only {WORLD:?} touch the world");
        }
    }
}

#[test]
fn the_derives_name_only_the_upper_floor() {
    let expand = Path::new(env!("CARGO_MANIFEST_DIR")).join("../entity-macros/src/expand.rs");
    let named = paths(&code(&fs::read_to_string(expand).unwrap()), "#krate");
    assert!(!named.is_empty(), "the derives name the runtime by `#krate`");
    for path in named {
        assert_eq!(floor(head(&path)), Upper, "a derive writes `{path}`");
    }
}

#[test]
fn architecture_md_shows_this_table() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let page = fs::read_to_string(page).unwrap();
    for (room, _, may) in ROOMS {
        let may = if may.is_empty() { "-".to_owned() } else { may.join(", ") };
        let row = page.lines().find(|line| line.starts_with(&format!("| [`{room}`]")));
        let row = row.unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for `{room}`"));
        assert!(
            row.ends_with(&format!("| {may} |")),
            "ARCHITECTURE.md, `{room}`: the last column is to be `{may}`\n{row}"
        );
    }
}
