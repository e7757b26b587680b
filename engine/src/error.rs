//! The one error of mailring: what happened, and what to do about it.
//!
//! The retry rule: an error is retryable when the operation was certainly not applied and can succeed when it is done
//! again. That is the same call, but where something of the caller's is used up or in the way: a transaction that ended in
//! [`Error::Conflict`] or [`Error::Aborted`] is begun again, and behind an [`Error::Deadlock`] what is held is released
//! first. [`Error::Unknown`] is not retryable: the write may have been applied, so read before you repeat
//! it, or repeat only what is idempotent.

use crate::{
    ids::{DirectoryNo, Lsn, NodeId, TxnId},
    locks::{FencingToken, Resource, WaitsFor},
    value::printable,
};
use bytes::Bytes;
use std::{io, path::PathBuf};

/// A result with mailring's error.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong. Every variant says what happened and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key has no bytes.
    #[error(
        "the key is empty; use a key of 1 to {} bytes",
        crate::value::MAX_KEY_BYTES
    )]
    EmptyKey,
    /// The key is longer than the limit.
    #[error("the key has {len} bytes, the limit is {limit}; hash or shorten it")]
    KeyTooLarge {
        /// Bytes of the key.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The value is longer than the limit.
    #[error("the value has {len} bytes, the limit is {limit}; split it over several keys")]
    ValueTooLarge {
        /// Bytes of the value.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The batch is larger than one commit may be.
    #[error("the batch has {len} {unit}, the limit is {limit}; write it as several batches")]
    BatchTooLarge {
        /// Size of the batch.
        len: usize,
        /// The limit.
        limit: usize,
        /// What is counted: `"bytes"` or `"keys"`.
        unit: &'static str,
    },
    /// The name can't be a keyspace's.
    #[error("{name:?} can't name a keyspace: {reason}")]
    InvalidKeyspaceName {
        /// The refused name.
        name: String,
        /// Why it was refused.
        reason: &'static str,
    },
    /// The keyspace was dropped, or never created.
    #[error(
        "keyspace {name:?} does not exist (any more); open it again with `keyspace()` to create it"
    )]
    KeyspaceNotFound {
        /// The keyspace's name.
        name: String,
    },
    /// `add` met a value that is not an 8-byte counter.
    #[error(
        "the value is not a counter (8 bytes, little endian) but has {len} bytes; counters and other values need different keys"
    )]
    NotACounter {
        /// Bytes of the value found.
        len: usize,
    },
    /// The counter would leave the range of an i64.
    #[error("the counter would overflow: {current} + {delta}")]
    CounterOverflow {
        /// Its value before.
        current: i64,
        /// What was to be added.
        delta: i64,
    },
    /// A bounded queue or budget is full.
    #[error(
        "overloaded: {what} is full; nothing was written, retry with back-off or lower the load"
    )]
    Overloaded {
        /// Which bound was met.
        what: &'static str,
    },
    /// The deadline passed before the operation was admitted to the journal.
    #[error("the deadline passed before the operation was admitted; nothing was written")]
    DeadlineExceeded,
    /// A write was handed to the journal, but its outcome can't be told now.
    #[error(
        "the outcome is unknown ({reason}); the write may or may not be there: read it back before repeating"
    )]
    Unknown {
        /// Why it can't be told.
        reason: String,
    },
    /// The node restarted before the write was admitted to the journal.
    #[error("node {node} restarted before the write was admitted; nothing was written, retry")]
    NodeRestarted {
        /// The node.
        node: NodeId,
    },
    /// The node died more often than its restart intensity allows. With `Heal::TakeOver`, the default, the others take its
    /// arcs over, as soon as they can; the keys are served again then. Else they are when the engine is opened again.
    #[error(
        "node {node} is down after repeated failures; its keys are served again when other nodes have taken them over, or the engine is reopened"
    )]
    NodeDown {
        /// The node.
        node: NodeId,
    },
    /// The key's arc has moved to another node, or is about to, and the operation was routed by a ring of before.
    #[error("routed by an old ring, to node {node}; nothing was written, retry")]
    Moved {
        /// The node that was asked.
        node: NodeId,
    },
    /// A change of the ring does not fit the ring as it is.
    #[error("the ring was not changed: {reason}; look at the nodes again, then plan anew")]
    RingChangeRefused {
        /// What does not fit.
        reason: &'static str,
    },
    /// The coordinator of transactions panicked more often than the restart intensity allows.
    #[error(
        "the coordinator of transactions is down after repeated failures; nothing was written, and nothing over several nodes can be committed until the engine is reopened"
    )]
    CoordinatorDown,
    /// The engine refuses writes after a failed write or force.
    #[error("the engine is read-only: {reason}; close and reopen it to recover")]
    ReadOnly {
        /// The first failure.
        reason: String,
    },
    /// The disk has no room for the journal or the tree.
    #[error(
        "the disk is full ({context}); reads go on, and writes resume by themselves once there is room"
    )]
    DiskFull {
        /// What needed the room.
        context: String,
    },
    /// A record of the journal that was forced can't be read back.
    #[error(
        "the journal is corrupt at {file} offset {offset}: {reason}; restore the file or a backup, nothing was changed"
    )]
    CorruptJournal {
        /// The segment file.
        file: PathBuf,
        /// Byte offset in it.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A file of a node's tree can't be read back.
    #[error("the tree of node {node} is corrupt at {file}: {reason}; restore the file or a backup")]
    CorruptTree {
        /// The node whose tree it is.
        node: NodeId,
        /// The file or folder.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The manifest can't be read.
    #[error(
        "the manifest {file} is corrupt: {reason}; restore it or a backup, nothing was changed"
    )]
    CorruptManifest {
        /// The manifest's path.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another engine has the directory open.
    #[error("the directory {path} is open in another engine or process; close that one first")]
    DirectoryInUse {
        /// The directory.
        path: PathBuf,
    },
    /// The directory has something in it, but no engine.
    #[error("the directory {path} holds no engine, but {entry:?}; use an empty or a new one")]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// The first name in it that is not an engine's.
        entry: String,
    },
    /// A directory of the engine is not where it was, or something else is there.
    #[error(
        "directory {directory} of the engine can't be taken from {path}: {reason}; mount or restore it there, or say with `directory()` where it is now. Nothing was changed"
    )]
    DirectoryMissing {
        /// The directory's number.
        directory: DirectoryNo,
        /// Where it should be.
        path: PathBuf,
        /// What is there.
        reason: String,
    },
    /// A directory of the engine has less than it had.
    #[error(
        "directory {directory} of the engine, {path}, is an older copy or has lost data: {reason}; restore it, or all directories from a backup. Nothing was changed"
    )]
    DirectoryBehind {
        /// The directory's number.
        directory: DirectoryNo,
        /// Where it is.
        path: PathBuf,
        /// What it should have.
        reason: String,
    },
    /// There is no engine, and none was to be created.
    #[error("there is no engine in {path}; check the path, or open it with `create(true)`")]
    NoEngine {
        /// The directory.
        path: PathBuf,
    },
    /// The directory was written by a newer mailring.
    #[error(
        "{file} has format version {found}, this build reads up to {supported}; use a newer mailring"
    )]
    NewerFormat {
        /// The file that says so.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that this build reads.
        supported: u32,
    },
    /// The directory was created with other settings.
    #[error(
        "the directory was created with {setting} = {directory}, but {requested} was asked for; open it with its own settings"
    )]
    SettingsMismatch {
        /// The setting.
        setting: &'static str,
        /// What the directory holds.
        directory: String,
        /// What the builder asked for.
        requested: String,
    },
    /// An option has a value that can't work.
    #[error("{option} can't be {value}: {reason}")]
    InvalidOption {
        /// The option.
        option: &'static str,
        /// Its refused value.
        value: String,
        /// Why.
        reason: &'static str,
    },
    /// The name can't be a lock's.
    #[error("{name:?} can't name a lock: {reason}")]
    InvalidLockName {
        /// The refused name.
        name: String,
        /// Why it was refused.
        reason: &'static str,
    },
    /// The lock could not be had without waiting.
    #[error("{resource} is not free; try again later, or wait for it")]
    LockBusy {
        /// What was to be locked.
        resource: Resource,
    },
    /// The lock was not granted in time.
    #[error("{resource} was not granted before the deadline; retry with back-off or wait longer")]
    LockTimeout {
        /// What was to be locked.
        resource: Resource,
    },
    /// Waiting for the lock would never have ended. The youngest in the cycle is refused.
    #[error(
        "a deadlock: {}; release what is held, then retry with back-off",
        crate::locks::describe_cycle(.cycle)
    )]
    Deadlock {
        /// Who waits for whom, from the refused one on: each for the next, the last for the first.
        cycle: Vec<WaitsFor>,
    },
    /// The lock is not held any more. From a commit under a fence: the lock manager has restarted, so every lock is lost,
    /// and nothing was written.
    #[error(
        "the lock is not held any more: its lease ran out, it was released, or the lock manager restarted; nothing was written under it, acquire it again"
    )]
    LockLost,
    /// A write carried a token that is not, or not any more, that of the lock's holder.
    #[error(
        "the write was refused: its token {token} is not that of the holder of lock {lock:?}; acquire the lock again and read again"
    )]
    StaleFence {
        /// The lock.
        lock: String,
        /// The refused token.
        token: FencingToken,
    },
    /// The lock manager panicked while the request waited.
    #[error("the lock manager restarted; nothing was locked, retry")]
    LockManagerRestarted,
    /// The lock manager panicked more often than the restart intensity allows.
    #[error(
        "the lock manager is down after repeated failures; no lock can be had, and nothing written under a fence, until the engine is reopened"
    )]
    LockManagerDown,
    /// Somebody else's write came between what a transaction has read and its commit.
    #[error(
        "the transaction conflicts on key {} with {with}; nothing was written, begin it again",
        printable(.key)
    )]
    Conflict {
        /// The key behind the 4 bytes that number its keyspace: `key[4..]` is what the caller named.
        key: Bytes,
        /// With what.
        with: Rival,
    },
    /// The transaction is larger than one commit may be.
    #[error(
        "the transaction has {len} {unit}, the limit is {limit}; split it, or write less in one"
    )]
    TransactionTooLarge {
        /// Its size.
        len: usize,
        /// The limit.
        limit: usize,
        /// What is counted: `"bytes"`, `"keys"`, `"ranges"` or `"fences"`.
        unit: &'static str,
    },
    /// The transaction was rolled back before its decision; none of its writes will ever be seen.
    #[error("the transaction was rolled back: {reason}; nothing was written, begin it again")]
    Aborted {
        /// Why.
        reason: &'static str,
    },
    /// The transaction was committed or rolled back already.
    #[error("the transaction has ended; begin another")]
    TransactionEnded,
    /// The operating system refused an operation.
    #[error("{context}: {message}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// The kind of the failure.
        kind: io::ErrorKind,
        /// The system's words.
        message: String,
    },
    /// The engine was shut down.
    #[error("the engine is shut down; open it again")]
    Closed,
}

/// What a transaction conflicts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rival {
    /// A version that is newer than the transaction's snapshot.
    #[error("the commit at LSN {0}, which is newer than its snapshot")]
    Version(Lsn),
    /// A transaction that is about to commit.
    #[error("transaction {0}, which is committing")]
    Transaction(TxnId),
    /// A write or a transaction of one node that is on its way into the journal.
    #[error("a write that is on its way into the journal")]
    Write,
    /// The snapshot is older than what the node can still tell versions apart by.
    #[error("its own age: versions up to LSN {0} can't be told apart any more")]
    Floor(Lsn),
}

impl Error {
    /// Wraps a failure of the operating system; a full disk becomes [`Error::DiskFull`].
    #[must_use]
    pub fn io(context: impl Into<String>, error: &io::Error) -> Self {
        let context = context.into();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { context },
            kind => Self::Io {
                context,
                kind,
                message: error.to_string(),
            },
        }
    }

    /// What is answered once this has stopped all writing: it stays the reason, and is named once.
    #[must_use]
    pub fn as_read_only(&self) -> Self {
        match self {
            Self::ReadOnly { .. } => self.clone(),
            first => Self::ReadOnly {
                reason: first.to_string(),
            },
        }
    }

    /// Whether the operation was certainly not applied, and can succeed when it is done again: mostly by the same call. Not
    /// so by the commit of a transaction that has ended with this, which is begun again (`Conflict`, `Aborted`), nor by an
    /// upgrade that would be a `Deadlock` again, unless its guard is released first.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Overloaded { .. }
            | Self::DeadlineExceeded
            | Self::NodeRestarted { .. }
            | Self::Moved { .. }
            | Self::LockBusy { .. }
            | Self::LockTimeout { .. }
            | Self::Deadlock { .. }
            | Self::LockManagerRestarted
            | Self::Conflict { .. }
            | Self::Aborted { .. }
            | Self::DiskFull { .. } => true,
            Self::EmptyKey
            | Self::KeyTooLarge { .. }
            | Self::ValueTooLarge { .. }
            | Self::BatchTooLarge { .. }
            | Self::TransactionTooLarge { .. }
            | Self::TransactionEnded
            | Self::InvalidKeyspaceName { .. }
            | Self::KeyspaceNotFound { .. }
            | Self::NotACounter { .. }
            | Self::CounterOverflow { .. }
            | Self::Unknown { .. }
            | Self::NodeDown { .. }
            | Self::RingChangeRefused { .. }
            | Self::CoordinatorDown
            | Self::ReadOnly { .. }
            | Self::CorruptJournal { .. }
            | Self::CorruptTree { .. }
            | Self::CorruptManifest { .. }
            | Self::DirectoryInUse { .. }
            | Self::ForeignDirectory { .. }
            | Self::DirectoryMissing { .. }
            | Self::DirectoryBehind { .. }
            | Self::NoEngine { .. }
            | Self::NewerFormat { .. }
            | Self::SettingsMismatch { .. }
            | Self::InvalidOption { .. }
            | Self::InvalidLockName { .. }
            | Self::LockLost
            | Self::LockManagerDown
            | Self::StaleFence { .. }
            | Self::Io { .. }
            | Self::Closed => false,
        }
    }

    /// Whether a transaction that was refused like this has written nothing, and another attempt may soon succeed: what
    /// runs transactions tries again by itself. Not so where named locks are in a deadlock: their holder must give them
    /// up first.
    #[must_use]
    pub fn is_worth_another_attempt(&self) -> bool {
        match self {
            Self::Conflict { .. }
            | Self::Aborted { .. }
            | Self::Moved { .. }
            | Self::NodeRestarted { .. }
            | Self::LockManagerRestarted
            | Self::Overloaded { .. } => true,
            Self::Deadlock { cycle } => {
                let mut resources = cycle.iter().map(|step| &step.resource);
                resources.all(|resource| matches!(resource, Resource::Key(_)))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
