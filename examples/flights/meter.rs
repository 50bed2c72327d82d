//! How a run shows how far it is: a bar for people, lines for the demo, silence for everyone else.

use anyhow::{Context as _, Result};
use flights_plain::{progress::Progress, rows::Rows, table::number};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{self, IsTerminal, Write},
    num::NonZeroU64,
    time::{Duration, Instant},
};

/// Rows between two looks at the bar. It draws itself ten times a second; making its text for every row would cost more
/// than reading the row.
const BAR_EVERY: u64 = 128;

/// Shows how far a run is.
pub(crate) struct Meter {
    started: Instant,
    form: Form,
}

enum Form {
    Bar(ProgressBar),
    Lines { every: NonZeroU64, last: Progress },
    Silent,
}

impl Meter {
    /// A bar if a person looks at standard error, and lines every so many rows if those were asked for.
    pub(crate) fn new(lines_every: Option<NonZeroU64>, rows: &Rows) -> Self {
        let form = match lines_every {
            Some(every) => Form::Lines { every, last: Progress::default() },
            None if io::stderr().is_terminal() => {
                let style = ProgressStyle::with_template("{bar:32} {percent:>3}%  {msg}")
                    .expect("the template is a constant and parses");
                Form::Bar(ProgressBar::new(rows.bytes_len()).with_style(style))
            }
            None => Form::Silent,
        };
        Self { started: Instant::now(), form }
    }

    /// Nothing.
    pub(crate) fn silent() -> Self {
        Self { started: Instant::now(), form: Form::Silent }
    }

    /// Shows it, if it is time to.
    ///
    /// # Errors
    /// Whoever wanted the lines is gone.
    pub(crate) fn show(&mut self, progress: Progress, rows: &Rows) -> Result<()> {
        let elapsed = self.started.elapsed();
        match &mut self.form {
            Form::Bar(bar)
                if progress.sent.is_multiple_of(BAR_EVERY) || progress.sent == progress.durable =>
            {
                bar.set_position(rows.bytes_read());
                let Progress { sent, durable } = progress;
                bar.set_message(format!(
                    "{} rows, {} rows/s, {} durable",
                    number(sent),
                    number(rate(sent, elapsed)),
                    number(durable)
                ));
            }
            Form::Lines { every, last } => {
                // While rows are sent, one line in so many; while the last are waited for, one for each change.
                let is_due = if progress.sent == last.sent {
                    progress.durable != last.durable
                } else {
                    progress.sent.is_multiple_of(every.get())
                };
                if is_due {
                    *last = progress;
                    writeln!(io::stderr(), "{progress}").context("nobody reads the progress lines")?;
                }
            }
            Form::Bar(_) | Form::Silent => {}
        }
        Ok(())
    }

    /// The bar, where there is one: who else writes to the terminal must ask it to step aside.
    pub(crate) fn bar(&self) -> Option<ProgressBar> {
        match &self.form {
            Form::Bar(bar) => Some(bar.clone()),
            Form::Lines { .. } | Form::Silent => None,
        }
    }

    /// Takes the bar away, so that what is said next stands alone.
    pub(crate) fn clear(&self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }

    /// Says in one line how it ended.
    pub(crate) fn close(&self, progress: Progress) {
        if matches!(self.form, Form::Lines { .. }) {
            return;
        }
        let (Progress { sent, durable }, elapsed) = (progress, self.started.elapsed());
        // A closed standard error is no reason to fail a run that counted every row.
        let _ = writeln!(
            io::stderr(),
            "{} rows read, {} durable, in {:.2} s ({} rows/s)",
            number(sent),
            number(durable),
            elapsed.as_secs_f64(),
            number(rate(sent, elapsed))
        );
    }
}

/// Rows per second; in the first millisecond, as if it had passed.
pub(crate) fn rate(rows: u64, elapsed: Duration) -> u64 {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    rows.saturating_mul(1_000) / millis
}
