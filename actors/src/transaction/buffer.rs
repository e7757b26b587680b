//! What a transaction has read and wants written, before anybody else hears of it.
//!
//! Writes are kept by key, the last one counts. From the first savepoint on, what a write replaces is kept too, once a key
//! and savepoint, so that going back costs what was written since, and a transaction without savepoints pays nothing. What
//! is kept for going back counts like what is written.
//!
//! The memory of it all, with what the tables take besides, is part of the engine's budget until the commit is answered.

use crate::{
    budget::{Budget, OpenBytes},
    locks::KeyLocks,
    member::Member,
    pin::Pinned,
};
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    draft::{self, Shown},
    ids::Lsn,
    open_keyspaces::OpenKeyspace,
    store::runs::Direction,
    transaction::{
        Fence, KeyRange, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_KEYS, MAX_TRANSACTION_RANGES,
    },
    value::{Value, Write, split_qualified},
    view::NodeView,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Weight of an entry of the read set or of the writes, beside its bytes.
const ENTRY_BYTES: usize = 96;
/// Weight of a range or of a savepoint.
const SMALL_BYTES: usize = 64;

/// A point in a transaction, made by [`Transaction::savepoint`](crate::Transaction::savepoint).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Savepoint(u64);

/// A write that is not committed yet.
#[derive(Debug, Clone)]
pub(super) struct Buffered {
    pub(super) value: Option<Value>,
    /// How many savepoints there were when it was made.
    level: usize,
}

/// A range that is being scanned.
#[derive(Debug)]
struct ReadRange {
    direction: Direction,
    /// Its first end in this direction.
    from: Bound<Bytes>,
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
    /// What the transaction reads from; let go when it ends.
    pub(super) pinned: Arc<Pinned>,
    pub(super) reads: BTreeSet<Bytes>,
    ranges: Vec<ReadRange>,
    pub(super) writes: BTreeMap<Bytes, Buffered>,
    pub(super) fences: Vec<Fence>,
    /// The keys that are locked; released with this.
    pub(super) locks: Option<Box<KeyLocks>>,
    undo: Vec<Undo>,
    keyspaces: Vec<Arc<OpenKeyspace>>,
    bytes: usize,
    /// Bytes kept for going back.
    kept: usize,
    pub(super) memory: OpenBytes,
}

fn shown<'a>((member, view): (&'a Arc<Member>, &'a Arc<NodeView>)) -> Shown<'a> {
    (&member.table, view)
}

/// Bytes of the caller's key and of a value.
fn weight_of(key: &Bytes, value: Option<&Value>) -> usize {
    split_qualified(key).1.len() + value.map_or(0, |value| value.bytes.len())
}

fn check(len: usize, limit: usize, unit: &'static str) -> Result<()> {
    if len > limit {
        return Err(Error::TransactionTooLarge { len, limit, unit });
    }
    Ok(())
}

impl Buffer {
    /// An empty one that reads from `pinned`.
    pub(super) fn new(pinned: Arc<Pinned>, fences: Vec<Fence>, budget: &Arc<Budget>) -> Self {
        Self {
            pinned,
            reads: BTreeSet::new(),
            ranges: Vec::new(),
            writes: BTreeMap::new(),
            fences,
            locks: None,
            undo: Vec::new(),
            keyspaces: Vec::new(),
            bytes: 0,
            kept: 0,
            memory: OpenBytes::new(budget),
        }
    }

    /// The transaction is about to read or write in the keyspace.
    pub(super) fn enter(&mut self, keyspace: &Arc<OpenKeyspace>) {
        let is_known = |known: &Arc<OpenKeyspace>| Arc::ptr_eq(known, keyspace);
        if !self.keyspaces.iter().any(is_known) {
            self.keyspaces.push(Arc::clone(keyspace));
        }
    }

    /// Fails if a keyspace that it has read or written was dropped since.
    pub(super) fn check_keyspaces(&self) -> Result<()> {
        let mut keyspaces = self.keyspaces.iter();
        keyspaces.try_for_each(|keyspace| keyspace.check())
    }

    /// What was written to a key, if anything was.
    pub(super) fn written(&self, key: &Bytes) -> Option<Option<Value>> {
        self.writes.get(key).map(|write| write.value.clone())
    }

    /// The first write between the bounds, seen in this direction.
    pub(super) fn first_written(
        &self,
        low: Bound<&Bytes>,
        high: Bound<&Bytes>,
        direction: Direction,
    ) -> Option<(&Bytes, &Buffered)> {
        let mut range = self.writes.range::<Bytes, _>((low, high));
        match direction {
            Direction::Forward => range.next(),
            Direction::Backward => range.next_back(),
        }
    }

    pub(super) fn note_read(&mut self, key: &Bytes) -> Result<()> {
        if self.reads.contains(key) {
            return Ok(());
        }
        let bytes = self.bytes + weight_of(key, None);
        self.check_size(1, bytes, self.kept)?;
        self.charge(1, bytes, self.kept)?;
        self.bytes = bytes;
        self.reads.insert(key.clone());
        Ok(())
    }

    fn check_size(&self, more_keys: usize, bytes: usize, kept: usize) -> Result<()> {
        let keys = self.reads.len() + self.writes.len() + more_keys;
        check(keys, MAX_TRANSACTION_KEYS, "keys")?;
        check(bytes + kept, MAX_TRANSACTION_BYTES, "bytes")
    }

    /// Charges the memory budget for what there will be.
    fn charge(&mut self, more_entries: usize, bytes: usize, kept: usize) -> Result<()> {
        let entries = self.reads.len() + self.writes.len() + more_entries;
        let small = self.ranges.len() * SMALL_BYTES;
        self.memory
            .resize(bytes + kept + entries * ENTRY_BYTES + small)
    }

    /// Begins to read a range from one of its ends; the number by which to say how far it went.
    pub(super) fn begin_range(
        &mut self,
        direction: Direction,
        from: Bound<Bytes>,
    ) -> Result<usize> {
        // Its keys may be on any node.
        let ranges = (self.ranges.len() + 1) * self.pinned.owners().count();
        check(ranges, MAX_TRANSACTION_RANGES, "ranges")?;
        self.ranges.push(ReadRange {
            direction,
            from,
            through: None,
        });
        Ok(self.ranges.len() - 1)
    }

    pub(super) fn range_read(&mut self, range: usize, through: Bound<Bytes>) {
        self.ranges[range].through = Some(through);
    }

    /// What was read of ranges.
    pub(super) fn read_ranges(&self) -> Vec<KeyRange> {
        let ranges = self.ranges.iter();
        ranges
            .filter_map(|range| {
                let (from, through) = (range.from.clone(), range.through.clone()?);
                let (low, high) = match range.direction {
                    Direction::Forward => (from, through),
                    Direction::Backward => (through, from),
                };
                Some(KeyRange { low, high })
            })
            .collect()
    }

    pub(super) fn has_locked(&self, key: &Bytes) -> bool {
        let locks = self.locks.as_ref();
        locks.is_some_and(|locks| locks.contains(key))
    }

    /// Fails if something that was read at `since` has changed by `now`.
    pub(super) fn check_unchanged(&self, now: &Pinned, since: Lsn) -> Result<()> {
        let keys = self.reads.iter();
        let keys = keys.map(|key| (key, shown(now.owner(split_qualified(key).1))));
        draft::check_unchanged(since, keys, &self.read_ranges(), now.owners().map(shown))
    }

    pub(super) fn write(&mut self, write: Write) -> Result<()> {
        let Write { key, value } = write;
        let before = self.writes.get(&key);
        let freed = before.map_or(0, |before| weight_of(&key, before.value.as_ref()));
        let bytes = self.bytes - freed + weight_of(&key, value.as_ref());
        let level = self.undo.len();
        // From a savepoint on, the first write to a key keeps what was there.
        let keeps = level > 0 && before.is_none_or(|before| before.level < level);
        let replaced = before.and_then(|before| before.value.as_ref());
        let kept = self.kept + usize::from(keeps) * weight_of(&key, replaced);
        let more = usize::from(before.is_none());
        self.check_size(more, bytes, kept)?;
        self.charge(more, bytes, kept)?;
        (self.bytes, self.kept) = (bytes, kept);
        let buffered = Buffered { value, level };
        let before = self.writes.insert(key.clone(), buffered);
        if keeps && let Some(undo) = self.undo.last_mut() {
            undo.replaced.push((key, before));
        }
        Ok(())
    }

    pub(super) fn savepoint(&mut self) -> Result<Savepoint> {
        // Of all transactions, so that one's savepoint is not taken for another's.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Relaxed);
        let kept = self.kept + SMALL_BYTES;
        self.check_size(0, self.bytes, kept)?;
        self.charge(0, self.bytes, kept)?;
        self.kept = kept;
        self.undo.push(Undo {
            id,
            replaced: Vec::new(),
        });
        Ok(Savepoint(id))
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
            self.kept -= SMALL_BYTES;
            for (key, before) in undo.replaced.into_iter().rev() {
                let kept = before
                    .as_ref()
                    .map_or(0, |before| weight_of(&key, before.value.as_ref()));
                let value = before.as_ref().and_then(|before| before.value.as_ref());
                self.kept -= weight_of(&key, value);
                let undone = match before {
                    Some(before) => self.writes.insert(key.clone(), before),
                    None => self.writes.remove(&key),
                };
                let undone = undone.expect("what was replaced was written");
                self.bytes = self.bytes + kept - weight_of(&key, undone.value.as_ref());
            }
        }
        self.kept += SMALL_BYTES;
        self.undo.push(Undo {
            id: savepoint.0,
            replaced: Vec::new(),
        });
        self.charge(0, self.bytes, self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use mailring_engine::{ids::KeyspaceId, value::qualify};

    /// One for an engine of so many nodes.
    fn buffer_of(nodes: u16) -> Buffer {
        let pinned = Pinned::of_empty_nodes(nodes);
        let budget = Arc::new(Budget::new(Clock::start(), Arc::default(), 1, 1, 1, 1));
        Buffer::new(Arc::new(pinned), Vec::new(), &budget)
    }

    fn put(buffer: &mut Buffer, key: &str, value: &str) {
        let value = Some((value.as_bytes(), 0));
        let write = Write::new(KeyspaceId(1), key.as_bytes(), value);
        buffer.write(write).expect("it is small");
    }

    fn state(buffer: &Buffer) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let writes = buffer.writes.iter();
        let written = writes.map(|(key, write)| {
            let value = write.value.as_ref().expect("nothing is deleted");
            (text(&key[4..]), text(&value.bytes))
        });
        let written: Vec<_> = written.collect();
        let bytes: usize = written.iter().map(|(k, v)| k.len() + v.len()).sum();
        assert_eq!(buffer.bytes, bytes, "what is there is counted");
        written
    }

    #[test]
    fn rolling_back_takes_back_what_was_written_since_and_nothing_else() {
        let mut buffer = buffer_of(1);
        put(&mut buffer, "a", "before");
        let first = buffer.savepoint().unwrap();
        let at_first = state(&buffer);
        put(&mut buffer, "a", "1");
        put(&mut buffer, "b", "1");
        put(&mut buffer, "a", "11");
        let second = buffer.savepoint().unwrap();
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
        assert!(buffer_of(1).rollback_to(first).is_err(), "another's");
    }

    #[test]
    fn a_snapshot_does_not_move_on_where_a_node_is_down_that_was_read() {
        let read = |key: &str| {
            let mut buffer = buffer_of(2);
            let key = qualify(KeyspaceId(1), key.as_bytes());
            buffer.note_read(&key).expect("it is small");
            buffer
        };
        let next = Pinned::of_empty_nodes(2);
        let (member, _) = next.owner(b"a");
        let other = ["b", "c", "d", "e", "f"];
        let mut other = other.into_iter();
        let other = other.find(|key| next.owner(key.as_bytes()).0.node() != member.node());
        let other = other.expect("keys of both nodes");
        member.table.set_down();
        let down = Err(Error::NodeDown {
            node: member.node(),
        });
        let since = Lsn(0);
        assert_eq!(read("a").check_unchanged(&next, since), down);
        assert_eq!(read(other).check_unchanged(&next, since), Ok(()));
    }

    #[test]
    fn what_is_refused_for_its_size_changes_nothing() {
        let mut buffer = buffer_of(4);
        put(&mut buffer, "a", "1");
        let value = vec![0; MAX_TRANSACTION_BYTES];
        let write = Write::new(KeyspaceId(1), b"a", Some((&value, 0)));
        let error = buffer.write(write).unwrap_err();
        assert!(
            matches!(error, Error::TransactionTooLarge { unit: "bytes", .. }),
            "{error:?}"
        );
        assert_eq!(state(&buffer), [("a".to_owned(), "1".to_owned())]);
        for _ in 0..MAX_TRANSACTION_RANGES / 4 {
            buffer
                .begin_range(Direction::Forward, Bound::Unbounded)
                .unwrap();
        }
        let beyond = buffer.begin_range(Direction::Forward, Bound::Unbounded);
        let error = beyond.unwrap_err();
        assert!(
            matches!(error, Error::TransactionTooLarge { unit: "ranges", .. }),
            "{error:?}"
        );
        assert!(buffer.read_ranges().is_empty(), "none was read");
    }

    #[test]
    fn what_is_kept_for_going_back_is_bounded_and_given_back() {
        let mut buffer = buffer_of(1);
        let value = "x".repeat(1 << 20);
        put(&mut buffer, "a", &value);
        let first = buffer.savepoint().unwrap();
        let error = loop {
            let write = Write::new(KeyspaceId(1), b"a", Some((value.as_bytes(), 0)));
            if let Err(error) = buffer.write(write) {
                break error;
            }
            buffer.savepoint().unwrap();
        };
        assert!(
            matches!(error, Error::TransactionTooLarge { unit: "bytes", .. }),
            "{error:?}"
        );
        let open = buffer.memory.bytes();
        assert!(open >= 9 << 20, "{open} bytes are charged");
        buffer.rollback_to(first).unwrap();
        assert_eq!(buffer.kept, SMALL_BYTES);
        assert!(buffer.memory.bytes() < 2 << 20);
        while buffer.savepoint().is_ok() {}
        assert!(buffer.undo.len() <= MAX_TRANSACTION_BYTES / SMALL_BYTES);
    }
}
