//! Holding: what becomes of a lock between its grant and its end.

use super::{
    lock::{Claim, Grant, Hold, Waiter},
    message::{LockEffect, SessionId},
    slots::Slot,
    table::{LockTable, Place, Timer},
};
use crate::{
    error::Error,
    few::Few,
    ids::{RequestId, Time},
};
use std::time::Duration;

impl LockTable {
    /// Grants a request that is in no line (any more).
    pub(super) fn grant(&mut self, slot: Slot, waiter: Waiter, out: &mut Vec<LockEffect>) {
        let lock = self.locks.at_mut(slot);
        let session = waiter.session.id;
        let expires = waiter
            .lease
            .map_or(Time::MAX, |lease| self.now.after(lease));
        if let Claim::Enter(mode) = lock.claim(&waiter) {
            self.last_token = self.last_token.next();
            let timer = timer_of(self.now, waiter.lease, expires);
            let mut grants = Few::default();
            grants.push(Grant {
                id: waiter.id,
                mode,
            });
            lock.holders.insert(Hold {
                session: waiter.session,
                mode,
                token: self.last_token,
                lease: waiter.lease,
                since: self.now,
                expires,
                timer,
                grants,
                fences: 0,
                floor: None,
            });
            if timer != Time::MAX {
                self.timers.insert((timer, Timer::Lease(slot, session)));
            }
            self.sessions.entry(session).or_default().holds.push(slot);
            out.push(LockEffect::Held {
                id: waiter.id,
                token: self.last_token,
                expires,
            });
        } else {
            self.grant_more(slot, &waiter, expires, out);
        }
        if waiter.converts.is_none() {
            let place = Place {
                slot,
                session,
                waits: false,
            };
            self.number(waiter.id, place);
        }
        // It may wait elsewhere, and by this grant somebody may wait for it.
        if self
            .sessions
            .get(&session)
            .is_some_and(|state| !state.waits.is_empty())
        {
            self.suspects.push_back(session);
        }
    }

    /// Grants a request of a session that holds the lock already: one more grant, or another mode for one.
    fn grant_more(
        &mut self,
        slot: Slot,
        waiter: &Waiter,
        expires: Time,
        out: &mut Vec<LockEffect>,
    ) {
        let session = waiter.session.id;
        let lock = self.locks.at_mut(slot);
        let hold = lock
            .holders
            .get_mut(session)
            .expect("the session holds the lock");
        let before = hold.mode;
        match waiter.converts {
            Some(converted) => {
                let mut grants = hold.grants.as_mut_slice().iter_mut();
                let grant = grants.find(|grant| grant.id == converted);
                grant.expect("a conversion goes with its grant").mode = waiter.mode;
            }
            None => {
                hold.grants.push(Grant {
                    id: waiter.id,
                    mode: waiter.mode,
                });
                hold.lease = hold
                    .lease
                    .zip(waiter.lease)
                    .map(|(one, other)| one.max(other));
                hold.expires = hold.expires.max(expires);
            }
        }
        lock.holders.settle(session);
        let hold = lock
            .holders
            .get_mut(session)
            .expect("the session holds the lock");
        if !before.covers(hold.mode) {
            self.last_token = self.last_token.next();
            hold.token = self.last_token;
        }
        if hold.lease.is_none() {
            self.timers
                .remove(&(hold.timer, Timer::Lease(slot, session)));
            hold.timer = Time::MAX;
        }
        tell_terms(hold, out);
        if waiter.converts.is_some() {
            out.push(LockEffect::Converted { id: waiter.id });
        }
    }

    pub(super) fn release(&mut self, id: RequestId, out: &mut Vec<LockEffect>) {
        let Some(place) = self.requests.get(&id).copied() else {
            return;
        };
        if place.waits {
            self.take_waiter(id);
        } else {
            self.requests.remove(&id);
            let lock = self.locks.at_mut(place.slot);
            let hold = lock
                .holders
                .get_mut(place.session)
                .expect("a grant belongs to a hold");
            hold.grants.remove(|grant| grant.id == id);
            self.refuse_conversions(place.slot, id, out);
            self.settle(place.slot, place.session);
        }
        self.advance(place.slot, out);
    }

    pub(super) fn renew(&mut self, id: RequestId, out: &mut Vec<LockEffect>) {
        let Some(place) = self.requests.get(&id).filter(|place| !place.waits) else {
            return;
        };
        let (slot, session) = (place.slot, place.session);
        let lock = self.locks.at_mut(slot);
        let hold = lock
            .holders
            .get_mut(session)
            .expect("a grant belongs to a hold");
        let Some(lease) = hold.lease else {
            return;
        };
        hold.expires = hold.expires.max(self.now.after(lease));
        self.timers
            .remove(&(hold.timer, Timer::Lease(slot, session)));
        hold.timer = timer_of(self.now, hold.lease, hold.expires);
        self.timers
            .insert((hold.timer, Timer::Lease(slot, session)));
        tell_terms(hold, out);
    }

    pub(super) fn release_session(&mut self, session: SessionId, out: &mut Vec<LockEffect>) {
        let Some(state) = self.sessions.get(&session) else {
            return;
        };
        let waits = state.waits.as_slice().to_vec();
        let holds = state.holds.as_slice().to_vec();
        for (_, id) in &waits {
            self.take_waiter(*id);
            let error = Error::LockLost;
            out.push(LockEffect::Refused { id: *id, error });
        }
        // Only now: one wait's end must not grant another of the same session.
        for (slot, _) in waits {
            self.advance(slot, out);
        }
        for slot in holds {
            self.end_hold(slot, session, out);
        }
    }

    /// Takes all grants out of a hold.
    fn end_hold(&mut self, slot: Slot, session: SessionId, out: &mut Vec<LockEffect>) {
        let lock = self.locks.at_mut(slot);
        let hold = lock
            .holders
            .get_mut(session)
            .expect("the session holds the lock");
        let grants = std::mem::take(&mut hold.grants);
        for grant in grants.as_slice() {
            self.requests.remove(&grant.id);
            self.refuse_conversions(slot, grant.id, out);
        }
        self.settle(slot, session);
        self.advance(slot, out);
    }

    /// After a hold's grants have changed: brings its mode up to date, and ends it if none are left. (Ended or not, it
    /// stays as long as a transaction is being decided under its token.)
    fn settle(&mut self, slot: Slot, session: SessionId) {
        let lock = self.locks.at_mut(slot);
        let hold = lock
            .holders
            .get(session)
            .expect("the session holds the lock");
        let (is_live, timer) = (hold.is_live(), hold.timer);
        lock.holders.settle(session);
        if !is_live {
            self.timers.remove(&(timer, Timer::Lease(slot, session)));
            let state = self
                .sessions
                .get_mut(&session)
                .expect("who holds has a session");
            state.holds.remove(|held| *held == slot);
            self.forget_session_if_idle(session);
        }
    }

    /// The grant is gone, so nothing is left to be converted.
    fn refuse_conversions(&mut self, slot: Slot, grant: RequestId, out: &mut Vec<LockEffect>) {
        let conversion_of = |table: &Self| {
            let lock = table.locks.at(slot);
            let mut lines = lock.conversions.iter();
            lines
                .find(|waiter| waiter.converts == Some(grant))
                .map(|waiter| waiter.id)
        };
        while let Some(id) = conversion_of(self) {
            self.take_waiter(id);
            let error = Error::LockLost;
            out.push(LockEffect::Refused { id, error });
        }
    }

    pub(super) fn lease_due(&mut self, slot: Slot, session: SessionId, out: &mut Vec<LockEffect>) {
        let now = self.now;
        let lock = self.locks.at_mut(slot);
        let hold = lock
            .holders
            .get_mut(session)
            .expect("a lease with a timer is held");
        if hold.expires > now {
            hold.timer = timer_of(now, hold.lease, hold.expires);
            self.timers
                .insert((hold.timer, Timer::Lease(slot, session)));
            for grant in hold.grants.as_slice() {
                out.push(LockEffect::RenewalDue { id: grant.id });
            }
            return;
        }
        hold.timer = Time::MAX;
        for grant in hold.grants.as_slice() {
            out.push(LockEffect::Lost { id: grant.id });
        }
        self.end_hold(slot, session, out);
    }
}

/// When a lease is looked at next: after a third of it, so that two more renewals fit in before it is over.
fn timer_of(now: Time, lease: Option<Duration>, expires: Time) -> Time {
    let Some(lease) = lease else {
        return Time::MAX;
    };
    // A lease of a nanosecond has no third.
    let third = (lease / 3).max(Duration::from_nanos(1));
    now.after(third).min(expires)
}

fn tell_terms(hold: &Hold, out: &mut Vec<LockEffect>) {
    for grant in hold.grants.as_slice() {
        out.push(LockEffect::Held {
            id: grant.id,
            token: hold.token,
            expires: hold.expires,
        });
    }
}
