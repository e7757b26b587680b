//! Merging sorted sources into one stream of live pairs.
//!
//! A scan reads, for each node, its in-memory generations and its tree, all of them sorted. [`Merge`] yields each key
//! once, in the order of the keys: among the sources that hold it the one that stands first in the list decides, so
//! the caller lists the sources of a node from the newest to the oldest. Sources of different nodes never share a key and
//! may stand in any order. Tombstones and expired values decide like any other version, and are then left out.
//!
//! The sources stand in a binary heap, each ranked by the first 20 bytes of its next key, as numbers: they settle nearly
//! every comparison without looking at the key. The top is replaced in place: a step costs one sift down, and only two
//! comparisons when the same source yields again.
//!
//! Not here: bounds (each source is opened with them), limits, and what a pair means.

use crate::{
    error::{Error, Result},
    store::{PairIterator, runs::Direction},
    value::Value,
};
use bytes::Bytes;
use std::cmp::Ordering;

/// A version of a key: `None` is a tombstone.
pub type Version = (Bytes, Option<Value>);

/// A sorted stream of versions, one a key, in the direction of the scan.
pub trait Source: Send {
    /// The next version; `None` at the end, and from then on.
    ///
    /// # Errors
    ///
    /// Whatever reading meets; the source need not be usable afterwards.
    fn next(&mut self) -> Result<Option<Version>>;
}

/// The pairs of a store as a [`Source`].
pub struct StoreSource {
    pairs: PairIterator,
    direction: Direction,
}

impl StoreSource {
    /// Reads from the low end.
    #[must_use]
    pub fn forward(pairs: PairIterator) -> Self {
        Self::new(pairs, Direction::Forward)
    }

    /// Reads from the high end.
    #[must_use]
    pub fn backward(pairs: PairIterator) -> Self {
        Self::new(pairs, Direction::Backward)
    }

    /// Reads in the given direction.
    #[must_use]
    pub fn new(pairs: PairIterator, direction: Direction) -> Self {
        Self { pairs, direction }
    }
}

impl Source for StoreSource {
    fn next(&mut self) -> Result<Option<Version>> {
        let pair = match self.direction {
            Direction::Forward => self.pairs.next(),
            Direction::Backward => self.pairs.next_back(),
        };
        let Some((key, stored)) = pair.transpose()? else {
            return Ok(None);
        };
        match Value::decode(stored) {
            Some(value) => Ok(Some((key, Some(value)))),
            None => Err(undecodable(&key)),
        }
    }
}

/// A stored value that passed every checksum and still is none: written by something else than this engine.
fn undecodable(key: &[u8]) -> Error {
    Error::Io {
        context: format!("the stored value of key {}", key.escape_ascii()),
        kind: std::io::ErrorKind::InvalidData,
        message: "it has no form that this build knows".into(),
    }
}

/// The live pairs of several sources as one sorted stream.
pub struct Merge {
    sources: Vec<Box<dyn Source>>,
    /// The next version of each source; `None` once it has ended.
    heads: Vec<Option<Version>>,
    /// A binary heap of the sources that have a head: none comes before its parent.
    heap: Vec<Rank>,
    direction: Direction,
    now_ms: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No source was asked yet.
    Unopened,
    Running,
    /// At the end or after an error, which must not look like an end that comes later.
    Finished,
}

/// The start of a head's key as numbers, and whose head it is.
#[derive(Clone, Copy)]
struct Rank {
    /// The first 4 bytes, which most keys of a scan share.
    keyspace: u32,
    /// The next 16, which nearly always decide.
    start: u128,
    source: usize,
}

impl Rank {
    /// Short keys are padded with zeros: equal ranks say nothing yet, unequal ones are the order of the keys.
    /// Mirrored for a backward scan, so that the smaller numbers come first either way.
    fn of(key: &[u8], source: usize, direction: Direction) -> Self {
        let mut bytes = [0; 20];
        let len = key.len().min(bytes.len());
        bytes[..len].copy_from_slice(&key[..len]);
        let (keyspace, start) = bytes.split_at(4);
        let keyspace = u32::from_be_bytes(keyspace.try_into().expect("four bytes"));
        let start = u128::from_be_bytes(start.try_into().expect("sixteen bytes"));
        let (keyspace, start) = match direction {
            Direction::Forward => (keyspace, start),
            Direction::Backward => (!keyspace, !start),
        };
        Self {
            keyspace,
            start,
            source,
        }
    }

    fn compare_numbers(&self, other: &Self) -> Ordering {
        (self.keyspace, self.start).cmp(&(other.keyspace, other.start))
    }
}

impl Merge {
    /// Merges `sources`, all of which yield in `direction`. Values that have expired at `now_ms` (milliseconds since
    /// the Unix epoch) are left out.
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Source>>, direction: Direction, now_ms: u64) -> Self {
        Self {
            heads: Vec::with_capacity(sources.len()),
            heap: Vec::with_capacity(sources.len()),
            sources,
            direction,
            now_ms,
            state: State::Unopened,
        }
    }

    fn open(&mut self) -> Result<()> {
        for (index, source) in self.sources.iter_mut().enumerate() {
            let head = source.next()?;
            if let Some((key, _)) = &head {
                self.heap.push(Rank::of(key, index, self.direction));
            }
            self.heads.push(head);
        }
        for index in (0..self.heap.len() / 2).rev() {
            self.sift_down(index);
        }
        Ok(())
    }

    fn key(&self, rank: &Rank) -> &Bytes {
        let head = self.heads[rank.source].as_ref();
        &head.expect("a source in the heap has a head").0
    }

    /// Whether one head comes out before another: by key, then by the source's place in the list.
    fn precedes(&self, a: &Rank, b: &Rank) -> bool {
        a.compare_numbers(b)
            .then_with(|| self.direction.compare(self.key(a), self.key(b)))
            .then(a.source.cmp(&b.source))
            .is_lt()
    }

    fn sift_down(&mut self, mut parent: usize) {
        loop {
            let left = 2 * parent + 1;
            let Some(left_rank) = self.heap.get(left) else {
                return;
            };
            let child = match self.heap.get(left + 1) {
                Some(right_rank) if self.precedes(right_rank, left_rank) => left + 1,
                _ => left,
            };
            if !self.precedes(&self.heap[child], &self.heap[parent]) {
                return;
            }
            self.heap.swap(child, parent);
            parent = child;
        }
    }

    /// Takes the first version out and puts its source's next one in.
    fn pop(&mut self) -> Result<Version> {
        let source = self.heap[0].source;
        let next = self.sources[source].next()?;
        if let Some((key, _)) = &next {
            debug_assert!(
                self.direction.compare(self.key(&self.heap[0]), key).is_lt(),
                "a source of a scan must be sorted, each key once"
            );
            self.heap[0] = Rank::of(key, source, self.direction);
        } else {
            self.heap.swap_remove(0);
        }
        let version = std::mem::replace(&mut self.heads[source], next);
        self.sift_down(0);
        Ok(version.expect("a source in the heap has a head"))
    }

    fn advance(&mut self) -> Result<Option<(Bytes, Value)>> {
        if self.state == State::Unopened {
            self.open()?;
            self.state = State::Running;
        }
        while let Some(&first) = self.heap.first() {
            let (key, value) = self.pop()?;
            // Older versions of the key stand right behind it, in sources that come later in the list.
            while self
                .heap
                .first()
                .is_some_and(|next| next.compare_numbers(&first).is_eq() && *self.key(next) == key)
            {
                self.pop()?;
            }
            if let Some(value) = value.filter(|value| !value.is_expired(self.now_ms)) {
                return Ok(Some((key, value)));
            }
        }
        Ok(None)
    }
}

impl Iterator for Merge {
    type Item = Result<(Bytes, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Finished {
            return None;
        }
        let next = self.advance().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.state = State::Finished;
        }
        next
    }
}
