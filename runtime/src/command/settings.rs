//! What a node is told, put together: by its command line, else its environment, else its file, else nothing.

use super::{
    address::Address,
    args::{AdoptArgs, NodeArgs, SecurityArgs},
    config_file, environment,
    environment::Lookup,
    servers::{self, Lease, ServerSaid},
};
use crate::{
    cluster::{Begin, ClusterConfig, Security},
    placement::{NodeName, Weight},
    transport::TlsFiles,
};
use serde::Deserialize;
use std::{io, num::NonZeroUsize, path::PathBuf, time::Duration};

/// Where a node listens, and is looked for, unless it is said.
pub(super) const LISTEN_DEFAULT: &str = "127.0.0.1:7001";

/// What one source says of a node. The names are the keys of the file.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Said {
    pub(super) name: Option<NodeName>,
    pub(super) data_dir: Option<PathBuf>,
    #[serde(deserialize_with = "servers::from_file")]
    pub(super) store: Option<Vec<ServerSaid>>,
    pub(super) require_sync: Option<bool>,
    pub(super) lease: Option<Lease>,
    pub(super) store_lanes: Option<u32>,
    pub(super) listen: Option<Address>,
    pub(super) advertise: Option<Address>,
    pub(super) found: Option<bool>,
    pub(super) join: Option<Vec<Address>>,
    pub(super) weight: Option<Weight>,
    pub(super) workers: Option<NonZeroUsize>,
    pub(super) shards: Option<u32>,
    pub(super) tls_authority: Option<PathBuf>,
    pub(super) tls_certificate: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) insecure: Option<bool>,
}

/// What is said cannot be done. Each names the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SettingsError {
    /// An environment variable that cannot be read.
    #[error("{variable} in the environment: {why}")]
    Variable { variable: &'static str, why: String },
    /// A file that cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
    /// A file that says what cannot be.
    #[error("{}, line {line}: {why}", path.display())]
    File { path: PathBuf, line: usize, why: String },
    /// Two ways to begin.
    #[error("{0} says both `found` and `join`: one node founds the cluster, the others join it")]
    FoundAndJoin(String),
    /// Two places for state.
    #[error(
        "{0} says both `data_dir` and `store`: a node keeps state in a directory of its own, or on servers that all nodes share"
    )]
    DirectoryAndStore(String),
    /// Left out of this program.
    #[cfg(not(feature = "postgres"))]
    #[error(
        "this program was built without the feature `postgres`, so it takes no --store: use --data-dir DIR"
    )]
    NoPostgres,
    /// Of what is not there.
    #[error(
        "{0} goes with --store alone: name the server by --store postgres://USER@HOST/DATABASE, or leave it out"
    )]
    WithoutStore(&'static str),
    /// A number of shards for a cluster that has one.
    #[error("--shards goes with --found alone: a cluster keeps the number of shards it was founded with")]
    ShardsOfOthers,
    /// Nothing to be called by.
    #[error("a node that listens at {0} cannot be called that, {1}: give it a --name")]
    Nameless(Address, &'static str),
    /// Nowhere to be reached.
    #[error(
        "{0} stands for every address of this machine: say by --advertise at which the others reach the node"
    )]
    Unreachable(Address),
    /// A part of what TLS needs.
    #[error("TLS needs --tls-authority, --tls-certificate and --tls-key; {0} is missing")]
    HalfSecured(&'static str),
    /// Secured and not.
    #[error("--insecure and certificates exclude each other: leave one of them out")]
    SecuredAndNot,
}

/// All that is said of a node.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) cluster: ClusterConfig,
    pub(super) place: Option<Place>,
    pub(super) workers: Option<NonZeroUsize>,
    pub(super) shards: Option<u32>,
}

/// Where a node keeps state.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a directory of its own.
    Directory(PathBuf),
    /// On servers that all nodes share.
    Servers(Servers),
}

/// What is said of the servers; of what is not the store knows best.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Servers {
    pub(super) urls: Vec<ServerSaid>,
    pub(super) require_sync: bool,
    pub(super) lease: Option<Duration>,
    pub(super) lanes: Option<u32>,
}

impl Settings {
    pub(super) fn gather(args: NodeArgs, lookup: Lookup<'_>) -> Result<Self, SettingsError> {
        let file = args.config.clone().or_else(|| environment::config(lookup));
        let mut said = Said::from(args).judged(|| "the command line".into())?;
        said = said.or(environment::node(lookup)?.judged(|| "the environment".into())?);
        if let Some(file) = file {
            said = said.or(config_file::read(&file)?.judged(|| file.display().to_string())?);
        }
        said.settle()
    }

    /// Of a node that takes the place of a dead one.
    pub(super) fn of_adopter(
        name: NodeName,
        args: AdoptArgs,
        security: Security,
    ) -> Result<Self, SettingsError> {
        let said = Said {
            name: Some(name),
            data_dir: Some(args.data_dir),
            listen: Some(args.listen),
            advertise: args.advertise,
            join: Some(args.join),
            ..Said::default()
        };
        let mut settings = said.settle()?;
        settings.cluster.security = security;
        Ok(settings)
    }
}

/// How somebody who asks nodes secures the connection.
pub(super) fn security(args: SecurityArgs, lookup: Lookup<'_>) -> Result<Security, SettingsError> {
    Said::from(args).or(environment::security(lookup)?).security()
}

impl SecurityArgs {
    /// What is said there or, of what is not, in the environment: for a program with commands of its own that connect.
    ///
    /// # Errors
    /// The parts contradict each other, or one is missing; in words.
    pub fn security(self) -> io::Result<Security> {
        security(self, &environment::process)
            .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why.to_string()))
    }
}

impl Said {
    /// One source may not say two things at once; of two sources the first is heard.
    fn judged(self, source: impl FnOnce() -> String) -> Result<Self, SettingsError> {
        if self.founds() && self.joins() {
            return Err(SettingsError::FoundAndJoin(source()));
        }
        if self.data_dir.is_some() && self.is_shared() {
            return Err(SettingsError::DirectoryAndStore(source()));
        }
        Ok(self)
    }

    fn is_shared(&self) -> bool {
        self.store.as_ref().is_some_and(|store| !store.is_empty())
    }

    fn founds(&self) -> bool {
        self.found == Some(true)
    }

    fn joins(&self) -> bool {
        self.join.as_ref().is_some_and(|join| !join.is_empty())
    }

    /// This, and what it does not say from `lower`. How to begin is one thing in two words, and so is where state is kept.
    fn or(self, mut lower: Self) -> Self {
        if self.is_shared() {
            lower.data_dir = None;
        }
        if self.data_dir.is_some() {
            (lower.store, lower.require_sync, lower.lease, lower.store_lanes) = (None, None, None, None);
        }
        let (found, join) =
            if self.founds() || self.joins() { (self.found, self.join) } else { (lower.found, lower.join) };
        Self {
            name: self.name.or(lower.name),
            data_dir: self.data_dir.or(lower.data_dir),
            store: self.store.filter(|store| !store.is_empty()).or(lower.store),
            require_sync: self.require_sync.or(lower.require_sync),
            lease: self.lease.or(lower.lease),
            store_lanes: self.store_lanes.or(lower.store_lanes),
            listen: self.listen.or(lower.listen),
            advertise: self.advertise.or(lower.advertise),
            found,
            join,
            weight: self.weight.or(lower.weight),
            workers: self.workers.or(lower.workers),
            shards: self.shards.or(lower.shards),
            tls_authority: self.tls_authority.or(lower.tls_authority),
            tls_certificate: self.tls_certificate.or(lower.tls_certificate),
            tls_key: self.tls_key.or(lower.tls_key),
            insecure: self.insecure.or(lower.insecure),
        }
    }

    fn settle(self) -> Result<Settings, SettingsError> {
        let security = self.security()?;
        let place = self.place()?;
        let begin = if self.founds() {
            Begin::Found
        } else if self.joins() {
            Begin::Join(self.join.unwrap_or_default().into_iter().map(Into::into).collect())
        } else {
            Begin::Resume
        };
        if self.shards.is_some() && begin != Begin::Found {
            return Err(SettingsError::ShardsOfOthers);
        }
        let listen =
            self.listen.unwrap_or_else(|| LISTEN_DEFAULT.parse().expect("the default is an address"));
        let name = self.name.map_or_else(|| name_of(&listen), Ok)?;
        if listen.is_every_host() && self.advertise.is_none() {
            return Err(SettingsError::Unreachable(listen));
        }
        let cluster = ClusterConfig {
            advertise: self.advertise.map(Into::into),
            // 100 at the most.
            weight: self.weight.unwrap_or_default().get() as u16,
            security,
            ..ClusterConfig::new(name, listen, begin)
        };
        Ok(Settings { cluster, place, workers: self.workers, shards: self.shards })
    }

    fn place(&self) -> Result<Option<Place>, SettingsError> {
        let is_required = self.require_sync == Some(true);
        let lease = self.lease.map(|Lease(lease)| lease);
        #[cfg(not(feature = "postgres"))]
        if self.is_shared() {
            return Err(SettingsError::NoPostgres);
        }
        if let Some(urls) = self.store.clone().filter(|urls| !urls.is_empty()) {
            let (require_sync, lanes) = (is_required, self.store_lanes);
            return Ok(Some(Place::Servers(Servers { urls, require_sync, lease, lanes })));
        }
        let flags = [
            (is_required, "--require-sync"),
            (lease.is_some(), "--lease"),
            (self.store_lanes.is_some(), "--store-lanes"),
        ];
        match flags.into_iter().find(|(is_said, _)| *is_said) {
            Some((_, flag)) => Err(SettingsError::WithoutStore(flag)),
            None => Ok(self.data_dir.clone().map(Place::Directory)),
        }
    }

    fn security(&self) -> Result<Security, SettingsError> {
        let insecure = self.insecure == Some(true);
        match (&self.tls_authority, &self.tls_certificate, &self.tls_key) {
            (None, None, None) if insecure => Ok(Security::Insecure),
            (None, None, None) => Ok(Security::Loopback),
            _ if insecure => Err(SettingsError::SecuredAndNot),
            (Some(authority), Some(certificate), Some(key)) => Ok(Security::Tls(TlsFiles {
                authority: authority.clone(),
                certificate: certificate.clone(),
                key: key.clone(),
            })),
            (None, _, _) => Err(SettingsError::HalfSecured("--tls-authority")),
            (_, None, _) => Err(SettingsError::HalfSecured("--tls-certificate")),
            (_, _, None) => Err(SettingsError::HalfSecured("--tls-key")),
        }
    }
}

/// A node is called by its address, where no other node can have the same one.
fn name_of(listen: &Address) -> Result<NodeName, SettingsError> {
    let nameless = |why| SettingsError::Nameless(listen.clone(), why);
    if listen.has_any_port() {
        return Err(nameless("for its port is another each time"));
    }
    if listen.is_every_host() {
        return Err(nameless("for that stands for any machine"));
    }
    listen.as_str().parse().map_err(|_| nameless("for it has characters no name can have"))
}

impl From<NodeArgs> for Said {
    fn from(args: NodeArgs) -> Self {
        Self {
            name: args.name,
            data_dir: args.data_dir,
            store: Some(args.store),
            require_sync: args.require_sync.then_some(true),
            lease: args.lease,
            store_lanes: args.store_lanes,
            listen: args.listen,
            advertise: args.advertise,
            found: args.found.then_some(true),
            join: Some(args.join),
            weight: args.weight,
            workers: args.workers,
            shards: args.shards,
            ..Self::from(args.security)
        }
    }
}

impl From<SecurityArgs> for Said {
    fn from(args: SecurityArgs) -> Self {
        Self {
            tls_authority: args.tls_authority,
            tls_certificate: args.tls_certificate,
            tls_key: args.tls_key,
            insecure: args.insecure.then_some(true),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
