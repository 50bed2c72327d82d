//! A node that was away for longer than its lease and goes on shows, sends and writes nothing of what others own by now, and serves
//! what is still its own (P13, P14, P19; kernels by hand).

use entity_runtime::{
    entity::Entity,
    kernel::{Event, HandOffNews, Order, Outcome, Output},
    limits::Limits,
    placement::{Epoch, ShardId, Shards, Weight},
    store::{
        LaneId, NodeSays, Presence, SharedStore, Store, TransferId,
        memory::{Servers, SharedMemory},
    },
};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, named, with},
    entities::{Account, Books, Fund, Phoenix, Poison, Transfer},
};
use std::time::Duration;

type Node = Driven<SharedMemory>;

const LEASE: Duration = Duration::from_secs(3);
/// The shard that changes hands; there are four, all in one lane.
const TAKEN: u32 = 0;
const STAYS: u32 = 1;
/// One that nothing happens to.
const OTHER: u32 = 2;

fn servers() -> Servers {
    let since_1970 = Duration::from_hours(500_000);
    Servers::found(1, Shards::new(4).unwrap(), (1, 1), LEASE, since_1970)
}

fn says() -> NodeSays {
    NodeSays { address: "localhost:1".into(), weight: Weight::default(), presence: Presence::Up }
}

/// A node that has nothing yet.
fn start(servers: &Servers, name: &str) -> Node {
    let run = servers.open(&name.parse().unwrap(), &says());
    Driven::over(with::<Phoenix>(with::<Account>(kinds())), Limits::default(), run, 1)
}

fn host(node: &mut Node, shard: u32) {
    node.step(0, Event::Host { shard: ShardId(shard), was_taken: false });
}

/// Takes a shard that may be taken.
fn take_row(node: &Node, shard: u32) {
    let ledger = node.store.beat(0, &says()).unwrap();
    let epoch = ledger.shards[shard as usize].epoch;
    assert_eq!(node.store.take(0, &[(ShardId(shard), epoch)]).unwrap().len(), 1);
}

/// Takes shards that may be taken, and serves them.
fn take(node: &mut Node, shards: impl IntoIterator<Item = u32>) {
    for shard in shards {
        take_row(node, shard);
        host(node, shard);
    }
    node.settle();
}

/// A node that serves everything.
fn founder(servers: &Servers) -> Node {
    let mut node = start(servers, "a");
    take(&mut node, 0..4);
    node
}

/// Another node finds that the lease of the first has run out, and takes one of its shards.
fn stolen(servers: &Servers) -> Node {
    servers.pass(LEASE);
    let mut thief = start(servers, "b");
    take(&mut thief, [TAKEN]);
    thief
}

fn key(node: &Node, shard: u32) -> String {
    node.key_in(Account::KIND, shard, 0)
}

fn fund(key: &str, cents: u64) -> entity_runtime::message::Envelope {
    envelope::<Account, _>(key, &Fund { cents })
}

fn cents(node: &mut Node, key: &str) -> Option<u64> {
    let to = node.query(named::<Books>(Account::KIND, key, &Books));
    node.settle();
    let Some(Outcome::Done(reply)) = node.answer(to) else { return None };
    Some(entity_runtime::codec::decode::<(u64, u64)>(&reply.body).unwrap().0)
}

/// The first node has found out: it has let go of the one shard, and serves the others.
fn has_let_go(node: &mut Node) {
    node.settle();
    assert!(node.kernels[0].is_serving());
    let (taken, other) = (key(node, TAKEN), key(node, OTHER));
    let to = node.request(9, 1, fund(&taken, 1), true);
    node.settle();
    assert_eq!(node.answer(to), Some(&Outcome::Elsewhere));
    assert_eq!(cents(node, &other), Some(0));
    assert!(node.kernels[0].is_quiet(), "{}", node.kernels[0].unrest());
}

#[test]
fn what_a_stale_owner_has_done_in_memory_is_told_to_nobody() {
    let servers = servers();
    let mut a = founder(&servers);
    let (taken, stays) = (key(&a, TAKEN), key(&a, STAYS));
    let first = a.request(1, 1, fund(&taken, 100), true);
    a.request(1, 2, fund(&stays, 10), true);
    a.settle();
    assert!(matches!(a.answer(first), Some(Outcome::Done(_))));
    let mut b = stolen(&servers);
    let before = servers.rows(ShardId(TAKEN));
    // It goes on as if nothing had happened: a turn, the answer to a repeat behind it, a message within the lane.
    let late = a.request(1, 3, fund(&taken, 1_000), true);
    let repeat = a.request(1, 3, fund(&taken, 1_000), true);
    let sends =
        a.request(1, 4, envelope::<Account, _>(&taken, &Transfer { to: stays.clone(), cents: 7 }), true);
    let beside = a.request(1, 5, fund(&stays, 1), true);
    a.settle();
    for to in [late, repeat, sends, beside] {
        assert!(matches!(a.answer(to), Some(Outcome::Unknown(_))), "{:?}", a.answer(to));
    }
    assert_eq!(servers.rows(ShardId(TAKEN)), before);
    assert_eq!(a.sent_away.len(), 0, "nothing has left");
    assert_eq!(cents(&mut a, &stays), Some(10), "nor was anything handed over within the lane");
    has_let_go(&mut a);
    // Asked again under the same ids, everything happens once, wherever it is asked.
    a.request(1, 5, fund(&stays, 1), true);
    assert_eq!(cents(&mut a, &stays), Some(11));
    b.request(1, 3, fund(&taken, 1_000), true);
    assert_eq!(cents(&mut b, &taken), Some(1_100));
}

#[test]
fn a_query_to_a_stale_owner_is_not_answered_from_its_memory() {
    let servers = servers();
    let mut a = founder(&servers);
    let (taken, stays) = (key(&a, TAKEN), key(&a, STAYS));
    a.request(1, 1, fund(&taken, 100), true);
    assert_eq!(cents(&mut a, &taken), Some(100));
    let mut b = stolen(&servers);
    b.request(2, 1, fund(&taken, 1), true);
    assert_eq!(cents(&mut b, &taken), Some(101));
    // Of no batch at all: it is the confirmation that fails.
    assert_eq!(cents(&mut a, &stays), Some(0));
    assert_eq!(cents(&mut a, &taken), None);
    has_let_go(&mut a);
}

#[test]
fn a_load_that_is_refused_tells_a_stale_owner_that_writes_nothing() {
    let servers = servers();
    let mut a = founder(&servers);
    let taken = key(&a, TAKEN);
    a.images_held = true;
    let asks = a.query(named::<Books>(Account::KIND, &taken, &Books));
    let listens = a.request(1, 1, fund(&taken, 1), true);
    a.settle();
    assert_eq!((a.answer(asks), a.answer(listens)), (None, None), "the image is on its way");
    let _thief = stolen(&servers);
    a.release_images();
    for to in [asks, listens] {
        assert!(matches!(a.answer(to), Some(Outcome::Unknown(_))), "{:?}", a.answer(to));
    }
    has_let_go(&mut a);
}

#[test]
fn the_opening_of_a_stale_owner_never_leaves() {
    let servers = servers();
    let mut a = founder(&servers);
    let from = key(&a, TAKEN);
    // A third node has the receiver.
    let mut c = start(&servers, "c");
    c.store.beat(0, &says()).unwrap();
    let heir = c.store.identity().store;
    give(&mut a, STAYS, heir);
    host(&mut c, STAYS);
    let to = key(&a, STAYS);
    a.request(1, 1, fund(&from, 100), true);
    a.settle();
    a.held_openings = Some(Vec::new());
    a.request(1, 2, envelope::<Account, _>(&from, &Transfer { to: to.clone(), cents: 7 }), true);
    a.run();
    a.commit();
    // The turn is durable, and the question whether its message may go is on its way.
    a.run();
    let asks = |output: &Output| matches!(output, Output::Opening(_));
    assert!(a.pending.iter().any(|(_, submission)| submission.outputs.iter().any(asks)));
    let mut b = stolen(&servers);
    for _ in 0..20 {
        a.pass(Duration::from_secs(1));
    }
    assert_eq!(a.held_openings.as_ref().map(Vec::len), Some(0));
    assert_eq!(a.sent_away.len(), 0);
    has_let_go(&mut a);
    // The new owner opens the stream, and the message arrives once.
    b.pass(Duration::from_secs(1));
    for output in std::mem::take(&mut b.sent_away) {
        if let Output::Hand(arrival) = output {
            c.arrive(arrival);
        }
    }
    assert_eq!(cents(&mut c, &to), Some(7));
    let parked = [&a, &b, &c].map(|node| node.kernels[0].counters().parked_streams);
    assert_eq!(parked, [0; 3]);
}

/// Gives a shard to the node with this UUID.
fn give(node: &mut Node, shard: u32, store: u128) {
    let (shard, transfer) = (ShardId(shard), TransferId(7));
    node.step(0, Event::HandOff { shard, order: Order::Give(transfer) });
    let to = "heir".parse().unwrap();
    node.step(0, Event::HandOff { shard, order: Order::Seal { transfer, to, store } });
    node.settle();
    let sealed =
        |news: &(ShardId, HandOffNews)| matches!(news, (of, HandOffNews::Sealed { .. }) if *of == shard);
    assert!(node.handed_off.iter().any(sealed), "{:?}", node.handed_off);
}

#[test]
fn a_shard_is_given_and_taken_back_when_its_heir_is_gone() {
    let servers = servers();
    let mut a = founder(&servers);
    let taken = key(&a, TAKEN);
    a.request(1, 1, fund(&taken, 100), true);
    a.settle();
    let mut b = start(&servers, "b");
    let heir = b.store.identity().store;
    // A load that is on its way when the shard is given is nobody's, and voids nothing.
    a.images_held = true;
    a.query(named::<Books>(Account::KIND, &a.key_in(Account::KIND, TAKEN, 1), &Books));
    a.run();
    give(&mut a, TAKEN, heir);
    a.release_images();
    assert_eq!(a.kernels[0].counters().voided, 0);
    host(&mut b, TAKEN);
    b.request(1, 2, fund(&taken, 1), true);
    assert_eq!(cents(&mut b, &taken), Some(101));
    drop(b);
    servers.pass(LEASE);
    take(&mut a, [TAKEN]);
    assert_eq!(cents(&mut a, &taken), Some(101));
    let again = a.request(1, 2, fund(&taken, 1), true);
    a.settle();
    assert!(matches!(a.answer(again), Some(Outcome::Done(_))));
    assert_eq!(cents(&mut a, &taken), Some(101), "a repeat is known wherever it comes");
}

#[test]
fn a_shard_that_was_away_and_came_back_unnoticed_is_loaded_anew() {
    let servers = servers();
    let mut a = founder(&servers);
    let taken = key(&a, TAKEN);
    a.request(1, 1, fund(&taken, 100), true);
    a.settle();
    let mut b = stolen(&servers);
    b.request(2, 1, fund(&taken, 1), true);
    b.settle();
    a.store.beat(0, &says()).unwrap();
    give(&mut b, TAKEN, a.store.identity().store);
    let owned = a.store.owned_shard(ShardId(TAKEN)).unwrap().unwrap();
    assert_eq!(owned.epoch, Epoch(4));
    // It is the owner again, with the memory of before.
    assert_eq!(cents(&mut a, &taken), None);
    assert_eq!(cents(&mut a, &taken), Some(101));
    a.request(1, 2, fund(&taken, 1), true);
    assert_eq!(cents(&mut a, &taken), Some(102));
}

#[test]
fn a_standby_that_lagged_is_served_from_what_it_has() {
    let servers = servers();
    let mut a = founder(&servers);
    let taken = key(&a, TAKEN);
    a.request(1, 1, fund(&taken, 100), true);
    a.settle();
    let standby = servers.snapshot(0);
    a.request(1, 2, fund(&taken, 10), true);
    assert_eq!(cents(&mut a, &taken), Some(110));
    servers.promote(0, standby);
    assert_eq!(cents(&mut a, &taken), None, "what it has in memory was lost");
    assert_eq!(cents(&mut a, &taken), Some(100));
    // The lane goes on, whatever the server did.
    a.store.later(LaneId(0));
    a.request(1, 2, fund(&taken, 10), true);
    a.run();
    a.commit();
    assert_eq!(cents(&mut a, &taken), Some(110));
}

#[test]
fn what_may_have_ended_a_node_is_named_before_it_runs_where_its_shard_goes_and_nothing_else_is() {
    let servers = servers();
    let mut a = founder(&servers);
    let (stays, poisoned) = (key(&a, STAYS), a.key_in(Phoenix::KIND, TAKEN, 0));
    a.request(1, 1, envelope::<Phoenix, _>(&poisoned, &Poison { number: 1 }), false);
    for _ in 0..20 {
        a.pass(Duration::from_millis(100));
    }
    assert_eq!(a.kernels[0].counters().waiting, 1);
    // It waits in the shard: each node that takes it is about to run it, and is gone.
    let mut named = Vec::new();
    for name in ["b", "c", "d"] {
        servers.pass(LEASE);
        let mut next = start(&servers, name);
        take(&mut next, [STAYS]);
        take_row(&next, TAKEN);
        next.step(0, Event::Host { shard: ShardId(TAKEN), was_taken: true });
        next.wait(Duration::from_secs(1));
        next.tick();
        for _ in 0..20 {
            next.run();
            if !next.suspects.is_empty() {
                break;
            }
            while !next.pending.is_empty() {
                next.commit();
            }
        }
        let beside = next.request(7, 1, fund(&stays, 1), true);
        next.settle();
        assert!(matches!(next.answer(beside), Some(Outcome::Done(_))));
        named.append(&mut next.suspects);
    }
    assert_eq!(named, [named[0]; 3], "the neighbour's turns are not named");
    servers.pass(LEASE);
    let mut last = start(&servers, "e");
    last.condemned = Some(named[0]);
    take_row(&last, TAKEN);
    last.step(0, Event::Host { shard: ShardId(TAKEN), was_taken: true });
    last.pass(Duration::from_secs(1));
    let letters = last.dead_letters();
    assert_eq!((letters.len(), letters[0].reason.as_str()), (1, "it is a suspect"));
    // What comes to it is named for a while, and then no more.
    let account = key(&last, TAKEN);
    for number in 1..=6_000 {
        last.request(2, number, fund(&account, 1), true);
        last.settle();
    }
    assert!((4_000..5_000).contains(&last.suspects.len()), "{}", last.suspects.len());
    assert_eq!(cents(&mut last, &account), Some(6_000));
}
