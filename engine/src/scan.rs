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

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use std::collections::BTreeMap;

    struct List(std::vec::IntoIter<Result<Version>>);

    impl Source for List {
        fn next(&mut self) -> Result<Option<Version>> {
            self.0.next().transpose()
        }
    }

    type Sorted = BTreeMap<Bytes, Option<Value>>;

    fn source(entries: &Sorted, direction: Direction) -> Box<dyn Source> {
        let mut list: Vec<_> = entries.clone().into_iter().map(Ok).collect();
        if direction == Direction::Backward {
            list.reverse();
        }
        Box::new(List(list.into_iter()))
    }

    fn value(bytes: &'static [u8], expires_at_ms: u64) -> Value {
        Value {
            bytes: Bytes::from_static(bytes),
            expires_at_ms,
        }
    }

    #[test]
    fn the_earliest_source_decides_also_by_a_tombstone_or_an_expired_value() {
        let of = |entries: &[(&'static str, Option<Value>)]| -> Sorted {
            entries
                .iter()
                .map(|(key, value)| ((*key).into(), value.clone()))
                .collect()
        };
        let old = of(&[
            ("a", Some(value(b"1", 0))),
            ("b", Some(value(b"1", 0))),
            ("c", Some(value(b"1", 0))),
        ]);
        let new = of(&[
            ("a", None),
            ("b", Some(value(b"2", 10))),
            ("d", Some(value(b"2", 11))),
        ]);
        let read = |now_ms| {
            let sources = [&new, &old].map(|entries| source(entries, Direction::Forward));
            let merge = Merge::new(sources.into(), Direction::Forward, now_ms);
            merge.map(Result::unwrap).collect::<Vec<_>>()
        };
        let (b, c, d) = (value(b"2", 10), value(b"1", 0), value(b"2", 11));
        assert_eq!(
            read(9),
            [
                ("b".into(), b),
                ("c".into(), c.clone()),
                ("d".into(), d.clone())
            ]
        );
        assert_eq!(read(10), [("c".into(), c.clone()), ("d".into(), d)]);
        assert_eq!(read(11), [("c".into(), c)]);
    }

    #[test]
    fn nothing_comes_after_the_end_or_an_error() {
        assert!(
            Merge::new(Vec::new(), Direction::Forward, 0)
                .next()
                .is_none()
        );
        let entry = |key: &'static str| Ok((Bytes::from(key), Some(value(b"", 0))));
        for good in 0..3 {
            let mut list: Vec<_> = ["a", "b", "c"].into_iter().take(good).map(entry).collect();
            list.push(Err(Error::Closed));
            list.push(entry("d"));
            let other = Box::new(List(vec![entry("bb")].into_iter()));
            let sources: Vec<Box<dyn Source>> = vec![Box::new(List(list.into_iter())), other];
            let mut merge = Merge::new(sources, Direction::Forward, 0);
            let last = merge.by_ref().take(10).last();
            assert_eq!(last, Some(Err(Error::Closed)));
            assert_eq!(merge.next(), None);
        }
    }

    /// Keys that begin each other, end in zeros, differ only behind the ranked bytes, or in the keyspace.
    fn random_key(rng: &mut StdRng) -> Bytes {
        let common = [b'k'; 24];
        let mut key = vec![0, 0, 0, rng.random_range(1..3)];
        key.truncate(rng.random_range(1..20).min(4));
        if key.len() == 4 {
            key.extend_from_slice(&common[..[0, 3, 14, 15, 16, 24][rng.random_range(0..6)]]);
            key.extend((0..rng.random_range(0..3)).map(|_| rng.random_range(0..2) * 255));
        }
        key.into()
    }

    #[test]
    fn a_merge_is_the_map_of_its_sources_in_either_direction() {
        let mut rng = StdRng::seed_from_u64(7);
        for round in 0..2_000 {
            let now_ms = 5;
            let sources: Vec<Sorted> = (0..rng.random_range(0..17))
                .map(|_| {
                    let entries = 0..rng.random_range(0..12);
                    let entry = |_| {
                        let value = (!rng.random_ratio(1, 4)).then(|| Value {
                            bytes: Bytes::copy_from_slice(&rng.random::<[u8; 4]>()),
                            expires_at_ms: rng.random_range(0..10),
                        });
                        (random_key(&mut rng), value)
                    };
                    entries.map(entry).collect()
                })
                .collect();
            let mut model = Sorted::new();
            for source in sources.iter().rev() {
                model.extend(source.clone());
            }
            let live = model
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?)));
            let mut expected: Vec<_> = live
                .filter(|(_, value)| !value.is_expired(now_ms))
                .collect();
            for direction in [Direction::Forward, Direction::Backward] {
                let opened = sources
                    .iter()
                    .map(|entries| source(entries, direction))
                    .collect();
                let merged: Result<Vec<_>> = Merge::new(opened, direction, now_ms).collect();
                assert_eq!(merged.unwrap(), expected, "round {round} {direction:?}");
                expected.reverse();
            }
        }
    }

    #[test]
    fn a_stores_pairs_are_a_source_and_a_foreign_value_is_an_error() {
        let pairs = |stored: [&'static [u8]; 2]| -> PairIterator {
            let pairs = [("a", stored[0]), ("b", stored[1])];
            let pairs = pairs.map(|(key, stored)| Ok((key.into(), Bytes::from_static(stored))));
            Box::new(pairs.into_iter())
        };
        let good = [&b"\0x"[..], b"\0y"];
        let mut source = StoreSource::backward(pairs(good));
        assert_eq!(source.next(), Ok(Some(("b".into(), Some(value(b"y", 0))))));
        let mut source = StoreSource::forward(pairs(good));
        assert_eq!(source.next(), Ok(Some(("a".into(), Some(value(b"x", 0))))));
        let mut source = StoreSource::forward(pairs([b"\x07", b"\0y"]));
        assert!(matches!(source.next(), Err(Error::Io { .. })));
    }
}
