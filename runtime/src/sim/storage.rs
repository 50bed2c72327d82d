//! The store under a simulated node, and what survives of it.

use crate::placement::NodeName;
use crate::store::{
    NodeSays, SharedStore, Store,
    disk::SimulatedDisk,
    embedded::{EmbeddedConfig, EmbeddedStore, Founding, OpenError},
    memory::{Faults, MemoryStore, Servers, SharedMemory},
};
use std::sync::Arc;

pub(super) enum Storage {
    Memory {
        store: MemoryStore,
        faults: Faults,
    },
    Embedded {
        disk: SimulatedDisk,
        config: EmbeddedConfig,
        founding: Founding,
        founded: bool,
    },
    /// What all nodes share, and the run of this one, or its last.
    Shared {
        servers: Servers,
        run: Option<SharedMemory>,
    },
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

    pub(super) fn shared(servers: &Servers) -> Self {
        Self::Shared { servers: servers.clone(), run: None }
    }

    /// The run of a node that shares a store.
    pub(super) fn run(&self) -> Option<u128> {
        match self {
            Self::Shared { run, .. } => run.as_ref().map(SharedStore::incarnation),
            Self::Memory { .. } | Self::Embedded { .. } => None,
        }
    }

    /// What a starting node finds.
    pub(super) fn open(&mut self, name: &NodeName, says: &NodeSays) -> Result<Arc<dyn Store>, OpenError> {
        match self {
            Self::Memory { store, .. } => {
                *store = store.restart();
                Ok(Arc::new(store.clone()))
            }
            Self::Shared { servers, run } => {
                let store = servers.open(name, says);
                *run = Some(store.clone());
                Ok(Arc::new(store))
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
