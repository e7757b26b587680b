//! The lock table: the state machine of the lock manager.

use super::{
    Mode,
    fence::Fenced,
    lock::{Lock, Waiter},
    message::{Acquire, FencingToken, LockEffect, LockMessage, Resource, SessionId, Wait},
    slots::{Slot, Slots},
};
use crate::{
    error::{Error, Result},
    few::Few,
    ids::{Incarnation, RequestId, Time, TxnId},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map::Entry},
    time::Duration,
};

/// The lock manager's first life in an opening.
pub const FIRST_LOCK_LIFE: Incarnation = Incarnation(1);
/// The longest name of a lock, in bytes.
pub const MAX_LOCK_NAME_BYTES: usize = 255;

/// What bounds the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockLimits {
    /// Locks held or waited for.
    pub locks: usize,
    /// Sessions that hold or wait.
    pub sessions: usize,
    /// Grants and waiting requests together; also the transactions under a fence.
    pub requests: usize,
    /// Requests that wait for one lock.
    pub waiters_per_lock: usize,
    /// The longest lease; so long is nothing granted after a restart.
    pub max_lease: Duration,
    /// How long after its deadline, and after each question, the journal is asked for the fate of a transaction again.
    pub ask_again: Duration,
}

impl Default for LockLimits {
    fn default() -> Self {
        Self {
            locks: 1_000_000,
            sessions: 1_000_000,
            requests: 4_000_000,
            waiters_per_lock: 10_000,
            max_lease: Duration::from_secs(30),
            ask_again: Duration::from_millis(100),
        }
    }
}

/// What a request's number stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) slot: Slot,
    pub(super) session: SessionId,
    pub(super) waits: bool,
}

/// What a session holds and waits for.
#[derive(Debug, Default)]
pub(super) struct SessionState {
    pub(super) holds: Few<Slot>,
    pub(super) waits: Few<(Slot, RequestId)>,
}

/// What the table looks at when its time comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The leases of the life before are over.
    Open,
    /// A lease is due for renewal, or over.
    Lease(Slot, SessionId),
    /// The journal does not know this life yet.
    Announce,
    /// A transaction is past its deadline.
    Fence(TxnId),
    /// A request has waited long enough.
    Wait(RequestId),
}

/// The state machine of the lock manager. `super` tells how it works.
#[derive(Debug)]
pub struct LockTable {
    pub(super) limits: LockLimits,
    pub(super) last_token: FencingToken,
    grants_from: Time,
    pub(super) now: Time,
    pub(super) locks: Slots,
    pub(super) index: HashMap<Resource, Slot>,
    pub(super) requests: HashMap<RequestId, Place>,
    pub(super) sessions: HashMap<SessionId, SessionState>,
    pub(super) timers: BTreeSet<(Time, Timer)>,
    /// The transactions under a fence.
    pub(super) fences: BTreeMap<TxnId, Fenced>,
    /// Which life of the lock manager this is, in this opening.
    pub(super) life: Incarnation,
    /// When it is announced to the journal again; `None` once that knows it.
    pub(super) announced_again: Option<Time>,
    /// Sessions that wait, and for which somebody may have begun to wait since.
    pub(super) suspects: VecDeque<SessionId>,
}

impl LockTable {
    /// An empty table in a new opening, whose number must be higher than that of any earlier one, and durable. Nothing is
    /// granted before `grants_from`, when the leases of the opening before have run out.
    ///
    /// # Panics
    ///
    /// Panics if `opening` is beyond [`FencingToken::LAST_OPENING`].
    #[must_use]
    pub fn new(limits: LockLimits, opening: u64, grants_from: Time) -> Self {
        Self {
            limits,
            last_token: FencingToken::before(opening),
            grants_from,
            life: FIRST_LOCK_LIFE,
            announced_again: None,
            now: Time::default(),
            locks: Slots::default(),
            index: HashMap::new(),
            requests: HashMap::new(),
            sessions: HashMap::new(),
            timers: BTreeSet::from([(grants_from, Timer::Open)]),
            fences: BTreeMap::new(),
            suspects: VecDeque::new(),
        }
    }

    /// An empty table in the lock manager's next life, in place of one that broke: its tokens go on. It announces itself to
    /// the journal, and grants nothing before that knows it, before `grants_from`, and before this one would have begun to:
    /// leases of an earlier opening may run.
    #[must_use]
    pub fn next_life(&self, grants_from: Time) -> Self {
        let grants_from = grants_from.max(self.grants_from);
        let mut table = Self::new(self.limits, self.last_token.opening(), grants_from);
        table.last_token = self.last_token;
        table.life = self.life.next();
        table.announced_again = Some(Time(0));
        table.timers.insert((Time(0), Timer::Announce));
        table
    }

    /// Which life of the lock manager this is, in this opening: its votes name it.
    #[must_use]
    pub fn life(&self) -> Incarnation {
        self.life
    }

    /// How many transactions are being decided under fences.
    #[must_use]
    pub fn fenced(&self) -> usize {
        self.fences.len()
    }

    /// Takes one message. `now` is monotonic; an earlier time than before counts as the time before.
    pub fn handle(&mut self, now: Time, message: LockMessage, out: &mut Vec<LockEffect>) {
        // What is over by now is over before the message: no answer rests on a lease that has run out.
        self.handle_timeout(now, out);
        match message {
            LockMessage::Acquire(acquire) => self.acquire(acquire, out),
            LockMessage::Convert {
                id,
                grant,
                mode,
                wait,
            } => self.convert(id, grant, mode, wait, out),
            LockMessage::Release { id } => self.release(id, out),
            LockMessage::Renew { id } => self.renew(id, out),
            LockMessage::ReleaseSession { session } => self.release_session(session, out),
            LockMessage::PrepareFence {
                txn,
                fences,
                deadline,
            } => self.prepare_fence(txn, &fences, deadline, out),
            LockMessage::ResolveFence { txn } => self.resolve_fence(txn, out),
            LockMessage::LifeKnown { life } => self.life_known(life, out),
        }
        self.break_cycles(out);
    }

    /// Does what is due by `now`.
    pub fn handle_timeout(&mut self, now: Time, out: &mut Vec<LockEffect>) {
        self.now = self.now.max(now);
        while let Some(&(time, timer)) = self.timers.first()
            && time <= self.now
        {
            self.timers.pop_first();
            match timer {
                Timer::Open => self.open(out),
                Timer::Lease(slot, session) => self.lease_due(slot, session, out),
                Timer::Announce => self.announce(out),
                Timer::Fence(txn) => self.fence_due(txn, out),
                Timer::Wait(id) => {
                    let waiter = self
                        .take_waiter(id)
                        .expect("a wait with a timer is waiting");
                    let slot = waiter.0;
                    let error = Error::LockTimeout {
                        resource: self.locks.at(slot).resource.clone(),
                    };
                    out.push(LockEffect::Refused { id, error });
                    self.advance(slot, out);
                }
            }
        }
        self.break_cycles(out);
    }

    /// When [`LockTable::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(time, _)| *time)
    }

    /// Locks held or waited for, sessions that hold or wait, and requests granted or waiting.
    #[must_use]
    pub fn sizes(&self) -> [usize; 3] {
        [self.index.len(), self.sessions.len(), self.requests.len()]
    }

    fn acquire(&mut self, acquire: Acquire, out: &mut Vec<LockEffect>) {
        let id = acquire.id;
        if let Err(error) = self.try_acquire(acquire, out) {
            out.push(LockEffect::Refused { id, error });
        }
    }

    fn try_acquire(&mut self, acquire: Acquire, out: &mut Vec<LockEffect>) -> Result<()> {
        self.check(&acquire)?;
        let Acquire {
            id,
            session,
            resource,
            mode,
            wait,
            lease,
        } = acquire;
        let slot = self.slot(resource)?;
        let waiter = Waiter {
            id,
            session,
            mode,
            converts: None,
            lease,
            since: self.now,
            deadline: deadline(wait),
        };
        let outcome = self.grant_or_wait(slot, waiter, wait, out);
        if outcome.is_err() {
            self.forget_if_idle(slot);
        }
        outcome
    }

    fn check(&self, acquire: &Acquire) -> Result<()> {
        if let Resource::Lock(name) = &acquire.resource {
            let reason = match name.len() {
                0 => Some("it is empty"),
                1..=MAX_LOCK_NAME_BYTES => None,
                _ => Some("names have up to 255 bytes"),
            };
            if let Some(reason) = reason {
                let name = name.to_string();
                return Err(Error::InvalidLockName { name, reason });
            }
        }
        if let Some(lease) = acquire.lease
            && (lease.is_zero() || lease > self.limits.max_lease)
        {
            return Err(Error::InvalidOption {
                option: "lease",
                value: format!("{lease:?}"),
                reason: "a lease is longer than nothing and at most `max_lease`",
            });
        }
        if deadline(acquire.wait) <= self.now && acquire.wait != Wait::Never {
            return Err(Error::LockTimeout {
                resource: acquire.resource.clone(),
            });
        }
        self.check_room()?;
        if self.sessions.len() >= self.limits.sessions
            && !self.sessions.contains_key(&acquire.session.id)
        {
            return Err(Error::Overloaded {
                what: "the lock table's sessions",
            });
        }
        Ok(())
    }

    fn check_room(&self) -> Result<()> {
        if self.requests.len() >= self.limits.requests {
            return Err(Error::Overloaded {
                what: "the lock table's requests",
            });
        }
        Ok(())
    }

    fn convert(
        &mut self,
        id: RequestId,
        grant: RequestId,
        mode: Mode,
        wait: Wait,
        out: &mut Vec<LockEffect>,
    ) {
        let refused = |error| LockEffect::Refused { id, error };
        let Some(place) = self
            .requests
            .get(&grant)
            .copied()
            .filter(|place| !place.waits)
        else {
            out.push(refused(Error::LockLost));
            return;
        };
        let hold = self.locks.at(place.slot).holders.get(place.session);
        let session = hold.expect("a grant belongs to a hold").session;
        let waiter = Waiter {
            id,
            session,
            mode,
            converts: Some(grant),
            lease: None,
            since: self.now,
            deadline: deadline(wait),
        };
        let overdue = wait != Wait::Never && waiter.deadline <= self.now;
        let outcome = match overdue {
            true => Err(Error::LockTimeout {
                resource: self.locks.at(place.slot).resource.clone(),
            }),
            false => self
                .check_room()
                .and_then(|()| self.grant_or_wait(place.slot, waiter, wait, out)),
        };
        if let Err(error) = outcome {
            out.push(refused(error));
        }
        // A conversion can weaken a hold: others may enter.
        self.advance(place.slot, out);
    }

    fn grant_or_wait(
        &mut self,
        slot: Slot,
        waiter: Waiter,
        wait: Wait,
        out: &mut Vec<LockEffect>,
    ) -> Result<()> {
        let is_open = self.is_open();
        let lock = self.locks.at_mut(slot);
        if is_open && lock.admits_at_once(&waiter) {
            self.grant(slot, waiter, out);
            return Ok(());
        }
        if wait == Wait::Never {
            let resource = lock.resource.clone();
            return Err(Error::LockBusy { resource });
        }
        if lock.waiters() >= self.limits.waiters_per_lock {
            return Err(Error::Overloaded {
                what: "the queue of the lock",
            });
        }
        let (id, session) = (waiter.id, waiter.session.id);
        if waiter.deadline != Time::MAX {
            self.timers.insert((waiter.deadline, Timer::Wait(id)));
        }
        lock.enqueue(waiter);
        let place = Place {
            slot,
            session,
            waits: true,
        };
        self.number(id, place);
        self.sessions
            .entry(session)
            .or_default()
            .waits
            .push((slot, id));
        self.suspects.push_back(session);
        Ok(())
    }

    pub(super) fn number(&mut self, id: RequestId, place: Place) {
        let earlier = self.requests.insert(id, place);
        assert!(earlier.is_none(), "request {id} was numbered like another");
    }

    /// Takes a request out of its line and forgets it.
    pub(super) fn take_waiter(&mut self, id: RequestId) -> Option<(Slot, Waiter)> {
        let place = *self.requests.get(&id).filter(|place| place.waits)?;
        let lock = self.locks.at_mut(place.slot);
        let waiter = lock.remove_waiter(id).expect("who waits stands in a line");
        self.left_line(place.slot, &waiter);
        Some((place.slot, waiter))
    }

    fn left_line(&mut self, slot: Slot, waiter: &Waiter) {
        self.requests.remove(&waiter.id);
        self.timers
            .remove(&(waiter.deadline, Timer::Wait(waiter.id)));
        let session = waiter.session.id;
        let state = self
            .sessions
            .get_mut(&session)
            .expect("who waits has a session");
        state.waits.remove(|wait| *wait == (slot, waiter.id));
        self.forget_session_if_idle(session);
    }

    /// Grants whatever can be granted now.
    pub(super) fn advance(&mut self, slot: Slot, out: &mut Vec<LockEffect>) {
        if self.is_open() {
            while let Some(waiter) = self.locks.find_mut(slot).and_then(Lock::next_admitted) {
                self.left_line(slot, &waiter);
                self.grant(slot, waiter, out);
            }
        }
        self.forget_if_idle(slot);
    }

    /// Whether anything may be granted: the leases of the life before are over, and the journal knows this one.
    fn is_open(&self) -> bool {
        self.now >= self.grants_from && self.announced_again.is_none()
    }

    /// Grants may begin, if nothing else is in the way.
    pub(super) fn open(&mut self, out: &mut Vec<LockEffect>) {
        for slot in self.locks.places() {
            self.advance(slot, out);
        }
    }

    fn slot(&mut self, resource: Resource) -> Result<Slot> {
        let is_full = self.index.len() >= self.limits.locks;
        let vacant = match self.index.entry(resource) {
            Entry::Occupied(entry) => return Ok(*entry.get()),
            Entry::Vacant(_) if is_full => {
                return Err(Error::Overloaded {
                    what: "the lock table",
                });
            }
            Entry::Vacant(vacant) => vacant,
        };
        let slot = self.locks.insert(Lock::new(vacant.key().clone()));
        vacant.insert(slot);
        Ok(slot)
    }

    /// Tokens are counted for all locks together, so that a lock whose name is forgotten can't fall back.
    fn forget_if_idle(&mut self, slot: Slot) {
        if let Some(lock) = self.locks.take_if_idle(slot) {
            self.index.remove(&lock.resource);
        }
    }

    pub(super) fn forget_session_if_idle(&mut self, session: SessionId) {
        let state = self.sessions.get(&session);
        if state.is_some_and(|state| state.holds.is_empty() && state.waits.is_empty()) {
            self.sessions.remove(&session);
        }
    }
}

fn deadline(wait: Wait) -> Time {
    match wait {
        Wait::Never => Time::default(),
        Wait::Until(deadline) => deadline,
    }
}
