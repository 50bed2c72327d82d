//! The opening of a stream: both ends say how far they are before anything is sent (P19).
//!
//! ```text
//!   sender                                      receiver
//!   Sender { first kept, last told } ────────►  first <= floor + 1 ?   else it has lost marks
//!   mark <= last told ?          ◄───────────   Receiver { floor, highest mark }
//!   else it has lost numbers
//! ```
//!
//! Each end holds the other's word against what it is *now*: what was told and a floor only rise, so a word that comes late or
//! twice finds no fault where there is none. What the sender has told is what its store had and what it has handed over since,
//! and not the messages that wait: those would soon reach the numbers that were lost. The sender sends nothing before the answer
//! to this opening; numbers of openings begin anywhere, so an answer to an earlier run is not taken for one. A question without
//! an answer is put again, whatever else is heard of the stream.
//!
//! A stream to another node is opened anew when it is sent on for the first time after a start, a new connection, a move of its
//! receiver, or a while without a receipt. Within a node the shards that were there at the start lie in one store, which goes
//! back as a whole, and are not compared. One that came since may be older than the others know: it was opened again or adopted
//! from a copy. Its streams are opened as those to another node.
//!
//! Where the ends do not fit, a disk has forgotten what it told: the sender would give numbers a second time, which the receiver
//! takes for repeats, or the receiver wait for what nobody has. So both park that stream and say so, and everything else goes
//! on. What waits for it stays in the outbox, whose bound holds clients back as ever. They compare again after a while, for it
//! may have been the word of an owner of before.

use super::{Kernel, Opening, OpeningWord, Output};
use crate::{
    placement::ShardId,
    shard::{Asking, ShardPhase},
    stream::Outbox,
};
use std::time::Duration;

/// Pause before a question without an answer is put again. It doubles, up to that of messages.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What both ends say of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// First number the sender keeps.
    first: u64,
    /// The highest number that the receiver can have seen.
    last: u64,
    /// Up to here the receiver has consumed everything.
    floor: u64,
    /// The highest number it has seen.
    mark: u64,
}

impl Ends {
    fn has_lost_numbers(self) -> bool {
        self.last < self.mark
    }

    fn has_lost_marks(self) -> bool {
        self.floor + 1 < self.first
    }
}

impl Kernel {
    /// Whether messages of a stream may be handed over now. Where that is not known yet the other end is asked.
    pub(super) fn may_hand_over(&mut self, source: ShardId, target: ShardId) -> bool {
        let is_parked = self.is_parked(source, target);
        if self.is_of_one_store(source, target) && !is_parked {
            return true;
        }
        let (now, number, longest) = (self.now, self.opening.wrapping_add(1), self.limits.resend_after);
        let shard = self.host(source);
        let outbox = shard.outboxes.get_mut(&target).expect("a stream to send on has an outbox");
        if outbox.is_open() && !is_parked {
            return true;
        }
        let asked = shard.asking.get(&target);
        if outbox.is_empty() || asked.is_some_and(|asked| now < asked.again) {
            return false;
        }
        let pause = asked.map_or(ASK_AGAIN_AFTER, |asked| asked.pause * 2).min(longest);
        let pause = if is_parked { longest } else { pause };
        shard.asking.insert(target, Asking { again: now + pause, pause });
        outbox.ask(number);
        let says = OpeningWord::Sender { first: outbox.first(), last: outbox.told(), parks: false };
        self.opening = number;
        self.put_now(Output::Opening(Opening { source, target, number, says }));
        false
    }

    /// Puts questions again that had no answer for a while, and those of parked streams.
    pub(super) fn ask_again(&mut self) {
        let now = self.now;
        for at in 0..self.hosted.len() {
            let id = self.hosted[at];
            let shard = self.host(id);
            if shard.asking.is_empty() {
                continue;
            }
            let lane = shard.lane;
            let outboxes = &shard.outboxes;
            // What is sent later is asked for then.
            shard.asking.retain(|target, _| !outboxes[target].is_empty());
            let due = shard.asking.iter().filter(|(_, asked)| asked.again <= now);
            let due: Vec<_> = due.map(|(target, _)| (id, *target)).collect();
            self.lanes[lane].sending.extend(due);
        }
    }

    /// A stream that waits to be opened, and for which nothing will ask. There should be none.
    pub fn forgotten_opening(&self) -> Option<(ShardId, ShardId)> {
        let shards = self.hosted.iter().filter_map(|id| self.shard(*id));
        shards.filter(|shard| shard.is_serving() && !self.draining).find_map(|shard| {
            let is_forgotten = |(target, outbox): &(&ShardId, &Outbox)| {
                let is_shut = !outbox.is_empty() && !outbox.is_open();
                let is_asked = shard.asking.contains_key(target) || shard.unanswered.contains_key(target);
                let goes_on =
                    outbox.is_loading() || self.lanes[shard.lane].sending.contains(&(shard.id, **target));
                is_shut && !self.is_of_one_store(shard.id, **target) && !is_asked && !goes_on
            };
            shard.outboxes.iter().find(is_forgotten).map(|(target, _)| (shard.id, *target))
        })
    }

    /// Whether both ends were here when this run began.
    fn is_of_one_store(&self, source: ShardId, target: ShardId) -> bool {
        let [source, target] = [source, target].map(|shard| shard.0 as usize);
        self.in_node[target] && !self.came[target] && !self.came[source]
    }

    /// Whether nothing is sent or taken in this stream.
    pub(super) fn is_parked(&self, source: ShardId, target: ShardId) -> bool {
        !self.parked.is_empty() && self.parked.contains_key(&(source, target))
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
        if parks || ends.has_lost_marks() {
            self.park_stream(source, target, ends);
        } else if !ends.has_lost_numbers() {
            // A word with lost numbers may be a late one. Its sender knows, and says so.
            self.fits_again(source, target);
        }
        if !parks {
            let says = OpeningWord::Receiver { floor, mark, parks: ends.has_lost_marks() };
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
        let (first, last) = (outbox.first(), outbox.told());
        let ends = Ends { first, last, floor, mark };
        if !parks && !ends.has_lost_numbers() {
            shard.asking.remove(&target);
            self.fits_again(source, target);
            self.lanes[lane].sending.insert((source, target));
            return;
        }
        self.park_sending(source, target, ends);
        if !parks {
            let says = OpeningWord::Sender { first, last, parks: true };
            self.put_now(Output::Opening(Opening { says, ..opening }));
        }
    }

    /// At the sender, which asks again after a while.
    fn park_sending(&mut self, source: ShardId, target: ShardId, ends: Ends) {
        let (now, pause) = (self.now, self.limits.resend_after);
        let shard = self.host(source);
        shard.outboxes.get_mut(&target).expect("it was just looked at").shut();
        shard.asking.insert(target, Asking { again: now + pause, pause });
        self.park_stream(source, target, ends);
    }

    fn park_stream(&mut self, source: ShardId, target: ShardId, ends: Ends) {
        // Said once, however often it is compared.
        if self.parked.insert((source, target), ends) != Some(ends) {
            let Ends { first, last, floor, mark } = ends;
            tracing::error!(
                %source, %target, first, last, floor, mark,
                "the two ends of a stream do not fit, and it is parked: {} has lost what its disk had synced. If the \
                 node was put back from a copy, start it on its newest directory. If the shard was opened again or adopted \
                 because a disk is gone, nothing mends this stream; everything else goes on",
                if ends.has_lost_numbers() { "its sender" } else { "its receiver" }
            );
        }
    }

    fn fits_again(&mut self, source: ShardId, target: ShardId) {
        if self.parked.remove(&(source, target)).is_some() {
            tracing::info!(%source, %target, "the ends of a parked stream fit again: it goes on");
        }
    }

    /// A receiver has consumed what was never sent: only a store that lost what it synced does not know of it.
    pub(super) fn park_for_receipt(&mut self, source: ShardId, target: ShardId, through: u64) {
        let outbox = &self.shard(source).expect("it has got a receipt").outboxes[&target];
        let (first, last) = (outbox.first(), outbox.told());
        self.park_sending(source, target, Ends { first, last, floor: through, mark: through });
    }

    /// A shard has come to this node. What was known of its streams was so elsewhere.
    pub(super) fn has_come(&mut self, id: ShardId) {
        self.came[id.0 as usize] = true;
        self.send_again(id);
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
        self.parked.retain(|(source, target), _| *source != id && *target != id);
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
                hosted,
            };
            let kinds = Arc::new(Kinds::default());
            let now = Timestamp::from_millis(1_000);
            let kernel = Kernel::new(kinds, Limits::default(), seat, seed, now);
            let mut node = Self { kernel, sent: Vec::new(), now };
            for (shard, rows) in shards {
                node.load(*shard, rows);
            }
            node
        }

        fn load(&mut self, shard: ShardId, rows: &Rows) {
            let mut read = ShardRows::new(OutboxPart { len_max: 100, bytes_max: 1 << 20 });
            for (key, value) in rows {
                read.push(key, value);
            }
            let owned = OwnedShard { shard, epoch: Epoch(1), number: 1 };
            self.step(Event::ShardLoaded { resets: 0, owned, rows: read });
        }

        /// A shard comes by a hand-off, or is opened again.
        fn host(&mut self, shard: ShardId, rows: &Rows) {
            self.step(Event::Host { shard });
            self.load(shard, rows);
        }

        /// Runs until it says nothing more, to itself. Returns how many openings it said.
        fn settle_alone(&mut self) -> usize {
            let mut openings = 0;
            loop {
                let said = self.run();
                if said.is_empty() {
                    return openings;
                }
                for output in said {
                    openings += usize::from(matches!(output, Output::Opening(_)));
                    self.hear(output);
                }
            }
        }

        fn wait(&mut self, time: Duration) {
            self.now = self.now + time;
            self.step(Event::Tick);
        }

        /// A turn sends one more message.
        fn send(&mut self, target: ShardId) {
            let mut envelope = Vec::new();
            Envelope::write_head("nobody", "key", "message", None, &mut envelope);
            let lane = self.kernel.shard(SOURCE).unwrap().lane;
            let shard = self.kernel.shard_mut(SOURCE).unwrap();
            shard.outbox_bytes += envelope.len();
            self.kernel.outbox_memory += envelope.len();
            let outbox = self.kernel.shard_mut(SOURCE).unwrap().outboxes.entry(target).or_default();
            outbox.push(envelope.into(), 1, 100);
            self.kernel.lanes[lane].sending.insert((SOURCE, target));
        }

        fn step(&mut self, event: Event) {
            for action in self.kernel.step(event, self.now) {
                match action {
                    Action::Put(output) => self.sent.push(output),
                    Action::Commit(submission) => {
                        self.sent.extend(submission.outputs);
                        self.step(Event::Durable { lane: submission.lane, through: submission.number });
                    }
                    Action::Hand(near) => self.step(Event::Arrived(near)),
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

        fn hear_all(&mut self, outputs: Vec<Output>) {
            for output in outputs {
                self.hear(output);
            }
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

    fn receipt(through: u64) -> Output {
        let (source, target) = (SOURCE, TARGET);
        Output::Receipt(super::super::Receipt { source, target, through, refused_from: None, go_on: false })
    }

    #[test]
    fn a_question_goes_again_whatever_receipts_come_meanwhile() {
        for through in [2, 3] {
            let mut a = sender(1, &[(TARGET, 1, 3)]);
            let mut b = receiver(2, [0, 0]);
            b.hear_all(a.run());
            a.hear_all(b.run());
            let handed = a.run();
            assert_eq!(handed.len(), 3);
            b.hear_all(handed);
            b.run();
            // A new connection, on which the question is lost. What was on its way from before comes.
            a.connected_again(&[TARGET]);
            assert!(matches!(a.run()[..], [Output::Opening(_)]));
            a.hear(receipt(through));
            a.send(TARGET);
            assert!(a.run().is_empty(), "nothing goes before the answer");
            a.wait(ASK_AGAIN_AFTER);
            settle(&mut a, &mut b);
            assert_eq!((b.consumed(SOURCE, TARGET), a.kept(TARGET)), (4, 0));
        }
    }

    #[test]
    fn a_question_goes_again_soon_and_then_less_often() {
        let mut a = sender(1, &[(TARGET, 1, 2)]);
        let mut asked = Vec::new();
        for ms in (0..15_000).step_by(50) {
            asked.extend(a.run().iter().map(|_| ms));
            a.wait(Duration::from_millis(50));
        }
        assert_eq!(asked, [0, 250, 750, 1_750, 3_750, 7_750, 12_750]);
    }

    #[test]
    fn a_shard_that_came_is_compared_within_its_node() {
        let (old, new) = (sent(TARGET, 3, 3), sent(TARGET, 6, 6));
        let here = consumed(SOURCE, 5);
        // The one that comes is of before its last messages, or it is not; and either end may be the one that comes.
        for (rows, is_parked) in [(&old, true), (&new, false)] {
            let mut source_came = Node::start(1, &[(TARGET, here.clone())]);
            source_came.host(SOURCE, rows);
            let mut target_came = Node::start(1, &[(SOURCE, rows.clone())]);
            target_came.host(TARGET, &here);
            for mut node in [source_came, target_came] {
                assert!(0 < node.settle_alone());
                assert_eq!((node.parked(), node.kept(TARGET)), (u64::from(is_parked), u64::from(is_parked)));
                assert_eq!(node.consumed(SOURCE, TARGET), if is_parked { 5 } else { 6 });
            }
        }
        // In one store from the start on nobody asks.
        let mut node = Node::start(1, &[(SOURCE, new), (TARGET, here)]);
        assert_eq!((node.settle_alone(), node.consumed(SOURCE, TARGET)), (0, 6));
    }

    #[test]
    fn a_target_that_goes_and_comes_back_is_compared_again() {
        let mut node = Node::start(1, &[(SOURCE, sent(TARGET, 1, 2))]);
        node.host(TARGET, &Rows::new());
        assert!(0 < node.settle_alone());
        // Another worker tells of it: it is elsewhere in the node now.
        node.step(Event::InNode { shard: TARGET, is: true });
        node.send(TARGET);
        assert!(0 < node.settle_alone());
        assert_eq!((node.consumed(SOURCE, TARGET), node.kept(TARGET)), (3, 0));
    }

    #[test]
    fn what_a_stream_sends_while_it_is_parked_does_not_hide_what_its_sender_lost() {
        let mut a = sender(1, &[(TARGET, 3, 3)]);
        let mut b = receiver(2, [5, 0]);
        settle(&mut a, &mut b);
        for _ in 0..4 {
            a.send(TARGET);
        }
        // Nothing is asked for each of them,
        assert!(a.run().is_empty());
        for _ in 0..2 {
            // and each while once.
            a.wait(Limits::default().resend_after);
            let asked = a.run();
            assert!(matches!(asked[..], [Output::Opening(_)]), "{asked:?}");
            b.hear_all(asked);
            settle(&mut a, &mut b);
            assert_eq!((a.parked(), b.parked(), a.kept(TARGET)), (1, 1, 5));
        }
        assert_eq!(b.consumed(SOURCE, TARGET), 5, "six is not taken for another six");
    }

    #[test]
    fn a_stream_that_was_parked_by_an_owner_of_before_goes_on_after_a_while() {
        let stale = |number, says| Output::Opening(Opening { source: SOURCE, target: TARGET, number, says });
        // At the receiver, while messages are on their way.
        let mut a = sender(1, &[(TARGET, 1, 3)]);
        let mut b = receiver(2, [0, 0]);
        b.hear_all(a.run());
        a.hear_all(b.run());
        b.hear(stale(7, OpeningWord::Sender { first: 1, last: 0, parks: true }));
        settle(&mut a, &mut b);
        assert_eq!((b.parked(), b.consumed(SOURCE, TARGET)), (1, 0));
        a.wait(Limits::default().resend_after);
        settle(&mut a, &mut b);
        assert_eq!((a.parked(), b.parked(), b.consumed(SOURCE, TARGET)), (0, 0, 3));
        // At the sender.
        let mut a = sender(3, &[(TARGET, 1, 3)]);
        let asked = a.run();
        let [Output::Opening(Opening { number, .. })] = asked[..] else { panic!("{asked:?}") };
        a.hear(stale(number, OpeningWord::Receiver { floor: 0, mark: 0, parks: true }));
        settle(&mut a, &mut b);
        assert_eq!((a.parked(), a.kept(TARGET)), (1, 3));
        a.wait(Limits::default().resend_after);
        settle(&mut a, &mut b);
        assert_eq!((a.parked(), b.parked(), a.kept(TARGET)), (0, 0, 0));
    }
}
