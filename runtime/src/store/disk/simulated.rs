//! A disk in memory that fails as disks do, the same way for the same seed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, DiskLock, LockError};

/// What a disk writes whole or not at all. The embedded store's format assumes it (`docs/format.md`).
const SECTOR: usize = 512;

/// How often each class of fault has happened, so that a test can tell that it met what it was written for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DiskFaults {
    /// Power losses, ordered or at a chosen operation.
    pub crashes: u64,
    /// Unsynced writes that a crash or a failed sync lost whole.
    pub writes_lost: u64,
    /// Unsynced writes of which some sectors were lost.
    pub writes_torn: u64,
    /// Names created, renamed or removed that a crash undid.
    pub names_lost: u64,
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Operations refused because the disk was full.
    pub refused_full: u64,
    /// Bits flipped.
    pub bits_flipped: u64,
}

/// A disk in memory. Clones are handles of one disk; a store opened on it sees what an earlier one left.
///
/// [`SimulatedDisk::crash`] is a loss of power: of what was not synced, a random part is kept, write by write and within
/// a write sector by sector; the same holds for names. [`SimulatedDisk::kill`] is the end of the process alone: what was
/// written stays visible. After either, every operation fails until [`SimulatedDisk::restart`], and files and locks
/// of before are dead.
#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    random: u64,
    files: Vec<Contents>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    /// Raised by each crash and kill; handles of an earlier life are dead.
    life: u64,
    down: bool,
    locked: bool,
    operations: u64,
    crash_at: Option<u64>,
    kill_at: Option<u64>,
    syncs: u64,
    fail_sync_at: Option<u64>,
    capacity: Option<u64>,
    faults: DiskFaults,
}

#[derive(Clone, Default)]
struct Contents {
    visible: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

impl SimulatedDisk {
    /// An empty disk whose faults follow from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: seed,
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            life: 0,
            down: false,
            locked: false,
            operations: 0,
            crash_at: None,
            kill_at: None,
            syncs: 0,
            fail_sync_at: None,
            capacity: None,
            faults: DiskFaults::default(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Loses power: what was not synced is lost in a random part, and everything fails until [`Self::restart`].
    pub fn crash(&self) {
        self.state().crash();
    }

    /// Ends the process that uses the disk; what it wrote stays visible, synced or not.
    pub fn kill(&self) {
        self.state().kill();
    }

    /// Lets the disk be used again after a crash or kill. Planned faults that have not happened are forgotten.
    pub fn restart(&self) {
        let mut state = self.state();
        state.down = false;
        state.crash_at = None;
        state.kill_at = None;
        state.fail_sync_at = None;
    }

    /// Plans a crash in the midst of the `nth` operation from now (1 is the next). Operations are what changes the
    /// disk: create, write, sync, rename, remove, sync of the directory.
    pub fn crash_at(&self, nth: u64) {
        let mut state = self.state();
        state.crash_at = Some(state.operations + nth);
    }

    /// Plans the end of the process just behind the `nth` operation from now, which is done but not reported.
    pub fn kill_at(&self, nth: u64) {
        let mut state = self.state();
        state.kill_at = Some(state.operations + nth);
    }

    /// Plans the failure of the `nth` sync of a file from now (1 is the next).
    pub fn fail_sync_at(&self, nth: u64) {
        let mut state = self.state();
        state.fail_sync_at = Some(state.syncs + nth);
    }

    /// Limits the bytes of all files, `None` for no limit. What is stored stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Flips one bit (0 to 7) of the byte at `offset` of a file, as a failing medium would: visibly and durably.
    ///
    /// # Errors
    /// There is no such file or byte.
    pub fn flip(&self, name: &str, offset: usize, bit: u32) -> io::Result<()> {
        let mut state = self.state();
        let index = state.find(name)?;
        let contents = &mut state.files[index];
        let mask = 1_u8 << (bit % 8);
        *contents.visible.get_mut(offset).ok_or(io::ErrorKind::UnexpectedEof)? ^= mask;
        if let Some(byte) = contents.durable.get_mut(offset) {
            *byte ^= mask;
        }
        state.faults.bits_flipped += 1;
        Ok(())
    }

    /// Cuts a file off at `len`.
    ///
    /// # Errors
    /// There is no such file.
    pub fn truncate(&self, name: &str, len: usize) -> io::Result<()> {
        let mut state = self.state();
        let index = state.find(name)?;
        state.files[index].visible.truncate(len);
        state.files[index].durable.truncate(len);
        state.files[index].unsynced.clear();
        Ok(())
    }

    /// What has happened so far.
    pub fn faults(&self) -> DiskFaults {
        self.state().faults
    }

    /// How many operations there were; see `crash_at`.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many syncs of files were asked for.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// A disk of its own with the same contents, names and unsynced writes, and the faults of another seed.
    pub fn fork(&self, seed: u64) -> Self {
        let state = self.state();
        let fork = Self::new(seed);
        {
            let mut copy = fork.state();
            copy.files.clone_from(&state.files);
            copy.names.clone_from(&state.names);
            copy.durable_names.clone_from(&state.durable_names);
            copy.unsynced_names.clone_from(&state.unsynced_names);
        }
        fork
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// `SplitMix64`: small, and the same on every machine.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn coin(&mut self) -> bool {
        self.random() & 1 == 0
    }

    fn check(&self, life: u64) -> io::Result<()> {
        if self.down || self.life != life {
            return Err(io::Error::other("the simulated disk is down"));
        }
        Ok(())
    }

    /// Counts an operation; true when the planned crash falls into it.
    fn begin(&mut self, life: u64) -> io::Result<bool> {
        self.check(life)?;
        self.operations += 1;
        Ok(self.crash_at == Some(self.operations))
    }

    fn end(&mut self, crashing: bool) -> io::Result<()> {
        if crashing {
            self.crash();
            return Err(io::Error::other("the simulated disk crashed"));
        }
        if self.kill_at == Some(self.operations) {
            self.kill();
            return Err(io::Error::other("the process was killed"));
        }
        Ok(())
    }

    fn kill(&mut self) {
        self.down = true;
        self.locked = false;
        self.life += 1;
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        self.names.values().map(|index| self.files[*index].visible.len() as u64).sum()
    }

    fn grow(&mut self, more: u64) -> io::Result<()> {
        if self.capacity.is_some_and(|capacity| more > 0 && self.used() + more > capacity) {
            self.faults.refused_full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn crash(&mut self) {
        self.faults.crashes += 1;
        self.down = true;
        self.locked = false;
        self.life += 1;
        for index in 0..self.files.len() {
            self.lose_unsynced(index);
            self.files[index].visible = self.files[index].durable.clone();
        }
        for change in std::mem::take(&mut self.unsynced_names) {
            if self.coin() {
                self.faults.names_lost += 1;
                continue;
            }
            match change {
                NameChange::Create(name, index) => drop(self.durable_names.insert(name, index)),
                NameChange::Rename(from, to, index) => {
                    self.durable_names.remove(&from);
                    self.durable_names.insert(to, index);
                }
                NameChange::Remove(name) => drop(self.durable_names.remove(&name)),
            }
        }
        self.names = self.durable_names.clone();
    }

    /// Makes a random part of a file's unsynced writes durable and forgets the rest.
    fn lose_unsynced(&mut self, index: usize) {
        for (at, bytes) in std::mem::take(&mut self.files[index].unsynced) {
            match self.random() % 3 {
                0 => self.faults.writes_lost += 1,
                1 => self.files[index].keep(at, &bytes),
                _ => {
                    self.faults.writes_torn += 1;
                    let mut from = 0;
                    while from < bytes.len() {
                        // The next sector border of the file, not of the write.
                        let to = bytes.len().min(from + SECTOR - (at + from) % SECTOR);
                        if self.coin() {
                            self.files[index].keep(at + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
    }
}

impl Contents {
    fn show(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.visible, at, bytes);
    }

    fn keep(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.durable, at, bytes);
    }
}

fn put(target: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if target.len() < end {
        target.resize(end, 0);
    }
    target[at..end].copy_from_slice(bytes);
}

impl Disk for SimulatedDisk {
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let life = state.life;
        state.check(life)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.grow(len)?;
        let crashing = state.begin(life)?;
        let index = state.files.len();
        let zeros = vec![0; offset(len)];
        state.files.push(Contents {
            visible: zeros.clone(),
            durable: Vec::new(),
            unsynced: vec![(0, zeros)],
        });
        state.names.insert(name.to_owned(), index);
        state.unsynced_names.push(NameChange::Create(name.to_owned(), index));
        state.end(crashing)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), index, life }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        let life = state.life;
        state.check(life)?;
        let index = state.find(name)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), index, life }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.check(life)?;
        let index = state.find(from)?;
        let crashing = state.begin(life)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), index);
        state.unsynced_names.push(NameChange::Rename(from.to_owned(), to.to_owned(), index));
        state.end(crashing)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        state.check(life)?;
        state.find(name)?;
        let crashing = state.begin(life)?;
        state.names.remove(name);
        state.unsynced_names.push(NameChange::Remove(name.to_owned()));
        state.end(crashing)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.check(state.life)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        let life = state.life;
        let crashing = state.begin(life)?;
        if !crashing {
            state.unsynced_names.clear();
            state.durable_names = state.names.clone();
        }
        state.end(crashing)
    }

    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError> {
        let mut state = self.state();
        let life = state.life;
        state.check(life)?;
        if std::mem::replace(&mut state.locked, true) {
            return Err(LockError::Held(None));
        }
        Ok(Box::new(SimulatedLock { disk: self.clone(), life }))
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    index: usize,
    life: u64,
}

/// Offsets come from `usize` lengths of buffers in memory.
fn offset(at: u64) -> usize {
    usize::try_from(at).expect("a simulated file fits in memory")
}

impl DiskFile for SimulatedFile {
    fn byte_len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.check(self.life)?;
        Ok(state.files[self.index].visible.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let state = self.disk.state();
        state.check(self.life)?;
        let visible = &state.files[self.index].visible;
        let from = offset(at).min(visible.len());
        let there = bytes.len().min(visible.len() - from);
        bytes[..there].copy_from_slice(&visible[from..from + there]);
        bytes[there..].fill(0);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.check(self.life)?;
        let at = offset(at);
        let more = (at + bytes.len()).saturating_sub(state.files[self.index].visible.len());
        state.grow(more as u64)?;
        let crashing = state.begin(self.life)?;
        let contents = &mut state.files[self.index];
        contents.show(at, bytes);
        contents.unsynced.push((at, bytes.to_vec()));
        state.end(crashing)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let crashing = state.begin(self.life)?;
        state.syncs += 1;
        if crashing {
            return state.end(crashing);
        }
        if state.fail_sync_at == Some(state.syncs) {
            state.faults.syncs_failed += 1;
            // As Linux does: the pages count as clean although the disk has only a part of them.
            state.lose_unsynced(self.index);
            return Err(io::Error::other("the simulated disk failed to sync"));
        }
        let contents = &mut state.files[self.index];
        for (at, bytes) in std::mem::take(&mut contents.unsynced) {
            contents.keep(at, &bytes);
        }
        state.end(crashing)
    }
}

struct SimulatedLock {
    disk: SimulatedDisk,
    life: u64,
}

impl DiskLock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locked = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_unsynced(disk: &SimulatedDisk) -> Vec<u8> {
        let file = disk.create("file", 8 * SECTOR as u64).unwrap();
        file.sync_data().unwrap();
        disk.sync_directory().unwrap();
        file.write_at(&[7; 6 * SECTOR], 100).unwrap();
        disk.crash();
        disk.restart();
        crate::store::disk::read_whole(&*disk.open("file").unwrap()).unwrap()
    }

    #[test]
    fn a_crash_is_the_same_for_the_same_seed() {
        for seed in 0..20 {
            let first = write_unsynced(&SimulatedDisk::new(seed));
            assert_eq!(first, write_unsynced(&SimulatedDisk::new(seed)));
        }
    }

    #[test]
    fn a_crash_loses_keeps_and_tears_unsynced_writes() {
        let mut seen = DiskFaults::default();
        let mut whole = 0;
        for seed in 0..50 {
            let disk = SimulatedDisk::new(seed);
            let bytes = write_unsynced(&disk);
            whole += u32::from(bytes[100..100 + 6 * SECTOR].iter().all(|byte| *byte == 7));
            seen.writes_lost += disk.faults().writes_lost;
            seen.writes_torn += disk.faults().writes_torn;
        }
        assert!(seen.writes_lost > 0 && seen.writes_torn > 0 && whole > 0, "{seen:?}, {whole} whole");
    }

    #[test]
    fn synced_writes_and_names_survive_and_a_name_without_a_directory_sync_may_not() {
        let mut lost = 0;
        for seed in 0..20 {
            let disk = SimulatedDisk::new(seed);
            let kept = disk.create("kept", 10).unwrap();
            kept.write_at(b"abc", 3).unwrap();
            kept.sync_data().unwrap();
            disk.sync_directory().unwrap();
            disk.create("risked", 10).unwrap().sync_data().unwrap();
            disk.crash();
            assert!(disk.list().is_err(), "down until the restart");
            disk.restart();
            assert!(kept.byte_len().is_err(), "a handle of before is dead");
            let bytes = crate::store::disk::read_whole(&*disk.open("kept").unwrap()).unwrap();
            assert_eq!(bytes, b"\0\0\0abc\0\0\0\0");
            lost += u32::from(disk.open("risked").is_err());
        }
        assert!(lost > 0);
    }

    #[test]
    fn what_a_failed_sync_lost_stays_visible_until_power_is_lost() {
        let disk = SimulatedDisk::new(3);
        let mut lost = 0;
        for round in 0..20 {
            let name = round.to_string();
            let file = disk.create(&name, 10).unwrap();
            file.sync_data().unwrap();
            disk.sync_directory().unwrap();
            disk.fail_sync_at(1);
            file.write_at(b"x", 0).unwrap();
            file.sync_data().unwrap_err();
            file.sync_data().unwrap();
            disk.kill();
            disk.restart();
            let byte = |disk: &SimulatedDisk| {
                let mut byte = [0];
                disk.open(&name).unwrap().read_at(&mut byte, 0).unwrap();
                byte[0]
            };
            assert_eq!(byte(&disk), b'x');
            disk.crash();
            disk.restart();
            lost += u32::from(byte(&disk) == 0);
        }
        assert!(lost > 0);
        assert_eq!(disk.faults().syncs_failed, 20);
    }

    #[test]
    fn a_full_disk_refuses_and_takes_again_after_a_removal() {
        let disk = SimulatedDisk::new(0);
        disk.set_capacity(Some(100));
        disk.create("a", 80).unwrap();
        let refused = disk.create("b", 21).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        disk.remove("a").unwrap();
        disk.create("b", 21).unwrap();
        assert_eq!((disk.faults().refused_full, disk.used()), (1, 21));
    }
}
