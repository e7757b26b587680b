//! Transactions: any keys of any keyspaces, all or nothing, as if nobody else were there.
//!
//! A transaction reads at a snapshot, the visible LSN when it began, without a message, and keeps what it has read. Its
//! writes stay in the handle; nobody hears of it before the commit, so rolling back is forgetting. The commit sends
//! everything at once:
//!
//! ```text
//!  writes nothing ────────────────────────────────────▶ nothing is sent: it was true at its snapshot (fences are asked about)
//!  one node, nothing of the below ── Transact ─▶ node: validated in line with its writes, one record
//!  otherwise ── Commit ──▶ coordinator: two-phase commit, one record for all nodes
//!               (also with an idempotency key, or a fence, on which the lock manager votes)
//! ```
//!
//! # Isolation
//!
//! Strictly serializable: the order of the LSNs explains everything that anybody was told, and it agrees with real time.
//! What has been read, keys and ranges, found or not, must be unchanged at the moment in which the commit gets its LSN;
//! else it is refused with [`Error::Conflict`]. So there is no dirty write, dirty read, lost update, read skew, write skew,
//! phantom, long fork or stale read. What a transaction reads is one snapshot, also if it is going to be refused; a
//! `get_for_update` moves it on, and conflicts at once where what was read before is different there. One that
//! writes nothing has its snapshot as its place in the order, never waits (unless it locks) and never conflicts.
//!
//! Out of this are times to live: a value expires by the wall clock, which no commit waits for.
//!
//! # Invariants
//!
//! - Nothing leaves the handle before the commit, and then in one message.
//! - A key or range is in the read set before its value leaves the handle. Rolling back to a savepoint forgets writes, never
//!   reads: the caller has seen them.
//! - All that it has read was true at its present snapshot, and is noted in its read set.
//! - A transaction ends once; every call behind that answers [`Error::TransactionEnded`]. With it go the locks of its keys:
//!   after a commit when that is visible.

mod blocking;
mod buffer;
mod commit;
mod for_update;
mod run;
mod scan;

pub use blocking::BlockingTransaction;
pub use buffer::Savepoint;
pub(crate) use run::Pauses;
pub use run::{Once, OnceBuilder, TransactionBuilder};
pub use scan::TransactionScan;

use crate::locks::{add_fence, fence, invalid_fence};
use crate::{
    KeyRange, Keyspace, LockGuard,
    engine::{Engine, check_value, is_live},
    keyspace::expires_at_ms,
};
use buffer::Buffer;
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    ids::{Lsn, Time, TxnId},
    locks::{FencingToken, Session},
    participant::add_to_counter,
    transaction::Fence,
    value::{Value, Write, qualify},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Acquire},
    },
    time::Duration,
};

/// How a transaction ended that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its number, for [`Mailring::outcome`](crate::Mailring::outcome).
    pub txn: TxnId,
    /// The LSN at which its writes are visible; its snapshot, if it wrote nothing.
    pub lsn: Lsn,
    /// Another transaction with the same idempotency key was committed before, at `lsn`; this one wrote nothing.
    pub repeated: bool,
}

/// A running transaction. Cheap to clone; all clones are the same transaction. It is rolled back when the last clone is
/// dropped. See [`Mailring::transact`](crate::Mailring::transact) for the usual way to run one.
///
/// Transactions do not wait for each other: of two that change what both have read, one conflicts, and begins again. Where
/// that happens often, on a key that many change, [`Transaction::get_for_update`] makes them take turns.
///
/// It may read and write 100,000 keys with 10 MiB of keys and written values, and scan 1,000 ranges, each counted once for
/// each node; what a savepoint keeps counts as well. It holds what its snapshot shows in memory until it ends. What all
/// open transactions hold together is a part of the memory budget: beyond it they are refused as `Overloaded`.
#[derive(Debug, Clone)]
pub struct Transaction {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    id: TxnId,
    /// The LSN that it reads at. Moves on with the state locked, when a key is locked.
    snapshot: AtomicU64,
    deadline: Time,
    is_read_only: bool,
    /// Who locks keys.
    session: Session,
    idempotency: Option<Bytes>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Open(Buffer),
    RolledBack,
    /// Handed over to be committed.
    Committed,
}

impl Transaction {
    /// Its number: unique in the directory, also after it was opened again.
    #[must_use]
    pub fn id(&self) -> TxnId {
        self.shared.id
    }

    /// The LSN whose state it reads. [`Transaction::get_for_update`] moves it on.
    #[must_use]
    pub fn snapshot_lsn(&self) -> Lsn {
        self.shared.snapshot()
    }

    /// The value of a key: what this transaction has written, else what its snapshot shows.
    ///
    /// # Errors
    ///
    /// As [`Keyspace::get`]; `TransactionEnded`, `DeadlineExceeded`, `TransactionTooLarge`, `Overloaded`.
    pub async fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        self.get_now(keyspace, key.as_ref())
    }

    fn get_now(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.read(keyspace, key)?.map(|value| value.bytes))
    }

    /// The values of several keys, in the order of the keys.
    ///
    /// # Errors
    ///
    /// As [`Transaction::get`], for any of the keys.
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        let keys = keys.into_iter();
        keys.map(|key| self.get_now(keyspace, key.as_ref()))
            .collect()
    }

    /// The pairs of a range in key order, with what this transaction has written. Writes that are made while it runs are
    /// seen from its place on. Other transactions conflict with it only as far as it was read.
    pub fn scan(&self, keyspace: &Keyspace, range: impl KeyRange) -> TransactionScan {
        let bounds = crate::scan::bounds(keyspace.state.id(), &range);
        TransactionScan::new(self, keyspace, bounds)
    }

    /// The pairs whose keys begin with `prefix`, like [`Transaction::scan`].
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> TransactionScan {
        let bounds = crate::scan::prefix_bounds(keyspace.state.id(), prefix.as_ref());
        TransactionScan::new(self, keyspace, bounds)
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    ///
    /// `EmptyKey`, `KeyTooLarge`, `ValueTooLarge`, `KeyspaceNotFound`, `TransactionEnded`, `DeadlineExceeded`,
    /// `TransactionTooLarge`, `Overloaded`; `InvalidOption` in a read-only transaction. The transaction is as before.
    pub async fn put(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<()> {
        self.write(keyspace, key.as_ref(), Some((value.as_ref(), 0)))
    }

    /// Sets the value of a key that disappears after `time_to_live`, by the wall clock.
    ///
    /// # Errors
    ///
    /// As [`Transaction::put`].
    pub async fn put_with_ttl(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        time_to_live: Duration,
    ) -> Result<()> {
        let expiry = expires_at_ms(time_to_live);
        self.write(keyspace, key.as_ref(), Some((value.as_ref(), expiry)))
    }

    /// Removes a key, whether it is there or not.
    ///
    /// # Errors
    ///
    /// As [`Transaction::put`].
    pub async fn delete(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<()> {
        self.write(keyspace, key.as_ref(), None)
    }

    /// Adds to a counter, like [`Keyspace::add`], and answers its new value. This reads the counter, so two transactions
    /// that add to it at one time conflict.
    ///
    /// # Errors
    ///
    /// `NotACounter`, `CounterOverflow`, and as [`Transaction::get`] and [`Transaction::put`].
    pub async fn add(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>, delta: i64) -> Result<i64> {
        self.add_now(keyspace, key.as_ref(), delta)
    }

    fn add_now(&self, keyspace: &Keyspace, key: &[u8], delta: i64) -> Result<i64> {
        let before = self.read(keyspace, key)?;
        let sum = add_to_counter(before.as_ref(), delta)?;
        let expiry = before.map_or(0, |value| value.expires_at_ms);
        self.write(keyspace, key, Some((&sum.to_le_bytes(), expiry)))?;
        Ok(sum)
    }

    /// A point to which [`Transaction::rollback_to`] can take the writes back.
    ///
    /// # Errors
    ///
    /// `TransactionEnded`, `DeadlineExceeded`, `TransactionTooLarge`, `Overloaded`.
    pub fn savepoint(&self) -> Result<Savepoint> {
        self.shared.with(Buffer::savepoint)
    }

    /// Takes back what was written since the savepoint, which stays. Savepoints that were set after it are gone. What was
    /// read stays read.
    ///
    /// # Errors
    ///
    /// `InvalidOption` if the savepoint is gone, or another transaction's; `TransactionEnded`, `DeadlineExceeded`.
    pub fn rollback_to(&self, savepoint: Savepoint) -> Result<()> {
        self.shared.with(|buffer| buffer.rollback_to(savepoint))
    }

    /// Commits only while the guard holds its lock; see [`TransactionBuilder::fence`].
    ///
    /// # Errors
    ///
    /// `InvalidOption` in a read-only transaction, or for a guard of another engine; `TransactionTooLarge`,
    /// `TransactionEnded`, `DeadlineExceeded`.
    pub fn fence(&self, guard: &LockGuard) -> Result<()> {
        self.add_fence(guard.fence(&self.shared.engine)?)
    }

    /// As [`Transaction::fence`], with the token of a guard that is elsewhere.
    ///
    /// # Errors
    ///
    /// `InvalidLockName`, and as [`Transaction::fence`].
    pub fn fence_token(&self, lock: &str, token: FencingToken) -> Result<()> {
        self.add_fence(fence(lock, token)?)
    }

    fn add_fence(&self, fence: Fence) -> Result<()> {
        if self.shared.is_read_only {
            let reason = "a read-only transaction asks nobody at its end";
            return Err(invalid_fence(&fence.lock, reason));
        }
        let add = |buffer: &mut Buffer| add_fence(&mut buffer.fences, fence);
        self.shared.with(add)
    }

    /// Commits: answers when it is durable and visible to every later read. The transaction ends, whatever the answer.
    /// Dropping the future does not take it back: once it was polled it is carried out as a whole or not at all.
    ///
    /// # Errors
    ///
    /// `Conflict` (somebody has changed what was read), `Aborted`, `DeadlineExceeded`, `Overloaded`, `NodeRestarted`,
    /// `DiskFull`: nothing was written, and another attempt can succeed. `NodeDown`, `CoordinatorDown`, `ReadOnly`,
    /// `KeyspaceNotFound` (one that it has used was dropped), `Closed`, `TransactionEnded`: nothing was written.
    /// `StaleFence` (a token that it carries is not the holder's), `LockLost`, `LockManagerDown`: nothing was written,
    /// acquire the lock again. `Unknown`: it is there as a whole or not at all, and
    /// [`Mailring::outcome`](crate::Mailring::outcome) tells, if need be after the engine was opened again.
    pub async fn commit(&self) -> Result<Committed> {
        commit::commit(&self.shared).await
    }

    /// Rolls back: forgets everything. Does nothing if the transaction has ended.
    pub fn rollback(&self) {
        let mut state = self.shared.lock();
        if matches!(*state, State::Open(_)) {
            *state = State::RolledBack;
        }
    }

    fn read(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Value>> {
        let _span = tracing::trace_span!("get").entered();
        let shared = &*self.shared;
        shared.check(keyspace)?;
        keyspace.check(key)?;
        let qualified = qualify(keyspace.state.id(), key);
        let (own, pinned) = shared.with(|buffer| {
            let own = buffer.written(&qualified);
            if own.is_none() {
                let (owner, _) = buffer.pinned.owner(key);
                owner.table.check_up()?;
                owner.figures.read();
                if !shared.is_read_only {
                    buffer.note_read(&qualified)?;
                    buffer.enter(&keyspace.state);
                }
            }
            // The snapshot in whose read set the key is noted.
            Ok((own, Arc::clone(&buffer.pinned)))
        })?;
        let value = match own {
            Some(value) => value,
            None => {
                let cache = &shared.engine.switchboard.cache;
                pinned.get(cache, key, &qualified)?
            }
        };
        Ok(value.filter(is_live))
    }

    fn write(&self, keyspace: &Keyspace, key: &[u8], value: Option<(&[u8], u64)>) -> Result<()> {
        let shared = &*self.shared;
        shared.check(keyspace)?;
        keyspace.check(key)?;
        check_value(value.map_or(&[], |(bytes, _)| bytes))?;
        if shared.is_read_only {
            return Err(Error::InvalidOption {
                option: "read_only",
                value: "true".into(),
                reason: "the transaction writes",
            });
        }
        let write = Write::new(keyspace.state.id(), key, value);
        shared.with(|buffer| {
            buffer.write(write)?;
            buffer.enter(&keyspace.state);
            Ok(())
        })
    }
}

impl Shared {
    fn snapshot(&self) -> Lsn {
        Lsn(self.snapshot.load(Acquire))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the buffer of a transaction that may still do so.
    fn with<T>(&self, work: impl FnOnce(&mut Buffer) -> Result<T>) -> Result<T> {
        self.engine.check_open()?;
        match &mut *self.lock() {
            State::Open(_) if self.engine.switchboard.clock.now() >= self.deadline => {
                Err(Error::DeadlineExceeded)
            }
            State::Open(buffer) => work(buffer),
            State::RolledBack | State::Committed => Err(Error::TransactionEnded),
        }
    }

    fn check(&self, keyspace: &Keyspace) -> Result<()> {
        if Arc::ptr_eq(&keyspace.engine, &self.engine) {
            return Ok(());
        }
        Err(Error::InvalidOption {
            option: "keyspace",
            value: keyspace.name().to_owned(),
            reason: "it belongs to another engine than the transaction",
        })
    }
}
