//! One mover, every word of which is the test's: what comes late, twice or of before.

use super::{SHARDS, name, shards};
use crate::{
    handoff::{HandOffLimits, Message, Transfer},
    kernel::{HandOffNews, Order},
    mover::{Mover, MoverAction, MoverConfig, MoverEvent},
    placement::{Epoch, ShardId, Table, Weight},
    rebalance,
    store::{Ownership, OwnershipRecord, TransferId},
    timestamp::Timestamp,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Node 0, and what it was told.
struct Hand {
    mover: Mover,
    now: Timestamp,
}

fn table(members: &[usize]) -> Arc<Table> {
    let members: BTreeMap<_, _> = members.iter().map(|node| (name(*node), Weight::default())).collect();
    Arc::new(Table::new(&members, shards()).unwrap())
}

/// A shard that this node is to have when both are there.
fn shard_of(node: usize) -> ShardId {
    let table = table(&[0, 1]);
    shards().iter().find(|shard| *table.owner(*shard) == name(node)).unwrap()
}

fn owned() -> Ownership {
    Ownership::Owned { epoch: Epoch(1), stay: Epoch(1), number: 5 }
}

impl Hand {
    fn new(ownership: Vec<(ShardId, Ownership)>) -> Self {
        let config = MoverConfig {
            here: name(0),
            store: 1,
            boot: 1,
            shards: shards(),
            limits: HandOffLimits::default(),
            pace: rebalance::Settings::default(),
            takes_max: 4,
        };
        let now = Timestamp::from_millis(1_000);
        let (mover, _) = Mover::new(config, ownership, now);
        Self { mover, now }
    }

    /// It has the shard that node 1 is to have.
    fn source() -> (Self, ShardId) {
        let shard = shard_of(1);
        let mut hand = Self::new(vec![(shard, owned())]);
        assert_eq!(hand.step(MoverEvent::Table(Some(table(&[0, 1])))), []);
        (hand, shard)
    }

    fn step(&mut self, event: MoverEvent) -> Vec<MoverAction> {
        self.mover.step(event, self.now)
    }

    fn news(&mut self, shard: ShardId, news: HandOffNews) -> Vec<MoverAction> {
        self.step(MoverEvent::News(shard, news))
    }

    /// Node 1 says something.
    fn hear(&mut self, shard: ShardId, transfer: TransferId, message: Message) -> Vec<MoverAction> {
        self.step(MoverEvent::Heard { from: name(1), shard, transfer, message })
    }

    /// It offers its shard, and node 1 is ready. Returns the hand-off and its attempt.
    fn give(&mut self, shard: ShardId) -> (TransferId, u64) {
        self.now = self.now + Duration::from_secs(2);
        let offered = self.step(MoverEvent::Tick);
        let [MoverAction::Send { transfer, message: Message::Offer { attempt, .. }, .. }] = offered[..]
        else {
            panic!("{offered:?}")
        };
        let ready = Message::Ready { attempt, table: table(&[0, 1]).digest() };
        let ordered = self.hear(shard, transfer, ready);
        assert_eq!(ordered, [MoverAction::Order(shard, Order::Give(transfer))]);
        (transfer, attempt)
    }

    /// Up to the order to seal.
    fn seal(&mut self, shard: ShardId, transfer: TransferId, attempt: u64) {
        let asked = self.news(shard, HandOffNews::CopyFrom(transfer));
        assert!(matches!(asked[..], [MoverAction::ReadRows { .. }]), "{asked:?}");
        let read = MoverEvent::RowsRead { shard, transfer, attempt, rows: Vec::new(), next: None };
        let sealed = self.step(read);
        assert_eq!(sealed.last(), Some(&MoverAction::Order(shard, seal_order(transfer))));
    }
}

fn seal_order(transfer: TransferId) -> Order {
    Order::Seal { transfer, to: name(1) }
}

fn read_of(actions: &[MoverAction]) -> u64 {
    match actions {
        [MoverAction::ReadOwnership { read, .. }] => *read,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_late_word_of_a_hand_off_that_is_over_takes_no_seal_back() {
    let (mut hand, shard) = Hand::source();
    let (first, _) = hand.give(shard);
    // The lane is void, and the store is read; before it answers, the hand-off is withdrawn and another one begins.
    let read = read_of(&hand.news(shard, HandOffNews::Voided(first)));
    let withdrawn = hand.step(MoverEvent::Table(Some(table(&[0]))));
    assert!(withdrawn.contains(&MoverAction::Order(shard, Order::StopGiving(first))), "{withdrawn:?}");
    hand.step(MoverEvent::Table(Some(table(&[0, 1]))));
    let (second, attempt) = hand.give(shard);
    assert_ne!(first, second);
    hand.seal(shard, second, attempt);

    assert_eq!(hand.step(MoverEvent::Ownership { shard, read, ownership: owned() }), []);
    assert_eq!(hand.news(shard, HandOffNews::Voided(first)), []);
    let sent = hand.news(shard, HandOffNews::Sealed { transfer: second, epoch: Epoch(1), number: 6 });
    assert!(matches!(sent[..], [MoverAction::Send { message: Message::Piece { .. }, .. }]), "{sent:?}");
}

#[test]
fn a_seal_that_never_was_lets_the_shard_be_served_again() {
    let (mut hand, shard) = Hand::source();
    let (transfer, attempt) = hand.give(shard);
    hand.seal(shard, transfer, attempt);
    let read = read_of(&hand.news(shard, HandOffNews::Voided(transfer)));
    let settled = hand.step(MoverEvent::Ownership { shard, read, ownership: owned() });
    assert!(settled.contains(&MoverAction::Host(shard)), "{settled:?}");
    assert!(settled.contains(&MoverAction::Order(shard, Order::StopGiving(transfer))), "{settled:?}");
    assert_eq!(hand.mover.running(), (0, 0));
}

#[test]
fn a_record_that_is_told_lost_twice_is_written_once_more() {
    let (mut hand, shard) = Hand::source();
    let (transfer, attempt) = hand.give(shard);
    hand.seal(shard, transfer, attempt);
    hand.news(shard, HandOffNews::Sealed { transfer, epoch: Epoch(1), number: 6 });
    let record = OwnershipRecord::Moved { transfer, epoch: Epoch(2) };
    let moved =
        MoverAction::Order(shard, Order::Write { epoch: Epoch(1), number: 7, record: record.clone() });
    assert_eq!(hand.hear(shard, transfer, Message::Accepted), [MoverAction::Routed(shard), moved]);
    let sealed = Ownership::Sealed { epoch: Epoch(1), stay: Epoch(1), number: 6, to: name(1), transfer };
    // Two words of a void, and both reads come back behind them.
    let reads = [(); 2].map(|()| read_of(&hand.news(shard, HandOffNews::Voided(transfer))));
    let mut written = 0;
    for read in reads {
        let actions = hand.step(MoverEvent::Ownership { shard, read, ownership: sealed.clone() });
        written += actions.iter().filter(|action| matches!(action, MoverAction::Order(..))).count();
    }
    assert_eq!(written, 1, "a second MOVED would end the node");
    hand.news(shard, HandOffNews::Written(record));
    assert_eq!(hand.mover.running(), (0, 0));
}

#[test]
fn a_shard_is_accepted_once_however_often_its_record_is_told_lost() {
    let shard = shard_of(0);
    let mut hand = Hand::new(Vec::new());
    hand.step(MoverEvent::Table(Some(table(&[0, 1]))));
    let id = TransferId(9);
    let transfer = Transfer { id, shard, epoch: Epoch(2), source: name(1), target: name(0) };
    let digest = table(&[0, 1]).digest();
    hand.hear(shard, id, Message::Offer { transfer, attempt: 1, table: digest, is_sealed: false });
    hand.step(MoverEvent::Cleared(shard, id));
    let end = crate::handoff::Piece::End { rows: 0, hash: 0 }.encode();
    let accepted = hand.hear(shard, id, Message::Piece { attempt: 1, number: 1, body: end });
    let [MoverAction::Order(_, Order::Write { ref record, .. })] = accepted[..] else {
        panic!("{accepted:?}")
    };
    let reads = [(); 2].map(|()| read_of(&hand.news(shard, HandOffNews::Voided(id))));
    let mut written = 0;
    for read in reads {
        let again = hand.step(MoverEvent::Ownership { shard, read, ownership: Ownership::Foreign });
        written += again.iter().filter(|action| accepted.contains(action)).count();
    }
    assert_eq!(written, 1, "a second ACCEPT would end the node");
    let served = hand.news(shard, HandOffNews::Written(record.clone()));
    assert!(served.contains(&MoverAction::Host(shard)), "{served:?}");
    assert_eq!(hand.news(shard, HandOffNews::Voided(id)), [], "it is over");
    assert!(shard.0 < SHARDS);
}
