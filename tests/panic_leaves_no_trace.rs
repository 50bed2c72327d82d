//! A panic in user code leaves no trace, and the neighbours go on.

use entity_runtime::{AskError, Refusal, prelude::*};
use entity_runtime_tests::running::{Counts, Explode, Ledger, Mirror, Note, Stuck, builder, small_limits};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_message_is_dead_lettered_once_and_its_neighbours_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut limits = small_limits();
    limits.retry_after = Duration::from_millis(1);
    limits.tries_max = 3;
    let runtime = builder(directory.path(), limits.clone()).start().await.unwrap();
    let client = runtime.client();
    client.ask(Ledger::at("a"), Note { number: 1, mirror: None }).await.unwrap();
    let poison = client.ask(Ledger::at("a"), Explode);
    let behind = client.ask(Ledger::at("a"), Note { number: 2, mirror: None });
    let beside = client.ask(Ledger::at("b"), Note { number: 3, mirror: None });
    let (poison, behind, beside) =
        tokio::join!(poison.into_future(), behind.into_future(), beside.into_future());
    assert!(matches!(&poison, Err(AskError::DeadLettered(why)) if why.contains("as asked")), "{poison:?}");
    behind.unwrap();
    beside.unwrap();
    runtime.quiesce().await;
    let counters = runtime.counters();
    assert_eq!((counters.dead_lettered, counters.panics, counters.applied), (1, 3, 3));
    assert!(counters.balance());
    runtime.shutdown().await;

    let runtime = builder(directory.path(), limits).start().await.unwrap();
    let client = runtime.client();
    assert_eq!(client.ask(Ledger::at("a"), Counts).await.unwrap(), [(1, 1), (2, 1)].into());
    assert!(client.ask(Mirror::at("exploded"), Counts).await.unwrap().is_empty());
    assert_eq!(runtime.counters().panics, 0, "it is not tried again");
    runtime.shutdown().await;
}

#[tokio::test]
async fn a_question_that_panics_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let client = runtime.client();
    client.ask(Ledger::at("a"), Note { number: 1, mirror: None }).await.unwrap();
    let stuck = client.ask(Ledger::at("a"), Stuck).await;
    assert!(matches!(&stuck, Err(AskError::Refused(Refusal::QueryFailed(_)))), "{stuck:?}");
    assert_eq!(client.ask(Ledger::at("a"), Counts).await.unwrap(), [(1, 1)].into());
    runtime.shutdown().await;
}

/// Panics where it is encoded, decoded or made, as its key says.
#[derive(Default, Debug)]
struct Fragile(u64);

impl Serialize for Fragile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert_ne!(self.0, 13, "13 cannot be written");
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        assert_ne!(value, 17, "17 cannot be read");
        Ok(Self(value))
    }
}

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "vase", handles(Set), queries(Get))]
struct Vase {
    value: Fragile,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
struct Set {
    value: u64,
}

#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
struct Get;

impl Handle<Set> for Vase {
    fn handle(&mut self, set: Set, _: &mut Context<'_, Self>) {
        self.value.0 = set.value;
    }
}

impl Query<Get> for Vase {
    fn query(&self, _: Get) -> u64 {
        self.value.0
    }
}

#[tokio::test]
async fn a_state_that_panics_when_it_is_written_or_read_stops_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut limits = small_limits();
    limits.retry_after = Duration::from_millis(1);
    limits.tries_max = 2;
    limits.failing_for_max = Duration::from_millis(1);
    let start = || builder(directory.path(), limits.clone()).entity::<Vase>().start();
    let runtime = start().await.unwrap();
    let client = runtime.client();
    client.ask(Vase::at("a"), Set { value: 1 }).await.unwrap();
    let unwritable = client.ask(Vase::at("a"), Set { value: 13 }).await;
    assert!(matches!(&unwritable, Err(AskError::DeadLettered(why)) if why.contains("13")), "{unwritable:?}");
    assert_eq!(client.ask(Vase::at("a"), Get).await, Ok(1));
    client.ask(Vase::at("b"), Set { value: 17 }).await.unwrap();
    runtime.shutdown().await;

    let runtime = start().await.unwrap();
    let client = runtime.client();
    let parked = client.ask(Vase::at("b"), Get).await;
    assert!(matches!(&parked, Err(AskError::Refused(Refusal::Parked(_)))), "{parked:?}");
    // A message to it waits, and its neighbours go on.
    client.send(Vase::at("b"), Set { value: 2 }).await.unwrap();
    assert_eq!(client.ask(Vase::at("a"), Get).await, Ok(1));
    runtime.quiesce().await;
    assert_eq!(runtime.counters().waiting, 1);
    assert_eq!(runtime.failure(), None);
    runtime.shutdown().await;
}
