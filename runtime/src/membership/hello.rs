//! Who a node claims to be, and whether the cluster believes it (P19).

use super::{
    entry::WEIGHT_MAX,
    known::{FORGOTTEN_MAX, Known, NODES_MAX},
};
use crate::placement::NodeName;

/// What a node says of itself in the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Its name, which its certificate says too.
    pub name: NodeName,
    /// UUID of its store.
    pub store: u128,
    /// How often that store was opened.
    pub boot: u64,
    /// How far its log is durable.
    pub position: u64,
}

/// What is to be done with a [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum HelloVerdict {
    /// A name and a store nobody has seen: bind them, durably, before it is let in.
    Fresh,
    /// The store its name is bound to, and not an older state of it.
    Known,
    /// It stays outside.
    Refused(IdentityRefusal),
}

/// Why a node is not believed to be who it says, or a change of the members is not made; each with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum IdentityRefusal {
    /// The name is bound to another store: a wiped directory, or a second node of that name.
    #[error(
        "node {name} is known by its store {bound:032x}, and this is store {offered:032x}: start {name} on its own \
         directory, or this one under another name; if the directory of {name} is lost for good, `forget {name}` first"
    )]
    OtherStore {
        /// The name.
        name: NodeName,
        /// The store it is bound to.
        bound: u128,
        /// The store that came under it.
        offered: u128,
    },
    /// The store is bound to another name: a node that was renamed, or a copied directory.
    #[error(
        "store {store:032x} belongs to node {bound} and came as {offered}: start it as {bound}; a copy of a directory \
         must never run, it would own what the original owns"
    )]
    OtherName {
        /// The store.
        store: u128,
        /// The name it is bound to.
        bound: NodeName,
        /// The name it came under.
        offered: NodeName,
    },
    /// The store was seen after more starts than it knows of: an older copy was put back.
    #[error(
        "the store of node {name} says it was opened {now} times, and it was seen after {seen}: this is an older copy; \
         start {name} on its newest directory, and if that is lost for good, `forget {name}` and join with an empty one"
    )]
    OlderBoot {
        /// The node.
        name: NodeName,
        /// The highest boot counter seen of it.
        seen: u64,
        /// What it says now.
        now: u64,
    },
    /// The log ends before a position that was durable: the disk went back in time.
    #[error(
        "the log of node {name} ends at {now}, and it was durable up to {seen}: the disk has lost what it synced; \
         start {name} on its newest directory, and if that is lost for good, `forget {name}` and join with an empty one"
    )]
    LogBehind {
        /// The node.
        name: NodeName,
        /// The highest durable position seen of it.
        seen: u64,
        /// What it says now.
        now: u64,
    },
    /// An operator has declared the store lost.
    #[error(
        "store {store:032x} of node {name} was forgotten by an operator and stays outside: join with an empty directory"
    )]
    Forgotten {
        /// The name it had.
        name: NodeName,
        /// The store.
        store: u128,
    },
    /// A node reached one with its own name and store.
    #[error(
        "node {name} met itself: take its own address from the nodes it is to join; if it has not dialled itself, a copy \
         of its directory is running, which must be stopped"
    )]
    Ourselves {
        /// The node.
        name: NodeName,
    },
    /// Two different entries of one age: two processes speak as one node.
    #[error(
        "two processes speak as node {name} in its run {boot}: a copy of its directory is running; stop one of them"
    )]
    Twin {
        /// The node.
        name: NodeName,
        /// The boot counter both have.
        boot: u64,
    },
    /// There is no room for another node.
    #[error(
        "the cluster knows {NODES_MAX} nodes, which is the most it can: `forget` one that is gone, then join {name}"
    )]
    Full {
        /// The node that was to be the next.
        name: NodeName,
    },
    /// Too many nodes ask to be let in at once.
    #[error("too many nodes ask at once to be let in: {name} may try again in a second")]
    Busy {
        /// The node that asked.
        name: NodeName,
    },
    /// There is no node of that name to forget.
    #[error("no node {name} is known: ask for the `status` to see the names")]
    Unknown {
        /// The name.
        name: NodeName,
    },
    /// A node that is alive cannot be forgotten.
    #[error(
        "node {name} is alive: to take it out, let it `leave`; only a node that is gone can be forgotten"
    )]
    Alive {
        /// The name.
        name: NodeName,
    },
    /// There is no room for another store that was forgotten.
    #[error(
        "{FORGOTTEN_MAX} stores were forgotten in this cluster, which is the most it can remember; {name} was not"
    )]
    ManyForgotten {
        /// The node that was to be forgotten.
        name: NodeName,
    },
    /// The weight is out of bounds.
    #[error("a weight is a whole number from 1 to {WEIGHT_MAX}, not {0}")]
    Weight(u16),
}

/// Judges a node at the door by what is known of the others. Changes nothing:
/// [`MembershipEvent::Hello`](super::MembershipEvent::Hello) judges again, finds out whether a node has met itself, and
/// lets it in.
pub fn judge_hello(known: &Known, hello: &Hello) -> HelloVerdict {
    match known.bound(&hello.name, hello.store) {
        Err(refusal) => HelloVerdict::Refused(refusal),
        Ok(None) => HelloVerdict::Fresh,
        Ok(Some(seen)) if hello.boot < seen.boot => {
            let name = hello.name.clone();
            HelloVerdict::Refused(IdentityRefusal::OlderBoot { name, seen: seen.boot, now: hello.boot })
        }
        Ok(Some(seen)) if hello.position < seen.position => {
            let (name, seen, now) = (hello.name.clone(), seen.position, hello.position);
            HelloVerdict::Refused(IdentityRefusal::LogBehind { name, seen, now })
        }
        Ok(Some(_)) => HelloVerdict::Known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str, store: u128, boot: u64, position: u64) -> Hello {
        Hello { name: name.parse().unwrap(), store, boot, position }
    }

    fn known() -> Known {
        let mut known = Known::default();
        let _ = known.meet(&hello("n1", 1, 5, 900));
        known
    }

    fn refusal(known: &Known, hello: &Hello) -> String {
        match judge_hello(known, hello) {
            HelloVerdict::Refused(refusal) => refusal.to_string(),
            verdict => panic!("{hello:?} is {verdict:?}"),
        }
    }

    #[test]
    fn a_node_that_comes_back_is_known_and_a_new_one_is_fresh() {
        let known = known();
        assert_eq!(judge_hello(&known, &hello("n1", 1, 5, 900)), HelloVerdict::Known);
        assert_eq!(judge_hello(&known, &hello("n1", 1, 6, 1_000)), HelloVerdict::Known);
        assert_eq!(judge_hello(&known, &hello("n2", 2, 1, 0)), HelloVerdict::Fresh);
    }

    #[test]
    fn another_store_under_a_known_name_is_told_how_to_get_in() {
        let told = refusal(&known(), &hello("n1", 2, 9, 9_000));
        assert!(told.contains("`forget n1`"), "{told}");
    }

    #[test]
    fn a_copied_directory_is_refused_under_any_other_name() {
        let told = refusal(&known(), &hello("n2", 1, 6, 1_000));
        assert!(told.contains("start it as n1"), "{told}");
    }

    #[test]
    fn a_store_that_went_back_in_time_is_refused() {
        let known = known();
        let told = refusal(&known, &hello("n1", 1, 4, 1_000));
        assert!(told.contains("opened 4 times") && told.contains("after 5"), "{told}");
        // Started once more than it was seen, but from a disk that lost what it had synced.
        let told = refusal(&known, &hello("n1", 1, 6, 899));
        assert!(told.contains("ends at 899") && told.contains("up to 900"), "{told}");
    }

    #[test]
    fn a_forgotten_store_stays_outside_and_its_name_is_free() {
        let mut known = known();
        assert_eq!(known.bury(1, &"n1".parse().unwrap()), Ok(true));
        let told = refusal(&known, &hello("n1", 1, 6, 1_000));
        assert!(told.contains("empty directory"), "{told}");
        assert!(refusal(&known, &hello("n7", 1, 6, 1_000)).contains("forgotten"));
        assert_eq!(judge_hello(&known, &hello("n1", 2, 1, 0)), HelloVerdict::Fresh);
    }
}
