//! What happens to the nodes without anybody's having asked for it, for programs that want to know: the same is in the log.

use super::change::ChangeEnd;
use crate::{router::NodeStatus, stats::NodeState};
use mailring_engine::{Error, Result, ids::NodeId};
use pollster::block_on;
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};
use tokio::sync::broadcast::{self, error::RecvError};

/// Events that are remembered for whoever begins to watch, and that a watcher may lie behind before it misses some.
const REMEMBERED: usize = 64;

/// What has happened to a node.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// It panicked, and begins a new life.
    Restarted {
        /// The node.
        node: NodeId,
        /// What it panicked of.
        reason: String,
    },
    /// Its tree could not be read when the engine was opened: its keys answer `CorruptTree`, the others are served. It is
    /// remembered for whoever subscribes behind the opening.
    Isolated {
        /// The node.
        node: NodeId,
        /// Which file it was, and what is wrong with it.
        error: Error,
    },
    /// It was given up: its keys answer `NodeDown` until the others have taken over, or the engine is opened again.
    Down {
        /// The node.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// The others begin to take over from these nodes, which are down.
    TakeOver {
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// The others have taken over: all keys of these nodes are served again, and the nodes are gone.
    TakenOver {
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// A take-over was cancelled, or could not be: these nodes are down as before.
    TakeOverUndone {
        /// The nodes.
        nodes: Vec<NodeId>,
        /// Why, if nobody has cancelled it.
        failure: Option<Error>,
    },
    /// The watcher was too slow. Later events follow.
    Missed {
        /// How many were missed.
        events: u64,
    },
}

/// Events of the nodes, oldest first.
#[derive(Debug)]
pub struct NodeEvents {
    past: VecDeque<NodeEvent>,
    coming: broadcast::Receiver<NodeEvent>,
}

impl NodeEvents {
    /// The next event; `None` once the engine is gone. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        if let Some(event) = self.past.pop_front() {
            return Some(event);
        }
        match self.coming.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(events)) => Some(NodeEvent::Missed { events }),
            Err(RecvError::Closed) => None,
        }
    }

    /// [`NodeEvents::next`] for plain threads.
    pub fn next_blocking(&mut self) -> Option<NodeEvent> {
        block_on(self.next())
    }
}

/// Tells whoever watches.
#[derive(Debug)]
pub(crate) struct Events {
    /// Held while somebody begins to watch, so that he misses nothing and hears nothing twice.
    past: Mutex<VecDeque<NodeEvent>>,
    sender: broadcast::Sender<NodeEvent>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            past: Mutex::default(),
            sender: broadcast::Sender::new(REMEMBERED),
        }
    }
}

impl Events {
    pub(crate) fn follow(&self) -> NodeEvents {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        NodeEvents {
            past: past.clone(),
            coming: self.sender.subscribe(),
        }
    }

    pub(crate) fn tell(&self, event: NodeEvent) {
        tracing::info!(?event, "the nodes");
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(event.clone());
        // There may be nobody to hear it.
        let _ = self.sender.send(event);
    }

    /// From the router: a node has another state, perhaps since its tree can't be read.
    pub(crate) fn of_status(&self, status: &NodeStatus, unreadable: Option<&Error>) {
        let (node, reason) = (status.node, status.reason.clone().unwrap_or_default());
        match (status.state, unreadable) {
            (NodeState::Serving | NodeState::Isolated, _) => {}
            (NodeState::Restarted, _) => self.tell(NodeEvent::Restarted { node, reason }),
            (NodeState::Down, None) => self.tell(NodeEvent::Down { node, reason }),
            (NodeState::Down, Some(error)) => {
                let error = error.clone();
                self.tell(NodeEvent::Isolated { node, error });
            }
        }
    }

    /// From the router: a change has ended, which was a take-over if it names nodes.
    pub(crate) fn of_end(&self, nodes: &[NodeId], end: &Result<ChangeEnd>) {
        let nodes = nodes.to_vec();
        let failure = match end {
            _ if nodes.is_empty() => return,
            Ok(ChangeEnd::Completed) => return self.tell(NodeEvent::TakenOver { nodes }),
            // It goes on when the engine is opened again.
            Err(Error::ReadOnly { .. }) => return,
            Ok(ChangeEnd::Cancelled) => None,
            Err(error) => Some(error.clone()),
        };
        self.tell(NodeEvent::TakeOverUndone { nodes, failure });
    }
}
