//! The opening of a stream to another node: both ends say how far they are before anything is sent (P19).
//!
//! ```text
//!   sender                                      receiver
//!   Sender { first kept, last }  ───────────►   first <= floor + 1 ?   else it has lost marks
//!   mark <= last ?               ◄───────────   Receiver { floor, highest mark }
//!   else it has lost numbers
//! ```
//!
//! Each end holds the other's word against what it is *now*: a last number and a floor only rise, so a word that comes late or
//! twice finds no fault where there is none. The sender sends nothing before the answer to this opening; numbers of openings
//! begin anywhere, so an answer to an earlier run is not taken for one.
//!
//! A stream is opened anew when it is sent on for the first time after a start, a new connection or a move of its receiver.
//! Where the ends do not fit, a disk has forgotten what it told: the sender would give numbers a second time, which the receiver
//! takes for repeats, or the receiver wait for what nobody has. So both park that stream and say so, and everything else goes
//! on. What waits for it stays in the outbox, whose bound holds clients back as ever.
//!
//! # What is deliberately missing
//! Streams within a node are not compared: both ends lie in one store, which goes back as a whole. One that was parked stays so
//! when both its ends come to one node, until that starts anew.

use super::{Kernel, Opening, OpeningWord, Output};
use crate::{placement::ShardId, shard::ShardPhase};

/// What one end says of itself.
#[derive(Debug, Clone, Copy)]
struct Ends {
    /// First number the sender keeps.
    first: u64,
    /// Last number it has given.
    last: u64,
    /// Up to here the receiver has consumed everything.
    floor: u64,
    /// The highest number it has seen.
    mark: u64,
}

impl Kernel {
    /// Whether messages of a stream may be handed over now. Where that is not known yet the other end is asked.
    pub(super) fn may_hand_over(&mut self, source: ShardId, target: ShardId) -> bool {
        if self.is_parked(source, target) {
            return false;
        }
        if self.in_node[target.0 as usize] {
            return true;
        }
        let (now, number) = (self.now, self.opening.wrapping_add(1));
        let shard = self.host(source);
        let outbox = shard.outboxes.get_mut(&target).expect("a stream to send on has an outbox");
        if outbox.is_open() {
            return true;
        }
        if outbox.is_empty() || !outbox.ask(number) {
            return false;
        }
        let says = OpeningWord::Sender { first: outbox.first(), last: outbox.last(), parks: false };
        // As a message that was handed over: without an answer it goes again after a while.
        shard.unanswered.insert(target, now);
        self.opening = number;
        self.put_now(Output::Opening(Opening { source, target, number, says }));
        false
    }

    /// Whether nothing is sent or taken in this stream.
    pub(super) fn is_parked(&self, source: ShardId, target: ShardId) -> bool {
        !self.parked.is_empty() && self.parked.contains(&(source, target))
    }

    /// The other end of a stream has said how far it is.
    pub(super) fn opening(&mut self, opening: Opening) {
        match opening.says {
            OpeningWord::Sender { first, last, parks } => self.asked_to_open(opening, first, last, parks),
            OpeningWord::Receiver { floor, mark, parks } => self.open(opening, floor, mark, parks),
        }
    }

    /// At the receiver.
    fn asked_to_open(&mut self, opening: Opening, first: u64, last: u64, parks: bool) {
        let Opening { source, target, .. } = opening;
        // Its sender hears of the owner, and opens the stream to that one.
        let Some(shard) = self.shard(target) else { return };
        if shard.phase == ShardPhase::Loading {
            self.held_openings.insert((source, target), opening);
            return;
        }
        let (floor, mark) = shard.inboxes.get(&source).map_or((0, 0), |inbox| (inbox.floor(), inbox.mark()));
        let ends = Ends { first, last, floor, mark };
        let has_lost_marks = floor + 1 < first;
        if parks || has_lost_marks {
            self.park_stream(source, target, ends);
        } else if self.parked.remove(&(source, target)) {
            tracing::info!(%source, %target, "the ends of a parked stream fit again: it goes on");
        }
        if !parks {
            let says = OpeningWord::Receiver { floor, mark, parks: has_lost_marks };
            self.put_now(Output::Opening(Opening { says, ..opening }));
        }
    }

    /// At the sender.
    fn open(&mut self, opening: Opening, floor: u64, mark: u64, parks: bool) {
        let Opening { source, target, number, .. } = opening;
        let Some(shard) = self.shard_mut(source) else { return };
        let Some(outbox) = shard.outboxes.get_mut(&target) else { return };
        if !outbox.answered(number) {
            return;
        }
        let lane = shard.lane;
        shard.unanswered.remove(&target);
        let (first, last) = (outbox.first(), outbox.last());
        let has_lost_numbers = last < mark;
        if !parks && !has_lost_numbers {
            self.lanes[lane].sending.insert((source, target));
            return;
        }
        outbox.shut();
        self.park_stream(source, target, Ends { first, last, floor, mark });
        if !parks {
            let says = OpeningWord::Sender { first, last, parks: true };
            self.put_now(Output::Opening(Opening { says, ..opening }));
        }
    }

    fn park_stream(&mut self, source: ShardId, target: ShardId, ends: Ends) {
        if self.parked.insert((source, target)) {
            let Ends { first, last, floor, mark } = ends;
            tracing::error!(
                %source, %target, first, last, floor, mark,
                "the two ends of a stream do not fit, and it is parked: {} has lost what its disk had synced. Start the node \
                 that was put back from a copy on its newest directory; everything else goes on",
                if last < mark { "its sender" } else { "its receiver" }
            );
        }
    }

    /// A receiver has consumed what was never sent: only a store that lost what it synced does not know of it.
    pub(super) fn park_for_receipt(&mut self, source: ShardId, target: ShardId, through: u64) {
        let outbox = &self.shard(source).expect("it has got a receipt").outboxes[&target];
        let (first, last) = (outbox.first(), outbox.last());
        self.park_stream(source, target, Ends { first, last, floor: through, mark: through });
    }

    /// A shard is loaded: who asked meanwhile is answered.
    pub(super) fn answer_openings(&mut self, target: ShardId) {
        let held: Vec<Opening> = self
            .held_openings
            .extract_if(.., |(_, held), _| *held == target)
            .map(|(_, opening)| opening)
            .collect();
        for opening in held {
            self.opening(opening);
        }
    }

    /// A shard leaves this node, and its streams with it: they are opened where it goes.
    pub(super) fn forget_parked(&mut self, id: ShardId) {
        self.parked.retain(|(source, target)| *source != id && *target != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::{Action, Event, Kernel, Seat},
        kinds::Kinds,
        limits::Limits,
        message::Envelope,
        placement::{Epoch, Shards},
        shard::{OutboxPart, ShardRows},
        store::{LaneId, OwnedShard, RowType, row::put_varint},
        timestamp::Timestamp,
    };
    use std::{sync::Arc, time::Duration};

    /// The sender's store, and two receivers with another.
    const SOURCE: ShardId = ShardId(0);
    const TARGET: ShardId = ShardId(1);
    const NEIGHBOUR: ShardId = ShardId(3);

    /// The rows of a stream that has given numbers up to `last` and keeps those from `first` on.
    fn sent(target: ShardId, first: u64, last: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let target = target.0.to_be_bytes();
        let mut value = Vec::new();
        put_varint(first - 1, &mut value);
        let mut rows = vec![([&[RowType::Sent as u8], &target[..]].concat(), value)];
        for number in first..=last {
            let mut envelope = Vec::new();
            // Of a kind nobody has: it is given up as it is taken, which counts as consumed.
            Envelope::write_head("nobody", "key", "message", None, &mut envelope);
            rows.push(([&[RowType::Outbox as u8], &target[..], &number.to_be_bytes()].concat(), envelope));
        }
        rows
    }

    /// The row of a stream that was consumed up to here.
    fn consumed(source: ShardId, floor: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut value = Vec::new();
        put_varint(floor, &mut value);
        vec![([&[RowType::Inbox as u8], &source.0.to_be_bytes()[..]].concat(), value)]
    }

    /// A node with one worker, whose store is written by hand.
    struct Node {
        kernel: Kernel,
        shards: Vec<ShardId>,
        sent: Vec<Output>,
        now: Timestamp,
    }

    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    impl Node {
        fn start(seed: u64, shards: &[(ShardId, Rows)]) -> Self {
            let hosted: Vec<ShardId> = shards.iter().map(|(shard, _)| *shard).collect();
            let layout = Shards::new(4).unwrap();
            let seat = Seat {
                layout,
                lane_of: vec![LaneId(0); 4],
                in_node: layout.iter().map(|shard| hosted.contains(&shard)).collect(),
                hosted: hosted.clone(),
            };
            let kinds = Arc::new(Kinds::default());
            let now = Timestamp::from_millis(1_000);
            let kernel = Kernel::new(kinds, Limits::default(), seat, seed, now);
            let mut node = Self { kernel, shards: hosted, sent: Vec::new(), now };
            for (shard, rows) in shards {
                let mut read = ShardRows::new(OutboxPart { len_max: 100, bytes_max: 1 << 20 });
                for (key, value) in rows {
                    read.push(key, value);
                }
                let owned = OwnedShard { shard: *shard, epoch: Epoch(1), number: 1 };
                node.step(Event::ShardLoaded { resets: 0, owned, rows: read });
            }
            node
        }

        fn step(&mut self, event: Event) {
            for action in self.kernel.step(event, self.now) {
                match action {
                    Action::Put(output) => self.sent.push(output),
                    Action::Commit(submission) => {
                        self.sent.extend(submission.outputs);
                        self.step(Event::Durable { lane: submission.lane, through: submission.number });
                    }
                    Action::LoadShard { .. } | Action::WantLoadable => {}
                    other => panic!("{other:?}"),
                }
            }
        }

        /// Runs until it has nothing to do, and returns what it sends to the other node.
        fn run(&mut self) -> Vec<Output> {
            while self.kernel.has_work(LaneId(0)) {
                self.step(Event::Run { lane: LaneId(0), room: Ok(()) });
            }
            std::mem::take(&mut self.sent)
        }

        fn hear(&mut self, output: Output) {
            self.step(match output {
                Output::Hand(arrival) => Event::Arrived(vec![arrival]),
                Output::Receipt(receipt) => Event::Receipts(vec![receipt]),
                Output::Opening(opening) => Event::Openings(vec![opening]),
                other => panic!("{other:?}"),
            });
        }

        fn connected_again(&mut self, targets: &[ShardId]) {
            for target in targets {
                self.step(Event::SendAgain { target: *target });
            }
        }

        fn parked(&self) -> u64 {
            self.kernel.counters().parked_streams
        }

        fn consumed(&self, source: ShardId, target: ShardId) -> u64 {
            self.kernel.shard(target).unwrap().inboxes.get(&source).map_or(0, crate::stream::Inbox::floor)
        }

        fn kept(&self, target: ShardId) -> u64 {
            assert_eq!(self.shards, [SOURCE]);
            self.kernel.shard(SOURCE).unwrap().outboxes[&target].len()
        }
    }

    /// Carries everything to and fro until nothing is on its way.
    fn settle(a: &mut Node, b: &mut Node) {
        loop {
            let (from_a, from_b) = (a.run(), b.run());
            if from_a.is_empty() && from_b.is_empty() {
                return;
            }
            for output in from_a {
                b.hear(output);
            }
            for output in from_b {
                a.hear(output);
            }
        }
    }

    fn sender(seed: u64, streams: &[(ShardId, u64, u64)]) -> Node {
        let rows = streams.iter().flat_map(|(target, first, last)| sent(*target, *first, *last));
        let mut rows: Rows = rows.collect();
        rows.sort();
        Node::start(seed, &[(SOURCE, rows)])
    }

    fn receiver(seed: u64, floors: [u64; 2]) -> Node {
        let [target, neighbour] = floors.map(|floor| consumed(SOURCE, floor));
        Node::start(seed, &[(TARGET, target), (NEIGHBOUR, neighbour)])
    }

    #[test]
    fn ends_that_fit_park_nothing_however_often_they_start() {
        let mut b = receiver(100, [0, 0]);
        // The second time a starts from before the receipts, the third with more than before.
        for (seed, streams) in [
            (1, [(TARGET, 1, 3), (NEIGHBOUR, 1, 1)]),
            (2, [(TARGET, 1, 3), (NEIGHBOUR, 1, 2)]),
            (3, [(TARGET, 3, 6), (NEIGHBOUR, 3, 4)]),
        ] {
            let mut a = sender(seed, &streams);
            settle(&mut a, &mut b);
            a.connected_again(&[TARGET, NEIGHBOUR]);
            settle(&mut a, &mut b);
            assert_eq!((a.parked(), b.parked()), (0, 0));
            assert_eq!((a.kept(TARGET), a.kept(NEIGHBOUR)), (0, 0));
        }
        assert_eq!((b.consumed(SOURCE, TARGET), b.consumed(SOURCE, NEIGHBOUR)), (6, 4));
    }

    #[test]
    fn a_sender_that_lost_its_last_numbers_gives_none_a_second_time() {
        // b has consumed five, and a has a message for its third number.
        let mut a = sender(1, &[(TARGET, 3, 3), (NEIGHBOUR, 1, 2)]);
        let mut b = receiver(2, [5, 0]);
        settle(&mut a, &mut b);
        assert_eq!((a.parked(), b.parked()), (1, 1), "both ends say so");
        assert_eq!(a.kept(TARGET), 1, "the message is kept");
        assert_eq!(
            (b.consumed(SOURCE, TARGET), b.consumed(SOURCE, NEIGHBOUR)),
            (5, 2),
            "its neighbour flows"
        );
        // Compared again over a new connection, and still no more.
        a.connected_again(&[TARGET]);
        settle(&mut a, &mut b);
        assert_eq!((a.parked(), b.parked(), a.kept(TARGET)), (1, 1, 1));
        // With its newest directory a knows what it has sent.
        let mut a = sender(3, &[(TARGET, 3, 6), (NEIGHBOUR, 1, 2)]);
        settle(&mut a, &mut b);
        assert_eq!((a.parked(), b.parked(), b.consumed(SOURCE, TARGET)), (0, 0, 6));
    }

    #[test]
    fn a_receiver_that_lost_marks_is_sent_nothing_it_cannot_take() {
        // a keeps from the fourth on, and b has consumed one.
        let mut a = sender(1, &[(TARGET, 4, 5), (NEIGHBOUR, 1, 2)]);
        let mut b = receiver(2, [1, 0]);
        settle(&mut a, &mut b);
        assert_eq!((a.parked(), b.parked()), (1, 1), "both ends say so");
        assert_eq!((a.kept(TARGET), b.consumed(SOURCE, TARGET)), (2, 1));
        assert_eq!(b.consumed(SOURCE, NEIGHBOUR), 2, "its neighbour flows");
        let mut b = receiver(3, [3, 2]);
        a.connected_again(&[TARGET]);
        settle(&mut a, &mut b);
        assert_eq!((a.parked(), b.parked(), b.consumed(SOURCE, TARGET)), (0, 0, 5));
    }

    #[test]
    fn a_receipt_for_what_was_never_sent_parks_its_stream() {
        let mut a = sender(1, &[(TARGET, 1, 2)]);
        let receipt = super::super::Receipt {
            source: SOURCE,
            target: TARGET,
            through: 9,
            refused_from: None,
            go_on: false,
        };
        a.step(Event::Receipts(vec![receipt]));
        assert_eq!((a.parked(), a.kept(TARGET)), (1, 2));
    }

    #[test]
    fn an_opening_that_is_lost_goes_again_and_an_old_answer_opens_nothing() {
        let mut a = sender(1, &[(TARGET, 1, 2)]);
        let mut b = receiver(2, [0, 0]);
        let lost = a.run();
        let [Output::Opening(first)] = lost[..] else { panic!("{lost:?}") };
        a.now = a.now + Limits::default().resend_after + Duration::from_millis(1);
        a.step(Event::Tick);
        let again = a.run();
        let [Output::Opening(second)] = again[..] else { panic!("{again:?}") };
        assert_ne!(first.number, second.number);
        // The first one comes late: its answer is to a question that nobody asks any more.
        b.hear(Output::Opening(first));
        for output in b.run() {
            a.hear(output);
        }
        assert!(a.run().is_empty());
        b.hear(Output::Opening(second));
        b.hear(Output::Opening(second));
        settle(&mut a, &mut b);
        assert_eq!((b.consumed(SOURCE, TARGET), a.kept(TARGET), a.parked()), (2, 0, 0));
        // And once more, when a keeps nothing.
        b.hear(Output::Opening(first));
        settle(&mut a, &mut b);
        assert_eq!((a.parked(), b.parked()), (0, 0));
    }

    #[test]
    fn a_shard_that_is_loading_answers_when_it_is_loaded() {
        let mut a = sender(1, &[(TARGET, 1, 2)]);
        let mut b = receiver(2, [0, 0]);
        b.step(Event::Voided { lane: LaneId(0), voids: 1 });
        for output in a.run() {
            b.hear(output);
        }
        assert!(b.run().is_empty());
        for shard in [TARGET, NEIGHBOUR] {
            let owned = OwnedShard { shard, epoch: Epoch(1), number: 1 };
            let rows = ShardRows::new(OutboxPart { len_max: 100, bytes_max: 1 << 20 });
            b.step(Event::ShardLoaded { resets: 1, owned, rows });
        }
        settle(&mut a, &mut b);
        assert_eq!(b.consumed(SOURCE, TARGET), 2);
    }
}
