//! The store of a node whose tree can't be read: whatever is asked of it is answered with why.
//!
//! The files stay as they are. Nothing is written to them, and nothing removed, so that they can be restored, or read by other
//! means. What the node has committed since is in the journal, which is kept for it.

use super::{PairIterator, RunEntry, Span, Store, StoreStats, StoreView};
use crate::error::{Error, Result};
use bytes::Bytes;
use std::{ops::Bound, sync::Arc};

/// A store that can't be read.
#[derive(Debug, Clone)]
pub struct Unreadable(pub Error);

impl Store for Unreadable {
    fn ingest(&self, _: &mut dyn Iterator<Item = RunEntry>) -> Result<()> {
        Err(self.0.clone())
    }

    fn view(&self) -> Arc<dyn StoreView> {
        Arc::new(self.clone())
    }

    fn maintain(&self) -> Result<()> {
        Ok(())
    }

    /// Whoever remembers what was dropped drops it again when the store is opened.
    fn drop_spans(&self, _: &[Span]) -> Result<()> {
        Ok(())
    }

    fn verify(&self) -> Result<u64> {
        Err(self.0.clone())
    }

    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}

impl StoreView for Unreadable {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>> {
        Err(self.0.clone())
    }

    fn range(&self, _: Bound<&[u8]>, _: Bound<&[u8]>) -> PairIterator {
        Box::new(std::iter::once(Err(self.0.clone())))
    }
}
