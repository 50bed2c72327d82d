//! Nodes that find each other, one fault at a time.

use super::{A_MINUTE, A_SECOND, Jar, Level, Put};
use crate::{
    entity::Entity,
    membership::NodeState,
    sim::{Builder, Sim, storage::Storage},
    store::LaneId,
};
use std::{cell::Cell, rc::Rc};

/// A calm cluster of so many nodes, of which some are there; the first has all shards.
fn gathering(nodes: usize, present: usize) -> Sim {
    gathering_on(Builder::embedded, nodes, present)
}

fn gathering_on(store: impl FnOnce(Builder) -> Builder, nodes: usize, present: usize) -> Sim {
    let builder = store(Sim::builder(11).entity::<Jar>().shards(16).nodes(nodes));
    let mut sim = builder.membership(present).calm().start();
    for number in 0..30 {
        assert_eq!(sim.ask(&Jar::at(format!("j{number}")), &Put { amount: 5 }), Ok(5));
    }
    sim.run_until_quiet(A_MINUTE);
    sim
}

fn owned(sim: &Sim, at: usize) -> usize {
    sim.layout.iter().filter(|shard| sim.owners.of(*shard) == Some(at)).count()
}

/// As one node sees another.
fn sees(sim: &Sim, at: usize, other: usize) -> Option<(NodeState, bool)> {
    let node = sim.member(at).unwrap().membership.view().get(&sim.machines[other].name).cloned();
    node.map(|node| (node.entry.state, node.is_alive))
}

fn all_is_there(sim: &mut Sim) {
    for number in 0..30 {
        assert_eq!(sim.query(&Jar::at(format!("j{number}")), &Level), Ok(5));
    }
}

#[test]
fn a_node_that_comes_gets_its_share_and_hands_it_back_when_it_leaves() {
    let mut sim = gathering(3, 2);
    assert!(0 < owned(&sim, 0) && 0 < owned(&sim, 1));
    assert_eq!(sees(&sim, 0, 2), None);
    sim.come(2);
    sim.run_until_quiet(A_MINUTE);
    assert!(0 < owned(&sim, 2));
    assert_eq!(sees(&sim, 0, 2), Some((NodeState::Up, true)));
    assert!(sim.go(2));
    assert!(!sim.go(2), "it goes already");
    sim.run_until_quiet(A_MINUTE);
    assert!(sim.machines[2].is_away);
    assert_eq!(owned(&sim, 2), 0);
    assert_eq!(sees(&sim, 0, 2), Some((NodeState::Left, false)));
    sim.come(2);
    sim.run_until_quiet(A_MINUTE);
    assert_eq!(sees(&sim, 0, 2), Some((NodeState::Up, true)), "its next run is another");
    all_is_there(&mut sim);
    let seen = sim.seen();
    assert_eq!((seen.nodes_joined, seen.nodes_left, seen.nodes_returned), (2, 1, 1));
}

#[test]
fn the_last_node_that_takes_shards_does_not_go() {
    let mut sim = gathering(2, 2);
    assert!(sim.go(0) && sim.go(1), "neither has heard of the other's going");
    sim.run_for(3 * A_SECOND);
    assert!(sim.has_settled() && !sim.machines[0].is_away && !sim.machines[1].is_away);
    all_is_there(&mut sim);
}

#[test]
fn a_node_that_crashes_on_its_way_out_stays() {
    let mut sim = gathering(2, 2);
    assert!(sim.go(1));
    sim.kill(1, true);
    sim.run_until_quiet(A_MINUTE);
    assert_eq!(sees(&sim, 0, 1), Some((NodeState::Up, true)));
    assert!(0 < owned(&sim, 1));
    assert_eq!((sim.seen().crashes, sim.seen().nodes_left), (1, 0));
    all_is_there(&mut sim);
}

#[test]
fn a_node_that_hears_nothing_is_missed_and_nobody_takes_its_shards() {
    let mut sim = gathering(3, 3);
    let before = owned(&sim, 2);
    sim.network.cut(0, 2, u64::MAX);
    sim.network.cut(1, 2, u64::MAX);
    sim.run_for(5 * A_SECOND);
    assert_eq!(sees(&sim, 0, 2), Some((NodeState::Up, false)));
    assert_eq!(owned(&sim, 2), before);
    sim.run_until_quiet(A_MINUTE);
    assert_eq!(sees(&sim, 0, 2), Some((NodeState::Up, true)));
    all_is_there(&mut sim);
}

#[test]
fn a_node_that_nobody_hears_goes_when_they_do() {
    let mut sim = gathering(3, 3);
    for at in [0, 1] {
        sim.network.cut(2, at, u64::MAX);
    }
    // What it has goes nowhere, and the others do not hear that it goes.
    assert!(sim.go(2));
    sim.run_for(5 * A_SECOND);
    assert!(!sim.machines[2].is_away && 0 < owned(&sim, 2));
    sim.run_until_quiet(A_MINUTE);
    assert!(sim.machines[2].is_away);
    all_is_there(&mut sim);
}

#[test]
fn a_node_stays_while_a_seal_for_it_is_not_durable_yet() {
    for has_crashed in [false, true] {
        stays_for_a_seal(has_crashed);
    }
}

fn stays_for_a_seal(has_crashed: bool) {
    let is_sealing = Rc::new(Cell::new(false));
    let seen = Rc::clone(&is_sealing);
    let orders = move |line: &str| {
        let is_seal = line.contains("n0 moves: Order(") && line.contains("Seal {") && line.contains("n2");
        seen.set(seen.get() || is_seal);
    };
    let mut sim = gathering_on(|builder| builder.lanes(1).traced(orders), 3, 2);
    sim.come(2);
    while !is_sealing.get() {
        sim.step();
    }
    // It is ordered and not submitted yet. Until it is released nothing of `n0` becomes durable.
    let Storage::Memory { faults, .. } = &sim.machines[0].storage else { panic!("it has lanes that hang") };
    faults.hang(LaneId(0));
    if has_crashed {
        sim.kill(2, true);
    }
    // As long as until `n2` has given up what nobody speaks of any more, or has started again.
    sim.run_for(10 * A_SECOND);
    assert_eq!(sim.machines[2].node.as_ref().unwrap().holdings.running(), (0, 0));
    assert!(sim.go(2));
    sim.run_for(4 * A_MINUTE);
    assert_eq!((owned(&sim, 2), sees(&sim, 0, 2).unwrap().0), (0, NodeState::Left));
    assert!(!sim.machines[2].is_away, "it waits for as long as the seal takes");
    sim.run_until_quiet(A_MINUTE);
    assert!(sim.machines[2].is_away);
    all_is_there(&mut sim);
}
