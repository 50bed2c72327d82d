//! Rows that no runtime wrote: the views judge them as the runtime would, and show their bytes.

use super::{Tables, VIEWS};
use entity_runtime::{
    codec,
    feeds::{Claim, Feed},
    message::Envelope,
    requests::Requests,
    shard::{FEED_CLAIM, FEED_MARKS, FEED_NAME, LetterRow, decode_waiting},
    store::{
        RowType,
        row::{put_varint, take_varint},
    },
    stream::{Inbox, Outbox},
};
use entity_runtime_tests::running::Dice;
use std::collections::BTreeMap;

fn some(dice: &mut Dice, len_max: u64) -> Vec<u8> {
    (0..dice.below(len_max)).map(|_| dice.below(256) as u8).collect()
}

fn number(dice: &mut Dice, out: &mut Vec<u8>) {
    put_varint(dice.below(u64::MAX) >> dice.below(64), out);
}

fn message(dice: &mut Dice, out: &mut Vec<u8>) {
    let keys = ["", "alice", "\\x61", "a\\b", "nul\0", "é𝄞"];
    let mut key = || keys[dice.below(6) as usize];
    let (key, sender) = (key(), key());
    Envelope::write_head("account", key, "credit", (dice.below(2) == 1).then_some(("order", sender)), out);
    codec::encode(&(key, dice.below(1_000)), out).unwrap();
}

/// By shard: the bytes of a row that is not read.
type Unreadable = BTreeMap<i32, Option<Vec<u8>>>;

/// A value as the runtime would write it, or nearly.
fn value(row_type: RowType, part: u8, dice: &mut Dice) -> Vec<u8> {
    let mut out = Vec::new();
    match (row_type, part) {
        (RowType::Head, _) => (0..4).for_each(|_| number(dice, &mut out)),
        (RowType::Inbox, _) => (0..=dice.below(5)).for_each(|_| put_varint(1 + dice.below(300), &mut out)),
        (RowType::Sent, _) => (0..=dice.below(3)).for_each(|_| number(dice, &mut out)),
        (RowType::Client, _) => {
            let open = dice.below(70);
            put_varint(70 * 300, &mut out);
            put_varint(dice.below(1 << 60), &mut out);
            (0..open).for_each(|_| put_varint(dice.below(300), &mut out));
        }
        (RowType::Feed, FEED_MARKS) => {
            let window = dice.below(3);
            out.extend_from_slice(&dice.below(u64::MAX).to_be_bytes());
            number(dice, &mut out);
            put_varint(window, &mut out);
            (0..2 * window + 1 + dice.below(3)).for_each(|_| number(dice, &mut out));
        }
        (RowType::Feed, FEED_CLAIM) => {
            out.push(dice.below(3) as u8);
            number(dice, &mut out);
            out.extend_from_slice(&dice.below(u64::MAX).to_be_bytes());
        }
        (RowType::Feed, _) => out.extend_from_slice("Mäi".as_bytes()),
        (RowType::Outbox, _) => message(dice, &mut out),
        (RowType::Reply, _) => {
            number(dice, &mut out);
            out.extend_from_slice(&dice.below(u64::MAX).to_be_bytes());
            out.push(dice.below(4) as u8);
            codec::encode("done", &mut out).unwrap();
        }
        (RowType::Reminder, _) => {
            number(dice, &mut out);
            message(dice, &mut out);
        }
        (RowType::Waiting, _) => {
            out.push(dice.below(4) as u8);
            match out[0] {
                1 => {
                    out.extend_from_slice(&[7; 16]);
                    (0..2).for_each(|_| number(dice, &mut out));
                }
                2 => number(dice, &mut out),
                _ => {}
            }
            message(dice, &mut out);
        }
        (RowType::DeadLetter, _) => {
            number(dice, &mut out);
            put_varint(dice.below(1 << 33), &mut out);
            put_varint(6, &mut out);
            out.extend_from_slice("paniç".as_bytes());
            message(dice, &mut out);
        }
        (RowType::Image, _) => {
            put_varint(dice.below(1 << 33), &mut out);
            codec::encode(&["state"], &mut out).unwrap();
        }
    }
    // Every other one is damaged: a byte, the end, or all.
    match dice.below(6) {
        0 if !out.is_empty() => {
            let at = dice.below(out.len() as u64) as usize;
            out[at] = dice.below(256) as u8;
        }
        1 => out.truncate(dice.below(out.len() as u64 + 1) as usize),
        2 => out = some(dice, 60),
        _ => {}
    }
    out
}

/// Whether the runtime reads it.
fn is_read(row_type: RowType, part: u8, value: &[u8]) -> bool {
    let mut rest = value;
    let is_message = |bytes: &[u8]| Envelope::from_bytes(bytes.to_vec().into()).is_ok();
    match row_type {
        // Its reader is not public: four numbers.
        RowType::Head => (0..4).all(|_| take_varint(&mut rest).is_some()) && rest.is_empty(),
        RowType::Inbox => Inbox::decode(value).is_some(),
        RowType::Sent => Outbox::decode(value).is_some(),
        RowType::Outbox => is_message(value),
        RowType::Feed if part == FEED_MARKS => Feed::decode(value).is_some(),
        RowType::Feed if part == FEED_CLAIM => Claim::decode(value).is_some(),
        RowType::Feed => true,
        RowType::Client => Requests::default().restore_client(&[1; 16], value),
        RowType::Reply => Requests::default().restore_reply(&[1; 24], value),
        RowType::Reminder => take_varint(&mut rest).is_some() && is_message(rest),
        RowType::Waiting => decode_waiting(value).is_some(),
        RowType::DeadLetter => LetterRow::decode(value).is_some(),
        RowType::Image => take_varint(&mut rest).is_some_and(|version| u32::try_from(version).is_ok()),
    }
}

/// The view of a row, and its column of bytes that are not read.
fn seen_in(row_type: RowType, part: u8) -> (&'static str, &'static str) {
    let view = match row_type {
        RowType::Head => "heads",
        RowType::Inbox => "inbox",
        RowType::Sent => "sent",
        RowType::Outbox => "messages",
        RowType::Feed if part == FEED_CLAIM => return ("feeds", "claim_unreadable"),
        RowType::Feed => "feeds",
        RowType::Client => "clients",
        RowType::Reply => "replies",
        RowType::Reminder => "reminders",
        RowType::Waiting => "waiting",
        RowType::DeadLetter => "dead_letters",
        RowType::Image => "entities",
    };
    (view, "unreadable")
}

/// A key of the length that rows of the type have.
fn key(row_type: RowType, part: u8) -> Vec<u8> {
    let rest: Vec<u8> = match row_type {
        RowType::Head => Vec::new(),
        RowType::Inbox | RowType::Sent => vec![0; 4],
        RowType::Outbox => vec![0; 12],
        RowType::Feed => [vec![1; 16], vec![part]].concat(),
        RowType::Client => vec![1; 16],
        RowType::Reply => vec![1; 24],
        RowType::Reminder | RowType::Waiting | RowType::DeadLetter => vec![0; 8],
        RowType::Image => b"kind\0key".to_vec(),
    };
    [vec![row_type as u8], rest].concat()
}

#[tokio::test]
async fn the_views_read_what_the_runtime_reads_and_show_all_else_as_bytes() {
    let tables = Tables::new().await;
    let mut dice = Dice::new();
    let mut expected: BTreeMap<(&str, &str), Unreadable> = BTreeMap::new();
    let parts = [FEED_MARKS, FEED_NAME, FEED_CLAIM];
    for shard in 0..400_u32 {
        for row_type in RowType::ALL {
            let part = parts[dice.below(3) as usize];
            let value = value(row_type, part, &mut dice);
            let mut key = key(row_type, part);
            if row_type == RowType::Image {
                // There is one of them in all shards.
                key.extend_from_slice(&u32::to_be_bytes(shard));
                key.extend(some(&mut dice, 9));
            }
            tables.put(shard, &key, &value).await;
            let bytes = (!is_read(row_type, part, &value)).then_some(value);
            expected.entry(seen_in(row_type, part)).or_default().insert(i32::try_from(shard).unwrap(), bytes);
        }
    }
    for ((view, column), expected) in expected {
        // Every column of every row, to the last byte.
        let all = tables.show(view).await;
        let ask = format!("SELECT shard, {column} FROM entity.{view} ORDER BY shard");
        let rows = tables.client.query(&ask, &[]).await.unwrap();
        assert_eq!(all.len(), rows.len());
        let mut shown: Unreadable = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(shown.len(), rows.len(), "each is shown once");
        let unread = expected.values().flatten().count();
        assert!(0 < unread && unread < expected.len(), "{view}: {unread} of {}", expected.len());
        for (shard, bytes) in expected {
            assert_eq!(shown.remove(&shard), Some(bytes), "{view}.{column} of shard {shard}");
        }
        assert!(view == "feeds" || shown.is_empty());
    }
}

#[tokio::test]
async fn every_row_is_in_one_view_whatever_its_key_and_type() {
    let tables = Tables::new().await;
    let mut dice = Dice::new();
    for shard in 0..800_u32 {
        // Those of other tables, cut or extended, are marks.
        let row_type = RowType::ALL[dice.below(10) as usize];
        let part = dice.below(256) as u8 & 3;
        let mut odd = key(row_type, part);
        match dice.below(4) {
            0 => odd.truncate(1 + dice.below(odd.len() as u64) as usize),
            1 => odd.push(0),
            2 => odd[0] = dice.below(0xf0) as u8,
            _ => {}
        }
        if matches!(odd[0], 0x30..=0x32) && odd.len() == 9 {
            // Into the table of items, under a type it does not have.
            let ask = "INSERT INTO entity.item (shard, type, number, value) VALUES ($1, $2, 1, '')";
            let row_type = [48_i16, 51, -1][dice.below(3) as usize];
            tables.client.execute(ask, &[&i32::try_from(shard).unwrap(), &row_type]).await.unwrap();
        } else {
            tables.put(shard, &odd, &some(&mut dice, 20)).await;
        }
    }
    let (mut rows, mut shown) = (0, 0);
    for table in ["state", "mark", "outbox", "reply", "item"] {
        rows += tables.count(table).await;
    }
    for view in VIEWS {
        shown += tables.show(view).await.len();
    }
    assert_eq!((rows, shown), (800, 800));
    assert!(0 < tables.count("unknown").await && tables.count("unknown").await < 800);
}
