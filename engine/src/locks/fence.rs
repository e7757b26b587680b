//! Fences: the lock manager's vote on a transaction that writes under a token.
//!
//! It votes as a node does. After Yes the lock stays where it is until the transaction is decided: its lease may run out
//! and its guard may be dropped, and the holder is told so, but nobody else gets it and its mode does not fall. So a
//! write under a token is either in the order of commits before everything the next holder does, or refused.

use super::{
    message::{FenceRefusal, FenceVote, FencingToken, LockEffect, Resource},
    slots::Slot,
    table::{LockTable, Timer},
};
use crate::ids::Time;
use std::sync::Arc;

impl LockTable {
    pub(super) fn prepare_fence(
        &mut self,
        txn: u64,
        lock: Arc<str>,
        token: FencingToken,
        deadline: Time,
        out: &mut Vec<LockEffect>,
    ) {
        let vote = match self.admit_fence(txn, &lock, token, deadline) {
            Ok(()) => FenceVote::Yes {
                life: self.last_token.life(),
            },
            Err(refusal) => FenceVote::No(refusal),
        };
        out.push(LockEffect::Vote { txn, lock, vote });
    }

    fn admit_fence(
        &mut self,
        txn: u64,
        lock: &Arc<str>,
        token: FencingToken,
        deadline: Time,
    ) -> Result<(), FenceRefusal> {
        if deadline <= self.now {
            return Err(FenceRefusal::DeadlinePassed);
        }
        let resource = Resource::Lock(Arc::clone(lock));
        let slot = *self.index.get(&resource).ok_or(FenceRefusal::Stale)?;
        let is_repeated = self.fences.contains_key(&(txn, slot));
        let holder = self
            .locks
            .at(slot)
            .holders
            .iter()
            .find(|hold| hold.token == token && (hold.is_live() || is_repeated))
            .map(|hold| hold.session.id)
            .ok_or(FenceRefusal::Stale)?;
        if is_repeated {
            return Ok(());
        }
        if self.fences.len() >= self.limits.requests {
            return Err(FenceRefusal::Overloaded);
        }
        let hold = self.locks.at_mut(slot).holders.get_mut(holder);
        let hold = hold.expect("it was just found");
        hold.fences += 1;
        hold.floor = Some(hold.mode);
        self.fences.insert((txn, slot), (holder, deadline));
        self.timers.insert((deadline, Timer::Fence(txn, slot)));
        // The floor can strengthen what a waiting conversion of this session will need.
        self.suspects.push_back(holder);
        Ok(())
    }

    pub(super) fn resolve_fence(&mut self, txn: u64, out: &mut Vec<LockEffect>) {
        let of_txn = (txn, Slot::MIN)..=(txn, Slot::MAX);
        while let Some((&key, &(holder, timer))) = self.fences.range(of_txn.clone()).next() {
            let (_, slot) = key;
            self.fences.remove(&key);
            self.timers.remove(&(timer, Timer::Fence(txn, slot)));
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

    pub(super) fn fence_due(&mut self, txn: u64, slot: Slot, out: &mut Vec<LockEffect>) {
        let next = self.now.after(self.limits.ask_again);
        let fence = self.fences.get_mut(&(txn, slot));
        fence.expect("a fence with a timer is unresolved").1 = next;
        self.timers.insert((next, Timer::Fence(txn, slot)));
        out.push(LockEffect::Ask { txn });
    }
}
