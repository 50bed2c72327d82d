//! What a membership makes of what it is told: which entries it believes, and what it answers.

use super::{
    MembershipAction,
    entry::{EntryAge, NodeEntry},
    exchange::Exchange,
    hello::IdentityRefusal,
    packet::Packet,
    step::Membership,
};
use crate::{placement::NodeName, timestamp::Timestamp};
use std::{collections::BTreeMap, sync::Arc};

impl Membership {
    /// Looks a packet through before foca sees it: what is not believed is left out of it.
    pub(super) fn hear_packet(&mut self, from: &NodeName, bytes: &[u8], now: Timestamp) {
        let Ok(mut packet) = Packet::open(bytes) else {
            self.counters.packets_refused += 1;
            return;
        };
        // foca goes by the sender that the packet names, so it is to be the one who has sent it.
        let sender = Arc::clone(&packet.header.src.0);
        let is_bound = self.known.get(from).is_some_and(|node| node.store == sender.store);
        if sender.name != *from || !is_bound || !self.hear_entry(&sender, now) {
            self.counters.packets_refused += 1;
            return;
        }
        let told = packet.members.len();
        packet.members.retain(|member| self.hear_entry(&member.id().0, now));
        let sends = if packet.members.len() == told {
            self.liveness.packet(bytes, now)
        } else {
            self.liveness.packet(&packet.seal(), now)
        };
        self.send(sends);
    }

    /// Answers a comparison.
    pub(super) fn hear_exchange(&mut self, from: &NodeName, exchange: Exchange, now: Timestamp) {
        if self.known.get(from).is_none() || *from == self.own.name {
            self.counters.entries_refused += 1;
            return;
        }
        let reply = match exchange {
            Exchange::Digest(digest) if digest == self.known.digest() => None,
            Exchange::Digest(_) => Some(Exchange::all(&self.known, true)),
            Exchange::Entries { entries, forgotten, answer } => {
                // What was forgotten first: it frees the names that the entries may need.
                for (store, name) in &forgotten {
                    self.hear_forgotten(*store, name, now);
                }
                for entry in &entries {
                    if entry.check().is_ok() {
                        self.hear_entry(&Arc::new(entry.clone()), now);
                    } else {
                        self.counters.entries_refused += 1;
                    }
                }
                if answer { self.missing_in(&entries, &forgotten) } else { None }
            }
        };
        if let Some(exchange) = reply.filter(|_| self.links.contains_key(from)) {
            self.actions.push(MembershipAction::SendExchange { to: from.clone(), exchange });
        }
    }

    /// What this node knows, and the sender of these does not.
    fn missing_in(&self, entries: &[NodeEntry], forgotten: &[(u128, NodeName)]) -> Option<Exchange> {
        let theirs: BTreeMap<_, _> = entries.iter().map(|entry| (entry.store, entry.age())).collect();
        let is_missing =
            |entry: &&Arc<NodeEntry>| theirs.get(&entry.store).is_none_or(|age| *age < entry.age());
        let entries: Vec<_> =
            self.known.entries().filter(is_missing).map(|entry| (**entry).clone()).collect();
        let theirs: BTreeMap<_, _> = forgotten.iter().map(|(store, name)| (*store, name)).collect();
        let is_missing =
            |(store, name): &(u128, &NodeName)| theirs.get(store).is_none_or(|heard| name < heard);
        let forgotten = self.known.forgotten().filter(is_missing);
        let forgotten: Vec<_> = forgotten.map(|(store, name)| (store, name.clone())).collect();
        let is_empty = entries.is_empty() && forgotten.is_empty();
        (!is_empty).then_some(Exchange::Entries { entries, forgotten, answer: false })
    }

    /// A store that others say was forgotten.
    fn hear_forgotten(&mut self, store: u128, name: &NodeName, now: Timestamp) {
        if store == self.own.store {
            // The others no longer hear this node; whoever runs it is to know why.
            self.tell(IdentityRefusal::Forgotten { name: name.clone(), store });
        } else if let Err(refusal) = self.bury(store, name, now) {
            self.tell(refusal);
        }
    }

    /// Learns an entry if it is news. Whether it may be believed; an old one may, and says nothing new.
    fn hear_entry(&mut self, entry: &Arc<NodeEntry>, now: Timestamp) -> bool {
        if entry.store == self.own.store || entry.name == self.own.name {
            return self.hear_of_itself(entry);
        }
        match self.known.judge(entry) {
            Err(refusal) => {
                self.tell(refusal);
                false
            }
            Ok(EntryAge::Twin) => {
                self.tell(IdentityRefusal::Twin { name: entry.name.clone(), boot: entry.boot });
                false
            }
            // A node that is connected here has said itself which run it is in. Who says more is wrong, or early: then it
            // is believed as soon as the old connection ends.
            Ok(_) if self.links.get(&entry.name).is_some_and(|link| link.word < entry.boot) => {
                self.counters.entries_refused += 1;
                false
            }
            Ok(EntryAge::Newer) => {
                let learned = self.known.learn(Arc::clone(entry));
                self.keeping.note(learned, now, self.settings.keep_period);
                self.is_touched = true;
                true
            }
            Ok(EntryAge::Known | EntryAge::Older) => true,
        }
    }

    /// What others say of this node. Only its present entry is passed on to foca, which may have to refute a suspicion.
    fn hear_of_itself(&mut self, entry: &Arc<NodeEntry>) -> bool {
        if *entry == self.own {
            return true;
        }
        let (name, boot) = (entry.name.clone(), entry.boot);
        if entry.name != self.own.name {
            let bound = self.own.name.clone();
            self.tell(IdentityRefusal::OtherName { store: entry.store, bound, offered: name });
        } else if entry.store != self.own.store {
            let bound = self.own.store;
            self.tell(IdentityRefusal::OtherStore { name, bound, offered: entry.store });
        } else if boot > self.own.boot {
            self.tell(IdentityRefusal::OlderBoot { name, seen: boot, now: self.own.boot });
        } else if entry.age() >= self.own.age() {
            // Nobody but this process raises the revision of this run.
            self.tell(IdentityRefusal::Twin { name, boot });
            self.outbid = self.outbid.max(Some(entry.rev));
        }
        false
    }
}
