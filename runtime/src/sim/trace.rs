//! What happened, in order, as one number: the same seed must give the same.

use std::fmt::{self, Write};
use xxhash_rust::xxh3::Xxh3;

/// Takes the lines of a trace as they come.
pub(super) type Sink = Box<dyn FnMut(&str)>;

/// A running hash over everything that happens in a simulation.
pub(super) struct Trace {
    hash: Xxh3,
    line: String,
    sink: Option<Sink>,
    steps: u64,
}

impl Trace {
    pub(super) fn new() -> Self {
        Self { hash: Xxh3::new(), line: String::new(), sink: None, steps: 0 }
    }

    /// Also gives a line for each from here on.
    pub(super) fn write_to(&mut self, sink: Sink) {
        self.sink = Some(sink);
    }

    pub(super) fn note(&mut self, at: u64, what: fmt::Arguments<'_>) {
        self.line.clear();
        self.line.write_fmt(what).expect("a string takes everything");
        self.steps += 1;
        self.hash.update(&at.to_le_bytes());
        self.hash.update(self.line.as_bytes());
        if let Some(sink) = &mut self.sink {
            sink(&format!("{:>4}.{:06} {}", at / 1_000_000, at % 1_000_000, self.line));
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
    }

    pub(super) fn digest(&self) -> u64 {
        self.hash.digest()
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }
}
