//! What the journal knows of the lock manager: the life whose votes count, and what was accepted under votes on fences.
//!
//! A decision carries the life of the lock manager that voted. A new life announces itself before it grants anything; from
//! then on decisions under earlier votes are refused, and it is answered when all that were accepted are visible. So
//! whoever is granted a lock after a panic sees everything that was committed under it before, and nobody can commit under
//! an older token.
//!
//! Nothing of it is written: no decision of an earlier opening is ever accepted, so each opening begins with a first life.
//! In an engine that has turned read-only what is not visible never will be, so a life that waits for that is not answered.

use super::{JournalEffect, Sequencer};
use crate::{
    error::{Error, Result},
    ids::{Incarnation, Lsn},
    locks::FIRST_LOCK_LIFE,
};

#[derive(Debug)]
pub(super) struct LockLives {
    current: Incarnation,
    /// The last LSN that was given to a transaction with fences.
    last_commit: Lsn,
    /// Whether the current life waits to be told that it is known.
    is_waiting: bool,
}

impl Default for LockLives {
    fn default() -> Self {
        Self {
            current: FIRST_LOCK_LIFE,
            last_commit: Lsn(0),
            is_waiting: false,
        }
    }
}

impl LockLives {
    /// Whether the vote on a decision's fences, if it has any, still counts.
    pub(super) fn check(&self, voted: Option<Incarnation>) -> Result<()> {
        match voted {
            Some(life) if life != self.current => Err(Error::LockLost),
            _ => Ok(()),
        }
    }

    pub(super) fn note_commit(&mut self, lsn: Lsn) {
        self.last_commit = lsn;
    }
}

impl Sequencer {
    pub(super) fn lock_life(&mut self, life: Incarnation, out: &mut Vec<JournalEffect>) {
        if life >= self.locks.current {
            self.locks.current = life;
            self.locks.is_waiting = true;
            self.tell_lock_life(out);
        }
    }

    pub(super) fn tell_lock_life(&mut self, out: &mut Vec<JournalEffect>) {
        let locks = &mut self.locks;
        if locks.is_waiting && locks.last_commit <= self.visible {
            locks.is_waiting = false;
            out.push(JournalEffect::LockLifeKnown(locks.current));
        }
    }
}
