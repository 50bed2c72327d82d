//! What `flights` does without the runtime: read rows, fold them plainly, show and compare the tables.
//!
//! The example proves that entities which were killed again and again end with the same figures as a loop over the file.
//! This library is that loop, and whatever both sides need: neither knows how the other counts.

/// Rows of a CSV file, checked as they are read.
pub mod rows;

/// What is counted for each aircraft, airport and carrier, and the plain fold.
pub mod totals;

/// The result of a run: as JSON, and compared with another.
pub mod report;

/// The result of a run for people.
pub mod table;

/// The lines by which a run tells another process how far it is.
pub mod progress;

/// The moments at which the demo kills its child, from a seed.
pub mod kills;

/// What the demo does to its nodes and when, from a seed.
pub mod plan;
