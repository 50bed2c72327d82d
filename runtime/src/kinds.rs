//! The registered kinds of a runtime, by name.

use crate::{activation::KindIndex, entity::Kind};
use std::collections::BTreeMap;

/// The kinds a program registered. Built once, shared by all workers.
#[derive(Default)]
pub struct Kinds {
    kinds: Vec<Box<dyn Kind>>,
    by_name: BTreeMap<&'static str, KindIndex>,
}

impl Kinds {
    /// Adds a kind. Returns false, changing nothing, where one of its name is there.
    #[must_use]
    pub fn register(&mut self, kind: Box<dyn Kind>) -> bool {
        let name = kind.name();
        if self.by_name.contains_key(name) {
            return false;
        }
        let index =
            KindIndex(u16::try_from(self.kinds.len()).expect("a program has fewer than 65,536 kinds"));
        self.by_name.insert(name, index);
        self.kinds.push(kind);
        true
    }

    /// The kind of a name.
    pub fn find(&self, name: &str) -> Option<KindIndex> {
        // A program has a handful of kinds: comparing names is cheaper than hashing one.
        if self.kinds.len() <= 8 {
            let at = self.kinds.iter().position(|kind| kind.name() == name)?;
            return Some(KindIndex(at as u16));
        }
        self.by_name.get(name).copied()
    }

    /// A kind.
    pub fn get(&self, index: KindIndex) -> &dyn Kind {
        self.kinds[usize::from(index.0)].as_ref()
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.by_name.keys().copied()
    }
}
