//! Those who feed under a name, and what each of them may be told.

use super::{FeedNews, FeedReceipt, Kernel, OPERATIONS_MAX, Operated, Operation, Outcome, Output};
use crate::{
    activation::ReplyTo,
    error::{Bound, Refusal},
    feeds::{Claim, DropStep, Feed, FeedId, FeedIdentity, FeedQuestion},
    placement::ShardId,
    requests::{Reply, ReplyClass},
    shard::{FEED_CLAIM, FEED_MARKS, FEED_NAME, ShardPhase},
    store::NoRoom,
};
use std::sync::Arc;

/// A feed that is open.
#[derive(Debug)]
pub(super) struct OpenFeed {
    pub(super) name: Arc<str>,
    pub(super) listeners: Vec<Feeder>,
}

/// One of those who have a feed open.
#[derive(Debug)]
pub(super) struct Feeder {
    pub(super) to: ReplyTo,
    /// By shard: up to which number messages of its own were judged there and agree with what is known of the feed. It is
    /// told of nothing beyond that is durable there, for that may be another input's rows and not the ones it has sent.
    judged: Vec<u64>,
}

impl Feeder {
    pub(super) fn judged(&self, shard: ShardId) -> u64 {
        self.judged[shard.0 as usize]
    }
}

impl OpenFeed {
    pub(super) fn feeder(&self, to: ReplyTo) -> Option<&Feeder> {
        self.listeners.iter().find(|feeder| feeder.to == to)
    }
}

impl Kernel {
    pub(super) fn open_feed(&mut self, feed: FeedId, name: Arc<str>, to: ReplyTo) {
        let judged = vec![0; self.layout.count() as usize];
        let open = self.open_feeds.entry(feed).or_insert_with(|| OpenFeed { name, listeners: Vec::new() });
        open.listeners.push(Feeder { to, judged });
    }

    pub(super) fn close_feed(&mut self, feed: FeedId, to: ReplyTo) {
        if let Some(open) = self.open_feeds.get_mut(&feed) {
            open.listeners.retain(|feeder| feeder.to != to);
            if open.listeners.is_empty() {
                self.open_feeds.remove(&feed);
            }
        }
    }

    /// A message of this feeder was judged, and it is the input that is known.
    pub(super) fn agree(&mut self, feed: FeedId, to: ReplyTo, shard: ShardId, number: u64) {
        let open = self.open_feeds.get_mut(&feed).expect("judged only while it is open");
        let feeder = open.listeners.iter_mut().find(|feeder| feeder.to == to);
        let judged = &mut feeder.expect("judged only while it listens").judged[shard.0 as usize];
        *judged = number.max(*judged);
    }

    /// The shard's memory is lost, and what was judged in it with it: each feeder sends again and is judged anew.
    pub(super) fn lose_feed(&mut self, feed: FeedId, shard: ShardId) {
        let Some(open) = self.open_feeds.get_mut(&feed) else { return };
        for feeder in &mut open.listeners {
            feeder.judged[shard.0 as usize] = 0;
            let receipt = FeedReceipt { to: feeder.to, feed, shard, news: FeedNews::Lost };
            self.actions.push(super::Action::Put(Output::FeedReceipt(receipt)));
        }
    }

    /// Tells one of those who feed under a name, where the news is of what it has sent.
    pub(super) fn tell_feeder(&mut self, to: ReplyTo, feed: FeedId, shard: ShardId, news: FeedNews) {
        if self.has_feed_open(feed, to) {
            self.put_now(Output::FeedReceipt(FeedReceipt { to, feed, shard, news }));
        }
    }

    /// Whether somebody still feeds there.
    pub(super) fn has_feed_open(&self, feed: FeedId, to: ReplyTo) -> bool {
        self.open_feeds.get(&feed).is_some_and(|open| open.feeder(to).is_some())
    }

    /// Takes a feed's question; a run answers it, with room for what the answer writes.
    pub(super) fn feed_asks(&mut self, feed: FeedId, shard: ShardId, question: FeedQuestion, to: ReplyTo) {
        match self.shard(shard).map(|shard| (shard.phase, shard.lane)) {
            None | Some((ShardPhase::Loading, _)) => self.tell_feeder(to, feed, shard, FeedNews::Lost),
            Some((ShardPhase::Serving, lane)) => {
                let operations = &mut self.lanes[lane].operations;
                // It asks again and again while a lane does not answer; one question is enough.
                let is_same = |asked: &Operation| {
                    asked.shard == shard
                        && asked.to == to
                        && matches!(asked.what, Operated::Feed { feed: other, .. } if other == feed)
                };
                if operations.len() < OPERATIONS_MAX && !operations.iter().any(is_same) {
                    let what = Operated::Feed { feed, question };
                    operations.push_back(Operation { shard, what, to });
                }
            }
        }
    }

    /// Answers a feed's question. The answer leaves with the batch being built: what it says is durable then.
    pub(super) fn answer_feed(
        &mut self,
        id: ShardId,
        feed: FeedId,
        question: FeedQuestion,
        to: ReplyTo,
        room: Result<(), NoRoom>,
    ) {
        if !self.has_feed_open(feed, to) {
            return;
        }
        let shard = self.host(id);
        if shard.phase == ShardPhase::Loading {
            // Its lane was voided meanwhile.
            self.tell_feeder(to, feed, id, FeedNews::Lost);
            return;
        }
        let lane = shard.lane;
        let news = match question {
            FeedQuestion::Claim(identity) => self.claim(id, feed, identity, room),
            FeedQuestion::Resume => self.resume(id, feed, to),
        };
        match news {
            // It has left no mark, so there is nothing to wait for; and asked again when there may be room.
            FeedNews::Lost | FeedNews::Refused(_) => self.tell_feeder(to, feed, id, news),
            // What an owner of before says of its marks would let the feed go on from where it was.
            news => {
                self.put_shown(lane, id, Output::FeedReceipt(FeedReceipt { to, feed, shard: id, news }));
            }
        }
    }

    fn claim(
        &mut self,
        id: ShardId,
        feed: FeedId,
        identity: FeedIdentity,
        room: Result<(), NoRoom>,
    ) -> FeedNews {
        let clients_max = self.limits.clients_max;
        let claims = &self.host(id).claims;
        match claims.get(&feed) {
            Some(Claim::Held(held)) if *held == identity => return FeedNews::Claimed,
            Some(Claim::Held(held)) => return FeedNews::ClaimedBy(*held),
            Some(Claim::Dropping) => return FeedNews::Refused(self.is_dropping(feed)),
            None if clients_max <= claims.len() => return FeedNews::Refused(Refusal::Busy(Bound::Clients)),
            None if room.is_err() => return FeedNews::Lost,
            None => {}
        }
        let name = Arc::clone(&self.open_feeds[&feed].name);
        let shard = self.touch(id);
        shard.name_feed(feed, &name);
        shard.claim_feed(feed, Claim::Held(identity));
        self.measure(id);
        FeedNews::Claimed
    }

    fn resume(&mut self, id: ShardId, feed: FeedId, to: ReplyTo) -> FeedNews {
        let open = &self.open_feeds[&feed];
        // Two that go on from the same place would give the same numbers to different messages.
        if open.listeners.first().is_some_and(|first| first.to != to) {
            return FeedNews::Refused(Refusal::FeedOpen(open.name.to_string()));
        }
        if self.host(id).claims.get(&feed) == Some(&Claim::Dropping) {
            return FeedNews::Refused(self.is_dropping(feed));
        }
        let shard = self.host(id);
        let claimed = shard.claims.contains_key(&feed);
        let (floor, own) = shard.feeds.get(&feed).map_or((0, 0), |feed| (feed.floor(), feed.own_at_floor()));
        self.agree(feed, to, id, floor);
        FeedNews::Resumed { floor, own, claimed }
    }

    fn is_dropping(&self, feed: FeedId) -> Refusal {
        Refusal::FeedDropping(self.open_feeds[&feed].name.to_string())
    }

    /// An operator drops a feed, in steps. A feed that is open may send at any time, and a message of it in memory will set
    /// its mark; so neither may be there. Once its name is being dropped nobody can begin to send.
    pub(super) fn drop_feed(&mut self, lane: usize, id: ShardId, name: &str, step: DropStep, to: ReplyTo) {
        let feed = FeedId::of(name);
        let is_open = self.open_feeds.contains_key(&feed);
        let shard = self.host(id);
        let claim = shard.claims.get(&feed).copied();
        let refusal = match step {
            DropStep::Begin if claim.is_none() => Some(Refusal::NoFeed(name.to_owned())),
            DropStep::Begin if is_open => Some(Refusal::FeedOpen(name.to_owned())),
            DropStep::Marks if is_open || shard.feeds.get(&feed).is_some_and(Feed::is_busy) => {
                Some(Refusal::FeedOpen(name.to_owned()))
            }
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.put_now(Output::Reply(to, Outcome::Refused(refusal)));
            return;
        }
        match step {
            DropStep::Begin => self.touch(id).claim_feed(feed, Claim::Dropping),
            DropStep::Marks if shard.feeds.contains_key(&feed) => {
                let shard = self.touch(id);
                shard.forget_feed(feed, FEED_MARKS);
                // For as long as the claim is there, an operator finds the feed by its name.
                if claim.is_none() {
                    shard.forget_feed(feed, FEED_NAME);
                }
            }
            DropStep::End if claim == Some(Claim::Dropping) => {
                let shard = self.touch(id);
                shard.forget_feed(feed, FEED_CLAIM);
                shard.forget_feed(feed, FEED_NAME);
            }
            DropStep::Marks | DropStep::End => {}
        }
        self.measure(id);
        let reply = Reply { class: ReplyClass::Applied, body: bytes::Bytes::new() };
        self.put_shown(lane, id, Output::Reply(to, Outcome::Done(reply)));
    }
}
