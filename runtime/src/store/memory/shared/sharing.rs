//! Who lives, who owns what, and what is taken.

use std::time::Duration;

use super::{SharedMemory, is_away};
use crate::placement::{Epoch, ShardId};
use crate::store::{
    Ledger, LedgerNode, LedgerShard, NodeSays, OwnedShard, ServerReport, SharedError, SharedStore,
    StoreReport, TAKES_MAX,
};

impl SharedStore for SharedMemory {
    fn incarnation(&self) -> u128 {
        self.incarnation
    }

    fn lease(&self) -> Duration {
        self.servers.state().lease
    }

    fn servers(&self) -> u32 {
        self.servers.state().servers.len() as u32
    }

    fn server_of(&self, shard: ShardId) -> u32 {
        self.servers.state().server_of(shard) as u32
    }

    fn report(&self) -> StoreReport {
        let server = |at: u32| ServerReport {
            name: format!("memory {at}"),
            version: Some("memory".into()),
            ..ServerReport::default()
        };
        StoreReport { servers: (0..self.servers()).map(server).collect(), lost_commits: 0 }
    }

    fn beat(&self, at: u32, says: &NodeSays) -> Result<Ledger, SharedError> {
        let mut state = self.servers.state();
        if state.away[at as usize] {
            return Err(SharedError::Later(is_away()));
        }
        self.register(&mut state, at as usize, says)?;
        let (now, lease) = (state.now, state.lease);
        let server = &mut state.servers[at as usize];
        let mine = server.nodes.get_mut(&self.name).expect("just registered");
        mine.says = says.clone();
        mine.renew(now, lease);
        let nodes = server.nodes.iter().map(|(name, node)| LedgerNode {
            name: name.clone(),
            store: node.store,
            incarnation: node.incarnation,
            says: node.says.clone(),
            lives: node.lives(now),
            steady: if node.lives(now) { now.saturating_sub(node.lease_since) } else { Duration::ZERO },
        });
        let shards = server.shards.iter().map(|(shard, row)| LedgerShard {
            shard: *shard,
            epoch: row.epoch,
            owner: row.owner,
        });
        let generation = server.generation;
        Ok(Ledger { server: at, generation, nodes: nodes.collect(), shards: shards.collect() })
    }

    fn take(&self, at: u32, shards: &[(ShardId, Epoch)]) -> Result<Vec<OwnedShard>, SharedError> {
        assert!(shards.len() <= TAKES_MAX, "a take asks for no more than may be asked for");
        let mut state = self.servers.state();
        if state.away[at as usize] {
            return Err(SharedError::Later(is_away()));
        }
        let now = state.now;
        let server = &mut state.servers[at as usize];
        match server.nodes.get(&self.name) {
            Some(mine) if mine.incarnation == self.incarnation => {}
            Some(other) if self.boot <= other.boot => return Err(SharedError::Replaced),
            // It takes nothing before its first beat.
            _ => return Ok(Vec::new()),
        }
        let mut taken = Vec::new();
        for (shard, epoch) in shards {
            let row = server.shards.get(shard).copied().filter(|row| row.epoch == *epoch);
            let Some(mut row) = row.filter(|row| !server.has_lease(row.owner, now)) else { continue };
            row.pass_to(Some(self.incarnation));
            server.shards.insert(*shard, row);
            taken.push(OwnedShard { shard: *shard, epoch: row.epoch, number: 0 });
        }
        Ok(taken)
    }
}
