//! The moments at which the demo kills its child, from a seed: the same seed aims at the same rows again.

/// The rows at which to kill, rising: the run of each number is killed once this many rows are durable.
///
/// All lie in the first three quarters of the file: rows become durable in groups, and a run whose last group is on its
/// way would end before the kill reaches it.
pub fn points(seed: u64, kills: usize, rows: u64) -> Vec<u64> {
    let mut state = seed;
    let last = (rows / 4 * 3).max(1);
    let mut points: Vec<u64> = (0..kills).map(|_| 1 + next(&mut state) % last).collect();
    points.sort_unstable();
    points
}

/// `SplitMix64`: a good enough spread from any seed, in six lines, and the same on every machine for good.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_rising_points_inside_the_file() {
        for seed in 0..1_000 {
            let all = points(seed, 5, 80_789);
            assert_eq!(all, points(seed, 5, 80_789));
            assert!(all.is_sorted() && all.iter().all(|point| (1..80_789).contains(point)), "{all:?}");
        }
        assert_ne!(points(1, 5, 80_789), points(2, 5, 80_789));
    }

    #[test]
    fn a_file_of_any_length_has_points() {
        assert!(points(7, 0, 80_789).is_empty());
        assert_eq!(points(7, 2, 0), [1, 1]);
        assert_eq!(points(7, 2, 1), [1, 1]);
    }
}
