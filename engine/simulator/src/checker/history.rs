//! Histories of transactions on lists, as clients saw them.
//!
//! Every appended value is appended once in the whole history, so a read says which appends it has seen, and in which
//! order: an append-only list is its own version history (Kingsbury and Alvaro, *Elle*, 2020).
//!
//! # Crashes that take commits
//!
//! Where groups are not forced at once, a crash may take commits that were acknowledged, and is allowed nothing else: it
//! cuts the order of LSNs at one place. So two histories must be strictly serializable: all that had happened by the
//! crash, as it was seen then; and what is left of it ([`History::cut`]) together with all that follows. What was above
//! the cut has not happened for anybody who comes later: what was written there counts as aborted, and who has only
//! read there is left out.

use mailring_engine::ids::Lsn;

/// A key, by number.
pub type Key = u32;

/// What a transaction did, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// It appended the value to the list of the key.
    Append(Key, u64),
    /// It read the list of the key. A scan is a read of each key in its range.
    Read(Key, Vec<u64>),
}

/// What its client knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was committed.
    Committed,
    /// It was not and never will be committed.
    Aborted,
    /// It may have been committed, or may be later.
    Unknown,
}

/// A transaction as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// When it began: events of a history are numbered in their order.
    pub begin: u64,
    /// When its client knew of its end; `None` if it never did.
    pub end: Option<u64>,
    /// What became of it.
    pub outcome: Outcome,
    /// What it did.
    pub ops: Vec<Op>,
    /// Its number in the engine, and the LSN at which it has read.
    pub engine: Option<(u64, Lsn)>,
}

/// The history of a run.
#[derive(Debug, Clone, Default)]
pub struct History {
    events: u64,
    transactions: Vec<Transaction>,
}

impl History {
    /// A transaction begins now; its number.
    pub fn begin(&mut self) -> usize {
        self.transactions.push(Transaction {
            begin: self.events,
            end: None,
            outcome: Outcome::Unknown,
            ops: Vec::new(),
            engine: None,
        });
        self.events += 1;
        self.transactions.len() - 1
    }

    /// A transaction has done these things, whatever becomes of it. `txn` is its number in the engine, `snapshot` the LSN
    /// at which it has read.
    pub fn does(&mut self, number: usize, txn: u64, snapshot: Lsn, ops: Vec<Op>) {
        let transaction = &mut self.transactions[number];
        (transaction.ops, transaction.engine) = (ops, Some((txn, snapshot)));
    }

    /// The client hears of the end of a transaction now.
    pub fn end(&mut self, number: usize, outcome: Outcome) {
        let transaction = &mut self.transactions[number];
        transaction.outcome = outcome;
        if outcome != Outcome::Unknown {
            transaction.end = Some(self.events);
            self.events += 1;
        }
    }

    /// A transaction that only reads begins and ends now.
    pub fn reads(&mut self, at: Lsn, lists: impl Iterator<Item = (Key, Vec<u64>)>) {
        let number = self.begin();
        let ops = lists.map(|(key, list)| Op::Read(key, list));
        self.does(number, 0, at, ops.collect());
        self.end(number, Outcome::Committed);
    }

    /// A crash has taken everything above `last`. `lsn_of` tells where a transaction was committed before the crash, by its
    /// number in the engine.
    pub fn cut(&mut self, last: Lsn, lsn_of: impl Fn(u64) -> Option<Lsn>) {
        for transaction in &mut self.transactions {
            let Some((txn, snapshot)) = transaction.engine else {
                continue;
            };
            if lsn_of(txn).is_some_and(|lsn| lsn > last) {
                transaction.outcome = Outcome::Aborted;
            } else if snapshot > last {
                transaction.ops.clear();
            }
            // LSNs above the cut are given again.
            transaction.engine = Some((txn, snapshot.min(last)));
        }
    }

    /// The transactions, in the order in which they began.
    #[must_use]
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }
}
