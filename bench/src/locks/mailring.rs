//! mailring's locks: exclusive, with a lease that is renewed by itself. The guard gives the lock back when it is dropped,
//! which sends a message and waits for nobody.

use mailring::{LockGuard, Locks, Mailring};

use super::{LockClient, LockService};
use crate::Result;
use crate::subject::Style;

/// mailring for its locks.
#[derive(Clone)]
pub(crate) struct Ring(pub(crate) Mailring);

impl LockService for Ring {
    const STYLE: Style = Style::Tasks;
    type Client = Locks;

    fn connect(&self) -> Result<Locks> {
        Ok(self.0.locks())
    }

    async fn close(self) -> Result<()> {
        Ok(self.0.shutdown().await?)
    }
}

impl LockClient for Locks {
    type Held = LockGuard;

    async fn lock(&mut self, name: &str) -> Result<Option<LockGuard>> {
        Ok(Some(Locks::lock(self, name).await?))
    }

    async fn unlock(&mut self, held: LockGuard) -> Result<()> {
        drop(held);
        Ok(())
    }
}
