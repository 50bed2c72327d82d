//! Says what happens in the demo while it happens.

use crate::demo::say;
use anyhow::Result;
use indicatif::ProgressBar;
use std::time::Instant;

/// Says what happens, with the time, and asks the progress bar to step aside for it.
#[derive(Clone)]
pub(crate) struct Teller {
    pub(crate) started: Instant,
    bar: Option<ProgressBar>,
}

impl Teller {
    /// From now on.
    pub(crate) fn start(bar: Option<ProgressBar>) -> Self {
        Self { started: Instant::now(), bar }
    }

    /// Says something, in a line of its own.
    pub(crate) fn tell(&self, text: &str) -> Result<()> {
        let line = format!("{:>6.1} s  {text}\n", self.started.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.suspend(|| say(&line)),
            None => say(&line),
        }
    }
}
