//! The world of the tests: processes, their disks, and what lies between them.

use super::super::*;
use super::entry;
use crate::{placement::NodeName, timestamp::Timestamp};
use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// One process, by the order of its first start. Two may have one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process(pub(super) usize);

struct Running {
    /// `None` while it is crashed.
    membership: Option<Membership>,
    /// What it says of itself at the start of its present run.
    entry: NodeEntry,
    seeds: Vec<String>,
    disk: Known,
    /// Processes it can send to.
    links: BTreeSet<Process>,
    /// While it stands still: what has happened to it.
    held: Option<VecDeque<Due>>,
    /// Which side of the cut it is on.
    side: bool,
    /// It hears nothing, and is heard.
    deaf: bool,
    /// How many of its next messages are lost.
    lose: usize,
}

/// What happens to a process.
#[derive(Debug, Clone)]
enum Due {
    Event(MembershipEvent),
    /// The disk has taken these bytes.
    Written(u64, Vec<u8>),
}

/// Two processes that say who they are.
struct Handshake {
    dialled: Process,
    dialling: Process,
    /// Boot counters of both.
    boots: (u64, u64),
    admitted: [bool; 2],
}

pub(super) struct Network {
    pub(super) lose_per_mille: u32,
    pub(super) repeat_per_mille: u32,
    /// What each process has told its log.
    pub(super) told: Vec<(Process, IdentityRefusal)>,
    /// What operators were told is forgotten.
    pub(super) forgotten: Vec<(NodeName, u128)>,
    now: Timestamp,
    random: Xoshiro256PlusPlus,
    processes: Vec<Running>,
    /// By time and order; each for one run of its process.
    queue: BTreeMap<(Timestamp, u64), (Process, u64, Due)>,
    queued: u64,
    handshakes: BTreeMap<u64, Handshake>,
    rejected: Vec<(Process, IdentityRefusal)>,
    trace: u64,
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            lose_per_mille: 0,
            repeat_per_mille: 0,
            told: Vec::new(),
            forgotten: Vec::new(),
            now: Timestamp::from_millis(1_000_000),
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            processes: Vec::new(),
            queue: BTreeMap::new(),
            queued: 0,
            handshakes: BTreeMap::new(),
            rejected: Vec::new(),
            trace: seed,
        }
    }

    pub(super) fn start(&mut self, name: &str, seeds: &[&str]) -> Process {
        let entry = entry(name, 1, 0);
        self.start_entry(entry, seeds)
    }

    /// A process under a name whose store is given; it listens at an address of its own.
    pub(super) fn start_as(&mut self, name: &str, store: u128, seeds: &[&str]) -> Process {
        let address = format!("other-{name}-{}:7001", self.processes.len());
        self.start_entry(NodeEntry { store, address, ..entry(name, 1, 0) }, seeds)
    }

    fn start_entry(&mut self, entry: NodeEntry, seeds: &[&str]) -> Process {
        let process = Process(self.processes.len());
        self.processes.push(Running {
            membership: None,
            entry: NodeEntry { boot: 0, ..entry },
            seeds: seeds.iter().map(|name| format!("{name}:7001")).collect(),
            disk: Known::default(),
            links: BTreeSet::new(),
            held: None,
            side: false,
            deaf: false,
            lose: 0,
        });
        self.restart(process);
        process
    }

    pub(super) fn restart(&mut self, process: Process) {
        self.processes[process.0].entry.boot += 1;
        self.run_again(process);
    }

    /// Starts a process from a copy of its directory as it was before its last start.
    pub(super) fn restart_as_older_copy(&mut self, process: Process) {
        self.processes[process.0].entry.boot -= 1;
        self.processes[process.0].disk = Known::default();
        self.run_again(process);
    }

    fn run_again(&mut self, process: Process) {
        let seed = self.random.random();
        let running = &mut self.processes[process.0];
        assert!(running.membership.is_none(), "it runs already");
        let settings = MembershipSettings::default();
        let membership =
            Membership::new(settings, running.entry.clone(), running.disk.clone(), seed, self.now).unwrap();
        running.membership = Some(membership);
        let seeds = running.seeds.clone();
        self.step(process, MembershipEvent::Join { seeds });
    }

    /// The process is gone, and the ends of its connections notice.
    pub(super) fn crash(&mut self, process: Process) {
        let running = &mut self.processes[process.0];
        running.membership = None;
        running.links.clear();
        running.held = None;
        let (name, boot) = (running.entry.name.clone(), running.entry.boot);
        self.handshakes.retain(|_, shake| shake.dialled != process && shake.dialling != process);
        for other in (0..self.processes.len()).map(Process) {
            if self.processes[other.0].links.remove(&process) {
                let event = MembershipEvent::Disconnected { name: name.clone(), boot };
                self.later(other, 2, Due::Event(event));
            }
        }
    }

    /// The process stands still: nothing it is sent is lost, nothing is answered.
    pub(super) fn pause(&mut self, process: Process) {
        self.processes[process.0].held = Some(VecDeque::new());
    }

    pub(super) fn resume(&mut self, process: Process) {
        let held = self.processes[process.0].held.take().expect("it stood still");
        self.step(process, MembershipEvent::Tick);
        for due in held {
            self.happen(process, due);
        }
    }

    /// Nothing passes any more between these and the others, and no connection notices.
    pub(super) fn split(&mut self, side: &[Process]) {
        for process in side {
            self.processes[process.0].side = true;
        }
    }

    /// Puts one more process on the side of those that were split off.
    pub(super) fn join_side(&mut self, process: Process) {
        self.split(&[process]);
    }

    /// Cuts one direction: what is sent to this process is lost.
    pub(super) fn deafen(&mut self, process: Process) {
        self.processes[process.0].deaf = true;
    }

    pub(super) fn heal(&mut self) {
        for process in &mut self.processes {
            process.side = false;
            process.deaf = false;
        }
    }

    pub(super) fn lose_next_of(&mut self, process: Process, count: usize) {
        self.processes[process.0].lose = count;
    }

    pub(super) fn view(&self, process: Process) -> &Arc<View> {
        self.processes[process.0].membership.as_ref().expect("it runs").view()
    }

    pub(super) fn sees_alive(&self, process: Process, name: &str) -> bool {
        self.view(process).get(&name.parse().unwrap()).is_some_and(|node| node.is_alive)
    }

    fn running(&self) -> impl Iterator<Item = &Membership> {
        self.processes.iter().filter_map(|process| process.membership.as_ref())
    }

    /// Whether every running node sees `count` nodes alive.
    pub(super) fn all_see_alive(&self, count: usize) -> bool {
        self.running().all(|node| node.view().nodes().filter(|(_, node)| node.is_alive).count() == count)
    }

    /// Whether all running nodes know the same, and show it.
    pub(super) fn have_settled(&self) -> bool {
        let mut digests = self.running().map(|node| (node.known().digest(), node.view().digest()));
        digests.next().is_none_or(|first| digests.all(|digest| digest == first))
    }

    pub(super) fn all_but(&self, process: Process, holds: impl Fn(&View) -> bool) -> bool {
        let processes = self.processes.iter().enumerate().filter(|(number, _)| *number != process.0);
        processes.filter_map(|(_, running)| running.membership.as_ref()).all(|node| holds(node.view()))
    }

    /// Why a process was not let in, in the order in which it was told.
    pub(super) fn refusals_of(&self, process: Process) -> Vec<IdentityRefusal> {
        let own = self.rejected.iter().filter(|(rejected, _)| *rejected == process);
        own.map(|(_, refusal)| refusal.clone()).collect()
    }

    /// A hash of all that was done.
    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    /// Lets time pass until it is so.
    ///
    /// # Panics
    /// It does not become so in this time.
    pub(super) fn until(&mut self, within: Duration, is_so: impl Fn(&Self) -> bool) {
        let end = self.now + within;
        while !is_so(self) {
            assert!(self.now < end, "not within {within:?}");
            self.run(Duration::from_millis(20));
        }
    }

    /// Lets time pass, with a tick for everybody each 20 ms.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let tick = self.now + Duration::from_millis(20);
            while let Some(first) = self.queue.first_entry().filter(|first| first.key().0 <= tick) {
                self.now = self.now.max(first.key().0);
                let (process, boot, due) = first.remove();
                if self.processes[process.0].entry.boot == boot {
                    self.happen(process, due);
                }
            }
            self.now = tick;
            for process in (0..self.processes.len()).map(Process) {
                if self.processes[process.0].held.is_none() {
                    self.step(process, MembershipEvent::Tick);
                }
            }
        }
    }

    fn happen(&mut self, process: Process, due: Due) {
        if let Some(held) = &mut self.processes[process.0].held {
            held.push_back(due);
            return;
        }
        match due {
            Due::Event(event) => {
                self.step(process, event);
            }
            Due::Written(number, bytes) => {
                self.processes[process.0].disk = Known::decode(&bytes).unwrap();
                self.step(process, MembershipEvent::Kept(number));
            }
        }
    }

    /// Steps one process and does what it asks for; returns that too.
    pub(super) fn step(&mut self, process: Process, event: MembershipEvent) -> Vec<MembershipAction> {
        let Some(membership) = &mut self.processes[process.0].membership else { return Vec::new() };
        let actions = membership.step(event, self.now);
        if actions.contains(&MembershipAction::ViewChanged) {
            self.check_view(process);
        }
        for action in &actions {
            let text = format!("{process:?} {action:?}");
            self.trace = xxhash_rust::xxh3::xxh3_64_with_seed(text.as_bytes(), self.trace);
            self.act(process, action.clone());
        }
        actions
    }

    /// What is shown is what a restart would find again: nobody under a store or in a run that the disk does not hold.
    fn check_view(&self, process: Process) {
        let disk = &self.processes[process.0].disk;
        for (name, node) in self.view(process).nodes().filter(|(name, _)| *name != self.name_of(process)) {
            let kept =
                disk.get(name).unwrap_or_else(|| panic!("{process:?} shows {name}, which is on no disk"));
            assert_eq!(kept.store, node.entry.store, "{process:?} shows another store of {name}");
            assert!(node.entry.boot <= kept.boot, "{process:?} shows a run of {name} that is on no disk");
        }
    }

    fn name_of(&self, process: Process) -> &NodeName {
        &self.processes[process.0].entry.name
    }

    pub(super) fn is_running(&self, process: Process) -> bool {
        self.processes[process.0].membership.is_some()
    }

    pub(super) fn is_paused(&self, process: Process) -> bool {
        self.processes[process.0].held.is_some()
    }

    /// A number below `bound`, of the seed.
    pub(super) fn draw(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound)
    }

    fn act(&mut self, process: Process, action: MembershipAction) {
        match action {
            MembershipAction::Admit { ticket } => self.admit(process, ticket),
            MembershipAction::Reject { ticket, refusal } => {
                if let Some(shake) = self.handshakes.remove(&(ticket / 2)) {
                    let rejected = if shake.dialled == process { shake.dialling } else { shake.dialled };
                    self.rejected.push((rejected, refusal));
                }
            }
            MembershipAction::Send { to, bytes } => {
                let from = self.processes[process.0].entry.name.clone();
                self.send(process, &to, &MembershipEvent::Packet { from, bytes: Bytes::from(bytes) });
            }
            MembershipAction::SendExchange { to, exchange } => {
                let from = self.processes[process.0].entry.name.clone();
                let exchange = Exchange::decode(&exchange.encode()).unwrap();
                self.send(process, &to, &MembershipEvent::Exchange { from, exchange });
            }
            MembershipAction::Dial { address, .. } => self.dial(process, &address),
            MembershipAction::HangUp(name) => {
                let named: Vec<_> = self.processes.iter().map(|other| other.entry.name == name).collect();
                self.processes[process.0].links.retain(|other| !named[other.0]);
            }
            MembershipAction::Keep { number, bytes } => self.later(process, 3, Due::Written(number, bytes)),
            MembershipAction::Forgotten { name, store } => self.forgotten.push((name, store)),
            MembershipAction::Refused(refusal) => self.told.push((process, refusal)),
            MembershipAction::ViewChanged => {}
        }
    }

    fn later(&mut self, process: Process, millis: u64, due: Due) {
        let boot = self.processes[process.0].entry.boot;
        self.queued += 1;
        let at = self.now + Duration::from_millis(millis);
        self.queue.insert((at, self.queued), (process, boot, due));
    }

    fn send(&mut self, from: Process, to: &NodeName, event: &MembershipEvent) {
        let mut links = self.processes[from.0].links.iter().copied();
        let Some(to) = links.find(|link| self.processes[link.0].entry.name == *to) else { return };
        let lose = &mut self.processes[from.0].lose;
        if *lose > 0 {
            *lose -= 1;
            return;
        }
        let is_lost = self.random.random_range(0..1_000) < self.lose_per_mille;
        let is_repeated = self.random.random_range(0..1_000) < self.repeat_per_mille;
        if is_lost || !self.passes(from, to) {
            return;
        }
        for _ in 0..=usize::from(is_repeated) {
            let millis = self.random.random_range(1..=20);
            self.later(to, millis, Due::Event(event.clone()));
        }
    }

    fn passes(&self, from: Process, to: Process) -> bool {
        self.processes[from.0].side == self.processes[to.0].side && !self.processes[to.0].deaf
    }

    fn both_pass(&self, one: Process, other: Process) -> bool {
        self.passes(one, other) && self.passes(other, one)
    }

    fn dial(&mut self, dialling: Process, address: &str) {
        let dialled = self.processes.iter().position(|other| other.entry.address == address).map(Process);
        let Some(dialled) =
            dialled.filter(|dialled| *dialled != dialling && self.both_pass(*dialled, dialling))
        else {
            return;
        };
        let under_way = |shake: &Handshake| shake.dialled == dialled && shake.dialling == dialling;
        let is_up = self.processes[dialled.0].membership.is_some();
        let is_linked = self.processes[dialling.0].links.contains(&dialled);
        if !is_up || is_linked || self.handshakes.values().any(under_way) {
            return;
        }
        self.queued += 1;
        let number = self.queued;
        let boots = (self.processes[dialled.0].entry.boot, self.processes[dialling.0].entry.boot);
        self.handshakes.insert(number, Handshake { dialled, dialling, boots, admitted: [false; 2] });
        for (ticket, door, guest) in [(2 * number, dialled, dialling), (2 * number + 1, dialling, dialled)] {
            let NodeEntry { name, store, boot, .. } = self.processes[guest.0].entry.clone();
            let hello = Hello { name, store, boot, position: 0 };
            self.later(door, 4, Due::Event(MembershipEvent::Hello { ticket, hello }));
        }
    }

    fn admit(&mut self, door: Process, ticket: u64) {
        let Some(shake) = self.handshakes.get_mut(&(ticket / 2)) else { return };
        let (guest, boot) = match ticket % 2 {
            0 => (shake.dialling, shake.boots.1),
            _ => (shake.dialled, shake.boots.0),
        };
        let guest = &self.processes[guest.0].entry;
        let kept = self.processes[door.0].disk.get(&guest.name).expect("who is let in is on the disk");
        assert!(kept.store == guest.store && boot <= kept.boot, "{door:?} let in {guest:?}, with {kept:?}");
        shake.admitted[(ticket % 2) as usize] = true;
        if shake.admitted == [true; 2] {
            let shake = self.handshakes.remove(&(ticket / 2)).unwrap();
            self.processes[shake.dialling.0].links.insert(shake.dialled);
            let name = self.processes[shake.dialled.0].entry.name.clone();
            let event = MembershipEvent::Connected { name, boot: shake.boots.0 };
            self.later(shake.dialling, 1, Due::Event(event));
        }
    }
}
