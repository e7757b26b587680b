//! What a node has promised: staged writes and held reads of transactions of several nodes, until they are settled.
//!
//! The table knows who reads and who writes each key. Two transactions may read the same key, and two may write it blindly;
//! one that writes what another has read, or reads what another writes, is turned away. It also remembers, until their
//! deadline, which transactions were settled, so that a `Prepare` that comes too late holds nothing.
//!
//! # Invariants
//!
//! - Whatever is in `keys` and `ranges` belongs to a transaction in `txns`.
//! - A transaction is asked for from its deadline on until the journal has answered: nothing stays prepared.
//! - Number, bytes and ranges are bounded, and so is what is remembered.

use crate::{
    few::Few,
    ids::{Epoch, Time, TxnId},
    transaction::{KeyRange, ReadSet, Writes},
    value::Write,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

/// Settled transactions that are remembered at most. A `Prepare` later than that is found out when the node asks.
const REMEMBERED: usize = 1 << 16;

/// One prepared transaction.
#[derive(Debug)]
pub(super) struct Entry {
    /// When it is too late to decide for it.
    pub(super) deadline: Time,
    /// The ownership epoch under which it was validated.
    pub(super) epoch: Epoch,
    /// What it holds.
    pub(super) reads: Arc<ReadSet>,
    /// What it installs if it commits.
    pub(super) writes: Writes,
    /// Whether a request was parked since.
    pub(super) is_in_the_way: bool,
    /// When to ask what became of it.
    ask_at: Time,
}

impl Entry {
    pub(super) fn new(deadline: Time, epoch: Epoch, reads: Arc<ReadSet>, writes: Writes) -> Self {
        Self {
            deadline,
            epoch,
            reads,
            writes,
            is_in_the_way: false,
            ask_at: deadline,
        }
    }

    fn bytes(&self) -> usize {
        let reads: usize = self.reads.keys.iter().map(Bytes::len).sum();
        reads + self.writes.iter().map(Write::weight).sum::<usize>()
    }
}

#[derive(Debug, Default)]
struct Holders {
    readers: Few<TxnId>,
    writers: Few<TxnId>,
}

/// The prepared transactions of one life of a node.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    txns: BTreeMap<TxnId, Entry>,
    keys: BTreeMap<Bytes, Holders>,
    ranges: Vec<(TxnId, KeyRange)>,
    bytes: usize,
    /// When to ask what became of a transaction.
    asks: BTreeSet<(Time, TxnId)>,
    settled: BTreeSet<TxnId>,
    settled_until: VecDeque<(Time, TxnId)>,
}

impl Prepared {
    pub(super) fn is_empty(&self) -> bool {
        self.txns.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.txns.len()
    }

    /// Bytes of what is staged and held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Ranges held.
    pub(super) fn ranges(&self) -> usize {
        self.ranges.len()
    }

    pub(super) fn contains(&self, txn: TxnId) -> bool {
        self.txns.contains_key(&txn)
    }

    /// The ownership epoch under which a transaction was validated, if it is prepared.
    pub(super) fn epoch_of(&self, txn: TxnId) -> Option<Epoch> {
        self.txns.get(&txn).map(|entry| entry.epoch)
    }

    /// The transactions of which `is_meant` is true.
    pub(super) fn such(&self, is_meant: impl Fn(&Entry) -> bool) -> BTreeSet<TxnId> {
        let entries = self.txns.iter().filter(|(_, entry)| is_meant(entry));
        entries.map(|(txn, _)| *txn).collect()
    }

    /// A transaction that has read the key, by name or in a range.
    pub(super) fn reader_of(&self, key: &[u8]) -> Option<TxnId> {
        let by_name = self.keys.get(key);
        let by_name = by_name.and_then(|held| held.readers.as_slice().first());
        by_name.copied().or_else(|| {
            let mut ranges = self.ranges.iter();
            ranges.find_map(|(txn, range)| range.contains(key).then_some(*txn))
        })
    }

    /// A transaction that writes the key.
    pub(super) fn writer_of(&self, key: &[u8]) -> Option<TxnId> {
        self.keys.get(key)?.writers.as_slice().first().copied()
    }

    /// A key in the range that a transaction writes.
    pub(super) fn writer_in(&self, range: &KeyRange) -> Option<(&Bytes, TxnId)> {
        self.keys
            .range::<[u8], _>((range.low(), Bound::Unbounded))
            .take_while(|(key, _)| range.is_below_end(key))
            .find_map(|(key, held)| Some((key, *held.writers.as_slice().first()?)))
    }

    /// A request waits for the transaction from here on.
    pub(super) fn stand_in_the_way(&mut self, txn: TxnId) {
        if let Some(entry) = self.txns.get_mut(&txn) {
            entry.is_in_the_way = true;
        }
    }

    /// Stages and holds.
    ///
    /// # Panics
    ///
    /// Panics if the transaction is there already.
    pub(super) fn insert(&mut self, txn: TxnId, entry: Entry) {
        for key in &entry.reads.keys {
            let held = self.keys.entry(key.clone()).or_default();
            held.readers.push(txn);
        }
        for write in entry.writes.iter() {
            let held = self.keys.entry(write.key.clone()).or_default();
            held.writers.push(txn);
        }
        let ranges = entry.reads.ranges.iter();
        self.ranges.extend(ranges.map(|range| (txn, range.clone())));
        self.bytes += entry.bytes();
        self.asks.insert((entry.ask_at, txn));
        let before = self.txns.insert(txn, entry);
        assert!(before.is_none(), "transaction {txn} was prepared twice");
    }

    /// Releases a transaction.
    pub(super) fn remove(&mut self, txn: TxnId) -> Option<Entry> {
        let entry = self.txns.remove(&txn)?;
        self.asks.remove(&(entry.ask_at, txn));
        self.bytes -= entry.bytes();
        for key in &entry.reads.keys {
            self.release(key, |held| &mut held.readers, txn);
        }
        for write in entry.writes.iter() {
            self.release(&write.key, |held| &mut held.writers, txn);
        }
        if !entry.reads.ranges.is_empty() {
            self.ranges.retain(|(holder, _)| *holder != txn);
        }
        Some(entry)
    }

    fn release(
        &mut self,
        key: &Bytes,
        list: impl FnOnce(&mut Holders) -> &mut Few<TxnId>,
        txn: TxnId,
    ) {
        if let Some(held) = self.keys.get_mut(key) {
            list(held).remove(|holder| *holder == txn);
            if held.readers.is_empty() && held.writers.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    /// Refuses a late `Prepare` of the transaction until its deadline.
    pub(super) fn remember(&mut self, now: Time, txn: TxnId, deadline: Time) {
        while let Some((until, old)) = self.settled_until.front().copied()
            && (until <= now || self.settled_until.len() >= REMEMBERED)
        {
            self.settled_until.pop_front();
            self.settled.remove(&old);
        }
        if deadline > now && self.settled.insert(txn) {
            self.settled_until.push_back((deadline, txn));
        }
    }

    pub(super) fn is_settled(&self, txn: TxnId) -> bool {
        self.settled.contains(&txn)
    }

    pub(super) fn next_ask(&self) -> Option<Time> {
        self.asks.first().map(|(at, _)| *at)
    }

    /// The transactions to ask for now, with their deadlines; they are due again at `again`.
    pub(super) fn take_asks(&mut self, now: Time, again: Time) -> Vec<(TxnId, Time)> {
        let mut due = Vec::new();
        while let Some((at, txn)) = self.asks.first().copied()
            && at <= now
        {
            self.asks.pop_first();
            let entry = self.txns.get_mut(&txn).expect("who is asked for is there");
            entry.ask_at = again;
            due.push((txn, entry.deadline));
        }
        self.asks.extend(due.iter().map(|(txn, _)| (again, *txn)));
        due
    }

    /// Gives up everything that was promised; what was settled stays known.
    pub(super) fn clear(&mut self) {
        let old = std::mem::take(self);
        self.settled = old.settled;
        self.settled_until = old.settled_until;
    }
}
