//! What the other end of a connection asks of this process: its frames in, its answers out.

use super::{Admitted, Front, Outbound, Port};
use crate::{
    activation::{Listener, ReplyTo},
    entity::EntityId,
    error::{Bound, Refusal},
    feeds::FeedId,
    kernel::{Arrival, Event, FeedNews, FeedReceipt, Outcome, Provenance, Receipt},
    message::{Envelope, EnvelopeView},
    placement::{self, ShardId},
    transport::{
        Frame,
        frame::{
            Answer, FeedAnswer, FeedMessage, Request, StreamMessage, StreamOpening, VolatileMessage, Way,
        },
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

/// Feeds that one connection may have open. One more is refused.
const FEEDS_MAX: usize = 1_024;
/// How long a connection is not read while the workers it brings messages to have too much to do.
const PAUSE: Duration = Duration::from_millis(1);

/// The rules the other end has broken. Its connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);

/// What is left to do for a frame, by whoever knows the cluster.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// It is none of the messages: the whole of it.
    pub(crate) frame: Option<Frame>,
    /// The other end thinks these shards are here: it is to be told where they are (P22).
    pub(crate) misplaced: BTreeSet<ShardId>,
}

/// The other end of a connection, and a port for what it waits for.
pub(crate) struct Remote {
    front: Arc<Front>,
    outbound: Arc<Outbound>,
    connection: u32,
    /// What it has open, by its own number of it.
    feeds: Mutex<BTreeMap<u64, FeedId>>,
}

impl Frame {
    /// Whether it brings work for workers that must be waited for. It is taken in order among its like; what is not goes past
    /// it, for a worker with too much to do is no reason to miss an answer or a sign of life.
    pub(crate) fn is_inflow(&self) -> bool {
        matches!(
            self,
            Self::Messages(_)
                | Self::Volatile(_)
                | Self::OpenFeed { .. }
                | Self::AskFeed { .. }
                | Self::FeedMessages { .. }
                | Self::CloseFeed { .. }
        )
    }
}

impl Remote {
    /// Opens a port for a connection.
    pub(crate) fn open(front: &Arc<Front>, outbound: &Arc<Outbound>) -> Arc<Self> {
        let remote = Arc::new(Self {
            front: Arc::clone(front),
            outbound: Arc::clone(outbound),
            connection: front.ports.next(),
            feeds: Mutex::default(),
        });
        front.ports.open(remote.connection, remote.clone());
        remote
    }

    /// Nothing more of the other end will be taken: its feeds are closed.
    pub(crate) fn close(&self) {
        self.front.ports.close(self.connection);
        let feeds = std::mem::take(&mut *self.feeds());
        for (slot, feed) in feeds {
            self.close_feed(slot, feed);
        }
    }

    /// The connection has ended. Who waits here for an answer of its other end is told that none comes.
    pub(crate) fn cut(&self) {
        // Before anyone is told: who asks again finds another way, or that there is none.
        if let Some(node) = &self.outbound.node {
            self.front.links.disconnect(node, &self.outbound);
        }
        let unanswered = self.outbound.end();
        let who = self.outbound.node.as_ref().map_or("the node", |node| node.as_str());
        let why = format!("the connection to {who} ended before its answer");
        self.front
            .ports
            .reply(unanswered.into_iter().map(|to| (to, Outcome::Unknown(why.clone()))).collect());
    }

    fn feeds(&self) -> MutexGuard<'_, BTreeMap<u64, FeedId>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a frame. Waits while those it is for have too much to do, and holds back the other end so.
    pub(crate) async fn take(&self, frame: Frame) -> Result<Rest, Violation> {
        let is_node = self.outbound.node.is_some();
        let has_workers = !self.front.intakes.is_empty();
        let is_expected = match &frame {
            Frame::Requests(_)
            | Frame::OpenFeed { .. }
            | Frame::AskFeed { .. }
            | Frame::FeedMessages { .. }
            | Frame::CloseFeed { .. }
            | Frame::Command { .. } => has_workers,
            Frame::Replies(_)
            | Frame::FeedReceipts(_)
            | Frame::Moved(_)
            | Frame::Members(_)
            | Frame::CommandAnswer { .. } => is_node,
            Frame::Messages(_)
            | Frame::Volatile(_)
            | Frame::Receipts(_)
            | Frame::Openings(_)
            | Frame::Durable(_)
            | Frame::Membership(_)
            | Frame::HandOff(_)
            | Frame::LastQuestion { .. }
            | Frame::LastAnswer { .. }
            | Frame::AskEpochs { .. }
            | Frame::Epochs { .. } => is_node && has_workers,
            Frame::Credit(_) | Frame::Ping | Frame::Pong | Frame::Close(_) => false,
        };
        if !is_expected {
            return Err(Violation("a frame that is not for such a connection".into()));
        }
        let mut misplaced = BTreeSet::new();
        if frame.is_inflow() && self.front.stopping.load(Ordering::Relaxed) {
            // Who sent it has it, and sends it again when this node is back.
            return Ok(Rest::default());
        }
        match frame {
            Frame::Messages(messages) => self.messages(messages, &mut misplaced).await?,
            Frame::Volatile(messages) => self.volatile(messages, &mut misplaced).await?,
            Frame::Receipts(receipts) => {
                self.receipts(receipts.into_iter().map(|receipt| receipt.0))?;
            }
            Frame::Openings(openings) => self.openings(&openings, &mut misplaced)?,
            Frame::Durable(position) => self.outbound.durable_there_is(position),
            Frame::Requests(requests) => self.requests(requests)?,
            Frame::Replies(answers) => self.replies(answers),
            Frame::OpenFeed { slot, name } => self.open_feed(slot, &name)?,
            Frame::AskFeed { slot, feed, shard, question } => {
                self.check(shard)?;
                if !self.has_open(slot, feed) {
                    self.tell_not_open(slot, feed, [shard]);
                } else if self.front.links.is_here(shard) && self.room(shard).await {
                    let event = Event::AskFeed { feed, shard, question, to: self.to(slot) };
                    self.front.intakes[self.front.worker_of(shard)].push(event);
                } else {
                    misplaced.insert(shard);
                }
            }
            Frame::FeedMessages { slot, feed, messages } => {
                if self.has_open(slot, feed) {
                    self.feed_messages(slot, feed, messages, &mut misplaced).await?;
                } else {
                    let shards: BTreeSet<ShardId> = messages.iter().map(|message| message.shard).collect();
                    self.tell_not_open(slot, feed, shards);
                }
            }
            Frame::CloseFeed { slot, feed } => {
                if self.has_open(slot, feed) {
                    self.feeds().remove(&slot);
                    self.close_feed(slot, feed);
                }
            }
            Frame::FeedReceipts(answers) => self.feed_receipts(answers),
            Frame::CommandAnswer { slot, answer } => self.outbound.command_answered(slot, answer),
            frame => return Ok(Rest { frame: Some(frame), misplaced }),
        }
        Ok(Rest { frame: None, misplaced })
    }

    fn to(&self, slot: u64) -> ReplyTo {
        ReplyTo { connection: self.connection, slot }
    }

    fn check(&self, shard: ShardId) -> Result<(), Violation> {
        if shard.0 < self.front.layout.count() {
            return Ok(());
        }
        Err(Violation(format!("it speaks of {shard}, which does not exist")))
    }

    /// Whether a message is one that this node could have let in: of a key and a length that its rows, batches and hand-offs
    /// have room for.
    fn check_message(&self, envelope: &Envelope, view: &EnvelopeView<'_>) -> Result<(), Refusal> {
        EntityId::check(view.kind, view.key)?;
        let (what, len, max) = ("the message", envelope.len(), self.front.limits.message_len_max);
        if max < len { Err(Refusal::TooLarge { what, len, max }) } else { Ok(()) }
    }

    /// The same of a message between entities, which the other node has let in. Returns the hash of its entity.
    fn check_streamed(&self, shard: ShardId, envelope: &Envelope) -> Result<u64, Violation> {
        let view = envelope.view();
        self.check_message(envelope, &view).map_err(|why| {
            Violation(format!(
                "it has taken a message that is refused here ({why}): give all nodes the same limits"
            ))
        })?;
        self.hash(shard, &view)
    }

    /// The hash of a message's entity, which must lie in its shard: what is done in another shard is not found again.
    fn hash(&self, shard: ShardId, view: &EnvelopeView<'_>) -> Result<u64, Violation> {
        let hash = placement::hash(view.kind, view.key);
        if self.front.layout.place(hash) == shard {
            return Ok(hash);
        }
        Err(Violation(format!("a message for {shard} is for an entity of another shard")))
    }

    /// Waits until the worker of a shard has room. False: nobody waits for that any more, and what was to go there is left
    /// aside; who sent it has it.
    async fn room(&self, shard: ShardId) -> bool {
        let intake = &self.front.intakes[self.front.worker_of(shard)];
        while self.front.limits.intake_bytes_max <= intake.backlog() {
            if self.front.stopping.load(Ordering::Relaxed) || self.outbound.link().ended().is_some() {
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
        true
    }

    /// Hands on what is for a shard of this process.
    async fn hand(&self, arrivals: Vec<Arrival>) {
        let Some(first) = arrivals.first() else { return };
        // One of them will do: a worker that is behind is so with all its shards.
        if self.room(first.shard).await {
            self.front.hand_near(arrivals);
        }
    }

    async fn messages(
        &self,
        messages: Vec<StreamMessage>,
        misplaced: &mut BTreeSet<ShardId>,
    ) -> Result<(), Violation> {
        let mut arrivals = Vec::with_capacity(messages.len());
        for StreamMessage { source, target, number, envelope } in messages {
            self.check(source)?;
            self.check(target)?;
            let hash = self.check_streamed(target, &envelope)?;
            if !self.front.links.is_here(target) {
                // Not passed on (P22): its sender has it, and sends it to the owner.
                misplaced.insert(target);
                continue;
            }
            // It came out of a durable batch: no void of a lane here is its business.
            let from = Provenance::Stream { source, number, voids: None };
            arrivals.push(Arrival { shard: target, hash, envelope, from });
        }
        self.hand(arrivals).await;
        Ok(())
    }

    async fn volatile(
        &self,
        messages: Vec<VolatileMessage>,
        misplaced: &mut BTreeSet<ShardId>,
    ) -> Result<(), Violation> {
        let mut arrivals = Vec::with_capacity(messages.len());
        for VolatileMessage { target, envelope } in messages {
            self.check(target)?;
            let hash = self.check_streamed(target, &envelope)?;
            if !self.front.links.is_here(target) {
                misplaced.insert(target);
                continue;
            }
            arrivals.push(Arrival { shard: target, hash, envelope, from: Provenance::Volatile });
        }
        self.hand(arrivals).await;
        Ok(())
    }

    fn receipts(&self, receipts: impl Iterator<Item = Receipt>) -> Result<(), Violation> {
        let mut per_worker: BTreeMap<usize, Vec<Receipt>> = BTreeMap::new();
        for receipt in receipts {
            self.check(receipt.source)?;
            self.check(receipt.target)?;
            // Its sending end is elsewhere by now, and sends again.
            if self.front.links.is_here(receipt.source) {
                per_worker.entry(self.front.worker_of(receipt.source)).or_default().push(receipt);
            }
        }
        for (worker, receipts) in per_worker {
            self.front.intakes[worker].push(Event::Receipts(receipts));
        }
        Ok(())
    }

    fn openings(
        &self,
        openings: &[StreamOpening],
        misplaced: &mut BTreeSet<ShardId>,
    ) -> Result<(), Violation> {
        for StreamOpening(opening) in openings {
            self.check(opening.source)?;
            self.check(opening.target)?;
            let to = opening.to();
            if self.front.links.is_here(to) {
                self.front.intakes[self.front.worker_of(to)].push(Event::Openings(vec![*opening]));
            } else {
                // Whoever asks or answers it takes this node for its owner, and hears of that one.
                misplaced.insert(to);
            }
        }
        Ok(())
    }

    fn requests(&self, requests: Vec<Request>) -> Result<(), Violation> {
        let mut near = Admitted::by(&self.front);
        for Request { slot, shard, hops, way, envelope } in requests {
            self.check(shard)?;
            let view = envelope.view();
            if let Err(refusal) = self.check_message(&envelope, &view) {
                self.outbound.answer(slot, Outcome::Refused(refusal));
                continue;
            }
            let hash = self.hash(shard, &view)?;
            let to = self.to(slot);
            let from = match way {
                Way::Ask(id, acknowledged) => {
                    Provenance::Request { id, acknowledged, listener: Listener { to, wants_reply: true } }
                }
                Way::Send(id, acknowledged) => {
                    Provenance::Request { id, acknowledged, listener: Listener { to, wants_reply: false } }
                }
                Way::Query => Provenance::Query(to),
            };
            let arrival = Arrival { shard, hash, envelope, from };
            if let Err(refusal) = near.admit(arrival, hops) {
                let outcome = match refusal {
                    // The other end may know better, and waits a little before it asks again.
                    Refusal::Unavailable | Refusal::Stopping => Outcome::Elsewhere,
                    refusal => Outcome::Refused(refusal),
                };
                self.outbound.answer(slot, outcome);
            }
        }
        near.hand();
        self.outbound.flush();
        Ok(())
    }

    fn replies(&self, answers: Vec<Answer>) {
        self.front.ports.reply(self.outbound.answered(answers));
    }

    fn open_feed(&self, slot: u64, name: &str) -> Result<(), Violation> {
        let mut feeds = self.feeds();
        let feed = FeedId::of(name);
        match feeds.get(&slot) {
            // Said twice where the connection came up while the feed was opened.
            Some(open) if *open == feed => return Ok(()),
            Some(_) => return Err(Violation("two feeds under one number".into())),
            // It hears of that with its first message.
            None if FEEDS_MAX <= feeds.len() => return Ok(()),
            None => {}
        }
        feeds.insert(slot, feed);
        drop(feeds);
        let name: Arc<str> = name.into();
        for intake in &self.front.intakes {
            intake.push(Event::OpenFeed { feed, name: Arc::clone(&name), to: self.to(slot) });
        }
        Ok(())
    }

    fn has_open(&self, slot: u64, feed: FeedId) -> bool {
        self.feeds().get(&slot) == Some(&feed)
    }

    /// A feed's word has overtaken the word that opens it, or there are too many feeds.
    fn tell_not_open(&self, slot: u64, feed: FeedId, shards: impl IntoIterator<Item = ShardId>) {
        let is_full = FEEDS_MAX <= self.feeds().len();
        for shard in shards {
            let news =
                if is_full { FeedNews::Refused(Refusal::Busy(Bound::Clients)) } else { FeedNews::Lost };
            self.outbound.feed_answer(FeedAnswer { slot, feed, shard, news });
        }
        self.outbound.flush();
    }

    fn close_feed(&self, slot: u64, feed: FeedId) {
        for intake in &self.front.intakes {
            intake.push(Event::CloseFeed { feed, to: self.to(slot) });
        }
    }

    async fn feed_messages(
        &self,
        slot: u64,
        feed: FeedId,
        messages: Vec<FeedMessage>,
        misplaced: &mut BTreeSet<ShardId>,
    ) -> Result<(), Violation> {
        let mut arrivals = Vec::with_capacity(messages.len());
        for FeedMessage { shard, number, own, envelope } in messages {
            self.check(shard)?;
            let view = envelope.view();
            if let Err(refusal) = self.check_message(&envelope, &view) {
                let news = FeedNews::Refused(refusal);
                self.outbound.feed_answer(FeedAnswer { slot, feed, shard, news });
                self.outbound.flush();
                break;
            }
            let hash = self.hash(shard, &view)?;
            if !self.front.links.is_here(shard) {
                misplaced.insert(shard);
                continue;
            }
            let from = Provenance::Feed { feed, number, own, to: self.to(slot) };
            arrivals.push(Arrival { shard, hash, envelope, from });
        }
        self.hand(arrivals).await;
        Ok(())
    }

    fn feed_receipts(&self, answers: Vec<FeedAnswer>) {
        let receipts = answers.into_iter().filter_map(|FeedAnswer { slot, feed, shard, news }| {
            let to = ReplyTo { connection: u32::try_from(slot).ok()?, slot: 0 };
            Some(FeedReceipt { to, feed, shard, news })
        });
        self.front.ports.feed(receipts.collect());
    }
}

impl Port for Remote {
    fn reply(&self, outcomes: &mut dyn Iterator<Item = (u64, Outcome)>) {
        self.outbound.answers(outcomes.map(|(slot, outcome)| Answer { slot, outcome }));
        self.outbound.flush();
    }

    fn feed(&self, receipts: &mut dyn Iterator<Item = FeedReceipt>) {
        for FeedReceipt { to, feed, shard, news } in receipts {
            self.outbound.feed_answer(FeedAnswer { slot: to.slot, feed, shard, news });
        }
        self.outbound.flush();
    }

    fn tick(&self) {}

    // Whoever ends the node ends its connections, and the other ends see that.
    fn fail(&self, _: &str) {}
}

#[cfg(test)]
mod tests;
