//! The small things a turn is made of, and whole turns of a kernel without I/O.
//!
//! `kernel/turns` is what a worker's core does per message: judge, find, decode, handle, encode, record. What the log, the
//! threads and the sender add to it is in the load program, `examples/bench`.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use entity_runtime::{
    activation::ReplyTo,
    codec,
    entity::KindOf,
    feeds::FeedId,
    kernel::{Action, Arrival, Event, Kernel, Provenance, Seat},
    kinds::Kinds,
    message::Envelope,
    placement::{self, Epoch, ShardId, Shards},
    prelude::*,
    shard::ShardRows,
    store::{Batch, LaneId, OwnedShard, batch},
    stream::{Inbox, Verdict},
    timestamp::Timestamp,
};
use std::{collections::HashMap, hint::black_box, sync::Arc};

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Deposit))]
struct Account {
    cents: u64,
    deposits: u64,
    owner: String,
    memo: String,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Deposit {
    cents: u64,
    memo: String,
}

impl Handle<Deposit> for Account {
    fn handle(&mut self, deposit: Deposit, _: &mut Context<'_, Self>) -> u64 {
        if self.owner.is_empty() {
            "an owner with a name of usual length".clone_into(&mut self.owner);
        }
        self.cents += deposit.cents;
        self.deposits += 1;
        self.memo = deposit.memo;
        self.cents
    }
}

fn deposit() -> Deposit {
    Deposit { cents: 250, memo: "rent and heating, payment 000000042".into() }
}

fn pieces(c: &mut Criterion) {
    let mut bytes = Vec::new();
    codec::encode(&deposit(), &mut bytes).expect("encodes");
    c.bench_function("codec/encode a message into a used buffer", |b| {
        let (message, mut out) = (deposit(), Vec::new());
        b.iter(|| {
            out.clear();
            codec::encode(black_box(&message), &mut out)
        });
    });
    c.bench_function("codec/decode a message", |b| b.iter(|| codec::decode::<Deposit>(black_box(&bytes))));
    c.bench_function("codec/scan 1 kB for its nesting", |b| {
        let mut long = Vec::new();
        codec::encode(&vec!["sixteen letters."; 60], &mut long).expect("encodes");
        b.iter(|| codec::check_nesting(black_box(&long), codec::NESTING_MAX));
    });
    c.bench_function("placement/hash of kind and key", |b| {
        b.iter(|| placement::hash(black_box("account"), black_box("9e3779b97f4a7c15")));
    });
    c.bench_function("stream/judge, take and consume", |b| {
        let (mut inbox, mut number) = (Inbox::default(), 0);
        b.iter(|| {
            number += 1;
            assert_eq!(inbox.judge(number, 1_024), Verdict::Fresh);
            inbox.take(number, 64);
            inbox.consume(number, 64);
        });
    });
    c.bench_function("store/encode a section of one image", |b| {
        let mut buffer = Vec::new();
        b.iter(|| {
            let mut one = Batch::reuse(std::mem::take(&mut buffer));
            one.section(ShardId(7), Epoch(1), 42, |out| {
                batch::put(
                    &[&[0xf0], b"account", &[0], b"9e3779b97f4a7c15"],
                    &[&[1], black_box(&bytes)],
                    out,
                );
            });
            buffer = one.into_buffer();
        });
    });
}

/// A kernel that hosts every shard of a store that always succeeds at once.
struct Bench {
    kernel: Kernel,
    layout: Shards,
    feed: FeedId,
    numbers: HashMap<ShardId, u64>,
    own: u64,
    now: Timestamp,
}

const LANE: LaneId = LaneId(0);
/// Who feeds the kernel.
const FEEDER: ReplyTo = ReplyTo { connection: 0, slot: 0 };

impl Bench {
    fn new() -> Self {
        let layout = Shards::new(256).expect("a power of two");
        let mut kinds = Kinds::default();
        assert!(kinds.register(Box::new(KindOf::<Account>::new())));
        let limits = entity_runtime::Limits::default();
        let owned: Vec<_> =
            layout.iter().map(|shard| OwnedShard { shard, epoch: Epoch(1), number: 0 }).collect();
        let seat = Seat::new(layout, |_| LANE, &owned, |_| true);
        let now = Timestamp::from_millis(1);
        let kernel = Kernel::new(Arc::new(kinds), limits, seat, 1, now);
        let mut bench =
            Self { kernel, layout, feed: FeedId::of("bench"), numbers: HashMap::new(), own: 0, now };
        bench.step(Event::Tick);
        let to = FEEDER;
        bench.step(Event::OpenFeed { feed: bench.feed, name: "bench".into(), to });
        bench
    }

    /// Steps, and plays a store that is durable and loadable at once.
    fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.kernel.step(event, self.now) {
                match action {
                    Action::LoadShard { shard, part, resets } => {
                        let owned = OwnedShard { shard, epoch: Epoch(1), number: 0 };
                        events.push(Event::ShardLoaded { resets, owned, rows: ShardRows::new(part) });
                    }
                    Action::LoadImages(tickets) => {
                        let images = tickets.into_iter().map(|ticket| (ticket, None)).collect();
                        events.push(Event::ImagesLoaded(images));
                    }
                    Action::Commit(submission) => {
                        let (lane, through) = (submission.lane, submission.number);
                        events.push(Event::Durable { lane, through });
                        self.kernel.recycle(&mut vec![submission.batch.into_buffer()]);
                    }
                    Action::Hand(_)
                    | Action::Put(_)
                    | Action::LoadOutbox(_)
                    | Action::Left(_)
                    | Action::Stale(_)
                    | Action::WantLoadable => {}
                    Action::Stop(error) => panic!("{error}"),
                }
            }
        }
    }

    fn arrivals(&mut self, count: u64, keys: u64) -> Vec<Arrival> {
        (0..count)
            .map(|_| {
                self.own += 1;
                let key = format!("{:016x}", (self.own.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % keys);
                let mut bytes = Vec::with_capacity(128);
                Envelope::write_head("account", &key, "deposit", None, &mut bytes);
                codec::encode(&deposit(), &mut bytes).expect("encodes");
                let hash = placement::hash("account", &key);
                let shard = self.layout.place(hash);
                let number = self.numbers.entry(shard).or_default();
                *number += 1;
                let from = Provenance::Feed { feed: self.feed, number: *number, own: self.own, to: FEEDER };
                let envelope = Envelope::from_bytes(bytes.into()).expect("just written");
                Arrival { shard, hash, envelope, from }
            })
            .collect()
    }

    fn run(&mut self, arrivals: Vec<Arrival>) {
        self.step(Event::Arrived(arrivals));
        while self.kernel.has_work(LANE) {
            self.step(Event::Run { lane: LANE, room: Ok(()) });
        }
    }
}

fn turns(c: &mut Criterion) {
    /// Messages per step: what a busy worker finds in its inbox.
    const BURST: u64 = 1_024;
    let mut group = c.benchmark_group("kernel/turns");
    group.throughput(Throughput::Elements(BURST));
    for keys in [1_000, 100_000, 1_000_000] {
        let mut bench = Bench::new();
        for _ in 0..keys * 4 / BURST {
            let burst = bench.arrivals(BURST, keys);
            bench.run(burst);
        }
        let bench = std::cell::RefCell::new(bench);
        group.bench_function(format!("{keys} entities"), |b| {
            b.iter_batched(
                || bench.borrow_mut().arrivals(BURST, keys),
                |burst| bench.borrow_mut().run(burst),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, pieces, turns);
criterion_main!(benches);
