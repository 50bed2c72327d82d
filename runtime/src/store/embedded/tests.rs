//! What the embedded store does when the medium does its worst.

mod crash;
mod damage;
mod full;
mod medium;
mod script;
