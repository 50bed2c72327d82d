//! The store under a simulated node, and what survives of it.

use crate::store::{
    Store,
    disk::SimulatedDisk,
    embedded::{EmbeddedConfig, EmbeddedStore, Founding, OpenError},
    memory::{Faults, MemoryStore},
};
use std::sync::Arc;

pub(super) enum Storage {
    Memory { store: MemoryStore, faults: Faults },
    Embedded { disk: SimulatedDisk, config: EmbeddedConfig, founding: Founding, founded: bool },
}

impl Storage {
    pub(super) fn memory(founding: &Founding, lanes: u32, lagging: bool) -> Self {
        let store = MemoryStore::founded(founding, lanes);
        let store = if lagging { store.lag() } else { store };
        let faults = store.faults();
        Self::Memory { store, faults }
    }

    pub(super) fn embedded(founding: Founding, seed: u64, segment_bytes: u64, segments: u64) -> Self {
        let config = EmbeddedConfig {
            segment_bytes,
            tail_bytes: segments * segment_bytes,
            round_bytes: segment_bytes,
            cache_bytes: 1 << 20,
            shards: Some(founding.shards),
        };
        Self::Embedded { disk: SimulatedDisk::new(seed), config, founding, founded: false }
    }

    /// What a starting node finds.
    pub(super) fn open(&mut self) -> Result<Arc<dyn Store>, OpenError> {
        match self {
            Self::Memory { store, .. } => {
                *store = store.restart();
                Ok(Arc::new(store.clone()))
            }
            Self::Embedded { disk, config, founding, founded } => {
                disk.restart();
                let on = Arc::new(disk.clone());
                let store = if *founded {
                    EmbeddedStore::open_on(on, config)?
                } else {
                    EmbeddedStore::found_on(on, founding, config)?
                };
                *founded = true;
                Ok(Arc::new(store))
            }
        }
    }

    /// The node is gone; with the power, what was not synced goes in part.
    pub(super) fn crash(&mut self, power: bool) {
        if let Self::Embedded { disk, .. } = self {
            if power { disk.crash() } else { disk.kill() }
        }
    }
}
