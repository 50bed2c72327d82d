//! Entities for tests through a running runtime: their numbers show every loss and every doubling.

use entity_runtime::{Limits, RequestId, Runtime, prelude::*, runtime::Builder};
use std::{collections::BTreeMap, path::Path, time::Duration};

/// Counts how often it has noted each number, and passes each on.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "ledger", handles(Note, Reject, Explode, Grow), queries(Counts, Stuck))]
pub struct Ledger {
    counts: BTreeMap<u64, u32>,
    notes: u64,
    ballast: String,
}

/// Notes a number. The reply holds a random number of the turn, so that a second run would show.
#[derive(Message, Serialize, Deserialize, Clone, Debug)]
#[message(reply = Noted)]
pub struct Note {
    /// The number.
    pub number: u64,
    /// Key of the mirror that is told.
    pub mirror: Option<String>,
}

/// What a note is answered with.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// How many notes the ledger had then.
    pub nth: u64,
    /// Never the same twice.
    pub random: u64,
}

/// Changes everything, sends, and rejects.
#[derive(Message, Serialize, Deserialize, Clone, Debug)]
#[message(reply = Result<(), String>)]
pub struct Reject {
    /// What the error says.
    pub why: String,
}

/// Changes everything, sends, and panics.
#[derive(Message, Serialize, Deserialize, Clone, Debug)]
#[message(reply = ())]
pub struct Explode;

/// Makes the state this long.
#[derive(Message, Serialize, Deserialize, Clone, Debug)]
#[message(reply = ())]
pub struct Grow {
    /// Bytes.
    pub bytes: usize,
}

/// How often each number was noted.
#[derive(Message, Serialize, Deserialize, Clone, Debug)]
#[message(reply = BTreeMap<u64, u32>)]
pub struct Counts;

/// A question that panics.
#[derive(Message, Serialize, Deserialize, Clone, Debug)]
#[message(reply = ())]
pub struct Stuck;

impl Handle<Note> for Ledger {
    fn handle(&mut self, note: Note, ctx: &mut Context<'_, Self>) -> Noted {
        *self.counts.entry(note.number).or_default() += 1;
        self.notes += 1;
        if let Some(mirror) = note.mirror {
            ctx.send(Mirror::at(mirror), Reflect { number: note.number });
        }
        Noted { nth: self.notes, random: ctx.random() }
    }
}

impl Handle<Reject> for Ledger {
    fn handle(&mut self, reject: Reject, ctx: &mut Context<'_, Self>) -> Result<(), String> {
        self.counts.clear();
        ctx.send(Mirror::at("rejected"), Reflect { number: 1 });
        ctx.remind(Duration::ZERO, Note { number: 999, mirror: None });
        Err(reject.why)
    }
}

impl Handle<Explode> for Ledger {
    fn handle(&mut self, _: Explode, ctx: &mut Context<'_, Self>) {
        self.counts.clear();
        ctx.send(Mirror::at("exploded"), Reflect { number: 1 });
        panic!("as asked");
    }
}

impl Handle<Grow> for Ledger {
    fn handle(&mut self, grow: Grow, _: &mut Context<'_, Self>) {
        self.ballast = "x".repeat(grow.bytes);
    }
}

impl Query<Counts> for Ledger {
    fn query(&self, _: Counts) -> BTreeMap<u64, u32> {
        self.counts.clone()
    }
}

impl Query<Stuck> for Ledger {
    fn query(&self, _: Stuck) {
        panic!("as asked");
    }
}

/// Counts what ledgers pass on.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "mirror", handles(Reflect), queries(Counts))]
pub struct Mirror {
    counts: BTreeMap<u64, u32>,
}

/// A number that was noted.
#[derive(Message, Serialize, Deserialize, Clone, Debug)]
#[message(reply = ())]
pub struct Reflect {
    /// The number.
    pub number: u64,
}

impl Handle<Reflect> for Mirror {
    fn handle(&mut self, reflect: Reflect, _: &mut Context<'_, Self>) {
        *self.counts.entry(reflect.number).or_default() += 1;
    }
}

impl Query<Counts> for Mirror {
    fn query(&self, _: Counts) -> BTreeMap<u64, u32> {
        self.counts.clone()
    }
}

/// What to do with the thread that runs the turn.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Never return.
    Loop,
    /// Use up the stack.
    Overflow,
    /// End the process.
    Abort,
    /// Count it.
    Live,
    /// Become a state that ends the process when it is read.
    Curse,
    /// Panic, so that the state before is read.
    Panic,
}

/// Does to its process what it is told.
#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "killer", handles(Do), queries(Lived))]
pub struct Killer {
    lived: u64,
    #[serde(deserialize_with = "read_curse")]
    cursed: bool,
}

fn read_curse<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let cursed = bool::deserialize(deserializer)?;
    if cursed {
        std::process::abort();
    }
    Ok(cursed)
}

/// See [`Deed`].
#[derive(Message, Serialize, Deserialize, Clone, Debug)]
#[message(reply = u64)]
pub struct Do {
    /// What.
    pub deed: Deed,
}

/// How many deeds it has lived through.
#[derive(Message, Serialize, Deserialize, Clone, Debug)]
#[message(reply = u64)]
pub struct Lived;

impl Handle<Do> for Killer {
    fn handle(&mut self, message: Do, _: &mut Context<'_, Self>) -> u64 {
        match message.deed {
            Deed::Loop => loop {
                std::hint::spin_loop();
            },
            Deed::Overflow => {
                std::hint::black_box(deep(std::hint::black_box(1)));
            }
            Deed::Abort => std::process::abort(),
            Deed::Live => self.lived += 1,
            Deed::Curse => self.cursed = true,
            Deed::Panic => panic!("told to"),
        }
        self.lived
    }
}

impl Query<Lived> for Killer {
    fn query(&self, _: Lived) -> u64 {
        self.lived
    }
}

/// Needs more stack than there is.
fn deep(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 128]);
    if depth == 0 { 0 } else { deep(depth + 1) + frame[(depth % 128) as usize] }
}

/// Bounds so small that a log segment of 4 MiB holds the largest batch and a store is founded in milliseconds.
pub fn small_limits() -> Limits {
    let mut limits = Limits::default();
    limits.message_len_max = 64 << 10;
    limits.state_len_max = 512 << 10;
    limits.turn_len_max = 256 << 10;
    limits.batch_len = 128 << 10;
    limits
}

/// A runtime of the shared entities on a directory, founded small.
pub fn builder(directory: &Path, limits: Limits) -> Builder {
    Runtime::builder()
        .entity::<Ledger>()
        .entity::<Mirror>()
        .entity::<Killer>()
        .data_dir(directory)
        .shards(8)
        .workers(2)
        .segment_bytes(4 << 20)
        .log_budget(32 << 20)
        .limits(limits)
}

/// A request id of a client that outlives its process: it knows its numbers by heart.
pub fn id(client: u128, number: u64, issued_at: entity_runtime::timestamp::Timestamp) -> RequestId {
    RequestId { client: entity_runtime::message::ClientId(client), number, issued_at }
}

/// The time, as clients issue ids with it.
///
/// # Panics
/// The clock stands before 1970.
pub fn now() -> entity_runtime::timestamp::Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    entity_runtime::timestamp::Timestamp::EPOCH + since.expect("the clock stands after 1970")
}

/// Random numbers of a seed, for tests that print it.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// Dice of `SEED`, or of the system's randomness; the seed is printed.
    ///
    /// # Panics
    /// `SEED` is no number.
    pub fn new() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let random = || std::collections::hash_map::RandomState::new().build_hasher().finish();
        let seed =
            std::env::var("SEED").map_or_else(|_| random(), |seed| seed.parse().expect("SEED is a number"));
        println!("SEED={seed}");
        Self(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}
