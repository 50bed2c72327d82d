//! Tables for people: every column aligned.

use std::fmt::Write;

/// Lines of cells, the first of them ruled off: so many columns to the left, the others to the right.
pub(super) fn aligned(left: usize, lines: &[Vec<String>]) -> String {
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
            let _ = if column < left { write!(text, "  {cell}{pad}") } else { write!(text, "  {pad}{cell}") };
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
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Microseconds as milliseconds: `12.3 ms`.
pub(super) fn millis(micros: u64) -> String {
    format!("{}.{} ms", number(micros / 1_000), micros % 1_000 / 100)
}

/// Milliseconds as seconds: `12.3 s`.
pub(super) fn seconds(millis: u64) -> String {
    format!("{}.{} s", number(millis / 1_000), millis % 1_000 / 100)
}

/// Most ranges that are shown of one owner; the rest is a word that says how many more there are.
const RANGES_SHOWN_MAX: usize = 12;

/// Rising numbers as ranges: `0-3, 7, 9-11`.
pub(super) fn ranges(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let shown = ranges
        .iter()
        .take(RANGES_SHOWN_MAX)
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    let mut out = shown.collect::<Vec<_>>().join(", ");
    if let Some(more @ 1..) = ranges.len().checked_sub(RANGES_SHOWN_MAX) {
        let _ = write!(out, " and {more} more");
    }
    out
}

/// A text of a node: escaped, it cannot move the cursor.
pub(super) fn shown(text: &str) -> String {
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines = [["node", "alive", "turns"], ["a", "yes", "7"], ["bücher", "no", "1,000"]]
            .map(|line| line.map(str::to_owned).to_vec());
        let expected = [
            "  node    alive  turns",
            "  ──────  ─────  ─────",
            "  a       yes        7",
            "  bücher  no     1,000",
        ];
        assert_eq!(aligned(2, &lines).lines().collect::<Vec<_>>(), expected);
        assert_eq!(aligned(1, &[]), "");
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!([0, 999, 1_000, 80_789].map(number), ["0", "999", "1,000", "80,789"]);
        assert_eq!(number(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(
            [0, 99, 100, 12_345, 1_000_000].map(millis),
            ["0.0 ms", "0.0 ms", "0.1 ms", "12.3 ms", "1,000.0 ms"]
        );
    }

    #[test]
    fn shards_in_a_row_are_one_range() {
        assert_eq!(ranges([]), "");
        assert_eq!(ranges([0, 1, 2, 3, 7, 9, 10, u32::MAX]), "0-3, 7, 9-10, 4294967295");
        let odd = ranges((0..40).filter(|number| number % 2 == 1));
        assert_eq!(odd, "1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 and 8 more");
    }

    #[test]
    fn a_node_cannot_write_to_the_terminal() {
        assert!(!shown("\u{1b}[2J").contains('\u{1b}'));
    }
}
