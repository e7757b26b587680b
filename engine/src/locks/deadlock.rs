//! The deadlock search.
//!
//! A session that waits has an edge to every session that must give way first: those that hold the lock in a mode that
//! does not go with what it wants, and for a request in the queue also everybody before it. A cycle of edges is a
//! deadlock, in which the youngest session loses: its waiting request is refused at once, with the cycle in the error.
//! What it holds it keeps; it must give it up, or the others go on waiting for it.
//!
//! ```text
//!  session 1 ── waits for lock "b", held by ──▶ session 2
//!      ▲                                           │
//!      └── held by session 1, waits for lock "a" ──┘     session 2 began later: it is the victim
//! ```
//!
//! # Why it finds every deadlock the moment it forms
//!
//! An edge begins where a request begins to wait, and where the grant of a session that waits elsewhere puts it in
//! somebody's way (an upgrade). Every new edge begins or ends at that session, and so does every new cycle. So
//! each such session is searched from, and nothing else ever needs to be. Releases, refusals and other grants only take
//! edges away.
//!
//! # What it costs
//!
//! A cycle leads back to its session, so somebody must wait for it: where it holds nothing that is waited for, as usual,
//! the answer is no at once. Else the search goes breadth first, so that the cycle is a shortest one; it looks at each
//! waiting request once, and at each lock's holders once a mode.
//!
//! A session with several waits at a time waits for all of them. A hold that is left only because a transaction under
//! its token is being decided has no edges: it ends without anybody giving way.

use super::{
    lock::{Claim, Waiter},
    message::{LockEffect, Resource, Session, SessionId},
    mode::Mode,
    slots::Slot,
    table::LockTable,
};
use crate::{error::Error, ids::RequestId};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
};

/// One step of a deadlock: this session waits for what the session of the next step has or is to have before it, and
/// the last waits for the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitsFor {
    /// Who waits.
    pub session: SessionId,
    /// For what.
    pub resource: Resource,
    /// In which mode.
    pub mode: Mode,
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            session,
            resource,
            mode,
        } = self;
        write!(f, "{session} waits for {resource} ({mode})")
    }
}

/// A cycle in words.
pub(crate) fn describe_cycle(cycle: &[WaitsFor]) -> String {
    let steps: Vec<String> = cycle.iter().map(WaitsFor::to_string).collect();
    steps.join(", which ")
}

/// How the search came to a session: by whose wait.
struct Step {
    from: Session,
    slot: Slot,
    waiter: RequestId,
}

/// A search from one session.
struct Search<'a> {
    table: &'a LockTable,
    start: SessionId,
    /// How each session was reached.
    reached: HashMap<SessionId, Step>,
    frontier: VecDeque<Session>,
    /// How far each queue has been looked through from its front.
    queued: HashMap<Slot, usize>,
    /// The locks whose holders, and whose conversions, have been looked through.
    held: HashSet<(Slot, Mode)>,
    converting: HashSet<Slot>,
}

impl Search<'_> {
    /// Follows the edges of one waiting request. Answers whether one leads back to the start.
    fn follow(&mut self, slot: Slot, waiter: RequestId) -> bool {
        let lock = self.table.locks.at(slot);
        let in_queue = lock.queue.iter().position(|other| other.id == waiter);
        let waiter = match in_queue {
            Some(at) => &lock.queue[at],
            None => lock
                .conversions
                .iter()
                .find(|other| other.id == waiter)
                .expect("who waits stands in a line"),
        };
        let from = waiter.session;
        let mode = match lock.claim(waiter) {
            Claim::Enter(mode) | Claim::Change(mode, _) => mode,
            // Its own earlier hold ends by itself, the others' do not.
            Claim::Blocked => waiter.mode,
        };
        // The start's own requests pass over the start, which others must not: only the others' walks are noted.
        let is_start = from.id == self.start;
        if is_start || self.held.insert((slot, mode)) {
            for hold in lock.holders.iter() {
                if hold.is_live()
                    && !hold.mode.is_compatible(mode)
                    && self.reach(hold.session, slot, waiter)
                {
                    return true;
                }
            }
        }
        let Some(at) = in_queue else {
            return false;
        };
        if is_start || self.converting.insert(slot) {
            for before in &lock.conversions {
                if self.reach(before.session, slot, waiter) {
                    return true;
                }
            }
        }
        let seen = self.queued.get(&slot).copied().unwrap_or(0);
        for before in lock.queue.range(seen.min(at)..at) {
            if self.reach(before.session, slot, waiter) {
                return true;
            }
        }
        if !is_start {
            self.queued.insert(slot, seen.max(at));
        }
        false
    }

    /// Comes to `to` by the wait of another session. Answers whether it is the start.
    fn reach(&mut self, to: Session, slot: Slot, waiter: &Waiter) -> bool {
        let from = waiter.session;
        if to.id == from.id || self.reached.contains_key(&to.id) {
            return false;
        }
        let step = Step {
            from,
            slot,
            waiter: waiter.id,
        };
        self.reached.insert(to.id, step);
        self.frontier.push_back(to);
        to.id == self.start
    }

    /// The waits that lead from the start back to it.
    fn run(mut self) -> Option<Vec<(Session, Slot, RequestId)>> {
        let start = self.table.sessions.get(&self.start)?;
        for &(slot, waiter) in start.waits.as_slice() {
            self.follow(slot, waiter);
        }
        while let Some(session) = self.frontier.pop_front() {
            let Some(state) = self.table.sessions.get(&session.id) else {
                continue;
            };
            for &(slot, waiter) in state.waits.as_slice() {
                if self.follow(slot, waiter) {
                    return Some(self.cycle());
                }
            }
        }
        None
    }

    fn cycle(&self) -> Vec<(Session, Slot, RequestId)> {
        let mut cycle = Vec::new();
        let mut at = self.start;
        loop {
            let step = &self.reached[&at];
            cycle.push((step.from, step.slot, step.waiter));
            at = step.from.id;
            if at == self.start {
                cycle.reverse();
                return cycle;
            }
        }
    }
}

impl LockTable {
    /// Searches from every session at which an edge may have begun, and refuses victims until no cycle is left.
    pub(super) fn break_cycles(&mut self, out: &mut Vec<LockEffect>) {
        while let Some(session) = self.suspects.pop_front() {
            while self.is_awaited(session)
                && let Some(cycle) = self.find_cycle(session)
            {
                self.refuse_youngest(&cycle, out);
            }
        }
    }

    /// Whether the session waits, and somebody may wait for it.
    fn is_awaited(&self, session: SessionId) -> bool {
        let Some(state) = self.sessions.get(&session) else {
            return false;
        };
        let waits = state.waits.as_slice();
        let holds = state.holds.as_slice();
        match waits {
            [] => false,
            // Behind a single new wait in the queue stands nobody, and before a conversion stands a hold.
            [(slot, _)] => holds.iter().any(|held| {
                let own = usize::from(held == slot);
                self.locks.at(*held).waiters() > own
            }),
            _ => true,
        }
    }

    fn find_cycle(&self, start: SessionId) -> Option<Vec<(Session, Slot, RequestId)>> {
        let search = Search {
            table: self,
            start,
            reached: HashMap::new(),
            frontier: VecDeque::new(),
            queued: HashMap::new(),
            held: HashSet::new(),
            converting: HashSet::new(),
        };
        search.run()
    }

    fn refuse_youngest(&mut self, cycle: &[(Session, Slot, RequestId)], out: &mut Vec<LockEffect>) {
        let youngest = (0..cycle.len()).max_by_key(|at| cycle[*at].0);
        let youngest = youngest.expect("a cycle has sessions");
        let (_, slot, id) = cycle[youngest];
        let steps = cycle[youngest..].iter().chain(&cycle[..youngest]);
        let steps = steps.map(|&(session, slot, waiter)| {
            let lock = self.locks.at(slot);
            let mut lines = lock.conversions.iter().chain(&lock.queue);
            let waiter = lines.find(|other| other.id == waiter);
            WaitsFor {
                session: session.id,
                resource: lock.resource.clone(),
                mode: waiter.expect("who waits stands in a line").mode,
            }
        });
        let error = Error::Deadlock {
            cycle: steps.collect(),
        };
        self.take_waiter(id);
        out.push(LockEffect::Refused { id, error });
        self.advance(slot, out);
    }
}
