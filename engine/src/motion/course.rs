//! One change on its way: what it waits for, what it asks for, and what is shown of it.
//!
//! What has to be done next is decided anew after each answer, from what the journal says of the ring and what was done
//! in this process; so going on after a crash, after a failure and after a step are the same thing.

use super::{
    Ground,
    clean::Cleaning,
    message::{Ending, Job, MotionEffect, Moved, Progress, Step},
    plan::Plan,
    source::Passage,
};
use crate::{
    error::{Error, Result},
    ids::{Incarnation, Lsn, NodeId, RequestId, Time},
    ring_state::{Change, RingRecord, SourceState},
    sequencer::RingRequest,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Whether a course goes on.
pub(super) enum State {
    /// It waits for something.
    Busy,
    /// It can go on.
    Free,
    /// It has ended.
    Over,
    /// The journal does not say any more what is written.
    Broken(Error),
}

/// Which way a course goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To what was wanted.
    Forward,
    /// It was cancelled, and the journal does not know yet.
    Undo,
    /// A change that leads back has taken its place.
    Back,
    /// That one can't go on either, for this node is down: it ends where it is.
    Abandon(NodeId),
}

/// What a course waits for.
#[derive(Debug, Clone)]
pub(super) enum Waiting {
    /// Nothing: the next step is to be decided.
    Nothing,
    /// The answer to a task.
    Task { task: RequestId, what: What },
    /// An answer that takes no time, and is asked for again.
    Quick { task: RequestId, until: Time },
    /// The source's promise.
    Promise {
        node: NodeId,
        attempt: u64,
        until: Time,
    },
    /// A node shows its swept tree.
    Forgotten { node: NodeId, until: Time },
    /// The next attempt.
    Rest { until: Time },
    /// A node that is down, or somebody who cancels.
    Node,
    /// Nothing more: all is said.
    End,
    /// Nothing more: nobody knows what is written.
    Broken(Error),
}

/// A task.
#[derive(Debug, Clone)]
pub(super) enum What {
    Open,
    Record(RingRecord),
    Checkpoint,
    /// Before a copy: of what an earlier one has left of a source's arcs at a target.
    SweepTarget {
        from: NodeId,
        to: NodeId,
    },
    SweepSource(NodeId),
    Copy,
    Follow,
}

/// A change on its way.
#[derive(Debug, Clone)]
pub(super) struct Course {
    pub(super) change: Arc<Change>,
    /// The nodes that it makes.
    pub(super) joining: Vec<NodeId>,
    pub(super) are_open: bool,
    /// Whether the journal knows of it.
    pub(super) has_begun: bool,
    /// The LSN of its beginning, if that was in this process.
    pub(super) began_at: Option<Lsn>,
    /// The nodes that were down before it began: all that they have committed is below its beginning.
    pub(super) down_before: BTreeSet<NodeId>,
    pub(super) way: Way,
    /// Whether the change that begins leads back.
    pub(super) is_turning: bool,
    /// Whether nothing can be undone any more.
    pub(super) is_final: bool,
    pub(super) request: Option<RequestId>,
    pub(super) cancels: Vec<RequestId>,
    /// The nodes that are down from which it takes over, which nobody has asked for; empty for any other change.
    pub(super) lost: Vec<NodeId>,
    pub(super) was_cancelled: bool,
    /// Where a copy may have left something: from which source, at which target; twice the same node for a target that may
    /// have anything that is not its own.
    pub(super) dirty: BTreeSet<(NodeId, NodeId)>,
    /// Targets that were swept, and may show a tree from before that.
    pub(super) stale: BTreeSet<NodeId>,
    /// The source that is being moved.
    pub(super) passage: Option<Passage>,
    /// How far the cleaning of each source is.
    pub(super) cleaning: BTreeMap<NodeId, Cleaning>,
    pub(super) waiting: Waiting,
    /// Whether the work that is waited for was told to stop.
    pub(super) is_stopping: bool,
    /// Failures in a row.
    pub(super) failures: u32,
    pub(super) last_failure: Option<Error>,
    pub(super) moved: Moved,
    /// What the present work has moved so far.
    pub(super) working: Moved,
    pub(super) bytes_estimated: u64,
    pub(super) step: Step,
}

impl Course {
    /// A change that begins.
    pub(super) fn planned(request: Option<RequestId>, plan: Plan) -> Self {
        let bytes_estimated = plan.bytes();
        Self {
            joining: plan.joining,
            lost: match request {
                Some(_) => Vec::new(),
                None => plan.leaving,
            },
            request,
            bytes_estimated,
            ..Self::new(Arc::new(plan.change))
        }
    }

    /// The change that was under way when an earlier mover ended.
    pub(super) fn resumed(ground: &mut Ground, out: &mut Vec<MotionEffect>) -> Option<Self> {
        let running = ground.ring.running()?.clone();
        let mut course = Self::new(Arc::clone(&running.change));
        course.has_begun = true;
        course.are_open = true;
        if running.before == running.change.members {
            // It leads back to where the one in whose place it came had begun.
            course.way = Way::Back;
        }
        for (from, state) in &running.sources {
            if *state == SourceState::Waiting {
                let targets = running.change.targets_of(*from);
                course
                    .dirty
                    .extend(targets.into_iter().map(|to| (*from, to)));
                // If only the router died, the source may be frozen for it.
                out.push(MotionEffect::KeepArcs {
                    node: *from,
                    change: running.change.number,
                });
            }
        }
        let leaves = |node| {
            !running
                .change
                .members
                .iter()
                .any(|(member, _)| *member == node)
        };
        // Its Cleaned says only that it leaves.
        course.is_final = running
            .sources
            .iter()
            .any(|(node, state)| matches!(state, SourceState::Cleaned(_)) && leaves(*node));
        course.release(ground, out);
        Some(course)
    }

    fn new(change: Arc<Change>) -> Self {
        Self {
            change,
            joining: Vec::new(),
            are_open: false,
            has_begun: false,
            began_at: None,
            down_before: BTreeSet::new(),
            way: Way::Forward,
            is_turning: false,
            is_final: false,
            request: None,
            cancels: Vec::new(),
            lost: Vec::new(),
            was_cancelled: false,
            dirty: BTreeSet::new(),
            stale: BTreeSet::new(),
            passage: None,
            cleaning: BTreeMap::new(),
            waiting: Waiting::Nothing,
            is_stopping: false,
            failures: 0,
            last_failure: None,
            moved: Moved::default(),
            working: Moved::default(),
            bytes_estimated: 0,
            step: Step::Beginning,
        }
    }

    pub(super) fn state(&self) -> State {
        match &self.waiting {
            Waiting::Nothing => State::Free,
            Waiting::End => State::Over,
            Waiting::Broken(error) => State::Broken(error.clone()),
            _ => State::Busy,
        }
    }

    /// Whether it is one that nobody has asked for.
    pub(super) fn is_take_over(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Whether somebody has undone what nobody had asked for.
    pub(super) fn is_take_over_cancelled(&self) -> bool {
        self.is_take_over() && self.was_cancelled
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        match &self.waiting {
            Waiting::Quick { until, .. }
            | Waiting::Promise { until, .. }
            | Waiting::Forgotten { until, .. }
            | Waiting::Rest { until } => Some(*until),
            _ => None,
        }
    }

    /// Decides what comes next, and asks for it.
    pub(super) fn advance(&mut self, ground: &mut Ground, now: Time, out: &mut Vec<MotionEffect>) {
        if matches!(self.way, Way::Undo | Way::Abandon(_)) {
            return self.undo(ground, now, out);
        }
        if !self.are_open && !self.joining.is_empty() {
            let task = self.ask(ground, What::Open);
            self.show(ground, Step::Opening, out);
            let nodes = self.joining.clone();
            return out.push(MotionEffect::OpenNodes { task, nodes });
        }
        if !self.has_begun {
            return self.begin(ground, Arc::clone(&self.change), out);
        }
        let sources = self.sources(ground);
        match sources
            .iter()
            .find(|(_, state)| *state == SourceState::Waiting)
        {
            Some((source, _)) => self.move_on(ground, now, *source, out),
            None => self.clean(ground, now, out),
        }
    }

    /// The sources of the change and how far each is.
    pub(super) fn sources(&self, ground: &Ground) -> Vec<(NodeId, SourceState)> {
        let running = ground.ring.running().into_iter();
        let sources = running.flat_map(|running| &running.sources);
        sources.map(|(node, state)| (*node, *state)).collect()
    }

    // What is asked for.

    /// A task that is waited for from now on.
    pub(super) fn ask(&mut self, ground: &mut Ground, what: What) -> RequestId {
        let task = ground.next_task();
        self.waiting = Waiting::Task { task, what };
        self.is_stopping = false;
        self.working = Moved::default();
        task
    }

    pub(super) fn ask_quickly(&mut self, ground: &mut Ground, now: Time) -> RequestId {
        let task = ground.next_task();
        let until = now.after(ground.options.ask_again);
        self.waiting = Waiting::Quick { task, until };
        task
    }

    pub(super) fn record(
        &mut self,
        ground: &mut Ground,
        step: Step,
        record: RingRecord,
        lives: Vec<(NodeId, Incarnation)>,
        out: &mut Vec<MotionEffect>,
    ) {
        let request = self.ask(ground, What::Record(record.clone()));
        self.show(ground, step, out);
        out.push(MotionEffect::Journal(RingRequest {
            request,
            record,
            lives,
        }));
    }

    pub(super) fn begin(
        &mut self,
        ground: &mut Ground,
        change: Arc<Change>,
        out: &mut Vec<MotionEffect>,
    ) {
        self.down_before.clone_from(&ground.down);
        let record = RingRecord::Began(change);
        self.record(ground, Step::Beginning, record, Vec::new(), out);
    }

    pub(super) fn work(
        &mut self,
        ground: &mut Ground,
        step: Step,
        what: What,
        job: Job,
        out: &mut Vec<MotionEffect>,
    ) {
        let task = self.ask(ground, what);
        self.show(ground, step, out);
        out.push(MotionEffect::Work { task, job });
    }

    pub(super) fn forget(
        &mut self,
        ground: &Ground,
        now: Time,
        node: NodeId,
        out: &mut Vec<MotionEffect>,
    ) {
        let until = now.after(ground.options.ask_again);
        self.waiting = Waiting::Forgotten { node, until };
        let change = self.change.number;
        out.push(MotionEffect::Forget { node, change });
    }

    /// Lifts the hold of the journal. Nobody waits for the answer.
    pub(super) fn release(&self, ground: &mut Ground, out: &mut Vec<MotionEffect>) {
        let task = ground.next_task();
        let through = None;
        out.push(MotionEffect::Hold { task, through });
    }

    /// Tries again later.
    pub(super) fn rest(
        &mut self,
        ground: &mut Ground,
        now: Time,
        error: Error,
        out: &mut Vec<MotionEffect>,
    ) {
        self.thaw(out);
        let options = &ground.options;
        let doubled = 2_u32.saturating_pow(self.failures);
        let wait = options.first_back_off.saturating_mul(doubled);
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(error);
        self.waiting = Waiting::Rest {
            until: now.after(wait.min(options.longest_back_off)),
        };
        self.show(ground, Step::Waiting, out);
    }

    /// Waits for a node that is down.
    pub(super) fn wait_for(&mut self, ground: &Ground, node: NodeId, out: &mut Vec<MotionEffect>) {
        self.thaw(out);
        self.last_failure = Some(Error::NodeDown { node });
        self.waiting = Waiting::Node;
        self.show(ground, Step::Waiting, out);
    }

    /// Lets the source admit writes, if it may not.
    pub(super) fn thaw(&mut self, out: &mut Vec<MotionEffect>) {
        let change = self.change.number;
        if let Some(passage) = &mut self.passage {
            passage.thaw(change, out);
        }
    }

    /// Nobody drives it any more.
    pub(super) fn give_up(&mut self, ground: &mut Ground, out: &mut Vec<MotionEffect>) {
        // What the source admitted behind a Cut that may be in the journal would not be at its new owner.
        if !matches!(
            self.waiting,
            Waiting::Task {
                what: What::Record(RingRecord::Cut { .. }),
                ..
            }
        ) {
            self.thaw(out);
        }
        self.interrupt(out);
        self.release(ground, out);
    }

    // The end.

    /// It can't begin.
    pub(super) fn refused(&mut self, ground: &Ground, error: Error, out: &mut Vec<MotionEffect>) {
        self.last_failure = Some(error.clone());
        self.retire(self.joining.clone(), out);
        self.show(ground, Step::Cancelled, out);
        self.answer(&Err(error), &Ok(Ending::Cancelled), out);
    }

    pub(super) fn end(
        &mut self,
        ground: &Ground,
        left: Vec<NodeId>,
        ending: Result<Ending>,
        out: &mut Vec<MotionEffect>,
    ) {
        self.retire(left, out);
        let step = match ending {
            Ok(Ending::Completed) => Step::Done,
            Ok(Ending::Cancelled) | Err(_) => Step::Cancelled,
        };
        self.show(ground, step, out);
        self.answer(&ending, &ending, out);
    }

    /// The engine turned read-only.
    pub(super) fn halt(mut self, ground: &Ground, error: &Error, out: &mut Vec<MotionEffect>) {
        self.interrupt(out);
        self.last_failure = Some(error.clone());
        self.show(ground, Step::Halted, out);
        let answer = Err(error.as_read_only());
        self.answer(&answer, &answer, out);
    }

    fn retire(&self, nodes: Vec<NodeId>, out: &mut Vec<MotionEffect>) {
        if !nodes.is_empty() {
            out.push(MotionEffect::RetireNodes(nodes));
        }
    }

    fn answer(
        &mut self,
        to_starter: &Result<Ending>,
        to_cancellers: &Result<Ending>,
        out: &mut Vec<MotionEffect>,
    ) {
        if let Some(request) = self.request.take() {
            out.push(MotionEffect::Answer(request, to_starter.clone()));
        }
        for request in self.cancels.drain(..) {
            out.push(MotionEffect::Answer(request, to_cancellers.clone()));
        }
        self.waiting = Waiting::End;
    }

    pub(super) fn show(&mut self, ground: &Ground, step: Step, out: &mut Vec<MotionEffect>) {
        self.step = step;
        let is_running = ground.ring.running().is_some();
        let arcs_total = self.change.moves.len();
        let arcs_done = if is_running {
            let sources = self.sources(ground).into_iter();
            let moved = sources.filter(|(_, state)| *state != SourceState::Waiting);
            moved
                .map(|(node, _)| self.change.moves_from(node).count())
                .sum()
        } else if self.has_begun && matches!(self.way, Way::Forward | Way::Back) {
            arcs_total
        } else {
            0
        };
        let source = match &self.waiting {
            Waiting::Task {
                what: What::SweepSource(node),
                ..
            }
            | Waiting::Forgotten { node, .. } => Some(*node),
            _ => self.passage.as_ref().map(|passage| passage.source),
        };
        out.push(MotionEffect::Progress(Progress {
            change: self.change.number,
            step,
            is_undoing: self.way != Way::Forward,
            source,
            taken_over: self.lost.clone(),
            arcs_done,
            arcs_total,
            moved: self.moved.and(self.working),
            bytes_estimated: self.bytes_estimated,
            failure: self.last_failure.clone(),
        }));
    }
}
