//! The shell of the lock manager.
//!
//! A panic gives the whole table up, as in the real shell: who waits or holds is told, and the next life grants nothing
//! before the last lease of this one is over and the journal has said that it knows of the new life. The history of each
//! lock does not count that as an end of its grants: a holder may be looking elsewhere.

use super::key_locks::KeyTicket;
use crate::{
    checker::locks::{Event, LockHistory},
    faults::Fault,
    mutation::Mutation,
    network::{Message, Party},
    report::Seen,
    scale::Scale,
    world::World,
};
use mailring_engine::{
    Error,
    coordinator::CoordinatorMessage,
    ids::{Epoch, Incarnation, RequestId, Time, TxnId},
    locks::{
        Acquire, FIRST_LOCK_LIFE, FencingToken, LockEffect, LockMessage, LockTable, Mode, Resource,
        SessionId,
    },
    restart::{Restarts, Verdict},
    sequencer::JournalMessage,
    transaction::{Ask, Asker, Ballot, Fence, FenceVote},
};
use std::{collections::BTreeMap, sync::Arc};

pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];

/// A request, and what came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    pub(crate) session: u64,
    pub(crate) lock: usize,
    pub(crate) mode: Mode,
    /// The grant whose mode it is to change, if it is no request of its own.
    pub(crate) converts: Option<RequestId>,
    pub(crate) held: Option<(FencingToken, Time)>,
}

/// The shell of the lock manager.
pub(crate) struct LockShell {
    pub(crate) table: LockTable,
    /// The life that the journal has been told of.
    pub(crate) known_life: Incarnation,
    pub(crate) tickets: BTreeMap<RequestId, Ticket>,
    /// Requests of transactions for keys.
    pub(super) keys: BTreeMap<RequestId, KeyTicket>,
    restarts: Restarts,
    /// When the last lease that was told to anybody runs out, also in an earlier opening.
    last_lease: Time,
    pub(crate) is_down: bool,
    /// When the clock is to tick it.
    due: Option<Time>,
}

impl LockShell {
    pub(crate) fn new(scale: Scale, opening: u64, grants_from: Time, restarts: Restarts) -> Self {
        let table = LockTable::new(scale.locks(), opening, grants_from);
        Self {
            due: table.next_timeout(),
            table,
            known_life: FIRST_LOCK_LIFE,
            tickets: BTreeMap::new(),
            keys: BTreeMap::new(),
            restarts,
            // The leases of an earlier opening count too.
            last_lease: grants_from,
            is_down: false,
        }
    }

    /// Whether nobody holds or waits, and nothing is kept for a transaction.
    pub(crate) fn is_idle(&self) -> bool {
        self.tickets.is_empty()
            && self.keys.is_empty()
            && self.table.fenced() == 0
            && self.table.sizes() == [0; 3]
    }
}

/// What outlives the process: the history of each lock.
#[derive(Debug, Default)]
pub(crate) struct LockBooks {
    histories: [LockHistory; NAMES.len()],
    /// Grants in their order, as those who carry fences know them.
    pub(crate) grants: Vec<Fence>,
    /// Rises when tickets are gone: then sessions of the same number are others.
    pub(crate) generation: u64,
    /// When each session began.
    pub(crate) ages: BTreeMap<SessionId, Time>,
}

pub(super) fn resource_of(ticket: &Ticket) -> Resource {
    Resource::Lock(NAMES[ticket.lock].into())
}

impl LockBooks {
    /// The sessions of a process, or of a life of the lock manager, are gone.
    pub(crate) fn begin_generation(&mut self) {
        self.generation += 1;
        self.ages.clear();
    }

    /// What was not forced is not written.
    pub(crate) fn forget_writes_behind(&mut self, last: mailring_engine::ids::Lsn) {
        for history in &mut self.histories {
            history.forget_writes_behind(last);
        }
    }

    /// # Panics
    ///
    /// Panics if a history is broken.
    pub(crate) fn check(&self) {
        for (name, history) in NAMES.iter().zip(&self.histories) {
            if let Err(violation) = history.check() {
                panic!("lock {name}: {violation}; {}", history.tail());
            }
        }
    }
}

impl World {
    /// Transactions under fences have their LSNs.
    pub(crate) fn note_fenced_commits(&mut self) {
        for (fence, lsn) in std::mem::take(&mut self.model.fenced) {
            self.count(Seen::Fenced, 1);
            let token = fence.token;
            let wrote = Event::Wrote { token, lsn };
            let lock = NAMES.iter().position(|name| **name == *fence.lock);
            self.locks.histories[lock.expect("a known lock")].push(self.since_start(), wrote);
        }
    }

    pub(crate) fn tell_locks_from(&mut self, from: Party, message: LockMessage) {
        self.send(from, Party::Locks, Message::Locks(message));
    }

    pub(crate) fn lock_step(&mut self, message: LockMessage) {
        if let LockMessage::Acquire(acquire) = &message {
            self.key_submitted(acquire.id);
        }
        if self.process.locks.is_down {
            match message {
                LockMessage::Acquire(Acquire { id, .. }) | LockMessage::Convert { id, .. } => {
                    self.key_refused(id, &Error::LockManagerDown);
                    self.process.locks.tickets.remove(&id);
                }
                LockMessage::PrepareFence { txn, .. } => {
                    self.vote_on_fences(txn, Ballot::No(Error::LockManagerDown));
                }
                _ => {}
            }
            return;
        }
        let dies = self.strikes(Fault::LockManagerPanics);
        let prepared = match &message {
            LockMessage::PrepareFence { txn, .. } => Some(*txn),
            _ => None,
        };
        let mut out = Vec::new();
        if !dies || self.faults.dice().chance(2) {
            let mut message = message;
            if let (LockMessage::Acquire(acquire), Some(Mutation::RefuseOldest)) =
                (&mut message, self.mutation)
            {
                acquire.session.begun = Time(u64::MAX - acquire.session.begun.0);
            }
            self.with_lock_table(Some(message), &mut out);
            if let (Some(txn), Some(Mutation::HandOnAtVote)) = (prepared, self.mutation) {
                let table = &mut self.process.locks.table;
                table.handle(self.now, LockMessage::ResolveFence { txn }, &mut out);
            }
        }
        if dies {
            if let Some(txn) = prepared {
                self.vote_on_fences(txn, Ballot::No(Error::LockLost));
            }
            self.drop_some(&mut out);
            self.carry_out_locks(out);
            self.locks_die();
        } else {
            self.carry_out_locks(out);
        }
        self.publish_due();
    }

    /// The clock ticks the lock manager only when it has something to do, as it has said itself.
    pub(crate) fn tick_locks(&mut self) {
        let shell = &self.process.locks;
        if shell.is_down || shell.due.is_none_or(|due| due > self.now) {
            return;
        }
        let mut out = Vec::new();
        self.with_lock_table(None, &mut out);
        match self.strikes(Fault::LockManagerPanics) {
            true => self.locks_die(),
            false => self.carry_out_locks(out),
        }
        self.publish_due();
    }

    fn publish_due(&mut self) {
        let shell = &mut self.process.locks;
        shell.due = shell.table.next_timeout().filter(|_| !shell.is_down);
    }

    /// A handler has panicked: the table is given up.
    fn locks_die(&mut self) {
        self.count(Seen::LockManagerRestart, 1);
        self.locks.begin_generation();
        let jitter = self.schedule.any();
        if self.mutated(Mutation::GrantUnannounced) {
            // Else waiting for the leases hides it: here every holder hears at once that his is over.
            let tickets: Vec<_> = self.process.locks.tickets.keys().copied().collect();
            tickets.into_iter().for_each(|id| self.ended(id));
        }
        self.lose_keys(&Error::LockManagerRestarted);
        let shell = &mut self.process.locks;
        shell.tickets.clear();
        match shell.restarts.handle_panic(self.now, jitter) {
            Verdict::Restart { at } => {
                let grants_from = match self.mutation {
                    Some(Mutation::IgnoreOldLeases | Mutation::GrantUnannounced) => Time(0),
                    _ => at.max(shell.last_lease),
                };
                shell.table = shell.table.next_life(grants_from);
            }
            Verdict::Down => self.locks_go_down(),
        }
    }

    fn locks_go_down(&mut self) {
        self.lose_keys(&Error::LockManagerDown);
        let shell = &mut self.process.locks;
        shell.is_down = true;
        shell.tickets.clear();
        shell.table = shell.table.next_life(Time::MAX);
    }

    fn vote_on_fences(&mut self, txn: TxnId, ballot: Ballot) {
        let votes = CoordinatorMessage::FenceVotes(vec![FenceVote { txn, ballot }]);
        self.send(
            Party::Locks,
            Party::Coordinator,
            Message::Coordinator(votes),
        );
    }

    fn carry_out_locks(&mut self, effects: Vec<LockEffect>) {
        for effect in effects {
            match effect {
                LockEffect::Held { id, .. } if self.key_held(id) => {}
                LockEffect::Held { id, token, expires } => self.held(id, token, expires),
                LockEffect::Converted { id } => self.converted(id),
                LockEffect::Refused { id, error } => {
                    if let Error::Deadlock { .. } = error {
                        self.count(Seen::Deadlock, 1);
                    }
                    if !self.key_refused(id, &error) {
                        self.process.locks.tickets.remove(&id);
                    }
                }
                LockEffect::Lost { id } => {
                    self.count(Seen::LeaseLost, 1);
                    self.ended(id);
                }
                LockEffect::RenewalDue { id } => {
                    let lives = self.faults.are_on() && !self.schedule.chance(4);
                    if lives && self.process.locks.tickets.contains_key(&id) {
                        self.tell_locks_from(Party::Locks, LockMessage::Renew { id });
                    }
                }
                LockEffect::Vote(FenceVote { txn, mut ballot }) => {
                    if let Ballot::No(Error::StaleFence { .. }) = ballot {
                        self.count(Seen::StaleFence, 1);
                        if self.mutated(Mutation::AcceptStaleToken) {
                            let incarnation = self.process.locks.table.life();
                            let epoch = Epoch(0);
                            ballot = Ballot::Yes { incarnation, epoch };
                        }
                    }
                    self.vote_on_fences(txn, ballot);
                }
                LockEffect::Ask { txn, deadline } => {
                    self.count(Seen::LocksInDoubt, 1);
                    let asker = Asker::Locks;
                    let ask = Ask {
                        txn,
                        deadline,
                        asker,
                    };
                    let message = Message::Journal(JournalMessage::Asks(vec![ask]));
                    self.send(Party::Locks, Party::Journal, message);
                }
                LockEffect::Announce { .. } if self.process.read_only => {
                    self.locks_go_down();
                    return;
                }
                LockEffect::Announce { life } => {
                    let message = Message::Journal(JournalMessage::LockLife { life });
                    self.send(Party::Locks, Party::Journal, message);
                    if self.mutated(Mutation::GrantUnannounced) {
                        self.tell_locks_from(Party::Journal, LockMessage::LifeKnown { life });
                    }
                }
            }
        }
    }

    fn held(&mut self, id: RequestId, token: FencingToken, expires: Time) {
        let shell = &mut self.process.locks;
        let Some(ticket) = shell.tickets.get_mut(&id) else {
            // Its holder has given it back meanwhile.
            return;
        };
        let is_new = ticket.held.is_none_or(|(known, _)| known != token);
        ticket.held = Some((token, expires));
        let ticket = *ticket;
        shell.last_lease = shell.last_lease.max(expires);
        self.trace.note(token.0);
        if is_new {
            self.count(Seen::Granted, 1);
            let lock: Arc<str> = NAMES[ticket.lock].into();
            self.locks.grants.push(Fence { lock, token });
        }
        self.note_hold(ticket);
    }

    /// The mode of a grant has changed; its token and lease were told before.
    fn converted(&mut self, id: RequestId) {
        let tickets = &mut self.process.locks.tickets;
        let conversion = tickets.remove(&id);
        let Some(Ticket {
            mode,
            converts: Some(grant),
            ..
        }) = conversion
        else {
            return;
        };
        if let Some(ticket) = tickets.get_mut(&grant) {
            ticket.mode = mode;
            let ticket = *ticket;
            self.note_hold(ticket);
        }
    }

    fn note_hold(&mut self, ticket: Ticket) {
        let (token, expires) = ticket.held.expect("it is held");
        let held = Event::Held {
            session: ticket.session,
            mode: ticket.mode,
            token,
            // By the clock of the whole run, like everything in the history.
            expires: Time(self.since_start().0 - self.now.0 + expires.0),
            visible: self.process.visible.load(),
        };
        self.locks.histories[ticket.lock].push(self.since_start(), held);
    }

    /// The holder has nothing any more, and knows it.
    pub(crate) fn ended(&mut self, id: RequestId) {
        if let Some(ticket) = self.process.locks.tickets.remove(&id)
            && ticket.held.is_some()
        {
            let session = ticket.session;
            self.locks.histories[ticket.lock].push(self.since_start(), Event::Ended { session });
        }
    }
}
