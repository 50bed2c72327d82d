//! Whose a shard is: sealed, moved, back again, opened again.

use super::running::{Running, accept, moved, reopen, seal, write};
use super::{IMAGE, engines, on_engines_with_tokens, row, shards};
use crate::placement::{Epoch, ShardId};
use crate::store::batch::{own, put};
use crate::store::{Batch, Founding, Ownership, OwnershipRecord, TransferId};

fn sealed(epoch: u64, stay: u64, number: u64, transfer: u128) -> Ownership {
    let (epoch, stay, transfer) = (Epoch(epoch), Epoch(stay), TransferId(transfer));
    Ownership::Sealed { epoch, stay, number, to: "b".parse().unwrap(), store: 8, transfer }
}

fn owned(epoch: u64, stay: u64, number: u64) -> Ownership {
    Ownership::Owned { epoch: Epoch(epoch), stay: Epoch(stay), number }
}

#[test]
fn a_founder_owns_every_shard_and_a_store_that_joined_none() {
    let owning = |founding: Founding| {
        engines(founding).into_iter().map(|mut engine| {
            let mut store = Running::start(&mut *engine);
            let before = store.store().ownership().unwrap();
            store.crash();
            assert_eq!(store.store().ownership().unwrap(), before);
            (before, store.store().owned().unwrap().len())
        })
    };
    for (known, count) in owning(Founding::founder(1, 2, shards())).collect::<Vec<_>>() {
        assert!(known.iter().map(|(shard, _)| *shard).eq(shards().iter()));
        assert!(known.iter().all(|(_, ownership)| *ownership == owned(1, 1, 0)));
        assert_eq!(count, known.len());
    }
    for (known, count) in owning(Founding::joined(1, 2, shards())).collect::<Vec<_>>() {
        assert_eq!((known.len(), count), (0, 0));
    }
}

#[test]
fn a_store_that_joined_takes_no_batch_of_a_shard_it_was_not_given() {
    for mut engine in engines(Founding::joined(1, 2, shards())) {
        let mut store = Running::start(&mut *engine);
        store.refuses(&[
            vec![write(3, 1, 1, &[1], b"x")],
            vec![seal(3, 1, 1, 7)],
            vec![moved(3, 1, 1, 7, 2)],
            vec![reopen(3, 2, 7)],
            // The founder's epoch is nobody else's.
            vec![accept(3, 1, 7)],
        ]);
        assert!(store.hides(3, 1));
    }
}

#[test]
fn a_sealed_shard_is_read_and_never_written_to() {
    on_engines_with_tokens(|engine| {
        let mut store = Running::start(engine);
        store.commit(&[write(3, 1, 1, &[1], b"first")]).unwrap();
        // The last section of a shard seals it and has rows like any other.
        let mut last = Batch::new();
        last.section(ShardId(3), Epoch(1), 2, |out| {
            own(&OwnershipRecord::Seal { transfer: TransferId(7), to: "b".parse().unwrap(), store: 8 }, out);
            put(&[&[1]], &[b"last"], out);
            put(&[&[IMAGE], b"k"], &[b"image"], out);
        });
        store.commit(&[last]).unwrap();
        for _ in 0..2 {
            assert_eq!(store.ownership(3), sealed(1, 1, 2, 7));
            store.refuses(&[
                vec![write(3, 1, 3, &[1], b"late")],
                vec![write(3, 2, 1, &[1], b"late")],
                vec![seal(3, 1, 3, 7)],
                vec![accept(3, 2, 7)],
                vec![moved(3, 1, 3, 8, 2)],
                vec![moved(3, 1, 3, 7, 1)],
                vec![reopen(3, 9, 8)],
            ]);
            assert_eq!(store.all_rows(3, 1), [row(&[1], b"last"), row(&[IMAGE, b'k'], b"image")]);
            assert!(store.store().owned().unwrap().iter().all(|owned| owned.shard.0 != 3));
            assert_eq!(store.store().owned().unwrap().len(), 7);
            store.crash();
        }
    });
}

#[test]
fn a_shard_that_moved_away_is_gone_and_its_neighbours_are_not() {
    on_engines_with_tokens(|engine| {
        let mut store = Running::start(engine);
        for shard in 2..5 {
            store.commit(&[write(shard, 1, 1, &[1], &[shard as u8])]).unwrap();
        }
        store.give_away(3, 1, 1);
        for _ in 0..2 {
            assert_eq!(store.ownership(3), Ownership::Moved { epoch: Epoch(2), to: "b".parse().unwrap() });
            assert!(store.hides(3, 1) && store.hides(3, 2));
            store.refuses(&[
                vec![write(3, 1, 4, &[1], b"late")],
                vec![write(3, 2, 1, &[1], b"late")],
                vec![reopen(3, 9, 1)],
                vec![accept(3, 2, 7)],
            ]);
            for neighbour in [2, 4] {
                assert_eq!(store.all_rows(neighbour, 1), [row(&[1], &[neighbour as u8])]);
            }
            store.crash();
        }
    });
}

#[test]
fn a_shard_that_left_and_came_back_is_not_overwritten_by_its_past() {
    // Every way in which the checkpoint may be held back between the steps, and a crash behind any of them.
    for maintained in 0..1_u32 << 5 {
        on_engines_with_tokens(|engine| {
            if engine.is_slow() && maintained % 10 != 1 {
                return;
            }
            let mut store = Running::start(engine);
            let mut steps = 0;
            let mut after_step = |store: &mut Running<'_>| {
                if maintained & 1 << steps != 0 {
                    store.store().maintain().unwrap();
                }
                if maintained as usize % 6 == steps {
                    store.crash();
                }
                steps += 1;
            };
            store.commit(&[write(3, 1, 1, b"k", b"past"), write(3, 1, 2, b"past", b"past")]).unwrap();
            store.commit(&[write(3, 1, 3, &[IMAGE], b"past")]).unwrap();
            after_step(&mut store);
            store.commit(&[seal(3, 1, 4, 1)]).unwrap();
            after_step(&mut store);
            store.commit(&[moved(3, 1, 5, 1, 2)]).unwrap();
            after_step(&mut store);
            store.begin(3, 3, 9);
            store.stage(3, 3, 9, &[(b"k", Some(b"staged")), (b"s", Some(b"staged"))]);
            store.commit(&[accept(3, 3, 9)]).unwrap();
            after_step(&mut store);
            store.commit(&[write(3, 3, 2, b"k", b"present")]).unwrap();
            after_step(&mut store);
            store.crash();
            assert_eq!(store.ownership(3), owned(3, 3, 2));
            let present = [row(b"k", b"present"), row(b"s", b"staged")];
            assert_eq!(store.all_rows(3, 3), present, "maintained as {maintained:b}");
            assert!(store.hides(3, 1));
            // And away and back once more, so that a stay ends that began with a transfer.
            store.give_away(3, 3, 2);
            store.begin(3, 5, 10);
            store.commit(&[accept(3, 5, 10)]).unwrap();
            store.crash();
            assert_eq!(store.all_rows(3, 5), []);
        });
    }
}

#[test]
fn a_sealed_shard_that_is_reopened_keeps_its_rows_under_the_new_epoch() {
    on_engines_with_tokens(|engine| {
        let mut store = Running::start(engine);
        store.commit(&[write(3, 1, 1, b"k", b"kept"), seal(3, 1, 2, 7)]).unwrap();
        store.commit(&[reopen(3, 9, 7)]).unwrap();
        assert_eq!(store.ownership(3), owned(9, 1, 1));
        store.refuses(&[
            vec![write(3, 1, 3, b"k", b"bad")],
            vec![write(3, 9, 3, b"k", b"bad")],
            vec![moved(3, 1, 3, 7, 2)],
        ]);
        store.commit(&[write(3, 9, 2, b"l", b"new")]).unwrap();
        for _ in 0..2 {
            assert_eq!(store.all_rows(3, 9), [row(b"k", b"kept"), row(b"l", b"new")]);
            assert!(store.hides(3, 1));
            store.crash();
        }
        // Its stay ends as any other.
        store.give_away(3, 9, 2);
        assert!(store.hides(3, 9));
        store.begin(3, 11, 8);
        store.commit(&[accept(3, 11, 8)]).unwrap();
        assert_eq!(store.all_rows(3, 11), []);
    });
}

#[test]
fn a_repeated_group_with_changes_of_ownership_is_known_again() {
    on_engines_with_tokens(|engine| {
        let mut store = Running::start(engine);
        let leaves = [write(3, 1, 1, b"k", b"1"), seal(3, 1, 2, 1), moved(3, 1, 3, 1, 2)];
        let returns = [accept(3, 3, 9), write(3, 3, 2, b"k", b"3"), seal(3, 3, 3, 3)];
        let opens = [reopen(3, 4, 3), write(3, 4, 2, b"l", b"4")];
        let repeat = |store: &mut Running<'_>, group: &[Batch]| {
            let position = store.commit(group).unwrap();
            for from in 0..group.len() {
                let ownership = store.ownership(3);
                assert_eq!(store.commit(&group[from..]).unwrap(), position);
                assert_eq!(store.ownership(3), ownership);
            }
        };
        // First a part of it, then all: what is known is not written again, the rest is.
        store.commit(&leaves[..2]).unwrap();
        repeat(&mut store, &leaves);
        store.begin(3, 3, 9);
        store.commit(&returns[..1]).unwrap();
        repeat(&mut store, &returns);
        repeat(&mut store, &opens);
        store.refuses(&[leaves.to_vec(), returns.to_vec(), returns[..2].to_vec()]);
        store.crash();
        assert_eq!(store.ownership(3), owned(4, 3, 2));
        assert_eq!(store.all_rows(3, 4), [row(b"k", b"3"), row(b"l", b"4")]);
    });
}
