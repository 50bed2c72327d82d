//! `flights demo`: kills its own child again and again, and compares what is left with a plain fold. With `--nodes` it is
//! [another story](crate::story).
//!
//! The child is `flights run` on a directory of its own, with lines on standard error that say how far it is. When it
//! has as many durable rows as the seed says, it gets SIGKILL: no destructor runs, nothing is flushed, messages between
//! entities are on their way. The next child starts on the same directory with the first row again.

use crate::{
    meter::rate,
    stop::{STOPPED, Stop},
    story,
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
/// Messages that one row becomes: to its aircraft, and from there to two airports and the carrier. One more for each entity
/// is its enlisting.
const TURNS_PER_ROW: u64 = 4;
/// Differences shown before the rest is only counted.
const DIFFERENCES_MAX: usize = 20;

/// What `demo` is told.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The rows: a .csv file, gzipped or not [default: the bundled quarter of 2013]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// So many processes, each with a part of the entities, that come, go, crash and hang while rows are loaded
    #[arg(long, value_name = "N")]
    nodes: Option<NonZeroUsize>,

    /// The nodes share a private PostgreSQL server instead of having a directory each; it is restarted, and who is killed is
    /// gone for good
    #[arg(long, requires = "nodes")]
    postgres: bool,

    /// How often the child is killed before it may finish, or with --nodes some node [default: 5, or 2]
    #[arg(long, value_name = "N")]
    kills: Option<usize>,

    /// Chooses what happens at which rows [default: another one each time, printed]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// Where the entities are kept: an empty directory, kept afterwards [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Threads of the child, or of each node, that run entities [default: one per core]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,

    /// For how many seconds a node is paused: longer than any other waits for it
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pause: Duration,

    /// Rows a second while something is done to the nodes, 0: as fast as they are taken
    #[arg(long, value_name = "ROWS", default_value_t = 2_000)]
    rate: u64,
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
    let tables = fold(&mut Rows::open(&input)?)?;
    let expected = Expected { tables, folded: started.elapsed() };
    let (data_dir, temporary) = if let Some(dir) = &args.data_dir {
        ensure_empty(dir)?;
        (dir.clone(), None)
    } else {
        let dir = tempfile::Builder::new().prefix("flights-demo-").tempdir();
        let dir = dir.context("cannot make a temporary directory")?;
        (dir.path().to_owned(), Some(dir))
    };
    let seed = args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) % 1_000_000);
    let outcome = if let Some(nodes) = args.nodes {
        let story = story::Story {
            input: &input,
            directory: &data_dir,
            nodes,
            is_shared: args.postgres,
            kills: args.kills.unwrap_or(2),
            seed,
            workers: args.workers,
            pause: args.pause,
            rate: (args.rate != 0).then_some(args.rate),
            expected: &expected,
        };
        story.tell(&stop).await.transpose()
    } else {
        let kills = args.kills.unwrap_or(5);
        let story =
            Story { args: &args, input: &input, data_dir: &data_dir, kills, seed, expected: &expected };
        tokio::select! {
            biased;
            // Dropping the story kills the child that is running.
            () = stop.asked() => None,
            outcome = story.tell() => Some(outcome),
        }
    };
    let Some(outcome) = outcome else { return Ok(ExitCode::from(STOPPED)) };
    // What did not end well is worth a look: keep it, and say where it is.
    if !matches!(outcome, Ok(true)) {
        let kept = temporary.map_or(data_dir, tempfile::TempDir::keep);
        let _ = writeln!(io::stderr(), "the data directory is kept: {}", kept.display());
    }
    Ok(if outcome? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// What a plain fold over the file gives, and how long it took.
pub(crate) struct Expected {
    pub(crate) tables: Tables,
    pub(crate) folded: Duration,
}

/// What one demo is about.
struct Story<'a> {
    args: &'a DemoArgs,
    input: &'a Path,
    data_dir: &'a Path,
    kills: usize,
    seed: u64,
    expected: &'a Expected,
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
        let Expected { tables: expected, folded } = self.expected;
        let (kills, seed) = (self.kills, self.seed);
        say(&format!(
            "{} rows of {}, {kills} kills, --seed {seed}\n\
             a plain fold over the file, one thread, nothing kept: {:.2} s\n",
            number(expected.rows),
            self.input.display(),
            folded.as_secs_f64()
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

        let killed_times = format!("killed {killed} times");
        let columns = [(killed_times.as_str(), &counted.tables), ("one more run", &again.tables)];
        say(&format!("\n{}\n", side_by_side(columns, expected)))?;
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
        let mut child = self.spawn((self.expected.tables.rows / LINES_PER_FILE).max(1))?;
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

/// The sums of two results under their heads, and of the fold, a figure a line.
pub(crate) fn side_by_side(found: [(&str, &Tables); 2], expected: &Tables) -> String {
    let [(one, counted), (other, again)] = found;
    let mut lines = vec![["sum over all", one, other, "plain fold"].map(str::to_owned).to_vec()];
    let sums = [counted, again, expected].map(|tables| Sums::of(tables).figures());
    for (at, (table, name, _)) in sums[0].iter().enumerate() {
        let mut line = vec![format!("{table} {name}")];
        line.extend(sums.iter().map(|figures| number(figures[at].2)));
        lines.push(line);
    }
    aligned(&lines)
}

/// Shows where a result is not the fold's; true if it is.
pub(crate) fn show_differences(whose: &str, found: &Tables, expected: &Tables) -> Result<bool> {
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
    let Tables { rows, aircraft, airports, carriers } = &counted.tables;
    let entities = aircraft.len() + airports.len() + carriers.len();
    let turns_max = rows * TURNS_PER_ROW + entities as u64 - durable_before;
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
pub(crate) fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}
