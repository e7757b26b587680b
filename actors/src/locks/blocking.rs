//! The calls of locks, guards and elections for plain threads. Each blocks the calling thread until it is answered; do not
//! call them inside of an async task.
//!
//! They stand beside the async calls, on the same types, since a guard may be taken by the one and used by the other. Those
//! of a request are with the request.

use super::{Candidacy, LockGuard, LockInfo, Locks, Observer, election::Leader};
use crate::Result;
use mailring_engine::locks::Mode;
use pollster::block_on;
use std::time::Duration;

impl Locks {
    /// [`Locks::try_lock`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`Locks::try_lock`].
    pub fn try_lock_blocking(&self, name: &str) -> Result<LockGuard> {
        block_on(self.try_lock(name))
    }

    /// [`Locks::list`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`Locks::list`].
    pub fn list_blocking(&self) -> Result<Vec<LockInfo>> {
        block_on(self.list())
    }

    /// [`Locks::campaign`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`Locks::campaign`].
    pub fn campaign_blocking(&self, name: &str, value: impl AsRef<[u8]>) -> Result<Candidacy> {
        block_on(self.campaign(name, value))
    }
}

impl LockGuard {
    /// [`LockGuard::lost`] for plain threads.
    pub fn lost_blocking(&self) {
        block_on(self.lost());
    }

    /// [`LockGuard::renew`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::renew`].
    pub fn renew_blocking(&self) -> Result<()> {
        block_on(self.renew())
    }

    /// [`LockGuard::upgrade`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::upgrade`].
    pub fn upgrade_blocking(&mut self) -> Result<()> {
        block_on(self.upgrade())
    }

    /// [`LockGuard::upgrade_within`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::upgrade_within`].
    pub fn upgrade_within_blocking(&mut self, timeout: Duration) -> Result<()> {
        block_on(self.upgrade_within(timeout))
    }

    /// [`LockGuard::try_upgrade`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::try_upgrade`].
    pub fn try_upgrade_blocking(&mut self) -> Result<()> {
        block_on(self.try_upgrade())
    }

    /// [`LockGuard::downgrade`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`LockGuard::downgrade`].
    pub fn downgrade_blocking(&mut self, mode: Mode) -> Result<()> {
        block_on(self.downgrade(mode))
    }
}

impl Observer {
    /// [`Observer::next`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`Observer::next`].
    pub fn next_blocking(&mut self) -> Result<Option<Leader>> {
        block_on(self.next())
    }
}
