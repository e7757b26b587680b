//! A change of the nodes that is under way, for whoever wants to know of it.

use super::showing::{Follower, Shown};
use crate::{engine::Engine, message::Ask, router::CancelChange};
use mailring_engine::{Error, Result, ids::NodeId, motion::Ending};
use pollster::block_on;
use std::{
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

pub use mailring_engine::motion::Step as ChangeStep;

/// How a change has ended.
pub type ChangeEnd = Ending;

/// How far a change is.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ChangeProgress {
    /// What is being done.
    pub step: ChangeStep,
    /// Whether it was cancelled, and leads back.
    pub is_undoing: bool,
    /// The node whose arcs are being moved or cleaned up.
    pub source: Option<NodeId>,
    /// The nodes that are down from which the others take over; empty for a change that somebody has asked for, and for one that
    /// goes on after an opening.
    pub taken_over: Vec<NodeId>,
    /// Arcs that have moved.
    pub arcs_done: usize,
    /// Arcs that move in all.
    pub arcs_total: usize,
    /// Keys copied so far; what had to be copied again counts again.
    pub keys: u64,
    /// Bytes copied so far.
    pub bytes: u64,
    /// Bytes that the plan expected; 0 where nobody knows, when the engine was opened since.
    pub bytes_estimated: u64,
    /// Bytes copied a second, on average since the first.
    pub bytes_per_second: u64,
    /// How long it will take at this rate, if that can be told.
    pub remaining: Option<Duration>,
    /// Why it does not go on: it waits, and tries again by itself.
    pub failure: Option<Error>,
}

impl Default for ChangeProgress {
    fn default() -> Self {
        Self {
            step: ChangeStep::Opening,
            is_undoing: false,
            source: None,
            taken_over: Vec::new(),
            arcs_done: 0,
            arcs_total: 0,
            keys: 0,
            bytes: 0,
            bytes_estimated: 0,
            bytes_per_second: 0,
            remaining: None,
            failure: None,
        }
    }
}

/// A change of the nodes. Clones follow the same change. It goes on when they are dropped.
///
/// `change.await` is [`Change::wait`].
#[derive(Debug, Clone)]
pub struct Change {
    engine: Arc<Engine>,
    follower: Follower,
}

impl Change {
    pub(super) fn new(engine: Arc<Engine>, follower: Follower) -> Self {
        Self { engine, follower }
    }

    fn shown(&self) -> Shown {
        self.follower.0.borrow().clone()
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.follower.0.borrow().end.is_none()
    }

    /// How far it is now.
    #[must_use]
    pub fn progress(&self) -> ChangeProgress {
        self.shown().progress
    }

    /// Waits until it is further than this handle has seen, and tells how far; `None` when it has ended, or with the engine. A
    /// slow caller misses steps, never the last one. Dropping the future loses nothing.
    pub async fn next_progress(&mut self) -> Option<ChangeProgress> {
        if !self.is_under_way() && !self.follower.0.has_changed().unwrap_or(false) {
            return None;
        }
        self.follower.0.changed().await.ok()?;
        Some(self.follower.0.borrow_and_update().progress.clone())
    }

    /// [`Change::next_progress`] for plain threads.
    pub fn next_progress_blocking(&mut self) -> Option<ChangeProgress> {
        block_on(self.next_progress())
    }

    /// Waits until it has ended. Dropping the future does not end the change.
    ///
    /// # Errors
    ///
    /// Why it could not begin (`Io`, `DiskFull`, `RingChangeRefused`, …: nothing has changed); `ReadOnly` or `Closed` if the
    /// engine has stopped meanwhile: it goes on when the engine is opened again.
    pub async fn wait(&self) -> Result<ChangeEnd> {
        let mut follower = self.follower.0.clone();
        let ended = follower.wait_for(|shown| shown.end.is_some()).await;
        match ended {
            Ok(shown) => shown.end.clone().expect("it was waited for"),
            Err(_) => Err(Error::Closed),
        }
    }

    /// [`Change::wait`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`Change::wait`].
    pub fn wait_blocking(&self) -> Result<ChangeEnd> {
        block_on(self.wait())
    }

    /// Undoes it, and waits until that is done: everything is where it was before. What has moved already moves back, by
    /// the same steps. At the very end nothing can be undone any more, and the answer is `Completed`. Dropping the future does
    /// not take the cancelling back.
    ///
    /// # Errors
    ///
    /// As [`Change::wait`].
    pub async fn cancel(&self) -> Result<ChangeEnd> {
        let (reply, answer) = oneshot::channel();
        self.engine.switchboard.router().do_send(Ask {
            message: CancelChange(self.follower.clone()),
            reply,
        });
        answer.await.map_err(|_| Error::Closed)?;
        self.wait().await
    }

    /// [`Change::cancel`] for plain threads.
    ///
    /// # Errors
    ///
    /// As [`Change::cancel`].
    pub fn cancel_blocking(&self) -> Result<ChangeEnd> {
        block_on(self.cancel())
    }
}

impl IntoFuture for Change {
    type Output = Result<ChangeEnd>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.wait().await })
    }
}
