//! The README's program, run as a reader would run it: again and again.

use std::{path::Path, process::Command};

fn count(directory: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_counter")).current_dir(directory).output();
    let output = output.expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

#[test]
fn each_run_goes_on_where_the_last_one_stopped() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for run in 1..=3 {
        assert_eq!(count(directory.path()), format!("visits: {run}\n"));
    }
}
