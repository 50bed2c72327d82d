//! Runs one simulated seed and prints what happened: `simulate --seed N [--cluster | --moving | --storm | --shared] [--steps] [--trace]`.

use entity_runtime_tests::world::{self, Scale};
use std::{panic, process::ExitCode};

fn main() -> ExitCode {
    let mut seed = None;
    let (mut scale, mut steps, mut trace) = (Scale::OneNode, false, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seed" => seed = words.next().and_then(|seed| seed.parse().ok()),
            "--cluster" => scale = Scale::Cluster,
            "--moving" => scale = Scale::Moving,
            "--storm" => scale = Scale::Storm,
            "--shared" => scale = Scale::Shared,
            "--steps" => steps = true,
            "--trace" => trace = true,
            _ => seed = None,
        }
    }
    let Some(seed) = seed else {
        eprintln!(
            "usage: simulate --seed NUMBER [--cluster | --moving | --storm | --shared] [--steps] [--trace]"
        );
        return ExitCode::from(2);
    };
    // Its entities panic on purpose; what else panics is told.
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|location| location.file().ends_with("entities.rs")) {
            tell(panic);
        }
    }));
    let report = world::run(seed, scale, trace);
    if steps {
        println!("{} steps in {:?} of virtual time", report.steps, report.time);
    }
    for (name, count) in report.seen.list() {
        println!("{name:>22} {count}");
    }
    println!("{:016x}", report.hash);
    ExitCode::SUCCESS
}
