//! Two nodes, a network that loses, doubles and reorders, and crashes of either side: the shard arrives whole, and never two
//! serve it.

use super::{
    HandOffLimits, Message, OfferVerdict, PIECE_ROWS_MAX, Piece, Source, SourceAction, SourceEnd,
    SourceEvent, Target, TargetAction, TargetEvent, Transfer, newest_writes,
};
use crate::{
    placement::{Epoch, ShardId},
    sim::Random,
    store::{
        Batch, Row, TransferId,
        batch::{delete, delete_range, put},
    },
    timestamp::Timestamp,
};
use std::{collections::BTreeMap, time::Duration};

const SHARD: ShardId = ShardId(3);
/// The target's.
const STORE: u128 = 11;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn apply(rows: &mut Rows, sections: &[Batch]) {
    for (key, value) in newest_writes(sections) {
        match value {
            Some(value) => drop(rows.insert(key, value)),
            None => drop(rows.remove(&key)),
        }
    }
}

/// The target says something.
fn heard(message: Message) -> SourceEvent {
    SourceEvent::Heard { store: STORE, message }
}

/// What the source's store knows of the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owned {
    Here,
    Sealed(TransferId),
    Moved,
}

struct World {
    random: Random,
    now: Timestamp,
    limits: HandOffLimits,
    /// The source's log of the shard, and how much of it loads find.
    log: Vec<Batch>,
    loadable: usize,
    owned: Owned,
    source: Option<Source>,
    /// How often the source was started.
    boot: u64,
    /// Sections before this one are not given.
    gives_from: Option<usize>,
    transfers: u128,
    /// Attempts and places begun.
    begun: u64,
    places: u64,
    target: Option<Target>,
    /// What the target has staged, and whether it has accepted.
    staged: Rows,
    accepted: bool,
    to_source: Vec<Message>,
    to_target: Vec<Message>,
    withdrawn: u32,
    lost: u32,
    meddled: u32,
    /// No more messages are lost, and nobody crashes.
    healed: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let limits = HandOffLimits {
            window_bytes: 200,
            chunk_bytes: 60,
            backlog_bytes_max: 4_000,
            seal_bytes: 100,
            ..HandOffLimits::default()
        };
        let mut world = Self {
            random: Random::new(seed),
            now: Timestamp::from_millis(1),
            limits,
            log: Vec::new(),
            loadable: 0,
            owned: Owned::Here,
            source: None,
            boot: 1,
            gives_from: None,
            transfers: 0,
            begun: 0,
            places: 0,
            target: None,
            staged: Rows::new(),
            accepted: false,
            to_source: Vec::new(),
            to_target: Vec::new(),
            withdrawn: 0,
            lost: 0,
            meddled: 0,
            healed: false,
        };
        for _ in 0..60 {
            world.write();
        }
        world
    }

    /// A turn's batch at the source, durable at once.
    fn write(&mut self) {
        assert_eq!(self.owned, Owned::Here, "nothing is written behind the seal");
        let number = self.log.len() as u64 + 1;
        let key = |random: &mut Random| [b"k".as_slice(), &random.below(40).to_be_bytes()].concat();
        let mut batch = Batch::new();
        let random = &mut self.random;
        batch.section(SHARD, Epoch(1), number, |out| {
            put(&[&key(random)], &[&number.to_le_bytes()], out);
            match random.below(8) {
                0 => delete(&[&key(random)], out),
                1 => delete_range(&[b"k"], 5, 5 + random.below(3), out),
                _ => {}
            }
        });
        self.log.push(batch.clone());
        if self.gives_from.is_some() {
            self.source_event(SourceEvent::Section(batch));
        }
    }

    fn transfer(id: TransferId) -> Transfer {
        let (source, target) = ("a".parse().unwrap(), "b".parse().unwrap());
        Transfer { id, shard: SHARD, epoch: Epoch(2), source, target }
    }

    /// The source begins, or goes on with what its store says.
    fn start_source(&mut self) {
        let limits = self.limits.clone();
        self.begun += 1;
        let attempt = self.boot << 32 | self.begun;
        let (source, actions) = match self.owned {
            Owned::Here => {
                self.transfers += 1;
                Source::offer(Self::transfer(TransferId(self.transfers)), attempt, 7, limits, self.now)
            }
            Owned::Sealed(id) => Source::resume(Self::transfer(id), STORE, attempt, limits, self.now),
            Owned::Moved => return,
        };
        self.source = Some(source);
        self.source_actions(actions);
    }

    fn source_event(&mut self, event: SourceEvent) {
        let Some(source) = &mut self.source else { return };
        let actions = source.step(event, self.now);
        self.source_actions(actions);
    }

    fn source_actions(&mut self, actions: Vec<SourceAction>) {
        for action in actions {
            match action {
                SourceAction::Send(message) => self.to_target.push(message),
                SourceAction::GiveSections => {
                    self.gives_from = Some(self.log.len());
                    self.source_event(SourceEvent::CopyFrom);
                }
                SourceAction::StopGiving => self.gives_from = None,
                SourceAction::ReadRows { from, bytes, attempt } => {
                    // A copy begins with everything from before the first section that is given.
                    let least = if from.is_empty() { self.log.len() } else { self.loadable };
                    self.loadable = self.random.between(least as u64, self.log.len() as u64) as usize;
                    let mut rows = Rows::new();
                    apply(&mut rows, &self.log[..self.loadable]);
                    let (mut read, mut len, mut next): (Vec<Row>, usize, Option<Vec<u8>>) =
                        Default::default();
                    for (key, value) in rows.range(from..) {
                        if bytes <= len {
                            next = Some(key.clone());
                            break;
                        }
                        len += key.len() + value.len();
                        read.push((key.clone(), value.clone()));
                    }
                    if self.random.chance(300) && self.owned == Owned::Here {
                        self.write();
                    }
                    self.source_event(SourceEvent::RowsRead { rows: read, next, attempt });
                }
                SourceAction::Seal(store) => {
                    assert_eq!(store, STORE);
                    assert_eq!(self.owned, Owned::Here);
                    self.write();
                    let id = self.source.as_ref().expect("it asked").transfer().id;
                    self.owned = Owned::Sealed(id);
                    self.gives_from = None;
                    self.source_event(SourceEvent::Hot(vec![b"hot".to_vec()]));
                    self.source_event(SourceEvent::Sealed);
                }
                SourceAction::WriteMoved => {
                    self.owned = Owned::Moved;
                    self.source_event(SourceEvent::Moved);
                }
                SourceAction::End(SourceEnd::Moved) => self.source = None,
                SourceAction::End(SourceEnd::Withdrawn(_)) => {
                    assert_eq!(self.owned, Owned::Here, "behind the seal nothing is withdrawn");
                    self.withdrawn += 1;
                    self.source = None;
                    self.gives_from = None;
                }
            }
        }
    }

    fn target_event(&mut self, event: TargetEvent) {
        let Some(target) = &mut self.target else { return };
        let actions = target.step(event, self.now);
        self.target_actions(actions);
    }

    fn target_actions(&mut self, actions: Vec<TargetAction>) {
        for action in actions {
            match action {
                TargetAction::Send(message) => {
                    self.lost += u32::from(matches!(message, Message::Lost { .. }));
                    self.to_source.push(message);
                }
                TargetAction::Clear(place) => {
                    self.staged.clear();
                    self.target_event(TargetEvent::Cleared(place));
                }
                TargetAction::Stage(place, sections) => {
                    apply(&mut self.staged, &sections);
                    self.target_event(TargetEvent::Staged(place));
                }
                TargetAction::WriteAccept { .. } => {
                    assert!(matches!(self.owned, Owned::Sealed(_)), "accepted before the seal: two owners");
                    assert!(!self.accepted, "a shard is accepted once");
                    self.accepted = true;
                    self.target_event(TargetEvent::Accepted);
                }
                TargetAction::Serve(_) => {}
                TargetAction::End(_) => self.target = None,
            }
        }
    }

    /// A message reaches the target's node, which may know nothing of the hand-off.
    fn reach_target(&mut self, message: Message) {
        let verdict = self.target.as_ref().map(|target| match &message {
            Message::Offer { transfer, attempt, .. } => target.judge(transfer, *attempt),
            _ => OfferVerdict::Repeat,
        });
        let is_accepting = self.target.as_ref().is_some_and(Target::is_accepting);
        match message {
            _ if self.accepted => self.to_source.push(Message::Accepted),
            Message::Offer { transfer, attempt, .. }
                if verdict.is_none() || verdict == Some(OfferVerdict::Newer) && !is_accepting =>
            {
                self.places += 1;
                let (place, limits) = (self.places, self.limits.clone());
                let (target, actions) = Target::new(transfer, attempt, place, 7, limits, self.now);
                self.target = Some(target);
                self.target_actions(actions);
            }
            message if verdict == Some(OfferVerdict::Repeat) => {
                self.target_event(TargetEvent::Heard(message));
            }
            Message::Piece { attempt, .. } => {
                self.lost += 1;
                self.to_source.push(Message::Lost { attempt });
            }
            _ => {}
        }
    }

    fn deliver(&mut self) {
        for _ in 0..self.random.below(6) {
            let to_target = self.random.chance(500);
            let queue = if to_target { &mut self.to_target } else { &mut self.to_source };
            if queue.is_empty() {
                continue;
            }
            // Mostly in order, as a connection is.
            let at = if self.random.chance(100) { self.random.below(queue.len() as u64) as usize } else { 0 };
            let message = match self.random.below(1_000) {
                lost if lost < 60 && !self.healed => {
                    queue.remove(at);
                    continue;
                }
                doubled if doubled < 120 => queue[at].clone(),
                _ => queue.remove(at),
            };
            if to_target {
                self.reach_target(message);
            } else {
                self.source_event(heard(message));
            }
        }
    }

    /// Another store under the target's name says something to a source that is with the right one already.
    fn meddle(&mut self) {
        let bound = self.source.as_ref().filter(|source| source.store().is_some());
        let Some(attempt) = bound.map(Source::attempt).filter(|_| self.random.chance(50)) else { return };
        let answers = answers(attempt);
        let message = answers[self.random.below(answers.len() as u64) as usize].clone();
        self.source_event(SourceEvent::Heard { store: STORE + 1, message });
        self.meddled += 1;
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(self.random.below(60));
        if self.source.is_none() {
            self.start_source();
        }
        if self.owned == Owned::Here && self.random.chance(200) {
            self.write();
        }
        self.deliver();
        self.meddle();
        if self.random.chance(200) {
            self.source_event(SourceEvent::Tick);
            self.target_event(TargetEvent::Tick);
        }
        match self.random.below(1_000) {
            // The target restarts: what was staged and not accepted is swept.
            0..4 if !self.healed => {
                self.target = None;
                if !self.accepted {
                    self.staged.clear();
                }
            }
            4..8 if !self.healed => {
                self.source = None;
                self.boot += 1;
                self.gives_from = None;
                // Messages of its former life are still on their way.
            }
            // All memory of the source's lane is lost.
            8..11 if !self.healed && self.owned == Owned::Here => {
                self.gives_from = None;
                self.source_event(SourceEvent::Voided { is_sealed: false });
            }
            _ => {}
        }
    }
}

#[test]
fn a_shard_arrives_whole_whatever_is_lost_and_whoever_crashes() {
    let (mut withdrawn, mut lost, mut meddled, mut writes) = (0, 0, 0, 0);
    for seed in 0..400 {
        let mut world = World::new(seed);
        for step in 0.. {
            world.healed = 2_000 < step;
            assert!(step < 20_000, "seed {seed}: {:?} and {:?}", world.source, world.target);
            world.step();
            if world.owned == Owned::Moved {
                break;
            }
        }
        let mut rows = Rows::new();
        apply(&mut rows, &world.log);
        assert!(world.accepted, "seed {seed}");
        assert_eq!(world.staged, rows, "seed {seed}");
        withdrawn += world.withdrawn;
        lost += world.lost;
        meddled += world.meddled;
        writes += world.log.len();
    }
    // What is claimed above was really met.
    assert!(100 < withdrawn && 20 < lost && 400 * 70 < writes, "{withdrawn} {lost} {writes}");
    assert!(400 < meddled, "{meddled}");
}

/// A source whose seal was found, with all its pieces on their way to place 5.
fn sealed(now: Timestamp) -> (Source, Vec<SourceAction>) {
    let limits = HandOffLimits::default();
    let (mut source, _) = Source::resume(World::transfer(TransferId(1)), STORE, 7, limits, now);
    source.step(heard(Message::Ready { attempt: 7, table: 0, place: 5 }), now);
    let rows = vec![(vec![1], vec![2])];
    let sent = source.step(SourceEvent::RowsRead { rows, next: None, attempt: 7 }, now);
    (source, sent)
}

#[test]
fn a_target_that_has_begun_anew_is_sent_everything_anew() {
    let now = Timestamp::from_millis(1);
    for anew in [
        Message::Ready { attempt: 7, table: 0, place: 6 },
        Message::Staged { attempt: 7, place: 6, through: 0 },
        Message::Lost { attempt: 7 },
    ] {
        let (mut source, sent) = sealed(now);
        assert_eq!(sent.len(), 2, "a piece and the end: {sent:?}");
        // It has staged the first, and is not there any more.
        source.step(heard(Message::Staged { attempt: 7, place: 5, through: 1 }), now);
        let offered = source.step(heard(anew), now);
        assert!(
            matches!(offered[..], [SourceAction::Send(Message::Offer { attempt: 8, .. })]),
            "{offered:?}"
        );
    }
}

#[test]
fn an_answer_of_an_earlier_attempt_or_place_changes_nothing() {
    let now = Timestamp::from_millis(1);
    let (mut source, _) = sealed(now);
    let reason = String::new();
    for late in [
        Message::Ready { attempt: 7, table: 0, place: 4 },
        Message::Staged { attempt: 7, place: 4, through: 2 },
        Message::Staged { attempt: 6, place: 6, through: 0 },
        Message::Lost { attempt: 6 },
        Message::NotReady { attempt: 6, table: 0, is_busy: false, reason },
    ] {
        assert_eq!(source.step(heard(late), now), []);
    }
    let later = now + HandOffLimits::default().resend_after;
    assert_eq!(source.step(SourceEvent::Tick, later).len(), 2, "both pieces are still to be staged");
}

/// All that a target may say of the attempt that runs, and that would change something.
fn answers(attempt: u64) -> [Message; 5] {
    [
        Message::Ready { attempt, table: 0, place: 9 },
        Message::NotReady { attempt, table: 0, is_busy: false, reason: "it knows nothing of it".into() },
        Message::Staged { attempt, place: 5, through: 2 },
        Message::Lost { attempt },
        Message::Accepted,
    ]
}

#[test]
fn what_another_store_under_the_targets_name_says_is_no_answer() {
    let now = Timestamp::from_millis(1);
    // With the first pieces on their way, the seal on its way, and the seal durable.
    for steps in 0..3 {
        let source = || {
            let mut source = copying(&HandOffLimits::default(), now);
            let read = SourceEvent::RowsRead { rows: Vec::new(), next: None, attempt: 7 };
            let staged = heard(Message::Staged { attempt: 7, place: 5, through: 1 });
            source.step(read, now);
            let steps = [staged, SourceEvent::Sealed].into_iter().take(steps);
            steps.for_each(|step| drop(source.step(step, now)));
            source
        };
        for message in answers(7) {
            let (mut others, mut its) = (source(), source());
            let said = SourceEvent::Heard { store: STORE + 1, message: message.clone() };
            assert_eq!(others.step(said, now), [], "{message:?} after {steps} steps");
            assert_eq!(format!("{others:?}"), format!("{:?}", source()));
            // The same of the right one is taken, but while the seal is on its way; and none can have accepted before.
            its.step(heard(message.clone()), now);
            let is_taken = format!("{its:?}") != format!("{others:?}");
            let changes = steps == 2 || steps == 0 && message != Message::Accepted;
            assert_eq!(is_taken, changes, "{message:?} after {steps} steps");
        }
    }
}

#[test]
fn a_seal_that_is_found_again_is_still_of_its_store_alone() {
    let now = Timestamp::from_millis(1);
    let resumed =
        || Source::resume(World::transfer(TransferId(1)), STORE, 7, HandOffLimits::default(), now).0;
    for message in answers(7) {
        let mut source = resumed();
        let said = SourceEvent::Heard { store: STORE + 1, message };
        assert_eq!(source.step(said, now), []);
        assert_eq!(format!("{source:?}"), format!("{:?}", resumed()));
    }
    let mut source = resumed();
    let ready = source.step(heard(Message::Ready { attempt: 7, table: 0, place: 5 }), now);
    assert!(matches!(ready[..], [SourceAction::ReadRows { .. }]), "{ready:?}");
    assert_eq!(resumed().step(heard(Message::Accepted), now), [SourceAction::WriteMoved]);
    // Whoever has it from the target shows that the target had it.
    assert_eq!(resumed().step(SourceEvent::Outrun, now), [SourceAction::WriteMoved]);
    let owned = copying(&HandOffLimits::default(), now).step(SourceEvent::Outrun, now);
    assert_eq!(owned, [], "what is not sealed is nobody else's");
}

/// A source that gives its sections, and has asked for its first rows.
fn copying(limits: &HandOffLimits, now: Timestamp) -> Source {
    let (mut source, _) = Source::offer(World::transfer(TransferId(1)), 7, 0, limits.clone(), now);
    source.step(heard(Message::Ready { attempt: 7, table: 0, place: 5 }), now);
    let asked = source.step(SourceEvent::CopyFrom, now);
    assert!(matches!(asked[..], [SourceAction::ReadRows { .. }]), "{asked:?}");
    source
}

#[test]
fn what_is_written_while_the_seal_is_on_its_way_is_bounded() {
    let now = Timestamp::from_millis(1);
    let limits = HandOffLimits { window_bytes: 100, backlog_bytes_max: 1_000, ..HandOffLimits::default() };
    let mut source = copying(&limits, now);
    let read = SourceEvent::RowsRead { rows: Vec::new(), next: None, attempt: 7 };
    assert!(!source.step(read, now).contains(&SourceAction::Seal(STORE)), "it does not stand still for rows");
    let staged = Message::Staged { attempt: 7, place: 5, through: 1 };
    assert_eq!(source.step(heard(staged), now), [SourceAction::Seal(STORE)]);
    let section = |number| {
        let mut batch = Batch::new();
        batch.section(SHARD, Epoch(1), number, |out| put(&[b"k"], &[&[0; 60]], out));
        batch
    };
    // Its target stages nothing, and the seal waits for room.
    let sent: usize =
        (1..100).map(|number| source.step(SourceEvent::Section(section(number)), now).len()).sum();
    assert!(sent < 5, "{sent} pieces in a window of 100 bytes");
    let staged = Message::Staged { attempt: 7, place: 5, through: u64::MAX };
    assert_eq!(source.step(heard(staged), now), [], "the others were let go");
    let sealed = source.step(SourceEvent::Sealed, now);
    let is_offer =
        matches!(sealed[..], [SourceAction::Send(Message::Offer { attempt: 8, is_sealed: true, .. })]);
    assert!(is_offer, "all of it is sent anew: {sealed:?}");
    let asked = source.step(heard(Message::Ready { attempt: 8, table: 0, place: 6 }), now);
    assert!(matches!(&asked[..], [SourceAction::ReadRows { from, .. }] if from.is_empty()), "{asked:?}");
}

#[test]
fn what_a_piece_may_make_of_its_bytes_is_bounded() {
    let now = Timestamp::from_millis(1);
    let ranges = |number, count: u64| {
        let mut batch = Batch::new();
        batch.section(SHARD, Epoch(1), number, |out| {
            (0..count).for_each(|nth| delete_range(&[&nth.to_le_bytes()], 1, PIECE_ROWS_MAX, out));
        });
        batch
    };
    let target = || {
        let limits = HandOffLimits::default();
        let (mut target, _) = Target::new(World::transfer(TransferId(1)), 7, 5, 0, limits, now);
        target.step(TargetEvent::Cleared(5), now);
        target
    };
    let piece = |number, count| {
        let body = Piece::Section(ranges(number, count)).encode();
        TargetEvent::Heard(Message::Piece { attempt: 7, number, body })
    };
    let given_up = target().step(piece(1, 2), now);
    assert!(matches!(given_up[..], [TargetAction::Send(Message::Lost { attempt: 7 }), TargetAction::End(_)]));

    // Several that fit one by one are staged one by one.
    let mut target = target();
    let mut staged: Vec<usize> = Vec::new();
    let mut count = |actions: Vec<TargetAction>| {
        for action in actions {
            if let TargetAction::Stage(_, sections) = action {
                staged.push(sections.len());
            }
        }
    };
    (1..=3).for_each(|number| count(target.step(piece(number, 1), now)));
    (1..=3).for_each(|_| count(target.step(TargetEvent::Staged(5), now)));
    assert_eq!(staged, [1, 1, 1]);

    // Its source does not even send it.
    let mut source = copying(&HandOffLimits::default(), now);
    let withdrawn = source.step(SourceEvent::Section(ranges(1, 2)), now);
    assert!(matches!(withdrawn.last(), Some(SourceAction::End(SourceEnd::Withdrawn(_)))), "{withdrawn:?}");
}

#[test]
fn an_end_with_nothing_before_it_is_given_up() {
    let now = Timestamp::from_millis(1);
    let (mut target, _) = Target::new(World::transfer(TransferId(1)), 7, 5, 0, HandOffLimits::default(), now);
    target.step(TargetEvent::Cleared(5), now);
    // It is true as far as it goes, but there is no staging that could be accepted.
    let body = Piece::End { rows: 0, hash: super::pieces::Chain::default().digest() }.encode();
    let given_up = target.step(TargetEvent::Heard(Message::Piece { attempt: 7, number: 1, body }), now);
    assert!(matches!(given_up[..], [TargetAction::Send(Message::Lost { attempt: 7 }), TargetAction::End(_)]));
}

#[test]
fn a_source_is_patient_with_its_own_node_and_not_with_its_target() {
    let (limits, begin) = (HandOffLimits::default(), Timestamp::from_millis(1));
    let (mut source, _) = Source::offer(World::transfer(TransferId(1)), 7, 0, limits.clone(), begin);
    source.step(heard(Message::Ready { attempt: 7, table: 0, place: 5 }), begin);
    // Its kernel has no room for the order, then its store reads for long.
    let mut now = begin + 2 * limits.patience;
    assert_eq!(source.step(SourceEvent::Tick, now), []);
    source.step(SourceEvent::CopyFrom, now);
    now = now + 2 * limits.patience;
    assert_eq!(source.step(SourceEvent::Tick, now), []);
    let rows = vec![(vec![1], vec![2])];
    source.step(SourceEvent::RowsRead { rows, next: Some(vec![2]), attempt: 7 }, now);
    let is_over = |actions: &[SourceAction]| matches!(actions.last(), Some(SourceAction::End(_)));
    now = now + limits.patience / 2;
    assert!(!is_over(&source.step(SourceEvent::Tick, now)));
    now = now + limits.patience / 2;
    assert!(is_over(&source.step(SourceEvent::Tick, now)), "a piece is not staged");
}

#[test]
fn a_target_is_patient_with_its_own_store_and_not_with_its_source() {
    let (limits, begin) = (HandOffLimits::default(), Timestamp::from_millis(1));
    let (mut target, _) = Target::new(World::transfer(TransferId(1)), 7, 5, 0, limits.clone(), begin);
    let long = 3 * limits.patience;
    let mut now = begin + long;
    assert_eq!(target.step(TargetEvent::Tick, now), [], "its place is being cleared");
    target.step(TargetEvent::Cleared(5), now);
    let body = Piece::rows(SHARD, Epoch(2), &[(vec![1], vec![2])]).encode();
    let piece = Message::Piece { attempt: 7, number: 1, body };
    let staged = target.step(TargetEvent::Heard(piece), now);
    assert!(matches!(staged[..], [TargetAction::Stage(5, _)]), "{staged:?}");
    now = now + long;
    assert_eq!(target.step(TargetEvent::Tick, now), [], "the piece is being staged");
    target.step(TargetEvent::Staged(5), now);
    assert_eq!(target.step(TargetEvent::Tick, now), []);
    now = now + long;
    assert!(matches!(target.step(TargetEvent::Tick, now)[..], [TargetAction::End(_)]));
}

#[test]
fn pieces_that_are_not_what_was_sent_are_not_accepted() {
    let mut world = World::new(1);
    world.healed = true;
    while world.owned == Owned::Here {
        world.step();
    }
    // One byte of a value is another one, on a network whose checksums do not see it.
    let spoilt = |message: &mut Message| {
        if let Message::Piece { body, .. } = message {
            let mut bytes = body.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            *body = bytes.into();
        }
    };
    (world.target, world.to_target, world.to_source) = (None, Vec::new(), Vec::new());
    let attempt = world.source.as_ref().unwrap().attempt();
    world.source_event(heard(Message::Lost { attempt }));
    let mut spoilt_one = false;
    for _ in 0..2_000 {
        let is_second = |message: &&mut Message| matches!(message, Message::Piece { number: 2, .. });
        if !spoilt_one && let Some(second) = world.to_target.iter_mut().find(is_second) {
            spoilt(second);
            spoilt_one = true;
        }
        world.step();
    }
    assert_eq!(world.owned, Owned::Moved);
    let mut rows = Rows::new();
    apply(&mut rows, &world.log);
    assert_eq!(world.staged, rows);
    assert!(spoilt_one && 0 < world.lost, "the target saw that the pieces do not hash as they were sent");
}
