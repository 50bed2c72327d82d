//! The opening of a stream: both ends say how far they are before anything is sent (P19).
//!
//! ```text
//!   sender                                      receiver
//!   Sender { first kept, last told } ────────►  first <= floor + 1 ?   else it has lost marks
//!   mark <= last told ?          ◄───────────   Receiver { floor, highest mark }
//!   else it has lost numbers
//! ```
//!
//! Each end holds the other's word against what it is *now*: what was told and a floor only rise, so a word that comes late or
//! twice finds no fault where there is none. What the sender has told is what its store had, where that does not name less, and
//! what it has handed over since, and not the messages that wait: those would soon reach the numbers that were lost. The sender
//! sends nothing before the answer to this opening; numbers of openings begin anywhere, so an answer to an earlier run is not
//! taken for one. A question without an answer is put again, whatever else is heard of the stream.
//!
//! Every stream is opened anew when it is sent on for the first time after a start, a move of either end, a new connection, or a
//! while without a receipt: within a node as well, for a shard that was opened again or adopted from a copy is older than its
//! new neighbours know.
//!
//! Every word leaves with the lane's next batch, when it is confirmed that the shard is still this node's (P14): that of an owner
//! of before could park a stream that is well.
//!
//! What is sent before the answer is durable like all else, and would count as told after a crash. So with its first message the
//! row of the stream notes how far it was told, and before the first one is handed over it is written without that.
//!
//! Where the ends do not fit, a disk has forgotten what it told: the sender would give numbers a second time, which the receiver
//! takes for repeats, or the receiver wait for what nobody has. So both park that stream and say so, and everything else goes
//! on. What waits for it stays in the outbox, whose bound holds clients back as ever. They compare again after a while, for it
//! may have been the word of an owner of before. Where they never will fit, an operator accepts the loss (`unpark.rs`).

use super::{Kernel, Opening, OpeningWord, Output};
use crate::{
    placement::ShardId,
    shard::{Asking, ShardPhase},
    stream::Outbox,
    timestamp::Timestamp,
};
use std::time::Duration;

/// Pause before a question without an answer is put again. It doubles, up to that of messages.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// After how many questions that do not come it is not known whether the sender of a parked stream is still where it was,
const UNSURE_FOR: u32 = 3;
/// and after how many its receiver forgets that stream.
const SILENT_FOR: u32 = 12;

/// What both ends say of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// First number the sender keeps.
    pub(super) first: u64,
    /// The highest number that the receiver can have seen.
    pub(super) last: u64,
    /// Up to here the receiver has consumed everything.
    pub(super) floor: u64,
    /// The highest number it has seen.
    pub(super) mark: u64,
}

impl Ends {
    fn has_lost_numbers(self) -> bool {
        self.last < self.mark
    }

    fn has_lost_marks(self) -> bool {
        self.floor + 1 < self.first
    }

    fn are_fit(self) -> bool {
        !self.has_lost_numbers() && !self.has_lost_marks()
    }

    /// What a sender says can be: it keeps none that it has not told, and has not told all numbers there are.
    fn can_be_sent(first: u64, last: u64) -> bool {
        0 < first && first - 1 <= last && last < u64::MAX
    }

    /// What a receiver says can be: it has seen what it has consumed, and not all numbers there are.
    fn can_be_seen(floor: u64, mark: u64) -> bool {
        floor <= mark && mark < u64::MAX
    }
}

/// A stream in which nothing is sent or taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parked {
    pub(super) ends: Ends,
    pub(super) standing: Standing,
    /// When its sender was heard of last.
    pub(super) heard: Timestamp,
}

/// How sure it is that the ends will never fit.
///
/// ```text
///   Said ──the same asked again──► Confirmed ──operator──► Unparking ──durable──► (gone)
///     ▲───── other numbers ───────────┘ ▲────────void─────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// A word has come that they do not. It may be a late one, of an owner of before.
    Said,
    /// Its sender has asked again since, and is where it was: this is the one that has the shard, as long as it goes on asking.
    Confirmed,
    /// An operator has accepted the loss, which is on its way to the disk. Nothing is told before it is there: the sender would
    /// hand over under numbers that a crash brings back as consumed.
    Unparking,
}

impl Kernel {
    /// Whether messages of a stream may be handed over now. Where that is not known yet the other end is asked.
    pub(super) fn may_hand_over(&mut self, source: ShardId, target: ShardId) -> bool {
        let is_parked = self.is_parked(source, target);
        let (now, number, longest) = (self.now, self.opening.wrapping_add(1), self.limits.resend_after);
        let shard = self.host(source);
        let outbox = shard.outboxes.get_mut(&target).expect("a stream to send on has an outbox");
        if outbox.is_open() && !is_parked {
            // It goes on when its row is written anew.
            return !outbox.is_told_noted();
        }
        let asked = shard.asking.get(&target);
        // A parked one asks even so: the other end is to know that it still is.
        if outbox.is_empty() && !is_parked || asked.is_some_and(|asked| now < asked.again) {
            return false;
        }
        let pause = asked.map_or(ASK_AGAIN_AFTER, |asked| asked.pause * 2).min(longest);
        let pause = if is_parked { longest } else { pause };
        shard.asking.insert(target, Asking { again: now + pause, pause });
        outbox.ask(number);
        let says = OpeningWord::Sender { first: outbox.first(), last: outbox.told(), parks: false };
        self.opening = number;
        let voids = self.voids_of_both(source, target);
        let lane = self.host(source).lane;
        self.put_shown(lane, source, Output::Opening(Opening { source, target, number, voids, says }));
        false
    }

    /// Streams that are open again: their rows are written without how far they were told, and then they go on. Only with room.
    pub(super) fn forget_told(&mut self, lane: usize) {
        if self.draining {
            // Nothing is handed over any more.
            return;
        }
        while !self.is_batch_full(lane)
            && let Some((source, target)) = self.lanes[lane].opened.pop_first()
        {
            let outbox = self.host(source).outboxes.get_mut(&target).expect("it was opened");
            // Shut since, it is opened once more.
            if outbox.is_open() {
                outbox.forget_told();
                self.touch(source).write_sent(target);
                self.measure(source);
                self.lanes[lane].sending.insert((source, target));
            }
        }
    }

    /// How often the lane of both ends was voided; `None` where they are in two. Only one of two workers may have heard of the last
    /// void, and what one holds from before and the other has read anew are not to be compared (P13).
    fn voids_of_both(&self, source: ShardId, target: ShardId) -> Option<u64> {
        let lane = &self.lanes[self.shard(source).expect("hosted").lane];
        self.is_in_lane(target, lane.id).then_some(lane.voids)
    }

    /// Puts questions again that had no answer for a while, and those of parked streams.
    pub(super) fn ask_again(&mut self) {
        let now = self.now;
        for at in 0..self.hosted.len() {
            let id = self.hosted[at];
            let shard = self.host(id);
            if shard.asking.is_empty() {
                continue;
            }
            let lane = shard.lane;
            // What is sent later is asked for then.
            let mut asking = std::mem::take(&mut shard.asking);
            asking.retain(|target, _| {
                self.is_parked(id, *target)
                    || self.shard(id).is_some_and(|shard| !shard.outboxes[target].is_empty())
            });
            let shard = self.host(id);
            shard.asking = asking;
            let due = shard.asking.iter().filter(|(_, asked)| asked.again <= now);
            let due: Vec<_> = due.map(|(target, _)| (id, *target)).collect();
            self.lanes[lane].sending.extend(due);
        }
    }

    /// Streams parked here whose sender was heard of no more: it has found its newest directory, or nobody has the shard. Whoever
    /// sends on them next opens them first.
    pub(super) fn forget_silent(&mut self) {
        let (now, after) = (self.now, self.limits.resend_after * SILENT_FOR);
        let mut parked = std::mem::take(&mut self.parked);
        parked.retain(|(source, target), parked| {
            // A sender that is here may be about to be answered.
            let asks = self.shard(*source).is_some_and(|shard| shard.asking.contains_key(target));
            parked.standing == Standing::Unparking || asks || now < parked.heard + after
        });
        self.parked = parked;
    }

    /// Whether the sender of a parked stream is where it was, as far as can be known.
    pub(super) fn is_confirmed(&self, parked: &Parked) -> bool {
        parked.standing == Standing::Confirmed
            && self.now < parked.heard + self.limits.resend_after * UNSURE_FOR
    }

    /// A stream that waits to be opened, and for which nothing will ask. There should be none.
    pub fn forgotten_opening(&self) -> Option<(ShardId, ShardId)> {
        let shards = self.hosted.iter().filter_map(|id| self.shard(*id));
        shards.filter(|shard| shard.is_serving() && !self.draining).find_map(|shard| {
            let is_forgotten = |(target, outbox): &(&ShardId, &Outbox)| {
                let is_shut = !outbox.is_empty() && (!outbox.is_open() || outbox.is_told_noted());
                let is_asked = shard.asking.contains_key(target) || shard.unanswered.contains_key(target);
                let (lane, stream) = (&self.lanes[shard.lane], (shard.id, **target));
                let goes_on =
                    outbox.is_loading() || lane.sending.contains(&stream) || lane.opened.contains(&stream);
                is_shut && !is_asked && !goes_on
            };
            shard.outboxes.iter().find(is_forgotten).map(|(target, _)| (shard.id, *target))
        })
    }

    /// Whether nothing is sent or taken in this stream.
    pub(super) fn is_parked(&self, source: ShardId, target: ShardId) -> bool {
        !self.parked.is_empty() && self.parked.contains_key(&(source, target))
    }

    /// The other end of a stream has said how far it is.
    pub(super) fn opening(&mut self, opening: Opening) {
        match opening.says {
            OpeningWord::Sender { first, last, parks } => self.asked_to_open(opening, first, last, parks),
            OpeningWord::Receiver { floor, mark, parks } => self.open(opening, floor, mark, parks),
        }
    }

    /// At the receiver.
    fn asked_to_open(&mut self, opening: Opening, first: u64, last: u64, parks: bool) {
        let Opening { source, target, .. } = opening;
        // Its sender hears of the owner, and opens the stream to that one.
        let Some(shard) = self.shard(target) else { return };
        // Also a sender that has heard of a void before this end has: this one still has seen what never was.
        let is_of_other = opening.voids.is_some_and(|voids| voids != self.lanes[shard.lane].voids);
        if is_of_other || !Ends::can_be_sent(first, last) {
            return;
        }
        let before = self.parked.get(&(source, target)).copied();
        let is_unparking = before.is_some_and(|parked| parked.standing == Standing::Unparking);
        if shard.phase == ShardPhase::Loading || is_unparking {
            // What was found of this end as it was counts no more.
            if !(parks && is_unparking) {
                self.held_openings.insert((source, target), opening);
            }
            return;
        }
        let (floor, mark) = shard.inboxes.get(&source).map_or((0, 0), |inbox| (inbox.floor(), inbox.mark()));
        let ends = Ends { first, last, floor, mark };
        if !parks && !ends.are_fit() {
            self.asks_again(source, target, ends);
        }
        if parks || ends.has_lost_marks() {
            self.park_stream(source, target, ends);
        } else if !ends.has_lost_numbers() {
            // A word with lost numbers may be a late one. Its sender knows, and says so.
            self.fits_again(source, target);
        }
        if !parks {
            let says = OpeningWord::Receiver { floor, mark, parks: ends.has_lost_marks() };
            let lane = self.host(target).lane;
            self.put_shown(lane, target, Output::Opening(Opening { says, ..opening }));
        }
    }

    /// At the sender.
    fn open(&mut self, opening: Opening, floor: u64, mark: u64, parks: bool) {
        let Opening { source, target, number, .. } = opening;
        let Some(shard) = self.shard_mut(source) else { return };
        let Some(outbox) = shard.outboxes.get_mut(&target) else { return };
        if !Ends::can_be_seen(floor, mark) || !outbox.answered(number) {
            return;
        }
        let lane = shard.lane;
        let (first, last, is_noted) = (outbox.first(), outbox.told(), outbox.is_told_noted());
        let ends = Ends { first, last, floor, mark };
        if !parks && !ends.has_lost_numbers() {
            shard.asking.remove(&target);
            self.fits_again(source, target);
            let work = &mut self.lanes[lane];
            if is_noted { &mut work.opened } else { &mut work.sending }.insert((source, target));
            return;
        }
        self.park_sending(source, target, ends);
        if !parks {
            let says = OpeningWord::Sender { first, last, parks: true };
            self.put_shown(lane, source, Output::Opening(Opening { says, ..opening }));
        }
    }

    /// At the sender, which asks again after a while.
    fn park_sending(&mut self, source: ShardId, target: ShardId, ends: Ends) {
        let (now, pause) = (self.now, self.limits.resend_after);
        let shard = self.host(source);
        shard.outboxes.get_mut(&target).expect("it was just looked at").shut();
        shard.asking.insert(target, Asking { again: now + pause, pause });
        self.park_stream(source, target, ends);
    }

    /// A sender asks, and does not fit. If it is where it was when the stream was parked, that was no late word.
    fn asks_again(&mut self, source: ShardId, target: ShardId, asked: Ends) {
        let now = self.now;
        if let Some(parked) = self.parked.get_mut(&(source, target))
            && (parked.ends.first, parked.ends.last) == (asked.first, asked.last)
        {
            parked.standing = Standing::Confirmed;
            parked.heard = now;
        }
    }

    fn park_stream(&mut self, source: ShardId, target: ShardId, ends: Ends) {
        let before = self.parked.get(&(source, target)).copied();
        let is_same_sender =
            before.is_some_and(|parked| (parked.ends.first, parked.ends.last) == (ends.first, ends.last));
        let standing = match before.map(|parked| parked.standing) {
            Some(Standing::Unparking) => return,
            Some(standing) if is_same_sender => standing,
            _ => Standing::Said,
        };
        self.parked.insert((source, target), Parked { ends, standing, heard: self.now });
        // Said once, however often it is compared.
        if before.map(|parked| parked.ends) != Some(ends) {
            let Ends { first, last, floor, mark } = ends;
            tracing::error!(
                %source, %target, first, last, floor, mark,
                "the two ends of a stream do not fit, and it is parked: {} has lost what its disk had synced. If the \
                 node was put back from a copy, start it on its newest directory. If the shard was opened again or adopted \
                 because a disk is gone, this stream goes on when an operator accepts the loss, by `unpark`; everything else goes on",
                if ends.has_lost_numbers() { "its sender" } else { "its receiver" }
            );
        }
    }

    fn fits_again(&mut self, source: ShardId, target: ShardId) {
        let is_unparking = |parked: &Parked| parked.standing == Standing::Unparking;
        if self.parked.get(&(source, target)).is_some_and(is_unparking) {
            return;
        }
        if self.parked.remove(&(source, target)).is_some() {
            tracing::info!(%source, %target, "the ends of a parked stream fit again: it goes on");
        }
    }

    /// A receiver has consumed what was never sent: only a store that lost what it synced does not know of it.
    pub(super) fn park_for_receipt(&mut self, source: ShardId, target: ShardId, through: u64) {
        if !Ends::can_be_seen(through, through) {
            return;
        }
        let outbox = &self.shard(source).expect("it has got a receipt").outboxes[&target];
        let (first, last) = (outbox.first(), outbox.told());
        self.park_sending(source, target, Ends { first, last, floor: through, mark: through });
    }

    /// A shard is loaded: who asked meanwhile is answered.
    pub(super) fn answer_openings(&mut self, target: ShardId) {
        let held: Vec<Opening> = self
            .held_openings
            .extract_if(.., |(_, held), _| *held == target)
            .map(|(_, opening)| opening)
            .collect();
        for opening in held {
            self.opening(opening);
        }
    }

    /// A shard leaves this node, and its streams with it: they are opened where it goes. What was set back for its sender and is
    /// not durable yet stays unsaid, wherever that one is.
    pub(super) fn forget_parked(&mut self, id: ShardId) {
        self.parked.retain(|(source, target), parked| {
            *target != id && (*source != id || parked.standing == Standing::Unparking)
        });
    }
}

#[cfg(test)]
mod tests;
