//! Shards that nobody has, and shards of the dead.

use super::{Owner, Sharing, SharingAction, ledger::was_of_the_dead};
use crate::{
    placement::{Epoch, ShardId},
    store::{OwnedShard, TAKES_MAX},
    timestamp::Timestamp,
};

/// Between the two ledgers in which an owner must be dead: so many parts of a lease. Ledgers come about so often.
const SEEN_AGAIN_AFTER: u32 = 8;

impl Sharing {
    /// Asks for what is this node's to take.
    pub(super) fn take(&mut self, server: u32, now: Timestamp) {
        if self.leaving || self.servers[server as usize].is_taking {
            return;
        }
        let of_server = |shard: &ShardId| self.config.server_of[shard.0 as usize] == server;
        let wanted = self.config.shards.iter().filter(of_server).filter(|shard| self.may_take(*shard, now));
        let shards: Vec<(ShardId, Epoch)> =
            wanted.map(|shard| (shard, self.seen[shard.0 as usize].epoch)).take(TAKES_MAX).collect();
        if !shards.is_empty() {
            self.servers[server as usize].is_taking = true;
            self.actions.push(SharingAction::Take { server, shards });
        }
    }

    fn may_take(&self, shard: ShardId, now: Timestamp) -> bool {
        let seen = &self.seen[shard.0 as usize];
        let server = self.server(shard);
        let (Some(since), Some(named)) = (seen.orphan_since, server.named(shard)) else { return false };
        let is_named = *named == self.config.here;
        // It was let go on purpose, or never had an owner.
        if seen.owner == Owner::Nobody && is_named {
            return true;
        }
        let lease = self.config.lease;
        if now < server.suspended_until {
            return false;
        }
        if is_named {
            return since + lease / SEEN_AGAIN_AFTER <= now;
        }
        // Whom the table names does not take it, though it lives: others do, one after the other.
        self.rank(shard).is_some_and(|rank| since + 2 * lease + rank * (lease / 2) <= now)
    }

    /// This node's turn among those of the table, in an order of the shard's own; `None` for one that is not among them.
    fn rank(&self, shard: ShardId) -> Option<u32> {
        let members = self.server(shard).table.as_deref()?.members();
        let at = members.iter().position(|(name, _)| *name == self.config.here)?;
        let first = shard.0 as usize % members.len();
        u32::try_from((at + members.len() - first) % members.len()).ok()
    }

    /// The store has given these.
    pub(super) fn taken(&mut self, server: u32, shards: &[OwnedShard], now: Timestamp) {
        self.not_taken(server);
        for &OwnedShard { shard, epoch, .. } in shards {
            if self.config.server_of.get(shard.0 as usize) != Some(&server) {
                self.alarm(format!("server {server} says that it gave {shard}, which is not its own"));
                continue;
            }
            let before = self.seen[shard.0 as usize];
            // A ledger may have told it before.
            if before.epoch < epoch {
                let was_taken = was_of_the_dead(&before);
                let came_at = if was_taken { now } else { Timestamp::EPOCH };
                self.host(shard, epoch, came_at, was_taken, now);
            }
        }
        if !shards.is_empty() {
            self.take(server, now);
        }
    }

    /// The take is over. What is still without an owner shows in the next ledger.
    pub(super) fn not_taken(&mut self, server: u32) {
        if let Some(server) = self.servers.get_mut(server as usize) {
            server.is_taking = false;
        }
    }
}
