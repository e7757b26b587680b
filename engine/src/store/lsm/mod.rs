//! A store on disk: an `lsm-tree` fed by its bulk ingestion.
//!
//! The tree writes, compacts and recovers; we read (see `view`) and decide when to compact (see `compaction`). Its
//! memtable stays empty and its sequence numbers stay private: they number the runs, nothing more. What each part of
//! its contract cost to find out:
//!
//! - Its counters start at zero at every opening, but compaction trusts them to tell the newer of two versions. They
//!   are set above everything in the files before the first ingestion.
//! - It numbers files by the highest one that it finds, so after a reopening a number can come again, while an old view
//!   still holds a table of that number that removes its file when it goes. Numbers rise over all trees of the process.
//! - Compaction gets the highest watermark: nobody reads through the tree's version history, so nothing of it is kept.
//! - A table that was compacted away removes its file when the last one lets go of it, which takes tens of milliseconds for a
//!   large one. Whoever reads must not be that one, nor who shows a newer view: both may be an actor, and everybody waits for
//!   it. So views that were replaced are held here until nobody else does, and go with the next write or maintenance.
//! - A failed ingestion leaves its tables behind until the next opening; we remove them. If the failure came while
//!   the new manifest was being published, what is on disk is unknown and the store refuses to write until reopened.
//! - It does not lock its directory (the engine does), nor check its manifest's checksum (see `integrity`).
//!
//! Left out: compression. Values that compress well are better compressed by their owner, and reading is what counts.

mod compaction;
mod contents;
mod filter;
mod integrity;
mod options;
mod pages;
mod pins;
mod table;
mod view;

pub use options::{Layout, LsmOptions};

use super::{
    RunEntry, RunOrder, Store, StoreFactory, StoreStats, StoreView,
    prefixes::{Span, SpanSet},
};
use crate::{
    error::{Error, Result},
    ids::NodeId,
};
use arc_swap::ArcSwap;
use filter::FilterFactory;
use integrity::{Place, guarded};
use lsm_tree::{AbstractTree, AnyTree, SeqNo, SequenceNumberCounter};
use std::{
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use view::View;

/// One above the highest number of a table in any tree of this process, open or closed.
static NEXT_TABLE: AtomicU64 = AtomicU64::new(0);

/// Opens trees that share one block cache and one table of open files.
pub struct LsmFactory {
    options: LsmOptions,
}

impl LsmFactory {
    /// A factory with these options.
    #[must_use]
    pub fn new(options: LsmOptions) -> Self {
        Self { options }
    }
}

impl StoreFactory for LsmFactory {
    fn open(&self, node: NodeId, folder: &Path) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(LsmStore::open(node, folder, &self.options)?))
    }

    fn version(&self, folder: &Path) -> u64 {
        integrity::published_version(folder).map_or(0, |version| version.saturating_add(1))
    }
}

/// The tree of one node.
pub struct LsmStore {
    node: NodeId,
    folder: PathBuf,
    tree: AnyTree,
    options: LsmOptions,
    view: ArcSwap<View>,
    /// What was shown before, and may be in use.
    replaced: Mutex<Vec<Arc<view::Shared>>>,
    dropped: Arc<Mutex<Arc<SpanSet>>>,
    writer: Mutex<Writer>,
    /// The number of the tree's manifest that is durable, and one.
    version: AtomicU64,
}

/// What only the one who writes touches.
#[derive(Default)]
struct Writer {
    /// Runs ingested since the last maintenance.
    fresh_runs: usize,
    /// The failure after which it is unknown what is on disk.
    broken: Option<Error>,
}

impl LsmStore {
    /// Opens or creates the tree in `folder`.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptTree`] with the file that can't be read, [`Error::NewerFormat`], or the system's refusal.
    pub fn open(node: NodeId, folder: &Path, options: &LsmOptions) -> Result<Self> {
        integrity::check_manifest(node, folder)?;
        let mut dropped = SpanSet::default();
        let prefixes = options.initially_dropped().iter();
        let spans: Vec<_> = prefixes.map(|prefix| Span::of_prefix(prefix)).collect();
        for span in &spans {
            dropped.insert(span);
        }
        let dropped = Arc::new(Mutex::new(Arc::new(dropped)));
        let filter = FilterFactory {
            dropped: dropped.clone(),
            now_ms: options.clock(),
        };
        let seqno = SequenceNumberCounter::default();
        let visible_seqno = SequenceNumberCounter::default();
        let config = options
            .config(folder, seqno.clone(), visible_seqno.clone())
            .with_compaction_filter_factory(Some(Arc::new(filter)));
        let place = Place { node, file: folder };
        let tree = guarded(place, || config.open()).map_err(|error| match error {
            Error::CorruptTree { .. } => integrity::first_unreadable(node, folder).unwrap_or(error),
            other => other,
        })?;
        let next_seqno =
            guarded(place, || Ok(tree.get_highest_persisted_seqno()))?.map_or(1, |n| n + 1);
        seqno.fetch_max(next_seqno);
        visible_seqno.fetch_max(next_seqno);
        let used_elsewhere = NEXT_TABLE.load(Ordering::Relaxed);
        while tree.next_table_id() < used_elsewhere {
            tree.get_next_table_id();
        }
        let view = View::of(node, &tree, current(&dropped), options, None);
        let store = Self {
            node,
            folder: folder.to_owned(),
            tree,
            options: options.clone(),
            view: ArcSwap::from_pointee(view),
            replaced: Mutex::default(),
            dropped,
            writer: Mutex::default(),
            version: AtomicU64::default(),
        };
        // What is found may not be on the medium, where a life before this one failed to force it: then an older tree
        // would be found after a loss of power.
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| store.place().io(&error))?;
        store.note_version();
        store.drop_spans(&spans)?;
        Ok(store)
    }

    fn place(&self) -> Place<'_> {
        Place {
            node: self.node,
            file: &self.folder,
        }
    }

    /// Lets readers see the tree as it is now.
    fn publish(&self) {
        NEXT_TABLE.fetch_max(self.tree.next_table_id(), Ordering::Relaxed);
        // Nobody reads older versions through the tree: what it keeps of them would only keep their files. What can't
        // be removed now goes with the next write.
        let _ = guarded(self.place(), || {
            let mut history = self.tree.get_version_history_lock();
            history.maintenance(&self.folder, SeqNo::MAX)
        });
        let view = View::of(
            self.node,
            &self.tree,
            current(&self.dropped),
            &self.options,
            Some(&self.view.load()),
        );
        let before = self.view.swap(Arc::new(view));
        self.replaced().push(Arc::clone(&before.shared));
        drop(before);
        self.let_go();
    }

    /// The tree as it is now is durable.
    fn note_version(&self) {
        let version = guarded(self.place(), || Ok(self.tree.current_version().id()));
        let version = version.map_or(0, |version| version.saturating_add(1));
        self.version.fetch_max(version, Ordering::Relaxed);
    }

    fn replaced(&self) -> MutexGuard<'_, Vec<Arc<view::Shared>>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of what nobody else holds any more, and of its files.
    fn let_go(&self) {
        self.replaced()
            .retain(|shared| Arc::strong_count(shared) > 1);
    }

    /// Runs a write of the tree. If it fails, its leftovers go, and so does the permission to write if it can't be told
    /// what a restart would find.
    fn write<T>(&self, writer: &mut Writer, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(error) = &writer.broken {
            return Err(error.clone());
        }
        self.let_go();
        let mut leftovers = Leftovers::of(self);
        let result = operation();
        if let Err(error) = &result {
            if leftovers.may_be_published() {
                leftovers.keep();
                writer.broken = Some(error.clone());
            }
        } else {
            leftovers.keep();
            self.note_version();
        }
        drop(leftovers);
        self.publish();
        result
    }
}

fn current(dropped: &Mutex<Arc<SpanSet>>) -> Arc<SpanSet> {
    dropped
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Removes the tables that a failed write has begun, also when the run's iterator panics.
struct Leftovers<'a> {
    store: &'a LsmStore,
    first: u64,
    keep: bool,
}

impl<'a> Leftovers<'a> {
    fn of(store: &'a LsmStore) -> Self {
        Self {
            store,
            first: store.tree.next_table_id(),
            keep: false,
        }
    }

    fn keep(&mut self) {
        self.keep = true;
    }

    /// Whether a restart would read another manifest than the tree's last one that succeeded.
    fn may_be_published(&self) -> bool {
        let version = guarded(self.store.place(), || {
            Ok(self.store.tree.current_version().id())
        });
        version.ok() != integrity::published_version(&self.store.folder)
    }

    fn numbers(&self) -> Range<u64> {
        self.first..self.store.tree.next_table_id()
    }
}

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let in_use: Vec<u64> =
            match guarded(self.store.place(), || Ok(self.store.tree.current_version())) {
                Ok(version) => version.iter_tables().map(lsm_tree::Table::id).collect(),
                Err(_) => return,
            };
        for number in self.numbers() {
            if !in_use.contains(&number) {
                integrity::remove_tables(&self.store.folder, number..number + 1);
            }
        }
    }
}

impl Store for LsmStore {
    fn ingest(&self, run: &mut dyn Iterator<Item = RunEntry>) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&mut writer, || {
            let place = self.place();
            let mut ingestion = guarded(place, || self.tree.ingestion())?;
            let mut order = RunOrder::default();
            for (key, value) in run {
                order.check(&key);
                guarded(place, || match value {
                    Some(value) => ingestion.write(key, value),
                    None => ingestion.write_tombstone(key),
                })?;
            }
            guarded(place, || ingestion.finish())
        })?;
        writer.fresh_runs += 1;
        Ok(())
    }

    fn view(&self) -> Arc<dyn StoreView> {
        self.view.load_full()
    }

    fn maintain(&self) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.let_go();
        let idle = std::mem::take(&mut writer.fresh_runs) == 0;
        let levels = compaction::levels(&self.view.load());
        for step in compaction::due(&levels, idle) {
            self.write(&mut writer, || step.run(self.place(), &self.tree))
                .map_err(|error| self.locate(error))?;
        }
        Ok(())
    }

    fn drop_spans(&self, spans: &[Span]) -> Result<()> {
        if spans.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
            let dropped = Arc::make_mut(&mut dropped);
            for span in spans {
                dropped.insert(span);
            }
        }
        // Hidden from here on. What remains is to free the tables that hold nothing else; compaction gets the rest.
        self.publish();
        let view = self.view.load_full();
        let holds_a_table = |span: &&Span| {
            view.tables().any(|table| {
                let range = &table.metadata.key_range;
                span.contains(range.min()) && span.contains(range.max())
            })
        };
        let with_tables: Vec<_> = spans.iter().filter(holds_a_table).collect();
        drop(view);
        for span in with_tables {
            self.write(&mut writer, || {
                let bounds = span.bounds();
                guarded(self.place(), || self.tree.drop_range::<Vec<u8>, _>(bounds))
            })?;
        }
        Ok(())
    }

    fn verify(&self) -> Result<u64> {
        integrity::check_manifest(self.node, &self.folder)?;
        self.view.load().verify()
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    fn stats(&self) -> StoreStats {
        let view = self.view.load();
        StoreStats {
            // The size in a table's own metadata leaves out its index and filter.
            bytes: view
                .tables()
                .filter_map(|table| Some(fs::metadata(&*table.path).ok()?.len()))
                .sum(),
            runs: view.shared.runs.len(),
            approximate_keys: view
                .tables()
                .map(|table| table.metadata.item_count - table.metadata.tombstone_count)
                .sum(),
        }
    }
}

impl LsmStore {
    /// Names the file of a corruption that compaction has met: the tree does not say which one it was reading.
    fn locate(&self, error: Error) -> Error {
        let Error::CorruptTree { .. } = error else {
            return error;
        };
        let view = self.view.load();
        let found = view
            .tables()
            .find_map(|table| integrity::check_file(self.node, table).err());
        found.unwrap_or(error)
    }
}
