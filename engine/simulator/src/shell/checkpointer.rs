//! The shell of the checkpointer, and the threads that write runs and manifests and compact.

use super::panicked;
use crate::{
    faults::Fault,
    mutation::Mutation,
    network::{Job, Message, Party},
    report::Seen,
    world::World,
};
use mailring_engine::{
    Error, Result,
    checkpoint::{Checkpoint, CheckpointEffect, CheckpointMessage},
    directories::Stamp,
    ids::{KeyspaceId, Lsn, NodeId, RequestId},
    keyspaces::Keyspaces,
    motion::MotionMessage,
    participant::NodeMessage,
    restart::Verdict,
    run::frozen_run,
    sequencer::JournalMessage,
    store::{RunEntry, Store},
};
use std::sync::Arc;

impl World {
    pub(crate) fn checkpoint_step(&mut self, message: CheckpointMessage) {
        self.with_checkpoint(|machine, out| machine.handle(message.clone(), out));
    }

    pub(crate) fn checkpoint_fails(&mut self, error: &Error) {
        self.with_checkpoint(|machine, out| machine.fail(error, out));
    }

    pub(crate) fn tick_checkpointer(&mut self) {
        let members = self.process.routes.nodes().iter();
        let bytes = members.map(|member| member.table.view().active.bytes() as u64);
        let active_bytes = bytes.sum();
        let message = CheckpointMessage::Tick { active_bytes };
        self.send(
            Party::Clock,
            Party::Checkpointer,
            Message::Checkpoint(message),
        );
    }

    /// A panic takes back what the step has changed, and the message is handled once more.
    fn with_checkpoint(&mut self, handle: impl Fn(&mut Checkpoint, &mut Vec<CheckpointEffect>)) {
        if self.process.checkpointer_is_dead {
            self.process.checkpoint_requests.clear();
            return self.router_is_left_alone();
        }
        if self.strikes(Fault::CheckpointerPanics) {
            let (mut machine, mut out) = (self.process.checkpoint.clone(), Vec::new());
            handle(&mut machine, &mut out);
            let now = self.now;
            let verdict = self.process.checkpoint_restarts.handle_panic(now, 0);
            if verdict == Verdict::Down || self.strikes(Fault::RestartPanics) {
                return self.checkpointer_gives_up();
            }
        }
        let mut out = Vec::new();
        handle(&mut self.process.checkpoint, &mut out);
        if self.strikes(Fault::EffectPanics) {
            // Some have left, so the step can't be taken back.
            self.drop_some(&mut out);
            self.carry_out_checkpoint(out);
            return self.checkpointer_gives_up();
        }
        self.carry_out_checkpoint(out);
    }

    fn checkpointer_gives_up(&mut self) {
        let reason = "the checkpointer panicked".to_owned();
        let failed = JournalMessage::Failed(Error::ReadOnly { reason });
        self.process.checkpointer_is_dead = true;
        self.process.checkpoint_requests.clear();
        self.router_is_left_alone();
        let journal = Party::Journal;
        self.send(Party::Checkpointer, journal, Message::Journal(failed));
    }

    fn carry_out_checkpoint(&mut self, effects: Vec<CheckpointEffect>) {
        let from = Party::Checkpointer;
        for effect in effects {
            match effect {
                CheckpointEffect::Mark => {
                    let message = Message::Journal(JournalMessage::Mark);
                    self.send(from, Party::Journal, message);
                }
                CheckpointEffect::Write {
                    through,
                    nodes,
                    keyspaces,
                } => {
                    let job = Job::Write {
                        through,
                        nodes,
                        keyspaces,
                    };
                    self.send(from, Party::Worker, Message::Job(job));
                }
                CheckpointEffect::Flushed(node, through) => {
                    let message = Message::Node(NodeMessage::Flushed { through });
                    self.send(from, Party::Node(node.0), message);
                }
                CheckpointEffect::Save {
                    mut complete,
                    through,
                    catalogue,
                } => {
                    if self.mutated(Mutation::SaveAhead) {
                        complete.fill(through);
                    }
                    let job = Job::Save {
                        complete,
                        through,
                        catalogue,
                    };
                    self.send(from, Party::Worker, Message::Job(job));
                }
                CheckpointEffect::Release(mut through) => {
                    if self.mutated(Mutation::ReleaseAll) {
                        through = Lsn(u64::MAX);
                    }
                    for directory in self.process.directories() {
                        let through = self.spoil_release(directory, through);
                        self.send(from, Party::Io(directory), Message::Release(through));
                    }
                }
                CheckpointEffect::Maintain => self.send(from, Party::Compactor, Message::Compact),
                CheckpointEffect::Answer(request, result) => {
                    let asked = self.process.checkpoint_requests.remove(&request);
                    assert!(asked, "checkpoint request {request} was answered twice");
                    if let Ok(lsn) = result {
                        self.check_trees_are_written(lsn);
                    }
                    if let Some(asked) = self.process.router.checkpoints.remove(&request) {
                        self.router_checkpointed(asked, result);
                    }
                }
                CheckpointEffect::Failed(..) => {}
            }
        }
    }

    pub(crate) fn work(&mut self, job: Job) {
        let message = match job {
            Job::Ingest { node, run } => return self.ingest(node, run),
            Job::Place { node, directory } => return self.place(node, directory),
            Job::Write {
                through,
                nodes,
                keyspaces,
            } => {
                self.check_run_is_visible(through);
                let results = match self.force_before_run() {
                    Ok(()) => nodes
                        .iter()
                        .filter_map(|node| self.write_run(*node, through, &keyspaces))
                        .collect(),
                    Err(error) => {
                        let failed = nodes.iter().map(|node| (*node, Err(error.clone())));
                        failed.collect()
                    }
                };
                // A thread that panics behind its runs has written them all the same.
                CheckpointMessage::Written(match self.strikes(Fault::WorkerPanics) {
                    true => nodes.iter().map(|node| (*node, Err(panicked()))).collect(),
                    false => results,
                })
            }
            Job::Save {
                complete,
                through,
                mut catalogue,
            } => {
                self.check_manifest_is_behind_trees(&complete, &catalogue.ring);
                if self.mutated(Mutation::ForgetOutcomes) {
                    catalogue.outcomes.committed = Arc::default();
                }
                let moves = catalogue.ring.running().is_some();
                if self.mutated(Mutation::ForgetKeys)
                    || self.mutated(Mutation::ForgetKeysInMotion) && moves
                {
                    let mut committed = catalogue.outcomes.committed.to_vec();
                    for (_, tag) in &mut committed {
                        tag.idempotency = None;
                    }
                    catalogue.outcomes.committed = committed.into();
                }
                let mut next = self.process.manifest.clone();
                let complete = (0..).map(NodeId).zip(complete);
                next.record_checkpoint(complete, through, &catalogue);
                if self.mutated(Mutation::ReuseNumbers) {
                    next.next_keyspace = KeyspaceId(0);
                }
                let saved = match self.force_before_manifest() {
                    Ok(forced) => {
                        if let Some(directories) = &mut next.directories {
                            let durable = through;
                            directories.stamp = Stamp { durable, forced };
                            self.spoil_stamp(&mut directories.stamp);
                        }
                        next.save(self.directory.disks.home())
                    }
                    Err(error) => Err(error),
                };
                let saved = match self.strikes(Fault::WorkerPanics) {
                    true => Err(panicked()),
                    false => saved,
                };
                if saved.is_ok() {
                    self.count(Seen::Saved, 1);
                    self.process.manifest = next;
                }
                CheckpointMessage::Saved(saved)
            }
        };
        self.send(
            Party::Worker,
            Party::Checkpointer,
            Message::Checkpoint(message),
        );
    }

    /// From the router: the journal keeps what is above this.
    pub(crate) fn hold(&mut self, task: RequestId, through: Option<Lsn>) {
        self.checkpoint_step(CheckpointMessage::Hold(through));
        let held = Message::Motion(MotionMessage::Held { task });
        self.send(Party::Checkpointer, Party::Router, held);
    }

    /// From the router: a checkpoint that begins after this.
    pub(crate) fn checkpoint_for(&mut self, task: RequestId, nodes: Vec<NodeId>) {
        let request = RequestId(self.next_number());
        let shell = &mut self.process.router;
        shell.checkpoints.insert(request, (task, nodes));
        self.process.checkpoint_requests.insert(request);
        self.checkpoint_step(CheckpointMessage::Request(request));
    }

    /// From the mover: a run of what moves.
    fn ingest(&mut self, node: NodeId, run: Vec<RunEntry>) {
        let forced = self.force_before_run();
        let result = forced.and_then(|()| self.ingest_moved(node, run));
        self.send(Party::Worker, Party::Mover, Message::Ingested(result));
    }

    /// A run of what moves goes into a tree.
    pub(super) fn ingest_moved(&mut self, node: NodeId, run: Vec<RunEntry>) -> Result<()> {
        if !self.process.is_open(node) {
            return Err(Error::NodeDown { node });
        }
        self.check_moved_run(node, &run);
        let store = Arc::clone(&self.directory.stores[usize::from(node.0)]);
        if self.strikes(Fault::RunFails) {
            store.fail_next();
        }
        let result = store.ingest(&mut run.into_iter());
        match self.strikes(Fault::WorkerPanics) {
            true => Err(panicked()),
            false => result,
        }
    }

    fn write_run(
        &mut self,
        node: NodeId,
        through: Lsn,
        keyspaces: &Keyspaces,
    ) -> Option<(NodeId, Result<()>)> {
        let number = usize::from(node.0);
        // Others may take over from who is down, and nothing of them may come into its tree behind that.
        if !self.process.is_open(node) || self.process.tables[number].is_down() {
            return None;
        }
        if self.strikes(Fault::RunFails) {
            self.directory.stores[number].fail_next();
        }
        let view = self.process.tables[number].view();
        let Some(mut run) = frozen_run(&view, through, keyspaces) else {
            self.count(Seen::RunLeftOut, 1);
            return self
                .mutated(Mutation::IgnoreBorder)
                .then_some((node, Ok(())));
        };
        self.count(Seen::Run, 1);
        if self.mutated(Mutation::SkipIngest) {
            return Some((node, Ok(())));
        }
        let result = self.directory.stores[number].ingest(&mut run);
        if result.is_ok() {
            self.check_tree(node, through);
            self.written[number] = self.written[number].max(through);
            self.process.written.insert(node, through);
        }
        Some((node, result))
    }

    pub(crate) fn compact_unasked(&mut self) {
        for store in &self.directory.stores {
            store.maintain().expect("memory does not fail");
        }
    }

    pub(crate) fn compact(&mut self) {
        self.compact_unasked();
        let message = CheckpointMessage::Maintained(Ok(()));
        self.send(
            Party::Compactor,
            Party::Checkpointer,
            Message::Checkpoint(message),
        );
    }
}
