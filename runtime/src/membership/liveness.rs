//! Who is alive: foca, with its timers inside, so that a ring needs only ticks.

use super::{
    MembershipSettings,
    entry::NodeEntry,
    packet::{Codec, Id, PACKET_LEN_MAX},
};
use crate::timestamp::Timestamp;
use foca::{Config, Foca, Identity, Member, NoCustomBroadcast, Notification, PeriodicParams, Timer};
use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU8, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

/// Ticks further apart than this: the process stood still, and so did its ears.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// How many packets carry a change before it is held to be known.
const TRANSMISSIONS: u8 = 10;
/// How many nodes are asked to reach one that does not answer; also how many a change is told at once.
const INDIRECT_PROBES: usize = 3;
/// How often one other node is asked for all it knows to be alive.
const FEED_PERIOD: Duration = Duration::from_secs(5);

/// A packet and who it is for.
pub(super) type Outgoing = (Id, Vec<u8>);

/// What this node holds of the others' being alive. A hint: nothing that is durable reads it.
pub(super) struct Liveness {
    foca: Foca<Id, Codec, Xoshiro256PlusPlus, NoCustomBroadcast>,
    /// By due time, then by the order in which they were asked for.
    timers: BTreeMap<(Timestamp, u64), Timer<Id>>,
    timers_set: u64,
    last_tick: Timestamp,
    /// Stores of the nodes that answer.
    alive: BTreeSet<u128>,
    has_changed: bool,
    errors: u64,
}

impl Liveness {
    pub(super) fn new(own: Arc<NodeEntry>, settings: &MembershipSettings, seed: u64, now: Timestamp) -> Self {
        let random = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self {
            foca: Foca::new(Id(own), config(settings), random, Codec),
            timers: BTreeMap::new(),
            timers_set: 0,
            last_tick: now,
            alive: BTreeSet::new(),
            has_changed: false,
            errors: 0,
        }
    }

    /// This node's entry. foca raises its revision when others take a living node for down.
    pub(super) fn own(&self) -> &Arc<NodeEntry> {
        &self.foca.identity().0
    }

    pub(super) fn is_alive(&self, store: u128) -> bool {
        self.alive.contains(&store)
    }

    /// Whether somebody became alive, or ceased to be, since this was asked last.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Whether no other node is known to be alive.
    pub(super) fn is_alone(&self) -> bool {
        self.foca.num_members() == 0
    }

    /// Packets and timers foca could do nothing with: late ones, mostly.
    pub(super) fn errors(&self) -> u64 {
        self.errors
    }

    /// A packet that was looked through.
    pub(super) fn packet(&mut self, bytes: &[u8], now: Timestamp) -> Vec<Outgoing> {
        self.run(now, |foca, out| foca.handle_data(bytes, out))
    }

    /// Asks a node for all it knows to be alive.
    pub(super) fn announce(&mut self, to: Arc<NodeEntry>, now: Timestamp) -> Vec<Outgoing> {
        self.run(now, |foca, out| foca.announce(Id(to), out))
    }

    /// This node says something else of itself.
    pub(super) fn change(&mut self, own: NodeEntry, now: Timestamp) -> Vec<Outgoing> {
        self.run(now, |foca, out| foca.change_identity(Id(Arc::new(own)), out))
    }

    /// Tells the others that this node is going.
    pub(super) fn leave(&mut self, now: Timestamp) -> Vec<Outgoing> {
        self.run(now, |foca, out| foca.leave_cluster(out))
    }

    /// A store was forgotten: it is never alive again.
    pub(super) fn bury(&mut self, entry: Arc<NodeEntry>, now: Timestamp) -> Vec<Outgoing> {
        self.run(now, |foca, out| foca.apply_many(std::iter::once(Member::down(Id(entry))), true, out))
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Timestamp) -> Vec<Outgoing> {
        let pause = now.since(std::mem::replace(&mut self.last_tick, now));
        if pause > PAUSE_MIN {
            // What was sent to this node while it stood still has not been read yet. Every answer may take as long as
            // if no time had passed, or a node that wakes would take its neighbours for dead.
            let timers = std::mem::take(&mut self.timers);
            let missed = pause.saturating_sub(PAUSE_MIN);
            let later = |((due, number), timer)| ((due + missed, number), timer);
            self.timers = timers.into_iter().map(later).collect();
        }
        let mut sends = Vec::new();
        while let Some(first) = self.timers.first_entry().filter(|first| first.key().0 <= now) {
            let timer = first.remove();
            sends.extend(self.run(now, |foca, out| foca.handle_timer(timer, out)));
        }
        sends
    }

    fn run(
        &mut self,
        now: Timestamp,
        call: impl FnOnce(
            &mut Foca<Id, Codec, Xoshiro256PlusPlus, NoCustomBroadcast>,
            &mut Out,
        ) -> Result<(), foca::Error>,
    ) -> Vec<Outgoing> {
        let mut out = Out::default();
        let before = self.foca.identity().clone();
        let mut has_failed = call(&mut self.foca, &mut out).is_err();
        if *self.foca.identity() != before {
            // Under another identity foca looks after nobody until it hears of somebody alive; this makes it go on at once.
            has_failed |= self.foca.apply_many(std::iter::empty(), false, &mut out).is_err();
        }
        self.errors += u64::from(has_failed);
        for (store, is_alive) in out.turns {
            self.has_changed |= if is_alive { self.alive.insert(store) } else { self.alive.remove(&store) };
        }
        for (timer, after) in out.timers {
            if let Timer::ProbeRandomMember(token) = timer {
                // foca ignores timers of an older token. Dropping them bounds what others can make it set.
                self.timers.retain(|_, timer| token_of(timer) == Some(token));
            }
            self.timers_set += 1;
            self.timers.insert((now + after, self.timers_set), timer);
        }
        out.sends
    }
}

fn token_of(timer: &Timer<Id>) -> Option<u8> {
    match timer {
        Timer::ProbeRandomMember(token)
        | Timer::SendIndirectProbe { token, .. }
        | Timer::ChangeSuspectToDown { token, .. }
        | Timer::PeriodicAnnounce(token)
        | Timer::PeriodicAnnounceDown(token)
        | Timer::PeriodicGossip(token) => Some(*token),
        Timer::RemoveDown(_) => None,
    }
}

fn config(settings: &MembershipSettings) -> Config {
    let indirect = NonZeroUsize::new(INDIRECT_PROBES).expect("not zero");
    let one = NonZeroUsize::MIN;
    Config {
        probe_period: settings.probe_period,
        probe_rtt: settings.probe_timeout,
        num_indirect_probes: indirect,
        max_transmissions: NonZeroU8::new(TRANSMISSIONS).expect("not zero"),
        suspect_to_down_after: settings.suspicion,
        // Down nodes are never forgotten: they come back with a higher boot or revision, and are bounded.
        remove_down_after: None,
        max_packet_size: NonZeroUsize::new(PACKET_LEN_MAX).expect("not zero"),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams { frequency: FEED_PERIOD, num_members: one }),
        periodic_announce_to_down_members: Some(PeriodicParams {
            frequency: settings.announce_to_down_period,
            num_members: indirect,
        }),
        periodic_gossip: Some(PeriodicParams { frequency: settings.gossip_period, num_members: indirect }),
    }
}

/// What foca asks for in one call.
#[derive(Default)]
struct Out {
    sends: Vec<Outgoing>,
    timers: Vec<(Timer<Id>, Duration)>,
    /// Stores that became alive or ceased to be.
    turns: Vec<(u128, bool)>,
}

impl foca::Runtime<Id> for Out {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        match notification {
            Notification::MemberUp(id) => self.turns.push((id.addr(), true)),
            Notification::MemberDown(id) => self.turns.push((id.addr(), false)),
            // A changed entry is learned from the packet itself, and the own one is asked for.
            _ => {}
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Id>, after: Duration) {
        self.timers.push((timer, after));
    }
}
