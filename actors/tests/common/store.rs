//! Stores around the real ones, whose ingestion can be held up or failed.

use super::Gate;
use mailring::{Result, StoreHook};
use mailring_engine::{
    Error,
    store::{RunEntry, Store, StoreStats, StoreView},
};
use std::{
    io,
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
        self.store.view()
    }

    fn maintain(&self) -> Result<()> {
        self.store.maintain()
    }

    fn drop_prefix(&self, prefix: &[u8]) -> Result<()> {
        self.store.drop_prefix(prefix)
    }

    fn verify(&self) -> Result<u64> {
        self.store.verify()
    }

    fn stats(&self) -> StoreStats {
        self.store.stats()
    }
}
