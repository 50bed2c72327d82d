//! What nodes must have in common to compute the same table.

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use std::{borrow::Cow, fmt};

/// Longest name of a hash, in bytes.
const HASH_NAME_LEN_MAX: usize = 32;

/// Everything a [`Table`](super::Table) depends on besides the members of the view and the number of shards. The founding
/// record of a store keeps it and a handshake compares it: two nodes that differ here would wish each shard elsewhere and
/// hand it to and fro.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementParameters {
    /// How a table is computed from the rest; raised when the algorithm changes.
    pub format: u32,
    /// The hash of nodes and shards, with how integers are fed to it.
    #[serde(deserialize_with = "hash_name")]
    pub hash: Cow<'static, str>,
    /// Places on the rings of a node, for each unit of its weight.
    pub virtual_nodes: u32,
    /// Most shards a node gets, in hundredths of its share.
    pub bound_per_cent: u32,
}

impl PlacementParameters {
    /// Those of this build, which knows no others.
    pub const CURRENT: Self = Self {
        format: 1,
        hash: Cow::Borrowed("xxh3-64-le"),
        virtual_nodes: super::ring::RINGS,
        bound_per_cent: super::ring::BOUND_PER_CENT,
    };

    /// What differs between these and those of another node or of a store; `None` where nothing does.
    pub fn difference(&self, there: &Self) -> Option<PlacementDifference> {
        (self != there).then(|| PlacementDifference { here: self.clone(), there: there.clone() })
    }

    /// As bytes for the digest of a table.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.format, self.virtual_nodes, self.bound_per_cent, self.hash.len() as u32] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(self.hash.as_bytes());
    }
}

/// Two nodes, or a node and a store, place shards in different ways. Displayed, it says in which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementDifference {
    here: PlacementParameters,
    there: PlacementParameters,
}

impl std::error::Error for PlacementDifference {}

impl fmt::Display for PlacementDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { here, there } = self;
        let mut before = "placement differs: ";
        let mut line = |what: &str, here: &dyn fmt::Debug, there: &dyn fmt::Debug, differs: bool| {
            if differs {
                write!(f, "{before}{what} is {here:?} here and {there:?} there")?;
                before = ", ";
            }
            Ok(())
        };
        line("format", &here.format, &there.format, here.format != there.format)?;
        // By `Debug`, which escapes: the name may come from a stranger and go to a terminal.
        line("hash", &here.hash, &there.hash, here.hash != there.hash)?;
        line(
            "virtual nodes",
            &here.virtual_nodes,
            &there.virtual_nodes,
            here.virtual_nodes != there.virtual_nodes,
        )?;
        line(
            "bound per cent",
            &here.bound_per_cent,
            &there.bound_per_cent,
            here.bound_per_cent != there.bound_per_cent,
        )
    }
}

fn hash_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'static, str>, D::Error> {
    let name = Cow::<'de, str>::deserialize(deserializer)?;
    if HASH_NAME_LEN_MAX < name.len() {
        return Err(Error::custom("the name of the hash is too long"));
    }
    Ok(Cow::Owned(name.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_says_what_differs_and_nothing_else() {
        let here = PlacementParameters::CURRENT;
        assert_eq!(here.difference(&here.clone()), None);
        let there =
            PlacementParameters { hash: Cow::Borrowed("md5\u{1b}"), bound_per_cent: 110, ..here.clone() };
        assert_eq!(
            here.difference(&there).unwrap().to_string(),
            "placement differs: hash is \"xxh3-64-le\" here and \"md5\\u{1b}\" there, \
             bound per cent is 120 here and 110 there"
        );
        let there = PlacementParameters { format: 2, virtual_nodes: 128, ..here.clone() };
        assert_eq!(
            here.difference(&there).unwrap().to_string(),
            "placement differs: format is 1 here and 2 there, virtual nodes is 256 here and 128 there"
        );
    }

    #[test]
    fn parameters_of_another_build_are_read_and_bounded() {
        let there = PlacementParameters { format: 7, hash: "other".into(), ..PlacementParameters::CURRENT };
        let bytes = rmp_serde::to_vec_named(&there).unwrap();
        assert_eq!(rmp_serde::from_slice::<PlacementParameters>(&bytes).unwrap(), there);
        let long = PlacementParameters { hash: "h".repeat(HASH_NAME_LEN_MAX + 1).into(), ..there };
        let bytes = rmp_serde::to_vec_named(&long).unwrap();
        assert!(rmp_serde::from_slice::<PlacementParameters>(&bytes).is_err());
    }
}
