use super::*;
use crate::{
    kernel::{Action, Arrival, Event, Kernel, Seat},
    kinds::Kinds,
    limits::Limits,
    message::Envelope,
    placement::{Epoch, Shards},
    shard::{OutboxPart, ShardRows},
    store::{
        Batch, LaneId, OwnedShard, RowType,
        batch::put,
        row::{Write, put_varint},
    },
    timestamp::Timestamp,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

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

/// A node with one worker, and a store that begins with rows written by hand.
struct Node {
    kernel: Kernel,
    store: BTreeMap<ShardId, BTreeMap<Vec<u8>, Vec<u8>>>,
    sent: Vec<Output>,
    now: Timestamp,
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

impl Node {
    fn start(seed: u64, shards: &[(ShardId, Rows)]) -> Self {
        Self::beside(&[], seed, shards)
    }

    /// In one lane with shards that another worker has.
    fn beside(others: &[ShardId], seed: u64, shards: &[(ShardId, Rows)]) -> Self {
        let hosted: Vec<ShardId> = shards.iter().map(|(shard, _)| *shard).collect();
        let layout = Shards::new(4).unwrap();
        let seat = Seat {
            layout,
            lane_of: vec![LaneId(0); 4],
            in_node: layout.iter().map(|shard| hosted.contains(&shard) || others.contains(&shard)).collect(),
            hosted,
        };
        let kinds = Arc::new(Kinds::default());
        let now = Timestamp::from_millis(1_000);
        let kernel = Kernel::new(kinds, Limits::default(), seat, seed, now);
        let mut node = Self { kernel, store: BTreeMap::new(), sent: Vec::new(), now };
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
        self.store.insert(shard, rows.iter().cloned().collect());
        let owned = OwnedShard { shard, epoch: Epoch(1), number: 1 };
        self.step(Event::ShardLoaded { resets: 0, owned, rows: read });
    }

    /// A shard comes by a hand-off, or is opened again.
    fn host(&mut self, shard: ShardId, rows: &Rows) {
        self.step(Event::Host { shard, was_taken: false });
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
        let number = self.kernel.lanes[lane].number + 1;
        let shard = self.kernel.touch(SOURCE);
        let row = shard.outboxes.entry(target).or_default().push(envelope.clone().into(), number, 100);
        let key: [&[u8]; 3] = [&[RowType::Outbox as u8], &target.0.to_be_bytes(), &row.to_be_bytes()];
        put(&key, &[&envelope], &mut shard.changes.writes);
        if shard.outboxes.get_mut(&target).unwrap().note_told() {
            shard.write_sent(target);
        }
        self.kernel.measure(SOURCE);
        self.kernel.lanes[lane].sending.insert((SOURCE, target));
    }

    /// The lane is void, and everything read anew.
    fn void(&mut self) {
        let voids = self.kernel.lanes[0].voids + 1;
        self.step(Event::Voided { lane: LaneId(0), voids });
        for shard in self.kernel.hosted.clone() {
            let mut rows = ShardRows::new(OutboxPart { len_max: 100, bytes_max: 1 << 20 });
            for (key, value) in self.rows(shard) {
                rows.push(&key, &value);
            }
            let owned = OwnedShard { shard, epoch: Epoch(1), number: 1 };
            self.step(Event::ShardLoaded { resets: voids, owned, rows });
        }
    }

    /// What is in the store of a shard.
    fn rows(&self, shard: ShardId) -> Rows {
        self.store[&shard].iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn store(&mut self, batch: &Batch) {
        for section in batch.sections() {
            let rows = self.store.get_mut(&section.shard).unwrap();
            for write in section.writes() {
                match write.unwrap() {
                    Write::Put { key, value } => drop(rows.insert(key.to_vec(), value.to_vec())),
                    Write::Delete { key } => drop(rows.remove(key)),
                    Write::DeleteRange { prefix, from, through } => {
                        let [from, through] = [from, through].map(|at| [prefix, &at.to_be_bytes()].concat());
                        rows.retain(|key, _| *key < from || through < *key);
                    }
                }
            }
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.kernel.step(event, self.now) {
            match action {
                Action::Put(output) => self.sent.push(output),
                Action::Commit(submission) => {
                    self.store(&submission.batch);
                    self.sent.extend(submission.outputs);
                    self.step(Event::Durable { lane: submission.lane, through: submission.number });
                }
                Action::Hand(near) => {
                    let is_here = |arrival: &Arrival| self.kernel.shard(arrival.shard).is_some();
                    let (here, there) = near.into_iter().partition(is_here);
                    self.step(Event::Arrived(here));
                    self.sent.extend(Vec::into_iter(there).map(Output::Hand));
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
    assert_eq!((b.consumed(SOURCE, TARGET), b.consumed(SOURCE, NEIGHBOUR)), (5, 2), "its neighbour flows");
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
    // In one store from the start on it is no other: a shard may have come to it before.
    for (rows, is_parked) in [(old, true), (new, false)] {
        let mut node = Node::start(1, &[(SOURCE, rows), (TARGET, here.clone())]);
        node.settle_alone();
        assert_eq!((node.parked(), node.consumed(SOURCE, TARGET)), if is_parked { (1, 5) } else { (0, 6) });
    }
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
    let stale =
        |number, says| Output::Opening(Opening { source: SOURCE, target: TARGET, number, voids: None, says });
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

mod restarts;
mod unparking;
