//! Shards that move while a simulation runs: a mover on each node, and views that change.

use super::{Chore, Moves, Sim, machine::store_of, network::Frame};
use crate::{
    handoff::HandOffLimits,
    kernel::{Event, HandOffNews},
    load,
    mover::{Mover, MoverAction, MoverConfig, MoverEvent},
    placement::{NodeName, ShardId, Table, Weight},
    rebalance,
    sharing::SharingEvent,
    store::{LoadError, Ownership, StageError},
    timestamp::Timestamp,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Pause between two ticks of a mover, in microseconds.
const TICK: u64 = 50_000;
/// As late as this a node hears of a view, in microseconds.
const VIEW_LATE_MAX: u64 = 400_000;

impl Sim {
    /// A mover for a node that starts. Everything is small and soon, so that a short run has many moves.
    pub(super) fn make_mover(
        &mut self,
        at: usize,
        ownership: Vec<(ShardId, Ownership)>,
    ) -> (Mover, Vec<MoverAction>) {
        let limits = HandOffLimits {
            window_bytes: 4_096,
            chunk_bytes: self.random.pick(&[100, 1_000, 10_000]),
            seal_bytes: 1_024,
            resend_after: Duration::from_millis(100),
            patience: Duration::from_secs(2),
            ..HandOffLimits::default()
        };
        let pace = rebalance::Settings {
            stable_for: Duration::from_millis(200),
            rest: Duration::from_millis(500),
            answer_within: Duration::from_secs(1),
            back_off: Duration::from_millis(100),
            back_off_max: Duration::from_secs(2),
            ..rebalance::Settings::default()
        };
        let machine = &self.machines[at];
        let config = MoverConfig {
            here: machine.name.clone(),
            store: store_of(at),
            boot: machine.life,
            shards: self.layout,
            limits,
            pace,
            takes_max: 4,
        };
        Mover::new(config, ownership, self.mover_clock(at))
    }

    /// A node joins the view or leaves it, and the others hear of that sooner or later.
    pub(super) fn change_view(&mut self, at: usize) {
        if self.has_members() {
            return self.storm();
        }
        if self.is_shared() {
            return self.come_or_leave(at);
        }
        if self.moves == Moves::No {
            return;
        }
        let others = self.members.iter().enumerate().filter(|(other, is)| *other != at && **is).count();
        if self.members[at] && others == 0 {
            return;
        }
        self.members[at] = !self.members[at];
        self.seen.views_changed += 1;
        for node in 0..self.machines.len() {
            self.tell_view(node);
        }
    }

    /// A node hears of the view as it is when it hears.
    pub(super) fn tell_view(&mut self, at: usize) {
        let pause = self.random.below(VIEW_LATE_MAX);
        self.chore(at, pause, Chore::View);
    }

    pub(super) fn hear_view(&mut self, at: usize) {
        let members: BTreeMap<NodeName, Weight> = self
            .members
            .iter()
            .zip(&self.machines)
            .filter(|(is_member, _)| **is_member)
            .map(|(_, machine)| (machine.name.clone(), Weight::default()))
            .collect();
        let table = Table::new(&members, self.layout).map(Arc::new);
        self.step_mover(at, MoverEvent::Table(table));
    }

    pub(super) fn tick_mover(&mut self, at: usize) {
        self.chore(at, TICK, Chore::MoverTick);
        self.step_mover(at, MoverEvent::Tick);
        self.leave_when_empty(at);
    }

    /// Beside a membership it is driven by the same clock, and leases are measured by one that does not jump.
    pub(super) fn mover_clock(&self, at: usize) -> Timestamp {
        if self.has_members() || self.is_shared() { self.steady() } else { self.wall(at) }
    }

    /// What a mover is told by its own node arrives in the order in which it was told.
    pub(super) fn tell_mover(&mut self, at: usize, event: MoverEvent) {
        let pause = self.pause_to_holdings(at);
        self.chore(at, pause, Chore::Mover(event));
    }

    /// How long it takes until what decides of shards hears what it is told now.
    pub(super) fn pause_to_holdings(&mut self, at: usize) -> u64 {
        let pause = self.random.below(self.run_pause);
        let now = self.now;
        let node = self.machines[at].node.as_mut().expect("called with a node");
        node.holdings_told_until = node.holdings_told_until.max(now + pause);
        node.holdings_told_until - now
    }

    /// A kernel tells of a shard that is handed off.
    pub(super) fn hand_off_news(&mut self, at: usize, shard: ShardId, news: HandOffNews) {
        match news {
            HandOffNews::Sealed { .. } if self.is_shared() => self.seen.shards_given += 1,
            HandOffNews::Voided(_) if self.is_shared() => self.seen.seals_voided += 1,
            _ => {}
        }
        self.tell_mover(at, MoverEvent::News(shard, news));
    }

    pub(super) fn perform_moves(&mut self, at: usize, actions: Vec<MoverAction>) {
        for action in actions {
            // A fatal error of the store ends the node, and what it still had to do.
            if self.machines[at].node.is_none() {
                return;
            }
            self.perform_move(at, action);
        }
    }

    fn perform_move(&mut self, at: usize, action: MoverAction) {
        self.trace.note(self.now, format_args!("n{at} moves: {action:?}"));
        let store = Arc::clone(&self.machines[at].node.as_ref().expect("checked by the caller").store);
        match action {
            // Whose store it is for plays no part: none is ever lost.
            MoverAction::Send { to, shard, transfer, message, .. } => {
                let to = self.machine_named(&to);
                self.transmit(at, to, &Frame::HandOff { shard, transfer, message });
            }
            MoverAction::Announce(announcement) => self.announce_to_all(at, &announcement),
            MoverAction::Routed(shard) => self.routed(at, shard),
            MoverAction::Order(shard, order) => {
                let worker = self.worker_of(shard);
                self.tell(at, worker, Event::HandOff { shard, order });
            }
            MoverAction::Host(shard) => self.host(at, shard, false),
            MoverAction::Warm(shard, images) => {
                let worker = self.worker_of(shard);
                self.tell(at, worker, Event::Warm { shard, images });
            }
            MoverAction::ReadRows { shard, epoch, transfer, attempt, from, bytes } => {
                match load::rows_to_copy(&*store, shard, epoch, &from, bytes) {
                    Ok((rows, next)) => {
                        self.tell_loadable(at);
                        self.tell_mover(at, MoverEvent::RowsRead { shard, transfer, attempt, rows, next });
                    }
                    // It has gone meanwhile; whoever asked knows by now, or will.
                    Err(LoadError::NotOwned(_)) => {}
                    Err(LoadError::Io(error)) if error.kind() == std::io::ErrorKind::StorageFull => {
                        self.tell_mover(at, MoverEvent::ReadFailed { shard, transfer, attempt });
                    }
                    Err(LoadError::Later(_)) => {
                        self.seen.loads_later += 1;
                        self.tell_mover(at, MoverEvent::ReadFailed { shard, transfer, attempt });
                    }
                    Err(LoadError::Io(_)) => self.kill(at, self.crash_cuts_power),
                }
            }
            MoverAction::Clear { shard, epoch, transfer, place } => {
                let cleared = store.begin_staging(shard, epoch, transfer);
                self.tell_staged(at, shard, place, cleared, MoverEvent::Cleared { shard, place });
            }
            MoverAction::Stage { shard, epoch, transfer, place, sections } => {
                let staged = load::stage(&*store, shard, epoch, transfer, &sections);
                self.tell_staged(at, shard, place, staged, MoverEvent::Staged { shard, place });
            }
            MoverAction::Sweep(shard, epoch, transfer) => {
                if let Err(StageError::Io(_)) = store.sweep_staging(shard, epoch, transfer) {
                    self.kill(at, self.crash_cuts_power);
                }
            }
            MoverAction::ReadOwnership { shard, read } => {
                let all = store.ownership().expect("an open store knows what it owns");
                let found = all.into_iter().find(|(other, _)| *other == shard);
                let ownership = found.map_or(Ownership::Foreign, |(_, ownership)| ownership);
                self.tell_mover(at, MoverEvent::Ownership { shard, read, ownership });
            }
            // No operator is simulated.
            MoverAction::Reopened(_) => {}
            MoverAction::Alarm(what) => self.fail(&format!("n{at}: {what}")),
        }
    }

    fn tell_staged(
        &mut self,
        at: usize,
        shard: ShardId,
        place: u64,
        result: Result<(), StageError>,
        done: MoverEvent,
    ) {
        match result {
            Ok(()) => self.tell_mover(at, done),
            Err(StageError::Io(_)) => self.kill(at, self.crash_cuts_power),
            Err(error) => {
                let why = error.to_string();
                self.tell_mover(at, MoverEvent::StagingFailed { shard, place, why });
            }
        }
    }

    /// A worker hosts a shard from now on.
    pub(super) fn host(&mut self, at: usize, shard: ShardId, was_taken: bool) {
        let node = self.machines[at].node.as_mut().expect("checked by the caller");
        node.set_hosted(shard, true);
        self.has_arrived(at);
        let worker = self.worker_of(shard);
        self.tell(at, worker, Event::Host { shard, was_taken });
        for other in (0..self.workers).filter(|other| *other != worker) {
            self.tell(at, other, Event::InNode { shard, is: true });
        }
    }

    /// A worker has let a shard go.
    pub(super) fn has_left(&mut self, at: usize, worker: usize, shard: ShardId) {
        if self.is_shared() {
            self.tell_sharing(at, SharingEvent::Left(shard));
        } else {
            self.unroute(at, shard);
        }
        for other in (0..self.workers).filter(|other| *other != worker) {
            self.tell(at, other, Event::InNode { shard, is: false });
        }
    }
}
