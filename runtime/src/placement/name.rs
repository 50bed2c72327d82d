//! What a node is called.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// Longest name of a node, in bytes: what a DNS name may have.
pub const NODE_NAME_LEN_MAX: usize = 253;

/// The configured name of a node, which its certificate says too and which a cluster binds to its store (P19). Letters,
/// digits and `. - _ : [ ]`, so that a host, an address with a port, or a plain word will do.
///
/// ```
/// use entity_runtime::placement::NodeName;
///
/// let name: NodeName = "[::1]:7001".parse().unwrap();
/// assert_eq!(name.as_str(), "[::1]:7001");
/// assert!("two words".parse::<NodeName>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

/// The text cannot name a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name a node: 1 to {NODE_NAME_LEN_MAX} letters, digits and the characters . - _ : [ ]")]
pub struct NodeNameError(String);

impl NodeName {
    /// As it was configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if (1..=NODE_NAME_LEN_MAX).contains(&text.len()) && text.bytes().all(is_allowed) {
            return Ok(Self(text.into()));
        }
        // A text from outside may be long; its beginning is enough to find it by.
        Err(NodeNameError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for NodeName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for NodeName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_a_certificate_and_a_table_can_show() {
        for good in
            ["a", "node-1.example.org", "127.0.0.1:7001", "[::1]:7001", &"n".repeat(NODE_NAME_LEN_MAX)]
        {
            assert_eq!(good.parse::<NodeName>().unwrap().to_string(), good);
        }
        for bad in ["", "two words", "näme", "a/b", "a\n", &"n".repeat(NODE_NAME_LEN_MAX + 1)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_from_a_peer_is_checked_when_it_is_decoded() {
        let name: NodeName = "n1".parse().unwrap();
        let bytes = rmp_serde::to_vec(&name).unwrap();
        assert_eq!(rmp_serde::from_slice::<NodeName>(&bytes).unwrap(), name);
        let bad = rmp_serde::to_vec("two words").unwrap();
        assert!(rmp_serde::from_slice::<NodeName>(&bad).is_err());
    }
}
