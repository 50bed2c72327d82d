//! Hot entities of a shard that moves: those that had a message lately. Their images are loaded at the next owner before anybody
//! asks for them, so that a move is not followed by a burst of loads.

use super::{
    Kernel, SharedKinds,
    close::{entity_of, image_key},
};
use crate::{
    activation::Activation,
    placement::{self, ShardId},
    shard::ShardPhase,
};
use std::{cmp::Reverse, collections::BinaryHeap, rc::Rc};

/// Most entities of a shard whose images its next owner loads before anybody asks for them. Others are loaded by their first
/// message.
pub const HOT_MAX: usize = 4_096;
/// Bytes of their keys, at the most: they go in one piece.
const HOT_KEYS_MAX: usize = 64 << 10;
/// Who had no message for so many seconds is not hot.
const HOT_SECONDS: u32 = 60;

/// Collects those of the activations of a shard that were used last.
pub(super) struct Hot {
    kinds: Rc<SharedKinds>,
    now: u32,
    latest: Latest,
}

impl Hot {
    pub(super) fn new(kinds: Rc<SharedKinds>, now: u32) -> Self {
        Self { kinds, now, latest: Latest::default() }
    }

    pub(super) fn look(&mut self, activation: &Activation) {
        let kind = self.kinds.get(activation.kind);
        let is_hot = self.now.saturating_sub(activation.used_at) <= HOT_SECONDS;
        if is_hot && activation.exists && !kind.is_volatile() {
            self.latest.keep(activation.used_at, || image_key(kind.name(), &activation.key));
        }
    }

    pub(super) fn into_keys(self) -> Vec<Vec<u8>> {
        self.latest.into_keys()
    }
}

/// When images were used, and their keys; no more than go along, for the shard stands still meanwhile, however many there are.
#[derive(Default)]
struct Latest(BinaryHeap<Reverse<(u32, Vec<u8>)>>);

impl Latest {
    fn keep(&mut self, used_at: u32, key: impl FnOnce() -> Vec<u8>) {
        if self.0.len() == HOT_MAX {
            if self.0.peek().is_some_and(|Reverse((least, _))| used_at <= *least) {
                return;
            }
            self.0.pop();
        }
        self.0.push(Reverse((used_at, key())));
    }

    fn into_keys(self) -> Vec<Vec<u8>> {
        let mut bytes = 0;
        let keys = self.0.into_sorted_vec().into_iter().map(|Reverse((_, key))| key);
        keys.take_while(|key| {
            bytes += key.len();
            bytes <= HOT_KEYS_MAX
        })
        .collect()
    }
}

impl Kernel {
    /// Loads what its last owner says is wanted soon, as far as memory has room for it. A word of another node: what cannot be an
    /// entity of the shard is passed over.
    pub(super) fn warm(&mut self, id: ShardId, images: Vec<Vec<u8>>) {
        let Some(shard) = self.shard_mut(id) else { return };
        if shard.phase == ShardPhase::Loading {
            shard.hot = images;
            return;
        }
        for image in images.iter().take(HOT_MAX) {
            if self.is_memory_short() {
                return;
            }
            if let Some((kind, key)) = entity_of(image) {
                self.warm_one(id, kind, key);
            }
        }
    }

    fn warm_one(&mut self, id: ShardId, kind: &str, key: &str) {
        let hash = placement::hash(kind, key);
        let Some(index) = self.kinds.find(kind).filter(|index| !self.kinds.get(*index).is_volatile()) else {
            return;
        };
        let kinds = self.kinds();
        let is_there = self.activations.find(hash, kind, key, |kind| kinds.get(kind).name()).is_some();
        if !is_there && self.layout.place(hash) == id {
            let slot = self.activations.insert(hash, index, key, id);
            self.begin(slot, index, id, kind, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_the_last_ones_are_kept_and_the_last_comes_first() {
        let mut latest = Latest::default();
        let most = HOT_MAX as u32;
        (0..2 * most).for_each(|at| latest.keep(at, || at.to_be_bytes().to_vec()));
        latest.keep(most, || panic!("it is older than all that are kept"));
        let keys = latest.into_keys();
        let expected: Vec<_> = (most..2 * most).rev().map(|at| at.to_be_bytes().to_vec()).collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn keys_are_bounded_in_bytes() {
        let mut latest = Latest::default();
        (0..100).for_each(|at| latest.keep(at, || vec![at as u8; 1_024]));
        assert_eq!(latest.into_keys().len(), HOT_KEYS_MAX / 1_024);
    }
}
