//! What is said of the servers of a shared store: their URLs, which may hold a password, and a lease.

use serde::{Deserialize, Deserializer, de::Error};
use std::{convert::Infallible, fmt, num::ParseIntError, str::FromStr, time::Duration};

/// A server's URL as it was said. It is shown nowhere, for a password may stand in it; whoever connects judges it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ServerSaid(String);

impl FromStr for ServerSaid {
    type Err = Infallible;

    /// Takes anything: what reads command lines would show a value that it refuses.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for ServerSaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSaid")
    }
}

impl From<ServerSaid> for String {
    fn from(said: ServerSaid) -> Self {
        said.0
    }
}

/// URLs with spaces between them: a comma stands between the addresses of one server.
pub(super) fn listed(text: &str) -> Vec<ServerSaid> {
    text.split_whitespace().map(|url| ServerSaid(url.to_owned())).collect()
}

/// Reads the servers of a file: one URL, or a list of them.
pub(super) fn from_file<'de, D: Deserializer<'de>>(file: D) -> Result<Option<Vec<ServerSaid>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Servers {
        One(String),
        List(Vec<String>),
    }
    // The error of the format would show what it has found.
    match Servers::deserialize(file) {
        Ok(Servers::One(url)) => Ok(Some(vec![ServerSaid(url)])),
        Ok(Servers::List(urls)) => Ok(Some(urls.into_iter().map(ServerSaid).collect())),
        Err(_) => Err(D::Error::custom("`store` is the URL of a server, or a list of URLs")),
    }
}

/// For how long a node counts as living after a beat: `3s`, `500ms`, `1m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Lease(pub(super) Duration);

/// What is said is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a lease is a whole number and its unit, as in 3s, 500ms or 1m")]
pub(super) struct NoLease;

impl From<ParseIntError> for NoLease {
    fn from(_: ParseIntError) -> Self {
        Self
    }
}

impl FromStr for Lease {
    type Err = NoLease;

    fn from_str(text: &str) -> Result<Self, NoLease> {
        let end = text.find(|letter: char| !letter.is_ascii_digit()).ok_or(NoLease)?;
        let (number, unit) = text.split_at(end);
        let number: u32 = number.parse()?;
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            _ => return Err(NoLease),
        };
        Ok(Self(unit * number))
    }
}

impl TryFrom<String> for Lease {
    type Error = NoLease;

    fn try_from(text: String) -> Result<Self, NoLease> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_a_number_with_its_unit() {
        let lease = |text: &str| text.parse::<Lease>().map(|lease| lease.0);
        assert_eq!(lease("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(lease("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(lease("1m"), Ok(Duration::from_mins(1)));
        assert_eq!(lease("4294967295m"), Ok(Duration::from_mins(u32::MAX.into())));
        for text in ["", "3", "s", "3 s", "-3s", "3.5s", "3h", "4294967296s", "３s"] {
            assert_eq!(lease(text), Err(NoLease), "{text}");
        }
    }

    #[test]
    fn a_url_is_never_shown() {
        let said: ServerSaid = "postgres://u:hidden@h/d".parse().unwrap();
        assert!(!format!("{said:?}").contains("hidden"));
        assert_eq!(String::from(said), "postgres://u:hidden@h/d");
    }
}
