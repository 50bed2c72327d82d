//! What a server says, and that no two of them mix.

use super::{Run, on_every_sharing, says};
use crate::placement::{Epoch, ShardId, Weight};
use crate::store::conformance::SHARDS;
use crate::store::{CommitError, ImageKey, LoadError, NodeSays, Presence, SharedError};
use std::time::Duration;

#[test]
fn a_ledger_names_every_node_and_whose_each_shard_is() {
    on_every_sharing(|sharing| {
        let a = Run::start(sharing, "a");
        a.take_all();
        sharing.pass(50);
        let b = Run::start(sharing, "b");
        let says = NodeSays {
            address: "b.example:7".into(),
            weight: Weight::new(3).unwrap(),
            presence: Presence::Leaving,
        };
        let ledger = b.shared().beat(0, &says).unwrap();
        assert_eq!((ledger.server, ledger.generation), (0, 0));
        let [first, second] = &ledger.nodes[..] else { panic!("{ledger:?}") };
        assert_eq!((first.name.as_str(), second.name.as_str()), ("a", "b"));
        assert_eq!((first.incarnation, second.incarnation), (a.me(), b.me()));
        assert_eq!((first.store, second.store), (a.store.identity().store, b.store.identity().store));
        assert_eq!((&first.says, &second.says), (&super::says(), &says));
        assert!(first.lives && second.lives && first.steady > second.steady);
        assert!(ledger.shards.iter().all(|row| row.owner == Some(a.me())));
        sharing.pass(60);
        let ledger = b.shared().beat(0, &says).unwrap();
        let lives: Vec<_> =
            ledger.nodes.iter().map(|node| (node.lives, node.steady > Duration::ZERO)).collect();
        assert_eq!(lives, [(false, false), (true, true)]);
        // One that comes back begins to be steady anew.
        a.beat();
        let ledger = b.shared().beat(0, &says).unwrap();
        assert!(ledger.nodes[0].lives && ledger.nodes[0].steady < ledger.nodes[1].steady);
    });
}

#[test]
fn every_shard_is_in_the_ledger_of_its_server_and_in_no_other() {
    on_every_sharing(|sharing| {
        let run = Run::start(sharing, "a");
        let mut seen: Vec<ShardId> = Vec::new();
        for (server, ledger) in (0..).zip(run.beat()) {
            assert_eq!(ledger.server, server);
            assert!(ledger.shards.iter().all(|row| run.shared().server_of(row.shard) == server));
            assert!(ledger.shards.iter().all(|row| row.owner.is_none()), "founding gives them to nobody");
            assert!(ledger.shards.is_sorted_by_key(|row| row.shard));
            seen.extend(ledger.shards.iter().map(|row| row.shard));
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq(run.store.shards().iter()));
    });
}

#[test]
fn a_server_that_is_away_holds_up_its_own_shards_alone() {
    on_every_sharing(|sharing| {
        let mut run = Run::start(sharing, "a");
        run.take_all();
        let servers = run.shared().servers();
        let is_on_last = |shard: &u32| run.shared().server_of(ShardId(*shard)) + 1 == servers;
        let other = (0..SHARDS).find(is_on_last).expect("every server has shards");
        let (away, epoch) = (servers - 1, run.epoch(other));
        let next = run.next(other, b"k", b"v");
        sharing.set_away(away, true);
        let image = ImageKey { shard: ShardId(other), epoch, key: vec![0xf0] };
        assert!(matches!(run.commit(std::slice::from_ref(&next)), Err(CommitError::Later(_))));
        assert!(matches!(run.confirm(&[], &[(other, epoch)]), Err(CommitError::Later(_))));
        assert!(matches!(run.store.owned_shard(ShardId(other)), Err(LoadError::Later(_))));
        assert!(matches!(run.store.load_shard(ShardId(other), epoch), Err(LoadError::Later(_))));
        assert!(matches!(run.store.load_images(&[image]), Err(LoadError::Later(_))));
        assert!(matches!(run.shared().beat(away, &says()), Err(SharedError::Later(_))));
        assert!(matches!(run.take(&[(other, epoch)]), Err(SharedError::Later(_))));
        assert_eq!(run.store.owned().unwrap().len(), 8, "what a run owns is remembered");
        if away != 0 {
            run.write(0, b"k", b"v");
            run.shared().beat(0, &says()).unwrap();
        }
        sharing.set_away(away, false);
        run.commit(&[next]).unwrap();
        assert_eq!(sharing.rows(other), [(b"k".to_vec(), b"v".to_vec())]);
    });
}

#[test]
fn a_run_takes_over_on_a_server_that_was_away_when_it_is_back() {
    on_every_sharing(|sharing| {
        let mut earlier = Run::start(sharing, "a");
        earlier.take_all();
        let servers = earlier.shared().servers();
        if servers == 1 {
            return;
        }
        let there = (0..SHARDS).find(|shard| earlier.shared().server_of(ShardId(*shard)) == 1).unwrap();
        let (before, here) = (earlier.epoch(there), earlier.epoch(0));
        let late = earlier.next(there, b"k", b"v");
        sharing.set_away(1, true);
        // It rises by the clock, however little is known.
        sharing.let_leases_run_out();
        let newest = Run::start(sharing, "a");
        assert!(newest.epoch(0) > here);
        sharing.set_away(1, false);
        assert_eq!(newest.owned(there), None);
        newest.beat();
        assert_eq!(newest.epoch(there), Epoch(before.0 + 1));
        assert!(super::is_fenced(&earlier.commit(&[late]), there));
        assert!(matches!(earlier.shared().beat(1, &says()), Err(SharedError::Replaced)));
    });
}
