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
    assert_eq!((a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 2));
    // It crashes before it trims: both are there, and both were taken.
    let mut a = again(&a, 3);
    assert_eq!(a.kept(TARGET), 2);
    settle(&mut a, &mut b);
    assert_eq!((a.parked(), b.parked(), a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 0, 0, 2));
}

/// A sender that is answered, and whose row is still to be written without how far it was told.
fn answered() -> (Node, Node) {
    let (mut a, mut b) = (sender(1, &[(TARGET, 1, 1)]), receiver(2, [0, 0]));
    a.send(TARGET);
    b.hear_all(a.run());
    let answers = b.run();
    a.hear_all(answers);
    assert_eq!(a.kernel.lanes[0].opened.len(), 1);
    (a, b)
}

#[test]
fn a_stream_that_is_shut_before_its_row_is_written_is_compared_once_more() {
    let (mut a, mut b) = answered();
    a.connected_again(&[TARGET]);
    let asked = a.run();
    assert!(matches!(asked[..], [Output::Opening(_)]), "{asked:?}");
    assert!(a.kernel.shard(SOURCE).unwrap().outboxes[&TARGET].is_told_noted());
    b.hear_all(asked);
    settle(&mut a, &mut b);
    assert_eq!((a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 2));
}

#[test]
fn a_void_or_a_move_before_its_row_is_written_leaves_nothing_behind() {
    let (mut a, mut b) = answered();
    a.void();
    assert!(a.kernel.lanes[0].opened.is_empty());
    settle(&mut a, &mut b);
    assert_eq!((a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 2));
    let (mut a, _) = answered();
    a.kernel.host(SOURCE).gives = Some(crate::store::TransferId(1));
    a.kernel.leave(SOURCE);
    assert!(a.run().is_empty() && a.kernel.lanes[0].opened.is_empty());
}

#[test]
fn a_node_that_stops_hands_nothing_over_and_forgets_nothing() {
    let (mut a, _) = answered();
    a.step(Event::Drain);
    assert!(a.run().is_empty() && a.kernel.is_drained());
    assert!(a.kernel.shard(SOURCE).unwrap().outboxes[&TARGET].is_told_noted());
}

#[test]
fn nothing_is_handed_over_before_the_store_allows_for_it() {
    let (mut a, _) = answered();
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
fn of_two_workers_that_have_not_both_heard_of_a_void_the_ends_are_not_compared() {
    let mut a = Node::beside(&[TARGET], 1, &[(SOURCE, sent(TARGET, 3, 3))]);
    let mut b = Node::beside(&[SOURCE], 2, &[(TARGET, consumed(SOURCE, 2))]);
    // Here it has taken what is void, and there it is forgotten.
    let inbox = b.kernel.shard_mut(TARGET).unwrap().inboxes.get_mut(&SOURCE).unwrap();
    for number in 3..8 {
        inbox.take(number, 10);
        inbox.consume(number, 10);
    }
    a.void();
    let asked = a.run();
    let [Output::Opening(Opening { voids: Some(1), .. })] = asked[..] else { panic!("{asked:?}") };
    b.hear_all(asked);
    assert!(b.run().is_empty() && b.parked() == 0);
    // And a question from before the void, when only the other one has heard.
    let mut c = Node::beside(&[TARGET], 3, &[(SOURCE, sent(TARGET, 3, 9))]);
    b.void();
    b.hear_all(c.run());
    assert!(b.run().is_empty() && b.parked() == 0);
    a.wait(ASK_AGAIN_AFTER);
    settle(&mut a, &mut b);
    assert_eq!((a.parked(), b.parked(), a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 0, 0, 3));
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
