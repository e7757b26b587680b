//! A tree at one moment: the tables of its runs, held directly.
//!
//! The tree's own snapshots go through its sequence numbers, its version history and a lock that publishing a run holds
//! over several syncs. A table is an immutable file behind a counted pointer, so holding the tables themselves is a
//! snapshot that nothing can change: an ingested run is another table, compaction writes new tables, and a table that
//! was compacted away removes its file when the last pointer to it goes, which is the store's. Readers take no lock, need no
//! sequence number, and merge nothing while there is one run; the tree is only asked to write.
//!
//! Each table is read through a [`TableReader`], which a view takes over from the one before it.
//!
//! Which table holds the newest version of a key is told by order alone: levels from the top, within a level the runs
//! from the newest (that is also the tree's own rule for point reads).

use super::{
    super::{
        PairIterator, RunEntry, StoreView,
        prefixes::SpanSet,
        runs::{Direction, NewestWins, RunRange, Runs},
    },
    integrity::{Place, check_file, guarded},
    options::LsmOptions,
    table::{TableCursor, TableReader, into_entry},
};
use crate::{error::Result, ids::NodeId};
use bytes::Bytes;
use lsm_tree::{
    AbstractTree, AnyTree, Slice, Table, table::filter::standard_bloom::Builder as FilterBuilder,
};
use std::{collections::BTreeMap, ops::Bound, sync::Arc};

/// Tables whose key ranges are disjoint, in key order.
pub(super) struct Run {
    pub(super) level: usize,
    pub(super) tables: Vec<Arc<TableReader>>,
}

impl Run {
    /// Index of the first table whose last key is not before `key`.
    fn table_at(&self, key: &[u8]) -> usize {
        self.tables
            .partition_point(|reader| **reader.table.metadata.key_range.max() < *key)
    }
}

/// The tables of a tree at one moment.
#[derive(Clone)]
pub(super) struct View {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) node: NodeId,
    /// Newest first.
    pub(super) runs: Vec<Run>,
    dropped: Arc<SpanSet>,
}

impl View {
    /// The tree as it is now. Readers of tables that were there before are taken over from the view `before`.
    ///
    /// # Panics
    ///
    /// Panics if the tables of a run overlap: then its order would not be the order of its keys.
    pub(super) fn of(
        node: NodeId,
        tree: &AnyTree,
        dropped: Arc<SpanSet>,
        options: &LsmOptions,
        before: Option<&Self>,
    ) -> Self {
        let known: BTreeMap<u64, &Arc<TableReader>> = before
            .into_iter()
            .flat_map(Self::readers)
            .map(|reader| (reader.table.id(), reader))
            .collect();
        let reader = |table: &Table| match known.get(&table.id()) {
            Some(reader) => Arc::clone(reader),
            None => Arc::new(options.reader(node, tree.id(), table)),
        };
        let version = tree.current_version();
        let mut runs = Vec::new();
        for (level, of_level) in version.iter_levels().enumerate() {
            runs.extend(of_level.iter().map(|run| Run {
                level,
                tables: run.iter().map(reader).collect(),
            }));
        }
        for run in &runs {
            let ascending = run.tables.is_sorted_by(|a, b| {
                a.table.metadata.key_range.max() < b.table.metadata.key_range.min()
            });
            assert!(ascending, "the tables of a run must not overlap");
        }
        Self {
            shared: Arc::new(Shared {
                node,
                runs,
                dropped,
            }),
        }
    }

    fn readers(&self) -> impl Iterator<Item = &Arc<TableReader>> {
        self.shared.runs.iter().flat_map(|run| &run.tables)
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.readers().map(|reader| &reader.table)
    }

    /// Checks every file, then counts the live keys by reading every block past the cache.
    pub(super) fn verify(&self) -> Result<u64> {
        let node = self.shared.node;
        for table in self.tables() {
            check_file(node, table)?;
        }
        let cursors = self.shared.runs.iter().map(|run| {
            let tables = run.tables.clone();
            tables
                .into_iter()
                .flat_map(move |reader| Scan::of(node, reader.table.clone()))
        });
        let mut live = 0;
        for entry in NewestWins::new(cursors.collect(), Direction::Forward) {
            let (key, value) = entry?;
            live += u64::from(value.is_some() && !self.shared.dropped.covers(&key));
        }
        Ok(live)
    }
}

impl StoreView for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let shared = &*self.shared;
        if shared.dropped.covers(key) {
            return Ok(None);
        }
        let hash = FilterBuilder::get_hash(key);
        for run in &shared.runs {
            let Some(reader) = run.tables.get(run.table_at(key)) else {
                continue;
            };
            if **reader.table.metadata.key_range.min() > *key {
                continue;
            }
            if let Some(found) = reader.get(key, hash)? {
                return Ok((!found.is_tombstone()).then(|| found.value.into()));
            }
        }
        Ok(None)
    }

    fn range(&self, low: Bound<&[u8]>, high: Bound<&[u8]>) -> PairIterator {
        let pairs = RunRange::boxed(self.clone(), low, high);
        if self.shared.dropped.is_empty() {
            return pairs;
        }
        let dropped = self.shared.dropped.clone();
        Box::new(
            pairs.filter(move |pair| pair.as_ref().map_or(true, |(key, _)| !dropped.covers(key))),
        )
    }
}

impl Runs for View {
    type Cursor = RunCursor;

    fn open(
        &self,
        low: &Bound<Bytes>,
        high: &Bound<Bytes>,
        direction: Direction,
    ) -> Vec<RunCursor> {
        let open = |run| self.cursor(run, low, high, direction);
        (0..self.shared.runs.len()).filter_map(open).collect()
    }
}

impl View {
    /// A cursor over one run, unless the run lies outside of the range.
    fn cursor(
        &self,
        run: usize,
        low: &Bound<Bytes>,
        high: &Bound<Bytes>,
        direction: Direction,
    ) -> Option<RunCursor> {
        let tables = &self.shared.runs[run].tables;
        let first = match low {
            Bound::Unbounded => 0,
            Bound::Included(low) | Bound::Excluded(low) => self.shared.runs[run].table_at(low),
        };
        let end = match high {
            Bound::Unbounded => tables.len(),
            Bound::Included(high) | Bound::Excluded(high) => {
                tables.partition_point(|reader| **reader.table.metadata.key_range.min() <= **high)
            }
        };
        if first >= end {
            return None;
        }
        let bound = match direction {
            Direction::Forward => low.clone(),
            Direction::Backward => high.clone(),
        };
        Some(RunCursor {
            view: self.clone(),
            run,
            left: first..end,
            direction,
            bound: bound.map(Slice::from),
            table: None,
        })
    }
}

/// Reads the tables of a run one after the other.
pub(super) struct RunCursor {
    view: View,
    run: usize,
    /// Tables that are not opened yet.
    left: std::ops::Range<usize>,
    direction: Direction,
    /// Where to start, on the side that the direction starts from.
    bound: Bound<Slice>,
    table: Option<TableCursor>,
}

impl RunCursor {
    fn open_next(&mut self) -> Option<()> {
        let index = match self.direction {
            Direction::Forward => self.left.next(),
            Direction::Backward => self.left.next_back(),
        }?;
        let start = std::mem::replace(&mut self.bound, Bound::Unbounded);
        let reader = &self.view.shared.runs[self.run].tables[index];
        self.table = Some(reader.cursor(self.direction, start));
        Some(())
    }
}

impl Iterator for RunCursor {
    type Item = Result<RunEntry>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(cursor) = &mut self.table else {
                self.open_next()?;
                continue;
            };
            match cursor.next() {
                Ok(Some(entry)) => return Some(Ok(entry)),
                Ok(None) => self.table = None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A table read from its file in order, past the block cache.
struct Scan {
    node: NodeId,
    table: Table,
    scanner: Option<lsm_tree::table::Scanner>,
    finished: bool,
}

impl Scan {
    fn of(node: NodeId, table: Table) -> Self {
        Self {
            node,
            table,
            scanner: None,
            finished: false,
        }
    }
}

impl Iterator for Scan {
    type Item = Result<RunEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let place = Place {
            node: self.node,
            file: &self.table.path,
        };
        let (table, scanner) = (&self.table, &mut self.scanner);
        let next = guarded(place, || {
            if scanner.is_none() {
                *scanner = Some(table.scan()?);
            }
            scanner.as_mut().and_then(Iterator::next).transpose()
        });
        self.finished = !matches!(next, Ok(Some(_)));
        next.map(|entry| entry.map(into_entry)).transpose()
    }
}
