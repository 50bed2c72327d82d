//! Who is in the cluster: what each node says of itself, who answers, and which store each name is bound to.
//!
//! Four things that are kept apart:
//! * **Entries.** A node is the authority on its own [`NodeEntry`] (address, state, weight, build) and raises its
//!   revision with each change. Entries merge: of two the one with the higher (boot, rev) holds, in whatever order and
//!   however often they are heard. They stay until an operator forgets the node.
//! * **Liveness.** foca (SWIM) probes the nodes and passes news on. A down verdict is a hint: placement does not read it
//!   (P21), and nothing durable does.
//! * **Completeness.** foca is quick but may miss one. So every second a node compares a digest of all entries with one
//!   other node, and where they differ both send what they have.
//! * **Identity.** The first hello binds a name to a store UUID, and from then on boot counter and log position never
//!   fall (P19). [`judge_hello`] is what a node at the door is held against; a binding is durable here before anything
//!   is done with it, see [`MembershipAction::Keep`].
//!
//! [`Membership`] is a state machine without I/O: [`step`](Membership::step) takes an event and the time and returns what
//! to do. Its timers are inside and fire with [`MembershipEvent::Tick`]; the same seed and events give the same actions.
//!
//! # What a broken node can do
//! It can say wrong things of itself. Of another node that is connected here it cannot raise the boot counter, and where
//! it claims a higher revision that node outbids it within a second. What it says of a node that is away is believed, as
//! is what it says an operator has forgotten: whoever has a certificate of the cluster is trusted that far. Names,
//! entries, packets and waiting hellos are bounded ([`NODES_MAX`], [`FORGOTTEN_MAX`]); what is beyond is refused and told.
//!
//! # What is deliberately missing
//! No agreement: two nodes may have different views for a while, which is harmless because ownership does not read them.
//! No election of who keeps a name that two halves of a cluster have bound to two stores: both halves refuse the other's
//! store and say so, until an operator forgets one. No return of a forgotten store.

mod door;
mod entry;
mod event;
mod exchange;
mod hear;
mod hello;
mod keeping;
mod known;
mod leaving;
mod liveness;
mod packet;
mod step;
#[cfg(test)]
mod tests;
mod view;

pub use entry::{ADDRESS_LEN_MAX, BUILD_LEN_MAX, EntryError, NodeEntry, NodeState, WEIGHT_MAX};
pub use event::{MembershipAction, MembershipCounters, MembershipEvent, MembershipSettings, SEEDS_MAX};
pub use exchange::Exchange;
pub use hello::{Hello, HelloVerdict, IdentityRefusal, judge_hello};
pub use known::{FORGOTTEN_MAX, Known, KnownError, NODES_MAX};
pub use leaving::{Farewell, LastAnswer, LastQuestion, Leaving, LeavingStep};
pub use step::{Membership, MembershipError};
pub use view::{NodeInView, View};
