//! The lanes of a simulated node: groups of batches that are committed, told, or void.

use super::{Chore, Due, Sim};
use crate::{
    kernel::{Event, Output, Submission},
    store::{Batch, CommitError, Lane, LaneId, Position},
};
use std::collections::{BTreeMap, VecDeque};

/// What the ring keeps for one lane.
pub(super) struct LaneRing {
    writer: Box<dyn Lane>,
    voids: u64,
    /// What the workers have in memory is an owner's of before: void once the group that is committed now is told.
    is_stale: bool,
    queue: VecDeque<Queued>,
    group: Option<Group>,
    pub(super) committed: Position,
    /// Durable and not yet loadable: last numbers by worker.
    unloadable: VecDeque<(Position, BTreeMap<usize, u64>)>,
}

struct Queued {
    worker: usize,
    reserved: Option<u64>,
    submission: Submission,
}

/// What is committed together. After an unknown outcome the same group is committed again.
struct Group {
    members: Vec<Queued>,
    batches: Vec<Batch>,
    result: Option<Result<Position, CommitError>>,
}

impl LaneRing {
    /// A lane of a node that starts: everything committed before is loadable.
    pub(super) fn new(writer: Box<dyn Lane>, committed: Position) -> Self {
        let (queue, unloadable) = (VecDeque::new(), VecDeque::new());
        Self { writer, voids: 0, is_stale: false, queue, group: None, committed, unloadable }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.group.is_none()
    }
}

impl Sim {
    pub(super) fn submit(&mut self, at: usize, worker: usize, submission: Submission, reserved: Option<u64>) {
        self.trace.note(
            self.now,
            format_args!(
                "n{at} {worker} submits {} of lane {} voided {}: {:?}",
                submission.number, submission.lane.0, submission.voids, submission.outputs
            ),
        );
        self.trace.bytes(submission.batch.bytes());
        let used = submission.batch.bytes().len() as u64;
        if !submission.batch.is_empty() && reserved.is_none() {
            self.fail("rows were submitted without reserved room");
        }
        if reserved.is_some_and(|reserved| reserved < used) {
            self.fail("a batch is larger than the room reserved for it");
        }
        let lane_id = submission.lane;
        let node = self.machines[at].node.as_mut().expect("a kernel has a node");
        let reserved = reserved.map(|reserved| {
            node.store.shrink(lane_id, reserved, used);
            used
        });
        let lane = &mut node.lanes[lane_id.0 as usize];
        let queued = Queued { worker, reserved, submission };
        if queued.submission.voids < lane.voids {
            self.void(at, lane_id, vec![queued]);
            return;
        }
        lane.queue.push_back(queued);
        if lane.group.is_none() && lane.queue.len() == 1 {
            self.plan_commit(at, lane_id);
        }
    }

    fn plan_commit(&mut self, at: usize, lane: LaneId) {
        let pause = self.random.between(1, self.commit_pause(at));
        self.chore(at, pause, Chore::Commit { lane });
    }

    pub(super) fn commit_pause(&self, at: usize) -> u64 {
        if self.now < self.machines[at].slow_until { self.commit_pause * 50 } else { self.commit_pause }
    }

    /// Commits a group: its effect is in the store from here on, told to nobody yet.
    pub(super) fn commit(&mut self, at: usize, id: LaneId) {
        if let Some(pause) = self.stalled_lane(id) {
            let pause = pause + self.random.below(self.commit_pause);
            return self.chore(at, pause, Chore::Commit { lane: id });
        }
        let node = self.machines[at].node.as_mut().expect("checked by the caller");
        let lane = &mut node.lanes[id.0 as usize];
        if lane.group.as_ref().is_some_and(|group| group.result.is_some()) {
            // This was planned before the lane was void, and what came since has its own plan.
            return;
        }
        if lane.group.is_none() {
            if lane.queue.is_empty() {
                return;
            }
            let len = self.random.between(1, lane.queue.len() as u64) as usize;
            let members: Vec<Queued> = lane.queue.drain(..len).collect();
            let batches = members
                .iter()
                .filter(|queued| !queued.submission.batch.is_empty())
                .map(|queued| queued.submission.batch.clone())
                .collect();
            lane.group = Some(Group { members, batches, result: None });
        }
        let group = lane.group.as_mut().expect("just made");
        let shown = group.members.iter().flat_map(|queued| &queued.submission.shown);
        let is_written =
            |shard| group.batches.iter().flat_map(Batch::sections).any(|section| section.shard == shard);
        let shown: Vec<_> = shown.filter(|(shard, _)| !is_written(*shard)).copied().collect();
        let committed = lane.writer.commit_and_confirm(&group.batches, &shown);
        let result = if group.batches.is_empty() { committed.map(|_| lane.committed) } else { committed };
        let has_records = group.batches.iter().flat_map(Batch::sections).any(|section| section.has_record());
        self.trace
            .note(self.now, format_args!("n{at} lane {} commits {}: {result:?}", id.0, group.members.len()));
        let written = result.is_ok().then(|| group.batches.clone());
        group.result = Some(result);
        if has_records {
            self.check_owners(at);
        }
        self.check_writer(at, &written.unwrap_or_default());
        let pause = self.random.between(1, self.commit_pause(at));
        self.chore(at, pause, Chore::Committed { lane: id });
    }

    /// The outcome of a commit is known.
    pub(super) fn committed(&mut self, at: usize, id: LaneId) {
        let node = self.machines[at].node.as_mut().expect("checked by the caller");
        let lane = &mut node.lanes[id.0 as usize];
        let group = lane.group.as_mut().expect("its commit was begun");
        match group.result.take().expect("its commit was begun") {
            Ok(position) => {
                let group = lane.group.take().expect("just seen");
                lane.committed = lane.committed.max(position);
                self.durable(at, id, group.members);
            }
            Err(error @ (CommitError::Unknown(_) | CommitError::Later(_))) => {
                let is_unknown = matches!(error, CommitError::Unknown(_));
                *(if is_unknown { &mut self.seen.commits_unknown } else { &mut self.seen.commits_later }) +=
                    1;
                let pause = self.random.between(1_000, 50_000);
                self.chore(at, pause, Chore::Commit { lane: id });
                return;
            }
            Err(CommitError::Fatal(_)) => {
                self.seen.commits_fatal += 1;
                self.kill(at, self.crash_cuts_power);
                return;
            }
            Err(error) => {
                match error {
                    CommitError::Fenced(_) => self.seen.commits_fenced += 1,
                    _ => self.seen.commits_failed += 1,
                }
                if self.machines[at].is_embedded() {
                    // There is no other place for its shards: it starts anew (P13).
                    self.kill(at, false);
                    return;
                }
                self.void_lane(at, id);
            }
        }
        let lane = &self.machines[at].node.as_ref().expect("still there").lanes[id.0 as usize];
        if lane.is_stale {
            self.void_lane(at, id);
        } else if !lane.queue.is_empty() {
            self.plan_commit(at, id);
        }
    }

    fn durable(&mut self, at: usize, id: LaneId, members: Vec<Queued>) {
        let node = self.machines[at].node.as_mut().expect("called with a node");
        let mut through = BTreeMap::new();
        for queued in &members {
            through.insert(queued.worker, queued.submission.number);
            if let Some(reserved) = queued.reserved {
                node.store.release(id, reserved);
            }
        }
        let lane = &mut node.lanes[id.0 as usize];
        lane.unloadable.push_back((lane.committed, through.clone()));
        for queued in members {
            for output in queued.submission.outputs {
                self.let_out(at, output);
            }
        }
        for (worker, through) in through {
            self.tell(at, worker, Event::Durable { lane: id, through });
        }
        self.tell_loadable(at);
    }

    /// Tells workers what loads find by now.
    pub(super) fn tell_loadable(&mut self, at: usize) {
        let mut news = Vec::new();
        let Some(node) = self.machines[at].node.as_mut() else { return };
        for (at, lane) in node.lanes.iter_mut().enumerate() {
            let id = LaneId(at as u32);
            let loadable = node.store.loadable(id);
            let mut through = BTreeMap::new();
            while lane.unloadable.front().is_some_and(|(position, _)| *position <= loadable) {
                through.extend(lane.unloadable.pop_front().expect("just seen").1);
            }
            news.extend(through.into_iter().map(|(worker, through)| (worker, id, through)));
        }
        for (worker, lane, through) in news {
            self.tell(at, worker, Event::Loadable { lane, through });
        }
    }

    /// What lanes tell a worker arrives in the order in which it was told.
    pub(super) fn tell(&mut self, at: usize, worker: usize, event: Event) {
        let pause = self.random.below(self.run_pause);
        let node = self.machines[at].node.as_mut().expect("called with a node");
        let due = node.workers[worker].told_until.max(self.now + pause);
        node.workers[worker].told_until = due;
        let what = Chore::Worker { worker, event };
        self.schedule.push(due, Due::Chore { at, life: self.machines[at].life, what });
    }

    /// A kernel has found that it works on an owner's memory of before. What is committed now is fenced, or is of other shards.
    pub(super) fn stale_lane(&mut self, at: usize, id: LaneId) {
        let node = self.machines[at].node.as_mut().expect("called with a node");
        let lane = &mut node.lanes[id.0 as usize];
        if lane.group.is_some() {
            lane.is_stale = true;
        } else {
            self.void_lane(at, id);
        }
    }

    /// The lane's group and everything behind it will never be durable.
    pub(super) fn void_lane(&mut self, at: usize, id: LaneId) {
        let node = self.machines[at].node.as_mut().expect("called with a node");
        let lane = &mut node.lanes[id.0 as usize];
        lane.voids += 1;
        lane.is_stale = false;
        let voids = lane.voids;
        let members = lane.group.take().into_iter().flat_map(|group| group.members);
        let members: Vec<Queued> = members.chain(lane.queue.drain(..)).collect();
        self.trace.note(self.now, format_args!("n{at} lane {} void, {} batches", id.0, members.len()));
        self.void(at, id, members);
        for worker in 0..self.workers {
            self.tell(at, worker, Event::Voided { lane: id, voids });
        }
    }

    fn void(&mut self, at: usize, id: LaneId, members: Vec<Queued>) {
        for queued in members {
            self.seen.batches_voided += 1;
            let node = self.machines[at].node.as_ref().expect("called with a node");
            if let Some(reserved) = queued.reserved {
                node.store.release(id, reserved);
            }
            for output in queued.submission.outputs.into_iter().filter_map(Output::into_void) {
                self.let_out(at, output);
            }
        }
    }
}
