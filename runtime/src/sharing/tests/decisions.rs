//! One decision each.

use super::*;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Nodes that have started together and share evenly.
fn settled(nodes: u32) -> World {
    let mut world = World::new(1);
    (0..nodes).for_each(|at| world.start(at));
    world.run(secs(60));
    let served = world.served();
    assert!(served.values().all(|count| *count <= (SHARDS * 6).div_ceil(nodes * 5) as usize), "{served:?}");
    assert!(world.all_routes_are_right());
    world
}

#[test]
fn a_lone_node_takes_everything_with_its_first_ledger() {
    let mut world = World::new(1);
    world.start(0);
    world.run(secs(1));
    assert_eq!(world.served()[&name(0)], SHARDS as usize);
    assert!(world.process(0).sharing.is_settled());
}

#[test]
fn nodes_that_come_get_their_share_by_gives() {
    let mut world = settled(1);
    world.start(1);
    world.start(2);
    world.run(secs(60));
    let served = world.served();
    assert!(served.values().all(|count| 6 <= *count && *count <= 13), "{served:?}");
    assert_eq!(world.takes, 0, "nobody was dead");
    assert!(world.all_routes_are_right());
}

#[test]
fn shards_of_the_dead_are_taken_when_the_lease_is_out_and_soon() {
    let mut world = settled(3);
    let (moves, lost) = (world.moves, world.served()[&name(1)]);
    world.kill(1);
    world.run(Duration::from_millis(2_400));
    assert_eq!(world.moves, moves, "the lease still runs");
    world.run(Duration::from_millis(2_200));
    world.served();
    assert_eq!(world.moves, moves + lost as u64, "each was taken once, within 4.6 s");
    assert!(world.all_routes_are_right());
}

#[test]
fn nodes_that_do_not_hear_each_other_stay_as_they_are() {
    let mut world = settled(3);
    let moves = world.moves;
    world.nobody_hears = true;
    world.run(secs(60));
    world.served();
    assert_eq!(world.moves, moves);
}

#[test]
fn a_server_that_stands_still_makes_nobody_dead() {
    let mut world = settled(3);
    let (moves, takes) = (world.moves, world.takes);
    world.is_stalled = true;
    world.run(3 * LEASE);
    world.is_stalled = false;
    world.run(secs(30));
    world.served();
    assert_eq!((world.moves, world.takes), (moves, takes), "all leases had run out, and were renewed");
}

#[test]
fn who_comes_back_has_its_own_shards_at_once_and_gets_others_when_it_is_steady() {
    let mut world = settled(3);
    let before = world.served();
    world.kill(1);
    world.start(1);
    world.run(STEP);
    assert_eq!(world.served(), before, "a start needs no lease to run out");
    world.kill(1);
    world.run(secs(20));
    let (takes, moves) = (world.takes, world.moves);
    world.start(1);
    world.run(Duration::from_millis(2_900));
    assert_eq!(world.moves, moves, "its leases have not followed each other for long enough");
    world.run(secs(40));
    assert_eq!(world.served(), before);
    assert_eq!(world.takes, takes);
}

#[test]
fn a_node_that_leaves_gives_everything_away() {
    let mut world = settled(3);
    let takes = world.takes;
    world.process(2).presence = Presence::Leaving;
    world.step(&name(2), SharingEvent::Leave);
    world.run(secs(20));
    assert!(world.process(2).sharing.is_empty());
    assert_eq!(world.served()[&name(2)], 0);
    assert_eq!(world.process(0).sharing.going_to(&name(2)), Some(0));
    assert_eq!(world.process(0).sharing.going_to(&name(1)), None);
    assert_eq!(world.takes, takes);
}

#[test]
fn a_node_that_was_stopped_for_long_finds_out_and_serves_nothing() {
    let mut world = settled(3);
    world.process(0).is_frozen = true;
    world.run(10 * LEASE);
    let (moves, hosted) = (world.moves, world.process(0).hosted.len());
    assert!(0 < hosted, "it does not know yet");
    world.process(0).is_frozen = false;
    world.run(secs(1));
    assert_eq!(world.process(0).hosted.len(), 0);
    assert_eq!(world.moves, moves, "it takes nothing while it is not steady");
    world.run(secs(60));
    assert!(0 < world.served()[&name(0)], "and gets its share later");
}

#[test]
fn a_shard_that_its_named_node_does_not_take_is_taken_by_another_later() {
    let mut world = settled(3);
    world.kill(1);
    // It beats, so that it is among the living, and takes nothing.
    let stubborn = name(2);
    for server in &mut world.process(2).sharing.servers {
        server.is_taking = true;
    }
    world.run(secs(8));
    let waits = (0..SHARDS).filter(|shard| {
        let owner = world.rows[*shard as usize].1;
        !owner.is_some_and(|owner| world.lives(owner))
    });
    assert!(0 < waits.count(), "what the table names {stubborn} for waits for it");
    world.run(secs(8));
    world.served();
}

#[test]
fn a_give_to_one_that_has_died_leaves_the_shard_to_whoever_is_named() {
    let mut world = World::new(1);
    world.start(0);
    world.run(secs(5));
    world.start(1);
    world.run(LEASE + secs(1));
    // Died with an offer answered: the seal finds no lease that runs.
    let died = world.nodes.get_mut(&name(1)).unwrap();
    died.lease_until = Timestamp::EPOCH;
    world.process(1).beats_at = world.now + secs(3_600);
    world.run(secs(2));
    world.kill(1);
    world.run(secs(20));
    assert_eq!(world.served()[&name(0)], SHARDS as usize);
}

#[test]
fn what_a_standby_has_not_seen_is_not_held_against_it() {
    let mut world = settled(2);
    let mut ledger = world.ledger(0);
    ledger.generation = 2;
    // The promoted standby knows an owner under an epoch that is over.
    let other = world.processes[&name(1)].sharing.config.incarnation;
    let row = ledger.shards.iter_mut().find(|row| row.owner != Some(other)).unwrap();
    let shard = row.shard;
    (row.epoch, row.owner) = (Epoch(1), Some(other));
    let now = world.now;
    let process = world.process(0);
    let actions = process.sharing.step(SharingEvent::Ledger { ledger, took: STEP }, now);
    assert!(actions.contains(&SharingAction::Lose(shard)), "{actions:?}");
    assert_eq!(process.sharing.routes().get(shard), Some((Epoch(1), &name(1))));
    assert!(!actions.iter().any(|action| matches!(action, SharingAction::Alarm(_))), "{actions:?}");
    // The earlier generation has nothing to say any more.
    let before = world.ledger(0);
    let process = world.process(0);
    let actions = process.sharing.step(SharingEvent::Ledger { ledger: before, took: STEP }, now);
    assert_eq!(process.sharing.routes().get(shard), Some((Epoch(1), &name(1))));
    assert!(!actions.iter().any(|action| matches!(action, SharingAction::Host { .. })), "{actions:?}");
}

#[test]
fn an_epoch_that_no_ledger_bears_out_is_forgotten_and_not_believed_again() {
    let mut world = settled(2);
    let ledger = world.ledger(0);
    let here = world.processes[&name(0)].sharing.config.incarnation;
    let row = *ledger.shards.iter().find(|row| row.owner == Some(here)).unwrap();
    let (shard, lost, now) = (row.shard, Epoch(row.epoch.0 + 5), world.now);
    let sharing = &mut world.process(0).sharing;
    // Somebody has not heard yet that the server is another one.
    let told = || SharingEvent::Announced(vec![Announcement { shard, epoch: lost, owner: name(1) }]);
    let read = || SharingEvent::Ledger { ledger: ledger.clone(), took: STEP };
    sharing.step(told(), now);
    sharing.step(read(), now);
    assert_eq!(sharing.routes().get(shard), Some((lost, &name(1))), "a ledger may be older than the word");
    let actions = sharing.step(read(), now);
    assert_eq!(sharing.routes().get(shard), Some((row.epoch, &name(0))));
    assert!(actions.contains(&SharingAction::Host { shard, was_taken: false }), "{actions:?}");
    assert_eq!(sharing.step(told(), now), []);
    assert_eq!(sharing.routes().get(shard), Some((row.epoch, &name(0))), "it was told again");
    // A word of a higher epoch is another one.
    let owner = name(1);
    let higher = Announcement { shard, epoch: Epoch(lost.0 + 1), owner: owner.clone() };
    sharing.step(SharingEvent::Announced(vec![higher]), now);
    assert_eq!(sharing.routes().get(shard), Some((Epoch(lost.0 + 1), &owner)));
}

#[test]
fn what_comes_from_outside_of_the_cluster_is_an_alarm_and_no_more() {
    let mut world = settled(1);
    let (now, heard) = (world.now, ShardId(SHARDS));
    let sharing = &mut world.process(0).sharing;
    let message = Message::Given { epoch: Epoch(9), hot: Vec::new() };
    let from = name(1);
    let (store, transfer) = (7, TransferId(1));
    let heard = SharingEvent::Heard { from, store, shard: heard, transfer, message };
    let ledger = Ledger { server: 9, generation: 1, nodes: Vec::new(), shards: Vec::new() };
    let taken = vec![OwnedShard { shard: ShardId(1), epoch: Epoch(99), number: 0 }];
    for event in [
        heard,
        SharingEvent::Taken { server: 0, shards: taken },
        SharingEvent::Announced(vec![Announcement {
            shard: ShardId(SHARDS),
            epoch: Epoch(1),
            owner: name(1),
        }]),
    ] {
        let actions = sharing.step(event, now);
        assert!(matches!(actions[..], [SharingAction::Alarm(_)]), "{actions:?}");
    }
    // Where there are more servers than shards, one has none.
    assert_eq!(sharing.step(SharingEvent::Ledger { ledger, took: STEP }, now), []);
}

#[test]
fn a_lie_about_a_give_costs_one_load() {
    let mut world = settled(2);
    let before = world.served();
    let shard = *world.process(1).hosted.keys().next().unwrap();
    let message = Message::Given { epoch: Epoch(99), hot: vec![b"key".to_vec()] };
    let transfer = TransferId(1);
    world.step(&name(0), SharingEvent::Heard { from: name(1), store: 7, shard, transfer, message });
    world.run(secs(2));
    assert_eq!(world.served(), before);
    assert!(!world.process(0).sharing.here.contains_key(&shard));
}

#[test]
fn a_shard_of_this_node_is_routed_here_again_by_its_row() {
    let mut world = World::new(1);
    world.start(0);
    world.run(secs(1));
    world.kill(0);
    world.start(0);
    let (now, shard) = (world.now, ShardId(2));
    let row = world.rows[2].0;
    let ledger = world.ledger(0);
    let sharing = &mut world.process(0).sharing;
    // Before its first ledger it hears of an owner whom only a server that is gone has named.
    for epoch in [row, Epoch(row.0 + 1)] {
        let announced = vec![Announcement { shard, epoch, owner: name(1) }];
        sharing.step(SharingEvent::Announced(announced), now);
    }
    assert_eq!(sharing.routes().get(shard), Some((Epoch(row.0 + 1), &name(1))));
    let actions = sharing.step(SharingEvent::Ledger { ledger, took: STEP }, now);
    assert!(actions.contains(&SharingAction::Host { shard, was_taken: false }), "{actions:?}");
    assert_eq!(sharing.routes().get(shard), Some((row, &name(0))));
}
