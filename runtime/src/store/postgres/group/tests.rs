//! A group does to a map what its batches do to it one by one.

use super::*;
use crate::store::TransferId;
use crate::store::batch::{delete, delete_range, own, put};
use proptest::prelude::*;

type Map = BTreeMap<(u32, Vec<u8>), Vec<u8>>;

/// One section: of which shard, and its writes.
type Sections = Vec<(u32, Vec<Op>)>;

#[derive(Debug, Clone)]
enum Op {
    Put(Vec<u8>, u8),
    Delete(Vec<u8>),
    Range(Vec<u8>, u64, u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    let prefixes = [&[0x12, 0, 0, 0, 9][..], &[0x12, 0, 0, 0, 1], &[0x22; 17], &[0x30], &[0x32]];
    let prefix = prop::sample::select(prefixes.map(<[u8]>::to_vec).to_vec());
    let numbered = (prefix.clone(), 0_u64..12)
        .prop_map(|(prefix, number)| [prefix, number.to_be_bytes().to_vec()].concat());
    let named = prop::sample::select(
        [&b"\x01"[..], b"", b"\x10\0\0\0\x01", b"\xf0", b"\x12", b"\x30\x80\0\0\0\0\0\0\0"]
            .map(<[u8]>::to_vec)
            .to_vec(),
    );
    // A name belongs to one shard: it is put in when the section is written.
    let image = (0_u8..3).prop_map(|key| vec![0xf0, b'k', 0, key]);
    let key = prop_oneof![3 => numbered, 1 => named, 1 => image];
    prop_oneof![
        4 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Op::Put(key, value)),
        1 => key.prop_map(Op::Delete),
        1 => (prefix, 0_u64..12, 0_u64..6).prop_map(|(prefix, from, len)| Op::Range(prefix, from, from + len)),
    ]
}

fn key_in(shard: u32, key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    if key.starts_with(&[0xf0, b'k', 0]) {
        key.extend(shard.to_be_bytes());
    }
    key
}

/// Batches of one section each, their numbers following.
fn batches(sections: &Sections) -> Vec<Batch> {
    let mut numbers = BTreeMap::new();
    let one = |(shard, ops): &(u32, Vec<Op>)| {
        let number = numbers.entry(*shard).and_modify(|number| *number += 1).or_insert(5);
        let mut batch = Batch::new();
        batch.section(ShardId(*shard), Epoch(3), *number, |out| {
            for op in ops {
                match op {
                    Op::Put(key, value) => put(&[&key_in(*shard, key)], &[&[*value]], out),
                    Op::Delete(key) => delete(&[&key_in(*shard, key)], out),
                    Op::Range(prefix, from, through) => delete_range(&[prefix], *from, *through, out),
                }
            }
        });
        batch
    };
    sections.iter().map(one).collect()
}

fn apply_in_order(map: &mut Map, sections: &Sections) {
    for (shard, ops) in sections {
        for op in ops {
            match op {
                Op::Put(key, value) => drop(map.insert((*shard, key_in(*shard, key)), vec![*value])),
                Op::Delete(key) => drop(map.remove(&(*shard, key_in(*shard, key)))),
                Op::Range(prefix, from, through) => {
                    for number in *from..=*through {
                        map.remove(&(*shard, [prefix.as_slice(), &number.to_be_bytes()].concat()));
                    }
                }
            }
        }
    }
}

/// The elements of each column, back to bytes.
fn elements(column: &Column) -> Vec<Vec<u8>> {
    column.values().map(|value| value.expect("no part with rows has nulls").to_vec()).collect()
}

/// Rows of a part, each as its columns.
fn rows(group: &Group, part: Part) -> Vec<[Vec<u8>; 4]> {
    let columns = group.columns(part).each_ref().map(elements);
    let at = |column: &Vec<Vec<u8>>, row: usize| column.get(row).cloned().unwrap_or_default();
    (0..columns[0].len()).map(|row| columns.each_ref().map(|column| at(column, row))).collect()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn row_key(table: usize, row: &[Vec<u8>; 4], at: u64) -> (u32, Vec<u8>) {
    let shard = number(&row[0]) as u32;
    let row_type: &[u8] = match table {
        0 => &[0x12],
        1 => &[0x22],
        _ => &[],
    };
    let prefix = if table == 2 { &row[1][1..] } else { &row[1] };
    (shard, [row_type, prefix, &at.to_be_bytes()].concat())
}

/// What a statement with these columns does: its parts do not see each other's rows.
fn apply_columns(map: &mut Map, group: &Group) {
    let before = map.clone();
    let mut touched = std::collections::BTreeSet::new();
    let name = |row: &[Vec<u8>; 4]| [&[0xf0], row[0].as_slice(), &[0], &row[1]].concat();
    for row in rows(group, Part::PutState) {
        let key = (number(&row[2]) as u32, name(&row));
        assert!(touched.insert(key.clone()), "an upsert meets a key once");
        map.insert(key, row[3].clone());
    }
    for row in rows(group, Part::DropState) {
        let gone = name(&row);
        assert!(!touched.iter().any(|(_, key)| *key == gone), "put or dropped, not both");
        map.retain(|(_, key), _| *key != gone);
    }
    let mark = |row: &[Vec<u8>; 4]| {
        let row_type: &[u8] = if row[1][0] == 0 { &row[1][1..] } else { &[] };
        (number(&row[0]) as u32, [row_type, &row[2]].concat())
    };
    for row in rows(group, Part::PutMark) {
        assert!(touched.insert(mark(&row)), "an upsert meets a key once");
        map.insert(mark(&row), row[3].clone());
    }
    for row in rows(group, Part::DropMark) {
        assert!(!touched.contains(&mark(&row)), "put or dropped, not both");
        map.remove(&mark(&row));
    }
    let tables = [
        [Part::PutOutbox, Part::DropOutbox],
        [Part::PutReply, Part::DropReply],
        [Part::PutItem, Part::DropItem],
    ];
    for (table, [puts, drops]) in tables.into_iter().enumerate() {
        for row in rows(group, puts) {
            let key = row_key(table, &row, number(&row[2]));
            assert!(touched.insert(key.clone()), "an upsert meets a key once");
            map.insert(key, row[3].clone());
        }
        for row in rows(group, drops) {
            for at in number(&row[2])..=number(&row[3]) {
                let key = row_key(table, &row, at);
                assert!(!touched.contains(&key), "put or dropped, not both");
                if before.contains_key(&key) {
                    map.remove(&key);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn a_statement_leaves_what_the_batches_leave_one_by_one(
        before in prop::collection::vec((0_u32..3, prop::collection::vec(any_op(), 0..8)), 0..6),
        sections in prop::collection::vec((0_u32..3, prop::collection::vec(any_op(), 0..8)), 0..12),
    ) {
        let mut expected = Map::new();
        apply_in_order(&mut expected, &before);
        let mut map = expected.clone();
        apply_in_order(&mut expected, &sections);
        let mut group = Group::new();
        prop_assert_eq!(group.gather(&batches(&sections), &[]), Ok(sections.len()));
        apply_columns(&mut map, &group);
        prop_assert_eq!(map, expected);
        let fence: Vec<_> = rows(&group, Part::Fence).into_iter().map(|row| row.map(|bytes| number(&bytes))).collect();
        for [shard, epoch, before, last] in &fence {
            let count = sections.iter().filter(|(of, _)| u64::from(*of) == *shard).count() as u64;
            prop_assert_eq!((*epoch, *before, *last), (3, 4, 4 + count));
        }
        prop_assert!(fence.is_sorted_by_key(|row| row[0]));
    }
}

fn batch(sections: &[(u32, u64, u64)]) -> Batch {
    let mut batch = Batch::new();
    for &(shard, epoch, number) in sections {
        batch.section(ShardId(shard), Epoch(epoch), number, |_| {});
    }
    batch
}

fn with_record(shard: u32, number: u64, record: &OwnershipRecord) -> Batch {
    let mut batch = Batch::new();
    batch.section(ShardId(shard), Epoch(2), number, |out| own(record, out));
    batch
}

fn seal(store: u128) -> OwnershipRecord {
    OwnershipRecord::Seal { transfer: TransferId(1), to: "b".parse().unwrap(), store }
}

#[test]
fn sections_that_do_not_follow_are_refused() {
    let refused = [
        vec![batch(&[(1, 2, 1)]), batch(&[(1, 3, 2)])],
        vec![batch(&[(1, 2, 1)]), batch(&[(1, 2, 3)])],
        vec![batch(&[(1, 2, 1)]), batch(&[(1, 2, 1)])],
        vec![batch(&[(1, 2, 0)])],
        vec![batch(&[(1, u64::MAX, 1)])],
        vec![batch(&[(1, 2, u64::MAX)])],
        vec![with_record(1, 4, &seal(8)), batch(&[(1, 2, 5)])],
    ];
    for group in refused {
        assert_eq!(Group::new().gather(&group, &[]), Err(Misuse::Chain(ShardId(1))), "{group:?}");
    }
    let far = batch(&[(u32::MAX, 2, 1)]);
    assert_eq!(Group::new().gather(&[far], &[]), Err(Misuse::Chain(ShardId(u32::MAX))));
    let seen = [(ShardId(1), Epoch(u64::MAX))];
    assert_eq!(Group::new().gather(&[], &seen), Err(Misuse::Chain(ShardId(1))));
}

#[test]
fn what_a_shared_store_does_not_keep_is_refused() {
    let moved = OwnershipRecord::Moved { transfer: TransferId(1), epoch: Epoch(3) };
    assert_eq!(Group::new().gather(&[with_record(1, 4, &moved)], &[]), Err(Misuse::Record(ShardId(1))));
    let mut batch = Batch::new();
    batch.section(ShardId(1), Epoch(2), 1, |out| delete_range(&[b"\x10"], 1, 2, out));
    assert_eq!(Group::new().gather(&[batch], &[]), Err(Misuse::Range(ShardId(1))));
}

#[test]
fn a_seal_gives_the_shard_to_its_heir_behind_its_last_section() {
    let mut group = Group::new();
    let batches = [batch(&[(1, 2, 4), (7, 2, 1)]), with_record(7, 2, &seal(0xb0b))];
    assert_eq!(group.gather(&batches, &[]), Ok(2));
    let gives: Vec<_> = group.columns(Part::Give)[0].values().map(|give| give.map(<[u8]>::to_vec)).collect();
    assert_eq!(gives, [Some(vec![0]), Some(vec![1])]);
    let heirs: Vec<_> = group.columns(Part::Give)[1].values().map(|heir| heir.map(number)).collect();
    assert_eq!(heirs, [None, Some(0xb0b)]);
    assert!(group.mask().has(Part::Give));
    assert_eq!(group.gather(&batches[..1], &[]), Ok(1));
    assert!(!group.mask().has(Part::Give));
}

#[test]
fn what_was_seen_is_confirmed_once_and_not_where_the_fence_confirms_it() {
    let mut group = Group::new();
    let seen = [(9, 2), (1, 2), (9, 2), (1, 3), (4, 2)].map(|(shard, epoch)| (ShardId(shard), Epoch(epoch)));
    assert_eq!(group.gather(&[batch(&[(1, 2, 4)])], &seen), Ok(1));
    let pairs: Vec<_> =
        rows(&group, Part::Seen).iter().map(|row| (number(&row[0]), number(&row[1]))).collect();
    assert_eq!(pairs, [(1, 3), (4, 2), (9, 2)]);
}

#[test]
fn a_statement_takes_whole_batches_up_to_its_bounds_and_confirms_with_the_last() {
    let mut group = Group::new();
    let seen = [(ShardId(9), Epoch(2))];
    let long = |number: u64| {
        let mut batch = Batch::new();
        let value = vec![1; STATEMENT_BYTES_MAX * 2 / 3];
        batch.section(ShardId(1), Epoch(2), number, |out| put(&[&[1]], &[&value], out));
        batch
    };
    let batches = [long(1), long(2), long(3)];
    assert_eq!(group.gather(&batches, &seen), Ok(1));
    assert!(!group.mask().has(Part::Seen));
    assert_eq!(group.gather(&batches[2..], &seen), Ok(1));
    assert!(group.mask().has(Part::Seen));
    let many = |number: u64| {
        let mut batch = Batch::new();
        batch.section(ShardId(1), Epoch(2), number, |out| {
            (0..STATEMENT_WRITES_MAX / 2).for_each(|_| put(&[&[1]], &[], out));
        });
        batch
    };
    let batches = [many(1), many(2), many(3)];
    assert_eq!(group.gather(&batches, &seen), Ok(2));
}
