//! Reading several sorted runs of one store as if they were one.
//!
//! A store keeps its pairs in a few runs, newest first; a key may stand in several of them and the newest one counts.
//! `RunRange` reads a key range of such a stack from both ends. It opens a cursor a run only in the directions that
//! are really asked for, because opening one is what a short scan mostly pays for: a scan that only goes forward never
//! seeks its upper end, and one key comparison a pair stands in for it.
//!
//! The two directions share no state but this rule: what one of them has still to yield lies on its side of what the
//! other one has still to yield, so each looks at the other's next key and stops when they have crossed.
//!
//! There are few runs (compaction sees to that), so the smallest key is found by looking at each: cheaper than a heap.

use super::{PairIterator, RunEntry, StoredPair};
use crate::error::Result;
use bytes::Bytes;
use std::{cmp::Ordering, ops::Bound};

/// Which way a cursor reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Backward,
}

impl Direction {
    /// Whether `a` comes before or after `b` when read this way.
    #[must_use]
    pub fn compare(self, a: &[u8], b: &[u8]) -> Ordering {
        match self {
            Self::Forward => a.cmp(b),
            Self::Backward => b.cmp(a),
        }
    }
}

/// A stack of runs, newest first, that can be opened in either direction.
pub(super) trait Runs: Send + 'static {
    /// One run read in one direction; it starts within the range on its own side and may overrun it on the other.
    type Cursor: Iterator<Item = Result<RunEntry>> + Send;

    /// Cursors, newest run first. Forward ones start at `low`, backward ones at `high`.
    fn open(
        &self,
        low: &Bound<Bytes>,
        high: &Bound<Bytes>,
        direction: Direction,
    ) -> Vec<Self::Cursor>;
}

/// The live pairs of a key range over a stack of runs.
pub(super) struct RunRange<R: Runs> {
    runs: R,
    low: Bound<Bytes>,
    high: Bound<Bytes>,
    front: Option<NewestWins<R::Cursor>>,
    back: Option<NewestWins<R::Cursor>>,
    /// Set at the end and after an error: a reader that ignores an error must not get half a range as a whole one.
    finished: bool,
}

impl<R: Runs> RunRange<R> {
    /// The pairs between two bounds; none if the bounds cross.
    pub(super) fn boxed(runs: R, low: Bound<&[u8]>, high: Bound<&[u8]>) -> PairIterator {
        let finished = bounds_cross(low, high);
        Box::new(Self {
            runs,
            low: low.map(Bytes::copy_from_slice),
            high: high.map(Bytes::copy_from_slice),
            front: None,
            back: None,
            finished,
        })
    }

    fn advance(&mut self, direction: Direction) -> Option<Result<StoredPair>> {
        if self.finished {
            return None;
        }
        let (own, other, far) = match direction {
            Direction::Forward => (&mut self.front, &mut self.back, &self.high),
            Direction::Backward => (&mut self.back, &mut self.front, &self.low),
        };
        let own = own.get_or_insert_with(|| {
            NewestWins::new(self.runs.open(&self.low, &self.high, direction), direction)
        });
        let next = loop {
            match own.next() {
                None => break None,
                Some(Err(error)) => break Some(Err(error)),
                Some(Ok((key, value))) => {
                    let beyond = match far {
                        Bound::Unbounded => false,
                        Bound::Included(far) => direction.compare(&key, far).is_gt(),
                        Bound::Excluded(far) => direction.compare(&key, far).is_ge(),
                    };
                    if beyond {
                        break None;
                    }
                    if let Some(other) = other {
                        match other.peek() {
                            // The other end has been everywhere, or has come past this key.
                            Ok(None) => break None,
                            Ok(Some(limit)) if direction.compare(&key, limit).is_gt() => {
                                break None;
                            }
                            Ok(Some(_)) => {}
                            Err(error) => break Some(Err(error)),
                        }
                    }
                    if let Some(value) = value {
                        break Some(Ok((key, value)));
                    }
                }
            }
        };
        self.finished = !matches!(next, Some(Ok(_)));
        next
    }
}

impl<R: Runs> Iterator for RunRange<R> {
    type Item = Result<StoredPair>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance(Direction::Forward)
    }
}

impl<R: Runs> DoubleEndedIterator for RunRange<R> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.advance(Direction::Backward)
    }
}

/// Merges runs in one direction: of the entries that share a key only the newest run's comes out. Tombstones do too.
pub(super) struct NewestWins<C> {
    direction: Direction,
    runs: Vec<Head<C>>,
    primed: bool,
}

struct Head<C> {
    cursor: C,
    entry: Option<RunEntry>,
}

impl<C: Iterator<Item = Result<RunEntry>>> Head<C> {
    fn fill(&mut self) -> Result<()> {
        self.entry = self.cursor.next().transpose()?;
        Ok(())
    }
}

impl<C: Iterator<Item = Result<RunEntry>>> NewestWins<C> {
    /// Merges cursors that stand newest first.
    pub(super) fn new(cursors: Vec<C>, direction: Direction) -> Self {
        let runs = cursors.into_iter().map(|cursor| Head {
            cursor,
            entry: None,
        });
        Self {
            direction,
            runs: runs.collect(),
            primed: false,
        }
    }

    fn prime(&mut self) -> Result<()> {
        if !self.primed {
            for run in &mut self.runs {
                run.fill()?;
            }
            self.primed = true;
        }
        Ok(())
    }

    /// The run whose entry is next; the newest of those that hold that key.
    fn first(&self) -> Option<usize> {
        let mut first: Option<(usize, &Bytes)> = None;
        for (index, run) in self.runs.iter().enumerate() {
            let Some((key, _)) = &run.entry else { continue };
            if first.is_none_or(|(_, best)| self.direction.compare(key, best).is_lt()) {
                first = Some((index, key));
            }
        }
        first.map(|(index, _)| index)
    }

    /// The key of the next entry, tombstones included.
    fn peek(&mut self) -> Result<Option<&Bytes>> {
        if let [run] = self.runs.as_mut_slice() {
            if run.entry.is_none() {
                run.fill()?;
            }
        } else {
            self.prime()?;
        }
        let first = self.first();
        let entry = first.and_then(|index| self.runs[index].entry.as_ref());
        Ok(entry.map(|(key, _)| key))
    }

    fn advance(&mut self) -> Result<Option<RunEntry>> {
        self.prime()?;
        let Some(first) = self.first() else {
            return Ok(None);
        };
        let entry = self.runs[first].entry.take();
        self.runs[first].fill()?;
        let key = entry.as_ref().map(|(key, _)| key);
        for run in &mut self.runs[first + 1..] {
            if run.entry.as_ref().map(|(key, _)| key) == key {
                run.fill()?;
            }
        }
        Ok(entry)
    }
}

impl<C: Iterator<Item = Result<RunEntry>>> Iterator for NewestWins<C> {
    type Item = Result<RunEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        // A single run needs no merging, nor reading ahead: this is the usual state, and what makes scans quick in it.
        if let [run] = self.runs.as_mut_slice() {
            return match run.entry.take() {
                Some(entry) => Some(Ok(entry)),
                None => run.cursor.next(),
            };
        }
        self.advance().transpose()
    }
}

/// Whether no key can be within both bounds.
pub(super) fn bounds_cross(low: Bound<&[u8]>, high: Bound<&[u8]>) -> bool {
    match (low, high) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low >= high,
    }
}
