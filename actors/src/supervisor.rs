//! The supervisor: decides when a storage node may start a new life, and when it has died too often.

use crate::{guard::transacted, router::NodeStatus, switchboard::Switchboard};
use actix::{Actor, AsyncContext, Context, Handler, Message};
use mailring_engine::{
    Error,
    checkpoint::CheckpointMessage,
    coordinator::CoordinatorMessage,
    ids::NodeId,
    participant::NodeMessage,
    restart::{RestartPolicy, Restarts, Verdict},
    sequencer::JournalMessage,
};
use std::{
    collections::{BTreeMap, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

/// From a node: a handler of its panicked.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Panicked {
    pub(crate) node: NodeId,
    pub(crate) reason: String,
}

/// From a node: it can't be brought back.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Broken {
    pub(crate) node: NodeId,
    pub(crate) error: Error,
}

pub(crate) struct Supervisor {
    policy: RestartPolicy,
    /// Of the nodes that have panicked.
    restarts: BTreeMap<NodeId, Restarts>,
    switchboard: Arc<Switchboard>,
}

impl Supervisor {
    pub(crate) fn new(policy: RestartPolicy, switchboard: Arc<Switchboard>) -> Self {
        Self {
            policy,
            restarts: BTreeMap::new(),
            switchboard,
        }
    }

    fn restarts(&mut self, node: NodeId) -> &mut Restarts {
        let policy = self.policy;
        let new = || Restarts::new(policy).expect("the builder has checked the policy");
        self.restarts.entry(node).or_insert_with(new)
    }

    fn take_down(&mut self, node: NodeId, reason: String) {
        self.restarts(node).give_up();
        tracing::error!(%node, reason, "a storage node is down");
        if let Some(member) = self.switchboard.member(node) {
            member.table.set_down();
            member.tell(NodeMessage::GoDown);
        }
        // The journal hears of it before the router does: all that the node has committed is below the change by which the
        // others take over. The node tells it too, when it has answered its callers.
        self.switchboard.to_journal(JournalMessage::Down { node });
        let lost = CoordinatorMessage::NodeDown(node);
        self.switchboard.to_coordinator(lost);
        let lost = CheckpointMessage::NodeDown(node);
        self.switchboard.to_checkpointer(lost);
        self.report(node, crate::stats::NodeState::Down, Some(reason));
    }

    fn report(&self, node: NodeId, state: crate::stats::NodeState, reason: Option<String>) {
        self.switchboard.router().do_send(NodeStatus {
            node,
            state,
            reason,
        });
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Handler<Panicked> for Supervisor {
    type Result = ();

    fn handle(&mut self, Panicked { node, reason }: Panicked, ctx: &mut Self::Context) {
        let now = self.switchboard.clock.now();
        // A hasher's random keys are all the randomness that a jitter needs.
        let jitter = RandomState::new().build_hasher().finish();
        let board = Arc::clone(&self.switchboard);
        let restarts = self.restarts(node);
        if restarts.is_down() {
            // It died twice of one message: it is broken, and has panicked too.
            return;
        }
        let verdict = transacted(restarts, |restarts| {
            board.between_faults("supervisor", "Panicked", || {
                restarts.handle_panic(now, jitter)
            })
        });
        match verdict {
            Ok(Verdict::Restart { at }) => {
                self.report(node, crate::stats::NodeState::Restarted, Some(reason));
                let back_off = Duration::from_nanos(at.0.saturating_sub(now.0));
                ctx.run_later(back_off, move |supervisor, _| {
                    if let Some(member) = supervisor.switchboard.member(node) {
                        member.resume();
                    }
                });
            }
            Ok(Verdict::Down) => self.take_down(node, reason),
            // Without a supervisor the node would never come back, nor be reported.
            Err(panic) => self.take_down(node, format!("{reason}; the supervisor: {panic}")),
        }
    }
}

impl Handler<Broken> for Supervisor {
    type Result = ();

    fn handle(&mut self, Broken { node, error }: Broken, _: &mut Self::Context) {
        let board = &self.switchboard;
        let reason = transacted(&mut (), |()| {
            board.between_faults("supervisor", "Broken", || error.to_string())
        });
        self.take_down(
            node,
            reason.unwrap_or_else(|panic| format!("{error}; {panic}")),
        );
    }
}
