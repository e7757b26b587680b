//! What the mover is told, and what it wants done.
//!
//! Everything that takes time is a *task* with a number, and its answer names it: an answer to a task that is not waited
//! for any more means nothing. At most one task is under way at a time.

use super::plan::{Intent, Targets};
use crate::{
    error::{Error, Result},
    ids::{Incarnation, Lsn, NodeId, RequestId},
    ring::ArcSet,
    sequencer::RingRequest,
};
use std::sync::Arc;

/// What arrives at the mover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MotionMessage {
    /// From a handle: change the ring. Answered by [`MotionEffect::Answer`] when the change has ended, or at once if it is
    /// refused: one change runs at a time.
    Start {
        /// Whom to answer.
        request: RequestId,
        /// What shall change.
        intent: Intent,
        /// Bytes that each node holds, for the estimate of what moves.
        held: Vec<(NodeId, u64)>,
    },
    /// From a handle: undo the change that is under way. Answered when it has ended, with how it has.
    Cancel {
        /// Whom to answer.
        request: RequestId,
    },
    /// From the shell, once, when the nodes of the directory serve: go on with a change that was under way when the engine
    /// ended, or the router died.
    Resume,
    /// From the shell: the joining nodes have stores and actors, or can't have them.
    NodesReady {
        /// The task.
        task: RequestId,
        /// How it went.
        result: Result<()>,
    },
    /// From the journal: the record about the ring is visible and its state published, or it was refused.
    RingAnswer(RequestId, Result<Lsn>),
    /// From the checkpointer: from now on it releases nothing more than the hold allows.
    Held {
        /// The task.
        task: RequestId,
    },
    /// From a node: nothing that it has admitted on the leaving arcs is under way any more.
    HandedOver {
        /// The node.
        node: NodeId,
        /// The change.
        change: u64,
        /// The attempt that is answered.
        attempt: u64,
        /// The life that promises it.
        incarnation: Incarnation,
        /// The last LSN that it has installed.
        through: Lsn,
    },
    /// From the mover's thread: how the work went. Comes once for every [`MotionEffect::Work`], whether it was stopped or
    /// not, and means that nothing is written any more.
    Worked {
        /// The task.
        task: RequestId,
        /// What was done, or why it was not. What was ingested before a failure stays.
        result: Result<Work>,
    },
    /// From the mover's thread, now and then: how far the work is, counted from its beginning.
    Working {
        /// The task.
        task: RequestId,
        /// Pairs and tombstones that were ingested.
        keys: u64,
        /// Bytes of them.
        bytes: u64,
    },
    /// From the checkpointer: a checkpoint that began after it was asked for has ended.
    Checkpointed {
        /// The task.
        task: RequestId,
        /// The complete LSN of each node that was asked about, as its published view has it now; or why there is no
        /// checkpoint.
        result: Result<Vec<(NodeId, Lsn)>>,
    },
    /// From a node: it shows a tree in which the arcs of the change were swept.
    Forgotten {
        /// The node.
        node: NodeId,
        /// The change.
        change: u64,
    },
    /// From the supervisor: the node lives again. What its earlier life has promised is void; what that had frozen stays so.
    NodeRestarted {
        /// The node.
        node: NodeId,
    },
    /// From the supervisor: the node will not come back before the engine is opened again. The journal was told before.
    NodeDown {
        /// The node.
        node: NodeId,
    },
    /// From the journal: nothing is written any more. Nothing more happens before the engine is opened again.
    ReadOnly(Error),
}

/// What the mover wants done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MotionEffect {
    /// Make stores, empty ones, and actors for these nodes, and let the checkpointer and the supervisor know them; then
    /// answer [`MotionMessage::NodesReady`]. A folder that is there already is left over from a crash before the change
    /// began, and goes first.
    OpenNodes {
        /// The task.
        task: RequestId,
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// These nodes own nothing any more, and the routes do not name them: stop them, and remove their folders when nobody
    /// reads in them any more. One that no record names, since its change has not begun, goes out of the routes now: the next
    /// that joins has its number, and a store of its own. No answer.
    RetireNodes(Vec<NodeId>),
    /// Send to the journal; its request is the task.
    Journal(RingRequest),
    /// Send to the checkpointer: let the journal release nothing above this; `None` lifts it. Answered by
    /// [`MotionMessage::Held`].
    Hold {
        /// The task.
        task: RequestId,
        /// The last LSN that may be released.
        through: Option<Lsn>,
    },
    /// Have the checkpointer make a checkpoint that begins after this, then answer [`MotionMessage::Checkpointed`].
    Checkpoint {
        /// The task.
        task: RequestId,
        /// Whose complete LSNs are wanted.
        nodes: Vec<NodeId>,
    },
    /// Send to a node: admit nothing more on these arcs.
    HandOver {
        /// The node.
        node: NodeId,
        /// The change.
        change: u64,
        /// Tells the answers apart.
        attempt: u64,
        /// The arcs that leave.
        arcs: Arc<ArcSet>,
    },
    /// Send to a node: the arcs stay for now.
    KeepArcs {
        /// The node.
        node: NodeId,
        /// The change.
        change: u64,
    },
    /// Send to a node: the arcs of the change that are not its own were swept in its tree. It shows the tree anew, as soon
    /// as that is not ahead of its view, and answers [`MotionMessage::Forgotten`].
    Forget {
        /// The node.
        node: NodeId,
        /// The change.
        change: u64,
    },
    /// Have the mover's thread do this; answered by [`MotionMessage::Worked`].
    Work {
        /// The task.
        task: RequestId,
        /// What to do.
        job: Job,
    },
    /// Let the work end soon, by an error of the pacing callback. It is answered all the same.
    Stop {
        /// The task.
        task: RequestId,
    },
    /// Show this to whoever watches.
    Progress(Progress),
    /// Answer a handle. An error means that the change did not begin, that the engine is read-only (it goes on when it is
    /// opened again), or that it was undone and could not be to the end, because the node that is named went down.
    Answer(RequestId, Result<Ending>),
}

/// Work for the mover's thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// [`Carry::sweep`](super::Carry::sweep): over the node's store as it is when the work begins.
    Sweep {
        /// Whose tree.
        node: NodeId,
        /// What to remove.
        arcs: Arc<ArcSet>,
    },
    /// [`Carry::copy`](super::Carry::copy): of a view at an LSN that the shell takes when the work begins. The visible LSN, with a view whose
    /// complete LSN has not passed it; of a node that is down the view's complete LSN (its generations may lack what is
    /// visible, the journal does not).
    Copy {
        /// Whose keys.
        source: NodeId,
        /// Whether the source is down.
        is_down: bool,
        /// Which arcs go where.
        targets: Arc<Targets>,
    },
    /// [`Carry::follow`](super::Carry::follow) from `after` on.
    Follow {
        /// Whose commits.
        source: NodeId,
        /// Which arcs go where.
        targets: Arc<Targets>,
        /// Everything up to here is copied.
        after: Lsn,
        /// Wait until this is visible, and follow up to here; `None` for what is visible when the work begins.
        through: Option<Lsn>,
        /// Writers wait for it, or run ahead of it: no limit on its rate.
        is_urgent: bool,
    },
}

/// What a [`Job`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A sweep.
    Swept,
    /// A copy.
    Copied {
        /// The LSN whose state was copied.
        at: Lsn,
        /// How much it was.
        moved: Moved,
    },
    /// A follow.
    Followed {
        /// The last LSN that was followed.
        through: Lsn,
        /// How much it was.
        moved: Moved,
    },
}

/// How much was ingested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Pairs and tombstones.
    pub keys: u64,
    /// Bytes of their keys and stored values.
    pub bytes: u64,
}

impl Moved {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            keys: self.keys + other.keys,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// How a change has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The ring is as was wanted.
    Completed,
    /// The ring is as it was before the change.
    Cancelled,
}

/// How far a change is. Rates and times are the shell's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The change's number.
    pub change: u64,
    /// What is being done.
    pub step: Step,
    /// Whether the change is being undone.
    pub is_undoing: bool,
    /// The node whose arcs are being moved or cleaned.
    pub source: Option<NodeId>,
    /// The nodes that are down from which the others take over; empty for a change that somebody has asked for, and for one
    /// that goes on after an opening.
    pub taken_over: Vec<NodeId>,
    /// Arcs that belong to their targets.
    pub arcs_done: usize,
    /// Arcs that move in all.
    pub arcs_total: usize,
    /// What was copied so far; what had to be copied again counts again.
    pub moved: Moved,
    /// Bytes that were expected to move when the change began; 0 where nobody knows, after a restart.
    pub bytes_estimated: u64,
    /// Why it does not go on: the last failure, after which it waits, and tries again by itself, or for a node.
    pub failure: Option<Error>,
}

/// What a change is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Making the stores and actors of nodes that join.
    Opening,
    /// Writing the beginning into the journal.
    Beginning,
    /// Removing from the targets what an earlier attempt has left.
    Sweeping,
    /// Copying what a source holds.
    Copying,
    /// Copying what was committed meanwhile.
    Following,
    /// The source admits nothing more on the arcs that leave; the rest is copied.
    HandingOver,
    /// The cut is on its way through the journal.
    Cutting,
    /// Removing what has moved from where it was.
    Cleaning,
    /// Writing the end into the journal.
    Ending,
    /// Waiting after a failure, or for a node that is down.
    Waiting,
    /// The ring is as was wanted.
    Done,
    /// The ring is as it was before.
    Cancelled,
    /// The engine turned read-only: the change goes on when it is opened again.
    Halted,
}
