//! What the environment says of a node, or of somebody who asks one. It is asked through a function, for it is one for the
//! whole process and tests run beside each other.

use super::{
    address::Address,
    servers::listed,
    settings::{Said, SettingsError},
};
use std::{ffi::OsString, fmt::Display, path::PathBuf, str::FromStr};

/// The value of a variable.
pub(super) type Lookup<'l> = &'l (dyn Fn(&str) -> Option<OsString> + Sync);

/// The process's own.
pub(super) fn process(variable: &str) -> Option<OsString> {
    std::env::var_os(variable)
}

/// The file that says the rest.
pub(super) fn config(lookup: Lookup<'_>) -> Option<PathBuf> {
    path(lookup, "ENTITY_CONFIG")
}

/// What it says of a node.
pub(super) fn node(lookup: Lookup<'_>) -> Result<Said, SettingsError> {
    Ok(Said {
        name: value(lookup, "ENTITY_NODE_NAME")?,
        data_dir: path(lookup, "ENTITY_DATA_DIR"),
        store: text(lookup, "ENTITY_STORE")?.map(|urls| listed(&urls)),
        require_sync: value(lookup, "ENTITY_REQUIRE_SYNC")?,
        lease: value(lookup, "ENTITY_LEASE")?,
        store_lanes: value(lookup, "ENTITY_STORE_LANES")?,
        listen: value(lookup, "ENTITY_LISTEN")?,
        advertise: value(lookup, "ENTITY_ADVERTISE")?,
        found: value(lookup, "ENTITY_FOUND")?,
        join: addresses(lookup, "ENTITY_JOIN")?,
        weight: value(lookup, "ENTITY_WEIGHT")?,
        workers: value(lookup, "ENTITY_WORKERS")?,
        shards: value(lookup, "ENTITY_SHARDS")?,
        ..security(lookup)?
    })
}

/// What it says of certificates.
pub(super) fn security(lookup: Lookup<'_>) -> Result<Said, SettingsError> {
    Ok(Said {
        tls_authority: path(lookup, "ENTITY_TLS_AUTHORITY"),
        tls_certificate: path(lookup, "ENTITY_TLS_CERTIFICATE"),
        tls_key: path(lookup, "ENTITY_TLS_KEY"),
        insecure: value(lookup, "ENTITY_INSECURE")?,
        ..Said::default()
    })
}

/// The nodes to ask.
pub(super) fn connect(lookup: Lookup<'_>) -> Result<Option<Vec<Address>>, SettingsError> {
    addresses(lookup, "ENTITY_CONNECT")
}

/// An empty variable is none: many a script has no other way to leave it out.
fn path(lookup: Lookup<'_>, variable: &str) -> Option<PathBuf> {
    lookup(variable).filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn text(lookup: Lookup<'_>, variable: &'static str) -> Result<Option<String>, SettingsError> {
    let Some(text) = lookup(variable).filter(|text| !text.is_empty()) else { return Ok(None) };
    text.into_string().map(Some).map_err(|_| invalid(variable, "it is not UTF-8"))
}

fn value<T>(lookup: Lookup<'_>, variable: &'static str) -> Result<Option<T>, SettingsError>
where
    T: FromStr,
    T::Err: Display,
{
    let Some(text) = text(lookup, variable)? else { return Ok(None) };
    text.parse().map(Some).map_err(|why: T::Err| {
        let shown: String = text.chars().take(64).collect();
        invalid(variable, format_args!("{shown:?}: {why}"))
    })
}

fn addresses(lookup: Lookup<'_>, variable: &'static str) -> Result<Option<Vec<Address>>, SettingsError> {
    let Some(text) = text(lookup, variable)? else { return Ok(None) };
    let addresses: Result<_, _> = text.split(',').map(str::parse).collect();
    addresses.map(Some).map_err(|why| invalid(variable, why))
}

fn invalid(variable: &'static str, why: impl Display) -> SettingsError {
    SettingsError::Variable { variable, why: why.to_string() }
}
