//! Where a node listens, as people write it.

use std::{fmt, str::FromStr};

/// A host and a port: `10.0.0.7:7001`, `[::1]:7001`, `a.example.org:7001`. Whether the host can be resolved is found when
/// it is used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Address(String);

/// The text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address: it is to be HOST:PORT, as in 127.0.0.1:7001 or [::1]:7001")]
pub(super) struct AddressError(String);

impl Address {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The machine chooses the port.
    pub(super) fn has_any_port(&self) -> bool {
        self.parts().is_some_and(|(_, port)| port == 0)
    }

    /// It stands for every address of the machine, so nobody else can use it.
    pub(super) fn is_every_host(&self) -> bool {
        self.parts().is_some_and(|(host, _)| ["0.0.0.0", "[::]"].contains(&host))
    }

    fn parts(&self) -> Option<(&str, u16)> {
        let (host, port) = self.0.rsplit_once(':')?;
        let is_bracketed = host.starts_with('[') && host.ends_with(']');
        let is_plain = !host.is_empty() && !host.contains([':', '/', ' ']);
        if is_bracketed || is_plain { Some((host, port.parse().ok()?)) } else { None }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = Self(text.trim().to_owned());
        // A text from a file may be long; its beginning is enough to find it by.
        address
            .parts()
            .is_some()
            .then_some(address)
            .ok_or_else(|| AddressError(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["127.0.0.1:7001", "[::1]:7001", "a.example.org:0", "localhost:65535", " a:1 "] {
            assert_eq!(good.parse::<Address>().unwrap().as_str(), good.trim());
        }
        for bad in ["", "7001", ":7001", "::1", "a:", "a:65536", "a:x", "http://a:1", "a b:1"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        let error = "localhost".parse::<Address>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"localhost\" is no address: it is to be HOST:PORT, as in 127.0.0.1:7001 or [::1]:7001"
        );
    }

    #[test]
    fn an_address_knows_what_only_its_own_machine_can_use() {
        let address = |text: &str| text.parse::<Address>().unwrap();
        assert!(address("0.0.0.0:7001").is_every_host() && address("[::]:0").is_every_host());
        assert!(!address("10.0.0.1:7001").is_every_host());
        assert!(address("127.0.0.1:0").has_any_port() && !address("127.0.0.1:7000").has_any_port());
    }
}
