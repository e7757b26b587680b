//! Leader election: a thin layer over exclusive locks.
//!
//! A candidate waits for the lock of the election; who holds it leads, until its candidacy is dropped, resigned or lost.
//! The leader's value is published within the engine, and counts only while its lease does.

use super::{guard::LockGuard, request::Locks, ticket::Ticket};
use crate::{Error, Result, clock::Clock, engine::Engine, guard::guarded};
use bytes::Bytes;
use mailring_engine::locks::FencingToken;
use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};
use tokio::sync::watch;

/// Elections have their own names among the locks.
const PREFIX: &str = "election/";

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// What it said of itself when it stood for election: an address, a name.
    pub value: Bytes,
    /// Its fencing token: that of a later leader is higher.
    pub token: FencingToken,
}

#[derive(Debug, Clone)]
struct Incumbent {
    value: Bytes,
    ticket: Arc<Ticket>,
}

type Channel = watch::Sender<Option<Incumbent>>;

/// The elections that somebody leads or observes.
#[derive(Debug, Default)]
pub(crate) struct Elections {
    channels: Mutex<Channels>,
}

#[derive(Debug, Default)]
struct Channels {
    open: BTreeMap<Arc<str>, Channel>,
    /// Set when the engine has stopped: nobody will lead any more.
    is_over: bool,
}

impl Elections {
    fn with<T>(&self, name: &Arc<str>, use_it: impl FnOnce(&Channel) -> T) -> T {
        let mut channels = self.lock();
        if channels.is_over {
            return use_it(&watch::Sender::new(None));
        }
        let channels = &mut channels.open;
        let channel = channels
            .entry(Arc::clone(name))
            .or_insert_with(|| watch::Sender::new(None));
        let outcome = use_it(channel);
        // Nobody leads and nobody looks: nothing has to be remembered.
        if channel.receiver_count() == 0 && channel.borrow().is_none() {
            channels.remove(name);
        }
        outcome
    }

    /// Tells all observers that it is over. Whoever led has been told before that the lock is lost.
    pub(super) fn close(&self) {
        let open = {
            let mut channels = self.lock();
            channels.is_over = true;
            std::mem::take(&mut channels.open)
        };
        for channel in open.into_values() {
            // It wakes by wakers of the observers', whose panic is no business of the others.
            if let Err(reason) = guarded(|| drop(channel)) {
                tracing::error!(reason, "the waker of an observer panicked");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Locks {
    /// Stands for election, and returns when elected.
    ///
    /// Dropping the future withdraws.
    ///
    /// # Errors
    ///
    /// As [`LockRequest::acquire`](super::LockRequest::acquire), but for timeouts.
    pub async fn campaign(&self, name: &str, value: impl AsRef<[u8]>) -> Result<Candidacy> {
        let guard = self.lock(&format!("{PREFIX}{name}")).await?;
        let name: Arc<str> = name.into();
        let incumbent = Incumbent {
            value: Bytes::copy_from_slice(value.as_ref()),
            ticket: Arc::clone(guard.ticket()),
        };
        let elections = &self.engine.switchboard.locks.elections;
        elections.with(&name, |channel| channel.send_replace(Some(incumbent)));
        Ok(Candidacy {
            engine: Arc::clone(&self.engine),
            name,
            guard,
        })
    }

    /// Observes who leads.
    pub fn observe(&self, name: &str) -> Observer {
        let name: Arc<str> = name.into();
        let elections = &self.engine.switchboard.locks.elections;
        let mut changes = elections.with(&name, watch::Sender::subscribe);
        changes.mark_changed();
        Observer {
            engine: Arc::clone(&self.engine),
            name,
            changes,
            told: None,
        }
    }
}

/// An elected leader's office. Dropping it resigns.
#[derive(Debug)]
#[must_use = "dropping it resigns"]
pub struct Candidacy {
    engine: Arc<Engine>,
    name: Arc<str>,
    guard: LockGuard,
}

impl Candidacy {
    /// The lock that stands for the office: its token, whether it is still held, and when it is lost.
    pub fn guard(&self) -> &LockGuard {
        &self.guard
    }

    /// Gives the office up.
    pub fn resign(self) {}
}

impl Drop for Candidacy {
    fn drop(&mut self) {
        // Before the guard is released, so that the next one's news come later.
        let own = self.guard.ticket();
        let elections = &self.engine.switchboard.locks.elections;
        elections.with(&self.name, |channel| {
            channel.send_if_modified(|leader| {
                let is_own = |leader: &mut Incumbent| Arc::ptr_eq(&leader.ticket, own);
                leader.take_if(is_own).is_some()
            })
        });
    }
}

/// Tells who leads; see [`Locks::observe`].
#[derive(Debug)]
pub struct Observer {
    engine: Arc<Engine>,
    name: Arc<str>,
    changes: watch::Receiver<Option<Incumbent>>,
    /// What was told last; the outer `None` before anything was.
    told: Option<Option<Leader>>,
}

impl Observer {
    /// Who leads now.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        leader(&self.changes.borrow(), self.engine.switchboard.clock)
    }

    /// Returns who leads, at the first call at once, then at each change; `None` when nobody does. A leader of whom it
    /// would be told too late is left out. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// `Closed` once the engine has shut down, behind the news that nobody leads.
    pub async fn next(&mut self) -> Result<Option<Leader>> {
        loop {
            let incumbent = self.changes.borrow_and_update().clone();
            let now = leader(&incumbent, self.engine.switchboard.clock);
            if self.told.as_ref() != Some(&now) {
                self.told = Some(now.clone());
                return Ok(now);
            }
            match incumbent.filter(|_| now.is_some()) {
                // A leader whose lease is lost publishes nothing.
                Some(incumbent) => {
                    either(self.changes.changed(), incumbent.ticket.lost()).await;
                }
                None => {
                    let changed = self.changes.changed().await;
                    changed.map_err(|_| Error::Closed)?;
                }
            }
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // Another receiver is never waited for: the last one out has the name forgotten at its next use.
        let elections = &self.engine.switchboard.locks.elections;
        let (_, unused) = watch::channel(None);
        self.changes = unused;
        elections.with(&self.name, |_| ());
    }
}

/// Returns when one of the two does.
async fn either(one: impl Future, other: impl Future) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| {
        let is_ready =
            one.as_mut().poll(context).is_ready() || other.as_mut().poll(context).is_ready();
        if is_ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

fn leader(incumbent: &Option<Incumbent>, clock: Clock) -> Option<Leader> {
    let incumbent = incumbent.as_ref()?;
    incumbent.ticket.is_held(clock).then(|| Leader {
        value: incumbent.value.clone(),
        token: incumbent.ticket.token(),
    })
}
