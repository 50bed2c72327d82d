//! The PostgreSQL store, on servers that are started for it and stopped again.
//!
//! `cargo test -p entity-runtime-tests --test postgres connecting` runs one module. Where PostgreSQL is missing,
//! `tools/postgres.sh` installs it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

// The servers themselves.
#[path = "postgres/servers.rs"]
mod servers;

// Sessions, TLS, and what a server must be.
#[path = "postgres/connecting.rs"]
mod connecting;

// Tables, clusters, and lists of servers.
#[path = "postgres/founding.rs"]
mod founding;

// What a lane writes, and what it is refused.
#[path = "postgres/commits.rs"]
mod commits;

// A store on them: opened, replaced, closed.
#[path = "postgres/store.rs"]
mod store;

// What was committed is what is loaded, and by its owner alone.
#[path = "postgres/loads.rs"]
mod loads;

// Leases, and shards of the dead.
#[path = "postgres/taking.rs"]
mod taking;

// What an operator reads.
#[path = "postgres/views.rs"]
mod views;

// Whole nodes: shared shards, and what happens when one is gone.
#[path = "postgres/nodes.rs"]
mod nodes;

// Work that shows every loss and every doubling.
#[path = "postgres/load.rs"]
mod load;

// A server that dies again and again.
#[path = "postgres/restarts.rs"]
mod restarts;

// Stands between nodes and a server.
#[path = "postgres/proxy.rs"]
mod proxy;

// Connections that are cut in the middle of a commit.
#[path = "postgres/cuts.rs"]
mod cuts;

// Nodes that were stopped for longer than their leases.
#[path = "postgres/zombies.rs"]
mod zombies;
