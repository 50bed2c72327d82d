//! A feed can be sent again from its start, twice at once, or cut off: each row counts once.

use entity_runtime::{
    Client, FeedError, Refusal, Runtime,
    activation::ReplyTo,
    client::{FeedProgress, OperatorError, Parting},
    entity::Entity,
    error::Bound,
    feeds::{DropStep, FeedId, FeedIdentity, FeedQuestion},
    kernel::{Arrival, Event, FeedNews, Outcome, Provenance},
    limits::Limits,
    placement,
    store::{LaneId, NoRoom},
};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, with},
    entities::{Row, Tally},
    running::{Counts, Dice, Ledger, Mirror, Note, builder, small_limits},
};
use std::{collections::BTreeMap, path::Path};

const ROWS: u64 = 3_000;

async fn start(directory: &Path) -> Runtime {
    builder(directory, small_limits()).start().await.unwrap()
}

async fn feed(client: Client, name: &str, rows: u64, salt: u64) -> Result<(), FeedError> {
    let mut feed = client.feed(name).await?;
    for row in 1..=rows {
        let note = Note { number: row + salt, mirror: Some(format!("m{}", row % 3)) };
        feed.send(row, Ledger::at(format!("l{}", row % 7)), note).await?;
    }
    feed.flush().await
}

async fn check(runtime: &Runtime, rows: u64) {
    runtime.quiesce().await;
    let client = runtime.client();
    let (mut ledgers, mut mirrors) = (BTreeMap::new(), BTreeMap::new());
    for n in 0..7 {
        ledgers.append(&mut client.ask(Ledger::at(format!("l{n}")), Counts).await.unwrap());
    }
    for n in 0..3 {
        mirrors.append(&mut client.ask(Mirror::at(format!("m{n}")), Counts).await.unwrap());
    }
    let expected: BTreeMap<u64, u32> = (1..=rows).map(|row| (row, 1)).collect();
    assert_eq!(ledgers, expected);
    assert_eq!(mirrors, expected);
    assert!(runtime.counters().balance());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_sent_again_from_its_first_row_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = start(directory.path()).await;
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    check(&runtime, ROWS).await;
    runtime.shutdown().await;
    let runtime = start(directory.path()).await;
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    // And a longer one goes on behind the end of the shorter.
    feed(runtime.client(), "f", ROWS + 100, 0).await.unwrap();
    check(&runtime, ROWS + 100).await;
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_feeds_under_one_name_at_once_count_once() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = start(directory.path()).await;
    let one = tokio::spawn(feed(runtime.client(), "f", ROWS, 0));
    let other = tokio::spawn(feed(runtime.client(), "f", ROWS, 0));
    one.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    check(&runtime, ROWS).await;
    runtime.shutdown().await;
}

async fn feed_part(runtime: &Runtime, rows: u64) {
    let mut feed = runtime.client().feed("f").await.unwrap();
    for row in 1..=rows {
        let note = Note { number: row, mirror: Some(format!("m{}", row % 3)) };
        feed.send(row, Ledger::at(format!("l{}", row % 7)), note).await.unwrap();
    }
    // Dropped with messages in flight.
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_cut_in_flight_loses_and_doubles_nothing() {
    let mut dice = Dice::new();
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..6 {
        let runtime = start(directory.path()).await;
        feed_part(&runtime, dice.below(ROWS)).await;
        feed_part(&runtime, dice.below(ROWS)).await;
        drop(runtime);
    }
    let runtime = start(directory.path()).await;
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    check(&runtime, ROWS).await;
    runtime.shutdown().await;
}

#[tokio::test]
async fn another_input_under_a_used_name_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = start(directory.path()).await;
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    let refused = feed(runtime.client(), "f", ROWS, 1).await.unwrap_err();
    assert!(matches!(&refused, FeedError::Collision { name, .. } if name == "f"), "{refused}");
    drop(runtime);
    let runtime = start(directory.path()).await;
    let refused = feed(runtime.client(), "f", ROWS, 1).await.unwrap_err();
    assert!(matches!(refused, FeedError::Collision { .. }), "{refused}");
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    check(&runtime, ROWS).await;
    let mut falling = runtime.client().feed("g").await.unwrap();
    let note = || Note { number: 1, mirror: None };
    falling.send(5, Ledger::at("other"), note()).await.unwrap();
    let error = falling.send(5, Ledger::at("other"), note()).await.unwrap_err();
    assert_eq!(error, FeedError::NotRising { own: 5, before: 5 });
    runtime.shutdown().await;
}

/// Feeds these rows, each a number noted by a ledger.
async fn feed_rows(client: Client, name: &str, rows: &[(u64, &str, u64)]) -> Result<(), FeedError> {
    let mut feed = client.feed(name).await?;
    for &(own, ledger, number) in rows {
        feed.send(own, Ledger::at(ledger), Note { number, mirror: None }).await?;
    }
    feed.flush().await
}

/// The numbers that ledgers have noted, which they have once each.
async fn noted(client: &Client, ledgers: impl IntoIterator<Item = &str>) -> Vec<u64> {
    let mut counts = BTreeMap::new();
    for ledger in ledgers {
        counts.append(&mut client.ask(Ledger::at(ledger), Counts).await.unwrap());
    }
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    counts.into_keys().collect()
}

#[tokio::test]
async fn a_wrong_input_applies_nothing_and_does_not_lock_the_right_one_out() {
    let directory = tempfile::tempdir().unwrap();
    let mut runtime = start(directory.path()).await;
    let ledgers: Vec<String> = (0..40).map(|n| format!("l{n}")).collect();
    let right: Vec<_> = (0..40).map(|n| (n + 1, ledgers[n as usize].as_str(), n)).collect();
    feed_rows(runtime.client(), "f", &right[..2]).await.unwrap();
    for round in 0..2 {
        // Nearly all of its rows are for shards that have seen no row of the right one.
        let wrong: Vec<_> = right.iter().skip(2).map(|(own, ledger, n)| (*own, *ledger, n + 100)).collect();
        let refused = feed_rows(runtime.client(), "f", &wrong).await.unwrap_err();
        let FeedError::Collision { parting: Parting::First { holder, this }, .. } = &refused else {
            panic!("{refused}");
        };
        assert_eq!((holder.own, this.own), (1, 3));
        let client = runtime.client();
        assert_eq!(noted(&client, ledgers.iter().map(String::as_str)).await, [0, 1], "round {round}");
        drop(client);
        runtime.shutdown().await;
        runtime = start(directory.path()).await;
    }
    feed_rows(runtime.client(), "f", &right).await.unwrap();
    let all = noted(&runtime.client(), ledgers.iter().map(String::as_str)).await;
    assert_eq!(all, (0..40).collect::<Vec<_>>());
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_inputs_that_claim_a_name_at_once_one_is_applied_whole_and_the_other_not() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = start(directory.path()).await;
    for round in 0..20 {
        let name = format!("f{round}");
        let [one, other] = [0, 1].map(|input| {
            let (client, name) = (runtime.client(), name.clone());
            tokio::spawn(async move {
                let ledgers: Vec<String> = (0..8).map(|n| format!("l{round}-{}", (n + input) % 8)).collect();
                let rows = (0..8).map(|n| (n + 1, ledgers[n as usize].as_str(), 10 * input + n));
                feed_rows(client, &name, &rows.collect::<Vec<_>>()).await
            })
        });
        let ends = [one.await.unwrap(), other.await.unwrap()];
        let winner = ends.iter().position(Result::is_ok).expect("one has the name") as u64;
        let loser = ends.into_iter().find_map(Result::err).expect("the other has it not");
        assert!(matches!(loser, FeedError::Collision { parting: Parting::First { .. }, .. }), "{loser}");
        let ledgers: Vec<String> = (0..8).map(|n| format!("l{round}-{n}")).collect();
        let all = noted(&runtime.client(), ledgers.iter().map(String::as_str)).await;
        assert_eq!(all, (0..8).map(|n| 10 * winner + n).collect::<Vec<_>>());
    }
    runtime.shutdown().await;
}

/// Feeds what a queue still has, up to `rows`, and says up to where it may forget.
async fn drain(client: &Client, forgotten: u64, rows: u64, flush: bool) -> u64 {
    let mut feed = client.resume_feed("queue").await.unwrap();
    for row in forgotten + 1..=rows {
        let note = Note { number: row, mirror: Some(format!("m{}", row % 3)) };
        feed.send(row, Ledger::at(format!("l{}", row % 7)), note).await.unwrap();
    }
    if flush {
        feed.flush().await.unwrap();
        assert_eq!(feed.undurable_from(), None);
    }
    feed.undurable_from().map_or(rows, |first| first - 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_forgets_what_is_durable_loses_and_doubles_nothing() {
    let mut dice = Dice::new();
    let directory = tempfile::tempdir().unwrap();
    let (mut forgotten, mut sent) = (0, 0);
    for round in 0..8 {
        let runtime = start(directory.path()).await;
        // Twice, the second time beside what the first has still on its way.
        for _ in 0..2 {
            sent = sent.max((sent + dice.below(ROWS / 8)).min(ROWS));
            let may_forget = drain(&runtime.client(), forgotten, sent, round == 3).await;
            // It need not forget all it may.
            forgotten = may_forget - dice.below(may_forget - forgotten + 1);
        }
        drop(runtime);
    }
    let runtime = start(directory.path()).await;
    assert_eq!(drain(&runtime.client(), forgotten, ROWS, true).await, ROWS);
    check(&runtime, ROWS).await;
    runtime.shutdown().await;
}

#[tokio::test]
async fn a_feed_that_goes_on_needs_its_name_for_itself() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = start(directory.path()).await;
    let client = runtime.client();
    let first = client.resume_feed("f").await.unwrap();
    let refused = client.resume_feed("f").await.err().unwrap();
    let refusal = Refusal::FeedOpen("f".into());
    assert_eq!(refused, FeedError::Refused { name: "f".into(), refusal });
    drop(first);
    let mut second = client.resume_feed("f").await.unwrap();
    let note = Note { number: 1, mirror: None };
    second.send(5, Ledger::at("l"), note.clone()).await.unwrap();
    second.flush().await.unwrap();
    drop(second);
    // It has claimed the name, for another input too.
    let mut other = client.feed("f").await.unwrap();
    other.send(6, Ledger::at("other"), note).await.unwrap();
    let refused = other.flush().await.unwrap_err();
    assert!(matches!(refused, FeedError::Collision { parting: Parting::First { .. }, .. }), "{refused}");
    runtime.shutdown().await;
    // A runtime that has stopped answers nothing, and says so.
    assert!(matches!(client.resume_feed("f").await, Err(FeedError::Refused { .. })));
}

#[tokio::test]
async fn a_dropped_feed_frees_its_name_and_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let mut limits = small_limits();
    limits.clients_max = 1;
    let runtime = builder(directory.path(), limits.clone()).shards(1).start().await.unwrap();
    feed_rows(runtime.client(), "wrong", &[(1, "l1", 1), (2, "l2", 2)]).await.unwrap();
    let full = feed_rows(runtime.client(), "right", &[(1, "l1", 10)]).await.unwrap_err();
    assert!(matches!(full, FeedError::Refused { refusal: Refusal::Busy(Bound::Clients), .. }), "{full}");
    let operator = runtime.operator();
    let refused = async |name: &str| match operator.drop_feed(name).await.unwrap_err() {
        OperatorError::Refused(refusal) => refusal,
        error => panic!("{error}"),
    };
    assert_eq!(refused("right").await, Refusal::NoFeed("right".into()));
    let open = runtime.client().feed("wrong").await.unwrap();
    assert_eq!(refused("wrong").await, Refusal::FeedOpen("wrong".into()));
    drop(open);
    operator.drop_feed("wrong").await.unwrap();
    assert_eq!(operator.feeds().await.unwrap(), []);
    assert_eq!(refused("wrong").await, Refusal::NoFeed("wrong".into()));
    runtime.shutdown().await;

    // Nothing of it is left: another input has the name, and what it applied before stays.
    let runtime = builder(directory.path(), limits).shards(1).start().await.unwrap();
    feed_rows(runtime.client(), "wrong", &[(1, "l1", 10), (2, "l2", 20)]).await.unwrap();
    assert_eq!(noted(&runtime.client(), ["l1", "l2"]).await, [1, 2, 10, 20]);
    let feeds = runtime.operator().feeds().await.unwrap();
    assert_eq!(
        feeds,
        [FeedProgress { name: "wrong".into(), applied: 2, own: 2, shards: 1, dropping: false }]
    );
    runtime.shutdown().await;
}

#[tokio::test]
async fn a_dropped_feed_sent_again_is_applied_again_in_every_shard() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = start(directory.path()).await;
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    runtime.operator().drop_feed("f").await.unwrap();
    feed(runtime.client(), "f", ROWS, 0).await.unwrap();
    runtime.quiesce().await;
    let mut ledgers = BTreeMap::new();
    for n in 0..7 {
        ledgers.append(&mut runtime.client().ask(Ledger::at(format!("l{n}")), Counts).await.unwrap());
    }
    assert_eq!(ledgers, (1..=ROWS).map(|row| (row, 2)).collect());
    runtime.shutdown().await;
}

/// A kernel of one shard with two feeds of one name open, which the test sends rows of by hand.
fn two_feeders() -> (Driven, [ReplyTo; 2]) {
    let mut driven = Driven::new(with::<Tally>(kinds()), Limits::default(), 1, 1, 1);
    let feeders = [1, 2].map(|connection| ReplyTo { connection, slot: 0 });
    for to in feeders {
        driven.step(0, Event::OpenFeed { feed: FeedId::of("f"), name: "f".into(), to });
    }
    (driven, feeders)
}

fn row(number: u64, amount: u64, to: ReplyTo) -> Arrival {
    let envelope = envelope::<Tally, _>("t", &Row { amount });
    let from = Provenance::Feed { feed: FeedId::of("f"), number, own: number, to };
    Arrival { shard: placement::ShardId(0), hash: placement::hash(Tally::KIND, "t"), envelope, from }
}

/// What a feed was told, in order.
fn told(driven: &Driven, to: ReplyTo) -> Vec<&FeedNews> {
    let mine = driven.feeds_told.iter().filter(|receipt| receipt.to == to);
    mine.map(|receipt| &receipt.news).collect()
}

#[test]
fn a_feed_is_told_of_nothing_durable_before_a_row_of_its_own_was_judged() {
    let (mut driven, [first, second]) = two_feeders();
    driven.arrive(row(1, 10, first));
    driven.arrive(row(2, 20, first));
    // The second has rows on their way, of which the shard has not heard yet.
    driven.settle();
    assert_eq!(told(&driven, first).last(), Some(&&FeedNews::Durable { through: 2 }));
    assert_eq!(told(&driven, second), [] as [&FeedNews; 0]);
    driven.arrive(row(1, 10, second));
    driven.settle();
    assert_eq!(told(&driven, second), [&FeedNews::Durable { through: 1 }]);
    driven.arrive(row(2, 20, second));
    driven.arrive(row(3, 30, second));
    driven.settle();
    assert_eq!(told(&driven, second).last(), Some(&&FeedNews::Durable { through: 3 }));
    // Of the first one's third row nothing is known yet; it may be another.
    assert_eq!(told(&driven, first).last(), Some(&&FeedNews::Durable { through: 2 }));
}

#[test]
fn what_was_judged_in_a_voided_lane_is_judged_again() {
    let (mut driven, [right, wrong]) = two_feeders();
    driven.faults().fail(LaneId(0));
    driven.arrive(row(1, 11, wrong));
    driven.settle();
    assert_eq!(told(&driven, wrong).last(), Some(&&FeedNews::Lost));
    // Now the other comes first, and the shard knows no row of the wrong one any more.
    driven.arrive(row(1, 10, right));
    driven.settle();
    assert_eq!(told(&driven, wrong).last(), Some(&&FeedNews::Lost));
    driven.arrive(row(1, 11, wrong));
    driven.settle();
    assert_eq!(told(&driven, wrong).last(), Some(&&FeedNews::Collision { number: 1, own: 1 }));
}

fn claim(driven: &mut Driven, to: ReplyTo, identity: FeedIdentity) {
    ask(driven, to, FeedQuestion::Claim(identity));
}

fn ask(driven: &mut Driven, to: ReplyTo, question: FeedQuestion) {
    let feed = FeedId::of("f");
    driven.step(0, Event::AskFeed { feed, shard: placement::ShardId(0), question, to });
}

#[test]
fn a_claim_is_answered_when_it_is_durable_and_outlives_its_process() {
    let (mut driven, [right, wrong]) = two_feeders();
    let [mine, other] = [b"mine", b"that"].map(|first| FeedIdentity::of(1, first));
    // The claim of the wrong one dies with its batch, so it has left nothing.
    driven.faults().fail(LaneId(0));
    claim(&mut driven, wrong, other);
    driven.settle();
    assert_eq!(told(&driven, wrong), [&FeedNews::Lost; 2], "by its answer, and by the shard");
    claim(&mut driven, right, mine);
    driven.run();
    assert_eq!(told(&driven, right), [&FeedNews::Lost], "not before the commit");
    driven.settle();
    assert_eq!(told(&driven, right), [&FeedNews::Lost, &FeedNews::Claimed]);
    // The process ends before the first row.
    driven.restart();
    driven.feeds_told.clear();
    for (to, identity) in [(right, mine), (wrong, other)] {
        driven.step(0, Event::OpenFeed { feed: FeedId::of("f"), name: "f".into(), to });
        claim(&mut driven, to, identity);
    }
    driven.settle();
    assert_eq!(told(&driven, right), [&FeedNews::Claimed]);
    assert_eq!(told(&driven, wrong), [&FeedNews::ClaimedBy(mine)]);
}

#[test]
fn where_to_go_on_is_told_when_it_is_durable() {
    let (mut driven, [first, second]) = two_feeders();
    driven.arrive(row(1, 10, first));
    driven.settle();
    driven.step(0, Event::CloseFeed { feed: FeedId::of("f"), to: first });
    driven.arrive(row(2, 20, first));
    driven.settle();
    // What was sent before it was closed and not judged counts no more; what is in a batch does when it is durable.
    driven.step(0, Event::OpenFeed { feed: FeedId::of("f"), name: "f".into(), to: first });
    driven.arrive(row(2, 20, second));
    driven.run();
    ask(&mut driven, second, FeedQuestion::Resume);
    driven.run();
    driven.feeds_told.clear();
    driven.faults().fail(LaneId(0));
    driven.settle();
    assert!(told(&driven, second).iter().all(|news| **news == FeedNews::Lost), "{:?}", driven.feeds_told);
    ask(&mut driven, second, FeedQuestion::Resume);
    driven.settle();
    assert_eq!(told(&driven, second).last(), Some(&&FeedNews::Resumed { floor: 1, own: 1, claimed: false }));
    // The other is not the first to have it open now.
    ask(&mut driven, first, FeedQuestion::Resume);
    driven.settle();
    let open = FeedNews::Refused(Refusal::FeedOpen("f".into()));
    assert_eq!(told(&driven, first).last(), Some(&&open));
}

#[test]
fn a_claim_waits_for_room_and_is_bounded() {
    let mut limits = Limits::default();
    limits.clients_max = 1;
    let mut driven = Driven::new(with::<Tally>(kinds()), limits, 1, 1, 1);
    driven.room = Err(NoRoom::DiskFull);
    let to = ReplyTo { connection: 1, slot: 0 };
    for name in ["f", "g"] {
        driven.step(0, Event::OpenFeed { feed: FeedId::of(name), name: name.into(), to });
    }
    let identity = FeedIdentity::of(1, b"first");
    claim(&mut driven, to, identity);
    driven.settle();
    // To be asked again.
    assert_eq!(told(&driven, to), [&FeedNews::Lost]);
    driven.room = Ok(());
    claim(&mut driven, to, identity);
    let (feed, question) = (FeedId::of("g"), FeedQuestion::Claim(identity));
    driven.step(0, Event::AskFeed { feed, shard: placement::ShardId(0), question, to });
    driven.settle();
    let busy = FeedNews::Refused(Refusal::Busy(Bound::Clients));
    assert_eq!(told(&driven, to)[1..], [&busy, &FeedNews::Claimed]);
}

#[test]
fn a_collision_stops_the_feed_that_collided_and_no_other_of_its_name() {
    let (mut driven, [right, wrong]) = two_feeders();
    driven.arrive(row(1, 10, right));
    driven.settle();
    // The other input's second row is on its way when its first is found to be another.
    driven.arrive(row(1, 11, wrong));
    driven.arrive(row(2, 12, wrong));
    driven.arrive(row(2, 20, right));
    driven.settle();
    let collided = |to| told(&driven, to).iter().any(|news| matches!(news, FeedNews::Collision { .. }));
    assert!(collided(wrong) && !collided(right), "{:?}", driven.feeds_told);
    assert_eq!(told(&driven, right).last(), Some(&&FeedNews::Durable { through: 2 }));
    // Two rows, and what each sends on.
    assert_eq!(driven.kernels[0].counters().applied, 4);
}

fn drop_step(driven: &mut Driven, step: DropStep) -> Outcome {
    let to = ReplyTo { connection: 0, slot: 0 };
    driven.told.clear();
    driven.step(0, Event::DropFeed { shard: placement::ShardId(0), name: "f".into(), step, to });
    driven.settle();
    driven.answer(to).expect("settled").clone()
}

#[test]
fn a_feed_that_is_being_dropped_gives_nobody_its_name_until_it_is_gone() {
    let (mut driven, [first, second]) = two_feeders();
    let identity = FeedIdentity::of(1, b"first");
    claim(&mut driven, first, identity);
    driven.arrive(row(1, 10, first));
    driven.settle();
    let open = Outcome::Refused(Refusal::FeedOpen("f".into()));
    assert_eq!(drop_step(&mut driven, DropStep::Begin), open);
    for to in [first, second] {
        driven.step(0, Event::CloseFeed { feed: FeedId::of("f"), to });
    }
    assert!(matches!(drop_step(&mut driven, DropStep::Begin), Outcome::Done(_)));
    // The process ends in the midst of it.
    driven.restart();
    driven.feeds_told.clear();
    driven.step(0, Event::OpenFeed { feed: FeedId::of("f"), name: "f".into(), to: first });
    claim(&mut driven, first, identity);
    ask(&mut driven, first, FeedQuestion::Resume);
    driven.settle();
    let dropping = FeedNews::Refused(Refusal::FeedDropping("f".into()));
    assert_eq!(told(&driven, first), [&dropping]);
    assert_eq!(drop_step(&mut driven, DropStep::Marks), open);
    driven.step(0, Event::CloseFeed { feed: FeedId::of("f"), to: first });
    for step in [DropStep::Begin, DropStep::Marks, DropStep::End, DropStep::End] {
        assert!(matches!(drop_step(&mut driven, step), Outcome::Done(_)));
    }
    driven.restart();
    driven.feeds_told.clear();
    driven.step(0, Event::OpenFeed { feed: FeedId::of("f"), name: "f".into(), to: second });
    ask(&mut driven, second, FeedQuestion::Resume);
    driven.settle();
    assert_eq!(told(&driven, second), [&FeedNews::Resumed { floor: 0, own: 0, claimed: false }]);
    // Nobody has the name, so a late word that it is free takes it from nobody.
    claim(&mut driven, second, identity);
    driven.settle();
    assert!(matches!(drop_step(&mut driven, DropStep::End), Outcome::Done(_)));
    claim(&mut driven, second, FeedIdentity::of(2, b"other"));
    driven.settle();
    assert_eq!(told(&driven, second).last(), Some(&&FeedNews::ClaimedBy(identity)));
}

#[test]
fn a_feed_with_a_message_in_memory_is_not_dropped() {
    let (mut driven, [first, second]) = two_feeders();
    claim(&mut driven, first, FeedIdentity::of(1, b"first"));
    driven.settle();
    // Taken, and its entity's image is still being read: it sets its mark later.
    driven.images_held = true;
    driven.arrive(row(1, 10, first));
    driven.settle();
    for to in [first, second] {
        driven.step(0, Event::CloseFeed { feed: FeedId::of("f"), to });
    }
    assert!(matches!(drop_step(&mut driven, DropStep::Begin), Outcome::Done(_)));
    let busy = Outcome::Refused(Refusal::FeedOpen("f".into()));
    assert_eq!(drop_step(&mut driven, DropStep::Marks), busy);
    driven.release_images();
    driven.settle();
    assert!(matches!(drop_step(&mut driven, DropStep::Marks), Outcome::Done(_)));
}
