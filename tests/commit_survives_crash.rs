//! Whatever was acknowledged is there after any crash, and nothing is there twice.

use entity_runtime::entity::Entity;
use entity_runtime_tests::running::{Counts, Dice, Ledger, Mirror, Note, builder, id, now, small_limits};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

const KILLS: usize = 24;
const ROWS: u64 = 2_000;

#[tokio::test]
async fn every_acknowledged_effect_is_there_once_after_kills_at_random_moments() {
    let mut dice = Dice::new();
    let directory = tempfile::tempdir().unwrap();
    let issued = now();
    // What was acknowledged, with its reply: a repeat must bring the same.
    let mut noted: BTreeMap<u64, String> = BTreeMap::new();
    let mut repeats = 0;
    for kill in 0..KILLS {
        let from = (1..u64::MAX).find(|number| !noted.contains_key(number)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_victim"))
            .arg("crash")
            .arg(directory.path())
            .args([issued.as_micros().to_string(), from.to_string(), ROWS.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Some die before they are ready, some at once after.
        let lines = match kill % 4 {
            0 => dice.below(4) as usize,
            _ => dice.below(300) as usize,
        };
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in out.by_ref().take(lines) {
            note(&line.unwrap(), &mut noted, &mut repeats);
        }
        child.kill().unwrap();
        // What it said before it died is true as well.
        out.map_while(Result::ok).for_each(|line| note(&line, &mut noted, &mut repeats));
        child.wait().unwrap();
    }
    println!("{} notes acknowledged, {repeats} repeated", noted.len());
    assert!(noted.len() > KILLS, "the kills came too early to say anything");

    let runtime = builder(directory.path(), small_limits()).start().await.unwrap();
    let client = runtime.client();
    let mut feed = client.feed("rows").await.unwrap();
    for row in 1..=ROWS {
        let note = Note { number: 1_000_000 + row, mirror: Some(format!("of-row-{}", row % 3)) };
        feed.send(row, Ledger::at(format!("row-{}", row % 5)), note).await.unwrap();
    }
    feed.flush().await.unwrap();
    // Whatever was asked and not acknowledged is unknown: asking again under the same id settles it.
    let last = *noted.keys().last().unwrap() + 16;
    for number in 1..=last {
        let note = Note { number, mirror: Some(format!("mirror-{}", number % 3)) };
        let ledger = Ledger::at(format!("ledger-{}", number % 5));
        let reply = client.ask(ledger, note).with_id(id(7, number, issued)).await.unwrap();
        if let Some(before) = noted.get(&number) {
            assert_eq!(&format!("{} {}", reply.nth, reply.random), before, "the reply to {number} changed");
        }
    }
    runtime.quiesce().await;
    let numbers = |prefix: &'static str, of: u64| (0..of).map(move |n| format!("{prefix}{n}"));
    let mut ledgers = BTreeMap::new();
    for key in numbers("ledger-", 5).chain(numbers("row-", 5)) {
        ledgers.append(&mut client.ask(Ledger::at(key), Counts).await.unwrap());
    }
    let mut mirrors = BTreeMap::new();
    for key in numbers("mirror-", 3).chain(numbers("of-row-", 3)) {
        mirrors.append(&mut client.ask(Mirror::at(key), Counts).await.unwrap());
    }
    let expected: BTreeMap<u64, u32> =
        (1..=last).chain(1_000_001..=1_000_000 + ROWS).map(|number| (number, 1)).collect();
    assert_eq!(ledgers, expected);
    assert_eq!(mirrors, expected);
    assert!(runtime.counters().balance());
    runtime.shutdown().await;
}

fn note(line: &str, noted: &mut BTreeMap<u64, String>, repeats: &mut usize) {
    let Some(line) = line.strip_prefix("noted ") else { return };
    let Some((number, reply)) = line.split_once(' ') else { return };
    let number = number.parse().unwrap();
    if let Some(before) = noted.insert(number, reply.to_owned()) {
        assert_eq!(before, reply, "the repeat of {number} got another reply");
        *repeats += 1;
    }
}
