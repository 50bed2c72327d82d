//! An owner of before writes nothing, reads nothing, and is told so.

use super::{Run, give, is_fenced, neighbour, on_every_sharing, write};
use crate::placement::{Epoch, ShardId};
use crate::store::batch::own;
use crate::store::{
    Batch, CommitError, ImageKey, LoadError, OwnedShard, Ownership, OwnershipRecord, SharedError, TransferId,
};

/// Two runs: the first had everything, and its lease has run out; the second is alive.
fn a_stale_and_a_live_one(sharing: &mut dyn super::Sharing) -> (Run, Run) {
    let mut stale = Run::start(sharing, "a");
    stale.take_all();
    stale.write(0, b"k", b"old");
    sharing.let_leases_run_out();
    let live = Run::start(sharing, "b");
    live.beat();
    (stale, live)
}

#[test]
fn a_group_with_a_shard_that_was_taken_writes_nothing_of_any_shard() {
    on_every_sharing(|sharing| {
        let (mut stale, live) = a_stale_and_a_live_one(sharing);
        let beside = neighbour(&stale);
        let (lost, kept) = (stale.next(0, b"k", b"late"), stale.next(beside, b"k", b"late"));
        live.take(&[(0, stale.epoch(0))]).unwrap();
        for group in [vec![kept.clone(), lost.clone()], vec![lost.clone(), kept.clone()], vec![lost]] {
            assert!(is_fenced(&stale.commit(&group), 0));
            assert_eq!(sharing.rows(0), [(b"k".to_vec(), b"old".to_vec())]);
            assert_eq!(sharing.rows(beside), []);
            assert_eq!(stale.owned(beside).unwrap().number, 0);
        }
        stale.commit(&[kept]).unwrap();
        assert_eq!(sharing.rows(beside), [(b"k".to_vec(), b"late".to_vec())]);
    });
}

#[test]
fn a_shard_that_was_taken_cannot_be_confirmed() {
    on_every_sharing(|sharing| {
        let (mut stale, live) = a_stale_and_a_live_one(sharing);
        let beside = neighbour(&stale);
        let (shown, kept) = ((0, stale.epoch(0)), (beside, stale.epoch(beside)));
        stale.confirm(&[], &[shown, kept]).unwrap();
        let next = stale.next(beside, b"k", b"v");
        live.take(&[shown]).unwrap();
        assert!(is_fenced(&stale.confirm(&[], &[kept, shown]), 0));
        assert!(is_fenced(&stale.confirm(std::slice::from_ref(&next), &[shown]), 0));
        assert_eq!(sharing.rows(beside), [], "what was not confirmed was not written");
        stale.confirm(&[], &[kept]).unwrap();
        stale.confirm(&[next], &[]).unwrap();
        // Under the epoch of the new owner it is not confirmed either.
        assert!(is_fenced(&stale.confirm(&[], &[(0, live.epoch(0))]), 0));
    });
}

#[test]
fn a_shard_of_another_owner_cannot_be_read() {
    on_every_sharing(|sharing| {
        let (stale, live) = a_stale_and_a_live_one(sharing);
        let before = stale.epoch(0);
        live.take(&[(0, before)]).unwrap();
        for epoch in [before, live.epoch(0)] {
            let image = ImageKey { shard: ShardId(0), epoch, key: vec![0xf0] };
            let is_refused = |refused| matches!(refused, Err(LoadError::NotOwned(ShardId(0))));
            assert!(is_refused(stale.store.load_shard(ShardId(0), epoch).map(drop)));
            assert!(is_refused(stale.store.load_images(&[image]).map(drop)));
        }
        assert_eq!(stale.owned(0), None);
        let known = stale.store.ownership().unwrap();
        let moved = Ownership::Moved { epoch: live.epoch(0), to: "b".parse().unwrap() };
        assert!(known.contains(&(ShardId(0), moved)));
        let rows = live.store.load_shard(ShardId(0), live.epoch(0)).unwrap();
        assert_eq!(rows, [(b"k".to_vec(), b"old".to_vec())], "a shard comes with its rows");
    });
}

#[test]
fn the_newest_run_of_a_name_takes_its_shards_at_once_and_the_earlier_one_is_fenced() {
    on_every_sharing(|sharing| {
        let mut earlier = Run::start(sharing, "a");
        earlier.take_all();
        earlier.write(0, b"k", b"old");
        let late = earlier.next(0, b"k", b"late");
        let before = earlier.epoch(0);
        let newest = Run::start(sharing, "a");
        assert!(newest.epoch(0) > before);
        assert_eq!(newest.owned(0).unwrap().number, 0);
        assert_ne!(newest.me(), earlier.me());
        let (old, new) = (earlier.store.identity(), newest.store.identity());
        assert_eq!((old.cluster, old.store), (new.cluster, new.store));
        assert!(old.boot < new.boot);
        assert!(is_fenced(&earlier.commit(&[late]), 0));
        assert_eq!(sharing.rows(0), [(b"k".to_vec(), b"old".to_vec())]);
        // However long the newest one is silent.
        sharing.let_leases_run_out();
        let beaten = earlier.shared().beat(0, &super::says());
        assert!(matches!(beaten, Err(SharedError::Replaced)));
        let taken = earlier.take(&[(0, newest.epoch(0))]);
        assert!(matches!(taken, Err(SharedError::Replaced)));
        assert!(newest.owned(0).is_some());
    });
}

#[test]
fn a_group_that_gives_a_shard_is_known_again_whoever_has_it_since() {
    on_every_sharing(|sharing| {
        let mut owner = Run::start(sharing, "a");
        owner.take_all();
        let mut heir = Run::start(sharing, "b");
        heir.beat();
        let beside = neighbour(&owner);
        let (kept, given) = (owner.owned(beside).unwrap(), owner.owned(0).unwrap());
        let store = heir.store.identity().store;
        let group = [write(given, b"k", b"1"), {
            let given = OwnedShard { number: 1, ..given };
            let mut both = give(given, store, b"k", b"2");
            both.section(kept.shard, kept.epoch, 1, |_| {});
            both
        }];
        let position = owner.commit(&group).unwrap();
        assert_eq!(owner.commit(&group).unwrap(), position);
        heir.write(0, b"k", b"3");
        owner.commit(&group).unwrap();
        assert_eq!(sharing.rows(0), [(b"k".to_vec(), b"3".to_vec())]);
        // With a third owner the shard beside it still tells.
        let third = Run::start(sharing, "c");
        let on = heir.gives(0, &third, b"k", b"4");
        heir.commit(&[on]).unwrap();
        owner.commit(&group).unwrap();
        assert_eq!(sharing.rows(0), [(b"k".to_vec(), b"4".to_vec())]);
        // What it gave alone cannot be told any more, and then it is refused: its callers hear that the outcome is unknown.
        let alone = Run::start(sharing, "a");
        let epoch = third.epoch(0);
        assert!(is_fenced(&owner.commit(&group[..1]), 0));
        assert_eq!((alone.owned(0), third.epoch(0)), (None, epoch));
    });
}

#[test]
fn records_of_tokens_are_refused() {
    on_every_sharing(|sharing| {
        let mut run = Run::start(sharing, "a");
        run.take_all();
        let owned = run.owned(0).unwrap();
        let transfer = TransferId(7);
        let moved = OwnershipRecord::Moved { transfer, epoch: Epoch(9) };
        let reopen = OwnershipRecord::Reopen { transfer };
        for record in [moved, reopen] {
            let mut batch = Batch::new();
            batch.section(ShardId(0), owned.epoch, 1, |out| own(&record, out));
            assert!(matches!(run.commit(&[batch]), Err(CommitError::Fenced(ShardId(0)))));
            assert_eq!(run.owned(0), Some(owned));
        }
        assert!(run.store.begin_staging(ShardId(0), Epoch(9), transfer).is_err());
    });
}
