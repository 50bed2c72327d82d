//! The node that gives a shard away.

use super::{
    HandOffLimits, Message, PIECE_ROWS_MAX, Piece, Transfer,
    pieces::{Chain, rows_touched},
};
use crate::{
    store::{Batch, Row},
    timestamp::Timestamp,
};
use bytes::Bytes;
use std::collections::VecDeque;

/// Where the source of a hand-off stands.
///
/// ```text
///  Offered ──Ready──► Starting ──CopyFrom──► Copying ──all staged──► Sealing ──durable──► Sealed ──Accepted──► Moving ──► (ended)
///     │                  │                     │                        │                   ▲
///     └── refused, no answer, too much written ┴──► (withdrawn)         └ void: Lost        └─ a start from a durable seal
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The target has not answered.
    Offered,
    /// The kernel tells from when on it gives its sections.
    Starting,
    /// Rows are read, sections follow.
    Copying,
    /// The seal is on its way to the log.
    Sealing,
    /// Nobody serves the shard before the target does.
    Sealed,
    /// The target has it; MOVED is on its way to the log.
    Moving,
    /// Nothing more is done.
    Ended,
}

/// Whether rows are being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Not,
    Asked,
    /// They could not be read, and are asked for again with the next tick.
    Failed,
}

/// What happens to a source.
#[derive(Debug)]
pub enum SourceEvent {
    /// The target says something.
    Heard {
        /// UUID of the store that the node of this name has.
        store: u128,
        /// What.
        message: Message,
    },
    /// Somebody owns the shard under a higher epoch than the target's, who can have it only from there: it was accepted.
    Outrun,
    /// Loads find everything from before the first section that is given: the copy may begin.
    CopyFrom,
    /// Rows were read, in key order; `next` is the key to go on from.
    RowsRead {
        /// The rows.
        rows: Vec<Row>,
        /// `None`: they were the last.
        next: Option<Vec<u8>>,
        /// As it was asked with.
        attempt: u64,
    },
    /// The store could not read them now: the disk is full.
    ReadFailed {
        /// As it was asked with.
        attempt: u64,
    },
    /// A section of the shard is durable.
    Section(Batch),
    /// Row keys of images that are wanted soon, of a shard whose seal is on its way.
    Hot(Vec<Vec<u8>>),
    /// The seal is durable, and every section before it was given.
    Sealed,
    /// The kernel has lost the shard's memory, and with it what it was to give.
    Voided {
        /// Whether the store has the seal.
        is_sealed: bool,
    },
    /// MOVED is durable.
    Moved,
    /// Time has passed.
    Tick,
}

/// What a source wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum SourceAction {
    /// Tell the target.
    Send(Message),
    /// Let the kernel give the shard's sections from now on, and say from when a copy may begin.
    GiveSections,
    /// Let the kernel give them no more, and forget what else was ordered of it.
    StopGiving,
    /// Read rows from a key on, up to about so many bytes, one row at least.
    ReadRows {
        /// Where to begin.
        from: Vec<u8>,
        /// How much.
        bytes: usize,
        /// To be returned with the answer: an answer to an earlier attempt is dropped.
        attempt: u64,
    },
    /// Seal the shard, for the target's store with this UUID.
    Seal(u128),
    /// Write MOVED.
    WriteMoved,
    /// It is over.
    End(SourceEnd),
}

/// How a hand-off ended at its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEnd {
    /// The target owns the shard.
    Moved,
    /// The shard stays, for this reason.
    Withdrawn(String),
}

/// The source of one hand-off.
#[derive(Debug)]
pub struct Source {
    transfer: Transfer,
    limits: HandOffLimits,
    table: u64,
    phase: Phase,
    attempt: u64,
    /// Which store it is with, once one was ready. The seal names it, and no other can accept.
    store: Option<u128>,
    /// Where the target takes pieces of this attempt, once it does.
    place: Option<u64>,
    reading: Reading,
    /// Where reading goes on; `None` when all rows were read.
    next_row: Option<Vec<u8>>,
    /// Sections behind what was sent.
    backlog: VecDeque<Batch>,
    backlog_bytes: usize,
    /// The seal is ordered, and there was more than the backlog or a piece takes: what is behind is sent from the store.
    is_cut: bool,
    /// Sent and not staged yet, with their numbers.
    unstaged: VecDeque<(u64, Bytes)>,
    unstaged_bytes: usize,
    /// Number of the last piece that has one, and of the last one with rows.
    last: u64,
    last_of_rows: u64,
    chain: Chain,
    rows: u64,
    /// Row keys of images that are wanted soon.
    hot: Vec<Vec<u8>>,
    /// The end was sent, or is on its way.
    is_complete: bool,
    /// Since when the target is waited for, where it is.
    waits_since: Timestamp,
    sent_at: Timestamp,
    actions: Vec<SourceAction>,
}

impl Source {
    /// Offers a shard that is owned here. `attempt` is above those of every hand-off that this node has begun.
    pub fn offer(
        transfer: Transfer,
        attempt: u64,
        table: u64,
        limits: HandOffLimits,
        now: Timestamp,
    ) -> (Self, Vec<SourceAction>) {
        let mut source = Self::new(transfer, attempt, table, limits, Phase::Offered, now);
        source.send_offer(now);
        let actions = std::mem::take(&mut source.actions);
        (source, actions)
    }

    /// Goes on with a hand-off whose seal was found in the store, with the `store` it names. `attempt` as in [`Source::offer`]; there
    /// will be no other hand-off of the shard from here under its epoch, so further attempts count on from it.
    pub fn resume(
        transfer: Transfer,
        store: u128,
        attempt: u64,
        limits: HandOffLimits,
        now: Timestamp,
    ) -> (Self, Vec<SourceAction>) {
        let mut source = Self::new(transfer, attempt, 0, limits, Phase::Sealed, now);
        source.store = Some(store);
        source.send_offer(now);
        let actions = std::mem::take(&mut source.actions);
        (source, actions)
    }

    fn new(
        transfer: Transfer,
        attempt: u64,
        table: u64,
        limits: HandOffLimits,
        phase: Phase,
        now: Timestamp,
    ) -> Self {
        Self {
            transfer,
            limits,
            table,
            phase,
            attempt,
            store: None,
            place: None,
            reading: Reading::Not,
            next_row: Some(Vec::new()),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            is_cut: false,
            unstaged: VecDeque::new(),
            unstaged_bytes: 0,
            last: 0,
            last_of_rows: 0,
            chain: Chain::default(),
            rows: 0,
            hot: Vec::new(),
            is_complete: false,
            waits_since: now,
            sent_at: now,
            actions: Vec::new(),
        }
    }

    /// Which hand-off it is.
    pub fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// UUID of the target's store. `None`: it has not said that it is ready.
    pub fn store(&self) -> Option<u128> {
        self.store
    }

    /// The attempt that runs.
    pub fn attempt(&self) -> u64 {
        self.attempt
    }

    /// Whether the target has not answered yet.
    pub fn is_offered(&self) -> bool {
        self.phase == Phase::Offered
    }

    /// Whether the shard's seal is durable or may be: from there on it cannot be withdrawn.
    pub fn is_past_seal(&self) -> bool {
        matches!(self.phase, Phase::Sealing | Phase::Sealed | Phase::Moving)
    }

    /// Whether its seal is durable, and nobody is known to have accepted.
    pub fn is_sealed(&self) -> bool {
        self.phase == Phase::Sealed
    }

    /// Takes one event and returns what is to be done, in order.
    pub fn step(&mut self, event: SourceEvent, now: Timestamp) -> Vec<SourceAction> {
        match event {
            // Of another store: it knows nothing of what this one was sent and may have accepted.
            SourceEvent::Heard { store, .. } if self.store.is_some_and(|of| of != store) => {}
            SourceEvent::Heard { store, message } => self.hear(store, message, now),
            SourceEvent::Outrun => self.accepted(),
            SourceEvent::CopyFrom if self.phase == Phase::Starting => self.phase = Phase::Copying,
            SourceEvent::RowsRead { rows, next, attempt }
                if self.reading == Reading::Asked && attempt == self.attempt =>
            {
                self.reading = Reading::Not;
                self.rows += rows.len() as u64;
                self.next_row = next;
                self.push(&Piece::rows(self.transfer.shard, self.transfer.epoch, &rows), now);
                self.last_of_rows = self.last;
            }
            SourceEvent::ReadFailed { attempt }
                if self.reading == Reading::Asked && attempt == self.attempt =>
            {
                self.reading = Reading::Failed;
            }
            SourceEvent::Section(batch) => self.section(batch),
            SourceEvent::Hot(keys) if self.phase == Phase::Sealing => self.hot = keys,
            SourceEvent::Sealed if self.phase == Phase::Sealing => {
                self.phase = Phase::Sealed;
                if self.is_cut {
                    self.begin_anew();
                    self.send_offer(now);
                }
            }
            SourceEvent::Voided { is_sealed } => self.voided(is_sealed, now),
            SourceEvent::Moved if self.phase == Phase::Moving => {
                self.phase = Phase::Ended;
                self.actions.push(SourceAction::End(SourceEnd::Moved));
            }
            SourceEvent::Tick => {
                if self.reading == Reading::Failed {
                    self.reading = Reading::Not;
                }
                self.tick(now);
            }
            // Late: of an attempt that is over.
            _ => {}
        }
        self.go_on(now);
        std::mem::take(&mut self.actions)
    }

    /// Gives up, where that is still possible: returns nothing behind the seal.
    pub fn withdraw(&mut self, why: &str) -> Vec<SourceAction> {
        if matches!(self.phase, Phase::Offered | Phase::Starting | Phase::Copying) {
            self.end_withdrawn(why.to_owned());
        }
        std::mem::take(&mut self.actions)
    }

    fn end_withdrawn(&mut self, why: String) {
        assert!(
            !matches!(self.phase, Phase::Sealed | Phase::Moving | Phase::Ended),
            "behind a durable seal there is no way back"
        );
        if self.phase != Phase::Offered {
            self.actions.push(SourceAction::StopGiving);
        }
        self.phase = Phase::Ended;
        self.actions.push(SourceAction::Send(Message::Withdrawn));
        self.actions.push(SourceAction::End(SourceEnd::Withdrawn(why)));
    }

    fn hear(&mut self, store: u128, message: Message, now: Timestamp) {
        match message {
            Message::Ready { attempt, place, .. } if attempt == self.attempt && self.place.is_none() => {
                self.place = Some(place);
                self.store = Some(store);
                if self.phase == Phase::Offered {
                    self.phase = Phase::Starting;
                    self.actions.push(SourceAction::GiveSections);
                }
            }
            // It has begun anew since: restarted, or given up and found by an offer that came late.
            Message::Ready { attempt, place, .. } | Message::Staged { attempt, place, .. }
                if attempt == self.attempt && self.place.is_some_and(|of_before| of_before < place) =>
            {
                self.lost(now);
            }
            Message::Staged { attempt, place, through }
                if attempt == self.attempt && self.place == Some(place) =>
            {
                // A number that was never given would be a target that counts on its own.
                while let Some((number, body)) = self.unstaged.front()
                    && *number <= through
                {
                    self.unstaged_bytes -= body.len();
                    self.unstaged.pop_front();
                    self.waits_since = now;
                }
            }
            Message::NotReady { attempt, reason, .. } if attempt == self.attempt => match self.phase {
                Phase::Offered | Phase::Starting | Phase::Copying => self.end_withdrawn(reason),
                // It must take the shard some day; it is asked again with the next tick.
                Phase::Sealed if self.place.is_some() => self.begin_anew(),
                _ => {}
            },
            Message::Lost { attempt } if attempt == self.attempt => self.lost(now),
            Message::Accepted => self.accepted(),
            // Repeats, what is late, and what only a target is told.
            _ => {}
        }
    }

    fn accepted(&mut self) {
        if self.phase == Phase::Sealed {
            self.phase = Phase::Moving;
            self.unstaged.clear();
            self.unstaged_bytes = 0;
            self.actions.push(SourceAction::WriteMoved);
        }
    }

    /// The target has nothing of this attempt any more.
    fn lost(&mut self, now: Timestamp) {
        match self.phase {
            Phase::Offered | Phase::Starting | Phase::Copying => {
                self.end_withdrawn(format!("{} has lost what it had staged", self.transfer.target));
            }
            Phase::Sealed if self.place.is_some() => {
                self.begin_anew();
                self.send_offer(now);
            }
            // On its way to the log, a seal is taken back by nobody: behind it the next word finds it sealed.
            _ => {}
        }
    }

    fn section(&mut self, batch: Batch) {
        if !matches!(self.phase, Phase::Copying | Phase::Sealing) || self.is_cut {
            return;
        }
        let fits = rows_touched(&batch) <= PIECE_ROWS_MAX;
        self.backlog_bytes += batch.bytes().len();
        self.backlog.push_back(batch);
        if fits && self.backlog_bytes <= self.limits.backlog_bytes_max {
            return;
        }
        if self.phase == Phase::Copying {
            self.end_withdrawn("it is written to faster than it can be moved".into());
        } else {
            // The seal may be in the log already: what was ordered is not taken back.
            self.is_cut = true;
            self.backlog.clear();
            self.backlog_bytes = 0;
        }
    }

    /// The kernel gives no more sections, and whether the seal is in the log is read from the store.
    fn voided(&mut self, is_sealed: bool, now: Timestamp) {
        match self.phase {
            Phase::Sealing if is_sealed => {
                self.phase = Phase::Sealed;
                self.begin_anew();
                self.send_offer(now);
            }
            Phase::Starting | Phase::Copying | Phase::Sealing => {
                self.end_withdrawn("its memory was lost meanwhile".into());
            }
            Phase::Moving => self.actions.push(SourceAction::WriteMoved),
            Phase::Offered | Phase::Sealed | Phase::Ended => {}
        }
    }

    /// Behind the seal everything is in the store: all of it goes again.
    fn begin_anew(&mut self) {
        assert_eq!(self.phase, Phase::Sealed, "only a sealed shard has all its rows in the store");
        self.attempt += 1;
        self.place = None;
        self.reading = Reading::Not;
        self.next_row = Some(Vec::new());
        self.backlog.clear();
        self.backlog_bytes = 0;
        self.is_cut = false;
        self.unstaged.clear();
        self.unstaged_bytes = 0;
        self.last = 0;
        self.last_of_rows = 0;
        self.chain = Chain::default();
        self.rows = 0;
        self.is_complete = false;
    }

    fn tick(&mut self, now: Timestamp) {
        // Not while the kernel or the store of this node is slow: the target has said what it could.
        let waits = match self.phase {
            Phase::Offered => true,
            Phase::Copying => !self.unstaged.is_empty(),
            _ => false,
        };
        if waits && self.waits_since + self.limits.patience <= now {
            let patience = self.limits.patience;
            self.end_withdrawn(format!("{} has said nothing for {patience:?}", self.transfer.target));
        }
        if now < self.sent_at + self.limits.resend_after {
            return;
        }
        match self.phase {
            Phase::Offered => self.send_offer(now),
            Phase::Sealed if self.place.is_none() => self.send_offer(now),
            Phase::Copying | Phase::Sealing | Phase::Sealed => {
                for (number, body) in &self.unstaged {
                    let (attempt, number, body) = (self.attempt, *number, body.clone());
                    self.actions.push(SourceAction::Send(Message::Piece { attempt, number, body }));
                }
                if !self.unstaged.is_empty() {
                    self.sent_at = now;
                } else if self.is_complete {
                    // Everything is staged there, and the word that it was accepted may be lost.
                    self.send_offer(now);
                }
            }
            Phase::Starting | Phase::Moving | Phase::Ended => {}
        }
    }

    /// Does what has become possible.
    fn go_on(&mut self, now: Timestamp) {
        let ships = matches!(self.phase, Phase::Copying | Phase::Sealing | Phase::Sealed);
        if !ships || self.place.is_none() {
            return;
        }
        if let Some(from) = &self.next_row {
            if self.reading == Reading::Not && self.unstaged_bytes < self.limits.window_bytes {
                self.reading = Reading::Asked;
                let (from, bytes) = (from.clone(), self.limits.chunk_bytes);
                self.actions.push(SourceAction::ReadRows { from, bytes, attempt: self.attempt });
            }
            return;
        }
        while self.unstaged_bytes < self.limits.window_bytes
            && let Some(batch) = self.backlog.pop_front()
        {
            self.backlog_bytes -= batch.bytes().len();
            self.push(&Piece::Section(batch), now);
        }
        // However few rows there are, the shard does not stand still for them.
        let rows_staged = self.unstaged.front().is_none_or(|(number, _)| self.last_of_rows < *number);
        match self.phase {
            Phase::Copying
                if rows_staged && self.backlog_bytes + self.unstaged_bytes <= self.limits.seal_bytes =>
            {
                self.phase = Phase::Sealing;
                let store = self.store.expect("where there is a place, a store was ready");
                self.actions.push(SourceAction::Seal(store));
            }
            Phase::Sealed if self.backlog.is_empty() && !self.is_complete => {
                self.is_complete = true;
                if !self.hot.is_empty() {
                    self.push(&Piece::Hot(self.hot.clone()), now);
                }
                let (rows, hash) = (self.rows, self.chain.digest());
                self.push(&Piece::End { rows, hash }, now);
            }
            _ => {}
        }
    }

    fn push(&mut self, piece: &Piece, now: Timestamp) {
        let body = piece.encode();
        if self.unstaged.is_empty() {
            self.waits_since = now;
        }
        self.last += 1;
        self.chain = self.chain.with(&body);
        self.unstaged_bytes += body.len();
        self.unstaged.push_back((self.last, body.clone()));
        self.sent_at = now;
        let (attempt, number) = (self.attempt, self.last);
        self.actions.push(SourceAction::Send(Message::Piece { attempt, number, body }));
    }

    fn send_offer(&mut self, now: Timestamp) {
        self.sent_at = now;
        let (attempt, table) = (self.attempt, self.table);
        let is_sealed = matches!(self.phase, Phase::Sealed | Phase::Moving);
        let transfer = self.transfer.clone();
        self.actions.push(SourceAction::Send(Message::Offer { transfer, attempt, table, is_sealed }));
    }
}
