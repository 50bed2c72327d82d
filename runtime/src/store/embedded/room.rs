//! How much the log can still take (P15): room is granted before turns run, so that no submitted batch fails for lack
//! of it.
//!
//! A batch never straddles two segments, so the end of a segment may be wasted. What is granted fits in whatever order
//! it comes, because of two bounds on filling bins one after the other with pieces of at most `largest` bytes: each bin
//! wastes less than `largest`, and any two neighbours together hold more than one bin's capacity.

use super::group::{HEADER, RECORD_HEADER, group_len};

/// What was granted and not given back.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Reserved {
    bytes: u64,
    /// The largest piece granted since nothing was reserved.
    largest: u64,
}

/// What the log has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Bytes left in the active segment.
    pub(super) active: u64,
    /// Segments that may still be opened.
    pub(super) segments: u64,
    /// Length of each.
    pub(super) segment_bytes: u64,
}

/// The most a batch may hold to fit in a segment.
pub(super) fn batch_bytes_max(segment_bytes: u64) -> u64 {
    segment_bytes - (HEADER + HEADER + RECORD_HEADER) as u64
}

/// What a batch of `bytes` may take of the log: a group of its own.
fn cost(bytes: u64) -> u64 {
    group_len(RECORD_HEADER as u64 + bytes)
}

impl Reserved {
    /// With room for one more batch of `bytes`; `None` if that might not fit.
    pub(super) fn with(self, bytes: u64, room: Room) -> Option<Self> {
        if bytes > batch_bytes_max(room.segment_bytes) {
            return None;
        }
        let more = Self { bytes: self.bytes + cost(bytes), largest: self.largest.max(cost(bytes)) };
        more.fits(room).then_some(more)
    }

    /// Whether all that is reserved fits for certain.
    pub(super) fn fits(self, room: Room) -> bool {
        let capacity = room.segment_bytes - HEADER as u64;
        let by_waste =
            room.active.saturating_sub(self.largest) + room.segments * capacity.saturating_sub(self.largest);
        let by_pairs = room.segments.div_ceil(2) * capacity;
        self.bytes <= room.active.max(by_waste).max(by_pairs)
    }

    /// With the room of a batch of `from` bytes cut down to `to`. The largest piece granted is still counted as before.
    pub(super) fn shrunk(self, from: u64, to: u64) -> Self {
        assert!(to <= from, "a batch takes no more than was reserved for it");
        Self { bytes: self.bytes + cost(to) - cost(from), ..self }
    }

    /// Without the room of a batch of `bytes`, which was granted: also that of an empty one is more than nothing.
    pub(super) fn without(self, bytes: u64) -> Self {
        let bytes = self.bytes.checked_sub(cost(bytes)).expect("only what was granted is given back");
        Self { bytes, largest: if bytes == 0 { 0 } else { self.largest } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_was_reserved_fits_in_any_order(
            mut sizes in proptest::collection::vec(0_u64..70_000, 1..60),
            active in 0_u64..1_024,
            segments in 0_u64..6,
            rotate: usize,
        ) {
            let segment_bytes = 64 << 10;
            let room = Room { active: active * 64, segments, segment_bytes };
            let mut reserved = Reserved::default();
            sizes.retain(|size| match reserved.with(*size, room) {
                Some(more) => {
                    reserved = more;
                    true
                }
                None => false,
            });
            if !sizes.is_empty() {
                let by = rotate % sizes.len();
                sizes.rotate_left(by);
            }
            let (mut left, mut unopened) = (room.active, segments);
            for size in &sizes {
                if cost(*size) > left {
                    proptest::prop_assert!(unopened > 0, "{sizes:?}");
                    unopened -= 1;
                    left = segment_bytes - HEADER as u64;
                }
                left -= cost(*size);
            }
            for size in sizes {
                reserved = reserved.without(size);
            }
            proptest::prop_assert_eq!(reserved.bytes, 0);
        }
    }

    #[test]
    fn a_batch_that_fills_a_segment_fits_and_a_longer_one_never_does() {
        let room = Room { active: 0, segments: 1, segment_bytes: 1 << 16 };
        let most = batch_bytes_max(room.segment_bytes);
        assert!(Reserved::default().with(most, room).is_some());
        assert!(Reserved::default().with(most + 1, Room { segments: 9, ..room }).is_none());
    }
}
