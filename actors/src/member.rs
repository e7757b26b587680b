//! A storage node as everybody else sees it: what its readers share, where its messages go, how it is.
//!
//! Nodes come and go while the engine serves, so everything that belongs to one of them is in its [`Member`], and who has a
//! member needs no table of nodes. A node that has left goes with the last who holds it: a snapshot, say.

use crate::{
    clock::NodeTicks,
    message::Deliver,
    queue::Queue,
    stats::NodeState,
    storage_node::{Resume, StorageNode},
    telemetry::NodeFigures,
};
use actix::Addr;
use arc_swap::ArcSwap;
use mailring_engine::{
    ids::{Lsn, NodeId},
    participant::NodeMessage,
    store::Store,
    view::NodeTable,
};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// A node that is open.
pub(crate) struct Member {
    pub(crate) table: Arc<NodeTable>,
    pub(crate) store: Arc<dyn Store>,
    /// The tree is complete up to here, whether the view that is published says so already or not.
    written: AtomicU64,
    pub(crate) queue: Arc<Queue>,
    pub(crate) ticks: NodeTicks,
    pub(crate) figures: NodeFigures,
    /// Written by the router alone.
    pub(crate) health: ArcSwap<Health>,
    /// Set before anybody else has the member. The actor must not hold its member: it ends with its last address.
    address: OnceLock<Addr<StorageNode>>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("node", &self.node())
            .field("health", &self.health.load())
            .finish_non_exhaustive()
    }
}

impl Member {
    pub(crate) fn new(table: Arc<NodeTable>, store: Arc<dyn Store>, queue_capacity: usize) -> Self {
        Self {
            figures: NodeFigures::new(table.node()),
            written: AtomicU64::new(table.view().complete.0),
            table,
            store,
            queue: Arc::new(Queue::new(queue_capacity)),
            ticks: NodeTicks::default(),
            health: ArcSwap::from_pointee(Health::default()),
            address: OnceLock::new(),
        }
    }

    #[inline]
    pub(crate) fn node(&self) -> NodeId {
        self.table.node()
    }

    /// Up to where the tree is complete: before anybody lets go of the journal for it.
    pub(crate) fn written(&self) -> Lsn {
        Lsn(self.written.load(Ordering::Acquire))
    }

    /// The thread that writes runs has written everything up to here.
    pub(crate) fn set_written(&self, through: Lsn) {
        self.written.fetch_max(through.0, Ordering::AcqRel);
    }

    /// Gives the member its actor.
    pub(crate) fn started(&self, address: Addr<StorageNode>) {
        let is_first = self.address.set(address).is_ok();
        assert!(is_first, "a node has one actor");
    }

    #[inline]
    pub(crate) fn address(&self) -> &Addr<StorageNode> {
        let address = self.address.get();
        address.expect("a member is listed once its actor has started")
    }

    pub(crate) fn tell(&self, message: NodeMessage) {
        self.address().do_send(Deliver(message));
    }

    /// How it is now.
    pub(crate) fn state(&self) -> NodeState {
        match self.table.is_down() {
            true if self.table.unreadable().is_some() => NodeState::Isolated,
            true => NodeState::Down,
            false => self.health.load().state,
        }
    }

    pub(crate) fn resume(&self) {
        self.address().do_send(Resume);
    }
}

/// How a node is, and has been since the engine was opened.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    pub(crate) state: NodeState,
    pub(crate) restarts: u64,
    pub(crate) last_failure: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: NodeState::Serving,
            restarts: 0,
            last_failure: None,
        }
    }
}
