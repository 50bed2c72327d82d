//! Letting activations go: those idle for long, and when memory is short those the hand of a clock finds idle.

use super::{Action, Kernel};
use crate::activation::Phase;

/// Activations looked at in one tick when memory is not short.
const SWEEP: usize = 2_048;
/// The same when it is: a tick may not take the worker from its messages for long.
const SWEEP_SHORT: usize = 65_536;
/// An image that was not needed for this many seconds is dropped; the next turn encodes it anew.
const IMAGE_IDLE_SECONDS: u32 = 2;

impl Kernel {
    /// From this mark on memory is short: seven eighths of what there is.
    pub(super) fn is_memory_short(&self) -> bool {
        let max = self.limits.activation_bytes_max;
        max <= self.activation_bytes + max / 8
    }

    /// Sweeps over the activations like the hand of a clock. Where memory is short it goes faster and lets go of what had no
    /// message for a second, only until memory is not short any more; what it meets first goes first, so the order is
    /// about that of last use and no list has to be kept for it.
    pub(super) fn passivate(&mut self) {
        let slots = self.activations.slots();
        let was_short = self.is_memory_short();
        let idle_after = u32::try_from(self.limits.idle_after.as_secs()).unwrap_or(u32::MAX);
        let now = self.seconds();
        let looks = slots.min(if was_short { SWEEP_SHORT } else { SWEEP });
        let mut kept_unloadable = false;
        for _ in 0..looks {
            if slots <= self.sweep_at {
                self.sweep_at = 0;
            }
            let index = self.sweep_at;
            self.sweep_at += 1;
            let Some((slot, activation)) = self.activations.at(index) else { continue };
            let idle = now.saturating_sub(activation.used_at);
            // A parked one is as it lies in the store; the next message finds that out again.
            let is_in_trouble = match (&activation.phase, &activation.trouble) {
                (Phase::Loading, _) => true,
                (Phase::Parked, trouble) => trouble.as_ref().is_some_and(|it| !it.waiting.is_empty()),
                (Phase::Active, trouble) => trouble.is_some(),
            };
            let busy =
                is_in_trouble || activation.dirty || activation.scheduled || activation.mailbox_len() > 0;
            if busy {
                continue;
            }
            let lane = self.shard(activation.shard).expect("hosted").lane;
            let is_volatile = self.kinds.get(activation.kind).is_volatile();
            // A load must find its last image, or what it was would be forgotten (P12).
            let loadable = is_volatile || activation.last_batch <= self.lanes[lane].loadable;
            let wanted = idle_after <= idle || (0 < idle && self.is_memory_short());
            if wanted && loadable {
                let gone = self.activations.remove(slot).expect("just seen");
                self.activation_bytes -= gone.weight as usize;
            } else if IMAGE_IDLE_SECONDS <= idle && activation.has_image && activation.state.is_some() {
                let len = activation.image.len();
                let activation = self.activations.get_mut(slot).expect("just seen");
                activation.image = Vec::new();
                activation.has_image = false;
                self.weigh(slot, len);
                kept_unloadable |= wanted;
            } else {
                kept_unloadable |= wanted && !loadable;
            }
        }
        if was_short && kept_unloadable {
            self.actions.push(Action::WantLoadable);
        }
    }
}
