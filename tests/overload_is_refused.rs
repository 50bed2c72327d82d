//! Ten times more work than there is room for: refused and counted, never dropped in silence, never held.

use entity_runtime::{
    AskError, Refusal,
    activation::{Activation, Mail, ReplyTo},
    entity::Entity,
    error::Bound,
    feeds::FeedId,
    kernel::{Arrival, Counters, Event, FeedNews, Outcome, Provenance},
    limits::Limits,
    message::Message,
    placement::{self, ShardId, Shards},
    store::{LaneId, NoRoom, memory::MemoryStore},
};
use entity_runtime_tests::{
    driven::{Driven, Held, envelope, kinds, named, with},
    entities::{
        Account, BRITTLE_BROKEN, Books, Brittle, Credit, Fund, Heard, Listener, Phoenix, Poison, Press, Row,
        Speak, Speaker, Sum, Tally, Touch,
    },
    running::{Counts, Ledger, Note, builder, small_limits},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const TASKS: u64 = 400;
const EACH: u64 = 25;

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_refused_and_counted_and_every_accepted_ask_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let mut limits = small_limits();
    limits.intake_bytes_max = 4 << 10;
    limits.mailbox_len_max = 8;
    limits.activation_bytes_max = 64 << 10;
    limits.replies_max = 200;
    let memory_max = limits.activation_bytes_max;
    let runtime = builder(directory.path(), limits).start().await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let client = runtime.client();
        tasks.spawn(async move {
            let (mut noted, mut refused) = (Vec::new(), 0_u64);
            for n in 0..EACH {
                let number = task * EACH + n;
                let ledger = Ledger::at(format!("l{}", number % 50));
                match client.ask(ledger, Note { number, mirror: None }).await {
                    Ok(_) => noted.push(number),
                    Err(AskError::Refused(Refusal::Busy(_))) => refused += 1,
                    Err(other) => panic!("neither done nor refused: {other}"),
                }
            }
            (noted, refused)
        });
    }
    let (mut noted, mut refused) = (Vec::new(), 0);
    while let Some(task) = tasks.join_next().await {
        let (some, few) = task.unwrap();
        noted.extend(some);
        refused += few;
        // One message more than the bound, and one activation for each worker.
        let (_, bytes) = runtime.activations();
        assert!(bytes < 2 * memory_max + (64 << 10), "{bytes} bytes of activations");
    }
    assert!(refused > 0, "nothing was refused: this is no overload");
    runtime.quiesce().await;
    let counters = runtime.counters();
    assert_eq!(counters.refused, refused);
    assert_eq!((counters.applied, counters.in_flight), (noted.len() as u64, 0));
    assert!(counters.balance());

    // It recovers: what was refused can be sent again.
    let client = runtime.client();
    let mut there = BTreeMap::new();
    for n in 0..50 {
        let counts = loop {
            match client.ask(Ledger::at(format!("l{n}")), Counts).await {
                Err(AskError::Refused(Refusal::Busy(Bound::Memory))) => tokio::task::yield_now().await,
                counts => break counts.unwrap(),
            }
        };
        there.extend(counts);
    }
    noted.sort_unstable();
    assert_eq!(there, noted.iter().map(|number| (*number, 1)).collect());
    runtime.shutdown().await;
}

#[test]
fn short_memory_lets_go_of_no_more_than_it_must() {
    let mut limits = Limits::default();
    limits.activation_bytes_max = 256 << 10;
    let (max, mark) = (limits.activation_bytes_max, limits.activation_bytes_max * 7 / 8);
    let mut driven = Driven::new(with::<Account>(kinds()), limits, 1, 1, 1);
    let mut number = 0;
    while driven.kernels[0].activations().1 < mark {
        number += 1;
        let fund = Fund { cents: 1 };
        driven.request(1, number, envelope::<Account, _>(&format!("a{number}"), &fund), true);
        driven.settle();
    }
    driven.checkpoint();
    // All are idle, but for less than it takes to be let go of for that alone.
    driven.pass(Duration::from_secs(2));
    let (_, bytes) = driven.kernels[0].activations();
    assert!(bytes < mark && max * 3 / 4 < bytes, "{bytes} of {max} bytes are left");
}

#[test]
fn replies_that_wait_for_a_lane_are_bounded() {
    let mut limits = Limits::default();
    limits.batch_len = 10;
    limits.undurable_bytes_max = 100;
    let mut driven = Driven::new(with::<Account>(kinds()), limits, 1, 1, 1);
    for _ in 0..1_000 {
        driven.query(named::<Books>(Account::KIND, "a", &Books));
    }
    // Nothing is durable meanwhile, also not the empty batches that only queries ride on.
    for _ in 0..100 {
        driven.run();
    }
    let waiting: usize = driven.pending.iter().map(|(_, submission)| submission.outputs.len()).sum();
    assert!((10..200).contains(&waiting), "{waiting} replies wait");
    driven.settle();
    assert_eq!(driven.told.len(), 1_000);
}

#[test]
fn messages_that_wait_for_a_stuck_entity_count_as_taken_in() {
    let mut limits = Limits::default();
    limits.intake_bytes_max = 4_000;
    limits.failing_for_max = Duration::from_mins(10);
    let mut driven = Driven::new(with::<Phoenix>(kinds()), limits, 1, 1, 1);
    driven.request(1, 1, envelope::<Phoenix, _>("p", &Poison { number: 1 }), true);
    for number in 2..=100 {
        let touch = Touch { life: 0, remind_millis: 0 };
        driven.request(1, number, envelope::<Phoenix, _>("p", &touch), true);
    }
    driven.settle();
    assert!(driven.kernels[0].intake_bytes() > 100 * 50, "{}", driven.kernels[0].intake_bytes());
}

/// The ring's rule: a message of a client or feed comes in only while there is less in the intake than it may hold.
fn has_room(driven: &Driven, kind: &str, key: &str, limits: &Limits) -> bool {
    let worker = driven.shard_of(kind, key).0 as usize % driven.kernels.len();
    driven.kernels[worker].intake_bytes() < limits.intake_bytes_max
}

/// A feed that sends what is not durable yet again and again, a window at a time to each shard.
struct Feeder {
    to: ReplyTo,
    id: FeedId,
    /// By shard: own number, tally and amount of each row.
    rows: BTreeMap<ShardId, Vec<(u64, String, u64)>>,
    /// Up to where they are durable.
    durable: BTreeMap<ShardId, u64>,
}

impl Feeder {
    fn open(driven: &mut Driven, number: u64, tallies: &[String], rows: u64) -> Self {
        let name = format!("f{number}");
        let (to, id) = (ReplyTo { connection: 100 + number as u32, slot: 0 }, FeedId::of(&name));
        for worker in 0..driven.kernels.len() {
            driven.step(worker, Event::OpenFeed { feed: id, name: name.as_str().into(), to });
        }
        let mut by_shard: BTreeMap<ShardId, Vec<_>> = BTreeMap::new();
        for own in 1..=rows {
            let tally = &tallies[(own % tallies.len() as u64) as usize];
            let row = (own, tally.clone(), 2 * own);
            by_shard.entry(driven.shard_of(Tally::KIND, tally)).or_default().push(row);
        }
        Self { to, id, rows: by_shard, durable: BTreeMap::new() }
    }

    fn offer(&mut self, driven: &mut Driven, limits: &Limits) {
        for receipt in driven.feeds_told.iter().filter(|receipt| receipt.to == self.to) {
            match receipt.news {
                FeedNews::Durable { through } => {
                    let durable = self.durable.entry(receipt.shard).or_default();
                    *durable = through.max(*durable);
                }
                FeedNews::SendFrom(_) => {}
                ref other => panic!("{other:?}"),
            }
        }
        for (&shard, rows) in &self.rows {
            let from = self.durable.get(&shard).copied().unwrap_or(0);
            let coming = (from + 1..).zip(rows.iter().skip(from as usize));
            for (number, (own, tally, amount)) in coming.take(limits.stream_window as usize) {
                if !has_room(driven, Tally::KIND, tally, limits) {
                    break;
                }
                let envelope = envelope::<Tally, _>(tally, &Row { amount: *amount });
                let from = Provenance::Feed { feed: self.id, number, own: *own, to: self.to };
                let hash = placement::hash(Tally::KIND, tally);
                driven.arrive(Arrival { shard, hash, envelope, from });
            }
        }
    }

    fn is_through(&self) -> bool {
        self.rows.iter().all(|(shard, rows)| self.durable.get(shard) == Some(&(rows.len() as u64)))
    }
}

/// Clients that never wait for an answer.
#[derive(Default)]
struct Crowd {
    speakers: Vec<String>,
    listeners: Vec<String>,
    offered: u64,
    /// By the ring, before the kernel heard of them.
    refused_at_once: u64,
    /// Where each is answered that came in, by its number.
    open: BTreeMap<u64, ReplyTo>,
    /// Why others were refused.
    refused: Vec<Bound>,
    done: u64,
    /// Of them, those that let a speaker speak once to every listener.
    spoken: u64,
}

/// A key of 64 bytes, so that what a message takes beside its own bytes is not most of it.
fn long(key: &str) -> String {
    format!("{key:-<64}")
}

impl Crowd {
    fn offer(&mut self, driven: &mut Driven, limits: &Limits) {
        self.offered += 1;
        let number = self.offered;
        let speaker = &self.speakers[(number % self.speakers.len() as u64) as usize];
        let (kind, key, envelope) = match number % 50 {
            // Its state cannot be read.
            0 => (Brittle::KIND, long("b"), envelope::<Brittle, _>(&long("b"), &Press)),
            // All to one.
            1..15 => {
                let credit = envelope::<Account, _>(&long("hot"), &Credit { cents: 1 });
                (Account::KIND, long("hot"), credit)
            }
            15..30 => {
                let speak = Speak { to: self.listeners.clone(), times: 1 };
                (Speaker::KIND, speaker.clone(), envelope::<Speaker, _>(speaker, &speak))
            }
            // Each to another.
            _ => {
                let key = long(&number.to_string());
                let touch = envelope::<Phoenix, _>(&key, &Touch { life: 0, remind_millis: 0 });
                (Phoenix::KIND, key, touch)
            }
        };
        if has_room(driven, kind, &key, limits) {
            // A client has the replies before its first open request.
            driven.acknowledged = self.open.keys().next().copied().unwrap_or(number) - 1;
            let to = driven.request(u128::from(number % 40), number, envelope, kind != Brittle::KIND);
            self.open.insert(number, to);
        } else {
            self.refused_at_once += 1;
        }
    }

    fn hear(&mut self, driven: &mut Driven) {
        let told: BTreeMap<ReplyTo, Outcome> = driven.told.drain(..).collect();
        self.open.retain(|number, to| {
            match told.get(to) {
                None => return true,
                Some(Outcome::Refused(Refusal::Busy(bound))) => self.refused.push(*bound),
                Some(Outcome::Done(_) | Outcome::Waiting) => {
                    self.done += 1;
                    self.spoken += u64::from((15..30).contains(&(number % 50)));
                }
                Some(other) => panic!("{other:?}"),
            }
            false
        });
    }
}

fn tight() -> Limits {
    let mut limits = Limits::default();
    limits.message_len_max = 192;
    limits.state_len_max = 128;
    limits.turn_len_max = 1_000;
    limits.mailbox_len_max = 4;
    limits.turns_in_row_max = 4;
    limits.intake_bytes_max = 4_000;
    limits.batch_len = 1_000;
    limits.undurable_bytes_max = 2_000;
    limits.stream_window = 2;
    limits.outbox_bytes_max = 8_000;
    limits.outbox_memory_max = 2_000;
    // Less than the entities take that are at work while the store is slow, so that it is full at times.
    limits.activation_bytes_max = 12_000;
    limits.replies_max = 50;
    limits.waiting_len_max = 8;
    limits
}

/// The most that one worker may have in memory, by its limits. Nothing here is measured.
fn bounds(limits: &Limits, streams_in: usize, shortest: usize) -> Held {
    let message = limits.message_len_max + size_of::<Mail>();
    Held {
        // Clients and feeds come in while there is less than the bound: one message more. In a mailbox each of them takes
        // its place there too. And of each stream one window may be under way, for its sender keeps it anyway (P8).
        intake: limits.intake_bytes_max
            + limits.message_len_max
            + (limits.intake_bytes_max / shortest + 1) * size_of::<Mail>()
            + streams_in * limits.stream_window as usize * message,
        // One message of each stream may always be in memory. What no load would find yet must be: the batches that are
        // not durable, the one that passes their bound, and the one that is being built, a turn longer than it should be.
        outbox: limits.outbox_memory_max
            + streams_in * limits.message_len_max
            + limits.undurable_bytes_max
            + 2 * (limits.batch_len + limits.turn_len_max),
        // New ones are refused at the bound. Those let in before it, as many as there can be without a state, get their
        // state and its image, in a buffer that was another's and may be twice as long as it must.
        activations: limits.activation_bytes_max
            + (limits.activation_bytes_max / size_of::<Activation>() + 1) * 3 * limits.state_len_max,
        kept: 0,
    }
}

#[test]
fn memory_stays_below_its_bounds_under_ten_times_the_load_and_everything_is_accounted_for() {
    const SHARDS: u32 = 8;
    const WORKERS: usize = 2;
    const ROWS: u64 = 200;
    let limits = tight();
    let all = with::<Tally>(with::<Phoenix>(with::<Listener>(with::<Speaker>(kinds()))));
    let all = with::<Brittle>(with::<Account>(all));
    let mut driven = Driven::new(all, limits.clone(), SHARDS, WORKERS as u32, WORKERS);
    let press = envelope::<Brittle, _>(&long("b"), &Press);
    let shortest = press.bytes().len();
    driven.request(99, 1, press, true);
    driven.settle();
    driven.restart();
    BRITTLE_BROKEN.set(true);
    let keys = |kind| (0..SHARDS).map(|shard| driven.key_in(kind, shard, 0)).collect::<Vec<_>>();
    let (speakers, listeners, tallies) = (keys(Speaker::KIND), keys(Listener::KIND), keys(Tally::KIND));
    let mut feeders: Vec<_> = (0..4).map(|n| Feeder::open(&mut driven, n, &tallies, ROWS)).collect();
    let mut crowd = Crowd { speakers, listeners: listeners.clone(), ..Crowd::default() };
    let bounds = bounds(&limits, (SHARDS * SHARDS) as usize / WORKERS, shortest);
    let check = |driven: &Driven| {
        let peaks = driven.peaks;
        assert!(peaks.intake <= bounds.intake, "{peaks:?} of {bounds:?}");
        assert!(peaks.outbox <= bounds.outbox, "{peaks:?} of {bounds:?}");
        assert!(peaks.activations <= bounds.activations, "{peaks:?} of {bounds:?}");
    };
    driven.told.clear();
    for _ in 0..100 {
        for _ in 0..10 {
            // As many as all intakes hold, ten times before time passes.
            for _ in 0..WORKERS * limits.intake_bytes_max / shortest {
                crowd.offer(&mut driven, &limits);
            }
            for feeder in &mut feeders {
                feeder.offer(&mut driven, &limits);
            }
            driven.run();
            if !driven.pending.is_empty() {
                // The store is slower than the workers.
                driven.commit();
                driven.make_loadable();
            }
            check(&driven);
        }
        driven.wait(Duration::from_millis(1_100));
        driven.tick();
        crowd.hear(&mut driven);
    }
    let peaks = driven.peaks;
    assert!(
        bounds.outbox < peaks.kept,
        "the outboxes would have fitted into memory: {peaks:?} of {bounds:?}"
    );
    // The load ends: what was accepted and what is fed comes to its end.
    for _ in 0..1_000 {
        for feeder in &mut feeders {
            feeder.offer(&mut driven, &limits);
        }
        driven.settle();
        driven.make_loadable();
        driven.pass(Duration::from_millis(1_100));
        crowd.hear(&mut driven);
        if feeders.iter().all(Feeder::is_through) && crowd.open.is_empty() {
            break;
        }
    }
    driven.pass(Duration::from_mins(1));
    check(&driven);
    assert!(feeders.iter().all(Feeder::is_through) && crowd.open.is_empty(), "{:?}", crowd.open);

    // Who was not accepted was refused, and counted; ten times more was offered than accepted.
    let counters = driven.kernels.iter().fold(Counters::default(), |sum, kernel| sum.plus(kernel.counters()));
    let refused = crowd.refused.len() as u64;
    println!("{peaks:?} of {bounds:?}, {} done and {refused} refused", crowd.done);
    assert_eq!(counters.refused, refused);
    assert_eq!(crowd.offered, crowd.refused_at_once + refused + crowd.done);
    assert!(10 * crowd.done <= crowd.offered, "{} of {} were done", crowd.done, crowd.offered);
    for bound in [Bound::Mailbox, Bound::Outbox, Bound::Memory] {
        let times = crowd.refused.iter().filter(|refused| **refused == bound).count();
        println!("{bound} was full {times} times");
        assert!(0 < times, "{bound} was never full");
    }
    // Who was accepted was applied, waits or is dead-lettered: requests, words, rows and what rows send on.
    let (words, rows) = (crowd.spoken * u64::from(SHARDS), 4 * ROWS);
    assert_eq!(counters.accepted, crowd.done + words + 2 * rows);
    let dead = driven.dead_letters().len() as u64;
    assert!(0 < dead, "the waiting queue was never full");
    assert_eq!((counters.waiting, counters.dead_lettered, counters.in_flight), (8, dead, 0));
    assert_eq!(counters.applied + counters.waiting + counters.dead_lettered, counters.accepted);
    // And took effect once, in order.
    let mut heard = 0;
    for listener in &listeners {
        let (last, gaps) = query(&mut driven, Listener::KIND, listener, &Heard);
        assert_eq!(gaps, []);
        heard += last.values().sum::<u64>();
    }
    assert_eq!(heard, words);
    let sums = tallies.iter().map(|tally| query(&mut driven, Tally::KIND, tally, &Sum));
    let sums = sums.fold((0, 0), |sums, (rows, sum)| (sums.0 + rows, sums.1 + sum));
    assert_eq!(sums, (rows, 4 * ROWS * (ROWS + 1)));
}

fn query<M: Message>(driven: &mut Driven, kind: &str, key: &str, question: &M) -> M::Reply {
    let to = driven.query(named(kind, key, question));
    driven.settle();
    let Some(Outcome::Done(reply)) = driven.answer(to) else { panic!("no answer: {:?}", driven.answer(to)) };
    entity_runtime::codec::decode(&reply.body).expect("the reply's type")
}

#[cfg(target_os = "linux")]
#[test]
fn the_memory_of_a_process_is_flat_under_ten_times_the_load() {
    // What the first round may not have filled yet: the tail of the log, 8 MiB, is in memory as rows, in buffers and in the
    // checkpoint's caches until it is covered. The second round offers more than 200 MiB, and has nearly all of it refused.
    const SLACK_KIB: u64 = 24 << 10;
    let directory = tempfile::tempdir().unwrap();
    let victim = std::process::Command::new(env!("CARGO_BIN_EXE_victim"))
        .arg("overload")
        .arg(directory.path())
        .args(["300", "900"])
        .output()
        .unwrap();
    assert!(victim.status.success(), "{victim:?}");
    let said = String::from_utf8_lossy(&victim.stdout).into_owned();
    println!("{said}");
    let rounds: Vec<Vec<u64>> =
        said.lines().map(|line| line.split(' ').map(|word| word.parse().unwrap()).collect()).collect();
    let [first, second] = &rounds[..] else { panic!("{said}") };
    let [done, refused, peak] = [0, 1, 2].map(|at| (first[at], second[at]));
    assert!(done.0 < done.1 && 0 < refused.0 && refused.0 < refused.1, "this is no overload: {said}");
    assert!(peak.1 <= peak.0 + SLACK_KIB, "{} KiB became {}", peak.0, peak.1);
}

#[tokio::test]
async fn requests_wait_while_the_log_is_at_its_bound_and_questions_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::new(Shards::new(8).unwrap(), 1);
    let faults = store.faults();
    let runtime = builder(directory.path(), small_limits()).store(Arc::new(store)).start().await.unwrap();
    let client = runtime.client();
    for round in 0..5 {
        faults.refuse_room(LaneId(0), Some(NoRoom::LogTail));
        let mut noted = tokio::task::JoinSet::new();
        for n in 0..20 {
            let (client, number) = (client.clone(), round * 20 + n);
            noted.spawn(async move {
                client.ask(Ledger::at(format!("l{n}")), Note { number, mirror: None }).await
            });
        }
        // Both workers run without room meanwhile, and answer: they give back none that they never had.
        for n in 0..20 {
            assert_eq!(client.ask(Ledger::at(format!("l{n}")), Counts).await.unwrap().len(), round as usize);
        }
        faults.refuse_room(LaneId(0), None);
        while let Some(note) = noted.join_next().await {
            note.unwrap().unwrap();
        }
    }
    assert_eq!(runtime.failure(), None);
    runtime.shutdown().await;
}
