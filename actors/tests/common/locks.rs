//! What the tests of named locks share.

use super::{patiently, tuned};
use mailring::{Builder, Error, LockGuard, Mailring, Result};
use std::time::Duration;

pub const SHORT: Duration = Duration::from_millis(60);

pub fn memory() -> Builder {
    tuned(Mailring::memory()).nodes(1)
}

pub fn busy<T>(outcome: &Result<T>) -> bool {
    matches!(outcome, Err(Error::LockBusy { .. }))
}

/// A guard that does not renew, so that its lease is over before long.
pub async fn short(db: &Mailring, name: &str) -> Result<LockGuard> {
    let request = db.locks().lock(name).lease(SHORT).renewed_by_hand();
    patiently(request.acquire()).await
}

/// Returns when so many requests wait for locks.
pub async fn until_waiting(db: &Mailring, count: usize) -> Result<()> {
    loop {
        let locks = db.locks().list().await?;
        if locks.iter().map(|lock| lock.waiters.len()).sum::<usize>() == count {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

pub async fn until_idle(db: &Mailring) -> Result<()> {
    while !db.locks().list().await?.is_empty() {
        tokio::task::yield_now().await;
    }
    Ok(())
}
