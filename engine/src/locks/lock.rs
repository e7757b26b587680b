//! One lock: who holds it, who waits for it, and who may have it next.
//!
//! There are two lines before a lock. In the *queue* stand those who hold nothing here: first come, first served, and as
//! many from its front at once as go together, so readers enter in batches, and nobody overtakes. *Conversions* are
//! holders who want more. They go before the queue, or an upgrade would wait for a queue that waits for it; each is
//! granted as soon as its mode goes with the other holders, whatever the other conversions wait for. As long as one
//! waits nobody enters from the queue, so it waits for the present holders only.

use super::{
    message::{FencingToken, Resource, Session, SessionId},
    mode::{MODES, Mode},
};
use crate::{
    few::Few,
    ids::{RequestId, Time},
};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// One guard's part of a hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    pub(super) id: RequestId,
    pub(super) mode: Mode,
}

/// What one session holds of one lock.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) session: Session,
    /// The join of its grants' modes and of the floor.
    pub(super) mode: Mode,
    pub(super) token: FencingToken,
    pub(super) lease: Option<Duration>,
    pub(super) since: Time,
    pub(super) expires: Time,
    /// When the table looks at it again.
    pub(super) timer: Time,
    /// In the order in which they were given. None are left in a hold that only waits for its fences to be resolved.
    pub(super) grants: Few<Grant>,
    /// Transactions that are being decided under its token.
    pub(super) fences: usize,
    /// The mode below which it can't fall until they are: others must not enter before the decision.
    pub(super) floor: Option<Mode>,
}

impl Hold {
    /// Whether somebody holds the lock by it, and not only an undecided transaction.
    pub(super) fn is_live(&self) -> bool {
        !self.grants.is_empty()
    }

    /// The mode that the hold would have with one more grant in `mode`, or with `converts` turned to it.
    pub(super) fn mode_with(&self, mode: Mode, converts: Option<RequestId>) -> Mode {
        if converts.is_none() {
            return self.mode.join(mode);
        }
        let others = self.grants.as_slice().iter();
        others
            .filter(|grant| Some(grant.id) != converts)
            .map(|grant| grant.mode)
            .chain(self.floor)
            .fold(mode, Mode::join)
    }

    /// The mode that grants and floor add up to; `None` if nothing is left.
    fn joined(&self) -> Option<Mode> {
        let modes = self.grants.as_slice().iter().map(|grant| grant.mode);
        modes.chain(self.floor).reduce(Mode::join)
    }
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) id: RequestId,
    pub(super) session: Session,
    pub(super) mode: Mode,
    /// The grant whose mode it wants changed.
    pub(super) converts: Option<RequestId>,
    pub(super) lease: Option<Duration>,
    pub(super) since: Time,
    pub(super) deadline: Time,
}

/// The holders of a lock: nearly always one, sometimes many.
#[derive(Debug, Default)]
pub(super) struct Holders {
    first: Option<Hold>,
    others: BTreeMap<SessionId, Hold>,
    /// Holds by mode, so that it takes no walk over a thousand readers to let one in.
    counts: [u32; MODES],
}

impl Holders {
    pub(super) fn get(&self, session: SessionId) -> Option<&Hold> {
        match &self.first {
            Some(hold) if hold.session.id == session => Some(hold),
            _ => self.others.get(&session),
        }
    }

    pub(super) fn get_mut(&mut self, session: SessionId) -> Option<&mut Hold> {
        match &mut self.first {
            Some(hold) if hold.session.id == session => Some(hold),
            _ => self.others.get_mut(&session),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Hold> {
        self.first.iter().chain(self.others.values())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }

    pub(super) fn insert(&mut self, hold: Hold) {
        self.counts[hold.mode as usize] += 1;
        if self.first.is_none() {
            self.first = Some(hold);
        } else {
            let earlier = self.others.insert(hold.session.id, hold);
            assert!(earlier.is_none(), "a session holds a lock once");
        }
    }

    /// Brings the hold's mode up to date with its grants, and takes it out if nothing is left of it.
    pub(super) fn settle(&mut self, session: SessionId) {
        let hold = self.get_mut(session).expect("the session holds the lock");
        let (before, after) = (hold.mode, hold.joined());
        self.counts[before as usize] -= 1;
        if let Some(mode) = after {
            self.counts[mode as usize] += 1;
            self.get_mut(session).expect("it was just found").mode = mode;
        } else if self
            .first
            .as_ref()
            .is_some_and(|first| first.session.id == session)
        {
            self.first = None;
        } else {
            self.others.remove(&session);
        }
    }

    /// Whether `mode` goes with every hold but the session's own, which has mode `own`.
    pub(super) fn admit(&self, mode: Mode, own: Option<Mode>) -> bool {
        Mode::ALL.iter().all(|other| {
            let count = self.counts[*other as usize] - u32::from(own == Some(*other));
            count == 0 || mode.is_compatible(*other)
        })
    }
}

/// A lock that is held or waited for.
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) resource: Resource,
    pub(super) holders: Holders,
    pub(super) conversions: VecDeque<Waiter>,
    pub(super) queue: VecDeque<Waiter>,
}

/// What a waiting request stands against.
pub(super) enum Claim {
    /// It would enter as a holder of this mode.
    Enter(Mode),
    /// Its session's hold would go from the second to the first mode.
    Change(Mode, Mode),
    /// Its session's earlier hold waits for the end of a transaction.
    Blocked,
}

impl Lock {
    pub(super) fn new(resource: Resource) -> Self {
        Self {
            resource,
            holders: Holders::default(),
            conversions: VecDeque::new(),
            queue: VecDeque::new(),
        }
    }

    pub(super) fn waiters(&self) -> usize {
        self.conversions.len() + self.queue.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiters() == 0 && self.holders.is_empty()
    }

    pub(super) fn claim(&self, waiter: &Waiter) -> Claim {
        match self.holders.get(waiter.session.id) {
            None => Claim::Enter(waiter.mode),
            Some(hold) if hold.is_live() => {
                Claim::Change(hold.mode_with(waiter.mode, waiter.converts), hold.mode)
            }
            Some(_) => Claim::Blocked,
        }
    }

    /// Whether the holders let a request in, whatever else waits.
    pub(super) fn admits(&self, waiter: &Waiter) -> bool {
        match self.claim(waiter) {
            Claim::Enter(mode) => self.holders.admit(mode, None),
            Claim::Change(mode, own) => own.covers(mode) || self.holders.admit(mode, Some(own)),
            Claim::Blocked => false,
        }
    }

    /// Whether a new request may be granted without waiting: who holds the lock already does not stand in line.
    pub(super) fn admits_at_once(&self, waiter: &Waiter) -> bool {
        let in_turn = matches!(self.claim(waiter), Claim::Change(..)) || self.waiters() == 0;
        in_turn && self.admits(waiter)
    }

    /// Puts a request in its line. A session stands in the queue in one place: two requests of it with a stranger
    /// between them would wait for each other.
    pub(super) fn enqueue(&mut self, waiter: Waiter) {
        if matches!(self.claim(&waiter), Claim::Change(..)) {
            self.conversions.push_back(waiter);
            return;
        }
        let same = |other: &Waiter| other.session.id == waiter.session.id;
        match self.queue.iter().rposition(same) {
            Some(at) => self.queue.insert(at + 1, waiter),
            None => self.queue.push_back(waiter),
        }
    }

    /// Takes out a request that waits.
    pub(super) fn remove_waiter(&mut self, id: RequestId) -> Option<Waiter> {
        for line in [&mut self.conversions, &mut self.queue] {
            if let Some(at) = line.iter().position(|waiter| waiter.id == id) {
                return line.remove(at);
            }
        }
        None
    }

    /// Takes out the next request that may be granted.
    pub(super) fn next_admitted(&mut self) -> Option<Waiter> {
        let ready = self
            .conversions
            .iter()
            .position(|waiter| self.admits(waiter));
        if let Some(at) = ready {
            return self.conversions.remove(at);
        }
        let front = self.queue.front()?;
        if self.conversions.is_empty() && self.admits(front) {
            return self.queue.pop_front();
        }
        None
    }
}
