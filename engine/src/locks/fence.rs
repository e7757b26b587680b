//! Fences: the lock manager's vote on a transaction that writes under a token.
//!
//! It votes as a node does. After Yes the lock stays where it is until the transaction is decided: its lease may run out
//! and its guard may be dropped, and the holder is told so, but nobody else gets it and its mode does not fall. So a
//! write under a token is either in the order of commits before everything the next holder does, or refused.
//!
//! # Lives
//!
//! A panic loses the table, and with it who was promised what. So a vote names the life that gave it, and the journal
//! refuses a decision under the vote of a life that is over. A new life announces itself and grants nothing before the
//! journal has answered: by then all that it had accepted under earlier votes is visible, and nothing more comes.
//!
//! ```text
//!  life 1: token 33, votes Yes ── Decide(life 1) ──────────────────────▶ journal: knows life 2, refuses
//!  life 2: Announce ──▶ journal ── LifeKnown ──▶ grants token 34
//! ```
//!
//! The journal keeps this in memory and writes no record of it. A vote never outlives its opening: no decision of an
//! earlier opening is accepted, and the tokens of the next one are higher anyhow.

use super::{
    message::{LockEffect, Resource, SessionId},
    slots::Slot,
    table::{LockTable, Timer},
};
use crate::{
    error::{Error, Result},
    ids::{Epoch, Incarnation, Time, TxnId},
    transaction::{Ballot, Fence, FenceVote},
};

/// A transaction that is being decided under tokens.
#[derive(Debug)]
pub(super) struct Fenced {
    deadline: Time,
    /// When the journal is asked for it.
    timer: Time,
    /// The holds that stay until it is resolved.
    holds: Vec<(Slot, SessionId)>,
}

impl LockTable {
    pub(super) fn prepare_fence(
        &mut self,
        txn: TxnId,
        fences: &[Fence],
        deadline: Time,
        out: &mut Vec<LockEffect>,
    ) {
        let ballot = match self.admit_fences(txn, fences, deadline) {
            Ok(()) => Ballot::Yes {
                incarnation: self.life,
                epoch: Epoch(0),
            },
            Err(error) => Ballot::No(error),
        };
        out.push(LockEffect::Vote(FenceVote { txn, ballot }));
    }

    fn admit_fences(&mut self, txn: TxnId, fences: &[Fence], deadline: Time) -> Result<()> {
        if deadline <= self.now {
            return Err(Error::DeadlineExceeded);
        }
        if self.fences.contains_key(&txn) {
            return Ok(());
        }
        if self.fences.len() >= self.limits.requests {
            let what = "the lock table's fences";
            return Err(Error::Overloaded { what });
        }
        // All are looked at before any is kept.
        let holds = fences.iter().map(|fence| self.find_holder(fence));
        let mut holds = holds.collect::<Result<Vec<_>>>()?;
        holds.sort_unstable();
        holds.dedup();
        for (slot, holder) in &holds {
            let hold = self.locks.at_mut(*slot).holders.get_mut(*holder);
            let hold = hold.expect("it was just found");
            hold.fences += 1;
            hold.floor = Some(hold.mode);
        }
        self.timers.insert((deadline, Timer::Fence(txn)));
        let timer = deadline;
        let fenced = Fenced {
            deadline,
            timer,
            holds,
        };
        self.fences.insert(txn, fenced);
        Ok(())
    }

    /// The hold that has the token.
    fn find_holder(&self, fence: &Fence) -> Result<(Slot, SessionId)> {
        let find = || {
            let slot = *self.index.get(&Resource::Lock(fence.lock.clone()))?;
            let mut holders = self.locks.at(slot).holders.iter();
            let hold = holders.find(|hold| hold.token == fence.token && hold.is_live())?;
            Some((slot, hold.session.id))
        };
        find().ok_or_else(|| Error::StaleFence {
            lock: fence.lock.to_string(),
            token: fence.token,
        })
    }

    pub(super) fn resolve_fence(&mut self, txn: TxnId, out: &mut Vec<LockEffect>) {
        let Some(fenced) = self.fences.remove(&txn) else {
            return;
        };
        self.timers.remove(&(fenced.timer, Timer::Fence(txn)));
        for (slot, holder) in fenced.holds {
            let holders = &mut self.locks.at_mut(slot).holders;
            let hold = holders.get_mut(holder).expect("a fence keeps its hold");
            hold.fences -= 1;
            if hold.fences == 0 {
                hold.floor = None;
                holders.settle(holder);
            }
            self.advance(slot, out);
        }
    }

    pub(super) fn fence_due(&mut self, txn: TxnId, out: &mut Vec<LockEffect>) {
        let next = self.now.after(self.limits.ask_again);
        let fenced = self.fences.get_mut(&txn);
        let fenced = fenced.expect("a fence with a timer is unresolved");
        fenced.timer = next;
        let deadline = fenced.deadline;
        self.timers.insert((next, Timer::Fence(txn)));
        out.push(LockEffect::Ask { txn, deadline });
    }

    /// The journal does not know this life yet.
    pub(super) fn announce(&mut self, out: &mut Vec<LockEffect>) {
        let next = self.now.after(self.limits.ask_again);
        self.announced_again = Some(next);
        self.timers.insert((next, Timer::Announce));
        out.push(LockEffect::Announce { life: self.life });
    }

    pub(super) fn life_known(&mut self, life: Incarnation, out: &mut Vec<LockEffect>) {
        if life == self.life
            && let Some(timer) = self.announced_again.take()
        {
            self.timers.remove(&(timer, Timer::Announce));
            self.open(out);
        }
    }
}
