//! Entities that notice when a promise is broken.

#![allow(missing_docs, reason = "the fields of test messages say what they are")]

use entity_runtime::{context::ReminderId, prelude::*};
use std::{cell::Cell, collections::BTreeMap, time::Duration};

thread_local! {
    /// Of a thousand turns of the nervous entities, how many panic.
    pub static NERVES: Cell<u64> = const { Cell::new(0) };
    /// Whether this build reads the states of [`Brittle`] and [`Frail`].
    pub static BRITTLE_BROKEN: Cell<bool> = const { Cell::new(false) };
}

/// Panics now and then, as a handler with a bug does. The turn must leave no trace.
fn tremble<E>(ctx: &mut Context<'_, E>) {
    assert!(ctx.random() % 1_000 >= NERVES.get(), "nervous");
}

/// An account: money moves and is never made or lost.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", handles(Fund, Transfer, Credit), queries(Books))]
pub struct Account {
    cents: u64,
    funded: u64,
    /// Far longer than the rest, so that images fill batches and logs.
    padding: String,
}

/// Makes money.
#[derive(Message, Serialize, Deserialize, Clone)]
#[message(reply = u64)]
pub struct Fund {
    pub cents: u64,
}

/// Moves money to another account; rejected where there is not enough.
#[derive(Message, Serialize, Deserialize, Clone)]
#[message(reply = Result<u64, String>)]
pub struct Transfer {
    pub to: String,
    pub cents: u64,
}

/// Money that arrives.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
pub struct Credit {
    pub cents: u64,
}

/// Balance, and what was ever made here.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = (u64, u64))]
pub struct Books;

impl Handle<Fund> for Account {
    fn handle(&mut self, fund: Fund, ctx: &mut Context<'_, Self>) -> u64 {
        self.cents += fund.cents;
        self.funded += fund.cents;
        self.padding = "p".repeat(self.funded as usize % 300);
        tremble(ctx);
        self.cents
    }
}

impl Handle<Transfer> for Account {
    fn handle(&mut self, transfer: Transfer, ctx: &mut Context<'_, Self>) -> Result<u64, String> {
        // Sent before it is known whether there is enough: a rejection must undo it.
        ctx.send(Account::at(&transfer.to), Credit { cents: transfer.cents });
        let before = self.cents;
        self.cents = 0;
        tremble(ctx);
        self.cents = before.checked_sub(transfer.cents).ok_or("not enough")?;
        Ok(self.cents)
    }
}

impl Handle<Credit> for Account {
    fn handle(&mut self, credit: Credit, ctx: &mut Context<'_, Self>) {
        self.cents += credit.cents;
        tremble(ctx);
    }
}

impl Query<Books> for Account {
    fn query(&self, _: Books) -> (u64, u64) {
        (self.cents, self.funded)
    }
}

/// Sends numbered messages.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "speaker", handles(Speak, Alternate), queries(Spoken))]
pub struct Speaker {
    sent: BTreeMap<String, u64>,
}

/// Lets a speaker send its next numbers to some listeners, several to each.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
pub struct Speak {
    pub to: Vec<String>,
    pub times: u64,
}

/// Lets a speaker send its next numbers in turn to a frail listener and to another of another key, several to each.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
pub struct Alternate {
    pub frail: String,
    pub sound: String,
    pub times: u64,
}

/// How many were sent to each listener.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = BTreeMap<String, u64>)]
pub struct Spoken;

impl Handle<Speak> for Speaker {
    fn handle(&mut self, speak: Speak, ctx: &mut Context<'_, Self>) {
        for _ in 0..speak.times {
            for to in &speak.to {
                let word = self.next_word(to);
                ctx.send(Listener::at(to), word);
            }
        }
        tremble(ctx);
    }
}

impl Handle<Alternate> for Speaker {
    fn handle(&mut self, speak: Alternate, ctx: &mut Context<'_, Self>) {
        for _ in 0..speak.times {
            let word = self.next_word(&speak.frail);
            ctx.send(Frail::at(&speak.frail), word);
            let word = self.next_word(&speak.sound);
            ctx.send(Listener::at(&speak.sound), word);
        }
    }
}

impl Speaker {
    fn next_word(&mut self, to: &str) -> Word {
        let number = self.sent.entry(to.to_owned()).or_default();
        *number += 1;
        Word { number: *number }
    }
}

impl Query<Spoken> for Speaker {
    fn query(&self, _: Spoken) -> BTreeMap<String, u64> {
        self.sent.clone()
    }
}

/// Notes the last number of each speaker, and whatever does not follow on it.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "listener", handles(Word), queries(Heard))]
pub struct Listener {
    heard: BTreeMap<String, u64>,
    /// Speaker, last number before, number.
    gaps: Vec<(String, u64, u64)>,
}

/// A numbered message.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
pub struct Word {
    pub number: u64,
}

/// The last number of each speaker, and every gap: speaker, last number before it, number behind it.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = (BTreeMap<String, u64>, Vec<(String, u64, u64)>))]
pub struct Heard;

impl Handle<Word> for Listener {
    fn handle(&mut self, word: Word, ctx: &mut Context<'_, Self>) {
        self.note(word.number, ctx);
        tremble(ctx);
    }
}

impl Listener {
    fn note<E>(&mut self, number: u64, ctx: &Context<'_, E>) {
        let sender = ctx.sender().map_or_else(String::new, |sender| sender.key().to_owned());
        let last = self.heard.entry(sender.clone()).or_default();
        if number != *last + 1 {
            self.gaps.push((sender, *last, number));
        }
        *last = number;
    }
}

impl Query<Heard> for Listener {
    fn query(&self, _: Heard) -> (BTreeMap<String, u64>, Vec<(String, u64, u64)>) {
        (self.heard.clone(), self.gaps.clone())
    }
}

/// Counts, panics for good on poison, ends and begins again.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "phoenix", handles(Touch, Poison, End, Echo), queries(Count))]
pub struct Phoenix {
    touched: u64,
    /// Reminders of a life that has ended.
    ghosts: u64,
    life: u64,
}

/// Counts, with a reminder that must die with the entity.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
pub struct Touch {
    pub life: u64,
    pub remind_millis: u64,
}

/// Panics, always.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
pub struct Poison {
    pub number: u64,
}

/// Ends the entity.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
pub struct End;

/// A reminder of [`Touch`].
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
pub struct Echo {
    pub life: u64,
}

/// Touches of this life, and reminders of another.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = (u64, u64))]
pub struct Count;

impl Handle<Touch> for Phoenix {
    fn handle(&mut self, touch: Touch, ctx: &mut Context<'_, Self>) -> u64 {
        self.touched += 1;
        self.life = touch.life;
        if touch.remind_millis > 0 {
            ctx.remind(Duration::from_millis(touch.remind_millis), Echo { life: touch.life });
        }
        tremble(ctx);
        self.touched
    }
}

impl Handle<Poison> for Phoenix {
    fn handle(&mut self, poison: Poison, _: &mut Context<'_, Self>) {
        self.touched += 1_000;
        panic!("poison {}", poison.number);
    }
}

impl Handle<End> for Phoenix {
    fn handle(&mut self, _: End, ctx: &mut Context<'_, Self>) -> u64 {
        tremble(ctx);
        ctx.delete();
        self.touched
    }
}

impl Handle<Echo> for Phoenix {
    fn handle(&mut self, echo: Echo, ctx: &mut Context<'_, Self>) {
        if echo.life != self.life {
            self.ghosts += 1;
        }
        tremble(ctx);
    }
}

impl Query<Count> for Phoenix {
    fn query(&self, _: Count) -> (u64, u64) {
        (self.touched, self.ghosts)
    }
}

/// Sets and cancels reminders, and notes each that fires.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "clock", handles(Set, Cancel, Ring), queries(Rings))]
pub struct Clock {
    set: BTreeMap<u64, ReminderId>,
    cancelled: Vec<u64>,
    rung: BTreeMap<u64, u64>,
}

/// Sets a reminder.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
pub struct Set {
    pub number: u64,
    pub millis: u64,
}

/// Cancels a reminder; true where it had not fired.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = bool)]
pub struct Cancel {
    pub number: u64,
}

/// A reminder.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
pub struct Ring {
    pub number: u64,
}

/// Numbers set and not cancelled, numbers cancelled, and how often each has fired.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = (Vec<u64>, Vec<u64>, BTreeMap<u64, u64>))]
pub struct Rings;

impl Handle<Set> for Clock {
    fn handle(&mut self, set: Set, ctx: &mut Context<'_, Self>) {
        let id = ctx.remind(Duration::from_millis(set.millis), Ring { number: set.number });
        self.set.insert(set.number, id);
        tremble(ctx);
    }
}

impl Handle<Cancel> for Clock {
    fn handle(&mut self, cancel: Cancel, ctx: &mut Context<'_, Self>) -> bool {
        let Some(id) = self.set.get(&cancel.number) else { return false };
        if self.rung.contains_key(&cancel.number) {
            return false;
        }
        ctx.cancel(*id);
        self.set.remove(&cancel.number);
        self.cancelled.push(cancel.number);
        tremble(ctx);
        true
    }
}

impl Handle<Ring> for Clock {
    fn handle(&mut self, ring: Ring, ctx: &mut Context<'_, Self>) {
        *self.rung.entry(ring.number).or_default() += 1;
        tremble(ctx);
    }
}

impl Query<Rings> for Clock {
    fn query(&self, _: Rings) -> (Vec<u64>, Vec<u64>, BTreeMap<u64, u64>) {
        (self.set.keys().copied().collect(), self.cancelled.clone(), self.rung.clone())
    }
}

/// Adds up rows of a feed and sends each on.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "tally", handles(Row, Onward), queries(Sum))]
pub struct Tally {
    rows: u64,
    sum: u64,
}

/// A row.
#[derive(Message, Clone, Serialize, Deserialize)]
#[message(reply = ())]
pub struct Row {
    pub amount: u64,
}

/// A row on its way to the total.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = ())]
pub struct Onward {
    pub amount: u64,
}

/// Rows and their sum.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = (u64, u64))]
pub struct Sum;

impl Handle<Row> for Tally {
    fn handle(&mut self, row: Row, ctx: &mut Context<'_, Self>) {
        self.rows += 1;
        self.sum += row.amount;
        ctx.send(Tally::at(format!("total{}", row.amount % 2)), Onward { amount: row.amount });
        tremble(ctx);
    }
}

impl Handle<Onward> for Tally {
    fn handle(&mut self, row: Onward, ctx: &mut Context<'_, Self>) {
        self.rows += 1;
        self.sum += row.amount;
        tremble(ctx);
    }
}

impl Query<Sum> for Tally {
    fn query(&self, _: Sum) -> (u64, u64) {
        (self.rows, self.sum)
    }
}

/// An entity whose stored state a build may be unable to read.
#[derive(Entity, Default, Serialize)]
#[entity(kind = "brittle", handles(Press), queries(Presses))]
pub struct Brittle {
    presses: u64,
}

impl<'de> Deserialize<'de> for Brittle {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Plain {
            presses: u64,
        }
        if BRITTLE_BROKEN.get() {
            return Err(serde::de::Error::custom("this build cannot read it"));
        }
        Plain::deserialize(from).map(|plain| Self { presses: plain.presses })
    }
}

/// Counts.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
pub struct Press;

/// The count.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
pub struct Presses;

impl Handle<Press> for Brittle {
    fn handle(&mut self, _: Press, _: &mut Context<'_, Self>) -> u64 {
        self.presses += 1;
        self.presses
    }
}

impl Query<Presses> for Brittle {
    fn query(&self, _: Presses) -> u64 {
        self.presses
    }
}

/// A listener whose stored state a build may be unable to read.
#[derive(Entity, Default, Serialize)]
#[entity(kind = "frail", handles(Word), queries(Heard))]
pub struct Frail {
    listener: Listener,
}

impl<'de> Deserialize<'de> for Frail {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Plain {
            listener: Listener,
        }
        if BRITTLE_BROKEN.get() {
            return Err(serde::de::Error::custom("this build cannot read it"));
        }
        Plain::deserialize(from).map(|plain| Self { listener: plain.listener })
    }
}

impl Handle<Word> for Frail {
    fn handle(&mut self, word: Word, ctx: &mut Context<'_, Self>) {
        self.listener.note(word.number, ctx);
    }
}

impl Query<Heard> for Frail {
    fn query(&self, _: Heard) -> (BTreeMap<String, u64>, Vec<(String, u64, u64)>) {
        (self.listener.heard.clone(), self.listener.gaps.clone())
    }
}

/// Kept in memory only: relays to durable entities and back, at most once.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "relay", handles(Pass), volatile)]
pub struct Relay {
    passed: u64,
}

/// Goes on to another relay and to a listener.
#[derive(Message, Serialize, Deserialize)]
#[message(reply = u64)]
pub struct Pass {
    pub hops: u64,
}

impl Handle<Pass> for Relay {
    fn handle(&mut self, pass: Pass, ctx: &mut Context<'_, Self>) -> u64 {
        self.passed += 1;
        if pass.hops > 0 {
            ctx.send(Relay::at(format!("r{}", pass.hops % 3)), Pass { hops: pass.hops - 1 });
            ctx.send(Sink::at(format!("s{}", pass.hops % 2)), Pass { hops: pass.hops - 1 });
        }
        tremble(ctx);
        self.passed
    }
}

/// A durable entity that volatile ones send to: its own messages are durable all the same.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "sink", handles(Pass, Onward), queries(Sum))]
pub struct Sink {
    passed: u64,
    forwarded: u64,
}

impl Handle<Pass> for Sink {
    fn handle(&mut self, _: Pass, ctx: &mut Context<'_, Self>) -> u64 {
        self.passed += 1;
        ctx.send(Sink::at("all"), Onward { amount: 1 });
        tremble(ctx);
        self.passed
    }
}

impl Handle<Onward> for Sink {
    fn handle(&mut self, _: Onward, ctx: &mut Context<'_, Self>) {
        self.forwarded += 1;
        tremble(ctx);
    }
}

impl Query<Sum> for Sink {
    fn query(&self, _: Sum) -> (u64, u64) {
        (self.passed, self.forwarded)
    }
}
