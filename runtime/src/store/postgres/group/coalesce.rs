//! Many writes of a row to the one that is left.
//!
//! The parts of one statement do not see each other's rows, and an upsert may meet a key once only. So each key of a group is
//! in at most one of "put" and "drop", in the state in which the group leaves it.

/// A write of one row, and its place in the order of the group. No value: the row is deleted.
pub(super) struct Entry<K, V> {
    pub(super) key: K,
    pub(super) order: u32,
    pub(super) value: Option<V>,
}

/// Keeps the newest write of each key, in the order of the keys.
pub(super) fn newest<K: Ord, V>(entries: &mut Vec<Entry<K, V>>) {
    entries.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(b.order.cmp(&a.order)));
    entries.dedup_by(|later, first| later.key == first.key);
}

/// The number of a row, and what goes before it in its key: the shard, and whatever the table numbers by.
type Numbered<P> = (i32, P, i64);

struct Range<P> {
    of: (i32, P),
    low: i64,
    high: i64,
    order: u32,
}

/// The writes of a table whose rows are numbered and deleted by ranges.
pub(super) struct Rows<'b, P> {
    entries: Vec<Entry<Numbered<P>, &'b [u8]>>,
    ranges: Vec<Range<P>>,
}

/// Rows to delete: from the first number to the last.
pub(super) type Drop<P> = (i32, P, i64, i64);

impl<'b, P: Ord + Copy> Rows<'b, P> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), ranges: Vec::new() }
    }

    pub(super) fn write(&mut self, key: Numbered<P>, order: u32, value: Option<&'b [u8]>) {
        self.entries.push(Entry { key, order, value });
    }

    pub(super) fn drop_range(&mut self, (shard, prefix, low, high): Drop<P>, order: u32) {
        self.ranges.push(Range { of: (shard, prefix), low, high, order });
    }

    /// Hands over the rows to put, and returns those to drop; both in the order of their keys.
    pub(super) fn settle(mut self, mut put: impl FnMut(Numbered<P>, &'b [u8])) -> Vec<Drop<P>> {
        newest(&mut self.entries);
        self.ranges.sort_unstable_by_key(|range| (range.of, range.low));
        let ranges = &self.ranges;
        self.entries.retain(|entry| {
            let (shard, prefix, number) = entry.key;
            let of = (shard, prefix);
            let covering = ranges[ranges.partition_point(|range| range.of < of)..]
                .iter()
                .take_while(|range| range.of == of && range.low <= number)
                .filter(|range| number <= range.high);
            // A range takes along what was put before it, and makes a delete of its own needless.
            let mut covering = covering.filter(|range| entry.value.is_none() || range.order > entry.order);
            covering.next().is_none()
        });
        let mut drops = Vec::new();
        for entry in &self.entries {
            let (shard, prefix, number) = entry.key;
            match entry.value {
                Some(value) => put(entry.key, value),
                None => drops.push((shard, prefix, number, number)),
            }
        }
        for range in &self.ranges {
            self.drop_around_puts(range, &mut drops);
        }
        drops.sort_unstable();
        drops
    }

    /// The range, without the rows that were put after it.
    fn drop_around_puts(&self, range: &Range<P>, drops: &mut Vec<Drop<P>>) {
        let (shard, prefix) = range.of;
        let from = self.entries.partition_point(|entry| entry.key < (shard, prefix, range.low));
        let inside = self.entries[from..]
            .iter()
            .take_while(|entry| entry.key <= (shard, prefix, range.high))
            .filter(|entry| entry.value.is_some());
        // Numbers are wider here, so that the one behind the highest is a number too.
        let mut low = i128::from(range.low);
        let ends = inside.map(|entry| entry.key.2).map(i128::from).chain([i128::from(range.high) + 1]);
        for end in ends {
            if low < end {
                let narrow = |number: i128| i64::try_from(number).expect("inside the range");
                drops.push((shard, prefix, narrow(low), narrow(end - 1)));
            }
            low = end + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Puts = Vec<(i64, &'static [u8])>;

    fn settled(rows: Rows<'static, u8>) -> (Puts, Vec<(i64, i64)>) {
        let mut puts = Vec::new();
        let drops = rows.settle(|(_, _, number), value| puts.push((number, value)));
        (puts, drops.into_iter().map(|(_, _, low, high)| (low, high)).collect())
    }

    #[test]
    fn the_newest_write_of_a_row_is_left() {
        let mut rows = Rows::new();
        rows.write((1, 0, 7), 0, Some(b"old"));
        rows.write((1, 0, 5), 1, Some(b"gone"));
        rows.write((1, 0, 7), 2, Some(b"new"));
        rows.write((1, 0, 5), 3, None);
        rows.write((1, 0, 4), 4, None);
        rows.write((1, 0, 4), 5, Some(b"again"));
        assert_eq!(settled(rows), (vec![(4, &b"again"[..]), (7, b"new")], vec![(5, 5)]));
    }

    #[test]
    fn a_range_takes_along_what_was_put_before_it_and_spares_what_came_after() {
        let mut rows = Rows::new();
        rows.write((1, 0, 3), 0, Some(b"before"));
        rows.drop_range((1, 0, 1, 9), 1);
        rows.write((1, 0, 4), 2, Some(b"after"));
        rows.write((1, 0, 9), 3, Some(b"last"));
        rows.write((1, 0, 8), 4, None);
        rows.write((1, 1, 3), 5, Some(b"another stream"));
        assert_eq!(
            settled(rows),
            (vec![(4, &b"after"[..]), (9, b"last"), (3, b"another stream")], vec![(1, 3), (5, 8)])
        );
    }

    #[test]
    fn a_range_may_reach_to_the_last_number() {
        let mut rows = Rows::new();
        rows.drop_range((1, 0, 5, i64::MAX), 0);
        rows.write((1, 0, i64::MAX), 1, Some(b"last"));
        assert_eq!(settled(rows), (vec![(i64::MAX, &b"last"[..])], vec![(5, i64::MAX - 1)]));
    }
}
