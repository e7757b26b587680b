//! The nodes of an engine: who they are, and changing that while everything serves.
//!
//! ```
//! # async fn f(db: mailring::Mailring) -> mailring::Result<()> {
//! let nodes = db.nodes();
//! println!("{} arcs would move", nodes.plan_add(1)?.moves.len());
//! let mut change = nodes.add(1).await?;
//! while let Some(progress) = change.next_progress().await {
//!     println!("{} of {} arcs, {} bytes", progress.arcs_done, progress.arcs_total, progress.bytes);
//! }
//! change.wait().await?;
//! # Ok(()) }
//! ```
//!
//! A change goes on by itself, whether its handle is kept or not, and over a crash: opening the engine again goes on with it.
//! One runs at a time.

mod blocking;
mod change;
mod events;
mod list;
mod plan;
mod showing;

pub use blocking::BlockingNodes;
pub use change::{Change, ChangeEnd, ChangeProgress, ChangeStep};
pub(crate) use events::Events;
pub use events::{NodeEvent, NodeEvents};
pub use list::NodeInfo;
pub use plan::Plan;
pub(crate) use showing::{Follower, Showing};

use crate::{
    Mailring,
    engine::Engine,
    message::Ask,
    router::{ChangeRing, held},
};
use mailring_engine::{
    Error, Result,
    ids::{DirectoryNo, NodeId},
    motion::{Intent, Plan as MotionPlan},
};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The nodes of an engine. See [`Mailring::nodes`].
#[derive(Debug, Clone)]
pub struct Nodes {
    engine: Arc<Engine>,
}

impl Mailring {
    /// The storage nodes: to list them, and to add, remove and re-weight them while everything serves.
    #[must_use]
    pub fn nodes(&self) -> Nodes {
        Nodes {
            engine: Arc::clone(&self.engine),
        }
    }
}

impl Nodes {
    /// What adding a node of this weight would move. Nothing is changed.
    ///
    /// # Errors
    ///
    /// `InvalidOption` (a weight of 0, or too few arcs to keep every share within 1 %: the number of arcs is set when a
    /// directory is created), `RingChangeRefused` while a change is under way, `Closed`.
    pub fn plan_add(&self, weight: u32) -> Result<Plan> {
        self.plan(Intent::Add { weight })
    }

    /// What removing a node would move. Nothing is changed.
    ///
    /// # Errors
    ///
    /// `InvalidOption` if it is no member or the last one, and as [`Nodes::plan_add`].
    pub fn plan_remove(&self, node: NodeId) -> Result<Plan> {
        self.plan(Intent::Remove { node })
    }

    /// What another weight of a node would move. Nothing is changed.
    ///
    /// # Errors
    ///
    /// `InvalidOption` if it is no member, and as [`Nodes::plan_add`].
    pub fn plan_set_weight(&self, node: NodeId, weight: u32) -> Result<Plan> {
        self.plan(Intent::SetWeight { node, weight })
    }

    fn plan(&self, intent: Intent) -> Result<Plan> {
        self.engine.check_open()?;
        let board = &self.engine.switchboard;
        let routes = board.routes.load_full();
        if routes.state().running().is_some() {
            let reason = "a change is under way already; wait for its end, or cancel it";
            return Err(Error::RingChangeRefused { reason });
        }
        let held = held(board);
        let held = |node| {
            let found = held.iter().find(|(other, _)| *other == node);
            found.map_or(0, |(_, bytes)| *bytes)
        };
        MotionPlan::new(routes.state(), intent, &held).map(Plan::of)
    }

    /// Adds a node, which gets the next number; numbers are never used again. Answers at once, with a handle of the change.
    ///
    /// Only the arcs move that the new shares ask for. Reads never stop; a write to a key that moves waits for the moment
    /// in which its arc is handed over, and is routed again by itself.
    ///
    /// Dropping the future: the change may have begun; [`Nodes::change`] tells.
    ///
    /// # Errors
    ///
    /// As [`Nodes::plan_add`]; `ReadOnly`; `NodeDown` or `CorruptTree` if a node that would give or take arcs is down, or its
    /// tree can't be read: a change could only wait for it.
    pub async fn add(&self, weight: u32) -> Result<Change> {
        self.change_ring(Intent::Add { weight }, None).await
    }

    /// Adds a node as [`Nodes::add`] does, which lives in this directory ([`Builder::directory`](crate::Builder::directory)).
    ///
    /// # Errors
    ///
    /// As [`Nodes::add`]; `InvalidOption` if there is no such directory.
    pub async fn add_in(&self, directory: DirectoryNo, weight: u32) -> Result<Change> {
        let directories = self.engine.switchboard.placements.now().directories();
        if usize::from(directory.0) >= directories {
            return Err(Error::InvalidOption {
                option: "directory",
                value: directory.to_string(),
                reason: "there are not so many directories; they are numbered from 0",
            });
        }
        self.change_ring(Intent::Add { weight }, Some(directory))
            .await
    }

    /// Removes a node: its arcs go to the others, then it stops, and its folder goes when the directory is opened again.
    /// Dropping the future: as for [`Nodes::add`].
    ///
    /// # Errors
    ///
    /// As [`Nodes::plan_remove`] and [`Nodes::add`].
    pub async fn remove(&self, node: NodeId) -> Result<Change> {
        self.change_ring(Intent::Remove { node }, None).await
    }

    /// Gives a node another share. Dropping the future: as for [`Nodes::add`].
    ///
    /// # Errors
    ///
    /// As [`Nodes::plan_set_weight`] and [`Nodes::add`].
    pub async fn set_weight(&self, node: NodeId, weight: u32) -> Result<Change> {
        self.change_ring(Intent::SetWeight { node, weight }, None)
            .await
    }

    #[tracing::instrument(level = "info", skip(self))]
    async fn change_ring(&self, intent: Intent, directory: Option<DirectoryNo>) -> Result<Change> {
        let engine = &self.engine;
        engine.check_writable()?;
        let (reply, answer) = oneshot::channel();
        engine.switchboard.router().do_send(Ask {
            message: ChangeRing { intent, directory },
            reply,
        });
        let follower = answer.await.unwrap_or(Err(Error::Closed))?;
        Ok(Change::new(Arc::clone(engine), follower))
    }

    /// What happens to the nodes: restarts, losses, take-overs. Begins with what has happened since the engine was opened, as
    /// far as it is remembered (the last 64).
    #[must_use]
    pub fn events(&self) -> NodeEvents {
        self.engine.switchboard.events.follow()
    }

    /// The change that is under way, if there is one: also one that was begun before the engine was opened, or a take-over,
    /// for which nobody has asked.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        let follower = self.engine.switchboard.showing.follow()?;
        let change = Change::new(Arc::clone(&self.engine), follower);
        change.is_under_way().then_some(change)
    }
}
