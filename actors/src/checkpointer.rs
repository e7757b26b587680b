//! The checkpointer's actor, and the two threads that work for it: one writes runs and the manifest, one compacts.
//!
//! A panic in a handler is taken back with everything that the handler changed, and the message is handled once more: no
//! message is lost, and nobody who waits for a checkpoint is refused. If it panics again, or panics more often than the
//! restart policy allows, there are no checkpoints any more and the engine turns read-only. So it does if carrying out the
//! effects panics: those that have left can't be taken back.

use crate::{
    guard::{guarded, panicked, tell},
    journal_io::{IoRequest, JournalFile, force_all},
    kinds::{self, EFFECT},
    message::{Ask, Deliver, Tick},
    switchboard::{FaultSite, Switchboard},
};
use actix::{Actor, Context, Handler, Message};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use mailring_engine::{
    Error, Result,
    checkpoint::{Catalogue, Checkpoint, CheckpointEffect, CheckpointMessage},
    directories::Stamp,
    disk::Disk,
    ids::{DirectoryNo, Lsn, NodeId, RequestId},
    keyspaces::Keyspaces,
    manifest::Manifest,
    motion::MotionMessage,
    participant::NodeMessage,
    restart::{Restarts, Verdict},
    run::frozen_run,
    sequencer::JournalMessage,
    store::RunEntry,
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
    /// From the mover: a node that joins shall live there.
    Place {
        node: NodeId,
        directory: DirectoryNo,
        reply: Sender<Result<()>>,
    },
    /// From the mover: a run of what moves.
    Ingest {
        node: NodeId,
        run: Vec<RunEntry>,
        reply: Sender<Result<()>>,
    },
}

/// The compacting thread is asked to compact.
pub(crate) enum Compact {
    /// By the checkpointer, who hears of it.
    Asked,
    /// By the mover, who does not.
    Unasked,
}

/// From the router: let the journal release nothing above this; answered by `Held`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct HoldJournal {
    pub(crate) task: RequestId,
    pub(crate) through: Option<Lsn>,
}

pub(crate) struct Checkpointer {
    machine: Checkpoint,
    switchboard: Arc<Switchboard>,
    jobs: Sender<Job>,
    compactions: Sender<Compact>,
    /// To the I/O thread of each directory.
    io: Vec<Sender<IoRequest>>,
    replies: Slab<oneshot::Sender<Result<Lsn>>>,
    restarts: Restarts,
    /// Set by one panic too many: the machine is not asked again, and every request gets this answer.
    dead: Option<Error>,
}

impl Checkpointer {
    pub(crate) fn new(
        machine: Checkpoint,
        switchboard: Arc<Switchboard>,
        jobs: Sender<Job>,
        compactions: Sender<Compact>,
        io: Vec<Sender<IoRequest>>,
        restarts: Restarts,
    ) -> Self {
        Self {
            machine,
            switchboard,
            jobs,
            compactions,
            io,
            replies: Slab::new(),
            restarts,
            dead: None,
        }
    }

    fn step(&mut self, kind: &str, handle: impl Fn(&mut Checkpoint, &mut Vec<CheckpointEffect>)) {
        let mut attempts = 0;
        while self.dead.is_none() {
            // The step is a transaction on the machine, whose messages are few and whose state is small.
            let mut machine = self.machine.clone();
            let board = &self.switchboard;
            let result = guarded(|| {
                let mut effects = Vec::new();
                board.between_faults("checkpointer", kind, || handle(&mut machine, &mut effects));
                effects
            });
            match result {
                Ok(effects) => {
                    self.machine = machine;
                    let carried = guarded(|| {
                        for effect in effects {
                            self.switchboard.fault(FaultSite {
                                actor: "checkpointer",
                                node: None,
                                message: EFFECT,
                                handled: true,
                            });
                            self.carry_out(effect);
                        }
                    });
                    // Some have left, so the step can't be taken back.
                    if let Err(reason) = carried {
                        self.die(&reason);
                    }
                    return;
                }
                Err(reason) => {
                    attempts += 1;
                    let verdict = self.restarts.handle_panic(board.clock.now(), 0);
                    if attempts > 1 || verdict == Verdict::Down {
                        self.die(&reason);
                    } else {
                        tracing::error!(reason, kind, "the checkpointer panicked; it restarts");
                    }
                }
            }
        }
    }

    fn handle(&mut self, message: &CheckpointMessage) {
        self.step(kinds::of_checkpointer(message), |machine, out| {
            machine.handle(message.clone(), out);
        });
    }

    /// Nothing is lost without checkpoints, but memory would run out: the engine turns read-only.
    fn die(&mut self, reason: &str) {
        let error = Error::ReadOnly {
            reason: format!("the checkpointer panicked: {reason}"),
        };
        for reply in self.replies.drain() {
            tell(reply, Err(error.clone()));
        }
        self.dead = Some(error.clone());
        self.switchboard.to_journal(JournalMessage::Failed(error));
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
                for io in &self.io {
                    let _ = io.send(IoRequest::Release(through));
                }
            }
            CheckpointEffect::Maintain => {
                let _ = self.compactions.send(Compact::Asked);
            }
            CheckpointEffect::Answer(request, result) => {
                let key = usize::try_from(request.0).expect("request numbers are slab keys");
                tell(self.replies.remove(key), result);
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
        if let CheckpointMessage::Written(results) = &message {
            let failure = results.iter().find_map(|(_, result)| result.clone().err());
            self.switchboard.budget.set_blocked(failure);
        }
        self.handle(&message);
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
            tell(ask.reply, Err(error.clone()));
            return;
        }
        let request = RequestId(self.replies.insert(ask.reply) as u64);
        self.handle(&CheckpointMessage::Request(request));
    }
}

impl Handler<HoldJournal> for Checkpointer {
    type Result = ();

    fn handle(&mut self, hold: HoldJournal, _: &mut Self::Context) {
        self.handle(&CheckpointMessage::Hold(hold.through));
        let task = hold.task;
        self.switchboard.to_router(MotionMessage::Held { task });
    }
}

impl Handler<ReadOnly> for Checkpointer {
    type Result = ();

    fn handle(&mut self, ReadOnly(error): ReadOnly, _: &mut Self::Context) {
        self.step("ReadOnly", |machine, out| machine.fail(&error, out));
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
        self.handle(&CheckpointMessage::Tick { active_bytes });
    }
}

/// Runs the writing thread until the checkpointer is gone; the manifest of the last save is the one to go on from.
pub(crate) fn run_worker(
    jobs: &Receiver<Job>,
    mut manifest: Manifest,
    disk: &Arc<dyn Disk>,
    journals: &[Arc<JournalFile>],
    switchboard: &Switchboard,
) {
    // What was written is held until the nodes have most likely let go of it: freeing hundreds of thousands of versions
    // takes tens of milliseconds, which this thread has and the actors have not.
    let mut written_views = Vec::new();
    for job in jobs {
        let kind = kinds::of_runs(&job);
        let message = match job {
            Job::Write {
                through,
                nodes,
                keyspaces,
            } => {
                let members = nodes.iter().filter_map(|node| switchboard.member(*node));
                written_views = members.map(|member| member.table.view()).collect();
                let written = guarded(|| {
                    switchboard.between_faults("runs", kind, || {
                        write_runs(through, &nodes, &keyspaces, journals, switchboard)
                    })
                });
                // Runs that were written all the same are written again: the next checkpoint brings the same versions.
                CheckpointMessage::Written(written.unwrap_or_else(|reason| {
                    let error = panicked(WORKER, reason);
                    nodes
                        .iter()
                        .map(|node| (*node, Err(error.clone())))
                        .collect()
                }))
            }
            Job::Save {
                complete,
                through,
                catalogue,
            } => {
                let saved = guarded(|| {
                    switchboard.between_faults("runs", kind, || {
                        // Nor must the manifest be ahead of the journal, whose records it sums up: the force before the
                        // runs may have failed.
                        let forced = force_all(journals, switchboard.clock.now())?;
                        let mut next = manifest.clone();
                        let complete = (0..).map(NodeId).zip(complete.iter().copied());
                        next.record_checkpoint(complete, through, &catalogue);
                        let routes = switchboard.routes.load();
                        let members = routes.nodes().iter();
                        next.record_trees(members.map(|it| (it.node(), it.store.version())));
                        if let Some(directories) = &mut next.directories {
                            let durable = through;
                            directories.stamp = Stamp { durable, forced };
                        }
                        next.save(disk.as_ref())?;
                        Ok(next)
                    })
                });
                let saved = saved.unwrap_or_else(|reason| Err(panicked(WORKER, reason)));
                written_views.clear();
                CheckpointMessage::Saved(saved.map(|saved| manifest = saved))
            }
            Job::Place {
                node,
                directory,
                reply,
            } => {
                let placed = guarded(|| {
                    switchboard.between_faults("runs", kind, || {
                        switchboard.placements.place(node, directory, |placement| {
                            let mut next = manifest.clone();
                            if let Some(directories) = &mut next.directories {
                                directories.placement = placement.list(0);
                            }
                            next.save(disk.as_ref())?;
                            manifest = next;
                            switchboard.to_journal(JournalMessage::Place(placement.clone()));
                            Ok(())
                        })
                    })
                });
                // The mover may have stopped.
                let _ = reply.send(placed.unwrap_or_else(|reason| Err(panicked(WORKER, reason))));
                continue;
            }
            Job::Ingest { node, run, reply } => {
                let ingested = guarded(|| {
                    switchboard.between_faults("runs", kind, || {
                        // Nor must copies be ahead of the journal: if a crash lost the beginning of their change, nobody
                        // would sweep them. With `Durability::Always` this does nothing.
                        force_all(journals, switchboard.clock.now())?;
                        let member = switchboard.member(node);
                        let member = member.ok_or(Error::NodeDown { node })?;
                        member.store.ingest(&mut run.into_iter())
                    })
                });
                // The mover may have stopped.
                let _ = reply.send(ingested.unwrap_or_else(|reason| Err(panicked(WORKER, reason))));
                continue;
            }
        };
        switchboard.to_checkpointer(message);
    }
}

const WORKER: &str = "a checkpoint's thread";

fn write_runs(
    through: Lsn,
    nodes: &[NodeId],
    keyspaces: &Keyspaces,
    journals: &[Arc<JournalFile>],
    switchboard: &Switchboard,
) -> Vec<(NodeId, Result<()>)> {
    // A tree must never be ahead of the journal on the medium, whichever directory it is in: recovery may cut all of them
    // where one ends. With `Durability::Always` this does nothing.
    if let Err(error) = force_all(journals, switchboard.clock.now()) {
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
            let member = switchboard.member(*node)?;
            if member.table.is_down() {
                // Others may take its arcs over, and nothing of them may come into its tree behind that.
                return None;
            }
            let view = member.table.view();
            let mut run = frozen_run(&view, through, keyspaces)?;
            let result = guarded(|| member.store.ingest(&mut run))
                .unwrap_or_else(|reason| Err(panicked(WORKER, reason)));
            if result.is_ok() {
                bytes += run.bytes();
                member.set_written(through);
            }
            Some((*node, result))
        })
        .collect();
    switchboard.cache_share.fit(&switchboard.cache);
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
    while let Ok(request) = requests.recv() {
        carry_out(&request, switchboard);
        let mut last = switchboard.visible.load();
        while requests.is_empty() {
            match requests.recv_timeout(IDLE) {
                Ok(request) => carry_out(&request, switchboard),
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

fn carry_out(request: &Compact, switchboard: &Switchboard) {
    let outcome = compact(switchboard);
    match request {
        Compact::Asked => switchboard.to_checkpointer(CheckpointMessage::Maintained(outcome)),
        Compact::Unasked => {}
    }
}

fn compact(switchboard: &Switchboard) -> Result<()> {
    let mut outcome = Ok(());
    let routes = switchboard.routes.load_full();
    for member in routes.nodes() {
        let store = &member.store;
        let maintained =
            guarded(|| switchboard.between_faults("compaction", "Compact", || store.maintain()));
        if let Err(error) = maintained.unwrap_or_else(|reason| Err(panicked(WORKER, reason))) {
            tracing::error!(%error, "a tree could not be compacted");
            outcome = Err(error);
        }
    }
    switchboard.cache_share.fit(&switchboard.cache);
    outcome
}
