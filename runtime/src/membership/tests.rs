//! Clusters of memberships under one seed: a network that loses, delays and repeats, disks that take their time, and
//! virtual time.

mod attack;
mod network;

use super::entry::tests::entry;
use super::*;
use crate::placement::NodeName;
use network::{Network, Process};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// `count` nodes n0, n1 and so on that join at n0, settled.
fn cluster(count: usize, seed: u64) -> (Network, Vec<Process>) {
    let mut network = Network::new(seed);
    let nodes: Vec<_> = (0..count).map(|number| network.start(&format!("n{number}"), &["n0"])).collect();
    network.until(20 * SECOND, |network| network.all_see_alive(count) && network.have_settled());
    (network, nodes)
}

#[test]
fn ten_nodes_form_a_cluster_over_a_bad_network() {
    for seed in 0..3 {
        let mut network = Network::new(seed);
        network.lose_per_mille = 100;
        network.repeat_per_mille = 100;
        for number in 0..10 {
            network.start(&format!("n{number}"), &["n0", "n1"]);
        }
        network.until(10 * SECOND, |network| network.all_see_alive(10) && network.have_settled());
        let view = network.view(Process(3));
        assert_eq!(view.ring_members().len(), 10);
        assert_eq!(view.digest(), network.view(Process(9)).digest());
    }
}

#[test]
fn forty_nodes_settle_on_one_digest() {
    let (network, nodes) = cluster(40, 7);
    let digest = network.view(nodes[0]).digest();
    assert!(nodes.iter().all(|node| network.view(*node).digest() == digest));
}

#[test]
fn a_crash_is_seen_and_moves_nothing_and_the_next_boot_is_welcome() {
    let (mut network, nodes) = cluster(5, 1);
    let digest = network.view(nodes[0]).digest();
    network.crash(nodes[4]);
    network.until(5 * SECOND, |network| nodes[..4].iter().all(|node| !network.sees_alive(*node, "n4")));
    assert_eq!(network.view(nodes[0]).digest(), digest, "liveness is no input of placement");
    assert_eq!(network.view(nodes[0]).ring_members().len(), 5);

    network.restart(nodes[4]);
    network.until(5 * SECOND, |network| network.all_see_alive(5) && network.have_settled());
    let returned = &network.view(nodes[0]).get(&"n4".parse().unwrap()).unwrap().entry;
    assert_eq!(returned.boot, 2);
}

#[test]
fn a_node_that_returns_while_the_others_still_hold_it_for_alive_is_welcome_too() {
    let (mut network, nodes) = cluster(5, 2);
    network.crash(nodes[2]);
    network.restart(nodes[2]);
    network.until(5 * SECOND, |network| network.all_see_alive(5) && network.have_settled());
    assert_eq!(network.view(nodes[0]).get(&"n2".parse().unwrap()).unwrap().entry.boot, 2);
}

#[test]
fn who_leaves_is_off_the_ring_at_once_and_known_as_gone() {
    let (mut network, nodes) = cluster(5, 3);
    network.step(nodes[1], MembershipEvent::Leave);
    let rings = |network: &Network| nodes.iter().all(|node| network.view(*node).ring_members().len() == 4);
    network.until(2 * SECOND, rings);
    assert!(network.sees_alive(nodes[0], "n1"), "it still gives its shards away");

    network.step(nodes[1], MembershipEvent::Drained);
    let n1 = "n1".parse().unwrap();
    let gone = |network: &Network, node| {
        let view = network.view(node);
        let node = view.get(&n1).unwrap();
        node.entry.state == NodeState::Left && !node.is_alive
    };
    network.until(2 * SECOND, |network| nodes[2..].iter().all(|node| gone(network, *node)));
    network.crash(nodes[1]);
    network.run(10 * SECOND);
    assert!(gone(&network, nodes[0]));

    // It may come back, as itself.
    network.restart(nodes[1]);
    network.until(5 * SECOND, |network| network.all_see_alive(5) && network.have_settled());
    assert!(nodes.iter().all(|node| network.view(*node).ring_members().len() == 5));
}

#[test]
fn another_weight_is_known_to_all_and_changes_the_digest() {
    let (mut network, nodes) = cluster(10, 4);
    let digest = network.view(nodes[0]).digest();
    let number = network.view(nodes[0]).number();
    network.step(nodes[7], MembershipEvent::SetWeight(5));
    network.until(2 * SECOND, |network| {
        nodes.iter().all(|node| network.view(*node).ring_members()["n7"] == 5) && network.have_settled()
    });
    assert_ne!(network.view(nodes[0]).digest(), digest);
    assert!(network.view(nodes[0]).number() > number);

    let refused = network.step(nodes[7], MembershipEvent::SetWeight(0));
    assert!(matches!(refused[..], [MembershipAction::Refused(IdentityRefusal::Weight(0))]));
    assert_eq!(network.view(nodes[7]).ring_members()["n7"], 5);
}

#[test]
fn a_cluster_cut_in_two_heals() {
    for seed in 0..3 {
        let (mut network, nodes) = cluster(10, 10 + seed);
        // Nothing gets through, and no connection notices.
        network.split(&nodes[..5]);
        network.until(15 * SECOND, |network| {
            nodes
                .iter()
                .all(|node| network.view(*node).nodes().filter(|(_, node)| node.is_alive).count() == 5)
        });
        network.step(nodes[0], MembershipEvent::SetWeight(2));
        network.step(nodes[9], MembershipEvent::SetWeight(3));
        assert_eq!(network.view(nodes[0]).ring_members().len(), 10, "the ring does not ask who is alive");
        network.run(30 * SECOND);

        network.heal();
        network.until(10 * SECOND, |network| network.all_see_alive(10) && network.have_settled());
        let weights = network.view(nodes[4]).ring_members();
        assert_eq!((weights["n0"], weights["n9"]), (2, 3));
    }
}

#[test]
fn a_lost_announce_is_made_again() {
    let (mut network, _) = cluster(3, 5);
    let late = network.start("late", &["n0"]);
    network.lose_next_of(late, 5);
    network.until(4 * SECOND, |network| network.all_see_alive(4));
}

#[test]
fn a_node_that_stood_still_takes_nobody_for_dead() {
    let (mut network, nodes) = cluster(5, 6);
    network.pause(nodes[3]);
    network.until(5 * SECOND, |network| !network.sees_alive(nodes[0], "n3"));
    network.run(20 * SECOND);
    network.resume(nodes[3]);
    // All that was sent to it in the meantime arrives first, and its own timers give everybody their full time.
    network.until(10 * SECOND, |network| {
        assert_eq!(network.view(nodes[3]).nodes().filter(|(_, node)| node.is_alive).count(), 5);
        network.all_see_alive(5)
    });
}

#[test]
fn one_seed_gives_one_run_to_the_last_byte() {
    let run = |seed| {
        let (mut network, nodes) = cluster(6, seed);
        network.lose_per_mille = 50;
        network.crash(nodes[2]);
        network.run(4 * SECOND);
        network.restart(nodes[2]);
        network.run(4 * SECOND);
        network.trace()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn of_two_stores_under_one_name_the_second_is_refused_until_the_first_is_forgotten() {
    let (mut network, nodes) = cluster(4, 8);
    // The volume of n3 was lost: it comes with an empty directory, while the cluster still hears its old self.
    let wiped = network.start_as("n3", 77, &["n0", "n1"]);
    network.run(5 * SECOND);
    let refusal = network.refusals_of(wiped).pop().expect("it was refused");
    assert!(matches!(refusal, IdentityRefusal::OtherStore { offered: 77, .. }), "{refusal}");
    assert!(refusal.to_string().contains("`forget n3`"), "{refusal}");
    assert!(network.refusals_of(nodes[3]).is_empty(), "the one that was there first is not");
    assert!(
        network.all_but(wiped, |view| view.nodes().count() == 4 && view.nodes().all(|(_, n)| n.is_alive))
    );

    let refused = network.step(nodes[0], MembershipEvent::Forget("n3".parse().unwrap()));
    assert!(matches!(refused[..], [MembershipAction::Refused(IdentityRefusal::Alive { .. })]), "{refused:?}");
    network.crash(nodes[3]);
    network.until(5 * SECOND, |network| !network.sees_alive(nodes[0], "n3"));
    network.step(nodes[0], MembershipEvent::Forget("n3".parse().unwrap()));
    network.until(10 * SECOND, |network| {
        let store = |node| {
            network.view(node).get(&"n3".parse().unwrap()).map(|node| (node.entry.store, node.is_alive))
        };
        [nodes[0], nodes[1], nodes[2], wiped].into_iter().all(|node| store(node) == Some((77, true)))
    });
    assert_eq!(network.forgotten, [("n3".parse().unwrap(), entry("n3", 1, 0).store)]);

    // The old disk turns up again. It is told, and so is whoever it might have fooled.
    network.restart(nodes[3]);
    network.run(5 * SECOND);
    let told = network.refusals_of(nodes[3]).pop().expect("it was refused");
    assert!(matches!(told, IdentityRefusal::Forgotten { .. }), "{told}");
    assert!(network.all_but(nodes[3], |view| view.get(&"n3".parse().unwrap()).unwrap().entry.store == 77));
}

#[test]
fn a_binding_outlives_the_restart_of_those_who_made_it() {
    let (mut network, nodes) = cluster(3, 9);
    for node in &nodes {
        network.crash(*node);
    }
    // Only n0 is back, and the first to come is another store under the name n1.
    network.restart(nodes[0]);
    let other = network.start_as("n1", 77, &["n0"]);
    network.run(3 * SECOND);
    assert!(matches!(network.refusals_of(other)[..], [IdentityRefusal::OtherStore { .. }, ..]));
    network.crash(other);
    network.restart(nodes[1]);
    network.until(5 * SECOND, |network| network.sees_alive(nodes[0], "n1"));
    assert_eq!(network.view(nodes[0]).get(&"n2".parse().unwrap()).map(|node| node.is_alive), Some(false));
}

#[test]
fn halves_that_bound_one_name_to_two_stores_say_so_and_neither_gives_way() {
    let (mut network, nodes) = cluster(4, 12);
    network.split(&nodes[..2]);
    let first = network.start_as("new", 71, &["n0"]);
    let second = network.start_as("new", 72, &["n3"]);
    network.join_side(first);
    network.until(15 * SECOND, |network| {
        network.sees_alive(nodes[1], "new") && network.sees_alive(nodes[2], "new")
    });
    network.heal();
    network.run(10 * SECOND);
    let name = "new".parse().unwrap();
    let bound = |network: &Network, node| network.view(node).get(&name).map(|node| node.entry.store);
    assert_eq!([bound(&network, nodes[0]), bound(&network, nodes[3])], [Some(71), Some(72)]);
    for node in [nodes[0], nodes[3]] {
        let told = network.told.iter().any(|(teller, refusal)| {
            *teller == node && matches!(refusal, IdentityRefusal::OtherStore { .. })
        });
        assert!(told, "{node:?} says nothing");
    }

    // The operator takes the second out; whoever had let it in lets the first in.
    network.crash(second);
    network.until(10 * SECOND, |network| !network.sees_alive(nodes[3], "new"));
    network.step(nodes[3], MembershipEvent::Forget("new".parse().unwrap()));
    network.until(10 * SECOND, |network| bound(network, nodes[2]) == Some(71) && network.have_settled());
    network.until(5 * SECOND, |network| network.sees_alive(nodes[3], "new"));
}

#[test]
fn a_disk_that_went_back_in_time_is_refused_by_who_has_seen_more() {
    let (mut network, nodes) = cluster(3, 13);
    let (name, store) = ("n1".parse().unwrap(), entry("n1", 1, 0).store);
    network.step(nodes[0], MembershipEvent::Position { name, store, position: 5_000 });
    network.crash(nodes[1]);
    network.restart(nodes[1]);
    network.run(2 * SECOND);
    let refusal = network.refusals_of(nodes[1]).pop().expect("it was refused");
    assert!(matches!(refusal, IdentityRefusal::LogBehind { seen: 5_000, now: 0, .. }), "{refusal}");

    network.crash(nodes[2]);
    network.restart(nodes[2]);
    network.until(5 * SECOND, |network| network.sees_alive(nodes[0], "n2"));
    network.crash(nodes[2]);
    network.restart_as_older_copy(nodes[2]);
    network.run(2 * SECOND);
    let refusal = network.refusals_of(nodes[2]).pop().expect("it was refused");
    assert!(matches!(refusal, IdentityRefusal::OlderBoot { seen: 2, now: 1, .. }), "{refusal}");
}

#[test]
fn what_a_dead_store_had_said_does_not_bar_the_one_that_takes_its_name() {
    let (mut network, nodes) = cluster(3, 16);
    let (name, dead): (NodeName, _) = ("n1".parse().unwrap(), entry("n1", 1, 0).store);
    network.crash(nodes[1]);
    network.until(10 * SECOND, |network| !network.sees_alive(nodes[0], "n1"));
    network.step(nodes[0], MembershipEvent::Forget(name.clone()));
    network.until(10 * SECOND, Network::have_settled);
    let next = network.start_as("n1", 71, &["n0"]);
    network.until(10 * SECOND, |network| network.sees_alive(nodes[0], "n1"));
    // Its connection is found to have ended only now, or what it said has become old enough to count.
    network.step(nodes[0], MembershipEvent::Position { name, store: dead, position: 5_000 });
    network.crash(next);
    network.until(10 * SECOND, |network| !network.sees_alive(nodes[0], "n1"));
    network.restart(next);
    network.until(10 * SECOND, |network| network.sees_alive(nodes[0], "n1"));
    assert_eq!(network.refusals_of(next), []);
}

#[test]
fn a_copy_that_runs_beside_its_original_is_told_by_all_who_hear_both() {
    let (mut network, nodes) = cluster(3, 14);
    let copy = network.start_as("n1", entry("n1", 1, 0).store, &["n0"]);
    network.run(5 * SECOND);
    network.step(copy, MembershipEvent::SetWeight(9));
    network.step(nodes[1], MembershipEvent::SetWeight(8));
    network.run(5 * SECOND);
    let is_twin = |refusal: &IdentityRefusal| matches!(refusal, IdentityRefusal::Twin { .. });
    assert!(network.told.iter().any(|(_, refusal)| is_twin(refusal)), "{:?}", network.told);
}

#[test]
fn a_node_that_hears_nothing_is_missed_and_comes_back() {
    let (mut network, nodes) = cluster(5, 15);
    network.deafen(nodes[2]);
    network.until(10 * SECOND, |network| !network.sees_alive(nodes[0], "n2"));
    network.run(10 * SECOND);
    network.heal();
    network.until(10 * SECOND, |network| network.all_see_alive(5) && network.have_settled());
}

#[test]
fn after_any_storm_the_cluster_settles() {
    for seed in 0..12 {
        let (mut network, nodes) = cluster(6, 100 + seed);
        network.lose_per_mille = 150;
        network.repeat_per_mille = 100;
        for _ in 0..40 {
            let node = nodes[network.draw(nodes.len())];
            match (network.draw(7), network.is_running(node), network.is_paused(node)) {
                (0, true, _) => network.crash(node),
                (1, true, false) => network.pause(node),
                (2, true, false) => network.split(&[node]),
                (3, true, false) => network.deafen(node),
                (4, true, false) => {
                    let weight = 1 + network.draw(100) as u16;
                    network.step(node, MembershipEvent::SetWeight(weight));
                }
                (5, ..) => network.heal(),
                (_, _, true) => network.resume(node),
                (_, false, _) => network.restart(node),
                _ => {}
            }
            let millis = network.draw(1_500) as u64;
            network.run(Duration::from_millis(millis));
        }
        network.heal();
        for node in &nodes {
            if network.is_paused(*node) {
                network.resume(*node);
            }
            if !network.is_running(*node) {
                network.restart(*node);
            }
        }
        network.until(20 * SECOND, |network| network.all_see_alive(6) && network.have_settled());
        assert!(network.told.is_empty(), "seed {seed}: nobody was anybody else: {:?}", network.told);
        assert!(nodes.iter().all(|node| network.refusals_of(*node).is_empty()), "seed {seed}");
    }
}
