//! The sorted, durable store under each node, behind a trait.
//!
//! A store holds one version a key. It is fed by sorted runs only (a frozen generation each) and never logs: what it
//! has not got yet is in the journal. Every store passes the conformance suite of this module.

pub mod gained;
pub mod left;
pub mod lsm;
pub mod memory;
mod prefixes;
pub mod runs;
pub mod unreadable;

pub use prefixes::Span;

use crate::error::Result;
use bytes::Bytes;
use std::{ops::Bound, path::Path, sync::Arc};

/// Longest key a store takes, with the keyspace's prefix.
pub const MAX_STORED_KEY_BYTES: usize = u16::MAX as usize;

/// A key and its stored value; `None` is a tombstone.
pub type RunEntry = (Bytes, Option<Bytes>);
/// A key and its stored value.
pub type StoredPair = (Bytes, Bytes);
/// A stream of pairs that can be read from both ends, in key order.
pub type PairIterator = Box<dyn DoubleEndedIterator<Item = Result<StoredPair>> + Send>;

/// The sorted store of one node. One thread at a time ingests and maintains; any number read.
pub trait Store: Send + Sync + 'static {
    /// Adds a sorted run: keys strictly ascending, never empty, at most 65,535 bytes. When it returns `Ok`, the run is
    /// durable and complete; when it returns `Err`, or the process dies in it, none of the run is there.
    fn ingest(&self, run: &mut dyn Iterator<Item = RunEntry>) -> Result<()>;
    /// The store as it is now, unchanged by whatever is ingested or maintained later.
    fn view(&self) -> Arc<dyn StoreView>;
    /// Compacts as far as is due. Safe to skip.
    fn maintain(&self) -> Result<()>;
    /// Removes every key that begins with `prefix` (not empty) for good: no later view shows one, also if a later run
    /// still brings some. Their bytes go at once or with later maintenance. A store does not remember a dropped prefix
    /// over a reopening: whoever does (the manifest) drops it again then, which costs little when nothing is left.
    fn drop_prefix(&self, prefix: &[u8]) -> Result<()> {
        self.drop_spans(&[Span::of_prefix(prefix)])
    }
    /// As [`Store::drop_prefix`], of every key in any of these spans. It costs as much as they are, and about as little for
    /// thousands of them as for one: an opening drops everything that was ever dropped.
    fn drop_spans(&self, spans: &[Span]) -> Result<()>;
    /// Reads every block and checks it against its checksum; returns the number of keys.
    fn verify(&self) -> Result<u64>;
    /// Figures for `stats()`.
    fn stats(&self) -> StoreStats;
    /// A number that rises with whatever is written: [`StoreFactory::version`] finds this one or a higher one, whatever
    /// happens to the machine.
    fn version(&self) -> u64 {
        0
    }
}

/// A store at one moment.
pub trait StoreView: Send + Sync + 'static {
    /// The stored value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// The pairs of a range in key order, readable from both ends, tombstones left out.
    fn range(&self, low: Bound<&[u8]>, high: Bound<&[u8]>) -> PairIterator;
}

/// Figures of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes on disk (or in memory, for a store in memory).
    pub bytes: u64,
    /// Sorted runs that a read may have to look into.
    pub runs: usize,
    /// Keys, roughly: overwritten and removed ones may be counted until they are compacted.
    pub approximate_keys: u64,
}

/// Opens the store of one node. The engine is given one factory for all of its nodes.
pub trait StoreFactory: Send + Sync + 'static {
    /// Opens or creates the store in `folder`.
    fn open(&self, node: crate::ids::NodeId, folder: &Path) -> Result<Arc<dyn Store>>;
    /// The version of the store in `folder` as it would be opened, from 1; 0 where there is none. Tells an older copy, and a folder
    /// that was emptied, before anything is opened or created there.
    fn version(&self, _folder: &Path) -> u64 {
        0
    }
}

/// Checks the order of the keys of a run that is being ingested.
#[derive(Debug, Default)]
struct RunOrder {
    last: Bytes,
}

impl RunOrder {
    /// # Panics
    ///
    /// Panics if `key` breaks the contract of [`Store::ingest`]: that is a broken invariant of the engine, and a run
    /// out of order would be unreadable for ever.
    fn check(&mut self, key: &Bytes) {
        // The first key is greater than the empty one, so this refuses empty keys too.
        assert!(
            *key > self.last,
            "the keys of a run must ascend and not be empty: {key:?} follows {:?}",
            self.last
        );
        assert!(
            key.len() <= MAX_STORED_KEY_BYTES,
            "a stored key has at most 65,535 bytes, not {}",
            key.len()
        );
        self.last = key.clone();
    }
}
