//! What an end of a stream has told and taken, after a crash or a move of its shard.

use super::{unparking::page, *};
use crate::kernel::ParkedState;

/// The same shard from its store: after a crash, or where it has moved to.
fn again(node: &Node, seed: u64) -> Node {
    let mut again = Node::start(seed, &[(SOURCE, node.rows(SOURCE))]);
    again.now = node.now;
    again
}

#[test]
fn a_parked_stream_stays_parked_whatever_it_is_given_and_wherever_it_goes() {
    let mut a = sender(1, &[(TARGET, 3, 3)]);
    let mut b = receiver(2, [5, 0]);
    settle(&mut a, &mut b);
    // As many as were lost wait for it, and more.
    for seed in 3..6 {
        a.send(TARGET);
        a.run();
        a = again(&a, seed);
        settle(&mut a, &mut b);
        assert_eq!((a.parked(), b.parked(), b.consumed(SOURCE, TARGET)), (1, 1, 5));
    }
    a.wait(Limits::default().resend_after);
    settle(&mut a, &mut b);
    assert_eq!(b.unpark(), page(Some((4, 5)), None, ParkedState::Unparked));
    a.wait(Limits::default().resend_after);
    settle(&mut a, &mut b);
    assert_eq!((a.parked(), b.parked(), a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 0, 0, 6));
    assert_eq!(b.kernel.counters().accepted, 3, "none is taken for a repeat");
}

#[test]
fn what_is_sent_before_the_ends_are_compared_does_not_hide_what_its_sender_lost() {
    // Its receiver is away.
    let mut a = sender(1, &[(TARGET, 3, 3)]);
    for seed in 2..5 {
        a.send(TARGET);
        a.run();
        a = again(&a, seed);
    }
    let mut b = receiver(9, [5, 0]);
    settle(&mut a, &mut b);
    assert_eq!((a.parked(), b.parked(), a.kept(TARGET), b.consumed(SOURCE, TARGET)), (1, 1, 4, 5));
}

#[test]
fn what_an_open_stream_was_told_is_not_denied_after_a_crash() {
    let mut a = sender(1, &[(TARGET, 1, 1)]);
    let mut b = receiver(2, [0, 0]);
    a.send(TARGET);
    settle(&mut a, &mut b);
    a.send(TARGET);
    settle(&mut a, &mut b);
    // It crashes before it trims: the last is there, and was taken.
    let mut a = again(&a, 3);
    assert_eq!(a.kept(TARGET), 1);
    settle(&mut a, &mut b);
    assert_eq!((a.parked(), b.parked(), a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 0, 0, 3));
}

#[test]
fn nothing_is_handed_over_before_the_store_allows_for_it() {
    let mut a = sender(1, &[(TARGET, 1, 1)]);
    let mut b = receiver(2, [0, 0]);
    a.send(TARGET);
    b.hear_all(a.run());
    let answers = b.run();
    for output in answers {
        a.hear(output);
    }
    // The disk is full, and that is where it stays.
    assert!(a.kernel.has_work(LaneId(0)));
    a.step(Event::Run { lane: LaneId(0), room: Err(crate::store::NoRoom::DiskFull) });
    assert!(a.sent.is_empty(), "{:?}", a.sent);
    // There is room, and the batch is on its way.
    let actions = a.kernel.step(Event::Run { lane: LaneId(0), room: Ok(()) }, a.now);
    let [Action::Commit(first), ..] = &actions[..] else { panic!("{actions:?}") };
    assert!(!first.batch.is_empty() && first.outputs.is_empty(), "{first:?}");
    a.store(&first.batch);
    // What goes over goes with the next one.
    assert_eq!(a.run().iter().filter(|output| matches!(output, Output::Hand(_))).count(), 2);
    let a = again(&a, 3);
    assert_eq!(a.kernel.shard(SOURCE).unwrap().outboxes[&TARGET].told(), 2);
}

#[test]
fn a_question_from_before_a_void_is_not_held_against_what_is_read_anew() {
    let mut node = Node::start(1, &[(SOURCE, sent(TARGET, 3, 3)), (TARGET, consumed(SOURCE, 2))]);
    let asked = node.run();
    let [Output::Opening(asked)] = asked[..] else { panic!("{asked:?}") };
    assert_eq!(asked.voids, Some(0));
    node.step(Event::Voided { lane: LaneId(0), voids: 1 });
    for shard in [SOURCE, TARGET] {
        let mut rows = ShardRows::new(OutboxPart { len_max: 100, bytes_max: 1 << 20 });
        for (key, value) in node.rows(shard) {
            rows.push(&key, &value);
        }
        node.step(Event::ShardLoaded {
            resets: 1,
            owned: OwnedShard { shard, epoch: Epoch(1), number: 1 },
            rows,
        });
    }
    let says = OpeningWord::Sender { first: 9, last: 9, parks: false };
    node.hear(Output::Opening(Opening { says, ..asked }));
    assert_eq!(node.parked(), 0);
    node.settle_alone();
    assert_eq!((node.parked(), node.consumed(SOURCE, TARGET)), (0, 3));
}

#[test]
fn what_no_receiver_can_say_parks_nothing() {
    let mut a = sender(1, &[(TARGET, 1, 2)]);
    let asked = a.run();
    let [Output::Opening(asked)] = asked[..] else { panic!("{asked:?}") };
    for (floor, mark) in [(5, 4), (0, u64::MAX), (u64::MAX, u64::MAX)] {
        let says = OpeningWord::Receiver { floor, mark, parks: false };
        a.hear(Output::Opening(Opening { says, ..asked }));
    }
    a.hear(receipt(u64::MAX));
    assert_eq!((a.parked(), a.kept(TARGET)), (0, 2));
    let mut b = receiver(2, [0, 0]);
    a.wait(ASK_AGAIN_AFTER);
    settle(&mut a, &mut b);
    assert_eq!((a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 2));
}
