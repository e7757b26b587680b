//! The router: the only writer of who owns what. It publishes immutable routes, by which handles and actors find a node
//! without a message, and answers for the state of the nodes.

use crate::{guard::transacted, member::Health, stats::NodeState, switchboard::Switchboard};
use actix::{Actor, Context, Handler, Message};
use mailring_engine::ids::NodeId;
use std::sync::Arc;

/// From the supervisor: a node has another state.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct NodeStatus {
    pub(crate) node: NodeId,
    pub(crate) state: NodeState,
    pub(crate) reason: Option<String>,
}

impl NodeStatus {
    fn after(&self, before: &Health) -> Health {
        let is_restart = self.state == NodeState::Restarted;
        Health {
            state: self.state,
            restarts: before.restarts + u64::from(is_restart),
            last_failure: self.reason.clone(),
        }
    }
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
        let Some(member) = board.member(status.node) else {
            return;
        };
        let next = transacted(&mut (), |()| {
            board.between_faults("router", "NodeStatus", || {
                status.after(&member.health.load())
            })
        });
        match next {
            Ok(health) => member.health.store(Arc::new(health)),
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
