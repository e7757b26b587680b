//! The mover's thread: copies what a node holds on some arcs, follows what is committed there, sweeps, and opens the stores
//! of nodes that join. The router asks for one piece of work at a time; what to do is decided in its machine
//! ([`mailring_engine::motion`]), how, in [`Carry`].
//!
//! ```text
//!  router ── Open, Work ──▶ mover ── Ingest(run) ──▶ the thread that writes runs ──▶ trees
//!                                 └─ what writers wait for, all targets at once ──▶ trees
//!  router ◀── Opened, Working, Worked ── mover
//! ```
//!
//! It reads no faster than the limit allows, so that the foreground keeps its latency, but for what writers wait for. Runs
//! go through the thread that writes checkpoints: a tree takes one run at a time. One run is under way, so the memory it
//! takes is bounded by twice a chunk. A panic is an error of the work, which is tried again.
//!
//! What writers wait for takes a shorter way. A run is a handful of forces, 5 to 20 ms, so a node that leaves four others
//! would hold its writers for four times that, and for the length of a checkpoint that is being written. So each target's run
//! is written by a thread of its own then. A store lets one writer in at a time, whoever that is.

use crate::{
    checkpointer::{self, Compact},
    clock::wall_clock_ms,
    guard::{guarded, panicked},
    journal::Describe,
    journal_io::{JournalFile, force_all},
    kinds,
    member::Member,
    message::{Ask, Deliver},
    open::{Life, NodeActors, Readers, Stores},
    router::Opened,
    switchboard::Switchboard,
};
use crossbeam_channel::{Receiver, Sender, bounded};
use mailring_engine::{
    Error, Result,
    generation::Generation,
    ids::{DirectoryNo, Lsn, NodeId, RequestId},
    keyspaces::Keyspaces,
    motion::{CHUNK_BYTES, Carry, Job, MotionMessage, Moved, Work},
    replay::ReplayedNode,
    store::RunEntry,
    view::NodeView,
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How often the router hears how far a piece of work is.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// Shorter sleeps are put together: the system's are late by a tenth of a millisecond or so.
const SHORTEST_NAP: Duration = Duration::from_micros(200);

/// So much of what sleeps were late by is made up for.
const MADE_UP: Duration = Duration::from_millis(1);

/// The longest sleep in one piece: who is told to stop does so by then.
const NAP: Duration = Duration::from_millis(10);
/// After so many runs of one piece of work at a tree the trees are compacted as far as is due: a read may have to look into
/// each. Not after fewer: a tree that is being merged lets nobody else write, and writers may wait for the next run.
const RUNS_TO_COMPACT: u32 = 4;
/// The part of the memory budget that a chunk may take, if that is less than a chunk wants.
const BUDGET_PARTS: usize = 32;

/// What the mover's thread is asked to do.
#[derive(Debug)]
pub(crate) enum MoverRequest {
    /// Open stores and start actors for nodes that join, in this directory, or in their turn.
    Open {
        task: RequestId,
        nodes: Vec<NodeId>,
        directory: Option<DirectoryNo>,
    },
    /// Work on what moves.
    Work { task: RequestId, job: Job },
}

/// What tells the mover's thread to stop: the number of the last task that must not go on.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopSign(Arc<AtomicU64>);

impl StopSign {
    /// Ends this task, and all before it.
    pub(crate) fn stop(&self, task: RequestId) {
        self.0.fetch_max(task.0, Ordering::AcqRel);
    }

    fn is_set(&self, task: RequestId) -> bool {
        self.0.load(Ordering::Acquire) >= task.0
    }
}

/// What the thread works with.
pub(crate) struct Mover {
    pub(crate) stores: Stores,
    pub(crate) actors: NodeActors,
    pub(crate) journals: Readers,
    pub(crate) journal_files: Vec<Arc<JournalFile>>,
    pub(crate) runs: Sender<checkpointer::Job>,
    pub(crate) compactions: Sender<Compact>,
    pub(crate) stop: StopSign,
    /// Bytes a second.
    pub(crate) rate: Option<u64>,
    pub(crate) memory_budget: usize,
    pub(crate) queue_capacity: usize,
}

/// Works until the router is gone.
pub(crate) fn run_mover(
    requests: &Receiver<MoverRequest>,
    mover: &Mover,
    switchboard: &Arc<Switchboard>,
) {
    for request in requests {
        let board = switchboard;
        match request {
            MoverRequest::Open {
                task,
                nodes,
                directory,
            } => {
                let opened = guarded(|| {
                    board.between_faults("mover", "Open", || {
                        let nodes = nodes.iter().filter(|node| board.member(**node).is_none());
                        let opened = nodes.map(|node| mover.open(board, *node, directory));
                        opened.collect()
                    })
                });
                let members = opened.unwrap_or_else(|reason| Err(panicked(WHO, reason)));
                board.router().do_send(Opened { task, members });
            }
            MoverRequest::Work { task, job } => {
                let name = kinds::of_job(&job);
                let result = guarded(|| {
                    board.between_faults("mover", name, || mover.work(board, task, &job))
                });
                let result = result.unwrap_or_else(|reason| Err(panicked(WHO, reason)));
                board
                    .router()
                    .do_send(Deliver(MotionMessage::Worked { task, result }));
            }
        }
    }
}

const WHO: &str = "the mover's thread";

impl Mover {
    /// Opens a node that never was: its folder, if there is one, is left over from a beginning that was cut short.
    fn open(
        &self,
        board: &Arc<Switchboard>,
        node: NodeId,
        directory: Option<DirectoryNo>,
    ) -> Result<Arc<Member>> {
        if let Some(directory) = board.placements.wanted(node, directory) {
            self.place(node, directory)?;
        }
        let store = self.stores.create(node)?;
        let generation = Generation::with_gauge(Arc::clone(&board.budget.generations));
        // Nothing of it is in the journal before its change begins, which is still to come.
        let last_lsn = board.visible.load();
        let joining = ReplayedNode::joining(last_lsn, generation);
        let incarnation = joining.incarnation;
        let table = Arc::new(joining.table(node, store.view(), last_lsn));
        let member = Arc::new(Member::new(table, store, self.queue_capacity));
        let life = Life {
            incarnation,
            owned_since: board.routes.load().epoch(),
            last_lsn,
        };
        self.actors.start(board, &member, life);
        Ok(member)
    }

    /// Has it in the manifest in which directory a node lives. The thread that writes the manifest does.
    fn place(&self, node: NodeId, directory: DirectoryNo) -> Result<()> {
        let (reply, answer) = bounded(1);
        let job = checkpointer::Job::Place {
            node,
            directory,
            reply,
        };
        self.runs.send(job).map_err(|_| Error::Closed)?;
        answer.recv().map_err(|_| Error::Closed)?
    }

    fn work(&self, board: &Arc<Switchboard>, task: RequestId, job: &Job) -> Result<Work> {
        let keyspaces = keyspaces(board)?;
        let is_urgent = matches!(
            job,
            Job::Follow {
                is_urgent: true,
                ..
            }
        );
        let progress = Progress::new(self, board, task, is_urgent);
        let mut sink = |node, run| match is_urgent {
            true => progress.keep(node, run),
            false => progress.ingest(node, run),
        };
        let mut pace = |bytes| progress.pace(bytes);
        let mut carry = Carry {
            keyspaces: &keyspaces,
            chunk_bytes: CHUNK_BYTES.min(self.memory_budget / BUDGET_PARTS),
            sink: &mut sink,
            pace: &mut pace,
        };
        match job {
            Job::Sweep { node, arcs } => {
                let tree = known(board, *node)?.store.view();
                carry.sweep(&*tree, *node, arcs)?;
                Ok(Work::Swept)
            }
            Job::Copy {
                source,
                is_down,
                targets,
            } => {
                let source = known(board, *source)?;
                let (at, view) = loop {
                    let visible = board.visible.load();
                    let view = source.table.view();
                    // Looked at behind the LSN: from when a node is down on, more is visible than it shows.
                    if *is_down || source.table.is_down() {
                        break left_by(board, &source);
                    }
                    if view.complete <= visible {
                        break (visible, view);
                    }
                };
                let moved = carry.copy(&view, at, targets, wall_clock_ms())?;
                Ok(Work::Copied { at, moved })
            }
            Job::Follow {
                source,
                targets,
                after,
                through,
                ..
            } => {
                let through = match through {
                    Some(through) => {
                        progress.wait_for(*through)?;
                        *through
                    }
                    None => board.visible.load().max(*after),
                };
                let journal = self.journals.of(*source);
                let moved = carry.follow(journal, *source, targets, *after, through)?;
                progress.ingest_kept()?;
                Ok(Work::Followed { through, moved })
            }
        }
    }
}

fn size_of_run(run: &[RunEntry]) -> Moved {
    let bytes = run.iter().map(|(key, stored)| {
        let stored = stored.as_ref().map_or(0, |stored| stored.len());
        (key.len() + stored) as u64
    });
    Moved {
        keys: run.len() as u64,
        bytes: bytes.sum(),
    }
}

fn known(board: &Switchboard, node: NodeId) -> Result<Arc<Member>> {
    board.member(node).ok_or(Error::NodeDown { node })
}

/// What a node that is down has left, as of an LSN: its tree as it is now. What it has shown last need not have everything
/// that is in the tree, be it a run of a checkpoint or arcs that came to it when it died; and what is in its generations is in
/// the journal. The tree may be ahead of the LSN, which does no harm: whoever follows the journal from there brings the newest
/// versions again.
fn left_by(board: &Switchboard, member: &Member) -> (Lsn, Arc<NodeView>) {
    // The journal has nothing of it from before it has joined, and may not reach back so far.
    let slot = usize::from(member.node().0);
    let routes = board.routes.load();
    let joined = routes.state().slots().get(slot).map(|slot| slot.since);
    let complete = member.written().max(joined.unwrap_or_default());
    let view = NodeView {
        active: Arc::default(),
        frozen: Vec::new(),
        tree: member.store.view(),
        complete,
        floor: Lsn(0),
        leaving: None,
    };
    (complete, Arc::new(view))
}

/// The keyspaces as the journal knows them now.
fn keyspaces(board: &Switchboard) -> Result<Keyspaces> {
    let (reply, answer) = oneshot::channel();
    board.journal().do_send(Ask {
        message: Describe,
        reply,
    });
    // The journal ends with its system, and the question with it.
    let catalogue = answer.blocking_recv().map_err(|_| Error::Closed)?;
    Ok(catalogue.keyspaces)
}

/// How far a piece of work is, and how fast it may go on.
struct Progress<'a> {
    mover: &'a Mover,
    board: &'a Switchboard,
    task: RequestId,
    is_urgent: bool,
    ingested: Cell<Moved>,
    /// Runs that this piece of work has brought to each tree.
    runs: RefCell<BTreeMap<NodeId, u32>>,
    /// Runs that writers wait for, to be written together.
    kept: RefCell<BTreeMap<NodeId, Vec<RunEntry>>>,
    /// When the limit allows the next read.
    next: Cell<Instant>,
    told: RefCell<Instant>,
}

impl<'a> Progress<'a> {
    fn new(mover: &'a Mover, board: &'a Switchboard, task: RequestId, is_urgent: bool) -> Self {
        let now = Instant::now();
        Self {
            mover,
            board,
            task,
            is_urgent,
            ingested: Cell::default(),
            runs: RefCell::default(),
            kept: RefCell::default(),
            next: Cell::new(now),
            told: RefCell::new(now),
        }
    }

    /// Fails if the work shall end.
    fn check(&self) -> Result<()> {
        if self.board.stopping.load(Ordering::Acquire) || self.mover.stop.is_set(self.task) {
            return Err(Error::Closed);
        }
        match self.board.read_only.get() {
            Some(error) => Err(error.as_read_only()),
            None => Ok(()),
        }
    }

    fn ingest(&self, node: NodeId, run: Vec<RunEntry>) -> Result<()> {
        self.check()?;
        let moved = size_of_run(&run);
        let (reply, answer) = bounded(1);
        let job = checkpointer::Job::Ingest { node, run, reply };
        let gone = |_| Error::Closed;
        self.mover.runs.send(job).map_err(|_| Error::Closed)?;
        answer.recv().map_err(gone)??;
        self.count(moved);
        let mut runs = self.runs.borrow_mut();
        let runs = runs.entry(node).or_default();
        *runs += 1;
        if runs.is_multiple_of(RUNS_TO_COMPACT) {
            // Beside the checkpoints', of which nobody has to hear.
            let _ = self.mover.compactions.send(Compact::Unasked);
        }
        Ok(())
    }

    /// Keeps a run until [`Progress::ingest_kept`], one a node: later runs may be of the same keys.
    fn keep(&self, node: NodeId, run: Vec<RunEntry>) -> Result<()> {
        if self.kept.borrow().contains_key(&node) {
            self.ingest_kept()?;
        }
        self.kept.borrow_mut().insert(node, run);
        Ok(())
    }

    /// Writes what was kept, each run by a thread of its own.
    fn ingest_kept(&self) -> Result<()> {
        let runs = self.kept.take();
        if runs.is_empty() {
            return Ok(());
        }
        self.check()?;
        // Nor must these be ahead of the journal.
        force_all(&self.mover.journal_files, self.board.clock.now())?;
        let board = self.board;
        let write = |node, run: Vec<RunEntry>| {
            let written = guarded(|| {
                board.between_faults("runs", "Ingest", || {
                    let moved = size_of_run(&run);
                    known(board, node)?.store.ingest(&mut run.into_iter())?;
                    Ok(moved)
                })
            });
            written.unwrap_or_else(|reason| Err(panicked(WHO, reason)))
        };
        let written: Vec<Result<Moved>> = thread::scope(|scope| {
            let writers = runs.into_iter();
            let writers = writers.map(|(node, run)| scope.spawn(move || write(node, run)));
            let writers: Vec<_> = writers.collect();
            let ended = writers.into_iter().map(|writer| writer.join());
            let no_panic = "a writer's panic is caught in its thread";
            ended.map(|written| written.expect(no_panic)).collect()
        });
        for moved in written {
            self.count(moved?);
        }
        Ok(())
    }

    fn count(&self, moved: Moved) {
        self.ingested.set(self.ingested.get().and(moved));
        self.board.telemetry.moved(moved.keys, moved.bytes);
        self.tell();
    }

    fn tell(&self) {
        let mut told = self.told.borrow_mut();
        let now = Instant::now();
        if now.duration_since(*told) >= TOLD_EVERY {
            *told = now;
            let Moved { keys, bytes } = self.ingested.get();
            let task = self.task;
            let working = MotionMessage::Working { task, keys, bytes };
            self.board.router().do_send(Deliver(working));
        }
    }

    /// Sleeps until the limit allows to go on behind so many bytes.
    fn pace(&self, bytes: u64) -> Result<()> {
        self.check()?;
        let Some(rate) = self.mover.rate.filter(|_| !self.is_urgent) else {
            return Ok(());
        };
        let now = Instant::now();
        let took = Duration::from_secs_f64(bytes as f64 / rate as f64);
        // What was not used is lost, but for what a sleep is late by: the foreground would feel it, were it made up for.
        let made_up = now.checked_sub(MADE_UP).unwrap_or(now);
        let next = self.next.get().max(made_up) + took;
        self.next.set(next);
        if next.saturating_duration_since(now) < SHORTEST_NAP {
            return Ok(());
        }
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(NAP));
            self.check()?;
        }
    }

    /// Waits until this is visible: what is committed, and not in the file yet, can't be followed.
    fn wait_for(&self, through: Lsn) -> Result<()> {
        const SOON: Duration = Duration::from_micros(100);
        while self.board.visible.load() < through {
            self.check()?;
            thread::sleep(SOON);
        }
        Ok(())
    }
}
