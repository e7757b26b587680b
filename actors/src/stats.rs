//! What `stats()` tells.

use crate::ChangeProgress;
use mailring_engine::{
    Error,
    ids::{Lsn, NodeId},
    store::StoreStats,
};

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// It serves, and has never panicked since the engine was opened.
    Serving,
    /// It serves, or is about to, after a restart.
    Restarted,
    /// It died more often than its restart intensity allows, or can't be read back. Its keys answer `NodeDown`.
    Down,
    /// Its tree could not be read when the engine was opened. Its keys answer that `CorruptTree`, which names the file, all
    /// others are served, and nothing of it is given up: its files stay as they are, and the journal keeps what it has committed
    /// since its last checkpoint.
    Isolated,
}

/// Figures of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeStats {
    /// Its number.
    pub node: NodeId,
    /// How it is.
    pub state: NodeState,
    /// Why it last restarted or went down.
    pub last_failure: Option<String>,
    /// Restarts since the engine was opened.
    pub restarts: u64,
    /// Requests not answered yet.
    pub queue_depth: usize,
    /// Point reads answered.
    pub reads: u64,
    /// Writes answered.
    pub writes: u64,
    /// Bytes in memory that are not in the tree yet.
    pub generation_bytes: usize,
    /// The tree is complete up to this LSN.
    pub complete_lsn: Lsn,
    /// The tree.
    pub tree: StoreStats,
}

/// Figures of the engine, from `stats()`.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// The nodes, by number.
    pub nodes: Vec<NodeStats>,
    /// Everything up to here is as durable as was asked for, and visible.
    pub visible_lsn: Lsn,
    /// Everything up to here is forced to the medium: with [`Durability::Always`](crate::Durability::Always) at least the
    /// visible LSN, else what a crash of the machine would leave now at the least.
    pub durable_lsn: Lsn,
    /// Groups written to the journal.
    pub journal_groups: u64,
    /// Records written to the journal.
    pub journal_records: u64,
    /// Forces (`fdatasync`) of the journal.
    pub journal_forces: u64,
    /// Bytes of records written to the journal.
    pub journal_bytes: u64,
    /// Transactions with writes that were committed.
    pub commits: u64,
    /// Commits of transactions that were refused, whatever for.
    pub aborts: u64,
    /// Those of them that were refused for a conflict.
    pub conflicts: u64,
    /// Transactions that were run again by themselves.
    pub retries: u64,
    /// Transactions over several nodes that are committing now.
    pub committing: usize,
    /// Parts of transactions that nodes have prepared now.
    pub prepared: usize,
    /// Requests that wait now for a transaction to end.
    pub parked: usize,
    /// Checkpoints since the engine was opened.
    pub checkpoints: u64,
    /// Bytes of all generations, pinned ones included.
    pub generation_bytes: usize,
    /// Bytes of requests under way.
    pub in_flight_bytes: usize,
    /// Bytes that open transactions have read and written, and that are not committed yet.
    pub transaction_bytes: usize,
    /// Bytes of changes that are kept for watches that have not read them yet.
    pub watch_bytes: usize,
    /// Bytes of the row cache.
    pub cache_bytes: usize,
    /// Bytes of the trees' indexes and filters that are held in memory.
    pub index_bytes: usize,
    /// Why the coordinator of transactions was given up, if it was: commits over several nodes are refused as
    /// `CoordinatorDown` until the engine is reopened.
    pub coordinator_down: Option<String>,
    /// Why the lock manager was given up, if it was: locks, and what is written under a fence, are refused as
    /// `LockManagerDown` until the engine is reopened.
    pub locks_down: Option<String>,
    /// Set once the engine refuses writes until it is reopened.
    pub read_only: Option<Error>,
    /// Set while the disk has no room for the journal or a tree.
    pub disk_full: Option<Error>,
    /// Set while checkpoints can't write a tree. Writes are refused with it once the memory budget is used up; it is
    /// tried again by itself.
    pub checkpoint_failure: Option<Error>,
    /// How far the change of the nodes is that is under way.
    pub change: Option<ChangeProgress>,
}
