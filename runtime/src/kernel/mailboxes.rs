//! Whose turn it is: messages run at once or wait in their entity's mailbox, and nobody has more than a share of a run.

use super::{Kernel, Outcome, Output};
use crate::{
    activation::{Mail, Origin, Phase, Slot},
    error::Refusal,
    store::NoRoom,
};

impl Kernel {
    /// Gives entities with mail their share of turns.
    pub(super) fn run_ready(&mut self, lane: usize, room: Result<(), NoRoom>) {
        self.name_no_more(lane, room.is_err());
        for _ in 0..self.lanes[lane].ready.len() {
            if self.is_batch_full(lane) {
                break;
            }
            let slot = self.lanes[lane].ready.pop_front().expect("counted");
            let Some(activation) = self.activations.get_mut(slot) else { continue };
            activation.scheduled = false;
            self.run_mailbox(lane, slot, room);
        }
    }

    pub(super) fn run_mailbox(&mut self, lane: usize, slot: Slot, room: Result<(), NoRoom>) {
        loop {
            if self.is_batch_full(lane) {
                self.schedule(slot);
                return;
            }
            let Some(activation) = self.activations.get_mut(slot) else { return };
            if activation.phase == Phase::Loading {
                return;
            }
            if self.is_past_its_share(slot) {
                self.schedule(slot);
                return;
            }
            let activation = self.activations.get_mut(slot).expect("just seen");
            if activation.trouble.is_some() {
                if !self.run_troubled(lane, slot, room) {
                    return;
                }
                if self.one_turn {
                    self.schedule(slot);
                    return;
                }
                continue;
            }
            if let Err(why) = room {
                self.run_mailbox_without_room(lane, slot, why);
                return;
            }
            let Some(mail) = self.activations.pop_mail(slot) else { return };
            self.turn(lane, slot, mail);
            if self.one_turn {
                if self.activations.get(slot).is_some_and(|activation| activation.mailbox_len() > 0) {
                    self.schedule(slot);
                }
                return;
            }
        }
    }

    /// The store has no room: questions in a mailbox are answered all the same. Requests are refused where the disk is
    /// full, for nobody knows for how long; everything else waits.
    pub(super) fn run_mailbox_without_room(&mut self, lane: usize, slot: Slot, why: NoRoom) {
        let Some(activation) = self.activations.get(slot) else { return };
        let (shard, in_trouble) = (activation.shard, activation.trouble.is_some());
        // A volatile message changes a durable entity's image, which is a row.
        let writes_nothing = self.kinds.get(activation.kind).is_volatile();
        // Taken out as a whole and put back in order, for a turn may put its own message back.
        let mut stays = Vec::new();
        for _ in 0..activation.mailbox_len() {
            let mail = self.activations.pop_mail(slot).expect("counted");
            let writes = !writes_nothing && !matches!(mail.origin, Origin::Query(_));
            let runs = !writes && !self.is_batch_full(lane) && self.is_active(slot);
            match mail.origin {
                Origin::Query(_) | Origin::Volatile(_) if runs => {
                    self.turn(lane, slot, mail);
                    // Its state cannot be read: the message is back at the front.
                    if !self.is_active(slot) {
                        stays.extend(self.activations.pop_mail(slot));
                    }
                }
                // The head of a failing entity's queue has its tries counted.
                Origin::Request { id, listener } if why == NoRoom::DiskFull && !in_trouble => {
                    let shard = self.host(shard);
                    shard.requests.forget(id);
                    let others = shard.listeners.remove(&id).into_iter().flatten();
                    self.counters.accepted -= 1;
                    self.counters.refused += 1;
                    for listener in std::iter::once(listener).chain(others) {
                        self.put_now(Output::Reply(listener.to, Outcome::Refused(Refusal::StorageFull)));
                    }
                }
                _ => stays.push(mail),
            }
        }
        for mail in stays {
            self.activations.push_mail(slot, mail);
        }
        if self.activations.get(slot).is_some_and(|activation| activation.mailbox_len() > 0) {
            self.schedule(slot);
        }
    }

    fn is_active(&self, slot: Slot) -> bool {
        self.activations.get(slot).is_some_and(|activation| activation.phase == Phase::Active)
    }

    /// Runs a message now, or puts it in its entity's mailbox where it must wait its turn.
    pub(super) fn take_turn(&mut self, lane: usize, slot: Slot, mail: Mail) {
        let full = self.is_batch_full(lane);
        let named_first =
            !matches!(mail.origin, Origin::Query(_) | Origin::Volatile(_)) && self.is_careful_at(slot);
        let waits = full || named_first || self.is_past_its_share(slot) || {
            let activation = self.activations.get(slot).expect("found in this chunk");
            activation.phase != Phase::Active || activation.trouble.is_some() || activation.mailbox_len() > 0
        };
        if waits {
            self.mail_later(slot, mail);
        } else {
            self.turn(lane, slot, mail);
        }
    }

    /// Whether the entity has had its turns of this run; counts the next one where it has not.
    fn is_past_its_share(&mut self, slot: Slot) -> bool {
        let (run, most) = (self.run, self.limits.turns_in_row_max);
        let Some(activation) = self.activations.get_mut(slot) else { return false };
        if activation.run != run {
            activation.run = run;
            activation.turns_in_run = 0;
        }
        if activation.turns_in_run == most {
            return true;
        }
        activation.turns_in_run += 1;
        false
    }

    /// Puts a message in its entity's mailbox and sees that it is run.
    pub(super) fn mail_later(&mut self, slot: Slot, mail: Mail) {
        self.activations.push_mail(slot, mail);
        let activation = self.activations.get(slot).expect("just pushed to");
        if activation.phase != Phase::Loading {
            self.schedule(slot);
        }
    }

    /// Puts the entity in the queue of those with work.
    pub(super) fn schedule(&mut self, slot: Slot) {
        let activation = self.activations.get_mut(slot).expect("only activations in memory have work");
        if !activation.scheduled {
            activation.scheduled = true;
            let shard = activation.shard;
            let is_named = self.is_careful(shard);
            let lane = self.host(shard).lane;
            let work = &mut self.lanes[lane];
            if is_named { &mut work.named } else { &mut work.ready }.push_back(slot);
        }
    }
}
