//! The lock table as people see it.

use super::{
    FencingToken, Mode, Resource, SessionId,
    lock::{Claim, Lock, Waiter},
    table::LockTable,
};
use crate::ids::Time;

/// A lock that is held or waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockListing {
    /// The lock.
    pub resource: Resource,
    /// Who holds it, in order of their numbers but for the first.
    pub holders: Vec<Holder>,
    /// Who waits for it, in the order in which they are looked at.
    pub waiters: Vec<WaitingRequest>,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The session.
    pub session: SessionId,
    /// In which mode.
    pub mode: Mode,
    /// Its token.
    pub token: FencingToken,
    /// Since when.
    pub since: Time,
    /// When its lease runs out unless it is renewed; [`Time::MAX`] for never.
    pub expires: Time,
    /// Grants of the session; 0 if the lock is kept only until a transaction under its token is decided.
    pub grants: usize,
    /// Transactions that are being decided under its token.
    pub fences: usize,
}

/// Who waits for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRequest {
    /// The session.
    pub session: SessionId,
    /// In which mode it wants the lock.
    pub mode: Mode,
    /// Since when it waits.
    pub since: Time,
    /// Until when; [`Time::MAX`] for ever.
    pub deadline: Time,
    /// The wait-for edges: the holders who keep it out, and for a request in the queue the one right before it, whose
    /// own edges go on from there.
    pub waits_for: Vec<SessionId>,
}

impl LockTable {
    /// All locks that are held or waited for, in order, up to `limit`.
    #[must_use]
    pub fn list(&self, limit: usize) -> Vec<LockListing> {
        let mut locks: Vec<&Lock> = self.locks.iter().collect();
        locks.sort_by(|a, b| a.resource.cmp(&b.resource));
        locks.truncate(limit);
        locks.into_iter().map(listing).collect()
    }
}

fn listing(lock: &Lock) -> LockListing {
    let holders = lock.holders.iter().map(|hold| Holder {
        session: hold.session.id,
        mode: hold.mode,
        token: hold.token,
        since: hold.since,
        expires: hold.expires,
        grants: hold.grants.len(),
        fences: hold.fences,
    });
    let conversions = lock
        .conversions
        .iter()
        .map(|waiter| waiting(lock, waiter, None));
    // Nobody enters while a conversion waits, so the front of the queue stands behind the last of them.
    let before = lock.conversions.back().into_iter().chain(&lock.queue);
    let before = before.map(Some);
    let before = match lock.conversions.is_empty() {
        true => std::iter::once(None).chain(before).collect::<Vec<_>>(),
        false => before.collect(),
    };
    let queue = lock.queue.iter().zip(before);
    let queue = queue.map(|(waiter, before)| waiting(lock, waiter, before));
    LockListing {
        resource: lock.resource.clone(),
        holders: holders.collect(),
        waiters: conversions.chain(queue).collect(),
    }
}

fn waiting(lock: &Lock, waiter: &Waiter, before: Option<&Waiter>) -> WaitingRequest {
    let own = waiter.session.id;
    let mode = match lock.claim(waiter) {
        Claim::Enter(mode) | Claim::Change(mode, _) => mode,
        Claim::Blocked => waiter.mode,
    };
    let holders = lock.holders.iter();
    let mut waits_for: Vec<SessionId> = holders
        .filter(|hold| hold.is_live() && !hold.mode.is_compatible(mode))
        .map(|hold| hold.session.id)
        .collect();
    waits_for.extend(before.map(|before| before.session.id));
    waits_for.sort_unstable();
    waits_for.dedup();
    waits_for.retain(|session| *session != own);
    WaitingRequest {
        session: own,
        mode: waiter.mode,
        since: waiter.since,
        deadline: waiter.deadline,
        waits_for,
    }
}
