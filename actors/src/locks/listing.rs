//! The locks of an engine as people see them.

use mailring_engine::{
    ids::Time,
    locks::{FencingToken, LockListing, Mode, Resource, SessionId},
};
use std::time::Duration;

/// A lock that is held or waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockInfo {
    /// A named lock, or a key that a transaction has locked.
    pub resource: Resource,
    /// Who holds it.
    pub holders: Vec<LockHolder>,
    /// Who waits for it, next first.
    pub waiters: Vec<LockWaiter>,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// The session.
    pub session: SessionId,
    /// In which mode.
    pub mode: Mode,
    /// Its fencing token.
    pub token: FencingToken,
    /// For how long so far.
    pub held: Duration,
    /// What is left of the lease; `None` if it has none.
    pub lease_left: Option<Duration>,
    /// Guards of the session.
    pub guards: usize,
    /// Transactions that are being decided under its token, before which the lock is not handed on.
    pub fences: usize,
}

/// Who waits for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockWaiter {
    /// The session.
    pub session: SessionId,
    /// In which mode it wants the lock.
    pub mode: Mode,
    /// For how long so far.
    pub waited: Duration,
    /// How long it will go on waiting; `None` for ever.
    pub wait_left: Option<Duration>,
    /// The wait-for edges: the holders who keep it out, and the one right before it in the queue.
    pub waits_for: Vec<SessionId>,
}

pub(super) fn describe(now: Time, locks: Vec<LockListing>) -> Vec<LockInfo> {
    let since = |time: Time| Duration::from_nanos(now.0.saturating_sub(time.0));
    let left = |time: Time| {
        (time != Time::MAX).then(|| Duration::from_nanos(time.0.saturating_sub(now.0)))
    };
    let describe = |lock: LockListing| LockInfo {
        resource: lock.resource,
        holders: lock
            .holders
            .into_iter()
            .map(|holder| LockHolder {
                session: holder.session,
                mode: holder.mode,
                token: holder.token,
                held: since(holder.since),
                lease_left: left(holder.expires),
                guards: holder.grants,
                fences: holder.fences,
            })
            .collect(),
        waiters: lock
            .waiters
            .into_iter()
            .map(|waiter| LockWaiter {
                session: waiter.session,
                mode: waiter.mode,
                waited: since(waiter.since),
                wait_left: left(waiter.deadline),
                waits_for: waiter.waits_for,
            })
            .collect(),
    };
    locks.into_iter().map(describe).collect()
}
