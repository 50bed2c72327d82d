//! The store in memory: no disk, and every fault a store can have, on demand.
//!
//! For tests and simulation. Its lanes (shard modulo their count) fail, hang and end unknown independently, so that the
//! paths a worker takes then (P13) are walked in every test run and not first on a database.

mod faults;
mod rows;
mod servers;
mod shared;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use faults::Faults;
pub use servers::{Servers, Snapshot};
pub use shared::SharedMemory;

use faults::Fault;
use rows::Rows;

use super::fence::Fence;
use super::notes::{check_name, check_note};
use super::ownership::accepts;
use super::staging::{Stagings, check_rows};
use super::{
    Batch, CommitError, Founding, ImageKey, Lane, LaneId, LoadError, NoRoom, OwnedShard, Ownership, Position,
    StageError, Store, StoreIdentity, ToStage, TransferId,
};
use crate::placement::{Epoch, ShardId, Shards};

/// A store in memory. Clones share its contents; see [`MemoryStore::restart`] for what survives a node.
#[derive(Clone)]
pub struct MemoryStore {
    founding: Founding,
    state: Arc<Mutex<State>>,
    /// Which life of the store this handle belongs to.
    life: u64,
}

struct State {
    life: u64,
    /// Ownership and numbers of what is committed.
    fence: Fence,
    /// The same of what is loadable.
    covered: Fence,
    rows: Rows,
    /// What is staged and not accepted yet. Its rows lie among the others, under a stay that nobody has.
    stagings: Stagings,
    notes: BTreeMap<String, Vec<u8>>,
    lanes: Vec<LaneState>,
    lagging: bool,
    rows_visited: u64,
    /// Loads that are still to be refused.
    loads_refused: u32,
}

#[derive(Default)]
struct LaneState {
    taken: bool,
    position: u64,
    loadable: u64,
    /// Committed and, in a lagging store, not loadable yet.
    pending: VecDeque<Batch>,
    plan: VecDeque<Fault>,
    hung: bool,
    full: Option<NoRoom>,
    /// Bytes and batches that room was granted for, so that whoever gives back what he never had is found out.
    reserved: (u64, u64),
}

impl MemoryStore {
    /// A store that owns all `shards` under the first epoch, with `lanes` lanes.
    ///
    /// # Panics
    /// `lanes` is zero.
    pub fn new(shards: Shards, lanes: u32) -> Self {
        Self::founded(&Founding::founder(1, 1, shards), lanes)
    }

    /// A store as any other is founded, with `lanes` lanes.
    ///
    /// # Panics
    /// `lanes` is zero.
    pub fn founded(founding: &Founding, lanes: u32) -> Self {
        assert!(lanes > 0, "a store has a lane");
        let fence = Fence::founded(founding.shards, founding.owns);
        let state = State {
            life: 0,
            covered: fence.clone(),
            fence,
            rows: Rows::default(),
            stagings: Stagings::default(),
            notes: BTreeMap::new(),
            lanes: (0..lanes).map(|_| LaneState::default()).collect(),
            lagging: false,
            rows_visited: 0,
            loads_refused: 0,
        };
        Self { founding: *founding, state: Arc::new(Mutex::new(state)), life: 0 }
    }

    /// As [`MemoryStore::new`], and [lagging](MemoryStore::lag).
    pub fn lagging(shards: Shards, lanes: u32) -> Self {
        Self::new(shards, lanes).lag()
    }

    /// From here on what is committed becomes loadable only when [`Store::maintain`] is called, as with a log and its
    /// checkpoint.
    pub fn lag(self) -> Self {
        self.state().lagging = true;
        self
    }

    /// How many rows [`Store::load_rows`] has visited so far: what its callers cost.
    pub fn rows_visited(&self) -> u64 {
        self.state().rows_visited
    }

    /// The handle that plans this store's faults.
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.state))
    }

    /// What a node finds when it starts again: all that was committed, every lane free to be taken, no faults planned.
    /// Handles and lanes of before can change nothing any more; their commits are [`CommitError::Fatal`].
    pub fn restart(&self) -> Self {
        let mut state = self.state();
        state.life += 1;
        for lane in 0..state.lanes.len() {
            state.make_loadable(lane);
            let lane = &mut state.lanes[lane];
            (lane.taken, lane.hung, lane.full) = (false, false, None);
            lane.reserved = (0, 0);
            lane.plan.clear();
        }
        let unaccepted: Vec<_> = state.stagings.drain().collect();
        for (shard, epoch) in unaccepted {
            state.rows.drop_stay(shard, epoch);
        }
        Self { life: state.life, ..self.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn stay(&self, shard: ShardId, epoch: Epoch) -> Result<Epoch, LoadError> {
        self.fence.stay(shard, epoch).ok_or(LoadError::NotOwned(shard))
    }

    fn may_load(&mut self) -> Result<(), LoadError> {
        match self.loads_refused.checked_sub(1) {
            None => Ok(()),
            Some(left) => {
                self.loads_refused = left;
                Err(LoadError::Later(io::Error::other("planned for later")))
            }
        }
    }

    fn apply(&mut self, lane: usize, batches: &[Batch]) {
        self.fence.advance(batches);
        self.lanes[lane].position += batches.len() as u64;
        self.lanes[lane].pending.extend(batches.iter().cloned());
        if !self.lagging {
            self.make_loadable(lane);
        }
    }

    fn make_loadable(&mut self, lane: usize) {
        for batch in std::mem::take(&mut self.lanes[lane].pending) {
            for section in batch.sections() {
                let shard = section.shard;
                let stay = self.covered.take(&section).expect("a section is judged before it is applied");
                if let Some(Ownership::Moved { .. }) = self.covered.get(shard) {
                    self.rows.drop_stay(shard, stay);
                }
                for write in section.writes() {
                    let write = write.expect("a batch's bytes are checked when it is made");
                    self.rows.write(shard, stay, &write);
                }
            }
        }
        self.lanes[lane].loadable = self.lanes[lane].position;
    }
}

impl MemoryStore {
    /// The state, for one who changes it; a handle of before a restart is refused.
    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.life != self.life {
            return Err(io::Error::other("the store was restarted"));
        }
        Ok(state)
    }
}

impl Store for MemoryStore {
    fn shards(&self) -> Shards {
        self.founding.shards
    }

    fn lanes(&self) -> u32 {
        self.state().lanes.len() as u32
    }

    fn lane_of(&self, shard: ShardId) -> LaneId {
        LaneId(shard.0 % self.lanes())
    }

    fn identity(&self) -> StoreIdentity {
        let Founding { cluster, store, .. } = self.founding;
        let durable = self.state().lanes.iter().map(|lane| lane.position).sum();
        StoreIdentity { cluster, store, boot: self.life + 1, durable: Position(durable) }
    }

    fn owned(&self) -> Result<Vec<OwnedShard>, LoadError> {
        Ok(self.state().fence.owned())
    }

    fn ownership(&self) -> Result<Vec<(ShardId, Ownership)>, LoadError> {
        Ok(self.state().fence.known())
    }

    fn open_lane(&self, lane: LaneId) -> Box<dyn Lane> {
        let taken = std::mem::replace(&mut self.state().lanes[lane.0 as usize].taken, true);
        assert!(!taken, "a lane is taken once");
        Box::new(MemoryLane { store: self.clone(), lane: lane.0 as usize })
    }

    fn load_rows(
        &self,
        shard: ShardId,
        epoch: Epoch,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), LoadError> {
        let mut state = self.state();
        state.may_load()?;
        let stay = state.stay(shard, epoch)?;
        let mut visited = 0;
        state.rows.visit(shard, stay, keys, &mut |key, value| {
            visited += 1;
            visit(key, value)
        });
        state.rows_visited += visited;
        Ok(())
    }

    fn load_images(&self, keys: &[ImageKey]) -> Result<Vec<Option<Vec<u8>>>, LoadError> {
        let mut state = self.state();
        state.may_load()?;
        let load = |image: &ImageKey| {
            let stay = state.stay(image.shard, image.epoch)?;
            Ok(state.rows.get(image.shard, stay, &image.key).cloned())
        };
        keys.iter().map(load).collect()
    }

    fn begin_staging(&self, shard: ShardId, epoch: Epoch, transfer: TransferId) -> Result<(), StageError> {
        let mut state = self.alive()?;
        let State { fence, stagings, .. } = &mut *state;
        let before = stagings.begin(fence, shard, epoch, transfer)?;
        stagings.put_down(shard);
        if let Some(before) = before {
            state.rows.drop_stay(shard, before);
        }
        Ok(())
    }

    fn stage_all(&self, stagings: &[ToStage<'_>]) -> Vec<Result<(), StageError>> {
        let stage = |to: &ToStage<'_>| {
            check_rows(to.shard, to.rows)?;
            let mut state = self.alive()?;
            state.stagings.take_up(to.shard, to.epoch, to.transfer)?;
            for (key, value) in to.rows {
                match value {
                    Some(value) => state.rows.put(to.shard, to.epoch, key, value),
                    None => state.rows.remove(to.shard, to.epoch, key),
                }
            }
            state.stagings.note(to.shard);
            state.stagings.put_down(to.shard);
            Ok(())
        };
        stagings.iter().map(stage).collect()
    }

    fn load_staged(
        &self,
        shard: ShardId,
        epoch: Epoch,
        transfer: TransferId,
        keys: Range<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StageError> {
        let mut state = self.alive()?;
        state.stagings.take_up(shard, epoch, transfer)?;
        state.rows.visit(shard, epoch, keys, visit);
        state.stagings.put_down(shard);
        Ok(())
    }

    fn sweep_staging(&self, shard: ShardId, epoch: Epoch, transfer: TransferId) -> Result<(), StageError> {
        let mut state = self.alive()?;
        if state.stagings.take_up(shard, epoch, transfer).is_ok() {
            state.rows.drop_stay(shard, epoch);
            state.stagings.remove(shard);
        }
        Ok(())
    }

    fn note(&self, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
        check_name(name)?;
        Ok(self.state().notes.get(name).cloned())
    }

    fn keep_note(&self, name: &str, bytes: &[u8]) -> Result<(), LoadError> {
        check_note(name, bytes)?;
        let mut state = self.alive()?;
        if state.lanes.iter().any(|lane| lane.full == Some(NoRoom::DiskFull)) {
            return Err(LoadError::Io(io::ErrorKind::StorageFull.into()));
        }
        state.notes.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn durable(&self, lane: LaneId) -> Position {
        Position(self.state().lanes[lane.0 as usize].position)
    }

    fn loadable(&self, lane: LaneId) -> Position {
        Position(self.state().lanes[lane.0 as usize].loadable)
    }

    fn reserve(&self, lane: LaneId, bytes: u64) -> Result<(), NoRoom> {
        let mut state = self.state();
        let lane = &mut state.lanes[lane.0 as usize];
        lane.full.map_or(Ok(()), Err)?;
        lane.reserved = (lane.reserved.0 + bytes, lane.reserved.1 + 1);
        Ok(())
    }

    fn release(&self, lane: LaneId, bytes: u64) {
        let mut state = self.state();
        // Of a life before: its room went with it.
        if state.life != self.life {
            return;
        }
        let (reserved, batches) = state.lanes[lane.0 as usize].reserved;
        assert!(bytes <= reserved && 0 < batches, "only what was granted is given back");
        state.lanes[lane.0 as usize].reserved = (reserved - bytes, batches - 1);
    }

    fn shrink(&self, lane: LaneId, from: u64, to: u64) {
        assert!(to <= from, "a batch takes no more than was reserved for it");
        let mut state = self.state();
        if state.life == self.life {
            let reserved = &mut state.lanes[lane.0 as usize].reserved.0;
            *reserved = (*reserved).checked_sub(from - to).expect("only what was granted is given back");
        }
    }

    fn wants_maintenance(&self) -> bool {
        self.state().lanes.iter().any(|lane| !lane.pending.is_empty())
    }

    fn maintain(&self) -> Result<(), LoadError> {
        let mut state = self.state();
        for lane in 0..state.lanes.len() {
            state.make_loadable(lane);
        }
        Ok(())
    }
}

struct MemoryLane {
    store: MemoryStore,
    lane: usize,
}

impl Lane for MemoryLane {
    fn commit(&mut self, group: &[Batch]) -> Result<Position, CommitError> {
        let mut state = self.store.state();
        if state.life != self.store.life {
            return Err(CommitError::Fatal(io::Error::other("the store was restarted")));
        }
        if state.lanes[self.lane].hung {
            return Err(CommitError::Unknown(io::ErrorKind::TimedOut.into()));
        }
        let fault = state.lanes[self.lane].plan.pop_front();
        match fault {
            Some(Fault::Fail) => return Err(CommitError::Failed(io::Error::other("planned to fail"))),
            Some(Fault::Later) => return Err(CommitError::Later(io::Error::other("planned for later"))),
            Some(Fault::Unknown { applied: false }) => {
                return Err(CommitError::Unknown(io::Error::other("planned to be unknown, not applied")));
            }
            Some(Fault::Die) => {
                state.lanes[self.lane].plan.push_front(Fault::Die);
                return Err(CommitError::Fatal(io::Error::other("planned to die")));
            }
            Some(Fault::Unknown { applied: true }) | None => {}
        }
        let lanes = state.lanes.len();
        for section in group.iter().flat_map(Batch::sections) {
            assert_eq!(section.shard.0 as usize % lanes, self.lane, "{} is not of this lane", section.shard);
        }
        let judged = state.fence.judge(group)?;
        let fresh = &group[judged.repeated..];
        if judged.has_records {
            let accepted: Vec<_> = accepts(fresh.iter().flat_map(Batch::sections)).collect();
            state.stagings.hold(&accepted)?;
            state.stagings.accepted(&accepted);
        }
        state.apply(self.lane, fresh);
        if fault.is_some() {
            return Err(CommitError::Unknown(io::Error::other("planned to be unknown, applied")));
        }
        Ok(Position(state.lanes[self.lane].position))
    }

    fn commit_and_confirm(
        &mut self,
        group: &[Batch],
        shown: &[(ShardId, Epoch)],
    ) -> Result<Position, CommitError> {
        let is_owned = |&(shard, epoch): &(ShardId, Epoch)| {
            let state = self.store.state();
            matches!(state.fence.get(shard), Some(Ownership::Owned { epoch: now, .. }) if *now == epoch)
        };
        match shown.iter().find(|shown| !is_owned(shown)) {
            Some((shard, _)) => Err(CommitError::Fenced(*shard)),
            None if group.is_empty() => Ok(Position::default()),
            None => self.commit(group),
        }
    }

    fn quiet(&mut self) -> Result<(), CommitError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::OwnershipRecord;
    use crate::store::batch::{own, put};

    fn store() -> MemoryStore {
        MemoryStore::new(Shards::new(4).unwrap(), 2)
    }

    fn batch(shard: u32, number: u64) -> Batch {
        let mut batch = Batch::new();
        batch.section(ShardId(shard), Epoch(1), number, |out| put(&[&[1]], &[&[number as u8]], out));
        batch
    }

    fn number(store: &MemoryStore, shard: usize) -> u64 {
        store.owned().unwrap()[shard].number
    }

    #[test]
    fn what_is_shown_of_a_shard_is_confirmed_beside_what_is_written_to_others() {
        let store = store();
        let mut even = store.open_lane(LaneId(0));
        let [mine, other] = [(ShardId(2), Epoch(1)), (ShardId(2), Epoch(2))];
        assert_eq!(even.commit_and_confirm(&[], &[mine]).unwrap(), Position(0));
        assert_eq!(even.commit_and_confirm(&[batch(0, 1)], &[mine]).unwrap(), Position(1));
        store.faults().advance_epoch(ShardId(2));
        for group in [&[][..], &[batch(0, 2)]] {
            let refused = even.commit_and_confirm(group, &[mine]);
            assert!(matches!(refused, Err(CommitError::Fenced(ShardId(2)))), "{refused:?}");
        }
        assert_eq!(number(&store, 0), 1, "nothing is written beside what is not confirmed");
        assert_eq!(even.commit_and_confirm(&[batch(0, 2)], &[other]).unwrap(), Position(2));
    }

    #[test]
    fn what_cannot_be_done_now_is_done_later() {
        let store = store();
        let mut even = store.open_lane(LaneId(0));
        store.faults().later(LaneId(0));
        assert!(matches!(even.commit(&[batch(0, 1)]), Err(CommitError::Later(_))));
        assert_eq!(number(&store, 0), 0);
        even.commit(&[batch(0, 1)]).unwrap();
        store.faults().refuse_loads(1);
        assert!(matches!(store.load_shard(ShardId(0), Epoch(1)), Err(LoadError::Later(_))));
        assert_eq!(store.load_shard(ShardId(0), Epoch(1)).unwrap().len(), 1);
    }

    #[test]
    fn a_lane_that_fails_leaves_the_others_alone() {
        let store = store();
        let (mut even, mut odd) = (store.open_lane(LaneId(0)), store.open_lane(LaneId(1)));
        store.faults().fail(LaneId(0));
        assert!(matches!(even.commit(&[batch(2, 1)]), Err(CommitError::Failed(_))));
        odd.commit(&[batch(1, 1)]).unwrap();
        even.commit(&[batch(2, 1)]).unwrap();
        assert_eq!((number(&store, 1), number(&store, 2)), (1, 1));
    }

    #[test]
    fn an_unknown_group_is_applied_or_not_and_its_repeat_tells() {
        for applied in [false, true] {
            let store = store();
            let mut lane = store.open_lane(LaneId(0));
            lane.commit(&[batch(0, 1)]).unwrap();
            store.faults().unknown(LaneId(0), applied);
            let group = [batch(0, 2), batch(0, 3)];
            assert!(matches!(lane.commit(&group), Err(CommitError::Unknown(_))));
            assert_eq!(number(&store, 0), if applied { 3 } else { 1 });
            let position = lane.commit(&group).unwrap();
            assert_eq!((number(&store, 0), position), (3, Position(3)));
        }
    }

    #[test]
    fn an_unknown_change_of_ownership_is_made_or_not_and_its_repeat_tells() {
        let left = |store: &MemoryStore| store.owned().unwrap().len() == 3;
        let own = |shard, epoch, number, record: &OwnershipRecord| {
            let mut batch = Batch::new();
            batch.section(ShardId(shard), Epoch(epoch), number, |out| own(record, out));
            batch
        };
        let transfer = TransferId(7);
        let node: crate::placement::NodeName = "b".parse().unwrap();
        for applied in [false, true] {
            let store = store();
            let mut lane = store.open_lane(LaneId(0));
            let unknown = |lane: &mut dyn Lane, group: &[Batch]| {
                store.faults().unknown(LaneId(0), applied);
                assert!(matches!(lane.commit(group), Err(CommitError::Unknown(_))));
            };
            let leaves = [
                batch(0, 1),
                own(0, 1, 2, &OwnershipRecord::Seal { transfer, to: node.clone(), store: 8 }),
                own(0, 1, 3, &OwnershipRecord::Moved { transfer, epoch: Epoch(2) }),
            ];
            unknown(&mut *lane, &leaves);
            assert_eq!(left(&store), applied);
            lane.commit(&leaves).unwrap();
            assert!(left(&store));
            assert_eq!(store.state().rows.len(), 0, "the rows went with the shard");
            let accept = OwnershipRecord::Accept { transfer, from: node.clone(), rows: 0, hash: 0 };
            let returns = [own(0, 3, 1, &accept)];
            store.begin_staging(ShardId(0), Epoch(3), transfer).unwrap();
            for fault in 0..3 {
                match fault {
                    0 => store.faults().fail(LaneId(0)),
                    1 => store.faults().hang(LaneId(0)),
                    _ => break,
                }
                assert!(lane.commit(&returns).is_err());
                store.faults().release(LaneId(0));
                store.stage(ShardId(0), Epoch(3), transfer, &[]).expect("it is staged as before");
            }
            unknown(&mut *lane, &returns);
            lane.commit(&returns).unwrap();
            lane.commit(&returns).unwrap();
            assert_eq!(store.owned().unwrap()[0].epoch, Epoch(3));
        }
    }

    #[test]
    fn a_lane_that_hangs_answers_nothing_until_it_is_released() {
        let store = store();
        let (mut even, mut odd) = (store.open_lane(LaneId(0)), store.open_lane(LaneId(1)));
        store.faults().hang(LaneId(1));
        for _ in 0..3 {
            assert!(matches!(odd.commit(&[batch(3, 1)]), Err(CommitError::Unknown(_))));
        }
        even.commit(&[batch(0, 1)]).unwrap();
        assert_eq!(number(&store, 3), 0);
        store.faults().release(LaneId(1));
        odd.commit(&[batch(3, 1)]).unwrap();
    }

    #[test]
    fn a_lane_that_died_stays_dead_until_the_restart() {
        let store = store();
        let mut lane = store.open_lane(LaneId(0));
        store.faults().die(LaneId(0));
        for _ in 0..2 {
            assert!(matches!(lane.commit(&[batch(0, 1)]), Err(CommitError::Fatal(_))));
        }
        let restarted = store.restart();
        assert!(matches!(lane.commit(&[batch(0, 1)]), Err(CommitError::Fatal(_))), "the lane of before");
        restarted.open_lane(LaneId(0)).commit(&[batch(0, 1)]).unwrap();
    }

    #[test]
    fn a_shard_that_another_owner_had_is_fenced_and_keeps_its_rows() {
        let store = store();
        let mut lane = store.open_lane(LaneId(0));
        lane.commit(&[batch(0, 1)]).unwrap();
        store.faults().advance_epoch(ShardId(0));
        assert!(matches!(lane.commit(&[batch(0, 2)]), Err(CommitError::Fenced(ShardId(0)))));
        assert!(matches!(store.load_shard(ShardId(0), Epoch(1)), Err(LoadError::NotOwned(_))));
        assert_eq!(store.load_shard(ShardId(0), Epoch(2)).unwrap(), [(vec![1], vec![1])]);
        lane.commit(&[batch(2, 1)]).unwrap();
    }

    #[test]
    fn a_lagging_store_shows_what_was_committed_only_after_maintenance() {
        let store = MemoryStore::lagging(Shards::new(1).unwrap(), 1);
        let position = store.open_lane(LaneId(0)).commit(&[batch(0, 1)]).unwrap();
        assert!(store.loadable(LaneId(0)) < position && store.wants_maintenance());
        assert_eq!(store.load_shard(ShardId(0), Epoch(1)).unwrap(), []);
        store.maintain().unwrap();
        assert_eq!(store.loadable(LaneId(0)), position);
        assert_eq!(store.load_shard(ShardId(0), Epoch(1)).unwrap().len(), 1);
    }
}
