//! Reads of a key whose arc moves from one node to another, through the row cache that both share.
//!
//! The races are scripted: the source's tree is one that has something happen while it is read.

use bytes::Bytes;
use mailring_engine::{
    Result,
    cache::RowCache,
    generation::Generation,
    ids::{KeyspaceId, Lsn, NodeId},
    ring::ArcSet,
    store::{PairIterator, StoreView},
    value::{Value, Write, qualify},
    view::{Frozen, NodeTable, NodeView, Visible},
};
use std::{
    ops::Bound,
    sync::{Arc, Mutex},
};

/// Where the arc becomes the target's.
const CUT: Lsn = Lsn(20);

type Event = Box<dyn FnOnce() + Send>;

/// A tree with one value for every key, and what happens when it is read next.
#[derive(Default)]
struct Tree {
    value: &'static str,
    event: Mutex<Option<Event>>,
}

impl StoreView for Tree {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>> {
        if let Some(event) = self.event.lock().expect("no panic").take() {
            event();
        }
        let value = Value::new(Bytes::from(self.value));
        Ok(Some(value.encode()))
    }

    fn range(&self, _: Bound<&[u8]>, _: Bound<&[u8]>) -> PairIterator {
        Box::new(std::iter::empty())
    }
}

fn key() -> Bytes {
    qualify(KeyspaceId(1), b"key")
}

fn write(value: &'static str) -> Write {
    Write {
        key: key(),
        value: Some(Value::new(value.into())),
    }
}

fn view(tree: &Arc<Tree>, complete: u64) -> NodeView {
    let tree: Arc<dyn StoreView> = Arc::clone(tree) as _;
    NodeView {
        active: Arc::default(),
        frozen: Vec::new(),
        tree,
        complete: Lsn(complete),
        floor: Lsn(0),
        leaving: None,
    }
}

fn tree(value: &'static str) -> Arc<Tree> {
    Arc::new(Tree {
        value,
        event: Mutex::default(),
    })
}

fn read(table: &NodeTable, cache: &RowCache, at: u64) -> Bytes {
    let found = table.get(&Visible::new(Lsn(at)), cache, &key());
    found.expect("memory reads").expect("it is there").bytes
}

fn all_arcs() -> Option<Arc<ArcSet>> {
    Some(Arc::new(ArcSet::of(0, [0])))
}

#[test]
fn a_source_fills_no_row_once_the_target_may_write() {
    // The row of before would hide what the target has written since, from everybody.
    for is_leaving in [true, false] {
        let cache = Arc::new(RowCache::new(1 << 20, 1));
        let (old, new) = (tree("source"), tree("target"));
        let mut of_source = view(&old, 5);
        of_source.leaving = if is_leaving { all_arcs() } else { None };
        let source = NodeTable::new(NodeId(0), of_source);
        let mut of_target = view(&new, 5);
        of_target.floor = CUT;
        let target = Arc::new(NodeTable::new(NodeId(1), of_target));
        let (writer, shared) = (Arc::clone(&target), Arc::clone(&cache));
        let event: Event = Box::new(move || writer.install(&shared, Lsn(21), &write("written")));
        *old.event.lock().expect("no panic") = Some(event);
        // Routed by the ring of before the cut.
        assert_eq!(read(&source, &cache, 19), "source");
        let wanted = if is_leaving { "written" } else { "source" };
        assert_eq!(read(&target, &cache, 21), wanted, "leaving: {is_leaving}");
    }
}

#[test]
fn a_row_of_a_copy_is_as_new_as_the_cut() {
    // As old as the tree is complete, it was given to a reader of a snapshot below the copied version.
    let cache = RowCache::new(1 << 20, 1);
    let source = NodeTable::new(NodeId(0), view(&tree("source"), 5));
    let pinned = source.view();
    source.install(&cache, Lsn(15), &write("copied"));
    let mut of_target = view(&tree("copied"), 5);
    of_target.floor = CUT;
    let target = NodeTable::new(NodeId(1), of_target);
    assert_eq!(read(&target, &cache, 20), "copied");
    let found = source.get_in(&pinned, &cache, &key(), Lsn(10));
    let found = found.expect("memory reads").expect("it is there");
    assert_eq!(found.bytes, "source");
}

#[test]
fn a_version_below_the_floor_that_a_reader_must_not_see_yet_is_not_hidden_by_his_row() {
    // The question whether the row is still the newest was put with the floor, which the version is below.
    let cache = RowCache::new(1 << 20, 1);
    let table = NodeTable::new(NodeId(0), view(&tree("old"), 5));
    table.install(&cache, Lsn(18), &write("new"));
    let mut gained = NodeView::clone(&table.view());
    gained.floor = CUT;
    table.publish(gained);
    assert_eq!(read(&table, &cache, 17), "old");
    assert_eq!(read(&table, &cache, 20), "new");
}

#[test]
fn validation_below_the_floor_is_a_conflict_unless_a_generation_knows_better() {
    let mut of_target = view(&tree("copied"), 5);
    of_target.floor = CUT;
    let generation = Generation::new();
    generation.insert(Lsn(7), &write("frozen"));
    assert!(of_target.key_changed(&key(), Lsn(19)).is_some());
    assert_eq!(of_target.key_changed(&key(), Lsn(20)), None);
    of_target.frozen = vec![Frozen {
        through: Lsn(8),
        generation: Arc::new(generation),
    }];
    assert_eq!(of_target.key_changed(&key(), Lsn(19)), None);
    let all = mailring_engine::transaction::KeyRange {
        low: Bound::Unbounded,
        high: Bound::Unbounded,
    };
    assert!(of_target.range_changed(&all, Lsn(19)).is_some());
    assert_eq!(of_target.range_changed(&all, Lsn(20)), None);
}
