//! Stores around the real ones, whose ingestion can be held up, and which can be made to fail.

use super::Gate;
use bytes::Bytes;
use mailring::{Result, StoreHook};
use mailring_engine::{
    Error,
    store::{PairIterator, RunEntry, Span, Store, StoreStats, StoreView},
};
use std::{
    io,
    ops::Bound,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

/// What the trees of an engine do when a run is to be written.
#[derive(Default)]
pub struct Trees {
    /// The failure of every ingestion, some entries into the run.
    failure: Mutex<Option<io::ErrorKind>>,
    refused_drops: Mutex<Option<io::ErrorKind>>,
    broken_reads: Mutex<Option<io::ErrorKind>>,
    pub gate: Gate,
    pub failures: AtomicUsize,
}

impl Trees {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn fail(&self, failure: Option<io::ErrorKind>) {
        *self.failure.lock().unwrap() = failure;
    }

    /// The failure of every removal of a keyspace.
    pub fn refuse_drops(&self, failure: Option<io::ErrorKind>) {
        *self.refused_drops.lock().unwrap() = failure;
    }

    /// The failure of every read of a range, some pairs into it.
    pub fn break_off_reads(&self, failure: Option<io::ErrorKind>) {
        *self.broken_reads.lock().unwrap() = failure;
    }

    pub fn hook(self: &Arc<Self>) -> StoreHook {
        let trees = Arc::clone(self);
        Arc::new(move |store| {
            Arc::new(Tree {
                store,
                trees: Arc::clone(&trees),
            })
        })
    }
}

struct Tree {
    store: Arc<dyn Store>,
    trees: Arc<Trees>,
}

impl Store for Tree {
    fn ingest(&self, run: &mut dyn Iterator<Item = RunEntry>) -> Result<()> {
        self.trees.gate.pass();
        let failure = *self.trees.failure.lock().unwrap();
        if let Some(kind) = failure {
            // A run is read while it is written, so some of it has been read when it fails.
            let _ = run.take(10).count();
            self.trees.failures.fetch_add(1, SeqCst);
            return Err(Error::io("writing a table", &kind.into()));
        }
        self.store.ingest(run)
    }

    fn view(&self) -> Arc<dyn StoreView> {
        Arc::new(View {
            view: self.store.view(),
            trees: Arc::clone(&self.trees),
        })
    }

    fn maintain(&self) -> Result<()> {
        self.store.maintain()
    }

    fn drop_spans(&self, spans: &[Span]) -> Result<()> {
        let refused = *self.trees.refused_drops.lock().unwrap();
        match refused {
            Some(kind) => Err(Error::io("dropping a range", &kind.into())),
            None => self.store.drop_spans(spans),
        }
    }

    fn verify(&self) -> Result<u64> {
        self.store.verify()
    }

    fn stats(&self) -> StoreStats {
        self.store.stats()
    }
}

struct View {
    view: Arc<dyn StoreView>,
    trees: Arc<Trees>,
}

impl StoreView for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.view.get(key)
    }

    fn range(&self, low: Bound<&[u8]>, high: Bound<&[u8]>) -> PairIterator {
        let broken = *self.trees.broken_reads.lock().unwrap();
        match broken {
            Some(kind) => {
                let error = Error::io("reading a table", &kind.into());
                let read = self.view.range(low, high).take(10);
                let read: Vec<_> = read.chain([Err(error)]).collect();
                Box::new(read.into_iter())
            }
            None => self.view.range(low, high),
        }
    }
}
