//! The checkpointer's actor, and the two threads that work for it: one writes runs and the manifest, one compacts.

use crate::{
    guard::guarded,
    journal_io::{IoRequest, JournalFile},
    message::{Ask, Deliver, Tick},
    switchboard::{FaultSite, Switchboard},
};
use actix::{Actor, Context, Handler, Message};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use mailring_engine::{
    Error, Result,
    checkpoint::{Catalogue, Checkpoint, CheckpointEffect, CheckpointMessage},
    disk::Disk,
    ids::{Lsn, NodeId, RequestId},
    keyspaces::Keyspaces,
    manifest::Manifest,
    participant::NodeMessage,
    run::frozen_run,
    sequencer::JournalMessage,
};
use slab::Slab;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// A handle asks for a checkpoint.
#[derive(Debug)]
pub(crate) struct CheckpointNow;

/// The engine turned read-only.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ReadOnly(pub(crate) Error);

/// What the writing thread is asked to do.
pub(crate) enum Job {
    Write {
        through: Lsn,
        nodes: Vec<NodeId>,
        keyspaces: Keyspaces,
    },
    Save {
        complete: Vec<Lsn>,
        through: Lsn,
        catalogue: Catalogue,
    },
}

/// The compacting thread is asked to compact.
pub(crate) struct Compact;

pub(crate) struct Checkpointer {
    machine: Checkpoint,
    switchboard: Arc<Switchboard>,
    jobs: Sender<Job>,
    compactions: Sender<Compact>,
    io: Sender<IoRequest>,
    replies: Slab<oneshot::Sender<Result<Lsn>>>,
    /// Set by a panic: the machine is not asked again, and every request gets this answer.
    dead: Option<Error>,
}

impl Checkpointer {
    pub(crate) fn new(
        machine: Checkpoint,
        switchboard: Arc<Switchboard>,
        jobs: Sender<Job>,
        compactions: Sender<Compact>,
        io: Sender<IoRequest>,
    ) -> Self {
        Self {
            machine,
            switchboard,
            jobs,
            compactions,
            io,
            replies: Slab::new(),
            dead: None,
        }
    }

    fn step(&mut self, handle: impl FnOnce(&mut Checkpoint, &mut Vec<CheckpointEffect>)) {
        if self.dead.is_some() {
            return;
        }
        let result = guarded(|| {
            let mut effects = Vec::new();
            self.fault(false);
            handle(&mut self.machine, &mut effects);
            self.fault(true);
            effects
        });
        match result {
            Ok(effects) => {
                for effect in effects {
                    self.carry_out(effect);
                }
            }
            Err(reason) => self.die(&reason),
        }
    }

    /// Nothing is lost without checkpoints, but memory would run out: the engine turns read-only.
    fn die(&mut self, reason: &str) {
        let error = Error::ReadOnly {
            reason: format!("the checkpointer panicked: {reason}"),
        };
        for reply in self.replies.drain() {
            let _ = reply.send(Err(error.clone()));
        }
        self.dead = Some(error.clone());
        self.switchboard.to_journal(JournalMessage::Failed(error));
    }

    fn fault(&self, handled: bool) {
        self.switchboard.fault(FaultSite {
            actor: "checkpointer",
            node: None,
            message: "Checkpoint",
            handled,
        });
    }

    fn carry_out(&mut self, effect: CheckpointEffect) {
        match effect {
            CheckpointEffect::Mark => self.switchboard.to_journal(JournalMessage::Mark),
            CheckpointEffect::Write {
                through,
                nodes,
                keyspaces,
            } => self.to_worker(Job::Write {
                through,
                nodes,
                keyspaces,
            }),
            CheckpointEffect::Flushed(node, through) => self
                .switchboard
                .to_node(node, NodeMessage::Flushed { through }),
            CheckpointEffect::Save {
                complete,
                through,
                catalogue,
            } => self.to_worker(Job::Save {
                complete,
                through,
                catalogue,
            }),
            CheckpointEffect::Release(through) => {
                let _ = self.io.send(IoRequest::Release(through));
            }
            CheckpointEffect::Maintain => {
                let _ = self.compactions.send(Compact);
            }
            CheckpointEffect::Answer(request, result) => {
                let key = usize::try_from(request.0).expect("request numbers are slab keys");
                let _ = self.replies.remove(key).send(result);
            }
            CheckpointEffect::Failed(node, error) => {
                tracing::error!(%node, %error, "a checkpoint could not write a node's run");
            }
        }
    }

    fn to_worker(&self, job: Job) {
        // The thread lives as long as this sender.
        let _ = self.jobs.send(job);
    }
}

impl Actor for Checkpointer {
    type Context = Context<Self>;
}

impl Handler<Deliver<CheckpointMessage>> for Checkpointer {
    type Result = ();

    fn handle(&mut self, Deliver(message): Deliver<CheckpointMessage>, _: &mut Self::Context) {
        self.step(|machine, out| machine.handle(message, out));
    }
}

impl Handler<Ask<CheckpointNow, oneshot::Sender<Result<Lsn>>>> for Checkpointer {
    type Result = ();

    fn handle(
        &mut self,
        ask: Ask<CheckpointNow, oneshot::Sender<Result<Lsn>>>,
        _: &mut Self::Context,
    ) {
        if let Some(error) = &self.dead {
            let _ = ask.reply.send(Err(error.clone()));
            return;
        }
        let request = RequestId(self.replies.insert(ask.reply) as u64);
        self.step(|machine, out| machine.handle(CheckpointMessage::Request(request), out));
    }
}

impl Handler<ReadOnly> for Checkpointer {
    type Result = ();

    fn handle(&mut self, ReadOnly(error): ReadOnly, _: &mut Self::Context) {
        self.step(|machine, out| machine.fail(&error, out));
    }
}

impl Handler<Tick> for Checkpointer {
    type Result = ();

    fn handle(&mut self, _: Tick, _: &mut Self::Context) {
        self.switchboard.checkpoint_tick.free();
        let active_bytes = match self.switchboard.active_bytes() {
            // A large value may need all of the generations' room, long before the threshold is reached.
            1.. if self.switchboard.budget.take_starved() => u64::MAX,
            bytes => bytes,
        };
        self.machine_tick(active_bytes);
    }
}

impl Checkpointer {
    fn machine_tick(&mut self, active_bytes: u64) {
        self.step(|machine, out| machine.handle(CheckpointMessage::Tick { active_bytes }, out));
    }
}

/// Runs the writing thread until the checkpointer is gone; the manifest of the last save is the one to go on from.
pub(crate) fn run_worker(
    jobs: &Receiver<Job>,
    mut manifest: Manifest,
    disk: &Arc<dyn Disk>,
    journal: &JournalFile,
    switchboard: &Switchboard,
) {
    for job in jobs {
        let message = match job {
            Job::Write {
                through,
                nodes,
                keyspaces,
            } => CheckpointMessage::Written(write_runs(
                through,
                &nodes,
                &keyspaces,
                journal,
                switchboard,
            )),
            Job::Save {
                complete,
                through,
                catalogue,
            } => {
                manifest.record_checkpoint(&complete, through, &catalogue);
                let saved = guarded(|| manifest.save(disk.as_ref()));
                CheckpointMessage::Saved(saved.unwrap_or_else(|reason| Err(panicked(reason))))
            }
        };
        switchboard.to_checkpointer(message);
    }
}

fn write_runs(
    through: Lsn,
    nodes: &[NodeId],
    keyspaces: &Keyspaces,
    journal: &JournalFile,
    switchboard: &Switchboard,
) -> Vec<(NodeId, Result<()>)> {
    // A tree must never be ahead of the journal on the medium. With `Durability::Always` this does nothing.
    if let Err(error) = journal.force(switchboard.clock.now()) {
        return nodes
            .iter()
            .map(|node| (*node, Err(error.clone())))
            .collect();
    }
    let started = Instant::now();
    let mut bytes = 0;
    let results = nodes
        .iter()
        .filter_map(|node| {
            let view = switchboard.tables[usize::from(node.0)].view();
            let store = &switchboard.stores[usize::from(node.0)];
            let mut run = frozen_run(&view, through, keyspaces)?;
            let result = guarded(|| store.ingest(&mut run)).unwrap_or_else(|reason| {
                Err(Error::CorruptTree {
                    node: *node,
                    file: "tree".into(),
                    reason,
                })
            });
            bytes += run.bytes();
            Some((*node, result))
        })
        .collect();
    let seconds = started.elapsed().as_secs_f64();
    switchboard.budget.drained(bytes, seconds);
    switchboard.telemetry.checkpoint_written(bytes, seconds);
    results
}

/// How long nothing must have been written before the trees are merged for the sake of reading.
const IDLE: Duration = Duration::from_millis(300);

/// Compacts until the checkpointer is gone: after each checkpoint as far as is due, and once more when writing pauses,
/// which a store takes as the time to merge everything.
pub(crate) fn run_compaction(requests: &Receiver<Compact>, switchboard: &Switchboard) {
    while let Ok(Compact) = requests.recv() {
        let outcome = compact(switchboard);
        switchboard.to_checkpointer(CheckpointMessage::Maintained(outcome));
        let mut last = switchboard.visible.load();
        while requests.is_empty() {
            match requests.recv_timeout(IDLE) {
                Ok(Compact) => {
                    let outcome = compact(switchboard);
                    switchboard.to_checkpointer(CheckpointMessage::Maintained(outcome));
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) if switchboard.visible.load() == last => {
                    // Told in the log; nobody waits for it.
                    let _ = compact(switchboard);
                    break;
                }
                Err(RecvTimeoutError::Timeout) => last = switchboard.visible.load(),
            }
        }
    }
}

fn compact(switchboard: &Switchboard) -> Result<()> {
    let mut outcome = Ok(());
    for store in &switchboard.stores {
        let maintained = guarded(|| store.maintain());
        if let Err(error) = maintained.unwrap_or_else(|reason| Err(panicked(reason))) {
            tracing::error!(%error, "a tree could not be compacted");
            outcome = Err(error);
        }
    }
    outcome
}

/// What the worker's threads answer for a panic: their asker must not wait for ever.
fn panicked(reason: String) -> Error {
    Error::Io {
        context: "a checkpoint's thread panicked".into(),
        kind: std::io::ErrorKind::Other,
        message: reason,
    }
}
