//! Nodes that share a store: what each decides about its shards, and what its ring does for it.

use super::{
    Chore, Sim,
    control::{Ask, Line},
    holdings::Holdings,
    machine,
    network::Frame,
    storage::Storage,
};
use crate::{
    kernel::Event,
    placement::ShardId,
    rebalance,
    router::Announcement,
    sharing::{Sharing, SharingAction, SharingConfig, SharingEvent},
    store::{NodeSays, OwnedShard, Presence, SharedStore},
};
use std::time::Duration;

/// What a node has of a store that it shares.
pub(super) struct Common {
    pub(super) sharing: Sharing,
    pub(super) says: NodeSays,
    /// By server.
    pub(super) lines: Vec<Line>,
}

impl Sim {
    /// What a node decides by that starts. Everything is soon, so that a short run has many moves.
    pub(super) fn make_sharing(
        &mut self,
        at: usize,
        store: &dyn SharedStore,
        owned: &[OwnedShard],
    ) -> (Common, Vec<SharingAction>) {
        let pace = rebalance::Settings {
            stable_for: Duration::from_millis(200),
            rest: Duration::from_millis(500),
            answer_within: Duration::from_secs(1),
            back_off: Duration::from_millis(100),
            back_off_max: Duration::from_secs(2),
            ..rebalance::Settings::default()
        };
        let config = SharingConfig {
            here: self.machines[at].name.clone(),
            incarnation: store.incarnation(),
            lease: store.lease(),
            shards: self.layout,
            server_of: self.layout.iter().map(|shard| store.server_of(shard)).collect(),
            pace,
        };
        let (sharing, begun) = Sharing::new(config, owned, self.steady());
        let lines = (0..store.servers()).map(|_| Line::default()).collect();
        (Common { sharing, says: self.machines[at].says(), lines }, begun)
    }

    pub(super) fn common(&self, at: usize) -> Option<&Common> {
        match &self.machines[at].node.as_ref()?.holdings {
            Holdings::Common(common) => Some(common),
            Holdings::Own(_) => None,
        }
    }

    /// Of a running node.
    pub(super) fn common_mut(&mut self, at: usize) -> &mut Common {
        match &mut self.machines[at].node.as_mut().expect("checked by the caller").holdings {
            Holdings::Common(common) => common,
            Holdings::Own(_) => unreachable!("all nodes share a store, or none does"),
        }
    }

    /// The UUID that a node has for others.
    pub(super) fn store_of(&self, at: usize) -> u128 {
        match &self.machines[at].storage {
            Storage::Shared { run: Some(store), .. } => crate::store::Store::identity(store).store,
            _ => machine::store_of(at),
        }
    }

    /// What it is told by its own node comes in the order in which it was told.
    pub(super) fn tell_sharing(&mut self, at: usize, event: SharingEvent) {
        let pause = self.pause_to_holdings(at);
        self.chore(at, pause, Chore::Sharing(event));
    }

    pub(super) fn step_sharing(&mut self, at: usize, event: SharingEvent) {
        let now = self.steady();
        let left = if let SharingEvent::Left(shard) = &event { Some(*shard) } else { None };
        let actions = self.common_mut(at).sharing.step(event, now);
        self.perform_sharing(at, actions);
        // What it hears of another owner sets the route.
        if let Some(shard) = left
            && self.common(at).is_some_and(|common| !common.sharing.has(shard))
        {
            self.unroute(at, shard);
        }
    }

    pub(super) fn perform_sharing(&mut self, at: usize, actions: Vec<SharingAction>) {
        for action in actions {
            if self.machines[at].node.is_none() {
                return;
            }
            self.trace.note(self.now, format_args!("n{at} shares: {action:?}"));
            match action {
                SharingAction::Send { to, shard, transfer, message } => {
                    let to = self.machine_named(&to);
                    self.transmit(at, to, &Frame::HandOff { shard, transfer, message });
                }
                SharingAction::Announce(announcement) => self.announce_to_all(at, &announcement),
                SharingAction::Routed(shard) => {
                    let routes = self.common_mut(at).sharing.routes();
                    let owner = routes.get(shard).map(|(_, owner)| owner.clone());
                    if owner.is_some_and(|owner| owner != self.machines[at].name) {
                        self.unroute(at, shard);
                    }
                    self.routed(at, shard);
                }
                SharingAction::Order(shard, order) => {
                    let worker = self.worker_of(shard);
                    self.tell(at, worker, Event::HandOff { shard, order });
                }
                SharingAction::Host { shard, was_taken } => {
                    self.seen.taken_from_dead += u64::from(was_taken);
                    self.host(at, shard, was_taken);
                }
                SharingAction::Warm(shard, images) => {
                    let worker = self.worker_of(shard);
                    self.tell(at, worker, Event::Warm { shard, images });
                }
                SharingAction::Lose(shard) => {
                    self.seen.shards_lost += 1;
                    self.unroute(at, shard);
                    let node = self.machines[at].node.as_ref().expect("checked by the caller");
                    let lane = node.store.lane_of(shard);
                    self.stale_lane(at, lane);
                }
                SharingAction::Beat(server) => self.ask_server(at, server, Ask::Beat),
                SharingAction::Take { server, shards } => self.ask_server(at, server, Ask::Take(shards)),
                SharingAction::Alarm(what) if !self.has_lost_commits() => {
                    self.fail(&format!("n{at}: {what}"))
                }
                // An epoch was given twice, as was to be feared.
                SharingAction::Alarm(_) => {}
            }
        }
    }

    pub(super) fn announce_to_all(&mut self, at: usize, announcement: &Announcement) {
        self.seen.shards_moved += 1;
        let frame = Frame::Announce(vec![announcement.clone()]);
        for to in (0..self.machines.len()).filter(|to| *to != at) {
            self.transmit(at, to, &frame);
        }
    }

    /// A shard has another owner than was known.
    pub(super) fn routed(&mut self, at: usize, shard: ShardId) {
        for worker in 0..self.workers {
            self.step_worker(at, worker, Event::SendAgain { target: shard });
        }
    }

    /// A shard is not at this node any more.
    pub(super) fn unroute(&mut self, at: usize, shard: ShardId) {
        self.machines[at].node.as_mut().expect("checked by the caller").set_hosted(shard, false);
    }

    /// A node comes, or is told to leave: it gives its shards away.
    pub(super) fn come_or_leave(&mut self, at: usize) {
        if self.machines[at].is_away {
            self.machines[at].is_away = false;
            self.seen.nodes_returned += 1;
            self.boot(at);
            return;
        }
        let others = self.machines.iter().enumerate().filter(|(other, machine)| {
            let stays = self.common(*other).is_none_or(|common| common.says.presence == Presence::Up);
            *other != at && !machine.is_away && stays
        });
        if others.count() == 0 || !self.machines[at].answers() {
            return;
        }
        self.trace.note(self.now, format_args!("n{at} leaves"));
        self.say(at, Presence::Leaving);
        self.step_sharing(at, SharingEvent::Leave);
    }

    /// A node that leaves has nothing left, and ends.
    pub(super) fn leave_when_empty(&mut self, at: usize) {
        let Some(common) = self.common(at) else { return };
        if common.says.presence != Presence::Leaving || !common.sharing.is_empty() {
            return;
        }
        let node = self.machines[at].node.take().expect("just seen");
        self.trace.note(self.now, format_args!("n{at} has left"));
        for kernel in &node.kernels {
            self.seen.count(&kernel.counters());
        }
        // What a server that is away has of it is taken when its lease has run out.
        let _ = node.store.close();
        self.machines[at].is_away = true;
        self.seen.nodes_left += 1;
        self.check_rows();
    }

    fn say(&mut self, at: usize, presence: Presence) {
        self.common_mut(at).says.presence = presence;
        for server in 0..self.common_mut(at).lines.len() as u32 {
            self.ask_server(at, server, Ask::Beat);
        }
    }
}
