//! A generation: an ordered table in memory of the versions that a node has installed.
//!
//! A node writes what it installs into its active generation; at a checkpoint mark the generation is frozen, and once
//! its newest LSN is visible it is written to the tree as one sorted run. A version is (key, LSN) → value or tombstone.
//! Nothing is ever overwritten or removed: a reader that holds the generation finds every version it could ever see,
//! and the memory goes when the last reader lets go of the whole table.
//!
//! ```text
//! order:   a@9  a@4  b@7  b@5  b@2  c@3       key ascending, within a key the newest first
//! newest(b, at 6):        └─ the first entry at or after (b, 6)
//! ```
//!
//! The table is a B-tree under a lock that the writer takes for one insertion and a reader for one look-up or one chunk
//! of a scan. A lock-free skip list (crossbeam's) was measured first: at 300,000 versions of cold memory an insertion
//! took 2 microseconds of the node's thread, mostly cache misses, and was the largest item of a durable put.
//!
//! Keys are kept with their first 24 bytes as three integers beside them, in the tree's own nodes, so that comparisons save
//! the miss on the key's bytes: all of them where keys are no longer than that. (4 of these bytes are the keyspace.)
//!
//! # Invariants
//!
//! - One writer (the node), which inserts in LSN order; any number of readers.
//! - A reader that learnt an LSN from the visible LSN (acquire) sees every version up to it: the writer has inserted
//!   them before it reports them installed.
//!
//! # Left out
//!
//! Removal of versions that nobody needs any more: a generation lives for one checkpoint, and its budget bounds it.

use crate::{
    ids::Lsn,
    sync::{AtomicU64, AtomicUsize, RwLock, RwLockReadGuard},
    value::{Value, Write},
};
use bytes::Bytes;
use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Bound,
    sync::{
        Arc, PoisonError,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
};

/// Steps to a neighbour that a scan takes before it searches from the top: a search costs about as many misses.
const STEPS_BEFORE_SEARCH: usize = 8;
/// Versions that a walk over a whole generation takes out under one lock.
const WALK_CHUNK: usize = 256;

type Versions = BTreeMap<StoredKey, Option<Value>>;

/// The versions that a node installed between two checkpoint marks.
pub struct Generation {
    versions: RwLock<Versions>,
    bytes: AtomicUsize,
    last_lsn: AtomicU64,
    /// Bytes of all generations that share this gauge, for the memory budget of the engine.
    gauge: Arc<AtomicUsize>,
}

impl Generation {
    /// An empty generation.
    #[must_use]
    pub fn new() -> Self {
        Self::with_gauge(Arc::default())
    }

    /// An empty generation whose bytes count in `gauge` for as long as anybody holds it.
    #[must_use]
    pub fn with_gauge(gauge: Arc<AtomicUsize>) -> Self {
        Self {
            versions: RwLock::default(),
            bytes: AtomicUsize::new(0),
            last_lsn: AtomicU64::new(0),
            gauge,
        }
    }

    /// An empty generation on the same gauge.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self::with_gauge(Arc::clone(&self.gauge))
    }

    fn read(&self) -> RwLockReadGuard<'_, Versions> {
        // An insertion that panicked has inserted or not; the table is whole either way.
        self.versions.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the version that the commit at `lsn` gives a key. Only the node that owns the generation may call this.
    ///
    /// # Panics
    ///
    /// Panics if `lsn` is below one that was inserted before: a node installs in LSN order.
    pub fn insert(&self, lsn: Lsn, write: &Write) {
        let last = self.last_lsn.load(Acquire);
        assert!(
            lsn.0 >= last,
            "commit {lsn} was installed after commit {last}"
        );
        let key = StoredKey(VersionKey::new(KeyBytes::Owned(write.key.clone()), lsn));
        let value = write.value.clone();
        self.versions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key)
            .or_insert(value);
        self.bytes.fetch_add(write.weight(), Release);
        self.gauge.fetch_add(write.weight(), Release);
        self.last_lsn.store(lsn.0, Release);
    }

    /// The newest version of `key` with an LSN of at most `at`; an inner `None` is a tombstone.
    #[must_use]
    pub fn newest(&self, key: &[u8], at: Lsn) -> Option<(Lsn, Option<Value>)> {
        newest_in(&self.read(), key, at)
    }

    /// The newest version of `key`, visible or not.
    #[must_use]
    pub fn newest_any(&self, key: &[u8]) -> Option<(Lsn, Option<Value>)> {
        self.newest(key, Lsn(u64::MAX))
    }

    /// Bytes held, by [`Write::weight`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Acquire)
    }

    /// Number of versions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether no version is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last_lsn.load(Acquire) == 0
    }

    /// The highest LSN inserted; LSN 0 if there is none.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.last_lsn.load(Acquire))
    }

    /// The newest version of every key in key order, tombstones included: the sorted run of a frozen generation.
    pub fn newest_versions(&self) -> impl Iterator<Item = (Bytes, Lsn, Option<Value>)> + '_ {
        let mut chunk = VecDeque::new();
        let mut last: Option<Bytes> = None;
        let mut is_exhausted = false;
        std::iter::from_fn(move || {
            if chunk.is_empty() && !is_exhausted {
                let low = match &last {
                    Some(key) => Bound::Excluded(&key[..]),
                    None => Bound::Unbounded,
                };
                let at = Lsn(u64::MAX);
                let next = forward(&self.read(), low, Bound::Unbounded, at, WALK_CHUNK);
                is_exhausted = next.len() < WALK_CHUNK;
                last = next.last().map(|(key, ..)| key.clone());
                chunk = next.into();
            }
            chunk.pop_front()
        })
    }

    /// The same without the versions of some keys. What recovery calls for before anybody reads.
    #[must_use]
    pub fn without(&self, is_out: impl Fn(&[u8]) -> bool) -> Self {
        let (mut bytes, mut last) = (0, Lsn(0));
        let mut versions = Versions::new();
        for (StoredKey(version), value) in &*self.read() {
            let key = version.to_bytes();
            if is_out(&key) {
                continue;
            }
            last = last.max(version.lsn);
            let place = VersionKey::new(KeyBytes::Owned(key.clone()), version.lsn);
            versions.insert(StoredKey(place), value.clone());
            let value = value.clone();
            bytes += Write { key, value }.weight();
        }
        self.gauge.fetch_add(bytes, Release);
        Self {
            versions: RwLock::new(versions),
            bytes: AtomicUsize::new(bytes),
            last_lsn: AtomicU64::new(last.0),
            gauge: Arc::clone(&self.gauge),
        }
    }

    /// Up to `limit` keys of a range that have a version at or below `at`, each with the newest such version,
    /// tombstones included; in key order, or against it if `reverse`. Fewer than `limit` means that the range has no
    /// more; to go on, call again with the last key as an excluded bound.
    #[must_use]
    pub fn range_chunk(
        &self,
        low: Bound<&[u8]>,
        high: Bound<&[u8]>,
        at: Lsn,
        reverse: bool,
        limit: usize,
    ) -> Vec<(Bytes, Option<Value>)> {
        let versions = self.read();
        let chunk = if reverse {
            backward(&versions, low, high, at, limit)
        } else {
            forward(&versions, low, high, at, limit)
        };
        chunk
            .into_iter()
            .map(|(key, _, value)| (key, value))
            .collect()
    }

    /// A key of the range with a version that is newer than `after`, and that version's LSN.
    #[must_use]
    pub fn newer_in_range(
        &self,
        low: Bound<&[u8]>,
        high: Bound<&[u8]>,
        after: Lsn,
    ) -> Option<(Bytes, Lsn)> {
        if self.last_lsn() <= after {
            return None;
        }
        let mut last: Option<Bytes> = None;
        loop {
            let low = last.as_deref().map_or(low, Bound::Excluded);
            let chunk = forward(&self.read(), low, high, Lsn(u64::MAX), WALK_CHUNK);
            let is_end = chunk.len() < WALK_CHUNK;
            last = chunk.last().map(|(key, ..)| key.clone());
            let newer = chunk.into_iter().find(|(_, lsn, _)| *lsn > after);
            if newer.is_some() || is_end {
                return newer.map(|(key, lsn, _)| (key, lsn));
            }
        }
    }
}

fn newest_in(versions: &Versions, key: &[u8], at: Lsn) -> Option<(Lsn, Option<Value>)> {
    let wanted = VersionKey::new(KeyBytes::Borrowed(key), at);
    let from = (Bound::Included(&wanted), Bound::Unbounded);
    let (StoredKey(found), value) = versions.range::<VersionKey<'_>, _>(from).next()?;
    found.same_key(&wanted).then(|| (found.lsn, value.clone()))
}

fn forward(
    versions: &Versions,
    low: Bound<&[u8]>,
    high: Bound<&[u8]>,
    at: Lsn,
    limit: usize,
) -> Vec<(Bytes, Lsn, Option<Value>)> {
    let mut chunk: Vec<(Bytes, Lsn, Option<Value>)> = Vec::new();
    let place = |key: Bytes, lsn| VersionKey::new(KeyBytes::Owned(key), lsn);
    let mut from = match low {
        Bound::Unbounded => Bound::Unbounded,
        Bound::Included(key) => Bound::Included(place(Bytes::copy_from_slice(key), Lsn(u64::MAX))),
        Bound::Excluded(key) => Bound::Excluded(place(Bytes::copy_from_slice(key), Lsn(0))),
    };
    'search: loop {
        let mut passed = 0;
        let bounds = (from.as_ref(), Bound::Unbounded);
        for (StoredKey(key), value) in versions.range::<VersionKey<'_>, _>(bounds) {
            if chunk.len() == limit || !is_below(key.bytes(), high) {
                break 'search;
            }
            let is_older = chunk.last().is_some_and(|(last, ..)| last == key.bytes());
            if !is_older && key.lsn <= at {
                chunk.push((key.to_bytes(), key.lsn, value.clone()));
                passed = 0;
                continue;
            }
            passed += 1;
            if passed > STEPS_BEFORE_SEARCH {
                // A hot key has thousands of versions: pass over them by a search.
                from = if is_older {
                    Bound::Excluded(place(key.to_bytes(), Lsn(0)))
                } else {
                    Bound::Included(place(key.to_bytes(), at))
                };
                continue 'search;
            }
        }
        break;
    }
    chunk
}

/// Against the order of the versions of a key: every key is two searches from the top.
fn backward(
    versions: &Versions,
    low: Bound<&[u8]>,
    high: Bound<&[u8]>,
    at: Lsn,
    limit: usize,
) -> Vec<(Bytes, Lsn, Option<Value>)> {
    let mut chunk = Vec::new();
    let place = |key: Bytes, lsn| VersionKey::new(KeyBytes::Owned(key), lsn);
    let mut to = match high {
        Bound::Unbounded => Bound::Unbounded,
        Bound::Included(key) => Bound::Included(place(Bytes::copy_from_slice(key), Lsn(0))),
        Bound::Excluded(key) => Bound::Excluded(place(Bytes::copy_from_slice(key), Lsn(u64::MAX))),
    };
    while chunk.len() < limit {
        let bounds = (Bound::Unbounded, to.as_ref());
        let last = versions.range::<VersionKey<'_>, _>(bounds).next_back();
        let Some((StoredKey(key), _)) = last else {
            break;
        };
        if !is_above(key.bytes(), low) {
            break;
        }
        // This is the oldest version of the key: if that is too new, then all are.
        if key.lsn <= at
            && let Some((lsn, value)) = newest_in(versions, key.bytes(), at)
        {
            chunk.push((key.to_bytes(), lsn, value));
        }
        to = Bound::Excluded(place(key.to_bytes(), Lsn(u64::MAX)));
    }
    chunk
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.gauge.fetch_sub(self.bytes.load(Relaxed), Release);
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("versions", &self.len())
            .field("bytes", &self.bytes())
            .field("last_lsn", &self.last_lsn())
            .finish()
    }
}

fn is_below(key: &[u8], high: Bound<&[u8]>) -> bool {
    match high {
        Bound::Unbounded => true,
        Bound::Included(high) => key <= high,
        Bound::Excluded(high) => key < high,
    }
}

fn is_above(key: &[u8], low: Bound<&[u8]>) -> bool {
    match low {
        Bound::Unbounded => true,
        Bound::Included(low) => key >= low,
        Bound::Excluded(low) => key > low,
    }
}

/// The key of an entry. A type of its own, so that it can lend itself as a [`VersionKey`] of any lifetime: a search
/// then borrows the caller's key and allocates nothing.
struct StoredKey(VersionKey<'static>);

impl<'a> Borrow<VersionKey<'a>> for StoredKey {
    fn borrow(&self) -> &VersionKey<'a> {
        &self.0
    }
}

impl PartialEq for StoredKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for StoredKey {}

impl PartialOrd for StoredKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for StoredKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

/// A place in the order: key ascending, within a key LSN descending.
struct VersionKey<'a> {
    /// The first bytes of the key, padded with zeros, as integers that compare like them.
    prefix: Prefix,
    lsn: Lsn,
    key: KeyBytes<'a>,
}

enum KeyBytes<'a> {
    Owned(Bytes),
    Borrowed(&'a [u8]),
}

impl<'a> VersionKey<'a> {
    fn new(key: KeyBytes<'a>, lsn: Lsn) -> Self {
        let mut version = Self {
            prefix: [0; 3],
            lsn,
            key,
        };
        version.prefix = prefix_of(version.bytes());
        version
    }

    fn bytes(&self) -> &[u8] {
        match &self.key {
            KeyBytes::Owned(bytes) => bytes,
            KeyBytes::Borrowed(bytes) => bytes,
        }
    }

    fn to_bytes(&self) -> Bytes {
        match &self.key {
            KeyBytes::Owned(bytes) => bytes.clone(),
            KeyBytes::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        }
    }

    #[inline]
    fn cmp_keys(&self, other: &VersionKey<'_>) -> Ordering {
        // Where padded prefixes differ, they differ like the keys. Where they agree, what follows is to be compared; of
        // two keys that end there the shorter is the beginning of the other, which goes on with zeros.
        self.prefix.cmp(&other.prefix).then_with(|| {
            let (this, that) = (self.bytes(), other.bytes());
            match this.len().max(that.len()) {
                0..=PREFIX_BYTES => this.len().cmp(&that.len()),
                _ => this.cmp(that),
            }
        })
    }

    fn same_key(&self, other: &VersionKey<'_>) -> bool {
        self.cmp_keys(other) == Ordering::Equal
    }
}

type Prefix = [u64; 3];

const PREFIX_BYTES: usize = size_of::<Prefix>();

fn prefix_of(key: &[u8]) -> Prefix {
    let mut padded = [0; PREFIX_BYTES];
    let taken = key.len().min(PREFIX_BYTES);
    padded[..taken].copy_from_slice(&key[..taken]);
    let (words, _) = padded.as_chunks();
    [0, 1, 2].map(|word| u64::from_be_bytes(words[word]))
}

impl PartialEq for VersionKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for VersionKey<'_> {}

impl PartialOrd for VersionKey<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for VersionKey<'_> {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.cmp_keys(other).then_with(|| other.lsn.cmp(&self.lsn))
    }
}

#[cfg(test)]
#[path = "generation_tests.rs"]
mod tests;
