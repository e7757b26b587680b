//! What a node shows its readers, and how they read it without a message.
//!
//! A node publishes a [`NodeView`]: its generations, newest first, and its tree at one moment. The view is immutable
//! but for the active generation, which only grows. A reader
//!
//! 1. loads the visible LSN `S`,
//! 2. looks into the row cache, which holds the newest installed version of the keys it holds,
//! 3. loads the view, and takes the newest version at most `S` from the generations, else the tree's.
//!
//! `S` comes first: every commit up to `S` was installed before `S` was published, so a view loaded later has it. The
//! tree of the view is complete up to `complete`; a checkpoint between the first and the third step can have moved that
//! past `S`, and then the reader starts again with a newer `S` (`complete` never passes the visible LSN).
//!
//! A reader that needs `S` for long (a snapshot, a scan) keeps the view: nothing is freed under it, and nothing waits.
//!
//! # Arcs that come and go
//!
//! A node's arcs change while it serves, from one LSN on (the *cut*). Three things tell it in the view:
//!
//! - `tree` has the keys of arcs that have come, as of the cut ([`GainedView`](crate::store::gained::GainedView)).
//! - `floor` is the cut of the last arcs that came. What the tree holds of them is newer than `complete`, but not newer than
//!   `floor`: so a read below it can't be validated, and a row that was found in the tree is taken to be that new.
//! - `leaving` are arcs that go. Their rows are not filled any more: the next version is installed by another node, which
//!   this one's generations can't tell of. The arcs leave the view when its tree has passed the cut, so that whoever comes
//!   with an old `S` starts again; a view that is older than that fills nothing, being not the present one.
//!
//! Nothing else asks for the floor. Above all a reader may have an `S` below it: he was routed by the ring of before, and
//! reads other keys here.

use crate::{
    cache::{Lookup, RowCache},
    error::{Error, Result, Rival},
    generation::Generation,
    generation_source::GenerationSource,
    ids::{Lsn, NodeId},
    ring::ArcSet,
    scan::{Source, StoreSource},
    store::{StoreView, runs::Direction},
    sync::{ArcSwap, AtomicBool, AtomicU64},
    transaction::KeyRange,
    value::Value,
};
use bytes::Bytes;
use std::{
    ops::Bound,
    sync::{Arc, OnceLock, atomic::Ordering},
};

/// The visible LSN, shared by everybody in the process. Only the journal raises it.
#[derive(Debug, Default)]
pub struct Visible(AtomicU64);

impl Visible {
    /// Starts at `lsn`.
    #[must_use]
    pub fn new(lsn: Lsn) -> Self {
        Self(AtomicU64::new(lsn.0))
    }

    /// The highest LSN up to which every commit is durable and installed.
    #[must_use]
    pub fn load(&self) -> Lsn {
        Lsn(self.0.load(Ordering::Acquire))
    }

    /// Raises it. Everything up to `lsn` must be installed: the release pairs with the acquire of [`Visible::load`].
    ///
    /// # Panics
    ///
    /// Panics when it would fall: a reader could then see less than before.
    pub fn publish(&self, lsn: Lsn) {
        let before = self.0.swap(lsn.0, Ordering::AcqRel);
        assert!(
            before <= lsn.0,
            "the visible LSN fell from {before} to {lsn}"
        );
    }
}

/// A generation that takes no more writes, on its way to the tree.
#[derive(Debug, Clone)]
pub struct Frozen {
    /// Everything of the node up to this LSN is in this or an older generation, or in the tree.
    pub through: Lsn,
    /// The versions.
    pub generation: Arc<Generation>,
}

/// A node's data as published to readers.
#[derive(Clone)]
pub struct NodeView {
    /// Takes the node's writes.
    pub active: Arc<Generation>,
    /// On their way to the tree, newest first.
    pub frozen: Vec<Frozen>,
    /// The tree at one moment.
    pub tree: Arc<dyn StoreView>,
    /// The tree holds the newest version up to this LSN of every key.
    pub complete: Lsn,
    /// The LSN from which on the node owns the arcs that it gained last; 0 if it never did. The tree may hold versions up to
    /// here.
    pub floor: Lsn,
    /// Arcs that another node is about to own, or owns: see the module.
    pub leaving: Option<Arc<ArcSet>>,
}

impl std::fmt::Debug for NodeView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeView")
            .field("active", &self.active.len())
            .field("frozen", &self.frozen.len())
            .field("complete", &self.complete)
            .field("floor", &self.floor)
            .finish_non_exhaustive()
    }
}

impl NodeView {
    /// What is in no generation is not newer than this.
    #[must_use]
    pub fn tree_is_below(&self) -> Lsn {
        self.complete.max(self.floor)
    }

    /// Whether the key lies on an arc that another node is about to own, or owns.
    #[must_use]
    pub fn is_leaving(&self, key: &[u8]) -> bool {
        let mut leaving = self.leaving.iter();
        leaving.any(|arcs| arcs.contains_qualified(key))
    }

    /// The generations, newest first.
    pub fn generations(&self) -> impl Iterator<Item = &Arc<Generation>> {
        std::iter::once(&self.active).chain(self.frozen.iter().map(|frozen| &frozen.generation))
    }

    /// Whether the generations have a border at `through`, so that those up to it, and no others, hold what the tree
    /// lacks up to there. A node that has restarted since its mark has none: its generation goes beyond.
    #[must_use]
    pub fn is_frozen_at(&self, through: Lsn) -> bool {
        self.complete >= through || self.frozen.iter().any(|frozen| frozen.through == through)
    }

    /// The newest version at most `at` in the generations: `Some((lsn, None))` is a tombstone.
    #[must_use]
    pub fn in_generations(&self, key: &[u8], at: Lsn) -> Option<(Lsn, Option<Value>)> {
        self.generations()
            .find_map(|generation| generation.newest(key, at))
    }

    /// What tells that a key has another value than at `since`: a newer version, visible or not, or that versions so old
    /// can't be told apart any more.
    #[must_use]
    pub fn key_changed(&self, key: &[u8], since: Lsn) -> Option<Rival> {
        match self.in_generations(key, Lsn(u64::MAX)) {
            Some((lsn, _)) => (lsn > since).then_some(Rival::Version(lsn)),
            None => self.floor_above(since),
        }
    }

    /// As [`NodeView::key_changed`] for all keys of a range, and one that has changed.
    #[must_use]
    pub fn range_changed(&self, range: &KeyRange, since: Lsn) -> Option<(Bytes, Rival)> {
        for generation in self.generations() {
            let newer = generation.newer_in_range(range.low(), range.high(), since);
            if let Some((key, lsn)) = newer {
                return Some((key, Rival::Version(lsn)));
            }
        }
        let low = match &range.low {
            Bound::Unbounded => Bytes::new(),
            Bound::Included(low) | Bound::Excluded(low) => low.clone(),
        };
        self.floor_above(since).map(|rival| (low, rival))
    }

    /// What is in the tree may be newer than `since`.
    fn floor_above(&self, since: Lsn) -> Option<Rival> {
        let newest = self.tree_is_below();
        (newest > since).then_some(Rival::Floor(newest))
    }

    /// The value that the tree holds.
    ///
    /// # Errors
    ///
    /// What the store reports, or [`Error::CorruptTree`] if the stored bytes are no value.
    pub fn in_tree(&self, node: NodeId, key: &[u8]) -> Result<Option<Value>> {
        let Some(stored) = self.tree.get(key)? else {
            return Ok(None);
        };
        match Value::decode(stored) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::CorruptTree {
                node,
                file: "tree".into(),
                reason: format!("the stored form of key {key:02x?} is no value"),
            }),
        }
    }

    /// What a scan at `at` merges for this node, newest first. Sources of a view need not be read to the end.
    #[must_use]
    pub fn sources(
        &self,
        low: &Bound<Bytes>,
        high: &Bound<Bytes>,
        at: Lsn,
        direction: Direction,
    ) -> Vec<Box<dyn Source>> {
        let mut sources: Vec<Box<dyn Source>> = Vec::with_capacity(2);
        for generation in self
            .generations()
            .filter(|generation| !generation.is_empty())
        {
            sources.push(Box::new(GenerationSource::new(
                Arc::clone(generation),
                low.clone(),
                high.clone(),
                at,
                direction,
            )));
        }
        let low = low.as_ref().map(|key| &key[..]);
        let high = high.as_ref().map(|key| &key[..]);
        sources.push(Box::new(StoreSource::new(
            self.tree.range(low, high),
            direction,
        )));
        sources
    }

    /// The newest version at most `at`, wherever it is. The caller has checked that `complete ≤ at`.
    ///
    /// # Errors
    ///
    /// As [`NodeView::in_tree`].
    pub fn get(&self, node: NodeId, key: &[u8], at: Lsn) -> Result<Option<Value>> {
        match self.in_generations(key, at) {
            Some((_, value)) => Ok(value),
            None => self.in_tree(node, key),
        }
    }
}

/// What a look for a key at an LSN has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// The value at that LSN, if there was one.
    Value(Option<Value>),
    /// The tree has passed that LSN: start again with a newer one.
    Passed,
}

/// What one node shares with its readers.
#[derive(Debug)]
pub struct NodeTable {
    node: NodeId,
    view: ArcSwap<NodeView>,
    down: AtomicBool,
    /// Why the tree can't be read, of a node that is down for that.
    unreadable: OnceLock<Error>,
    /// It has joined the running engine.
    joins: bool,
}

impl NodeTable {
    /// A table that shows `view`.
    #[must_use]
    pub fn new(node: NodeId, view: NodeView) -> Self {
        Self {
            node,
            view: ArcSwap::from_pointee(view),
            down: AtomicBool::new(false),
            unreadable: OnceLock::new(),
            joins: false,
        }
    }

    /// That of a node that joins the running engine, and has nothing in the journal.
    #[must_use]
    pub(crate) fn joining(self) -> Self {
        Self {
            joins: true,
            ..self
        }
    }

    /// Whether the node was not there when the engine was opened.
    pub(crate) fn joins(&self) -> bool {
        self.joins
    }

    /// The node's number.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The current view, for as long as the caller keeps it.
    #[must_use]
    pub fn view(&self) -> Arc<NodeView> {
        self.view.load_full()
    }

    /// Shows another view. Only the node itself does this.
    pub fn publish(&self, view: NodeView) {
        self.view.store(Arc::new(view));
    }

    /// Answers `NodeDown` from here on. This comes before the visible LSN may pass what the node has not installed.
    pub fn set_down(&self) {
        self.down.store(true, Ordering::Release);
    }

    /// Answers this error from here on: the tree can't be read, and so the node is isolated.
    pub fn set_unreadable(&self, error: Error) {
        self.unreadable.get_or_init(|| error);
        self.set_down();
    }

    /// Why the tree can't be read, if the node is isolated for that.
    #[must_use]
    pub fn unreadable(&self) -> Option<&Error> {
        self.unreadable.get()
    }

    /// What a node that is down answers.
    #[must_use]
    pub fn why_down(&self) -> Error {
        let node = self.node;
        let unreadable = self.unreadable.get();
        unreadable.cloned().unwrap_or(Error::NodeDown { node })
    }

    /// Whether the node is down.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    /// Fails if the node is down.
    ///
    /// # Errors
    ///
    /// [`Error::NodeDown`], or why its tree can't be read.
    pub fn check_up(&self) -> Result<()> {
        if self.is_down() {
            return Err(self.why_down());
        }
        Ok(())
    }

    /// The newest visible value of a key, expired ones included, for a node that owns the key for ever: starts again by
    /// itself where the tree has passed the visible LSN.
    ///
    /// # Errors
    ///
    /// As [`NodeTable::look`].
    pub fn get(&self, visible: &Visible, cache: &RowCache, key: &[u8]) -> Result<Option<Value>> {
        loop {
            if let Look::Value(value) = self.look(visible.load(), cache, key)? {
                return Ok(value);
            }
        }
    }

    /// The newest version of a key at most `at`, expired ones included. Sends no message; a miss of the cache shares a
    /// generation's lock for one look-up, and a cold read blocks for the tree's I/O.
    ///
    /// `at` is a visible LSN that was loaded before the caller asked who owns the key: the node may lose the key at a later
    /// one, and what it shows behind that is nobody's. So who finds that the tree has passed `at` asks for the owner again.
    ///
    /// # Errors
    ///
    /// [`Error::NodeDown`], and what the store reports.
    pub fn look(&self, at: Lsn, cache: &RowCache, key: &[u8]) -> Result<Look> {
        self.check_up()?;
        let found = cache.get(key, at);
        if let Lookup::Hit(_, value) = found {
            return Ok(Look::Value(value));
        }
        let view = self.view.load();
        if view.complete > at {
            return Ok(Look::Passed);
        }
        if let Lookup::TooNew = found {
            return view.get(self.node, key, at).map(Look::Value);
        }
        self.read_and_fill(&view, cache, key, at).map(Look::Value)
    }

    /// Reads past the cache, and leaves there what was found.
    fn read_and_fill(
        &self,
        view: &Arc<NodeView>,
        cache: &RowCache,
        key: &[u8],
        at: Lsn,
    ) -> Result<Option<Value>> {
        let found = view.in_generations(key, at);
        // The row's LSN is one that the version is surely not newer than. For the question below that would not do: a
        // version that this reader must not see yet may lie under the floor.
        let (row, newest, value) = match found {
            Some((lsn, value)) => (lsn, lsn, value),
            None => {
                let value = view.in_tree(self.node, key)?;
                (view.tree_is_below(), view.complete, value)
            }
        };
        cache.fill(key, row, value.as_ref(), || {
            self.is_newest(view, key, newest)
        });
        Ok(value)
    }

    /// Whether nothing newer than `lsn` was installed for the key, here or elsewhere. Evaluated while the cache holds the
    /// key's shard: an install that this does not see yet updates the cache after us. That of another node can only come
    /// when this one shows the key's arc as leaving, or is down: then it may have died before it installed the newest.
    fn is_newest(&self, view: &Arc<NodeView>, key: &[u8], lsn: Lsn) -> bool {
        let current = self.view.load();
        !self.is_down()
            && Arc::ptr_eq(&current, view)
            && !current.is_leaving(key)
            && current
                .in_generations(key, Lsn(u64::MAX))
                .is_none_or(|(newest, _)| newest <= lsn)
    }

    /// The newest installed version of a key, visible or not: what the node itself chains on.
    ///
    /// # Errors
    ///
    /// What the store reports.
    pub fn newest(&self, key: &[u8]) -> Result<Option<Value>> {
        self.view.load().get(self.node, key, Lsn(u64::MAX))
    }

    /// Installs one version: first into the generation, then into the cache (see [`NodeTable::get`]).
    pub fn install(&self, cache: &RowCache, lsn: Lsn, write: &crate::value::Write) {
        self.view.load().active.insert(lsn, write);
        cache.update(&write.key, lsn, write.value.as_ref());
    }

    /// Looks a key up for a reader that holds `view` and reads at `at`, in the cache first: a row there is the newest
    /// version, so it is the right one if it is old enough.
    ///
    /// # Errors
    ///
    /// As [`NodeView::in_tree`].
    pub fn get_in(
        &self,
        view: &Arc<NodeView>,
        cache: &RowCache,
        key: &[u8],
        at: Lsn,
    ) -> Result<Option<Value>> {
        match cache.get(key, at) {
            Lookup::Hit(_, value) => return Ok(value),
            Lookup::Miss => {}
            Lookup::TooNew => return view.get(self.node, key, at),
        }
        self.read_and_fill(view, cache, key, at)
    }

    /// As [`NodeView::key_changed`] for what is installed now, asking the cache first. For the node itself: it installs.
    #[must_use]
    pub fn key_changed(&self, cache: &RowCache, key: &[u8], since: Lsn) -> Option<Rival> {
        match cache.get(key, Lsn(u64::MAX)) {
            Lookup::Hit(lsn, _) => (lsn > since).then_some(Rival::Version(lsn)),
            Lookup::Miss | Lookup::TooNew => self.view.load().key_changed(key, since),
        }
    }
}
