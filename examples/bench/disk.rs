//! The floor: what this disk gives without a runtime.
//!
//! One record of 160 bytes written and synced, over and over; and an adaptive group commit, where a client keeps so many
//! records outstanding and a committer writes and syncs whatever is queued.

use crate::{Load, machine::rate};
use anyhow::Result;
use hdrhistogram::Histogram;
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::mpsc,
    time::Instant,
};

const RECORD: usize = 160;
const FILE: u64 = 64 << 20;

/// What the disk gives.
#[derive(Default)]
pub(crate) struct Floor {
    /// Median of one write and sync, in microseconds.
    pub(crate) sync_p50: f64,
    /// Records per second by outstanding count.
    pub(crate) group: Vec<(usize, f64)>,
}

impl Floor {
    pub(crate) fn group_at(&self, outstanding: usize) -> f64 {
        self.group.iter().find(|(count, _)| *count == outstanding).map_or(f64::NAN, |(_, rate)| *rate)
    }
}

pub(crate) fn measure(load: &Load) -> Result<Floor> {
    let path = load.dir.join("raw");
    let file = preallocated(&path)?;
    let mut times = Histogram::<u64>::new(3)?;
    let (started, mut at) = (Instant::now(), 0);
    while started.elapsed() < load.time / 4 {
        let one = Instant::now();
        file.write_all_at(&[7; RECORD], at)?;
        file.sync_data()?;
        times.record(one.elapsed().as_nanos() as u64)?;
        at = (at + RECORD as u64) % (FILE - RECORD as u64);
    }
    let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    let mut floor = Floor { sync_p50: micros(0.5), group: Vec::new() };
    println!(
        "raw disk      one 160 B write + fdatasync: p50 {:.0} us, p99 {:.0} us",
        floor.sync_p50,
        micros(0.99)
    );
    for outstanding in [128, 1_024, 8_192] {
        let got = group_commit(&file, outstanding, load)?;
        println!("raw disk      group commit, {outstanding} outstanding: {}", rate(got));
        floor.group.push((outstanding, got));
    }
    std::fs::remove_file(&path)?;
    println!();
    Ok(floor)
}

fn preallocated(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn group_commit(file: &File, outstanding: usize, load: &Load) -> Result<f64> {
    let (submit, submitted) = mpsc::channel::<u32>();
    let (acknowledge, acknowledged) = mpsc::channel::<u32>();
    let time = load.time / 2;
    std::thread::scope(|scope| {
        let committer = scope.spawn(move || -> Result<()> {
            let (mut buffer, mut at) = (Vec::new(), 0_u64);
            while let Ok(first) = submitted.recv() {
                let count: u32 = first + submitted.try_iter().sum::<u32>();
                buffer.clear();
                for _ in 0..count {
                    buffer.extend_from_slice(&[7; RECORD]);
                }
                if FILE < at + buffer.len() as u64 {
                    at = 0;
                }
                file.write_all_at(&buffer, at)?;
                file.sync_data()?;
                at += buffer.len() as u64;
                if acknowledge.send(count).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let started = Instant::now();
        let mut done = 0_u64;
        submit.send(outstanding as u32)?;
        while started.elapsed() < time {
            let count = acknowledged.recv()?;
            done += u64::from(count);
            submit.send(count)?;
        }
        let got = done as f64 / started.elapsed().as_secs_f64();
        drop(submit);
        drop(acknowledged);
        committer.join().expect("the committer does not panic")?;
        Ok(got)
    })
}
