//! A world for one seed: entities under load and faults, then peace, then the reckoning.

use crate::entities::{
    Account, BRITTLE_BROKEN, Books, Brittle, Cancel, Clock, Count, Credit, End, Fund, Heard, Listener,
    NERVES, Onward, Pass, Phoenix, Poison, Press, Presses, Relay, Ring, Rings, Row, Set, Sink, Speak,
    Speaker, Spoken, Sum, Tally, Touch, Transfer, Word,
};
use entity_runtime::{
    entity::Entity,
    error::{AskError, Refusal},
    kernel::Outcome,
    message::{self, Message},
    shard::LetterRow,
    sim::{Builder, FeedState, FeedTicket, Random, Seen, Sim, Ticket},
};
use std::{collections::BTreeMap, time::Duration};

/// How many nodes a world has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// One.
    OneNode,
    /// Two to four, by the seed, with the shards dealt among them.
    Cluster,
    /// The same, and nodes join and leave while shards move.
    Moving,
    /// Two to four on one store that they share, on one server or two, taken over by whoever lives.
    Shared,
    /// Three to six, of which some are there at the start: they find each other, come, leave, and are struck in the midst of it.
    Storm,
}

/// What one seed gave.
pub struct Report {
    /// What really happened.
    pub seen: Seen,
    /// Over everything that happened, in order.
    pub hash: u64,
    /// How many things happened.
    pub steps: u64,
    /// Virtual time.
    pub time: Duration,
}

const ACCOUNTS: u64 = 5;
const SPEAKERS: u64 = 3;
const LISTENERS: u64 = 3;
const PHOENIXES: u64 = 3;
const CLOCKS: u64 = 2;
const TALLIES: u64 = 4;
const BRITTLES: u64 = 2;
/// A minute of peace is enough for every retry, pause and resend.
const PEACE: Duration = Duration::from_mins(4);

/// What was asked of one phoenix, one thing at a time.
#[derive(Default)]
struct PhoenixModel {
    touched: u64,
    lives: u64,
    open: Option<(Ticket, Deed)>,
}

#[derive(Clone, Copy)]
enum Deed {
    Touch,
    Poison,
    End,
    /// Only looks.
    Look,
}

struct World {
    sim: Sim,
    funds: Vec<(Ticket, u64)>,
    phoenixes: Vec<PhoenixModel>,
    poisons: u64,
    sets: Vec<(Ticket, u64, u64)>,
    cancels: Vec<Ticket>,
    presses: Vec<(Ticket, u64)>,
    rows: Vec<(u64, u64, u64)>,
    feeds: Vec<FeedTicket>,
    next_number: u64,
    /// Whether it can no longer be told what became of some call: refused as busy until it was too old.
    is_vague: bool,
    /// Whether phoenixes are looked at between their deeds.
    looks: bool,
}

/// What is fed under the one name.
#[derive(Clone, Copy)]
enum Input {
    /// What was sent first.
    Right,
    /// Another.
    Other,
    /// Another that begins in the same way.
    Later,
}

fn key(letter: char, number: u64) -> String {
    format!("{letter}{number}")
}

/// Some nodes that have the shards, and others that are to come.
fn stormy(builder: Builder, random: &mut Random) -> Builder {
    let nodes = random.between(3, 6) as usize;
    let present = random.between(1, nodes as u64 - 1) as usize;
    // In some worlds all begins with the founder.
    let owners = random.pick(&[1, present, present]);
    let shards = random.pick(&[4, 8, 16]);
    builder.shards(shards).nodes(nodes).dealt(move |shard| shard.0 as usize % owners).membership(present)
}

/// Nodes that share servers, in a few worlds such that fall back to a standby which lags.
fn sharing(builder: Builder, random: &mut Random) -> Builder {
    let builder = builder.nodes(random.between(2, 4) as usize);
    let (servers, lanes) = (random.pick(&[1, 1, 2]), random.pick(&[1, 2, 4]));
    if random.chance(100) {
        builder.shared_and_lagging(servers, lanes)
    } else {
        builder.shared(servers, lanes)
    }
}

/// Builds the world of a seed.
fn world(seed: u64, scale: Scale, traced: bool) -> World {
    let mut builder = Sim::builder(seed)
        .entity::<Account>()
        .entity::<Speaker>()
        .entity::<Listener>()
        .entity::<Phoenix>()
        .entity::<Clock>()
        .entity::<Tally>()
        .entity::<Brittle>()
        .entity::<Relay>()
        .entity::<Sink>();
    // Of another sequence than the simulation's own, so that a change here does not change every run.
    let mut random = Random::new(!seed);
    builder = builder.shards(random.pick(&[1, 2, 4, 8, 16])).workers(random.between(1, 3) as usize);
    builder = match random.below(10) {
        0..4 => builder.embedded(),
        4..7 => builder.lanes(random.pick(&[1, 2, 4])),
        _ => builder.lagging_lanes(random.pick(&[1, 2, 4])),
    };
    if scale == Scale::Shared {
        builder = sharing(builder, &mut random);
    } else if scale == Scale::Storm {
        builder = stormy(builder, &mut random);
    } else if scale != Scale::OneNode {
        let nodes = random.between(2, 4) as usize;
        // In most worlds every node has its share; in the others one has none, or the first has all.
        let owners = random.pick(&[1, nodes - 1, nodes, nodes, nodes]);
        builder = builder.nodes(nodes).dealt(move |shard| shard.0 as usize % owners);
    }
    if scale == Scale::Moving {
        builder = builder.moving();
    }
    if traced {
        builder = builder.traced(|line| println!("{line}"));
    }
    NERVES.set(random.pick(&[0, 0, 20, 150]));
    BRITTLE_BROKEN.set(false);
    World {
        sim: builder.start(),
        funds: Vec::new(),
        phoenixes: (0..PHOENIXES).map(|_| PhoenixModel::default()).collect(),
        poisons: 0,
        sets: Vec::new(),
        cancels: Vec::new(),
        presses: Vec::new(),
        rows: Vec::new(),
        feeds: Vec::new(),
        next_number: 0,
        is_vague: false,
        looks: scale == Scale::Shared,
    }
}

/// Runs one seed and checks everything; `traced` prints a line for everything that happens.
///
/// # Panics
/// A promise was broken.
pub fn run(seed: u64, scale: Scale, traced: bool) -> Report {
    let mut world = world(seed, scale, traced);
    let deeds = world.sim.random().between(30, 120);
    // Between nodes everything takes longer.
    let pause_max = match scale {
        Scale::OneNode => 30_000,
        Scale::Cluster | Scale::Moving | Scale::Shared => 80_000,
        // A node takes a while to go: others must have heard of it.
        Scale::Storm => 200_000,
    };
    for _ in 0..deeds {
        world.deed();
        let pause = world.sim.random().below(pause_max);
        world.sim.run_for(Duration::from_micros(pause));
    }
    // Peace: no faults, calm handlers, and a build that reads everything.
    NERVES.set(0);
    BRITTLE_BROKEN.set(false);
    world.sim.heal();
    if world.sim.has_lost_commits() {
        // What was acknowledged may be gone, and whoever waits for it may wait for ever. The shards must be served.
        world.sim.run_until_settled(PEACE);
        return world.report();
    }
    if scale == Scale::Storm {
        // Who is on its way when the storm ends gets there.
        world.sim.run_until_settled(PEACE);
    }
    // What is parked is read again by the next build.
    world.sim.crash();
    world.sim.run_until_quiet(PEACE);
    world.collide();
    // Every reminder is due by now.
    world.sim.run_for(Duration::from_secs(25));
    world.sim.run_until_quiet(PEACE);
    world.reckon();
    // The same is true after one more start.
    world.sim.crash();
    world.sim.run_until_quiet(PEACE);
    world.reckon();
    world.report()
}

impl World {
    fn report(&self) -> Report {
        Report {
            seen: self.sim.seen(),
            hash: self.sim.trace_hash(),
            steps: self.sim.steps(),
            time: self.sim.now(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.sim.random().below(bound)
    }

    fn deed(&mut self) {
        match self.below(100) {
            0..12 => self.fund(),
            12..32 => self.transfer(),
            32..47 => self.speak(),
            47..62 => self.rise(),
            62..74 => self.set_or_cancel(),
            74..82 => self.press(),
            82..86 => self.feed(),
            86..92 => self.relay(),
            92..96 => {
                // Anything may be asked at any time.
                let number = self.below(ACCOUNTS);
                let account = Account::at(key('a', number));
                self.sim.begin_ask(6, &account, &Fund { cents: 0 });
            }
            _ => {
                let flip = self.below(3) == 0;
                if flip {
                    BRITTLE_BROKEN.set(!BRITTLE_BROKEN.get());
                }
            }
        }
    }

    fn fund(&mut self) {
        let (account, cents, caller) = (self.below(ACCOUNTS), self.below(1_000), self.below(4));
        let ticket = self.sim.begin_ask(caller as usize, &Account::at(key('a', account)), &Fund { cents });
        self.funds.push((ticket, cents));
    }

    fn transfer(&mut self) {
        for _ in 0..=self.below(4) {
            let (from, to) = (self.below(ACCOUNTS), self.below(ACCOUNTS));
            let (cents, caller) = (self.below(400), self.below(4));
            let message = Transfer { to: key('a', to), cents };
            let account = Account::at(key('a', from));
            if self.below(2) == 0 {
                self.sim.begin_ask(caller as usize, &account, &message);
            } else {
                self.sim.begin_send(caller as usize, &account, &message);
            }
        }
    }

    fn speak(&mut self) {
        let (speaker, times, caller) = (self.below(SPEAKERS), 1 + self.below(4), self.below(4));
        let mut to = Vec::new();
        for _ in 0..=self.below(3) {
            to.push(key('l', self.below(LISTENERS)));
        }
        self.sim.begin_send(caller as usize, &Speaker::at(key('s', speaker)), &Speak { to, times });
    }

    /// One phoenix, one thing at a time: what it answers is known before.
    fn rise(&mut self) {
        let number = self.below(PHOENIXES);
        self.look(number);
        if self.phoenixes[number as usize].open.is_some() {
            return;
        }
        let phoenix = Phoenix::at(key('p', number));
        let caller = 4;
        let life = self.phoenixes[number as usize].lives;
        let (ticket, deed) = match self.below(10) {
            0 => {
                self.poisons += 1;
                let number = self.poisons;
                (self.sim.begin_ask(caller, &phoenix, &Poison { number }), Deed::Poison)
            }
            1..3 => (self.sim.begin_ask(caller, &phoenix, &End), Deed::End),
            3..6 if self.looks => (self.sim.begin_query(caller, &phoenix, &Count), Deed::Look),
            _ => {
                let remind_millis = self.below(3) * 300;
                let touch = Touch { life, remind_millis };
                (self.sim.begin_ask(caller, &phoenix, &touch), Deed::Touch)
            }
        };
        self.phoenixes[number as usize].open = Some((ticket, deed));
    }

    /// Compares what a phoenix answered with what it had to answer.
    fn look(&mut self, number: u64) {
        let model = &mut self.phoenixes[number as usize];
        let Some((ticket, deed)) = model.open else { return };
        let expected = |found: u64, expected: u64| {
            assert_eq!(found, expected, "phoenix {number} answered {ticket:?} with another count");
        };
        let lost = |error: &AskError| matches!(error, AskError::DeadLettered(_));
        if self.sim.has_lost_commits() {
            return;
        }
        if let Some(Outcome::Refused(Refusal::Expired(_))) = self.sim.outcome(ticket) {
            // Its count is not known any more: it is left alone from here on.
            self.is_vague = true;
            return;
        }
        match deed {
            Deed::Touch => match self.sim.answered::<Touch>(ticket) {
                None => return,
                Some(Ok(count)) => {
                    model.touched += 1;
                    expected(count, model.touched);
                }
                Some(Err(error)) => assert!(lost(&error), "{error}"),
            },
            Deed::End => match self.sim.answered::<End>(ticket) {
                None => return,
                Some(Ok(count)) => {
                    expected(count, model.touched);
                    model.touched = 0;
                    model.lives += 1;
                }
                Some(Err(error)) => assert!(lost(&error), "{error}"),
            },
            Deed::Look => match self.sim.answered::<Count>(ticket) {
                None => return,
                // Nothing was under way meanwhile: who had it before the one that has it now must not answer.
                Some(Ok((count, _))) => expected(count, model.touched),
                Some(Err(error)) => panic!("a phoenix cannot be looked at: {error}"),
            },
            Deed::Poison => match self.sim.answered::<Poison>(ticket) {
                None => return,
                Some(answer) => assert!(answer.is_err_and(|error| lost(&error)), "poison took effect"),
            },
        }
        model.open = None;
    }

    fn set_or_cancel(&mut self) {
        let clock = self.below(CLOCKS);
        if self.below(3) == 0 && self.next_number > 0 {
            let number = 1 + self.below(self.next_number);
            let ticket = self.sim.begin_ask(5, &Clock::at(key('c', clock)), &Cancel { number });
            self.cancels.push(ticket);
        } else {
            self.next_number += 1;
            let (number, millis) = (self.next_number, self.below(3_000));
            let ticket = self.sim.begin_ask(5, &Clock::at(key('c', clock)), &Set { number, millis });
            self.sets.push((ticket, clock, number));
        }
    }

    fn press(&mut self) {
        let number = self.below(BRITTLES);
        let brittle = Brittle::at(key('b', number));
        if self.below(2) == 0 {
            let ticket = self.sim.begin_ask(5, &brittle, &Press);
            self.presses.push((ticket, number));
        } else {
            let ticket = self.sim.begin_send(5, &brittle, &Press);
            self.presses.push((ticket, number));
        }
    }

    /// One input, fed by one process or by several at once.
    fn feed(&mut self) {
        if self.rows.is_empty() {
            for own in 0..=self.below(60) {
                let row = (own * 3, self.below(TALLIES), self.below(50));
                self.rows.push(row);
            }
        }
        if self.feeds.len() < 3 {
            self.begin_feed(Input::Right);
        } else if self.sim.feed_state(self.feeds[0]) == FeedState::Done {
            self.begin_feed(Input::Other);
        }
    }

    fn begin_feed(&mut self, input: Input) -> FeedTicket {
        let rows = self.rows.iter().enumerate().map(|(at, &(own, tally, amount))| {
            let (own, tally, amount) = match input {
                Input::Right => (own, tally, amount),
                // To shards too that have seen no row of the right one.
                Input::Other => (own, (tally + 1) % TALLIES, amount + 1),
                Input::Later => (own + u64::from(at > 0), tally, amount),
            };
            (own, Tally::at(key('t', tally)), Row { amount })
        });
        let feed = self.sim.feed("input", rows.collect::<Vec<_>>());
        self.feeds.push(feed);
        feed
    }

    fn relay(&mut self) {
        let (relay, hops) = (self.below(3), self.below(5));
        self.sim.begin_ask(7, &Relay::at(key('r', relay)), &Pass { hops });
    }

    /// Another input under the name of one that is through, and the same once more.
    fn collide(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        // An input of one row has no later one.
        let inputs = if self.rows.len() > 1 { vec![Input::Other, Input::Later] } else { vec![Input::Other] };
        for input in inputs {
            let other = self.begin_feed(input);
            self.sim.run_until_quiet(PEACE);
            let state = self.sim.feed_state(other);
            assert_eq!(state, FeedState::Collided, "another input was taken for the first");
        }
        let again = self.begin_feed(Input::Right);
        self.sim.run_until_quiet(PEACE);
        assert_eq!(self.sim.feed_state(again), FeedState::Done, "the same input was refused");
    }

    /// Everything that must be true of the end.
    fn reckon(&mut self) {
        let letters = Letters::read(&self.sim.dead_letters());
        let calls =
            self.funds.iter().map(|(ticket, _)| ticket).chain(self.sets.iter().map(|(ticket, ..)| ticket));
        let calls = calls.chain(self.presses.iter().map(|(ticket, _)| ticket)).chain(&self.cancels);
        let expired = |ticket: &Ticket| {
            matches!(self.sim.outcome(*ticket), Some(Outcome::Refused(Refusal::Expired(_))))
        };
        self.is_vague |= calls.filter(|ticket| expired(ticket)).count() > 0;
        for number in 0..PHOENIXES {
            self.look(number);
        }
        // A shard that may keep few replies takes no further request for long, and some grow too old at its door.
        let limits = self.sim.limits();
        let keeps_few = limits.replies_max < 100 || limits.reply_bytes_max < 1_000;
        assert!(!self.is_vague || keeps_few, "an open call expired without need");
        self.reckon_money(&letters);
        self.reckon_words(&letters);
        self.reckon_phoenixes(&letters);
        self.reckon_clocks(&letters);
        self.reckon_feeds(&letters);
        self.reckon_presses();
    }

    fn reckon_money(&mut self, letters: &Letters) {
        let (mut cents, mut funded) = (0, 0);
        for number in 0..ACCOUNTS {
            let books = self.sim.query(&Account::at(key('a', number)), &Books).expect("an account answers");
            cents += books.0;
            funded += books.1;
        }
        let asked: u64 = self
            .funds
            .iter()
            .filter(|(ticket, _)| matches!(self.sim.answered::<Fund>(*ticket), Some(Ok(_))))
            .map(|(_, cents)| cents)
            .sum();
        let stranded: u64 = letters.of::<Credit>().iter().map(|(_, _, credit)| credit.cents).sum();
        assert!(
            funded == asked || self.is_vague && asked < funded,
            "what was answered as funded is not what is in the books"
        );
        assert_eq!(cents + stranded, funded, "money was made or lost");
    }

    fn reckon_words(&mut self, letters: &Letters) {
        let mut sent = BTreeMap::new();
        for number in 0..SPEAKERS {
            let speaker = key('s', number);
            let spoken = self.sim.query(&Speaker::at(&*speaker), &Spoken).expect("a speaker answers");
            for (listener, last) in spoken {
                sent.insert((speaker.clone(), listener), last);
            }
        }
        for number in 0..LISTENERS {
            let listener = key('l', number);
            let (heard, gaps) =
                self.sim.query(&Listener::at(&*listener), &Heard).expect("a listener answers");
            let mut lost: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for (key, sender, word) in letters.of::<Word>() {
                if key == listener {
                    lost.entry(sender).or_default().push(word.number);
                }
            }
            for (speaker, before, number) in gaps {
                assert!(before < number, "{listener} heard {number} of {speaker} after {before}");
                for missing in before + 1..number {
                    let is_known = lost.get(&speaker).is_some_and(|lost| lost.contains(&missing));
                    assert!(is_known, "{listener} never heard {missing} of {speaker}");
                }
            }
            for ((speaker, to), last) in &sent {
                if *to != listener {
                    continue;
                }
                let mut reached = heard.get(speaker).copied().unwrap_or(0);
                // Given up behind the last one heard.
                while lost.get(speaker).is_some_and(|lost| lost.contains(&(reached + 1))) {
                    reached += 1;
                }
                assert_eq!(reached, *last, "{listener} did not hear all of {speaker}");
            }
        }
    }

    fn reckon_phoenixes(&mut self, letters: &Letters) {
        for number in 0..PHOENIXES {
            let model = &self.phoenixes[number as usize];
            if model.open.is_some() && self.is_vague {
                continue;
            }
            assert!(model.open.is_none(), "phoenix {number} has not answered");
            let touched = model.touched;
            let (count, ghosts) =
                self.sim.query(&Phoenix::at(key('p', number)), &Count).expect("a phoenix answers");
            assert_eq!(count, touched, "phoenix {number} has another count");
            assert_eq!(ghosts, 0, "reminders of an ended life have fired");
        }
        let mut poisons: Vec<u64> =
            letters.of::<Poison>().into_iter().map(|(_, _, poison)| poison.number).collect();
        poisons.sort_unstable();
        assert!(poisons.windows(2).all(|two| two[0] < two[1]), "a poison was given up twice");
        if self.is_vague {
            return;
        }
        assert_eq!(poisons, (1..=self.poisons).collect::<Vec<_>>(), "each poison is given up once");
    }

    fn reckon_clocks(&mut self, letters: &Letters) {
        let lost: Vec<u64> = letters.of::<Ring>().into_iter().map(|(_, _, ring)| ring.number).collect();
        let mut kept = 0;
        for clock in 0..CLOCKS {
            let (set, cancelled, rung) =
                self.sim.query(&Clock::at(key('c', clock)), &Rings).expect("a clock answers");
            for number in &set {
                let times = rung.get(number).copied().unwrap_or(0)
                    + lost.iter().filter(|lost| *lost == number).count() as u64;
                assert_eq!(times, 1, "reminder {number} fired {times} times");
            }
            for number in &cancelled {
                assert!(!rung.contains_key(number), "reminder {number} fired after it was cancelled");
            }
            kept += set.len() + cancelled.len();
        }
        let done = |ticket: &Ticket| matches!(self.sim.answered::<Set>(*ticket), Some(Ok(())));
        let asked = self.sets.iter().filter(|(ticket, ..)| done(ticket)).count();
        assert!(kept == asked || self.is_vague && asked < kept, "{kept} reminders were kept of {asked}");
    }

    fn reckon_feeds(&mut self, letters: &Letters) {
        let lost = letters.of::<Row>();
        let strayed = letters.of::<Onward>();
        for tally in 0..TALLIES {
            let key = key('t', tally);
            let expected: (u64, u64) = if self.feeds.is_empty() {
                (0, 0)
            } else {
                let rows = self.rows.iter().filter(|row| row.1 == tally);
                rows.fold((0, 0), |(rows, sum), row| (rows + 1, sum + row.2))
            };
            let gone = lost.iter().filter(|(target, ..)| *target == key);
            let gone = gone.fold((0, 0), |(rows, sum), (_, _, row)| (rows + 1, sum + row.amount));
            let found = self.sim.query(&Tally::at(&*key), &Sum).expect("a tally answers");
            assert_eq!((found.0 + gone.0, found.1 + gone.1), expected, "{key} is not the plain fold");
        }
        for half in 0..2 {
            let key = format!("total{half}");
            let expected = if self.feeds.is_empty() {
                0
            } else {
                self.rows.iter().map(|row| row.2).filter(|amount| amount % 2 == half).sum()
            };
            let early: u64 =
                lost.iter().map(|(_, _, row)| row.amount).filter(|amount| amount % 2 == half).sum();
            let late: u64 = strayed
                .iter()
                .filter(|(target, ..)| *target == key)
                .map(|(_, _, onward)| onward.amount)
                .sum();
            let found = self.sim.query(&Tally::at(&*key), &Sum).expect("a total answers").1;
            assert_eq!(found + early + late, expected, "{key} is not the plain fold");
        }
        let mut passed = 0;
        for number in 0..2 {
            passed += self.sim.query(&Sink::at(key('s', number)), &Sum).expect("a sink answers").0;
        }
        let forwarded = self.sim.query(&Sink::at("all"), &Sum).expect("a sink answers").1;
        let late = strayed.iter().filter(|(target, ..)| *target == "all").count() as u64;
        assert_eq!(forwarded + late, passed, "a durable entity's own messages were lost or doubled");
    }

    fn reckon_presses(&mut self) {
        for number in 0..BRITTLES {
            let mine = self.presses.iter().filter(|(_, brittle)| *brittle == number);
            let done = mine
                .filter(|(ticket, _)| !matches!(self.sim.answered::<Press>(*ticket), Some(Err(_))))
                .count() as u64;
            let found =
                self.sim.query(&Brittle::at(key('b', number)), &Presses).expect("it can be read again");
            assert!(found <= done, "brittle {number} came back with more presses than there were");
            // Those given up because too many waited are known by their replies, but for a send told to wait.
            let sent = self.presses.iter().filter(|(_, brittle)| *brittle == number).count() as u64;
            assert!(
                done <= sent && (found == done || self.is_vague),
                "brittle {number} has {found} presses of {done}"
            );
        }
    }
}

/// The dead letters, by message.
struct Letters(Vec<(String, String, String, String, Vec<u8>)>);

impl Letters {
    fn read(letters: &[LetterRow]) -> Self {
        let read = |letter: &LetterRow| {
            let view = letter.envelope.view();
            let sender = view.sender.map_or("", |(_, key)| key);
            let texts = [view.kind, view.key, view.name, sender].map(str::to_owned);
            let [kind, key, name, sender] = texts;
            (kind, key, name, sender, view.body.to_vec())
        };
        Self(letters.iter().map(read).collect())
    }

    /// Key, sender's key and message of each of one name.
    fn of<M: Message>(&self) -> Vec<(&str, String, M)> {
        self.0
            .iter()
            .filter(|(_, _, name, ..)| name == M::NAME)
            .map(|(_, key, _, sender, body)| {
                (key.as_str(), sender.clone(), message::decode(body).expect("a dead letter's message"))
            })
            .collect()
    }
}
