//! Fences: the lock manager's vote on a transaction that writes under a token.
//!
//! It votes as a node does. After Yes the lock stays where it is until the transaction is decided: its lease may run out
//! and its guard may be dropped, and the holder is told so, but nobody else gets it and its mode does not fall. So a
//! write under a token is either in the order of commits before everything the next holder does, or refused.

use super::{
    message::{FenceRefusal, FenceVote, FencingToken, LockEffect, Resource, SessionId},
    slots::Slot,
    table::{LockTable, Timer},
};
use crate::ids::Time;
use std::sync::Arc;

/// A transaction that is being decided under the token of this session's hold of this lock.
pub(super) type Fence = (u64, Slot, SessionId);

/// Before every other session.
const FIRST: SessionId = SessionId::Application(0);

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
        let holders = &self.locks.at(slot).holders;
        let hold = holders.iter().find(|hold| hold.token == token);
        let holder = hold.ok_or(FenceRefusal::Stale)?.session.id;
        let fence = (txn, slot, holder);
        if self.fences.contains_key(&fence) {
            return Ok(());
        }
        if self.fences.len() >= self.limits.requests {
            return Err(FenceRefusal::Overloaded);
        }
        let hold = self.locks.at_mut(slot).holders.get_mut(holder);
        let hold = hold.expect("it was just found");
        if !hold.is_live() {
            return Err(FenceRefusal::Stale);
        }
        hold.fences += 1;
        hold.floor = Some(hold.mode);
        self.fences.insert(fence, deadline);
        self.timers.insert((deadline, Timer::Fence(fence)));
        Ok(())
    }

    pub(super) fn resolve_fence(&mut self, txn: u64, out: &mut Vec<LockEffect>) {
        while let Some((&fence, &timer)) = self.fences.range((txn, 0, FIRST)..).next()
            && fence.0 == txn
        {
            let (_, slot, holder) = fence;
            self.fences.remove(&fence);
            self.timers.remove(&(timer, Timer::Fence(fence)));
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

    pub(super) fn fence_due(&mut self, fence: Fence, out: &mut Vec<LockEffect>) {
        let next = self.now.after(self.limits.ask_again);
        let timer = self.fences.get_mut(&fence);
        *timer.expect("a fence with a timer is unresolved") = next;
        self.timers.insert((next, Timer::Fence(fence)));
        out.push(LockEffect::Ask { txn: fence.0 });
    }
}
