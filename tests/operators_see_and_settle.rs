//! An operator lists what was given up or waits, tries it again or drops it, and sees every feed.

use entity_runtime::{
    Limits, Refusal,
    activation::ReplyTo,
    client::OperatorError,
    entity::Entity,
    error::Bound,
    kernel::{Event, OPERATIONS_MAX, Outcome},
    placement::ShardId,
};
use entity_runtime_tests::{
    driven::{Driven, kinds, with},
    entities::Account,
    running::{Counts, Explode, Grow, Ledger, Note, builder, now, small_limits},
};
use std::time::Duration;

#[tokio::test]
async fn dead_letters_are_listed_in_pages_tried_again_and_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let mut limits = small_limits();
    limits.tries_max = 1;
    limits.dead_letters_max = 4;
    let too_long = limits.state_len_max + 1;
    let runtime = builder(directory.path(), limits.clone()).start().await.unwrap();
    let client = runtime.client();
    for n in 0..3 {
        client.ask(Ledger::at(format!("l{n}")), Explode).await.unwrap_err();
    }
    client.ask(Ledger::at("l0"), Grow { bytes: too_long }).await.unwrap_err();
    let operator = runtime.operator();
    let all = operator.dead_letters(None, 100).await.unwrap();
    assert_eq!(all.len(), 4);
    let mut paged = Vec::new();
    loop {
        let page = operator
            .dead_letters(paged.last().map(|letter: &entity_runtime::client::DeadLetter| letter.id), 1);
        let page = page.await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let exploded = all.iter().find(|letter| letter.message == "explode").unwrap();
    assert_eq!((exploded.tries, exploded.target.kind()), (1, "ledger"));
    assert!(exploded.reason.contains("as asked"), "{}", exploded.reason);
    assert_eq!(exploded.id.to_string().parse(), Ok(exploded.id));
    runtime.shutdown().await;

    // With larger bounds what was too long is not.
    limits.state_len_max *= 2;
    let runtime = builder(directory.path(), limits).start().await.unwrap();
    let operator = runtime.operator();
    assert_eq!(operator.dead_letters(None, 100).await.unwrap(), all);
    for letter in &all {
        if letter.message == "grow" {
            operator.retry(letter.id).await.unwrap();
        } else {
            operator.drop_letter(letter.id).await.unwrap();
        }
        let again = operator.drop_letter(letter.id).await;
        assert!(
            matches!(again, Err(OperatorError::Refused(Refusal::NoDeadLetter(number))) if number == letter.id.number)
        );
    }
    runtime.quiesce().await;
    assert!(operator.dead_letters(None, 100).await.unwrap().is_empty());
    assert!(operator.waiting(None, 100).await.unwrap().is_empty());
    let counters = runtime.counters();
    assert_eq!((counters.applied, counters.waiting), (1, 0));
    assert!(counters.balance());
    runtime.shutdown().await;
}

#[tokio::test]
async fn a_shard_full_of_dead_letters_refuses_clients_until_an_operator_has_looked() {
    let directory = tempfile::tempdir().unwrap();
    let mut limits = small_limits();
    limits.tries_max = 1;
    limits.dead_letters_max = 2;
    let runtime = builder(directory.path(), limits).start().await.unwrap();
    let client = runtime.client();
    for _ in 0..2 {
        client.ask(Ledger::at("a"), Explode).await.unwrap_err();
    }
    let note = || Note { number: 1, mirror: None };
    let refused = client.ask(Ledger::at("a"), note()).await;
    assert_eq!(refused, Err(Refusal::Busy(entity_runtime::error::Bound::DeadLetters).into()));
    assert!(client.ask(Ledger::at("a"), Counts).await.unwrap().is_empty());
    let operator = runtime.operator();
    let letters = operator.dead_letters(None, 1).await.unwrap();
    operator.drop_letter(letters[0].id).await.unwrap();
    client.ask(Ledger::at("a"), note()).await.unwrap();
    runtime.shutdown().await;
}

#[tokio::test]
async fn feeds_are_listed_with_how_far_they_have_come() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    for (name, rows) in [("late", 30_u64), ("early", 7)] {
        let mut feed = runtime.client().feed(name).await.unwrap();
        for row in 1..=rows {
            let note = Note { number: row, mirror: None };
            feed.send(row, Ledger::at(format!("l{}", row % 5)), note).await.unwrap();
        }
        feed.flush().await.unwrap();
    }
    let feeds = runtime.operator().feeds().await.unwrap();
    let seen: Vec<_> = feeds.iter().map(|feed| (feed.name.as_str(), feed.applied, feed.own)).collect();
    assert_eq!(seen, [("early", 7, 7), ("late", 30, 30)]);
    runtime.shutdown().await;
}

#[tokio::test]
async fn a_stuck_entity_says_why_and_since_when() {
    let directory = tempfile::tempdir().unwrap();
    let mut limits = small_limits();
    // It fails for as long as the test looks.
    limits.retry_after = Duration::from_mins(10);
    let runtime = builder(directory.path(), limits).start().await.unwrap();
    let client = runtime.client();
    let operator = runtime.operator();
    assert_eq!(operator.stuck(100).await.unwrap(), []);
    let before = now();
    // Its reply would come after the last try; a message that waits is answered before.
    client.send(Ledger::at("bad"), Explode).await.unwrap();
    client.send(Ledger::at("bad"), Note { number: 1, mirror: None }).await.unwrap();
    client.ask(Ledger::at("good"), Note { number: 1, mirror: None }).await.unwrap();
    let stuck = operator.stuck(100).await.unwrap();
    let [bad] = &stuck[..] else { panic!("{stuck:?}") };
    assert_eq!((bad.target.to_string().as_str(), bad.is_parked, bad.tries), ("ledger/bad", false, 1));
    assert!(bad.reason.contains("as asked"), "{}", bad.reason);
    assert!(before <= bad.since && bad.since <= now());
    assert_eq!(bad.waiting, 2);
    assert_eq!(operator.waiting(None, 100).await.unwrap().len(), 2);
    assert_eq!(operator.stuck(0).await.unwrap(), []);
    runtime.shutdown().await;
}

#[tokio::test]
async fn every_stuck_entity_is_listed_however_many_there_are() {
    const COUNT: usize = 400;
    let directory = tempfile::tempdir().unwrap();
    let mut limits = small_limits();
    limits.retry_after = Duration::from_mins(10);
    limits.failing_for_max = Duration::ZERO;
    let runtime = builder(directory.path(), limits).start().await.unwrap();
    let mut sends = tokio::task::JoinSet::new();
    for n in 0..COUNT {
        let client = runtime.client();
        sends.spawn(async move { client.send(Ledger::at(format!("bad{n}")), Explode).await });
    }
    sends.join_all().await.into_iter().for_each(|sent| sent.unwrap());
    let all = runtime.operator().stuck(1_000).await.unwrap();
    let keys: std::collections::BTreeSet<_> = all.iter().map(|stuck| stuck.target.key()).collect();
    assert_eq!((all.len(), keys.len()), (COUNT, COUNT));
    assert_eq!(runtime.operator().stuck(7).await.unwrap(), all[..7]);
    assert!(all.windows(2).all(|two| two[0].since <= two[1].since));
    runtime.shutdown().await;
}

#[test]
fn more_words_than_are_kept_are_refused_and_the_others_answered() {
    let mut driven = Driven::new(with::<Account>(kinds()), Limits::default(), 1, 1, 1);
    let (mut busy, mut told) = (0, 0);
    for slot in 0..OPERATIONS_MAX as u64 + 2 {
        let to = ReplyTo { connection: 9, slot };
        driven.step(0, Event::DeadLetter { shard: ShardId(0), number: 7, retry: None, to });
    }
    driven.settle();
    for (_, outcome) in &driven.told {
        match outcome {
            Outcome::Refused(Refusal::Busy(Bound::Intake)) => busy += 1,
            Outcome::Refused(Refusal::NoDeadLetter(7)) => told += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((busy, told), (2, OPERATIONS_MAX));
}
