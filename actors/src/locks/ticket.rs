//! What a request, its guard and the lock manager share.

use crate::{
    clock::Clock,
    guard::guarded,
    sync::{AtomicU64, Mutex, MutexGuard, Notify, Ordering},
};
use mailring_engine::{
    Error, Result,
    ids::{RequestId, Time},
    locks::{FencingToken, Resource},
};
use std::{pin::pin, sync::PoisonError};

#[derive(Debug, Clone)]
enum Phase {
    Waiting,
    Granted,
    Refused(Error),
    Lost,
}

/// One request, from its submission to its end.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(super) id: RequestId,
    pub(super) resource: Resource,
    /// Whether the manager renews the lease in the guard's name.
    pub(super) renews: bool,
    phase: Mutex<Phase>,
    token: AtomicU64,
    expires: AtomicU64,
    /// How often the terms were told.
    told: AtomicU64,
    changed: Notify,
}

impl Ticket {
    pub(super) fn new(id: RequestId, resource: Resource, renews: bool) -> Self {
        Self {
            id,
            resource,
            renews,
            phase: Mutex::new(Phase::Waiting),
            token: AtomicU64::new(0),
            expires: AtomicU64::new(0),
            told: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    pub(super) fn token(&self) -> FencingToken {
        FencingToken(self.token.load(Ordering::Acquire))
    }

    pub(super) fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// Whether the grant is there and its lease not over by the clock, whatever the manager has found out.
    pub(super) fn is_held(&self, clock: Clock) -> bool {
        matches!(*self.lock(), Phase::Granted)
            && clock.now() < Time(self.expires.load(Ordering::Acquire))
    }

    /// From the manager: the grant is held on these terms.
    pub(super) fn hold(&self, token: FencingToken, expires: Time) {
        self.token.store(token.0, Ordering::Release);
        self.expires.store(expires.0, Ordering::Release);
        self.told.fetch_add(1, Ordering::AcqRel);
        self.grant();
    }

    /// From the manager: a conversion is done.
    pub(super) fn grant(&self) {
        self.set(|phase| match phase {
            Phase::Waiting | Phase::Granted => Phase::Granted,
            Phase::Refused(_) | Phase::Lost => phase.clone(),
        });
    }

    /// From the manager: the request is refused.
    pub(super) fn refuse(&self, error: Error) {
        self.set(|_| Phase::Refused(error));
    }

    /// From the manager: nothing comes of the request any more; a grant is lost, a wait is refused.
    pub(super) fn end(&self, error: Error) {
        self.set(|phase| match phase {
            Phase::Waiting => Phase::Refused(error),
            Phase::Granted | Phase::Lost => Phase::Lost,
            Phase::Refused(_) => phase.clone(),
        });
    }

    fn set(&self, change: impl FnOnce(&Phase) -> Phase) {
        {
            let mut phase = self.lock();
            *phase = change(&phase);
        }
        // It wakes by a waker of the owner's, whose panic is no business of the manager.
        if let Err(reason) = guarded(|| self.changed.notify_waiters()) {
            tracing::error!(reason, "the waker of a lock's owner panicked");
        }
    }

    /// Waits for the answer.
    pub(super) async fn answered(&self) -> Result<()> {
        self.wait_for(|phase| match phase {
            Phase::Waiting => None,
            Phase::Granted => Some(Ok(())),
            Phase::Refused(error) => Some(Err(error.clone())),
            Phase::Lost => Some(Err(Error::LockLost)),
        })
        .await
    }

    /// Waits until the terms have been told again after the first `told` times.
    pub(super) async fn told_after(&self, told: u64) -> Result<()> {
        self.wait_for(|phase| match phase {
            Phase::Waiting => None,
            Phase::Granted => (self.told() > told).then_some(Ok(())),
            Phase::Refused(error) => Some(Err(error.clone())),
            Phase::Lost => Some(Err(Error::LockLost)),
        })
        .await
    }

    /// Waits for the end of the grant.
    pub(super) async fn lost(&self) {
        self.wait_for(|phase| match phase {
            Phase::Waiting | Phase::Granted => None,
            Phase::Refused(_) | Phase::Lost => Some(()),
        })
        .await;
    }

    async fn wait_for<T>(&self, mut done: impl FnMut(&Phase) -> Option<T>) -> T {
        loop {
            // Enabled before the look: a change between the look and the wait is not missed.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let outcome = done(&self.lock());
            if let Some(outcome) = outcome {
                return outcome;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
