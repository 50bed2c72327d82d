//! The promises, one module each, in one program: linking it once takes a fraction of the time of one program for each.
//!
//! `cargo test -p entity-runtime-tests duplicates_change_nothing` runs one. They run beside one another in one process, so
//! none may change what the others share: the environment, the working directory, how a foreign thread's panic is told.
//! What must be another process is started as one (`bin/victim.rs`).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

// A derived entity runs the handler of a message's name and reads every state it ever stored.
mod derive_dispatches_by_name;

// A handler that answers `Err` leaves nothing but its answer.
mod rejection_undoes_the_turn;

// A panic in user code is undone, and the neighbours go on.
mod panic_leaves_no_trace;

// Keys are opaque, and never a path.
mod keys_of_any_characters;

// A repeat gets the first reply, byte for byte, whatever happened in between (kernel by hand).
mod first_reply_is_the_only_one;

// A repeat changes nothing, through a running runtime, its log and its checkpoint.
mod duplicates_change_nothing;

// A request that is kept or not settled holds up no other of its client.
mod requests_hold_nobody_up;

// A feed sent again, sent twice at once or cut off counts each row once.
mod feeds_lose_and_double_nothing;

// An entity that fails or cannot be read stops nobody but itself.
mod stuck_entity_stops_nobody;

// Whatever an entity does in its turn, its worker goes on.
mod no_entity_ends_its_worker;

// A message that ends the process is given up after three crashes.
mod suspects_are_given_up;

// Streams between shards move on, whatever is full, refused, late or lost.
mod streams_never_stand_still;

// Reminders wait where there is no room for them, and none is lost by it.
mod reminders_know_their_bounds;

// Too much work is refused and counted, never dropped in silence, never held.
mod overload_is_refused;

// An operator sees what was given up or waits, and settles it.
mod operators_see_and_settle;

// What was acknowledged is there after any crash, once.
mod commit_survives_crash;

// A batch that is void takes everything with it (kernel by hand).
mod void_lets_nothing_out;

// An owner of before shows, sends and writes nothing (kernels by hand).
mod stale_owner_is_fenced;

// Real threads on lanes that fail, hang and end unknown keep all numbers exact.
mod real_ring_survives_void;

// A shard moves to another node with everything it has.
mod handoff_loses_nothing;

// A full disk refuses work, answers questions, and resumes.
mod full_disk_refuses_and_resumes;

// A runtime stops when it is told to, and whoever waits is told.
mod shutdown_is_clean;

// A runtime that does not start says what to do.
mod start_errors_name_the_way_out;

// One process at a time uses a data directory.
mod two_processes_one_directory;

// All of it at once under thousands of seeds.
mod simulation;

// Rooms name only the rooms they may.
mod architecture;

// What the pages say is what the code is.
mod pages_are_true;

// The same entities on one node and on many, while nodes join and leave: the same figures.
mod same_result_at_any_scale;

// A node that ends and comes back, is away, or is not who it says.
mod nodes_come_back;

// A node whose disk went back in time stays outside.
mod a_disk_that_went_back_is_caught;

// A network that is cut in one direction delays messages, and loses none.
mod cut_networks_heal;

// A broken or lying client costs its own connection, and reaches nothing it may not reach.
mod peers_are_not_believed;

// Shards on their way to a disk that is destroyed are served again, when everybody has answered.
mod destroyed_disks;

// What a lost disk has parked goes on when an operator accepts the loss.
mod parked_streams_can_be_settled;
