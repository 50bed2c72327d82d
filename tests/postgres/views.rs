//! Every view shows what the runtime's rows mean, and bytes that mean nothing as bytes.

#[path = "views/hostile.rs"]
mod hostile;
#[path = "views/json.rs"]
mod json;
#[path = "views/page.rs"]
mod page;
#[path = "views/tables.rs"]
mod tables;

use entity_runtime::{
    activation::{Behind, ReplyTo, Waiting},
    context::ReminderId,
    entity::Entity,
    feeds::{Claim, FeedId, FeedIdentity},
    kernel::{Arrival, Event, Provenance},
    limits::Limits,
    placement::ShardId,
    shard::{FEED_CLAIM, encode_waiting},
    store::RowType,
    stream::{Inbox, Outbox},
};
use entity_runtime_tests::{
    driven::{Driven, envelope, kinds, with},
    entities::{
        Account, BRITTLE_BROKEN, Brittle, Clock, Fund, Phoenix, Poison, Press, Row, Set, Tally, Transfer,
    },
};
use serde_json::{Value, json};
use std::{fmt::Write, time::Duration};
use tables::Tables;

/// The views of rows. `owners` shows columns alone.
const VIEWS: [&str; 12] = [
    "entities",
    "heads",
    "inbox",
    "sent",
    "messages",
    "reminders",
    "waiting",
    "dead_letters",
    "replies",
    "feeds",
    "clients",
    "unknown",
];

fn hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(hex, "{byte:02x}").unwrap();
    }
    hex
}

/// Kernels of two shards with all kinds, and a key in each shard.
fn driven(kind: &str) -> (Driven, String, String) {
    let all = with::<Brittle>(with::<Clock>(with::<Phoenix>(with::<Tally>(with::<Account>(kinds())))));
    let driven = Driven::new(all, Limits::default(), 2, 1, 1);
    let (here, there) = (driven.key_in(kind, 0, 0), driven.key_in(kind, 1, 0));
    (driven, here, there)
}

const CLIENT: &str = "00000000-0000-0000-0000-000000000007";

/// The id of a request that [`Driven`] made.
fn request(number: u64) -> String {
    format!("00000000000000000000000000000007-{number}-1000000000")
}

#[tokio::test]
async fn a_transfer_on_its_way_is_seen_in_every_table_it_touches() {
    let (mut driven, from, to) = driven(Account::KIND);
    let transfer = |cents| envelope::<Account, _>(&from, &Transfer { to: to.clone(), cents });
    driven.request(7, 1, envelope::<Account, _>(&from, &Fund { cents: 10 }), true);
    driven.request(7, 2, transfer(3), true);
    driven.settle();
    // The next is taken there, and here nobody hears of it.
    driven.held_receipts = Some(Vec::new());
    driven.acknowledged = 1;
    driven.request(7, 3, transfer(4), true);
    driven.request(7, 4, transfer(100), true);
    driven.settle();
    let tables = Tables::new().await;
    tables.put_all(&mut driven).await;

    let account = |key: &str, shard, cents, funded| {
        let state = json!({ "cents": cents, "funded": funded, "padding": "p".repeat(funded) });
        let bytes = format!("\\x{}", hex(key.as_bytes()));
        json!({ "kind": "account", "key": key, "key_bytes": bytes, "shard": shard, "version": 1, "state": state,
                "unreadable": null })
    };
    let mut states = [account(&from, 0, 3, 10), account(&to, 1, 7, 0)];
    states.sort_by_key(|state| state["key"].to_string());
    assert_eq!(tables.show("entities").await, states);
    let message = json!({ "shard": 0, "target": 1, "number": 2, "kind": "account", "key": to, "name": "credit",
        "sender_kind": "account", "sender_key": from, "body": { "cents": 4 }, "unreadable": null });
    assert_eq!(tables.show("messages").await, [message]);
    let inbox = json!({ "shard": 1, "source": 0, "floor": 2, "above": [], "unreadable": null });
    assert_eq!(tables.show("inbox").await, [inbox]);
    let reply = |number: u64, class, body| {
        json!({ "shard": 0, "client": CLIENT, "number": number, "request": request(number),
            "issued_at": "1970-01-01T00:16:40+00:00", "class": class, "body": body, "unreadable": null })
    };
    let mut replies = tables.show("replies").await;
    for reply in &mut replies {
        let digest = reply.as_object_mut().unwrap().remove("digest").unwrap();
        assert_eq!(digest.as_str().map(str::len), Some(16), "{digest}");
    }
    let expected = [
        reply(2, "applied", json!({ "Ok": 7 })),
        reply(3, "applied", json!({ "Ok": 3 })),
        reply(4, "rejected", json!({ "Err": "not enough" })),
    ];
    assert_eq!(replies, expected);
    let client = json!({ "shard": 0, "client": CLIENT, "floor": 1, "youngest": "1970-01-01T00:16:40+00:00",
        "open": [], "unreadable": null });
    assert_eq!(tables.show("clients").await, [client]);
    for view in ["heads", "reminders", "waiting", "dead_letters", "feeds", "unknown"] {
        assert_eq!(tables.show(view).await, [] as [Value; 0], "{view}");
    }
}

#[tokio::test]
async fn what_is_late_stuck_or_given_up_is_seen_with_its_reason() {
    let (mut driven, brittle, _) = driven(Brittle::KIND);
    let (clock, phoenix) = (driven.key_in(Clock::KIND, 0, 0), driven.key_in(Phoenix::KIND, 0, 0));
    driven.request(7, 1, envelope::<Brittle, _>(&brittle, &Press), true);
    driven.request(7, 2, envelope::<Clock, _>(&clock, &Set { number: 5, millis: 86_400_000 }), true);
    driven.settle();
    driven.restart();
    BRITTLE_BROKEN.set(true);
    driven.request(7, 3, envelope::<Brittle, _>(&brittle, &Press), true);
    driven.request(7, 4, envelope::<Phoenix, _>(&phoenix, &Poison { number: 9 }), true);
    for _ in 0..40 {
        driven.pass(Duration::from_millis(500));
    }
    let tables = Tables::new().await;
    tables.put_all(&mut driven).await;
    BRITTLE_BROKEN.set(false);

    let reminder = json!({ "shard": 0, "id": 0, "due": "1970-01-02T00:16:40+00:00", "kind": "clock", "key": clock,
        "name": "ring", "body": { "number": 5 }, "unreadable": null });
    assert_eq!(tables.show("reminders").await, [reminder]);
    let waiting = json!({ "shard": 0, "number": 0, "kind": "brittle", "key": brittle, "name": "press",
        "sender_kind": null, "sender_key": null, "body": [], "behind": "request", "request": request(3),
        "issued_at": "1970-01-01T00:16:40+00:00", "reminder": null, "unreadable": null });
    assert_eq!(tables.show("waiting").await, [waiting]);
    let [letter] = &driven.dead_letters()[..] else { panic!("one is given up") };
    let letters = tables.show("dead_letters").await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["reason"], json!(letter.reason));
    assert!(letter.reason.contains("poison 9"), "{}", letter.reason);
    assert_eq!((&letters[0]["tries"], &letters[0]["body"]), (&json!(letter.tries), &json!({ "number": 9 })));
    let replies = tables.show("replies").await;
    let dead = replies.iter().find(|reply| reply["number"] == 4).unwrap();
    assert_eq!((&dead["class"], &dead["body"]), (&json!("dead-lettered"), &json!(letter.reason)));
    let heads = tables.show("heads").await;
    assert_eq!(heads.len(), 1);
    let next =
        ["shard", "reminder_next", "waiting_next", "dead_next"].map(|name| heads[0][name].as_u64().unwrap());
    assert_eq!(next[1], 1);
    assert!(next[2] >= 1 && next[3] >= 1, "{heads:?}");
}

#[tokio::test]
async fn what_is_done_ahead_of_its_turn_is_listed_above_the_floor() {
    let tables = Tables::new().await;
    let mut value = Vec::new();
    let mut inbox = Inbox::default();
    (1..=6).for_each(|number| inbox.take(number, 0));
    for number in [1, 2, 4, 6] {
        inbox.consume(number, 0);
    }
    inbox.encode(&mut value);
    tables.put(3, &[&[RowType::Inbox as u8], 5_u32.to_be_bytes().as_slice()].concat(), &value).await;
    let row = json!({ "shard": 3, "source": 5, "floor": 2, "above": [4, 6], "unreadable": null });
    assert_eq!(tables.show("inbox").await, [row]);

    // Two messages were added while the ends were still to be compared.
    let message = envelope::<Tally, _>("t", &Row { amount: 1 });
    let mut outbox = Outbox::default();
    assert!(outbox.note_told());
    assert_eq!([1, 1].map(|batch| outbox.push(message.bytes().clone(), batch, 8)), [1, 2]);
    value.clear();
    outbox.encode(&mut value);
    tables.put(3, &[&[RowType::Sent as u8], 5_u32.to_be_bytes().as_slice()].concat(), &value).await;
    let row = json!({ "shard": 3, "target": 5, "last": 2, "told": 0, "unreadable": null });
    assert_eq!(tables.show("sent").await, [row]);

    for (number, behind) in [(0_u64, Behind::Nothing), (1, Behind::Reminder(ReminderId(300)))] {
        value.clear();
        encode_waiting(&Waiting { envelope: message.clone(), behind }, &mut value);
        tables.put(3, &[&[RowType::Waiting as u8], number.to_be_bytes().as_slice()].concat(), &value).await;
    }
    let shown = tables.show("waiting").await;
    let behind = shown.iter().map(|row| json!([row["behind"], row["reminder"], row["body"]["amount"]]));
    assert!(behind.eq([json!(["nothing", null, 1]), json!(["reminder", 300, 1])]), "{shown:?}");
}

#[tokio::test]
async fn a_feed_is_one_row_in_each_shard_with_its_marks_its_name_and_its_claim() {
    let (mut driven, here, there) = driven(Tally::KIND);
    let (feed, to) = (FeedId::of("rows of May"), ReplyTo { connection: 1, slot: 0 });
    driven.step(0, Event::OpenFeed { feed, name: "rows of May".into(), to });
    for (shard, key) in [(ShardId(0), &here), (ShardId(1), &there)] {
        for number in 1..=u64::from(3 + shard.0) {
            let envelope = envelope::<Tally, _>(key, &Row { amount: number });
            let hash = entity_runtime::placement::hash(Tally::KIND, key);
            driven.arrive(Arrival {
                shard,
                hash,
                envelope,
                from: Provenance::Feed { feed, number, own: 100 * number, to },
            });
        }
    }
    let tables = Tables::new().await;
    tables.put_all(&mut driven).await;
    let part = |part: u8| [&[RowType::Feed as u8], feed.0.to_be_bytes().as_slice(), &[part]].concat();
    let (mut held, mut dropping) = (Vec::new(), Vec::new());
    Claim::Held(FeedIdentity { own: u64::MAX, digest: 0xabc }).encode(&mut held);
    Claim::Dropping.encode(&mut dropping);
    tables.put(1, &part(FEED_CLAIM), &held).await;
    tables.put(2, &part(FEED_CLAIM), &dropping).await;

    let shown = tables.show("feeds").await;
    let digests = shown.iter().map(|row| row["first_digest"].as_str().map(str::len));
    assert!(digests.eq([Some(16), Some(16), None]), "{shown:?}");
    let columns =
        ["name", "floor", "above", "own_at_floor", "claim", "claim_own", "claim_digest", "unreadable"];
    let shown: Vec<Value> =
        shown.iter().map(|row| columns.map(|name| row[name].clone()).to_vec().into()).collect();
    let expected = [
        json!(["rows of May", 3, [], 300, null, null, null, null]),
        json!(["rows of May", 4, [], 400, "held", u64::MAX, "0000000000000abc", null]),
        json!([null, null, null, null, "dropping", null, null, null]),
    ];
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn an_owner_has_a_name_as_long_as_it_is_the_same_run_of_its_node() {
    let tables = Tables::new().await;
    tables
        .client
        .batch_execute(
            "INSERT INTO entity.node (name, uuid, boot, incarnation, address, weight, state, build, lease, lease_until, lease_since)
             SELECT 'n' || i, md5('u' || i)::uuid, 1, md5('i' || i)::uuid, 'host:' || i, 1, i, 'b', '3 s',
                 CASE i WHEN 0 THEN clock_timestamp() + interval '1 hour' WHEN 1 THEN '-infinity' ELSE 'epoch' END, 'epoch'
             FROM generate_series(0, 2) AS i;
             INSERT INTO entity.shard (id, epoch, owner, batch)
             SELECT i, i + 1, CASE WHEN i < 4 THEN md5('i' || i)::uuid END, 10 * i FROM generate_series(0, 4) AS i",
        )
        .await
        .unwrap();
    let ask = "SELECT to_jsonb(o) - 'owner' - 'moved_by' - 'moved_at' - 'lease_left'
                   || jsonb_build_object('live', lease_left > interval '0', 'owned', owner IS NOT NULL)
               FROM entity.owners AS o ORDER BY shard";
    let rows = tables.client.query(&format!("SELECT v::text FROM ({ask}) AS q(v)"), &[]).await.unwrap();
    let shown: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect();
    let expected = [
        json!({ "shard": 0, "epoch": 1, "batch": 0, "node": "n0", "address": "host:0", "state": "up", "live": true, "owned": true }),
        json!({ "shard": 1, "epoch": 2, "batch": 10, "node": "n1", "address": "host:1", "state": "leaving", "live": null, "owned": true }),
        json!({ "shard": 2, "epoch": 3, "batch": 20, "node": "n2", "address": "host:2", "state": "left", "live": false, "owned": true }),
        json!({ "shard": 3, "epoch": 4, "batch": 30, "node": null, "address": null, "state": null, "live": null, "owned": true }),
        json!({ "shard": 4, "epoch": 5, "batch": 40, "node": null, "address": null, "state": null, "live": null, "owned": false }),
    ];
    assert_eq!(shown, expected);
}
