//! What must be true of each transaction: strictly serializable in the order of LSNs.
//!
//! A transaction's place is its LSN, so the whole check is: the state just before it shows what it has read at its
//! snapshot, and its record is all that it wrote. Real time: its snapshot is at least what was acknowledged before it
//! began, and its LSN is above its snapshot. (The checker of histories says the same again, from outside: see
//! `checker/list_append`.)

use super::Model;
use crate::keys::shown;
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    ids::{Lsn, Time, TxnId},
    journal::record::{CommitPart, TxnTag},
    transaction::{Fence, KeyRange, Settle},
    value::Value,
};
use std::collections::BTreeMap;

/// A transaction, what it saw, and what became of it.
#[derive(Debug)]
pub(crate) struct Txn {
    pub(crate) id: TxnId,
    pub(crate) snapshot: Lsn,
    pub(crate) deadline: Time,
    /// The versions that it has read.
    pub(crate) keys: Vec<(Bytes, Option<Value>)>,
    /// The ranges that it has read, with what was there.
    pub(crate) ranges: Vec<(KeyRange, Vec<(Bytes, Value)>)>,
    pub(crate) writes: BTreeMap<Bytes, Option<Value>>,
    pub(crate) idempotency: Option<Bytes>,
    pub(crate) fences: Vec<Fence>,
    /// Somebody was told that nothing was written.
    pub(crate) refused: bool,
}

impl Model {
    /// What is in a range at an LSN, expired or not.
    pub(crate) fn versions_in(&self, range: &KeyRange, at: Lsn) -> Vec<(Bytes, Value)> {
        let known = self.versions.range::<[u8], _>((range.low(), range.high()));
        known
            .filter_map(|(key, versions)| {
                let (_, value) = versions.range(..=at).next_back()?;
                Some((key.clone(), value.clone()?))
            })
            .collect()
    }

    pub(crate) fn settled(&mut self, settles: &[Settle]) {
        let committed = settles.iter().filter(|settle| settle.lsn.is_some());
        self.settled.extend(committed.map(|settle| settle.txn));
    }

    /// A transaction is about to be written at its LSN.
    pub(super) fn check_transaction(&mut self, lsn: Lsn, tag: &TxnTag, parts: &[CommitPart]) {
        let number = tag.id.number();
        let txn = &self.txns[&number];
        assert_eq!(txn.id, tag.id, "the number was used before");
        assert!(
            !txn.refused,
            "txn {number} was refused, and is at LSN {lsn}"
        );
        assert!(
            lsn > txn.snapshot,
            "txn {number} was committed before it began"
        );
        assert_eq!(tag.idempotency, txn.idempotency, "txn {number}");
        let before = Lsn(lsn.0 - 1);
        for (key, seen) in &txn.keys {
            assert_eq!(
                seen.as_ref(),
                self.version(key, before),
                "txn {number} at LSN {lsn} has read {} at LSN {}",
                shown(key),
                txn.snapshot
            );
        }
        for (range, seen) in &txn.ranges {
            assert_eq!(
                *seen,
                self.versions_in(range, before),
                "txn {number} at LSN {lsn} has read {range:?} at LSN {}",
                txn.snapshot
            );
        }
        let mut written = BTreeMap::new();
        for part in parts {
            for write in &part.writes {
                let owner = self.ownership.owner(&write.key, lsn);
                assert_eq!(owner, part.node, "txn {number} is on the wrong node");
                written.insert(write.key.clone(), write.value.clone());
            }
        }
        assert_eq!(written, txn.writes, "txn {number} is not all there");
        if let Some(key) = &tag.idempotency {
            let earlier = self.keyed.insert(key.clone(), lsn);
            assert_eq!(earlier, None, "txn {number} repeats {key:?} at LSN {lsn}");
        }
        let fences = txn.fences.iter().cloned();
        self.fenced.extend(fences.map(|fence| (fence, lsn)));
        self.apply(number, lsn);
    }

    /// Where something was committed under an idempotency key.
    pub(crate) fn committed_under(&self, key: &Bytes) -> Option<Lsn> {
        self.keyed.get(key).copied()
    }

    /// Checks an answer against the log. Whether the answer was another transaction's with the same key.
    pub(crate) fn transaction_answered(
        &mut self,
        id: u64,
        result: &Result<Lsn>,
        visible: Lsn,
    ) -> bool {
        let applied = self.applied.get(&id).copied();
        match result {
            Ok(lsn) => {
                assert!(*lsn <= visible, "txn {id}: LSN {lsn} is not visible");
                if applied == Some(*lsn) {
                    self.acknowledged.insert(id, *lsn);
                    return false;
                }
                let txn = self.txns.get_mut(&id).expect("is there");
                if txn.writes.is_empty() {
                    assert_eq!(*lsn, txn.snapshot, "txn {id} has only read");
                    return false;
                }
                // An earlier one with the same key is the outcome.
                txn.refused = true;
                let key = txn.idempotency.clone();
                let key = key.unwrap_or_else(|| panic!("txn {id} is not at LSN {lsn}"));
                assert_eq!(self.committed_under(&key), Some(*lsn), "txn {id}");
                assert_eq!(applied, None, "txn {id} was committed beside the first");
                return true;
            }
            Err(Error::Unknown { .. }) => {}
            Err(error) => {
                assert_eq!(applied, None, "txn {id} was refused ({error}) but applied");
                self.txns.get_mut(&id).expect("is there").refused = true;
            }
        }
        false
    }
}
