//! The part of the memory budget that serves reads: rows, blocks, and the indexes and filters of the trees.
//!
//! Indexes and filters are held in memory as long as they fit into half of it; what they take, the row cache gives up.

use mailring_engine::cache::RowCache;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

#[derive(Debug)]
pub(crate) struct CacheShare {
    /// Bytes for rows while no index is held.
    pub(crate) rows: usize,
    /// Bytes of the indexes and filters that the trees hold, kept current by them.
    pub(crate) held_indexes: Arc<AtomicU64>,
}

impl CacheShare {
    pub(crate) fn held(&self) -> usize {
        usize::try_from(self.held_indexes.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Lets the rows have what the indexes leave. For whoever has changed a tree.
    pub(crate) fn fit(&self, cache: &RowCache) {
        cache.resize(self.rows.saturating_sub(self.held()));
    }
}
