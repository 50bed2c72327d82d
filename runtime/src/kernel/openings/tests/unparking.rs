//! An operator accepts what a parked stream has lost.

use super::*;
use crate::{
    activation::ReplyTo,
    kernel::{Numbers, Outcome, ParkedPage, ParkedState, ParkedStream, Submission},
};

const PORT: ReplyTo = ReplyTo { connection: 1, slot: 7 };

impl Node {
    /// What an operator is told of parked streams.
    pub(super) fn parked_streams(&mut self) -> ParkedPage {
        self.step(Event::ListParked { to: PORT });
        self.told()
    }

    /// An operator accepts what the stream has lost. What it is told; what the shard says else stays to be carried.
    pub(super) fn unpark(&mut self) -> ParkedPage {
        let unpark = self.accept_what_is_shown();
        self.step(unpark);
        self.step(Event::Run { lane: LaneId(0), room: Ok(()) });
        self.told()
    }

    fn accept_what_is_shown(&mut self) -> Event {
        let shown = self.parked_streams().streams.pop();
        let gone = page(None, None, ParkedState::Ready).streams[0];
        Event::Unpark { shown: shown.unwrap_or(gone), to: PORT }
    }

    fn told(&mut self) -> ParkedPage {
        let is_reply = |output: &mut Output| matches!(output, Output::Reply(..));
        let mut told: Vec<_> = self.sent.extract_if(.., is_reply).collect();
        let Some(Output::Reply(PORT, Outcome::Done(reply))) = told.pop() else { panic!("{told:?}") };
        assert!(told.is_empty(), "{told:?}");
        ParkedPage::decode(&reply.body).unwrap()
    }
}

pub(super) fn page(
    by_sender: Option<(u64, u64)>,
    by_receiver: Option<(u64, u64)>,
    state: ParkedState,
) -> ParkedPage {
    let [lost_by_sender, lost_by_receiver] =
        [by_sender, by_receiver].map(|lost| lost.map(|(first, last)| Numbers { first, last }));
    let stream = ParkedStream { source: SOURCE, target: TARGET, lost_by_sender, lost_by_receiver, state };
    ParkedPage { more: false, streams: vec![stream] }
}

/// Each end compares once more.
fn compare_again(a: &mut Node, b: &mut Node) {
    a.wait(Limits::default().resend_after);
    settle(a, b);
}

#[test]
fn an_operator_lets_a_stream_go_on_whose_sender_has_lost_numbers() {
    let mut a = sender(1, &[(TARGET, 3, 3)]);
    let mut b = receiver(2, [5, 0]);
    settle(&mut a, &mut b);
    a.send(TARGET);
    // Whoever parked it may have been its sender no more.
    assert_eq!(b.parked_streams(), page(Some((4, 5)), None, ParkedState::Comparing));
    assert_eq!(b.unpark(), page(Some((4, 5)), None, ParkedState::Comparing));
    compare_again(&mut a, &mut b);
    assert_eq!(b.parked_streams(), page(Some((4, 5)), None, ParkedState::Ready));
    assert_eq!(b.unpark(), page(Some((4, 5)), None, ParkedState::Unparked));
    assert_eq!((b.parked(), b.consumed(SOURCE, TARGET)), (0, 3));
    compare_again(&mut a, &mut b);
    // The third had been taken, the fourth is another fourth.
    assert_eq!((a.parked(), a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 0, 4));
    assert_eq!(b.kernel.counters().accepted, 1);
    a.send(TARGET);
    settle(&mut a, &mut b);
    assert_eq!((a.kept(TARGET), b.consumed(SOURCE, TARGET), b.kernel.counters().accepted), (0, 5, 2));
    assert_eq!(b.parked_streams(), ParkedPage::default());
    assert_eq!(b.unpark(), ParkedPage::default(), "there is nothing to do a second time");
}

#[test]
fn an_operator_lets_a_stream_go_on_whose_receiver_has_lost_marks() {
    let mut a = sender(1, &[(TARGET, 4, 5)]);
    let mut b = receiver(2, [1, 0]);
    settle(&mut a, &mut b);
    assert_eq!(b.parked_streams(), page(None, Some((2, 3)), ParkedState::Comparing));
    compare_again(&mut a, &mut b);
    assert_eq!(b.unpark(), page(None, Some((2, 3)), ParkedState::Unparked));
    compare_again(&mut a, &mut b);
    assert_eq!((a.parked(), b.parked(), a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 0, 0, 5));
    assert_eq!(b.kernel.counters().accepted, 2, "what is kept is taken once");
}

#[test]
fn a_stream_within_one_node_goes_on_as_well() {
    let mut node = Node::start(1, &[(TARGET, consumed(SOURCE, 5))]);
    node.host(SOURCE, &sent(TARGET, 3, 3));
    node.settle_alone();
    node.wait(Limits::default().resend_after);
    node.settle_alone();
    assert_eq!(node.unpark(), page(Some((4, 5)), None, ParkedState::Unparked));
    node.send(TARGET);
    node.wait(Limits::default().resend_after);
    node.settle_alone();
    assert_eq!((node.parked(), node.kept(TARGET), node.consumed(SOURCE, TARGET)), (0, 0, 4));
}

#[test]
fn a_stream_is_not_set_back_under_messages_that_are_being_handled() {
    let mut a = sender(1, &[(TARGET, 3, 3)]);
    let mut b = receiver(2, [5, 0]);
    // A message of before the loss is in memory, and its turn has yet to come.
    b.kernel.shard_mut(TARGET).unwrap().inboxes.get_mut(&SOURCE).unwrap().take(6, 10);
    settle(&mut a, &mut b);
    compare_again(&mut a, &mut b);
    assert_eq!(b.unpark(), page(Some((4, 6)), None, ParkedState::Handling));
    assert_eq!((b.parked(), b.consumed(SOURCE, TARGET)), (1, 5));
    b.kernel.shard_mut(TARGET).unwrap().inboxes.get_mut(&SOURCE).unwrap().consume(6, 10);
    assert_eq!(b.unpark(), page(Some((4, 6)), None, ParkedState::Unparked));
    assert_eq!((b.parked(), b.consumed(SOURCE, TARGET)), (0, 3));
}

#[test]
fn what_a_parked_stream_consumes_is_not_told_to_who_has_forgotten_it() {
    let mut a = sender(1, &[(TARGET, 3, 3)]);
    let mut b = receiver(2, [5, 0]);
    settle(&mut a, &mut b);
    b.kernel.touch(TARGET).changes.inboxes.insert(SOURCE);
    assert!(b.run().is_empty(), "five would be taken for another five");
}

#[test]
fn nothing_is_told_of_a_stream_that_goes_on_before_it_is_durable() {
    let mut a = sender(1, &[(TARGET, 3, 3)]);
    let mut b = receiver(2, [5, 0]);
    settle(&mut a, &mut b);
    a.send(TARGET);
    compare_again(&mut a, &mut b);
    // The batch is on its way, and then void.
    let unpark = b.accept_what_is_shown();
    let _ = b.kernel.step(unpark, b.now);
    let actions = b.kernel.step(Event::Run { lane: LaneId(0), room: Ok(()) }, b.now);
    let [Action::Commit(Submission { outputs, .. })] = &actions[..] else { panic!("{actions:?}") };
    assert!(matches!(outputs[..], [Output::Reply(PORT, _)]), "{outputs:?}");
    assert_eq!(b.parked_streams().streams[0].state, ParkedState::Unparking);
    a.wait(Limits::default().resend_after);
    b.hear_all(a.run());
    assert!(b.run().is_empty());
    b.step(Event::Voided { lane: LaneId(0), voids: 1 });
    for (shard, floor) in [(TARGET, 5), (NEIGHBOUR, 0)] {
        let mut rows = ShardRows::new(OutboxPart { len_max: 100, bytes_max: 1 << 20 });
        for (key, value) in consumed(SOURCE, floor) {
            rows.push(&key, &value);
        }
        let owned = OwnedShard { shard, epoch: Epoch(1), number: 1 };
        b.step(Event::ShardLoaded { resets: 1, owned, rows });
    }
    settle(&mut a, &mut b);
    assert_eq!((a.parked(), b.parked(), b.consumed(SOURCE, TARGET)), (1, 1, 5));
    // Nothing keeps it from being done once more.
    compare_again(&mut a, &mut b);
    assert_eq!(b.unpark(), page(Some((4, 5)), None, ParkedState::Unparked));
    compare_again(&mut a, &mut b);
    assert_eq!((a.parked(), a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 0, 4));
}

#[test]
fn a_question_that_comes_meanwhile_is_answered_when_it_is_durable() {
    let mut a = sender(1, &[(TARGET, 3, 4)]);
    let mut b = receiver(2, [1, 0]);
    settle(&mut a, &mut b);
    compare_again(&mut a, &mut b);
    let unpark = b.accept_what_is_shown();
    let _ = b.kernel.step(unpark, b.now);
    let mut actions = b.kernel.step(Event::Run { lane: LaneId(0), room: Ok(()) }, b.now);
    a.wait(Limits::default().resend_after);
    b.hear_all(a.run());
    assert!(b.run().is_empty());
    let Some(Action::Commit(submission)) = actions.pop() else { panic!("{actions:?}") };
    b.step(Event::Durable { lane: submission.lane, through: submission.number });
    settle(&mut a, &mut b);
    assert_eq!((a.parked(), b.parked(), a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 0, 0, 4));
}

#[test]
fn a_late_word_is_no_loss_that_could_be_accepted() {
    let mut a = sender(1, &[(TARGET, 1, 3)]);
    let mut b = receiver(2, [0, 0]);
    settle(&mut a, &mut b);
    assert_eq!(b.consumed(SOURCE, TARGET), 3);
    let says = OpeningWord::Sender { first: 1, last: 1, parks: true };
    b.hear(Output::Opening(Opening { source: SOURCE, target: TARGET, number: 7, voids: None, says }));
    assert_eq!(b.unpark(), page(Some((2, 3)), None, ParkedState::Comparing));
    assert_eq!(b.consumed(SOURCE, TARGET), 3, "nothing is taken twice");
    // What no sender can say parks nothing at all.
    let mut b = receiver(3, [5, 0]);
    for (first, last) in [(0, 3), (5, 3), (u64::MAX, u64::MAX)] {
        for parks in [false, true] {
            let says = OpeningWord::Sender { first, last, parks };
            b.hear(Output::Opening(Opening { source: SOURCE, target: TARGET, number: 7, voids: None, says }));
        }
    }
    assert!(b.parked() == 0 && b.run().is_empty());
}

#[test]
fn no_other_loss_is_accepted_than_was_shown() {
    let mut a = sender(1, &[(TARGET, 3, 3)]);
    let mut b = receiver(2, [5, 0]);
    settle(&mut a, &mut b);
    compare_again(&mut a, &mut b);
    let unpark = b.accept_what_is_shown();
    // Meanwhile its sender is put back once more.
    let mut a = sender(3, &[(TARGET, 2, 2)]);
    settle(&mut a, &mut b);
    compare_again(&mut a, &mut b);
    b.step(unpark);
    b.step(Event::Run { lane: LaneId(0), room: Ok(()) });
    assert_eq!(b.told(), page(Some((3, 5)), None, ParkedState::Ready), "it is shown as it is now");
    assert_eq!((b.parked(), b.consumed(SOURCE, TARGET)), (1, 5));
    assert_eq!(b.unpark(), page(Some((3, 5)), None, ParkedState::Unparked));
}

#[test]
fn a_loss_is_accepted_only_as_long_as_its_sender_goes_on_asking() {
    let mut a = sender(1, &[(TARGET, 3, 3)]);
    let mut b = receiver(2, [5, 0]);
    settle(&mut a, &mut b);
    compare_again(&mut a, &mut b);
    let ready = page(Some((4, 5)), None, ParkedState::Ready);
    assert_eq!(b.parked_streams(), ready);
    // Its node starts on its newest directory, with nothing to send.
    let after = Limits::default().resend_after;
    b.wait(after * UNSURE_FOR);
    assert_eq!(b.unpark(), page(Some((4, 5)), None, ParkedState::Comparing));
    b.wait(after * SILENT_FOR);
    assert_eq!((b.parked_streams(), b.parked()), (ParkedPage::default(), 0));
    // Or it was only away.
    for _ in 0..2 {
        compare_again(&mut a, &mut b);
    }
    assert_eq!(b.parked_streams(), ready);
}

#[test]
fn a_sender_that_keeps_nothing_goes_on_asking_while_its_stream_is_parked() {
    let mut a = Node::start(1, &[(SOURCE, sent(TARGET, 4, 3))]);
    let mut b = receiver(2, [5, 0]);
    // A receipt from before the loss.
    a.hear(receipt(5));
    assert_eq!((a.parked(), a.kept(TARGET), b.parked()), (1, 0, 0));
    // Also over a new connection, and after a void.
    a.connected_again(&[TARGET]);
    settle(&mut a, &mut b);
    assert_eq!(b.parked(), 1);
    a.void();
    for _ in 0..2 {
        compare_again(&mut a, &mut b);
    }
    assert_eq!(b.parked_streams(), page(Some((4, 5)), None, ParkedState::Ready));
    b.unpark();
    compare_again(&mut a, &mut b);
    assert_eq!((a.parked(), b.parked()), (0, 0));
    a.send(TARGET);
    settle(&mut a, &mut b);
    assert_eq!((a.kept(TARGET), b.consumed(SOURCE, TARGET)), (0, 4));
}

#[test]
fn a_source_that_leaves_hears_nothing_of_what_is_not_durable() {
    let mut b = Node::start(1, &[(SOURCE, sent(TARGET, 3, 3)), (TARGET, consumed(SOURCE, 5))]);
    b.settle_alone();
    b.wait(Limits::default().resend_after);
    b.settle_alone();
    let unpark = b.accept_what_is_shown();
    let _ = b.kernel.step(unpark, b.now);
    let mut actions = b.kernel.step(Event::Run { lane: LaneId(0), room: Ok(()) }, b.now);
    b.kernel.forget_parked(SOURCE);
    // Its sender asks from where it is now.
    let says = OpeningWord::Sender { first: 3, last: 3, parks: false };
    b.hear(Output::Opening(Opening { source: SOURCE, target: TARGET, number: 7, voids: None, says }));
    assert!(!b.run().iter().any(|output| matches!(output, Output::Opening(_))), "it is not durable yet");
    let Some(Action::Commit(submission)) = actions.pop() else { panic!("{actions:?}") };
    b.step(Event::Durable { lane: submission.lane, through: submission.number });
    let answers = b.run();
    let [Output::Opening(Opening { number: 7, says, .. })] = answers[..] else { panic!("{answers:?}") };
    assert_eq!(says, OpeningWord::Receiver { floor: 3, mark: 3, parks: false });
}

#[test]
fn a_sender_that_comes_here_from_its_newest_directory_ends_what_was_parked() {
    for newest in [sent(TARGET, 6, 5), Rows::new()] {
        let mut a = sender(1, &[(TARGET, 3, 3)]);
        let mut b = receiver(2, [5, 0]);
        settle(&mut a, &mut b);
        assert_eq!(b.parked(), 1);
        b.host(SOURCE, &newest);
        b.settle_alone();
        for _ in 0..=SILENT_FOR {
            b.wait(Limits::default().resend_after);
            b.settle_alone();
        }
        assert_eq!(b.parked(), 0);
    }
}
