//! A shard moves to another node with everything it has: states, stored replies, streams, reminders, what waits (P18).

use entity_runtime::{
    handoff::Piece,
    kernel::{Event, HandOffNews, Order, Outcome, Output},
    limits::Limits,
    load,
    placement::{Epoch, NodeName, ShardId, Shards},
    store::{
        Batch, Founding, NoRoom, Ownership, OwnershipRecord, RowType, Store, TransferId, memory::MemoryStore,
    },
};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, named, with},
    entities::{Account, Books, Clock, Fund, Phoenix, Poison, Rings, Set, Touch, Transfer},
};
use std::time::Duration;

/// The shard that moves; there are two.
const SHARD: ShardId = ShardId(1);
const TRANSFER: TransferId = TransferId(7);

fn name(node: &str) -> NodeName {
    node.parse().unwrap()
}

/// Two nodes of a cluster: the first has founded it.
fn nodes() -> (Driven, Driven) {
    let shards = Shards::new(2).unwrap();
    let node = |founding: Founding| {
        let kinds = with::<Clock>(with::<Phoenix>(with::<Account>(kinds())));
        Driven::over(kinds, Limits::default(), MemoryStore::founded(&founding, 1).lag(), 2)
    };
    (node(Founding::founder(1, 1, shards)), node(Founding::joined(1, 2, shards)))
}

fn order(node: &mut Driven, order: Order) {
    let worker = node.worker_of(SHARD);
    node.step(worker, Event::HandOff { shard: SHARD, order });
}

fn copied(node: &Driven, epoch: Epoch) -> Piece {
    let (rows, next) = load::rows_to_copy(&node.store, SHARD, epoch, &[], usize::MAX).unwrap();
    assert_eq!(next, None);
    Piece::rows(SHARD, Epoch(epoch.0 + 1), &rows)
}

fn stage(node: &Driven, epoch: Epoch, sections: &[Batch]) {
    load::stage(&node.store, SHARD, epoch, TRANSFER, sections).unwrap();
}

/// The source gives its sections from here on; rows are copied to the target.
fn begin(source: &mut Driven, target: &Driven, epoch: Epoch) {
    target.store.begin_staging(SHARD, Epoch(epoch.0 + 1), TRANSFER).unwrap();
    order(source, Order::Give(TRANSFER));
    source.settle();
    assert_eq!(source.handed_off.pop(), Some((SHARD, HandOffNews::CopyFrom(TRANSFER))));
    let (Piece::Rows(rows) | Piece::Section(rows)) = copied(source, epoch) else { unreachable!() };
    stage(target, Epoch(epoch.0 + 1), &[rows]);
}

/// The source seals, the target accepts and serves, and the source lets its rows go.
fn end(source: &mut Driven, target: &mut Driven, epoch: Epoch) {
    order(source, Order::Seal { transfer: TRANSFER, to: name("b"), store: 2 });
    finish(source, target, epoch);
}

/// [`end`], with the seal ordered.
fn finish(source: &mut Driven, target: &mut Driven, epoch: Epoch) {
    source.settle();
    let mut told = std::mem::take(&mut source.handed_off);
    assert!(matches!(told.pop(), Some((SHARD, HandOffNews::Sealed { transfer: TRANSFER, .. }))));
    let (mut sections, mut images) = (Vec::new(), Vec::new());
    for (_, news) in told {
        match news {
            HandOffNews::Section(TRANSFER, section) => sections.push(section),
            HandOffNews::Hot(TRANSFER, hot) => images = hot,
            other => panic!("{other:?}"),
        }
    }
    let accepted = Epoch(epoch.0 + 1);
    stage(target, accepted, &sections);
    let record = OwnershipRecord::Accept { transfer: TRANSFER, from: name("a"), rows: 0, hash: 0 };
    order(target, Order::Write { epoch: accepted, number: 1, record: record.clone() });
    target.settle();
    assert_eq!(target.handed_off.pop(), Some((SHARD, HandOffNews::Written(record))));
    let worker = target.worker_of(SHARD);
    target.step(worker, Event::Host { shard: SHARD, was_taken: false });
    target.step(worker, Event::Warm { shard: SHARD, images });
    target.step(1 - worker, Event::InNode { shard: SHARD, is: true });
    let sealed = source.store.ownership().unwrap().into_iter().find(|(shard, _)| *shard == SHARD);
    let Some((_, Ownership::Sealed { number, .. })) = sealed else { panic!("{sealed:?}") };
    let record = OwnershipRecord::Moved { transfer: TRANSFER, epoch: accepted };
    order(source, Order::Write { epoch, number: number + 1, record });
    source.settle();
    source.handed_off.clear();
}

/// Carries what each node sent away to the other, until nothing is on its way.
fn exchange(a: &mut Driven, b: &mut Driven) {
    loop {
        let (to_b, to_a) = (std::mem::take(&mut a.sent_away), std::mem::take(&mut b.sent_away));
        if to_a.is_empty() && to_b.is_empty() {
            return;
        }
        for (node, outputs) in [(&mut *b, to_b), (&mut *a, to_a)] {
            for output in outputs {
                match output {
                    Output::Hand(arrival) => node.arrive(arrival),
                    Output::Receipt(receipt) => {
                        let worker = node.worker_of(receipt.source);
                        node.step(worker, Event::Receipts(vec![receipt]));
                    }
                    other => panic!("{other:?}"),
                }
            }
            node.settle();
        }
    }
}

fn books(node: &mut Driven, key: &str) -> Option<(u64, u64)> {
    let to = node.query(named::<Books>("account", key, &Books));
    node.settle();
    let Some(Outcome::Done(reply)) = node.answer(to) else { return None };
    Some(entity_runtime::codec::decode(&reply.body).unwrap())
}

#[test]
fn a_shard_moves_with_states_replies_and_streams() {
    let (mut a, mut b) = nodes();
    let key = a.key_in("account", SHARD.0, 0);
    let stays = a.key_in("account", 0, 0);
    let fund = |cents| envelope::<Account, _>(&key, &Fund { cents });
    let first = a.request(1, 1, fund(500), true);
    a.settle();
    begin(&mut a, &b, Epoch(1));
    // Served while it is copied: what happens now comes behind the rows.
    let second = a.request(1, 2, fund(40), true);
    let rejected =
        a.request(1, 3, envelope::<Account, _>(&key, &Transfer { to: "x".into(), cents: 9_999 }), true);
    a.request(1, 4, envelope::<Account, _>(&key, &Transfer { to: stays.clone(), cents: 30 }), true);
    a.settle();
    let replies: Vec<Outcome> = [first, second, rejected].map(|to| a.answer(to).cloned().unwrap()).into();
    end(&mut a, &mut b, Epoch(1));
    assert!(!a.owns(SHARD) && b.owns(SHARD));

    assert_eq!(books(&mut b, &key), Some((510, 540)));
    let late = a.request(1, 5, fund(1), true);
    a.settle();
    assert_eq!(a.answer(late), Some(&Outcome::Elsewhere));
    let again = [
        b.request(1, 1, fund(500), true),
        b.request(1, 2, fund(40), true),
        b.request(1, 3, envelope::<Account, _>(&key, &Transfer { to: "x".into(), cents: 9_999 }), true),
    ];
    b.settle();
    for (to, reply) in again.iter().zip(&replies) {
        assert_eq!(b.answer(*to), Some(reply), "a repeat gets the reply of before the move");
    }
    // Streams go on where they were, now between two nodes.
    b.request(1, 6, envelope::<Account, _>(&key, &Transfer { to: stays.clone(), cents: 100 }), true);
    a.request(1, 7, envelope::<Account, _>(&stays, &Transfer { to: key.clone(), cents: 7 }), true);
    b.settle();
    a.settle();
    exchange(&mut a, &mut b);
    assert_eq!(books(&mut a, &stays), Some((123, 0)));
    assert_eq!(books(&mut b, &key), Some((417, 540)));
}

#[test]
fn who_was_busy_at_the_source_is_in_memory_at_the_target_before_anybody_asks() {
    let (mut a, mut b) = nodes();
    let busy = a.key_in("account", SHARD.0, 0);
    let stays = a.key_in("account", 0, 0);
    a.request(1, 1, envelope::<Account, _>(&busy, &Fund { cents: 500 }), true);
    a.settle();
    begin(&mut a, &b, Epoch(1));
    end(&mut a, &mut b, Epoch(1));
    let worker = b.worker_of(SHARD);
    let in_memory = |node: &mut Driven| {
        node.settle();
        node.kernels[worker].activations().0
    };
    assert_eq!(in_memory(&mut b), 1);
    // What another node makes up is passed over: no image, of no kind, of another shard, known already.
    let image = |name: &str| [&[RowType::Image as u8], name.as_bytes()].concat();
    let made_up = ["", "account", "nobody\0k", &format!("account\0{stays}"), &format!("account\0{busy}")];
    let mut images: Vec<Vec<u8>> = made_up.iter().map(|name| image(name)).collect();
    images.extend([vec![], vec![255; 9], b"account\0k".to_vec()]);
    b.step(worker, Event::Warm { shard: SHARD, images: images.clone() });
    b.step(worker, Event::Warm { shard: ShardId(0), images });
    assert_eq!(in_memory(&mut b), 1);
    b.images_held = true;
    assert_eq!(books(&mut b, &busy), Some((500, 500)), "no image is waited for");
}

#[test]
fn what_waits_and_what_is_due_moves_along() {
    let (mut a, mut b) = nodes();
    let stuck = a.key_in("phoenix", SHARD.0, 0);
    let clock = a.key_in("clock", SHARD.0, 0);
    let poisoned = a.request(1, 1, envelope::<Phoenix, _>(&stuck, &Poison { number: 1 }), false);
    a.request(1, 2, envelope::<Phoenix, _>(&stuck, &Touch { life: 1, remind_millis: 0 }), false);
    a.request(1, 3, envelope::<Clock, _>(&clock, &Set { number: 1, millis: 60_000 }), true);
    a.settle();
    for _ in 0..3 {
        a.pass(Duration::from_secs(1));
    }
    assert_eq!(a.answer(poisoned), Some(&Outcome::Waiting));
    begin(&mut a, &b, Epoch(1));
    end(&mut a, &mut b, Epoch(1));
    let waiting = |node: &Driven| node.kernels.iter().map(|kernel| kernel.counters().waiting).sum::<u64>();
    assert_eq!((waiting(&a), waiting(&b)), (0, 2));
    let rings = |node: &mut Driven| {
        let to = node.query(named::<Rings>("clock", &clock, &Rings));
        node.settle();
        format!("{:?}", node.answer(to))
    };
    let before = rings(&mut b);
    b.pass(Duration::from_mins(2));
    assert_ne!(rings(&mut b), before, "the reminder has fired where its entity is now");
    for _ in 0..20 {
        b.pass(Duration::from_mins(1));
    }
    assert_eq!(waiting(&b), 0, "the poison was given up, and what was behind it has run");
    assert_eq!(b.dead_letters().len(), 1);
}

#[test]
fn what_has_had_no_turn_at_the_seal_is_asked_elsewhere() {
    let (mut a, mut b) = nodes();
    let key = a.key_in("account", SHARD.0, 0);
    let fund = envelope::<Account, _>(&key, &Fund { cents: 5 });
    begin(&mut a, &b, Epoch(1));
    // Its image is being read when the seal comes.
    a.images_held = true;
    let asked = a.request(1, 1, fund.clone(), true);
    a.run();
    let at_the_door = {
        order(&mut a, Order::Seal { transfer: TRANSFER, to: name("b"), store: 2 });
        let to = a.request(1, 2, fund.clone(), true);
        a.run();
        to
    };
    for to in [asked, at_the_door] {
        assert_eq!(a.answer(to), Some(&Outcome::Elsewhere));
    }
    finish(&mut a, &mut b, Epoch(1));
    b.request(1, 1, fund.clone(), true);
    b.request(1, 2, fund, true);
    b.settle();
    assert_eq!(books(&mut b, &key), Some((10, 10)));
}

#[test]
fn a_seal_that_did_not_become_durable_is_told() {
    let (mut a, b) = nodes();
    let key = a.key_in("account", SHARD.0, 0);
    a.request(1, 1, envelope::<Account, _>(&key, &Fund { cents: 5 }), true);
    a.settle();
    begin(&mut a, &b, Epoch(1));
    order(&mut a, Order::Seal { transfer: TRANSFER, to: name("b"), store: 2 });
    a.run();
    a.faults().fail(entity_runtime::store::LaneId(0));
    a.commit();
    assert_eq!(a.handed_off.pop(), Some((SHARD, HandOffNews::Voided(TRANSFER))));
    assert!(a.owns(SHARD));
    // Whoever ordered it has read the store, and the shard is served again.
    let worker = a.worker_of(SHARD);
    a.step(worker, Event::Host { shard: SHARD, was_taken: false });
    a.settle();
    assert_eq!(books(&mut a, &key), Some((5, 5)));
}

#[test]
fn a_shard_that_gives_no_more_is_not_sealed() {
    let (mut a, b) = nodes();
    let key = a.key_in("account", SHARD.0, 0);
    begin(&mut a, &b, Epoch(1));
    // A batch of the lane fails: the shard is loaded again, and gives nothing of what it writes from then on.
    a.faults().fail(entity_runtime::store::LaneId(0));
    a.request(1, 1, envelope::<Account, _>(&key, &Fund { cents: 5 }), true);
    a.settle();
    assert_eq!(a.handed_off.pop(), Some((SHARD, HandOffNews::Voided(TRANSFER))));
    a.request(1, 2, envelope::<Account, _>(&key, &Fund { cents: 7 }), true);
    // Whoever seals has not heard of that yet.
    order(&mut a, Order::Seal { transfer: TRANSFER, to: name("b"), store: 2 });
    a.settle();
    assert_eq!(a.handed_off, [(SHARD, HandOffNews::Voided(TRANSFER))]);
    assert!(a.owns(SHARD));
    assert_eq!(books(&mut a, &key), Some((7, 7)));
}

#[test]
fn what_waits_for_room_is_taken_back_with_its_hand_off() {
    let (mut a, b) = nodes();
    let key = a.key_in("account", SHARD.0, 0);
    begin(&mut a, &b, Epoch(1));
    let later = [TransferId(8), TransferId(9)];
    a.room = Err(NoRoom::DiskFull);
    order(&mut a, Order::Seal { transfer: TRANSFER, to: name("b"), store: 2 });
    a.run();
    order(&mut a, Order::StopGiving(TRANSFER));
    order(&mut a, Order::Give(later[0]));
    a.run();
    order(&mut a, Order::StopGiving(later[0]));
    order(&mut a, Order::Give(later[1]));
    // Late: it takes nothing from the hand-off that runs.
    order(&mut a, Order::StopGiving(TRANSFER));
    a.room = Ok(());
    a.settle();
    assert_eq!(a.handed_off, [(SHARD, HandOffNews::CopyFrom(later[1]))]);
    assert!(a.owns(SHARD));
    a.request(1, 1, envelope::<Account, _>(&key, &Fund { cents: 5 }), true);
    a.settle();
    assert!(
        matches!(a.handed_off.pop(), Some((SHARD, HandOffNews::Section(transfer, _))) if transfer == later[1])
    );
    assert_eq!(books(&mut a, &key), Some((5, 5)));
}

#[test]
fn a_message_of_a_voided_turn_is_not_taken_for_another_nodes() {
    let (mut a, b) = nodes();
    let (goes, stays) = (a.key_in("account", SHARD.0, 0), a.key_in("account", 0, 0));
    let fund = |key: &str, cents| envelope::<Account, _>(key, &Fund { cents });
    let transfer = |cents| envelope::<Account, _>(&goes, &Transfer { to: stays.clone(), cents });
    a.request(1, 1, fund(&goes, 101), true);
    // The stream is open.
    a.request(2, 1, transfer(1), true);
    a.settle();
    begin(&mut a, &b, Epoch(1));
    // It is handed within the lane before it is durable, and held on its way; then its shard is sealed and the lane void.
    a.held_hands = Some(Vec::new());
    a.faults().fail(entity_runtime::store::LaneId(0));
    a.request(1, 2, transfer(30), true);
    a.run();
    order(&mut a, Order::Seal { transfer: TRANSFER, to: name("b"), store: 2 });
    a.run();
    while !a.pending.is_empty() {
        a.commit();
    }
    let held = a.held_hands.take().unwrap();
    assert_eq!(held.len(), 1);
    for arrival in held {
        a.arrive(arrival);
    }
    a.settle();
    assert_eq!(books(&mut a, &stays), Some((1, 0)), "the turn that sent it never was");
    let worker = a.worker_of(SHARD);
    a.step(worker, Event::Host { shard: SHARD, was_taken: false });
    a.settle();
    a.request(1, 3, transfer(7), true);
    a.settle();
    exchange(&mut a, &mut nodes().1);
    assert_eq!(books(&mut a, &goes), Some((93, 101)));
    assert_eq!(books(&mut a, &stays), Some((8, 0)));
}

#[test]
fn a_busy_shard_can_be_given_away() {
    let mut limits = Limits::default();
    limits.batch_len = 4 << 10;
    let mut a = Driven::new(with::<Account>(kinds()), limits, 2, 1, 2);
    // No entity has more turns in a run than its share, so there are many.
    let keys: Vec<String> = (0..2_000).map(|number| format!("k{number}")).collect();
    let keys: Vec<_> = keys.iter().filter(|key| a.shard_of("account", key) == SHARD).collect();
    let press = |a: &mut Driven, first: u64| {
        for (number, key) in (first..).zip(&keys) {
            a.request(1, number, envelope::<Account, _>(key, &Fund { cents: 1 }), true);
        }
    };
    press(&mut a, 1);
    // Now their states are in memory.
    a.settle();
    press(&mut a, 10_000);
    order(&mut a, Order::Give(TRANSFER));
    for _ in 0..3 {
        a.run();
    }
    while !a.pending.is_empty() {
        a.commit();
    }
    assert!(a.has_work(), "every batch was full");
    assert!(a.handed_off.contains(&(SHARD, HandOffNews::CopyFrom(TRANSFER))));
}
