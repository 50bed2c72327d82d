//! The ring of threads around the kernels, on a store whose lanes fail, hang and end unknown: all numbers stay exact.

use entity_runtime::{
    AskError, Runtime,
    entity::Entity,
    placement::Shards,
    store::{
        LaneId,
        memory::{Faults, MemoryStore},
    },
};
use entity_runtime_tests::running::{Counts, Dice, Ledger, Mirror, Note};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const LANES: u32 = 3;
const LEDGERS: u64 = 7;
const MIRRORS: u64 = 3;

async fn start(store: MemoryStore) -> Runtime {
    let builder = Runtime::builder().entity::<Ledger>().entity::<Mirror>();
    builder.store(Arc::new(store)).workers(2).start().await.unwrap()
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

/// Each number is noted by an ask of its own, asked again while its outcome is unknown.
async fn ask_all(runtime: &Runtime, numbers: std::ops::Range<u64>) {
    let client = runtime.client();
    for number in numbers {
        let mut asked = client.ask(Ledger::at(ledger(number)), note(number));
        let id = asked.id();
        let mut outcome = asked.await;
        loop {
            match outcome {
                Ok(_) => break,
                Err(AskError::Unknown(_) | AskError::Refused(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
            outcome = client.ask(Ledger::at(ledger(number)), note(number)).with_id(id).await;
        }
    }
}

async fn feed_all(runtime: &Runtime, numbers: std::ops::Range<u64>) {
    let mut feed = runtime.client().feed("f").await.unwrap();
    for number in numbers {
        feed.send(number, Ledger::at(ledger(number)), note(number)).await.unwrap();
        if number % 50 == 0 {
            feed.flush().await.unwrap();
        }
    }
    feed.flush().await.unwrap();
}

/// Plans a fault now and then until the load is through.
async fn trouble(faults: &Faults, dice: &mut Dice, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let lane = LaneId(dice.below(u64::from(LANES)) as u32);
        match dice.below(4) {
            0 => faults.fail(lane),
            1 => faults.unknown(lane, true),
            2 => faults.unknown(lane, false),
            _ => {
                faults.hang(lane);
                tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
                faults.release(lane);
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.below(30))).await;
    }
}

async fn all_numbers_are_exact(lagging: bool) {
    const ASKED: u64 = 400;
    const FED: u64 = 2_000;
    let mut dice = Dice::new();
    let store =
        if lagging { MemoryStore::lagging(shards(), LANES) } else { MemoryStore::new(shards(), LANES) };
    let faults = store.faults();
    let runtime = start(store).await;
    let is_over = AtomicBool::new(false);
    let load = async {
        tokio::join!(
            ask_all(&runtime, 1..ASKED / 2),
            ask_all(&runtime, ASKED / 2..ASKED),
            feed_all(&runtime, ASKED..ASKED + FED)
        );
        is_over.store(true, Ordering::Relaxed);
    };
    let ended = async { tokio::join!(load, trouble(&faults, &mut dice, &is_over)) };
    tokio::time::timeout(Duration::from_mins(2), ended).await.expect("nothing stands still");
    tokio::time::timeout(Duration::from_mins(1), runtime.quiesce()).await.expect("the ring comes to rest");
    let client = runtime.client();
    let (mut ledgers, mut mirrors) = (BTreeMap::new(), BTreeMap::new());
    for n in 0..LEDGERS {
        ledgers.append(&mut client.ask(Ledger::at(ledger(n)), Counts).await.unwrap());
    }
    for n in 0..MIRRORS {
        mirrors.append(&mut client.ask(Mirror::at(format!("m{n}")), Counts).await.unwrap());
    }
    let expected: BTreeMap<u64, u32> = (1..ASKED + FED).map(|number| (number, 1)).collect();
    assert_eq!(ledgers, expected);
    assert_eq!(mirrors, expected);
    assert!(runtime.counters().balance());
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_and_a_feed_go_through_failing_lanes() {
    all_numbers_are_exact(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_and_a_feed_go_through_failing_lanes_of_a_store_that_lags() {
    all_numbers_are_exact(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_dies_while_the_runtime_stops_holds_nobody_up() {
    let store = MemoryStore::new(shards(), 1);
    let faults = store.faults();
    let runtime = start(store).await;
    let client = runtime.client();
    faults.hang(LaneId(0));
    let asked = tokio::spawn(client.ask(Ledger::at("a"), note(1)).into_future());
    while runtime.counters().accepted == 0 {
        tokio::task::yield_now().await;
    }
    // It is in a batch that does not become durable, and the stop waits for that.
    let mut stopping = tokio::spawn(runtime.shutdown());
    tokio::time::timeout(Duration::from_millis(100), &mut stopping).await.unwrap_err();
    faults.die(LaneId(0));
    faults.release(LaneId(0));
    tokio::time::timeout(Duration::from_secs(10), stopping).await.expect("the stop ends").unwrap();
    asked.await.unwrap().unwrap_err();
}
