//! How a shard passes from one owner to another: given, released, taken.

use super::{Run, is_fenced, on_every_sharing};
use crate::placement::{Epoch, ShardId};
use crate::store::OwnedShard;

#[test]
fn a_shard_is_given_to_a_node_that_lives() {
    on_every_sharing(|sharing| {
        let mut giver = Run::start(sharing, "a");
        giver.take_all();
        let mut heir = Run::start(sharing, "b");
        heir.beat();
        let before = giver.epoch(0);
        let last = giver.gives(0, &heir, b"k", b"last");
        let late = giver.next(0, b"k", b"late");
        giver.commit(&[last]).unwrap();
        let owned = heir.owned(0).unwrap();
        assert_eq!((owned.epoch, owned.number), (Epoch(before.0 + 1), 0));
        assert_eq!(giver.owned(0), None);
        assert!(is_fenced(&giver.commit(&[late]), 0));
        let rows = heir.store.load_shard(ShardId(0), owned.epoch).unwrap();
        assert_eq!(
            rows,
            [(b"k".to_vec(), b"last".to_vec())],
            "the section that gives it has rows as any other"
        );
        heir.write(0, b"k", b"next");
        // And back again: its rows of before are under no other key.
        let back = heir.gives(0, &giver, b"l", b"back");
        heir.commit(&[back]).unwrap();
        assert_eq!(giver.epoch(0), Epoch(before.0 + 2));
        assert_eq!(sharing.rows(0), [(b"k".to_vec(), b"next".to_vec()), (b"l".to_vec(), b"back".to_vec())]);
    });
}

#[test]
fn nothing_of_a_shard_follows_in_the_group_that_gives_it() {
    on_every_sharing(|sharing| {
        let mut giver = Run::start(sharing, "a");
        giver.take_all();
        let heir = Run::start(sharing, "b");
        let owned = giver.owned(0).unwrap();
        let behind = super::write(OwnedShard { number: 1, ..owned }, b"k", b"behind");
        let group = [giver.gives(0, &heir, b"k", b"last"), behind];
        assert!(is_fenced(&giver.commit(&group), 0));
        assert_eq!((giver.owned(0), sharing.rows(0)), (Some(owned), vec![]));
    });
}

#[test]
fn a_shard_given_to_a_node_without_a_lease_is_nobodys_and_taken_at_once() {
    on_every_sharing(|sharing| {
        let heir = Run::start(sharing, "b");
        sharing.let_leases_run_out();
        let mut giver = Run::start(sharing, "a");
        giver.take_all();
        let before = giver.epoch(0);
        let last = giver.gives(0, &heir, b"k", b"last");
        giver.commit(&[last]).unwrap();
        assert_eq!((giver.owned(0), heir.owned(0)), (None, None));
        let ledger = &giver.beat()[0];
        let row = ledger.shards.iter().find(|row| row.shard == ShardId(0)).unwrap();
        assert_eq!((row.owner, row.epoch), (None, Epoch(before.0 + 1)));
        let taken = giver.take(&[(0, row.epoch)]).unwrap();
        assert_eq!(taken, [giver.owned(0).unwrap()]);
        assert_eq!(sharing.rows(0), [(b"k".to_vec(), b"last".to_vec())]);
    });
}

#[test]
fn nobody_takes_a_shard_while_its_owners_lease_runs() {
    on_every_sharing(|sharing| {
        let owner = Run::start(sharing, "a");
        owner.take_all();
        let other = Run::start(sharing, "b");
        let epoch = owner.epoch(0);
        assert_eq!(other.take(&[(0, epoch)]).unwrap(), []);
        for _ in 0..4 {
            sharing.pass(60);
            owner.beat();
            other.beat();
            assert_eq!(other.take(&[(0, epoch)]).unwrap(), []);
        }
        assert_eq!(owner.epoch(0), epoch);
        sharing.let_leases_run_out();
        other.beat();
        assert_eq!(other.take(&[(0, Epoch(epoch.0 - 1))]).unwrap(), [], "the epoch of a ledger of before");
        assert_eq!(other.take(&[(0, Epoch(epoch.0 + 1))]).unwrap(), []);
        let taken = other.take(&[(0, epoch)]).unwrap();
        assert_eq!(
            taken.iter().map(|owned| (owned.epoch, owned.number)).collect::<Vec<_>>(),
            [(Epoch(epoch.0 + 1), 0)]
        );
        // Whoever had it finds a lease that is not its own.
        owner.beat();
        assert_eq!(owner.take(&[(0, Epoch(epoch.0 + 1))]).unwrap(), []);
    });
}

#[test]
fn a_lease_that_ran_out_takes_nothing_away_where_nobody_took_it() {
    on_every_sharing(|sharing| {
        let mut owner = Run::start(sharing, "a");
        owner.take_all();
        owner.write(0, b"k", b"1");
        sharing.let_leases_run_out();
        owner.write(0, b"k", b"2");
        owner.beat();
        let other = Run::start(sharing, "b");
        assert_eq!(other.take(&[(0, owner.epoch(0))]).unwrap(), []);
        assert_eq!(owner.owned(0).unwrap().number, 2);
    });
}

#[test]
fn what_a_run_that_closes_had_is_nobodys() {
    on_every_sharing(|sharing| {
        let mut closes = Run::start(sharing, "a");
        closes.take_all();
        closes.write(0, b"k", b"1");
        let late = closes.next(0, b"k", b"late");
        let before = closes.epoch(0);
        closes.store.close().unwrap();
        assert!(is_fenced(&closes.commit(&[late]), 0));
        let other = Run::start(sharing, "b");
        assert!(other.beat().iter().flat_map(|ledger| &ledger.shards).all(|row| row.owner.is_none()));
        other.take_all();
        assert_eq!(other.epoch(0), Epoch(before.0 + 2));
        assert_eq!(sharing.rows(0), [(b"k".to_vec(), b"1".to_vec())]);
    });
}
