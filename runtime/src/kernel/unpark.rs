//! The way out of a parked stream whose ends will never fit, for a disk is gone for good (P19): an operator accepts the loss.
//!
//! Only the receiver changes. Its marks are set to where the sender is ([`Inbox::accept_loss`](crate::stream::Inbox::accept_loss)),
//! in one row of one batch. When that is durable it answers its sender again, who finds that the ends fit and goes on.
//!
//! ```text
//!   sender keeps first ..= last told               receiver has floor, highest mark
//!                                 first ─── last
//!   its sender has lost numbers       ░░░░░░░░░|≡≡≡≡≡|              ≡ taken here: its sender gives these numbers anew
//!   its receiver has lost marks  |····|░░░░░░░░                     · taken by the lost disk: nobody has them any more
//! ```
//!
//! It waits for messages of the stream that are still in memory, and for the sender's second question: the word that parked
//! the stream may have been a late one, and to set marks back where nothing is lost would be to take messages twice.

use super::{
    Kernel, MARK_LEN, MARKS_LEN, Outcome, Output,
    openings::{Ends, Parked, Standing},
};
use crate::{
    activation::ReplyTo,
    placement::ShardId,
    requests::{Reply, ReplyClass},
    shard::ShardPhase,
    store::row::{put_varint, take, take_varint},
};

/// Most streams of one page.
const PAGE: usize = 1_000;

/// Numbers of a stream from the first to the last, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// A stream that is parked, as its receiver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkedStream {
    /// The sending shard.
    pub source: ShardId,
    /// The receiving shard.
    pub target: ShardId,
    /// What was taken and its sender does not know that it sent, within these numbers: it gives them to other messages.
    pub lost_by_sender: Option<Numbers>,
    /// What its sender no longer keeps, for a disk that is gone had taken it: of these, messages not taken here are nowhere.
    pub lost_by_receiver: Option<Numbers>,
    /// What can be done.
    pub state: ParkedState,
}

/// What can be done about a parked stream, or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkedState {
    /// It goes on when an operator accepts what is lost.
    Ready,
    /// It is not known whether its ends will fit again: its sender has not asked a second time, or not for a while.
    Comparing,
    /// Messages that came before are still being handled.
    Handling,
    /// An operator has accepted what is lost, and that is on its way to the disk.
    Unparking,
    /// It goes on, durably, when its sender asks again.
    Unparked,
}

/// Parked streams of one worker.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ParkedPage {
    /// There are more of them.
    pub more: bool,
    /// Those that can go on first.
    pub streams: Vec<ParkedStream>,
}

impl Numbers {
    fn of((first, last): (u64, u64)) -> Option<Self> {
        (0 < first).then_some(Self { first, last })
    }
}

impl ParkedState {
    const ALL: [Self; 5] = [Self::Ready, Self::Comparing, Self::Handling, Self::Unparking, Self::Unparked];
}

impl ParkedPage {
    /// As the body of a reply: whether there are more, then the streams up to the end.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.more));
        for stream in &self.streams {
            let ParkedStream { source, target, lost_by_sender, lost_by_receiver, state } = *stream;
            let state = ParkedState::ALL.iter().position(|other| *other == state).expect("one of all");
            out.push(u8::try_from(state).expect("they are few"));
            put_varint(source.0.into(), out);
            put_varint(target.0.into(), out);
            for lost in [lost_by_sender, lost_by_receiver] {
                let (first, last) = lost.map_or((0, 0), |numbers| (numbers.first, numbers.last));
                put_varint(first, out);
                put_varint(last, out);
            }
        }
    }

    /// Reads the body of a reply; `None` where it is not one.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let more = match take(&mut bytes, 1)?[0] {
            0 => false,
            1 => true,
            _ => return None,
        };
        let mut page = Self { more, streams: Vec::new() };
        while !bytes.is_empty() {
            page.streams.push(ParkedStream {
                state: *ParkedState::ALL.get(usize::from(take(&mut bytes, 1)?[0]))?,
                source: take_shard(&mut bytes)?,
                target: take_shard(&mut bytes)?,
                lost_by_sender: Numbers::of(take_range(&mut bytes)?),
                lost_by_receiver: Numbers::of(take_range(&mut bytes)?),
            });
        }
        Some(page)
    }
}

fn take_shard(bytes: &mut &[u8]) -> Option<ShardId> {
    Some(ShardId(u32::try_from(take_varint(bytes)?).ok()?))
}

/// No number is 0: two of them are none.
fn take_range(bytes: &mut &[u8]) -> Option<(u64, u64)> {
    let (first, last) = (take_varint(bytes)?, take_varint(bytes)?);
    ((first, last) == (0, 0) || 0 < first && first <= last).then_some((first, last))
}

impl Kernel {
    /// Answers out of memory and at once: it changes nothing.
    pub(super) fn list_parked(&mut self, to: ReplyTo) {
        let here = self.parked.iter().filter_map(|(stream, parked)| self.parked_stream(*stream, parked));
        let (mut ready, mut others): (Vec<_>, Vec<_>) =
            here.partition(|stream| stream.state == ParkedState::Ready);
        let more = PAGE < ready.len() + others.len();
        ready.truncate(PAGE);
        others.truncate(PAGE - ready.len());
        ready.append(&mut others);
        let page = ParkedPage { more, streams: ready };
        self.put_now(Output::Reply(to, told(&page)));
    }

    /// An operator accepts what a stream has lost, and no other loss than was shown; in a run that has room for the row.
    pub(super) fn unpark(&mut self, lane: usize, shown: &ParkedStream, to: ReplyTo) {
        let (source, target) = (shown.source, shown.target);
        let stream = (source, target);
        let parked = self.parked.get(&stream).copied();
        let found = parked.and_then(|parked| self.parked_stream(stream, &parked));
        let mut page = ParkedPage { more: false, streams: found.into_iter().collect() };
        let is_shown = |found: &&mut ParkedStream| found.state == ParkedState::Ready && **found == *shown;
        let Some((found, parked)) = page.streams.first_mut().filter(is_shown).zip(parked) else {
            self.put_now(Output::Reply(to, told(&page)));
            return;
        };
        found.state = ParkedState::Unparked;
        let (by_sender, by_receiver) = (found.lost_by_sender, found.lost_by_receiver);
        tracing::warn!(
            %source, %target, ?by_sender, ?by_receiver,
            "an operator accepts what a parked stream has lost: it goes on from where its sender is"
        );
        self.parked.insert(stream, Parked { standing: Standing::Unparking, ..parked });
        let shard = self.touch(target);
        shard.changes.inboxes.insert(source);
        let inbox = shard.inboxes.entry(source).or_default();
        inbox.accept_loss(parked.ends.first, parked.ends.last);
        let marks = MARKS_LEN + inbox.window_len() * MARK_LEN;
        let work = &mut self.lanes[lane];
        work.batch_bytes += marks;
        work.unparking.push_back((work.number + 1, stream));
        self.put_gated(lane, Output::Reply(to, told(&page)));
    }

    /// A parked stream to a shard that is here.
    fn parked_stream(&self, stream: (ShardId, ShardId), parked: &Parked) -> Option<ParkedStream> {
        let (source, target) = stream;
        let shard = self.shard(target)?;
        let inbox = shard.inboxes.get(&source);
        // It may have consumed since what it had in memory.
        let now = inbox.map(|inbox| Ends { floor: inbox.floor(), mark: inbox.mark(), ..parked.ends });
        let Ends { first, last, floor, mark } = now.unwrap_or(parked.ends);
        let numbers = |first, last| (first <= last).then_some(Numbers { first, last });
        let state = match parked.standing {
            Standing::Unparking => ParkedState::Unparking,
            _ if shard.phase == ShardPhase::Loading => ParkedState::Comparing,
            _ if !self.is_confirmed(parked) => ParkedState::Comparing,
            _ if inbox.is_some_and(|inbox| 0 < inbox.held()) => ParkedState::Handling,
            _ => ParkedState::Ready,
        };
        Some(ParkedStream {
            source,
            target,
            lost_by_sender: numbers(last + 1, mark),
            lost_by_receiver: numbers(floor + 1, first - 1),
            state,
        })
    }

    /// Streams whose new marks are durable by now: their senders are answered again.
    pub(super) fn has_unparked(&mut self, lane: usize, through: u64) {
        while let Some((_, stream)) =
            self.lanes[lane].unparking.pop_front_if(|(number, _)| *number <= through)
        {
            let is_unparking = |parked: &Parked| parked.standing == Standing::Unparking;
            // Its shard may have gone, and the stream with it.
            if self.parked.get(&stream).is_some_and(is_unparking) {
                self.parked.remove(&stream);
            }
            if let Some(opening) = self.held_openings.remove(&stream) {
                self.opening(opening);
            }
        }
    }

    /// The batch with its new marks is void: it is parked as before.
    pub(super) fn stays_parked(&mut self, stream: (ShardId, ShardId)) {
        if let Some(parked) = self.parked.get_mut(&stream) {
            parked.standing = Standing::Confirmed;
        }
    }
}

fn told(page: &ParkedPage) -> Outcome {
    let mut body = Vec::new();
    page.encode(&mut body);
    Outcome::Done(Reply { class: ReplyClass::Applied, body: body.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream() -> impl Strategy<Value = ParkedStream> {
        let numbers = || {
            let numbers = (1..u64::MAX).prop_flat_map(|first| (Just(first), first..=u64::MAX));
            proptest::option::of(numbers.prop_map(|(first, last)| Numbers { first, last }))
        };
        let state = proptest::sample::select(ParkedState::ALL.to_vec());
        (any::<u32>(), any::<u32>(), numbers(), numbers(), state).prop_map(
            |(source, target, lost_by_sender, lost_by_receiver, state)| ParkedStream {
                source: ShardId(source),
                target: ShardId(target),
                lost_by_sender,
                lost_by_receiver,
                state,
            },
        )
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            let _ = ParkedPage::decode(&bytes);
        }

        #[test]
        fn a_page_comes_back_as_it_was_written(more: bool, streams in proptest::collection::vec(stream(), 0..4)) {
            let page = ParkedPage { more, streams };
            let mut body = Vec::new();
            page.encode(&mut body);
            prop_assert_eq!(ParkedPage::decode(&body), Some(page));
        }
    }
}
