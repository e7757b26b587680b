//! Scans inside of a transaction: its snapshot, with its own writes laid over it.
//!
//! The next pair is the nearer one of what the snapshot has next and what the transaction has written behind the last
//! pair; of one key the write counts. How far the scan came is noted in the read set before the pair is given out: other
//! transactions conflict with what was read, not with what might have been.
//!
//! Where the transaction's snapshot moves on ([`Transaction::get_for_update`]), the scan goes on there: what it has noted is
//! the same.

use super::{Shared, Transaction};
use crate::{
    Keyspace,
    engine::is_live,
    scan::{is_empty_range, merge_all},
};
use bytes::Bytes;
use mailring_engine::{
    Result,
    ids::Lsn,
    scan::Merge,
    store::runs::Direction,
    value::{KEYSPACE_PREFIX_BYTES, Value},
};
use std::{ops::Bound, sync::Arc};

/// A running scan of a transaction. Read it with [`TransactionScan::next`], or with [`TransactionScan::iter`] on a plain
/// thread.
#[must_use = "a scan reads nothing until it is asked for a pair"]
pub struct TransactionScan {
    txn: Transaction,
    keyspace: Keyspace,
    low: Bound<Bytes>,
    high: Bound<Bytes>,
    direction: Direction,
    left: usize,
    opened: Option<Opened>,
    /// The snapshot's next pair, once it was looked at.
    ahead: Option<Option<(Bytes, Value)>>,
}

struct Opened {
    /// The pairs of the snapshot.
    merge: Merge,
    at: Lsn,
    /// The number of the range in the read set.
    range: usize,
}

impl std::fmt::Debug for TransactionScan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TransactionScan")
            .field("txn", &self.txn.id())
            .field("keyspace", &self.keyspace.name())
            .finish_non_exhaustive()
    }
}

impl TransactionScan {
    pub(super) fn new(
        txn: &Transaction,
        keyspace: &Keyspace,
        (low, high): (Bound<Bytes>, Bound<Bytes>),
    ) -> Self {
        Self {
            txn: txn.clone(),
            keyspace: keyspace.clone(),
            low,
            high,
            direction: Direction::Forward,
            left: usize::MAX,
            opened: None,
            ahead: None,
        }
    }

    /// From the highest key to the lowest. Must come before the first pair is read.
    pub fn reverse(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// At most this many pairs.
    pub fn limit(mut self, pairs: usize) -> Self {
        self.left = pairs;
        self
    }

    /// The next pair, `None` at the end.
    ///
    /// # Errors
    ///
    /// `KeyspaceNotFound`, `NodeDown`, `CorruptTree`, `Io`, `Closed`, `TransactionEnded`, `DeadlineExceeded`,
    /// `TransactionTooLarge`, `Overloaded`. The scan ends with an error.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        self.next_pair()
    }

    /// All remaining pairs.
    ///
    /// # Errors
    ///
    /// As [`TransactionScan::next`].
    pub async fn collect(mut self) -> Result<Vec<(Bytes, Bytes)>> {
        self.iter().collect()
    }

    /// The remaining pairs as an iterator, for plain threads.
    pub fn iter(&mut self) -> impl Iterator<Item = Result<(Bytes, Bytes)>> + '_ {
        std::iter::from_fn(move || self.next_pair().transpose())
    }

    fn next_pair(&mut self) -> Result<Option<(Bytes, Bytes)>> {
        if self.left == 0 || is_empty_range(&self.low, &self.high) {
            return Ok(None);
        }
        self.left -= 1;
        let pair = self.find_next();
        if !matches!(pair, Ok(Some(_))) {
            self.left = 0;
        }
        let pair = pair?;
        Ok(pair.map(|(key, value)| (key.slice(KEYSPACE_PREFIX_BYTES..), value.bytes)))
    }

    fn find_next(&mut self) -> Result<Option<(Bytes, Value)>> {
        let shared = &self.txn.shared;
        if self.opened.is_none() {
            shared.check(&self.keyspace)?;
            self.keyspace.check_exists()?;
            let from = match self.direction {
                Direction::Forward => &self.low,
                Direction::Backward => &self.high,
            };
            let (range, pinned) = shared.with(|buffer| {
                let mut range = 0;
                if !shared.is_read_only {
                    range = buffer.begin_range(self.direction, from.clone())?;
                    buffer.enter(&self.keyspace.state);
                }
                Ok((range, Arc::clone(&buffer.pinned)))
            })?;
            for (owner, _) in pinned.owners() {
                owner.table.check_up()?;
            }
            self.opened = Some(Opened {
                merge: merge_all(&pinned, &self.low, &self.high, self.direction),
                at: pinned.at,
                range,
            });
        }
        let Opened { merge, at, range } = self.opened.as_mut().expect("it was opened");
        loop {
            if shared.snapshot() != *at {
                let pinned = shared.with(|buffer| Ok(Arc::clone(&buffer.pinned)))?;
                *merge = merge_all(&pinned, &self.low, &self.high, self.direction);
                *at = pinned.at;
                self.ahead = None;
            }
            if self.ahead.is_none() {
                self.ahead = Some(merge.next().transpose()?);
            }
            let ahead = self.ahead.as_ref().and_then(Option::as_ref);
            let written = shared.with(|buffer| {
                if is_empty_range(&self.low, &self.high) {
                    return Ok(None);
                }
                let (low, high) = (self.low.as_ref(), self.high.as_ref());
                let written = buffer.first_written(low, high, self.direction);
                let is_nearer = |key: &Bytes| match (ahead, self.direction) {
                    (None, _) => true,
                    (Some((next, _)), Direction::Forward) => key <= next,
                    (Some((next, _)), Direction::Backward) => key >= next,
                };
                let written = written.filter(|(key, _)| is_nearer(key));
                Ok(written.map(|(key, write)| (key.clone(), write.value.clone())))
            })?;
            let (key, value) = match written {
                Some((key, value)) => {
                    if ahead.is_some_and(|(next, _)| *next == key) {
                        self.ahead = None;
                    }
                    (key, value.filter(is_live))
                }
                None => match self.ahead.take().expect("it was looked at") {
                    Some((key, value)) => (key, Some(value)),
                    None => {
                        self.ahead = Some(None);
                        let end = match self.direction {
                            Direction::Forward => &self.high,
                            Direction::Backward => &self.low,
                        };
                        if note(shared, *at, *range, end.clone())? {
                            return Ok(None);
                        }
                        continue;
                    }
                },
            };
            if !note(shared, *at, *range, Bound::Included(key.clone()))? {
                continue;
            }
            let behind = Bound::Excluded(key.clone());
            match self.direction {
                Direction::Forward => self.low = behind,
                Direction::Backward => self.high = behind,
            }
            if let Some(value) = value {
                return Ok(Some((key, value)));
            }
        }
    }
}

/// Notes how far the range was read at `at`; false if the snapshot has moved on since, so that it must be read again.
fn note(shared: &Shared, at: Lsn, range: usize, through: Bound<Bytes>) -> Result<bool> {
    if shared.is_read_only {
        return Ok(true);
    }
    shared.with(|buffer| {
        let is_current = buffer.pinned.at == at;
        if is_current {
            buffer.range_read(range, through);
        }
        Ok(is_current)
    })
}
