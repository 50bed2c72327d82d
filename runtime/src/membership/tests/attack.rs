//! What a broken node can do to one that has let it in, and what it cannot.

use super::super::*;
use super::entry;
use crate::{
    membership::packet::{Id, Packet},
    placement::NodeName,
    timestamp::Timestamp,
};
use bytes::Bytes;
use foca::{Header, Member, Message, State};
use proptest::prelude::*;
use std::{sync::Arc, time::Duration};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// A node "own" that has let in "n1" and "n2" in their second run, and can send to both.
fn victim() -> Membership {
    let settings = MembershipSettings::default();
    let mut victim = Membership::new(settings, entry("own", 3, 0), Known::default(), 1, NOW).unwrap();
    for (ticket, guest) in [(1, entry("n1", 2, 0)), (2, entry("n2", 2, 0))] {
        let hello = Hello { name: guest.name.clone(), store: guest.store, boot: guest.boot, position: 0 };
        let mut actions = victim.step(MembershipEvent::Hello { ticket, hello }, NOW);
        while let Some(number) = keep(&actions) {
            actions = victim.step(MembershipEvent::Kept(number), NOW);
        }
        victim.step(MembershipEvent::Connected { name: guest.name.clone(), boot: guest.boot }, NOW);
        let said = Exchange::Entries { entries: vec![guest.clone()], forgotten: Vec::new(), answer: false };
        let actions = hear(&mut victim, guest.name.as_str(), said);
        victim.step(MembershipEvent::Kept(keep(&actions).expect("a first entry is kept")), NOW);
    }
    assert_eq!(victim.view().nodes().count(), 3);
    victim
}

fn keep(actions: &[MembershipAction]) -> Option<u64> {
    actions.iter().find_map(|action| match action {
        MembershipAction::Keep { number, .. } => Some(*number),
        _ => None,
    })
}

fn hear(victim: &mut Membership, from: &str, exchange: Exchange) -> Vec<MembershipAction> {
    victim.step(MembershipEvent::Exchange { from: name(from), exchange }, NOW)
}

fn told(entries: Vec<NodeEntry>) -> Exchange {
    Exchange::Entries { entries, forgotten: Vec::new(), answer: false }
}

fn packet(from: &NodeEntry, to: &NodeEntry, message: Message<Id>, members: Vec<Member<Id>>) -> Bytes {
    let (src, dst) = (Id(Arc::new(from.clone())), Id(Arc::new(to.clone())));
    let header = Header { src, src_incarnation: 0, dst, message };
    Bytes::from(Packet::new(header, members).seal())
}

fn refusals(actions: &[MembershipAction]) -> Vec<&IdentityRefusal> {
    let refused = actions.iter().filter_map(|action| match action {
        MembershipAction::Refused(refusal) => Some(refusal),
        _ => None,
    });
    refused.collect()
}

#[test]
fn a_packet_counts_for_who_has_sent_it() {
    let mut victim = victim();
    let own = victim.own().clone();
    let forged = NodeEntry { weight: 9, ..entry("n1", 2, 7) };
    let bytes = packet(&forged, &own, Message::Gossip, Vec::new());
    victim.step(MembershipEvent::Packet { from: name("n2"), bytes: bytes.clone() }, NOW);
    assert_eq!(victim.counters().packets_refused, 1);
    assert_eq!(victim.view().ring_members()["n1"], 1);
    // From itself it is news.
    victim.step(MembershipEvent::Packet { from: name("n1"), bytes }, NOW);
    assert_eq!(victim.view().ring_members()["n1"], 9);
}

/// n2 cannot be told that it is taken for down, and n1 can: with a cluster of these, a node went on holding a gone one for alive, and
/// heard of nobody any more.
#[test]
fn a_node_that_comes_back_under_a_new_revision_goes_on_looking_after_the_others() {
    let mut victim = victim();
    let (own, [n1, n2]) = (entry("own", 3, 0), ["n1", "n2"].map(|name| entry(name, 2, 0)));
    let mut hear = |from: &NodeEntry, message, members| {
        let bytes = packet(from, &own, message, members);
        victim.step(MembershipEvent::Packet { from: from.name.clone(), bytes }, NOW);
    };
    let down = Member::down(Id(Arc::new(n1.clone())));
    hear(&n2, Message::Gossip, vec![down]);
    hear(&n1, Message::TurnUndead, Vec::new());
    let alive = |victim: &Membership| {
        victim
            .view()
            .nodes()
            .filter(|(_, node)| node.is_alive)
            .map(|(name, _)| name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(alive(&victim), ["n2", "own"]);
    assert!(0 < victim.own().rev, "it has come back");
    // Nobody says anything any more.
    let mut now = NOW;
    while alive(&victim).len() > 1 {
        now = now + Duration::from_millis(100);
        victim.step(MembershipEvent::Tick, now);
        assert!(now < NOW + Duration::from_mins(1), "it holds {:?} for alive", alive(&victim));
    }
    // So it asks whoever it can send to.
    let actions = victim.step(MembershipEvent::Tick, now + MembershipSettings::default().announce_period);
    assert!(actions.iter().any(|action| matches!(action, MembershipAction::Send { .. })), "{actions:?}");
}

#[test]
fn no_bytes_are_more_than_counted() {
    let mut victim = victim();
    for (byte, len) in [(0, 0), (1, 1), (0xff, 4), (1, 4_000), (0, 40_000)] {
        let bytes = Bytes::from(vec![byte; len]);
        let actions = victim.step(MembershipEvent::Packet { from: name("n1"), bytes }, NOW);
        assert_eq!(actions, []);
    }
    assert_eq!(victim.counters().packets_refused, 5);
    let actions = hear(&mut victim, "stranger", told(vec![entry("n3", 1, 0)]));
    assert_eq!(actions, []);
    assert!(victim.known().get(&name("n3")).is_none());
}

#[test]
fn nobody_raises_the_run_of_a_node_that_is_here() {
    let mut victim = victim();
    let gone = NodeEntry { state: NodeState::Left, ..entry("n1", 8, 0) };
    hear(&mut victim, "n2", told(vec![gone.clone()]));
    assert_eq!(victim.view().get(&name("n1")).unwrap().entry.boot, 2);
    // Once its connection has ended the same is believed: it may have been started again.
    victim.step(MembershipEvent::Disconnected { name: name("n1"), boot: 1 }, NOW);
    hear(&mut victim, "n2", told(vec![gone.clone()]));
    assert_eq!(victim.view().get(&name("n1")).unwrap().entry.boot, 2, "that was the end of an earlier run");
    victim.step(MembershipEvent::Disconnected { name: name("n1"), boot: 2 }, NOW);
    let actions = hear(&mut victim, "n2", told(vec![gone]));
    assert_eq!(victim.view().get(&name("n1")).unwrap().entry.boot, 2, "not before it is durable");
    let actions = victim.step(MembershipEvent::Kept(keep(&actions).unwrap()), NOW);
    assert!(actions.contains(&MembershipAction::ViewChanged));
    assert_eq!(victim.view().get(&name("n1")).unwrap().entry.boot, 8);
}

#[test]
fn a_node_outbids_what_others_say_in_its_name() {
    let mut victim = victim();
    let forged = NodeEntry { state: NodeState::Left, weight: 7, ..entry("own", 3, 40) };
    let actions = hear(&mut victim, "n1", told(vec![forged]));
    assert!(matches!(refusals(&actions)[..], [IdentityRefusal::Twin { boot: 3, .. }]), "{actions:?}");
    assert_eq!(victim.own().rev, 0, "once a second at the most, or two twins would never stop");
    let actions = victim.step(MembershipEvent::Tick, NOW);
    assert_eq!((victim.own().rev, victim.own().state, victim.own().weight), (41, NodeState::Up, 1));
    let says_so = |action: &MembershipAction| matches!(action, MembershipAction::SendExchange { exchange: Exchange::Entries { entries, .. }, .. } if entries[0].rev == 41);
    assert_eq!(actions.iter().filter(|action| says_so(action)).count(), 2);

    // A later run of this very process: it is this store that is the older one.
    let actions = hear(&mut victim, "n1", told(vec![entry("own", 4, 0)]));
    assert!(matches!(refusals(&actions)[..], [IdentityRefusal::OlderBoot { seen: 4, now: 3, .. }]));
    let forgotten = vec![(victim.own().store, name("own"))];
    let actions =
        hear(&mut victim, "n1", Exchange::Entries { entries: Vec::new(), forgotten, answer: false });
    assert!(matches!(refusals(&actions)[..], [IdentityRefusal::Forgotten { .. }]), "{actions:?}");
    assert!(victim.view().get(&name("own")).is_some());
}

#[test]
fn a_name_and_a_store_are_bound_to_each_other_whoever_says_what() {
    let mut victim = victim();
    let (n1, own) = (entry("n1", 2, 0), entry("own", 3, 0));
    let wrong = [
        NodeEntry { store: 7, ..entry("n1", 9, 0) },
        NodeEntry { store: n1.store, ..entry("n9", 9, 0) },
        NodeEntry { store: 7, ..entry("own", 9, 0) },
        NodeEntry { store: own.store, ..entry("n9", 9, 0) },
        NodeEntry { weight: 3, ..n1.clone() },
    ];
    let before = Arc::clone(victim.view());
    let actions = hear(&mut victim, "n2", told(wrong.to_vec()));
    let whats: Vec<_> = refusals(&actions).into_iter().map(ToString::to_string).collect();
    assert_eq!(whats.len(), 5, "{whats:?}");
    assert_eq!(*victim.view(), before);
    // In a packet they are left out, and the rest of it holds.
    let members = wrong.iter().map(|entry| Member::alive(Id(Arc::new(entry.clone()))));
    let news = NodeEntry { weight: 4, ..entry("n1", 2, 1) };
    let members = members.chain([Member::alive(Id(Arc::new(news)))]).collect();
    let bytes = packet(&entry("n2", 2, 0), &own, Message::Gossip, members);
    let actions = victim.step(MembershipEvent::Packet { from: name("n2"), bytes }, NOW);
    assert_eq!(refusals(&actions), [] as [&IdentityRefusal; 0], "told once");
    assert_eq!(victim.view().ring_members()["n1"], 4);
    assert!(victim.view().get(&name("n1")).unwrap().is_alive);
}

#[test]
fn a_flood_of_names_ends_at_the_bound_and_in_a_few_lines() {
    let mut victim = victim();
    let mut lines = 0;
    for round in 0..4 {
        let entries = (0..NODES_MAX).map(|number| entry(&format!("x{round}-{number}"), 1, 0)).collect();
        lines += refusals(&hear(&mut victim, "n1", told(entries))).len();
    }
    assert_eq!(victim.known().nodes().count(), NODES_MAX);
    assert_eq!(lines, 8);
    let hello = Hello { name: name("honest"), store: 4, boot: 1, position: 0 };
    let actions = victim.step(MembershipEvent::Hello { ticket: 9, hello }, NOW);
    assert!(matches!(
        &actions[..],
        [MembershipAction::Reject { ticket: 9, refusal: IdentityRefusal::Full { .. } }]
    ));
}

#[test]
fn a_node_that_meets_itself_is_told() {
    let mut victim = victim();
    let NodeEntry { name, store, boot, .. } = victim.own().clone();
    let actions = victim
        .step(MembershipEvent::Hello { ticket: 5, hello: Hello { name, store, boot, position: 0 } }, NOW);
    assert!(matches!(
        &actions[..],
        [MembershipAction::Reject { ticket: 5, refusal: IdentityRefusal::Ourselves { .. } }]
    ));
}

#[test]
fn a_hello_is_answered_when_its_binding_is_durable() {
    let mut victim = victim();
    let hello = |boot| Hello { name: name("n3"), store: 33, boot, position: 0 };
    let actions = victim.step(MembershipEvent::Hello { ticket: 7, hello: hello(1) }, NOW);
    let [MembershipAction::Keep { number, bytes }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(Known::decode(bytes).unwrap().get(&name("n3")).unwrap().store, 33);
    // A second store under the name is refused already; a second hello of the first waits for the same writing.
    let other = Hello { store: 34, ..hello(1) };
    let refused = victim.step(MembershipEvent::Hello { ticket: 8, hello: other }, NOW);
    assert!(matches!(&refused[..], [MembershipAction::Reject { ticket: 8, .. }]));
    assert_eq!(victim.step(MembershipEvent::Hello { ticket: 9, hello: hello(1) }, NOW), []);
    let actions = victim.step(MembershipEvent::Kept(*number), NOW);
    assert_eq!(actions, [7, 9].map(|ticket| MembershipAction::Admit { ticket }));
    // Known now, and let in at once.
    let actions = victim.step(MembershipEvent::Hello { ticket: 10, hello: hello(1) }, NOW);
    assert_eq!(actions, [MembershipAction::Admit { ticket: 10 }]);
}

#[test]
fn a_store_that_was_renamed_or_forgotten_does_not_start() {
    let kept = victim().known().clone();
    let start = |own: NodeEntry, kept: &Known| {
        Membership::new(MembershipSettings::default(), own, kept.clone(), 1, NOW)
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(start(entry("own", 4, 0), &kept), None);
    let renamed = NodeEntry { name: name("renamed"), ..entry("own", 4, 0) };
    assert!(start(renamed, &kept).unwrap().contains("start it as own"));
    assert!(start(entry("own", 2, 0), &kept).unwrap().contains("older copy"));
    assert!(start(NodeEntry { weight: 0, ..entry("own", 4, 0) }, &kept).unwrap().contains("from 1 to 100"));
    let mut kept = kept;
    kept.bury(entry("own", 1, 0).store, &name("own")).unwrap();
    assert!(start(entry("own", 4, 0), &kept).unwrap().contains("empty directory"));
    let settings = MembershipSettings { gossip_period: std::time::Duration::ZERO, ..Default::default() };
    let error = Membership::new(settings, entry("own", 4, 0), Known::default(), 1, NOW).err();
    assert_eq!(error, Some(MembershipError::Settings));
}

/// Who it is about, boot, revision, state, incarnation.
type Said = (u8, u64, u64, u8, u16);

/// Anything that an admitted node might send: of any kind, about anybody, in any state.
fn any_sent() -> impl Strategy<Value = (u8, Vec<Said>, u8)> {
    let member = (0..6_u8, 0..5_u64, 0..4_u64, 0..3_u8, prop_oneof![0..3_u16, Just(u16::MAX)]);
    (0..10_u8, prop::collection::vec(member, 0..8), any::<u8>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]
    #[test]
    fn whatever_an_admitted_node_sends_nobody_falls(sent in prop::collection::vec(any_sent(), 1..40)) {
        let mut victim = victim();
        let mut now = NOW;
        for (kind, members, probe_number) in sent {
            let who = ["own", "n1", "n2", "n3", "n4", "n5"];
            let member = |&(which, boot, rev, state, incarnation): &Said| {
                // Every other time it speaks of this node as it is.
                let said = if which == 0 && rev % 2 == 0 {
                    victim.own().clone()
                } else {
                    entry(who[which as usize], boot, rev)
                };
                let state = [State::Alive, State::Suspect, State::Down][state as usize];
                Member::new(Id(Arc::new(said)), incarnation, state)
            };
            let members: Vec<_> = members.iter().map(member).collect();
            let third = members.first().map_or_else(|| Id(Arc::new(entry("n2", 2, 0))), |member| member.id().clone());
            let message = match kind {
                0 => Message::Ping(probe_number),
                1 => Message::Ack(probe_number),
                2 => Message::PingReq { target: third, probe_number },
                3 => Message::IndirectPing { origin: third, probe_number },
                4 => Message::IndirectAck { target: third, probe_number },
                5 => Message::ForwardedAck { origin: third, probe_number },
                6 => Message::Announce,
                7 => Message::Feed,
                8 => Message::Gossip,
                _ => Message::TurnUndead,
            };
            let bytes = packet(&entry("n1", 2, 0), &victim.own().clone(), message, members);
            for event in [MembershipEvent::Packet { from: name("n1"), bytes }, MembershipEvent::Tick] {
                let actions = victim.step(event, now);
                for action in &actions {
                    if let MembershipAction::Send { to, .. } = action {
                        prop_assert!(["n1", "n2"].contains(&to.as_str()), "sent to {to}, who is not connected");
                    }
                }
                if let Some(number) = keep(&actions) {
                    victim.step(MembershipEvent::Kept(number), now);
                }
            }
            now = now + std::time::Duration::from_millis(60);
        }
        // It is still there, as it says itself, and hears its other neighbour.
        prop_assert_eq!(victim.view().ring_members()["own"], 1);
        let n2 = entry("n2", 2, 50);
        let bytes = packet(&n2, &victim.own().clone(), Message::Announce, Vec::new());
        let actions = victim.step(MembershipEvent::Packet { from: name("n2"), bytes }, now);
        let answered = actions.iter().any(|action| matches!(action, MembershipAction::Send { to, .. } if to.as_str() == "n2"));
        prop_assert!(answered, "{actions:?}");
    }
}
