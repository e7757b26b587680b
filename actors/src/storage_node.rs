//! The actor of a storage node: carries messages to and from its [`Participant`].
//!
//! A panic while a message is handled, or its effects are carried out, ends that life of the node, not the actor: the unwind
//! is caught, the effects of the broken step, or those that are left, are dropped, the caller is answered
//! ([`mailring_engine::orphans`]), and the participant starts a new life when the supervisor says so. The mailbox survives;
//! what it holds is handled or stashed by the new life.

use crate::{
    admission::Admission,
    clock::TICK,
    guard::{guarded, panicked, tell},
    kinds::{self, EFFECT},
    message::{Ask, Deliver, Tick},
    supervisor::{Broken, Panicked},
    switchboard::{FaultSite, Switchboard},
};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, Supervised};
use mailring_engine::{
    Error, Result,
    coordinator::CoordinatorMessage,
    generation::Generation,
    ids::{Epoch, Incarnation, Lsn, NodeId, RequestId, Time},
    journal::JournalReader,
    motion::MotionMessage,
    orphans::orphan_of_node,
    participant::{Answer, NodeEffect, NodeMessage, Operation, Participant},
};
use slab::Slab;
use std::sync::{Arc, atomic::Ordering::Relaxed};
use tokio::sync::oneshot;

/// A client's operation and its deadline.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) operation: Operation,
    pub(crate) deadline: Time,
    pub(crate) epoch: Epoch,
}

/// Where the answer to a request goes, and what the request holds until then.
#[derive(Debug)]
pub(crate) struct Reply {
    sender: oneshot::Sender<Result<Answer>>,
    _admission: Admission,
}

impl Reply {
    pub(crate) fn new(sender: oneshot::Sender<Result<Answer>>, admission: Admission) -> Self {
        Self {
            sender,
            _admission: admission,
        }
    }
}

/// From the supervisor: the back-off is over.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Resume;

pub(crate) struct StorageNode {
    node: NodeId,
    machine: Participant,
    switchboard: Arc<Switchboard>,
    journal: JournalReader,
    replies: Slab<Reply>,
    effects: Vec<NodeEffect>,
    /// What the new life will say once the supervisor lets it.
    held: Option<Vec<NodeEffect>>,
    /// Whether the clock was told to tick.
    is_ticking: bool,
}

impl StorageNode {
    pub(crate) fn new(
        machine: Participant,
        switchboard: Arc<Switchboard>,
        journal: JournalReader,
    ) -> Self {
        Self {
            node: machine.node(),
            machine,
            switchboard,
            journal,
            replies: Slab::new(),
            effects: Vec::new(),
            held: None,
            is_ticking: false,
        }
    }

    /// Hands one message to the machine and carries out what it wants.
    fn step(&mut self, message: NodeMessage, ctx: &mut Context<Self>) {
        let mut effects = std::mem::take(&mut self.effects);
        let kind = kinds::of_node(&message);
        let (again, was_telling) = (message.again(), message.tells_of_commits());
        let now = self.switchboard.clock.now();
        let result = guarded(|| {
            self.fault(kind, false);
            self.machine.handle(now, message, &mut effects);
            self.fault(kind, true);
        });
        match result {
            Ok(()) => {
                // Before anybody is told, so that what has ended is not counted any more by then.
                self.ask_for_ticks();
                let result = self.carry_out_all(effects.drain(..), ctx);
                self.effects = effects;
                if let Err(reason) = result {
                    self.die(&reason, was_telling, again, ctx);
                    self.ask_for_ticks();
                }
            }
            Err(reason) => {
                self.die(&reason, was_telling, again, ctx);
                self.ask_for_ticks();
            }
        }
    }

    /// Carries effects out; a panic drops those that are left. It ends the life like one of the machine: whoever was to
    /// hear of them is answered or asks the journal.
    fn carry_out_all(
        &mut self,
        effects: impl Iterator<Item = NodeEffect>,
        ctx: &mut Context<Self>,
    ) -> std::result::Result<(), String> {
        guarded(|| {
            for effect in effects {
                self.fault(EFFECT, true);
                self.carry_out(effect, ctx);
            }
        })
    }

    /// Tells the clock whether there is anything here that time can end. Costs a branch where there is not.
    fn ask_for_ticks(&mut self) {
        let is_wanted = self.machine.is_guarded();
        if is_wanted || self.is_ticking {
            self.is_ticking = is_wanted;
            let routes = self.switchboard.routes.load();
            let Some(member) = routes.member(self.node) else {
                return;
            };
            let ticks = &member.ticks;
            ticks.is_wanted.store(is_wanted, Relaxed);
            ticks.prepared.store(self.machine.prepared(), Relaxed);
            ticks.parked.store(self.machine.parked(), Relaxed);
        }
    }

    fn fault(&self, message: &str, handled: bool) {
        self.switchboard.fault(FaultSite {
            actor: "node",
            node: Some(self.node),
            message,
            handled,
        });
    }

    fn carry_out(&mut self, effect: NodeEffect, ctx: &mut Context<Self>) {
        match effect {
            NodeEffect::Journal(message) => self.switchboard.to_journal(message),
            NodeEffect::Answer(id, result) => self.answer(id, result),
            NodeEffect::Votes(votes) => {
                let votes = CoordinatorMessage::Votes(votes);
                self.switchboard.to_coordinator(votes);
            }
            NodeEffect::ScheduleFlush => ctx.notify(Deliver(NodeMessage::Flush)),
            NodeEffect::Frozen { through, ready } => self.switchboard.to_checkpointer(
                mailring_engine::checkpoint::CheckpointMessage::Frozen {
                    node: self.node,
                    through,
                    ready,
                },
            ),
            NodeEffect::Rebuild {
                incarnation,
                after,
                through,
            } => self.rebuild(incarnation, after, through),
            NodeEffect::Broken(error) => self.switchboard.supervisor().do_send(Broken {
                node: self.node,
                error,
            }),
            NodeEffect::Forgotten { node, change } => self
                .switchboard
                .to_router(MotionMessage::Forgotten { node, change }),
            NodeEffect::HandedOver {
                node,
                change,
                attempt,
                incarnation,
                through,
            } => self.switchboard.to_router(MotionMessage::HandedOver {
                node,
                change,
                attempt,
                incarnation,
                through,
            }),
        }
    }

    fn answer(&mut self, id: RequestId, result: Result<Answer>) {
        let key = usize::try_from(id.0).expect("request numbers are slab keys");
        tell(self.replies.remove(key).sender, result);
    }

    /// Ends this life: answers whom no life will answer, and leaves the rest to the next one.
    fn die(
        &mut self,
        reason: &str,
        was_telling: bool,
        again: Option<NodeMessage>,
        ctx: &mut Context<Self>,
    ) {
        let node = self.node;
        tracing::error!(%node, reason, "a storage node panicked; it restarts");
        if let Some(member) = self.switchboard.member(node) {
            member.figures.restarts.increment(1);
        }
        let mut held = Vec::new();
        self.machine.restart(&mut held);
        self.held = Some(held);
        if let Some(message) = again {
            self.repeat(message, ctx);
        }
        let orphans: Vec<RequestId> = self
            .replies
            .iter()
            .map(|(key, _)| RequestId(key as u64))
            .filter(|id| !self.machine.owes(*id))
            .collect();
        for id in orphans {
            self.answer(id, Err(orphan_of_node(node, was_telling)));
        }
        self.switchboard.supervisor().do_send(Panicked {
            node,
            reason: reason.to_owned(),
        });
        ctx.stop();
    }

    /// While the node recovers, requests wait in line: this refuses those whose deadline passes there. The actor's own
    /// timer will do, since the mailbox is drained into that line.
    fn watch_deadlines(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(TICK, |node, ctx| {
            if node.machine.is_recovering() {
                node.look_at_the_time(ctx);
                node.watch_deadlines(ctx);
            }
        });
    }

    /// Handles the message that the old life died of once more. Without it the journal, the checkpointer or a caller
    /// would wait for ever. Who dies of it twice does not come back.
    fn repeat(&mut self, message: NodeMessage, ctx: &mut Context<Self>) {
        let now = self.switchboard.clock.now();
        let result = guarded(|| {
            let mut effects = Vec::new();
            self.machine.handle(now, message, &mut effects);
            effects
        });
        let result = result.and_then(|effects| self.carry_out_all(effects.into_iter(), ctx));
        if let Err(reason) = result {
            self.switchboard.supervisor().do_send(Broken {
                node: self.node,
                error: Error::Unknown { reason },
            });
        }
    }

    /// Lets the machine do what is due.
    fn look_at_the_time(&mut self, ctx: &mut Context<Self>) {
        let now = self.switchboard.clock.now();
        let result = guarded(|| {
            let mut effects = Vec::new();
            self.fault("Tick", false);
            self.machine.handle_timeout(now, &mut effects);
            self.fault("Tick", true);
            effects
        });
        let result = result.and_then(|effects| self.carry_out_all(effects.into_iter(), ctx));
        if let Err(reason) = result {
            self.die(&reason, false, None, ctx);
        }
        self.ask_for_ticks();
    }

    /// Reads the generation back from the journal on a thread of its own: other actors share this one's.
    fn rebuild(&self, incarnation: Incarnation, after: Lsn, through: Lsn) {
        let journal = self.journal.clone();
        let switchboard = Arc::clone(&self.switchboard);
        let node = self.node;
        let spawned = std::thread::Builder::new()
            .name(format!("mailring-rebuild-{node}"))
            .spawn(move || {
                let generation = Arc::new(Generation::with_gauge(Arc::clone(
                    &switchboard.budget.generations,
                )));
                let result = guarded(|| {
                    switchboard.between_faults("rebuild", "Rebuild", || {
                        let opened = &switchboard.opened;
                        opened.rebuild_node(&journal, node, after, through, &generation)
                    })
                });
                let result =
                    result.unwrap_or_else(|reason| Err(panicked("the rebuilding thread", reason)));
                switchboard.to_node(
                    node,
                    NodeMessage::Rebuilt {
                        incarnation,
                        through,
                        generation: result.map(|()| generation),
                    },
                );
            });
        if let Err(error) = spawned {
            self.switchboard.supervisor().do_send(Broken {
                node,
                error: Error::io("starting the thread that rebuilds a node", &error),
            });
        }
    }
}

impl Actor for StorageNode {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Handles bound the number of their requests themselves; messages between actors are few and always pass.
        ctx.set_mailbox_capacity(usize::MAX >> 4);
    }
}

impl Supervised for StorageNode {
    fn restarting(&mut self, ctx: &mut Self::Context) {
        // A message to oneself that was queued in the old context is gone, and so was its effect: the new life has
        // nothing to flush.
        tracing::warn!(node = %self.node, "storage node restarts");
        self.watch_deadlines(ctx);
    }
}

impl Handler<Ask<Request, Reply>> for StorageNode {
    type Result = ();

    fn handle(&mut self, ask: Ask<Request, Reply>, ctx: &mut Self::Context) {
        let id = RequestId(self.replies.insert(ask.reply) as u64);
        let Request {
            operation,
            deadline,
            epoch,
        } = ask.message;
        self.step(
            NodeMessage::Request {
                id,
                deadline,
                epoch,
                operation,
            },
            ctx,
        );
    }
}

impl Handler<Deliver<NodeMessage>> for StorageNode {
    type Result = ();

    fn handle(&mut self, Deliver(message): Deliver<NodeMessage>, ctx: &mut Self::Context) {
        self.step(message, ctx);
    }
}

impl Handler<Tick> for StorageNode {
    type Result = ();

    fn handle(&mut self, _: Tick, ctx: &mut Self::Context) {
        if let Some(member) = self.switchboard.member(self.node) {
            member.ticks.slot.free();
        }
        self.look_at_the_time(ctx);
    }
}

impl Handler<Resume> for StorageNode {
    type Result = ();

    fn handle(&mut self, _: Resume, ctx: &mut Self::Context) {
        let held = self.held.take().unwrap_or_default();
        if let Err(reason) = self.carry_out_all(held.into_iter(), ctx) {
            self.die(&reason, false, None, ctx);
        }
    }
}
