//! What a ledger changes.

use super::{
    Owner, Seen, Server, Sharing, SharingAction,
    giving::Phase::{Offered, Sealing, Unsure},
};
use crate::{
    placement::{Epoch, NodeName, ShardId, Shards, Table},
    router::Heard,
    store::{Ledger, LedgerNode, LedgerShard, Presence},
    timestamp::Timestamp,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

impl Sharing {
    /// A server has told what it knows.
    pub(super) fn read(&mut self, ledger: Ledger, took: Duration, now: Timestamp) {
        let Ledger { server, generation, nodes, shards } = ledger;
        if self.servers.len() <= server as usize {
            // Of servers only those are known that shards lie on, and this one has none.
            return;
        }
        if self.servers[server as usize].generation < generation {
            self.forget_generation(server);
        }
        let lease = self.config.lease;
        let here = self.config.incarnation;
        let of = &mut self.servers[server as usize];
        if generation < of.generation {
            return;
        }
        of.generation = generation;
        let own = nodes.iter().find(|node| node.incarnation == here);
        // Of one that has just come, or has stood still, or whose server has, the leases of others mean nothing yet.
        let waits =
            if lease / 2 < took { lease } else { lease.saturating_sub(own.map_or(lease, |own| own.steady)) };
        of.suspended_until = of.suspended_until.max(now + waits);
        of.name(table(&nodes, self.config.shards, lease), now);
        let names: BTreeMap<u128, (NodeName, bool)> =
            nodes.iter().map(|node| (node.incarnation, (node.name.clone(), node.lives))).collect();
        of.nodes = nodes;
        for row in shards {
            // Shards of other servers are none of this one's business, whatever stands in its rows.
            if self.config.server_of.get(row.shard.0 as usize) == Some(&server) {
                let owner = row.owner.and_then(|owner| names.get(&owner));
                self.read_row(&row, owner, now);
            }
        }
        self.take(server, now);
    }

    fn read_row(&mut self, row: &LedgerShard, owner: Option<&(NodeName, bool)>, now: Timestamp) {
        let LedgerShard { shard, epoch, .. } = *row;
        self.doubt(shard, epoch);
        let before = self.seen[shard.0 as usize];
        if epoch < before.epoch {
            return;
        }
        let run = row.owner.map_or(Owner::Nobody, Owner::Run);
        let is_mine = run == Owner::Run(self.config.incarnation);
        let is_known = before.epoch == epoch && before.owner == run;
        let is_orphan = !is_mine && owner.is_none_or(|(_, lives)| !lives);
        let orphan_since = is_orphan.then(|| before.orphan_since.filter(|_| is_known).unwrap_or(now));
        self.seen[shard.0 as usize] = Seen { epoch, owner: run, orphan_since };
        let is_routed_anew = owner.is_some_and(|(name, _)| self.route_by_row(shard, epoch, name));
        match self.seal_of(shard) {
            // The kernel tells what became of it.
            Some(Sealing) => return,
            // It has told that it does not know, and this does. Whatever it hosts of the lane it reads again, so it finds out too.
            Some(Unsure) => self.settle_give(shard, is_mine, now),
            Some(Offered) | None => {}
        }
        match self.here.get(&shard) {
            // Messages for it went to whom an epoch named that is lost.
            Some(ours) if is_mine && *ours == epoch && is_routed_anew => {
                self.actions.push(SharingAction::Host { shard, was_taken: false });
            }
            Some(ours) if is_mine && *ours == epoch => {}
            None if !is_mine => {}
            None => self.host(shard, epoch, now, was_of_the_dead(&before), now),
            Some(_) => {
                self.let_go(shard, now);
                self.actions.push(SharingAction::Lose(shard));
                if is_mine {
                    // Another had it in between. Should the kernel find that out behind this, it says that it is lost.
                    self.host(shard, epoch, now, false, now);
                }
            }
        }
    }

    /// The row names the owner, whoever else was named under its epoch by a server that is gone. Whether messages went elsewhere until
    /// now, or nowhere.
    fn route_by_row(&mut self, shard: ShardId, epoch: Epoch, owner: &NodeName) -> bool {
        if self.routes.judge(shard, epoch, owner) == Heard::Conflict {
            self.routes.forget_shard(shard);
        }
        let is_new = self.routes.judge(shard, epoch, owner) == Heard::Newer;
        self.learn(shard, epoch, owner);
        is_new
    }

    /// Compares what is known of a shard with its row, and forgets it where that refutes it.
    fn doubt(&mut self, shard: ShardId, row: Epoch) {
        let at = shard.0 as usize;
        let route = self.routes.get(shard).map_or(Epoch(0), |(epoch, _)| epoch);
        let known = self.seen[at].epoch.max(route);
        let doubt = &mut self.doubts[at];
        let is_refuted = row < known && doubt.once == Some(known);
        if is_refuted {
            doubt.refuted = doubt.refuted.max(Some(known));
            self.seen[at] = Seen::NOTHING;
            self.routes.forget_shard(shard);
        }
        doubt.once = (row < known && !is_refuted).then_some(known);
        doubt.refuted = doubt.refuted.filter(|refuted| row < *refuted);
    }

    /// Whether an epoch that is told of was found to be of a server that is gone.
    pub(super) fn is_refuted(&self, shard: ShardId, epoch: Epoch) -> bool {
        let at = shard.0 as usize;
        let refuted = self.doubts.get(at).and_then(|doubt| doubt.refuted);
        refuted.is_some_and(|refuted| self.seen[at].epoch < epoch && epoch <= refuted)
    }

    /// The server is another one, or has gone back: what was known of its shards is not to stand against what it says now.
    fn forget_generation(&mut self, server: u32) {
        for shard in
            self.config.shards.iter().filter(|shard| self.config.server_of[shard.0 as usize] == server)
        {
            self.seen[shard.0 as usize] = Seen::NOTHING;
            self.routes.forget_shard(shard);
        }
    }
}

/// Whether the last owner was found dead, and did not let the shard go.
pub(super) fn was_of_the_dead(before: &Seen) -> bool {
    before.orphan_since.is_some() && matches!(before.owner, Owner::Run(_))
}

impl Server {
    /// Another table, if it is one.
    fn name(&mut self, table: Option<Table>, now: Timestamp) {
        let digest = |table: &Table| table.digest();
        if table.as_ref().map(digest) != self.table.as_deref().map(digest) {
            self.table = table.map(Arc::new);
            self.rebalance.table(self.table.clone(), now);
        }
    }

    /// The other node, or this one, that the table names for a shard.
    pub(super) fn named(&self, shard: ShardId) -> Option<&NodeName> {
        self.table.as_deref().map(|table| table.owner(shard))
    }
}

/// The table over the nodes that live and take shards. One that has just come counts once its leases have followed each other for a
/// while, for it may go again at once; where all have just come, they all count.
fn table(nodes: &[LedgerNode], shards: Shards, lease: Duration) -> Option<Table> {
    let takes = |node: &&LedgerNode| node.lives && node.says.presence == Presence::Up;
    let is_steady = |node: &&LedgerNode| lease <= node.steady;
    let weighed = |node: &LedgerNode| (node.name.clone(), node.says.weight);
    let steady: BTreeMap<_, _> = nodes.iter().filter(takes).filter(is_steady).map(weighed).collect();
    if !steady.is_empty() {
        return Table::new(&steady, shards);
    }
    Table::new(&nodes.iter().filter(takes).map(weighed).collect(), shards)
}
