//! The shell of the lock manager, and those who lock.
//!
//! A panic gives the whole table up, as in the real shell: who waits or holds is told, and the next life grants nothing
//! before the last lease of this one is over and the journal has said that it knows of the new life. The history of each
//! lock does not count that as an end of its grants: a holder may be looking elsewhere.

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
        Session, SessionId, Wait,
    },
    restart::{Restarts, Verdict},
    sequencer::JournalMessage,
    transaction::{Ask, Asker, Ballot, Fence, FenceVote},
};
use std::{collections::BTreeMap, sync::Arc};

const NAMES: [&str; 3] = ["a", "b", "c"];
const SESSIONS: u64 = 5;

/// A request, and what came of it.
#[derive(Debug, Clone, Copy)]
struct Ticket {
    session: u64,
    lock: usize,
    mode: Mode,
    /// The grant whose mode it is to change, if it is no request of its own.
    converts: Option<RequestId>,
    held: Option<(FencingToken, Time)>,
}

/// The shell of the lock manager.
pub(crate) struct LockShell {
    pub(crate) table: LockTable,
    /// The life that the journal has been told of.
    pub(crate) known_life: Incarnation,
    tickets: BTreeMap<RequestId, Ticket>,
    restarts: Restarts,
    /// When the last lease that was told to anybody runs out, also in an earlier opening.
    last_lease: Time,
    pub(crate) is_down: bool,
}

impl LockShell {
    pub(crate) fn new(scale: Scale, opening: u64, grants_from: Time, restarts: Restarts) -> Self {
        Self {
            table: LockTable::new(scale.locks(), opening, grants_from),
            known_life: FIRST_LOCK_LIFE,
            tickets: BTreeMap::new(),
            restarts,
            // The leases of an earlier opening count too.
            last_lease: grants_from,
            is_down: false,
        }
    }

    /// Whether nobody holds or waits, and nothing is kept for a transaction.
    pub(crate) fn is_idle(&self) -> bool {
        self.tickets.is_empty() && self.table.fenced() == 0 && self.table.sizes() == [0; 3]
    }
}

/// What outlives the process: the history of each lock.
#[derive(Debug, Default)]
pub(crate) struct LockBooks {
    histories: [LockHistory; NAMES.len()],
    /// Grants in their order, as those who carry fences know them.
    grants: Vec<Fence>,
    /// Rises when tickets are gone: then sessions of the same number are others.
    generation: u64,
}

impl LockBooks {
    /// The sessions of a process, or of a life of the lock manager, are gone.
    pub(crate) fn begin_generation(&mut self) {
        self.generation += 1;
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
    /// Somebody asks for a lock, or does something with one.
    pub(crate) fn lock_client(&mut self) {
        let tickets = &self.process.locks.tickets;
        let some = self.clients.dice.below(tickets.len() + 2);
        let held = tickets
            .iter()
            .filter(|(_, ticket)| ticket.converts.is_none());
        let Some((&id, &ticket)) = held.clone().nth(some) else {
            return self.acquire();
        };
        let dice = &mut self.clients.dice;
        let message = match dice.below(8) {
            0..3 => {
                self.ended(id);
                LockMessage::Release { id }
            }
            3..5 => LockMessage::Renew { id },
            5 => {
                let session = SessionId::Application(ticket.session);
                let mine = held.filter(|(_, other)| other.session == ticket.session);
                let mine: Vec<_> = mine.map(|(id, _)| *id).collect();
                mine.into_iter().for_each(|id| self.ended(id));
                LockMessage::ReleaseSession { session }
            }
            _ => match self.conversion(id, ticket) {
                Some(message) => message,
                None => return,
            },
        };
        self.tell_locks_from(Party::Client(u8::MAX), message);
    }

    fn conversion(&mut self, grant: RequestId, ticket: Ticket) -> Option<LockMessage> {
        let mut tickets = self.process.locks.tickets.values();
        if ticket.held.is_none() || tickets.any(|other| other.converts == Some(grant)) {
            return None;
        }
        let id = RequestId(self.next_number());
        let mode = self.draw_mode();
        let converts = Some(grant);
        let conversion = Ticket {
            mode,
            converts,
            held: None,
            ..ticket
        };
        self.process.locks.tickets.insert(id, conversion);
        let wait = Wait::Until(self.scale.after(self.now, 150));
        Some(LockMessage::Convert {
            id,
            grant,
            mode,
            wait,
        })
    }

    fn draw_mode(&mut self) -> Mode {
        match self.clients.dice.below(10) {
            0..6 => Mode::Exclusive,
            6..9 => Mode::Shared,
            _ => self.clients.dice.pick(&Mode::ALL),
        }
    }

    fn acquire(&mut self) {
        let dice = &mut self.clients.dice;
        let (lock, number) = (dice.below(NAMES.len()), dice.within(0..SESSIONS));
        let session = number + 100 * self.locks.generation;
        let mut tickets = self.process.locks.tickets.values();
        if tickets.any(|ticket| (ticket.session, ticket.lock) == (session, lock)) {
            // Who holds it already would only share its own grant.
            return;
        }
        let longest = match dice.chance(3) {
            true => 40,
            false => Scale::LONGEST_LEASE,
        };
        let (patience, lease) = (dice.within(0..200), dice.within(5..longest));
        let is_patient = !dice.chance(5);
        let mode = self.draw_mode();
        let id = RequestId(self.next_number());
        let ticket = Ticket {
            session,
            lock,
            mode,
            converts: None,
            held: None,
        };
        self.process.locks.tickets.insert(id, ticket);
        let acquire = Acquire {
            id,
            session: Session {
                begun: Time(number),
                id: SessionId::Application(session),
            },
            resource: Resource::Lock(NAMES[lock].into()),
            mode,
            wait: match is_patient {
                true => Wait::Until(self.scale.after(self.now, patience)),
                false => Wait::Never,
            },
            lease: Some(self.scale.steps(lease)),
        };
        let message = LockMessage::Acquire(acquire);
        self.tell_locks_from(Party::Client(u8::MAX), message);
    }

    /// What a transaction carries: now and then the token of a holder, or of one who was.
    pub(crate) fn draw_fences(&mut self) -> Vec<Fence> {
        let recent = self.locks.grants.iter().rev().take(4);
        let recent: Vec<Fence> = recent.cloned().collect();
        let dice = &mut self.clients.dice;
        let count = match dice.below(12) {
            0..4 => 1,
            4 => 2,
            _ => 0,
        };
        let mut fences: Vec<Fence> = Vec::new();
        for number in 0..count.min(recent.len()) {
            // The newest ones are what has a chance.
            let at = match dice.chance(4) {
                true => dice.below(recent.len()),
                false => number,
            };
            fences.push(recent[at].clone());
        }
        fences
    }

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
        if self.process.locks.is_down {
            match message {
                LockMessage::Acquire(Acquire { id, .. }) | LockMessage::Convert { id, .. } => {
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
            let table = &mut self.process.locks.table;
            table.handle(self.now, message, &mut out);
            if let (Some(txn), Some(Mutation::HandOnAtVote)) = (prepared, self.mutation) {
                table.handle(self.now, LockMessage::ResolveFence { txn }, &mut out);
            }
        }
        if dies {
            if let Some(txn) = prepared {
                self.vote_on_fences(txn, Ballot::No(Error::LockLost));
            }
            self.locks_die();
        } else {
            self.carry_out_locks(out);
        }
    }

    pub(crate) fn tick_locks(&mut self) {
        if self.process.locks.is_down {
            return;
        }
        let mut out = Vec::new();
        self.process.locks.table.handle_timeout(self.now, &mut out);
        match self.strikes(Fault::LockManagerPanics) {
            true => self.locks_die(),
            false => self.carry_out_locks(out),
        }
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
                LockEffect::Held { id, token, expires } => self.held(id, token, expires),
                LockEffect::Converted { id } => self.converted(id),
                LockEffect::Refused { id, error } => {
                    if let Error::Deadlock { .. } = error {
                        self.count(Seen::Deadlock, 1);
                    }
                    self.process.locks.tickets.remove(&id);
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
    fn ended(&mut self, id: RequestId) {
        if let Some(ticket) = self.process.locks.tickets.remove(&id)
            && ticket.held.is_some()
        {
            let session = ticket.session;
            self.locks.histories[ticket.lock].push(self.since_start(), Event::Ended { session });
        }
    }
}
