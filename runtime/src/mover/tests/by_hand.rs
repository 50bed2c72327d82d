//! One mover, every word of which is the test's: what comes late, twice or of before.

use super::{name, shards, store_of};
use crate::{
    handoff::{HandOffLimits, Message, Piece, Transfer},
    kernel::{HandOffNews, Order},
    mover::{Mover, MoverAction, MoverConfig, MoverEvent, SealedShard},
    placement::{Epoch, ShardId, Table, Weight},
    rebalance,
    router::Announcement,
    store::{Ownership, OwnershipRecord, TransferId},
    timestamp::Timestamp,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use xxhash_rust::xxh3::xxh3_64_with_seed;

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
            store: store_of(0),
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

    /// Node 1 says something, with this store.
    fn hear_store(
        &mut self,
        store: u128,
        shard: ShardId,
        transfer: TransferId,
        message: Message,
    ) -> Vec<MoverAction> {
        self.step(MoverEvent::Heard { from: name(1), store, shard, transfer, message })
    }

    /// Node 1 says something.
    fn hear(&mut self, shard: ShardId, transfer: TransferId, message: Message) -> Vec<MoverAction> {
        self.hear_store(store_of(1), shard, transfer, message)
    }

    /// It offers its shard, and node 1 is ready. Returns the hand-off and its attempt.
    fn give(&mut self, shard: ShardId) -> (TransferId, u64) {
        self.now = self.now + Duration::from_secs(2);
        let offered = self.step(MoverEvent::Tick);
        let [MoverAction::Send { transfer, message: Message::Offer { attempt, .. }, .. }] = offered[..]
        else {
            panic!("{offered:?}")
        };
        let ready = Message::Ready { attempt, table: table(&[0, 1]).digest(), place: 1 };
        let ordered = self.hear(shard, transfer, ready);
        assert_eq!(ordered, [MoverAction::Order(shard, Order::Give(transfer))]);
        (transfer, attempt)
    }

    /// Up to the order to seal.
    fn seal(&mut self, shard: ShardId, transfer: TransferId, attempt: u64) {
        let asked = self.news(shard, HandOffNews::CopyFrom(transfer));
        assert!(matches!(asked[..], [MoverAction::ReadRows { .. }]), "{asked:?}");
        let read = MoverEvent::RowsRead { shard, transfer, attempt, rows: Vec::new(), next: None };
        let sent = self.step(read);
        assert!(
            matches!(sent[..], [MoverAction::Send { message: Message::Piece { number: 1, .. }, .. }]),
            "{sent:?}"
        );
        let sealed = self.hear(shard, transfer, Message::Staged { attempt, place: 1, through: 1 });
        assert_eq!(sealed, [MoverAction::Order(shard, seal_order(transfer))]);
    }
}

fn seal_order(transfer: TransferId) -> Order {
    Order::Seal { transfer, to: name(1), store: store_of(1) }
}

/// By its 6th section, for node 1.
fn sealed_under(epoch: u64, stay: u64, transfer: TransferId) -> Ownership {
    let (epoch, stay, store) = (Epoch(epoch), Epoch(stay), store_of(1));
    Ownership::Sealed { epoch, stay, number: 6, to: name(1), store, transfer }
}

fn read_of(actions: &[MoverAction]) -> u64 {
    match actions {
        [MoverAction::ReadOwnership { read, .. }] => *read,
        other => panic!("{other:?}"),
    }
}

/// The place that is to be cleared.
fn place_of(actions: &[MoverAction]) -> u64 {
    match actions {
        [MoverAction::Clear { place, .. }] => *place,
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
fn what_is_on_its_way_to_a_node_counts_until_moved_is_durable_and_nothing_comes_to_it() {
    let (mut hand, shard) = Hand::source();
    let going = |hand: &Hand| hand.mover.going_to(&name(1), store_of(1));
    let (transfer, attempt) = hand.give(shard);
    hand.seal(shard, transfer, attempt);
    assert_eq!(going(&hand), None, "the table names it, so there may be more");
    // Node 1 leaves: the order to seal is on its way all the same.
    hand.step(MoverEvent::Table(Some(table(&[0]))));
    assert_eq!(going(&hand), Some(1));
    hand.news(shard, HandOffNews::Sealed { transfer, epoch: Epoch(1), number: 6 });
    assert_eq!(going(&hand), Some(1));
    assert_eq!(hand.mover.going_to(&name(1), store_of(1) + 1), Some(0), "of its name, and another store");
    hand.hear(shard, transfer, Message::Accepted);
    assert_eq!((going(&hand), hand.mover.going_to(&name(2), store_of(2))), (Some(1), Some(0)));
    hand.news(shard, HandOffNews::Written(OwnershipRecord::Moved { transfer, epoch: Epoch(2) }));
    assert_eq!(going(&hand), Some(0));

    // One that is not past its seal is taken back with the table.
    let (mut hand, shard) = Hand::source();
    hand.give(shard);
    hand.step(MoverEvent::Table(None));
    assert_eq!(going(&hand), Some(0));
    hand.now = hand.now + Duration::from_mins(5);
    assert_eq!(hand.step(MoverEvent::Tick), []);
    assert_eq!(going(&hand), Some(0));
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
    let sealed = sealed_under(1, 1, transfer);
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

/// Node 0 without a shard, and a hand-off to it.
fn target() -> (Hand, Transfer) {
    let mut hand = Hand::new(Vec::new());
    hand.step(MoverEvent::Table(Some(table(&[0, 1]))));
    let (id, shard) = (TransferId(9), shard_of(0));
    (hand, Transfer { id, shard, epoch: Epoch(5), source: name(1), target: name(0) })
}

impl Hand {
    /// Node 1 offers a shard.
    fn offered(&mut self, transfer: &Transfer, attempt: u64) -> Vec<MoverAction> {
        let (transfer, table) = (transfer.clone(), table(&[0, 1]).digest());
        let (shard, id) = (transfer.shard, transfer.id);
        self.hear(shard, id, Message::Offer { transfer, attempt, table, is_sealed: false })
    }

    /// A place was cleared.
    fn cleared(&mut self, shard: ShardId, place: u64) {
        let said = self.step(MoverEvent::Cleared { shard, place });
        assert!(matches!(said[..], [MoverAction::Send { message: Message::Ready { .. }, .. }]), "{said:?}");
    }

    /// All pieces of a shard without rows. Returns the order to accept it.
    fn accept(&mut self, transfer: &Transfer, attempt: u64) -> Vec<MoverAction> {
        let shard = transfer.shard;
        let body = Piece::rows(shard, transfer.epoch, &[]).encode();
        let hash = xxh3_64_with_seed(&body, 0);
        let staged = self.hear(shard, transfer.id, Message::Piece { attempt, number: 1, body });
        let [MoverAction::Stage { place, .. }] = staged[..] else { panic!("{staged:?}") };
        self.step(MoverEvent::Staged { shard, place });
        let body = Piece::End { rows: 0, hash }.encode();
        let accepted = self.hear(shard, transfer.id, Message::Piece { attempt, number: 2, body });
        assert!(matches!(accepted[..], [MoverAction::Order(_, Order::Write { .. })]), "{accepted:?}");
        accepted
    }
}

fn is_refused(actions: &[MoverAction]) -> bool {
    matches!(actions, [MoverAction::Send { message: Message::NotReady { is_busy: true, .. }, .. }])
}

#[test]
fn a_shard_is_accepted_once_however_often_its_record_is_told_lost() {
    let (mut hand, transfer) = target();
    let (shard, id) = (transfer.shard, transfer.id);
    let place = place_of(&hand.offered(&transfer, 1));
    hand.cleared(shard, place);
    let accepted = hand.accept(&transfer, 1);
    let [MoverAction::Order(_, Order::Write { ref record, .. })] = accepted[..] else { unreachable!() };
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
}

#[test]
fn an_offer_that_comes_late_takes_no_later_ones_place() {
    let (mut hand, transfer) = target();
    let attempt = 2 << 32 | 5;
    let place = place_of(&hand.offered(&transfer, attempt));
    let of_before = |epoch| Transfer { id: TransferId(8), epoch: Epoch(epoch), ..transfer.clone() };
    for (epoch, attempt) in [(5, 2 << 32 | 4), (5, 1 << 32 | 9), (4, 3 << 32)] {
        assert!(is_refused(&hand.offered(&of_before(epoch), attempt)), "epoch {epoch}, attempt {attempt}");
    }
    hand.cleared(transfer.shard, place);
    assert!(is_refused(&hand.offered(&of_before(5), 1)));
    hand.accept(&transfer, attempt);
    assert!(is_refused(&hand.offered(&of_before(5), 1)), "nobody need be alarmed");
}

#[test]
fn a_later_offer_takes_the_place_of_one_whose_end_was_not_heard() {
    let (mut hand, transfer) = target();
    for (id, epoch, attempt) in [(1, 5, 3), (2, 5, 4), (3, 5, 1 << 32), (4, 7, 1)] {
        let transfer = Transfer { id: TransferId(id), epoch: Epoch(epoch), ..transfer.clone() };
        place_of(&hand.offered(&transfer, attempt));
        assert_eq!(hand.mover.running(), (0, 1));
    }
}

#[test]
fn what_the_store_says_of_an_earlier_place_is_not_taken_for_this_one() {
    let (mut hand, transfer) = target();
    let shard = transfer.shard;
    let first = place_of(&hand.offered(&transfer, 1));
    let second = place_of(&hand.offered(&transfer, 2));
    assert!(first < second);
    assert_eq!(hand.step(MoverEvent::Cleared { shard, place: first }), []);
    let why = "swept".to_owned();
    assert_eq!(hand.step(MoverEvent::StagingFailed { shard, place: first, why }), []);
    hand.cleared(shard, second);
    assert_eq!(hand.step(MoverEvent::Staged { shard, place: first }), []);
    hand.accept(&transfer, 2);
}

#[test]
fn a_shard_of_a_build_with_more_kinds_is_refused_until_it_is_sealed() {
    let (mut hand, transfer) = target();
    let lacks = Some("version 3 of account".to_owned());
    assert_eq!(hand.step(MoverEvent::Build { node: name(1), lacks }), []);
    let refused = hand.offered(&transfer, 1);
    let [MoverAction::Send { message: Message::NotReady { is_busy: false, ref reason, .. }, .. }] =
        refused[..]
    else {
        panic!("{refused:?}")
    };
    assert!(reason.contains("version 3 of account"), "{reason}");
    // It has nowhere else to go.
    let (shard, id) = (transfer.shard, transfer.id);
    let sealed = Message::Offer { transfer: transfer.clone(), attempt: 2, table: 0, is_sealed: true };
    place_of(&hand.hear(shard, id, sealed));
    // The other build was taken back, or this one has come after it.
    hand.step(MoverEvent::Build { node: name(1), lacks: None });
    let other = Transfer { id: TransferId(10), epoch: Epoch(6), ..transfer };
    place_of(&hand.offered(&other, 3));
}

/// A shard that was found sealed for node 1, and the hand-off it is sealed by.
fn sealed() -> (Hand, ShardId, TransferId) {
    let (shard, transfer) = (shard_of(1), TransferId(7));
    let sealed = sealed_under(4, 2, transfer);
    let mut hand = Hand::new(vec![(shard, sealed)]);
    let waiting = SealedShard { shard, epoch: Epoch(4), to: name(1), store: store_of(1) };
    assert_eq!(hand.mover.sealed().collect::<Vec<_>>(), [waiting]);
    assert_eq!(hand.step(MoverEvent::Hold(vec![shard])), []);
    (hand, shard, transfer)
}

fn reopen_order(shard: ShardId, transfer: TransferId) -> MoverAction {
    let record = OwnershipRecord::Reopen { transfer };
    MoverAction::Order(shard, Order::Write { epoch: Epoch(9), number: 1, record })
}

fn is_served_again(hand: &Hand, shard: ShardId, actions: &[MoverAction]) {
    let announcement = Announcement { shard, epoch: Epoch(9), owner: name(0) };
    let expected = [
        MoverAction::Routed(shard),
        MoverAction::Host(shard),
        MoverAction::Announce(announcement),
        MoverAction::Reopened(shard),
    ];
    assert_eq!(actions, expected);
    assert_eq!((hand.mover.running(), hand.mover.sealed().count()), ((0, 0), 0));
    let owned = Ownership::Owned { epoch: Epoch(9), stay: Epoch(2), number: 1 };
    assert_eq!(hand.mover.ownership[&shard], owned);
}

#[test]
fn a_shard_that_is_held_says_and_hears_nothing_of_its_hand_off_until_it_is_released() {
    let (mut hand, shard, transfer) = sealed();
    hand.now = hand.now + Duration::from_secs(5);
    assert_eq!(hand.step(MoverEvent::Tick), []);
    assert_eq!(hand.hear(shard, transfer, Message::Accepted), []);
    assert_eq!(hand.step(MoverEvent::Release(vec![shard])), []);
    hand.now = hand.now + Duration::from_secs(5);
    let offered = hand.step(MoverEvent::Tick);
    let offers =
        matches!(offered[..], [MoverAction::Send { message: Message::Offer { is_sealed: true, .. }, .. }]);
    assert!(offers, "{offered:?}");
    let moved = hand.hear(shard, transfer, Message::Accepted);
    assert!(moved.iter().any(|action| matches!(action, MoverAction::Order(..))), "{moved:?}");
    // What is not sealed any more is not opened again.
    assert_eq!(hand.mover.sealed().count(), 0);
    hand.step(MoverEvent::Hold(vec![shard]));
    assert_eq!(hand.step(MoverEvent::Reopen { shard, epoch: Epoch(9) }), []);
}

#[test]
fn a_shard_is_opened_again_above_what_its_target_may_have_accepted() {
    let (mut hand, shard, transfer) = sealed();
    for at_most in [4, 5] {
        assert_eq!(hand.step(MoverEvent::Reopen { shard, epoch: Epoch(at_most) }), []);
    }
    let ordered = hand.step(MoverEvent::Reopen { shard, epoch: Epoch(9) });
    assert_eq!(ordered, [reopen_order(shard, transfer)]);
    // Too late: neither a word of the target nor a release takes back what is on its way to the log.
    assert_eq!(hand.hear(shard, transfer, Message::Accepted), []);
    assert_eq!(hand.step(MoverEvent::Release(vec![shard])), []);
    let written = HandOffNews::Written(OwnershipRecord::Reopen { transfer });
    let actions = hand.news(shard, written);
    is_served_again(&hand, shard, &actions);
}

#[test]
fn a_record_that_opens_a_shard_again_and_was_lost_is_written_again() {
    let (mut hand, shard, transfer) = sealed();
    hand.step(MoverEvent::Reopen { shard, epoch: Epoch(9) });
    let read = read_of(&hand.news(shard, HandOffNews::Voided(transfer)));
    let still = sealed_under(4, 2, transfer);
    let again = hand.step(MoverEvent::Ownership { shard, read, ownership: still });
    assert_eq!(again, [reopen_order(shard, transfer)]);
    // Or it is in the store, and only the word of that was lost.
    let read = read_of(&hand.news(shard, HandOffNews::Voided(transfer)));
    let ownership = Ownership::Owned { epoch: Epoch(9), stay: Epoch(2), number: 1 };
    let actions = hand.step(MoverEvent::Ownership { shard, read, ownership });
    is_served_again(&hand, shard, &actions);
}

#[test]
fn an_offer_from_elsewhere_shows_that_a_held_shard_was_accepted() {
    let (mut hand, shard, transfer) = sealed();
    let offer = |epoch: u64| {
        let (id, source, target) = (TransferId(8), name(2), name(0));
        let transfer = Transfer { id, shard, epoch: Epoch(epoch), source: source.clone(), target };
        let message = Message::Offer { transfer, attempt: 1, table: 0, is_sealed: true };
        MoverEvent::Heard { from: source, store: store_of(2), shard, transfer: id, message }
    };
    let heard = hand.step(offer(6));
    let moved = OwnershipRecord::Moved { transfer, epoch: Epoch(5) };
    let order = Order::Write { epoch: Epoch(4), number: 7, record: moved };
    assert!(heard.contains(&MoverAction::Order(shard, order)), "{heard:?}");

    // Once its record is on its way, somebody has not said what he had.
    let (mut hand, shard, _) = sealed();
    hand.step(MoverEvent::Reopen { shard, epoch: Epoch(9) });
    let heard = hand.step(offer(6));
    assert!(matches!(heard[..], [MoverAction::Alarm(_)]), "{heard:?}");
}

#[test]
fn a_shard_that_comes_counts_as_held_under_the_epoch_it_comes_under() {
    let shard = shard_of(0);
    let mut hand = Hand::new(Vec::new());
    let standing = |hand: &Hand| hand.mover.standing(shard).held;
    assert_eq!(standing(&hand), Epoch(1));
    let transfer = Transfer { id: TransferId(8), shard, epoch: Epoch(6), source: name(1), target: name(0) };
    let offer = Message::Offer { transfer, attempt: 1, table: 0, is_sealed: true };
    let _ = hand.hear(shard, TransferId(8), offer);
    assert_eq!(standing(&hand), Epoch(6));
}

#[test]
fn a_hand_off_that_lost_its_source_for_good_is_over_and_counts_for_nothing() {
    let (mut hand, transfer) = target();
    let (shard, id) = (transfer.shard, transfer.id);
    let place = place_of(&hand.offered(&transfer, 1));
    assert_eq!(hand.step(MoverEvent::Forgotten(name(2))), [], "it comes from another");
    assert_eq!(hand.mover.standing(shard).held, Epoch(5));
    assert_eq!(hand.step(MoverEvent::Forgotten(name(1))), [MoverAction::Sweep(shard, Epoch(5), id)]);
    assert_eq!(hand.mover.standing(shard).held, Epoch(1));
    assert_eq!(hand.step(MoverEvent::Cleared { shard, place }), []);

    let place = place_of(&hand.offered(&transfer, 2));
    hand.cleared(shard, place);
    let swept = [MoverAction::Sweep(shard, Epoch(5), id)];
    assert_eq!(hand.step(MoverEvent::Forgotten(name(1))), swept, "some of it may be staged");
    assert_eq!(hand.mover.standing(shard).held, Epoch(1));
}

#[test]
fn a_shard_that_is_being_accepted_stays_without_its_source_and_whoever_asks_is_told() {
    let (mut hand, transfer) = target();
    let shard = transfer.shard;
    let place = place_of(&hand.offered(&transfer, 1));
    hand.cleared(shard, place);
    assert!(!hand.mover.standing(shard).is_accepting);
    let accepted = hand.accept(&transfer, 1);
    assert!(hand.mover.standing(shard).is_accepting);
    assert_eq!(hand.step(MoverEvent::Forgotten(name(1))), []);
    assert!(hand.mover.standing(shard).is_accepting);
    let [MoverAction::Order(_, Order::Write { ref record, .. })] = accepted[..] else { unreachable!() };
    let served = hand.news(shard, HandOffNews::Written(record.clone()));
    assert!(served.contains(&MoverAction::Host(shard)), "{served:?}");
    let standing = hand.mover.standing(shard);
    assert_eq!((standing.held, standing.is_accepting), (Epoch(5), false));
    assert_eq!(standing.heard, Some((Epoch(5), name(0))));
}

/// Somebody tells who owns a shard.
fn told(shard: ShardId, epoch: u64, owner: usize) -> MoverEvent {
    MoverEvent::Announced(vec![Announcement { shard, epoch: Epoch(epoch), owner: name(owner) }])
}

#[test]
fn a_sealed_shard_that_another_node_owns_is_not_taken() {
    let (mut hand, transfer) = target();
    let (shard, id) = (transfer.shard, transfer.id);
    let sealed = |hand: &mut Hand, attempt| {
        let transfer = transfer.clone();
        hand.hear(shard, id, Message::Offer { transfer, attempt, table: 0, is_sealed: true })
    };
    // The source's own, which it is about to give away.
    hand.step(told(shard, 4, 1));
    place_of(&sealed(&mut hand, 1));
    // One that comes already is not gone on with.
    let ended = hand.step(told(shard, 6, 2));
    assert!(ended.contains(&MoverAction::Sweep(shard, Epoch(5), id)), "{ended:?}");
    let refused = sealed(&mut hand, 2);
    let [MoverAction::Send { message: Message::NotReady { is_busy: false, ref reason, .. }, .. }] =
        refused[..]
    else {
        panic!("{refused:?}")
    };
    assert!(reason.contains(name(2).as_str()), "{reason}");
}

#[test]
fn a_route_beyond_its_target_shows_that_a_sealed_shard_was_accepted() {
    // Sealed under 4 for node 1, which accepts under 5.
    let moved = |shard, transfer| {
        let record = OwnershipRecord::Moved { transfer, epoch: Epoch(5) };
        MoverAction::Order(shard, Order::Write { epoch: Epoch(4), number: 7, record })
    };
    for (epoch, owner, is_proof) in
        [(4, 2, false), (5, 2, false), (5, 1, false), (6, 2, true), (6, 1, true), (6, 0, false)]
    {
        let (mut hand, shard, transfer) = sealed();
        let heard = hand.step(told(shard, epoch, owner));
        assert!(!heard.contains(&moved(shard, transfer)), "it is held: {heard:?}");
        let released = hand.step(MoverEvent::Release(vec![shard]));
        assert_eq!(released.contains(&moved(shard, transfer)), is_proof, "{epoch} {owner}: {released:?}");

        let (mut hand, shard, transfer) = sealed();
        hand.step(MoverEvent::Release(vec![shard]));
        let heard = hand.step(told(shard, epoch, owner));
        assert_eq!(heard.contains(&moved(shard, transfer)), is_proof, "{epoch} {owner}: {heard:?}");
    }
}

#[test]
fn a_shard_that_may_be_opened_again_counts_as_held_under_the_epoch_it_would_have() {
    let (mut hand, shard, _) = sealed();
    assert_eq!(hand.mover.standing(shard).held, Epoch(6));
    hand.step(MoverEvent::Reopen { shard, epoch: Epoch(9) });
    assert_eq!(hand.mover.standing(shard).held, Epoch(9));
    let (mut hand, shard, _) = sealed();
    hand.step(MoverEvent::Release(vec![shard]));
    assert_eq!(hand.mover.standing(shard).held, Epoch(4));
}

#[test]
fn a_shard_is_sealed_for_the_store_that_was_ready_and_no_other_of_its_name_is_told_of_it() {
    let (mut hand, shard) = Hand::source();
    let (transfer, attempt) = hand.give(shard);
    hand.seal(shard, transfer, attempt);
    // Node 1 has another store by now: what it says is no answer, before the seal is durable and behind it.
    let another = store_of(1) + 100;
    let ready = Message::Ready { attempt, table: 0, place: 9 };
    let refused = Message::NotReady { attempt, table: 0, is_busy: false, reason: String::new() };
    let answers = [ready, refused, Message::Lost { attempt }, Message::Accepted];
    for message in &answers {
        assert_eq!(hand.hear_store(another, shard, transfer, message.clone()), []);
    }
    hand.news(shard, HandOffNews::Sealed { transfer, epoch: Epoch(1), number: 6 });
    assert_eq!(hand.mover.ownership[&shard], sealed_under(1, 1, transfer));
    for message in answers {
        assert_eq!(hand.hear_store(another, shard, transfer, message), []);
    }
    hand.now = hand.now + Duration::from_secs(5);
    let sent = hand.step(MoverEvent::Tick);
    let is_for_it = |action: &MoverAction| matches!(action, MoverAction::Send { store: Some(store), .. } if *store == store_of(1));
    assert!(!sent.is_empty() && sent.iter().all(is_for_it), "{sent:?}");
    let moved = OwnershipRecord::Moved { transfer, epoch: Epoch(2) };
    let order = Order::Write { epoch: Epoch(1), number: 7, record: moved };
    assert!(hand.hear(shard, transfer, Message::Accepted).contains(&MoverAction::Order(shard, order)));
}

#[test]
fn a_source_that_starts_again_waits_for_the_store_its_seal_names() {
    let (mut hand, shard, transfer) = sealed();
    hand.step(MoverEvent::Release(vec![shard]));
    hand.now = hand.now + Duration::from_secs(5);
    let offered = hand.step(MoverEvent::Tick);
    let [MoverAction::Send { store, message: Message::Offer { attempt, is_sealed: true, .. }, .. }] =
        offered[..]
    else {
        panic!("{offered:?}")
    };
    assert_eq!(store, Some(store_of(1)));
    let ready = Message::Ready { attempt, table: 0, place: 1 };
    for message in [Message::Accepted, ready.clone()] {
        assert_eq!(hand.hear_store(store_of(1) + 100, shard, transfer, message), []);
    }
    let asked = hand.hear(shard, transfer, ready);
    assert!(matches!(asked[..], [MoverAction::ReadRows { .. }]), "{asked:?}");
}
