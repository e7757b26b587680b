//! Those who lock: sessions that acquire, convert, renew and give back named locks, now and then too late. Their tokens
//! are what transactions carry as fences.

use crate::{
    network::Party,
    scale::Scale,
    shell::{NAMES, Ticket},
    world::World,
};
use mailring_engine::{
    ids::{RequestId, Time},
    locks::{Acquire, LockMessage, Mode, Resource, Session, SessionId, Wait},
    transaction::Fence,
};

const SESSIONS: u64 = 5;

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
        let drawn = dice.below(8);
        let message = match drawn {
            0..3 => {
                self.ended(id);
                LockMessage::Release { id }
            }
            3..5 => LockMessage::Renew { id },
            5 => {
                // All guards of its session are dropped.
                let mine = held.filter(|(_, other)| other.session == ticket.session);
                let mine: Vec<_> = mine.map(|(id, _)| *id).collect();
                for id in mine {
                    self.ended(id);
                    let release = LockMessage::Release { id };
                    self.tell_locks_from(Party::Client(u8::MAX), release);
                }
                return;
            }
            _ => match self.conversion(id, ticket) {
                Some(message) => message,
                None => return,
            },
        };
        self.tell_locks_from(Party::Client(u8::MAX), message);
    }

    /// A session that may have named locks too.
    pub(crate) fn draw_session(&mut self) -> Session {
        let number = self.clients.dice.within(0..SESSIONS);
        Session {
            begun: Time(number),
            id: SessionId::Application(number + 100 * self.locks.generation),
        }
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
        let holder = self.draw_session();
        let SessionId::Application(session) = holder.id else {
            unreachable!("it is the application's")
        };
        self.locks.ages.insert(holder.id, holder.begun);
        let dice = &mut self.clients.dice;
        let lock = dice.below(NAMES.len());
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
            session: holder,
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
}
