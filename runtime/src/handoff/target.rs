//! The node that takes a shard over.

use super::{
    HandOffLimits, Message, PIECE_ROWS_MAX, Piece, Transfer,
    pieces::{Chain, rows_touched},
};
use crate::{store::Batch, timestamp::Timestamp};
use std::{cmp::Ordering, collections::VecDeque};

/// Where the target of a hand-off stands.
///
/// ```text
///  Clearing ──cleared──► Staging ──the end, and all staged──► Accepting ──durable──► Accepted
///     └─────────────────────┴ withdrawn, nothing heard, pieces that do not fit ──► (ended)
/// ```
///
/// It is of one attempt. For a later one there is another target, with a place of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A place is cleared of what an earlier transfer left.
    Clearing,
    /// Pieces are taken.
    Staging,
    /// ACCEPT is on its way to the log.
    Accepting,
    /// It is owned here.
    Accepted,
    /// Nothing more is done.
    Ended,
}

/// What happens to a target.
#[derive(Debug)]
pub enum TargetEvent {
    /// The source says something.
    Heard(Message),
    /// The place with this number is clear.
    Cleared(u64),
    /// What was to be staged in it is, durably.
    Staged(u64),
    /// It could not be cleared or staged in, for this reason.
    StagingFailed(u64, String),
    /// ACCEPT is durable.
    Accepted,
    /// ACCEPT was lost with its lane's memory, and is not in the store.
    Voided,
    /// Nothing is to come from the source any more, for this reason: its store is forgotten, or the shard is elsewhere.
    Orphaned(String),
    /// Time has passed.
    Tick,
}

/// What a target wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum TargetAction {
    /// Tell the source.
    Send(Message),
    /// Clear the place with this number for the transfer's pieces.
    Clear(u64),
    /// Write these sections there, in order, durably.
    Stage(u64, Vec<Batch>),
    /// Write ACCEPT.
    WriteAccept {
        /// Rows that were copied.
        rows: u64,
        /// Hash over all pieces.
        hash: u64,
    },
    /// The shard is owned here: serve it, and load the images with these row keys soon.
    Serve(Vec<Vec<u8>>),
    /// It is over, and what was staged may go.
    End(String),
}

/// What an offer is to a hand-off of the same shard that runs already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum OfferVerdict {
    /// Said again.
    Repeat,
    /// It comes behind the one that runs, which is over.
    Newer,
    /// It came late: its source has gone on since. Not a fault.
    Stale,
}

/// The target of one attempt of a hand-off.
#[derive(Debug)]
pub struct Target {
    transfer: Transfer,
    /// Digest of the table of this node when it was offered.
    table: u64,
    limits: HandOffLimits,
    phase: Phase,
    attempt: u64,
    /// Number of its place.
    place: u64,
    /// Number of the last piece taken, and of the last one staged.
    taken: u64,
    staged: u64,
    chain: Chain,
    rows: u64,
    /// Taken and not being staged yet, each with its number and the rows it touches.
    waiting: VecDeque<(u64, u64, Batch)>,
    waiting_bytes: usize,
    /// Number of the last piece that is being staged.
    staging: Option<u64>,
    /// Something was staged, so that there is something to accept.
    has_place: bool,
    /// Row keys of images that are wanted soon.
    hot: Vec<Vec<u8>>,
    /// The end was taken.
    is_complete: bool,
    /// Since when the source is waited for, where it is.
    waits_since: Timestamp,
    actions: Vec<TargetAction>,
}

impl Target {
    /// Begins with an offer that was judged good. `place` is above that of every target before on this node.
    pub fn new(
        transfer: Transfer,
        attempt: u64,
        place: u64,
        table: u64,
        limits: HandOffLimits,
        now: Timestamp,
    ) -> (Self, Vec<TargetAction>) {
        let target = Self {
            transfer,
            table,
            limits,
            phase: Phase::Clearing,
            attempt,
            place,
            taken: 0,
            staged: 0,
            chain: Chain::default(),
            rows: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            staging: None,
            has_place: false,
            hot: Vec::new(),
            is_complete: false,
            waits_since: now,
            actions: Vec::new(),
        };
        (target, vec![TargetAction::Clear(place)])
    }

    /// Which hand-off it is.
    pub fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// What an offer of the same shard is to this hand-off. Epochs rise with every move, one epoch has one owner, and that one numbers
    /// the attempts of all its hand-offs in one row: so which is newer is known, in whatever order they come.
    pub fn judge(&self, offered: &Transfer, attempt: u64) -> OfferVerdict {
        match offered.epoch.cmp(&self.transfer.epoch) {
            Ordering::Greater => OfferVerdict::Newer,
            Ordering::Equal if offered.source == self.transfer.source => match attempt.cmp(&self.attempt) {
                Ordering::Greater => OfferVerdict::Newer,
                Ordering::Equal if *offered == self.transfer => OfferVerdict::Repeat,
                _ => OfferVerdict::Stale,
            },
            _ => OfferVerdict::Stale,
        }
    }

    /// Whether nothing more will come of it.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Accepted | Phase::Ended)
    }

    /// Whether everything has come and the shard is being accepted.
    pub fn is_accepting(&self) -> bool {
        self.phase == Phase::Accepting
    }

    /// Takes one event and returns what is to be done, in order.
    pub fn step(&mut self, event: TargetEvent, now: Timestamp) -> Vec<TargetAction> {
        match event {
            TargetEvent::Heard(message) => {
                self.waits_since = now;
                self.hear(message);
            }
            TargetEvent::Cleared(place) if place == self.place && self.phase == Phase::Clearing => {
                self.phase = Phase::Staging;
                self.waits_since = now;
                self.send_ready();
            }
            TargetEvent::Staged(place) if place == self.place => {
                self.waits_since = now;
                self.go_on_staged();
            }
            TargetEvent::StagingFailed(place, why)
                if place == self.place && matches!(self.phase, Phase::Clearing | Phase::Staging) =>
            {
                let (attempt, table, reason) = (self.attempt, self.table, why.clone());
                self.send(Message::NotReady { attempt, table, is_busy: false, reason });
                self.end(why);
            }
            TargetEvent::Accepted if self.phase == Phase::Accepting => {
                self.phase = Phase::Accepted;
                self.send(Message::Accepted);
                self.actions.push(TargetAction::Serve(std::mem::take(&mut self.hot)));
            }
            TargetEvent::Voided if self.phase == Phase::Accepting => self.write_accept(),
            // What is being accepted is the shard's only data, maybe: it stays.
            TargetEvent::Orphaned(why) if matches!(self.phase, Phase::Clearing | Phase::Staging) => {
                self.end(why);
            }
            TargetEvent::Tick => {
                // While a place is cleared or written to, the source waits for this node.
                let waits = self.phase == Phase::Staging && self.staging.is_none();
                if waits && self.waits_since + 2 * self.limits.patience <= now {
                    // A source behind its seal offers again, and then everything is sent again.
                    self.end(format!("{} says nothing any more", self.transfer.source));
                }
            }
            // Late: of another place, or of what has ended since.
            _ => {}
        }
        std::mem::take(&mut self.actions)
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Offer { attempt, .. } if self.phase == Phase::Accepted || attempt == self.attempt => {
                match self.phase {
                    Phase::Accepted => self.send(Message::Accepted),
                    Phase::Staging => {
                        self.send_ready();
                        self.send_staged();
                    }
                    Phase::Clearing | Phase::Accepting | Phase::Ended => {}
                }
            }
            Message::Piece { attempt, number, body } if attempt == self.attempt => {
                if self.phase == Phase::Accepted {
                    self.send(Message::Accepted);
                } else if self.phase == Phase::Staging {
                    self.take(number, &body);
                }
            }
            Message::Withdrawn if matches!(self.phase, Phase::Clearing | Phase::Staging) => {
                self.end("its source has withdrawn it".into());
            }
            _ => {}
        }
    }

    fn take(&mut self, number: u64, body: &[u8]) {
        if number != self.taken + 1 || self.is_complete {
            // A repeat, or one before it is missing and comes again.
            self.send_staged();
            return;
        }
        let piece = match Piece::decode(body) {
            Ok(piece) => piece,
            Err(error) => return self.give_up(format!("piece {number}: {error}")),
        };
        self.taken = number;
        match piece {
            Piece::End { rows, hash } => {
                if (rows, hash) != (self.rows, self.chain.digest()) {
                    let (mine, had) = (self.chain.digest(), self.rows);
                    return self.give_up(format!(
                        "what came is not what was sent: {had} rows of {rows}, hash {mine:016x} and not {hash:016x}"
                    ));
                }
                if !self.has_place && self.staging.is_none() && self.waiting.is_empty() {
                    return self.give_up("the end came without any rows before it".into());
                }
                self.is_complete = true;
                self.stage();
                return;
            }
            Piece::Hot(keys) => self.hot = keys,
            Piece::Rows(batch) | Piece::Section(batch) => {
                let section = batch.sections().next().expect("a piece has one section");
                if section.shard != self.transfer.shard {
                    return self.give_up(format!("piece {number} is of {}", section.shard));
                }
                if section.number == 0 {
                    self.rows += section.writes().count() as u64;
                }
                let touched = rows_touched(&batch);
                if PIECE_ROWS_MAX < touched {
                    return self.give_up(format!("piece {number} touches {touched} rows"));
                }
                self.waiting_bytes += batch.bytes().len();
                self.waiting.push_back((number, touched, batch));
            }
        }
        self.chain = self.chain.with(body);
        if self.limits.backlog_bytes_max < self.waiting_bytes {
            return self.give_up("more was sent than fits".into());
        }
        self.stage();
    }

    /// What came cannot be what its source has. Behind its seal it will send everything again.
    fn give_up(&mut self, why: String) {
        tracing::error!(shard = %self.transfer.shard, source = %self.transfer.source, why, "a hand-off is given up");
        self.send(Message::Lost { attempt: self.attempt });
        self.end(why);
    }

    fn stage(&mut self) {
        if self.staging.is_some() || self.phase != Phase::Staging {
            return;
        }
        // A piece without rows, as most that end with the seal are, costs a shard that stands still no sync.
        let staged = self.staged;
        while self.has_place
            && let Some((number, _, batch)) = self.waiting.pop_front_if(|(_, touched, _)| *touched == 0)
        {
            self.waiting_bytes -= batch.bytes().len();
            self.staged = number;
        }
        if staged < self.staged {
            self.send_staged();
        }
        if self.waiting.is_empty() {
            if self.is_complete {
                self.staged = self.taken;
                self.phase = Phase::Accepting;
                self.write_accept();
            }
            return;
        }
        let (mut sections, mut room) = (Vec::new(), PIECE_ROWS_MAX);
        while let Some((number, touched, batch)) =
            self.waiting.pop_front_if(|(_, touched, _)| *touched <= room)
        {
            self.staging = Some(number);
            self.waiting_bytes -= batch.bytes().len();
            room -= touched;
            sections.push(batch);
        }
        self.actions.push(TargetAction::Stage(self.place, sections));
    }

    fn go_on_staged(&mut self) {
        let Some(through) = self.staging.take() else { return };
        self.staged = through;
        self.has_place = true;
        self.send_staged();
        self.stage();
    }

    fn write_accept(&mut self) {
        let (rows, hash) = (self.rows, self.chain.digest());
        self.actions.push(TargetAction::WriteAccept { rows, hash });
    }

    fn send_ready(&mut self) {
        self.send(Message::Ready { attempt: self.attempt, table: self.table, place: self.place });
    }

    fn send_staged(&mut self) {
        let (attempt, place, through) = (self.attempt, self.place, self.staged);
        self.send(Message::Staged { attempt, place, through });
    }

    fn send(&mut self, message: Message) {
        self.actions.push(TargetAction::Send(message));
    }

    fn end(&mut self, why: String) {
        self.phase = Phase::Ended;
        self.waiting.clear();
        self.actions.push(TargetAction::End(why));
    }
}
