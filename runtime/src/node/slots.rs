//! Values under numbers that are used once: who waits for which answer.

/// Values by slot. A slot's number has the count of its uses above its place, so that a late answer to an earlier use is known.
pub(crate) struct Slots<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// How many there were at a time, at most.
    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    /// Keeps a value under a slot of its own.
    pub(crate) fn insert(&mut self, value: T) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            u32::try_from(self.places.len() - 1).expect("fewer than 2^32 wait at a time")
        });
        let (uses, held) = &mut self.places[place as usize];
        *held = Some(value);
        slot(*uses, place as usize)
    }

    /// Takes the value of a slot, which may be any number.
    pub(crate) fn remove(&mut self, slot: u64) -> Option<T> {
        let place = slot as u32;
        let (uses, held) = self.places.get_mut(place as usize)?;
        if u64::from(*uses) != slot >> 32 {
            return None;
        }
        let value = held.take()?;
        *uses = uses.wrapping_add(1);
        self.free.push(place);
        Some(value)
    }

    /// The slots of values that match.
    pub(crate) fn matching(&self, wanted: impl Fn(&T) -> bool) -> Vec<u64> {
        let used = self.places.iter().enumerate().filter(|(_, (_, held))| held.as_ref().is_some_and(&wanted));
        used.map(|(place, (uses, _))| slot(*uses, place)).collect()
    }

    /// All values.
    pub(crate) fn into_values(self) -> impl Iterator<Item = T> {
        self.places.into_iter().filter_map(|(_, held)| held)
    }
}

fn slot(uses: u32, place: usize) -> u64 {
    u64::from(uses) << 32 | place as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_taken_once_and_its_place_is_used_again() {
        let mut slots = Slots::default();
        let (first, second) = (slots.insert('a'), slots.insert('b'));
        assert_eq!(slots.remove(first), Some('a'));
        assert_eq!(slots.remove(first), None);
        let third = slots.insert('c');
        assert_eq!((slots.len(), slots.places()), (2, 2), "the place of the first");
        assert_eq!(slots.remove(first), None, "a late answer to an earlier use");
        assert_eq!(slots.matching(|value| *value == 'c'), [third]);
        assert_eq!(slots.remove(third), Some('c'));
        assert_eq!(slots.into_values().collect::<Vec<_>>(), ['b']);
        assert_ne!(second, third);
    }

    #[test]
    fn a_number_that_was_never_given_has_no_value() {
        let mut slots = Slots::default();
        slots.insert(());
        for unknown in [1, 1 << 32, u64::MAX] {
            assert_eq!(slots.remove(unknown), None);
        }
        assert_eq!(slots.len(), 1);
    }
}
