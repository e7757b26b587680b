//! What compaction takes away besides overwritten versions: dropped prefixes and expired values.
//!
//! Views hold the old tables and don't notice. A key of a dropped prefix is destroyed without a tombstone: older
//! versions of it may shine through in the files, but every view hides the whole prefix. An expired value becomes a
//! tombstone, which covers the older versions in the runs below and goes when it reaches the last level.

use super::super::prefixes::SpanSet;
use crate::value::Value;
use lsm_tree::compaction::{CompactionFilter, Factory, ItemAccessor, Verdict, filter::Context};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Makes a filter for each compaction of one tree.
pub(super) struct FilterFactory {
    pub(super) dropped: Arc<Mutex<Arc<SpanSet>>>,
    pub(super) now_ms: Arc<AtomicU64>,
}

impl Factory for FilterFactory {
    fn name(&self) -> &str {
        "mailring"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        Box::new(Filter {
            dropped: dropped.clone(),
            now_ms: self.now_ms.load(Ordering::Relaxed),
        })
    }
}

struct Filter {
    dropped: Arc<SpanSet>,
    now_ms: u64,
}

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        if self.dropped.covers(item.key()) {
            return Ok(Verdict::Destroy);
        }
        let value = Value::decode(item.value()?.into());
        // A value that can't be decoded is kept: whoever reads it reports it.
        Ok(match value {
            Some(value) if value.is_expired(self.now_ms) => Verdict::Remove,
            _ => Verdict::Keep,
        })
    }
}
