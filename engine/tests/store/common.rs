//! What the tests of every store share: folders, runs and ranges. The simulator's crate takes this file too.

use bytes::Bytes;
use mailring_engine::{
    error::Result,
    store::{PairIterator, RunEntry, Store, StoredPair},
};
use std::path::Path;
use tempfile::TempDir;

/// A temporary folder, in memory where the system has one: nothing here tests what a crash of the machine leaves.
pub(crate) fn folder() -> TempDir {
    let in_memory = Path::new("/dev/shm");
    if in_memory.is_dir() {
        tempfile::tempdir_in(in_memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

pub(crate) fn entry(key: &[u8], value: Option<&[u8]>) -> RunEntry {
    (
        Bytes::copy_from_slice(key),
        value.map(Bytes::copy_from_slice),
    )
}

/// Ingests a run given as key and value.
pub(crate) fn ingest(store: &dyn Store, run: &[(&[u8], Option<&[u8]>)]) {
    let mut run = run.iter().map(|(key, value)| entry(key, *value));
    store.ingest(&mut run).unwrap();
}

pub(crate) fn collect(pairs: PairIterator) -> Vec<StoredPair> {
    pairs.collect::<Result<_>>().unwrap()
}
