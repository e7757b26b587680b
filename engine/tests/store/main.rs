//! Every store against the contract of `Store`, against a naive model, and against damaged files.

mod conformance;
mod corruption;
mod differential;
mod differential_model;
mod lsm;

use bytes::Bytes;
use mailring_engine::{
    error::Result,
    ids::NodeId,
    store::{
        PairIterator, RunEntry, Store, StoreFactory, StoredPair,
        lsm::{Layout, LsmFactory, LsmOptions},
        memory::MemoryFactory,
    },
};
use std::{path::Path, sync::Arc};
use tempfile::TempDir;

const NODE: NodeId = NodeId(3);

/// A temporary folder, in memory where the system has one: nothing here tests what a crash of the machine leaves.
fn folder() -> TempDir {
    let in_memory = Path::new("/dev/shm");
    if in_memory.is_dir() {
        tempfile::tempdir_in(in_memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

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

fn entry(key: &[u8], value: Option<&[u8]>) -> RunEntry {
    (
        Bytes::copy_from_slice(key),
        value.map(Bytes::copy_from_slice),
    )
}

/// Ingests a run given as key and value.
fn ingest(store: &dyn Store, run: &[(&[u8], Option<&[u8]>)]) {
    let mut run = run.iter().map(|(key, value)| entry(key, *value));
    store.ingest(&mut run).unwrap();
}

fn collect(pairs: PairIterator) -> Vec<StoredPair> {
    pairs.collect::<Result<_>>().unwrap()
}
