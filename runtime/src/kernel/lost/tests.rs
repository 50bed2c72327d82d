use crate::{
    activation::{Listener, ReplyTo},
    feeds::FeedId,
    kernel::{
        Action, Arrival, Event, FeedNews, FeedReceipt, Kernel, Outcome, Output, Provenance, Receipt, Seat,
    },
    kinds::Kinds,
    limits::Limits,
    message::{ClientId, Envelope, RequestId},
    placement::{Epoch, ShardId, Shards},
    requests::Acknowledged,
    shard::{OutboxPart, ShardRows},
    store::{LaneId, OwnedShard},
    timestamp::Timestamp,
};
use std::sync::Arc;

/// The shard that another owner takes, and one that stays.
const TAKEN: ShardId = ShardId(0);
const STAYS: ShardId = ShardId(1);
const NOW: Timestamp = Timestamp::from_millis(1_000);
const TO: ReplyTo = ReplyTo { connection: 0, slot: 7 };

/// A kernel that serves two shards of one lane.
fn serving() -> Kernel {
    let seat = Seat {
        layout: Shards::new(2).unwrap(),
        lane_of: vec![LaneId(0); 2],
        in_node: vec![true; 2],
        hosted: vec![TAKEN, STAYS],
    };
    let mut kernel = Kernel::new(Arc::new(Kinds::default()), Limits::default(), seat, 1, NOW);
    for shard in [TAKEN, STAYS] {
        loaded(&mut kernel, shard, 0);
    }
    assert!(kernel.is_serving());
    kernel
}

fn loaded(kernel: &mut Kernel, shard: ShardId, resets: u64) -> Vec<Action> {
    let rows = ShardRows::new(OutboxPart { len_max: 100, bytes_max: 1 << 20 });
    let owned = OwnedShard { shard, epoch: Epoch(1), number: 1 };
    kernel.step(Event::ShardLoaded { resets, owned, rows }, NOW)
}

fn lost(kernel: &mut Kernel, resets: u64) -> Vec<Action> {
    kernel.step(Event::Lost { shard: TAKEN, resets }, NOW)
}

fn arrival(from: Provenance) -> Event {
    let mut bytes = Vec::new();
    Envelope::write_head("kind", "key", "message", None, &mut bytes);
    let envelope = Envelope::from_bytes(bytes.into()).unwrap();
    Event::Arrived(vec![Arrival { shard: TAKEN, hash: 0, envelope, from }])
}

/// Loads that are asked for, with their resets.
fn asked(actions: &[Action]) -> Vec<(ShardId, u64)> {
    let loads = actions.iter().filter_map(|action| match action {
        Action::LoadShard { shard, resets, .. } => Some((*shard, *resets)),
        _ => None,
    });
    loads.collect()
}

fn left(actions: &[Action]) -> Vec<ShardId> {
    let left = actions.iter().filter_map(|action| match action {
        Action::Left(shard) => Some(*shard),
        _ => None,
    });
    left.collect()
}

fn void(kernel: &mut Kernel, voids: u64) -> Vec<Action> {
    kernel.step(Event::Voided { lane: LaneId(0), voids }, NOW)
}

#[test]
fn a_load_that_is_refused_while_the_shard_serves_voids_its_lane_first() {
    let mut kernel = serving();
    assert!(matches!(lost(&mut kernel, 0)[..], [Action::Stale(LaneId(0))]));
    assert!(kernel.is_serving(), "nothing is let go that may be in a batch");
    assert_eq!(asked(&void(&mut kernel, 1)), [(TAKEN, 1), (STAYS, 1)]);
    assert_eq!(left(&lost(&mut kernel, 1)), [TAKEN]);
    assert!(!kernel.is_serving());
    loaded(&mut kernel, STAYS, 1);
    assert!(kernel.is_serving(), "the neighbour goes on");
}

#[test]
fn a_late_word_of_a_loss_is_dropped() {
    let mut kernel = serving();
    void(&mut kernel, 1);
    assert_eq!(left(&lost(&mut kernel, 0)), [], "it was asked before the void");
    loaded(&mut kernel, TAKEN, 1);
    loaded(&mut kernel, STAYS, 1);
    assert!(lost(&mut kernel, 0).is_empty());
    assert!(kernel.is_serving());
}

#[test]
fn a_lost_shard_that_comes_back_takes_no_answer_of_before() {
    let mut kernel = serving();
    void(&mut kernel, 1);
    lost(&mut kernel, 1);
    assert!(lost(&mut kernel, 1).is_empty(), "it is let go once");
    let asked = asked(&kernel.step(Event::Host { shard: TAKEN, was_taken: false }, NOW));
    assert_eq!(asked, [(TAKEN, 2)]);
    loaded(&mut kernel, STAYS, 1);
    loaded(&mut kernel, TAKEN, 1);
    assert!(!kernel.is_serving(), "rows of before its loss are not its rows");
    assert_eq!(left(&lost(&mut kernel, 1)), []);
    loaded(&mut kernel, TAKEN, 2);
    assert!(kernel.is_serving());
}

#[test]
fn whoever_waits_for_a_lost_shard_is_told_to_ask_elsewhere() {
    let mut kernel = serving();
    let feed = FeedId::of("feed");
    kernel.step(Event::OpenFeed { feed, name: "feed".into(), to: TO }, NOW);
    void(&mut kernel, 1);
    let id = RequestId { client: ClientId(1), number: 1, issued_at: NOW };
    let asks = |slot| ReplyTo { connection: 0, slot };
    let listener = Listener { to: asks(1), wants_reply: true };
    let acknowledged = Acknowledged::through(0);
    kernel.step(arrival(Provenance::Request { id, acknowledged, listener }), NOW);
    kernel.step(arrival(Provenance::Query(asks(2))), NOW);
    assert_ne!(kernel.intake_bytes(), 0);
    let actions = lost(&mut kernel, 1);
    let put = actions.iter().filter_map(|action| match action {
        Action::Put(output) => Some(output),
        _ => None,
    });
    let elsewhere = |slot| format!("{:?}", Output::Reply(asks(slot), Outcome::Elsewhere));
    let receipt = FeedReceipt { to: TO, feed, shard: TAKEN, news: FeedNews::Lost };
    let expected = [elsewhere(1), elsewhere(2), format!("{:?}", Output::FeedReceipt(receipt))];
    assert_eq!(put.map(|output| format!("{output:?}")).collect::<Vec<_>>(), expected);
    assert_eq!(kernel.intake_bytes(), 0);
    assert!(kernel.audit().balances());
    let receipt = Receipt { source: TAKEN, target: STAYS, through: 1, refused_from: None, go_on: false };
    kernel.step(Event::Receipts(vec![receipt]), NOW);
    let late = kernel.step(arrival(Provenance::Query(asks(3))), NOW);
    assert!(matches!(late[..], [Action::Put(Output::Reply(_, Outcome::Elsewhere))]));
}
