//! Every store against the contract of `Store`, against a naive model, and against damaged files.

#[macro_use]
mod conformance;
mod common;
mod corruption;
mod differential;
mod differential_model;
mod differential_stores;
mod lsm;

use common::{collect, entry, folder, ingest};
use mailring_engine::{
    error::Result,
    ids::NodeId,
    store::{
        Store, StoreFactory,
        lsm::{Layout, LsmFactory, LsmOptions},
        memory::MemoryFactory,
    },
};
use std::{path::Path, sync::Arc};

const NODE: NodeId = NodeId(3);

/// The ways a tree is laid out and read.
#[derive(Clone, Copy)]
enum Reading {
    /// As the engine does it.
    Held,
    /// Keys of a block share prefixes, as in files of earlier versions.
    SharedPrefixes,
    /// The allowance for indexes and filters is used up.
    NotHeld,
}

const READINGS: [Reading; 3] = [Reading::Held, Reading::SharedPrefixes, Reading::NotHeld];

/// Blocks of a few keys, so that small trees have many of them.
fn small_blocks(reading: Reading) -> LsmOptions {
    let (restart_interval, allowance) = match reading {
        Reading::Held => (1, 1 << 20),
        Reading::SharedPrefixes => (3, 1 << 20),
        Reading::NotHeld => (3, 0),
    };
    let layout = Layout {
        block_bytes: 256,
        restart_interval,
        ..Layout::default()
    };
    LsmOptions::new(1 << 20, 16)
        .layout(layout)
        .hold_indexes(allowance, Arc::default())
}

fn open_lsm(folder: &Path) -> Result<Arc<dyn Store>> {
    open_reading(Reading::Held, folder)
}

fn open_reading(reading: Reading, folder: &Path) -> Result<Arc<dyn Store>> {
    LsmFactory::new(small_blocks(reading)).open(NODE, folder)
}

fn open_memory(folder: &Path) -> Result<Arc<dyn Store>> {
    MemoryFactory::default().open(NODE, folder)
}

fn open_with_shared_prefixes(folder: &Path) -> Result<Arc<dyn Store>> {
    open_reading(Reading::SharedPrefixes, folder)
}

fn open_without_held_indexes(folder: &Path) -> Result<Arc<dyn Store>> {
    open_reading(Reading::NotHeld, folder)
}

/// The conformance suite, for every store of this crate. (That of the simulator has it too, in its own crate.)
mod conforming {
    use super::*;

    suite!(memory, open_memory);
    suite!(lsm, open_lsm);
    suite!(lsm_with_shared_prefixes, open_with_shared_prefixes);
    suite!(lsm_without_held_indexes, open_without_held_indexes);
}
