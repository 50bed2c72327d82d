//! Several nodes without faults but those asked for: what a cut, a pause and a crash do, one at a time.

mod members;

use super::{Sim, Ticket};
use crate::prelude::*;
use std::time::Duration;

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "jar", handles(Put, Pour), queries(Level))]
struct Jar {
    level: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Put {
    amount: u64,
}

/// Some of it goes to another jar.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
struct Pour {
    to: String,
    amount: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Level;

impl Handle<Put> for Jar {
    fn handle(&mut self, put: Put, _: &mut Context<'_, Self>) -> u64 {
        self.level += put.amount;
        self.level
    }
}

impl Handle<Pour> for Jar {
    fn handle(&mut self, pour: Pour, ctx: &mut Context<'_, Self>) {
        self.level -= pour.amount;
        ctx.send(Self::at(pour.to), Put { amount: pour.amount });
    }
}

impl Query<Level> for Jar {
    fn query(&self, _: Level) -> u64 {
        self.level
    }
}

const A_SECOND: Duration = Duration::from_secs(1);
const A_MINUTE: Duration = Duration::from_mins(1);

/// A calm cluster, shards dealt in turn. It has run long enough for every node to have heard of every owner.
fn cluster(nodes: usize) -> Sim {
    let builder = Sim::builder(7).entity::<Jar>().calm();
    let mut sim =
        builder.shards(16).nodes(nodes).dealt(move |shard| shard.0 as usize % nodes).embedded().start();
    sim.run_for(2 * A_SECOND);
    sim
}

/// A jar that a node has.
fn jar_of(sim: &Sim, at: usize) -> String {
    let has = |key: &String| {
        let shard = sim.layout.place(crate::placement::hash("jar", key));
        sim.machines[at].node.as_ref().unwrap().hosts(shard)
    };
    (0..1_000).map(|number| format!("j{number}")).find(has).unwrap()
}

/// Pours from one jar into another and runs for a second.
fn pour(sim: &mut Sim, from: &str, to: &str, amount: u64) -> Ticket {
    let ticket = sim.send(&Jar::at(from), &Pour { to: to.to_owned(), amount });
    sim.run_for(A_SECOND);
    ticket
}

#[test]
fn each_node_owns_what_it_was_dealt_and_answers_for_all() {
    let mut sim = cluster(3);
    for at in 0..3 {
        let owned = sim.machines[at].node.as_ref().unwrap().store.owned().unwrap();
        assert!(owned.iter().all(|owned| owned.shard.0 as usize % 3 == at));
        assert!(owned.len() >= 16 / 3);
    }
    for number in 0..30 {
        assert_eq!(sim.ask(&Jar::at(format!("j{number}")), &Put { amount: 5 }), Ok(5));
    }
    assert!(sim.seen().requests_forwarded > 0);
}

#[test]
fn a_message_waits_behind_a_cut_link_and_comes_once() {
    let mut sim = cluster(2);
    let (here, there) = (jar_of(&sim, 0), jar_of(&sim, 1));
    sim.ask(&Jar::at(&*here), &Put { amount: 100 }).unwrap();
    sim.network.cut(0, 1, u64::MAX);
    pour(&mut sim, &here, &there, 30);
    assert!(sim.seen().frames_cut > 0);
    assert_eq!(sim.query(&Jar::at(&*there), &Level), Ok(0));
    sim.run_until_quiet(A_MINUTE);
    assert_eq!(sim.query(&Jar::at(&*here), &Level), Ok(70));
    assert_eq!(sim.query(&Jar::at(&*there), &Level), Ok(30));
}

#[test]
fn a_message_whose_receipts_are_cut_off_comes_again_and_changes_nothing() {
    let mut sim = cluster(2);
    let (here, there) = (jar_of(&sim, 0), jar_of(&sim, 1));
    sim.ask(&Jar::at(&*here), &Put { amount: 100 }).unwrap();
    // Once the stream is open.
    pour(&mut sim, &here, &there, 5);
    sim.run_until_quiet(A_MINUTE);
    sim.network.cut(1, 0, u64::MAX);
    let before = sim.seen().duplicates;
    pour(&mut sim, &here, &there, 30);
    // Nothing is handed over again before the ends are compared, and the answer comes when the cut has healed.
    sim.run_for(10 * A_SECOND);
    sim.run_until_quiet(A_MINUTE);
    assert!(before < sim.seen().duplicates, "it was not sent again");
    assert_eq!(sim.query(&Jar::at(&*there), &Level), Ok(35));
}

#[test]
fn messages_wait_for_a_node_that_crashed() {
    let mut sim = cluster(2);
    let (here, there) = (jar_of(&sim, 0), jar_of(&sim, 1));
    sim.ask(&Jar::at(&*here), &Put { amount: 100 }).unwrap();
    sim.kill(1, true);
    sim.send(&Jar::at(&*here), &Pour { to: there.clone(), amount: 30 });
    sim.run_until_quiet(A_MINUTE);
    assert_eq!(sim.query(&Jar::at(&*there), &Level), Ok(30));
    assert_eq!(sim.seen().crashes, 1);
}

#[test]
fn a_paused_node_goes_on_with_what_came_meanwhile() {
    for nodes in [1, 2] {
        let mut sim = cluster(nodes);
        let last = nodes - 1;
        let there = jar_of(&sim, last);
        sim.pause(last);
        assert!(!sim.machines[last].answers());
        let ticket = sim.send(&Jar::at(&*there), &Put { amount: 5 });
        for _ in 0..20 {
            assert!(sim.machines[last].answers() || sim.outcome(ticket).is_none());
            sim.run_for(Duration::from_micros(200));
        }
        sim.run_until_quiet(A_MINUTE);
        assert_eq!(sim.query(&Jar::at(&*there), &Level), Ok(5));
        let seen = sim.seen();
        assert_eq!((seen.pauses, seen.crashes), (1, 0));
    }
}

#[test]
fn what_is_not_durable_never_leaves_its_node() {
    let mut sim = cluster(2);
    let there = jar_of(&sim, 1);
    let hash = crate::placement::hash("jar", &there);
    let envelope = super::asking::envelope("jar", &there, &Put { amount: 5 }).unwrap();
    let from = crate::kernel::Provenance::Volatile;
    let arrival = crate::kernel::Arrival { shard: sim.layout.place(hash), hash, envelope, from };
    sim.hand_near(0, &arrival);
    sim.run_for(A_SECOND);
    assert_eq!(sim.query(&Jar::at(&*there), &Level), Ok(0));
}
