//! The kinds of messages by name, for the fault hook.
//!
//! A kind that is not listed here does not compile, and the tests inject a panic at each one that is listed: a new kind
//! of message needs a row in their table. Kinds behind `unsent` are handled by a machine, but no actor sends them yet:
//! they are named and not listed.

use crate::{checkpointer::Job, journal_io::IoRequest};
use mailring_engine::{
    checkpoint::CheckpointMessage, locks::LockMessage, participant::NodeMessage,
    sequencer::JournalMessage,
};

macro_rules! kinds {
    ($(#[$doc:meta])* $list:ident, $name:ident($message:ident) = $($kind:ident)+
        $(; unsent $($unsent:ident)+)?) => {
        $(#[$doc])*
        pub const $list: &[&str] = &[$(stringify!($kind)),+];

        pub(crate) fn $name(message: &$message) -> &'static str {
            match message {
                $($message::$kind { .. } => stringify!($kind),)+
                $($($message::$unsent { .. } => stringify!($unsent),)+)?
            }
        }
    };
}

kinds! {
    /// What a storage node gets.
    NODE, of_node(NodeMessage) =
        Request Flush Resolve Visible Freeze Flushed Fenced Rebuilt ReadOnly GoDown;
        unsent Prepares Aborts Settles
}

kinds! {
    /// What the journal gets.
    JOURNAL, of_journal(JournalMessage) =
        Append Cut Persisted Failed Spare Installed Fence Down Mark CreateKeyspace DropKeyspace Watch;
        unsent Decides Asks FindKey
}

/// What the journal's shell answers without a message to the journal.
pub const JOURNAL_SHELL: &[&str] = &["Tick", "Subscribe", "Describe"];

kinds! {
    /// What the checkpointer gets, but for [`CHECKPOINTER_SHELL`].
    CHECKPOINTER, of_checkpointer(CheckpointMessage) =
        Tick Request Frozen MarkReached Written Saved Maintained
}

/// What the checkpointer's shell gets besides.
pub const CHECKPOINTER_SHELL: &[&str] = &["ReadOnly"];

kinds! {
    /// What the lock manager gets.
    LOCKS, of_locks(LockMessage) =
        Acquire Convert Release Renew ReleaseSession PrepareFence ResolveFence
}

/// What the lock manager's shell gets besides.
pub const LOCKS_SHELL: &[&str] = &["Tick"];

kinds! {
    /// What the thread gets that writes and forces the journal.
    IO, of_io(IoRequest) = Write ForceIfDue AddSpare ReportSpare Release
}

kinds! {
    /// What the thread gets that writes runs and the manifest.
    RUNS, of_runs(Job) = Write Save
}
