//! Numbered places for locks: a request's number leads to its lock without the name being hashed again.

use super::lock::Lock;

/// Where a lock stands. Numbers are used again.
pub(super) type Slot = u32;

/// The locks that are held or waited for.
#[derive(Debug, Default)]
pub(super) struct Slots {
    locks: Vec<Option<Lock>>,
    free: Vec<Slot>,
}

impl Slots {
    pub(super) fn insert(&mut self, lock: Lock) -> Slot {
        let Some(slot) = self.free.pop() else {
            self.locks.push(Some(lock));
            return Slot::try_from(self.locks.len() - 1).expect("fewer than 2^32 locks");
        };
        self.locks[slot as usize] = Some(lock);
        slot
    }

    /// Takes the lock out if nobody holds it or waits for it.
    pub(super) fn take_if_idle(&mut self, slot: Slot) -> Option<Lock> {
        let lock = self.locks[slot as usize].take_if(|lock| lock.is_idle())?;
        self.free.push(slot);
        Some(lock)
    }

    /// # Panics
    ///
    /// Panics if the place is empty: only who holds or waits knows its number.
    pub(super) fn at(&self, slot: Slot) -> &Lock {
        self.locks[slot as usize]
            .as_ref()
            .expect("the slot is used")
    }

    /// # Panics
    ///
    /// As [`Slots::at`].
    pub(super) fn at_mut(&mut self, slot: Slot) -> &mut Lock {
        self.locks[slot as usize]
            .as_mut()
            .expect("the slot is used")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lock> {
        self.locks.iter().flatten()
    }

    /// All places, used or not.
    pub(super) fn places(&self) -> std::ops::Range<Slot> {
        0..self.locks.len() as Slot
    }

    /// The lock, if the place is used.
    pub(super) fn find_mut(&mut self, slot: Slot) -> Option<&mut Lock> {
        self.locks[slot as usize].as_mut()
    }
}
