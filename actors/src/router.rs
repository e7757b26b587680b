//! The router: the only writer of who owns what. It publishes an immutable snapshot, by which handles route without a
//! message, and answers for the state of the nodes.

use crate::{guard::transacted, stats::NodeState, switchboard::Switchboard};
use actix::{Actor, Context, Handler, Message};
use mailring_engine::{ids::NodeId, ring::Ring, view::NodeTable};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use tokio::sync::Notify;

/// What a handle needs to reach the owner of a key.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) ring: Arc<Ring>,
    pub(crate) nodes: Vec<Route>,
}

impl Routes {
    pub(crate) fn owner(&self, key: &[u8]) -> &Route {
        &self.nodes[usize::from(self.ring.owner(key).0)]
    }

    fn after(&self, status: &NodeStatus) -> Self {
        let mut nodes = self.nodes.clone();
        let route = &mut nodes[usize::from(status.node.0)];
        if status.state == NodeState::Restarted {
            route.restarts += 1;
        }
        route.state = status.state;
        route.last_failure.clone_from(&status.reason);
        Self {
            ring: Arc::clone(&self.ring),
            nodes,
        }
    }
}

/// A node as handles see it.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) node: NodeId,
    pub(crate) table: Arc<NodeTable>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) state: NodeState,
    pub(crate) restarts: u64,
    pub(crate) last_failure: Option<String>,
}

/// Counts the requests that a node has not answered, and bounds them.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: AtomicUsize,
    capacity: usize,
    /// Wakes who waits for the node's answers, to look at his deadline.
    pub(crate) overdue: Notify,
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            capacity,
            overdue: Notify::new(),
        }
    }

    /// A place in the queue, if there is one.
    pub(crate) fn enter(queue: &Arc<Self>) -> Option<Place> {
        let waiting = queue.waiting.fetch_add(1, Relaxed);
        let place = Place {
            queue: Arc::clone(queue),
        };
        (waiting < queue.capacity).then_some(place)
    }

    pub(crate) fn depth(&self) -> usize {
        self.waiting.load(Relaxed)
    }
}

/// A place in a node's queue, left when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    queue: Arc<Queue>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Relaxed);
    }
}

/// From the supervisor: a node has another state.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct NodeStatus {
    pub(crate) node: NodeId,
    pub(crate) state: NodeState,
    pub(crate) reason: Option<String>,
}

pub(crate) struct Router {
    switchboard: Arc<Switchboard>,
}

impl Router {
    pub(crate) fn new(switchboard: Arc<Switchboard>) -> Self {
        Self { switchboard }
    }
}

impl Actor for Router {
    type Context = Context<Self>;
}

impl Handler<NodeStatus> for Router {
    type Result = ();

    fn handle(&mut self, status: NodeStatus, _: &mut Self::Context) {
        let board = &self.switchboard;
        let next = transacted(&mut (), |()| {
            board.between_faults("router", "NodeStatus", || {
                board.routes.load().after(&status)
            })
        });
        match next {
            Ok(routes) => board.routes.store(Arc::new(routes)),
            Err(reason) => {
                tracing::error!(
                    reason,
                    ?status,
                    "the router panicked; stats may be out of date"
                );
            }
        }
    }
}
