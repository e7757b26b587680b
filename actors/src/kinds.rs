//! The kinds of messages by name, for the fault hook.
//!
//! A kind that is not listed here does not compile, and the tests inject a panic at each one that is listed: a new kind
//! of message needs a row in their table.

use crate::{checkpointer::Job, journal_io::IoRequest};
use mailring_engine::{
    checkpoint::CheckpointMessage,
    coordinator::CoordinatorMessage,
    locks::LockMessage,
    motion::{Job as MoverJob, MotionMessage},
    participant::NodeMessage,
    sequencer::JournalMessage,
};

macro_rules! kinds {
    ($(#[$doc:meta])* $list:ident, $name:ident($message:ident) = $($kind:ident)+ $(; $moves:ident = $($move:ident)+)?) => {
        $(#[$doc])*
        pub const $list: &[&str] = &[$(stringify!($kind)),+];
        $(
            /// What comes besides while arcs move.
            pub const $moves: &[&str] = &[$(stringify!($move)),+];
        )?

        pub(crate) fn $name(message: &$message) -> &'static str {
            match message {
                $($message::$kind { .. } => stringify!($kind),)+
                $($($message::$move { .. } => stringify!($move),)+)?
            }
        }
    };
}

/// What the fault hook is told of before an effect of any kind is carried out.
pub const EFFECT: &str = "Effect";

kinds! {
    /// What a storage node gets.
    NODE, of_node(NodeMessage) =
        Request Flush Resolve Visible Freeze Flushed Fenced Rebuilt ReadOnly GoDown Prepares Aborts Settles;
        NODE_MOVES = HandOver KeepArcs Owners Forget
}

/// What a storage node's shell gets besides.
pub const NODE_SHELL: &[&str] = &["Tick"];

kinds! {
    /// What the coordinator gets, but for [`COORDINATOR_SHELL`].
    COORDINATOR, of_coordinator(CoordinatorMessage) =
        Commit Votes FenceVotes Decided NodeDown ReadOnly Flush
}

/// What the coordinator's shell gets besides.
pub const COORDINATOR_SHELL: &[&str] = &["Tick"];

kinds! {
    /// What the journal gets.
    JOURNAL, of_journal(JournalMessage) =
        Append Decides Asks FindKey Cut Persisted Failed Spare Installed Fence Down Mark CreateKeyspace DropKeyspace Watch
        LockLife;
        JOURNAL_MOVES = Ring RingPublished Place
}

/// What the journal's shell answers without a message to the journal.
pub const JOURNAL_SHELL: &[&str] = &["Tick", "Subscribe", "Describe"];

kinds! {
    /// What the checkpointer gets, but for [`CHECKPOINTER_SHELL`].
    CHECKPOINTER, of_checkpointer(CheckpointMessage) =
        Tick Request Frozen NodeDown MarkReached Written Saved Maintained;
        CHECKPOINTER_MOVES = Hold
}

/// What the checkpointer's shell gets besides.
pub const CHECKPOINTER_SHELL: &[&str] = &["ReadOnly"];

kinds! {
    /// What the lock manager gets.
    LOCKS, of_locks(LockMessage) =
        Acquire Convert Release Renew ReleaseSession PrepareFence ResolveFence LifeKnown
}

/// What the lock manager's shell gets besides.
pub const LOCKS_SHELL: &[&str] = &["Tick"];

kinds! {
    /// What the thread gets that writes and forces the journal.
    IO, of_io(IoRequest) = Write ForceIfDue AddSpare ReportSpare Release
}

kinds! {
    /// What the thread gets that writes runs and the manifest.
    RUNS, of_runs(Job) = Write Save; RUNS_MOVES = Ingest Place
}

/// What the mover's thread is asked to do besides what [`MOVER_WORK`] lists.
pub const MOVER: &[&str] = &["Open"];

kinds! {
    /// What the mover's thread works on.
    MOVER_WORK, of_job(MoverJob) = Sweep Copy Follow
}

kinds! {
    /// What the router gets that changes the ring.
    MOTION, of_motion(MotionMessage) =
        Start Cancel Resume NodesReady RingAnswer Held HandedOver Worked Working Checkpointed Forgotten NodeRestarted
        NodeDown ReadOnly
}

/// What the router gets besides.
pub const ROUTER_SHELL: &[&str] = &["Tick", "Publish", "Opened", "NodeStatus"];
