//! The lock manager's actor: carries what lies on the desk to its [`LockTable`], and the table's effects to the tickets.
//!
//! A panic ends that life of the table. Nobody knows what the broken step has done to it, so all of it is given up: every
//! guard is told that its lock is lost, every waiting request is answered `LockManagerRestarted`, and a new table goes on
//! behind the last token. It grants nothing before the last lease of the old one has run out, as if the guards had not
//! been told: a holder may be looking elsewhere. Messages that lay on the desk are handled by the new table.

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
    ids::{RequestId, Time},
    locks::{LockEffect, LockLimits, LockMessage, LockTable},
    restart::{Restarts, Verdict},
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
    limits: LockLimits,
    switchboard: Arc<Switchboard>,
    restarts: Restarts,
    tickets: HashMap<RequestId, Arc<Ticket>>,
    /// When the last lease that was told to anybody runs out.
    last_lease: Time,
    commands: Vec<Command>,
    effects: Vec<LockEffect>,
}

impl LockManager {
    pub(crate) fn new(
        table: LockTable,
        limits: LockLimits,
        restarts: Restarts,
        switchboard: Arc<Switchboard>,
    ) -> Self {
        Self {
            table,
            limits,
            switchboard,
            restarts,
            tickets: HashMap::new(),
            last_lease: Time::default(),
            commands: Vec::new(),
            effects: Vec::new(),
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
            Command::Submit(_, ticket) if self.restarts.is_down() => {
                ticket.refuse(Error::LockManagerDown);
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
            Command::List(limit, reply) => {
                // The caller may have gone.
                tell(reply, (now, self.table.list(limit)));
            }
        }
    }

    fn step(&mut self, now: Time, message: LockMessage) {
        let done = self.effects.len();
        let kind = kinds::of_locks(&message);
        let result = guarded(|| {
            self.fault(kind, false);
            self.table.handle(now, message, &mut self.effects);
            self.fault(kind, true);
        });
        if let Err(reason) = result {
            self.die(&reason, done);
        }
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
        self.switchboard.locks.set_due(self.table.next_timeout());
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
            // Whoever sends fences routes their votes; without such a sender there are none.
            LockEffect::Vote { txn, .. } | LockEffect::Ask { txn } => {
                tracing::error!(txn, "nobody waits for the lock manager's vote");
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
        let (back_off, error) = match self.restarts.handle_panic(now, jitter) {
            Verdict::Restart { at } => (at, Error::LockManagerRestarted),
            Verdict::Down => (Time::MAX, Error::LockManagerDown),
        };
        for (_, ticket) in self.tickets.drain() {
            ticket.end(error.clone());
        }
        // Transactions under a fence are decided by their deadlines, if at all.
        let undecided = self.table.last_fence().unwrap_or_default();
        let grants_from = back_off.max(self.last_lease).max(undecided);
        self.table = LockTable::after(self.limits, self.table.last_token(), grants_from);
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
