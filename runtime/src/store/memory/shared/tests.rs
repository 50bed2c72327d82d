use super::*;
use crate::placement::Weight;
use crate::store::batch::put;
use crate::store::{Batch, CommitError, Presence};
use std::time::Duration;

/// One run that owns both shards of a server.
fn owner() -> (Servers, SharedMemory, Box<dyn Lane>) {
    let lease = Duration::from_secs(3);
    let servers = Servers::found(1, Shards::new(2).unwrap(), (1, 1), lease, 9 * lease);
    let address = "localhost:1".to_owned();
    let says = NodeSays { address, weight: Weight::default(), presence: Presence::Up };
    let run = servers.open(&"a".parse().unwrap(), &says);
    let ledger = run.beat(0, &says).unwrap();
    let shards: Vec<_> = ledger.shards.iter().map(|row| (row.shard, row.epoch)).collect();
    assert_eq!(run.take(0, &shards).unwrap().len(), 2);
    let lane = run.open_lane(LaneId(0));
    (servers, run, lane)
}

fn batch(number: u64) -> Batch {
    let mut batch = Batch::new();
    batch.section(ShardId(0), Epoch(2), number, |out| put(&[b"k"], &[&[number as u8]], out));
    batch
}

#[test]
fn a_commit_of_unknown_outcome_is_known_when_it_is_repeated() {
    for applied in [false, true] {
        let (servers, run, mut lane) = owner();
        run.unknown(LaneId(0), applied);
        assert!(matches!(lane.commit(&[batch(1)]), Err(CommitError::Unknown(_))));
        assert_eq!(servers.rows(ShardId(0)).len(), usize::from(applied));
        lane.commit(&[batch(1)]).unwrap();
        assert_eq!(run.owned_shard(ShardId(0)).unwrap().unwrap().number, 1);
        run.later(LaneId(0));
        assert!(matches!(lane.commit(&[batch(2)]), Err(CommitError::Later(_))));
        run.hang(LaneId(0));
        assert!(matches!(lane.commit(&[batch(2)]), Err(CommitError::Unknown(_))));
        run.end_hang(LaneId(0));
        run.fail(LaneId(0));
        assert!(matches!(lane.commit(&[batch(2)]), Err(CommitError::Failed(_))));
        assert_eq!(servers.rows(ShardId(0)), [(b"k".to_vec(), vec![1])]);
        lane.commit(&[batch(2)]).unwrap();
    }
}

#[test]
fn a_standby_that_lagged_fences_every_lane_once_and_goes_on_from_what_it_has() {
    let (servers, run, mut lane) = owner();
    lane.commit(&[batch(1)]).unwrap();
    let standby = servers.snapshot(0);
    lane.commit(&[batch(2), batch(3)]).unwrap();
    servers.promote(0, standby);
    // Even what would fit is of a memory that has seen what is lost.
    assert!(matches!(lane.commit(&[batch(2)]), Err(CommitError::Fenced(ShardId(0)))));
    let owned = OwnedShard { shard: ShardId(0), epoch: Epoch(2), number: 1 };
    assert_eq!(run.owned_shard(ShardId(0)).unwrap(), Some(owned));
    lane.commit(&[batch(2)]).unwrap();
    assert_eq!(servers.rows(ShardId(0)), [(b"k".to_vec(), vec![2])]);
    let address = "localhost:1".to_owned();
    let says = NodeSays { address, weight: Weight::default(), presence: Presence::Up };
    assert_eq!(run.beat(0, &says).unwrap().generation, 1);
}
