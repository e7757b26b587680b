//! What stands behind every handle: the shared state, the threads, the read of a key, and questions to the actors.

use crate::{
    clock::wall_clock_ms,
    journal::{Describe, KeyspaceRequest, OutcomeRequest, Subscribe, Subscription},
    message::Ask,
    open::Threads,
    switchboard::Switchboard,
};
use mailring_engine::{
    Error, Result,
    checkpoint::Catalogue,
    ids::{KeyspaceId, Lsn, Time, TxnId},
    open_keyspaces::OpenKeyspace,
    transaction::TxnOutcome,
    value::{KEYSPACE_PREFIX_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Value, Write},
    view::Look,
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::sync::{
    Notify,
    oneshot::{self, Receiver, error::RecvError},
};

/// How long after the deadline whoever should answer may still do so.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) switchboard: Arc<Switchboard>,
    pub(crate) deadline: Duration,
    pub(crate) max_lease: Duration,
    /// Which opening of the directory this is, and how many transactions have begun in it.
    pub(crate) opening: u64,
    pub(crate) transactions: AtomicU64,
    pub(crate) threads: Mutex<Option<Threads>>,
    pub(crate) closed: AtomicBool,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Without a last checkpoint: what is acknowledged is in the journal, and opening reads it back.
        if let Some(threads) = self.take_threads() {
            threads.stop();
        }
    }
}

impl Engine {
    pub(crate) fn take_threads(&self) -> Option<Threads> {
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        Ok(())
    }

    /// Reads a key at the visible LSN. `key` is the caller's, `qualified` the same with its keyspace.
    pub(crate) fn get(&self, key: &[u8], qualified: &[u8]) -> Result<Option<Value>> {
        self.check_open()?;
        let board = &self.switchboard;
        let mut is_first = true;
        loop {
            let at = board.visible.load();
            let routes = board.routes.load();
            let Some(routes) = routes.at(at) else {
                continue;
            };
            let member = routes.owner(key);
            if std::mem::take(&mut is_first) {
                member.figures.read();
            }
            if let Look::Value(value) = member.table.look(at, &board.cache, qualified)? {
                return Ok(value.filter(is_live));
            }
        }
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        match self.switchboard.read_only.get() {
            Some(error) => Err(error.as_read_only()),
            None => Ok(()),
        }
    }

    /// The next transaction's number.
    pub(crate) fn next_txn(&self) -> TxnId {
        let number = self.transactions.fetch_add(1, Ordering::Relaxed) + 1;
        TxnId::new(self.opening, number).expect("openings are counted from 1")
    }

    /// Asks the journal what became of a transaction.
    pub(crate) async fn ask_outcome(&self, message: OutcomeRequest) -> Result<TxnOutcome> {
        self.check_open()?;
        let (reply, answer) = oneshot::channel();
        self.switchboard.journal().do_send(Ask { message, reply });
        match self.journal_answer(answer).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(self.gone("the journal")),
            None => Err(overdue("the journal")),
        }
    }

    pub(crate) async fn create_or_drop_keyspace(
        &self,
        message: KeyspaceRequest,
    ) -> Result<Arc<OpenKeyspace>> {
        self.check_open()?;
        let (reply, answer) = oneshot::channel();
        self.switchboard.journal().do_send(Ask { message, reply });
        match self.journal_answer(answer).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(lost("the journal")),
            None => Err(overdue("the journal")),
        }
    }

    /// The journal's answer; `None` if it is overdue.
    async fn journal_answer<T>(
        &self,
        answer: Receiver<T>,
    ) -> Option<std::result::Result<T, RecvError>> {
        let deadline = self.switchboard.clock.in_future(self.deadline);
        let wake = &self.switchboard.journal_overdue;
        self.in_time(answer, wake, deadline).await
    }

    /// Waits for an answer until it is overdue. It takes no timer: the clock wakes all who wait from time to time. Whoever
    /// should answer knows more and gets [`GRACE`] to say it.
    pub(crate) async fn in_time<T>(
        &self,
        answer: Receiver<T>,
        wake: &Notify,
        deadline: Time,
    ) -> Option<std::result::Result<T, RecvError>> {
        let mut answer = pin!(answer);
        loop {
            let mut woken = pin!(wake.notified());
            let answered = poll_fn(|context| match answer.as_mut().poll(context) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => woken.as_mut().poll(context).map(|()| None),
            });
            let answered = answered.await;
            if answered.is_some() || self.switchboard.clock.now() >= deadline.after(GRACE) {
                return answered;
            }
        }
    }

    pub(crate) async fn describe(&self) -> Result<Catalogue> {
        self.check_open()?;
        let (reply, answer) = oneshot::channel();
        self.switchboard.journal().do_send(Ask {
            message: Describe,
            reply,
        });
        self.looked_up(answer).await
    }

    pub(crate) async fn subscribe(&self) -> Result<Subscription> {
        self.check_open()?;
        let (reply, answer) = oneshot::channel();
        self.switchboard.journal().do_send(Ask {
            message: Subscribe,
            reply,
        });
        self.looked_up(answer).await
    }

    /// The journal's answer to a question that changes nothing.
    async fn looked_up<T>(&self, answer: Receiver<T>) -> Result<T> {
        match self.journal_answer(answer).await {
            Some(answer) => answer.map_err(|_| self.gone("the journal")),
            None => Err(Error::DeadlineExceeded),
        }
    }

    pub(crate) async fn checkpoint(&self) -> Result<Lsn> {
        self.check_open()?;
        self.checkpoint_while_closing().await
    }

    /// Why a question is not answered any more.
    fn gone(&self, who: &str) -> Error {
        match self.switchboard.read_only.get() {
            _ if self.closed.load(Ordering::Acquire) => Error::Closed,
            Some(error) => error.as_read_only(),
            None => lost(who),
        }
    }

    pub(crate) async fn checkpoint_while_closing(&self) -> Result<Lsn> {
        let (reply, answer) = oneshot::channel();
        self.switchboard.checkpointer().do_send(Ask {
            message: crate::checkpointer::CheckpointNow,
            reply,
        });
        answer.await.unwrap_or(Err(Error::Closed))
    }
}

/// Whoever should have answered has stopped, for whatever reason: what was asked of him may have been done.
pub(crate) fn lost(who: &str) -> Error {
    Error::Unknown {
        reason: format!("{who} stopped before it answered"),
    }
}

/// The deadline has passed long ago, and what was asked may be done or not, as far as can be told.
pub(crate) fn overdue(who: &str) -> Error {
    Error::Unknown {
        reason: format!("{who} has not answered in time, the disk may hang"),
    }
}

/// Whether a value has not expired yet.
pub(crate) fn is_live(value: &Value) -> bool {
    value.expires_at_ms == 0 || !value.is_expired(wall_clock_ms())
}

pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    match key.len() {
        0 => Err(Error::EmptyKey),
        len if len > MAX_KEY_BYTES => Err(Error::KeyTooLarge {
            len,
            limit: MAX_KEY_BYTES,
        }),
        _ => Ok(()),
    }
}

pub(crate) fn check_value(value: &[u8]) -> Result<()> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::ValueTooLarge {
            len: value.len(),
            limit: MAX_VALUE_BYTES,
        });
    }
    Ok(())
}

/// The weight of a request, for the memory budget.
pub(crate) fn weight(writes: &[Write]) -> usize {
    writes.iter().map(Write::weight).sum()
}

/// A caller's key with its keyspace before it, on the stack where it is short: a read allocates nothing for its key.
pub(crate) enum QualifiedKey {
    Short([u8; SHORT_BYTES], usize),
    Long(bytes::Bytes),
}

const SHORT_BYTES: usize = 128;

impl QualifiedKey {
    #[inline]
    pub(crate) fn new(keyspace: KeyspaceId, key: &[u8]) -> Self {
        let len = KEYSPACE_PREFIX_BYTES + key.len();
        if len > SHORT_BYTES {
            return Self::Long(mailring_engine::value::qualify(keyspace, key));
        }
        let mut short = [0; SHORT_BYTES];
        short[..KEYSPACE_PREFIX_BYTES].copy_from_slice(&keyspace.0.to_be_bytes());
        short[KEYSPACE_PREFIX_BYTES..len].copy_from_slice(key);
        Self::Short(short, len)
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Short(bytes, len) => &bytes[..*len],
            Self::Long(bytes) => bytes,
        }
    }
}
