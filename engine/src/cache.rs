//! The row cache: a bounded hash table in front of a node's generations and tree.
//!
//! An ordered table answers in microseconds and a tree in several; a hash table answers in 100 to 150 ns. The cache holds,
//! for the keys that are read again and again, the newest version that the node has installed, absence included.
//!
//! # How it stays right
//!
//! A row is always the NEWEST installed version of its key, so a read at LSN `at` may use it if the row's LSN is at most
//! `at`; a newer row says nothing about `at` and is reported as [`Lookup::TooNew`]. Two parties write rows:
//!
//! ```text
//! node     generation.insert(k, 9) ── cache.update(k, 9) ── 9 becomes visible
//! reader   newest of k is 7 ──── cache.fill(k, 7, still newest?)
//! ```
//!
//! The node first puts a version into its generation, then calls `update`, and only then reports it installed. A reader
//! that fills asks again, under the lock of the key's shard, whether its version is still the newest of the generations.
//! If the node's insert came before that question, the fill is dropped; if it came after, so does the node's `update`,
//! which waits for the same lock and finds the row. Either way no row is older than what is visible. The question is put
//! to the view that is published at that moment: the one that was read may lack a generation begun since, and a
//! newer version may meanwhile have gone from a generation to the tree.
//!
//! `update` changes rows that are there and adds none: a key that is written and never read takes no room, and the first
//! read after the write fills it from the generation, which has it anyway. [`RowCache::insert`] adds it too, for loads
//! that read at once what they have written.
//!
//! # How it stays bounded
//!
//! Rows stand in a queue a shard in the order of their coming. Who needs room takes the head: a row that was read since
//! it came or was last looked at (one bit, set without a lock) goes to the end once more, any other goes (second chance,
//! as in CLOCK). After [`MAX_SECOND_CHANCES`] in a row the next goes regardless, so that an eviction has a bound.
//! Once the cache is full, a fill is admitted at the second miss of its key: the first leaves a fingerprint in a
//! small table (a doorkeeper, after TinyLFU). A uniform load over far more keys than fit then costs one probe a miss
//! instead of an insert and an eviction, and a scan does not flush what is hot.
//!
//! # Invariants
//!
//! - Every row has an entry in a queue, or its thread is about to push one. An entry without a row is dropped when it
//!   comes to the head, and counts against the budget until then.
//! - Bytes are at most the budget, but for the entry that each thread is just adding.
//! - No guard of the map is held while the map or a queue is called, except for the question in `fill`.
//!
//! # Left out
//!
//! Frequency: with one bit a row the hit rate is a few per cent below TinyLFU on skewed loads, and hits write nothing
//! shared. Keys are hashed with xxh3 under a seed that the caller should draw at random: this is no keyed hash in
//! the cryptographic sense, but without the seed nobody can prepare colliding keys.

use crate::{
    ids::Lsn,
    packed,
    sync::{AtomicBool, AtomicU16, AtomicUsize, DashMap, Entry, Mutex, MutexGuard},
    value::Value,
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    fmt,
    hash::{BuildHasher, Hasher},
    sync::{PoisonError, atomic::Ordering::Relaxed},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Referenced rows that an eviction passes over before it takes one regardless.
pub const MAX_SECOND_CHANCES: usize = 16;

/// Shards of the map, and queues. Also bounds how long a growing shard keeps its lock.
const SHARDS: usize = if cfg!(feature = "model") { 2 } else { 64 };
/// The doorkeeper remembers at least so many keys.
const LEAST_REMEMBERED: usize = if cfg!(feature = "model") { 2 } else { 64 };
/// A row in its shard: key, row and control byte at a load between 7/16 and 7/8, and the allocations of key and value.
const ROW_BYTES: usize = 192;
/// An entry of a queue, with the slack of its buffer.
const QUEUE_ENTRY_BYTES: usize = 48;
/// A row that would take more than this part of the budget is not worth the others.
const LARGEST_PART: usize = 8;
/// The doorkeeper remembers about as many keys as the cache has rows, if rows have this size.
const TYPICAL_ROW_BYTES: usize = 256;

/// What the cache knows about a key at an LSN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The version to read: its LSN, and its value or `None` if the key is known to be absent.
    Hit(Lsn, Option<Value>),
    /// There is a row, but newer than asked for: read the generations and the tree, and do not fill.
    TooNew,
    /// Nothing is known.
    Miss,
}

/// The newest installed versions of the keys that are read most, bounded in bytes.
pub struct RowCache {
    rows: DashMap<Bytes, Row, SeededHash>,
    queues: Box<[Mutex<VecDeque<Bytes>>]>,
    doorkeeper: Box<[AtomicU16]>,
    bytes: AtomicUsize,
    budget: AtomicUsize,
}

struct Row {
    lsn: Lsn,
    value: Option<Value>,
    referenced: AtomicBool,
}

impl RowCache {
    /// An empty cache of at most `budget` bytes, overhead included; 0 keeps nothing. `seed` should be random.
    #[must_use]
    pub fn new(budget: usize, seed: u64) -> Self {
        let remembered = (budget / TYPICAL_ROW_BYTES).clamp(LEAST_REMEMBERED, 1 << 24);
        Self {
            rows: DashMap::with_hasher_and_shard_amount(SeededHash(seed), SHARDS),
            queues: (0..SHARDS).map(|_| Mutex::default()).collect(),
            doorkeeper: (0..remembered.next_power_of_two())
                .map(|_| AtomicU16::new(0))
                .collect(),
            bytes: AtomicUsize::new(0),
            budget: AtomicUsize::new(budget),
        }
    }

    /// The newest version of `key` at or below `at`, if the cache has it.
    #[must_use]
    #[inline]
    pub fn get(&self, key: &[u8], at: Lsn) -> Lookup {
        let Some(row) = self.rows.get(key) else {
            return Lookup::Miss;
        };
        // A hot row is only read: writing the bit again would make its cache line travel between the cores.
        if !row.referenced.load(Relaxed) {
            row.referenced.store(true, Relaxed);
        }
        if row.lsn <= at {
            Lookup::Hit(row.lsn, row.value.clone())
        } else {
            Lookup::TooNew
        }
    }

    /// Replaces the row of `key`, if there is one, by the version that the node has just put into its generation.
    /// The node must call this (or [`RowCache::insert`]) for every version, before it reports it installed.
    pub fn update(&self, key: &[u8], lsn: Lsn, value: Option<&Value>) {
        if !self.is_admissible(key, value) {
            return self.remove(key);
        }
        let Some(mut row) = self.rows.get_mut(key) else {
            return;
        };
        self.replace(&mut row, lsn, value.cloned());
        drop(row);
        if self.bytes() > self.budget() {
            self.evict(self.queue_of(self.hash(key)));
        }
    }

    /// Like [`RowCache::update`], but adds the row if there is none.
    pub fn insert(&self, key: &Bytes, lsn: Lsn, value: Option<&Value>) {
        if self.is_admissible(key, value) {
            self.put(key, self.hash(key), lsn, value.cloned(), || true);
        } else {
            self.update(key, lsn, value);
        }
    }

    /// Adds the version of `key` that a reader found to be the newest installed (not only the newest at its own LSN),
    /// unless a newer row is there or `still_newest` denies. That is asked under the lock of the key's shard, and must
    /// not call the cache. It must look at the view that the node publishes NOW, not at the one that was read: true
    /// only if no generation of it has a newer version, and if its tree is the one that was read.
    ///
    /// Key and value are copied, and only once they are admitted: a value that was read from a tree is a slice of a
    /// whole block, which the row would keep in memory uncounted.
    pub fn fill(
        &self,
        key: &[u8],
        lsn: Lsn,
        value: Option<&Value>,
        still_newest: impl FnOnce() -> bool,
    ) {
        if !self.is_admissible(key, value) {
            return;
        }
        let hash = self.hash(key);
        let is_full = self.bytes() + weight(key, value) > self.budget();
        if is_full && !self.is_second_miss(hash) {
            return;
        }
        let value = value.map(|value| Value {
            bytes: packed::copy(&value.bytes),
            expires_at_ms: value.expires_at_ms,
        });
        self.put(&packed::copy(key), hash, lsn, value, still_newest);
    }

    /// Bytes held, overhead included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// The most bytes that the cache may hold.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.budget.load(Relaxed)
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Changes the budget, and evicts down to it.
    pub fn resize(&self, budget: usize) {
        self.budget.store(budget, Relaxed);
        self.evict(0);
    }

    /// Forgets everything: a node whose handler panicked may have installed versions without telling the cache.
    pub fn clear(&self) {
        // Rows first: one whose entry is in another thread's hands just now is in no queue.
        self.remove_prefix(b"");
        for queue in 0..SHARDS {
            let entries = std::mem::take(&mut *self.queue(queue));
            for key in entries {
                self.drop_entry(&key);
                self.remove(&key);
            }
        }
    }

    /// Forgets every key that begins with `prefix`. Their places in the queues go later, as they come to the head.
    pub fn remove_prefix(&self, prefix: &[u8]) {
        self.remove_where(|key| key.starts_with(prefix));
    }

    /// Forgets every key that `is_out` takes, as [`RowCache::remove_prefix`] does. Looks at every row.
    pub fn remove_where(&self, is_out: impl Fn(&[u8]) -> bool) {
        self.rows.retain(|key, row| {
            let is_kept = !is_out(key);
            if !is_kept {
                self.sub(row_weight(row.value.as_ref()));
            }
            is_kept
        });
    }

    /// Whether a row is not too large to be worth its room.
    fn is_admissible(&self, key: &[u8], value: Option<&Value>) -> bool {
        weight(key, value) <= self.budget() / LARGEST_PART
    }

    /// Whether the doorkeeper remembers the key; else it does from now on, in place of another.
    fn is_second_miss(&self, hash: u64) -> bool {
        let place = &self.doorkeeper[(hash >> 16) as usize & (self.doorkeeper.len() - 1)];
        // Never 0, which is "nobody".
        let fingerprint = hash as u16 | 1;
        let is_remembered = place.load(Relaxed) == fingerprint;
        place.store(if is_remembered { 0 } else { fingerprint }, Relaxed);
        is_remembered
    }

    fn put(
        &self,
        key: &Bytes,
        hash: u64,
        lsn: Lsn,
        value: Option<Value>,
        is_wanted: impl FnOnce() -> bool,
    ) {
        let added = match self.rows.entry(key.clone()) {
            Entry::Occupied(mut row) => {
                if row.get().lsn < lsn && is_wanted() {
                    self.replace(row.get_mut(), lsn, value);
                }
                false
            }
            Entry::Vacant(place) => {
                let is_wanted = is_wanted();
                if is_wanted {
                    // Counted under the lock: whoever removes the row subtracts no more than was added.
                    self.add(weight(key, value.as_ref()));
                    place.insert(Row {
                        lsn,
                        value,
                        referenced: AtomicBool::new(false),
                    });
                }
                is_wanted
            }
        };
        let queue = self.queue_of(hash);
        if added {
            self.queue(queue).push_back(key.clone());
        }
        self.evict(queue);
    }

    /// Puts a newer version into a row, under the lock of its shard.
    fn replace(&self, row: &mut Row, lsn: Lsn, value: Option<Value>) {
        if row.lsn < lsn {
            self.add(value_bytes(value.as_ref()));
            self.sub(value_bytes(row.value.as_ref()));
            row.lsn = lsn;
            row.value = value;
        }
    }

    fn remove(&self, key: &[u8]) {
        if let Some((_, row)) = self.rows.remove(key) {
            self.sub(row_weight(row.value.as_ref()));
        }
    }

    /// Removes rows until the budget is kept, beginning with the queue `first`.
    fn evict(&self, first: usize) {
        let mut queue = first;
        let mut empty_queues = 0;
        // With every queue empty what is left are entries that other threads are about to push, and then evict for.
        while self.bytes() > self.budget() && empty_queues < SHARDS {
            if self.evict_one(queue) {
                empty_queues = 0;
            } else {
                empty_queues += 1;
                queue = (queue + 1) % SHARDS;
            }
        }
    }

    /// Takes the first unreferenced row out of a queue and the map; false if the queue is empty.
    fn evict_one(&self, queue: usize) -> bool {
        for chances in 0.. {
            let Some(key) = self.queue(queue).pop_front() else {
                break;
            };
            let is_last_chance = chances == MAX_SECOND_CHANCES;
            let has_chance = !is_last_chance
                && self
                    .rows
                    .get(&key)
                    .is_some_and(|row| row.referenced.swap(false, Relaxed));
            if has_chance {
                self.queue(queue).push_back(key);
                continue;
            }
            self.drop_entry(&key);
            self.remove(&key);
            return true;
        }
        false
    }

    fn drop_entry(&self, key: &[u8]) {
        self.sub(entry_weight(key));
    }

    fn queue(&self, queue: usize) -> MutexGuard<'_, VecDeque<Bytes>> {
        // A queue is whole between any two statements, so a panic elsewhere does not spoil it.
        self.queues[queue]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn queue_of(&self, hash: u64) -> usize {
        (hash >> 48) as usize % SHARDS
    }

    fn hash(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.rows.hasher().0)
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    fn sub(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

impl fmt::Debug for RowCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowCache")
            .field("rows", &self.len())
            .field("bytes", &self.bytes())
            .field("budget", &self.budget())
            .finish_non_exhaustive()
    }
}

/// What a row and its entry in a queue hold.
fn weight(key: &[u8], value: Option<&Value>) -> usize {
    row_weight(value) + entry_weight(key)
}

/// What goes with the row. The bytes of the key are shared with the entry in the queue, which may outlive it.
fn row_weight(value: Option<&Value>) -> usize {
    ROW_BYTES + value_bytes(value)
}

fn entry_weight(key: &[u8]) -> usize {
    QUEUE_ENTRY_BYTES + key.len()
}

fn value_bytes(value: Option<&Value>) -> usize {
    value.map_or(0, |value| value.bytes.len())
}

/// Builds hashers of xxh3 under a seed.
#[derive(Debug, Clone, Copy)]
struct SeededHash(u64);

impl BuildHasher for SeededHash {
    type Hasher = KeyHasher;

    #[inline]
    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(self.0)
    }
}

/// Hashes one slice. The standard library hashes its length first; nothing follows, so that adds nothing.
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    #[inline]
    fn write_usize(&mut self, _length: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
