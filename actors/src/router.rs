//! The router: the only writer of who owns what. It publishes immutable routes, by which handles and actors find a node
//! without a message, answers for the state of the nodes, and carries the machine that changes the ring
//! ([`mailring_engine::motion`]).
//!
//! ```text
//!  handle ── Change, Cancel ──▶ router ── Ring ──▶ journal ── PublishRing ──▶ router: new routes ── RingPublished ──▶ journal
//!                               router ── Open, Work ──▶ mover ── Opened, Worked ──▶ router
//!                               router ── HandOver, KeepArcs, Forget ──▶ node ── HandedOver ──▶ router
//!                               router ── Hold, checkpoint ──▶ checkpointer
//! ```
//!
//! A panic of a handler is taken back with everything that it has changed, and the message is handled once more; so is each
//! effect. If that panics again the change stops where it is, of which its handle and `stats()` tell, and goes on when the engine is
//! opened again; a source that was about to hand its arcs over keeps them until then. If it was the publication of a ring, the
//! engine turns read-only: the journal waits for it.

use crate::{
    checkpointer::{CheckpointNow, HoldJournal},
    guard::{guarded, tell, transacted},
    kinds::{self, EFFECT},
    member::{Health, Member},
    message::{Ask, Deliver, Tick},
    mover::{MoverRequest, StopSign},
    nodes::Follower,
    stats::NodeState,
    switchboard::{FaultSite, Switchboard},
};
use actix::{Actor, AsyncContext, Context, Handler, Message, WrapFuture};
use crossbeam_channel::Sender;
use mailring_engine::{
    Error, Result,
    checkpoint::CheckpointMessage,
    ids::{DirectoryNo, Lsn, NodeId, RequestId},
    motion::{Intent, Motion, MotionEffect, MotionMessage},
    participant::NodeMessage,
    ring_state::RingState,
    sequencer::JournalMessage,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// How long a node may take to show what a checkpoint has written.
const FLUSHED_WITHIN: Duration = Duration::from_secs(1);

/// From the supervisor: a node has another state.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct NodeStatus {
    pub(crate) node: NodeId,
    pub(crate) state: NodeState,
    pub(crate) reason: Option<String>,
}

/// From the journal: handles are to be routed by this.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Publish {
    /// The LSN of the record that has made it so.
    pub(crate) lsn: Lsn,
    pub(crate) state: Arc<RingState>,
}

/// From the mover: the nodes that were missing of those that join, or why there are none.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Opened {
    pub(crate) task: RequestId,
    pub(crate) members: Result<Vec<Arc<Member>>>,
}

/// A handle wants the ring changed. Answered when it has begun, or was refused.
#[derive(Debug)]
pub(crate) struct ChangeRing {
    pub(crate) intent: Intent,
    /// Where a node that is added shall live; if nobody cares, in its turn.
    pub(crate) directory: Option<DirectoryNo>,
}

/// A handle wants the change undone that it follows. Answered at once; how it ends is shown.
#[derive(Debug)]
pub(crate) struct CancelChange(pub(crate) Follower);

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

/// A handle that waits to hear whether its change begins.
#[derive(Debug)]
struct Starting {
    reply: oneshot::Sender<Result<Follower>>,
    /// No other change is shown: this one is.
    is_shown: bool,
}

pub(crate) struct Router {
    switchboard: Arc<Switchboard>,
    motion: Motion,
    mover: Sender<MoverRequest>,
    stop: StopSign,
    /// Handles that wait to hear whether their change begins.
    starting: BTreeMap<RequestId, Starting>,
    /// Where the node shall live that the change under way adds.
    directory: Option<DirectoryNo>,
    last_request: u64,
    /// Set by one panic too many: the machine is not asked again.
    dead: Option<Error>,
}

impl Router {
    pub(crate) fn new(
        switchboard: Arc<Switchboard>,
        motion: Motion,
        mover: Sender<MoverRequest>,
        stop: StopSign,
    ) -> Self {
        Self {
            switchboard,
            motion,
            mover,
            stop,
            starting: BTreeMap::new(),
            directory: None,
            last_request: 0,
            dead: None,
        }
    }

    fn deliver(&mut self, message: MotionMessage, ctx: &mut Context<Self>) {
        let now = self.switchboard.clock.now();
        self.step(kinds::of_motion(&message), ctx, |motion, effects| {
            motion.handle(now, message.clone(), effects);
        });
    }

    fn step(
        &mut self,
        kind: &str,
        ctx: &mut Context<Self>,
        handle: impl Fn(&mut Motion, &mut Vec<MotionEffect>),
    ) {
        if self.dead.is_some() {
            return;
        }
        let board = Arc::clone(&self.switchboard);
        let stepped = transacted(&mut self.motion, |motion| {
            let mut effects = Vec::new();
            board.between_faults("router", kind, || handle(motion, &mut effects));
            effects
        });
        match stepped {
            Ok(effects) => {
                for effect in effects {
                    self.carry_out_or_die(&effect, ctx);
                }
            }
            Err(reason) => self.die(&reason),
        }
        if self.dead.is_some() {
            self.give_up(ctx);
        }
        let due = self.motion.next_timeout();
        board.motion_due.set(due.filter(|_| self.dead.is_none()));
    }

    /// Each effect may come twice, for all who get one.
    fn carry_out_or_die(&mut self, effect: &MotionEffect, ctx: &mut Context<Self>) {
        let board = Arc::clone(&self.switchboard);
        let mut attempt = || {
            guarded(|| {
                board.fault(FaultSite {
                    actor: "router",
                    node: None,
                    message: EFFECT,
                    handled: true,
                });
                self.carry_out(effect.clone(), ctx);
            })
        };
        if let Err(reason) = attempt().or_else(|_| attempt()) {
            self.die(&reason);
        }
    }

    fn die(&mut self, reason: &str) {
        tracing::error!(
            reason,
            "the router panicked; the ring is not changed any more"
        );
        let error = Error::RingChangeRefused {
            reason: "the router has panicked; a change under way goes on when the engine is opened again",
        };
        for (_, starting) in std::mem::take(&mut self.starting) {
            self.refuse(starting, error.clone());
        }
        self.switchboard.showing.end(Err(error.clone()));
        self.dead = Some(error);
    }

    /// There is no change, and none is shown any more when the handle hears of it.
    fn refuse(&self, Starting { reply, is_shown }: Starting, error: Error) {
        if is_shown {
            self.switchboard.showing.forget();
        }
        tell(reply, Err(error));
    }

    /// Behind all that the last step wanted.
    fn give_up(&mut self, ctx: &mut Context<Self>) {
        let given_up = guarded(|| {
            let mut effects = Vec::new();
            self.motion.give_up(&mut effects);
            for effect in effects {
                self.carry_out(effect, ctx);
            }
        });
        if let Err(reason) = given_up {
            tracing::error!(reason, "a node may go on refusing what it was to hand over");
        }
    }

    fn carry_out(&mut self, effect: MotionEffect, ctx: &mut Context<Self>) {
        let board = &self.switchboard;
        match effect {
            MotionEffect::OpenNodes { task, nodes } => {
                let directory = self.directory;
                self.to_mover(MoverRequest::Open {
                    task,
                    nodes,
                    directory,
                });
            }
            MotionEffect::RetireNodes(nodes) => self.retire(&nodes),
            MotionEffect::Journal(request) => board.to_journal(JournalMessage::Ring(request)),
            MotionEffect::Hold { task, through } => {
                board.checkpointer().do_send(HoldJournal { task, through });
            }

            MotionEffect::Checkpoint { task, nodes } => self.checkpoint(task, nodes, ctx),
            MotionEffect::HandOver {
                node,
                change,
                attempt,
                arcs,
            } => board.to_node(
                node,
                NodeMessage::HandOver {
                    change,
                    attempt,
                    arcs,
                },
            ),
            MotionEffect::KeepArcs { node, change } => {
                board.to_node(node, NodeMessage::KeepArcs { change });
            }
            MotionEffect::Forget { node, change } => {
                board.to_node(node, NodeMessage::Forget { change });
                let member = board.member(node);
                if member.is_some_and(|member| !member.table.view().frozen.is_empty()) {
                    // It shows its tree anew only behind a checkpoint, of which nobody else has to hear.
                    let (reply, _) = oneshot::channel();
                    board.checkpointer().do_send(Ask {
                        message: CheckpointNow,
                        reply,
                    });
                }
            }
            MotionEffect::Work { task, job } => self.to_mover(MoverRequest::Work { task, job }),
            MotionEffect::Stop { task } => self.stop.stop(task),
            MotionEffect::Progress(progress) => board.showing.show(progress, &board.events),
            MotionEffect::Answer(request, result) => {
                // Who has heard that it began follows it; so does who has cancelled it.
                if let (Some(starting), Err(error)) = (self.starting.remove(&request), result) {
                    let error = match error {
                        Error::NodeDown { node } => why_down(&self.switchboard, node),
                        error => error,
                    };
                    self.refuse(starting, error);
                }
            }
        }
    }

    fn to_mover(&self, request: MoverRequest) {
        // The thread lives as long as this sender.
        let _ = self.mover.send(request);
    }

    /// Asks for a checkpoint, and for what the nodes show behind it.
    fn checkpoint(&self, task: RequestId, nodes: Vec<NodeId>, ctx: &mut Context<Self>) {
        let board = Arc::clone(&self.switchboard);
        let router = board.router().clone();
        let (reply, answer) = oneshot::channel();
        board.checkpointer().do_send(Ask {
            message: CheckpointNow,
            reply,
        });
        let checkpointed = async move {
            let result = match answer.await.unwrap_or(Err(Error::Closed)) {
                Ok(lsn) => Ok(shown_complete(&board, &nodes, lsn).await),
                Err(error) => Err(error),
            };
            router.do_send(Deliver(MotionMessage::Checkpointed { task, result }));
        };
        ctx.spawn(checkpointed.into_actor(self));
    }

    /// The routes don't name them any more, unless the journal has never known them. Such a one goes out of them here, and its
    /// actor with it: the next that joins has its number, and may live elsewhere. That one is not mistaken for it, since it
    /// owned nothing and was sent nothing, but in an engine that is read-only, where nobody joins any more.
    fn retire(&self, nodes: &[NodeId]) {
        let board = &self.switchboard;
        let known = self.motion.ring().slots().len();
        let (left, unknown): (Vec<NodeId>, Vec<NodeId>) =
            nodes.iter().partition(|node| usize::from(node.0) < known);
        for node in left {
            tracing::info!(%node, "a storage node has left");
            // It may have been asked to freeze, and may not hear of it.
            board.to_checkpointer(CheckpointMessage::NodeDown(node));
        }
        if !unknown.is_empty() {
            let routes = board.routes.load_full();
            let stays = |member: &&Arc<Member>| !unknown.contains(&member.node());
            let nodes = routes.nodes().iter().filter(stays).cloned();
            board
                .routes
                .store(Arc::new(routes.with_nodes(nodes.collect())));
        }
    }
}

/// What the nodes' published views have in their trees, once they show what a checkpoint through `lsn` has written.
async fn shown_complete(board: &Switchboard, nodes: &[NodeId], lsn: Lsn) -> Vec<(NodeId, Lsn)> {
    const SOON: Duration = Duration::from_millis(1);
    let give_up = board.clock.in_future(FLUSHED_WITHIN);
    loop {
        let routes = board.routes.load_full();
        let complete = |node: &NodeId| {
            let member = routes.member(*node)?;
            Some((*node, member.table.view().complete))
        };
        let shown: Vec<_> = nodes.iter().filter_map(complete).collect();
        let is_behind = |(node, complete): &(NodeId, Lsn)| {
            let member = routes.member(*node);
            *complete < lsn && member.is_some_and(|member| !member.table.is_down())
        };
        if !shown.iter().any(is_behind) || board.clock.now() >= give_up {
            return shown;
        }
        board.alarms.sleep(SOON).await;
    }
}

/// Of one whose tree can't be read, what has to be mended.
fn why_down(board: &Switchboard, node: NodeId) -> Error {
    let member = board.member(node);
    member.map_or(Error::NodeDown { node }, |member| member.table.why_down())
}

impl Actor for Router {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(usize::MAX >> 4);
    }
}

impl Handler<NodeStatus> for Router {
    type Result = ();

    fn handle(&mut self, status: NodeStatus, ctx: &mut Self::Context) {
        let board = Arc::clone(&self.switchboard);
        let Some(member) = board.member(status.node) else {
            return;
        };
        let next = transacted(&mut (), |()| {
            board.between_faults("router", "NodeStatus", || {
                status.after(&member.health.load())
            })
        });
        match next {
            Ok(health) => {
                member.health.store(Arc::new(health));
                board.events.of_status(&status, member.table.unreadable());
            }
            Err(reason) => {
                tracing::error!(
                    reason,
                    ?status,
                    "the router panicked; stats may be out of date"
                );
            }
        }
        let node = status.node;
        match status.state {
            NodeState::Serving | NodeState::Isolated => {}
            NodeState::Restarted => self.deliver(MotionMessage::NodeRestarted { node }, ctx),
            NodeState::Down => self.deliver(MotionMessage::NodeDown { node }, ctx),
        }
    }
}

impl Handler<Publish> for Router {
    type Result = ();

    fn handle(&mut self, Publish { lsn, state }: Publish, ctx: &mut Self::Context) {
        let board = Arc::clone(&self.switchboard);
        let published = transacted(&mut (), |()| {
            board.between_faults("router", "Publish", || {
                let routes = board.routes.load_full();
                // Told again, it is there already.
                (routes.epoch() < state.epoch()).then(|| routes.moved_on(Arc::clone(&state)))
            })
        });
        match published {
            Ok(routes) => {
                if let Some(routes) = routes {
                    board.routes.store(Arc::new(routes));
                    board.rerouted.notify_waiters();
                    tracing::debug!(%lsn, epoch = state.epoch().0, "new routes");
                }
                let epoch = state.epoch();
                board.to_journal(JournalMessage::RingPublished { epoch });
            }
            Err(reason) => {
                let reason = format!("the router panicked: {reason}");
                let error = Error::ReadOnly { reason };
                board.to_journal(JournalMessage::Failed(error.clone()));
                // Before the journal has heard of it: nothing moves by routes that nobody has.
                self.deliver(MotionMessage::ReadOnly(error), ctx);
            }
        }
    }
}

impl Handler<Opened> for Router {
    type Result = ();

    fn handle(&mut self, Opened { task, members }: Opened, ctx: &mut Self::Context) {
        if self.dead.is_some() {
            // Nobody asks them to join any more.
            return;
        }
        let board = Arc::clone(&self.switchboard);
        let result = members.and_then(|members| {
            let opened = transacted(&mut (), |()| {
                board.between_faults("router", "Opened", || {
                    let routes = board.routes.load_full();
                    let nodes = routes.nodes().iter().chain(&members).cloned();
                    routes.with_nodes(nodes.collect())
                })
            });
            let panicked = |reason| crate::guard::panicked("the router", reason);
            board.routes.store(Arc::new(opened.map_err(panicked)?));
            Ok(())
        });
        self.deliver(MotionMessage::NodesReady { task, result }, ctx);
    }
}

impl Handler<Deliver<MotionMessage>> for Router {
    type Result = ();

    fn handle(&mut self, Deliver(message): Deliver<MotionMessage>, ctx: &mut Self::Context) {
        self.deliver(message, ctx);
    }
}

impl Handler<Ask<ChangeRing, oneshot::Sender<Result<Follower>>>> for Router {
    type Result = ();

    fn handle(
        &mut self,
        ask: Ask<ChangeRing, oneshot::Sender<Result<Follower>>>,
        ctx: &mut Self::Context,
    ) {
        if let Some(error) = &self.dead {
            return tell(ask.reply, Err(error.clone()));
        }
        self.last_request += 1;
        let request = RequestId(self.last_request);
        let is_first = !self.motion.is_moving() && self.motion.ring().running().is_none();
        let ChangeRing { intent, directory } = ask.message;
        if is_first {
            // One that is refused leaves that of the one under way as it is.
            self.directory = directory;
            self.switchboard.showing.begin();
        }
        let starting = Starting {
            reply: ask.reply,
            is_shown: is_first,
        };
        self.starting.insert(request, starting);
        let held = held(&self.switchboard);
        self.deliver(
            MotionMessage::Start {
                request,
                intent,
                held,
            },
            ctx,
        );
        match (
            self.starting.remove(&request),
            self.switchboard.showing.follow(),
        ) {
            (Some(starting), Some(follower)) => tell(starting.reply, Ok(follower)),
            (Some(starting), None) => tell(starting.reply, Err(Error::Closed)),
            // It was refused.
            (None, _) => {}
        }
    }
}

impl Handler<Ask<CancelChange, oneshot::Sender<()>>> for Router {
    type Result = ();

    fn handle(&mut self, ask: Ask<CancelChange, oneshot::Sender<()>>, ctx: &mut Self::Context) {
        let CancelChange(follower) = ask.message;
        // Another change is none of this handle's business.
        if self.switchboard.showing.is_followed_by(&follower) {
            self.last_request += 1;
            let request = RequestId(self.last_request);
            self.deliver(MotionMessage::Cancel { request }, ctx);
        }
        tell(ask.reply, ());
    }
}

impl Handler<Tick> for Router {
    type Result = ();

    fn handle(&mut self, _: Tick, ctx: &mut Self::Context) {
        self.switchboard.motion_due.slot.free();
        let now = self.switchboard.clock.now();
        self.step("Tick", ctx, |motion, effects| {
            motion.handle_timeout(now, effects);
        });
    }
}

/// Bytes that each node holds.
pub(crate) fn held(board: &Switchboard) -> Vec<(NodeId, u64)> {
    let routes = board.routes.load();
    let held = |member: &Arc<Member>| {
        let view = member.table.view();
        let in_memory: usize = view.generations().map(|g| g.bytes()).sum();
        (member.node(), member.store.stats().bytes + in_memory as u64)
    };
    routes.nodes().iter().map(held).collect()
}
