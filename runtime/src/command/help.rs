//! What `--help` teaches below its list of options, under the name that the program was started by.

/// A text in which the program is called by its name.
pub(super) fn of_program(text: &str) -> String {
    text.replace("{app}", &program())
}

/// What the program is called: the last part of what it was started by.
pub(super) fn program() -> String {
    let started_by = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&started_by).file_name().and_then(|name| name.to_str());
    name.map_or("app", |name| name.trim_end_matches(".exe")).to_owned()
}

pub(super) const APP: &str = "\
A cluster on one machine, each line in a terminal of its own:
  {app} node --data-dir a --listen 127.0.0.1:7001 --found
  {app} node --data-dir b --listen 127.0.0.1:7002 --join 127.0.0.1:7001
  {app} status

The same on a PostgreSQL server, where the others go on with what a node has that is gone:
  {app} node --store postgres://entity@127.0.0.1/entity --listen 127.0.0.1:7001 --found
  {app} node --store postgres://entity@127.0.0.1/entity --listen 127.0.0.1:7002

Certificates and --insecure are said of a node and of who asks one in the same words, or by the same variables:
ENTITY_TLS_AUTHORITY, ENTITY_TLS_CERTIFICATE, ENTITY_TLS_KEY, ENTITY_INSECURE=true.";

pub(super) const NODE: &str = "\
An empty data directory needs --found or --join: a node that has lost its disk must not found an empty cluster beside the
one it was in. One node founds a cluster, all others join it. A directory with a store needs neither, and the node goes on
with what it holds.

With --store nodes keep state on PostgreSQL servers that they share. One node founds the cluster there with --found; all
others find it there, and each other too. A URL is postgres://USER@HOST:PORT/DATABASE, with the password in PGPASSWORD, or
in the URL where nobody reads command lines. A server on another machine is checked by its certificate: add
?sslrootcert=FILE. Several addresses of one server, for its fail-over, stand in one URL with commas between them; several
servers are several --store, with the shards spread over them for good, and each node names all of them in the same order.
A second process under the same --name takes the place of the first, which ends.

Each option can also be said in the environment (ENTITY_NODE_NAME, ENTITY_DATA_DIR, ENTITY_STORE with spaces between
servers, ENTITY_REQUIRE_SYNC=true, ENTITY_LEASE, ENTITY_STORE_LANES, ENTITY_LISTEN, ENTITY_ADVERTISE, ENTITY_FOUND=true,
ENTITY_JOIN=a:7001,b:7001, ENTITY_WEIGHT, ENTITY_WORKERS, ENTITY_SHARDS, ENTITY_TLS_AUTHORITY, ENTITY_TLS_CERTIFICATE,
ENTITY_TLS_KEY, ENTITY_INSECURE=true, ENTITY_CONFIG) and in a TOML file:
  name = \"a\"
  data_dir = \"/var/lib/{app}\"
  listen = \"10.0.0.1:7001\"
  join = [\"10.0.0.2:7001\", \"10.0.0.3:7001\"]
  tls_authority = \"/etc/{app}/authority.pem\"
  tls_certificate = \"/etc/{app}/a.pem\"
  tls_key = \"/etc/{app}/a-key.pem\"
or, in the place of data_dir and join:
  store = [\"postgres://entity@db0/entity?sslrootcert=/etc/{app}/db.pem\"]
  require_sync = true
  lease = \"3s\"
  store_lanes = 4
The command line comes first, then the environment, then the file.

When it serves it prints one line on standard output: `node NAME serves at ADDRESS`. It logs to standard error what
RUST_LOG allows (`info`, `warn,entity_runtime=debug`). Ctrl-C and SIGTERM stop it cleanly, a second one at once; neither
loses what was accepted. Its shards wait until it is started again; with --store the others take them, when it was stopped
cleanly at once, and else when its lease has run out. `leave` takes a node out for good.

Exit codes: 0 stopped or left; 1 an error, said on standard error: start it again; 2 a wrong command line; 3 its place is
taken by another process of its name, or others have seen a later state of its directory, or what is stored is of a newer
build: to start it again as it is changes nothing; 130 and 143 stopped at once.

Examples:
  {app} node --data-dir a --found
  {app} node --data-dir b --listen 127.0.0.1:7002 --join 127.0.0.1:7001
  {app} node --config /etc/{app}/node.toml --weight 2
  {app} node --name a --store postgres://entity@127.0.0.1/entity --found
  {app} node --name b --store postgres://entity@127.0.0.1/entity --listen 127.0.0.1:7002
  {app} node --name c --store 'postgres://entity@db0,db0-standby/entity?sslrootcert=db.pem' --require-sync --lease 5s";

pub(super) const STATUS: &str = "\
Asks the nodes given, and all they know of. `alive` is what the others see; turns are counted over one second; a stall is
how long a shard stood still while it moved. `view` is a number of the node's own and a digest that is equal where
nodes place shards alike. Exit code 1 if no node answers.

Where nodes share a store it shows each server as it was found to be, and each node's lease by that server: a node whose
lease has run out has its shards taken by the others. An alarm names a node whose shards had less than was acknowledged,
after a fail-over or a restore. In JSON all of it is `shared`, null where nodes have directories.

Examples:
  {app} status
  {app} status --connect 10.0.0.1:7001,10.0.0.2:7001
  {app} status --json | jq '.nodes[] | {name, is_quiet}'
  {app} status --json | jq '[.nodes[].shared.lost_commits] | add'";

pub(super) const LEAVE: &str = "\
The node hands all its shards to the others while they are used, and ends. This waits until it has; interrupted, the node
goes on leaving, and the same command waits again. Where nodes share a store a node that is just stopped loses nothing
either: this gives its shards away one by one while they are used, so that hardly anybody waits.

Examples:
  {app} leave --connect 10.0.0.3:7001
  {app} leave --connect 10.0.0.1:7001 --node c";

pub(super) const ADOPT: &str = "\
For nodes with directories of their own: where they share a store the others take the shards of a dead one by themselves.

For a node that will not be started again while its data directory is still there, on this machine or as a volume moved to
it: opens the directory as that node, hands all its shards to the others, and ends. Interrupted, run it again, or start the
node.

A copy of the directory, from a backup say, is refused where the original was seen later. If the original is destroyed for
good, say --original-destroyed: every other known node must answer (`forget` those that are gone), the original is never let
in again, and the copy hands over the shards that nobody has newer. What was acknowledged since the copy was made is lost;
shards that are newer elsewhere are dropped from it, so keep another copy until you are content.

Examples:
  {app} adopt --data-dir /mnt/volume-of-c --join 10.0.0.1:7001 --listen 10.0.0.9:7001
  {app} adopt --data-dir /backup/c --join 10.0.0.1:7001 --name c --original-destroyed";

pub(super) const REOPEN: &str = "\
For nodes with directories of their own, as `adopt`.

For a node whose disk is gone for good: the shards that were on their way to it, sealed by the node that is asked, are owned
by that node again. Every other known node must answer that it holds no higher epoch; one that has left and is gone must be
forgotten first. The destroyed node is forgotten, and its store is never let in again; where it was forgotten before, and another
node has its name by now, that one keeps it and is asked as well. What the store had accepted for these shards,
acknowledged and not handed on, is lost. Where the directory is there, start the node or use `adopt`: both lose nothing.
Ask each node that has shards going: `status` shows them.

Example:
  {app} reopen --destroyed c --connect 10.0.0.1:7001 --yes";

pub(super) const UNPARK: &str = "\
Between two shards messages are numbered. After the loss of a disk, when a shard was opened again by `reopen` or adopted from a
copy, the two ends may disagree on what was sent and taken; nothing goes between them then: their stream is parked. This asks
all nodes for such streams, and changes nothing. If a disk that was put back is only too old, and there is a newer directory of
its node, start the node on that: nothing is lost then.

With --accept-loss every stream in the list goes on from where its sender is:
  lost by sender    these messages were taken, and what became of them stays; the sender does not know that it sent them, and
                    may send what they said again, as new messages
  lost by receiver  these messages were taken on the disk that is gone, and nobody has them any more; those that its receiver
                    here had taken stay taken
What waits to be sent is sent then, once. A stream whose sender has not asked twice, or not for a while, is left for the next
time. Exit code 1 if something is left to do or a node does not answer.

Examples:
  {app} unpark --connect 10.0.0.1:7001
  {app} unpark --connect 10.0.0.1:7001 --accept-loss";

pub(super) const FORGET: &str = "\
Frees the name for another data directory. The store that had it is refused for good, should it come back. Where nodes share
a store there is nothing to free: a name is whose process began last.

Example:
  {app} forget c --connect 10.0.0.1:7001";
