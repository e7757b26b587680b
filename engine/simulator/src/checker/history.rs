//! Histories of transactions on lists, as clients saw them.
//!
//! Every appended value is appended once in the whole history, so a read says which appends it has seen, and in which
//! order: an append-only list is its own version history (Kingsbury and Alvaro, *Elle*, 2020).

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
        });
        self.events += 1;
        self.transactions.len() - 1
    }

    /// A transaction has done these things, whatever becomes of it.
    pub fn does(&mut self, number: usize, ops: Vec<Op>) {
        self.transactions[number].ops = ops;
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
    pub fn reads(&mut self, lists: impl Iterator<Item = (Key, Vec<u64>)>) {
        let number = self.begin();
        let ops = lists.map(|(key, list)| Op::Read(key, list));
        self.does(number, ops.collect());
        self.end(number, Outcome::Committed);
    }

    /// The transactions, in the order in which they began.
    #[must_use]
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }
}
