//! The journal's actor: carries messages between the nodes, its [`Sequencer`] and the threads that write and force, one in
//! each directory.
//!
//! A panic in here is a crash of the directory: who knows what was half told. Everything turns read-only until the
//! engine is opened again, which recovers from the files.

use crate::{
    guard::{guarded, tell},
    journal_io::{IoRequest, JournalFile, SegmentRequest},
    kinds::{self, EFFECT},
    message::{Ask, Deliver, Tick},
    router::Publish,
    switchboard::{FaultSite, Switchboard},
    watchers::{Told, Watchers},
};
use actix::{Actor, AsyncContext, Context, Handler};
use bytes::Bytes;
use crossbeam_channel::Sender;
use mailring_engine::{
    Error, Result,
    checkpoint::{Catalogue, CheckpointMessage},
    coordinator::CoordinatorMessage,
    ids::{DirectoryNo, KeyspaceId, Lsn, RequestId, Time, TxnId},
    locks::LockMessage,
    motion::MotionMessage,
    open_keyspaces::OpenKeyspace,
    participant::NodeMessage,
    sequencer::{JournalEffect, JournalMessage, Sequencer},
    transaction::{self, Asker, TxnOutcome},
};
use slab::Slab;
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::{broadcast, oneshot};

/// What a handle asks of the journal.
#[derive(Debug, Clone)]
pub(crate) enum KeyspaceRequest {
    Create(String),
    Drop(String),
}

/// What a handle waits for, and where its answer goes.
#[derive(Debug)]
struct KeyspaceReply {
    request: KeyspaceRequest,
    sender: oneshot::Sender<Result<Arc<OpenKeyspace>>>,
}

/// A handle asks what became of a transaction.
#[derive(Debug)]
pub(crate) enum OutcomeRequest {
    /// What is not committed now never will be; no decision of it can come after the deadline.
    Of { txn: TxnId, deadline: Time },
    /// Was one committed under this idempotency key?
    Under(Bytes),
}

/// A handle asks for all changes from now on.
#[derive(Debug)]
pub(crate) struct Subscribe;

/// A handle asks for the keyspaces as they are now.
#[derive(Debug)]
pub(crate) struct Describe;

/// Where a watch begins, and its stream.
pub(crate) type Subscription = (Lsn, broadcast::Receiver<Arc<Told>>);

/// The journal's files in a directory, and the threads that work on them.
pub(crate) struct JournalLine {
    pub(crate) file: Arc<JournalFile>,
    pub(crate) io: Sender<IoRequest>,
    pub(crate) segments: Sender<SegmentRequest>,
}

impl JournalLine {
    fn to_io(&self, request: IoRequest) {
        // The thread lives as long as the journal: it ends when this sender is dropped.
        let _ = self.io.send(request);
    }
}

pub(crate) struct JournalActor {
    machine: Sequencer,
    switchboard: Arc<Switchboard>,
    lines: Vec<JournalLine>,
    replies: Slab<KeyspaceReply>,
    askers: Slab<oneshot::Sender<Result<TxnOutcome>>>,
    watchers: Watchers,
    cut_scheduled: bool,
    dead: bool,
}

impl JournalActor {
    pub(crate) fn new(
        machine: Sequencer,
        switchboard: Arc<Switchboard>,
        lines: Vec<JournalLine>,
        watch_capacity: usize,
    ) -> Self {
        Self {
            machine,
            watchers: Watchers::new(watch_capacity, Arc::clone(&switchboard.budget)),
            switchboard,
            lines,
            replies: Slab::new(),
            askers: Slab::new(),
            cut_scheduled: false,
            dead: false,
        }
    }

    fn step(&mut self, message: JournalMessage, ctx: &mut Context<Self>) {
        let mut queue = VecDeque::from([message]);
        while let Some(message) = queue.pop_front() {
            if self.dead {
                return;
            }
            if message.needs_cut() && !self.cut_scheduled {
                self.cut_scheduled = true;
                ctx.notify(Deliver(JournalMessage::Cut));
            }
            let kind = kinds::of_journal(&message);
            let now = self.switchboard.clock.now();
            let result = guarded(|| {
                let mut effects = Vec::new();
                self.fault(kind, false);
                self.machine.handle(now, message, &mut effects);
                self.fault(kind, true);
                effects
            });
            match result {
                Ok(effects) => queue.extend(self.carry_out_all(effects)),
                Err(reason) => self.die(&reason),
            }
        }
    }

    /// Carries effects out; what comes back is to be handled next. A panic is the end of the journal, like one of the
    /// machine.
    fn carry_out_all(&mut self, effects: Vec<JournalEffect>) -> Vec<JournalMessage> {
        let mut next = Vec::new();
        let result = guarded(|| {
            for effect in effects {
                self.fault(EFFECT, true);
                next.extend(self.carry_out(effect));
            }
        });
        if let Err(reason) = result {
            self.die(&reason);
        }
        next
    }

    fn fault(&self, message: &str, handled: bool) {
        self.switchboard.fault(FaultSite {
            actor: "journal",
            node: None,
            message,
            handled,
        });
    }

    /// Reads from the machine; `None` if that was a panic, of which who asked hears by the end of the reply's channel.
    fn look<T>(&mut self, kind: &str, read: impl FnOnce(&Sequencer) -> T) -> Option<T> {
        let board = Arc::clone(&self.switchboard);
        let read = guarded(|| board.between_faults("journal", kind, || read(&self.machine)));
        read.map_err(|reason| self.die(&reason)).ok()
    }

    fn die(&mut self, reason: &str) {
        self.dead = true;
        let error = Error::ReadOnly {
            reason: format!("the journal panicked: {reason}"),
        };
        let unknown = || Error::Unknown {
            reason: error.to_string(),
        };
        for reply in self.replies.drain() {
            tell(reply.sender, Err(unknown()));
        }
        for reply in self.askers.drain() {
            tell(reply, Err(unknown()));
        }
        self.turn_read_only(error);
    }

    fn turn_read_only(&self, error: Error) {
        tracing::error!(%error, "the engine is read-only");
        let _ = self.switchboard.read_only.set(error.clone());
        self.switchboard
            .to_all_nodes(|| NodeMessage::ReadOnly(error.clone()));
        self.switchboard
            .to_coordinator(CoordinatorMessage::ReadOnly(error.clone()));
        self.switchboard
            .to_router(MotionMessage::ReadOnly(error.clone()));
        self.switchboard
            .checkpointer()
            .do_send(crate::checkpointer::ReadOnly(error));
    }

    /// Does what the machine wants; a lone group is forced in place and comes back as a message.
    fn carry_out(&mut self, effect: JournalEffect) -> Option<JournalMessage> {
        let switchboard = &self.switchboard;
        match effect {
            JournalEffect::Write(group) if group.lone => {
                return Some(self.line(group.directory).file.write(vec![group]));
            }
            JournalEffect::Write(group) => {
                self.line(group.directory).to_io(IoRequest::Write(group));
            }
            JournalEffect::PrepareSpare {
                directory,
                at_least,
            } => {
                let segments = &self.line(directory).segments;
                let _ = segments.send(SegmentRequest { at_least });
            }
            JournalEffect::Resolve(node, resolve) => {
                switchboard.to_node(node, NodeMessage::Resolve(resolve));
            }
            JournalEffect::Settle(node, settles) => {
                switchboard.to_node(node, NodeMessage::Settles(settles));
            }
            JournalEffect::Decided(decided) => {
                switchboard.to_coordinator(CoordinatorMessage::Decided(decided));
            }
            JournalEffect::ResolveFence(txn) => {
                switchboard.to_locks(LockMessage::ResolveFence { txn });
            }
            JournalEffect::LockLifeKnown(life) => {
                switchboard.to_locks(LockMessage::LifeKnown { life });
            }
            JournalEffect::Outcome(request, outcome) => {
                let key = usize::try_from(request.0).expect("request numbers are slab keys");
                tell(self.askers.remove(key), outcome);
            }
            JournalEffect::Freeze(node, lsn) => {
                switchboard.to_node(node, NodeMessage::Freeze(lsn));
            }
            JournalEffect::Fenced(node, incarnation, through) => switchboard.to_node(
                node,
                NodeMessage::Fenced {
                    incarnation,
                    through,
                },
            ),
            JournalEffect::Visible(lsn, nodes) => {
                switchboard.visible.publish(lsn);
                for node in nodes {
                    switchboard.to_node(node, NodeMessage::Visible(lsn));
                }
            }
            JournalEffect::Changes(changes) => {
                if !self.watchers.tell(changes) {
                    return Some(JournalMessage::Watch(false));
                }
            }
            JournalEffect::MarkReached(lsn, catalogue) => {
                switchboard.to_checkpointer(CheckpointMessage::MarkReached(lsn, catalogue));
            }
            JournalEffect::Owners(node, owners) => {
                switchboard.to_node(node, NodeMessage::Owners(owners));
            }
            JournalEffect::PublishRing { lsn, state } => {
                switchboard.router().do_send(Publish { lsn, state });
            }
            JournalEffect::RingAnswer(task, result) => {
                switchboard.to_router(MotionMessage::RingAnswer(task, result));
            }
            JournalEffect::Dropped(id) => switchboard.keyspaces.dropped(id),
            JournalEffect::Answer(request, result) => self.answer(request, result),
            JournalEffect::ReadOnly(error) => self.turn_read_only(error),
        }
        None
    }

    fn line(&self, directory: DirectoryNo) -> &JournalLine {
        &self.lines[usize::from(directory.0)]
    }

    fn answer(&mut self, request: RequestId, result: Result<KeyspaceId>) {
        let key = usize::try_from(request.0).expect("request numbers are slab keys");
        let KeyspaceReply { request, sender } = self.replies.remove(key);
        let answer = result.map(|id| match request {
            KeyspaceRequest::Create(name) => self.switchboard.keyspaces.opened(id, &name),
            KeyspaceRequest::Drop(name) => OpenKeyspace::gone(id, name),
        });
        tell(sender, answer);
    }
}

impl Actor for JournalActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(usize::MAX >> 4);
    }
}

impl Handler<Deliver<JournalMessage>> for JournalActor {
    type Result = ();

    fn handle(&mut self, Deliver(message): Deliver<JournalMessage>, ctx: &mut Self::Context) {
        if matches!(message, JournalMessage::Cut) {
            self.cut_scheduled = false;
        }
        self.step(message, ctx);
    }
}

impl Handler<Ask<KeyspaceRequest, oneshot::Sender<Result<Arc<OpenKeyspace>>>>> for JournalActor {
    type Result = ();

    fn handle(
        &mut self,
        ask: Ask<KeyspaceRequest, oneshot::Sender<Result<Arc<OpenKeyspace>>>>,
        ctx: &mut Self::Context,
    ) {
        if self.dead {
            let error = self.switchboard.read_only.get().cloned();
            tell(ask.reply, Err(error.unwrap_or(Error::Closed)));
            return;
        }
        let reply = KeyspaceReply {
            request: ask.message.clone(),
            sender: ask.reply,
        };
        let request = RequestId(self.replies.insert(reply) as u64);
        let message = match ask.message {
            KeyspaceRequest::Create(name) => JournalMessage::CreateKeyspace { request, name },
            KeyspaceRequest::Drop(name) => JournalMessage::DropKeyspace { request, name },
        };
        self.step(message, ctx);
    }
}

impl Handler<Ask<OutcomeRequest, oneshot::Sender<Result<TxnOutcome>>>> for JournalActor {
    type Result = ();

    fn handle(
        &mut self,
        ask: Ask<OutcomeRequest, oneshot::Sender<Result<TxnOutcome>>>,
        ctx: &mut Self::Context,
    ) {
        if self.dead {
            let reason = "the journal has stopped; what it knew can be asked once the engine is opened again";
            let reason = reason.to_owned();
            tell(ask.reply, Err(Error::Unknown { reason }));
            return;
        }
        let request = RequestId(self.askers.insert(ask.reply) as u64);
        let message = match ask.message {
            OutcomeRequest::Of { txn, deadline } => JournalMessage::Asks(vec![transaction::Ask {
                txn,
                deadline,
                asker: Asker::Handle(request),
            }]),
            OutcomeRequest::Under(key) => JournalMessage::FindKey { request, key },
        };
        self.step(message, ctx);
    }
}

impl Handler<Ask<Subscribe, oneshot::Sender<Subscription>>> for JournalActor {
    type Result = ();

    fn handle(
        &mut self,
        ask: Ask<Subscribe, oneshot::Sender<Subscription>>,
        ctx: &mut Self::Context,
    ) {
        let receiver = self.watchers.subscribe();
        self.step(JournalMessage::Watch(true), ctx);
        if let Some(since) = self.look("Subscribe", Sequencer::last_lsn) {
            tell(ask.reply, (since, receiver));
        }
    }
}

impl Handler<Ask<Describe, oneshot::Sender<Catalogue>>> for JournalActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<Describe, oneshot::Sender<Catalogue>>, _: &mut Self::Context) {
        if let Some(catalogue) = self.look("Describe", Sequencer::catalogue) {
            tell(ask.reply, catalogue);
        }
    }
}

impl Handler<Tick> for JournalActor {
    type Result = ();

    fn handle(&mut self, _: Tick, ctx: &mut Self::Context) {
        self.switchboard.journal_tick.free();
        if self.dead {
            return;
        }
        let now = self.switchboard.clock.now();
        for line in self.lines.iter().filter(|line| line.file.has_interval()) {
            line.to_io(IoRequest::ForceIfDue(now));
        }
        let result = guarded(|| {
            let mut effects = Vec::new();
            self.fault("Tick", false);
            self.machine.handle_timeout(now, &mut effects);
            self.fault("Tick", true);
            effects
        });
        match result {
            Ok(effects) => {
                for message in self.carry_out_all(effects) {
                    self.step(message, ctx);
                }
            }
            Err(reason) => self.die(&reason),
        }
    }
}
