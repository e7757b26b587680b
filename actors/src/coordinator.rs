//! The coordinator's actor: carries messages between handles, nodes, the journal and its machine, which brings each
//! transaction of several nodes to one decision ([`mailring_engine::coordinator`]).
//!
//! ```text
//!  handle ── Commit ──▶ coordinator ── Prepares ──▶ nodes ── Votes ──▶ coordinator ── Decides ──▶ journal
//!  handle ◀── answer ── coordinator ◀── Decided ── journal, once the LSN is visible
//! ```
//!
//! The lock manager is asked and told beside the nodes where a transaction carries fences.
//!
//! It lives on the journal's thread, with whom it speaks most. While anything runs, the clock ticks it; else it costs
//! nothing.
//!
//! A panic while a message is handled or its effects are carried out ends nothing: the unwind is caught, the effects of the
//! broken step, or those that are left, are dropped, and the journal is asked for everything that was running. It knows the commit, or lays a tombstone. Whom the broken step
//! would have answered is told what the message says: a verdict if it has brought one, else that nothing was written,
//! since only a verdict ends what was decided. Nodes that are not told ask the journal past the deadline.
//!
//! It goes on at once, without a back-off: the message that it died of is not handled again unless a verdict or the end of
//! a node would be lost with it. A coordinator that panics too often is asked no more: whoever runs gets `Unknown`, and
//! what needs a coordinator is refused as `CoordinatorDown` until the engine is opened again, of which `stats()` tells.
//! Everything else goes on.

use crate::{
    admission::Admission,
    guard::{guarded, tell},
    kinds::{self, EFFECT},
    message::{Ask, Deliver, Tick},
    switchboard::{FaultSite, Switchboard},
};
use actix::{Actor, AsyncContext, Context, Handler};
use bytes::Bytes;
use mailring_engine::{
    Error, Result,
    coordinator::{Coordinator, CoordinatorEffect, CoordinatorMessage},
    ids::{Epoch, Lsn, NodeId, RequestId, Time, TxnId},
    orphans::orphan_of_coordinator,
    participant::NodeMessage,
    restart::{Restarts, Verdict as Restart},
    transaction::{Ballot, Commit, Fence, Prepare, TxnPart, Verdict, Vote},
};
use slab::Slab;
use std::sync::{Arc, atomic::Ordering::Relaxed};
use tokio::sync::oneshot;

/// From a handle: commit this.
#[derive(Debug)]
pub(crate) struct CommitRequest {
    pub(crate) txn: TxnId,
    pub(crate) deadline: Time,
    pub(crate) parts: Arc<[TxnPart]>,
    pub(crate) fences: Vec<Fence>,
    pub(crate) idempotency: Option<Bytes>,
    pub(crate) epoch: Epoch,
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Where it is visible.
    pub(crate) lsn: Lsn,
    /// Whether that is an earlier one's commit with the same idempotency key.
    pub(crate) is_repeated: bool,
}

/// Where the answer to a commit goes, and what the commit holds until then.
#[derive(Debug)]
pub(crate) struct CommitReply {
    pub(crate) sender: oneshot::Sender<Result<Decision>>,
    pub(crate) _admission: Admission,
}

pub(crate) struct CoordinatorActor {
    machine: Coordinator,
    switchboard: Arc<Switchboard>,
    replies: Slab<(TxnId, CommitReply)>,
    effects: Vec<CoordinatorEffect>,
    restarts: Restarts,
    /// Set by one panic too many.
    is_dead: bool,
}

impl CoordinatorActor {
    pub(crate) fn new(
        machine: Coordinator,
        switchboard: Arc<Switchboard>,
        restarts: Restarts,
    ) -> Self {
        Self {
            machine,
            switchboard,
            replies: Slab::new(),
            effects: Vec::new(),
            restarts,
            is_dead: false,
        }
    }

    fn step(&mut self, message: CoordinatorMessage, ctx: &mut Context<Self>) {
        let kind = kinds::of_coordinator(&message);
        let again = message.again();
        let board = Arc::clone(&self.switchboard);
        let now = board.clock.now();
        self.run(kind, again, ctx, |machine, effects| {
            board.between_faults("coordinator", kind, || {
                machine.handle(now, message, effects);
            });
        });
    }

    fn run(
        &mut self,
        kind: &str,
        again: Option<CoordinatorMessage>,
        ctx: &mut Context<Self>,
        handler: impl FnOnce(&mut Coordinator, &mut Vec<CoordinatorEffect>),
    ) {
        if self.is_dead {
            return;
        }
        let mut effects = std::mem::take(&mut self.effects);
        let result = guarded(|| handler(&mut self.machine, &mut effects));
        // Before anybody is answered, so that who was answered is not counted as running.
        self.publish_running();
        match result {
            Ok(()) => {
                let result = guarded(|| self.carry_out(&mut effects, ctx));
                effects.clear();
                self.effects = effects;
                if let Err(reason) = result {
                    self.recover(&reason, kind, again, ctx);
                    self.publish_running();
                }
            }
            Err(reason) => {
                self.recover(&reason, kind, again, ctx);
                self.publish_running();
            }
        }
    }

    fn publish_running(&self) {
        let running = match self.is_dead {
            false => self.machine.running(),
            true => 0,
        };
        self.switchboard.coordinator_running.store(running, Relaxed);
    }

    fn carry_out(&mut self, effects: &mut Vec<CoordinatorEffect>, ctx: &mut Context<Self>) {
        let board = Arc::clone(&self.switchboard);
        for effect in effects.drain(..) {
            board.fault(FaultSite {
                actor: "coordinator",
                node: None,
                message: EFFECT,
                handled: true,
            });
            match effect {
                CoordinatorEffect::Prepares(node, prepares) => {
                    match board.member(node) {
                        Some(member) => member.tell(NodeMessage::Prepares(prepares)),
                        // It has left since these were routed: nobody should wait for its silence.
                        None => {
                            board.to_coordinator(CoordinatorMessage::Votes(moved(node, &prepares)))
                        }
                    }
                }
                CoordinatorEffect::Aborts(node, aborts) => {
                    board.to_node(node, NodeMessage::Aborts(aborts));
                }
                CoordinatorEffect::Locks(messages) => {
                    for message in messages {
                        board.to_locks(message);
                    }
                }
                CoordinatorEffect::Journal(message) => board.to_journal(message),
                CoordinatorEffect::Answer(request, result) => {
                    let is_repeated = false;
                    self.answer(request, result.map(|lsn| Decision { lsn, is_repeated }));
                }
                CoordinatorEffect::AnswerRepeated(request, lsn) => {
                    let is_repeated = true;
                    self.answer(request, Ok(Decision { lsn, is_repeated }));
                }
                CoordinatorEffect::ScheduleFlush => ctx.notify(Deliver(CoordinatorMessage::Flush)),
            }
        }
    }

    fn answer(&mut self, request: RequestId, result: Result<Decision>) {
        let key = usize::try_from(request.0).expect("request numbers are slab keys");
        let (_, reply) = self.replies.remove(key);
        tell(reply.sender, result);
    }

    /// Goes on after a panic: asks the journal for what runs, hands the message over again if it must not be lost, and
    /// answers whom the machine will not answer.
    fn recover(
        &mut self,
        reason: &str,
        kind: &str,
        again: Option<CoordinatorMessage>,
        ctx: &mut Context<Self>,
    ) {
        let now = self.switchboard.clock.now();
        if self.restarts.handle_panic(now, 0) == Restart::Down {
            return self.die(reason);
        }
        tracing::error!(reason, kind, "the coordinator panicked; it goes on");
        let result = guarded(|| {
            let mut effects = Vec::new();
            self.machine.restart(now, &mut effects);
            if let Some(message) = &again {
                self.machine.handle(now, message.clone(), &mut effects);
            }
            effects
        });
        let carried = result.and_then(|mut effects| guarded(|| self.carry_out(&mut effects, ctx)));
        if let Err(reason) = carried {
            return self.die(&reason);
        }
        let orphans: Vec<_> = self
            .replies
            .iter()
            .map(|(key, (txn, _))| (RequestId(key as u64), *txn))
            .filter(|(request, _)| !self.machine.owes(*request))
            .collect();
        for (request, txn) in orphans {
            let verdict = orphan_of_coordinator(txn, again.as_ref());
            self.answer(request, told(verdict));
        }
    }

    fn die(&mut self, reason: &str) {
        tracing::error!(
            reason,
            "the coordinator panicked too often; it is asked no more"
        );
        self.is_dead = true;
        // Set once: nobody revives it.
        let _ = self.switchboard.coordinator_down.set(reason.to_owned());
        for (_, reply) in self.replies.drain() {
            let reason = format!("the coordinator panicked: {reason}");
            tell(reply.sender, Err(Error::Unknown { reason }));
        }
    }
}

/// What a caller is told.
fn told(verdict: Verdict) -> Result<Decision> {
    match verdict {
        Verdict::Committed(lsn) => Ok(Decision {
            lsn,
            is_repeated: false,
        }),
        Verdict::Repeated(lsn) => Ok(Decision {
            lsn,
            is_repeated: true,
        }),
        Verdict::Refused(error) | Verdict::Unknown(error) => Err(error),
    }
}

/// The votes of a node that is not there any more.
fn moved(node: NodeId, prepares: &[Prepare]) -> Vec<Vote> {
    let votes = prepares.iter().map(|prepare| Vote {
        txn: prepare.txn,
        node,
        ballot: Ballot::No(Error::Moved { node }),
    });
    votes.collect()
}

impl Actor for CoordinatorActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Handles bound the number of their requests themselves; messages between actors always pass.
        ctx.set_mailbox_capacity(usize::MAX >> 4);
    }
}

impl Handler<Ask<CommitRequest, CommitReply>> for CoordinatorActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<CommitRequest, CommitReply>, ctx: &mut Self::Context) {
        let CommitRequest {
            txn,
            deadline,
            parts,
            fences,
            idempotency,
            epoch,
        } = ask.message;
        if self.is_dead {
            return tell(ask.reply.sender, Err(Error::CoordinatorDown));
        }
        let request = RequestId(self.replies.insert((txn, ask.reply)) as u64);
        let commit = Commit {
            txn,
            request,
            deadline,
            parts,
            fences,
            idempotency,
            epoch,
        };
        self.step(CoordinatorMessage::Commit(commit), ctx);
    }
}

impl Handler<Deliver<CoordinatorMessage>> for CoordinatorActor {
    type Result = ();

    fn handle(&mut self, Deliver(message): Deliver<CoordinatorMessage>, ctx: &mut Self::Context) {
        self.step(message, ctx);
    }
}

impl Handler<Tick> for CoordinatorActor {
    type Result = ();

    fn handle(&mut self, _: Tick, ctx: &mut Self::Context) {
        self.switchboard.coordinator_tick.free();
        let board = Arc::clone(&self.switchboard);
        let now = board.clock.now();
        self.run("Tick", None, ctx, |machine, effects| {
            board.between_faults("coordinator", "Tick", || {
                machine.handle_timeout(now, effects);
            });
        });
    }
}
