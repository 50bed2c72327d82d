//! What a simulated node reads of its store, and the checkpoint that lets it read more.

use super::{Chore, Sim};
use crate::{
    kernel::{Event, ImageTicket},
    load,
    placement::{Epoch, ShardId},
    shard::{OutboxPart, OutboxTicket},
    store::{LaneId, LoadError, Store},
};
use std::sync::Arc;

/// Pause before a shard is tried again that the disk is too full to load, in microseconds.
const FULL_PAUSE: u64 = 20_000;

fn has_left(store: &dyn Store, shard: ShardId, epoch: Epoch) -> bool {
    load::has_left(store, shard, epoch).expect("an open store knows what it owns")
}

impl Sim {
    pub(super) fn load_shard(
        &mut self,
        at: usize,
        worker: usize,
        shard: ShardId,
        part: OutboxPart,
        resets: u64,
    ) {
        if let Some(pause) = self.stalled_shard(at, shard) {
            return self.chore(at, pause, Chore::LoadShard { worker, shard, part, resets });
        }
        let node = self.machines[at].node.as_mut().expect("checked by the caller");
        let store = Arc::clone(&node.store);
        let id = store.lane_of(shard);
        // Nothing is loaded before all that was committed can be found (P12). After a void that may be more than was
        // told: a group of unknown outcome was written, and then its repeat was fenced.
        let is_behind = store.loadable(id) < node.lanes[id.0 as usize].committed;
        if is_behind || 0 < resets {
            match store.make_loadable(id) {
                Ok(()) => {}
                Err(LoadError::Io(error)) if error.kind() == std::io::ErrorKind::StorageFull => {
                    self.chore(at, FULL_PAUSE, Chore::LoadShard { worker, shard, part, resets });
                    return;
                }
                Err(_) => {
                    self.kill(at, self.crash_cuts_power);
                    return;
                }
            }
        }
        self.tell_loadable(at);
        let loaded = store.owned_shard(shard).and_then(|owned| {
            let owned = owned.ok_or(LoadError::NotOwned(shard))?;
            Ok((owned, load::shard(&*store, shard, owned.epoch, part)?))
        });
        match loaded {
            Ok((owned, rows)) => {
                let pause = self.random.below(self.load_pause);
                let event = Event::ShardLoaded { resets, owned, rows };
                self.chore(at, pause, Chore::Worker { worker, event });
            }
            Err(LoadError::NotOwned(_)) if store.shared().is_some() => self.lost(at, worker, shard, resets),
            // Asked before it was sealed, and again since.
            Err(LoadError::NotOwned(_)) if has_left(&*store, shard, Epoch(0)) => {}
            Err(LoadError::Later(_)) => {
                self.seen.loads_later += 1;
                self.chore(at, FULL_PAUSE, Chore::LoadShard { worker, shard, part, resets });
            }
            Err(_) => self.kill(at, self.crash_cuts_power),
        }
    }

    pub(super) fn load_outbox(&mut self, at: usize, worker: usize, ticket: OutboxTicket) {
        if let Some(pause) = self.stalled_shard(at, ticket.source) {
            return self.chore(at, pause, Chore::LoadOutbox { worker, ticket });
        }
        let node = self.machines[at].node.as_mut().expect("checked by the caller");
        match load::outbox(&*node.store, &ticket) {
            Ok(envelopes) => {
                self.seen.outboxes_reloaded += 1;
                let pause = self.random.below(self.load_pause);
                let event = Event::OutboxLoaded(ticket, envelopes);
                self.chore(at, pause, Chore::Worker { worker, event });
            }
            Err(LoadError::NotOwned(shard)) if node.store.shared().is_some() => {
                self.lost(at, worker, shard, ticket.resets);
            }
            Err(LoadError::NotOwned(shard)) if has_left(&*node.store, shard, ticket.epoch) => {}
            Err(LoadError::NotOwned(shard)) => {
                // As with images. Whoever asked forgets the shard then, so nobody waits for this answer.
                let lane = node.store.lane_of(shard);
                if node.lanes[lane.0 as usize].is_idle() {
                    self.void_lane(at, lane);
                } else {
                    self.chore(at, 5_000, Chore::LoadOutbox { worker, ticket });
                }
            }
            Err(LoadError::Later(_)) => {
                self.seen.loads_later += 1;
                self.chore(at, FULL_PAUSE, Chore::LoadOutbox { worker, ticket });
            }
            Err(LoadError::Io(_)) => self.kill(at, self.crash_cuts_power),
        }
    }

    pub(super) fn load_images(&mut self, at: usize, worker: usize, mut tickets: Vec<ImageTicket>) {
        // Each server answers for itself.
        let others = self.of_another_server(at, &mut tickets);
        if !others.is_empty() {
            self.load_images(at, worker, others);
        }
        let first = tickets.first().map(|ticket| ticket.key.shard);
        if let Some(pause) = first.and_then(|shard| self.stalled_shard(at, shard)) {
            return self.chore(at, pause, Chore::LoadImages { worker, tickets });
        }
        if self.machines[at].node.is_none() {
            return;
        }
        let node = self.machines[at].node.as_mut().expect("checked by the caller");
        let store = Arc::clone(&node.store);
        let keys: Vec<_> = tickets.iter().map(|ticket| ticket.key.clone()).collect();
        match store.load_images(&keys) {
            Ok(images) => {
                self.seen.reloads += images.iter().flatten().count() as u64;
                let pause = self.random.below(self.load_pause);
                let event = Event::ImagesLoaded(tickets.into_iter().zip(images).collect());
                self.chore(at, pause, Chore::Worker { worker, event });
            }
            Err(LoadError::NotOwned(gone)) if store.shared().is_some() => {
                let (refused, others): (Vec<_>, Vec<_>) =
                    tickets.into_iter().partition(|ticket| ticket.key.shard == gone);
                self.lost(at, worker, gone, refused[0].resets);
                if !others.is_empty() {
                    self.load_images(at, worker, others);
                }
            }
            Err(LoadError::NotOwned(gone))
                if keys.iter().any(|key| key.shard == gone && has_left(&*store, gone, key.epoch)) =>
            {
                // The others wait for theirs.
                let mut others = tickets;
                others.retain(|ticket| ticket.key.shard != gone);
                if !others.is_empty() {
                    self.load_images(at, worker, others);
                }
            }
            Err(LoadError::NotOwned(shard)) => {
                // Its commits are fenced too. Where none is on its way, nothing else would tell the workers.
                let lane = node.store.lane_of(shard);
                if node.lanes[lane.0 as usize].is_idle() {
                    self.void_lane(at, lane);
                }
                self.retry_loads(at, worker, tickets);
            }
            Err(LoadError::Later(_)) => {
                self.seen.loads_later += 1;
                self.chore(at, FULL_PAUSE, Chore::LoadImages { worker, tickets });
            }
            Err(LoadError::Io(_)) => self.kill(at, self.crash_cuts_power),
        }
    }

    /// Takes out what does not lie where the first does.
    fn of_another_server(&self, at: usize, tickets: &mut Vec<ImageTicket>) -> Vec<ImageTicket> {
        let node = self.machines[at].node.as_ref().expect("checked by the caller");
        let (Some(shared), Some(first)) = (node.store.shared(), tickets.first()) else { return Vec::new() };
        let server = shared.server_of(first.key.shard);
        tickets.extract_if(.., |ticket| shared.server_of(ticket.key.shard) != server).collect()
    }

    /// A load was refused of a store that several nodes share: the kernel knows whether it waits for it.
    fn lost(&mut self, at: usize, worker: usize, shard: ShardId, resets: u64) {
        let pause = self.random.below(self.load_pause);
        self.chore(at, pause, Chore::Worker { worker, event: Event::Lost { shard, resets } });
    }

    /// Asks again for images of shards whose epoch is still the asker's.
    fn retry_loads(&mut self, at: usize, worker: usize, tickets: Vec<ImageTicket>) {
        let node = self.machines[at].node.as_ref().expect("checked by the caller");
        let Ok(owned) = node.store.owned() else { return };
        let (current, stale): (Vec<_>, Vec<_>) = tickets.into_iter().partition(|ticket| {
            owned.iter().any(|owned| (owned.shard, owned.epoch) == (ticket.key.shard, ticket.key.epoch))
        });
        let lanes: Vec<LaneId> = stale.iter().map(|ticket| node.store.lane_of(ticket.key.shard)).collect();
        let is_busy = lanes.iter().any(|lane| !node.lanes[lane.0 as usize].is_idle());
        if !current.is_empty() {
            self.chore(at, 1_000, Chore::LoadImages { worker, tickets: current });
        }
        if is_busy {
            // What is on its way there will be fenced, or was done before; look again then.
            self.chore(at, 5_000, Chore::LoadImages { worker, tickets: stale });
        }
    }

    pub(super) fn plan_maintenance(&mut self, at: usize, pause: u64) {
        let Some(node) = self.machines[at].node.as_mut() else { return };
        if !std::mem::replace(&mut node.maintaining, true) {
            self.chore(at, pause, Chore::Maintain);
        }
    }

    pub(super) fn maintain(&mut self, at: usize) {
        let node = self.machines[at].node.as_mut().expect("checked by the caller");
        node.maintaining = false;
        let result = node.store.maintain();
        self.trace.note(self.now, format_args!("n{at} maintains: {result:?}"));
        self.seen.maintenances += 1;
        if result.is_err() {
            self.kill(at, self.crash_cuts_power);
            return;
        }
        self.tell_loadable(at);
        let pause = self.random.between(1, 2 * self.maintain_every);
        self.chore(at, pause, Chore::Maintain);
    }
}
