//! A store in memory, for engines that keep nothing.
//!
//! Runs are sorted slices behind `Arc`, newest first, so a view is a handful of pointers and never changes. A run
//! that is not clearly smaller than the older one below it is merged with it, as a binary counter carries: there are
//! at most about log2(n) runs, each entry is copied about log2(n) times in its life, and no maintenance is left over.

use super::{
    PairIterator, RunEntry, Store, StoreFactory, StoreStats, StoreView,
    prefixes::{Span, SpanSet},
    runs::{Direction, NewestWins, RunRange, Runs},
};
use crate::{error::Result, ids::NodeId, value::Value};
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::{
    ops::Bound,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Opens stores in memory: each `open` gives a new, empty one.
#[derive(Debug, Clone, Default)]
pub struct MemoryFactory {
    /// The clock by which merging drops expired values: milliseconds since the Unix epoch, kept current by the caller.
    /// While it stands at 0, the default, nothing expires.
    pub now_ms: Arc<AtomicU64>,
}

impl StoreFactory for MemoryFactory {
    fn open(&self, _node: NodeId, _folder: &Path) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(MemoryStore {
            now_ms: self.now_ms.clone(),
            ..MemoryStore::default()
        }))
    }
}

/// A store in memory.
#[derive(Default)]
pub struct MemoryStore {
    current: ArcSwap<State>,
    /// Held while a new state is made from the current one.
    writer: Mutex<()>,
    now_ms: Arc<AtomicU64>,
}

type Run = Arc<[RunEntry]>;

/// Newest run first. No entry has a dropped prefix, and the oldest run has no tombstones.
#[derive(Clone, Default)]
struct State {
    runs: Vec<Run>,
    dropped: SpanSet,
}

impl State {
    /// Merges from the newest run on as long as the older neighbour is less than twice as long.
    fn carry(&mut self, now_ms: u64) {
        while let [newer, older, ..] = self.runs.as_slice() {
            if older.len() >= 2 * newer.len() {
                break;
            }
            let is_oldest = self.runs.len() == 2;
            let cursors = [newer, older].map(|run| Cursor {
                run: run.clone(),
                left: 0..run.len(),
                direction: Direction::Forward,
            });
            let merged = NewestWins::new(cursors.into(), Direction::Forward)
                .map(|entry| entry.expect("reading memory does not fail"))
                .map(|(key, value)| (key, value.filter(|value| !is_expired(value, now_ms))))
                .filter(|(_, value)| !is_oldest || value.is_some());
            let merged = merged.collect();
            self.runs.splice(..2, [merged]);
        }
        self.runs.retain(|run| !run.is_empty());
    }
}

impl Store for MemoryStore {
    fn ingest(&self, run: &mut dyn Iterator<Item = RunEntry>) -> Result<()> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&self.current.load());
        let is_oldest = state.runs.is_empty();
        let mut order = super::RunOrder::default();
        let run = run
            .inspect(|(key, _)| order.check(key))
            .filter(|(key, value)| !state.dropped.covers(key) && (value.is_some() || !is_oldest));
        let run: Run = run.collect();
        if !run.is_empty() {
            state.runs.insert(0, run);
            state.carry(self.now_ms.load(Ordering::Relaxed));
            self.current.store(Arc::new(state));
        }
        Ok(())
    }

    fn view(&self) -> Arc<dyn StoreView> {
        self.current.load_full()
    }

    fn maintain(&self) -> Result<()> {
        Ok(())
    }

    fn drop_spans(&self, spans: &[Span]) -> Result<()> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&self.current.load());
        for span in spans {
            state.dropped.insert(span);
        }
        let dropped = &state.dropped;
        for run in &mut state.runs {
            if run.iter().any(|(key, _)| dropped.covers(key)) {
                let kept = run.iter().filter(|(key, _)| !dropped.covers(key));
                *run = kept.cloned().collect();
            }
        }
        state.runs.retain(|run| !run.is_empty());
        self.current.store(Arc::new(state));
        Ok(())
    }

    fn verify(&self) -> Result<u64> {
        let all = self.view().range(Bound::Unbounded, Bound::Unbounded);
        Ok(all.count() as u64)
    }

    fn stats(&self) -> StoreStats {
        let state = self.current.load();
        let entries = || state.runs.iter().flat_map(|run| run.iter());
        let weight = |(key, value): &RunEntry| {
            (key.len() + value.as_ref().map_or(0, Bytes::len) + size_of::<RunEntry>()) as u64
        };
        StoreStats {
            bytes: entries().map(weight).sum(),
            runs: state.runs.len(),
            approximate_keys: entries().count() as u64,
        }
    }
}

impl StoreView for State {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.runs.iter().find_map(|run| {
            let at = run.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
            Some(run[at].1.clone())
        });
        Ok(found.flatten())
    }

    fn range(&self, low: Bound<&[u8]>, high: Bound<&[u8]>) -> PairIterator {
        RunRange::boxed(self.runs.clone(), low, high)
    }
}

impl Runs for Vec<Run> {
    type Cursor = Cursor;

    fn open(&self, low: &Bound<Bytes>, high: &Bound<Bytes>, direction: Direction) -> Vec<Cursor> {
        let open = |run: &Run| {
            let start = match low {
                Bound::Unbounded => 0,
                Bound::Included(low) => run.partition_point(|(key, _)| key < low),
                Bound::Excluded(low) => run.partition_point(|(key, _)| key <= low),
            };
            let end = match high {
                Bound::Unbounded => run.len(),
                Bound::Included(high) => run.partition_point(|(key, _)| key <= high),
                Bound::Excluded(high) => run.partition_point(|(key, _)| key < high),
            };
            Cursor {
                run: run.clone(),
                left: start..end,
                direction,
            }
        };
        self.iter().map(open).collect()
    }
}

/// A part of a run that is read in one direction.
pub(super) struct Cursor {
    run: Run,
    left: std::ops::Range<usize>,
    direction: Direction,
}

impl Iterator for Cursor {
    type Item = Result<RunEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = match self.direction {
            Direction::Forward => self.left.next(),
            Direction::Backward => self.left.next_back(),
        }?;
        Some(Ok(self.run[at].clone()))
    }
}

fn is_expired(stored: &Bytes, now_ms: u64) -> bool {
    Value::decode(stored.clone()).is_some_and(|value| value.is_expired(now_ms))
}
