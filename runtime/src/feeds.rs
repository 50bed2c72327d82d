//! Feeds: clients with a stable name whose whole input can be sent again and changes nothing (P10).
//!
//! A feed is a stream whose source is a client. It numbers its messages per target shard 1, 2, 3..., counted anew from
//! the start of its input on every run, and sends its own number (the row) beside it. The shard keeps floor, window,
//! own number at the floor and a digest of message 1, for good: constant space, however long the input is.
//!
//! Before its first row leaves, a feed claims its name in one shard with the identity of its input. Each shard sees only
//! some of the rows, and one that has seen none yet would take another input's for the first.

use crate::{
    store::row::{put_varint, take, take_u64, take_varint},
    stream::{Inbox, Verdict},
};
use std::{collections::VecDeque, fmt};

/// Longest name of a feed in bytes.
pub const FEED_NAME_LEN_MAX: usize = 512;

/// Names a feed in rows and in flight: the 128-bit XXH3 hash of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedId(pub u128);

impl FeedId {
    /// The id of a name.
    pub fn of(name: &str) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(name.as_bytes()))
    }

    /// Where the claim on the name lies: in the shard of this hash.
    pub fn hash(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

/// Which input is fed: its first message and that message's own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedIdentity {
    /// Own number of the first message.
    pub own: u64,
    /// Digest of its bytes.
    pub digest: u64,
}

impl FeedIdentity {
    /// The identity of an input that begins with these bytes.
    pub fn of(own: u64, first: &[u8]) -> Self {
        Self { own, digest: xxhash_rust::xxh3::xxh3_64(first) }
    }
}

impl fmt::Display for FeedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {} of digest {:016x}", self.own, self.digest)
    }
}

/// What a feed asks of a shard before it sends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedQuestion {
    /// May it have the name? Asked of the one shard where the claim lies.
    Claim(FeedIdentity),
    /// Where does it go on? Asked of every shard by one that cannot send its input from the start.
    Resume,
}

/// Who has the name of a feed.
///
/// ```text
///             first message              an operator drops it          every shard has forgotten it
///   (no row) ───────────────► Held ─────────────────────────► Dropping ────────────────────────────► (no row)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The input of this identity.
    Held(FeedIdentity),
    /// Nobody, until no shard has a mark of the feed any more: one that had would take the next input for the last.
    Dropping,
}

/// The steps in which a feed is dropped. Each may be repeated, and so may the whole after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropStep {
    /// The shard of the claim: nobody gets the name from now on.
    Begin,
    /// Every shard: forget the marks.
    Marks,
    /// The shard of the claim: the name is free.
    End,
}

impl Claim {
    /// Row value: 0, own number, digest; or 1.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Held(identity) => {
                out.push(0);
                put_varint(identity.own, out);
                out.extend_from_slice(&identity.digest.to_be_bytes());
            }
            Self::Dropping => out.push(1),
        }
    }

    /// Reads a row value; `None` where it is not one.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let claim = match take(&mut bytes, 1)?[0] {
            0 => Self::Held(FeedIdentity { own: take_varint(&mut bytes)?, digest: take_u64(&mut bytes)? }),
            1 => Self::Dropping,
            _ => return None,
        };
        bytes.is_empty().then_some(claim)
    }
}

/// What is to be done with a feed's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum FeedVerdict {
    /// As for any stream.
    Stream(Verdict),
    /// This is not the input that was sent under the name before.
    Collision,
}

/// The receiving end of a feed in one shard.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Feed {
    inbox: Inbox,
    /// Own number of the message at the floor.
    own_at_floor: u64,
    /// Number and own number of what is taken above the floor, consumed or not, by rising number. Nearly always one is
    /// taken and consumed at once, which costs no allocation here.
    owns: VecDeque<(u64, u64)>,
    /// Digest of message 1; 0 before it arrived.
    first_digest: u64,
}

impl Feed {
    /// Everything up to here is consumed.
    pub fn floor(&self) -> u64 {
        self.inbox.floor()
    }

    /// Own number of the message at the floor; 0 before the first.
    pub fn own_at_floor(&self) -> u64 {
        self.own_at_floor
    }

    /// Whether a commit, durable or not yet, has consumed this number.
    pub fn is_consumed(&self, number: u64) -> bool {
        self.inbox.is_consumed(number)
    }

    /// Whether something is taken into memory and not consumed.
    pub fn is_busy(&self) -> bool {
        self.owns.iter().any(|(number, _)| !self.inbox.is_consumed(*number))
    }

    /// How many numbers above the floor are consumed.
    pub fn window_len(&self) -> usize {
        self.inbox.window_len()
    }

    /// Judges a message that arrived with its own number and the digest of its bytes.
    pub fn judge(&self, number: u64, own: u64, digest: u64, window_max: u64) -> FeedVerdict {
        let known = if number == self.floor() { Some(self.own_at_floor) } else { self.own_of(number) };
        let another = known.is_some_and(|known| 0 < number && known != own)
            || number == 1 && self.first_digest != 0 && digest != self.first_digest;
        // Own numbers rise by one at the least, so one below the floor lies below the floor's own by as much.
        let above = number < self.floor()
            && self.own_at_floor.checked_sub(own).is_none_or(|below| below < self.floor() - number);
        let verdict = self.inbox.judge(number, window_max);
        let falls = verdict == Verdict::Fresh && !self.rises(number, own);
        if another || above || falls { FeedVerdict::Collision } else { FeedVerdict::Stream(verdict) }
    }

    fn own_of(&self, number: u64) -> Option<u64> {
        let at = self.owns.binary_search_by_key(&number, |(taken, _)| *taken).ok()?;
        Some(self.owns[at].1)
    }

    /// Whether own numbers go on rising with this one. After a restart the window may hold later ones already.
    fn rises(&self, number: u64, own: u64) -> bool {
        let at = self.owns.partition_point(|(taken, _)| *taken < number);
        let before = at.checked_sub(1).map(|before| self.owns[before].1);
        let before = before.or((0 < self.floor()).then_some(self.own_at_floor));
        let after = self.owns.get(at).map(|(_, own)| *own);
        before.is_none_or(|before| before < own) && after.is_none_or(|after| own < after)
    }

    /// Takes the next message into memory.
    pub fn take(&mut self, number: u64, own: u64, digest: u64) {
        self.inbox.take(number, 0);
        let at = self.owns.partition_point(|(taken, _)| *taken < number);
        self.owns.insert(at, (number, own));
        if number == 1 {
            self.first_digest = digest;
        }
    }

    /// Marks a taken message as consumed.
    pub fn consume(&mut self, number: u64) {
        self.inbox.consume(number, 0);
        let floor = self.inbox.floor();
        while let Some(&(number, own)) = self.owns.front()
            && number <= floor
        {
            self.own_at_floor = own;
            self.owns.pop_front();
        }
    }

    /// Row value: digest, own number at the floor, count and own numbers of the window, then the inbox.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first_digest.to_be_bytes());
        put_varint(self.own_at_floor, out);
        // Numbers taken and not consumed are not durable; they come again and bring their own number.
        let consumed = || self.owns.iter().filter(|(number, _)| self.inbox.is_consumed(*number));
        put_varint(consumed().count() as u64, out);
        for (number, own) in consumed() {
            put_varint(*number, out);
            put_varint(*own, out);
        }
        self.inbox.encode(out);
    }

    /// Reads a row value; `None` where it is not one.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let first_digest = take_u64(&mut bytes)?;
        let own_at_floor = take_varint(&mut bytes)?;
        let mut owns = VecDeque::new();
        for _ in 0..take_varint(&mut bytes)? {
            owns.push_back((take_varint(&mut bytes)?, take_varint(&mut bytes)?));
        }
        Some(Self { inbox: Inbox::decode(bytes)?, own_at_floor, owns, first_digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(numbers: std::ops::RangeInclusive<u64>) -> Feed {
        let mut feed = Feed::default();
        for number in numbers {
            assert_eq!(feed.judge(number, 10 * number, number, 8), FeedVerdict::Stream(Verdict::Fresh));
            feed.take(number, 10 * number, number);
            feed.consume(number);
        }
        feed
    }

    #[test]
    fn the_same_input_again_is_duplicate_to_the_last_row() {
        let feed = fed(1..=20);
        for number in 1..=20 {
            assert_eq!(feed.judge(number, 10 * number, number, 8), FeedVerdict::Stream(Verdict::Duplicate));
        }
        assert_eq!(feed.judge(21, 210, 21, 8), FeedVerdict::Stream(Verdict::Fresh));
    }

    #[test]
    fn another_input_under_the_name_is_a_collision() {
        let feed = fed(1..=20);
        assert_eq!(feed.judge(1, 10, 99, 8), FeedVerdict::Collision, "another first message");
        assert_eq!(feed.judge(20, 201, 20, 8), FeedVerdict::Collision, "another row at the floor");
        assert_eq!(feed.judge(21, 200, 21, 8), FeedVerdict::Collision, "a row that does not rise");
        assert_eq!(
            feed.judge(15, 196, 15, 8),
            FeedVerdict::Collision,
            "a row too near to the one at the floor"
        );
    }

    #[test]
    fn a_hole_is_refused_from_the_expected_number_on() {
        let feed = fed(1..=3);
        assert_eq!(feed.judge(5, 50, 5, 8), FeedVerdict::Stream(Verdict::Gap { expected: 4 }));
    }

    #[test]
    fn a_feed_comes_back_from_its_row_with_its_window() {
        let mut feed = fed(1..=3);
        for number in 4..=6 {
            feed.take(number, 10 * number, number);
        }
        feed.consume(6);
        let mut row = Vec::new();
        feed.encode(&mut row);
        let again = Feed::decode(&row).expect("just written");
        assert_eq!((again.floor(), again.own_at_floor()), (3, 30));
        assert_eq!(again.judge(6, 61, 6, 8), FeedVerdict::Collision);
        assert_eq!(again.judge(6, 60, 6, 8), FeedVerdict::Stream(Verdict::Duplicate));
        assert_eq!(again.judge(4, 40, 4, 8), FeedVerdict::Stream(Verdict::Fresh), "the hole is sent again");
        assert_eq!(again.judge(4, 60, 4, 8), FeedVerdict::Collision, "a row that is not below the window's");
    }

    #[test]
    fn the_first_row_may_have_the_number_zero() {
        assert_eq!(Feed::default().judge(1, 0, 7, 8), FeedVerdict::Stream(Verdict::Fresh));
    }

    proptest::proptest! {
        #[test]
        fn any_row_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            let _ = Feed::decode(&bytes);
            let _ = Claim::decode(&bytes);
        }

        #[test]
        fn a_claim_comes_back_from_its_row(held: bool, own: u64, digest: u64) {
            let claim = if held { Claim::Held(FeedIdentity { own, digest }) } else { Claim::Dropping };
            let mut row = Vec::new();
            claim.encode(&mut row);
            proptest::prop_assert_eq!(Claim::decode(&row), Some(claim));
            row.push(0);
            proptest::prop_assert_eq!(Claim::decode(&row), None);
        }
    }
}
