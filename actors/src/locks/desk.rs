//! The desk: where handles leave their messages for the lock manager.

use super::{
    election::Elections,
    manager::{Drain, LockManager},
    ticket::Ticket,
};
use actix::Addr;
use mailring_engine::{
    Error, Result,
    ids::{RequestId, Time},
    locks::{LockListing, LockMessage, SessionId},
};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::oneshot;

/// What lies on the desk.
#[derive(Debug)]
pub(super) enum Command {
    /// A request, and where its answer goes.
    Submit(LockMessage, Arc<Ticket>),
    /// A message that is not answered.
    Tell(LockMessage),
    /// A transaction is over, which held these grants.
    EndSession(SessionId, Vec<RequestId>),
    /// Lists up to so many locks.
    List(usize, oneshot::Sender<(Time, Vec<LockListing>)>),
}

#[derive(Debug, Default)]
struct Inbox {
    commands: Vec<Command>,
    /// Whether the manager has been woken, and not yet found the desk empty.
    is_scheduled: bool,
    is_closed: bool,
}

/// Shared by all handles and the lock manager.
#[derive(Debug)]
pub(crate) struct LockDesk {
    inbox: Mutex<Inbox>,
    next_request: AtomicU64,
    next_session: AtomicU64,
    /// When the manager has something to do by itself, in nanoseconds.
    due: AtomicU64,
    /// Requests that may lie here; releases always may.
    capacity: usize,
    opening: u64,
    pub(super) elections: Elections,
}

impl LockDesk {
    /// The desk of the lock manager in this opening.
    pub(crate) fn new(capacity: usize, opening: u64) -> Self {
        Self {
            inbox: Mutex::default(),
            next_request: AtomicU64::new(0),
            next_session: AtomicU64::new(0),
            due: AtomicU64::new(u64::MAX),
            capacity,
            opening,
            elections: Elections::default(),
        }
    }

    pub(crate) fn opening(&self) -> u64 {
        self.opening
    }

    pub(super) fn next_request(&self) -> RequestId {
        RequestId(self.next_request.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn next_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }

    /// Leaves a message of another actor.
    pub(crate) fn tell(&self, manager: &Addr<LockManager>, message: LockMessage) -> Result<()> {
        self.leave(manager, Command::Tell(message))
    }

    /// Leaves a command, and wakes the manager if it sleeps.
    pub(super) fn leave(&self, manager: &Addr<LockManager>, command: Command) -> Result<()> {
        let wakes = {
            let mut inbox = self.lock();
            if inbox.is_closed {
                return Err(Error::Closed);
            }
            let is_request = matches!(command, Command::Submit(..) | Command::List(..));
            if is_request && inbox.commands.len() >= self.capacity {
                return Err(Error::Overloaded {
                    what: "the lock manager's desk",
                });
            }
            inbox.commands.push(command);
            !std::mem::replace(&mut inbox.is_scheduled, true)
        };
        if wakes {
            manager.do_send(Drain);
        }
        Ok(())
    }

    /// Swaps all commands for `commands`, which is empty.
    pub(super) fn take(&self, commands: &mut Vec<Command>) {
        std::mem::swap(&mut self.lock().commands, commands);
    }

    /// Whether nothing lies here, so that the next one has to wake the manager.
    pub(super) fn is_done(&self) -> bool {
        let mut inbox = self.lock();
        let is_done = inbox.commands.is_empty();
        inbox.is_scheduled = !is_done;
        is_done
    }

    /// Refuses what lies here, and whatever comes.
    pub(super) fn close(&self) {
        let commands = {
            let mut inbox = self.lock();
            inbox.is_closed = true;
            std::mem::take(&mut inbox.commands)
        };
        for command in commands {
            if let Command::Submit(_, ticket) = command {
                ticket.refuse(Error::Closed);
            }
        }
    }

    pub(super) fn set_due(&self, due: Option<Time>) {
        self.due
            .store(due.map_or(u64::MAX, |due| due.0), Ordering::Release);
    }

    /// Whether the manager should be woken for the time.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        self.due.load(Ordering::Acquire) <= now.0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
