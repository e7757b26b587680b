//! A tree without files, which asserts what a store is promised and loses at a crash what it has not synced.
//!
//! Promised to it: the keys of a run ascend, none is empty, too long or there twice. (That a run holds nothing beyond the visible
//! LSN, and is exactly the state at its mark, is checked by who ingests: see `invariants`.) Promised by it: a run is there
//! as a whole and durable, or not at all. A dropped prefix is forgotten at a crash. The suites of all stores (`suite`) check
//! it like any other, so what the simulator finds is not owed to a store that no real one is like.

use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    store::{MAX_STORED_KEY_BYTES, PairIterator, RunEntry, Span, Store, StoreStats, StoreView},
    value::Value,
};
use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

type Tree = BTreeMap<Bytes, Bytes>;

/// The simulated tree of one node.
#[derive(Debug)]
pub(crate) struct SimulatedStore {
    state: Mutex<State>,
    now_ms: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    current: Arc<Tree>,
    durable: Arc<Tree>,
    dropped: Vec<Span>,
    fails_next: bool,
    /// A mutation: what is ingested is never synced.
    never_syncs: bool,
    /// A mutation: dropped prefixes stay.
    keeps_dropped: bool,
}

impl SimulatedStore {
    /// An empty tree; values expire by `now_ms`.
    pub(crate) fn new(now_ms: Arc<AtomicU64>) -> Self {
        Self {
            state: Mutex::default(),
            now_ms,
        }
    }

    /// The next run can't be taken.
    pub(crate) fn fail_next(&self) {
        self.state().fails_next = true;
    }

    pub(crate) fn never_sync(&self) {
        self.state().never_syncs = true;
    }

    pub(crate) fn keep_dropped(&self) {
        self.state().keeps_dropped = true;
    }

    /// The process dies.
    pub(crate) fn crash(&self) {
        let mut state = self.state();
        state.current = Arc::clone(&state.durable);
        state.dropped.clear();
        state.fails_next = false;
    }

    /// Nothing is left of it.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        (state.current, state.durable) = Default::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for SimulatedStore {
    fn ingest(&self, run: &mut dyn Iterator<Item = RunEntry>) -> Result<()> {
        let mut state = self.state();
        let mut tree = Tree::clone(&state.current);
        let mut last = Bytes::new();
        for (key, value) in run {
            assert!(
                key > last,
                "a run must ascend, and no key is empty: {key:?} behind {last:?}"
            );
            assert!(
                key.len() <= MAX_STORED_KEY_BYTES,
                "no stored key has {} bytes",
                key.len()
            );
            if !state.dropped.iter().any(|span| span.contains(&key)) {
                match value {
                    Some(value) => tree.insert(key.clone(), value),
                    None => tree.remove(&key),
                };
            }
            last = key;
        }
        if std::mem::take(&mut state.fails_next) {
            let context = "a run".to_owned();
            return Err(Error::DiskFull { context });
        }
        state.current = Arc::new(tree);
        if !state.never_syncs {
            state.durable = Arc::clone(&state.current);
        }
        Ok(())
    }

    fn view(&self) -> Arc<dyn StoreView> {
        Arc::new(TreeView(Arc::clone(&self.state().current)))
    }

    /// Drops what has expired, as compaction does.
    fn maintain(&self) -> Result<()> {
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        let mut state = self.state();
        let mut tree = Tree::clone(&state.current);
        tree.retain(|_, stored| {
            let value = Value::decode(stored.clone());
            !value.is_some_and(|value| value.is_expired(now_ms))
        });
        state.current = Arc::new(tree);
        Ok(())
    }

    fn drop_spans(&self, spans: &[Span]) -> Result<()> {
        let mut state = self.state();
        if state.keeps_dropped {
            return Ok(());
        }
        let is_dropped = |key: &[u8]| spans.iter().any(|span| span.contains(key));
        let mut tree = Tree::clone(&state.current);
        tree.retain(|key, _| !is_dropped(key));
        state.current = Arc::new(tree);
        for span in spans {
            if !state.dropped.contains(span) {
                state.dropped.push(span.clone());
            }
        }
        Ok(())
    }

    fn verify(&self) -> Result<u64> {
        Ok(self.state().current.len() as u64)
    }

    fn stats(&self) -> StoreStats {
        let state = self.state();
        let bytes = state
            .current
            .iter()
            .map(|(k, v)| (k.len() + v.len()) as u64);
        StoreStats {
            bytes: bytes.sum(),
            runs: usize::from(!state.current.is_empty()),
            approximate_keys: state.current.len() as u64,
        }
    }
}

struct TreeView(Arc<Tree>);

impl StoreView for TreeView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(key).cloned())
    }

    fn range(&self, low: Bound<&[u8]>, high: Bound<&[u8]>) -> PairIterator {
        let pairs = (!is_crossed(low, high)).then(|| self.0.range::<[u8], _>((low, high)));
        let pairs: Vec<_> = pairs
            .into_iter()
            .flatten()
            .map(|(key, value)| Ok((key.clone(), value.clone())))
            .collect();
        Box::new(pairs.into_iter())
    }
}

/// Whether nothing can lie between these bounds, which a map does not want to be asked for.
fn is_crossed(low: Bound<&[u8]>, high: Bound<&[u8]>) -> bool {
    match (low, high) {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low >= high,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}

#[cfg(test)]
mod suite;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: Option<&str>) -> RunEntry {
        let stored = value.map(|value| Value::new(Bytes::from(value.to_owned())).encode());
        (Bytes::from(key.to_owned()), stored)
    }

    fn keys(store: &SimulatedStore) -> Vec<String> {
        let all = store.view().range(Bound::Unbounded, Bound::Unbounded);
        all.map(|pair| String::from_utf8(pair.unwrap().0.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn a_run_is_there_as_a_whole_or_not_at_all() {
        let store = SimulatedStore::new(Arc::default());
        let run = || vec![entry("a", Some("1")), entry("b", Some("2"))].into_iter();
        store.fail_next();
        store.ingest(&mut run()).unwrap_err();
        assert!(keys(&store).is_empty());
        store.ingest(&mut run()).unwrap();
        store.crash();
        assert_eq!(keys(&store), ["a", "b"]);
        store
            .ingest(&mut vec![entry("a", None)].into_iter())
            .unwrap();
        assert_eq!(keys(&store), ["b"]);
    }

    #[test]
    fn what_was_not_synced_is_lost_at_a_crash() {
        let store = SimulatedStore::new(Arc::default());
        store.never_sync();
        store
            .ingest(&mut vec![entry("a", Some("1"))].into_iter())
            .unwrap();
        assert_eq!(keys(&store), ["a"]);
        store.crash();
        assert!(keys(&store).is_empty());
    }

    #[test]
    #[should_panic(expected = "a run must ascend")]
    fn a_run_with_a_key_twice_is_refused() {
        let store = SimulatedStore::new(Arc::default());
        let run = vec![entry("a", Some("1")), entry("a", None)];
        let _ = store.ingest(&mut run.into_iter());
    }
}
