//! Who is let in, and who is given up.

use super::{
    MembershipAction,
    exchange::Exchange,
    hello::{Hello, HelloVerdict, IdentityRefusal, judge_hello},
    keeping::Waiting,
    known::Learned,
    step::Membership,
};
use crate::{placement::NodeName, timestamp::Timestamp};

impl Membership {
    /// A node is at the door.
    pub(super) fn greet(&mut self, ticket: u64, hello: Hello, now: Timestamp) {
        let refusal = if (&hello.name, hello.store) == (&self.own.name, self.own.store) {
            Some(IdentityRefusal::Ourselves { name: hello.name.clone() })
        } else {
            match judge_hello(&self.known, &hello) {
                HelloVerdict::Refused(refusal) => Some(refusal),
                // Judged before it is learned: who is turned away leaves no trace.
                HelloVerdict::Fresh | HelloVerdict::Known if !self.keeping.has_room() => {
                    Some(IdentityRefusal::Busy { name: hello.name.clone() })
                }
                HelloVerdict::Fresh | HelloVerdict::Known => None,
            }
        };
        if let Some(refusal) = refusal {
            self.actions.push(MembershipAction::Reject { ticket, refusal });
            return;
        }
        let learned = self.known.meet(&hello);
        self.keeping.note(learned, now, self.settings.keep_period);
        if let Some(link) = self.links.get_mut(&hello.name) {
            link.word = link.word.max(hello.boot);
        }
        if self.keeping.is_durable(&hello.name, hello.store, hello.boot) {
            self.actions.push(MembershipAction::Admit { ticket });
        } else {
            self.keeping.wait(ticket, hello);
        }
    }

    /// A writing is durable.
    pub(super) fn kept(&mut self, number: u64) {
        for waiting in self.keeping.kept(number) {
            self.actions.push(match waiting {
                Waiting::Forgotten { name, store } => MembershipAction::Forgotten { name, store },
                Waiting::Hello { ticket, hello } => match self.known.bound(&hello.name, hello.store) {
                    // In the meantime it may have been forgotten, or a later run of it may have come.
                    Err(refusal) => MembershipAction::Reject { ticket, refusal },
                    Ok(Some(node)) if hello.boot < node.boot => {
                        let (name, seen, now) = (hello.name, node.boot, hello.boot);
                        let refusal = IdentityRefusal::OlderBoot { name, seen, now };
                        MembershipAction::Reject { ticket, refusal }
                    }
                    Ok(_) => MembershipAction::Admit { ticket },
                },
            });
        }
        self.is_touched = true;
    }

    /// An operator gives a store up.
    pub(super) fn forget(&mut self, name: NodeName, now: Timestamp) {
        let is_here = self.links.contains_key(&name) || name == self.own.name;
        let buried = match self.known.get(&name).map(|node| node.store) {
            None => Err(IdentityRefusal::Unknown { name }),
            Some(store) if is_here || self.liveness.is_alive(store) => Err(IdentityRefusal::Alive { name }),
            Some(store) => self.bury(store, &name, now).map(|()| (store, name)),
        };
        match buried {
            Ok((store, name)) => {
                let forgotten = vec![(store, name.clone())];
                self.tell_all(&Exchange::Entries { entries: Vec::new(), forgotten, answer: false });
                self.keeping.wait_forgotten(name, store);
            }
            Err(refusal) => self.actions.push(MembershipAction::Refused(refusal)),
        }
    }

    /// A store is given up, here or elsewhere.
    pub(super) fn bury(
        &mut self,
        store: u128,
        name: &NodeName,
        now: Timestamp,
    ) -> Result<(), IdentityRefusal> {
        let bound = self.known.nodes().find(|(_, node)| node.store == store);
        let bound = bound.map(|(name, node)| (name.clone(), node.entry.clone()));
        if !self.known.bury(store, name)? {
            return Ok(());
        }
        self.keeping.note(Learned::Now, now, self.settings.keep_period);
        self.is_touched = true;
        let Some((bound, entry)) = bound else { return Ok(()) };
        self.links.remove(&bound);
        self.actions.push(MembershipAction::HangUp(bound));
        if let Some(entry) = entry.filter(|_| self.liveness.is_alive(store)) {
            let sends = self.liveness.bury(entry, now);
            self.send(sends);
        }
        Ok(())
    }
}
