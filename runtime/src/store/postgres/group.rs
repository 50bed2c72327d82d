//! A group of batches as the parameters of one statement.
//!
//! What a statement takes is whole batches in the order of the lane: of each shard where it stands and where it will stand,
//! and of each row what is left of it at the end. All columns are sorted by their key, so that rows are locked in the order of
//! the shards and indexes are walked in theirs.

mod coalesce;
mod column;

use std::collections::BTreeMap;

use coalesce::{Entry, Rows, newest};
pub(super) use column::Column;

use super::rows::{Place, Span};
use crate::placement::{Epoch, ShardId};
use crate::store::{Batch, OwnershipRecord, Section, Write};

/// Bytes of batches that one statement takes, if it has more than one.
pub(super) const STATEMENT_BYTES_MAX: usize = 8 << 20;
/// Writes behind which a statement takes no further batch.
const STATEMENT_WRITES_MAX: u32 = 16_384;
/// Longest batch: a server takes messages below 1 GiB, and a batch grows a little on its way into columns.
pub(super) const BATCH_BYTES_MAX: usize = 256 << 20;

/// One part of a statement, with columns of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The shards written to: id, epoch, number before and after.
    Fence,
    /// Which of them are given away, and to whom: beside `Fence`, row by row.
    Give,
    /// Shards that must still be ours, though nothing is written to them (P14): id, epoch.
    Seen,
    PutState,
    DropState,
    PutMark,
    DropMark,
    PutOutbox,
    DropOutbox,
    PutReply,
    DropReply,
    PutItem,
    DropItem,
}

impl Part {
    /// All of them, in the order of a statement's parameters.
    pub(super) const ALL: [Self; 13] = [
        Self::Fence,
        Self::Give,
        Self::Seen,
        Self::PutState,
        Self::DropState,
        Self::PutMark,
        Self::DropMark,
        Self::PutOutbox,
        Self::DropOutbox,
        Self::PutReply,
        Self::DropReply,
        Self::PutItem,
        Self::DropItem,
    ];
    /// Most columns a part has.
    const COLUMNS_MAX: usize = 4;
}

/// The parts that a group has. Groups of the same parts go by the same statement.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mask(u16);

impl Mask {
    pub(super) fn has(self, part: Part) -> bool {
        self.0 & 1 << part as u16 != 0
    }

    /// With one part more.
    pub(super) fn and(self, part: Part) -> Self {
        Self(self.0 | 1 << part as u16)
    }
}

/// Why batches cannot become a statement. Nothing of them was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misuse {
    /// Sections of a shard under two epochs, or with numbers that do not follow, or behind the one that gives it away.
    #[error("the sections of {0} do not follow each other")]
    Chain(ShardId),
    /// A record of stores that hand shards over by themselves: here the shard's row says whose it is.
    #[error("a section of {0} has a record that a shared store does not keep")]
    Record(ShardId),
    /// A range of rows in a table that keeps none.
    #[error("a section of {0} deletes a range of rows that are not numbered")]
    Range(ShardId),
    /// A batch that no statement can take.
    #[error("a batch of {0} bytes is more than a statement takes")]
    TooLong(usize),
}

/// The sections of one shard.
struct Chain {
    epoch: i64,
    before: i64,
    last: i64,
    /// The node it is given to behind the last.
    heir: Option<u128>,
}

/// The parameters of a statement. One is used for all statements of a lane, for its buffers.
pub(super) struct Group {
    columns: [[Column; Part::COLUMNS_MAX]; Part::ALL.len()],
}

impl Group {
    pub(super) fn new() -> Self {
        let part = || [const { Column::new() }; Part::COLUMNS_MAX];
        Self { columns: std::array::from_fn(|_| part()) }
    }

    /// Takes as many of the batches as one statement may have, the first in any case, and returns how many. With the last of
    /// them goes what was seen: shards whose ownership the statement confirms.
    ///
    /// # Errors
    /// See [`Misuse`].
    pub(super) fn gather(&mut self, batches: &[Batch], seen: &[(ShardId, Epoch)]) -> Result<usize, Misuse> {
        for column in self.columns.as_flattened_mut() {
            column.clear();
        }
        let mut chains = BTreeMap::new();
        let mut writes = Writes::new();
        let mut bytes = 0_usize;
        let mut taken = 0;
        for batch in batches {
            let len = batch.bytes().len();
            if len > BATCH_BYTES_MAX {
                return Err(Misuse::TooLong(len));
            }
            bytes = bytes.saturating_add(len);
            if taken > 0 && (bytes > STATEMENT_BYTES_MAX || writes.count >= STATEMENT_WRITES_MAX) {
                break;
            }
            for section in batch.sections() {
                extend(&mut chains, &section)?;
                writes.take(&section)?;
            }
            taken += 1;
        }
        self.put_fence(&chains);
        if taken == batches.len() {
            self.put_seen(seen, &chains)?;
        }
        writes.settle(self);
        Ok(taken)
    }

    /// The parts that have rows.
    pub(super) fn mask(&self) -> Mask {
        let has_rows = |part: &Part| !self.columns[*part as usize][0].is_empty();
        Part::ALL.into_iter().filter(has_rows).fold(Mask::default(), Mask::and)
    }

    /// The columns of a part.
    pub(super) fn columns(&self, part: Part) -> &[Column; Part::COLUMNS_MAX] {
        &self.columns[part as usize]
    }

    fn part(&mut self, part: Part) -> &mut [Column; Part::COLUMNS_MAX] {
        &mut self.columns[part as usize]
    }

    fn put_fence(&mut self, chains: &BTreeMap<i32, Chain>) {
        let [ids, epochs, before, last] = self.part(Part::Fence);
        for (shard, chain) in chains {
            ids.int4(*shard);
            epochs.int8(chain.epoch);
            before.int8(chain.before);
            last.int8(chain.last);
        }
        if chains.values().any(|chain| chain.heir.is_some()) {
            let [gives, heirs, ..] = self.part(Part::Give);
            for chain in chains.values() {
                gives.bool(chain.heir.is_some());
                heirs.uuid_or_null(chain.heir);
            }
        }
    }

    fn put_seen(&mut self, seen: &[(ShardId, Epoch)], chains: &BTreeMap<i32, Chain>) -> Result<(), Misuse> {
        let mut wanted = Vec::with_capacity(seen.len());
        for &(shard, epoch) in seen {
            let (Ok(id), Ok(under)) = (i32::try_from(shard.0), i64::try_from(epoch.0)) else {
                return Err(Misuse::Chain(shard));
            };
            // The fence confirms what it passes.
            if chains.get(&id).is_none_or(|chain| chain.epoch != under) {
                wanted.push((id, under));
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        let [ids, epochs, ..] = self.part(Part::Seen);
        for (id, under) in wanted {
            ids.int4(id);
            epochs.int8(under);
        }
        Ok(())
    }
}

/// Takes a section into the chain of its shard.
fn extend(chains: &mut BTreeMap<i32, Chain>, section: &Section<'_>) -> Result<(), Misuse> {
    let shard = section.shard;
    // No row holds numbers beyond these, so none can be continued by them.
    let (Ok(id), Ok(epoch), Ok(last)) =
        (i32::try_from(shard.0), i64::try_from(section.epoch.0), i64::try_from(section.number))
    else {
        return Err(Misuse::Chain(shard));
    };
    let before = last - 1;
    if before < 0 {
        return Err(Misuse::Chain(shard));
    }
    let heir = match section.record() {
        None => None,
        Some(Ok(OwnershipRecord::Seal { store, .. })) => Some(store),
        Some(_) => return Err(Misuse::Record(shard)),
    };
    match chains.get_mut(&id) {
        None => drop(chains.insert(id, Chain { epoch, before, last, heir })),
        Some(chain) if chain.epoch == epoch && chain.last == before && chain.heir.is_none() => {
            chain.last = last;
            chain.heir = heir;
        }
        Some(_) => return Err(Misuse::Chain(shard)),
    }
    Ok(())
}

/// Kind and key; shard and image.
type StateEntry<'b> = Entry<(&'b str, &'b [u8]), (i32, &'b [u8])>;
/// Shard, type and key; value.
type MarkEntry<'b> = Entry<(i32, i16, &'b [u8]), &'b [u8]>;

/// The writes of a group, by table.
struct Writes<'b> {
    count: u32,
    states: Vec<StateEntry<'b>>,
    marks: Vec<MarkEntry<'b>>,
    outbox: Rows<'b, i32>,
    replies: Rows<'b, u128>,
    items: Rows<'b, i16>,
}

impl<'b> Writes<'b> {
    fn new() -> Self {
        let (outbox, replies, items) = (Rows::new(), Rows::new(), Rows::new());
        Self { count: 0, states: Vec::new(), marks: Vec::new(), outbox, replies, items }
    }

    fn take(&mut self, section: &Section<'b>) -> Result<(), Misuse> {
        let shard = i32::try_from(section.shard.0).map_err(|_| Misuse::Chain(section.shard))?;
        for write in section.writes() {
            match write.expect("a batch's bytes are checked when it is made") {
                Write::Put { key, value } => self.write(shard, Place::of(key), Some(value)),
                Write::Delete { key } => self.write(shard, Place::of(key), None),
                Write::DeleteRange { prefix, from, through } => {
                    let span = Span::of(prefix, from, through).ok_or(Misuse::Range(section.shard))?;
                    self.drop_range(shard, span);
                }
            }
            self.count += 1;
        }
        Ok(())
    }

    fn write(&mut self, shard: i32, place: Place<'b>, value: Option<&'b [u8]>) {
        let order = self.count;
        match place {
            Place::State { kind, key } => {
                let value = value.map(|value| (shard, value));
                self.states.push(Entry { key: (kind, key), order, value });
            }
            Place::Mark { row_type, key } => {
                self.marks.push(Entry { key: (shard, row_type, key), order, value });
            }
            Place::Outbox { target, number } => self.outbox.write((shard, target, number), order, value),
            Place::Reply { client, number } => self.replies.write((shard, client, number), order, value),
            Place::Item { row_type, number } => self.items.write((shard, row_type, number), order, value),
        }
    }

    fn drop_range(&mut self, shard: i32, span: Span) {
        let order = self.count;
        match span {
            Span::Outbox { target, low, high } => self.outbox.drop_range((shard, target, low, high), order),
            Span::Reply { client, low, high } => self.replies.drop_range((shard, client, low, high), order),
            Span::Item { row_type, low, high } => self.items.drop_range((shard, row_type, low, high), order),
        }
    }

    fn settle(mut self, into: &mut Group) {
        newest(&mut self.states);
        for Entry { key: (kind, key), value, .. } in self.states {
            let part = if value.is_some() { Part::PutState } else { Part::DropState };
            let [kinds, keys, shards, images] = into.part(part);
            kinds.bytes(kind.as_bytes());
            keys.bytes(key);
            if let Some((shard, image)) = value {
                shards.int4(shard);
                images.bytes(image);
            }
        }
        newest(&mut self.marks);
        for Entry { key: (shard, row_type, key), value, .. } in self.marks {
            let part = if value.is_some() { Part::PutMark } else { Part::DropMark };
            let [shards, types, keys, values] = into.part(part);
            shards.int4(shard);
            types.int2(row_type);
            keys.bytes(key);
            if let Some(value) = value {
                values.bytes(value);
            }
        }
        settle(self.outbox, into, [Part::PutOutbox, Part::DropOutbox], Column::int4);
        settle(self.replies, into, [Part::PutReply, Part::DropReply], Column::uuid);
        settle(self.items, into, [Part::PutItem, Part::DropItem], Column::int2);
    }
}

/// Fills the columns of a numbered table: shard, what it numbers by, number and value; or first and last number.
fn settle<P: Ord + Copy>(
    rows: Rows<'_, P>,
    into: &mut Group,
    [put, drop]: [Part; 2],
    mut prefix_into: impl FnMut(&mut Column, P),
) {
    let [shards, prefixes, numbers, values] = into.part(put);
    let drops = rows.settle(|(shard, prefix, number), value| {
        shards.int4(shard);
        prefix_into(prefixes, prefix);
        numbers.int8(number);
        values.bytes(value);
    });
    let [shards, prefixes, lows, highs] = into.part(drop);
    for (shard, prefix, low, high) in drops {
        shards.int4(shard);
        prefix_into(prefixes, prefix);
        lows.int8(low);
        highs.int8(high);
    }
}

#[cfg(test)]
mod tests;
