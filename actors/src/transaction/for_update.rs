//! Locking ahead: who wants to change a key that many change waits for his turn, and reads behind it.
//!
//! ```text
//!  get_for_update ── Acquire(key) ─▶ lock manager ─▶ granted: the commit of the one before is visible
//!                                     snapshot := the visible LSN now; what was read before must be the same there
//!  commit ─ visible ── ReleaseSession ─▶ lock manager ─▶ the next one
//! ```
//!
//! The locks save work, validation keeps the promise: nothing is wrong if a lock is lost, or a write comes that did not ask
//! for one.

use super::{Shared, State, Transaction, buffer::Buffer};
use crate::{
    Keyspace,
    locks::{KeyGrant, KeyLocks},
    pin::Pinned,
};
use bytes::Bytes;
use mailring_engine::{Error, Result, value::qualify};
use std::sync::{Arc, atomic::Ordering::Release};

impl Transaction {
    /// The value of a key that this transaction is going to change: locks it, until the commit is visible or the
    /// transaction has ended, and reads it behind that. So transactions that change one key take turns instead of conflicting;
    /// they should lock before they read anything else.
    ///
    /// The whole transaction reads at a new snapshot from here on. What it has read before must be unchanged there; else this
    /// is a `Conflict`. Only `get_for_update` waits for such a lock: other reads and writes pass it, and validation finds
    /// out what they have changed.
    ///
    /// It waits until the transaction's deadline, first come first served. Two that wait for each other are a deadlock, which
    /// is found at once; the younger is refused, and [`Mailring::transact`](crate::Mailring::transact) runs it again, as old
    /// as it was. Lock keys in one order to avoid that.
    ///
    /// Dropping the future leaves the queue. Dropping that of a commit releases the locks at once, though the commit may be on
    /// its way.
    ///
    /// # Errors
    ///
    /// `Deadlock`: roll back, or the others go on waiting. `LockTimeout` (at the deadline), `Conflict`,
    /// `LockManagerRestarted`, `LockManagerDown`, `Overloaded`; `InvalidOption` in a read-only transaction; and as
    /// [`Transaction::get`].
    pub async fn get_for_update(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Bytes>> {
        let (shared, key) = (&*self.shared, key.as_ref());
        shared.check(keyspace)?;
        keyspace.check(key)?;
        if shared.is_read_only {
            return Err(Error::InvalidOption {
                option: "read_only",
                value: "true".into(),
                reason: "the transaction locks what it is going to change",
            });
        }
        let qualified = qualify(keyspace.state.id(), key);
        if !shared.with(|buffer| Ok(buffer.has_locked(&qualified)))? {
            shared.lock_key(qualified).await?;
        }
        self.get_now(keyspace, key)
    }
}

impl Shared {
    async fn lock_key(&self, key: Bytes) -> Result<()> {
        let (engine, session) = (&self.engine, self.session);
        let granted = KeyGrant::acquire(engine, session, key.clone(), self.deadline).await;
        if granted.is_err() && !matches!(*self.lock(), State::Open(_)) {
            // It was ended while it waited, and that is why it waits no more.
            return Err(Error::TransactionEnded);
        }
        let grant = granted?;
        self.with(|buffer| {
            // Behind the grant: it shows what the one before has committed.
            self.move_on(buffer, engine.pin_whatever_is_up()?)?;
            let locks = buffer.locks.get_or_insert_with(|| {
                let engine = Arc::clone(engine);
                Box::new(KeyLocks::new(engine, session.id))
            });
            locks.insert(key, grant);
            Ok(())
        })
    }

    /// Reads at `next` from here on, if all that was read is the same there.
    fn move_on(&self, buffer: &mut Buffer, next: Pinned) -> Result<()> {
        let since = buffer.pinned.at;
        if next.at > since {
            buffer.check_unchanged(&next, since)?;
            self.snapshot.store(next.at.0, Release);
            buffer.pinned = Arc::new(next);
        }
        Ok(())
    }
}
