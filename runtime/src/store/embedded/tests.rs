//! What the embedded store does when the medium does its worst.

mod crash;
mod damage;
mod medium;
mod script;
