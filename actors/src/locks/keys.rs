//! Keys that transactions have locked ahead.
//!
//! A key's lock saves work and is no promise: whoever does not ask for it may write the key, and validation finds that
//! out. So it has no lease and no guard that is told of a loss, and nothing is checked when a panic of the lock manager has
//! lost it.

use super::{desk::Command, request::Pending};
use crate::engine::Engine;
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    ids::{RequestId, Time},
    locks::{Acquire, LockMessage, Mode, Resource, Session, SessionId, Wait},
};
use std::{collections::BTreeSet, sync::Arc, time::Instant};

/// A key's lock that was just granted. Dropped, it is given back.
pub(crate) struct KeyGrant(Pending);

impl KeyGrant {
    /// Waits for the lock of a qualified key. Dropping the future leaves the queue.
    pub(crate) async fn acquire(
        engine: &Arc<Engine>,
        session: Session,
        key: Bytes,
        until: Time,
    ) -> Result<Self> {
        let started = Instant::now();
        let id = engine.switchboard.locks.next_request();
        let resource = Resource::Key(key);
        let message = LockMessage::Acquire(Acquire {
            id,
            session,
            resource: resource.clone(),
            mode: Mode::Exclusive,
            wait: Wait::Until(until),
            lease: None,
        });
        let pending = Pending::send(Arc::clone(engine), id, resource, false, message)?;
        if let Err(error) = pending.ticket.answered().await {
            pending.done();
            return Err(match error {
                // It was granted and lost before the caller was woken. A key has no lease, so its manager is gone.
                Error::LockLost => Error::LockManagerRestarted,
                error => error,
            });
        }
        engine
            .switchboard
            .telemetry
            .locks
            .granted(started.elapsed());
        Ok(Self(pending))
    }

    fn keep(self) -> RequestId {
        let id = self.0.ticket.id;
        self.0.done();
        id
    }
}

/// The keys that a transaction has locked. They are released when this is dropped.
#[derive(Debug)]
pub(crate) struct KeyLocks {
    engine: Arc<Engine>,
    session: SessionId,
    keys: BTreeSet<Bytes>,
    grants: Vec<RequestId>,
}

impl KeyLocks {
    pub(crate) fn new(engine: Arc<Engine>, session: SessionId) -> Self {
        Self {
            engine,
            session,
            keys: BTreeSet::new(),
            grants: Vec::new(),
        }
    }

    pub(crate) fn contains(&self, key: &Bytes) -> bool {
        self.keys.contains(key)
    }

    pub(crate) fn insert(&mut self, key: Bytes, grant: KeyGrant) {
        self.keys.insert(key);
        self.grants.push(grant.keep());
    }
}

impl Drop for KeyLocks {
    fn drop(&mut self) {
        let grants = std::mem::take(&mut self.grants);
        match self.session {
            SessionId::Transaction(_) => {
                // Where the desk is closed everything is released.
                let _ = self.engine.leave(Command::EndSession(self.session, grants));
            }
            // The session goes on, with what else it has locked.
            SessionId::Application(_) => {
                for id in grants {
                    self.engine.release(id);
                }
            }
        }
    }
}
