//! What a transaction has read and wants written, before anybody else hears of it.
//!
//! Writes are kept by key, the last one counts. From the first savepoint on, what a write replaces is kept too, once a key
//! and savepoint, so that going back costs what was written since, and a transaction without savepoints pays nothing.

use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    ids::NodeId,
    transaction::{KeyRange, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_KEYS, MAX_TRANSACTION_RANGES},
    value::{Value, Write},
};
use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// A point in a transaction, made by [`Transaction::savepoint`](crate::Transaction::savepoint).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Savepoint(u64);

/// A write that is not committed yet.
#[derive(Debug, Clone)]
pub(super) struct Buffered {
    pub(super) node: NodeId,
    pub(super) value: Option<Value>,
    /// How many savepoints there were when it was made.
    level: usize,
}

/// A range that is being scanned.
#[derive(Debug)]
struct ReadRange {
    low: Bound<Bytes>,
    /// How far it was read.
    through: Option<Bound<Bytes>>,
}

#[derive(Debug)]
struct Undo {
    id: u64,
    /// What was there before, oldest first.
    replaced: Vec<(Bytes, Option<Buffered>)>,
}

#[derive(Debug)]
pub(super) struct Buffer {
    pub(super) reads: BTreeMap<Bytes, NodeId>,
    ranges: Vec<ReadRange>,
    pub(super) writes: BTreeMap<Bytes, Buffered>,
    undo: Vec<Undo>,
    bytes: usize,
    nodes: usize,
}

fn weight_of(key: &Bytes, value: Option<&Value>) -> usize {
    key.len() + value.map_or(0, |value| value.bytes.len())
}

fn check(len: usize, limit: usize, unit: &'static str) -> Result<()> {
    if len > limit {
        return Err(Error::TransactionTooLarge { len, limit, unit });
    }
    Ok(())
}

impl Buffer {
    /// An empty one, for an engine of so many nodes.
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            reads: BTreeMap::new(),
            ranges: Vec::new(),
            writes: BTreeMap::new(),
            undo: Vec::new(),
            bytes: 0,
            nodes,
        }
    }

    /// What was written to a key, if anything was.
    pub(super) fn written(&self, key: &Bytes) -> Option<Option<Value>> {
        self.writes.get(key).map(|write| write.value.clone())
    }

    /// The first write behind `low` that `high` does not exclude.
    pub(super) fn first_written(
        &self,
        low: Bound<&Bytes>,
        high: Bound<&Bytes>,
    ) -> Option<(&Bytes, &Buffered)> {
        self.writes.range::<Bytes, _>((low, high)).next()
    }

    pub(super) fn note_read(&mut self, key: &Bytes, node: NodeId) -> Result<()> {
        if self.reads.contains_key(key) {
            return Ok(());
        }
        let bytes = self.bytes + key.len();
        self.check_size(1, bytes)?;
        self.bytes = bytes;
        self.reads.insert(key.clone(), node);
        Ok(())
    }

    fn check_size(&self, more_keys: usize, bytes: usize) -> Result<()> {
        let keys = self.reads.len() + self.writes.len() + more_keys;
        check(keys, MAX_TRANSACTION_KEYS, "keys")?;
        check(bytes, MAX_TRANSACTION_BYTES, "bytes")
    }

    /// Begins to read a range; the number by which to say how far it went.
    pub(super) fn begin_range(&mut self, low: Bound<Bytes>) -> Result<usize> {
        // Its keys may be on any node.
        let ranges = (self.ranges.len() + 1) * self.nodes;
        check(ranges, MAX_TRANSACTION_RANGES, "ranges")?;
        self.ranges.push(ReadRange { low, through: None });
        Ok(self.ranges.len() - 1)
    }

    pub(super) fn range_read(&mut self, range: usize, through: Bound<Bytes>) {
        self.ranges[range].through = Some(through);
    }

    /// What was read of ranges.
    pub(super) fn take_ranges(&mut self) -> Vec<KeyRange> {
        let ranges = std::mem::take(&mut self.ranges).into_iter();
        ranges
            .filter_map(|range| {
                Some(KeyRange {
                    low: range.low,
                    high: range.through?,
                })
            })
            .collect()
    }

    pub(super) fn write(&mut self, write: Write, node: NodeId) -> Result<()> {
        let Write { key, value } = write;
        let before = self.writes.get(&key);
        let freed = before.map_or(0, |before| weight_of(&key, before.value.as_ref()));
        let bytes = self.bytes - freed + weight_of(&key, value.as_ref());
        self.check_size(usize::from(before.is_none()), bytes)?;
        self.bytes = bytes;
        let level = self.undo.len();
        let buffered = Buffered { node, value, level };
        let before = self.writes.insert(key.clone(), buffered);
        if let Some(undo) = self.undo.last_mut()
            && before.as_ref().is_none_or(|before| before.level < level)
        {
            undo.replaced.push((key, before));
        }
        Ok(())
    }

    pub(super) fn savepoint(&mut self) -> Savepoint {
        // Of all transactions, so that one's savepoint is not taken for another's.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Relaxed);
        self.undo.push(Undo {
            id,
            replaced: Vec::new(),
        });
        Savepoint(id)
    }

    pub(super) fn rollback_to(&mut self, savepoint: Savepoint) -> Result<()> {
        let place = self.undo.iter().position(|undo| undo.id == savepoint.0);
        let Some(place) = place else {
            return Err(Error::InvalidOption {
                option: "savepoint",
                value: savepoint.0.to_string(),
                reason: "the transaction was rolled back behind it, or it is another one's",
            });
        };
        for undo in self.undo.drain(place..).rev().collect::<Vec<_>>() {
            for (key, before) in undo.replaced.into_iter().rev() {
                let kept = before
                    .as_ref()
                    .map_or(0, |before| weight_of(&key, before.value.as_ref()));
                let undone = match before {
                    Some(before) => self.writes.insert(key.clone(), before),
                    None => self.writes.remove(&key),
                };
                let undone = undone.expect("what was replaced was written");
                self.bytes = self.bytes + kept - weight_of(&key, undone.value.as_ref());
            }
        }
        self.undo.push(Undo {
            id: savepoint.0,
            replaced: Vec::new(),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailring_engine::ids::KeyspaceId;

    fn put(buffer: &mut Buffer, key: &str, value: &str) {
        let value = Some((value.as_bytes(), 0));
        let write = Write::new(KeyspaceId(1), key.as_bytes(), value);
        buffer.write(write, NodeId(0)).expect("it is small");
    }

    fn state(buffer: &Buffer) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let writes = buffer.writes.iter();
        let written = writes.map(|(key, write)| {
            let value = write.value.as_ref().expect("nothing is deleted");
            (text(&key[4..]), text(&value.bytes))
        });
        let written: Vec<_> = written.collect();
        let bytes: usize = written.iter().map(|(k, v)| 4 + k.len() + v.len()).sum();
        assert_eq!(buffer.bytes, bytes, "what is there is counted");
        written
    }

    #[test]
    fn rolling_back_takes_back_what_was_written_since_and_nothing_else() {
        let mut buffer = Buffer::new(1);
        put(&mut buffer, "a", "before");
        let first = buffer.savepoint();
        let at_first = state(&buffer);
        put(&mut buffer, "a", "1");
        put(&mut buffer, "b", "1");
        put(&mut buffer, "a", "11");
        let second = buffer.savepoint();
        let at_second = state(&buffer);
        put(&mut buffer, "a", "222");
        put(&mut buffer, "c", "2");
        buffer.rollback_to(second).unwrap();
        assert_eq!(state(&buffer), at_second);
        put(&mut buffer, "b", "2");
        buffer.rollback_to(second).unwrap();
        assert_eq!(state(&buffer), at_second, "a savepoint stays");
        put(&mut buffer, "a", "3");
        buffer.rollback_to(first).unwrap();
        assert_eq!(state(&buffer), at_first);
        assert!(buffer.rollback_to(second).is_err(), "it is gone");
        put(&mut buffer, "d", "4");
        buffer.rollback_to(first).unwrap();
        assert_eq!(state(&buffer), at_first);
        assert!(Buffer::new(1).rollback_to(first).is_err(), "another's");
    }

    #[test]
    fn what_is_refused_for_its_size_changes_nothing() {
        let mut buffer = Buffer::new(4);
        put(&mut buffer, "a", "1");
        let value = vec![0; MAX_TRANSACTION_BYTES];
        let write = Write::new(KeyspaceId(1), b"a", Some((&value, 0)));
        let error = buffer.write(write, NodeId(0)).unwrap_err();
        assert!(
            matches!(error, Error::TransactionTooLarge { unit: "bytes", .. }),
            "{error:?}"
        );
        assert_eq!(state(&buffer), [("a".to_owned(), "1".to_owned())]);
        for _ in 0..MAX_TRANSACTION_RANGES / 4 {
            buffer.begin_range(Bound::Unbounded).unwrap();
        }
        let error = buffer.begin_range(Bound::Unbounded).unwrap_err();
        assert!(
            matches!(error, Error::TransactionTooLarge { unit: "ranges", .. }),
            "{error:?}"
        );
        assert!(buffer.take_ranges().is_empty(), "none was read");
    }
}
