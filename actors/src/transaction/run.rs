//! Running a transaction to its end: options, attempts, and the pause between them.

use super::{Buffer, Committed, Shared, State, Transaction};
use crate::{
    LockGuard, LockSession, Mailring,
    engine::Engine,
    journal::OutcomeRequest,
    locks::{add_fence, fence, invalid_fence},
};
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    ids::{Lsn, Time, TxnId},
    locks::{FencingToken, Session, SessionId},
    transaction::{Fence, MAX_IDEMPOTENCY_KEY_BYTES, MAX_TRANSACTION_TIME, TxnOutcome},
};
use std::{
    collections::hash_map::RandomState,
    future::Future,
    hash::{BuildHasher, Hasher},
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

/// The longest pause behind the first conflict; it doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
/// It grows no further.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Options of a transaction; see [`Mailring::transaction`].
#[derive(Debug, Clone)]
#[must_use = "a transaction begins with `run` or `begin`"]
pub struct TransactionBuilder {
    engine: Arc<Engine>,
    deadline: Option<Duration>,
    is_read_only: bool,
    idempotency: Option<Bytes>,
    fences: Vec<Fence>,
    session: Option<Session>,
    /// What was wrong with the first bad option; told when it begins.
    refused: Option<Error>,
}

/// Options of a transaction with an idempotency key; see [`TransactionBuilder::idempotency_key`].
#[derive(Debug, Clone)]
#[must_use = "a transaction begins with `run` or `begin`"]
pub struct OnceBuilder(TransactionBuilder);

/// How a transaction with an idempotency key ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Once<T> {
    /// It was carried out now.
    Ran(T),
    /// One with the same key was committed before, at this LSN, and nothing was written now.
    Before(Lsn),
}

impl Mailring {
    /// Runs `body` as a transaction and commits it: everything that it writes, over any keyspaces and nodes, becomes
    /// visible at one moment, or nothing does. If somebody has changed what it has read, or if it is the victim of a
    /// deadlock over keys that it has locked, it is run again, on a new snapshot, after a pause with jitter that doubles each time, until its deadline (that of the engine's builder, 5
    /// seconds by default, at most a minute). So it may run several times, and must have no other effects.
    ///
    /// Strictly serializable: see [`Transaction`]. An error of `body` rolls back. A body that has called
    /// [`Transaction::rollback`] and returns a value ends with that value, and nothing is written.
    ///
    /// Dropping the future: see [`Transaction::commit`].
    ///
    /// ```
    /// # async fn f(db: mailring::Mailring, accounts: mailring::Keyspace) -> mailring::Result<()> {
    /// let accounts = &accounts;
    /// let moved = db
    ///     .transact(|txn| async move {
    ///         if txn.add(accounts, "ada", -10).await? < 0 {
    ///             txn.rollback();
    ///             return Ok(false);
    ///         }
    ///         txn.add(accounts, "charles", 10).await?;
    ///         Ok(true)
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The first error of `body` that another attempt can't mend, and as [`Transaction::commit`]; `Conflict` only if the
    /// deadline has come.
    pub async fn transact<T, F, Fut>(&self, body: F) -> Result<T>
    where
        F: Fn(Transaction) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        self.transaction().run(body).await
    }

    /// A transaction with options.
    pub fn transaction(&self) -> TransactionBuilder {
        TransactionBuilder {
            engine: Arc::clone(&self.engine),
            deadline: None,
            is_read_only: false,
            idempotency: None,
            fences: Vec::new(),
            session: None,
            refused: None,
        }
    }

    /// Begins a transaction that ends with [`Transaction::commit`]. Nothing is tried again by itself.
    ///
    /// # Errors
    ///
    /// `Closed`.
    pub fn begin(&self) -> Result<Transaction> {
        self.transaction().begin()
    }

    /// What became of a transaction. Asking is final: one that is not committed by now never will be.
    ///
    /// An outcome is kept until the transaction's deadline and for a minute behind it, with an idempotency key for ten
    /// minutes, unless 65,536 newer ones have come by then; both begin anew when the engine is opened. Behind that the
    /// answer is `Forgotten`. A transaction that wrote nothing was never committed.
    ///
    /// Dropping the future: it may have been asked, and is final then.
    ///
    /// # Errors
    ///
    /// `Unknown` if it was committed but the engine has turned read-only before that was durable: ask again after opening
    /// it again. `Overloaded`, `Closed`.
    #[tracing::instrument(level = "debug", skip_all, fields(%txn), err(level = "debug"))]
    pub async fn outcome(&self, txn: TxnId) -> Result<TxnOutcome> {
        let clock = &self.engine.switchboard.clock;
        // Whatever its deadline is, it is not later than this.
        let deadline = clock.in_future(MAX_TRANSACTION_TIME);
        let question = OutcomeRequest::Of { txn, deadline };
        self.engine.ask_outcome(question).await
    }
}

impl TransactionBuilder {
    /// How long it may take, all attempts together; at most a minute. A read-only one has none unless it is set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// It writes nothing: what it reads need not be remembered, so it is bounded neither in keys nor in time. Never waits
    /// and never conflicts.
    pub fn read_only(mut self) -> Self {
        self.is_read_only = true;
        self
    }

    /// Commits at most once under this key (1 to 256 bytes): a repetition, also after the engine was opened again, gets
    /// the first one's outcome. Keys are kept for ten minutes (see [`Mailring::outcome`]). A transaction that writes
    /// nothing is not remembered. Goes by the coordinator, also on one node.
    pub fn idempotency_key(mut self, key: impl AsRef<[u8]>) -> OnceBuilder {
        self.idempotency = Some(Bytes::copy_from_slice(key.as_ref()));
        OnceBuilder(self)
    }

    /// Commits only while the guard holds its lock. The lock manager votes on the commit like a node, by the guard's token as
    /// it is now (an upgrade gives it another), and hands the lock on only once the outcome is visible. So a holder that
    /// was stopped for longer than its lease can't write behind the next one:
    ///
    /// ```text
    /// A: lock, token 33 ──── stopped for longer than its lease ──────── commit under 33: StaleFence
    /// B:                        lock, token 34, commit under 34
    /// ```
    ///
    /// (Kleppmann, *How to do distributed locking*, 2016; the tokens are the sequencers of Chubby, Burrows 2006.) It goes by
    /// the coordinator, also on one node. A transaction may carry 16 fences. One that writes
    /// nothing is refused as well if a token is not the holder's any more: what it has read may be the next holder's.
    ///
    /// ```
    /// # async fn f(db: mailring::Mailring, files: mailring::Keyspace) -> mailring::Result<()> {
    /// let files = &files;
    /// let guard = db.locks().lock("report").await?;
    /// let write = db.transaction().fence(&guard);
    /// write.run(|txn| async move { txn.put(files, "report", "done").await }).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// What is wrong with it is told when the transaction begins.
    pub fn fence(mut self, guard: &LockGuard) -> Self {
        let fence = guard.fence(&self.engine);
        self.add_fence(fence);
        self
    }

    /// As [`TransactionBuilder::fence`], with the token of a guard that is elsewhere: one that came with a message, say.
    pub fn fence_token(mut self, lock: &str, token: FencingToken) -> Self {
        self.add_fence(fence(lock, token));
        self
    }

    /// Locks keys as part of this session: a deadlock over its named locks and the keys of its transactions together is
    /// found at once, instead of ending at a deadline. Its transactions do not wait for each other's keys. A transaction that
    /// is refused in such a deadlock is not run again: named locks must be released first.
    pub fn session(mut self, session: &LockSession) -> Self {
        match session.session(&self.engine) {
            Some(session) => self.session = Some(session),
            None => {
                self.refused.get_or_insert(Error::InvalidOption {
                    option: "session",
                    value: session.id().to_string(),
                    reason: "it belongs to another engine than the transaction",
                });
            }
        }
        self
    }

    fn add_fence(&mut self, fence: Result<Fence>) {
        let added = fence.and_then(|fence| add_fence(&mut self.fences, fence));
        if let Err(error) = added {
            self.refused.get_or_insert(error);
        }
    }

    /// Runs `body`, as [`Mailring::transact`] does.
    ///
    /// # Errors
    ///
    /// As [`Mailring::transact`]; `InvalidOption`.
    pub async fn run<T, F, Fut>(self, body: F) -> Result<T>
    where
        F: Fn(Transaction) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let (value, _) = self.run_until_committed(body).await?;
        Ok(value)
    }

    /// Begins it; nothing is tried again by itself.
    ///
    /// # Errors
    ///
    /// `InvalidOption`, `Closed`.
    pub fn begin(self) -> Result<Transaction> {
        let deadline = self.checked_deadline()?;
        let begun = self.engine.switchboard.clock.now();
        self.begin_until(deadline, begun)
    }

    fn checked_deadline(&self) -> Result<Time> {
        let invalid = |option, value, reason| Error::InvalidOption {
            option,
            value,
            reason,
        };
        if let Some(key) = &self.idempotency
            && !(1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len())
        {
            let value = format!("{} bytes", key.len());
            return Err(invalid(
                "idempotency_key",
                value,
                "1 to 256 bytes are possible",
            ));
        }
        if let Some(error) = &self.refused {
            return Err(error.clone());
        }
        if let Some(fence) = self.fences.first()
            && self.is_read_only
        {
            let reason = "a read-only transaction asks nobody at its end";
            return Err(invalid_fence(&fence.lock, reason));
        }
        let clock = &self.engine.switchboard.clock;
        match self.deadline {
            Some(deadline) if deadline > MAX_TRANSACTION_TIME && !self.is_read_only => {
                let reason = "a transaction may take a minute at most";
                Err(invalid("deadline", format!("{deadline:?}"), reason))
            }
            Some(deadline) => Ok(clock.in_future(deadline)),
            None if self.is_read_only => Ok(Time::MAX),
            None => Ok(clock.in_future(self.engine.deadline.min(MAX_TRANSACTION_TIME))),
        }
    }

    /// `begun` is its age in a deadlock.
    fn begin_until(&self, deadline: Time, begun: Time) -> Result<Transaction> {
        let budget = &self.engine.switchboard.budget;
        let pinned = Arc::new(self.engine.pin_whatever_is_up()?);
        let id = self.engine.next_txn();
        let own = Session {
            begun,
            id: SessionId::Transaction(id),
        };
        let shared = Shared {
            engine: Arc::clone(&self.engine),
            id,
            snapshot: AtomicU64::new(pinned.at.0),
            deadline,
            session: self.session.unwrap_or(own),
            is_read_only: self.is_read_only,
            idempotency: self.idempotency.clone(),
            state: Mutex::new(State::Open(Buffer::new(
                pinned,
                self.fences.clone(),
                budget,
            ))),
        };
        let shared = Arc::new(shared);
        Ok(Transaction { shared })
    }

    #[tracing::instrument(level = "debug", name = "transact", skip_all, err(level = "debug"))]
    async fn run_until_committed<T, F, Fut>(self, body: F) -> Result<(T, Option<Committed>)>
    where
        F: Fn(Transaction) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let board = &self.engine.switchboard;
        let deadline = self.checked_deadline()?;
        let mut pauses = Pauses::new();
        // A victim of a deadlock does not become younger by that.
        let begun = board.clock.now();
        loop {
            let routed_by = board.routes.load().epoch();
            let txn = self.begin_until(deadline, begun)?;
            let error = match body(txn.clone()).await {
                Ok(value) if txn.has_ended() => return Ok((value, None)),
                Ok(value) => match txn.commit().await {
                    Ok(committed) => return Ok((value, Some(committed))),
                    Err(error) => error,
                },
                Err(error) => {
                    txn.rollback();
                    error
                }
            };
            // What its snapshot shows is let go before the pause.
            drop(txn);
            if !error.is_worth_another_attempt() || board.clock.now() >= deadline {
                return Err(error);
            }
            board.telemetry.transaction_repeated();
            if matches!(error, Error::Moved { .. }) {
                self.engine.rerouted(routed_by, deadline).await?;
                continue;
            }
            board.alarms.sleep(pauses.next()).await;
            if board.clock.now() >= deadline {
                return Err(error);
            }
        }
    }
}

impl OnceBuilder {
    /// As [`TransactionBuilder::deadline`].
    pub fn deadline(self, deadline: Duration) -> Self {
        Self(self.0.deadline(deadline))
    }

    /// As [`TransactionBuilder::fence`]. A repetition of what was committed gets that outcome, whatever has become of the
    /// lock.
    pub fn fence(self, guard: &LockGuard) -> Self {
        Self(self.0.fence(guard))
    }

    /// As [`TransactionBuilder::fence_token`].
    pub fn fence_token(self, lock: &str, token: FencingToken) -> Self {
        Self(self.0.fence_token(lock, token))
    }

    /// As [`TransactionBuilder::session`].
    pub fn session(self, session: &LockSession) -> Self {
        Self(self.0.session(session))
    }

    /// Runs `body` unless a transaction was committed under the key.
    ///
    /// # Errors
    ///
    /// As [`Mailring::transact`]. After `Unknown`, run it again with the same key: that is what the key is for.
    pub async fn run<T, F, Fut>(self, body: F) -> Result<Once<T>>
    where
        F: Fn(Transaction) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        self.0.checked_deadline()?;
        if let Some(key) = &self.0.idempotency {
            let question = OutcomeRequest::Under(key.clone());
            if let TxnOutcome::Committed(lsn) = self.0.engine.ask_outcome(question).await? {
                return Ok(Once::Before(lsn));
            }
        }
        match self.0.run_until_committed(body).await? {
            (_, Some(Committed { lsn, repeated, .. })) if repeated => Ok(Once::Before(lsn)),
            (value, _) => Ok(Once::Ran(value)),
        }
    }

    /// Begins it; [`Transaction::commit`] tells whether it was a repetition.
    ///
    /// # Errors
    ///
    /// As [`TransactionBuilder::begin`].
    pub fn begin(self) -> Result<Transaction> {
        self.0.begin()
    }
}

impl Transaction {
    fn has_ended(&self) -> bool {
        !matches!(*self.shared.lock(), State::Open(_))
    }
}

/// The half to the whole of a pause.
fn jittered(pause: Duration) -> Duration {
    // A hasher's random keys are all the randomness that a jitter needs.
    let random = RandomState::new().build_hasher().finish();
    let nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos / 2 + random % (nanos / 2 + 1))
}

/// Pauses that double, as between the attempts of a transaction.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Pauses {
    pub(crate) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = jittered(self.0);
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
        pause
    }
}
