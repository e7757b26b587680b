//! An embeddable, sharded, transactional key-value store in which every part is an actor.
//!
//! ```
//! use mailring::{Mailring, Result};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! # let directory = tempfile::tempdir().unwrap();
//! # let directory = directory.path();
//! let db = Mailring::builder(directory).nodes(4).open().await?;
//! let users = db.keyspace("users").await?;
//!
//! users.put("{ada}:name", "Ada Lovelace").await?;
//! users.add("{ada}:visits", 1).await?;
//!
//! assert_eq!(users.get("{ada}:name").await?.as_deref(), Some(&b"Ada Lovelace"[..]));
//! assert_eq!(users.prefix("{ada}").count().await?, 2);
//! db.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The handle [`Mailring`] is cheap to clone and can be used from any thread, with or without an async runtime: calls
//! need no actix `System` and no tokio runtime around them. Plain threads use [`Keyspace::blocking`].
//!
//! Behind it, each storage node is an actor that owns the keys of its arcs of a consistent-hash ring, one journal actor
//! puts all commits into one order and forces them in groups, a checkpointer turns what is in memory into sorted runs,
//! and a supervisor restarts what panics. Reads need no message at all. ARCHITECTURE.md tells the whole story.

mod admission;
mod alarm;
mod backup;
mod batch;
mod blocking;
mod budget;
mod builder;
mod cache_share;
mod checkpointer;
mod clock;
mod coordinator;
mod directory;
mod engine;
mod guard;
mod journal;
mod journal_io;
mod keyspace;
#[doc(hidden)]
pub mod kinds;
mod locks;
mod mailring;
mod member;
mod message;
mod mover;
mod nodes;
mod offload;
mod open;
mod pin;
mod placement;
mod queue;
mod range;
mod restore;
mod router;
mod routes;
mod scan;
mod snapshot;
mod stats;
mod storage_node;
mod supervisor;
mod switchboard;
mod sync;
mod system;
mod telemetry;
mod transaction;
mod verify;
mod watch;
mod watchers;
mod write;

pub use backup::Backup;
pub use batch::{Batch, MAX_BATCH_BYTES, MAX_BATCH_KEYS};
pub use blocking::{BlockingKeyspace, BlockingMailring};
#[doc(hidden)]
pub use builder::StoreHook;
pub use builder::{Builder, Durability};
pub use keyspace::{CompareAndSet, Keyspace};
pub use locks::{
    Candidacy, Leader, LockGuard, LockHolder, LockInfo, LockRequest, LockSession, LockWaiter,
    Locks, Observer,
};
pub use mailring::Mailring;
pub use mailring_engine::{
    Error, Result, Rival,
    ids::{DirectoryNo, GroupNo, Lsn, NodeId, TxnId},
    locks::{FencingToken, MAX_LOCK_NAME_BYTES, Mode as LockMode, Resource, SessionId, WaitsFor},
    motion::{Flow, Heal},
    restart::RestartPolicy,
    ring::ArcMove,
    store::StoreStats,
    transaction::{MAX_TRANSACTION_BYTES, MAX_TRANSACTION_KEYS, TxnOutcome},
    value::{MAX_KEY_BYTES, MAX_VALUE_BYTES},
};
pub use nodes::{
    BlockingNodes, Change, ChangeEnd, ChangeProgress, ChangeStep, NodeEvent, NodeEvents, NodeInfo,
    Nodes, Plan,
};
pub use range::KeyRange;
pub use restore::{RestoreLoss, Restored};
pub use scan::Scan;
pub use snapshot::Snapshot;
pub use stats::{NodeState, NodeStats, Stats};
#[doc(hidden)]
pub use switchboard::{FaultHook, FaultSite};
pub use transaction::{
    BlockingTransaction, Committed, Once, OnceBuilder, Savepoint, Transaction, TransactionBuilder,
    TransactionScan,
};
pub use verify::Verification;
pub use watch::{Watch, WatchEvent};
