//! `flights demo`: kills its own child again and again, and compares what is left with a plain fold.
//!
//! The child is `flights run` on a directory of its own, with lines on standard error that say how far it is. When it
//! has as many durable rows as the seed says, it gets SIGKILL: no destructor runs, nothing is flushed, messages between
//! entities are on their way. The next child starts on the same directory with the first row again.

use crate::{
    meter::rate,
    stop::{STOPPED, Stop},
};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use flights_plain::{
    kills,
    progress::Progress,
    report::{Report, Sums, differences},
    rows::Rows,
    table::{aligned, number},
    totals::{Tables, fold},
};
use std::{
    collections::VecDeque,
    env, fs,
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};

/// Where the bundled rows lie, seen from a directory above the executable.
const BUNDLED: &str = "examples/data/flights-2013-q1.csv.gz";
/// Progress lines a child writes over the whole file: enough for a kill to land close to its point, few enough to cost
/// nothing.
const LINES_PER_FILE: u64 = 500;
/// Lines of a child's standard error kept for the case that it fails.
const COMPLAINTS_MAX: usize = 20;
/// Messages that one row becomes: to its aircraft, and from there to two airports and the carrier.
const TURNS_PER_ROW: u64 = 4;
/// Differences shown before the rest is only counted.
const DIFFERENCES_MAX: usize = 20;

/// What `demo` is told.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The rows: a .csv file, gzipped or not [default: the bundled quarter of 2013]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// How often the child is killed before it may finish
    #[arg(long, value_name = "N", default_value_t = 5)]
    kills: usize,

    /// Chooses the rows at which it is killed [default: another one each time, printed]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// Where the entities are kept: an empty directory, kept afterwards [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Threads of the child that run entities [default: one per core]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
}

/// Runs it.
pub(crate) async fn demo(args: DemoArgs) -> Result<ExitCode> {
    let input = match &args.input {
        Some(input) => input.clone(),
        None => bundled()?,
    };
    let stop = Stop::listen();
    // Before anything is made: rows that cannot be counted are not the runtime's fault.
    let started = Instant::now();
    let expected = fold(&mut Rows::open(&input)?)?;
    let folded = started.elapsed();
    let (data_dir, temporary) = if let Some(dir) = &args.data_dir {
        ensure_empty(dir)?;
        (dir.clone(), None)
    } else {
        let dir = tempfile::Builder::new().prefix("flights-demo-").tempdir();
        let dir = dir.context("cannot make a temporary directory")?;
        (dir.path().to_owned(), Some(dir))
    };
    let story = Story { args: &args, input: &input, data_dir: &data_dir, expected, folded };
    let outcome = tokio::select! {
        biased;
        // Dropping the story kills the child that is running.
        () = stop.asked() => return Ok(ExitCode::from(STOPPED)),
        outcome = story.tell() => outcome,
    };
    // What did not end well is worth a look: keep it, and say where it is.
    if !matches!(outcome, Ok(true)) {
        let kept = temporary.map_or(data_dir, tempfile::TempDir::keep);
        let _ = writeln!(io::stderr(), "the data directory is kept: {}", kept.display());
    }
    Ok(if outcome? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What one demo is about.
struct Story<'a> {
    args: &'a DemoArgs,
    input: &'a Path,
    data_dir: &'a Path,
    /// What a plain fold over the file gives, and how long it took.
    expected: Tables,
    folded: Duration,
}

/// How a child ended.
enum Ended {
    Killed(Progress),
    Finished(Report),
}

impl Story<'_> {
    /// Tells it; false if the entities and the fold do not agree.
    async fn tell(&self) -> Result<bool> {
        let started = Instant::now();
        let expected = &self.expected;
        let kills = self.args.kills;
        let seed = self.args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000);
        say(&format!(
            "{} rows of {}, {kills} kills, --seed {seed}\n\
             a plain fold over the file, one thread, nothing kept: {:.2} s\n",
            number(expected.rows),
            self.input.display(),
            self.folded.as_secs_f64()
        ))?;

        let mut runs = 0;
        let mut killed = 0;
        let mut durable_before = 0;
        for point in kills::points(seed, kills, expected.rows) {
            let mut point = point;
            loop {
                runs += 1;
                if let Ended::Killed(Progress { sent, durable }) = self.child(Some(point)).await? {
                    killed += 1;
                    durable_before = durable_before.max(durable);
                    say(&format!(
                        "run {runs}: kill -9 at row {}, with {} rows durable\n",
                        number(sent),
                        number(durable)
                    ))?;
                    break;
                }
                // The rows it had counted before went by too fast; a kill among them is a kill all the same.
                say(&format!(
                    "run {runs}: finished before it could be killed; once more, to be killed earlier\n"
                ))?;
                durable_before = expected.rows;
                point = (point / 2).max(1);
            }
        }
        runs += 1;
        let counted = self.to_the_end(runs, "left alone, finished").await?;
        let again = self.to_the_end(runs + 1, "once more over all rows, finished").await?;

        say(&format!("\n{}\n", side_by_side(&counted.tables, &again.tables, expected, killed)))?;
        let is_equal = show_differences("the entities", &counted.tables, expected)?
            & show_differences("the entities after one more run", &again.tables, expected)?
            & show_forgotten(&counted, durable_before, &again)?;
        if is_equal {
            say(&format!(
                "equal: killed {killed} times, and every figure of {} aircraft, {} airports and {} carriers is the plain \
                 fold's; one more run over all rows changed nothing. {:.1} s in all.\n",
                number(expected.aircraft.len() as u64),
                number(expected.airports.len() as u64),
                number(expected.carriers.len() as u64),
                started.elapsed().as_secs_f64()
            ))?;
        }
        Ok(is_equal)
    }

    /// Runs a child that nobody kills.
    async fn to_the_end(&self, run: usize, what: &str) -> Result<Report> {
        let started = Instant::now();
        let Ended::Finished(report) = self.child(None).await? else {
            bail!("run {run} was killed by somebody else; run the demo again");
        };
        let elapsed = started.elapsed();
        say(&format!(
            "run {run}: {what} in {:.2} s ({} rows/s): {} turns applied, {} duplicates left aside\n",
            elapsed.as_secs_f64(),
            number(rate(report.tables.rows, elapsed)),
            number(report.counters.applied),
            number(report.counters.duplicates)
        ))?;
        Ok(report)
    }

    /// Runs a child, and kills it when `kill_at` rows are durable.
    async fn child(&self, kill_at: Option<u64>) -> Result<Ended> {
        let mut child = self.spawn((self.expected.rows / LINES_PER_FILE).max(1))?;
        let stdout = child.stdout.take().context("the child's standard output is a pipe")?;
        let stderr = child.stderr.take().context("the child's standard error is a pipe")?;
        // Read beside the lines: a child that waits for its output to be taken would write no more lines.
        let output = tokio::spawn(async move {
            let mut text = String::new();
            BufReader::new(stdout).read_to_string(&mut text).await.map(|_| text)
        });

        let mut lines = BufReader::new(stderr).lines();
        let mut progress = Progress::default();
        let mut complaints = VecDeque::new();
        let mut is_killed = false;
        // Until its standard error closes, also after the kill: what it wrote last tells how far it was.
        while let Some(line) = lines.next_line().await.context("cannot read the child's standard error")? {
            let Ok(seen) = line.parse() else {
                if complaints.len() == COMPLAINTS_MAX {
                    complaints.pop_front();
                }
                complaints.push_back(line);
                continue;
            };
            progress = seen;
            if kill_at.is_some_and(|rows| progress.durable >= rows) && !is_killed {
                // SIGKILL where there are signals: the child cannot see it coming.
                child.start_kill().context("cannot kill the child")?;
                is_killed = true;
            }
        }
        let status = child.wait().await.context("cannot wait for the child")?;
        let output = output.await.context("the task that reads the child's output ended")?;
        if status.success() {
            // Also if it was quicker than the kill.
            let output = output.context("cannot read the child's standard output")?;
            let report = serde_json::from_str(&output).context("the child's report cannot be read")?;
            return Ok(Ended::Finished(report));
        }
        if is_killed && status.code().is_none() {
            return Ok(Ended::Killed(progress));
        }
        let complaints: Vec<String> = complaints.into();
        bail!(
            "the child failed ({status}) with {} rows durable:\n{}",
            progress.durable,
            complaints.join("\n")
        );
    }

    fn spawn(&self, lines_every: u64) -> Result<Child> {
        let program = env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.arg("run").arg("--input").arg(self.input).arg("--data-dir").arg(self.data_dir);
        command.arg("--json").arg("--progress-lines").arg(lines_every.to_string());
        if let Some(workers) = self.args.workers {
            command.arg("--workers").arg(workers.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().context("cannot start this program as its own child")
    }
}

/// The sums of the three results, a figure a line.
fn side_by_side(counted: &Tables, again: &Tables, expected: &Tables, killed: usize) -> String {
    let head = ["sum over all", &format!("killed {killed} times"), "one more run", "plain fold"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    let sums = [counted, again, expected].map(|tables| Sums::of(tables).figures());
    for (at, (table, name, _)) in sums[0].iter().enumerate() {
        let mut line = vec![format!("{table} {name}")];
        line.extend(sums.iter().map(|figures| number(figures[at].2)));
        lines.push(line);
    }
    aligned(&lines)
}

/// Shows where a result is not the fold's; true if it is.
fn show_differences(whose: &str, found: &Tables, expected: &Tables) -> Result<bool> {
    let all = differences(found, expected);
    if all.is_empty() {
        return Ok(true);
    }
    say(&format!("NOT EQUAL: {} figures of {whose} differ from the plain fold\n", number(all.len() as u64)))?;
    for difference in all.iter().take(DIFFERENCES_MAX) {
        say(&format!("  {difference}\n"))?;
    }
    if let Some(more @ 1..) = all.len().checked_sub(DIFFERENCES_MAX) {
        say(&format!("  … and {} more\n", number(more as u64)))?;
    }
    Ok(false)
}

/// Shows rows that were said to be durable and counted anew all the same; true if there are none.
///
/// Equal figures alone would not prove that anything was kept: a runtime that forgot all would count the whole file
/// again and be right. So the turns are looked at as well. A row takes four, and of one that was durable at the last
/// kill at least the first is not taken again; of a file that was counted whole, none is.
fn show_forgotten(counted: &Report, durable_before: u64, again: &Report) -> Result<bool> {
    let turns_max = counted.tables.rows * TURNS_PER_ROW - durable_before;
    let mut is_kept = true;
    for (applied, turns_max, which) in [
        (counted.counters.applied, turns_max, "the run after the last kill"),
        (again.counters.applied, 0, "the run over rows counted before"),
    ] {
        if applied > turns_max {
            is_kept = false;
            say(&format!(
                "NOT KEPT: {which} applied {} turns, {} at most were left to apply\n",
                number(applied),
                number(turns_max)
            ))?;
        }
    }
    Ok(is_kept)
}

/// The bundled rows: beside the sources the executable was built from, wherever that directory was moved to; else where
/// it was at the time of the build.
fn bundled() -> Result<PathBuf> {
    let program = env::current_exe().unwrap_or_default();
    let beside = program.ancestors().map(|dir| dir.join(BUNDLED)).find(|path| path.is_file());
    let built = || Some(Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.join(BUNDLED));
    beside
        .or_else(|| built().filter(|path| path.is_file()))
        .with_context(|| format!("the bundled rows ({BUNDLED}) are not there; name a file with --input FILE"))
}

/// Entities from before would be compared as well, and differ for no fault of anyone.
fn ensure_empty(dir: &Path) -> Result<()> {
    match fs::read_dir(dir) {
        Ok(mut entries) => {
            ensure!(
                entries.next().is_none(),
                "{} is not empty; the demo compares with rows of one file, so give it a directory of its own",
                dir.display()
            );
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot look into {}", dir.display())),
    }
}

/// Prints at once: the story is to be followed while it happens.
fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}
