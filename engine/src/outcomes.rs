//! What became of transactions: committed, aborted for ever, or forgotten.
//!
//! A commit's record in the journal is its outcome; this is the table that answers for it without reading the journal.
//! An abort is no record. It is a tombstone: the journal has told somebody "not committed", so it must not accept a
//! decision later. A decision past its deadline is refused anyhow, so a tombstone is kept until then; and a decision of
//! an earlier opening is always refused, so tombstones need not survive a restart.
//!
//! Retention: an outcome is kept until its transaction's deadline at least, and from there for [`OutcomeLimits::retention`],
//! unless there are more than [`OutcomeLimits::outcomes`] newer ones. An outcome with an idempotency key is kept for
//! [`OutcomeLimits::key_retention`], unless there are more than [`OutcomeLimits::keys`] newer ones. Both begin anew when
//! the engine is opened, since deadlines mean nothing in another process. The newest number that was ever forgotten is
//! remembered: an unknown transaction above it was certainly not committed, one below it has no outcome any more.
//!
//! The table is made of the journal's records, and a checkpoint writes it down ([`SavedOutcomes`]) before the journal may
//! forget them.
//!
//! # Invariants
//!
//! - A transaction is never committed and entombed.
//! - Every look-up is by number or key; the queues are in LSN order and only lose their oldest.
//! - A tombstone goes only when no decision of its transaction can be accepted.

use crate::{
    ids::{Lsn, Time, TxnId},
    journal::record::TxnTag,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// How much is remembered for how long.
#[derive(Debug, Clone, Copy)]
pub struct OutcomeLimits {
    /// How long after its deadline an outcome is kept.
    pub retention: Duration,
    /// How many outcomes past their deadline are kept.
    pub outcomes: usize,
    /// How long after its transaction's deadline an idempotency key is kept.
    pub key_retention: Duration,
    /// How many idempotency keys past their deadline are kept.
    pub keys: usize,
    /// How many outcomes there may be before their deadline, and how many tombstones: beyond, decisions are refused.
    pub undecided: usize,
}

impl Default for OutcomeLimits {
    /// A minute and 65,536 outcomes, ten minutes and 65,536 keys; at most a million before their deadline.
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(60),
            outcomes: 1 << 16,
            key_retention: Duration::from_secs(600),
            keys: 1 << 16,
            undecided: 1 << 20,
        }
    }
}

/// The outcomes as a checkpoint writes them down. There may be many, and the checkpointer's steps are transactions on a
/// copy of its state, so what was committed is shared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SavedOutcomes {
    /// The newest transaction whose outcome was forgotten.
    pub forgotten: Option<TxnId>,
    /// What was committed, and where.
    pub committed: Arc<[(Lsn, TxnTag)]>,
}

#[derive(Debug, Clone)]
struct Committed {
    lsn: Lsn,
    tag: TxnTag,
    deadline: Time,
}

/// The table of outcomes.
#[derive(Debug, Clone)]
pub struct Outcomes {
    opening: u64,
    limits: OutcomeLimits,
    /// Without an idempotency key, and with one; oldest first.
    plain: VecDeque<Committed>,
    keyed: VecDeque<Committed>,
    by_txn: HashMap<TxnId, Lsn>,
    by_key: HashMap<Bytes, Lsn>,
    tombstones: BTreeMap<TxnId, Time>,
    tombstones_end: BTreeSet<(Time, TxnId)>,
    forgotten: Option<TxnId>,
}

impl Outcomes {
    /// No outcomes; only transactions of `opening` can be decided from here on.
    #[must_use]
    pub fn new(opening: u64, limits: OutcomeLimits) -> Self {
        Self {
            opening,
            limits,
            plain: VecDeque::new(),
            keyed: VecDeque::new(),
            by_txn: HashMap::new(),
            by_key: HashMap::new(),
            tombstones: BTreeMap::new(),
            tombstones_end: BTreeSet::new(),
            forgotten: None,
        }
    }

    /// The outcomes of a checkpoint. Records behind it follow by [`Outcomes::commit`] with a deadline of zero.
    #[must_use]
    pub fn restored(opening: u64, limits: OutcomeLimits, saved: &SavedOutcomes) -> Self {
        let mut outcomes = Self::new(opening, limits);
        outcomes.forgotten = saved.forgotten;
        for (lsn, tag) in saved.committed.iter() {
            outcomes.commit(*lsn, tag.clone(), Time(0));
        }
        outcomes
    }

    /// What a checkpoint at `through` has to write down.
    #[must_use]
    pub fn saved(&self, through: Lsn) -> SavedOutcomes {
        let kept = self.plain.iter().chain(&self.keyed);
        SavedOutcomes {
            forgotten: self.forgotten,
            committed: kept
                .filter(|outcome| outcome.lsn <= through)
                .map(|outcome| (outcome.lsn, outcome.tag.clone()))
                .collect(),
        }
    }

    /// Whether a decision for the transaction may still be accepted, as far as its number tells.
    #[must_use]
    pub fn is_of_this_opening(&self, txn: TxnId) -> bool {
        txn.opening() == self.opening
    }

    /// Where the transaction was committed, visible or not.
    #[must_use]
    pub fn committed(&self, txn: TxnId) -> Option<Lsn> {
        self.by_txn.get(&txn).copied()
    }

    /// Where a transaction with this idempotency key was committed, visible or not.
    #[must_use]
    pub fn committed_under(&self, key: &Bytes) -> Option<Lsn> {
        self.by_key.get(key).copied()
    }

    /// Whether somebody was told that the transaction is aborted.
    #[must_use]
    pub fn is_entombed(&self, txn: TxnId) -> bool {
        self.tombstones.contains_key(&txn)
    }

    /// Whether there is any tombstone.
    #[must_use]
    pub fn has_tombstones(&self) -> bool {
        !self.tombstones.is_empty()
    }

    /// Whether an unknown transaction may have been committed and forgotten.
    #[must_use]
    pub fn may_be_forgotten(&self, txn: TxnId) -> bool {
        self.forgotten.is_some_and(|forgotten| txn <= forgotten) || txn.opening() > self.opening
    }

    /// Whether the table can take one more commit or tombstone.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let limits = &self.limits;
        self.tombstones.len() < limits.undecided
            && self.plain.len() < limits.undecided + limits.outcomes
            && self.keyed.len() < limits.undecided + limits.keys
    }

    /// Takes in a commit. Doing so twice is doing it once.
    ///
    /// # Panics
    ///
    /// Panics if the transaction is entombed.
    pub fn commit(&mut self, lsn: Lsn, tag: TxnTag, deadline: Time) {
        assert!(
            !self.is_entombed(tag.id),
            "transaction {} is committed at LSN {lsn} after somebody was told that it is aborted",
            tag.id
        );
        if self.by_txn.contains_key(&tag.id) {
            return;
        }
        self.by_txn.insert(tag.id, lsn);
        if let Some(key) = &tag.idempotency {
            self.by_key.insert(key.clone(), lsn);
        }
        let queue = match tag.idempotency {
            None => &mut self.plain,
            Some(_) => &mut self.keyed,
        };
        queue.push_back(Committed { lsn, tag, deadline });
    }

    /// Remembers until `deadline` that the transaction must not be committed.
    ///
    /// # Panics
    ///
    /// Panics if it is committed.
    pub fn entomb(&mut self, txn: TxnId, deadline: Time) {
        assert!(
            !self.by_txn.contains_key(&txn),
            "transaction {txn} is committed"
        );
        match self.tombstones.insert(txn, deadline) {
            // The later deadline counts: somebody may know it better.
            Some(before) if before > deadline => {
                self.tombstones.insert(txn, before);
            }
            before => {
                if let Some(before) = before {
                    self.tombstones_end.remove(&(before, txn));
                }
                self.tombstones_end.insert((deadline, txn));
            }
        }
    }

    /// Forgets what need not be kept any more. What is not visible yet is kept: whoever is in doubt must not be told
    /// that it was aborted, however long a disk hangs.
    pub fn expire(&mut self, now: Time, visible: Lsn) {
        while let Some((deadline, txn)) = self.tombstones_end.first().copied()
            && deadline <= now
        {
            self.tombstones_end.pop_first();
            self.tombstones.remove(&txn);
        }
        let limits = self.limits;
        let is_over = |queue: &VecDeque<Committed>, most, retention| {
            queue.front().is_some_and(|oldest| {
                let is_surplus = queue.len() > most && oldest.deadline <= now;
                let is_over = is_surplus || oldest.deadline.after(retention) <= now;
                is_over && oldest.lsn <= visible
            })
        };
        while is_over(&self.plain, limits.outcomes, limits.retention) {
            let oldest = self.plain.pop_front().expect("it has a front");
            self.forget(&oldest);
        }
        while is_over(&self.keyed, limits.keys, limits.key_retention) {
            let oldest = self.keyed.pop_front().expect("it has a front");
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, oldest: &Committed) {
        self.by_txn.remove(&oldest.tag.id);
        if let Some(key) = &oldest.tag.idempotency
            && self.by_key.get(key) == Some(&oldest.lsn)
        {
            self.by_key.remove(key);
        }
        self.forgotten = self.forgotten.max(Some(oldest.tag.id));
    }
}

impl Default for Outcomes {
    /// No outcomes in the first opening of a directory.
    fn default() -> Self {
        Self::new(1, OutcomeLimits::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn(number: u64) -> TxnId {
        TxnId::new(1, number).expect("not 0")
    }

    fn tag(number: u64, key: Option<&'static str>) -> TxnTag {
        TxnTag {
            id: txn(number),
            idempotency: key.map(|key| Bytes::from_static(key.as_bytes())),
        }
    }

    fn limits() -> OutcomeLimits {
        OutcomeLimits {
            retention: Duration::from_nanos(100),
            outcomes: 2,
            key_retention: Duration::from_nanos(1_000),
            keys: 2,
            undecided: 3,
        }
    }

    #[test]
    fn an_outcome_is_kept_until_its_deadline_whatever_follows() {
        let mut outcomes = Outcomes::new(1, limits());
        for number in 1..=4 {
            outcomes.commit(Lsn(number), tag(number, None), Time(50));
        }
        outcomes.expire(Time(49), Lsn(9));
        assert_eq!(outcomes.committed(txn(1)), Some(Lsn(1)));
        outcomes.expire(Time(50), Lsn(9));
        assert_eq!(outcomes.committed(txn(2)), None, "two are kept");
        assert_eq!(outcomes.committed(txn(3)), Some(Lsn(3)));
        assert!(outcomes.may_be_forgotten(txn(2)));
        assert!(!outcomes.may_be_forgotten(txn(5)), "never known");
        outcomes.expire(Time(150), Lsn(9));
        assert_eq!(outcomes.committed(txn(4)), None, "its retention is over");
    }

    #[test]
    fn an_idempotency_key_is_kept_longer_and_survives_a_checkpoint() {
        let mut outcomes = Outcomes::new(1, limits());
        outcomes.commit(Lsn(1), tag(1, None), Time(50));
        outcomes.commit(Lsn(2), tag(2, Some("k")), Time(50));
        outcomes.commit(Lsn(3), tag(3, Some("later")), Time(50));
        outcomes.expire(Time(150), Lsn(9));
        let saved = outcomes.saved(Lsn(2));
        assert_eq!(saved.forgotten, Some(txn(1)));
        assert_eq!(*saved.committed, [(Lsn(2), tag(2, Some("k")))]);
        let mut outcomes = Outcomes::restored(2, limits(), &saved);
        assert_eq!(
            outcomes.committed_under(&Bytes::from_static(b"k")),
            Some(Lsn(2))
        );
        assert_eq!(outcomes.committed(txn(2)), Some(Lsn(2)));
        assert!(outcomes.may_be_forgotten(txn(1)));
        outcomes.expire(Time(1_000), Lsn(9));
        assert_eq!(outcomes.committed_under(&Bytes::from_static(b"k")), None);
    }

    #[test]
    fn what_is_not_visible_is_not_forgotten_however_old_it_is() {
        let mut outcomes = Outcomes::new(1, limits());
        for number in 1..=4 {
            outcomes.commit(Lsn(number), tag(number, None), Time(50));
        }
        outcomes.expire(Time(150), Lsn(1));
        assert_eq!(outcomes.committed(txn(1)), None);
        assert_eq!(outcomes.committed(txn(2)), Some(Lsn(2)));
        outcomes.expire(Time(150), Lsn(4));
        assert_eq!(outcomes.committed(txn(4)), None);
    }

    #[test]
    fn a_tombstone_is_kept_until_the_latest_deadline_that_was_named() {
        let mut outcomes = Outcomes::new(1, limits());
        outcomes.entomb(txn(1), Time(10));
        outcomes.entomb(txn(1), Time(30));
        outcomes.entomb(txn(1), Time(20));
        outcomes.expire(Time(29), Lsn(9));
        assert!(outcomes.is_entombed(txn(1)));
        outcomes.expire(Time(30), Lsn(9));
        assert!(!outcomes.is_entombed(txn(1)));
        assert!(!outcomes.has_tombstones());
    }

    #[test]
    #[should_panic(expected = "after somebody was told that it is aborted")]
    fn what_is_entombed_is_never_committed() {
        let mut outcomes = Outcomes::new(1, limits());
        outcomes.entomb(txn(1), Time(10));
        outcomes.commit(Lsn(1), tag(1, None), Time(10));
    }

    #[test]
    fn the_table_says_when_it_is_full() {
        let mut outcomes = Outcomes::new(1, limits());
        for number in 1..=5 {
            assert!(outcomes.has_room());
            outcomes.commit(Lsn(number), tag(number, None), Time(50));
        }
        assert!(!outcomes.has_room());
        outcomes.expire(Time(50), Lsn(9));
        assert!(outcomes.has_room());
    }
}
