//! The sending end of a stream.

use crate::store::{
    batch::DELETE_RANGE_MAX,
    row::{put_varint, take_varint},
};
use bytes::Bytes;
use std::collections::VecDeque;

/// The sending end: messages committed and not yet acknowledged.
///
/// ```text
///   1 ........ | first ........... | .............. | ............ last
///   trimmed,   | front, in memory: | in the store   | back: in memory until a load
///   forgotten  | handed over next  | alone          | would find it (P12)
/// ```
///
/// # Invariants
/// * Front, stored part and back follow on one another without a hole; only the stored part costs no memory.
/// * The front is filled up to one window and no further, so however much waits, memory holds one window of the stream and
///   what the store cannot give back yet (P8).
/// * Only what is in the front is handed over, acknowledged and forgotten.
/// * What the store would bring back as told was told, or may have been: while nothing is handed over, for the ends have not
///   been compared, the row of the stream says how far it was told; and before anything is, it says so no more (P19).
#[derive(Debug)]
pub struct Outbox {
    /// Number of the first kept message; everything before it is acknowledged.
    first: u64,
    /// Number of the last message ever sent.
    last: u64,
    /// Kept messages, numbered from `first`.
    front: VecDeque<Bytes>,
    /// The last kept messages, each with the number of the batch it is in.
    back: VecDeque<(u64, Bytes)>,
    /// Bytes of all kept messages, wherever they are.
    bytes: usize,
    /// Bytes of those in memory.
    bytes_in_memory: usize,
    /// Everything up to here has been handed to the receiver.
    handed: u64,
    /// The receiver can have seen numbers up to here: what was found in the store, where its row names no less, and what was
    /// handed since.
    told: u64,
    /// The row of the stream names `told`, and messages above it are of after.
    is_told_noted: bool,
    /// Everything up to here has been deleted from the store.
    trimmed: u64,
    /// Messages behind the front are being read.
    loading: bool,
    /// The receiver had no room from this number on, and has not said that it has again.
    refused: Option<u64>,
    /// Whether the receiver has said how far it is, where it is asked for that.
    opening: Opening,
}

/// Whether the two ends of a stream have compared how far they are (P19).
///
/// ```text
///   Shut ──ask──► Asked ──answered──► Open
///     ▲────────────┴───────shut─────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    Shut,
    /// Under this number.
    Asked(u64),
    Open,
}

impl Default for Outbox {
    /// A stream on which nothing was ever sent: the first message will have the number 1.
    fn default() -> Self {
        Self::behind(0)
    }
}

impl Outbox {
    /// An outbox that keeps nothing and whose last message had this number.
    fn behind(last: u64) -> Self {
        Self {
            first: last + 1,
            last,
            front: VecDeque::new(),
            back: VecDeque::new(),
            bytes: 0,
            bytes_in_memory: 0,
            handed: last,
            told: last,
            is_told_noted: false,
            trimmed: last,
            loading: false,
            refused: None,
            opening: Opening::Shut,
        }
    }

    /// Number of the first kept message; one above the last where none is kept.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Whether both ends have said how far they are since the stream was shut.
    pub fn is_open(&self) -> bool {
        self.opening == Opening::Open
    }

    /// Asks the receiver how far it is, under this number. What was asked before counts no more.
    pub fn ask(&mut self, number: u64) {
        self.opening = Opening::Asked(number);
    }

    /// The receiver has answered, which opens the stream. False: this is not what it was asked last.
    #[must_use]
    pub fn answered(&mut self, number: u64) -> bool {
        let is_asked = self.opening == Opening::Asked(number);
        if is_asked {
            self.opening = Opening::Open;
        }
        is_asked
    }

    /// The receiver is to be asked before anything is handed over.
    pub fn shut(&mut self) {
        self.opening = Opening::Shut;
    }

    /// A message was added. While nothing is handed over it would count as told after a crash. True: the row of the stream is
    /// to be written beside it, once until the stream is open again.
    #[must_use]
    pub fn note_told(&mut self) -> bool {
        !self.is_open() && !std::mem::replace(&mut self.is_told_noted, true)
    }

    /// Whether the row of the stream names how far it was told. Nothing more is told as long as it does.
    pub fn is_told_noted(&self) -> bool {
        self.is_told_noted
    }

    /// The row of an open stream is written anew, and names no more how far it was told.
    pub fn forget_told(&mut self) {
        assert!(self.is_open(), "what was told is known until both ends are compared");
        self.is_told_noted = false;
    }

    /// The highest number that the receiver can have seen. Messages that wait to be handed over for the first time are above
    /// it, however many there are.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// Number of the last message ever sent; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Bytes kept, in memory or in the store alone.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes kept in memory.
    pub fn bytes_in_memory(&self) -> usize {
        self.bytes_in_memory
    }

    /// How many messages are kept.
    pub fn len(&self) -> u64 {
        self.last + 1 - self.first
    }

    /// Whether everything is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of the first message behind the front.
    fn behind_front(&self) -> u64 {
        self.first + self.front.len() as u64
    }

    /// How many messages are in the store alone.
    pub fn stored(&self) -> u64 {
        self.len() - self.front.len() as u64 - self.back.len() as u64
    }

    /// Whether a message is in memory only until a load would find it.
    pub fn has_back(&self) -> bool {
        !self.back.is_empty()
    }

    /// Appends a message of the batch that is being built, and returns its number. `front_len_max` is how many messages the
    /// front may have by now; one is always allowed.
    pub fn push(&mut self, envelope: Bytes, batch: u64, front_len_max: u64) -> u64 {
        self.bytes += envelope.len();
        self.bytes_in_memory += envelope.len();
        let in_front = self.behind_front() == self.last + 1;
        self.last += 1;
        if in_front && (self.front.len() as u64) < front_len_max.max(1) {
            self.front.push_back(envelope);
        } else {
            self.back.push_back((batch, envelope));
        }
        self.last
    }

    /// Loads find what batches up to this number have written: it need not be in memory for that.
    pub fn loadable(&mut self, batch: u64) {
        while let Some((written, envelope)) = self.back.front()
            && *written <= batch
        {
            self.bytes_in_memory -= envelope.len();
            self.back.pop_front();
        }
    }

    /// Fills the front from the back, and says which number is to be read from the store next, and how many at the most.
    /// The answer is told by [`Outbox::loaded`], and until then there is no second one.
    #[must_use]
    pub fn refill(&mut self, front_len_max: u64) -> Option<(u64, u64)> {
        let most = front_len_max.max(1);
        if self.stored() == 0 {
            while (self.front.len() as u64) < most
                && let Some((_, envelope)) = self.back.pop_front()
            {
                self.front.push_back(envelope);
            }
            return None;
        }
        // Not for one message at a time.
        let is_low = self.front.len() as u64 <= most / 2;
        if self.loading || !is_low {
            return None;
        }
        self.loading = true;
        Some((self.behind_front(), (most - self.front.len() as u64).min(self.stored())))
    }

    /// Whether messages are being read, after which it goes on.
    pub fn is_loading(&self) -> bool {
        self.loading
    }

    /// Takes what was read behind the front. Returns false where it is not what was asked for.
    pub fn loaded(&mut self, from: u64, envelopes: Vec<Bytes>) -> bool {
        let asked = std::mem::take(&mut self.loading) && from == self.behind_front();
        if !asked || envelopes.is_empty() || self.stored() < envelopes.len() as u64 {
            return false;
        }
        self.bytes_in_memory += envelopes.iter().map(Bytes::len).sum::<usize>();
        self.front.extend(envelopes);
        true
    }

    /// The next message to hand to the receiver, within the window, marked as handed. After a refusal there is none before
    /// the receiver has room: it would be refused again, and nothing would be told of that.
    pub fn hand_next(&mut self, window: u64) -> Option<(u64, Bytes)> {
        assert!(
            self.is_open() && !self.is_told_noted,
            "only an open stream is told more, and its row allows for it"
        );
        let number = self.handed + 1;
        if self.refused.is_some() || number >= self.behind_front() || number >= self.first + window {
            return None;
        }
        debug_assert!(self.first <= number, "an acknowledged message was handed before");
        let envelope = self.front[(number - self.first) as usize].clone();
        self.handed = number;
        self.told = self.told.max(number);
        Some((number, envelope))
    }

    /// Whether something was handed and is not acknowledged, or was refused: a word of the receiver is to come.
    pub fn is_unanswered(&self) -> bool {
        self.first <= self.handed || self.refused.is_some()
    }

    /// Begins again behind the last acknowledged message: what was handed since may be lost.
    pub fn rewind(&mut self) {
        self.handed = self.first - 1;
        self.refused = None;
    }

    /// The receiver refused from this number on: nothing is handed over before [`Outbox::go_on`], the acknowledgement of
    /// this number, or [`Outbox::rewind`]. A refusal of what was acknowledged or never handed is an old one and changes
    /// nothing.
    pub fn refuse(&mut self, from: u64) {
        if self.first <= from && from <= self.handed {
            self.handed = from - 1;
            self.refused = Some(from);
        }
    }

    /// The receiver has room.
    pub fn go_on(&mut self) {
        self.refused = None;
    }

    /// Forgets messages whose consumption is durable. Returns whether any was kept until now.
    ///
    /// After a restart the receiver may have consumed more than the front holds. What lies in the store alone is not
    /// acknowledged unseen: it is read, handed over, known there as a repeat and acknowledged again.
    pub fn acknowledge(&mut self, through: u64) -> bool {
        assert!(through <= self.last, "the receiver acknowledged message {through} of {}", self.last);
        let before = self.first;
        while self.first <= through
            && let Some(envelope) = self.front.pop_front()
        {
            self.bytes -= envelope.len();
            self.bytes_in_memory -= envelope.len();
            self.first += 1;
        }
        self.handed = self.handed.max(self.first - 1);
        // What was refused has been taken since: the refusal is an old one.
        self.refused = self.refused.filter(|refused| self.first <= *refused);
        before < self.first
    }

    /// Numbers to delete from the store, as many as one range may have, marked as deleted; `None` when there are no more.
    pub fn trim(&mut self) -> Option<(u64, u64)> {
        let from = self.trimmed + 1;
        let through = (self.first - 1).min(self.trimmed + DELETE_RANGE_MAX);
        self.trimmed = through;
        (from <= through).then_some((from, through))
    }

    /// Row value beside the messages' own rows: the last number, so that it is known when no message is kept; and how far it
    /// was told, where that is noted.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(self.last, out);
        if self.is_told_noted {
            put_varint(self.told, out);
        }
    }

    /// Reads the row value of a stream; `None` where it is not one.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let last = take_varint(&mut bytes)?;
        let is_told_noted = !bytes.is_empty();
        let told = if is_told_noted { take_varint(&mut bytes)? } else { last };
        let is_one = bytes.is_empty() && told <= last && last < u64::MAX;
        is_one.then(|| Self { told, is_told_noted, ..Self::behind(last) })
    }

    /// Puts back a message found in the store, in order of number.
    /// Returns false where the numbers do not continue.
    pub fn restore(&mut self, number: u64, envelope: Bytes) -> bool {
        if number == 0 || number == u64::MAX {
            return false;
        }
        if self.is_empty() {
            // The row of the stream was written when messages up to its number had gone; these are later or the last.
            let (told, is_told_noted) = (self.told, self.is_told_noted);
            *self = Self::behind(number - 1);
            if is_told_noted {
                (self.told, self.is_told_noted) = (told, true);
            }
        }
        if number != self.last + 1 || self.behind_front() != number {
            return false;
        }
        self.bytes += envelope.len();
        self.bytes_in_memory += envelope.len();
        self.front.push_back(envelope);
        self.found_through(number);
        true
    }

    /// Behind what was put back, messages up to `through` of so many bytes are left in the store.
    /// Returns false where the numbers do not continue.
    pub fn restore_rest(&mut self, through: u64, bytes: usize) -> bool {
        if through <= self.last || self.front.is_empty() || through == u64::MAX {
            return false;
        }
        self.found_through(through);
        self.bytes += bytes;
        true
    }

    /// Messages up to here are in the store. Whether they were handed over is not known, but where it is noted.
    fn found_through(&mut self, number: u64) {
        self.last = number;
        if !self.is_told_noted {
            self.told = number;
        }
    }

    /// Whether what was read from the store can be: nothing was told that was never sent, nor acknowledged that was never
    /// told.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.first - 1 <= self.told && self.told <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ends are compared, and fit.
    fn open(outbox: &mut Outbox) {
        outbox.ask(1);
        assert!(outbox.answered(1));
        outbox.forget_told();
    }

    fn again(outbox: &Outbox) -> Outbox {
        let mut row = Vec::new();
        outbox.encode(&mut row);
        Outbox::decode(&row).expect("just written")
    }

    #[test]
    fn what_waits_until_the_ends_are_compared_is_not_taken_for_told_after_a_restart() {
        let mut outbox = Outbox::decode(&[3]).expect("a row");
        for number in 4..=6 {
            assert_eq!(outbox.push(message(number), 1, 8), number);
            assert_eq!(outbox.note_told(), number == 4, "one row does for all");
        }
        let mut found = again(&outbox);
        for number in 4..=5 {
            assert!(found.restore(number, message(number)));
        }
        assert!(found.restore_rest(6, 10));
        assert_eq!((found.first(), found.told(), found.last(), found.is_sound()), (4, 3, 6, true));
        assert!(!found.note_told(), "the store knows");
        // Open, all of them may be told.
        open(&mut found);
        assert!(!found.note_told());
        let mut found = again(&found);
        assert!(found.restore(4, message(4)));
        assert!(found.restore_rest(6, 20));
        assert_eq!((found.told(), found.is_sound()), (6, true));
        // Shut once more, it is noted how far it came.
        open(&mut found);
        assert_eq!(found.hand_next(8).map(|(number, _)| number), Some(4));
        found.shut();
        found.push(message(7), 1, 8);
        assert!(found.note_told());
        assert_eq!(again(&found).told(), 6, "the store had them when it was opened");
    }

    #[test]
    fn a_row_that_no_stream_can_have_is_told() {
        assert!(Outbox::decode(&[3, 4]).is_none(), "told and never sent");
        assert!(Outbox::decode(&[3, 3, 0]).is_none());
        let mut outbox = Outbox::decode(&[7, 2]).expect("a row");
        assert!(outbox.restore(5, message(5)));
        assert!(!outbox.is_sound(), "acknowledged and never told");
        let mut outbox = Outbox::decode(&[7, 6]).expect("a row");
        assert!(outbox.restore(5, message(5)));
        assert!(!outbox.is_sound(), "the last messages are gone");
    }

    #[test]
    fn acknowledged_messages_are_trimmed_once() {
        let mut outbox = Outbox::default();
        for number in 1..=3 {
            assert_eq!(outbox.push(Bytes::from_static(b"m"), 1, 8), number);
        }
        open(&mut outbox);
        assert_eq!(outbox.hand_next(2).map(|(number, _)| number), Some(1));
        assert_eq!(outbox.hand_next(2).map(|(number, _)| number), Some(2));
        assert_eq!(outbox.hand_next(2), None);
        assert!(outbox.acknowledge(2));
        assert_eq!(outbox.trim(), Some((1, 2)));
        assert_eq!(outbox.trim(), None);
        assert_eq!(outbox.hand_next(2).map(|(number, _)| number), Some(3));
        outbox.rewind();
        assert_eq!(outbox.hand_next(2).map(|(number, _)| number), Some(3));
    }

    /// Hands over and acknowledges all there is, reading the store as it is asked for. Returns the numbers in order.
    fn drained(outbox: &mut Outbox, window: u64, stored: &[Bytes]) -> Vec<u64> {
        let mut seen = Vec::new();
        open(outbox);
        while !outbox.is_empty() {
            if let Some((from, most)) = outbox.refill(window) {
                let rows = stored[from as usize - 1..][..most as usize].to_vec();
                assert!(outbox.loaded(from, rows));
            }
            while let Some((number, envelope)) = outbox.hand_next(window) {
                assert_eq!(envelope, stored[number as usize - 1]);
                seen.push(number);
            }
            assert!(outbox.acknowledge(*seen.last().expect("something was handed")));
        }
        assert_eq!((outbox.bytes(), outbox.bytes_in_memory()), (0, 0));
        seen
    }

    fn message(number: u64) -> Bytes {
        Bytes::from(vec![number as u8; 10])
    }

    #[test]
    fn beyond_one_window_messages_lie_in_the_store_alone() {
        let stored: Vec<Bytes> = (1..=100).map(message).collect();
        let mut outbox = Outbox::default();
        for (number, envelope) in (1..).zip(&stored) {
            // Ten messages a batch.
            assert_eq!(outbox.push(envelope.clone(), (number - 1) / 10 + 1, 8), number);
        }
        assert_eq!((outbox.len(), outbox.bytes_in_memory()), (100, 1_000), "no load would find them yet");
        outbox.loadable(9);
        assert_eq!((outbox.stored(), outbox.bytes(), outbox.bytes_in_memory()), (82, 1_000, 180));
        assert_eq!(drained(&mut outbox, 8, &stored), (1..=100).collect::<Vec<_>>());
    }

    #[test]
    fn what_a_receiver_has_consumed_before_a_restart_is_not_acknowledged_unseen() {
        let mut outbox = Outbox::decode(&[40]).expect("a row");
        for number in 41..=44 {
            assert!(outbox.restore(number, message(number)));
        }
        assert!(outbox.restore_rest(60, 160));
        assert_eq!((outbox.len(), outbox.stored(), outbox.bytes()), (20, 16, 200));
        assert!(outbox.acknowledge(60), "as far as is in memory");
        assert_eq!((outbox.len(), outbox.bytes()), (16, 160));
        assert_eq!(outbox.refill(4), Some((45, 4)));
        assert_eq!(outbox.refill(4), None, "one answer is on its way");
    }

    #[test]
    fn rows_that_do_not_continue_are_told() {
        let mut outbox = Outbox::default();
        assert!(outbox.restore(5, message(5)));
        assert!(!outbox.restore(7, message(7)));
        assert!(!outbox.restore_rest(5, 0));
        assert!(outbox.restore_rest(9, 40));
        assert!(!outbox.restore(10, message(10)), "behind what is left in the store");
        assert_eq!(outbox.refill(4), Some((6, 3)));
        assert!(!outbox.loaded(6, Vec::new()), "the rows are gone");
        assert!(!Outbox::default().restore(0, message(0)));
        assert!(!Outbox::default().restore(u64::MAX, message(0)));
    }

    proptest::proptest! {
        #[test]
        fn any_row_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            let _ = Outbox::decode(&bytes);
        }
    }
}
