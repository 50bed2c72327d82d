//! The lines by which a run tells another process how far it is: `progress sent=1200 durable=1024`.

use std::{fmt, str::FromStr};

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows sent, in this run.
    pub sent: u64,
    /// Rows known to be durable, from this run or one before.
    pub durable: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "progress sent={} durable={}", self.sent, self.durable)
    }
}

/// The line tells something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotProgress;

impl FromStr for Progress {
    type Err = NotProgress;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let (sent, durable) = line
            .strip_prefix("progress sent=")
            .and_then(|rest| rest.split_once(" durable="))
            .ok_or(NotProgress)?;
        let number = |text: &str| text.parse().map_err(|_| NotProgress);
        Ok(Self { sent: number(sent)?, durable: number(durable)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_and_anything_else_is_told_apart() {
        let progress = Progress { sent: 1_200, durable: 1_024 };
        assert_eq!(progress.to_string().parse(), Ok(progress));
        for line in ["", "error: progress sent=1 durable=1", "progress sent=1", "progress sent=1 durable=x"] {
            assert_eq!(line.parse::<Progress>(), Err(NotProgress));
        }
    }
}
