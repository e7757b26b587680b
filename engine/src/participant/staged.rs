//! What single-node commits on their way into the journal have written and read.
//!
//! A read-modify-write chains on the newest staged state of its key. A transaction that prepares meets what is staged as
//! somebody else's write, and what a staged commit has read as something it must not write: the LSN of neither is known
//! yet. Among the single-node commits themselves there is no such question, since they get their LSNs in the order in
//! which they were staged.

use crate::{
    error::{Error, Result},
    transaction::{KeyRange, ReadSet},
    value::{Value, Write},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

#[derive(Debug, Default)]
struct StagedKey {
    /// The newest staged state, and which commit staged it.
    written: Option<(u64, Option<Value>)>,
    /// The last staged commit that has read the key; 0 if none has.
    read: u64,
}

/// The keys that staged commits have written or read. Commits are numbered in the order in which they are staged, from 1,
/// and leave in that order.
#[derive(Debug, Default)]
pub(super) struct StagedKeys {
    keys: BTreeMap<Bytes, StagedKey>,
    /// What transactions of this node alone have read.
    held: VecDeque<(u64, Arc<ReadSet>)>,
}

impl StagedKeys {
    pub(super) fn add(&mut self, commit: u64, writes: &[Write]) {
        for write in writes {
            let key = self.keys.entry(write.key.clone()).or_default();
            key.written = Some((commit, write.value.clone()));
        }
    }

    /// The commit was computed from the key, which it also writes.
    pub(super) fn add_read_of_own(&mut self, commit: u64, key: &Bytes) {
        if let Some(staged) = self.keys.get_mut(key) {
            staged.read = commit;
        }
    }

    /// The commit is right only as long as nothing comes before it that writes here.
    pub(super) fn hold(&mut self, commit: u64, reads: Arc<ReadSet>) {
        for key in &reads.keys {
            self.keys.entry(key.clone()).or_default().read = commit;
        }
        self.held.push_back((commit, reads));
    }

    pub(super) fn remove(&mut self, commit: u64, writes: &[Write]) {
        for write in writes {
            self.release(&write.key, commit, |staged| {
                staged.written.take_if(|(by, _)| *by == commit);
            });
        }
        if self.held.front().is_some_and(|(by, _)| *by == commit) {
            let (_, reads) = self.held.pop_front().expect("it has a front");
            for key in &reads.keys {
                self.release(key, commit, |_| {});
            }
        }
    }

    fn release(&mut self, key: &Bytes, commit: u64, clear: impl FnOnce(&mut StagedKey)) {
        if let Some(staged) = self.keys.get_mut(key) {
            clear(staged);
            if staged.read <= commit {
                staged.read = 0;
            }
            if staged.written.is_none() && staged.read == 0 {
                self.keys.remove(key);
            }
        }
    }

    /// The newest staged state of a key that has one.
    pub(super) fn newest(&self, key: &[u8]) -> Option<&Option<Value>> {
        let (_, value) = self.keys.get(key)?.written.as_ref()?;
        Some(value)
    }

    pub(super) fn is_written(&self, key: &[u8]) -> bool {
        self.newest(key).is_some()
    }

    /// A key in the range that a staged commit writes.
    pub(super) fn written_in(&self, range: &KeyRange) -> Option<&Bytes> {
        self.keys
            .range::<[u8], _>((range.low(), Bound::Unbounded))
            .take_while(|(key, _)| range.is_below_end(key))
            .find_map(|(key, staged)| staged.written.is_some().then_some(key))
    }

    /// Whether a staged commit has read the key, by name or in a range.
    pub(super) fn is_read(&self, key: &[u8]) -> bool {
        self.keys.get(key).is_some_and(|staged| staged.read > 0)
            || self
                .held
                .iter()
                .any(|(_, reads)| reads.ranges.iter().any(|range| range.contains(key)))
    }
}

/// The sum of a counter; one that is absent counts as 0.
///
/// # Errors
///
/// [`Error::NotACounter`], [`Error::CounterOverflow`].
pub fn add_to_counter(before: Option<&Value>, delta: i64) -> Result<i64> {
    let current = match before {
        None => 0,
        Some(value) => {
            let bytes: [u8; 8] = value.bytes[..].try_into().map_err(|_| Error::NotACounter {
                len: value.bytes.len(),
            })?;
            i64::from_le_bytes(bytes)
        }
    };
    current
        .checked_add(delta)
        .ok_or(Error::CounterOverflow { current, delta })
}
