//! Holding a lock.

use super::{desk::Command, request::Pending, ticket::Ticket};
use crate::{Result, engine::Engine};
use mailring_engine::{
    Error,
    ids::Time,
    locks::{FencingToken, LockMessage, Mode, Resource, Wait},
};
use std::{sync::Arc, time::Duration};

/// A lock that is held, until this is dropped or its lease is lost.
///
/// A holder can be stopped between its last look at the lock and its next write for longer than its lease. So whatever the
/// lock protects should be told the [`token`](Self::token) and refuse lower ones. What is protected in this engine is
/// written by transactions and batches that carry the guard as a fence: see
/// [`TransactionBuilder::fence`](crate::TransactionBuilder::fence).
#[derive(Debug)]
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard {
    engine: Arc<Engine>,
    ticket: Arc<Ticket>,
}

impl LockGuard {
    pub(super) fn new(engine: Arc<Engine>, ticket: Arc<Ticket>) -> Self {
        Self { engine, ticket }
    }

    /// The name of the lock.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.ticket.resource {
            Resource::Lock(name) => name,
            Resource::Key(_) => "",
        }
    }

    /// The fencing token: higher than that of every earlier holder, also before a restart or crash. It rises with an
    /// upgrade; guards of one session on one lock share it.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.ticket.token()
    }

    /// Whether the lease has not run out by this process's monotonic clock. It can run out right after the answer.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.ticket.is_held(self.engine.switchboard.clock)
    }

    /// Returns when the lock is lost: the lease ran out, the lock manager panicked, or the engine shut down. Dropping
    /// the future loses nothing.
    pub async fn lost(&self) {
        self.ticket.lost().await;
    }

    /// Begins the lease anew. Only needed after [`LockRequest::renewed_by_hand`](super::LockRequest::renewed_by_hand).
    /// Dropping the future: the lease may have begun anew.
    ///
    /// # Errors
    ///
    /// `LockLost`, `Closed`.
    pub async fn renew(&self) -> Result<()> {
        let told = self.ticket.told();
        let id = self.ticket.id;
        self.engine
            .leave(Command::Tell(LockMessage::Renew { id }))?;
        self.ticket.told_after(told).await
    }

    /// Waits until the guard holds the lock exclusively. It goes before all who do not hold the lock yet, and keeps
    /// what it has meanwhile. Two upgraders of one shared lock are a deadlock; the younger is refused. Dropping the
    /// future gives the upgrade up, unless it has just been granted.
    ///
    /// # Errors
    ///
    /// `Deadlock`: release the guard, or the other one waits for ever; the same call with the guard kept is a deadlock
    /// again. `LockLost`, and as
    /// [`LockRequest::acquire`](super::LockRequest::acquire).
    pub async fn upgrade(&mut self) -> Result<()> {
        self.convert(Mode::Exclusive, Wait::Until(Time::MAX)).await
    }

    /// [`LockGuard::upgrade`], waiting for so long at most. Dropping the future does what it does there.
    ///
    /// # Errors
    ///
    /// `LockTimeout`, and as [`LockGuard::upgrade`].
    pub async fn upgrade_within(&mut self, timeout: Duration) -> Result<()> {
        let deadline = self.engine.switchboard.clock.in_future(timeout);
        self.convert(Mode::Exclusive, Wait::Until(deadline)).await
    }

    /// [`LockGuard::upgrade`], if it can be had without waiting.
    ///
    /// # Errors
    ///
    /// `LockBusy`, and as [`LockGuard::upgrade`].
    pub async fn try_upgrade(&mut self) -> Result<()> {
        self.convert(Mode::Exclusive, Wait::Never).await
    }

    /// Turns to a weaker mode, and lets in who goes with it. Dropping the future: the guard has the one mode or the other.
    ///
    /// # Errors
    ///
    /// `LockLost`, `Closed`; `LockBusy` if the mode allows something that the present one does not, and others are in
    /// the way.
    pub async fn downgrade(&mut self, mode: Mode) -> Result<()> {
        self.convert(mode, Wait::Never).await
    }

    async fn convert(&mut self, mode: Mode, wait: Wait) -> Result<()> {
        let id = self.engine.switchboard.locks.next_request();
        let message = LockMessage::Convert {
            id,
            grant: self.ticket.id,
            mode,
            wait,
        };
        let engine = Arc::clone(&self.engine);
        let resource = self.ticket.resource.clone();
        let pending = Pending::send(engine, id, resource, false, message)?;
        let outcome = pending.ticket.answered().await;
        pending.done();
        match outcome {
            Err(Error::LockManagerRestarted) => Err(Error::LockLost),
            outcome => outcome,
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn ticket(&self) -> &Arc<Ticket> {
        &self.ticket
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.engine.release(self.ticket.id);
    }
}
