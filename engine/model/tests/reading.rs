//! Reading without a message, in every order of steps: what a reader finds is visible, and nothing visible is missed.
//!
//! The code is the engine's (`view`, `generation`, `cache`); its locks and atomics are loom's, which tries all orders of
//! steps with up to three preemptions, and lets a relaxed load see what the memory model allows. Each test is checked
//! itself: a [`Fault`] puts one step of the protocol in the wrong place, and must be found.

use bytes::Bytes;
use loom::{model::Builder, thread};
use mailring_model::{
    cache::{Lookup, RowCache},
    error::{Error, Result},
    generation::Generation,
    ids::{KeyspaceId, Lsn, NodeId},
    store::{PairIterator, StoreView},
    value::{Value, Write, qualify},
    view::{Frozen, NodeTable, NodeView, Visible},
};
use std::{
    collections::BTreeMap,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

const NODE: NodeId = NodeId(0);

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    PublishesBeforeItInstalls,
    TellsTheCacheFirst,
    FillsWithoutAsking,
    AsksTheViewThatItRead,
    DropsFrozenBeforeTheTreeHasIt,
    WritesToTheTreeWhatIsNotVisible,
    LoadsTheViewFirst,
    TakesATreeThatHasPassed,
    PublishesBeforeItIsDown,
}

/// Tries every order of steps.
fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(check);
}

/// It holds in every order, and with each of these faults there is one in which it does not.
fn holds_unless(faults: &[Fault], scenario: fn(Fault)) {
    model(move || scenario(Fault::None));
    for &fault in faults {
        let found = catch_unwind(AssertUnwindSafe(|| model(move || scenario(fault))));
        assert!(found.is_err(), "{fault:?} was not found");
    }
}

/// A tree that does not change.
#[derive(Default)]
struct Rows(BTreeMap<Bytes, Bytes>);

impl StoreView for Rows {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(key).cloned())
    }

    fn range(&self, _: Bound<&[u8]>, _: Bound<&[u8]>) -> PairIterator {
        Box::new(std::iter::empty())
    }
}

/// What a node and its readers share. A value is the LSN that wrote it.
struct Shared {
    visible: Visible,
    cache: RowCache,
    table: NodeTable,
}

impl Shared {
    fn new() -> Arc<Self> {
        let view = NodeView {
            active: Arc::new(Generation::new()),
            frozen: Vec::new(),
            tree: Arc::new(Rows::default()),
            complete: Lsn(0),
            floor: Lsn(0),
            leaving: None,
        };
        Arc::new(Self {
            visible: Visible::new(Lsn(0)),
            cache: RowCache::new(1 << 16, 1),
            table: NodeTable::new(NODE, view),
        })
    }

    fn install(&self, fault: Fault, lsn: u64, key: &str) {
        let write = write(lsn, key);
        if fault == Fault::TellsTheCacheFirst {
            self.cache
                .update(&write.key, Lsn(lsn), write.value.as_ref());
            self.table.view().active.insert(Lsn(lsn), &write);
        } else {
            self.table.install(&self.cache, Lsn(lsn), &write);
        }
    }

    /// One commit.
    fn commit(&self, fault: Fault, lsn: u64, keys: &[&str]) {
        if fault == Fault::PublishesBeforeItInstalls {
            self.visible.publish(Lsn(lsn));
        }
        for key in keys {
            self.install(fault, lsn, key);
        }
        if fault != Fault::PublishesBeforeItInstalls {
            self.visible.publish(Lsn(lsn));
        }
    }

    fn freeze(&self, through: u64) {
        let old = self.table.view();
        let frozen = Frozen {
            through: Lsn(through),
            generation: Arc::clone(&old.active),
        };
        self.table.publish(NodeView {
            active: Arc::new(old.active.successor()),
            frozen: vec![frozen],
            ..NodeView::clone(&old)
        });
    }

    /// What is frozen goes to the tree.
    fn flush(&self, complete: u64) {
        let old = self.table.view();
        let frozen = old.frozen.iter();
        let frozen = frozen.flat_map(|frozen| frozen.generation.newest_versions());
        let rows = frozen.filter_map(|(key, _, value)| Some((key, value?.encode())));
        self.table.publish(NodeView {
            active: Arc::clone(&old.active),
            frozen: Vec::new(),
            tree: Arc::new(Rows(rows.collect())),
            complete: Lsn(complete),
            floor: Lsn(0),
            leaving: None,
        });
    }

    fn get(&self, fault: Fault, key: &str) -> u64 {
        let key = qualify(KeyspaceId(1), key.as_bytes());
        let found = match fault {
            Fault::FillsWithoutAsking | Fault::AsksTheViewThatItRead => self.fill(fault, &key),
            _ => self.table.get(&self.visible, &self.cache, &key).unwrap(),
        };
        written_by(found)
    }

    /// A reader that fills the cache too carelessly.
    fn fill(&self, fault: Fault, key: &[u8]) -> Option<Value> {
        let at = self.visible.load();
        if let Lookup::Hit(_, value) = self.cache.get(key, at) {
            return value;
        }
        let view = self.table.view();
        let (lsn, value) = match view.in_generations(key, at) {
            Some(found) => found,
            None => (view.complete, view.in_tree(NODE, key).unwrap()),
        };
        let is_newest = || {
            let newest = view.in_generations(key, Lsn(u64::MAX));
            fault == Fault::FillsWithoutAsking || newest.is_none_or(|(newest, _)| newest <= lsn)
        };
        self.cache.fill(key, lsn, value.as_ref(), is_newest);
        value
    }

    /// What is found is at least as new as what was visible before, and was visible when it was found.
    fn check_get(&self, fault: Fault, key: &str) {
        let before = self.visible.load();
        let found = self.get(fault, key);
        let after = self.visible.load();
        assert!(
            (before.0..=after.0).contains(&found),
            "{found} was read between {before} and {after}"
        );
    }

    /// The state at an LSN, pinned as a handle does it: a snapshot, or the start of a scan.
    fn snapshot(&self, fault: Fault) -> (Lsn, Arc<NodeView>) {
        if fault == Fault::LoadsTheViewFirst {
            let view = self.table.view();
            return (self.visible.load(), view);
        }
        loop {
            let at = self.visible.load();
            let view = self.table.view();
            if view.complete <= at || fault == Fault::TakesATreeThatHasPassed {
                return (at, view);
            }
        }
    }
}

fn write(lsn: u64, key: &str) -> Write {
    let value = lsn.to_le_bytes();
    Write::new(KeyspaceId(1), key.as_bytes(), Some((&value, 0)))
}

/// The LSN of the commit that wrote a value; 0 where there is none.
fn written_by(value: Option<Value>) -> u64 {
    value.map_or(0, |value| {
        u64::from_le_bytes(value.bytes[..].try_into().expect("eight bytes"))
    })
}

#[test]
fn what_is_visible_is_found_and_what_is_found_is_visible() {
    let faults = [
        Fault::PublishesBeforeItInstalls,
        Fault::TellsTheCacheFirst,
        Fault::FillsWithoutAsking,
    ];
    holds_unless(&faults, |fault| {
        let shared = Shared::new();
        let node = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.commit(fault, 1, &["k"]);
                shared.commit(fault, 2, &["k"]);
            }
        });
        // The first fills the cache, the second may find the row.
        shared.check_get(fault, "k");
        shared.check_get(fault, "k");
        node.join().unwrap();
        shared.check_get(fault, "k");
    });
}

#[test]
fn two_readers_fill_one_row_with_the_newest() {
    holds_unless(&[Fault::FillsWithoutAsking], |fault| {
        let shared = Shared::new();
        shared.commit(fault, 1, &["k"]);
        let reader = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.check_get(fault, "k")
        });
        let node = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.commit(fault, 2, &["k"])
        });
        shared.check_get(fault, "k");
        reader.join().unwrap();
        node.join().unwrap();
        shared.check_get(fault, "k");
    });
}

#[test]
fn a_checkpoint_under_a_reader_hides_nothing() {
    let faults = [
        Fault::DropsFrozenBeforeTheTreeHasIt,
        Fault::WritesToTheTreeWhatIsNotVisible,
        Fault::AsksTheViewThatItRead,
        Fault::TellsTheCacheFirst,
    ];
    holds_unless(&faults, |fault| {
        let shared = Shared::new();
        shared.commit(fault, 1, &["k"]);
        let node = thread::spawn({
            let shared = Arc::clone(&shared);
            move || match fault {
                Fault::WritesToTheTreeWhatIsNotVisible => {
                    shared.install(fault, 2, "k");
                    shared.freeze(1);
                    shared.flush(1);
                    shared.visible.publish(Lsn(2));
                }
                _ => {
                    shared.freeze(1);
                    if fault == Fault::DropsFrozenBeforeTheTreeHasIt {
                        let view = shared.table.view();
                        shared.table.publish(NodeView {
                            frozen: Vec::new(),
                            ..NodeView::clone(&view)
                        });
                        shared.table.publish(NodeView::clone(&view));
                    }
                    shared.commit(fault, 2, &["k"]);
                    shared.flush(1);
                }
            }
        });
        shared.check_get(fault, "k");
        shared.check_get(fault, "k");
        node.join().unwrap();
        shared.check_get(fault, "k");
    });
}

#[test]
fn a_snapshot_is_one_state_though_trees_pass_it() {
    let faults = [
        Fault::PublishesBeforeItInstalls,
        Fault::LoadsTheViewFirst,
        Fault::TakesATreeThatHasPassed,
    ];
    holds_unless(&faults, |fault| {
        let shared = Shared::new();
        shared.commit(fault, 1, &["a", "b"]);
        let node = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.freeze(1);
                shared.commit(fault, 2, &["a", "b"]);
                shared.flush(1);
                shared.freeze(2);
                shared.flush(2);
            }
        });
        let (at, view) = shared.snapshot(fault);
        for key in ["a", "b"] {
            let key = qualify(KeyspaceId(1), key.as_bytes());
            let found = shared.table.get_in(&view, &shared.cache, &key, at).unwrap();
            assert_eq!(written_by(found), at.0, "the state at {at}");
        }
        node.join().unwrap();
        shared.check_get(fault, "a");
    });
}

#[test]
fn a_node_is_down_before_what_it_lacks_is_visible() {
    holds_unless(&[Fault::PublishesBeforeItIsDown], |fault| {
        let shared = Shared::new();
        shared.commit(fault, 1, &["k"]);
        let journal = thread::spawn({
            let shared = Arc::clone(&shared);
            // Commit 2 is of a node that will never install it.
            move || match fault {
                Fault::PublishesBeforeItIsDown => {
                    shared.visible.publish(Lsn(2));
                    shared.table.set_down();
                }
                _ => {
                    shared.table.set_down();
                    shared.visible.publish(Lsn(2));
                }
            }
        });
        let key = qualify(KeyspaceId(1), b"k");
        let before = shared.visible.load();
        match shared.table.get(&shared.visible, &shared.cache, &key) {
            Ok(found) => assert!(written_by(found) >= before.0, "{before} was visible"),
            Err(error) => assert_eq!(error, Error::NodeDown { node: NODE }),
        }
        journal.join().unwrap();
    });
}

#[test]
fn the_bytes_of_the_cache_come_back_whatever_meets() {
    model(|| {
        let shared = Shared::new();
        let key = qualify(KeyspaceId(1), b"k");
        let value = |len| Value::new(Bytes::from(vec![7; len]));
        let one = thread::spawn({
            let (shared, key) = (Arc::clone(&shared), key.clone());
            move || {
                shared.cache.insert(&key, Lsn(1), Some(&value(10)));
                shared.cache.update(&key, Lsn(3), Some(&value(20)));
            }
        });
        let other = thread::spawn({
            let (shared, key) = (Arc::clone(&shared), key.clone());
            move || {
                shared.cache.fill(&key, Lsn(2), Some(&value(40)), || true);
                shared.cache.remove_prefix(&key);
            }
        });
        one.join().unwrap();
        other.join().unwrap();
        if let Lookup::Hit(lsn, _) = shared.cache.get(&key, Lsn(9)) {
            assert_eq!(lsn, Lsn(3), "the newest");
        }
        shared.cache.clear();
        assert_eq!((shared.cache.len(), shared.cache.bytes()), (0, 0));
    });
}
