//! The ring of threads around the kernels, on a store whose lanes fail, hang and end unknown: all numbers stay exact.

use entity_runtime::{
    AskError, Refusal, Runtime,
    entity::Entity,
    placement::{self, Epoch, ShardId, Shards},
    store::{
        Batch, CommitError, ImageKey, Lane, LaneId, LoadError, NoRoom, OwnedShard, Ownership, Position,
        StageError, Store, StoreIdentity, ToStage, TransferId, memory::MemoryStore,
    },
};
use entity_runtime_tests::running::{Counts, Dice, Ledger, Mirror, Note, builder, small_limits};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

const LANES: u32 = 3;
const LEDGERS: u64 = 7;
const MIRRORS: u64 = 3;
/// What each lane meets before it is left in peace.
const FAULTS_PER_LANE: usize = 60;

/// What a commit may meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Nothing is written.
    Failed,
    /// Nothing is written yet.
    Later,
    /// Nothing is written, as of an owner that is no longer one.
    Fenced,
    /// It is written and not known to be.
    UnknownWritten,
    /// It is not written and not known not to be.
    UnknownLost,
    /// The same for as many tries: a lane that hangs.
    Hung(u64),
    /// Nothing is written, now or later.
    Died,
}

/// Says what the next commit of a lane meets. It is asked at every commit, so what it says follows from how far the load
/// has come, and from no clock.
type Judge = Arc<Mutex<dyn FnMut(LaneId) -> Option<Fault> + Send>>;

/// A store whose lanes meet what is judged.
struct Troubled {
    store: MemoryStore,
    judge: Judge,
    /// How often rows are still not made loadable, for want of room.
    full: Arc<AtomicU64>,
    /// How many loads there were: each third comes later.
    loads: AtomicU64,
}

impl Troubled {
    fn may_load(&self) -> Result<(), LoadError> {
        let is_third = self.loads.fetch_add(1, Ordering::Relaxed) % 3 == 2;
        if is_third { Err(LoadError::Later(io::Error::other("planned"))) } else { Ok(()) }
    }
}

struct TroubledLane {
    lane: Box<dyn Lane>,
    id: LaneId,
    judge: Judge,
    /// Tries for which it still hangs.
    hung: u64,
    /// The group that comes again is written: the store may not say anything else of it.
    is_written: bool,
}

async fn start(store: MemoryStore, judge: impl FnMut(LaneId) -> Option<Fault> + Send + 'static) -> Runtime {
    start_full(store, Arc::default(), judge).await
}

async fn start_full(
    store: MemoryStore,
    full: Arc<AtomicU64>,
    judge: impl FnMut(LaneId) -> Option<Fault> + Send + 'static,
) -> Runtime {
    let store = Troubled { store, judge: Arc::new(Mutex::new(judge)), full, loads: AtomicU64::new(0) };
    let builder = Runtime::builder().entity::<Ledger>().entity::<Mirror>();
    builder.store(Arc::new(store)).workers(2).start().await.unwrap()
}

impl Lane for TroubledLane {
    fn commit(&mut self, group: &[Batch]) -> Result<Position, CommitError> {
        let planned = || io::Error::other("planned");
        if 0 < self.hung {
            self.hung -= 1;
            return Err(CommitError::Unknown(planned()));
        }
        if std::mem::take(&mut self.is_written) {
            return self.lane.commit(group);
        }
        let Some(fault) = self.judge.lock().unwrap()(self.id) else { return self.lane.commit(group) };
        Err(match fault {
            Fault::Failed => CommitError::Failed(planned()),
            Fault::Later => CommitError::Later(planned()),
            Fault::Fenced => CommitError::Fenced(group[0].sections().next().unwrap().shard),
            Fault::UnknownWritten => {
                self.lane.commit(group)?;
                self.is_written = true;
                CommitError::Unknown(planned())
            }
            Fault::UnknownLost => CommitError::Unknown(planned()),
            Fault::Hung(tries) => {
                self.hung = tries - 1;
                CommitError::Unknown(planned())
            }
            Fault::Died => CommitError::Fatal(planned()),
        })
    }

    fn commit_and_confirm(
        &mut self,
        group: &[Batch],
        shown: &[(ShardId, Epoch)],
    ) -> Result<Position, CommitError> {
        self.lane.commit_and_confirm(&[], shown)?;
        if group.is_empty() { Ok(Position::default()) } else { self.commit(group) }
    }

    fn quiet(&mut self) -> Result<(), CommitError> {
        self.lane.quiet()
    }
}

impl Store for Troubled {
    fn open_lane(&self, id: LaneId) -> Box<dyn Lane> {
        let (lane, judge) = (self.store.open_lane(id), Arc::clone(&self.judge));
        Box::new(TroubledLane { lane, id, judge, hung: 0, is_written: false })
    }

    fn shards(&self) -> Shards {
        self.store.shards()
    }

    fn lanes(&self) -> u32 {
        self.store.lanes()
    }

    fn lane_of(&self, shard: ShardId) -> LaneId {
        self.store.lane_of(shard)
    }

    fn identity(&self) -> StoreIdentity {
        self.store.identity()
    }

    fn owned(&self) -> Result<Vec<OwnedShard>, LoadError> {
        self.store.owned()
    }

    fn ownership(&self) -> Result<Vec<(ShardId, Ownership)>, LoadError> {
        self.store.ownership()
    }

    fn load_rows(
        &self,
        shard: ShardId,
        epoch: Epoch,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), LoadError> {
        self.may_load()?;
        self.store.load_rows(shard, epoch, keys, visit)
    }

    fn load_images(&self, keys: &[ImageKey]) -> Result<Vec<Option<Vec<u8>>>, LoadError> {
        self.may_load()?;
        self.store.load_images(keys)
    }

    fn begin_staging(&self, shard: ShardId, epoch: Epoch, transfer: TransferId) -> Result<(), StageError> {
        self.store.begin_staging(shard, epoch, transfer)
    }

    fn stage_all(&self, stagings: &[ToStage<'_>]) -> Vec<Result<(), StageError>> {
        self.store.stage_all(stagings)
    }

    fn load_staged(
        &self,
        shard: ShardId,
        epoch: Epoch,
        transfer: TransferId,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StageError> {
        self.store.load_staged(shard, epoch, transfer, keys, visit)
    }

    fn sweep_staging(&self, shard: ShardId, epoch: Epoch, transfer: TransferId) -> Result<(), StageError> {
        self.store.sweep_staging(shard, epoch, transfer)
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
        self.store.note(name)
    }

    fn keep_note(&self, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
        self.store.keep_note(name, bytes)
    }

    fn durable(&self, lane: LaneId) -> Position {
        self.store.durable(lane)
    }

    fn loadable(&self, lane: LaneId) -> Position {
        self.store.loadable(lane)
    }

    fn reserve(&self, lane: LaneId, bytes: u64) -> Result<(), NoRoom> {
        self.store.reserve(lane, bytes)
    }

    fn release(&self, lane: LaneId, bytes: u64) {
        self.store.release(lane, bytes);
    }

    fn shrink(&self, lane: LaneId, from: u64, to: u64) {
        self.store.shrink(lane, from, to);
    }

    fn wants_maintenance(&self) -> bool {
        self.store.wants_maintenance()
    }

    fn maintain(&self) -> Result<(), LoadError> {
        self.store.maintain()
    }

    fn make_loadable(&self, lane: LaneId) -> Result<(), LoadError> {
        let take = |left: u64| left.checked_sub(1);
        match self.full.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(_) => Err(LoadError::Io(io::ErrorKind::StorageFull.into())),
            Err(_) => self.store.make_loadable(lane),
        }
    }
}

fn shards() -> Shards {
    Shards::new(8).unwrap()
}

fn note(number: u64) -> Note {
    Note { number, mirror: Some(format!("m{}", number % MIRRORS)) }
}

fn ledger(number: u64) -> String {
    format!("l{}", number % LEDGERS)
}

/// What one lane will meet, each with the number of commits that are left alone before it: every class at first, then as
/// the dice fall.
fn script(dice: &mut Dice) -> VecDeque<(u64, Fault)> {
    let class = |nth: u64, dice: &mut Dice| match nth {
        0 => Fault::Failed,
        1 => Fault::Fenced,
        2 => Fault::UnknownWritten,
        3 => Fault::UnknownLost,
        4 => Fault::Later,
        _ => Fault::Hung(2 + dice.below(3)),
    };
    (0..FAULTS_PER_LANE as u64)
        .map(|nth| {
            let nth = if nth < 6 { nth } else { dice.below(6) };
            (dice.below(4), class(nth, dice))
        })
        .collect()
}

/// Numbers are noted, each by an ask of its own that is asked again while its outcome is unknown, until the faults are
/// over.
async fn ask_all(runtime: &Runtime, numbers: &AtomicU64, is_over: &AtomicBool) {
    let client = runtime.client();
    while !is_over.load(Ordering::Relaxed) {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let mut asked = client.ask(Ledger::at(ledger(number)), note(number));
        let id = asked.id();
        let mut outcome = asked.await;
        loop {
            match outcome {
                Ok(_) => break,
                Err(AskError::Unknown(_) | AskError::Refused(Refusal::Busy(_) | Refusal::Unavailable)) => {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
            outcome = client.ask(Ledger::at(ledger(number)), note(number)).with_id(id).await;
        }
    }
}

/// Feeds from this number on until the faults are over; returns the number behind the last.
async fn feed_all(runtime: &Runtime, first: u64, is_over: &AtomicBool) -> u64 {
    let mut feed = runtime.client().feed("f").await.unwrap();
    let mut number = first;
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..50 {
            feed.send(number, Ledger::at(ledger(number)), note(number)).await.unwrap();
            number += 1;
        }
        feed.flush().await.unwrap();
    }
    number
}

async fn all_numbers_are_exact(store: MemoryStore) {
    const FED: u64 = 1_000_000;
    let mut dice = Dice::new();
    let mut scripts: Vec<_> = (0..LANES).map(|_| script(&mut dice)).collect();
    let met = Arc::new(Mutex::new(BTreeMap::<Fault, u64>::new()));
    let is_over = Arc::new(AtomicBool::new(false));
    let judge = {
        let (met, is_over) = (Arc::clone(&met), Arc::clone(&is_over));
        move |lane: LaneId| {
            is_over.store(scripts.iter().all(VecDeque::is_empty), Ordering::Relaxed);
            let (left_alone, fault) = scripts[lane.0 as usize].front_mut()?;
            if 0 < *left_alone {
                *left_alone -= 1;
                return None;
            }
            let fault = *fault;
            scripts[lane.0 as usize].pop_front();
            *met.lock().unwrap().entry(fault).or_default() += 1;
            Some(fault)
        }
    };
    let runtime = start(store, judge).await;
    let numbers = AtomicU64::new(1);
    let load = async {
        tokio::join!(
            ask_all(&runtime, &numbers, &is_over),
            ask_all(&runtime, &numbers, &is_over),
            feed_all(&runtime, FED, &is_over)
        )
    };
    let ((), (), fed) =
        tokio::time::timeout(Duration::from_mins(2), load).await.expect("nothing stands still");
    tokio::time::timeout(Duration::from_mins(1), runtime.quiesce()).await.expect("the ring comes to rest");
    let client = runtime.client();
    let (mut ledgers, mut mirrors) = (BTreeMap::new(), BTreeMap::new());
    for n in 0..LEDGERS {
        ledgers.append(&mut client.ask(Ledger::at(ledger(n)), Counts).await.unwrap());
    }
    for n in 0..MIRRORS {
        mirrors.append(&mut client.ask(Mirror::at(format!("m{n}")), Counts).await.unwrap());
    }
    let expected: BTreeMap<u64, u32> =
        (1..numbers.into_inner()).chain(FED..fed).map(|number| (number, 1)).collect();
    println!("{} numbers through {:?}", expected.len(), met.lock().unwrap());
    assert_eq!(ledgers, expected);
    assert_eq!(mirrors, expected);
    assert!(runtime.counters().balance());
    runtime.shutdown().await;

    let met = met.lock().unwrap();
    for fault in [Fault::Failed, Fault::Later, Fault::Fenced, Fault::UnknownWritten, Fault::UnknownLost] {
        assert!(u64::from(LANES) <= met[&fault], "{fault:?} was not met in every lane: {met:?}");
    }
    assert!(met.keys().any(|fault| matches!(fault, Fault::Hung(_))), "no lane hung: {met:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_and_a_feed_go_through_failing_lanes() {
    all_numbers_are_exact(MemoryStore::new(shards(), LANES)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_and_a_feed_go_through_failing_lanes_of_a_store_that_lags() {
    all_numbers_are_exact(MemoryStore::lagging(shards(), LANES)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_whose_rows_cannot_be_found_for_want_of_room_is_loaded_later() {
    let (full, is_failing) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let judge = {
        let is_failing = Arc::clone(&is_failing);
        move |_| is_failing.swap(false, Ordering::SeqCst).then_some(Fault::Failed)
    };
    let runtime = start_full(MemoryStore::lagging(shards(), 1), Arc::clone(&full), judge).await;
    let client = runtime.client();
    client.ask(Ledger::at("a"), Note { number: 1, mirror: None }).await.unwrap();
    // The lane is void; what it has committed cannot be loaded at first.
    full.store(2, Ordering::SeqCst);
    is_failing.store(true, Ordering::SeqCst);
    // Whether it was in the batch that failed, or came again behind it.
    let second = client.ask(Ledger::at("a"), Note { number: 2, mirror: None }).await;
    let noted = 1 + u64::from(second.is_ok());
    let expected: BTreeMap<u64, u32> = (1..=noted).map(|number| (number, 1)).collect();
    assert_eq!(client.ask(Ledger::at("a"), Counts).await.unwrap(), expected);
    assert_eq!((full.load(Ordering::SeqCst), runtime.failure()), (0, None));
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_dies_while_the_runtime_stops_holds_nobody_up() {
    let (tries, is_dead) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let judge = {
        let (tries, is_dead) = (Arc::clone(&tries), Arc::clone(&is_dead));
        move |_| {
            tries.fetch_add(1, Ordering::SeqCst);
            Some(if is_dead.load(Ordering::SeqCst) { Fault::Died } else { Fault::UnknownLost })
        }
    };
    let runtime = start(MemoryStore::new(shards(), 1), judge).await;
    let more_tries = async |count| {
        let before = tries.load(Ordering::SeqCst);
        while tries.load(Ordering::SeqCst) < before + count {
            tokio::task::yield_now().await;
        }
    };
    let client = runtime.client();
    let asked = tokio::spawn(client.ask(Ledger::at("a"), note(1)).into_future());
    more_tries(1).await;
    // It is in a batch that does not become durable, and the stop waits for that.
    let stopping = tokio::spawn(runtime.shutdown());
    let late = || client.send(Ledger::at("b"), note(2)).timeout(Duration::ZERO);
    while late().await != Err(AskError::Refused(Refusal::Stopping)) {}
    more_tries(5).await;
    assert!(!stopping.is_finished(), "it stopped with a batch on its way");
    is_dead.store(true, Ordering::SeqCst);
    tokio::time::timeout(Duration::from_mins(1), stopping).await.expect("the stop ends").unwrap();
    let told = asked.await.unwrap().unwrap_err();
    assert!(matches!(&told, AskError::Unknown(_)), "{told}");
}

#[tokio::test]
async fn a_load_that_is_fenced_voids_its_lane_and_no_more() {
    let store = MemoryStore::new(shards(), 2);
    let faults = store.faults();
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).store(Arc::new(store)).start().await.unwrap();
    let client = runtime.client();
    for number in 0..40 {
        // Nothing is on its way to be fenced: that the shard had another owner meanwhile shows in the load alone.
        let key = format!("fresh{number}");
        faults.advance_epoch(shards().place(placement::hash(Ledger::KIND, &key)));
        assert!(client.ask(Ledger::at(&key), Counts).await.is_ok_and(|counts| counts.is_empty()));
        client.ask(Ledger::at(&key), Note { number, mirror: None }).await.unwrap();
        assert_eq!(client.ask(Ledger::at(&key), Counts).await.unwrap(), BTreeMap::from([(number, 1)]));
    }
    assert_eq!(runtime.failure(), None);
    runtime.shutdown().await;
}
