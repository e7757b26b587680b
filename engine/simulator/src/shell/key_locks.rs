//! Keys that transactions lock ahead, as handles do it: in the transaction's own name, or in that of a session that has
//! named locks too. And what must be true of deadlocks, looked at from outside of the table.
//!
//! While the lock manager lives, two sessions never hold a key together; who is refused for a deadlock is in a cycle of
//! waits and is its youngest; and no cycle is left when a message has been handled. A panic of the lock manager loses the
//! keys, and nobody is told: they save work and promise nothing.

use super::locks::{Ticket, resource_of};
use crate::{mutation::Mutation, network::Party, report::Seen, world::World};
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    ids::{RequestId, Time},
    locks::{
        Acquire, LockEffect, LockListing, LockMessage, Mode, Resource, Session, SessionId, Wait,
        WaitsFor,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// A request for a key, and what came of it.
#[derive(Debug)]
pub(crate) struct KeyTicket {
    pub(super) key: Bytes,
    pub(super) session: SessionId,
    pub(super) answer: Option<Result<()>>,
    /// The lock manager has it; before that it is on its way, whoever will read it.
    is_submitted: bool,
    /// Its transaction knows that it was granted.
    is_kept: bool,
}

/// The keys that a transaction has locked.
#[derive(Debug)]
pub(crate) struct KeyLocks {
    pub(crate) session: SessionId,
    pub(crate) grants: Vec<RequestId>,
}

impl World {
    /// A transaction asks for a key.
    pub(crate) fn ask_for_key(
        &mut self,
        client: usize,
        session: Session,
        key: Bytes,
        until: Time,
    ) -> RequestId {
        let id = RequestId(self.next_number());
        self.locks.ages.insert(session.id, session.begun);
        let ticket = KeyTicket {
            key: key.clone(),
            session: session.id,
            answer: None,
            is_submitted: false,
            is_kept: false,
        };
        self.process.locks.keys.insert(id, ticket);
        let acquire = Acquire {
            id,
            session,
            resource: Resource::Key(key),
            mode: match self.mutated(Mutation::ShareKeys) {
                true => Mode::Shared,
                false => Mode::Exclusive,
            },
            wait: Wait::Until(until),
            lease: None,
        };
        self.tell_locks_from(party(client), LockMessage::Acquire(acquire));
        id
    }

    /// What became of a request, if it was answered. A refusal is forgotten with that.
    pub(crate) fn key_answer(&mut self, id: RequestId) -> Option<Result<Bytes>> {
        let tickets = &mut self.process.locks.keys;
        let ticket = tickets.get_mut(&id).expect("nobody else ends it");
        match ticket.answer.clone()? {
            Ok(()) => {
                ticket.is_kept = true;
                Some(Ok(ticket.key.clone()))
            }
            Err(error) => {
                tickets.remove(&id);
                Some(Err(error))
            }
        }
    }

    /// Its future was dropped: it leaves the queue, or gives back what it was just granted.
    pub(crate) fn withdraw(&mut self, client: usize, id: RequestId) {
        if self.process.locks.keys.remove(&id).is_some() && !self.mutated(Mutation::LeaveKeys) {
            self.tell_locks_from(party(client), LockMessage::Release { id });
        }
    }

    /// A transaction has ended.
    pub(crate) fn release_keys(&mut self, client: usize, locks: KeyLocks) {
        let KeyLocks { session, grants } = locks;
        for id in &grants {
            self.process.locks.keys.remove(id);
        }
        match session {
            SessionId::Transaction(_) if grants.is_empty() => {}
            SessionId::Transaction(_) => {
                self.tell_locks_from(party(client), LockMessage::ReleaseSession { session });
            }
            SessionId::Application(_) => {
                for id in grants {
                    self.tell_locks_from(party(client), LockMessage::Release { id });
                }
            }
        }
    }

    /// A request arrives.
    pub(super) fn key_submitted(&mut self, id: RequestId) {
        if let Some(ticket) = self.process.locks.keys.get_mut(&id) {
            ticket.is_submitted = true;
        }
    }

    /// A key is granted; whether the request was for a key.
    pub(super) fn key_held(&mut self, id: RequestId) -> bool {
        let tickets = &mut self.process.locks.keys;
        let Some(ticket) = tickets.get_mut(&id) else {
            return false;
        };
        ticket.answer = Some(Ok(()));
        let (key, session) = (ticket.key.clone(), ticket.session);
        let mut others = tickets.values().filter(|other| other.key == key);
        let other = others.find(|other| other.session != session && other.answer == Some(Ok(())));
        assert!(
            other.is_none(),
            "{session} and {} both hold {}",
            other.map_or(session, |other| other.session),
            Resource::Key(key)
        );
        self.count(Seen::KeyLocked, 1);
        true
    }

    /// A request is refused; whether it was for a key.
    pub(super) fn key_refused(&mut self, id: RequestId, error: &Error) -> bool {
        let is_deadlock = matches!(error, Error::Deadlock { .. });
        let forgets = is_deadlock && self.mutated(Mutation::ForgetVictim);
        let Some(ticket) = self.process.locks.keys.get_mut(&id) else {
            return false;
        };
        if !forgets {
            ticket.answer = Some(Err(error.clone()));
        }
        if is_deadlock {
            self.count(Seen::KeyDeadlock, 1);
        }
        true
    }

    /// The table is given up: who waits hears of it, who knows that he holds does not.
    pub(super) fn lose_keys(&mut self, error: &Error) {
        let tickets = &mut self.process.locks.keys;
        tickets.retain(|_, ticket| !ticket.is_kept);
        for ticket in tickets.values_mut() {
            if ticket.is_submitted && !matches!(ticket.answer, Some(Err(_))) {
                ticket.answer = Some(Err(error.clone()));
            }
        }
    }

    /// Has the table do something, and looks at what it says of deadlocks.
    pub(super) fn with_lock_table(
        &mut self,
        message: Option<LockMessage>,
        out: &mut Vec<LockEffect>,
    ) {
        let asks = message.as_ref().and_then(|message| self.who_asks(message));
        let (now, done) = (self.now, out.len());
        let shell = &mut self.process.locks;
        let before = shell.table.list(usize::MAX);
        match message {
            Some(message) => shell.table.handle(now, message, out),
            None => shell.table.handle_timeout(now, out),
        }
        let after = shell.table.list(usize::MAX);
        let mut mixed = 0;
        for effect in &out[done..] {
            if let LockEffect::Refused {
                id,
                error: Error::Deadlock { cycle },
            } = effect
            {
                self.check_victim(*id, cycle, [&before, &after], asks.as_ref());
                mixed += u64::from(is_mixed(cycle));
            }
        }
        check_no_cycle(&after);
        self.count(Seen::MixedDeadlock, mixed);
    }

    /// Who begins to wait, and for what, if it is granted or refused at once.
    fn who_asks(&self, message: &LockMessage) -> Option<(SessionId, Resource)> {
        match message {
            LockMessage::Acquire(acquire) => Some((acquire.session.id, acquire.resource.clone())),
            // The grant may have been given back since.
            LockMessage::Convert { id, .. } => {
                let ticket = self.process.locks.tickets.get(id)?;
                Some((SessionId::Application(ticket.session), resource_of(ticket)))
            }
            _ => None,
        }
    }

    fn check_victim(
        &self,
        id: RequestId,
        cycle: &[WaitsFor],
        lists: [&[LockListing]; 2],
        asks: Option<&(SessionId, Resource)>,
    ) {
        let locks = &self.process.locks;
        let victim = match (locks.keys.get(&id), locks.tickets.get(&id)) {
            (Some(ticket), _) => Some(ticket.session),
            (_, Some(Ticket { session, .. })) => Some(SessionId::Application(*session)),
            // It has walked away meanwhile.
            (None, None) => None,
        };
        let sessions: Vec<_> = cycle.iter().map(|step| step.session).collect();
        assert!(
            victim.is_none_or(|victim| victim == sessions[0]),
            "request {id} was refused for {sessions:?}"
        );
        let age = |session: &SessionId| (self.locks.ages.get(session), *session);
        let youngest = sessions.iter().copied().max_by_key(age);
        assert_eq!(youngest, sessions.first().copied(), "of {sessions:?}");
        for (at, step) in cycle.iter().enumerate() {
            let next = sessions[(at + 1) % sessions.len()];
            let lists = || lists.iter().flat_map(|list| list.iter());
            let mut entries = lists().filter(|entry| entry.resource == step.resource);
            let is_asking = asks == Some(&(step.session, step.resource.clone()));
            let mut waits = is_asking;
            let mut is_before = false;
            for entry in entries.by_ref() {
                let mut waiters = entry.waiters.iter().map(|waiter| waiter.session);
                waits |= waiters.any(|session| session == step.session);
                let holders = entry.holders.iter().map(|holder| holder.session);
                let waiters = entry.waiters.iter().map(|waiter| waiter.session);
                is_before |= holders.chain(waiters).any(|session| session == next);
            }
            assert!(
                waits && is_before,
                "{step} is no wait for {next}, in the deadlock of {sessions:?}"
            );
        }
    }
}

/// Whether a cycle goes over keys and named locks.
fn is_mixed(cycle: &[WaitsFor]) -> bool {
    let is_key = |step: &WaitsFor| matches!(step.resource, Resource::Key(_));
    cycle.iter().any(is_key) && !cycle.iter().all(is_key)
}

fn party(client: usize) -> Party {
    Party::Client(client as u8)
}

/// # Panics
///
/// Panics if sessions wait for each other.
fn check_no_cycle(locks: &[LockListing]) {
    let mut edges: BTreeMap<SessionId, BTreeSet<SessionId>> = BTreeMap::new();
    for waiter in locks.iter().flat_map(|lock| &lock.waiters) {
        let waits_for = edges.entry(waiter.session).or_default();
        waits_for.extend(&waiter.waits_for);
    }
    // Who waits for nobody that waits is taken away, until nobody is left.
    loop {
        let before = edges.len();
        let waiting: BTreeSet<_> = edges.keys().copied().collect();
        edges.retain(|_, waits_for| !waits_for.is_disjoint(&waiting));
        if edges.len() == before {
            break;
        }
    }
    assert!(edges.is_empty(), "sessions wait for each other: {edges:?}");
}
