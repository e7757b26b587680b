//! Asking for a lock.

use super::{desk::Command, guard::LockGuard, listing, listing::LockInfo, ticket::Ticket};
use crate::{Error, Result, engine::Engine};
use mailring_engine::{
    ids::{RequestId, Time},
    locks::{Acquire, LockMessage, Mode, Resource, Session, SessionId, Wait},
};
use pollster::block_on;
use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long a lease lasts unless the request says otherwise, and the engine allows it.
pub(crate) const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// The named locks of an engine; see [`Mailring::locks`](crate::Mailring::locks).
///
/// A lock is held by a [`LockGuard`], under a lease and with a fencing token. Names have 1 to 255 bytes and mean nothing
/// to the engine. Requests are served in the order of arrival; readers that stand together enter together.
#[derive(Debug, Clone)]
pub struct Locks {
    pub(super) engine: Arc<Engine>,
}

impl Locks {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// A request for the lock of this name, in a session of its own: it waits for every other guard. Await it, or set
    /// it up first.
    pub fn lock(&self, name: &str) -> LockRequest {
        self.session().lock(name)
    }

    /// The lock of this name, exclusively, if it is free.
    ///
    /// # Errors
    ///
    /// As [`LockRequest::try_acquire`].
    pub async fn try_lock(&self, name: &str) -> Result<LockGuard> {
        self.lock(name).try_acquire().await
    }

    /// A session: its guards never wait for each other, and a deadlock among sessions is found at once.
    pub fn session(&self) -> LockSession {
        let switchboard = &self.engine.switchboard;
        LockSession {
            engine: Arc::clone(&self.engine),
            session: Session {
                begun: switchboard.clock.now(),
                id: SessionId::Application(switchboard.locks.next_session()),
            },
        }
    }

    /// Who holds and who waits, by name, keys locked by transactions included. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// `Overloaded`, `Closed`.
    pub async fn list(&self) -> Result<Vec<LockInfo>> {
        let (reply, listed) = oneshot::channel();
        self.engine.check_open()?;
        self.engine.leave(Command::List(usize::MAX, reply))?;
        let (now, locks) = listed.await.map_err(|_| Error::Closed)?;
        Ok(listing::describe(now, locks))
    }
}

/// One thread of control: what it has locked it may lock again, and what it waits for is searched for deadlocks together
/// with what it holds. Share nothing of it between tasks that should exclude each other.
///
/// A transaction can be part of it: [`TransactionBuilder::session`](crate::TransactionBuilder::session).
///
/// Guards live on when their session is dropped.
#[derive(Debug)]
pub struct LockSession {
    engine: Arc<Engine>,
    session: Session,
}

impl LockSession {
    /// A request for the lock of this name.
    pub fn lock(&self, name: &str) -> LockRequest {
        LockRequest {
            engine: Arc::clone(&self.engine),
            session: self.session,
            resource: Resource::Lock(name.into()),
            mode: Mode::default(),
            wait: Wait::Until(Time::MAX),
            lease: Some(DEFAULT_LEASE.min(self.engine.max_lease)),
            renews: true,
        }
    }

    pub(crate) fn session(&self, engine: &Engine) -> Option<Session> {
        std::ptr::eq(engine, &*self.engine).then_some(self.session)
    }

    /// The number by which listings and deadlocks name it.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.session.id
    }
}

/// A request for a lock, exclusive unless it says otherwise. It does nothing until it is awaited.
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is awaited"]
pub struct LockRequest {
    engine: Arc<Engine>,
    session: Session,
    resource: Resource,
    mode: Mode,
    wait: Wait,
    lease: Option<Duration>,
    renews: bool,
}

impl LockRequest {
    /// The only holder. The default.
    pub fn exclusive(self) -> Self {
        self.mode(Mode::Exclusive)
    }

    /// Together with other shared holders.
    pub fn shared(self) -> Self {
        self.mode(Mode::Shared)
    }

    /// Intends to lock parts, under names of their own, as shared: keeps out exclusive holders of the whole.
    pub fn intent_shared(self) -> Self {
        self.mode(Mode::IntentShared)
    }

    /// Intends to lock parts, under names of their own, exclusively: keeps out shared and exclusive holders of the
    /// whole.
    pub fn intent_exclusive(self) -> Self {
        self.mode(Mode::IntentExclusive)
    }

    /// In this mode.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// How long the lock is held without renewal; default 10 s, at most the builder's `max_lease`.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// The lease is not renewed by itself: the owner calls [`LockGuard::renew`], or loses the lock. For owners that may
    /// hang while their process lives.
    pub fn renewed_by_hand(mut self) -> Self {
        self.renews = false;
        self
    }

    /// How long to wait at most; the default is for ever. Waits end to within 10 ms.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.wait = Wait::Until(self.engine.switchboard.clock.in_future(timeout));
        self
    }

    /// Until when to wait; the default is for ever.
    pub fn deadline(self, deadline: Instant) -> Self {
        self.timeout(deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits for the lock. Dropping the future leaves the queue, and gives back what was granted meanwhile.
    ///
    /// # Errors
    ///
    /// `LockTimeout`, `Deadlock` (this request was the youngest in the cycle), `InvalidLockName`, `InvalidOption` (the
    /// lease), `Overloaded`, `LockManagerRestarted`, `LockManagerDown`, `Closed`.
    #[tracing::instrument(level = "debug", name = "lock", skip_all, fields(resource = %self.resource), err(level = "debug"))]
    pub async fn acquire(self) -> Result<LockGuard> {
        let started = Instant::now();
        let pending = Pending::submit(&self)?;
        if let Err(error) = pending.ticket.answered().await {
            pending.done();
            return Err(error);
        }
        self.engine
            .switchboard
            .telemetry
            .locks
            .granted(started.elapsed());
        Ok(pending.into_guard())
    }

    /// The lock, if it can be had without waiting.
    ///
    /// # Errors
    ///
    /// `LockBusy`, and as [`LockRequest::acquire`].
    pub async fn try_acquire(mut self) -> Result<LockGuard> {
        self.wait = Wait::Never;
        self.acquire().await
    }

    /// [`LockRequest::acquire`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`LockRequest::acquire`].
    pub fn acquire_blocking(self) -> Result<LockGuard> {
        block_on(self.acquire())
    }

    /// [`LockRequest::try_acquire`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`LockRequest::try_acquire`].
    pub fn try_acquire_blocking(self) -> Result<LockGuard> {
        block_on(self.try_acquire())
    }
}

impl IntoFuture for LockRequest {
    type Output = Result<LockGuard>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.acquire())
    }
}

/// A request under way; dropped before it is answered, it is taken back.
pub(super) struct Pending {
    engine: Arc<Engine>,
    pub(super) ticket: Arc<Ticket>,
    is_done: bool,
}

impl Pending {
    fn submit(request: &LockRequest) -> Result<Self> {
        let engine = Arc::clone(&request.engine);
        let id = engine.switchboard.locks.next_request();
        let message = LockMessage::Acquire(Acquire {
            id,
            session: request.session,
            resource: request.resource.clone(),
            mode: request.mode,
            wait: request.wait,
            lease: request.lease,
        });
        Self::send(
            engine,
            id,
            request.resource.clone(),
            request.renews,
            message,
        )
    }

    pub(super) fn send(
        engine: Arc<Engine>,
        id: RequestId,
        resource: Resource,
        renews: bool,
        message: LockMessage,
    ) -> Result<Self> {
        engine.check_open()?;
        let ticket = Arc::new(Ticket::new(id, resource, renews));
        engine.leave(Command::Submit(message, Arc::clone(&ticket)))?;
        Ok(Self {
            engine,
            ticket,
            is_done: false,
        })
    }

    fn into_guard(mut self) -> LockGuard {
        self.is_done = true;
        LockGuard::new(Arc::clone(&self.engine), Arc::clone(&self.ticket))
    }

    pub(super) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.is_done {
            self.engine.release(self.ticket.id);
        }
    }
}

impl Engine {
    pub(super) fn leave(&self, command: Command) -> Result<()> {
        let switchboard = &self.switchboard;
        switchboard.locks.leave(switchboard.lock_manager(), command)
    }

    pub(super) fn release(&self, id: RequestId) {
        // Where the desk is closed everything is released.
        let _ = self.leave(Command::Tell(LockMessage::Release { id }));
    }
}
