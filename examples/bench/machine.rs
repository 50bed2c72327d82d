//! What the machine is, and what a stretch of work has cost it.

use std::{fs, time::Duration, time::Instant};

/// Processor, cores, kernel.
pub(crate) fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" unknown processor");
    let kernel = read("/proc/sys/kernel/osrelease");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} cores, Linux {}", cpu.trim_start_matches([' ', '\t', ':']), kernel.trim())
}

/// Processor time this process has used, all threads together.
pub(crate) fn cpu() -> Duration {
    cpu_of("self")
}

/// The same of another process.
pub(crate) fn cpu_of(process: &str) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Fields 14 and 15, counted behind the name in parentheses, in ticks of 10 ms.
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        behind_name.split_whitespace().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Bytes of memory this process holds.
pub(crate) fn resident() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

/// Measures a stretch of work.
pub(crate) struct Meter {
    started: Instant,
    cpu: Duration,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), cpu: cpu() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Rate per second, and processor microseconds per piece.
    pub(crate) fn per_second(&self, pieces: u64) -> (f64, f64) {
        let rate = pieces as f64 / self.started.elapsed().as_secs_f64();
        let each = cpu().saturating_sub(self.cpu).as_secs_f64() * 1e6 / pieces.max(1) as f64;
        (rate, each)
    }
}

/// A rate as people read it.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second >= 1e6 {
        format!("{:.2} M/s", per_second / 1e6)
    } else {
        format!("{:.0} k/s", per_second / 1e3)
    }
}
