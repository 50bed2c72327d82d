//! Who owns a shard, as one store knows it: a durable fact with an epoch, changed by records in the shard's own
//! sections (P17, P18).
//!
//! ```text
//!              Accept            Seal             Moved
//!  Foreign ────────────> Owned ────────> Sealed ─────────> Moved
//!                         │ ^ ^            │                 │
//!           every other   └─┘ └────────────┴─────────────────┘
//!           section                Reopen        Accept
//! ```
//!
//! The source seals a shard for one store and one transfer; from then on nothing but the end of that transfer, or an
//! operator's word, changes it. The store is named beside its node, for an operator may give the node's name to another store,
//! which cannot know what the first had accepted. The target accepts under an epoch above all it knows of the shard. So of all
//! stores at most one has it OWNED, whatever crashes between.

use crate::placement::{Epoch, NodeName, ShardId};

use super::batch::Section;
use super::row::{put_varint, take, take_varint};

/// The epoch of every shard when a cluster is founded.
pub const FOUNDED: Epoch = Epoch(1);

const ACCEPT: u8 = 1;
const SEAL: u8 = 2;
const MOVED: u8 = 3;
const REOPEN: u8 = 4;

/// One transfer of one shard, told apart from every other by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub u128);

/// What a store knows of a shard's owner.
///
/// # Invariants
/// * The epoch only rises.
/// * A number rises by one with each section, and starts anew with each epoch.
/// * The *stay* is the epoch under which this store accepted the shard. Its rows lie under it until it ends, so that a
///   shard that left and came back does not meet its past (P16).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// It was never here.
    Foreign,
    /// It is here, and may be committed to.
    Owned {
        /// The epoch it is owned under.
        epoch: Epoch,
        /// The epoch it was accepted under.
        stay: Epoch,
        /// The number of its last section.
        number: u64,
    },
    /// It is on its way to another node. It can be read, and nothing else.
    Sealed {
        /// The epoch it was owned under.
        epoch: Epoch,
        /// The epoch it was accepted under.
        stay: Epoch,
        /// The number of its last section, which sealed it.
        number: u64,
        /// The only node that may accept it,
        to: NodeName,
        /// and the UUID of its store: no other store of this name may.
        store: u128,
        /// The only transfer by which it may.
        transfer: TransferId,
    },
    /// Another node has accepted it.
    Moved {
        /// The epoch under which that node did.
        epoch: Epoch,
        /// The node.
        to: NodeName,
    },
}

/// A change of ownership: what a section may begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnershipRecord {
    /// At the target: the rows staged by this transfer are the shard. The first section of the new epoch, numbered 1.
    Accept {
        /// The transfer.
        transfer: TransferId,
        /// The source.
        from: NodeName,
        /// How many rows were staged.
        rows: u64,
        /// The hash over them that source and target agreed on.
        hash: u64,
    },
    /// At the source: nothing is committed behind this section.
    Seal {
        /// The transfer.
        transfer: TransferId,
        /// The target,
        to: NodeName,
        /// and the UUID of its store.
        store: u128,
    },
    /// At the source: the target has accepted. The section holds no rows, for those of the shard end with it.
    Moved {
        /// The transfer.
        transfer: TransferId,
        /// The epoch under which the target owns the shard.
        epoch: Epoch,
    },
    /// At the source: the target will never accept, for its disk is gone for good. The first section of an epoch above
    /// all seen, numbered 1; the stay goes on.
    Reopen {
        /// The transfer that ends.
        transfer: TransferId,
    },
}

impl Ownership {
    /// The highest epoch this store knows of. What is accepted here must be above it; the founder's epoch counts as known
    /// to all.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Foreign => FOUNDED,
            Self::Owned { epoch, .. } | Self::Sealed { epoch, .. } | Self::Moved { epoch, .. } => *epoch,
        }
    }

    /// Under which epoch its rows lie here, if it can be read under `epoch`.
    pub(super) fn stay(&self, under: Epoch) -> Option<Epoch> {
        match self {
            Self::Owned { epoch, stay, .. } | Self::Sealed { epoch, stay, .. } => {
                (*epoch == under).then_some(*stay)
            }
            Self::Foreign | Self::Moved { .. } => None,
        }
    }

    /// Whether the shard may be staged under `epoch`.
    pub(super) fn may_accept(&self, epoch: Epoch) -> bool {
        matches!(self, Self::Foreign | Self::Moved { .. }) && epoch > self.epoch()
    }

    /// What it is behind a section that continues it; `None` for every other section.
    pub(super) fn after(&self, section: &Section<'_>) -> Option<Self> {
        let record = match section.record() {
            None => None,
            Some(record) => Some(record.ok()?),
        };
        let continues =
            |epoch: Epoch, number: u64| (section.epoch, section.number) == (epoch, number.wrapping_add(1));
        match (self, record) {
            (Self::Owned { epoch, stay, number }, None) if continues(*epoch, *number) => {
                Some(Self::Owned { epoch: *epoch, stay: *stay, number: section.number })
            }
            (Self::Owned { epoch, stay, number }, Some(OwnershipRecord::Seal { transfer, to, store }))
                if continues(*epoch, *number) =>
            {
                Some(Self::Sealed { epoch: *epoch, stay: *stay, number: section.number, to, store, transfer })
            }
            (
                Self::Sealed { epoch, number, to, transfer, .. },
                Some(OwnershipRecord::Moved { transfer: ended, epoch: accepted }),
            ) if continues(*epoch, *number)
                && ended == *transfer
                && accepted > *epoch
                && section.writes().next().is_none() =>
            {
                Some(Self::Moved { epoch: accepted, to: to.clone() })
            }
            (
                Self::Sealed { epoch, stay, transfer, .. },
                Some(OwnershipRecord::Reopen { transfer: ended }),
            ) if section.epoch > *epoch && section.number == 1 && ended == *transfer => {
                Some(Self::Owned { epoch: section.epoch, stay: *stay, number: 1 })
            }
            (Self::Foreign | Self::Moved { .. }, Some(OwnershipRecord::Accept { .. }))
                if self.may_accept(section.epoch) && section.number == 1 =>
            {
                Some(Self::Owned { epoch: section.epoch, stay: section.epoch, number: 1 })
            }
            _ => None,
        }
    }

    /// Whether this section was the last one applied: how the repeat of a group of unknown outcome is known.
    pub(super) fn came_of(&self, section: &Section<'_>) -> bool {
        let record = section.record().and_then(Result::ok);
        match self {
            Self::Foreign => false,
            Self::Owned { epoch, number, .. } => {
                let ends =
                    matches!(record, Some(OwnershipRecord::Seal { .. } | OwnershipRecord::Moved { .. }));
                // A shard as it was founded has number zero, and no section made it so.
                section.number > 0 && (section.epoch, section.number) == (*epoch, *number) && !ends
            }
            Self::Sealed { epoch, number, transfer: sealed, .. } => {
                let seals =
                    matches!(record, Some(OwnershipRecord::Seal { transfer, .. }) if transfer == *sealed);
                (section.epoch, section.number) == (*epoch, *number) && seals
            }
            Self::Moved { epoch, .. } => {
                // No epoch is given to two owners, so it names the record too.
                matches!(record, Some(OwnershipRecord::Moved { epoch: accepted, .. }) if accepted == *epoch)
            }
        }
    }
}

impl OwnershipRecord {
    /// Appends the record.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let (kind, transfer) = match self {
            Self::Accept { transfer, .. } => (ACCEPT, transfer),
            Self::Seal { transfer, .. } => (SEAL, transfer),
            Self::Moved { transfer, .. } => (MOVED, transfer),
            Self::Reopen { transfer } => (REOPEN, transfer),
        };
        out.push(kind);
        out.extend_from_slice(&transfer.0.to_le_bytes());
        match self {
            Self::Accept { from, rows, hash, .. } => {
                put_name(from, out);
                put_varint(*rows, out);
                out.extend_from_slice(&hash.to_le_bytes());
            }
            Self::Seal { to, store, .. } => {
                put_name(to, out);
                out.extend_from_slice(&store.to_le_bytes());
            }
            Self::Moved { epoch, .. } => put_varint(epoch.0, out),
            Self::Reopen { .. } => {}
        }
    }

    /// Takes a record that was encoded from the front of `bytes`; `None` where there is none.
    pub(super) fn take(bytes: &mut &[u8]) -> Option<Self> {
        let kind = take(bytes, 1)?[0];
        let transfer = take_transfer(bytes)?;
        Some(match kind {
            ACCEPT => {
                let (from, rows) = (take_name(bytes)?, take_varint(bytes)?);
                let hash = u64::from_le_bytes(take(bytes, 8)?.try_into().expect("eight bytes"));
                Self::Accept { transfer, from, rows, hash }
            }
            SEAL => {
                let to = take_name(bytes)?;
                Self::Seal { transfer, to, store: take_store(bytes)? }
            }
            MOVED => Self::Moved { transfer, epoch: Epoch(take_varint(bytes)?) },
            REOPEN => Self::Reopen { transfer },
            _ => return None,
        })
    }
}

/// The stays that begin with a group's sections, each with the transfer whose rows it takes over.
pub(super) fn accepts<'b>(
    sections: impl Iterator<Item = Section<'b>>,
) -> impl Iterator<Item = (ShardId, Epoch, TransferId)> {
    sections.filter_map(|section| match section.record() {
        Some(Ok(OwnershipRecord::Accept { transfer, .. })) => Some((section.shard, section.epoch, transfer)),
        _ => None,
    })
}

/// Appends the name of a node, its length first.
pub(super) fn put_name(name: &NodeName, out: &mut Vec<u8>) {
    put_varint(name.as_str().len() as u64, out);
    out.extend_from_slice(name.as_str().as_bytes());
}

/// Takes what [`put_name`] wrote; `None` where there is no name.
pub(super) fn take_name(bytes: &mut &[u8]) -> Option<NodeName> {
    let len = usize::try_from(take_varint(bytes)?).ok()?;
    std::str::from_utf8(take(bytes, len)?).ok()?.parse().ok()
}

/// Takes the UUID of a store.
pub(super) fn take_store(bytes: &mut &[u8]) -> Option<u128> {
    take(bytes, 16).map(|bytes| u128::from_le_bytes(bytes.try_into().expect("sixteen bytes")))
}

/// Takes a transfer's id.
pub(super) fn take_transfer(bytes: &mut &[u8]) -> Option<TransferId> {
    take_store(bytes).map(TransferId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Batch;
    use crate::store::batch::{own, put};

    const TRANSFER: TransferId = TransferId(7);

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    /// Every kind of section, by name: an ordinary one and one of each record.
    fn section_of(what: &str, epoch: u64, number: u64) -> Batch {
        let transfer = TRANSFER;
        let record = match what {
            "accept" => Some(OwnershipRecord::Accept { transfer, from: node("a"), rows: 3, hash: 9 }),
            "seal" => Some(OwnershipRecord::Seal { transfer, to: node("b"), store: 8 }),
            "moved" => Some(OwnershipRecord::Moved { transfer, epoch: Epoch(epoch + 1) }),
            "reopen" => Some(OwnershipRecord::Reopen { transfer }),
            _ => None,
        };
        let mut batch = Batch::new();
        batch.section(ShardId(0), Epoch(epoch), number, |out| {
            if let Some(record) = &record {
                own(record, out);
            }
            if what == "write" {
                put(&[&[1]], &[&[1]], out);
            }
        });
        batch
    }

    fn after(ownership: &Ownership, batch: &Batch) -> Option<Ownership> {
        ownership.after(&batch.sections().next().unwrap())
    }

    fn states() -> [Ownership; 4] {
        let (epoch, stay, number) = (Epoch(4), Epoch(2), 10);
        [
            Ownership::Foreign,
            Ownership::Owned { epoch, stay, number },
            Ownership::Sealed { epoch, stay, number, to: node("b"), store: 8, transfer: TRANSFER },
            Ownership::Moved { epoch, to: node("b") },
        ]
    }

    #[test]
    fn only_the_drawn_transitions_are_taken() {
        let drawn = |state: usize, what: &str, epoch: u64, number: u64| match (state, what) {
            (0, "accept") => (2..).contains(&epoch) && number == 1,
            (1, "write" | "seal") | (2, "moved") => (epoch, number) == (4, 11),
            (2, "reopen") | (3, "accept") => epoch > 4 && number == 1,
            _ => false,
        };
        let mut taken = 0;
        for (state, ownership) in states().iter().enumerate() {
            for what in ["write", "accept", "seal", "moved", "reopen"] {
                for (epoch, number) in
                    (0..8).flat_map(|epoch| [0, 1, 2, 10, 11, 12].map(|number| (epoch, number)))
                {
                    let batch = section_of(what, epoch, number);
                    let after = after(ownership, &batch);
                    let expected = drawn(state, what, epoch, number);
                    assert_eq!(after.is_some(), expected, "{ownership:?}, {what} {epoch} {number}");
                    let Some(after) = after else { continue };
                    taken += 1;
                    assert!(after.epoch() >= ownership.epoch());
                    let section = batch.sections().next().unwrap();
                    assert!(after.came_of(&section), "{after:?} is known again by {what}");
                    assert!(after.after(&section).is_none(), "{after:?} takes no {what} twice");
                }
            }
        }
        assert_eq!(taken, 6 + 1 + 1 + 1 + 3 + 3);
    }

    #[test]
    fn a_seal_is_ended_by_its_own_transfer_alone() {
        let sealed = &states()[2];
        for record in [
            OwnershipRecord::Moved { transfer: TransferId(8), epoch: Epoch(5) },
            OwnershipRecord::Moved { transfer: TRANSFER, epoch: Epoch(4) },
            OwnershipRecord::Reopen { transfer: TransferId(8) },
        ] {
            for (epoch, number) in [(4, 11), (5, 1)] {
                let mut batch = Batch::new();
                batch.section(ShardId(0), Epoch(epoch), number, |out| own(&record, out));
                assert_eq!(after(sealed, &batch), None, "{record:?}");
            }
        }
        let mut with_rows = Batch::new();
        with_rows.section(ShardId(0), Epoch(4), 11, |out| {
            own(&OwnershipRecord::Moved { transfer: TRANSFER, epoch: Epoch(5) }, out);
            put(&[&[1]], &[&[1]], out);
        });
        assert_eq!(after(sealed, &with_rows), None, "rows would end with the shard");
    }

    #[test]
    fn a_reopened_shard_keeps_its_stay_and_an_accepted_one_begins_one() {
        let reopened = after(&states()[2], &section_of("reopen", 9, 1)).unwrap();
        assert_eq!(reopened, Ownership::Owned { epoch: Epoch(9), stay: Epoch(2), number: 1 });
        assert_eq!(reopened.stay(Epoch(9)), Some(Epoch(2)));
        assert_eq!(reopened.stay(Epoch(2)), None);
        let accepted = after(&states()[3], &section_of("accept", 9, 1)).unwrap();
        assert_eq!(accepted, Ownership::Owned { epoch: Epoch(9), stay: Epoch(9), number: 1 });
    }

    #[test]
    fn a_record_comes_back_and_every_cut_of_it_is_none() {
        for what in ["accept", "seal", "moved", "reopen"] {
            let batch = section_of(what, 4, 1);
            let record = batch.sections().next().unwrap().record().unwrap().unwrap();
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(OwnershipRecord::take(&mut bytes.as_slice()), Some(record));
            for len in 0..bytes.len() {
                assert_eq!(OwnershipRecord::take(&mut &bytes[..len]), None, "{what} cut at {len}");
            }
        }
    }
}
