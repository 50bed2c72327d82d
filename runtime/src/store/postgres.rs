//! PostgreSQL as the store: shards that many nodes share, each owned by one of them at a time.
//!
//! A cluster has a database on one server or on several (P24); founding says which shard is on which. Connections go
//! to the server itself: what stands between and gives each statement another session breaks what the fence rests on.

mod bounds;
mod connect;
mod founding;
mod group;
mod lane;
mod lanes;
mod ledger;
mod load;
mod look;
mod migrate;
mod mirror;
mod notes;
mod outcome;
mod pool;
mod rows;
mod session;
mod settings;
mod site;
mod start;
mod statement;
mod store;
mod take;
mod tls;
mod url;
mod watch;

pub use connect::{ConnectError, Connector, Driver, Facts, Link, Purpose, VERSION_MIN, application_name};
pub use founding::{Cluster, ClusterFounding, FoundingError, SERVERS_MAX, Server, found, open, spread};
pub use lane::{PATIENCE, PostgresLane};
pub use migrate::{MigrateError, SCHEMA, check, migrate};
pub use outcome::LaneError;
pub use session::{Connected, Dial, Drive};
pub use settings::{Demands, Report, SettingsError, report};
pub use store::{LANES_DEFAULT, LEASE_DEFAULT, OpenError, PostgresConfig, PostgresStore};
pub use tls::ServerTlsError;
pub use url::{Access, ServerUrl, UrlError};
