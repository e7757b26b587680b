//! The lock manager's actor: carries what lies on the desk to its [`LockTable`], and the table's effects to the tickets.
//!
//! A panic ends that life of the table. Nobody knows what the broken step has done to it, so all of it is given up: every
//! guard is told that its lock is lost, every waiting request is answered `LockManagerRestarted`, and a new table goes on
//! behind the last token. It grants nothing before the last lease of the old one has run out, as if the guards had not
//! been told: a holder may be looking elsewhere. Nor before the journal has answered that it knows of the new life, for
//! transactions may be on their way that the old one has voted for. Messages that lay on the desk are handled by the new
//! table.
//!
//! Where nobody will answer, because the engine has turned read-only, or behind too many panics, the manager is down:
//! requests are refused, and votes are No.

use super::{desk::Command, ticket::Ticket};
use crate::{
    guard::{guarded, tell},
    kinds::{self, EFFECT},
    message::Tick,
    switchboard::{FaultSite, Switchboard},
};
use actix::{Actor, AsyncContext, Context, Handler, Message};
use mailring_engine::{
    Error,
    coordinator::CoordinatorMessage,
    ids::{RequestId, Time, TxnId},
    locks::{LockEffect, LockMessage, LockTable},
    restart::{Restarts, Verdict},
    sequencer::JournalMessage,
    transaction::{Ask, Asker, Ballot, FenceVote},
};
use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

/// Commands after which other actors of the thread have their turn.
const COMMANDS_A_TURN: usize = 1_024;

/// From the desk: something lies there.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain;

pub(crate) struct LockManager {
    table: LockTable,
    switchboard: Arc<Switchboard>,
    restarts: Restarts,
    is_down: bool,
    tickets: HashMap<RequestId, Arc<Ticket>>,
    /// When the last lease that was told to anybody runs out.
    last_lease: Time,
    commands: Vec<Command>,
    effects: Vec<LockEffect>,
    /// What leaves at the end of the round.
    votes: Vec<FenceVote>,
    asks: Vec<Ask>,
}

impl LockManager {
    pub(crate) fn new(table: LockTable, restarts: Restarts, switchboard: Arc<Switchboard>) -> Self {
        Self {
            table,
            switchboard,
            restarts,
            is_down: false,
            tickets: HashMap::new(),
            last_lease: Time::default(),
            commands: Vec::new(),
            effects: Vec::new(),
            votes: Vec::new(),
            asks: Vec::new(),
        }
    }

    /// Handles what lies on the desk, round by round, until it is empty: what is left there meanwhile wakes nobody. The
    /// answers of a round leave together at its end. Answers whether the desk is empty.
    fn rounds(&mut self) -> bool {
        let mut left = COMMANDS_A_TURN;
        loop {
            let mut commands = std::mem::take(&mut self.commands);
            self.switchboard.locks.take(&mut commands);
            let count = commands.len();
            let now = self.switchboard.clock.now();
            for command in commands.drain(..) {
                self.obey(now, command);
            }
            self.commands = commands;
            let is_over = left < count;
            left = left.saturating_sub(count);
            self.finish();
            if is_over {
                return false;
            }
            if self.switchboard.locks.is_done() {
                return true;
            }
        }
    }

    fn obey(&mut self, now: Time, command: Command) {
        match command {
            Command::Submit(_, ticket) if self.is_down => {
                ticket.refuse(Error::LockManagerDown);
            }
            Command::Tell(LockMessage::PrepareFence { txn, .. }) if self.is_down => {
                self.vote_no(txn, Error::LockManagerDown);
            }
            Command::Submit(message, ticket) => {
                self.tickets.insert(ticket.id, ticket);
                self.step(now, message);
            }
            Command::Tell(message) => {
                if let LockMessage::Release { id } = message {
                    // Nobody listens any more, whatever was granted meanwhile.
                    self.tickets.remove(&id);
                }
                self.step(now, message);
            }
            Command::EndSession(session, grants) => {
                for id in grants {
                    self.tickets.remove(&id);
                }
                self.step(now, LockMessage::ReleaseSession { session });
            }
            Command::List(limit, reply) => {
                // The caller may have gone.
                tell(reply, (now, self.table.list(limit)));
            }
        }
    }

    fn step(&mut self, now: Time, message: LockMessage) {
        let done = self.effects.len();
        let kind = kinds::of_locks(&message);
        let prepared = match &message {
            LockMessage::PrepareFence { txn, .. } => Some(*txn),
            _ => None,
        };
        let result = guarded(|| {
            self.fault(kind, false);
            self.table.handle(now, message, &mut self.effects);
            self.fault(kind, true);
        });
        if let Err(reason) = result {
            self.die(&reason, done);
            if let Some(txn) = prepared {
                self.vote_no(txn, Error::LockLost);
            }
        }
    }

    fn vote_no(&mut self, txn: TxnId, error: Error) {
        let ballot = Ballot::No(error);
        self.votes.push(FenceVote { txn, ballot });
    }

    fn fault(&self, message: &str, handled: bool) {
        self.switchboard.fault(FaultSite {
            actor: "locks",
            node: None,
            message,
            handled,
        });
    }

    /// Sends the answers, and says when the table wants to be woken.
    fn finish(&mut self) {
        // Guards are renewed in the same round, and what comes of that is carried out as well.
        while !self.effects.is_empty() {
            let mut effects = std::mem::take(&mut self.effects);
            let result = guarded(|| {
                for effect in effects.drain(..) {
                    self.fault(EFFECT, true);
                    self.carry_out(effect);
                }
            });
            if let Err(reason) = result {
                // Whoever was to hear of the others is told that everything is lost.
                self.die(&reason, 0);
            }
            if self.effects.is_empty() {
                self.effects = effects;
            }
        }
        if !self.votes.is_empty() {
            let votes = std::mem::take(&mut self.votes);
            let votes = CoordinatorMessage::FenceVotes(votes);
            self.switchboard.to_coordinator(votes);
        }
        if !self.asks.is_empty() {
            let asks = std::mem::take(&mut self.asks);
            self.switchboard.to_journal(JournalMessage::Asks(asks));
        }
        let due = self.table.next_timeout().filter(|_| !self.is_down);
        self.switchboard.locks.set_due(due);
        let figures = &self.switchboard.telemetry.locks;
        figures.set_sizes(self.table.sizes());
    }

    fn carry_out(&mut self, effect: LockEffect) {
        let figures = &self.switchboard.telemetry.locks;
        match effect {
            LockEffect::Held { id, token, expires } => {
                if let Some(ticket) = self.tickets.get(&id) {
                    ticket.hold(token, expires);
                    if expires < Time::MAX {
                        self.last_lease = self.last_lease.max(expires);
                    }
                }
            }
            LockEffect::Converted { id } => {
                if let Some(ticket) = self.tickets.remove(&id) {
                    ticket.grant();
                }
            }
            LockEffect::Refused { id, error } => {
                if matches!(error, Error::Deadlock { .. }) {
                    tracing::info!(%error, "a lock request was refused");
                    figures.deadlocks.increment(1);
                }
                if let Some(ticket) = self.tickets.remove(&id) {
                    ticket.refuse(error);
                }
            }
            LockEffect::RenewalDue { id } => {
                if self.tickets.get(&id).is_some_and(|ticket| ticket.renews) {
                    let now = self.switchboard.clock.now();
                    self.step(now, LockMessage::Renew { id });
                }
            }
            LockEffect::Lost { id } => {
                if let Some(ticket) = self.tickets.remove(&id) {
                    tracing::warn!(resource = %ticket.resource, "a lease ran out");
                    figures.lost.increment(1);
                    ticket.end(Error::LockLost);
                }
            }
            LockEffect::Vote(vote) => self.votes.push(vote),
            LockEffect::Ask { txn, deadline } => self.asks.push(Ask {
                txn,
                deadline,
                asker: Asker::Locks,
            }),
            LockEffect::Announce { .. } if self.switchboard.read_only.get().is_some() => {
                self.go_down("the engine is read-only");
            }
            LockEffect::Announce { life } => {
                let announced = JournalMessage::LockLife { life };
                self.switchboard.to_journal(announced);
            }
        }
    }

    /// Gives the table up. `done` effects are those of steps that have ended well.
    fn die(&mut self, reason: &str, done: usize) {
        tracing::error!(reason, "the lock manager panicked; all locks are lost");
        let switchboard = Arc::clone(&self.switchboard);
        switchboard.telemetry.locks.restarts.increment(1);
        self.effects.truncate(done);
        for effect in std::mem::take(&mut self.effects) {
            // A renewal would go to the broken table; its lease is lost anyway.
            if !matches!(effect, LockEffect::RenewalDue { .. }) {
                self.carry_out(effect);
            }
        }
        let now = switchboard.clock.now();
        // A hasher's random keys are all the randomness that a jitter needs.
        let jitter = RandomState::new().build_hasher().finish();
        match self.restarts.handle_panic(now, jitter) {
            Verdict::Restart { at } => {
                for (_, ticket) in self.tickets.drain() {
                    ticket.end(Error::LockManagerRestarted);
                }
                self.table = self.table.next_life(at.max(self.last_lease));
            }
            Verdict::Down => self.go_down(reason),
        }
    }

    /// Nothing is granted any more.
    fn go_down(&mut self, reason: &str) {
        tracing::error!(reason, "the lock manager is down");
        self.is_down = true;
        // The first reason is the one to tell.
        let _ = self.switchboard.locks_down.set(reason.to_owned());
        for (_, ticket) in self.tickets.drain() {
            ticket.end(Error::LockManagerDown);
        }
        self.table = self.table.next_life(Time::MAX);
    }
}

impl Drop for LockManager {
    fn drop(&mut self) {
        // The engine stops: whoever waits is answered, and whoever holds is told, before the directory counts as shut.
        self.switchboard.locks.close();
        for (_, ticket) in self.tickets.drain() {
            ticket.end(Error::Closed);
        }
        for command in self.commands.drain(..) {
            if let Command::Submit(_, ticket) = command {
                ticket.refuse(Error::Closed);
            }
        }
        // Behind the tickets: who observes is told first that the leader is none any more.
        self.switchboard.locks.elections.close();
    }
}

impl Actor for LockManager {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(usize::MAX >> 4);
        self.switchboard.locks.set_due(self.table.next_timeout());
    }
}

impl Handler<Drain> for LockManager {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        if !self.rounds() {
            ctx.notify(Drain);
        }
    }
}

impl Handler<Tick> for LockManager {
    type Result = ();

    fn handle(&mut self, _: Tick, _: &mut Self::Context) {
        self.switchboard.lock_tick.free();
        let now = self.switchboard.clock.now();
        let result = guarded(|| {
            self.fault("Tick", false);
            self.table.handle_timeout(now, &mut self.effects);
            self.fault("Tick", true);
        });
        if let Err(reason) = result {
            self.die(&reason, 0);
        }
        self.finish();
    }
}
