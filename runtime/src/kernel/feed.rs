//! Those who feed under a name, and what each of them may be told.

use super::{FeedNews, FeedReceipt, Kernel, Output};
use crate::{activation::ReplyTo, feeds::FeedId, placement::ShardId};
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
    /// By shard: whether a message of its own was judged there and agrees with what is known of the feed. Until then it
    /// is told of nothing that is durable there, for those may be another input's rows and not the ones it has sent.
    agreed: Vec<bool>,
}

impl Feeder {
    pub(super) fn agrees(&self, shard: ShardId) -> bool {
        self.agreed[shard.0 as usize]
    }
}

impl OpenFeed {
    pub(super) fn feeder(&self, to: ReplyTo) -> Option<&Feeder> {
        self.listeners.iter().find(|feeder| feeder.to == to)
    }
}

impl Kernel {
    pub(super) fn open_feed(&mut self, feed: FeedId, name: Arc<str>, to: ReplyTo) {
        let agreed = vec![false; self.layout.count() as usize];
        let open = self.open_feeds.entry(feed).or_insert_with(|| OpenFeed { name, listeners: Vec::new() });
        open.listeners.push(Feeder { to, agreed });
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
    pub(super) fn agree(&mut self, feed: FeedId, to: ReplyTo, shard: ShardId) {
        let open = self.open_feeds.get_mut(&feed).expect("judged only while it is open");
        let feeder = open.listeners.iter_mut().find(|feeder| feeder.to == to);
        feeder.expect("judged only while it listens").agreed[shard.0 as usize] = true;
    }

    /// The shard's memory is lost, and what was judged in it with it: each feeder sends again and is judged anew.
    pub(super) fn lose_feed(&mut self, feed: FeedId, shard: ShardId) {
        let Some(open) = self.open_feeds.get_mut(&feed) else { return };
        for feeder in &mut open.listeners {
            feeder.agreed[shard.0 as usize] = false;
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
}
