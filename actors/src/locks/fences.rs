//! Fences on their way into a commit.

use super::LockGuard;
use crate::engine::Engine;
use mailring_engine::{
    Error, Result,
    locks::{FencingToken, MAX_LOCK_NAME_BYTES},
    transaction::{Fence, MAX_TRANSACTION_FENCES},
};

impl LockGuard {
    /// The condition that this guard still holds its lock, for a commit in `engine`.
    pub(crate) fn fence(&self, engine: &Engine) -> Result<Fence> {
        if !std::ptr::eq(engine, self.engine()) {
            return Err(invalid(
                self.name(),
                "its guard belongs to another engine than the commit",
            ));
        }
        fence(self.name(), self.token())
    }
}

/// The condition that `token` is that of the holder of `lock`.
pub(crate) fn fence(lock: &str, token: FencingToken) -> Result<Fence> {
    if !(1..=MAX_LOCK_NAME_BYTES).contains(&lock.len()) {
        return Err(Error::InvalidLockName {
            name: lock.to_owned(),
            reason: "names have 1 to 255 bytes",
        });
    }
    let lock = lock.into();
    Ok(Fence { lock, token })
}

/// Adds a condition, once.
pub(crate) fn add_fence(fences: &mut Vec<Fence>, fence: Fence) -> Result<()> {
    if fences.contains(&fence) {
        return Ok(());
    }
    if fences.len() >= MAX_TRANSACTION_FENCES {
        return Err(Error::TransactionTooLarge {
            len: fences.len() + 1,
            limit: MAX_TRANSACTION_FENCES,
            unit: "fences",
        });
    }
    fences.push(fence);
    Ok(())
}

pub(crate) fn invalid(lock: &str, reason: &'static str) -> Error {
    Error::InvalidOption {
        option: "fence",
        value: format!("{lock:?}"),
        reason,
    }
}
