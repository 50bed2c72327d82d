//! What really happened in a run, so that a set of runs can show that no fault and no refusal was only talked about.

use crate::{kernel::Counters, store::disk::DiskFaults};
use std::ops::AddAssign;

macro_rules! seen {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// How often each thing happened.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Seen {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Seen {
            /// Name and count of each.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),+]
            }
        }

        impl AddAssign for Seen {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

seen! {
    /// Nodes that lost power or were killed.
    crashes,
    /// Starts that were cut short by a further crash.
    crashes_in_recovery,
    /// Commits that failed for good and stopped their node.
    commits_fatal,
    /// Commits that failed and voided their lane.
    commits_failed,
    /// Commits that were fenced.
    commits_fenced,
    /// Commits of which it was not known whether they were done.
    commits_unknown,
    /// Commits that could not be done yet.
    commits_later,
    /// Loads that could not be done yet.
    loads_later,
    /// Lanes that hung for a while.
    lanes_hung,
    /// Batches that were void.
    batches_voided,
    /// Runs that found no room because the log was too long.
    room_refused_log,
    /// Runs that found no room because the disk was full.
    room_refused_disk,
    /// Unsynced writes a crash lost.
    writes_lost,
    /// Unsynced writes of which a crash left a part.
    writes_torn,
    /// Syncs that failed.
    syncs_failed,
    /// Jumps of the clock forward.
    clock_forward,
    /// Jumps of the clock back.
    clock_back,
    /// Messages between workers that were lost on the way.
    hands_lost,
    /// Messages between workers that came twice.
    hands_doubled,
    /// Replies and receipts that were lost on the way.
    answers_lost,
    /// Requests sent again.
    requests_repeated,
    /// Repeats of a finished request that were answered with the first reply.
    replies_repeated,
    /// Requests refused because a mailbox was full.
    busy_mailbox,
    /// Requests refused because the memory for activations was full.
    busy_memory,
    /// Requests refused because an outbox was full.
    busy_outbox,
    /// Requests refused because a worker's intake was full.
    busy_intake,
    /// Runs that left messages waiting because the log was too long.
    waits_for_log,
    /// Requests refused because a shard had too many stored replies, or too many bytes of them.
    busy_replies,
    /// Requests refused because the disk was full.
    storage_full,
    /// Requests refused as expired.
    expired,
    /// Outcomes that were told as unknown.
    unknown,
    /// `send` answered because its message waits.
    told_waiting,
    /// Messages of streams refused from a number on.
    streams_refused,
    /// Feeds told to send again from a number on.
    feeds_sent_back,
    /// Feeds told that their shard's memory was lost.
    feeds_lost,
    /// Feeds refused their name, as another input has it.
    feeds_refused_name,
    /// Feeds of which a row was found to be another input's.
    feeds_collided,
    /// Feeds that began again from their first row.
    feeds_restarted,
    /// Shards that told a feed where to go on.
    feeds_resumed,
    /// Messages recognised as repeats.
    duplicates,
    /// Turns that rejected their message.
    rejected,
    /// Turns that panicked.
    panics,
    /// Messages given up.
    dead_letters,
    /// Messages set to wait, at the highest.
    waiting,
    /// Accepted messages that died with a voided lane.
    voided,
    /// Activations let go.
    passivations,
    /// Images read for entities that had one.
    reloads,
    /// Reads of messages that lay in the store alone.
    outboxes_reloaded,
    /// Checkpoints, or what stands for them.
    maintenances,
    /// Turns that took effect.
    applied,
    /// Nodes that did nothing for a while.
    pauses,
    /// Shards that moved to another node.
    shards_moved,
    /// Nodes that joined the view or left it.
    views_changed,
    /// Nodes that came and took a shard,
    nodes_joined,
    /// those of them that did while callers waited for something,
    nodes_joined_under_load,
    /// Nodes that had left and came again.
    nodes_returned,
    /// Nodes that left with nothing in their hands.
    nodes_left,
    /// Nodes that crashed before they had a shard,
    crashes_joining,
    /// and on their way out.
    crashes_leaving,
    /// Views in which a node that stands still is taken for dead.
    paused_missed,
    /// Who came under the name of another, and was turned away.
    strangers_refused,
    /// Frames for a node without a connection.
    frames_unconnected,
    /// Cuts of one link in one direction.
    cuts_one_way,
    /// Links between nodes that were cut, each direction on its own.
    links_cut,
    /// Frames that met a cut link.
    frames_cut,
    /// Frames that were lost.
    frames_lost,
    /// Frames that came twice.
    frames_doubled,
    /// Frames that came seconds or minutes late.
    frames_late,
    /// Frames that did not keep their place.
    frames_out_of_order,
    /// Messages of streams that came from another node.
    streamed_across,
    /// Messages and receipts for which no owner was known.
    unrouted,
    /// Requests that one node passed on to another.
    requests_forwarded,
    /// Requests of which the caller was told that their shard is elsewhere.
    asked_elsewhere,
    /// Servers of a shared store that stood still,
    servers_stalled,
    /// that did not answer,
    servers_away,
    /// and that were replaced by a standby which lagged.
    servers_promoted,
    /// Questions to a server that had no answer.
    servers_refused,
    /// Things a server did for a node that stood still by then.
    done_in_pause,
    /// Shards taken, of nobody or of the dead.
    shards_taken,
    /// Of those, shards of the dead.
    taken_from_dead,
    /// Shards given to another node.
    shards_given,
    /// Seals that were lost with their lane's memory.
    seals_voided,
    /// Shards that a node had, and that were found to be another's in a ledger.
    shards_lost,
    /// Runs that were replaced by another of their node.
    nodes_shut_out,
}

impl Seen {
    pub(super) fn count(&mut self, counters: &Counters) {
        self.duplicates += counters.duplicates;
        self.rejected += counters.rejected;
        self.panics += counters.panics;
        self.dead_letters += counters.dead_lettered;
        self.voided += counters.voided;
        self.applied += counters.applied;
    }

    pub(super) fn count_disk(&mut self, faults: &DiskFaults) {
        self.writes_lost += faults.writes_lost;
        self.writes_torn += faults.writes_torn;
        self.syncs_failed += faults.syncs_failed;
    }
}
