//! What two nodes tell each other so that both end up knowing the same.

use super::{
    entry::{NodeEntry, put_text},
    known::{FORGOTTEN_MAX, Known, KnownError, NODES_MAX, take_count, take_forgotten},
};
use crate::{
    placement::NodeName,
    store::row::{put_varint, take},
};

const VERSION: u8 = 1;

/// One word of the comparison between two nodes.
///
/// # Format
/// `version` u8 = 1, `kind` u8: 0, and a digest of 8 bytes; or 1 (the other is to answer) or 2 (it is not), the number of
/// entries, the entries, the number of forgotten stores, and these. As in [`Known`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    /// Hash of all entries the sender knows. Who has another one answers with its entries.
    Digest(u64),
    /// Entries the sender knows.
    Entries {
        /// At most [`NODES_MAX`].
        entries: Vec<NodeEntry>,
        /// Stores that stay outside, with the name each had; at most [`FORGOTTEN_MAX`].
        forgotten: Vec<(u128, NodeName)>,
        /// Whether the receiver answers with what it knows and finds missing here.
        answer: bool,
    },
}

impl Exchange {
    /// All that is known.
    pub(super) fn all(known: &Known, answer: bool) -> Self {
        let entries = known.entries().map(|entry| (**entry).clone()).collect();
        let forgotten = known.forgotten().map(|(store, name)| (store, name.clone())).collect();
        Self::Entries { entries, forgotten, answer }
    }

    /// The bytes of a frame; below 1 MiB.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Digest(digest) => {
                out.push(0);
                out.extend_from_slice(&digest.to_be_bytes());
            }
            Self::Entries { entries, forgotten, answer } => {
                out.push(if *answer { 1 } else { 2 });
                put_varint(entries.len() as u64, &mut out);
                for entry in entries {
                    entry.put(&mut out);
                }
                put_varint(forgotten.len() as u64, &mut out);
                for (store, name) in forgotten {
                    out.extend_from_slice(&store.to_be_bytes());
                    put_text(name.as_str(), &mut out);
                }
            }
        }
        out
    }

    /// What [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// The bytes are of another format, or hold more than a cluster has.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, KnownError> {
        let bytes = &mut bytes;
        let answer = match take(bytes, 2) {
            Some([VERSION, 0]) => {
                let digest = <[u8; 8]>::try_from(*bytes).map_err(|_| KnownError::Bytes)?;
                return Ok(Self::Digest(u64::from_be_bytes(digest)));
            }
            Some([VERSION, kind @ (1 | 2)]) => *kind == 1,
            Some([version, _]) if *version != VERSION => return Err(KnownError::Version(*version)),
            _ => return Err(KnownError::Bytes),
        };
        // Each takes bytes that are there: a count alone allocates nothing.
        let mut entries = Vec::new();
        for _ in 0..take_count(bytes, NODES_MAX)? {
            entries.push(NodeEntry::take(bytes)?);
        }
        let mut forgotten = Vec::new();
        for _ in 0..take_count(bytes, FORGOTTEN_MAX)? {
            forgotten.push(take_forgotten(bytes).ok_or(KnownError::Bytes)?);
        }
        if bytes.is_empty() {
            Ok(Self::Entries { entries, forgotten, answer })
        } else {
            Err(KnownError::Bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::any_entry;
    use super::*;
    use proptest::prelude::*;

    fn any_exchange() -> impl Strategy<Value = Exchange> {
        let forgotten =
            (any::<u128>(), "[a-z]{1,9}").prop_map(|(store, name)| (store, name.parse().unwrap()));
        let forgotten = prop::collection::vec(forgotten, 0..4);
        let entries = prop::collection::vec(any_entry(), 0..6);
        prop_oneof![
            any::<u64>().prop_map(Exchange::Digest),
            (entries, forgotten, any::<bool>()).prop_map(|(entries, forgotten, answer)| Exchange::Entries {
                entries,
                forgotten,
                answer
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_word_comes_back_and_no_part_of_it_passes_for_one(
            exchange in any_exchange(), cut: prop::sample::Index,
        ) {
            let bytes = exchange.encode();
            prop_assert!(Exchange::decode(&bytes[..cut.index(bytes.len())]).is_err());
            prop_assert_eq!(Exchange::decode(&bytes), Ok(exchange));
        }

        #[test]
        fn bytes_from_outside_never_panic(mut bytes: Vec<u8>, kind in 0..4_u8) {
            bytes.splice(0..0, [VERSION, kind]);
            if let Ok(exchange) = Exchange::decode(&bytes) {
                prop_assert_eq!(Exchange::decode(&exchange.encode()), Ok(exchange));
            }
        }
    }

    #[test]
    fn more_entries_than_a_cluster_has_are_refused_before_they_are_read() {
        let mut bytes = vec![VERSION, 1];
        put_varint(NODES_MAX as u64 + 1, &mut bytes);
        assert_eq!(Exchange::decode(&bytes), Err(KnownError::Bytes));
        assert_eq!(Exchange::decode(&[9, 1, 0]), Err(KnownError::Version(9)));
    }
}
