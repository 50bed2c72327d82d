//! `flights` as a person or a script meets it: the program itself, its output and its exit code.

use flights_plain::{
    progress::Progress,
    report::{Report, differences},
    rows::Rows,
    totals::{Tables, fold},
};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use tempfile::TempDir;

const HEADER: &str =
    "year,month,day,sched_dep_time,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest,distance\n";
const FIRST: &str = "2013,1,1,515,2,11,UA,1545,N14228,EWR,IAH,1400\n";
const SECOND: &str = "2013,1,1,529,4,20,UA,1714,N24211,LGA,IAH,1416\n";

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights-2013-q1.csv.gz")
}

fn folded(input: &Path) -> Tables {
    fold(&mut Rows::open(input).expect("the input is good")).expect("the input is good")
}

fn flights() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flights"));
    command.stdin(Stdio::null());
    command
}

fn run(input: &Path, data_dir: &Path) -> Command {
    let mut command = flights();
    command.arg("run").arg("--input").arg(input).arg("--data-dir").arg(data_dir).arg("--json");
    command
}

fn output(mut command: Command) -> Output {
    command.output().expect("the program starts")
}

/// The report of a run that must end well.
fn report(input: &Path, data_dir: &Path) -> Report {
    let output = output(run(input, data_dir));
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("standard output is one JSON object")
}

/// What is said on standard error by a run that must fail, with nothing on standard output.
fn complaint(input: &Path, data_dir: &Path) -> String {
    let output = output(run(input, data_dir));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(text(&output.stdout), "");
    assert!(said.starts_with("error: ") && !said.contains("panicked"), "{said}");
    said
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory with a file of rows in it.
fn with_file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = dir.path().join(name);
    fs::write(&file, content).expect("a temporary file can be written");
    (dir, file)
}

#[test]
fn a_file_run_twice_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let expected = folded(&bundled());

    let first = report(&bundled(), dir.path());
    assert_eq!(differences(&first.tables, &expected), []);
    // Each row is a turn of its aircraft, two airports and the carrier; and each of them enlists once.
    let enlisted = expected.aircraft.len() + expected.airports.len() + expected.carriers.len();
    assert_eq!(first.counters.applied, 4 * expected.rows + enlisted as u64);
    // A receiver that is slow to acknowledge may be sent a message twice, so repeats are no sign of a fault.
    assert_eq!(first.counters.dead_letters, 0);

    let second = report(&bundled(), dir.path());
    assert_eq!(differences(&second.tables, &expected), []);
    assert_eq!((second.counters.applied, second.counters.dead_letters), (0, 0));
}

#[test]
fn killed_several_times_the_end_is_that_of_a_plain_fold() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = flights();
    command.args(["demo", "--kills", "3", "--seed", "2013", "--data-dir"]).arg(dir.path());
    let output = output(command);
    let (told, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{told}\n{said}");
    assert_eq!(told.matches("kill -9 at row").count(), 3, "{told}");
    assert!(told.contains("\nequal: killed 3 times"), "{told}");
}

#[test]
fn plain_and_gzipped_rows_and_any_number_of_workers_give_the_same() {
    let mut plain = String::new();
    flate2::read::GzDecoder::new(fs::File::open(bundled()).unwrap()).read_to_string(&mut plain).unwrap();
    // A part is enough, and quicker.
    let part: String = plain.split_inclusive('\n').take(5_001).collect();
    let (_input, file) = with_file("part.csv", part);
    let expected = folded(&file);
    for workers in ["1", "3"] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = run(&file, dir.path());
        command.args(["--workers", workers]);
        let found: Report = serde_json::from_slice(&output(command).stdout).unwrap();
        assert_eq!(differences(&found.tables, &expected), []);
    }
}

#[test]
fn without_json_a_table_is_printed() {
    let (input, file) = with_file("two.csv", format!("{HEADER}{FIRST}{SECOND}"));
    let mut command = flights();
    command.arg("run").arg("--input").arg(&file).arg("--data-dir").arg(input.path().join("data"));
    let output = output(command);
    let told = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(told.contains("\n  UA             2  2,816          0\n"), "{told}");
    assert!(text(&output.stderr).starts_with("2 rows read, 2 durable, in "), "{}", text(&output.stderr));
}

#[test]
fn what_was_read_before_a_bad_row_stays_counted_and_the_mended_file_goes_on() {
    let bad = "2013,1,1,529,late,20,UA,1714,N24211,LGA,IAH,1416\n";
    let (input, file) = with_file("flights.csv", format!("{HEADER}{FIRST}{bad}"));
    let data = input.path().join("data");
    let said = complaint(&file, &data);
    let expected =
        "flights.csv: row 2 (line 3): column dep_delay: `late` is not a whole number of minutes or NA\n";
    assert!(said.contains(expected), "{said}");
    assert!(said.contains("the row before it is counted and durable in "), "{said}");

    fs::write(&file, format!("{HEADER}{FIRST}{SECOND}")).unwrap();
    let report = report(&file, &data);
    assert_eq!(differences(&report.tables, &folded(&file)), []);
    // Its four turns; its aircraft and LGA enlist, which the first row had not named; and what the first row's messages
    // had caused may have been on its way when that run ended.
    let turns = 4 + 2..=4 + 2 + 7;
    assert!(turns.contains(&report.counters.applied), "only the second row was left to count: {turns:?}");
}

#[test]
fn a_truncated_gzip_says_so_and_the_whole_file_goes_on() {
    let whole = fs::read(bundled()).unwrap();
    let (input, file) = with_file("flights.csv.gz", &whole[..whole.len() / 2]);
    let data = input.path().join("data");
    let said = complaint(&file, &data);
    assert!(said.contains("flights.csv.gz: row ") && said.contains("the file is truncated"), "{said}");
    assert!(said.contains("rows before it are counted and durable"), "{said}");

    fs::write(&file, &whole).unwrap();
    let report = report(&file, &data);
    assert_eq!(differences(&report.tables, &folded(&file)), []);
    assert!(report.counters.applied < 4 * report.tables.rows, "the first half was counted before");
}

#[test]
fn an_input_that_is_no_file_of_flights_is_refused_before_anything_is_made() {
    let short = HEADER.replace(",distance", "");
    let (input, wrong) = with_file("wrong.csv", short);
    let data = input.path().join("data");
    for (file, expected) in [
        (input.path().join("none.csv"), "none.csv: cannot be opened: there is no such file"),
        (input.path().to_owned(), "is a directory; give the .csv or .csv.gz file in it"),
        (wrong, "wrong.csv: header (line 1): column distance: missing; the header ends after column 11"),
    ] {
        let said = complaint(&file, &data);
        assert!(said.contains(expected), "{said}");
        assert!(!data.exists(), "a run that could not begin left {} behind", data.display());
    }
}

#[test]
fn rows_with_too_few_and_too_many_columns_are_named() {
    for (row, expected) in [
        ("2013,1,1,529\n", "row 2 (line 3): column dep_delay: missing; the row has 4 columns, expected 12"),
        (
            "2013,1,1,529,4,20,UA,1714,N24211,LGA,IAH,1416,x\n",
            "row 2 (line 3): column 13 is `x`; expected 12",
        ),
    ] {
        let (input, file) = with_file("flights.csv", format!("{HEADER}{FIRST}{row}"));
        let said = complaint(&file, &input.path().join("data"));
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn another_file_under_a_feed_name_already_used_is_refused() {
    let (_first, file) = with_file("flights.csv", format!("{HEADER}{FIRST}{SECOND}"));
    let (_second, other) =
        with_file("flights.csv", format!("{HEADER}{}{SECOND}", FIRST.replace("1545", "1546")));
    let data = tempfile::tempdir().unwrap();
    let counted = report(&file, data.path());

    let said = complaint(&other, data.path());
    assert!(said.contains(&other.display().to_string()), "{said}");
    assert!(
        said.contains("is not the file that was read under the feed name `flights.csv` before"),
        "{said}"
    );

    let after = report(&file, data.path());
    assert_eq!(differences(&after.tables, &counted.tables), [], "the other file changed nothing");
}

#[test]
fn a_data_directory_that_cannot_be_written_says_so() {
    let (input, file) = with_file("flights.csv", format!("{HEADER}{FIRST}"));
    // A file where a directory should be: not even the superuser can write below it.
    let data = input.path().join("flights.csv/data");
    let said = complaint(&file, &data);
    assert!(said.contains(&format!("cannot start on the data directory {}: ", data.display())), "{said}");
}

/// Stops at the first row whose progress is told, as Ctrl-C would.
#[cfg(unix)]
#[test]
fn stopped_by_ctrl_c_it_says_what_is_durable_and_goes_on_when_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = run(&bundled(), dir.path());
    command.args(["--progress-lines", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.parse::<Progress>().is_ok(), "{first}");
    let killed = Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap();
    assert!(killed.success());

    let said = lines.map_while(Result::ok).filter(|line| line.parse::<Progress>().is_err());
    let said: Vec<String> = said.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said:?}");
    assert!(said[0].starts_with("stopped: ") && said[0].contains(" rows read are durable in "), "{said:?}");
    assert!(said[0].ends_with("; run the same command again and it goes on from there"), "{said:?}");

    let report = report(&bundled(), dir.path());
    assert_eq!(differences(&report.tables, &folded(&bundled())), []);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (input, file) = with_file("two.csv", format!("{HEADER}{FIRST}{SECOND}"));
    let mut command = run(&file, &input.path().join("data"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_demo_needs_a_directory_of_its_own() {
    let (input, _file) = with_file("something", "");
    let mut command = flights();
    command.args(["demo", "--data-dir"]).arg(input.path());
    let output = output(command);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(" is not empty; "), "{}", text(&output.stderr));
}

#[test]
fn a_wrong_command_line_is_exit_code_2_and_help_shows_examples() {
    let mut wrong = flights();
    wrong.args(["run", "--input", "x", "--data-dir", "y", "--workers", "0"]);
    assert_eq!(output(wrong).status.code(), Some(2));
    for sub in [&["--help"][..], &["run", "--help"], &["demo", "--help"]] {
        let mut help = flights();
        help.args(sub);
        let told = text(&output(help).stdout);
        assert!(told.contains("Examples:\n  flights "), "{told}");
    }
}

/// A gzipped copy under another name is another feed: the same rows count again, and the figures double.
#[test]
fn the_feed_is_named_by_the_file_name() {
    let rows = format!("{HEADER}{FIRST}{SECOND}");
    let (input, file) = with_file("one.csv", &rows);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(rows.as_bytes()).unwrap();
    let other = input.path().join("two.csv");
    fs::write(&other, encoder.finish().unwrap()).unwrap();
    let data = input.path().join("data");
    assert_eq!(report(&file, &data).tables.carriers["UA"].flights, 2);
    assert_eq!(report(&other, &data).tables.carriers["UA"].flights, 4);
    assert_eq!(report(&file, &data).tables.carriers["UA"].flights, 4, "counted before, and not again");
}
