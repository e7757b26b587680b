//! Merging sorted sources into one stream of live pairs.
//!
//! A scan reads, for each node, its in-memory generations and its tree, all of them sorted. [`Merge`] yields each key
//! once, in the order of the keys: among the sources that hold it the one that stands first in the list decides, so
//! the caller lists the sources of a node from the newest to the oldest. Sources of different nodes never share a key and
//! may stand in any order. Tombstones and expired values decide like any other version, and are then left out.
//!
//! The heads of the sources stand in a binary heap. Most comparisons are settled by the first 16 bytes behind the
//! keyspace's prefix, kept beside the heap's entry as a number. The top is replaced in place: a step costs one sift
//! down, and only two comparisons when the same source yields again.
//!
//! Not here: bounds (each source is opened with them), limits, and what a pair means.

use crate::{
    error::{Error, Result},
    store::{PairIterator, runs::Direction},
    value::{KEYSPACE_PREFIX_BYTES, Value},
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
        match Value::decode(&stored) {
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
    /// A binary heap: no head comes before its parent.
    heads: Vec<Head>,
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

/// The next version of one source.
struct Head {
    /// The start of the key, mirrored for a backward scan, so that the smaller number always comes first.
    rank: u128,
    source: usize,
    version: Version,
}

impl Head {
    fn new(source: usize, version: Version, direction: Direction) -> Self {
        let mut start = [0; 16];
        let significant = version.0.get(KEYSPACE_PREFIX_BYTES..).unwrap_or_default();
        let len = significant.len().min(start.len());
        start[..len].copy_from_slice(&significant[..len]);
        let rank = u128::from_be_bytes(start);
        let rank = match direction {
            Direction::Forward => rank,
            Direction::Backward => !rank,
        };
        Self {
            rank,
            source,
            version,
        }
    }

    /// Whether this head comes out before the other: by key, then by the source's place in the list.
    fn precedes(&self, other: &Self, direction: Direction) -> bool {
        self.order(other, direction)
            .then(self.source.cmp(&other.source))
            .is_lt()
    }

    fn order(&self, other: &Self, direction: Direction) -> Ordering {
        let (key, others) = (&self.version.0, &other.version.0);
        let prefix = |key: &Bytes| key.len().min(KEYSPACE_PREFIX_BYTES);
        // The rank says nothing across keyspaces.
        direction
            .compare(&key[..prefix(key)], &others[..prefix(others)])
            .then(self.rank.cmp(&other.rank))
            .then_with(|| direction.compare(key, others))
    }
}

impl Merge {
    /// Merges `sources`, all of which yield in `direction`. Values that have expired at `now_ms` (milliseconds since
    /// the Unix epoch) are left out.
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Source>>, direction: Direction, now_ms: u64) -> Self {
        Self {
            heads: Vec::with_capacity(sources.len()),
            sources,
            direction,
            now_ms,
            state: State::Unopened,
        }
    }

    fn open(&mut self) -> Result<()> {
        for (index, source) in self.sources.iter_mut().enumerate() {
            if let Some(version) = source.next()? {
                self.heads.push(Head::new(index, version, self.direction));
            }
        }
        for index in (0..self.heads.len() / 2).rev() {
            self.sift_down(index);
        }
        Ok(())
    }

    fn sift_down(&mut self, mut parent: usize) {
        loop {
            let left = 2 * parent + 1;
            if left >= self.heads.len() {
                return;
            }
            let right = left + 1;
            let child = if right < self.heads.len()
                && self.heads[right].precedes(&self.heads[left], self.direction)
            {
                right
            } else {
                left
            };
            if !self.heads[child].precedes(&self.heads[parent], self.direction) {
                return;
            }
            self.heads.swap(child, parent);
            parent = child;
        }
    }

    /// Takes the first version out and puts its source's next one in.
    fn pop(&mut self) -> Result<Version> {
        let source = self.heads[0].source;
        let next = self.sources[source].next()?;
        let first = match next {
            Some(version) => {
                let head = Head::new(source, version, self.direction);
                debug_assert!(
                    self.heads[0].order(&head, self.direction).is_lt(),
                    "a source of a scan must be sorted, each key once"
                );
                std::mem::replace(&mut self.heads[0], head)
            }
            None => self.heads.swap_remove(0),
        };
        self.sift_down(0);
        Ok(first.version)
    }

    fn advance(&mut self) -> Result<Option<(Bytes, Value)>> {
        if self.state == State::Unopened {
            self.open()?;
            self.state = State::Running;
        }
        while !self.heads.is_empty() {
            let (key, value) = self.pop()?;
            // Older versions of the key stand right behind it, in sources that come later in the list.
            while self.heads.first().is_some_and(|head| head.version.0 == key) {
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
