//! What `--help` teaches below its list of options. A program that is a node is called `app` here.

pub(super) const APP: &str = "\
A cluster on one machine, each line in a terminal of its own:
  app node --data-dir a --listen 127.0.0.1:7001 --found
  app node --data-dir b --listen 127.0.0.1:7002 --join 127.0.0.1:7001
  app status

Certificates and --insecure are said of a node and of who asks one in the same words, or by the same variables:
ENTITY_TLS_AUTHORITY, ENTITY_TLS_CERTIFICATE, ENTITY_TLS_KEY, ENTITY_INSECURE=true.";

pub(super) const NODE: &str = "\
An empty data directory needs --found or --join: a node that has lost its disk must not found an empty cluster beside the
one it was in. One node founds a cluster, all others join it. A directory with a store needs neither, and the node goes on
with what it holds.

Each option can also be said in the environment (ENTITY_NODE_NAME, ENTITY_DATA_DIR, ENTITY_LISTEN, ENTITY_ADVERTISE,
ENTITY_FOUND=true, ENTITY_JOIN=a:7001,b:7001, ENTITY_WEIGHT, ENTITY_WORKERS, ENTITY_SHARDS, ENTITY_TLS_AUTHORITY,
ENTITY_TLS_CERTIFICATE, ENTITY_TLS_KEY, ENTITY_INSECURE=true, ENTITY_CONFIG) and in a TOML file:
  name = \"a\"
  data_dir = \"/var/lib/app\"
  listen = \"10.0.0.1:7001\"
  join = [\"10.0.0.2:7001\", \"10.0.0.3:7001\"]
  tls_authority = \"/etc/app/authority.pem\"
  tls_certificate = \"/etc/app/a.pem\"
  tls_key = \"/etc/app/a-key.pem\"
The command line comes first, then the environment, then the file.

When it serves it prints one line on standard output: `node NAME serves at ADDRESS`. It logs to standard error what
RUST_LOG allows (`info`, `warn,entity_runtime=debug`). Ctrl-C and SIGTERM stop it cleanly, a second one at once; neither
loses what was accepted, and its shards wait until it is started again. `leave` takes a node out for good.

Exit codes: 0 stopped or left; 1 an error, said on standard error; 2 a wrong command line; 130 and 143 stopped at once.

Examples:
  app node --data-dir a --found
  app node --data-dir b --listen 127.0.0.1:7002 --join 127.0.0.1:7001
  app node --config /etc/app/node.toml --weight 2";

pub(super) const STATUS: &str = "\
Asks the nodes given, and all they know of. `alive` is what the others see; turns are counted over one second; a stall is
how long a shard stood still while it moved. `view` is a number of the node's own and a digest that is equal where
nodes place shards alike. Exit code 1 if no node answers.

Examples:
  app status
  app status --connect 10.0.0.1:7001,10.0.0.2:7001
  app status --json | jq '.nodes[] | {name, is_quiet}'";

pub(super) const LEAVE: &str = "\
The node hands all its shards to the others while they are used, and ends. This waits until it has; interrupted, the node
goes on leaving, and the same command waits again.

Examples:
  app leave --connect 10.0.0.3:7001
  app leave --connect 10.0.0.1:7001 --node c";

pub(super) const ADOPT: &str = "\
For a node that will not be started again while its data directory is still there, on this machine or as a volume moved to
it: opens the directory as that node, hands all its shards to the others, and ends. Interrupted, run it again, or start the
node.

Example:
  app adopt --data-dir /mnt/volume-of-c --join 10.0.0.1:7001 --listen 10.0.0.9:7001";

pub(super) const REOPEN: &str = "\
For a node whose disk is gone for good: the shards that were on their way to it, sealed by the node that is asked, are owned
by that node again. What the destroyed node had accepted for them, and nobody else has, is lost. Where the directory is
there, start the node or use `adopt`: both lose nothing.

Example:
  app reopen --destroyed c --connect 10.0.0.1:7001 --yes";

pub(super) const FORGET: &str = "\
Frees the name for another data directory. The store that had it is refused for good, should it come back.

Example:
  app forget c --connect 10.0.0.1:7001";
