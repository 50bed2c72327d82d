//! An operator lists what was given up or waits, tries it again or drops it, and sees every feed.

use entity_runtime::{Refusal, client::OperatorError, entity::Entity};
use entity_runtime_tests::running::{Counts, Explode, Grow, Ledger, Note, builder, small_limits};

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
