//! The result of a run for people: short tables, the busiest first, every column aligned.

use crate::{report::Report, totals::Tables};
use std::{cmp::Reverse, collections::BTreeMap, fmt::Write};

/// Rows shown of each table; the rest is a line that says how many more there are.
const SHOWN_MAX: usize = 10;

/// The report as it is printed without `--json`.
pub fn render(report: &Report) -> String {
    let Tables { rows, aircraft, airports, carriers } = &report.tables;
    let mut out = String::new();

    let airports = busiest(airports, |one| (one.departures, one.arrivals));
    section(
        &mut out,
        "Airports",
        &["airport", "departures", "mean delay", "cancelled", "arrivals", "mean delay", "diverted"],
        &airports,
        |key, one| {
            vec![
                key.to_owned(),
                number(one.departures),
                mean(one.departure_delay, one.departures),
                number(one.cancelled),
                number(one.arrivals),
                mean(one.arrival_delay, one.arrivals),
                number(one.diverted),
            ]
        },
    );
    let carriers = busiest(carriers, |one| (one.flights, one.cancelled));
    section(&mut out, "Carriers", &["carrier", "flights", "miles", "cancelled"], &carriers, |key, one| {
        vec![key.to_owned(), number(one.flights), number(one.miles), number(one.cancelled)]
    });
    let aircraft = busiest(aircraft, |one| (one.flights, one.miles));
    section(&mut out, "Aircraft", &["aircraft", "flights", "miles", "cancelled"], &aircraft, |key, one| {
        vec![key.to_owned(), number(one.flights), number(one.miles), number(one.cancelled)]
    });

    let counters = report.counters;
    let _ = writeln!(
        out,
        "{} rows. In this run {} turns applied, {} duplicates left aside, {} dead letters.",
        number(*rows),
        number(counters.applied),
        number(counters.duplicates),
        number(counters.dead_letters),
    );
    out
}

/// Entities with the largest figure first; those that are equal in the order of their keys.
fn busiest<T, O: Ord>(table: &BTreeMap<String, T>, by: impl Fn(&T) -> O) -> Vec<(&String, &T)> {
    let mut all: Vec<_> = table.iter().collect();
    all.sort_by_key(|(_, one)| Reverse(by(one)));
    all
}

fn section<T>(
    out: &mut String,
    title: &str,
    head: &[&str],
    entities: &[(&String, &T)],
    cells: impl Fn(&str, &T) -> Vec<String>,
) {
    let _ = writeln!(out, "{title}");
    let mut lines = vec![head.iter().map(ToString::to_string).collect()];
    // A key comes from the file: escaped, it cannot move the cursor.
    let shown = entities.iter().take(SHOWN_MAX);
    lines.extend(shown.map(|(key, one)| cells(&key.escape_debug().to_string(), one)));
    out.push_str(&aligned(&lines));
    if let Some(more @ 1..) = entities.len().checked_sub(SHOWN_MAX) {
        let _ = writeln!(out, "  … and {} more", number(more as u64));
    }
    out.push('\n');
}

/// Lines of cells, the first column to the left and the others to the right, the first line ruled off.
pub fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for line in lines {
        for (widest, cell) in widths.iter_mut().zip(line) {
            *widest = width(cell).max(*widest);
        }
    }
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        let mut text = String::new();
        for (column, cell) in line.iter().enumerate() {
            let pad = " ".repeat(widths[column] - width(cell));
            let _ = if column == 0 { write!(text, "  {cell}{pad}") } else { write!(text, "  {pad}{cell}") };
        }
        let _ = writeln!(out, "{}", text.trim_end());
        if at == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
            let _ = writeln!(out, "  {}", rule.join("  "));
        }
    }
    out
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// A number with its thousands apart: `80,789`.
pub fn number(value: impl Into<i128>) -> String {
    let value = value.into();
    let digits = value.unsigned_abs().to_string();
    let mut out = String::new();
    if value < 0 {
        out.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Minutes per flight with one digit behind the point, or a dash where nothing flew.
fn mean(sum: i64, count: u64) -> String {
    if count == 0 {
        return "-".to_owned();
    }
    // Minutes and flights of any file stay far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let mean = sum as f64 / count as f64;
    format!("{mean:.1} min")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::Counters,
        rows::Rows,
        totals::{CarrierTotals, fold},
    };
    use std::path::Path;

    #[test]
    fn numbers_have_their_thousands_apart() {
        for (value, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (-892_053, "-892,053"), (79_352_513, "79,352,513")]
        {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_table_shows_the_busiest_first_and_counts_the_rest() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights-2013-q1.csv.gz");
        let tables = fold(&mut Rows::open(&path).unwrap()).unwrap();
        let text = render(&Report { tables, counters: Counters { applied: 323_156, ..Counters::default() } });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "Airports",
                "  airport  departures  mean delay  cancelled  arrivals  mean delay  diverted",
                "  ───────  ──────────  ──────────  ─────────  ────────  ──────────  ────────",
                "  EWR          28,316    15.5 min      1,104         0           -         0",
            ]
        );
        assert!(text.contains("\n  … and 89 more\n") && text.contains("\n  … and 3,566 more\n"), "{text}");
        let last = "80,789 rows. In this run 323,156 turns applied, 0 duplicates left aside, 0 dead letters.";
        assert_eq!(lines.last(), Some(&last));
    }

    #[test]
    fn an_empty_report_is_still_a_table() {
        let text = render(&Report::default());
        assert!(text.contains("Carriers\n  carrier  flights  miles  cancelled\n"), "{text}");
        assert!(!text.contains("more"));
    }

    #[test]
    fn a_key_cannot_write_to_the_terminal() {
        let mut report = Report::default();
        report.tables.carriers.insert("\u{1b}[2J".into(), CarrierTotals::default());
        assert!(!render(&report).contains('\u{1b}'));
    }
}
