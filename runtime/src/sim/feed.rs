//! Simulated feeds: each numbers its rows per shard and sends again what is not known to be durable (P10).

use super::{Due, Sim, client::FEEDS_FROM, network::Place};
use crate::{
    activation::ReplyTo,
    error::Refusal,
    feeds::{FeedId, FeedIdentity, FeedQuestion},
    kernel::{Arrival, Event, FeedNews, FeedReceipt, Provenance},
    message::Envelope,
    placement::ShardId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// One of a simulation's feeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedTicket(pub(super) usize);

/// How a feed stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedState {
    /// Rows are not durable yet.
    Running,
    /// Every row is durable.
    Done,
    /// Another input was sent under its name before.
    Collided,
}

pub(super) struct SimFeed {
    id: FeedId,
    name: Arc<str>,
    to: ReplyTo,
    shards: BTreeMap<ShardId, Lines>,
    pub(super) state: FeedState,
    identity: FeedIdentity,
    /// It has its name; no row leaves before.
    has_name: bool,
    /// Shards that have not said yet where it goes on.
    asking: BTreeSet<ShardId>,
    /// When it asks again.
    asked: u64,
    /// Rises with every progress; a pump planned before looks whether it was in vain.
    restarts: u32,
}

/// The rows for one shard, numbered from 1.
#[derive(Default)]
struct Lines {
    rows: Vec<(u64, u64, Envelope)>,
    durable: u64,
    sent: u64,
    /// The highest number it was ever told to be durable, also before its process started again.
    told: u64,
    /// When something was last heard.
    heard: u64,
}

/// Rows a feed has on its way to one shard at a time.
const WINDOW: u64 = 16;
/// A feed that hears nothing for so long sends again.
const PATIENCE: u64 = 400_000;

impl SimFeed {
    /// What was sent and is not known to be durable is sent again.
    fn begin_again(&mut self) {
        for lines in self.shards.values_mut() {
            lines.sent = lines.durable;
        }
    }
}

impl Sim {
    /// Feeds rows, each with its own number, which must rise.
    pub(super) fn begin_feed(&mut self, name: &str, rows: Vec<(u64, Envelope)>) -> FeedTicket {
        let ticket = FeedTicket(self.feeds.len());
        let first = rows.first().map_or((0, &[][..]), |(own, envelope)| (*own, &envelope.bytes()[..]));
        let identity = FeedIdentity::of(first.0, first.1);
        let mut shards: BTreeMap<ShardId, Lines> = BTreeMap::new();
        for (own, envelope) in rows {
            let view = envelope.view();
            let hash = crate::placement::hash(view.kind, view.key);
            shards.entry(self.layout.place(hash)).or_default().rows.push((own, hash, envelope));
        }
        let to = ReplyTo { connection: FEEDS_FROM + ticket.0 as u32, slot: 0 };
        let state = if shards.is_empty() { FeedState::Done } else { FeedState::Running };
        let (id, name) = (FeedId::of(name), name.into());
        let asked = 0;
        let feed = SimFeed {
            id,
            name,
            to,
            shards,
            state,
            identity,
            has_name: false,
            asking: BTreeSet::new(),
            asked,
            restarts: 0,
        };
        self.feeds.push(feed);
        self.open_feed_everywhere(ticket);
        self.plan(0, Due::Pump { feed: ticket });
        ticket
    }

    /// Opens a feed with one node.
    fn open_feed(&mut self, at: usize, ticket: FeedTicket) {
        let feed = &self.feeds[ticket.0];
        let (id, name, to) = (feed.id, Arc::clone(&feed.name), feed.to);
        for worker in 0..self.workers {
            let name = Arc::clone(&name);
            self.deliver(at, worker, Event::OpenFeed { feed: id, name, to });
        }
    }

    fn open_feed_everywhere(&mut self, ticket: FeedTicket) {
        for at in 0..self.machines.len() {
            self.open_feed(at, ticket);
        }
    }

    /// The node a feed sends to for a shard: the owner, by what some node that answers has heard.
    fn feeds_to(&mut self, shard: ShardId) -> Option<usize> {
        let at = self.random.below(self.machines.len() as u64) as usize;
        let to = match self.place(at, shard) {
            Place::Here => at,
            Place::There(to) => to,
            Place::Nowhere => return None,
        };
        (self.machines[at].answers() && self.machines[to].answers()).then_some(to)
    }

    /// Asks where the feed goes on, or for its name, where it was not asked before or for long without an answer.
    fn ask_shards(&mut self, ticket: FeedTicket) {
        let now = self.now;
        let feed = &mut self.feeds[ticket.0];
        if now < feed.asked {
            return;
        }
        feed.asked = now + PATIENCE;
        let (id, to) = (feed.id, feed.to);
        let (question, shards) = if feed.asking.is_empty() {
            (FeedQuestion::Claim(feed.identity), vec![self.layout.place(id.hash())])
        } else {
            (FeedQuestion::Resume, feed.asking.iter().copied().collect())
        };
        for shard in shards {
            if let Some(at) = self.feeds_to(shard) {
                self.step_worker(at, self.worker_of(shard), Event::AskFeed { feed: id, shard, question, to });
            }
        }
    }

    /// The process that feeds starts again. It knows nothing of what was durable, and sends its input from the start or asks
    /// the shards.
    fn restart_feed(&mut self, ticket: FeedTicket) {
        self.close_feed(ticket.0);
        let resumes = self.random.chance(500);
        let feed = &mut self.feeds[ticket.0];
        feed.restarts += 1;
        self.seen.feeds_restarted += 1;
        // Only the right input has its name; another one would go on where the right one stopped.
        if feed.has_name && resumes {
            feed.asking = self.layout.iter().collect();
        }
        (feed.has_name, feed.asked) = (false, 0);
        for lines in feed.shards.values_mut() {
            (lines.durable, lines.sent) = (0, 0);
        }
        self.open_feed_everywhere(ticket);
    }

    /// A node that starts knows no feed.
    pub(super) fn reopen_feeds(&mut self, at: usize) {
        for feed in 0..self.feeds.len() {
            if self.feeds[feed].state == FeedState::Running {
                self.feeds[feed].begin_again();
                self.open_feed(at, FeedTicket(feed));
            }
        }
    }

    /// Sends what the window allows.
    pub(super) fn pump(&mut self, ticket: FeedTicket) {
        if self.feeds[ticket.0].state != FeedState::Running {
            return;
        }
        let restarts = !self.healed && self.random.chance(10);
        if restarts && self.feeds[ticket.0].restarts < 3 {
            self.restart_feed(ticket);
        }
        if !self.feeds[ticket.0].has_name || !self.feeds[ticket.0].asking.is_empty() {
            self.ask_shards(ticket);
            let pause = self.random.between(5_000, 50_000);
            self.plan(pause, Due::Pump { feed: ticket });
            return;
        }
        let owners: Vec<_> = self.layout.iter().map(|shard| self.feeds_to(shard)).collect();
        let feed = &mut self.feeds[ticket.0];
        let mut arrivals = Vec::new();
        let (id, to) = (feed.id, feed.to);
        // Another shard first each time, for the first may take all the room.
        let turn = ShardId(self.random.below(u64::from(self.layout.count())) as u32);
        let (late, early): (Vec<_>, Vec<_>) = feed.shards.iter_mut().partition(|(shard, _)| **shard < turn);
        for (&shard, lines) in early.into_iter().chain(late) {
            let Some(to_node) = owners[shard.0 as usize] else { continue };
            if lines.durable < lines.sent && lines.heard + PATIENCE <= self.now {
                lines.sent = lines.durable;
                lines.heard = self.now;
            }
            while lines.sent < lines.rows.len() as u64 && lines.sent < lines.durable + WINDOW {
                let (own, hash, envelope) = &lines.rows[lines.sent as usize];
                lines.sent += 1;
                let from = Provenance::Feed { feed: id, number: lines.sent, own: *own, to };
                let arrival = Arrival { shard, hash: *hash, envelope: envelope.clone(), from };
                arrivals.push((to_node, arrival));
            }
        }
        // One connection: what it carries arrives in order, or is cut off; then it goes on from what is durable.
        let cut_at = if self.healed || !self.random.chance(50) { u64::MAX } else { self.random.below(8) };
        let mut is_cut = false;
        for (at, (node, arrival)) in (0..).zip(arrivals) {
            let (shard, from) = (arrival.shard, arrival.from.clone());
            is_cut = is_cut || at == cut_at || !self.arrive(node, 0, arrival);
            if let Provenance::Feed { number, .. } = from
                && is_cut
            {
                let lines = self.feeds[ticket.0].shards.get_mut(&shard).expect("it has rows");
                lines.sent = lines.sent.min(number - 1);
            }
        }
        let pause = self.random.between(5_000, 50_000);
        self.plan(pause, Due::Pump { feed: ticket });
    }

    pub(super) fn feed_receipt(&mut self, receipt: &FeedReceipt) {
        let at = (receipt.to.connection - FEEDS_FROM) as usize;
        self.trace.note(self.now, format_args!("feed {at} is told {receipt:?}"));
        let now = self.now;
        let home = self.layout.place(self.feeds[at].id.hash());
        let has_lost = self.has_lost_commits();
        let feed = &mut self.feeds[at];
        let lines = feed.shards.entry(receipt.shard).or_default();
        match receipt.news {
            FeedNews::Durable { through } => {
                // Another feed of this name may have fed more. What this one has not sent it cannot skip: whether its
                // input is the same is judged by its first row.
                let through = through.min(lines.sent);
                if lines.durable < through {
                    lines.durable = through;
                    lines.heard = now;
                }
                lines.told = lines.told.max(through);
            }
            FeedNews::SendFrom(number) => {
                self.seen.feeds_sent_back += 1;
                lines.sent = lines.sent.min(number - 1).max(lines.durable);
            }
            FeedNews::Lost => {
                self.seen.feeds_lost += 1;
                lines.sent = lines.durable;
                if receipt.shard == home || feed.asking.contains(&receipt.shard) {
                    feed.asked = 0;
                }
            }
            FeedNews::Claimed => feed.has_name = true,
            FeedNews::Resumed { floor, own, claimed } => {
                if !feed.asking.remove(&receipt.shard) {
                    return;
                }
                feed.has_name |= claimed;
                let is_known =
                    floor == 0 || lines.rows.get(floor as usize - 1).is_some_and(|(known, ..)| *known == own);
                if (floor < lines.told || !is_known) && !has_lost {
                    let text = format!("feed {at} was told {floor} and {own} in {}", receipt.shard);
                    self.fail(&text);
                }
                (lines.durable, lines.sent, lines.told) = (floor, floor, floor);
                self.seen.feeds_resumed += 1;
            }
            // Another feed of the name goes on as well: this one sends its input from the start.
            FeedNews::Refused(Refusal::FeedOpen(_)) => feed.asking.clear(),
            FeedNews::ClaimedBy(holder) => {
                if feed.state == FeedState::Running {
                    feed.state = FeedState::Collided;
                    let is_own = holder == feed.identity;
                    self.seen.feeds_refused_name += 1;
                    self.close_feed(at);
                    if is_own {
                        self.fail(&format!("feed {at} was refused its own name"));
                    }
                }
                return;
            }
            FeedNews::Collision { .. } => {
                if feed.state == FeedState::Running {
                    self.seen.feeds_collided += 1;
                    feed.state = FeedState::Collided;
                }
                return;
            }
            FeedNews::Refused(ref refusal) => {
                let text = format!("feed {at} was refused: {refusal}");
                self.fail(&text);
            }
        }
        let done = feed.shards.values().all(|lines| lines.durable == lines.rows.len() as u64);
        if done && feed.state == FeedState::Running {
            feed.state = FeedState::Done;
            self.close_feed(at);
        }
    }

    fn close_feed(&mut self, feed: usize) {
        let (feed, to) = (self.feeds[feed].id, self.feeds[feed].to);
        for at in 0..self.machines.len() {
            for worker in 0..self.workers {
                self.deliver(at, worker, Event::CloseFeed { feed, to });
            }
        }
    }
}
