//! What the embedded store does when the medium does its worst.

mod crash;
mod damage;
mod full;
mod handoff;
mod medium;
mod notes;
mod script;
