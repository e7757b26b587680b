//! The shell of the mover's thread: opens stores, copies, follows and sweeps, run by run, with everything else happening in
//! between.
//!
//! What is to be ingested is worked out at once, from a view and a stretch of the journal that do not change; each run then
//! takes its way through the thread that writes runs.

use super::panicked;
use crate::{
    faults::Fault,
    mutation::Mutation,
    network::{Job, Message, Party},
    report::Seen,
    store::SimulatedStore,
    world::{Wake, World},
};
use mailring_engine::{
    Error, Result,
    ids::{DirectoryNo, Lsn, NodeId, RequestId},
    keyspaces::Keyspaces,
    motion::{Carry, Job as MoverJob, MotionMessage, Moved, Work},
    ring_state::SourceState,
    store::{RunEntry, Store},
    value::Value,
    view::NodeView,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// After so many runs the trees are compacted.
const RUNS_TO_COMPACT: u32 = 4;

/// The mover's thread.
#[derive(Default)]
pub(crate) struct MoverShell {
    queue: VecDeque<(RequestId, Request)>,
    current: Option<Current>,
    /// Nodes that join, while the thread that writes the manifest notes where they live.
    placing: Option<(RequestId, Vec<NodeId>)>,
    /// The last task that must not go on.
    stopped: Option<RequestId>,
    runs: u32,
}

enum Request {
    Open(Vec<NodeId>, Option<DirectoryNo>),
    Work(MoverJob),
}

/// Runs on their way into trees.
type Runs = VecDeque<(NodeId, Vec<RunEntry>)>;

/// A piece of work.
struct Current {
    task: RequestId,
    job: MoverJob,
    keyspaces: Keyspaces,
    /// What is still to be ingested, and how it ends then.
    rest: Option<(Runs, Result<Work>)>,
    ingested: Moved,
}

impl MoverShell {
    pub(super) fn stop(&mut self, task: RequestId) {
        self.stopped = self.stopped.max(Some(task));
    }

    fn is_free(&self) -> bool {
        self.current.is_none() && self.placing.is_none()
    }

    /// Whether it has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_free() && self.queue.is_empty()
    }
}

impl World {
    /// Where nobody says in which directory they shall live, they do in their turn.
    pub(crate) fn open_nodes(
        &mut self,
        task: RequestId,
        nodes: Vec<NodeId>,
        directory: Option<DirectoryNo>,
    ) {
        let queue = &mut self.process.mover.queue;
        queue.push_back((task, Request::Open(nodes, directory)));
        self.mover_takes_next();
    }

    pub(crate) fn move_arcs(&mut self, task: RequestId, job: MoverJob) {
        self.process
            .mover
            .queue
            .push_back((task, Request::Work(job)));
        self.mover_takes_next();
    }

    fn mover_takes_next(&mut self) {
        let mover = &mut self.process.mover;
        if !mover.is_free() {
            return;
        }
        match mover.queue.pop_front() {
            Some((task, Request::Open(nodes, directory))) => {
                match self.wanted_place(&nodes, directory) {
                    Some(job) => {
                        self.process.mover.placing = Some((task, nodes));
                        self.send(Party::Mover, Party::Worker, Message::Job(job));
                    }
                    None => self.open_placed(task, &nodes, Ok(())),
                }
            }
            Some((task, Request::Work(job))) => {
                let keyspaces = self.process.sequencer.keyspaces().clone();
                self.process.mover.current = Some(Current {
                    task,
                    job,
                    keyspaces,
                    rest: None,
                    ingested: Moved::default(),
                });
                let message = Message::MoveOn(task);
                self.send(Party::Mover, Party::Mover, message);
            }
            None => {}
        }
    }

    /// It is noted where a node lives that joins, or not.
    pub(crate) fn mover_placed(&mut self, placed: Result<()>) {
        let placing = self.process.mover.placing.take();
        let (task, nodes) = placing.expect("it waits for it");
        self.open_placed(task, &nodes, placed);
    }

    fn open_placed(&mut self, task: RequestId, nodes: &[NodeId], placed: Result<()>) {
        let opened = placed.and_then(|()| self.open_stores(nodes));
        let message = Message::Opened(task, opened);
        self.send(Party::Mover, Party::Router, message);
        self.mover_takes_next();
    }

    /// Makes stores for nodes that never were.
    fn open_stores(&mut self, nodes: &[NodeId]) -> Result<Vec<(NodeId, Lsn)>> {
        let mut opened = Vec::new();
        for node in nodes {
            if self.process.is_open(*node) {
                continue;
            }
            if self.strikes(Fault::StoreFails) {
                let context = "a store".to_owned();
                return Err(Error::DiskFull { context });
            }
            let store = Arc::new(SimulatedStore::new(Arc::clone(&self.now_ms)));
            self.spoil_store(&store);
            let number = usize::from(node.0);
            // What there is of it is left over from a beginning that was cut short.
            self.directory.stores.truncate(number);
            self.directory.stores.push(store);
            self.directory.homes.truncate(number);
            self.directory.homes.push(self.process.placement.of(*node));
            assert_eq!(
                self.directory.stores.len(),
                number + 1,
                "nodes join in order"
            );
            self.written.truncate(number);
            self.written.push(Lsn(0));
            opened.push((*node, self.process.visible.load()));
        }
        match self.strikes(Fault::MoverPanics) {
            true => Err(panicked()),
            false => Ok(opened),
        }
    }

    /// The thread goes on with its work.
    pub(crate) fn mover_goes_on(&mut self, task: RequestId) {
        let current = self.process.mover.current.as_ref();
        if current.is_none_or(|current| current.task != task) {
            return;
        }
        if let Err(error) = self.mover_may_go_on(task) {
            return self.worked(Err(error));
        }
        let current = self.process.mover.current.as_ref().expect("looked at");
        if current.rest.is_none() {
            if self.strikes(Fault::MoverPanics) {
                return self.worked(Err(panicked()));
            }
            let current = self.process.mover.current.as_ref().expect("looked at");
            if let MoverJob::Follow {
                through: Some(through),
                ..
            } = &current.job
                && *through > self.process.visible.load()
            {
                // What is not in the file yet can't be followed.
                let soon = self.scale.after(self.now, 4);
                return self.wake_at(soon, Wake::Mover(task));
            }
            let rest = self.work_out();
            let current = self.process.mover.current.as_mut().expect("looked at");
            current.rest = Some(rest);
        }
        self.ingest_next();
    }

    fn mover_may_go_on(&self, task: RequestId) -> Result<()> {
        if self.process.mover.stopped >= Some(task) {
            return Err(Error::Closed);
        }
        match self.process.read_only {
            true => Err(Error::ReadOnly {
                reason: "so it is".into(),
            }),
            false => Ok(()),
        }
    }

    fn ingest_next(&mut self) {
        let current = self.process.mover.current.as_mut().expect("it works");
        let is_urgent = matches!(
            current.job,
            MoverJob::Follow {
                is_urgent: true,
                ..
            }
        );
        let (runs, result) = current.rest.as_mut().expect("it was worked out");
        let Some((node, run)) = runs.pop_front() else {
            let result = result.clone();
            return match self.strikes(Fault::MoverPanics) {
                true => self.worked(Err(panicked())),
                false => self.worked(result),
            };
        };
        if is_urgent {
            // One run a node: later ones may be of the same keys.
            let mut batch = BTreeMap::from([(node, run)]);
            while let Some((node, run)) = runs.pop_front_if(|(node, _)| !batch.contains_key(node)) {
                batch.insert(node, run);
            }
            return self.ingest_at_once(batch);
        }
        let job = Job::Ingest { node, run };
        self.send(Party::Mover, Party::Worker, Message::Job(job));
    }

    /// What writers wait for is written beside whatever the thread that writes runs is busy with, to all trees whatever
    /// becomes of the others.
    fn ingest_at_once(&mut self, batch: BTreeMap<NodeId, Vec<RunEntry>>) {
        let mut all = self.force_before_run();
        if all.is_ok() {
            for (node, run) in batch {
                let written = self.ingest_moved(node, run);
                all = all.and(written);
            }
        }
        self.mover_ingested(all);
    }

    /// A run is in a tree, or not.
    pub(crate) fn mover_ingested(&mut self, result: Result<()>) {
        if let Err(error) = result {
            return self.worked(Err(error));
        }
        self.count(Seen::MoverRun, 1);
        self.process.mover.runs += 1;
        if self.process.mover.runs.is_multiple_of(RUNS_TO_COMPACT) {
            self.send(Party::Mover, Party::Compactor, Message::CompactUnasked);
        }
        let tells = self.schedule.chance(4);
        let current = self.process.mover.current.as_mut().expect("it works");
        let task = current.task;
        current.ingested.keys += 1;
        let Moved { keys, bytes } = current.ingested;
        if tells {
            let working = MotionMessage::Working { task, keys, bytes };
            self.send(Party::Mover, Party::Router, Message::Motion(working));
        }
        match self.mover_may_go_on(task) {
            Ok(()) => self.ingest_next(),
            Err(error) => self.worked(Err(error)),
        }
    }

    fn worked(&mut self, result: Result<Work>) {
        let current = self.process.mover.current.take().expect("it works");
        let task = current.task;
        let message = Message::Motion(MotionMessage::Worked { task, result });
        self.send(Party::Mover, Party::Router, message);
        self.mover_takes_next();
    }

    /// What a node that is down has left, as of an LSN: its tree as it is now, whatever it has shown last.
    fn left_by(&self, node: NodeId) -> (Lsn, Arc<NodeView>) {
        let number = usize::from(node.0);
        let shown = self.process.tables[number].view().complete;
        let written = self.process.written.get(&node).copied();
        // The journal has nothing of it from before it has joined, and may not reach back so far.
        let slots = self.process.routes.state().slots();
        let joined = slots.get(number).map(|slot| slot.since);
        let complete = written.max(Some(shown)).max(joined).unwrap_or_default();
        let view = NodeView {
            active: Arc::default(),
            frozen: Vec::new(),
            tree: self.directory.stores[number].view(),
            complete,
            floor: Lsn(0),
            leaving: None,
        };
        (complete, Arc::new(view))
    }

    /// What is to be ingested, and how the work ends then.
    fn work_out(&mut self) -> (Runs, Result<Work>) {
        let (visible, now_ms) = (self.process.visible.load(), self.now_ms());
        let last = self.process.sequencer.last_lsn();
        let current = self.process.mover.current.as_ref().expect("it works");
        let source = match &current.job {
            MoverJob::Follow { source, .. } => *source,
            _ => NodeId(0),
        };
        let reader = self.journal_reader(source);
        let current = self.process.mover.current.as_ref().expect("it works");
        let mut runs = VecDeque::new();
        let mut sink = |node, run| {
            runs.push_back((node, run));
            Ok(())
        };
        let mut pace = |_| Ok(());
        let mut carry = Carry {
            keyspaces: &current.keyspaces,
            chunk_bytes: self.scale.chunk_bytes,
            sink: &mut sink,
            pace: &mut pace,
        };
        let result = match &current.job {
            MoverJob::Sweep { node, arcs } => {
                let tree = self.directory.stores[usize::from(node.0)].view();
                carry.sweep(&*tree, *node, arcs).map(|_| Work::Swept)
            }
            MoverJob::Copy {
                source,
                is_down,
                targets,
            } => {
                // From when a node is down on, more is visible than it shows.
                let is_down = *is_down || self.process.tables[usize::from(source.0)].is_down();
                let (at, view) = match is_down {
                    true => self.left_by(*source),
                    false => (visible, self.process.tables[usize::from(source.0)].view()),
                };
                let moved = carry.copy(&view, at, targets, now_ms);
                let at = match self.mutated(Mutation::CopyAhead) {
                    true => last,
                    false => at,
                };
                moved.map(|moved| Work::Copied { at, moved })
            }
            MoverJob::Follow {
                source,
                targets,
                after,
                through,
                ..
            } => {
                let through = through.unwrap_or(visible.max(*after));
                let moved = carry.follow(&reader, *source, targets, *after, through);
                moved.map(|moved| Work::Followed { through, moved })
            }
        };
        self.spoil_runs(&mut runs);
        (runs, result)
    }

    /// What mutations make of the mover's runs.
    fn spoil_runs(&self, runs: &mut Runs) {
        let current = self.process.mover.current.as_ref().expect("it works");
        match (self.mutation, &current.job) {
            (Some(Mutation::CopyUnfollowed), MoverJob::Follow { .. })
            | (
                Some(Mutation::SkipLastFollow),
                MoverJob::Follow {
                    through: Some(_), ..
                },
            ) => runs.clear(),
            (Some(Mutation::SkipSweep), MoverJob::Sweep { node, .. }) if self.is_cut(*node) => {
                runs.clear();
            }
            (Some(Mutation::CopyOnLeftovers), MoverJob::Sweep { node, .. })
                if !self.is_cut(*node) =>
            {
                runs.clear();
            }
            (Some(Mutation::ForgetRemovals), MoverJob::Follow { .. }) => {
                for (_, run) in runs.iter_mut() {
                    run.retain(|(_, stored)| stored.is_some());
                }
            }
            (Some(Mutation::ForgetExpiry), MoverJob::Copy { .. } | MoverJob::Follow { .. }) => {
                for (_, stored) in runs.iter_mut().flat_map(|(_, run)| run) {
                    let value = stored.take().and_then(Value::decode);
                    *stored = value.map(|value| Value::new(value.bytes).encode());
                }
            }
            _ => {}
        }
    }

    /// Whether the node has lost arcs in the change that is under way.
    fn is_cut(&self, node: NodeId) -> bool {
        let running = self.process.router.machine.ring().running();
        let state = running.and_then(|running| running.sources.get(&node));
        matches!(state, Some(SourceState::Cut(_) | SourceState::Cleaned(_)))
    }
}
